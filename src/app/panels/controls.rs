//! Commands to the run that is shown: pause, step, stop, save, merge, evaluate; settings that change while it goes on, with their trail.

use crate::app::chart;
use crate::app::format;
use crate::app::state::{Action, AppState, OpenRun};
use crate::event::{Command, LiveSettings};
use crate::history::{PinKind, State};
use eframe::egui::{self, RichText, Ui};

/// See the module.
#[derive(Debug, Default)]
pub struct Controls {
    /// What is being set: which setting, its value.
    setting: Option<(&'static str, f64)>,
}

/// A live setting: its name, what it is called, its range, only in reinforcement, its effect.
struct Live {
    name: &'static str,
    label: &'static str,
    range: (f64, f64),
    reinforcement: bool,
    hint: &'static str,
}

const LIVE: &[Live] = &[
    Live {
        name: "learning_rate_scale",
        label: "learning rate ×",
        range: (0.0, 100.0),
        reinforcement: false,
        hint: "Factor on the scheduled learning rate",
    },
    Live {
        name: "max_grad_norm",
        label: "clip gradients at",
        range: (0.0, 1000.0),
        reinforcement: false,
        hint: "0 turns clipping off",
    },
    Live {
        name: "temperature",
        label: "temperature",
        range: (0.01, 100.0),
        reinforcement: true,
        hint: "Divides the logits of sampling and training",
    },
    Live {
        name: "reweight_alpha",
        label: "reweighting alpha",
        range: (0.0, 1.0),
        reinforcement: true,
        hint: "Advantage Reweighting: advantages times alpha x probability + 1 - alpha; 0 is off",
    },
    Live {
        name: "lopti_eta",
        label: "Lopti eta",
        range: (0.0, 1.0),
        reinforcement: true,
        hint: "Tokens below this probability are updated first, by themselves; 0 is off",
    },
];

impl Controls {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, desk: &mut AppState) {
        if super::focused_name(ui, desk).is_none() {
            return;
        }
        let Some(run) = desk.focused() else { return };
        let (ours, live, state) = (run.is_ours(), run.live, run.files.history.state.clone());
        ui.label(RichText::new(run.name()).strong());
        let mut actions: Vec<Action> = Vec::new();
        let path = run.files.path.clone();
        egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            end_ui(ui, desk, &mut actions);
            let send = |command| Action::Send(path.clone(), command);
            ui.add_enabled_ui(ours, |ui| buttons_ui(ui, &state, &send, &mut actions));
            if !ours {
                let words = match live {
                    true => "Another process trains this run: it can be watched from here, not commanded.",
                    false => "It is not being trained.",
                };
                ui.label(RichText::new(words).weak());
            }
            ui.horizontal_wrapped(|ui| {
                if let Some(run) = desk.focused() {
                    super::runs::continue_ui(ui, run, &mut actions);
                }
            });
            ui.separator();
            ui.label(RichText::new("Live settings").strong());
            ui.add_enabled_ui(ours, |ui| self.live_ui(ui, desk, &send, &mut actions));
            trail_ui(ui, desk);
            lines_ui(ui, desk);
        });
        actions.into_iter().for_each(|order| desk.ask(order));
    }

    fn live_ui(&mut self, ui: &mut Ui, desk: &AppState, send: &dyn Fn(Command) -> Action, actions: &mut Vec<Action>) {
        let Some(run) = desk.focused() else { return };
        let reinforcing = run.files.settings.as_ref().is_some_and(|s| s.grpo.is_some());
        egui::Grid::new("live").num_columns(2).spacing([10.0, 6.0]).show(ui, |ui| {
            for live in LIVE.iter().filter(|l| reinforcing || !l.reinforcement) {
                let now = in_force(run, live.name);
                let mut value = self.setting.filter(|(name, _)| *name == live.name).map_or(now, |(_, value)| value);
                let label = ui.label(live.label).on_hover_text(live.hint);
                let speed = (value.abs() * 0.02).max(0.002);
                let (least, most) = live.range;
                let drag = egui::DragValue::new(&mut value).speed(speed).range(least..=most).max_decimals(4);
                let response = ui.add(drag).labelled_by(label.id).on_hover_text(format!("{}. From the next step on.", live.hint));
                if response.changed() {
                    self.setting = Some((live.name, value));
                }
                // While it is being dragged or typed nothing is sent.
                let done = response.drag_stopped()
                    || response.lost_focus()
                    || (response.changed() && !response.dragged() && !response.has_focus());
                if let Some((name, value)) = self.setting.filter(|(name, value)| done && *name == live.name && *value != now) {
                    actions.push(send(Command::SetHyper(hyper(name, value))));
                }
                if done {
                    self.setting = None;
                }
                ui.end_row();
            }
        });
        ui.label(RichText::new("A change takes effect at the next step and is marked in every chart.").small().weak());
    }
}

/// A request to change one setting.
pub fn hyper(name: &str, value: f64) -> LiveSettings {
    let mut hyper = LiveSettings::default();
    let slot = match name {
        "learning_rate_scale" => &mut hyper.learning_rate_scale,
        "max_grad_norm" => &mut hyper.max_grad_norm,
        "temperature" => &mut hyper.temperature,
        "reweight_alpha" => &mut hyper.reweight_alpha,
        _ => &mut hyper.lopti_eta,
    };
    *slot = Some(value);
    hyper
}

/// The value of a live setting that is in force: as it was changed last, else as the run began with.
pub fn in_force(run: &OpenRun, name: &str) -> f64 {
    if let Some(value) = run.files.history.hyper.get(name) {
        return *value;
    }
    let settings = run.files.settings.as_ref();
    let of_policy = settings.and_then(|s| s.reinforcement());
    match name {
        "learning_rate_scale" => 1.0,
        "max_grad_norm" => settings.map_or(1.0, |s| s.train.max_grad_norm),
        "temperature" => of_policy.map_or(1.0, |(_, rollout, _)| rollout.temperature),
        "reweight_alpha" => of_policy.map_or(0.0, |(_, _, grpo)| grpo.reweight_alpha),
        _ => of_policy.and_then(|(_, _, grpo)| grpo.lopti_eta).unwrap_or(0.0),
    }
}

fn buttons_ui(ui: &mut Ui, state: &State, send: &dyn Fn(Command) -> Action, actions: &mut Vec<Action>) {
    let paused = *state == State::Paused;
    let mut button = |ui: &mut Ui, text: &str, hint: &str, command: Command| {
        if ui.add(egui::Button::new(text).min_size(egui::vec2(76.0, 26.0))).on_hover_text(hint).clicked() {
            actions.push(send(command));
        }
    };
    ui.horizontal_wrapped(|ui| {
        match paused {
            true => button(ui, "Go on", "Resume training (Space)", Command::Resume),
            false => button(ui, "Pause", "Wait after this step, all in memory (Space)", Command::Pause),
        }
        ui.add_enabled_ui(paused, |ui| button(ui, "One step", "A single update (N)", Command::Step));
        button(ui, "Stop and save", "Save a checkpoint and end; Resume goes on from there", Command::Stop);
    });
    ui.horizontal_wrapped(|ui| {
        button(ui, "Save now", "Save a checkpoint (Ctrl S)", Command::SaveNow);
        button(ui, "Merge now", "Average the newest snapshots, judge and write the result (M)", Command::MergeNow);
        button(ui, "Evaluate now", "Held-out loss, or held-out questions (E)", Command::EvalNow);
    });
}

/// A run that ended otherwise than it should: what happened, and how to go on.
fn end_ui(ui: &mut Ui, desk: &AppState, actions: &mut Vec<Action>) {
    let Some(run) = desk.focused().filter(|run| !run.live) else { return };
    let said = match (&run.files.history.state, run.trainer.as_ref().map(super::super::child::Trainer::how_it_ended)) {
        (State::Failed(text), _) => text.clone(),
        (State::Finished(_), _) => return,
        (_, Some(Some(crate::app::child::End::Badly(text)))) => text,
        _ if run.files.standing(false) == "cut off" => "Its trainer ended without a word.".into(),
        _ => return,
    };
    egui::Frame::new().fill(ui.visuals().faint_bg_color).inner_margin(8).corner_radius(4.0).show(ui, |ui| {
        ui.label(RichText::new("The run has ended early").strong());
        ui.label(said);
        let Some((step, _)) = run.newest_checkpoint() else {
            ui.label(RichText::new("It had saved no checkpoint.").weak());
            return;
        };
        if ui.button(format!("Resume from step {}", format::count(step))).clicked() {
            let stage = run.files.settings.as_ref().map_or("pretrain", |s| s.stage().name()).to_owned();
            let args = vec![stage, "--resume".into(), run.files.path.display().to_string()];
            actions.push(Action::Start { args, run: run.files.path.clone() });
        }
    });
    ui.add_space(6.0);
}

/// What was changed, saved, merged, warned of, newest first.
fn trail_ui(ui: &mut Ui, desk: &AppState) {
    let Some(run) = desk.focused() else { return };
    egui::CollapsingHeader::new("What happened").default_open(true).show(ui, |ui| {
        let pins = &run.files.history.pins;
        if pins.is_empty() {
            ui.label(RichText::new("Nothing yet.").weak());
        }
        for pin in pins.iter().rev().take(60) {
            ui.horizontal_wrapped(|ui| {
                let color = match pin.kind {
                    PinKind::Warning => ui.visuals().warn_fg_color,
                    PinKind::Save => ui.visuals().weak_text_color(),
                    kind => chart::pin_color(kind).to_opaque(),
                };
                ui.label(RichText::new(format::count(pin.step)).small().monospace().color(color));
                ui.label(RichText::new(crate::vfs::clean(&pin.text)).small());
            });
        }
    });
}

/// What the trainer says on standard error.
fn lines_ui(ui: &mut Ui, desk: &AppState) {
    let Some(lines) = desk.focused().and_then(|run| Some(run.trainer.as_ref()?.lines())) else { return };
    egui::CollapsingHeader::new("Trainer's messages").show(ui, |ui| {
        for line in lines.iter().rev().take(40) {
            ui.label(RichText::new(line).small().monospace());
        }
    });
}

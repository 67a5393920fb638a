//! Commands to the run that is shown: pause, step, stop, save, merge, evaluate; live settings, and what has happened.

use super::live::{LiveControls, hyper};
use super::shared;
use crate::app::chart;
use crate::app::format;
use crate::app::state::{Action, AppState};
use crate::app::theme;
use crate::backend::End;
use crate::event::Command;
use crate::history::{Pin, PinKind, RunState};
use eframe::egui::{self, RichText, Ui};

/// See the module.
#[derive(Debug, Default)]
pub struct Controls {
    live: LiveControls,
}

impl Controls {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        let Some(run) = state.focused() else {
            return shared::empty(ui, "No run is open", "Here a run is paused, saved, stopped and changed while it trains.");
        };
        let (ours, live, run_state) = (run.is_controllable(), run.live, run.files.history.state.clone());
        ui.label(RichText::new(run.name()).strong());
        let mut actions: Vec<Action> = Vec::new();
        let path = run.files.path.clone();
        egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            end_ui(ui, state, &mut actions);
            let send = |command| Action::Send(path.clone(), command);
            ui.add_enabled_ui(ours, |ui| buttons_ui(ui, &run_state, &send, &mut actions));
            if !ours {
                let words = match live {
                    true => "Another process trains this run: it can be watched from here, but takes no commands.",
                    false => "It is not being trained.",
                };
                ui.label(RichText::new(words).weak());
            }
            ui.horizontal_wrapped(|ui| {
                if let Some(run) = state.focused() {
                    shared::continue_ui(ui, run, &mut actions);
                }
            });
            ui.separator();
            ui.label(RichText::new("Live settings").strong());
            if let Some(run) = state.focused()
                && let Some((live, value)) = ui.add_enabled_ui(ours, |ui| self.live.ui(ui, run, None)).inner
            {
                actions.push(send(Command::SetHyper(hyper(live.name, value))));
            }
            ui.label(RichText::new("A change takes effect at the next step and is marked in every chart.").small().weak());
            trail_ui(ui, state);
            lines_ui(ui, state);
        });
        actions.into_iter().for_each(|order| state.request(order));
    }
}

fn buttons_ui(ui: &mut Ui, run_state: &RunState, send: &dyn Fn(Command) -> Action, actions: &mut Vec<Action>) {
    let paused = *run_state == RunState::Paused;
    let first = match paused {
        true => ("Continue", "Resume training (Space)", Command::Resume, true),
        false => ("Pause", "Wait after this step, all in memory (Space)", Command::Pause, true),
    };
    let buttons = [
        first,
        ("One step", "A single step, while the run is paused (N)", Command::Step, paused),
        ("Stop and save", "Save a checkpoint and end; Resume continues from there", Command::Stop, true),
        ("Save now", "Save a checkpoint (Ctrl S)", Command::SaveNow, true),
        ("Merge now", "Average the newest snapshots, evaluate and write the result (M)", Command::MergeNow, true),
        ("Evaluate now", "Held-out loss, or held-out questions (E)", Command::EvalNow, true),
    ];
    // In two columns, where they are wide enough for the words.
    let columns = if ui.available_width() < 200.0 { 1 } else { 2 };
    for row in buttons.chunks(columns) {
        ui.columns(columns, |cells| {
            for (ui, (text, hint, command, enabled)) in cells.iter_mut().zip(row) {
                let button = egui::Button::new(*text).min_size(egui::vec2(ui.available_width(), 26.0));
                let button = ui.vertical_centered(|ui| ui.add_enabled(*enabled, button)).inner;
                if button.on_hover_text(*hint).clicked() {
                    actions.push(send(command.clone()));
                }
            }
        });
    }
}

/// A run that ended early: what happened, and how to continue.
fn end_ui(ui: &mut Ui, state: &AppState, actions: &mut Vec<Action>) {
    let Some(run) = state.focused().filter(|run| !run.live) else { return };
    let said = match (&run.files.history.state, run.trainer.as_ref().and_then(|trainer| trainer.end())) {
        (RunState::Failed(text), _) => text.clone(),
        (RunState::Finished(_), _) => return,
        (_, Some(End::Failed(text))) => text.clone(),
        _ if run.files.state_label(false) == "cut off" => "Its trainer ended without a message.".into(),
        _ => return,
    };
    egui::Frame::new().fill(ui.visuals().faint_bg_color).inner_margin(8).corner_radius(4.0).show(ui, |ui| {
        ui.set_width(ui.available_width());
        ui.label(RichText::new("The run has ended early").strong());
        ui.label(said);
        let Some(step) = run.newest_checkpoint() else {
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

/// Changes, saves, merges and warnings, newest first.
fn trail_ui(ui: &mut Ui, state: &AppState) {
    let Some(run) = state.focused() else { return };
    egui::CollapsingHeader::new("What happened").default_open(true).show(ui, |ui| {
        let pins = &run.files.history.pins;
        if pins.is_empty() {
            ui.label(RichText::new("Nothing yet.").weak());
        }
        // Saves that follow each other are one line.
        let same = |a: &Pin, b: &Pin| a.kind == PinKind::Save && b.kind == PinKind::Save;
        for of in pins.chunk_by(same).rev().take(60) {
            let (Some(first), Some(last)) = (of.first(), of.last()) else { continue };
            let text = match of.len() {
                1 => crate::vfs::clean(&last.text),
                n => format!("saved {n} times, from step {} on", format::count(first.step)),
            };
            ui.horizontal_wrapped(|ui| {
                let color = match last.kind {
                    PinKind::Warning => ui.visuals().warn_fg_color,
                    PinKind::Save => ui.visuals().weak_text_color(),
                    kind => chart::pin_color(kind).to_opaque(),
                };
                ui.label(RichText::new(format::count(last.step)).font(theme::small_mono()).color(color));
                ui.label(RichText::new(text).small());
            });
        }
    });
}

/// The trainer's messages.
fn lines_ui(ui: &mut Ui, state: &AppState) {
    let Some(lines) = state.focused().and_then(|run| Some(run.trainer.as_ref()?.messages())) else { return };
    egui::CollapsingHeader::new("Trainer's messages").show(ui, |ui| {
        for line in lines.iter().rev().take(40) {
            ui.label(RichText::new(line).font(theme::small_mono()));
        }
    });
}

//! The switch between GRPO, Advantage Reweighting, Lopti, and both, for a run that trains.

use crate::app::draw::card;
use crate::app::format::{count, number};
use crate::app::state::{Action, OpenRun};
use crate::app::theme;
use crate::event::{Command, LiveSettings};
use crate::history::PinKind;
use eframe::egui::{DragValue, RichText, Ui};
use std::path::PathBuf;

/// The paper's values for puzzles.
const USUAL: Method = Method { alpha: 0.3, eta: 0.5 };

/// Active methods: alpha and eta above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Method {
    alpha: f64,
    eta: f64,
}

impl Method {
    fn is_like(self, other: Self) -> bool {
        (self.alpha > 0.0, self.eta > 0.0) == (other.alpha > 0.0, other.eta > 0.0)
    }

    fn in_words(self) -> String {
        let alpha = format!("AR with alpha {}", number(self.alpha));
        let eta = format!("Lopti with eta {}", number(self.eta));
        match (self.alpha > 0.0, self.eta > 0.0) {
            (false, false) => "plain GRPO".into(),
            (true, false) => format!("GRPO + {alpha}"),
            (false, true) => format!("GRPO + {eta}"),
            (true, true) => format!("GRPO + {alpha} + {eta}"),
        }
    }

    /// Its effect, in a sentence or two.
    fn explained(self) -> String {
        let ar = format!(
            "Reweighting multiplies the advantage of a token of probability p by {} p + {}: by {} where p is 0, by 1 where p is 1.",
            number(self.alpha),
            number(1.0 - self.alpha),
            number(1.0 - self.alpha)
        );
        let lopti = format!("Lopti first updates with the tokens below p = {}, then with the others.", number(self.eta));
        match (self.alpha > 0.0, self.eta > 0.0) {
            (false, false) => {
                "Every token counts with its advantage, in one update: the improbable ones have the largest gradients.".into()
            }
            (true, false) => ar,
            (false, true) => lopti,
            (true, true) => format!("{ar} {lopti}"),
        }
    }
}

/// A change that was sent and is not active yet.
#[derive(Debug)]
struct Requested {
    run: PathBuf,
    method: Method,
    /// The run's step at that time.
    step: u64,
}

/// See the module.
#[derive(Debug)]
pub struct MethodSwitch {
    /// Values of alpha and eta when they are on.
    wanted: Method,
    requested: Option<Requested>,
    /// The run that `wanted` was taken from.
    of: PathBuf,
    editing: bool,
}

impl Default for MethodSwitch {
    fn default() -> Self {
        Self { wanted: USUAL, requested: None, of: PathBuf::new(), editing: false }
    }
}

fn active_method(run: &OpenRun) -> Method {
    let (grpo, hyper) = (run.files.settings.as_ref().and_then(|s| s.grpo.as_ref()), &run.files.history.hyper);
    let own = |value: Option<f64>| value.unwrap_or(0.0);
    Method {
        alpha: hyper.get("reweight_alpha").copied().unwrap_or_else(|| own(grpo.map(|g| g.reweight_alpha))),
        eta: hyper.get("lopti_eta").copied().unwrap_or_else(|| own(grpo.and_then(|g| g.lopti_eta))),
    }
}

impl MethodSwitch {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
        let now = active_method(run);
        self.follow(run, now);
        let requested = self.requested.as_ref().map(|a| a.method);
        let hint = "Advantage Reweighting (AR) weakens the advantage of improbable tokens; Lopti updates improbable and probable tokens one \
                    after the other. Both keep the large gradients of improbable tokens from drowning the others (arXiv 2505.12929).";
        card(ui, "Method", hint, |ui| {
            ui.add_enabled_ui(run.is_controllable(), |ui| self.controls(ui, run, requested.unwrap_or(now), actions));
            match requested {
                Some(requested) => ui.label(
                    RichText::new(format!("Requested: {}, from the next step on.", requested.in_words()))
                        .color(theme::success_color(ui.visuals())),
                ),
                None => ui.label(format!("Active: {}.", now.in_words())),
            };
            ui.label(RichText::new(requested.unwrap_or(now).explained()).weak());
            by_share(ui, run);
            self.newest_changes(ui, run);
            if !run.is_controllable() {
                not_controllable(ui, run, actions);
            }
        });
    }

    /// Follow the run's own settings.
    fn follow(&mut self, run: &OpenRun, now: Method) {
        let path = &run.files.path;
        // A refused command has no answer; two steps later it would be in force.
        let late = |a: &Requested| run.files.history.step > a.step + 1;
        self.requested.take_if(|a| a.run != *path || a.method == now || late(a) || !run.is_controllable());
        if self.of != *path {
            (self.of, self.wanted) = (path.clone(), USUAL);
        }
        if self.requested.is_none() && !self.editing {
            if now.alpha > 0.0 {
                self.wanted.alpha = now.alpha;
            }
            if now.eta > 0.0 {
                self.wanted.eta = now.eta;
            }
        }
    }

    fn controls(&mut self, ui: &mut Ui, run: &OpenRun, shown: Method, actions: &mut Vec<Action>) {
        let mut ask = |requested: &mut Option<Requested>, method: Method, hyper: LiveSettings| {
            *requested = Some(Requested { run: run.files.path.clone(), method, step: run.files.history.step });
            actions.push(Action::Send(run.files.path.clone(), Command::SetHyper(hyper)));
        };
        ui.horizontal_wrapped(|ui| {
            let Method { alpha, eta } = self.wanted;
            let choices = [("GRPO", 0.0, 0.0), ("+ AR", alpha, 0.0), ("+ Lopti", 0.0, eta), ("+ both", alpha, eta)];
            for (name, alpha, eta) in choices {
                let method = Method { alpha, eta };
                if ui.selectable_label(shown.is_like(method), name).on_hover_text(method.explained()).clicked() && shown != method
                {
                    let hyper = LiveSettings { reweight_alpha: Some(alpha), lopti_eta: Some(eta), ..LiveSettings::default() };
                    ask(&mut self.requested, method, hyper);
                }
            }
            ui.separator();
            let mut editing = false;
            if field_ui(ui, "alpha", &mut self.wanted.alpha, shown.alpha > 0.0, &mut editing) {
                let method = Method { alpha: self.wanted.alpha, ..shown };
                ask(&mut self.requested, method, LiveSettings { reweight_alpha: Some(method.alpha), ..LiveSettings::default() });
            }
            if field_ui(ui, "eta", &mut self.wanted.eta, shown.eta > 0.0, &mut editing) {
                let method = Method { eta: self.wanted.eta, ..shown };
                ask(&mut self.requested, method, LiveSettings { lopti_eta: Some(method.eta), ..LiveSettings::default() });
            }
            self.editing = editing;
        });
    }

    /// The newest changes.
    fn newest_changes(&self, ui: &mut Ui, run: &OpenRun) {
        let is_method = |text: &str| text.starts_with("reweight_alpha") || text.starts_with("lopti_eta");
        let pins = run.files.history.pins.iter().rev().filter(|p| p.kind == PinKind::LiveSettings && is_method(&p.text));
        let changes: Vec<String> = pins.take(4).map(|p| crate::vfs::clean(&p.text)).collect();
        if !changes.is_empty() {
            ui.label(RichText::new(format!("Changed: {}", changes.join("; "))).small().weak());
        }
    }
}

/// A number that is sent when it has been set, not while it is dragged. True when it is to be sent.
fn field_ui(ui: &mut Ui, name: &str, value: &mut f64, on: bool, editing: &mut bool) -> bool {
    let drag = DragValue::new(value)
        .prefix(format!("{name} "))
        .range(0.01..=1.0)
        .speed(0.005)
        .max_decimals(3)
        .update_while_editing(false);
    let response = ui.add_enabled(on, drag).accessible_name(name);
    *editing |= response.dragged() || response.has_focus();
    let off = format!("Switch to a method that has {name}.");
    let response = response.on_hover_text("Drag, or click and type").on_disabled_hover_text(off);
    response.drag_stopped() || response.changed() && !response.dragged()
}

/// The live settings do not show Lopti by share.
fn by_share(ui: &mut Ui, run: &OpenRun) {
    let share = run.files.settings.as_ref().and_then(|s| s.grpo.as_ref()?.lopti_quantile);
    if let Some(share) = share {
        ui.label(format!(
            "This run was started with Lopti by share: the least probable {} of the tokens go first.",
            number(share)
        ));
    }
}

/// A run that takes no commands from here.
fn not_controllable(ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
    ui.horizontal_wrapped(|ui| {
        let why = match run.live {
            true => "Another program trains this run, so that it takes no commands from this window.",
            false => "This run is not being trained.",
        };
        ui.label(RichText::new(why).weak());
        if let Some(step) = run.newest_checkpoint()
            && ui.button(format!("Fork with another method from step {}", count(step))).clicked()
        {
            let fork = format!("{}@{step}", run.files.path.display());
            actions.push(Action::NewRun("grpo".into(), vec![("start.fork".into(), fork)]));
        }
    });
}

//! Settings that can be changed while a run trains.

use crate::app::state::OpenRun;
use crate::event::LiveSettings;
use eframe::egui::{self, Ui};

/// A setting that can be changed while a run trains.
#[derive(Debug)]
pub struct Live {
    /// Its name in [`LiveSettings`].
    pub name: &'static str,
    /// Its name on the page.
    pub label: &'static str,
    range: (f64, f64),
    /// Only GRPO has it.
    grpo: bool,
    hint: &'static str,
}

/// All of them.
const LIVE: &[Live] = &[
    Live {
        name: "learning_rate_scale",
        label: "learning rate ×",
        range: (0.0, 100.0),
        grpo: false,
        hint: "Factor on the scheduled learning rate",
    },
    Live { name: "max_grad_norm", label: "clip gradients at", range: (0.0, 1000.0), grpo: false, hint: "0 turns clipping off" },
    Live {
        name: "temperature",
        label: "temperature",
        range: (0.01, 100.0),
        grpo: true,
        hint: "Divides the logits of sampling and training",
    },
    Live {
        name: "reweight_alpha",
        label: "reweighting alpha",
        range: (0.0, 1.0),
        grpo: true,
        hint: "Advantage Reweighting: advantages times alpha x probability + 1 - alpha; 0 is off",
    },
    Live {
        name: "lopti_eta",
        label: "Lopti eta",
        range: (0.0, 1.0),
        grpo: true,
        hint: "Tokens below this probability are updated first, in an update of their own; 0 is off",
    },
];

/// See the module: what the user is setting.
#[derive(Debug, Default)]
pub struct LiveControls {
    setting: Option<(&'static str, f64)>,
}

impl LiveControls {
    /// Draw the settings of a run, those of `chosen` over the ones in force. Returns one with its new value once it has been set, not while it
    /// is dragged or typed.
    pub fn ui(&mut self, ui: &mut Ui, run: &OpenRun, chosen: Option<(&str, f64)>) -> Option<(&'static Live, f64)> {
        let has_policy = run.files.settings.as_ref().is_some_and(|s| s.grpo.is_some());
        let mut set = None;
        egui::Grid::new("live").num_columns(2).spacing([10.0, 6.0]).show(ui, |ui| {
            for live in LIVE.iter().filter(|live| has_policy || !live.grpo) {
                let now =
                    chosen.filter(|(name, _)| *name == live.name).map_or_else(|| in_force(run, live.name), |(_, value)| value);
                let mut value = self.setting.filter(|(name, _)| *name == live.name).map_or(now, |(_, value)| value);
                let label = ui.label(live.label).on_hover_text(live.hint);
                let speed = (value.abs() * 0.02).max(0.002);
                let (least, most) = live.range;
                let drag = egui::DragValue::new(&mut value).speed(speed).range(least..=most).max_decimals(4);
                let response = ui.add(drag).labelled_by(label.id);
                if response.changed() {
                    self.setting = Some((live.name, value));
                }
                let done = response.drag_stopped()
                    || response.lost_focus()
                    || (response.changed() && !response.dragged() && !response.has_focus());
                if let Some((_, value)) = self.setting.filter(|(name, value)| done && *name == live.name && *value != now) {
                    set = Some((live, value));
                }
                if done {
                    self.setting = None;
                }
                ui.end_row();
            }
        });
        set
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

/// The value of a live setting that is in force: as it was changed last, else as the run began.
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

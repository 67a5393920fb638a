//! Token statistics by probability: the pictures of arXiv 2505.12929, live, and the switch of methods.

mod method;
mod policy;
mod supervised;

use crate::app::draw::StepPick;
use crate::app::panels::shared;
use crate::app::state::{Action, AppState, OpenRun};
use crate::event::Command;
use eframe::egui::{self, Ui};
use method::MethodSwitch;

/// The selected group of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Group {
    #[default]
    All,
    Positive,
    Negative,
}

/// Number of probability bins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fineness {
    #[default]
    Quarters,
    Tenths,
}

/// See the module.
#[derive(Debug, Default)]
pub struct TokensPage {
    step: StepPick,
    group: Group,
    fineness: Fineness,
    near: bool,
    method: MethodSwitch,
}

impl TokensPage {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        if shared::focused_name(ui, state).is_none() {
            return;
        }
        let mut actions = Vec::new();
        if let Some(run) = state.focused() {
            egui::ScrollArea::vertical()
                .id_salt("tokens")
                .auto_shrink([false, false])
                .show(ui, |ui| self.page(ui, run, &mut actions));
        }
        actions.into_iter().for_each(|order| state.request(order));
    }

    fn page(&mut self, ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
        let history = &run.files.history;
        let reinforced = history.stage() == "grpo" || !history.tokens.is_empty();
        if reinforced {
            self.method.ui(ui, run, actions);
            ui.add_space(4.0);
        }
        if !history.tokens.is_empty() {
            self.head(ui, history.tokens.len(), |i| history.tokens[i].step, true);
            policy::ui(ui, self, run, actions);
        } else if !history.predictions.is_empty() {
            self.head(ui, history.predictions.len(), |i| history.predictions[i].step, false);
            supervised::ui(ui, self, history);
        } else {
            let (heading, what) = match reinforced {
                true => ("No tokens yet", "They come with the first step of GRPO."),
                false => (
                    "No token statistics yet",
                    "A run of GRPO has them at every step, pre-training and fine-tuning at every evaluation.",
                ),
            };
            shared::empty_with(ui, heading, what, |ui| {
                if run.is_controllable() && !reinforced {
                    shared::action_buttons(
                        ui,
                        [("Evaluate now", Action::Send(run.files.path.clone(), Command::EvalNow))],
                        actions,
                    );
                }
            });
        }
    }

    /// The step, and how its tokens are divided.
    fn head(&mut self, ui: &mut Ui, count: usize, step: impl Fn(usize) -> u64, signed: bool) {
        self.step.ui(ui, count, step);
        ui.horizontal_wrapped(|ui| {
            if signed {
                ui.label("tokens");
                ui.selectable_value(&mut self.group, Group::All, "all");
                ui.selectable_value(&mut self.group, Group::Positive, "positive")
                    .on_hover_text("Those whose advantage is above 0");
                ui.selectable_value(&mut self.group, Group::Negative, "negative")
                    .on_hover_text("Those whose advantage is below 0");
                ui.separator();
            }
            ui.label("bins");
            ui.selectable_value(&mut self.fineness, Fineness::Quarters, "quarters");
            ui.selectable_value(&mut self.fineness, Fineness::Tenths, "tenths");
        });
        ui.add_space(4.0);
    }

    /// The entry that the slider selects.
    fn entry(&self, count: usize) -> usize {
        self.step.entry(count)
    }
}

/// Lower edges with the last upper one, as many as are valid.
fn edges(from: &[f64]) -> Vec<f64> {
    let sound = from.iter().copied().take_while(|e| (0.0..1.0).contains(e));
    let mut edges: Vec<f64> = sound.collect();
    edges.sort_by(f64::total_cmp);
    edges.push(1.0);
    edges
}

/// Plain numbers.
fn numbers(list: &[crate::event::Number]) -> Vec<f64> {
    list.iter().map(|n| n.0).collect()
}

//! Texts and rollouts, token by token.

mod rollouts;
mod texts;

use crate::app::desk::{Desk, Order};
use eframe::egui::{self, Ui};
use rollouts::Rollouts;
use texts::Texts;

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Rollouts,
    Texts,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Samples {
    /// None until it is chosen: rollouts, where there are some.
    view: Option<View>,
    rollouts: Rollouts,
    texts: Texts,
}

impl Samples {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, desk: &mut Desk) {
        let Some(path) = super::focused_name(ui, desk) else { return };
        if let Some(run) = desk.run_mut(&path) {
            self.rollouts.follow(run);
        }
        let mut orders: Vec<Order> = Vec::new();
        if let Some(run) = desk.run(&path) {
            let reinforced = run.files.history.stage() == "grpo" || !run.files.completions.steps().is_empty();
            let mut view = self.view.unwrap_or(if reinforced { View::Rollouts } else { View::Texts });
            ui.horizontal_wrapped(|ui| {
                for (choice, name) in [(View::Rollouts, "Rollouts"), (View::Texts, "Generated text")] {
                    if ui.selectable_value(&mut view, choice, name).clicked() {
                        self.view = Some(choice);
                    }
                }
            });
            ui.separator();
            egui::ScrollArea::vertical().id_salt("samples").auto_shrink([false, false]).show(ui, |ui| match view {
                View::Rollouts => self.rollouts.ui(ui, run),
                View::Texts => self.texts.ui(ui, run, &mut orders),
            });
        }
        orders.into_iter().for_each(|order| desk.ask(order));
    }
}

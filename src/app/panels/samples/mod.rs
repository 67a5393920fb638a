//! Texts and rollouts, token by token; a conversation with any model.

mod chat;
mod rollouts;
mod texts;

use crate::app::panels::shared;
use crate::app::state::{Action, AppState};
use chat::ChatPage;
use eframe::egui::{self, Ui};
use rollouts::Rollouts;
use texts::Texts;

/// The selected view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Rollouts,
    Texts,
    Chat,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Samples {
    /// None until it is chosen: rollouts, where there are some.
    view: Option<View>,
    rollouts: Rollouts,
    texts: Texts,
    chat: ChatPage,
}

impl Samples {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        if let Some(run) = state.focus.clone().and_then(|path| state.run_mut(&path)) {
            self.rollouts.follow(ui.ctx(), run);
        }
        let mut actions: Vec<Action> = Vec::new();
        let run = state.focused();
        let reinforced = run.is_some_and(|run| run.files.history.stage() == "grpo" || !run.files.completions.steps().is_empty());
        let usual = match run {
            None => View::Chat,
            Some(_) if reinforced => View::Rollouts,
            Some(_) => View::Texts,
        };
        let mut view = self.view.unwrap_or(usual);
        ui.horizontal_wrapped(|ui| {
            for (choice, name) in [(View::Rollouts, "Rollouts"), (View::Texts, "Generated text"), (View::Chat, "Chat")] {
                if ui.selectable_value(&mut view, choice, name).clicked() {
                    self.view = Some(choice);
                }
            }
        });
        ui.separator();
        egui::ScrollArea::vertical().id_salt("samples").auto_shrink([false, false]).show(ui, |ui| match (view, run) {
            (View::Chat, run) => self.chat.ui(ui, state, run, &mut actions),
            (View::Rollouts, Some(run)) => self.rollouts.ui(ui, run, &mut actions),
            (View::Texts, Some(run)) => self.texts.ui(ui, run, state, &mut actions),
            (View::Rollouts | View::Texts, None) => shared::no_run(ui, &mut actions),
        });
        actions.into_iter().for_each(|order| state.request(order));
    }
}

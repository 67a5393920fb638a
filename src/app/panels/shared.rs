//! Common parts of pages: empty states, ways to continue from a run, the state and the result of a job.

use crate::app::child::JobState;
use crate::app::state::{Action, AppState, OpenRun, Page};
use crate::app::{format, theme};
use crate::history::RunState;
use eframe::egui::{self, Ui};
use serde::de::DeserializeOwned;

/// Where there is nothing to show: what is missing, and what to do.
pub fn empty(ui: &mut Ui, heading: &str, what_to_do: &str) {
    empty_with(ui, heading, what_to_do, |_| ());
}

/// [`empty`] with buttons below the text.
pub fn empty_with(ui: &mut Ui, heading: &str, what_to_do: &str, buttons: impl FnOnce(&mut Ui)) {
    let space = ui.available_size();
    ui.add_space((space.y * 0.2).min(120.0));
    let width = (space.x - 8.0).clamp(20.0, 460.0);
    ui.horizontal(|ui| {
        ui.add_space((space.x - width).max(0.0) / 2.0);
        ui.vertical(|ui| {
            ui.set_max_width(width);
            ui.label(egui::RichText::new(heading).heading());
            ui.add_space(4.0);
            ui.add(egui::Label::new(egui::RichText::new(what_to_do).weak()).wrap());
            ui.add_space(8.0);
            buttons(ui);
        });
    });
}

/// Buttons in a row, each with what it asks for.
pub fn action_buttons<const N: usize>(ui: &mut Ui, offered: [(&str, Action); N], actions: &mut Vec<Action>) {
    ui.horizontal_wrapped(|ui| {
        for (words, order) in offered {
            if ui.add(egui::Button::new(words).min_size(egui::vec2(0.0, 30.0))).clicked() {
                actions.push(order);
            }
        }
    });
}

/// Where no run is open: how to get one.
pub fn no_run(ui: &mut Ui, actions: &mut Vec<Action>) {
    let what = "Start one, take a lesson, or open a folder of runs on the page Runs.";
    empty_with(ui, "No run is open", what, |ui| {
        let offered = [("Start a new run", Action::Show(Page::NewRun)), ("Take a lesson", Action::Show(Page::Lessons))];
        action_buttons(ui, offered, actions);
    });
}

/// A button that fills the form for a run with the settings of this one, but for these (`section.field` and value).
pub fn another_run(ui: &mut Ui, run: &OpenRun, words: &str, settings: &[(&str, &str)], actions: &mut Vec<Action>) {
    let Some(stage) = run.files.settings.as_ref().map(|settings| settings.stage().name()) else { return };
    if ui.button(words).on_hover_text("Fill the form with this run's settings and this change").clicked() {
        let config = crate::run_folder::config(&run.files.path).display().to_string();
        let changed = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        actions.push(Action::NewRun(stage.to_owned(), std::iter::once(("config".to_owned(), config)).chain(changed).collect()));
    }
}

/// Ways to continue from a run: resume it, fork it, start another stage from it.
pub fn continue_ui(ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
    let stage = run.files.settings.as_ref().map_or("pretrain", |s| s.stage().name());
    let shown = run.files.path.display().to_string();
    // As its log says: a frame reads no disk.
    let has_checkpoint = !run.checkpoints().is_empty();
    let h = &run.files.history;
    let is_done = matches!(&h.state, RunState::Finished(end) if end.reason == "completed") && h.step >= h.max_steps();
    let resume = ui.add_enabled(!run.live && has_checkpoint && !is_done, egui::Button::new("Resume"));
    let why = match (run.live, is_done) {
        (true, _) => "It is being trained.",
        (_, true) => "It has made all its steps. Fork it with more steps, or continue with another stage.",
        _ => "It has saved no checkpoint.",
    };
    if resume.on_hover_text("Continue from the newest checkpoint").on_disabled_hover_text(why).clicked() {
        let args = vec![stage.to_owned(), "--resume".into(), shown.clone()];
        actions.push(Action::Start { args, run: run.files.path.clone() });
    }
    if !has_checkpoint {
        for words in ["Fork", "Continue with"] {
            ui.add_enabled(false, egui::Button::new(words)).on_disabled_hover_text("It has saved no checkpoint.");
        }
        return;
    }
    ui.menu_button("Fork", |ui| {
        ui.label("Continue as a run of its own from step");
        for step in run.checkpoints().into_iter().rev().take(20) {
            if ui.button(format::count(step)).clicked() {
                let fork = ("start.fork".to_owned(), format!("{shown}@{step}"));
                actions.push(Action::NewRun(stage.to_owned(), vec![fork]));
                ui.close();
            }
        }
    });
    ui.menu_button("Continue with", |ui| {
        for (next, words) in [("sft", "Fine-tune it"), ("grpo", "Train it with GRPO"), ("pretrain", "Train it on other text")] {
            if ui.button(words).clicked() {
                actions.push(Action::NewRun(next.into(), vec![("start.init".to_owned(), shown.clone())]));
                ui.close();
            }
        }
    });
}

/// The run that a page is about, or a way to get one.
pub fn focused_name(ui: &mut Ui, state: &mut AppState) -> Option<std::path::PathBuf> {
    if let Some(run) = state.focused() {
        return Some(run.files.path.clone());
    }
    let mut actions = Vec::new();
    no_run(ui, &mut actions);
    actions.into_iter().for_each(|order| state.request(order));
    None
}

/// State of a job, with a button to cancel it; its output when it is done.
pub fn progress<'a>(ui: &mut Ui, key: &str, job: Option<&'a JobState>, actions: &mut Vec<Action>) -> Option<&'a str> {
    match job? {
        JobState::Running(line) => {
            ui.horizontal_wrapped(|ui| {
                let line = if line.is_empty() { "working ..." } else { line.as_str() };
                ui.label(line);
                if ui.button("Cancel").clicked() {
                    actions.push(Action::Cancel(key.to_owned()));
                }
            });
            None
        }
        JobState::Failed(why) => {
            // A message about a flag is about the field of this name.
            ui.colored_label(theme::error_color(ui.visuals()), why.strip_prefix("--").unwrap_or(why));
            None
        }
        JobState::Done(text) => Some(text),
    }
}

/// The newest result of a job, read once.
#[derive(Debug)]
pub struct Found<T> {
    /// The result, or the reason why it could not be read.
    pub value: Option<Result<T, String>>,
    /// Counts results, so that pictures know of a new one.
    pub count: u64,
    waiting: bool,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { value: None, count: 0, waiting: true }
    }
}

impl<T: DeserializeOwned> Found<T> {
    /// A new job has been started.
    pub fn await_new(&mut self) {
        self.waiting = true;
    }

    /// Look at the job.
    pub fn take(&mut self, job: Option<&JobState>) {
        match job {
            Some(JobState::Running(_)) => self.waiting = true,
            Some(JobState::Done(text)) if self.waiting => {
                self.waiting = false;
                self.count += 1;
                self.value = Some(serde_json::from_str(text.trim()).map_err(|e| format!("the result cannot be read: {e}")));
            }
            _ => {}
        }
    }
}

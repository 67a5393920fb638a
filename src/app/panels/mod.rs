//! The pages of the window. Each is a small struct of what it remembers between frames, with `ui(&mut self, ui, desk)`; it draws from the
//! [`AppState`] and asks by [`Action`]s.

pub mod charts;
pub mod controls;
pub mod inside;
pub mod lessons;
pub mod merge;
pub mod new_run;
pub mod runs;
pub mod samples;
pub mod tokens;

use super::state::{Action, AppState, OpenRun, Page};
use eframe::egui;

/// All pages.
#[derive(Debug, Default)]
pub struct Panels {
    /// The list of runs.
    pub runs: runs::Runs,
    /// The form.
    pub new_run: new_run::NewRun,
    /// Curves.
    pub charts: charts::Charts,
    /// Token statistics.
    pub tokens: tokens::Tokens,
    /// Texts.
    pub samples: samples::Samples,
    /// Merging.
    pub merge: merge::Merge,
    /// Attention and lens.
    pub inside: inside::Inside,
    /// Lessons.
    pub lessons: lessons::Lessons,
    /// Commands.
    pub controls: controls::Controls,
}

impl Page {
    /// What its tab says.
    pub fn title(self) -> &'static str {
        match self {
            Self::Runs => "Runs",
            Self::NewRun => "New run",
            Self::Charts => "Charts",
            Self::Tokens => "Tokens",
            Self::Samples => "Samples",
            Self::Merge => "Merge",
            Self::Inside => "Inside",
            Self::Lessons => "Lessons",
            Self::Controls => "Controls",
        }
    }
}

impl Panels {
    /// Draw a page.
    pub fn ui(&mut self, page: Page, ui: &mut egui::Ui, desk: &mut AppState) {
        match page {
            Page::Runs => self.runs.ui(ui, desk),
            Page::NewRun => self.new_run.ui(ui, desk),
            Page::Charts => self.charts.ui(ui, desk),
            Page::Tokens => self.tokens.ui(ui, desk),
            Page::Samples => self.samples.ui(ui, desk),
            Page::Merge => self.merge.ui(ui, desk),
            Page::Inside => self.inside.ui(ui, desk),
            Page::Lessons => self.lessons.ui(ui, desk),
            Page::Controls => self.controls.ui(ui, desk),
        }
    }
}

/// What to write where there is nothing to show: what is missing, and what to do.
pub fn empty(ui: &mut egui::Ui, heading: &str, what_to_do: &str) {
    let room = ui.available_size();
    ui.add_space((room.y * 0.2).min(120.0));
    let width = (room.x - 8.0).clamp(20.0, 460.0);
    ui.horizontal(|ui| {
        ui.add_space((room.x - width).max(0.0) / 2.0);
        ui.vertical(|ui| {
            ui.set_max_width(width);
            ui.label(egui::RichText::new(heading).heading());
            ui.add_space(4.0);
            ui.add(egui::Label::new(egui::RichText::new(what_to_do).weak()).wrap());
        });
    });
}

/// Buttons under what [`empty`] says, each with what it asks for.
pub fn offers<const N: usize>(ui: &mut egui::Ui, offered: [(&str, Action); N], actions: &mut Vec<Action>) {
    ui.add_space(12.0);
    ui.vertical_centered(|ui| {
        for (words, order) in offered {
            if ui.add(egui::Button::new(words).min_size(egui::vec2(180.0, 30.0))).clicked() {
                actions.push(order);
            }
        }
    });
}

/// Where no run is open: how to get one.
pub fn no_run(ui: &mut egui::Ui, actions: &mut Vec<Action>) {
    empty(ui, "No run is open", "Start one, take a lesson, or open a folder of runs on the page Runs.");
    offers(ui, [("Start a new run", Action::Show(Page::NewRun)), ("Take a lesson", Action::Show(Page::Lessons))], actions);
}

/// A button that fills the form for a run with the settings of this one, but for these (`section.field` and value).
pub fn another_run(ui: &mut egui::Ui, run: &OpenRun, words: &str, settings: &[(&str, &str)], actions: &mut Vec<Action>) {
    let Some(stage) = run.files.settings.as_ref().map(|settings| settings.stage().name()) else { return };
    if ui.button(words).on_hover_text("Fill the form with this run's settings and this change").clicked() {
        let config = crate::run_folder::config(&run.files.path).display().to_string();
        let changed = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        actions.push(Action::NewRun(stage.to_owned(), std::iter::once(("config".to_owned(), config)).chain(changed).collect()));
    }
}

/// The run that a page is about, or a way to get one.
pub fn focused_name(ui: &mut egui::Ui, desk: &mut AppState) -> Option<std::path::PathBuf> {
    if let Some(run) = desk.focused() {
        return Some(run.files.path.clone());
    }
    let mut actions = Vec::new();
    no_run(ui, &mut actions);
    actions.into_iter().for_each(|order| desk.ask(order));
    None
}

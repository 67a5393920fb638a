//! The pages of the window. Each is a small struct of what it remembers between frames, with `ui(&mut self, ui, desk)`; it draws from the
//! [`Desk`] and asks by [`Order`](super::desk::Order)s.

pub mod charts;
pub mod controls;
pub mod inside;
pub mod lessons;
pub mod merge;
pub mod new_run;
pub mod runs;
pub mod samples;
pub mod tokens;

use super::desk::{Desk, Page};
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
    pub fn ui(&mut self, page: Page, ui: &mut egui::Ui, desk: &mut Desk) {
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

/// The run that a page is about, or words that say how to get one.
pub fn focused_name(ui: &mut egui::Ui, desk: &Desk) -> Option<std::path::PathBuf> {
    let Some(run) = desk.focused() else {
        empty(ui, "No run is open", "Start one on the page New run, or open a run folder on the page Runs.");
        return None;
    };
    Some(run.files.path.clone())
}

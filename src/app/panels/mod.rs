//! The pages of the window. Each is a small struct of what it remembers between frames, with `ui(&mut self, ui, state)`; it draws from the
//! [`AppState`] and asks by [`Action`](super::state::Action)s.

pub mod charts;
pub mod controls;
pub mod inside;
pub mod lessons;
mod live;
pub mod merge;
pub mod new_run;
pub mod runs;
pub mod samples;
mod shared;
pub mod tokens;

use super::state::{AppState, Page};
use eframe::egui;

/// All pages.
#[derive(Debug, Default)]
pub struct PageSet {
    /// The list of runs.
    pub runs: runs::Runs,
    /// The form.
    pub new_run: new_run::NewRun,
    /// Curves.
    pub charts: charts::Charts,
    /// Token statistics.
    pub tokens: tokens::TokensPage,
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
    /// The text of its tab.
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

impl PageSet {
    /// Draw a page.
    pub fn ui(&mut self, page: Page, ui: &mut egui::Ui, state: &mut AppState) {
        match page {
            Page::Runs => self.runs.ui(ui, state),
            Page::NewRun => self.new_run.ui(ui, state),
            Page::Charts => self.charts.ui(ui, state),
            Page::Tokens => self.tokens.ui(ui, state),
            Page::Samples => self.samples.ui(ui, state),
            Page::Merge => self.merge.ui(ui, state),
            Page::Inside => self.inside.ui(ui, state),
            Page::Lessons => self.lessons.ui(ui, state),
            Page::Controls => self.controls.ui(ui, state),
        }
    }
}

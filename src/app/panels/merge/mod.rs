//! Averaging checkpoints: what it brings while a run goes on, which merge is the best one, and how the loss lies between checkpoints.

mod landscape;
mod live;
mod plan;
mod results;
mod sweep;

use crate::app::child::JobState;
use crate::app::draw::short;
use crate::app::state::{Action, AppState, OpenRun};
use crate::app::theme;
use eframe::egui::{self, Ui};
use landscape::LandscapePart;
use plan::Plan;
pub(super) use results::Found;
use std::path::{Path, PathBuf};
use sweep::SweepPart;

/// See the module.
#[derive(Debug, Default)]
pub struct Merge {
    of: PathBuf,
    plan: Plan,
    sweep: SweepPart,
    landscape: LandscapePart,
    /// Only the newest half of the curves.
    late: bool,
    there: There,
}

/// The checkpoints of a run that are still on disk, looked up when its log tells of a new one.
#[derive(Debug, Default)]
struct There {
    known: Option<(usize, u64)>,
    steps: Vec<u64>,
}

impl There {
    fn look(&mut self, run: &OpenRun) {
        let told = &run.files.history.checkpoints;
        let known = (told.len(), told.last().map_or(0, |c| c.0));
        if self.known != Some(known) {
            let dir = crate::run_folder::checkpoints::folder(&run.files.path);
            let is_there = |path: &Path| path.file_name().is_some_and(|name| dir.join(name).is_dir()) || path.is_dir();
            self.steps = told.iter().filter(|c| is_there(&c.1)).map(|c| c.0).collect();
            self.steps.sort_unstable();
            self.steps.dedup();
            self.known = Some(known);
        }
    }

    /// The smallest distance of two neighbours.
    fn spacing(&self) -> u64 {
        self.steps.windows(2).map(|w| w[1] - w[0]).min().unwrap_or(0)
    }
}

impl Merge {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, desk: &mut AppState) {
        let Some(path) = super::focused_name(ui, desk) else { return };
        if self.of != path {
            (self.of, self.plan, self.there) = (path.clone(), Plan::default(), There::default());
        }
        let mut actions = Vec::new();
        if let Some(run) = desk.run(&path) {
            if run.files.history.stage() == "grpo"
                && run.files.history.merges.is_empty()
                && run.files.history.checkpoints.is_empty()
            {
                return super::empty(
                    ui,
                    "Nothing to merge yet",
                    "A merge averages checkpoints of a run; this one has saved none.",
                );
            }
            self.there.look(run);
            self.plan.follow(run, &desk.home);
            egui::ScrollArea::vertical().id_salt("merge").auto_shrink([false, false]).show(ui, |ui| {
                live::ui(ui, run, &mut self.late, &mut actions);
                ui.add_space(4.0);
                self.plan.ui(ui, run, &self.there.steps, self.there.spacing(), desk.job(&key("merge", &path)), &mut actions);
                ui.add_space(4.0);
                let (steps, spacing) = (&self.there.steps, self.there.spacing());
                if let Some(best) = self.sweep.ui(ui, run, steps, spacing, desk.job(&key("sweep", &path)), &mut actions) {
                    self.plan.take(&best);
                }
                ui.add_space(4.0);
                self.landscape.ui(ui, run, steps, desk.job(&key("landscape", &path)), &mut actions);
            });
        }
        actions.into_iter().for_each(|order| desk.ask(order));
    }
}

/// A job's key: what it does and the run it is for.
fn key(what: &str, run: &Path) -> String {
    format!("{what} {}", run.display())
}

/// How a job stands, with a button to end it; the text that it printed, when it has.
pub(super) fn progress<'a>(ui: &mut Ui, key: &str, job: Option<&'a JobState>, actions: &mut Vec<Action>) -> Option<&'a str> {
    match job? {
        JobState::Running(line) => {
            ui.horizontal_wrapped(|ui| {
                let line = if line.is_empty() { "at work ..." } else { line.as_str() };
                ui.label(line);
                if ui.button("Cancel").clicked() {
                    actions.push(Action::Cancel(key.to_owned()));
                }
            });
            None
        }
        JobState::Failed(why) => {
            ui.colored_label(theme::bad(ui.visuals()), why);
            None
        }
        JobState::Done(text) => Some(text),
    }
}

/// A difference of losses, in words.
fn difference(gain: f64) -> String {
    let word = if gain >= 0.0 { "below" } else { "above" };
    format!("{} {word}", short(gain.abs()))
}

//! Averaging checkpoints: what that gains while a run trains, which merge is the best one, and the loss between checkpoints.

mod landscape;
mod live;
mod plan;
mod results;
mod sweep;

use crate::app::format::number;
use crate::app::loader::Loaded;
use crate::app::panels::shared;
use crate::app::state::{AppState, OpenRun};
use eframe::egui::{self, Context, Ui};
use landscape::LandscapePart;
use plan::Plan;
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
    on_disk: OnDisk,
}

/// A run, with the number of its checkpoints and the step of the newest, as its log says.
type Known = (PathBuf, usize, u64);

/// The steps of a run's checkpoints that are still on disk, looked up by a thread when its log names a new one.
#[derive(Debug, Default)]
struct OnDisk {
    found: Loaded<Known, Vec<u64>>,
}

impl OnDisk {
    /// The steps, ascending; none until they have been looked up.
    fn steps(&mut self, ctx: &Context, run: &OpenRun) -> Option<Vec<u64>> {
        let logged = &run.files.history.checkpoints;
        let known = (run.files.path.clone(), logged.len(), logged.last().map_or(0, |c| c.0));
        let logged = if self.found.is_for(&known) { Vec::new() } else { logged.clone() };
        let look = move |(run, ..): &Known| {
            let dir = crate::run_folder::checkpoints::folder(run);
            // A log that was written on another machine names folders of that one.
            let is_there = |path: &Path| path.file_name().is_some_and(|name| dir.join(name).is_dir()) || path.is_dir();
            let mut steps: Vec<u64> = logged.iter().filter(|c| is_there(&c.1)).map(|c| c.0).collect();
            steps.sort_unstable();
            steps.dedup();
            steps
        };
        let (of, steps) = self.found.get(ctx, &known, look)?;
        (of.0 == known.0).then(|| steps.clone())
    }
}

impl Merge {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        let Some(path) = shared::focused_name(ui, state) else { return };
        if self.of != path {
            (self.of, self.plan) = (path.clone(), Plan::default());
        }
        let mut actions = Vec::new();
        if let Some(run) = state.run(&path) {
            let steps = self.on_disk.steps(ui.ctx(), run);
            self.plan.follow(run, &state.home);
            egui::ScrollArea::vertical().id_salt("merge").auto_shrink([false, false]).show(ui, |ui| {
                live::ui(ui, run, &mut self.late, &mut actions);
                ui.add_space(4.0);
                let Some(steps) = &steps else {
                    ui.spinner();
                    return;
                };
                let spacing = steps.windows(2).map(|w| w[1] - w[0]).min().unwrap_or(0);
                self.plan.ui(ui, run, (steps, spacing), state.job(&key("merge", &path)), &mut actions);
                ui.add_space(4.0);
                if let Some(best) = self.sweep.ui(ui, run, (steps, spacing), state.job(&key("sweep", &path)), &mut actions) {
                    self.plan.take(&best);
                }
                ui.add_space(4.0);
                self.landscape.ui(ui, run, steps, state.job(&key("landscape", &path)), &mut actions);
            });
        }
        actions.into_iter().for_each(|order| state.request(order));
    }
}

/// A job's key: what it does and the run it is for.
fn key(what: &str, run: &Path) -> String {
    format!("{what} {}", run.display())
}

/// A difference of losses, in words.
fn difference(gain: f64) -> String {
    let word = if gain >= 0.0 { "below" } else { "above" };
    format!("{} {word}", number(gain.abs()))
}

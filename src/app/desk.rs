//! What lies on the desk: the open runs, how they are looked at, and what the panels have asked for. Panels draw from the desk and put
//! [`Order`]s on it; the window carries them out once a frame. Nothing else changes the world.

use super::chart::Cuts;
use super::child::{Job, JobState, Trainer};
use super::theme;
use crate::event::Command;
use crate::history::{Axis, RunFiles, Smoothed};
use eframe::egui;
use eframe::egui::Color32;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A run that is looked at.
#[derive(Debug)]
pub struct OpenRun {
    /// Its files.
    pub files: RunFiles,
    /// A process trains it just now.
    pub live: bool,
    /// That process, when it is ours.
    pub trainer: Option<Trainer>,
    /// This window started its trainer.
    pub ours: bool,
    /// Drawn in charts.
    pub visible: bool,
    /// Its colour in charts.
    pub color: Color32,
    /// Its log is still being read.
    pub loading: bool,
    /// Why its files cannot be read.
    pub error: Option<String>,
    /// Bytes on disk, when last counted.
    pub bytes: u64,
    /// Smoothed curves by metric.
    pub smoothed: HashMap<String, Smoothed>,
    /// The reading of the log that they are of.
    pub smoothed_of: u64,
}

impl OpenRun {
    /// A run, not yet read; `index` chooses its colour.
    pub fn new(path: &Path, index: usize) -> Self {
        Self {
            files: RunFiles::new(path),
            live: false,
            trainer: None,
            ours: false,
            visible: true,
            color: theme::series(index),
            loading: true,
            error: None,
            bytes: 0,
            smoothed: HashMap::new(),
            smoothed_of: 0,
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.files.name()
    }

    /// Whether this window can command it.
    pub fn is_ours(&self) -> bool {
        self.ours && self.live
    }

    /// The newest checkpoint that its log tells of and that is still there.
    pub fn newest_checkpoint(&self) -> Option<(u64, PathBuf)> {
        let there = |(step, path): &(u64, PathBuf)| {
            // A log that was written elsewhere names folders of that place.
            let own = self.files.path.join("checkpoints").join(path.file_name()?);
            [own, path.clone()].into_iter().find(|p| p.is_dir()).map(|p| (*step, p))
        };
        self.files.history.checkpoints.iter().rev().find_map(there)
    }

    /// The smoothed curve of a metric, as far as the run has come.
    pub fn smooth(&mut self, metric: &str, weight: f64) -> Option<&Smoothed> {
        if std::mem::replace(&mut self.smoothed_of, self.files.reading) != self.files.reading {
            self.smoothed.clear();
        }
        let raw = self.files.history.curves.get(metric)?;
        let entry = self.smoothed.entry(metric.to_owned()).or_insert_with(|| Smoothed::new(weight));
        if entry.weight() != Smoothed::new(weight).weight() {
            *entry = Smoothed::new(weight);
        }
        entry.follow(&self.files.history.clock, raw);
        Some(entry)
    }
}

/// How things are looked at; remembered from one day to the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Look {
    /// What the horizontal axis counts.
    pub axis: Axis,
    /// Weight of the past in smoothed lines, 0 to below 1.
    pub smoothing: f64,
    /// Logarithmic horizontal axes.
    pub log_x: bool,
    /// Charts whose vertical axis was switched from what it begins as.
    pub log_y_flipped: Vec<String>,
    /// Charts that are not shown.
    pub hidden_charts: Vec<String>,
    /// Only the newest part of a run, in steps; 0 for all of it.
    pub last_steps: u64,
    /// Marks on the axes.
    pub pins: bool,
    /// Runs that differ only in their seed as mean and spread.
    pub group_seeds: bool,
    /// Charts side by side; 0 as many as fit.
    pub columns: usize,
    /// Follow the system, or dark or light.
    pub theme: egui::ThemePreference,
    /// Size of everything, 1 for a desk and 1.5 or more for a projector.
    pub zoom: f32,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            axis: Axis::Steps,
            smoothing: 0.9,
            log_x: false,
            log_y_flipped: Vec::new(),
            hidden_charts: Vec::new(),
            last_steps: 0,
            pins: true,
            group_seeds: false,
            columns: 0,
            theme: egui::ThemePreference::System,
            zoom: 1.0,
        }
    }
}

/// A page of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Page {
    /// The list of runs.
    Runs,
    /// The form for a new run.
    NewRun,
    /// Curves.
    Charts,
    /// What happens to tokens, by their probability.
    Tokens,
    /// Texts and rollouts.
    Samples,
    /// Averaging checkpoints.
    Merge,
    /// Attention, logit lens, norms.
    Inside,
    /// Lessons.
    Lessons,
    /// Commands to a live run.
    Controls,
}

/// What a panel asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// A command to the trainer of a run.
    Send(PathBuf, Command),
    /// `lehr ARGS --control`, training in this run folder, watched from now on.
    Start {
        /// The command line, without the program.
        args: Vec<String>,
        /// The run folder that it makes or goes on with.
        run: PathBuf,
    },
    /// `lehr ARGS`, whose output will be in [`Desk::jobs`] under this key.
    Job(String, Vec<String>),
    /// End a job.
    Cancel(String),
    /// Look at a run, or at all runs in a folder.
    Open(PathBuf),
    /// Look at a run no more; nothing is deleted.
    Close(PathBuf),
    /// Delete a run's folder for good.
    Delete(PathBuf),
    /// Make this run the one that panels show.
    Focus(PathBuf),
    /// Bring a page to the front.
    Show(Page),
    /// Fill the form for a new run: a stage (`pretrain`, `sft`, `grpo`), and settings to set in it as `section.field` and value in TOML.
    NewRun(String, Vec<(String, String)>),
    /// Write a file, whole; the text is said when it is done.
    Write(PathBuf, Vec<u8>),
    /// Tell the user something; it goes away by itself.
    Say(String),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Desk {
    /// Open runs, in the order of opening.
    pub runs: Vec<OpenRun>,
    /// The run that panels show, by its folder.
    pub focus: Option<PathBuf>,
    /// How things are looked at.
    pub look: Look,
    /// Jobs by key.
    pub jobs: BTreeMap<String, Job>,
    /// Where new runs go.
    pub home: PathBuf,
    /// The step under the pointer in any chart, as a position on the axis that is shown.
    pub cursor: Option<f64>,
    /// Curves as they were drawn last.
    pub cuts: Cuts,
    orders: Vec<Order>,
}

impl Desk {
    /// Ask for something.
    pub fn ask(&mut self, order: Order) {
        self.orders.push(order);
    }

    /// What was asked for since the last look.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// The run in this folder.
    pub fn run(&self, path: &Path) -> Option<&OpenRun> {
        self.runs.iter().find(|run| run.files.path == path)
    }

    /// The same, to be changed.
    pub fn run_mut(&mut self, path: &Path) -> Option<&mut OpenRun> {
        self.runs.iter_mut().find(|run| run.files.path == path)
    }

    /// The run that panels show.
    pub fn focused(&self) -> Option<&OpenRun> {
        self.run(self.focus.as_deref()?)
    }

    /// Send a command to the run that panels show.
    pub fn send(&mut self, command: Command) {
        if let Some(path) = self.focus.clone() {
            self.ask(Order::Send(path, command));
        }
    }

    /// A job's state, if there is one under this key.
    pub fn job(&self, key: &str) -> Option<&JobState> {
        self.jobs.get(key).map(|job| &job.state)
    }

    /// A folder for a new run that is not taken: `HOME/STAGE-NNN`.
    pub fn free_run(&self, stage: &str) -> PathBuf {
        let taken = |path: &PathBuf| path.exists() || self.run(path).is_some();
        (1..).map(|i| self.home.join(format!("{stage}-{i:03}"))).find(|p| !taken(p)).unwrap_or_default()
    }
}

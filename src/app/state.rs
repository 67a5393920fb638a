//! The open runs, how they are shown, and what the pages have asked for. Pages draw from the state and put [`Action`]s on it; the window
//! carries them out once a frame. Nothing else has an effect outside of a page.

use super::chat_process::ChatProcess;
use super::child::{Job, JobState, TrainerProcess};
use super::curve_cache::CurveCache;
use super::theme;
use crate::event::Command;
use crate::history::{Axis, RunFiles, distinct_names, run_colors};
use crate::model::conversation::ChatRequest;
use eframe::egui;
use eframe::egui::Color32;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An open run.
#[derive(Debug)]
pub struct OpenRun {
    /// Its files.
    pub files: RunFiles,
    /// Its name among the open runs.
    pub label: String,
    /// A process is training it.
    pub live: bool,
    /// That process, where this window started it.
    pub trainer: Option<TrainerProcess>,
    /// This window started its trainer.
    pub ours: bool,
    /// Drawn in charts.
    pub visible: bool,
    /// Index of its colour among the series' colours.
    pub hue: usize,
    /// That colour, on every page.
    pub color: Color32,
    /// Its log is still being read.
    pub loading: bool,
    /// Why its files cannot be read.
    pub error: Option<String>,
    /// Bytes on disk, when last counted.
    pub bytes: u64,
    /// Steps of the checkpoints on disk, when last listed.
    pub kept: Option<Vec<u64>>,
}

impl OpenRun {
    /// A run, not yet read; `color` is which of the series' colours it has.
    pub fn new(path: &Path, color: usize) -> Self {
        Self {
            files: RunFiles::new(path),
            label: crate::history::short_name(path),
            live: false,
            trainer: None,
            ours: false,
            visible: true,
            hue: color,
            color: theme::series(color),
            loading: true,
            error: None,
            bytes: 0,
            kept: None,
        }
    }

    /// Its name, distinct among the open runs.
    pub fn name(&self) -> String {
        self.label.clone()
    }

    /// Whether this window can command it.
    pub fn is_controllable(&self) -> bool {
        self.ours && self.live
    }

    /// Steps of its checkpoints, ascending: those of its log that are still on disk, as far as that is known.
    pub fn checkpoints(&self) -> Vec<u64> {
        let is_kept = |step: &u64| self.kept.as_ref().is_none_or(|kept| kept.contains(step));
        let mut steps: Vec<u64> = self.files.history.checkpoints.iter().map(|(step, _)| *step).filter(is_kept).collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }

    /// The step of the newest checkpoint in its log. Retention never deletes that one, and a frame reads no disk.
    pub fn newest_checkpoint(&self) -> Option<u64> {
        self.files.history.checkpoints.last().map(|(step, _)| *step)
    }
}

/// Look of the pages; kept when the window is closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Look {
    /// Unit of the horizontal axis.
    pub axis: Axis,
    /// Share of a curve's points in the window of its smoothed line; 0 draws no smoothed lines.
    pub smooth: f64,
    /// Logarithmic horizontal axes.
    pub log_x: bool,
    /// Charts whose vertical axis was switched from its default.
    pub log_y_flipped: Vec<String>,
    /// Charts that are not shown.
    pub hidden_charts: Vec<String>,
    /// Only the newest part of a run, in steps; 0 for all of it.
    pub last_steps: u64,
    /// Marks on the axes.
    pub pins: bool,
    /// Runs that differ only in their seed are drawn as mean and spread.
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
            smooth: crate::history::chart_spec::SMOOTH,
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
    /// Token statistics by probability.
    Tokens,
    /// Texts and rollouts.
    Samples,
    /// Averaging checkpoints.
    Merge,
    /// Attention, logit lens, norms.
    Inside,
    /// Lessons.
    Lessons,
    /// Commands to a run that trains.
    Controls,
}

/// Request of a page.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A command to the trainer of a run.
    Send(PathBuf, Command),
    /// `lehr ARGS --control`, training in this run folder, followed from now on and shown.
    Start {
        /// The command line, without the program.
        args: Vec<String>,
        /// The run folder that it creates or resumes.
        run: PathBuf,
    },
    /// The same for a lesson's run by hand: without the tuner, as in lessons, and the page stays.
    Experiment {
        /// The command line, without the program.
        args: Vec<String>,
        /// The run folder that it creates.
        run: PathBuf,
    },
    /// Begin a lesson, by its name; one that was completed is shown.
    Lesson(String),
    /// Begin it in a new folder, also if it was completed.
    LessonAgain(String),
    /// `lehr ARGS`, whose output will be in [`AppState::jobs`] under this key.
    Job(String, Vec<String>),
    /// End a job.
    Cancel(String),
    /// Begin a conversation with a model; it replaces the one before.
    StartChat {
        /// RUN, RUN@STEP, a model folder or a GGUF file.
        model: String,
        /// The system message; none when empty.
        system: String,
        /// The longest reply in tokens; as suits the model when 0.
        tokens: u64,
    },
    /// Send the conversation a message or a request.
    SendChat(ChatRequest),
    /// End the conversation and unload its model.
    EndChat,
    /// Open a run, or all runs in a folder.
    Open(PathBuf),
    /// Close a run; nothing is deleted.
    Close(PathBuf),
    /// Delete a run's folder for good.
    Delete(PathBuf),
    /// Make this run the one that pages show.
    Focus(PathBuf),
    /// Bring a page to the front.
    Show(Page),
    /// Fill the form for a new run: a stage (`pretrain`, `sft`, `grpo`), and settings to set in it as `section.field` and value in TOML;
    /// `config` names a file of settings to start from.
    NewRun(String, Vec<(String, String)>),
    /// Write a chart as PNG: where to, its SVG text.
    Picture(PathBuf, String),
    /// Write metrics of a run as CSV.
    Csv {
        /// The run folder, whose log is read again.
        run: PathBuf,
        /// The columns.
        metrics: Vec<String>,
        /// The file.
        to: PathBuf,
    },
    /// Show a message for some seconds.
    Notify(String),
}

/// See the module.
#[derive(Debug, Default)]
pub struct AppState {
    /// Open runs, in the order of opening.
    pub runs: Vec<OpenRun>,
    /// The run that pages show, by its folder.
    pub focus: Option<PathBuf>,
    /// Look of the pages.
    pub look: Look,
    /// Jobs by key.
    pub jobs: BTreeMap<String, Job>,
    /// The conversation with a model, if one has begun.
    pub chat: Option<ChatProcess>,
    /// The folder of new runs.
    pub home: PathBuf,
    /// The position under the pointer in any chart, on the axis that is shown.
    pub cursor: Option<f64>,
    /// Curves as they were drawn last.
    pub curve_cache: CurveCache,
    actions: Vec<Action>,
}

impl AppState {
    /// Ask for something.
    pub fn request(&mut self, order: Action) {
        self.actions.push(order);
    }

    /// Requests since the last call.
    pub fn take_orders(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The run in this folder.
    pub fn run(&self, path: &Path) -> Option<&OpenRun> {
        self.runs.iter().find(|run| run.files.path == path)
    }

    /// The same, to be changed.
    pub fn run_mut(&mut self, path: &Path) -> Option<&mut OpenRun> {
        self.runs.iter_mut().find(|run| run.files.path == path)
    }

    /// The run that pages show.
    pub fn focused(&self) -> Option<&OpenRun> {
        self.run(self.focus.as_deref()?)
    }

    /// Give every open run its name and its colour, after one has come or gone.
    pub fn label_runs(&mut self) {
        let names: Vec<String> = self.runs.iter().map(|run| run.files.name()).collect();
        let labels = distinct_names(&self.runs.iter().map(|run| &run.files.path).collect::<Vec<_>>());
        for ((run, hue), label) in self.runs.iter_mut().zip(run_colors(&names)).zip(labels) {
            (run.hue, run.color, run.label) = (hue, theme::series(hue), label);
        }
    }

    /// Draw this run in the charts, and no other.
    pub fn show_only(&mut self, path: &Path) {
        self.runs.iter_mut().for_each(|run| run.visible = run.files.path == path);
    }

    /// Send a command to the run that pages show.
    pub fn send(&mut self, command: Command) {
        if let Some(path) = self.focus.clone() {
            self.request(Action::Send(path, command));
        }
    }

    /// A job's state, if there is one under this key.
    pub fn job(&self, key: &str) -> Option<&JobState> {
        self.jobs.get(key).map(|job| &job.state)
    }

    /// Folders of the runs that are trained from this window.
    pub fn training_folders(&self) -> Vec<PathBuf> {
        self.runs.iter().filter(|run| run.is_controllable()).map(|run| run.files.path.clone()).collect()
    }
}

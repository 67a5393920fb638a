//! The files of a run folder, followed while they grow.

use super::record::{History, RunState};
use super::samples::SampleLog;
use crate::config::Settings;
use crate::run_folder::{self, EventReader, Poll, RunLock};
use crate::vfs::{Entry, FileKind, RealFs, Vfs as _};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use web_time::Instant;

/// A followed run folder. Takes no lock and writes nothing.
#[derive(Debug)]
pub struct RunFiles {
    /// Path of the folder.
    pub path: PathBuf,
    /// Contents of its log.
    pub history: History,
    /// Its settings, once `config.toml` exists and is valid.
    pub settings: Option<Settings>,
    /// Its completions.
    pub completions: SampleLog,
    /// Number of this reading of a log, unique in the process; changes when the log is read again from the start.
    pub reading: u64,
    reader: EventReader,
}

/// Result of reading new data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Whether anything is new.
    pub changed: bool,
    /// Whether more can be read immediately.
    pub more: bool,
}

fn next_reading() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl RunFiles {
    /// Follow a run folder, which may not exist yet. Reads nothing.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            history: History::default(),
            settings: None,
            completions: SampleLog::new(&run_folder::samples(path)),
            reading: next_reading(),
            reader: EventReader::new(&run_folder::events(path)),
        }
    }

    /// A run in its current state, read to the end of its log.
    ///
    /// # Errors
    /// The run does not exist, or its log cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        anyhow::ensure!(
            has_run(path),
            "{}: holds neither config.toml nor events.jsonl: not a run folder",
            crate::vfs::display_path(path)
        );
        let mut run = Self::new(path);
        while run.follow(f64::INFINITY)?.more {}
        Ok(run)
    }

    /// Read new data, for about `seconds` at most.
    ///
    /// # Errors
    /// A file exists but cannot be read.
    pub fn follow(&mut self, seconds: f64) -> Result<Update> {
        let begin = Instant::now();
        let mut update = Update::default();
        if self.settings.is_none() {
            self.settings = run_folder::settings(&RealFs, &self.path).ok();
            update.changed = self.settings.is_some();
        }
        loop {
            let poll = self.reader.poll(&RealFs)?;
            update.changed |= poll.reset || !poll.events.is_empty();
            update.more = poll.more;
            self.take(poll);
            if !update.more || begin.elapsed().as_secs_f64() >= seconds {
                break;
            }
        }
        update.changed |= self.completions.follow()?;
        Ok(update)
    }

    /// Add the result of a reader of this run's log.
    pub fn take(&mut self, poll: Poll) {
        if poll.reset {
            self.history = History::default();
            self.reading = next_reading();
        }
        self.history.bad_lines += poll.bad_lines;
        poll.events.into_iter().for_each(|event| self.history.push(event));
    }

    /// The run's name: that of its folder.
    pub fn name(&self) -> String {
        short_name(&self.path)
    }

    /// Whether a trainer currently holds the run.
    pub fn is_live(&self) -> bool {
        RunLock::is_held(&self.path)
    }

    /// State of the run as one word: a run that is not finished and that no process holds was interrupted.
    pub fn state_label(&self, live: bool) -> &'static str {
        match &self.history.state {
            RunState::Empty if live => "starting",
            RunState::Empty => "empty",
            RunState::Running if live => "running",
            RunState::Paused if live => "paused",
            RunState::Running | RunState::Paused => "cut off",
            RunState::Finished(f) if f.reason == "stopped" => "stopped",
            RunState::Finished(_) => "finished",
            RunState::Failed(_) => "failed",
        }
    }
}

/// Total size of the files in a folder and its subfolders, in bytes.
pub fn bytes_on_disk(dir: &Path) -> u64 {
    let size = |entry: Entry| {
        let path = dir.join(entry.name);
        match entry.kind {
            FileKind::Dir => bytes_on_disk(&path),
            FileKind::File => RealFs.metadata(&path).ok().flatten().map_or(0, |found| found.bytes),
            FileKind::Other => 0,
        }
    };
    RealFs.list(dir).unwrap_or_default().into_iter().map(size).sum()
}

/// The last part of a path.
pub fn short_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Whether a folder has readable files of a run.
fn has_run(path: &Path) -> bool {
    [run_folder::config(path), run_folder::events(path)].iter().any(|file| RealFs.is_file(file).unwrap_or_default())
}

/// Run folders: the given folder itself if it is one, otherwise those in it, by name.
pub fn find_runs(dir: &Path) -> Vec<PathBuf> {
    if has_run(dir) {
        return vec![dir.to_owned()];
    }
    let entries = RealFs.list(dir).unwrap_or_default();
    entries.into_iter().map(|entry| dir.join(entry.name)).filter(|path| has_run(path)).collect()
}

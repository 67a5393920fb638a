//! The command of a story's step while it runs, and the results of earlier attempts.

use crate::backend::{self, Backend, CommandOutput, End, RunningCommand};
use crate::event::Command;
use crate::history::{RunFiles, RunState};
use crate::run_folder::{RunLock, checkpoints};
use crate::vfs::{RealFs, Vfs as _, display_path, write_whole};
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Disables the tuner: the same kernels give the same bits on the same adapter, and a new machine needs no measurement.
pub const UNTUNED: (&str, &str) = ("LEHR_TUNE", "off");

/// A running command. It is killed when dropped; what it saved remains.
#[derive(Debug)]
pub struct Child {
    task: Box<dyn RunningCommand>,
    listens: bool,
    /// File for its standard output, written when it has succeeded.
    output: PathBuf,
    printed: String,
    log: File,
    end: Option<End>,
}

impl Child {
    /// Start `lehr WORDS`; its standard output becomes the file `output` when it succeeds, its messages go to the file `log`.
    ///
    /// # Errors
    /// A file that cannot be created, or a command that cannot be started.
    pub fn start(lehr: &dyn Backend, words: &[String], output: &Path, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("{}: cannot be created", display_path(log)))?;
        let task = lehr.start(words, &[UNTUNED], Arc::new(|| {}))?;
        Ok(Self { task, listens: false, output: output.to_owned(), printed: String::new(), log, end: None })
    }

    /// Mark it as accepting commands.
    pub fn listening(mut self) -> Self {
        self.listens = true;
        self
    }

    /// Send a command.
    ///
    /// # Errors
    /// It accepts none, or has ended.
    pub fn send(&mut self, command: &Command) -> Result<()> {
        if !self.listens {
            bail!("this step takes no commands");
        }
        backend::send(self.task.as_mut(), command)
    }

    /// Ask a trainer to save and stop; kill any other command.
    pub fn stop(&mut self) {
        if self.send(&Command::Stop).is_err() && !self.listens {
            self.task.kill();
        }
    }

    /// Its end, or `None` while it runs. Its standard output is then in its file.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn ended(&mut self) -> Result<Option<End>> {
        for output in self.task.poll() {
            match output {
                CommandOutput::Line(line) => self.printed += &(line + "\n"),
                CommandOutput::Message(line) => writeln!(self.log, "{line}").context("a step's log")?,
                CommandOutput::Ended(end) => self.end = Some(end),
            }
        }
        // Empty output leaves no file.
        if self.end == Some(End::Done) && !self.printed.is_empty() {
            write_whole(&self.output, std::mem::take(&mut self.printed).as_bytes())?;
        }
        Ok(self.end.clone())
    }
}

impl Drop for Child {
    /// Waits for the end, a few seconds at most, since the run folder must be unlocked when the next attempt begins.
    fn drop(&mut self) {
        if self.end.is_some() {
            return;
        }
        self.task.kill();
        for _ in 0..500 {
            if self.task.poll().iter().any(|output| matches!(output, CommandOutput::Ended(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Result of an earlier attempt at a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlierAttempt {
    /// Nothing usable: the remains were removed.
    Nothing,
    /// A checkpoint to continue from.
    Resumable,
    /// A completed run.
    Complete,
}

/// Inspect a step's run folder; remove one without a checkpoint.
///
/// # Errors
/// A trainer is still running there.
pub fn attempt(run: &Path) -> Result<EarlierAttempt> {
    if !run.exists() {
        return Ok(EarlierAttempt::Nothing);
    }
    if RunLock::is_held(run) {
        bail!("{}: a trainer of an earlier attempt still works there; wait for it or end it", display_path(run));
    }
    if let Ok(files) = RunFiles::read(run)
        && matches!(&files.history.state, RunState::Finished(f) if f.reason == "completed")
    {
        return Ok(EarlierAttempt::Complete);
    }
    if checkpoints::newest_valid(&RealFs, run).is_ok_and(|newest| newest.found.is_some()) {
        return Ok(EarlierAttempt::Resumable);
    }
    remove(run)?;
    Ok(EarlierAttempt::Nothing)
}

/// Remove the output folder of a step.
///
/// # Errors
/// It cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        RealFs.remove_dir_all(dir).with_context(|| format!("{}: cannot be removed", display_path(dir)))?;
    }
    Ok(())
}

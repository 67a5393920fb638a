//! The command of a story's step while it runs, and what earlier attempts left.

use crate::backend::{self, Backend, End, Output, Task};
use crate::event::Command;
use crate::history::{RunFiles, State};
use crate::run_folder::{RunLock, checkpoints};
use crate::vfs::{RealFs, Vfs as _, shown, write_whole};
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Without the tuner: the same kernels everywhere give the same bits on the same adapter, and a fresh machine measures nothing.
pub const UNTUNED: (&str, &str) = ("LEHR_TUNE", "off");

/// A command that runs. Dropped, it is killed; what it saved remains.
#[derive(Debug)]
pub struct Child {
    task: Box<dyn Task>,
    listens: bool,
    /// The file of what it prints, written when it has ended well.
    output: PathBuf,
    printed: String,
    log: File,
    end: Option<End>,
}

impl Child {
    /// Start `lehr WORDS`; what it prints becomes the file `output` when it ends well, its messages the file `log`.
    ///
    /// # Errors
    /// A file that cannot be created, a command that cannot be started.
    pub fn start(lehr: &dyn Backend, words: &[String], output: &Path, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("{}: cannot be created", shown(log)))?;
        let task = lehr.start(words, &[UNTUNED], Arc::new(|| {}))?;
        Ok(Self { task, listens: false, output: output.to_owned(), printed: String::new(), log, end: None })
    }

    /// It takes commands.
    pub fn listening(mut self) -> Self {
        self.listens = true;
        self
    }

    /// Send it a command.
    ///
    /// # Errors
    /// It takes none, or has ended.
    pub fn send(&mut self, command: &Command) -> Result<()> {
        if !self.listens {
            bail!("this step takes no commands");
        }
        backend::send(self.task.as_mut(), command)
    }

    /// Ask a trainer to save and end; end anything else.
    pub fn stop(&mut self) {
        if self.send(&Command::Stop).is_err() && !self.listens {
            self.task.kill();
        }
    }

    /// How it ended, once it has. What it printed is then in its file.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn ended(&mut self) -> Result<Option<End>> {
        for output in self.task.poll() {
            match output {
                Output::Line(line) => self.printed += &(line + "\n"),
                Output::Message(line) => writeln!(self.log, "{line}").context("a step's log")?,
                Output::Ended(end) => self.end = Some(end),
            }
        }
        // What prints nothing leaves no file.
        if self.end == Some(End::Done) && !self.printed.is_empty() {
            write_whole(&self.output, std::mem::take(&mut self.printed).as_bytes())?;
        }
        Ok(self.end.clone())
    }
}

impl Drop for Child {
    /// Its run folder must be free when the next attempt begins, so its end is awaited, for a few seconds at most.
    fn drop(&mut self) {
        if self.end.is_some() {
            return;
        }
        self.task.kill();
        for _ in 0..500 {
            if self.task.poll().iter().any(|output| matches!(output, Output::Ended(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What an earlier attempt at a training run left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Nothing, or nothing of use: what lay there was removed.
    Nothing,
    /// A checkpoint to continue from.
    Resumable,
    /// All of it.
    Complete,
}

/// Look at a step's run folder; remove one without a checkpoint.
///
/// # Errors
/// A trainer still works there.
pub fn attempt(run: &Path) -> Result<Attempt> {
    if !run.exists() {
        return Ok(Attempt::Nothing);
    }
    if RunLock::is_held(run) {
        bail!("{}: a trainer of an earlier attempt still works there; wait for it or end it", shown(run));
    }
    if let Ok(files) = RunFiles::read(run)
        && matches!(&files.history.state, State::Finished(f) if f.reason == "completed")
    {
        return Ok(Attempt::Complete);
    }
    if checkpoints::newest_valid(&RealFs, run).is_ok_and(|newest| newest.found.is_some()) {
        return Ok(Attempt::Resumable);
    }
    remove(run)?;
    Ok(Attempt::Nothing)
}

/// Remove a folder that a step made.
///
/// # Errors
/// It cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        RealFs.remove_dir_all(dir).with_context(|| format!("{}: cannot be removed", shown(dir)))?;
    }
    Ok(())
}

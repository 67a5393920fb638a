//! A command of lehr as a child process.

use crate::event::Command;
use crate::history::{RunFiles, State};
use crate::model::checkpoint;
use crate::session::lock::RunLock;
use crate::vfs::{RealFs, Vfs as _, shown};
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command as Process, Stdio};

/// A child that runs. Dropped, it is killed: what it saved stays.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    listens: bool,
    /// Where its output is being written, and what the file is called once it is whole.
    output: (PathBuf, PathBuf),
    log: PathBuf,
}

impl Child {
    /// Start `lehr WORDS`; what it prints becomes the file `output` when it ends well, what it complains about `log`.
    ///
    /// # Errors
    /// A file that cannot be made, a program that cannot be started.
    pub fn start(lehr: &Path, words: &[String], output: &Path, log: &Path) -> Result<Self> {
        let part = output.with_added_extension("part");
        let make = |path: &Path| File::create(path).with_context(|| format!("{}: cannot be made", shown(path)));
        let mut command = Process::new(lehr);
        command.args(words).stdin(Stdio::piped()).stdout(make(&part)?).stderr(make(log)?);
        if std::env::var_os("LEHR_TUNE").is_none() {
            // The same kernels everywhere: the same bits on the same adapter, and no minute of measuring on a fresh machine.
            command.env("LEHR_TUNE", "off");
        }
        let mut process = command.spawn().with_context(|| format!("{}: cannot be started", shown(lehr)))?;
        let stdin = process.stdin.take();
        Ok(Self { process, stdin, listens: false, output: (part, output.to_owned()), log: log.to_owned() })
    }

    /// It takes commands.
    pub fn listening(mut self) -> Self {
        self.listens = true;
        self
    }

    /// Tell it something.
    ///
    /// # Errors
    /// It does not listen, or has gone.
    pub fn send(&mut self, command: &Command) -> Result<()> {
        let Some(stdin) = self.stdin.as_mut().filter(|_| self.listens) else { bail!("this command takes no orders") };
        let line = serde_json::to_string(command)? + "\n";
        stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).context("the trainer does not listen any more")
    }

    /// Ask a trainer to save and leave; end anything else.
    pub fn stop(&mut self) {
        if self.send(&Command::Stop).is_err() && !self.listens {
            let _ = self.process.kill();
        }
    }

    /// Whether it has ended, and with which code (none: by a signal). Its output then lies where it belongs.
    ///
    /// # Errors
    /// The system cannot tell, or the file cannot be renamed.
    pub fn ended(&mut self) -> Result<Option<Option<i32>>> {
        let Some(status) = self.process.try_wait()? else { return Ok(None) };
        if status.success() {
            let (part, whole) = &self.output;
            // What prints nothing leaves nothing.
            let is_empty = std::fs::metadata(part)?.len() == 0;
            if is_empty { std::fs::remove_file(part)? } else { std::fs::rename(part, whole)? }
        }
        Ok(Some(status.code()))
    }

    /// The last thing that it said, without `error:`.
    pub fn complaint(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines().rev().filter(|l| !l.trim().is_empty());
        let last = lines.clone().find(|l| l.starts_with("error:")).or(lines.next()).unwrap_or("ended without a word");
        crate::vfs::clean(last.trim_start_matches("error:").trim())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let _ = self.process.kill();
            let _ = self.process.wait();
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

/// Look at a run folder of ours; clear away one without a checkpoint.
///
/// # Errors
/// A trainer works there.
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
    if checkpoint::newest_valid(&RealFs, run).is_ok_and(|newest| newest.found.is_some()) {
        return Ok(Attempt::Resumable);
    }
    remove(run)?;
    Ok(Attempt::Nothing)
}

/// Remove a folder that a step of ours made.
///
/// # Errors
/// It cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        RealFs.remove_dir_all(dir).with_context(|| format!("{}: cannot be removed", shown(dir)))?;
    }
    Ok(())
}

//! Child processes of the window: trainers that take commands, and short commands whose output is wanted. All are this very program.

use crate::event::Command as Request;
use crate::vfs::clean;
use anyhow::{Context as _, Result};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

/// Lines of standard error that are kept.
const KEPT: usize = 200;

/// The last lines that a child wrote to standard error.
pub type Lines = Arc<Mutex<VecDeque<String>>>;

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Code 0, or 130 after a stop that was asked for.
    Well,
    /// Anything else, in words.
    Badly(String),
}

/// A trainer that this window started.
#[derive(Debug)]
pub struct Trainer {
    /// Its run folder.
    pub run: PathBuf,
    /// The command line, without the program.
    pub args: Vec<String>,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines,
    end: Option<End>,
}

impl Trainer {
    /// Start `lehr ARGS --control`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(program: &Path, args: &[String], run: &Path, wake: impl Fn() + Send + 'static) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(args).arg("--control").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{}: cannot be started", program.display()))?;
        let stdin = child.stdin.take();
        let lines = keep_lines(child.stderr.take(), wake)?;
        Ok(Self { run: run.to_owned(), args: args.to_vec(), child, stdin, lines, end: None })
    }

    /// Send a command; it is obeyed between two steps.
    ///
    /// # Errors
    /// The trainer is gone.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        let stdin = self.stdin.as_mut().context("the trainer takes no more commands")?;
        stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).context("the trainer takes no more commands")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, once it has.
    pub fn end(&mut self) -> Option<&End> {
        if self.end.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.end = Some(match status.code() {
                Some(0 | crate::session::control::INTERRUPTED) => End::Well,
                _ => End::Badly(in_words(status, &self.last_error())),
            });
        }
        self.end.as_ref()
    }

    /// The same as was seen last.
    pub fn how_it_ended(&self) -> Option<End> {
        self.end.clone()
    }

    /// The newest line of standard error that is an error's; else the newest line.
    pub fn last_error(&self) -> String {
        last_error(&self.lines)
    }

    /// What it said.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().map(|lines| lines.iter().cloned().collect()).unwrap_or_default()
    }
}

/// A short command whose standard output is wanted.
#[derive(Debug)]
pub struct Job {
    /// The command line, without the program.
    pub args: Vec<String>,
    /// How it stands.
    pub state: JobState,
    child: Option<Child>,
    lines: Lines,
    output: Option<std::sync::mpsc::Receiver<String>>,
}

/// How a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It works; the newest line of progress.
    Running(String),
    /// Its standard output.
    Done(String),
    /// Why it failed, in one line.
    Failed(String),
}

impl Job {
    /// Start `lehr ARGS`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(program: &Path, args: &[String], wake: impl Fn() + Send + Clone + 'static) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{}: cannot be started", program.display()))?;
        let lines = keep_lines(child.stderr.take(), wake.clone())?;
        let (send, output) = std::sync::mpsc::channel();
        let stdout = child.stdout.take();
        std::thread::Builder::new().name("job".into()).spawn(move || {
            let mut text = Vec::new();
            if let Some(mut stdout) = stdout {
                let _ = stdout.read_to_end(&mut text);
            }
            let _ = send.send(String::from_utf8_lossy(&text).into_owned());
            wake();
        })?;
        Ok(Self { args: args.to_vec(), state: JobState::Running(String::new()), child: Some(child), lines, output: Some(output) })
    }

    /// A job that has come to this state, for tests and for what could not be started.
    pub fn ended(args: &[String], state: JobState) -> Self {
        Self { args: args.to_vec(), state, child: None, lines: Lines::default(), output: None }
    }

    /// Look whether it has ended.
    pub fn poll(&mut self) {
        let (Some(child), Some(output)) = (&mut self.child, &self.output) else { return };
        let Ok(text) = output.try_recv() else {
            let line = self.lines.lock().ok().and_then(|lines| lines.back().cloned());
            self.state = JobState::Running(line.unwrap_or_default());
            return;
        };
        // Its output has ended, so it is about to.
        self.state = match child.wait() {
            Ok(status) if status.success() => JobState::Done(text),
            Ok(status) => JobState::Failed(in_words(status, &last_error(&self.lines))),
            Err(e) => JobState::Failed(e.to_string()),
        };
        (self.child, self.output) = (None, None);
    }

    /// Whether it works.
    pub fn is_running(&self) -> bool {
        matches!(self.state, JobState::Running(_))
    }

    /// End it. A job writes nothing that is left half done.
    pub fn cancel(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            self.state = JobState::Failed("cancelled".into());
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The newest line that is an error's; else the newest line.
pub(super) fn last_error(lines: &Lines) -> String {
    let Ok(lines) = lines.lock() else { return String::new() };
    let error = lines.iter().rev().find_map(|line| line.strip_prefix("error: ").map(str::to_owned));
    error.or_else(|| lines.back().cloned()).unwrap_or_default()
}

/// How a process ended that did not end well.
pub(super) fn in_words(status: ExitStatus, said: &str) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = match signal {
            6 => " (it was aborted, perhaps by the driver)",
            9 => " (it was killed, perhaps for want of memory)",
            11 => " (it crashed, perhaps in the driver)",
            _ => "",
        };
        return format!("the process ended by signal {signal}{name}");
    }
    match (said, status.code()) {
        ("", Some(code)) => format!("the process ended with code {code} and said nothing"),
        ("", None) => "the process ended and said nothing".into(),
        (said, _) => said.to_owned(),
    }
}

/// Keeps the last lines of standard error, on a thread of its own.
pub(super) fn keep_lines(stderr: Option<std::process::ChildStderr>, wake: impl Fn() + Send + 'static) -> Result<Lines> {
    let lines = Lines::default();
    let kept = lines.clone();
    std::thread::Builder::new().name("stderr".into()).spawn(move || {
        let Some(stderr) = stderr else { return };
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = clean(String::from_utf8_lossy(&line).trim_end());
            line.clear();
            if let Ok(mut lines) = kept.lock() {
                lines.push_back(text);
                let extra = lines.len().saturating_sub(KEPT);
                lines.drain(..extra);
            }
            wake();
        }
        wake();
    })?;
    Ok(lines)
}

//! Child processes of the window: trainers, which take commands, and short commands, whose output is read.

use crate::backend::{self, Backend, CommandOutput, End, RunningCommand, Wake};
use crate::event::Command;
use anyhow::Result;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// Messages that are kept.
const KEPT: usize = 200;

/// A trainer that this window started. Dropped, it continues.
#[derive(Debug)]
pub struct TrainerProcess {
    /// Its run folder.
    pub run: PathBuf,
    /// The command line, without the program.
    pub args: Vec<String>,
    task: Box<dyn RunningCommand>,
    messages: VecDeque<String>,
    end: Option<End>,
}

impl TrainerProcess {
    /// Start `lehr ARGS --control`. Variables of `env` are set where the user has not set them.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn start(backend: &dyn Backend, args: &[String], env: &[(&str, &str)], run: &Path, wake: Wake) -> Result<Self> {
        let argv: Vec<String> = args.iter().cloned().chain(["--control".to_owned()]).collect();
        let task = backend.start(&argv, env, wake)?;
        Ok(Self { run: run.to_owned(), args: args.to_vec(), task, messages: VecDeque::new(), end: None })
    }

    /// Send a command; it is carried out between two steps.
    ///
    /// # Errors
    /// The trainer has ended.
    pub fn send(&mut self, command: &Command) -> Result<()> {
        backend::send(self.task.as_mut(), command)
    }

    /// Its process, where it is one.
    pub fn pid(&self) -> Option<u32> {
        self.task.id()
    }

    /// Take what it has written.
    pub fn poll(&mut self) {
        for output in self.task.poll() {
            match output {
                CommandOutput::Message(line) => self.messages.push_back(line),
                CommandOutput::Ended(end) => self.end = Some(end),
                // Its events are in its log.
                CommandOutput::Line(_) => {}
            }
        }
        let extra = self.messages.len().saturating_sub(KEPT);
        self.messages.drain(..extra);
    }

    /// Its end, after it has ended.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Its newest messages, oldest first.
    pub fn messages(&self) -> &VecDeque<String> {
        &self.messages
    }
}

/// A short command whose standard output is wanted. Dropped, it is ended.
#[derive(Debug)]
pub struct Job {
    /// The command line, without the program.
    pub args: Vec<String>,
    /// Its state.
    pub state: JobState,
    task: Option<Box<dyn RunningCommand>>,
    output: String,
}

/// State of a job.
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
    pub fn start(backend: &dyn Backend, args: &[String], wake: Wake) -> Self {
        let mut job = Self::ended(args, JobState::Running(String::new()));
        match backend.start(args, &[], wake) {
            Ok(task) => job.task = Some(task),
            Err(error) => job.state = JobState::Failed(format!("{error:#}")),
        }
        job
    }

    /// A job without a command, in this state.
    pub fn ended(args: &[String], state: JobState) -> Self {
        Self { args: args.to_vec(), state, task: None, output: String::new() }
    }

    /// Take what it has written.
    pub fn poll(&mut self) {
        let Some(task) = &mut self.task else { return };
        let mut end = None;
        for output in task.poll() {
            match output {
                CommandOutput::Line(line) => self.output += &(line + "\n"),
                CommandOutput::Message(line) => self.state = JobState::Running(line),
                CommandOutput::Ended(how) => end = Some(how),
            }
        }
        let Some(end) = end else { return };
        self.task = None;
        self.state = match end {
            End::Done => JobState::Done(std::mem::take(&mut self.output)),
            End::Interrupted => JobState::Failed("interrupted".into()),
            End::Failed(why) => JobState::Failed(why),
        };
    }

    /// Whether it works.
    pub fn is_running(&self) -> bool {
        matches!(self.state, JobState::Running(_))
    }

    /// End it. Jobs write files as a whole, so that none is left half-written.
    pub fn cancel(&mut self) {
        if let Some(mut task) = self.task.take() {
            task.kill();
            self.state = JobState::Failed("cancelled".into());
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel();
    }
}

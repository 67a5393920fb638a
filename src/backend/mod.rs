//! Layer 6: commands of lehr, started and followed. The window and the stories know processes only as [`Backend`] and [`Task`]. Natively a
//! command is a child process ([`Native`]); another host could run it in a worker.

mod native;

pub use native::Native;

use anyhow::Result;
use serde::Serialize;
use std::fmt::Debug;
use std::sync::Arc;

/// Called, from any thread, when [`Task::poll`] has something new.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Starts commands of lehr.
pub trait Backend: Debug + Send + Sync {
    /// Start `lehr ARGV`. Variables of `env` are set for the command where the user has not set them.
    ///
    /// # Errors
    /// The command cannot be started.
    fn start(&self, argv: &[String], env: &[(&str, &str)], wake: Wake) -> Result<Box<dyn Task>>;
}

/// A command that was started. Dropped, it continues; [`Self::kill`] ends it.
pub trait Task: Debug + Send {
    /// Write a line (without its end) to the command's standard input. Returns at once.
    ///
    /// # Errors
    /// The command has closed its input.
    fn send(&mut self, line: String) -> Result<()>;

    /// What the command has written since the last call; the last output of all is [`Output::Ended`].
    fn poll(&mut self) -> Vec<Output>;

    /// End the command at once. [`Output::Ended`] follows.
    fn kill(&mut self);

    /// The process, where there is one.
    fn id(&self) -> Option<u32>;
}

/// What a command has written, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A line of standard output.
    Line(String),
    /// A line of standard error, without control characters.
    Message(String),
    /// It has ended.
    Ended(End),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With code 0.
    Done,
    /// It was stopped by a command or a signal, and has saved its work.
    Interrupted,
    /// Anything else: why, in one line.
    Failed(String),
}

/// Send a message as one line of JSON.
///
/// # Errors
/// The command has closed its input.
pub fn send(task: &mut dyn Task, message: &impl Serialize) -> Result<()> {
    task.send(serde_json::to_string(message)?)
}

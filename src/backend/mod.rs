//! Layer 7: starting and following commands of lehr. The window and the stories see processes only as [`Backend`] and [`RunningCommand`]. Natively a
//! command is a child process ([`Native`]); another host could run it in a worker.

mod native;

pub use native::Native;

use anyhow::Result;
use serde::Serialize;
use std::fmt::Debug;
use std::sync::Arc;

/// Called from any thread when [`RunningCommand::poll`] has new output.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Starts commands of lehr.
pub trait Backend: Debug + Send + Sync {
    /// Start `lehr ARGV`. Variables of `env` are set for the command unless the user has set them.
    ///
    /// # Errors
    /// The command cannot be started.
    fn start(&self, argv: &[String], env: &[(&str, &str)], wake: Wake) -> Result<Box<dyn RunningCommand>>;
}

/// A started command. It continues when dropped; [`Self::kill`] ends it.
pub trait RunningCommand: Debug + Send {
    /// Write a line (without line end) to the command's standard input. Returns immediately.
    ///
    /// # Errors
    /// The command has closed its input.
    fn send(&mut self, line: String) -> Result<()>;

    /// Output since the last call; the final item is [`CommandOutput::Ended`].
    fn poll(&mut self) -> Vec<CommandOutput>;

    /// Kill the command. [`CommandOutput::Ended`] follows.
    fn kill(&mut self);

    /// The process id, if there is a process.
    fn id(&self) -> Option<u32>;
}

/// Output of a command, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandOutput {
    /// A line of standard output.
    Line(String),
    /// A line of standard error, without control characters.
    Message(String),
    /// The command has ended.
    Ended(End),
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With exit code 0.
    Done,
    /// Stopped by a command or a signal, after saving its work.
    Interrupted,
    /// Any other end: the reason, in one line.
    Failed(String),
}

/// Send a message as one line of JSON.
///
/// # Errors
/// The command has closed its input.
pub fn send(task: &mut dyn RunningCommand, message: &impl Serialize) -> Result<()> {
    task.send(serde_json::to_string(message)?)
}

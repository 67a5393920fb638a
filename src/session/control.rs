//! Commands and signals, looked at between two steps.
//!
//! Ctrl-C and SIGTERM mean `Stop`: save, then leave. A second one leaves at once; what was saved stays.

use crate::event::Command;
use std::io::BufRead;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

/// Signals so far.
static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// Something that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// A signal came.
    Stop,
    /// A command came.
    Command(Command),
    /// A line that is no command; the text says why.
    Invalid(String),
}

/// See the module.
pub struct Control {
    lines: Option<Receiver<String>>,
    /// Looked at already, not yet taken.
    next: Option<Request>,
}

/// Exit code of a process that was interrupted.
pub const INTERRUPTED: i32 = 130;

impl Control {
    /// Listen for signals, and for commands on standard input when `stdin` is set.
    ///
    /// # Errors
    /// When signals cannot be handled or no thread can be made.
    pub fn listen(stdin: bool) -> anyhow::Result<Self> {
        // A second call (tests run several runs in one process) keeps the first handler.
        let _ = ctrlc::set_handler(|| {
            if SIGNALS.fetch_add(1, Ordering::SeqCst) >= 1 {
                std::process::exit(INTERRUPTED);
            }
        });
        let lines = match stdin {
            false => None,
            true => {
                let (send, receive) = std::sync::mpsc::channel();
                std::thread::Builder::new().name("commands".into()).spawn(move || {
                    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                        if send.send(line).is_err() {
                            return;
                        }
                    }
                })?;
                Some(receive)
            }
        };
        Ok(Self { lines, next: None })
    }

    /// Nobody commands; signals only.
    pub fn none() -> Self {
        Self { lines: None, next: None }
    }

    /// Whether a signal asked to stop.
    pub fn interrupted() -> bool {
        SIGNALS.load(Ordering::SeqCst) > 0
    }

    /// The next request, if there is one.
    pub fn poll(&mut self) -> Option<Request> {
        if Self::interrupted() {
            return Some(Request::Stop);
        }
        if let Some(request) = self.next.take() {
            return Some(request);
        }
        loop {
            match self.lines.as_ref()?.try_recv() {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => return Some(parse(&line)),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => {
                    self.lines = None;
                    return None;
                }
            }
        }
    }

    /// Whether the next request should not wait for the end of a step. It is still to be taken.
    pub fn is_urgent(&mut self) -> bool {
        self.next = self.poll();
        matches!(self.next, Some(Request::Stop | Request::Command(Command::Stop | Command::Pause)))
    }

    /// The next request; waits for it. When nobody is left who could send one, a paused run goes on.
    pub fn wait(&mut self) -> Option<Request> {
        loop {
            if let Some(request) = self.poll() {
                return Some(request);
            }
            if self.lines.is_none() {
                return Some(Request::Command(Command::Resume));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn parse(line: &str) -> Request {
    match serde_json::from_str(line) {
        Ok(command) => Request::Command(command),
        Err(error) => {
            let shown: String = line.chars().take(80).flat_map(char::escape_default).collect();
            Request::Invalid(format!("not a command: {shown}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_requests() {
        assert_eq!(parse(r#"{"command":"SaveNow"}"#), Request::Command(Command::SaveNow));
        assert!(
            matches!(parse("{\"command\":\"Fly\"}\u{1b}[2J"), Request::Invalid(t) if t.contains("u{1b}") && !t.contains('\u{1b}'))
        );
    }
}

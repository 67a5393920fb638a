//! What waits for a disk is done by a thread, so that a frame does not.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What an errand brought.
#[derive(Debug)]
pub enum Done {
    /// Runs that lie in a folder that is to be opened; whether it is there.
    Found(PathBuf, Vec<PathBuf>, bool),
    /// A run's folder is deleted.
    Deleted(PathBuf),
    /// A line for the user.
    Message(String),
}

/// See the module.
#[derive(Debug)]
pub struct Errands {
    send: Sender<Done>,
    done: Receiver<Done>,
}

impl Default for Errands {
    fn default() -> Self {
        let (send, done) = channel();
        Self { send, done }
    }
}

impl Errands {
    /// Do this; `wake` is called when it is done.
    pub fn run(&self, work: impl FnOnce() -> Done + Send + 'static, wake: impl Fn() + Send + 'static) {
        let send = self.send.clone();
        let errand = move || {
            let _ = send.send(work());
            wake();
        };
        if let Err(error) = std::thread::Builder::new().name("errand".into()).spawn(errand) {
            let _ = self.send.send(Done::Message(format!("no thread can be made: {error}")));
        }
    }

    /// What has been done, if something has.
    pub fn next(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }
}

//! A thread that reads logs, so that a frame never waits for a disk.

use crate::config::Settings;
use crate::event::Event;
use crate::history::{bytes_on_disk, find_runs};
use crate::run_folder::{self, EventReader, Poll, RunLock};
use anyhow::Result;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// Between two looks at a live run.
const LIVE: Duration = Duration::from_millis(150);
/// Between two looks at one that nobody trains.
const IDLE: Duration = Duration::from_millis(1000);
/// Between two looks for runs that somebody else has begun.
const HOME: Duration = Duration::from_secs(3);

/// What a look at a run brought.
#[derive(Debug)]
pub struct Seen {
    /// The run.
    pub path: PathBuf,
    /// New events.
    pub poll: Poll,
    /// A process trains it.
    pub live: bool,
    /// Bytes on disk, when they were counted anew.
    pub bytes: Option<u64>,
    /// Its settings, the first time that they can be read.
    pub settings: Option<Box<Settings>>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// See the module. Dropped, the thread ends.
#[derive(Debug)]
pub struct Watcher {
    watch: Sender<ChatRequest>,
    seen: Receiver<Seen>,
    found: Receiver<PathBuf>,
}

enum ChatRequest {
    Watch(PathBuf),
    Forget(PathBuf),
    Home(Home),
}

/// A folder of runs, and those in it that were seen.
struct Home {
    path: PathBuf,
    known: HashSet<PathBuf>,
    next: Instant,
}

impl Home {
    fn look(&mut self) -> Vec<PathBuf> {
        self.next = Instant::now() + HOME;
        find_runs(&self.path).into_iter().filter(|path| self.known.insert(path.clone())).collect()
    }
}

struct Watched {
    path: PathBuf,
    reader: EventReader,
    has_settings: bool,
    /// Something has been saved since its bytes were counted.
    unweighed: bool,
    /// What was said last: live, error.
    said: Option<(bool, Option<String>)>,
    next: Instant,
}

impl Watcher {
    /// Start the thread; `wake` is called when there is something to see.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(wake: impl Fn() + Send + 'static) -> Result<Self> {
        let (watch, asks) = channel();
        // A log is read faster than it is drawn: the thread waits, so that memory stays bounded.
        let (send, seen) = sync_channel(4);
        let (tell, found) = channel();
        std::thread::Builder::new().name("watcher".into()).spawn(move || work(&asks, &send, &tell, wake))?;
        Ok(Self { watch, seen, found })
    }

    /// Follow a run from its first event on.
    pub fn watch(&self, path: &Path) {
        let _ = self.watch.send(ChatRequest::Watch(path.to_owned()));
    }

    /// Follow a run no more.
    pub fn forget(&self, path: &Path) {
        let _ = self.watch.send(ChatRequest::Forget(path.to_owned()));
    }

    /// Look for runs that begin in this folder from now on, whoever begins them; it need not be there yet.
    pub fn look_for_runs(&self, home: &Path) {
        let known = find_runs(home).into_iter().collect();
        let _ = self.watch.send(ChatRequest::Home(Home { path: home.to_owned(), known, next: Instant::now() }));
    }

    /// A run that was found, if one was.
    pub fn found(&self) -> Option<PathBuf> {
        self.found.try_recv().ok()
    }

    /// What was seen, if something was.
    pub fn next(&self) -> Option<Seen> {
        self.seen.try_recv().ok()
    }
}

fn work(asks: &Receiver<ChatRequest>, send: &SyncSender<Seen>, tell: &Sender<PathBuf>, wake: impl Fn()) {
    let (mut runs, mut home): (Vec<Watched>, Option<Home>) = (Vec::new(), None);
    loop {
        let now = Instant::now();
        let due = runs.iter().map(|run| run.next).chain(home.iter().map(|home| home.next)).min();
        let wait = due.map_or(Duration::from_secs(3600), |next| next.saturating_duration_since(now));
        match asks.recv_timeout(wait) {
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(ChatRequest::Home(asked)) => home = Some(asked),
            Ok(ChatRequest::Forget(path)) => runs.retain(|run| run.path != path),
            Ok(ChatRequest::Watch(path)) => {
                runs.retain(|run| run.path != path);
                let reader = EventReader::new(&run_folder::events(&path));
                runs.push(Watched { path, reader, has_settings: false, unweighed: true, said: None, next: now });
            }
        }
        for path in home.iter_mut().filter(|home| home.next <= Instant::now()).flat_map(Home::look) {
            let _ = tell.send(path);
            wake();
        }
        for run in runs.iter_mut().filter(|run| run.next <= Instant::now()) {
            let Some(seen) = run.look() else { continue };
            if send.send(seen).is_err() {
                return;
            }
            wake();
        }
    }
}

impl Watched {
    fn look(&mut self) -> Option<Seen> {
        let live = RunLock::is_held(&self.path);
        let (poll, error) = match self.reader.poll() {
            Ok(poll) => (poll, None),
            Err(e) => (Poll::default(), Some(format!("{e:#}"))),
        };
        let mut settings = None;
        if !self.has_settings {
            settings = run_folder::settings(&self.path).ok().map(Box::new);
            self.has_settings = settings.is_some();
        }
        let pause = if live { LIVE } else { IDLE };
        self.next = Instant::now() + if poll.more { Duration::ZERO } else { pause };
        let said = Some((live, error.clone()));
        let nothing = poll.events.is_empty() && !poll.reset && poll.bad_lines == 0 && settings.is_none();
        if nothing && self.said == said {
            return None;
        }
        self.said = said;
        self.unweighed |= poll.reset || poll.events.iter().any(|event| matches!(event, Event::Checkpoint(_)));
        // While a long log is being read, later.
        let bytes = (self.unweighed && !poll.more).then(|| bytes_on_disk(&self.path));
        self.unweighed &= bytes.is_none();
        Some(Seen { path: self.path.clone(), poll, live, bytes, settings, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_somebody_begins_is_found_once_and_one_that_was_there_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("runs");
        let begin = |name: &str| {
            std::fs::create_dir_all(home.join(name)).unwrap();
            std::fs::write(home.join(name).join("events.jsonl"), "").unwrap();
        };
        begin("old");
        let (send, woken) = channel();
        let watcher = Watcher::start(move || send.send(()).unwrap_or_default()).unwrap();
        watcher.look_for_runs(&home);
        begin("new");
        woken.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(watcher.found(), Some(home.join("new")));
        begin("newer");
        woken.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!([watcher.found(), watcher.found()], [Some(home.join("newer")), None]);
    }
}

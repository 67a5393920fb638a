//! A thread that reads logs, so that a frame never waits for a disk.

use crate::config::Settings;
use crate::event::Event;
use crate::history::{bytes_on_disk, find_runs};
use crate::run_folder::{self, EventReader, Poll, RunLock, checkpoints};
use crate::vfs::RealFs;
use anyhow::Result;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// Time between two reads of a live run.
const LIVE: Duration = Duration::from_millis(150);
/// Time between two reads of a run that is not being trained.
const IDLE: Duration = Duration::from_millis(1000);
/// Time between two searches for runs that were started elsewhere.
const HOME: Duration = Duration::from_secs(3);

/// Result of reading a run.
#[derive(Debug)]
pub struct WatchedRun {
    /// The run.
    pub path: PathBuf,
    /// New events.
    pub poll: Poll,
    /// A process trains it.
    pub live: bool,
    /// Bytes on disk, when they were counted anew.
    pub bytes: Option<u64>,
    /// Steps of the checkpoints on disk, at the same time; none if they cannot be listed.
    pub kept: Option<Vec<u64>>,
    /// Its settings, the first time that they can be read.
    pub settings: Option<Box<Settings>>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// See the module. Dropped, the thread ends.
#[derive(Debug)]
pub struct Watcher {
    watch: Sender<WatchRequest>,
    seen: Receiver<WatchedRun>,
    found: Receiver<(PathBuf, Vec<PathBuf>)>,
}

enum WatchRequest {
    Watch(PathBuf),
    Forget(PathBuf),
    Home(Home),
}

/// A folder of runs, and those in it that were reported.
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
    uncounted: bool,
    /// The newest report: live, error.
    reported: Option<(bool, Option<String>)>,
    next: Instant,
}

impl Watcher {
    /// Start the thread; `wake` is called when there is something new.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(wake: impl Fn() + Send + 'static) -> Result<Self> {
        let (watch, asks) = channel();
        // A log is read faster than it is drawn: the thread waits, so that memory stays bounded.
        let (send, seen) = sync_channel(4);
        let (report, found) = channel();
        std::thread::Builder::new().name("watcher".into()).spawn(move || work(&asks, &send, &report, wake))?;
        Ok(Self { watch, seen, found })
    }

    /// Follow a run from its first event on.
    pub fn watch(&self, path: &Path) {
        let _ = self.watch.send(WatchRequest::Watch(path.to_owned()));
    }

    /// Stop following a run.
    pub fn unwatch(&self, path: &Path) {
        let _ = self.watch.send(WatchRequest::Forget(path.to_owned()));
    }

    /// Report the runs in this folder, and from now on those that begin there, from this window or elsewhere; it need not exist yet.
    pub fn look_for_runs(&self, home: &Path) {
        let _ = self.watch.send(WatchRequest::Home(Home { path: home.to_owned(), known: HashSet::new(), next: Instant::now() }));
    }

    /// Runs that were found together, with the folder that was looked in.
    pub fn found(&self) -> Option<(PathBuf, Vec<PathBuf>)> {
        self.found.try_recv().ok()
    }

    /// Result of reading a run, if there is news.
    pub fn next(&self) -> Option<WatchedRun> {
        self.seen.try_recv().ok()
    }
}

fn work(asks: &Receiver<WatchRequest>, send: &SyncSender<WatchedRun>, report: &Sender<(PathBuf, Vec<PathBuf>)>, wake: impl Fn()) {
    let (mut runs, mut home): (Vec<Watched>, Option<Home>) = (Vec::new(), None);
    loop {
        let now = Instant::now();
        let due = runs.iter().map(|run| run.next).chain(home.iter().map(|home| home.next)).min();
        let wait = due.map_or(Duration::from_secs(3600), |next| next.saturating_duration_since(now));
        match asks.recv_timeout(wait) {
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(WatchRequest::Home(asked)) => home = Some(asked),
            Ok(WatchRequest::Forget(path)) => runs.retain(|run| run.path != path),
            Ok(WatchRequest::Watch(path)) => {
                runs.retain(|run| run.path != path);
                let reader = EventReader::new(&run_folder::events(&path));
                runs.push(Watched { path, reader, has_settings: false, uncounted: true, reported: None, next: now });
            }
        }
        if let Some(home) = home.as_mut().filter(|home| home.next <= Instant::now()) {
            let runs = home.look();
            if !runs.is_empty() {
                let _ = report.send((home.path.clone(), runs));
                wake();
            }
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
    fn look(&mut self) -> Option<WatchedRun> {
        let live = RunLock::is_held(&self.path);
        let (poll, error) = match self.reader.poll(&RealFs) {
            Ok(poll) => (poll, None),
            Err(e) => (Poll::default(), Some(format!("{e:#}"))),
        };
        let mut settings = None;
        if !self.has_settings {
            settings = run_folder::settings(&RealFs, &self.path).ok().map(Box::new);
            self.has_settings = settings.is_some();
        }
        let pause = if live { LIVE } else { IDLE };
        self.next = Instant::now() + if poll.more { Duration::ZERO } else { pause };
        let state = Some((live, error.clone()));
        let nothing = poll.events.is_empty() && !poll.reset && poll.bad_lines == 0 && settings.is_none();
        if nothing && self.reported == state {
            return None;
        }
        self.reported = state;
        self.uncounted |= poll.reset || poll.events.iter().any(|event| matches!(event, Event::Checkpoint(_)));
        // Not while a long log is being read.
        let bytes = (self.uncounted && !poll.more).then(|| bytes_on_disk(&self.path));
        self.uncounted &= bytes.is_none();
        let list = || checkpoints::list(&RealFs, &self.path).ok().map(|found| found.into_iter().map(|(step, _)| step).collect());
        let kept = bytes.and_then(|_| list());
        Some(WatchedRun { path: self.path.clone(), poll, live, bytes, kept, settings, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runs_of_a_folder_are_found_together_and_each_later_one_once() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("runs");
        let begin = |name: &str| {
            std::fs::create_dir_all(home.join(name)).unwrap();
            std::fs::write(home.join(name).join("events.jsonl"), "").unwrap();
        };
        begin("older");
        begin("old");
        let (send, woken) = channel();
        let watcher = Watcher::start(move || send.send(()).unwrap_or_default()).unwrap();
        watcher.look_for_runs(&home);
        woken.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(watcher.found(), Some((home.clone(), vec![home.join("old"), home.join("older")])));
        begin("new");
        woken.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!([watcher.found(), watcher.found()], [Some((home.clone(), vec![home.join("new")])), None]);
    }
}

//! Heartbeats of the other ranks: when the last one arrived, and how many collectives that rank has begun. A clock detects that this process
//! itself was stopped, which says nothing about the others.
#![cfg_attr(not(all(unix, feature = "mpi")), allow(dead_code, reason = "threads of one process are not lost"))]

use anyhow::{Context as _, Result};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use web_time::Instant;

/// State of a rank, which decides how its process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No step of the command's setup is done; the first one collects errors of all ranks.
    Start,
    /// All ranks execute the same program.
    Setup,
    /// No command is in progress; the other ranks wait for one of rank 0.
    Idle,
    /// A command is in progress.
    Busy,
    /// No rank waits for another.
    Done,
}

const PHASES: [Phase; 5] = [Phase::Start, Phase::Setup, Phase::Idle, Phase::Busy, Phase::Done];

/// Default of `LEHR_RANK_TIMEOUT`: seconds that a rank may lag behind.
const TIMEOUT_SECONDS: f64 = 600.0;
/// Minimum of the seconds in which all ranks must start: processes and MPI take some.
const START_SECONDS: f64 = 20.0;
/// Maximum seconds without a heartbeat.
const SILENT_SECONDS: f64 = 60.0;

/// Shared by the computing and the communication thread.
pub(super) struct Liveness {
    phase: AtomicU8,
    /// The exit code for terminating all ranks; 0 for none.
    abort: AtomicI32,
    /// Collectives that this rank has begun.
    begun: AtomicU64,
    /// Progress of this rank's part of common work.
    progress: AtomicU64,
    peers: Mutex<Vec<Peer>>,
    signals: Mutex<Option<Signals>>,
    /// Last tick of the clock thread; `None` without one.
    clock: Mutex<Option<Instant>>,
    /// Whether this process was stopped for so long that the others have lost it.
    was_stopped: AtomicBool,
    /// Time that another rank may lag behind.
    pub timeout: Duration,
}

/// The last heartbeat of a rank.
#[derive(Clone, Copy, Debug)]
struct Peer {
    at: Instant,
    begun: u64,
    progress: u64,
}

#[derive(Clone, Copy)]
struct Signals {
    received: fn() -> bool,
    stop: fn(),
    sent: bool,
}

/// Content of a heartbeat: collectives begun, 1 if that rank has received a signal, and progress.
pub(super) type Heartbeat = [u64; 3];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds of `LEHR_RANK_TIMEOUT`, or the default.
///
/// # Errors
/// An invalid value.
pub(super) fn timeout_seconds() -> Result<f64> {
    std::env::var("LEHR_RANK_TIMEOUT").map_or(Ok(TIMEOUT_SECONDS), |text| timeout(&text))
}

fn timeout(text: &str) -> Result<f64> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=1e7).contains(seconds));
    seconds.with_context(|| format!("LEHR_RANK_TIMEOUT={}: set a number of seconds from 0.1 to 1e7", crate::vfs::clean(text)))
}

impl Liveness {
    /// Without peers: ranks that cannot be lost (threads). With the default timeout if that of the environment is invalid, which is an error
    /// of the setup.
    pub fn new() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Start as u8),
            abort: AtomicI32::new(0),
            begun: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            peers: Mutex::default(),
            signals: Mutex::new(None),
            clock: Mutex::new(None),
            was_stopped: AtomicBool::new(false),
            timeout: Duration::from_secs_f64(timeout_seconds().unwrap_or(TIMEOUT_SECONDS)),
        }
    }

    /// Start the clock: a thread that runs while this process does, and ends with the last reference.
    ///
    /// # Errors
    /// The thread cannot be created.
    pub fn start_clock(self: &Arc<Self>) -> Result<()> {
        let (weak, pause) = (Arc::downgrade(self), self.interval() / 4);
        let work = move || {
            while let Some(liveness) = weak.upgrade() {
                liveness.tick();
                drop(liveness);
                std::thread::sleep(pause);
            }
        };
        std::thread::Builder::new().name("clock".into()).spawn(work)?;
        Ok(())
    }

    /// A tick of the clock. If the last one is long ago, this process was stopped: heartbeats that have arrived meanwhile were not received,
    /// and are expected from now on.
    fn tick(&self) {
        let Some(gap) = lock(&self.clock).replace(Instant::now()).map(|last| last.elapsed()) else { return };
        if gap > self.max_silence() / 2 {
            lock(&self.peers).iter_mut().for_each(|peer| peer.at = Instant::now());
        }
        if gap > self.max_silence() {
            self.was_stopped.store(true, Ordering::SeqCst);
        }
    }

    /// Whether this process is running without an interruption, so that it can tell whether others are.
    fn is_on_time(&self) -> bool {
        lock(&self.clock).is_none_or(|last| last.elapsed() <= self.max_silence() / 2)
    }

    /// Whether this process was stopped for so long that the others have lost it.
    pub fn was_stopped(&self) -> bool {
        self.was_stopped.load(Ordering::SeqCst)
    }

    /// Expect heartbeats of `size` ranks from now on.
    pub fn expect(&self, size: usize) {
        *lock(&self.peers) = vec![Peer { at: Instant::now(), begun: 0, progress: 0 }; size];
    }

    /// Time in which all ranks must start.
    pub fn start_timeout(&self) -> Duration {
        self.timeout.max(Duration::from_secs_f64(START_SECONDS))
    }

    /// Time between two heartbeats.
    pub fn interval(&self) -> Duration {
        (self.max_silence() / 10).clamp(Duration::from_millis(20), Duration::from_secs(5))
    }

    /// Time without a heartbeat after which a rank is lost.
    fn max_silence(&self) -> Duration {
        self.timeout.min(Duration::from_secs_f64(SILENT_SECONDS))
    }

    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::SeqCst)).min(PHASES.len() - 1)]
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Request the termination of all ranks, also from within a collective.
    pub fn set_abort(&self, code: i32) {
        self.abort.store(code.max(1), Ordering::SeqCst);
    }

    pub fn abort(&self) -> Option<i32> {
        Some(self.abort.load(Ordering::SeqCst)).filter(|code| *code != 0)
    }

    /// Count a collective.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// Set this rank's progress, which heartbeats send.
    pub fn set_progress(&self, progress: u64) {
        self.progress.store(progress, Ordering::SeqCst);
    }

    /// The progress of all ranks; `own` is this one.
    pub fn total_progress(&self, own: usize) -> u64 {
        let peers = lock(&self.peers);
        let others = (0..peers.len()).filter(|rank| *rank != own).map(|rank| peers[rank].progress);
        self.progress.load(Ordering::SeqCst) + others.sum::<u64>()
    }

    pub fn watch_signals(&self, received: fn() -> bool, stop: fn()) {
        *lock(&self.signals) = Some(Signals { received, stop, sent: false });
    }

    /// This rank's heartbeat, and whether it must be sent at once because a signal has arrived.
    pub fn own_heartbeat(&self) -> (Heartbeat, bool) {
        let mut signals = lock(&self.signals);
        let (mut stop, mut is_new) = (false, false);
        if let Some(signals) = signals.as_mut() {
            stop = (signals.received)();
            is_new = stop && !std::mem::replace(&mut signals.sent, stop);
        }
        ([self.begun.load(Ordering::SeqCst), u64::from(stop), self.progress.load(Ordering::SeqCst)], is_new)
    }

    /// Request a stop, unless one was requested already.
    pub fn stop(&self) {
        let signals = *lock(&self.signals);
        signals.into_iter().filter(|signals| !(signals.received)()).for_each(|signals| (signals.stop)());
    }

    /// Receive a heartbeat. On rank 0 (`is_root`) a signal to any rank requests a stop.
    pub fn receive(&self, rank: usize, [begun, stop, progress]: Heartbeat, is_root: bool) {
        if let Some(peer) = lock(&self.peers).get_mut(rank) {
            *peer = Peer { at: Instant::now(), begun, progress };
        }
        if is_root && stop != 0 {
            self.stop();
        }
    }

    /// The first of these ranks that is lost, and the seconds since its last heartbeat.
    pub fn lost(&self, of: impl Iterator<Item = usize>) -> Option<(usize, f64)> {
        let found = self.silent(of, self.max_silence());
        // Afterwards, because this process may be stopped in between.
        found.filter(|_| self.is_on_time())
    }

    /// Whether one of these ranks is late with its heartbeat: it may be lost soon.
    pub fn is_late(&self, of: impl Iterator<Item = usize>) -> bool {
        self.silent(of, 3 * self.interval()).is_some()
    }

    fn silent(&self, mut of: impl Iterator<Item = usize>, most: Duration) -> Option<(usize, f64)> {
        let peers = lock(&self.peers);
        let rank = of.find(|rank| peers.get(*rank).is_some_and(|peer| peer.at.elapsed() > most))?;
        Some((rank, peers[rank].at.elapsed().as_secs_f64()))
    }

    /// Other ranks that have begun fewer collectives than this one.
    pub fn ranks_behind(&self, own: usize) -> Vec<usize> {
        let (peers, begun) = (lock(&self.peers), self.begun.load(Ordering::SeqCst));
        (0..peers.len()).filter(|rank| *rank != own && peers[*rank].begun < begun).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Liveness {
        let liveness = Liveness { timeout: Duration::from_millis(100), ..Liveness::new() };
        liveness.expect(3);
        liveness
    }

    #[test]
    fn a_rank_without_heartbeats_is_lost() {
        let liveness = three();
        assert_eq!(liveness.lost(0..3), None);
        std::thread::sleep(Duration::from_millis(150));
        liveness.receive(1, [0, 0, 0], true);
        assert_eq!(liveness.lost([1].into_iter()), None);
        let (rank, seconds) = liveness.lost([1, 2].into_iter()).unwrap();
        assert!(rank == 2 && seconds >= 0.15, "{rank} {seconds}");
    }

    /// After a stop of this process, the others are not lost: their heartbeats were not received.
    #[test]
    fn a_stopped_process_does_not_blame_the_others() {
        let liveness = three();
        liveness.tick();
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(liveness.lost(0..3), None, "the clock has not ticked");
        liveness.tick();
        assert!(liveness.was_stopped());
        assert_eq!(liveness.lost(0..3), None, "their time begins again");
    }

    #[test]
    fn ranks_behind_have_begun_fewer_collectives() {
        let liveness = three();
        (0..5).for_each(|_| liveness.begin());
        liveness.receive(1, [5, 0, 20], true);
        liveness.receive(2, [4, 0, 300], true);
        assert_eq!(liveness.ranks_behind(0), [2]);
        liveness.set_progress(1);
        assert_eq!(liveness.total_progress(0), 321);
    }

    #[test]
    fn an_invalid_timeout_is_refused_by_name() {
        assert_eq!(timeout("30").unwrap(), 30.0);
        for text in ["", "x", "0", "-1", "nan", "1e9"] {
            let error = timeout(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("LEHR_RANK_TIMEOUT={text}:")), "{error}");
        }
    }
}

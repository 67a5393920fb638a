//! What a rank knows of the others: who was heard of when, and how far it has come.
#![cfg_attr(not(all(unix, feature = "mpi")), allow(dead_code, reason = "threads of one process are not lost"))]

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use web_time::Instant;

/// Where a rank stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// At the start, which all ranks make together.
    Start,
    /// Nothing is under way: the others wait for what rank 0 announces.
    Between,
    /// Something announced is under way.
    Working,
    /// Nothing will be announced any more.
    Over,
}

/// Seconds that a rank may lag behind, where `LEHR_RANK_TIMEOUT` does not say otherwise.
const TIMEOUT_SECONDS: f64 = 600.0;
/// Seconds without any sign of life, at most.
const SILENT_SECONDS: f64 = 60.0;

/// See the module. Shared by the thread that computes and the thread that sends.
pub(super) struct Health {
    phase: AtomicU8,
    /// The exit code with which all ranks are to be ended at once; 0 for none.
    abort: AtomicI32,
    /// Exchanges that this rank has begun.
    begun: AtomicU64,
    peers: Mutex<Vec<Peer>>,
    signals: Mutex<Option<Signals>>,
    /// How long another rank may lag behind.
    pub timeout: Duration,
}

/// A rank as it was last heard of.
#[derive(Clone, Copy, Debug)]
struct Peer {
    at: Instant,
    begun: u64,
}

#[derive(Clone, Copy)]
struct Signals {
    asked: fn() -> bool,
    stop: fn(),
    told: bool,
}

/// What a sign of life says: exchanges begun, and whether that rank was told to stop.
pub(super) type Beat = [u64; 2];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Health {
    /// Nobody else is heard of yet; an empty list of peers is one of ranks that cannot be lost (threads).
    pub fn new() -> Self {
        let said = std::env::var("LEHR_RANK_TIMEOUT").ok().and_then(|text| text.parse::<f64>().ok());
        let seconds = said.filter(|s| (0.1..=1e7).contains(s)).unwrap_or(TIMEOUT_SECONDS);
        Self {
            phase: AtomicU8::new(Phase::Start as u8),
            abort: AtomicI32::new(0),
            begun: AtomicU64::new(0),
            peers: Mutex::default(),
            signals: Mutex::new(None),
            timeout: Duration::from_secs_f64(seconds),
        }
    }

    /// From now on `size` ranks are expected to show signs of life.
    pub fn expect(&self, size: usize) {
        *lock(&self.peers) = vec![Peer { at: Instant::now(), begun: 0 }; size];
    }

    /// Time between two signs of life.
    pub fn every(&self) -> Duration {
        (self.silence() / 10).clamp(Duration::from_millis(20), Duration::from_secs(5))
    }

    /// Time without a sign of life after which a rank is lost.
    fn silence(&self) -> Duration {
        self.timeout.min(Duration::from_secs_f64(SILENT_SECONDS))
    }

    pub fn phase(&self) -> Phase {
        [Phase::Start, Phase::Between, Phase::Working, Phase::Over][usize::from(self.phase.load(Ordering::SeqCst)).min(3)]
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// All ranks are to be ended, whatever is under way.
    pub fn set_abort(&self, code: i32) {
        self.abort.store(code.max(1), Ordering::SeqCst);
    }

    pub fn abort(&self) -> Option<i32> {
        Some(self.abort.load(Ordering::SeqCst)).filter(|code| *code != 0)
    }

    /// Another exchange is begun.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    pub fn watch_signals(&self, asked: fn() -> bool, stop: fn()) {
        *lock(&self.signals) = Some(Signals { asked, stop, told: false });
    }

    /// This rank's sign of life; and whether it says something new, so that it is sent at once.
    pub fn own(&self) -> (Beat, bool) {
        let mut signals = lock(&self.signals);
        let (mut stop, mut is_new) = (false, false);
        if let Some(signals) = signals.as_mut() {
            stop = (signals.asked)();
            is_new = stop && !std::mem::replace(&mut signals.told, stop);
        }
        ([self.begun.load(Ordering::SeqCst), u64::from(stop)], is_new)
    }

    /// This rank was told to stop by other means than those that are watched.
    pub fn stop(&self) {
        let signals = *lock(&self.signals);
        signals.into_iter().filter(|signals| !(signals.asked)()).for_each(|signals| (signals.stop)());
    }

    /// A sign of life of another rank; `is_root` on rank 0, which is stopped by any.
    pub fn heard(&self, rank: usize, [begun, stop]: Beat, is_root: bool) {
        if let Some(peer) = lock(&self.peers).get_mut(rank) {
            *peer = Peer { at: Instant::now(), begun };
        }
        if is_root && stop != 0 {
            self.stop();
        }
    }

    /// Of these ranks, one without a sign of life, and for how many seconds.
    pub fn silent(&self, mut of: impl Iterator<Item = usize>) -> Option<(usize, f64)> {
        let (peers, silence) = (lock(&self.peers), self.silence());
        let rank = of.find(|rank| peers.get(*rank).is_some_and(|peer| peer.at.elapsed() > silence))?;
        Some((rank, peers[rank].at.elapsed().as_secs_f64()))
    }

    /// Ranks that have begun fewer exchanges than this one, this one left out.
    pub fn behind(&self, own: usize) -> Vec<usize> {
        let (peers, begun) = (lock(&self.peers), self.begun.load(Ordering::SeqCst));
        (0..peers.len()).filter(|rank| *rank != own && peers[*rank].begun < begun).collect()
    }
}

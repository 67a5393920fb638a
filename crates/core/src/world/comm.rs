//! The communication thread of a rank: collectives run there while the device computes, and every wait has a deadline.
#![cfg_attr(not(all(unix, feature = "mpi")), allow(dead_code, reason = "only MPI is finalized"))]

use super::liveness::{Liveness, Phase};
use anyhow::{Context as _, Result, anyhow, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use web_time::Instant;

/// Rank, local rank and hosts.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub rank: usize,
    pub local_rank: usize,
    pub local_size: usize,
    /// The host of each rank.
    pub hosts: Vec<String>,
    /// The MPI library.
    pub library: String,
}

impl Topology {
    pub fn name(&self, rank: usize) -> String {
        self.hosts.get(rank).map_or_else(|| format!("rank {rank}"), |host| format!("rank {rank} on {host}"))
    }
}

/// Point-to-point messages and collectives. A transport stays on the thread that created it; every rank calls the same collectives in the
/// same order.
pub(super) trait Transport {
    /// All-to-all of each piece, given by its cuts: send elements `cuts[r]..cuts[r + 1]` of `send` to rank r. `received` gets, piece after
    /// piece, a part of the size of this rank's from each rank, in rank order; its own part is not written.
    fn all_to_all(&mut self, send: &[f32], pieces: &[Vec<usize>], received: &mut [f32]) -> Result<()>;
    /// All-gather of each piece, in place: `all` gets elements `cuts[r]..cuts[r + 1]` from rank r.
    fn all_gather_in_place(&mut self, all: &mut [f32], pieces: &[Vec<usize>]) -> Result<()>;
    /// All-gather of bytes, whose number may differ by rank.
    fn all_gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>>;
    /// Broadcast from rank 0.
    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()>;
    /// On rank 0: send a message to every other rank.
    fn broadcast_command(&mut self, message: &[u8]) -> Result<()>;
    /// On the other ranks: the next message of rank 0, if one has arrived.
    fn poll_command(&mut self) -> Result<Option<Vec<u8>>>;
    /// Make progress; called regularly while the thread is idle.
    fn poll(&mut self) -> Result<()>;
    /// End communication; collective. Returns the highest exit code of all ranks.
    fn finalize(&mut self, code: i32) -> Result<i32>;
    /// Terminate all ranks.
    fn abort(&mut self, code: i32);
}

/// State of the communication thread.
pub(super) struct Worker {
    pub transport: Box<dyn Transport>,
    topology: Topology,
    received: Vec<f32>,
}

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// Handle of the communication thread.
pub(super) struct Comm {
    pub topology: Topology,
    pub liveness: Arc<Liveness>,
    jobs: Sender<Job>,
    /// Set when communication has ended on all ranks.
    pub has_ended: AtomicBool,
}

/// The result of a collective in flight.
pub struct Pending<T> {
    state: State<T>,
}

enum State<T> {
    Ready(T),
    Arrived { what: &'static str, result: Result<T> },
    InFlight { comm: Arc<Comm>, what: &'static str, from: Receiver<Result<T>> },
}

/// Elements per collective: larger messages are slower, at least in shared memory. Those of one all-reduce are in flight together.
const PIECE: usize = 1 << 18;
/// Elements that are summed together, in the first-level cache.
const BLOCK: usize = 1024;
/// Interval between checks for lost ranks.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between polls of an idle thread.
const IDLE_INTERVAL: Duration = Duration::from_millis(20);
/// Time, beyond two heartbeats, in which a rank reports an error and ends the others.
const REPORT_TIME: Duration = Duration::from_secs(3);
/// Maximum time for MPI_Finalize or MPI_Abort.
const FINALIZE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of ranks that one waits for before it reports an error.
pub(super) const MAX_TURNS: usize = 10;
/// The receiver of a job's result was dropped.
const ENDED: &str = "the communication thread has ended";

impl Comm {
    /// Start the thread, which calls `make` to create the transport; `None` if that takes longer than its timeout.
    ///
    /// # Errors
    /// Errors of `make`, or the thread cannot be created.
    pub fn start<T: Transport + 'static>(
        liveness: Arc<Liveness>,
        make: impl FnOnce() -> Result<(T, Topology)> + Send + 'static,
    ) -> Result<Option<Self>> {
        let (jobs, next) = channel::<Job>();
        let (made, ready) = channel();
        let work = move || {
            let (transport, topology) = match make() {
                Ok((transport, topology)) => (transport, topology),
                Err(error) => return drop(made.send(Err(error))),
            };
            let mut worker = Worker { transport: Box::new(transport), topology: topology.clone(), received: Vec::new() };
            let _ = made.send(Ok(topology));
            loop {
                match next.recv_timeout(IDLE_INTERVAL) {
                    Ok(job) => job(&mut worker),
                    // An error here recurs in the next collective.
                    Err(RecvTimeoutError::Timeout) => drop(worker.transport.poll()),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        std::thread::Builder::new().name("ranks".into()).spawn(work)?;
        match ready.recv_timeout(liveness.start_timeout()) {
            Ok(topology) => Ok(Some(Self { topology: topology?, liveness, jobs, has_ended: AtomicBool::new(false) })),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!(ENDED),
        }
    }

    /// Queue a job for the thread.
    pub fn run<T: Send + 'static>(
        comm: &Arc<Self>,
        what: &'static str,
        job: impl FnOnce(&mut Worker) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let (send, from) = channel();
        let liveness = Arc::clone(&comm.liveness);
        // Counted on the thread, where a collective begins when those before it have finished.
        let job = move |worker: &mut Worker| {
            liveness.begin();
            let _ = send.send(job(worker));
        };
        let _ = comm.jobs.send(Box::new(job));
        Pending { state: State::InFlight { comm: Arc::clone(comm), what, from } }
    }

    /// Receive the next message of rank 0; waits while rank 0 sends heartbeats.
    ///
    /// # Errors
    /// Rank 0 is lost.
    pub fn next(comm: &Arc<Self>) -> Result<Vec<u8>> {
        loop {
            let (send, from) = channel();
            let job = move |worker: &mut Worker| {
                let _ = send.send(worker.await_command());
            };
            comm.jobs.send(Box::new(job)).map_err(|_| anyhow!(ENDED))?;
            if let Some(message) = from.recv().context(ENDED)?? {
                // As on rank 0, which counts it too.
                comm.liveness.begin();
                return Ok(message);
            }
            comm.ensure_all_alive(std::iter::once(0), "waiting for its next command")?;
        }
    }

    /// Check the heartbeats of all other ranks; `what` is what this rank waits for.
    ///
    /// # Errors
    /// A lost rank.
    pub fn ensure_alive(&self, what: &str) -> Result<()> {
        self.ensure_all_alive(self.other_ranks(), what)
    }

    fn ensure_all_alive(&self, ranks: impl Iterator<Item = usize>, what: &str) -> Result<()> {
        let Some((rank, seconds)) = self.liveness.lost(ranks) else { return Ok(()) };
        self.wait_for_report(&[rank]);
        bail!(
            "no heartbeat from {} for {seconds:.0} s ({what}): the process is dead or hangs, and {}",
            self.topology.name(rank),
            self.ending_action()
        )
    }

    fn other_ranks(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.topology.rank;
        (0..self.topology.hosts.len()).filter(move |rank| *rank != own)
    }

    /// The phase that ends with this command.
    fn ending_action(&self) -> &'static str {
        match self.liveness.phase() {
            Phase::Idle | Phase::Busy => "the run ends; saved checkpoints are valid",
            Phase::Start | Phase::Setup | Phase::Done => "the command ends",
        }
    }

    /// One rank reports an error that all find: the lowest one, except the ranks `to_blame`. The others wait until its report has ended them;
    /// if it does not, the next one reports. A process that was stopped waits too, because the others have lost it.
    pub fn wait_for_report(&self, to_blame: &[usize]) {
        let lower = (0..self.topology.rank).filter(|rank| !to_blame.contains(rank));
        let alive = lower.filter(|rank| !self.liveness.is_late(std::iter::once(*rank))).count();
        let turns = alive + usize::from(self.liveness.was_stopped());
        std::thread::sleep((2 * self.liveness.interval() + REPORT_TIME) * turns.min(MAX_TURNS) as u32);
    }

    /// Finalize MPI at the end of the process, or terminate all ranks if they may be waiting for this one. Returns the exit code: the highest
    /// of all ranks.
    pub fn finalize(&self, code: i32) -> i32 {
        if self.has_ended.load(Ordering::SeqCst) {
            return code;
        }
        let is_done = self.liveness.phase() == Phase::Done;
        if !is_done {
            // Also read inside a collective.
            self.liveness.set_abort(code);
        }
        let (send, done) = channel();
        let job = move |worker: &mut Worker| {
            let _ = send.send(match is_done {
                true => worker.transport.finalize(code).unwrap_or(code),
                false => {
                    worker.transport.abort(code);
                    code
                }
            });
        };
        let _ = self.jobs.send(Box::new(job));
        self.has_ended.store(is_done, Ordering::SeqCst);
        // If the thread is blocked, the launcher notices the end of the process.
        done.recv_timeout(FINALIZE_TIMEOUT).unwrap_or(code)
    }
}

impl<T> Pending<T> {
    /// An available result.
    pub(super) fn ready(value: T) -> Self {
        Self { state: State::Ready(value) }
    }

    /// Whether [`Pending::wait`] returns at once.
    pub(crate) fn has_arrived(&mut self) -> bool {
        if let State::InFlight { what, from, .. } = &self.state {
            let (what, Ok(result)) = (*what, from.try_recv()) else { return false };
            self.state = State::Arrived { what, result };
        }
        true
    }

    /// Wait for the result.
    ///
    /// # Errors
    /// A lost rank, or one that lags behind for longer than the timeout.
    pub fn wait(self) -> Result<T> {
        self.wait_for(true)
    }

    /// Wait for the result while all ranks send heartbeats, without a timeout: for ranks whose work takes unequal time.
    ///
    /// # Errors
    /// A lost rank.
    pub(super) fn wait_while_alive(self) -> Result<T> {
        self.wait_for(false)
    }

    fn wait_for(self, with_timeout: bool) -> Result<T> {
        let (comm, what, from) = match self.state {
            State::Ready(value) => return Ok(value),
            State::Arrived { what, result } => return result.context(what),
            State::InFlight { comm, what, from } => (comm, what, from),
        };
        let mut waited = Duration::ZERO;
        loop {
            let begin = Instant::now();
            match from.recv_timeout(POLL_INTERVAL) {
                Ok(result) => return result.context(what),
                Err(RecvTimeoutError::Disconnected) => bail!("{what}: {ENDED}"),
                Err(RecvTimeoutError::Timeout) => {}
            }
            comm.ensure_alive(what)?;
            // Without the time for which this process was stopped.
            waited += begin.elapsed().min(2 * POLL_INTERVAL);
            // A rank without a heartbeat is reported as lost.
            if with_timeout && waited > comm.liveness.timeout && !comm.liveness.is_late(comm.other_ranks()) {
                let ranks = comm.liveness.ranks_behind(comm.topology.rank);
                let names: Vec<String> = ranks.iter().map(|rank| comm.topology.name(*rank)).collect();
                let names = if names.is_empty() { "the other ranks".to_owned() } else { names.join(", ") };
                comm.wait_for_report(&ranks);
                bail!(
                    "waited {:.0} s for {names} ({what}), and {}. Set a longer timeout with LEHR_RANK_TIMEOUT=SECONDS",
                    comm.liveness.timeout.as_secs_f64(),
                    comm.ending_action()
                );
            }
        }
    }
}

impl Worker {
    /// All-reduce (sum): reduce-scatter with sums in rank order, then all-gather.
    pub fn all_reduce(&mut self, mut values: Vec<f32>) -> Result<Vec<f32>> {
        let (rank, size) = (self.topology.rank, self.topology.hosts.len());
        let pieces = pieces(values.len(), size);
        let own = |cuts: &Vec<usize>| cuts[rank]..cuts[rank + 1];
        self.received.resize(size * pieces.iter().map(|cuts| own(cuts).len()).sum::<usize>(), 0.0);
        self.transport.all_to_all(&values, &pieces, &mut self.received)?;
        let mut received = &self.received[..];
        for cuts in &pieces {
            let (parts, rest) = received.split_at(size * own(cuts).len());
            sum_in_rank_order(&mut values[own(cuts)], parts, rank);
            received = rest;
        }
        self.transport.all_gather_in_place(&mut values, &pieces)?;
        Ok(values)
    }

    /// Wait a short time for a message of rank 0.
    fn await_command(&mut self) -> Result<Option<Vec<u8>>> {
        let begin = Instant::now();
        loop {
            if let Some(message) = self.transport.poll_command()? {
                return Ok(Some(message));
            }
            if begin.elapsed() > POLL_INTERVAL {
                return Ok(None);
            }
            back_off(begin.elapsed());
        }
    }
}

/// Cuts of `len` elements: for each piece, the first element of each rank's part, and the piece's end.
fn pieces(len: usize, size: usize) -> Vec<Vec<usize>> {
    let cuts = |start: usize| {
        let n = PIECE.min(len - start);
        (0..=size).map(|rank| start + n * rank / size).collect()
    };
    (0..len).step_by(PIECE).map(cuts).collect()
}

/// Replace rank `rank`'s part by the element-wise sums of the parts of all ranks, in f64, in rank order, rounded once.
fn sum_in_rank_order(own: &mut [f32], parts: &[f32], rank: usize) {
    let len = own.len();
    if len > 0 && parts.len() == 2 * len {
        // A sum of two f32 in f64, rounded to f32, is their sum in f32: 53 bits are more than 2 x 24 + 2. As below, -0 becomes 0.
        let other = &parts[(1 - rank) * len..][..len];
        return own.iter_mut().zip(other).for_each(|(sum, x)| *sum = *sum + 0.0 + *x);
    }
    let mut block = [0f64; BLOCK];
    for start in (0..len).step_by(BLOCK) {
        let end = len.min(start + BLOCK);
        let block = &mut block[..end - start];
        block.fill(0.0);
        for (i, part) in parts.chunks_exact(len).enumerate() {
            let part = if i == rank { &own[start..end] } else { &part[start..end] };
            block.iter_mut().zip(part).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        own[start..end].iter_mut().zip(&*block).for_each(|(out, sum)| *out = *sum as f32);
    }
}

/// Pause between two polls, longer the longer one has waited: first yield, then sleep.
pub(super) fn back_off(waited: Duration) {
    match waited {
        t if t < Duration::from_millis(20) => std::thread::yield_now(),
        t if t < Duration::from_secs(1) => std::thread::sleep(Duration::from_micros(50)),
        _ => std::thread::sleep(Duration::from_millis(1)),
    }
}

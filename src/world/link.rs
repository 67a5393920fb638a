//! The thread through which a rank talks to the others, and waits that end.
#![cfg_attr(not(all(unix, feature = "mpi")), allow(dead_code, reason = "threads of one process need not leave"))]

use super::health::Health;
use anyhow::{Context as _, Result, anyhow, bail};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use web_time::Instant;

/// Where a rank stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub rank: usize,
    pub local_rank: usize,
    pub local_size: usize,
    /// The host of each rank.
    pub hosts: Vec<String>,
    /// The MPI library.
    pub library: String,
}

impl Place {
    pub fn name(&self, rank: usize) -> String {
        self.hosts.get(rank).map_or_else(|| format!("rank {rank}"), |host| format!("rank {rank} on {host}"))
    }
}

/// What carries messages; it stays on the thread that made it. Exchanges are collective: every rank calls the same in the same order.
pub(super) trait Wire {
    /// Send elements `cuts[r]..cuts[r + 1]` of `send` to rank r, and receive this rank's part from every rank, one after another.
    fn exchange(&mut self, send: &[f32], cuts: &[usize], received: &mut [f32]) -> Result<()>;
    /// Put this rank's elements `cuts[rank]..cuts[rank + 1]` together with those of all others.
    fn collect(&mut self, own: &[f32], cuts: &[usize], all: &mut [f32]) -> Result<()>;
    /// Everybody's bytes.
    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>>;
    /// Rank 0's bytes.
    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()>;
    /// Rank 0: a message for every other rank.
    fn announce(&mut self, message: &[u8]) -> Result<()>;
    /// The others: a message of rank 0, if one has come.
    fn announced(&mut self) -> Result<Option<Vec<u8>>>;
    /// Called while there is nothing else to do.
    fn idle(&mut self) -> Result<()>;
    /// All ranks are done.
    fn leave(&mut self) -> Result<()>;
    /// End all ranks at once.
    fn abort(&mut self, code: i32);
}

/// What the thread holds.
pub(super) struct Ends {
    pub wire: Box<dyn Wire>,
    place: Place,
    received: Vec<f32>,
    sums: Vec<f64>,
    own: Vec<f32>,
}

type Job = Box<dyn FnOnce(&mut Ends) + Send>;

/// See the module.
pub(super) struct Link {
    pub place: Place,
    pub health: Arc<Health>,
    jobs: Sender<Job>,
}

/// A result that comes.
pub struct Pending<T> {
    state: State<T>,
}

enum State<T> {
    Ready(T),
    Coming { link: Arc<Link>, what: &'static str, from: Receiver<Result<T>>, since: Instant },
}

/// Numbers that are sent at once: larger messages are slower, at least in shared memory.
const AT_ONCE: usize = 1 << 18;
/// Between two looks at the other ranks.
const LOOK: Duration = Duration::from_millis(200);
/// Between two looks for messages, where nothing is under way.
const IDLE: Duration = Duration::from_millis(20);

impl Link {
    /// Start the thread; the wire is made on it.
    ///
    /// # Errors
    /// What making it returns, or no thread.
    pub fn start<W: Wire + 'static>(
        health: Arc<Health>,
        make: impl FnOnce() -> Result<(W, Place)> + Send + 'static,
    ) -> Result<Self> {
        let (jobs, next) = channel::<Job>();
        let (made, ready) = channel();
        let work = move || {
            let (wire, place) = match make() {
                Ok((wire, place)) => (wire, place),
                Err(error) => return drop(made.send(Err(error))),
            };
            let (received, sums, own) = (Vec::new(), Vec::new(), Vec::new());
            let mut ends = Ends { wire: Box::new(wire), place: place.clone(), received, sums, own };
            let _ = made.send(Ok(place));
            loop {
                match next.recv_timeout(IDLE) {
                    Ok(job) => job(&mut ends),
                    // An error here comes again in the next exchange.
                    Err(RecvTimeoutError::Timeout) => drop(ends.wire.idle()),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        std::thread::Builder::new().name("ranks".into()).spawn(work)?;
        let place = ready.recv().context("the thread that talks to the other ranks has ended")??;
        Ok(Self { place, health, jobs })
    }

    /// Do something on the thread, after all that was asked for before.
    pub fn run<T: Send + 'static>(
        link: &Arc<Self>,
        what: &'static str,
        job: impl FnOnce(&mut Ends) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let (send, from) = channel();
        let health = Arc::clone(&link.health);
        // Counted on the thread: an exchange is begun when those before it are over.
        let job = move |ends: &mut Ends| {
            health.begin();
            let _ = send.send(job(ends));
        };
        let _ = link.jobs.send(Box::new(job));
        Pending { state: State::Coming { link: Arc::clone(link), what, from, since: Instant::now() } }
    }

    /// The next message of rank 0; waits as long as rank 0 shows signs of life.
    pub fn next(link: &Arc<Self>) -> Result<Vec<u8>> {
        loop {
            let (send, from) = channel();
            let job = move |ends: &mut Ends| {
                let _ = send.send(ends.await_announcement());
            };
            link.jobs.send(Box::new(job)).map_err(|_| anyhow!("the thread that talks to the other ranks has ended"))?;
            if let Some(message) = from.recv().context("the thread that talks to the other ranks has ended")?? {
                // As on rank 0, which counts it too.
                link.health.begin();
                return Ok(message);
            }
            if let Some((_, seconds)) = link.health.silent(std::iter::once(0)) {
                bail!("{}", link.lost(0, seconds, "waiting for it"));
            }
        }
    }

    fn lost(&self, rank: usize, seconds: f64, what: &str) -> String {
        format!(
            "no sign of {} for {seconds:.0} s ({what}): it has died or hangs, and the run ends; its last checkpoint stands",
            self.place.name(rank)
        )
    }

    /// Leave the other ranks: in good order, or by ending them.
    pub fn leave(&self, code: i32) {
        let is_over = self.health.phase() == super::Phase::Over;
        if !is_over {
            // Noticed in the midst of an exchange too.
            self.health.set_abort(code);
        }
        let (send, done) = channel();
        let job = move |ends: &mut Ends| {
            match is_over {
                true => drop(ends.wire.leave()),
                false => ends.wire.abort(code),
            }
            let _ = send.send(());
        };
        let _ = self.jobs.send(Box::new(job));
        // Where the thread is stuck, the end of the process tells the launcher.
        let _ = done.recv_timeout(Duration::from_secs(5));
    }
}

impl<T> Pending<T> {
    /// A result that is there.
    pub(super) fn ready(value: T) -> Self {
        Self { state: State::Ready(value) }
    }

    /// Wait for it.
    ///
    /// # Errors
    /// A lost rank, or one that lags behind for longer than the deadline.
    pub fn wait(self) -> Result<T> {
        let (link, what, from, since) = match self.state {
            State::Ready(value) => return Ok(value),
            State::Coming { link, what, from, since } => (link, what, from, since),
        };
        loop {
            match from.recv_timeout(LOOK) {
                Ok(result) => return result.context(what),
                Err(RecvTimeoutError::Disconnected) => bail!("{what}: the thread that talks to the other ranks has ended"),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let others = (0..link.place.hosts.len()).filter(|rank| *rank != link.place.rank);
            if let Some((rank, seconds)) = link.health.silent(others) {
                bail!("{}", link.lost(rank, seconds, what));
            }
            if since.elapsed() > link.health.timeout {
                let who: Vec<String> = link.health.behind(link.place.rank).iter().map(|rank| link.place.name(*rank)).collect();
                let who = if who.is_empty() { "the other ranks".to_owned() } else { who.join(", ") };
                bail!(
                    "waited {:.0} s for {who} ({what}), and the run ends; its last checkpoint stands. LEHR_RANK_TIMEOUT=SECONDS allows more",
                    link.health.timeout.as_secs_f64()
                );
            }
        }
    }
}

impl Ends {
    /// The sums of all ranks' numbers.
    pub fn sum(&mut self, mut values: Vec<f32>) -> Result<Vec<f32>> {
        values.chunks_mut(AT_ONCE).try_for_each(|values| self.sum_at_once(values))?;
        Ok(values)
    }

    /// Each rank adds up its part, in the order of the ranks, and the parts are put together.
    fn sum_at_once(&mut self, values: &mut [f32]) -> Result<()> {
        let size = self.place.hosts.len();
        let cuts: Vec<usize> = (0..=size).map(|rank| values.len() * rank / size).collect();
        let len = cuts[self.place.rank + 1] - cuts[self.place.rank];
        self.received.resize(len * size, 0.0);
        self.wire.exchange(values, &cuts, &mut self.received)?;
        self.sums.clear();
        self.sums.resize(len, 0.0);
        for part in self.received.chunks_exact(len.max(1)) {
            self.sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        self.own.clear();
        self.own.extend(self.sums.iter().map(|sum| *sum as f32));
        self.wire.collect(&self.own, &cuts, values)
    }

    /// A message of rank 0; `None` when none has come for a while.
    fn await_announcement(&mut self) -> Result<Option<Vec<u8>>> {
        let begin = Instant::now();
        loop {
            if let Some(message) = self.wire.announced()? {
                return Ok(Some(message));
            }
            if begin.elapsed() > LOOK {
                return Ok(None);
            }
            rest(begin.elapsed());
        }
    }
}

/// Between two looks at something that has been awaited for so long: at first another thread may run, later the processor rests.
pub(super) fn rest(waited: Duration) {
    match waited {
        t if t < Duration::from_millis(20) => std::thread::yield_now(),
        t if t < Duration::from_secs(1) => std::thread::sleep(Duration::from_micros(50)),
        _ => std::thread::sleep(Duration::from_millis(1)),
    }
}

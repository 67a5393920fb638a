//! Distributed training: the processes (ranks) of a run, and their collectives.
//!
//! A [`World`] is a single process ([`World::solo`]), the ranks of an MPI launcher ([`World::open`], feature `mpi`), or threads of one
//! process ([`World::threads`], for tests). Rank 0 controls the run: it broadcasts commands ([`World::broadcast_command`]); the other ranks receive
//! them ([`World::next`]) and compute their share, and an all-reduce sums the shares. All communication of a rank runs on one thread
//! (`comm.rs`), so that the device computes meanwhile and every wait has a deadline.
//!
//! Sums are in f64, in rank order, and rounded once: the same number of ranks gives the same bits, independent of the MPI library's
//! algorithms.

mod comm;
mod device;
pub mod launch;
mod liveness;
#[cfg(all(unix, feature = "mpi"))]
mod mpi;
#[cfg(test)]
mod tests;
mod threads;

pub use comm::Pending;

use anyhow::{Context as _, Result, bail, ensure};
use comm::Comm;
use liveness::{Liveness, Phase};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The ranks of a run, as seen by one of them. Cheap to clone; clones share one communication thread.
#[derive(Clone, Default)]
pub struct World {
    /// `None` for a single process.
    comm: Option<Arc<Comm>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

/// The error of a rank that ends because of an error on another rank, which reports it.
#[derive(Debug, thiserror::Error)]
#[error("another rank failed")]
pub struct OtherRankFailed;

/// The error of a rank that waits in vain for the others at the start.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "rank {rank}: no connection to all ranks within {seconds:.0} s (MPI_Init): a rank has not started lehr, hangs, or has ended. Set a longer \
     timeout with LEHR_RANK_TIMEOUT=SECONDS"
)]
pub struct NotConnected {
    rank: usize,
    seconds: f64,
}

/// A command in progress on all ranks. If it is dropped without [`CollectiveTask::done`], it has failed on this rank, and the process ends by
/// terminating the others.
#[must_use]
pub struct CollectiveTask<'a> {
    comm: Option<&'a Comm>,
}

impl CollectiveTask<'_> {
    /// Mark this rank's part as finished.
    pub fn done(self) {
        if let Some(comm) = self.comm {
            comm.liveness.set_phase(Phase::Idle);
        }
    }
}

/// A command received from rank 0.
#[derive(Debug)]
pub struct RankCommand {
    /// Name of the command.
    pub kind: String,
    arguments: Vec<u8>,
}

impl RankCommand {
    /// Deserialize the arguments.
    ///
    /// # Errors
    /// A type other than that of [`World::broadcast_command`]: a defect.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        rmp_serde::from_slice(&self.arguments).with_context(|| format!("arguments of {} (a defect of lehr)", self.kind))
    }
}

/// A rank's contribution to a step of the setup: named values that must be equal, or its error.
type SetupPart = Result<BTreeMap<String, String>, String>;

/// The last command of a run; its argument is the reason.
pub const END: &str = "end";

impl World {
    /// A single process.
    pub fn solo() -> Self {
        Self::default()
    }

    /// The ranks of the MPI launcher that started this process, or a single process. Every call in a process returns the same world.
    ///
    /// # Errors
    /// A launcher and a binary without MPI, or an MPI library that does not match the launcher: every rank would train a copy. [`NotConnected`]
    /// if another rank has not started.
    pub fn open() -> Result<Self> {
        let Some(launched) = launch::launched() else { return Ok(Self::solo()) };
        #[cfg(all(unix, feature = "mpi"))]
        return mpi::open(&launched);
        #[cfg(not(all(unix, feature = "mpi")))]
        match launched.rank {
            // One line is enough.
            Some(rank) if rank > 0 => Err(OtherRankFailed.into()),
            _ => bail!("{}", launched.without_mpi()),
        }
    }

    /// `size` ranks for threads of this process: one [`World`] each.
    ///
    /// # Errors
    /// A thread cannot be created.
    pub fn threads(size: usize) -> Result<Vec<Self>> {
        let start = |(rank, transport)| -> Result<Self> {
            let topology = threads::topology(rank, size);
            let comm = Comm::start(Arc::new(Liveness::new()), move || Ok((transport, topology)))?;
            Ok(Self { comm: comm.map(Arc::new) })
        };
        threads::transports(size).into_iter().enumerate().map(start).collect()
    }

    /// Call `f` on `size` threads, each with its own [`World`]; returns the results in rank order. A panic of a rank is passed on.
    ///
    /// # Errors
    /// A thread cannot be created.
    pub fn on_threads<T: Send>(size: usize, f: impl Fn(Self) -> T + Sync) -> Result<Vec<T>> {
        let worlds = Self::threads(size)?;
        Ok(std::thread::scope(|scope| {
            let ranks: Vec<_> = worlds.into_iter().map(|world| scope.spawn(|| f(world))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        }))
    }

    /// Rank of this process, from 0.
    pub fn rank(&self) -> usize {
        self.comm.as_ref().map_or(0, |comm| comm.topology.rank)
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.comm.as_ref().map_or(1, |comm| comm.topology.hosts.len())
    }

    /// Local rank: the rank among those of the same host, from 0.
    pub fn local_rank(&self) -> usize {
        self.comm.as_ref().map_or(0, |comm| comm.topology.local_rank)
    }

    /// Number of ranks on this host.
    pub fn local_size(&self) -> usize {
        self.comm.as_ref().map_or(1, |comm| comm.topology.local_size)
    }

    /// Whether this is a single process.
    pub fn is_solo(&self) -> bool {
        self.size() == 1
    }

    /// Whether this is rank 0, which owns the run folder and all output.
    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// Rank and host: `rank 2 on node7`.
    pub fn name(&self, rank: usize) -> String {
        self.comm.as_ref().map_or_else(|| format!("rank {rank}"), |comm| comm.topology.name(rank))
    }

    /// Name and version of the MPI library; empty without one.
    pub fn library(&self) -> &str {
        self.comm.as_ref().map_or("", |comm| comm.topology.library.as_str())
    }

    /// This rank's share of `count` items: a contiguous range; shares are in rank order and differ by at most one item.
    pub fn share(&self, count: usize) -> Range<usize> {
        share(count, self.rank(), self.size())
    }

    /// Start an all-reduce (sum). Collective, as all of the following; all ranks start the same collectives in the same order.
    pub fn all_reduce(&self, values: Vec<f32>) -> Pending<Vec<f32>> {
        match &self.comm {
            None => Pending::ready(values),
            Some(comm) => Comm::run(comm, "all-reduce of gradients", move |worker| worker.all_reduce(values)),
        }
    }

    /// All-reduce (sum) of a few f64.
    ///
    /// # Errors
    /// A lost rank.
    pub fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        if self.is_solo() {
            return Ok(());
        }
        let all = self.all_gather(bytemuck::cast_slice(values).to_vec())?;
        values.fill(0.0);
        for part in &all {
            let part: Vec<f64> = bytemuck::pod_collect_to_vec(part);
            ensure!(part.len() == values.len(), "all-reduce of {} and {} values (a defect of lehr)", values.len(), part.len());
            values.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        Ok(())
    }

    fn start_all_gather(&self, bytes: Vec<u8>, what: &'static str) -> Pending<Vec<Vec<u8>>> {
        match &self.comm {
            None => Pending::ready(vec![bytes]),
            Some(comm) => Comm::run(comm, what, move |worker| worker.transport.all_gather(&bytes)),
        }
    }

    /// All-gather of bytes, in rank order.
    ///
    /// # Errors
    /// A lost rank.
    pub fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.start_all_gather(bytes, "all-gather").wait()
    }

    /// All-gather of a serializable value, in rank order.
    ///
    /// # Errors
    /// A lost rank.
    pub fn all_gather_values<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<Vec<T>> {
        let all = self.all_gather(rmp_serde::to_vec_named(value)?)?;
        all.iter().map(|bytes| rmp_serde::from_slice(bytes).context("all-gather of values (a defect of lehr)")).collect()
    }

    /// Broadcast from rank 0; the argument of other ranks is ignored.
    ///
    /// # Errors
    /// A lost rank.
    pub fn broadcast(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        match &self.comm {
            None => Ok(bytes),
            Some(comm) => {
                let send = move |worker: &mut comm::Worker| worker.transport.broadcast(&mut bytes).map(|()| bytes);
                Comm::run(comm, "broadcast", send).wait()
            }
        }
    }

    /// Barrier.
    ///
    /// # Errors
    /// A lost rank.
    pub fn barrier(&self) -> Result<()> {
        self.all_gather(Vec::new()).map(|_| ())
    }

    /// Barrier without a timeout, for ranks whose work takes unequal time: only a rank without heartbeats is lost.
    ///
    /// # Errors
    /// A lost rank.
    pub fn wait_for_all(&self) -> Result<()> {
        self.start_all_gather(Vec::new(), "waiting for its part of the work").wait_while_alive().map(|_| ())
    }

    /// Check the heartbeats of all other ranks; not collective.
    ///
    /// # Errors
    /// A lost rank.
    pub fn ensure_alive(&self) -> Result<()> {
        self.comm.as_ref().map_or(Ok(()), |comm| comm.ensure_alive("waiting for its part of the work"))
    }

    /// Set this rank's progress in common work; heartbeats send it to the others.
    pub fn set_progress(&self, done: u64) {
        if let Some(comm) = &self.comm {
            comm.liveness.set_progress(done);
        }
    }

    /// The sum of the progress of all ranks, of others some seconds old; 0 for a single process.
    pub fn total_progress(&self) -> u64 {
        self.comm.as_ref().map_or(0, |comm| comm.liveness.total_progress(comm.topology.rank))
    }

    /// Whether no command is in progress, so that another may be broadcast. False for a single process.
    pub fn is_idle(&self) -> bool {
        self.comm.as_ref().is_some_and(|comm| comm.liveness.phase() == Phase::Idle)
    }

    /// All ranks have the same command: the next step of the setup is the command's first, in which an error before it is exchanged.
    pub fn start_setup(&self) {
        if let Some(comm) = &self.comm {
            comm.liveness.set_phase(Phase::Start);
        }
    }

    /// End of the setup: from now on the other ranks execute commands of rank 0.
    pub fn start_following(&self) {
        if let Some(comm) = &self.comm {
            comm.liveness.set_phase(Phase::Idle);
        }
    }

    /// On rank 0: send a command to all other ranks.
    ///
    /// # Errors
    /// A lost rank.
    pub fn broadcast_command<T: Serialize>(&self, kind: &str, arguments: &T) -> Result<CollectiveTask<'_>> {
        let Some(comm) = &self.comm else { return Ok(CollectiveTask { comm: None }) };
        ensure!(self.is_root(), "{kind}: sent by rank {} (a defect of lehr)", self.rank());
        comm.liveness.set_phase(Phase::Busy);
        // The name, a zero byte, and the arguments.
        let mut message = [kind.as_bytes(), &[0]].concat();
        message.extend(rmp_serde::to_vec_named(arguments)?);
        Comm::run(comm, "sending a command", move |worker| worker.transport.broadcast_command(&message)).wait()?;
        Ok(CollectiveTask { comm: Some(comm) })
    }

    /// On the other ranks: finish the previous command and wait for the next one, while rank 0 sends heartbeats.
    ///
    /// # Errors
    /// Rank 0 is lost.
    pub fn next(&self) -> Result<RankCommand> {
        let Some(comm) = &self.comm else { bail!("a single process receives no commands (a defect of lehr)") };
        comm.liveness.set_phase(Phase::Idle);
        let message = Comm::next(comm)?;
        let end = message.iter().position(|byte| *byte == 0).unwrap_or(message.len());
        let kind = String::from_utf8_lossy(&message[..end]).into_owned();
        comm.liveness.set_phase(if kind == END { Phase::Done } else { Phase::Busy });
        Ok(RankCommand { kind, arguments: message.get(end + 1..).unwrap_or_default().to_vec() })
    }

    /// Return the result of a setup step, if it succeeded on all ranks. If it failed on some, those return their error and the others
    /// [`OtherRankFailed`]; an error that rank 0 has too is only returned there, and any other error names its rank.
    ///
    /// # Errors
    /// This rank's error, or [`OtherRankFailed`].
    pub fn check_all<T>(&self, result: Result<T>) -> Result<T> {
        let Some(comm) = &self.comm else { return result };
        let own = result.as_ref().map(|_| BTreeMap::new()).map_err(|error| format!("{error:#}"));
        let all = self.gather_setup(comm, &own)?;
        self.outcome(comm, &all, result)
    }

    /// Check that every (name, value) is equal on all ranks. A rank may call [`World::check_all`] with an error instead.
    ///
    /// # Errors
    /// On rank 0, the first difference, with its rank; [`OtherRankFailed`] on the others.
    pub fn ensure_equal<N: AsRef<str>>(&self, values: &[(N, String)]) -> Result<()> {
        let Some(comm) = &self.comm else { return Ok(()) };
        let own = values.iter().map(|(name, value)| (name.as_ref().to_owned(), value.clone())).collect();
        let all = self.gather_setup(comm, &Ok(own))?;
        self.outcome(comm, &all, Ok(()))?;
        let all: Vec<&BTreeMap<String, String>> = all.iter().flatten().collect();
        // In the order of this call, then names that only other ranks have.
        let names = values.iter().map(|(name, _)| name.as_ref()).chain(all.iter().flat_map(|of| of.keys().map(String::as_str)));
        let found = names.into_iter().find_map(|name| {
            let rank = all.iter().position(|of| of.get(name) != all[0].get(name))?;
            let [other, first] = [rank, 0].map(|rank| all[rank].get(name).map_or("not set", String::as_str));
            Some(format!("{name}: {other} on {}, {first} on {}; must be the same on all ranks", self.name(rank), self.name(0)))
        });
        let Some(text) = found else { return Ok(()) };
        comm.liveness.set_phase(Phase::Done);
        if self.is_root() { Err(anyhow::anyhow!(text)) } else { Err(OtherRankFailed.into()) }
    }

    /// One message for all steps of the setup, so that an error meets the step in which the other ranks are.
    fn gather_setup(&self, comm: &Comm, own: &SetupPart) -> Result<Vec<SetupPart>> {
        let all = self.all_gather_values(own)?;
        comm.liveness.set_phase(Phase::Setup);
        Ok(all)
    }

    /// The result of a step of the setup on this rank.
    fn outcome<T>(&self, comm: &Comm, all: &[SetupPart], result: Result<T>) -> Result<T> {
        if all.iter().all(Result::is_ok) {
            return result;
        }
        comm.liveness.set_phase(Phase::Done);
        let same_as_root = |error: &anyhow::Error| all[0].as_ref().err() == Some(&format!("{error:#}"));
        match result {
            Err(error) if self.is_root() => Err(error),
            Err(error) if !same_as_root(&error) => Err(error.context(self.name(self.rank()))),
            _ => Err(OtherRankFailed.into()),
        }
    }

    /// End communication, for a command that continues on rank 0 alone; [`World::open`] then returns a single process. Collective.
    pub fn leave(&self) {
        if let Some(comm) = &self.comm {
            comm.liveness.set_phase(Phase::Done);
            comm.finalize(0);
        }
    }

    /// Check regularly whether this rank has `received` a signal, and call `stop` on rank 0 if any rank has.
    pub fn watch_signals(&self, received: fn() -> bool, stop: fn()) {
        if let Some(comm) = &self.comm {
            comm.liveness.watch_signals(received, stop);
        }
    }

    /// End of all common work: no rank waits for another.
    pub fn finish(&self) {
        if let Some(comm) = &self.comm {
            comm.liveness.set_phase(Phase::Done);
        }
    }

    /// On rank 0: end the run on all ranks that wait for a command.
    pub fn end(&self, reason: &str) {
        let Some(comm) = &self.comm else { return };
        // Ranks that do not receive it notice within the deadline.
        if self.is_root() && comm.liveness.phase() == Phase::Idle && self.broadcast_command(END, &reason).is_ok() {
            comm.liveness.set_phase(Phase::Done);
        }
    }
}

/// The result of a command as this process reports it: an error names the rank, except rank 0. [`OtherRankFailed`] if another rank reports it.
/// An error before the first step of the setup is exchanged with the other ranks, which are in that step.
///
/// # Errors
/// The error of `result`, or [`OtherRankFailed`].
pub fn report<T>(result: Result<T>) -> Result<T> {
    let world = opened();
    let (Err(error), Some(comm)) = (&result, &world.comm) else { return result };
    if error.is::<OtherRankFailed>() {
        return result;
    }
    let result = if comm.liveness.phase() == Phase::Start { world.check_all(result) } else { result };
    if comm.liveness.was_stopped() {
        comm.wait_for_report(&[]);
    }
    let name = world.name(world.rank());
    result.map_err(|error| match world.is_root() || error.is::<OtherRankFailed>() || error.to_string().starts_with(&name) {
        true => error,
        false => error.context(name),
    })
}

/// The world of this process, if it was opened.
fn opened() -> World {
    #[cfg(all(unix, feature = "mpi"))]
    return mpi::opened();
    #[cfg(not(all(unix, feature = "mpi")))]
    World::solo()
}

/// Finalize MPI at the end of the process; terminates all ranks if they may be waiting for this one. Returns the exit code: the highest of all
/// ranks.
pub fn finalize(code: i32) -> i32 {
    #[cfg(all(unix, feature = "mpi"))]
    return mpi::finalize(code);
    #[cfg(not(all(unix, feature = "mpi")))]
    code
}

/// Check `LEHR_RANK_TIMEOUT`.
///
/// # Errors
/// An invalid value.
pub fn check_timeout() -> Result<()> {
    liveness::timeout_seconds().map(|_| ())
}

/// The share of `count` items of `rank` among `size`; see [`World::share`].
pub fn share(count: usize, rank: usize, size: usize) -> Range<usize> {
    count * rank / size..count * (rank + 1) / size
}

//! Several processes that compute one run together: rank, size, and what the ranks exchange.
//!
//! A [`World`] is one process by itself ([`World::solo`]), the ranks that an MPI launcher started ([`World::open`], feature `mpi`), or
//! threads of one process ([`World::threads`], for tests). Rank 0 decides: it announces what is to be computed ([`World::announce`]), the
//! others wait for that ([`World::next`]) and compute their share, and sums bring the shares together. All traffic of a rank goes through
//! one thread of its own (`link.rs`), so that the device computes meanwhile and every wait has a deadline.
//!
//! Sums are made in the order of the ranks, in f64, and rounded once: the same number of ranks gives the same bits, whatever algorithm
//! the MPI library would choose.

mod device;
mod health;
pub mod launch;
mod link;
#[cfg(all(unix, feature = "mpi"))]
mod mpi;
#[cfg(test)]
mod tests;
mod threads;

pub use link::Pending;

use anyhow::{Context as _, Result, bail, ensure};
use health::{Health, Phase};
use link::Link;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::sync::Arc;

/// This process among those that compute one run. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct World {
    /// `None` of one process by itself.
    link: Option<Arc<Link>>,
}

/// Something failed on another rank, which says what: this one ends without a word.
#[derive(Debug, thiserror::Error)]
#[error("another rank failed")]
pub struct Elsewhere;

/// Something that rank 0 announced and all ranks compute. Dropped without [`Task::done`], it has failed on this rank, and the other ranks
/// cannot be told in good order.
#[must_use]
pub struct Task<'a> {
    link: Option<&'a Link>,
}

impl Task<'_> {
    /// This rank has done its part.
    pub fn done(self) {
        if let Some(link) = self.link {
            link.health.set_phase(Phase::Between);
        }
    }
}

/// What rank 0 announced.
#[derive(Debug)]
pub struct Announced {
    /// What is to be done.
    pub kind: String,
    with: Vec<u8>,
}

impl Announced {
    /// What it is to be done with.
    ///
    /// # Errors
    /// Another type than was announced: a defect.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        rmp_serde::from_slice(&self.with).with_context(|| format!("the announcement of {} (a defect of lehr)", self.kind))
    }
}

/// What rank 0 announces last, with a word on how the run ended.
pub const END: &str = "end";

impl World {
    /// One process by itself.
    pub fn solo() -> Self {
        Self::default()
    }

    /// As the environment says: the ranks of an MPI launcher, or one process by itself. Every call in a process gives the same.
    ///
    /// # Errors
    /// A launcher and a binary without MPI, or an MPI library that does not belong to the launcher: every rank would train a copy.
    pub fn open() -> Result<Self> {
        let Some(launched) = launch::launched() else { return Ok(Self::solo()) };
        #[cfg(all(unix, feature = "mpi"))]
        return mpi::open(&launched);
        #[cfg(not(all(unix, feature = "mpi")))]
        bail!("{}", launched.without_mpi());
    }

    /// So many ranks as threads of this process: a [`World`] for each.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn threads(size: usize) -> Result<Vec<Self>> {
        let start = |(rank, wire)| Link::start(Arc::new(Health::new()), move || Ok((wire, threads::place(rank, size))));
        threads::wires(size).into_iter().enumerate().map(|wire| Ok(Self { link: Some(Arc::new(start(wire)?)) })).collect()
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.place.rank)
    }

    /// Ranks in all.
    pub fn size(&self) -> usize {
        self.link.as_ref().map_or(1, |link| link.place.hosts.len())
    }

    /// This rank among those of its machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.place.local_rank)
    }

    /// Ranks on its machine.
    pub fn local_size(&self) -> usize {
        self.link.as_ref().map_or(1, |link| link.place.local_size)
    }

    /// One process by itself?
    pub fn is_solo(&self) -> bool {
        self.size() == 1
    }

    /// Rank 0, which owns the run folder and speaks for all?
    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// `rank 2 on node7`.
    pub fn name(&self, rank: usize) -> String {
        self.link.as_ref().map_or_else(|| format!("rank {rank}"), |link| link.place.name(rank))
    }

    /// Name and version of the MPI library; empty without one.
    pub fn library(&self) -> &str {
        self.link.as_ref().map_or("", |link| link.place.library.as_str())
    }

    /// The part of `count` things that belongs to this rank: neighbours, in the order of the ranks, and no rank has more than one more
    /// than another.
    pub fn share(&self, count: usize) -> Range<usize> {
        share(count, self.rank(), self.size())
    }

    /// Begin to add up numbers over all ranks; every rank gets the sums. All ranks begin the same sums in the same order.
    pub fn sum(&self, values: Vec<f32>) -> Pending<Vec<f32>> {
        match &self.link {
            None => Pending::ready(values),
            Some(link) => Link::run(link, "a sum of gradients", move |ends| ends.sum(values)),
        }
    }

    /// Add up a few numbers over all ranks, in the order of the ranks.
    ///
    /// # Errors
    /// A lost rank.
    pub fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        if self.is_solo() {
            return Ok(());
        }
        let all = self.gather(bytemuck::cast_slice(values).to_vec())?;
        values.fill(0.0);
        for part in &all {
            let part: Vec<f64> = bytemuck::pod_collect_to_vec(part);
            ensure!(part.len() == values.len(), "a sum over {} and {} numbers (a defect of lehr)", values.len(), part.len());
            values.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        Ok(())
    }

    /// The bytes of every rank, in the order of the ranks.
    ///
    /// # Errors
    /// A lost rank.
    pub fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        match &self.link {
            None => Ok(vec![bytes]),
            Some(link) => Link::run(link, "an exchange", move |ends| ends.wire.gather(&bytes)).wait(),
        }
    }

    /// A value of every rank, in the order of the ranks.
    ///
    /// # Errors
    /// A lost rank.
    pub fn gather_values<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<Vec<T>> {
        let all = self.gather(rmp_serde::to_vec_named(value)?)?;
        all.iter().map(|bytes| rmp_serde::from_slice(bytes).context("an exchange of values (a defect of lehr)")).collect()
    }

    /// Rank 0's bytes, on every rank; what the others give is not read.
    ///
    /// # Errors
    /// A lost rank.
    pub fn broadcast(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        match &self.link {
            None => Ok(bytes),
            Some(link) => {
                let send = move |ends: &mut link::Ends| ends.wire.broadcast(&mut bytes).map(|()| bytes);
                Link::run(link, "a broadcast", send).wait()
            }
        }
    }

    /// Wait until every rank has come here.
    ///
    /// # Errors
    /// A lost rank.
    pub fn barrier(&self) -> Result<()> {
        self.gather(Vec::new()).map(|_| ())
    }

    /// The start is over: from here on the other ranks do what rank 0 announces.
    pub fn follow_rank_0(&self) {
        if let Some(link) = &self.link {
            link.health.set_phase(Phase::Between);
        }
    }

    /// On rank 0: say what all ranks do next.
    ///
    /// # Errors
    /// A lost rank.
    pub fn announce<T: Serialize>(&self, kind: &str, with: &T) -> Result<Task<'_>> {
        let Some(link) = &self.link else { return Ok(Task { link: None }) };
        ensure!(self.is_root(), "{kind}: announced by rank {} (a defect of lehr)", self.rank());
        link.health.set_phase(Phase::Working);
        // The kind, a zero, and the rest.
        let mut message = [kind.as_bytes(), &[0]].concat();
        message.extend(rmp_serde::to_vec_named(with)?);
        Link::run(link, "an announcement", move |ends| ends.wire.announce(&message)).wait()?;
        Ok(Task { link: Some(link) })
    }

    /// On the other ranks: wait for what rank 0 announces next, as long as rank 0 lives. What was announced before is done.
    ///
    /// # Errors
    /// Rank 0 is lost.
    pub fn next(&self) -> Result<Announced> {
        let Some(link) = &self.link else { bail!("nobody announces anything to a process by itself (a defect of lehr)") };
        link.health.set_phase(Phase::Between);
        let message = Link::next(link)?;
        let end = message.iter().position(|byte| *byte == 0).unwrap_or(message.len());
        let kind = String::from_utf8_lossy(&message[..end]).into_owned();
        link.health.set_phase(if kind == END { Phase::Over } else { Phase::Working });
        Ok(Announced { kind, with: message.get(end + 1..).unwrap_or_default().to_vec() })
    }

    /// The result of a step of the start that every rank takes: an error on one is an error on all. A rank on which it went well returns
    /// [`Elsewhere`] then, and so does one whose error rank 0 has too; what is wrong on another rank alone names that rank.
    ///
    /// # Errors
    /// This rank's, or [`Elsewhere`].
    pub fn together<T>(&self, result: Result<T>) -> Result<T> {
        let Some(link) = &self.link else { return result };
        let own = result.as_ref().err().map(|error| format!("{error:#}"));
        let all = self.gather_values(&own)?;
        if all.iter().all(Option::is_none) {
            return result;
        }
        link.health.set_phase(Phase::Over);
        let same_as_root = all.first() == Some(&own);
        match result {
            Err(error) if self.is_root() => Err(error),
            Err(error) if !same_as_root => Err(error.context(self.name(self.rank()))),
            _ => Err(Elsewhere.into()),
        }
    }

    /// Refuse ranks that would compute something else than rank 0: every (name, value) must be the same everywhere.
    ///
    /// # Errors
    /// On rank 0, the first that differs, with its rank; [`Elsewhere`] on the others.
    pub fn agree(&self, on: &[(&str, String)]) -> Result<()> {
        let own: Vec<&String> = on.iter().map(|(_, value)| value).collect();
        let own = own.into_iter().cloned().collect::<Vec<String>>();
        let all = self.gather_values(&own)?;
        let differing = |i: usize| all.iter().position(|of| of.get(i) != all[0].get(i));
        let found = on.iter().enumerate().find_map(|(i, (name, _))| {
            let rank = differing(i)?;
            let (other, first) = (all[rank].get(i).map_or("", String::as_str), all[0].get(i).map_or("", String::as_str));
            Some(format!("{name}: {other} on {}, {first} on {}; start all ranks alike", self.name(rank), self.name(0)))
        });
        self.together(match found {
            Some(text) if self.is_root() => Err(anyhow::anyhow!(text)),
            _ => Ok(()),
        })
    }

    /// Ask `asked` now and then whether this rank was told to stop (by a signal), and call `stop` on rank 0 when any rank was.
    pub fn watch_signals(&self, asked: fn() -> bool, stop: fn()) {
        if let Some(link) = &self.link {
            link.health.watch_signals(asked, stop);
        }
    }

    /// What all ranks did together is done, and none waits for another.
    pub fn over(&self) {
        if let Some(link) = &self.link {
            link.health.set_phase(Phase::Over);
        }
    }

    /// On rank 0: the run is over, as `word` says. The others are told, where they wait to be.
    pub fn end(&self, word: &str) {
        let Some(link) = &self.link else { return };
        // Ranks that cannot be told notice by the deadline.
        if self.is_root() && link.health.phase() == Phase::Between && self.announce(END, &word).is_ok() {
            link.health.set_phase(Phase::Over);
        }
    }
}

/// Where the process ends: leave the other ranks in good order, or end them too where they may wait for this one.
pub fn leave(code: i32) {
    #[cfg(all(unix, feature = "mpi"))]
    mpi::leave(code);
    #[cfg(not(all(unix, feature = "mpi")))]
    let _ = code;
}

/// The part of `count` things that belongs to `rank` of `size`; see [`World::share`].
pub fn share(count: usize, rank: usize, size: usize) -> Range<usize> {
    count * rank / size..count * (rank + 1) / size
}

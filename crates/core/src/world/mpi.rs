//! MPI transport, by the `ferrompi` crate. One thread makes every call (`MPI_THREAD_FUNNELED`). Collectives are nonblocking and tested in a
//! loop, which also sends and receives heartbeats.

use super::comm::{Comm, MAX_TURNS, Topology, Transport, back_off};
use super::launch::Launched;
use super::liveness::{Heartbeat, Liveness};
use super::{NotConnected, OtherRankFailed, Phase, World};
use anyhow::{Context as _, Result, bail};
use ferrompi::{Communicator, Mpi, Request, Source, ThreadLevel};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use web_time::Instant;

/// MPI can be initialized once in a process.
static OPENED: OnceLock<Result<World, Failure>> = OnceLock::new();

/// Why there is no world.
#[derive(Clone)]
enum Failure {
    /// MPI cannot be used.
    Unusable(String),
    /// The ranks have not connected in time; a thread is still inside of MPI_Init.
    NotConnected(NotConnected),
    /// Rank 0 reports it.
    OtherRank,
}

/// Tags of point-to-point messages.
const ANNOUNCEMENT: i32 = 1;
const HEARTBEAT: i32 = 2;
const SCATTERED: i32 = 3;
const GATHERED: i32 = 4;
/// Time in which a rank reports that others have not connected.
const START_REPORT_TIME: Duration = Duration::from_secs(3);
/// Maximum bytes of one broadcast.
const BROADCAST_CHUNK: usize = 64 << 20;

/// The ranks of the launcher; a single process after they have ended their communication.
pub(super) fn open(launched: &Launched) -> Result<World> {
    let opened = OPENED.get_or_init(|| start(launched));
    match opened.clone() {
        Ok(World { comm: Some(comm) }) if comm.has_ended.load(Ordering::SeqCst) => Ok(World::solo()),
        Ok(world) => Ok(world),
        Err(Failure::Unusable(text)) => bail!(text),
        Err(Failure::NotConnected(error)) => Err(error.into()),
        Err(Failure::OtherRank) => Err(OtherRankFailed.into()),
    }
}

/// The world, if it was opened.
pub(super) fn opened() -> World {
    OPENED.get().and_then(|opened| opened.as_ref().ok()).cloned().unwrap_or_default()
}

fn start(launched: &Launched) -> Result<World, Failure> {
    let liveness = Arc::new(Liveness::new());
    let (shared, copy) = (Arc::clone(&liveness), launched.clone());
    let timeout = liveness.start_timeout();
    let started = Comm::start(liveness, move || {
        let mut transport = Ranks::new(shared)?;
        if let Some(text) = copy.other_size(transport.size(), &library()) {
            bail!("{text}");
        }
        let topology = transport.topology()?;
        Ok((transport, topology))
    });
    let rank = launched.rank.unwrap_or(0);
    match started {
        Ok(None) => {
            // The lowest rank ends the others by its exit.
            std::thread::sleep(START_REPORT_TIME * rank.min(MAX_TURNS) as u32);
            Err(Failure::NotConnected(NotConnected { rank, seconds: timeout.as_secs_f64() }))
        }
        // With a size from the launcher, rank 0 finds it too.
        Err(_) if rank > 0 && launched.size.is_some() => Err(Failure::OtherRank),
        Err(error) => Err(Failure::Unusable(format!("{error:#}"))),
        Ok(Some(comm)) if comm.topology.hosts.len() == 1 => {
            comm.liveness.set_phase(Phase::Done);
            comm.finalize(0);
            Ok(World::solo())
        }
        Ok(Some(comm)) => Ok(World { comm: Some(Arc::new(comm)) }),
    }
}

/// See [`super::finalize`].
pub(super) fn finalize(code: i32) -> i32 {
    match OPENED.get() {
        Some(Ok(World { comm: Some(comm) })) => comm.finalize(code),
        // Functions that the MPI library calls at exit may wait for MPI_Init.
        Some(Err(Failure::NotConnected(_))) => signal_hook::low_level::exit(code),
        _ => code,
    }
}

fn library() -> String {
    let text = Mpi::library_version().unwrap_or_default();
    // MPICH adds its whole configuration.
    text.lines().next().unwrap_or_default().split(',').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Ranks {
    /// `None` after finalization.
    mpi: Option<Mpi>,
    world: Communicator,
    liveness: Arc<Liveness>,
    /// Time of this rank's last heartbeat.
    sent: Instant,
    /// SIGUSR1 has arrived: mpirun forwards it, and batch systems can send it before the time limit.
    usr1: Arc<AtomicBool>,
}

impl Ranks {
    fn new(liveness: Arc<Liveness>) -> Result<Self> {
        let mpi = Mpi::init_thread(ThreadLevel::Funneled).context("MPI cannot be initialized")?;
        let world = mpi.world();
        liveness.expect(world.size() as usize);
        liveness.start_clock()?;
        let usr1 = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&usr1)).context("SIGUSR1")?;
        Ok(Self { mpi: Some(mpi), world, liveness, sent: Instant::now(), usr1 })
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn topology(&mut self) -> Result<Topology> {
        let local = self.world.split_shared()?;
        let host = self.world.processor_name()?;
        let hosts = self.all_gather(host.as_bytes())?.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let (local_rank, local_size) = (local.rank() as usize, local.size() as usize);
        Ok(Topology { rank: self.rank(), local_rank, local_size, hosts, library: library() })
    }

    /// Send a heartbeat if it is due, and receive those of other ranks.
    fn exchange_heartbeats(&mut self) -> Result<()> {
        if self.usr1.load(Ordering::SeqCst) {
            self.liveness.stop();
        }
        let (heartbeat, is_new) = self.liveness.own_heartbeat();
        if is_new || self.sent.elapsed() >= self.liveness.interval() {
            self.sent = Instant::now();
            for to in (0..self.size()).filter(|to| *to != self.rank()) {
                self.world.send(&heartbeat, to as i32, HEARTBEAT)?;
            }
        }
        while let Some(status) = self.world.iprobe::<u64>(Source::Any, HEARTBEAT)? {
            let mut heartbeat = Heartbeat::default();
            let status = self.world.recv(&mut heartbeat, status.source, HEARTBEAT)?;
            if let Source::Rank(from) = status.source {
                self.liveness.receive(from as usize, heartbeat, self.rank() == 0);
            }
        }
        Ok(())
    }

    /// Test a request until it completes.
    fn finish(&mut self, mut request: Request<'_>) -> ferrompi::Result<()> {
        let (begin, mut tests) = (Instant::now(), 0u32);
        while request.test()?.is_none() {
            tests = tests.wrapping_add(1);
            let waited = begin.elapsed();
            if let Some(code) = self.liveness.abort() {
                self.world.abort(code);
            }
            if tests.is_multiple_of(64) || waited.as_secs() > 0 {
                // If a heartbeat cannot be sent, the collective fails too.
                let _ = self.exchange_heartbeats();
            }
            back_off(waited);
        }
        Ok(())
    }
}

/// Counts and displacements of the parts between cuts.
fn parts(cuts: &[usize]) -> (Vec<i32>, Vec<i32>) {
    cuts.windows(2).map(|cut| ((cut[1] - cut[0]) as i32, cut[0] as i32)).unzip()
}

/// The other ranks, the next one first, so that not all ranks send to the same one.
fn other_ranks(rank: usize, size: usize) -> impl Iterator<Item = usize> {
    (1..size).map(move |i| (rank + i) % size)
}

impl Transport for Ranks {
    // Messages instead of MPI's collectives, which would copy this rank's part.
    fn all_to_all(&mut self, send: &[f32], pieces: &[Vec<usize>], mut received: &mut [f32]) -> Result<()> {
        let (size, rank, world) = (self.size(), self.rank(), self.communicator()?);
        ferrompi::scope(|s| {
            let mut requests = Vec::new();
            for cuts in pieces {
                for from in 0..size {
                    let (part, rest) = std::mem::take(&mut received).split_at_mut(cuts[rank + 1] - cuts[rank]);
                    received = rest;
                    if from != rank {
                        requests.push(world.irecv(s, part, Source::Rank(from as i32), SCATTERED)?);
                    }
                }
                for to in other_ranks(rank, size) {
                    requests.push(world.isend(s, &send[cuts[to]..cuts[to + 1]], to as i32, SCATTERED)?);
                }
            }
            requests.into_iter().try_for_each(|request| self.finish(request))
        })?;
        Ok(())
    }

    fn all_gather_in_place(&mut self, mut all: &mut [f32], pieces: &[Vec<usize>]) -> Result<()> {
        let (size, rank, world) = (self.size(), self.rank(), self.communicator()?);
        ferrompi::scope(|s| {
            let mut requests = Vec::new();
            for cuts in pieces {
                let mut own: &[f32] = &[];
                for from in 0..size {
                    let (part, rest) = std::mem::take(&mut all).split_at_mut(cuts[from + 1] - cuts[from]);
                    all = rest;
                    match from == rank {
                        true => own = part,
                        false => requests.push(world.irecv(s, part, Source::Rank(from as i32), GATHERED)?),
                    }
                }
                for to in other_ranks(rank, size) {
                    requests.push(world.isend(s, own, to as i32, GATHERED)?);
                }
            }
            requests.into_iter().try_for_each(|request| self.finish(request))
        })?;
        Ok(())
    }

    fn all_gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (len, mut lens) = ([own.len() as u64], vec![0u64; self.size()]);
        let world = self.communicator()?;
        ferrompi::scope(|s| {
            let request = world.iallgather(s, &len, &mut lens)?;
            self.finish(request)
        })?;
        let mut cuts = vec![0usize];
        lens.iter().for_each(|len| cuts.push(cuts[cuts.len() - 1] + *len as usize));
        let whole = cuts[cuts.len() - 1];
        if whole > i32::MAX as usize {
            bail!("all-gather of {whole} bytes: MPI counts allow 2 GiB");
        }
        let ((counts, offsets), mut all) = (parts(&cuts), vec![0u8; whole]);
        if whole > 0 {
            ferrompi::scope(|s| {
                let request = world.iallgatherv(s, own, &mut all, &counts, &offsets)?;
                self.finish(request)
            })?;
        }
        Ok(cuts.windows(2).map(|cut| all[cut[0]..cut[1]].to_vec()).collect())
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let (mut len, world) = ([bytes.len() as u64], self.communicator()?);
        ferrompi::scope(|s| {
            let request = world.ibroadcast(s, &mut len, 0)?;
            self.finish(request)
        })?;
        bytes.resize(len[0] as usize, 0);
        for chunk in bytes.chunks_mut(BROADCAST_CHUNK) {
            ferrompi::scope(|s| {
                let request = world.ibroadcast(s, chunk, 0)?;
                self.finish(request)
            })?;
        }
        Ok(())
    }

    fn broadcast_command(&mut self, message: &[u8]) -> Result<()> {
        let world = self.communicator()?;
        for to in 1..self.size() {
            ferrompi::scope(|s| {
                let request = world.isend(s, message, to as i32, ANNOUNCEMENT)?;
                self.finish(request)
            })?;
        }
        Ok(())
    }

    fn poll_command(&mut self) -> Result<Option<Vec<u8>>> {
        self.exchange_heartbeats()?;
        let Some(status) = self.world.iprobe::<u8>(Source::Rank(0), ANNOUNCEMENT)? else { return Ok(None) };
        let mut message = vec![0u8; status.count.unwrap_or_default()];
        self.world.recv(&mut message, Source::Rank(0), ANNOUNCEMENT)?;
        Ok(Some(message))
    }

    fn poll(&mut self) -> Result<()> {
        if self.mpi.is_some() { self.exchange_heartbeats() } else { Ok(()) }
    }

    fn finalize(&mut self, mut code: i32) -> Result<i32> {
        if self.mpi.is_some() && self.size() > 1 {
            let all = self.all_gather(&code.to_le_bytes())?;
            let codes = all.iter().filter_map(|bytes| Some(i32::from_le_bytes(bytes.as_slice().try_into().ok()?)));
            code = codes.max().unwrap_or(code);
            // Receive pending heartbeats: MPI requires that no message is left.
            self.sent = Instant::now();
            self.exchange_heartbeats()?;
        }
        self.mpi = None;
        Ok(code)
    }

    fn abort(&mut self, code: i32) {
        if self.mpi.is_some() {
            self.world.abort(code.max(1));
        }
    }
}

impl Ranks {
    /// MPI_COMM_WORLD, not borrowed from `self`.
    fn communicator(&self) -> Result<Communicator> {
        self.mpi.as_ref().map(Mpi::world).context("MPI is finalized already")
    }
}

//! Ranks over MPI, by the `ferrompi` crate. One thread makes every call (`MPI_THREAD_FUNNELED`); exchanges are started without blocking and
//! tested, so that signs of life are sent and heard meanwhile.

use super::World;
use super::health::{Beat, Health};
use super::launch::Launched;
use super::link::{Link, Place, Wire, rest};
use anyhow::{Context as _, Result, bail};
use ferrompi::{Communicator, Mpi, Request, Source, ThreadLevel};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use web_time::Instant;

/// MPI starts once in a process.
static OPENED: OnceLock<Result<World, String>> = OnceLock::new();

/// Tags of messages beside the exchanges.
const ANNOUNCEMENT: i32 = 1;
const BEAT: i32 = 2;
/// Bytes of a broadcast at once.
const PIECE: usize = 64 << 20;

/// The ranks that the launcher started.
pub(super) fn open(launched: &Launched) -> Result<World> {
    let opened = OPENED.get_or_init(|| start(launched).map_err(|error| format!("{error:#}")));
    opened.clone().map_err(|text| anyhow::anyhow!(text))
}

fn start(launched: &Launched) -> Result<World> {
    let health = Arc::new(Health::new());
    let (of_wire, launched) = (Arc::clone(&health), launched.clone());
    let link = Link::start(health, move || {
        let mut wire = Ranks::new(of_wire)?;
        if let Some(text) = launched.other_size(wire.size(), &library()) {
            bail!("{text}");
        }
        let place = wire.place()?;
        Ok((wire, place))
    })?;
    // One rank is a process by itself, which needs nobody.
    let is_one = link.place.hosts.len() == 1;
    if is_one {
        link.health.set_phase(super::Phase::Over);
        link.leave(0);
    }
    Ok(World { link: (!is_one).then(|| Arc::new(link)) })
}

/// At the end of the process.
pub(super) fn leave(code: i32) {
    if let Some(Ok(World { link: Some(link) })) = OPENED.get() {
        link.leave(code);
    }
}

fn library() -> String {
    let text = Mpi::library_version().unwrap_or_default();
    // MPICH tells its whole configuration.
    text.lines().next().unwrap_or_default().split(',').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Ranks {
    /// `None` once it was left.
    mpi: Option<Mpi>,
    world: Communicator,
    health: Arc<Health>,
    /// When this rank last gave a sign of life.
    told: Instant,
    /// SIGUSR1 came: what mpirun passes on, and what batch systems are often told to send before the time is up.
    warned: Arc<AtomicBool>,
}

impl Ranks {
    fn new(health: Arc<Health>) -> Result<Self> {
        let mpi = Mpi::init_thread(ThreadLevel::Funneled).context("MPI does not start")?;
        let world = mpi.world();
        health.expect(world.size() as usize);
        let warned = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&warned)).context("SIGUSR1")?;
        Ok(Self { mpi: Some(mpi), world, health, told: Instant::now(), warned })
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn place(&mut self) -> Result<Place> {
        let local = self.world.split_shared()?;
        let host = self.world.processor_name()?;
        let hosts = self.gather(host.as_bytes())?.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let (local_rank, local_size) = (local.rank() as usize, local.size() as usize);
        Ok(Place { rank: self.rank(), local_rank, local_size, hosts, library: library() })
    }

    /// Tell the others that this rank lives, where it is time, and hear of them.
    fn pulse(&mut self) -> Result<()> {
        if self.warned.load(Ordering::SeqCst) {
            self.health.stop();
        }
        let (beat, is_new) = self.health.own();
        if is_new || self.told.elapsed() >= self.health.every() {
            self.told = Instant::now();
            for to in (0..self.size()).filter(|to| *to != self.rank()) {
                self.world.send(&beat, to as i32, BEAT)?;
            }
        }
        while let Some(status) = self.world.iprobe::<u64>(Source::Any, BEAT)? {
            let mut beat: Beat = [0; 2];
            let status = self.world.recv(&mut beat, status.source, BEAT)?;
            if let Source::Rank(from) = status.source {
                self.health.heard(from as usize, beat, self.rank() == 0);
            }
        }
        Ok(())
    }

    /// Test until the exchange is over.
    fn finish(&mut self, mut request: Request<'_>) -> ferrompi::Result<()> {
        let (begin, mut looks) = (Instant::now(), 0u32);
        while request.test()?.is_none() {
            looks = looks.wrapping_add(1);
            let waited = begin.elapsed();
            if let Some(code) = self.health.abort() {
                self.world.abort(code);
            }
            if looks.is_multiple_of(64) || waited.as_secs() > 0 {
                // A sign of life that cannot be sent is an exchange that fails next.
                let _ = self.pulse();
            }
            rest(waited);
        }
        Ok(())
    }
}

/// Lengths and offsets of the parts between cuts.
fn parts(cuts: &[usize]) -> (Vec<i32>, Vec<i32>) {
    cuts.windows(2).map(|cut| ((cut[1] - cut[0]) as i32, cut[0] as i32)).unzip()
}

impl Wire for Ranks {
    fn exchange(&mut self, send: &[f32], cuts: &[usize], received: &mut [f32]) -> Result<()> {
        let (counts, offsets) = parts(cuts);
        let len = counts[self.rank()];
        let (own, places) = (vec![len; self.size()], (0..self.size() as i32).map(|from| from * len).collect::<Vec<_>>());
        let world = self.world_again()?;
        ferrompi::scope(|s| {
            let request = world.ialltoallv(s, send, &counts, &offsets, received, &own, &places)?;
            self.finish(request)
        })?;
        Ok(())
    }

    fn collect(&mut self, own: &[f32], cuts: &[usize], all: &mut [f32]) -> Result<()> {
        let (counts, offsets) = parts(cuts);
        let world = self.world_again()?;
        ferrompi::scope(|s| {
            let request = world.iallgatherv(s, own, all, &counts, &offsets)?;
            self.finish(request)
        })?;
        Ok(())
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (len, mut lens) = ([own.len() as u64], vec![0u64; self.size()]);
        let world = self.world_again()?;
        ferrompi::scope(|s| {
            let request = world.iallgather(s, &len, &mut lens)?;
            self.finish(request)
        })?;
        let mut cuts = vec![0usize];
        lens.iter().for_each(|len| cuts.push(cuts[cuts.len() - 1] + *len as usize));
        let whole = cuts[cuts.len() - 1];
        if whole > i32::MAX as usize {
            bail!("{whole} bytes in one exchange; at most 2 GiB");
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
        let (mut len, world) = ([bytes.len() as u64], self.world_again()?);
        ferrompi::scope(|s| {
            let request = world.ibroadcast(s, &mut len, 0)?;
            self.finish(request)
        })?;
        bytes.resize(len[0] as usize, 0);
        for piece in bytes.chunks_mut(PIECE) {
            ferrompi::scope(|s| {
                let request = world.ibroadcast(s, piece, 0)?;
                self.finish(request)
            })?;
        }
        Ok(())
    }

    fn announce(&mut self, message: &[u8]) -> Result<()> {
        let world = self.world_again()?;
        for to in 1..self.size() {
            ferrompi::scope(|s| {
                let request = world.isend(s, message, to as i32, ANNOUNCEMENT)?;
                self.finish(request)
            })?;
        }
        Ok(())
    }

    fn announced(&mut self) -> Result<Option<Vec<u8>>> {
        self.pulse()?;
        let Some(status) = self.world.iprobe::<u8>(Source::Rank(0), ANNOUNCEMENT)? else { return Ok(None) };
        let mut message = vec![0u8; status.count.unwrap_or_default()];
        self.world.recv(&mut message, Source::Rank(0), ANNOUNCEMENT)?;
        Ok(Some(message))
    }

    fn idle(&mut self) -> Result<()> {
        if self.mpi.is_some() { self.pulse() } else { Ok(()) }
    }

    fn leave(&mut self) -> Result<()> {
        if self.mpi.is_some() && self.size() > 1 {
            self.gather(&[])?;
            // What was sent before the others came here is taken, as MPI wants it.
            self.told = Instant::now();
            self.pulse()?;
        }
        self.mpi = None;
        Ok(())
    }

    fn abort(&mut self, code: i32) {
        if self.mpi.is_some() {
            self.world.abort(code.max(1));
        }
    }
}

impl Ranks {
    /// The communicator, apart from `self`.
    fn world_again(&self) -> Result<Communicator> {
        self.mpi.as_ref().map(Mpi::world).context("MPI was left already")
    }
}

//! All-reduce of gradients and statistics; broadcast and comparison of weights.

use crate::device::{ALIGN, Arena, Device, Kind, ReadRing, Recording, Tensor};
use crate::world::{Pending, World};
use anyhow::Result;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Elements per all-reduce: while one chunk is in flight, the next is read and the previous one written.
pub const CHUNK: usize = 1 << 20;
/// Chunks that are read from a GPU at once.
const READS: usize = 3;
/// Chunks in flight: those read most recently are still in the processor's cache.
const IN_FLIGHT: usize = 2;
/// Chunks in flight during a backward pass (256 MiB): a slow network must not stop it.
const IN_FLIGHT_DURING_PASS: usize = 64;

/// Sums the gradients of all ranks.
pub(super) struct GradientReducer {
    world: World,
    /// The chunks of the gradients in the order in which the backward pass completes them, each with the number of its commands until
    /// then. The order is the same on all ranks.
    chunks: Vec<(Tensor, usize)>,
    /// Whether chunks are summed during the backward pass.
    overlaps: bool,
    /// Additive statistics of an update: `ops::objective::stats`.
    stats: Tensor,
    buffers: Mutex<Buffers>,
}

/// Memory of chunks, used again in each update.
struct Buffers {
    ring: ReadRing,
    free: Vec<Vec<f32>>,
}

/// Chunks being read, and chunks being summed, oldest first.
#[derive(Default)]
struct InFlight<'a> {
    reading: VecDeque<&'a Tensor>,
    summing: VecDeque<(&'a Tensor, Pending<Vec<f32>>)>,
}

impl GradientReducer {
    /// `pass` is the recording of a micro-batch, if one recording is used for all.
    pub fn new(device: &Device, world: World, grads: &Arena, stats: &Tensor, pass: Option<&Recording>) -> Self {
        let overlaps = overlaps(device, &world);
        Self::in_chunks(device, world, (grads, CHUNK), stats, (pass, overlaps))
    }

    fn in_chunks(
        device: &Device,
        world: World,
        (grads, chunk): (&Arena, usize),
        stats: &Tensor,
        (pass, overlaps): (Option<&Recording>, bool),
    ) -> Self {
        let after = |chunk: &Tensor| pass.map_or(0, |pass| pass.final_after(chunk));
        let mut chunks: Vec<_> = chunks(grads, chunk).map(|chunk| (chunk.clone(), after(&chunk))).collect();
        // Stable, so that chunks that are complete at the same time keep their order.
        chunks.sort_by_key(|(_, after)| *after);
        let most = chunks.iter().map(|(chunk, _)| chunk.len()).max().unwrap_or(0);
        let buffers = Mutex::new(Buffers { ring: ReadRing::new(device, most, READS), free: Vec::new() });
        Self { world, chunks, overlaps, stats: stats.clone(), buffers }
    }

    /// Offsets within the gradients cannot be compared between devices, but number, order and sizes of the chunks.
    pub fn layout(&self) -> Vec<usize> {
        self.chunks.iter().map(|(chunk, _)| chunk.len()).collect()
    }

    /// Replay `pass`, the last backward pass of this update, and replace gradients and statistics by their sums over all ranks, before norm,
    /// clip and gate. A value that is not finite on one rank is not finite in the sum, so all ranks skip the same updates.
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub fn sum(&self, device: &Device, pass: Option<&Recording>) -> Result<()> {
        if let Some(pass) = pass.filter(|_| !self.overlaps) {
            device.replay(pass)?;
            return self.sum(device, None);
        }
        let most = if pass.is_some() { IN_FLIGHT_DURING_PASS } else { IN_FLIGHT };
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut in_flight, mut done) = (InFlight::default(), 0);
        for (chunk, after) in &self.chunks {
            if let Some(pass) = pass.filter(|_| *after > done) {
                device.replay_part(pass, done..*after)?;
                done = *after;
            }
            in_flight.read(device, chunk, &self.world, &mut buffers)?;
            in_flight.write(device, most, &mut buffers)?;
        }
        if let Some(pass) = pass.filter(|pass| done < pass.len()) {
            device.replay_part(pass, done..pass.len())?;
        }
        while !in_flight.reading.is_empty() {
            in_flight.start(device, &self.world, &mut buffers)?;
        }
        in_flight.write(device, 0, &mut buffers)?;
        let stats: Vec<f32> = device.read(&self.stats)?;
        let mut sums: Vec<f64> = stats.into_iter().map(f64::from).collect();
        self.world.all_reduce_f64(&mut sums)?;
        device.write(&self.stats, &sums.into_iter().map(|x| x as f32).collect::<Vec<_>>());
        Ok(())
    }
}

impl<'a> InFlight<'a> {
    /// Request a chunk from the device; start the all-reduce of those that have been read.
    fn read(&mut self, device: &Device, chunk: &'a Tensor, world: &World, buffers: &mut Buffers) -> Result<()> {
        // Pending work of a GPU is not waited for, unless all its read buffers are in use.
        if self.reading.len() == READS {
            self.start(device, world, buffers)?;
        }
        buffers.ring.request(device, chunk);
        self.reading.push_back(chunk);
        if buffers.ring.is_immediate() { self.start(device, world, buffers) } else { Ok(()) }
    }

    /// Start the all-reduce of the oldest chunk that was requested.
    fn start(&mut self, device: &Device, world: &World, buffers: &mut Buffers) -> Result<()> {
        let Some(chunk) = self.reading.pop_front() else { return Ok(()) };
        let mut values = buffers.free.pop().unwrap_or_default();
        buffers.ring.take_into(device, &mut values)?;
        values.truncate(chunk.len());
        self.summing.push_back((chunk, world.all_reduce(values)));
        Ok(())
    }

    /// Write the sums that have arrived, and wait until at most `most` are in flight.
    fn write(&mut self, device: &Device, most: usize, buffers: &mut Buffers) -> Result<()> {
        while let Some((_, sums)) = self.summing.front_mut() {
            let has_arrived = sums.has_arrived();
            if !has_arrived && self.summing.len() <= most {
                break;
            }
            let Some((chunk, sums)) = self.summing.pop_front() else { break };
            let sums = sums.wait()?;
            device.write(chunk, &sums);
            buffers.free.push(sums);
        }
        Ok(())
    }
}

/// Whether to sum gradients that are complete while the backward pass continues; results do not depend on it. `LEHR_OVERLAP=on` or `off` sets
/// it, for measurements.
///
/// Between ranks of one host the processor copies the data: on the CPU, the all-reduce takes that time from the backward pass.
fn overlaps(device: &Device, world: &World) -> bool {
    match std::env::var("LEHR_OVERLAP").as_deref() {
        Ok("on") => true,
        Ok("off") => false,
        _ => device.kind() == Kind::Gpu || world.local_size() < world.size(),
    }
}

/// An arena in chunks of at most `most` elements.
fn chunks(arena: &Arena, most: usize) -> impl Iterator<Item = Tensor> + '_ {
    const { assert!(CHUNK.is_multiple_of(ALIGN)) };
    arena.segments().flat_map(move |(segment, _)| {
        let ranges = (0..segment.len()).step_by(most).map(move |start| start..(start + most).min(segment.len()));
        ranges.map(|range: Range<usize>| segment.slice(range))
    })
}

/// Broadcast an arena from rank 0.
///
/// # Errors
/// A lost rank, or a device fault.
pub(super) fn broadcast_arena(world: &World, device: &Device, arena: &Arena) -> Result<()> {
    for chunk in chunks(arena, CHUNK) {
        let own: Vec<u32> = if world.is_root() { device.read(&chunk)? } else { Vec::new() };
        let bytes = world.broadcast(bytemuck::cast_slice(&own).to_vec())?;
        if !world.is_root() {
            device.write(&chunk, &bytes);
        }
    }
    Ok(())
}

/// The ranks whose arenas differ from rank 0's in any bit.
///
/// # Errors
/// A lost rank, or a device fault.
pub(super) fn ranks_that_differ<'a>(
    world: &World,
    device: &Device,
    arenas: impl Iterator<Item = &'a Arena>,
) -> Result<Vec<usize>> {
    let mut hash = 0u64;
    for chunk in arenas.flat_map(|arena| chunks(arena, CHUNK)) {
        let bits: Vec<u32> = device.read(&chunk)?;
        // Not cryptographic: errors are random.
        for bits in bits {
            hash = (hash.rotate_left(5) ^ u64::from(bits)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
    let all = world.all_gather_values(&hash)?;
    Ok((0..all.len()).filter(|rank| all[*rank] != all[0]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{ArenaLayout, Recorder};
    use std::sync::Arc;

    /// Sums in several chunks, during the pass and after it, are f64 sums in rank order of the last value that the pass writes, in each of
    /// three updates; the order of chunks is that of their completion.
    #[test]
    fn gradients_are_summed_when_they_are_complete() {
        for (ranks, overlaps) in [(2, true), (3, true), (3, false)] {
            World::on_threads(ranks, |world| check(&world, overlaps)).unwrap();
        }
    }

    fn check(world: &World, overlaps: bool) {
        let device = Device::open_named(None).unwrap();
        let shapes = [vec![40, 8], vec![64, 16], vec![100]];
        let grads = Arena::new(&device, "grads", Arc::new(ArenaLayout::new(&shapes, 1 << 20)));
        let tensors: Vec<Tensor> = (0..3).map(|i| grads.tensor(i, "weights")).collect();
        let last: Vec<Tensor> = shapes.iter().map(|shape| Tensor::new(&device, "test", "last", shape)).collect();
        let early: Vec<Tensor> = shapes.iter().map(|shape| Tensor::new(&device, "test", "early", shape)).collect();
        let stats = Tensor::new(&device, "test", "stats", &[4]);
        let mut r = Recorder::new(&device, "test");
        // The last tensor is complete first; the first two receive other values before.
        for (from, to) in [(&early, 0), (&last, 2), (&early, 1), (&last, 1), (&last, 0)] {
            r.copy(&from[to], &tensors[to]);
        }
        let pass = r.finish().unwrap();
        let reducer = GradientReducer::in_chunks(&device, world.clone(), (&grads, 256), &stats, (Some(&pass), overlaps));
        // 320 + 1024 + 128 elements: the third to fifth chunk have elements of the second tensor only, the last those of the third too.
        assert_eq!(reducer.chunks.iter().map(|(_, after)| *after).collect::<Vec<_>>(), [4, 4, 4, 4, 5, 5]);
        assert_eq!(reducer.layout(), [256, 256, 256, 192, 256, 256]);
        let value = |rank: usize, tensor: usize, i: usize, update: usize| {
            (1 + rank) as f32 * 0.1 + tensor as f32 - i as f32 / 7.0 + update as f32 * 1e-3
        };
        let of = |rank: usize, tensor: usize, update: usize| -> Vec<f32> {
            (0..last[tensor].len()).map(|i| value(rank, tensor, i, update)).collect()
        };
        for update in 0..3 {
            for i in 0..3 {
                device.write(&last[i], &of(world.rank(), i, update));
                device.write(&early[i], &vec![f32::NAN; early[i].len()]);
            }
            device.write(&stats, &[world.rank() as f32; 4]);
            reducer.sum(&device, Some(&pass)).unwrap();
            for (i, tensor) in tensors.iter().enumerate() {
                let all: Vec<Vec<f32>> = (0..world.size()).map(|rank| of(rank, i, update)).collect();
                let sum = |at: usize| all.iter().map(|of| f64::from(of[at])).sum::<f64>() as f32;
                let want: Vec<f32> = (0..tensor.len()).map(sum).collect();
                assert_eq!(device.read::<f32>(tensor).unwrap(), want, "tensor {i}, update {update}");
            }
            assert_eq!(device.read::<f32>(&stats).unwrap(), [(0..world.size()).sum::<usize>() as f32; 4]);
        }
    }
}

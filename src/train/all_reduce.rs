//! All-reduce of gradients and statistics; broadcast and comparison of weights.

use crate::device::{ALIGN, Arena, Device, ReadRing, Tensor};
use crate::world::World;
use anyhow::Result;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Elements per all-reduce: while one chunk is in flight, the next is read and the previous one written.
pub const CHUNK: usize = 1 << 20;
/// Chunks that stay in flight while the next is read.
const IN_FLIGHT: usize = 2;

/// Sums the gradients of all ranks.
pub(super) struct GradientReducer {
    pub world: World,
    chunks: Vec<Tensor>,
    /// Additive statistics of an update: `ops::objective::stats`.
    stats: Tensor,
    ring: Mutex<ReadRing>,
}

impl GradientReducer {
    pub fn new(device: &Device, world: World, grads: &Arena, stats: &Tensor) -> Self {
        let chunks: Vec<Tensor> = chunks(grads).collect();
        let most = chunks.iter().map(Tensor::len).max().unwrap_or(0);
        Self { world, chunks, stats: stats.clone(), ring: Mutex::new(ReadRing::new(device, most, 2)) }
    }

    /// Replace gradients and statistics by their sums over all ranks, before norm, clip and gate. A value that is not finite on one rank is
    /// not finite in the sum, so all ranks skip the same updates.
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub fn sum(&self, device: &Device) -> Result<()> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut in_flight = VecDeque::new();
        let write = |(chunk, sums): (&Tensor, crate::world::Pending<Vec<f32>>)| -> Result<()> {
            device.write(chunk, &sums.wait()?);
            Ok(())
        };
        self.chunks.first().into_iter().for_each(|chunk| ring.ask(device, chunk));
        for (i, chunk) in self.chunks.iter().enumerate() {
            self.chunks.get(i + 1).into_iter().for_each(|next| ring.ask(device, next));
            let mut values: Vec<f32> = ring.take(device)?;
            values.truncate(chunk.len());
            in_flight.push_back((chunk, self.world.all_reduce(values)));
            if in_flight.len() > IN_FLIGHT {
                in_flight.pop_front().map_or(Ok(()), &write)?;
            }
        }
        in_flight.into_iter().try_for_each(write)?;
        let stats: Vec<f32> = device.read(&self.stats)?;
        let mut sums: Vec<f64> = stats.into_iter().map(f64::from).collect();
        self.world.all_reduce_f64(&mut sums)?;
        device.write(&self.stats, &sums.into_iter().map(|x| x as f32).collect::<Vec<_>>());
        Ok(())
    }
}

/// An arena in chunks.
fn chunks(arena: &Arena) -> impl Iterator<Item = Tensor> + '_ {
    const { assert!(CHUNK.is_multiple_of(ALIGN)) };
    arena.segments().flat_map(|(segment, _)| {
        let ranges = (0..segment.len()).step_by(CHUNK).map(|start| start..(start + CHUNK).min(segment.len()));
        ranges.map(|range: Range<usize>| segment.slice(range))
    })
}

/// Broadcast an arena from rank 0.
///
/// # Errors
/// A lost rank, or a device fault.
pub(super) fn broadcast_arena(world: &World, device: &Device, arena: &Arena) -> Result<()> {
    for chunk in chunks(arena) {
        let own: Vec<u32> = if world.is_root() { device.read(&chunk)? } else { Vec::new() };
        let bytes = world.broadcast(bytemuck::cast_slice(&own).to_vec())?;
        if !world.is_root() {
            device.write(&chunk, &bytes);
        }
    }
    Ok(())
}

/// The ranks whose arena differs from rank 0's in any bit.
///
/// # Errors
/// A lost rank, or a device fault.
pub(super) fn ranks_that_differ(world: &World, device: &Device, arena: &Arena) -> Result<Vec<usize>> {
    let mut hash = 0u64;
    for chunk in chunks(arena) {
        let bits: Vec<u32> = device.read(&chunk)?;
        // Not cryptographic: errors are random.
        for bits in bits {
            hash = (hash.rotate_left(5) ^ u64::from(bits)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
    let all = world.all_gather_values(&hash)?;
    Ok((0..all.len()).filter(|rank| all[*rank] != all[0]).collect())
}

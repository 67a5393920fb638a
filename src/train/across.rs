//! Sums over the ranks of a world: gradients and statistics of an update, and weights that all ranks hold alike.

use crate::device::{ALIGN, Arena, Device, ReadRing, Tensor};
use crate::world::World;
use anyhow::Result;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Numbers that are read, sent and written at once: while one piece is on its way, the next is read and the one before written.
const PIECE: usize = 1 << 20;
/// Pieces on their way.
const UNDER_WAY: usize = 2;

/// What a rank needs to add up its gradients with those of the others.
pub(super) struct Across {
    pub world: World,
    pieces: Vec<Tensor>,
    /// The additive numbers of an update: `ops::objective::stats`.
    stats: Tensor,
    ring: Mutex<ReadRing>,
}

impl Across {
    pub fn new(device: &Device, world: World, grads: &Arena, stats: &Tensor) -> Self {
        let pieces: Vec<Tensor> = pieces(grads).collect();
        let most = pieces.iter().map(Tensor::len).max().unwrap_or(0);
        Self { world, pieces, stats: stats.clone(), ring: Mutex::new(ReadRing::new(device, most, 2)) }
    }

    /// Replace gradients and statistics by their sums over all ranks: before norm, clip and gate. A number that is not finite on one rank
    /// is so on all, which skip the update together.
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub fn sum(&self, device: &Device) -> Result<()> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut coming = VecDeque::new();
        let write = |(piece, sums): (&Tensor, crate::world::Pending<Vec<f32>>)| -> Result<()> {
            device.write(piece, &sums.wait()?);
            Ok(())
        };
        self.pieces.first().into_iter().for_each(|piece| ring.ask(device, piece));
        for (i, piece) in self.pieces.iter().enumerate() {
            self.pieces.get(i + 1).into_iter().for_each(|next| ring.ask(device, next));
            let mut values: Vec<f32> = ring.take(device)?;
            values.truncate(piece.len());
            coming.push_back((piece, self.world.sum(values)));
            if coming.len() > UNDER_WAY {
                coming.pop_front().map_or(Ok(()), &write)?;
            }
        }
        coming.into_iter().try_for_each(write)?;
        let stats: Vec<f32> = device.read(&self.stats)?;
        let mut sums: Vec<f64> = stats.into_iter().map(f64::from).collect();
        self.world.sum_f64(&mut sums)?;
        device.write(&self.stats, &sums.into_iter().map(|x| x as f32).collect::<Vec<_>>());
        Ok(())
    }
}

/// An arena in pieces.
fn pieces(arena: &Arena) -> impl Iterator<Item = Tensor> + '_ {
    const { assert!(PIECE.is_multiple_of(ALIGN)) };
    arena.segments().flat_map(|(segment, _)| {
        let ranges = (0..segment.len()).step_by(PIECE).map(|start| start..(start + PIECE).min(segment.len()));
        ranges.map(|range: Range<usize>| segment.slice(range))
    })
}

/// Rank 0's numbers into the same arena of every rank.
///
/// # Errors
/// A lost rank, or a device fault.
pub(super) fn copy_of_rank_0(world: &World, device: &Device, arena: &Arena) -> Result<()> {
    for piece in pieces(arena) {
        let own: Vec<u32> = if world.is_root() { device.read(&piece)? } else { Vec::new() };
        let bytes = world.broadcast(bytemuck::cast_slice(&own).to_vec())?;
        if !world.is_root() {
            device.write(&piece, &bytes);
        }
    }
    Ok(())
}

/// The ranks whose numbers in an arena differ from rank 0's in any bit.
///
/// # Errors
/// A lost rank, or a device fault.
pub(super) fn different(world: &World, device: &Device, arena: &Arena) -> Result<Vec<usize>> {
    let mut hash = 0u64;
    for piece in pieces(arena) {
        let bits: Vec<u32> = device.read(&piece)?;
        // Not against an adversary: any bit that differs changes it.
        for bits in bits {
            hash = (hash.rotate_left(5) ^ u64::from(bits)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
    let all = world.gather_values(&hash)?;
    Ok((0..all.len()).filter(|rank| all[*rank] != all[0]).collect())
}

//! Causal grouped-query attention within documents on the CPU, without the T x T matrix (Dao et al. 2022).
//!
//! `qkv` (B, T, (H + 2 Hkv) D) holds query heads, then key heads, then value heads of a token, after RoPE. `positions` (B T) is each
//! token's place in its document: query t of a sequence sees keys `t - positions[t] ..= t` of that sequence.
//!
//! Everything is done in *panels* of sixteen queries, whose scores are kept transposed, keys x 16: then a query is a lane, so maxima, sums
//! and masks need no reduction across lanes, and of all products' operands only the block's queries are ever transposed. Scores are in
//! units of log 2, because 2^x is cheaper than e^x. How the work is split depends on the shape alone, so that any number of threads gives
//! the same bits.

mod backward;
mod decode;
mod forward;
mod panel;
mod scratch;
mod tile;

pub use backward::backward;
pub use decode::decode;
pub use forward::forward;

use super::AttentionShape;
use crate::device::StoredNumber;
use std::ops::Range;
use tile::{STRIP, strips};

impl AttentionShape {
    /// Columns of `out`.
    fn out_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of the query heads that share a kv head.
    fn group_width(&self) -> usize {
        self.group() * self.head_dim
    }

    /// Strips of sixteen columns that hold a head.
    fn strips(&self) -> usize {
        strips(self.head_dim)
    }

    /// Factor from a product of a query and a key to a score in units of log 2.
    fn scale2(&self) -> f32 {
        (std::f64::consts::LOG2_E / (self.head_dim as f64).sqrt()) as f32
    }
}

/// Inputs of a task for one sequence: the rows of its tokens and their positions.
#[derive(Clone, Copy)]
struct Sequence<'a> {
    shape: AttentionShape,
    /// (T, (H + 2 Hkv) D)
    qkv: &'a [f32],
    /// (T)
    positions: &'a [u32],
}

impl<'a> Sequence<'a> {
    fn of(shape: AttentionShape, b: usize, qkv: &'a [f32], positions: &'a [u32]) -> Self {
        let (time, width) = (shape.time, shape.row_width());
        Self { shape, qkv: &qkv[b * time * width..][..time * width], positions: &positions[b * time..][..time] }
    }

    /// The first key that query `t` sees.
    fn start(&self, t: usize) -> usize {
        t - (self.positions[t] as usize).min(t)
    }

    /// From query `t` of a head on, in rows of `row_width`.
    fn queries(&self, t: usize, head: usize) -> &'a [f32] {
        &self.qkv[t * self.shape.row_width() + head * self.shape.head_dim..]
    }

    /// From key `t` of a kv head on, in rows of `row_width`.
    fn keys(&self, t: usize, kv: usize) -> &'a [f32] {
        self.queries(t, self.shape.heads + kv)
    }

    /// From value `t` of a kv head on, in rows of `row_width`.
    fn values(&self, t: usize, kv: usize) -> &'a [f32] {
        self.queries(t, self.shape.heads + self.shape.kv_heads + kv)
    }

    /// The keys that any of these queries sees; the first is a multiple of [`STRIP`].
    fn reach(&self, queries: Range<usize>) -> Range<usize> {
        let low = queries.clone().map(|t| self.start(t)).min().unwrap_or(0);
        low - low % STRIP..queries.end
    }
}

/// Copy the keys and values of `qkv` (B T, (H + 2 Hkv) D) into the caches (sequences, `max_time`, Hkv D): token t of sequence b goes to row
/// `positions[b T + t]` of sequence b; what would lie outside of a sequence is dropped.
///
/// A plain copy on one thread: its cost is small relative to the matrix products of `qkv`.
pub fn append<T: StoredNumber>(
    shape: AttentionShape,
    max_time: usize,
    qkv: &[f32],
    positions: &[u32],
    cache_k: &mut [T],
    cache_v: &mut [T],
) {
    let store = |to: &mut [T], from: &[f32]| to.iter_mut().zip(from).for_each(|(to, from)| *to = T::nearest(*from));
    let (skip, width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    for ((row, from), &place) in qkv.chunks_exact(skip + 2 * width).enumerate().zip(positions) {
        if (place as usize) < max_time {
            let to = (row / shape.time * max_time + place as usize) * width;
            let (k, v) = from[skip..].split_at(width);
            store(&mut cache_k[to..][..width], k);
            store(&mut cache_v[to..][..width], v);
        }
    }
}

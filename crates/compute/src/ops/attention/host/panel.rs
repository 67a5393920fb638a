//! Sixteen queries of one head: which keys they see.

use super::Sequence;
use super::tile::{STRIP, load};
use fearless_simd::{Select, Simd, SimdBase, f32x16};
use std::ops::Range;

/// Added to the scores of a panel's own keys, row by row: a query does not see what comes behind it.
static CAUSAL: [[f32; STRIP]; STRIP] = {
    let mut rows = [[0.0; STRIP]; STRIP];
    let mut at = 0;
    while at < STRIP * STRIP {
        if at % STRIP < at / STRIP {
            rows[at / STRIP][at % STRIP] = f32::NEG_INFINITY;
        }
        at += 1;
    }
    rows
};

/// Sixteen queries, or the last of a sequence; lanes without a query see what the last query does.
pub struct QueryPanel {
    /// The first query; a multiple of [`STRIP`] after the first of the block.
    pub first: usize,
    /// Queries.
    pub count: usize,
    /// A multiple of [`STRIP`] at or below the first key that any of them sees.
    low: usize,
    /// From this key on, no query's document begins.
    clear: usize,
    starts: [f32; STRIP],
}

impl QueryPanel {
    pub fn new(seq: &Sequence<'_>, first: usize) -> Self {
        let last = (first + STRIP).min(seq.shape.time) - 1;
        let query = |lane: usize| (first + lane).min(last);
        let starts: [usize; STRIP] = std::array::from_fn(|lane| seq.start(query(lane)));
        let (low, clear) = starts.iter().fold((first, 0), |(low, clear), &s| (low.min(s), clear.max(s)));
        Self { first, count: last + 1 - first, low: low - low % STRIP, clear, starts: starts.map(|s| s as f32) }
    }

    /// One behind the last key that any of them sees.
    pub fn end(&self) -> usize {
        self.first + self.count
    }

    /// Which of these keys are worked on. If the range begins at a multiple of [`STRIP`], so does the result, unless it is empty.
    pub fn keys(&self, range: &Range<usize>) -> Range<usize> {
        let start = self.low.clamp(range.start, range.end);
        start..self.end().clamp(start, range.end)
    }

    /// Whether the sixteen keys from `key` on, a multiple of [`STRIP`], are worked on.
    pub fn covers(&self, key: usize) -> bool {
        self.low <= key && key <= self.first
    }

    /// Minus infinity for scores of keys that a query does not see. `scores` are those of `keys`.
    #[inline(always)]
    pub fn mask<S: Simd>(&self, simd: S, keys: &Range<usize>, scores: &mut [[f32; STRIP]]) {
        let clear = self.clear.clamp(keys.start, keys.end);
        if keys.start < clear {
            let starts = load(simd, &self.starts);
            for (key, row) in (keys.start..clear).zip(scores.iter_mut()) {
                let seen = starts.simd_le(f32x16::splat(simd, key as f32));
                seen.select(load(simd, row), f32x16::splat(simd, f32::NEG_INFINITY)).store_array(row);
            }
        }
        if self.first < keys.end {
            for (row, mask) in scores[self.first - keys.start..].iter_mut().zip(&CAUSAL) {
                (load(simd, row) + load(simd, mask)).store_array(row);
            }
        }
    }
}

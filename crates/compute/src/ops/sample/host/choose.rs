//! One row, from its logits to a token.

use super::select::{Scratch, Weight, kth, mass, nucleus, nucleus_above};
use crate::device::cpu::math::{exp_neg, load_part, store_part};
use crate::ops::logprob::highest;
use fearless_simd::prelude::*;

/// Lower bound of all logits that count.
const LOWEST: f32 = -1e30;
/// Columns of a block, whose masses are summed before the draw looks for its block.
const BLOCK: usize = 1024;

/// Temperature and filters.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    is_greedy: bool,
    /// 1 / temperature.
    scale: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
}

impl Filter {
    /// From `settings` as the shader reads them.
    pub fn new(settings: &[u32]) -> Self {
        let [temperature, top_p, min_p] = [0, 2, 3].map(|i| f32::from_bits(settings[i]));
        Self { is_greedy: temperature <= 0.0, scale: 1.0 / temperature.max(1e-6), top_k: settings[1] as usize, top_p, min_p }
    }
}

/// The column in whose share of the filtered mass `unit` falls (greedy: the first of the highest), and its log-probability under
/// the whole distribution at the temperature (greedy: at 1).
#[inline(always)]
pub fn choose<S: Simd>(simd: S, f: Filter, unit: f32, row: &[f32], scratch: &mut Scratch) -> (usize, f32) {
    let top = highest(simd, row);
    if f.is_greedy {
        let found = first_at_least(simd, row, top);
        let column = if found < row.len() { found } else { 0 };
        return (column, log_probability(row[column], top, 1.0, mass(simd, row, Weight { top, scale: 1.0 })));
    }
    let (threshold, known) = threshold(simd, f, row, top, scratch);
    let masses = &mut scratch.masses;
    masses.clear();
    for block in row.chunks(BLOCK) {
        masses.push(mass_above(simd, block, threshold, top, f.scale));
    }
    let total: f64 = masses.iter().sum();
    let whole = match known {
        _ if threshold <= LOWEST => total,
        Some(whole) => whole,
        None => mass(simd, row, Weight { top, scale: f.scale }),
    };
    let column = scan(simd, f64::from(unit) * total, [threshold, top, f.scale], row, masses);
    (column, log_probability(row[column], top, f.scale, whole))
}

fn log_probability(logit: f32, top: f32, scale: f32, whole: f64) -> f32 {
    (f64::from((logit - top) * scale) - whole.max(1e-30).ln()) as f32
}

/// The lowest logit that is kept, and the mass of the whole row, if that was found on the way.
#[inline(always)]
fn threshold<S: Simd>(simd: S, f: Filter, row: &[f32], top: f32, scratch: &mut Scratch) -> (f32, Option<f64>) {
    let (mut threshold, mut whole) = (LOWEST, None);
    let weight = Weight { top, scale: f.scale };
    if f.top_k > 0 && f.top_k < row.len() {
        threshold = kth(simd, row, f.top_k, LOWEST, scratch);
    }
    if f.top_p < 1.0 && threshold > LOWEST {
        threshold = nucleus_above(simd, row, f.top_p, threshold, weight, scratch);
    } else if f.top_p < 1.0 {
        let (bar, all) = nucleus(simd, row, f.top_p, LOWEST, weight, scratch);
        (threshold, whole) = (bar.max(LOWEST), Some(all));
    }
    if f.min_p > 0.0 {
        threshold = threshold.max(top.min(top + f.min_p.max(1e-30).ln() / f.scale));
    }
    (threshold, whole)
}

/// Sum of exp((l - top) scale) over the logits of a block that are not below `threshold`.
#[inline(always)]
fn mass_above<S: Simd>(simd: S, block: &[f32], threshold: f32, top: f32, scale: f32) -> f64 {
    let n = S::f32s::LEN;
    let zero = S::f32s::splat(simd, 0.0);
    let mut sum = zero;
    let vectors = block.chunks_exact(n);
    let rest = vectors.remainder();
    for chunk in vectors {
        let v = S::f32s::from_slice(simd, chunk);
        let kept = v.simd_ge(threshold);
        if kept.any_true() {
            sum += kept.select(exp_neg(simd, (v - top) * scale), zero);
        }
    }
    if !rest.is_empty() {
        let v = load_part(simd, rest, f32::NAN);
        sum += v.simd_ge(threshold).select(exp_neg(simd, (v - top) * scale), zero);
    }
    f64::from(sum.reduce_sum())
}

/// The first column up to which more mass than `goal` is kept; where rounding leaves the sum below a draw that is nearly 1, the
/// last that is kept. `masses`: those of the blocks.
#[inline(always)]
fn scan<S: Simd>(simd: S, goal: f64, [threshold, top, scale]: [f32; 3], row: &[f32], masses: &[f64]) -> usize {
    let n = S::f32s::LEN;
    let mut walked = 0.0;
    for (k, block) in row.chunks(BLOCK).enumerate() {
        // A little below, because the sums of vectors round in other ways than those of single numbers.
        if walked + masses[k] <= goal * (1.0 - 1e-5) {
            walked += masses[k];
            continue;
        }
        let mut e = [0.0; BLOCK];
        for (e, l) in e.chunks_mut(n).zip(block.chunks(n)) {
            store_part(simd, exp_neg(simd, (load_part(simd, l, f32::NEG_INFINITY) - top) * scale), &mut e[..l.len()]);
        }
        for (c, (l, e)) in block.iter().zip(e).enumerate() {
            if *l >= threshold {
                walked += f64::from(e);
                if walked > goal {
                    return k * BLOCK + c;
                }
            }
        }
    }
    row.iter().rposition(|l| *l >= threshold).unwrap_or(0)
}

/// The first column of at least `bar`, or their number.
#[inline(always)]
fn first_at_least<S: Simd>(simd: S, row: &[f32], bar: f32) -> usize {
    let n = S::f32s::LEN;
    for (k, chunk) in row.chunks_exact(n).enumerate() {
        let mask = S::f32s::from_slice(simd, chunk).simd_ge(bar).to_bitmask();
        if mask != 0 {
            return k * n + mask.trailing_zeros() as usize;
        }
    }
    let rest = row.len() / n * n;
    rest + row[rest..].iter().position(|l| *l >= bar).unwrap_or(row.len() - rest)
}

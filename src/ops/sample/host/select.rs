//! The logits at which top-k and top-p cut. Both are found exactly; ties of a cut stay together, whatever their number.

use crate::device::cpu::math::{exp_neg, load_part};
use fearless_simd::prelude::*;

/// Vectors of a row whose lane-wise maxima make a group of [`kth`].
const GROUP: usize = 16;
/// What is not larger is sorted.
const FEW: usize = 48;
/// Distances from the highest logit, in nats, between which [`nucleus`] first looks for its cut.
const BARS: [f32; 6] = [0.5, 1.0, 2.0, 3.5, 5.5, 8.0];

/// Buffers of a thread.
#[derive(Default)]
pub struct Scratch {
    /// Candidates.
    pub kept: Vec<f32>,
    /// Maxima of groups.
    groups: Vec<f32>,
    /// Sums of blocks.
    pub masses: Vec<f64>,
}

/// The logits of `row` from `bar` up to, but without, `below`, in order.
#[inline(always)]
fn collect<S: Simd>(simd: S, row: &[f32], bar: f32, below: f32, kept: &mut Vec<f32>) {
    kept.clear();
    let vectors = row.chunks_exact(S::f32s::LEN);
    let rest = vectors.remainder();
    for chunk in vectors {
        let v = S::f32s::from_slice(simd, chunk);
        let mut mask = (v.simd_ge(bar) & v.simd_lt(below)).to_bitmask();
        while mask != 0 {
            kept.push(chunk[mask.trailing_zeros() as usize]);
            mask &= mask - 1;
        }
    }
    for l in rest {
        if *l >= bar && *l < below {
            kept.push(*l);
        }
    }
}

fn descending(a: &f32, b: &f32) -> std::cmp::Ordering {
    b.total_cmp(a)
}

/// The `k`th highest logit (from 1) of those that are not below `lowest`, or `lowest`; `scratch.kept` then holds all that are as high.
#[inline(always)]
pub fn kth<S: Simd>(simd: S, row: &[f32], k: usize, lowest: f32, scratch: &mut Scratch) -> f32 {
    // If k disjoint groups have maxima of at least b, so have k logits: only those must be looked at.
    let Scratch { kept, groups, .. } = scratch;
    maxima(simd, row, groups);
    let mut bar = lowest;
    if 2 * k <= groups.len() {
        bar = groups.select_nth_unstable_by(k - 1, descending).1.max(lowest);
    }
    collect(simd, row, bar, f32::INFINITY, kept);
    if kept.len() < k {
        return lowest;
    }
    let bar = *kept.select_nth_unstable_by(k - 1, descending).1;
    kept.retain(|l| *l >= bar);
    bar
}

/// Maxima of groups that are disjoint and hold all of `row`; NaN counts as -infinity.
#[inline(always)]
fn maxima<S: Simd>(simd: S, row: &[f32], groups: &mut Vec<f32>) {
    let n = S::f32s::LEN;
    groups.clear();
    for group in row.chunks(GROUP * n) {
        let mut most = S::f32s::splat(simd, f32::NEG_INFINITY);
        let vectors = group.chunks_exact(n);
        let rest = vectors.remainder();
        for v in vectors {
            // In this order a NaN is passed over, also on x86.
            most = S::f32s::from_slice(simd, v).max_precise(most);
        }
        if !rest.is_empty() {
            most = load_part(simd, rest, f32::NEG_INFINITY).max_precise(most);
        }
        groups.extend_from_slice(most.as_slice());
    }
}

/// Sum of exp((l - top) scale).
#[inline(always)]
pub fn mass<S: Simd>(simd: S, logits: &[f32], top: f32, scale: f32) -> f64 {
    let n = S::f32s::LEN;
    let mut total = 0.0;
    for block in logits.chunks(512 * n) {
        let mut sum = S::f32s::splat(simd, 0.0);
        let full = block.chunks_exact(n);
        let rest = full.remainder();
        for v in full {
            sum += exp_neg(simd, (S::f32s::from_slice(simd, v) - top) * scale);
        }
        if !rest.is_empty() {
            sum += exp_neg(simd, (load_part(simd, rest, f32::NEG_INFINITY) - top) * scale);
        }
        total += f64::from(sum.reduce_sum());
    }
    total
}

/// The highest of `logits` such that what is not below it holds `wanted` of mass, of which `above` lies elsewhere: by halves.
#[inline(always)]
pub fn cut<S: Simd>(simd: S, mut logits: &mut [f32], mut above: f64, wanted: f64, top: f32, scale: f32) -> f32 {
    while logits.len() > FEW {
        let middle = logits.len() / 2;
        logits.select_nth_unstable_by(middle, descending);
        let (upper, lower) = logits.split_at_mut(middle);
        let with_upper = above + mass(simd, upper, top, scale);
        if with_upper >= wanted {
            logits = upper;
        } else {
            (above, logits) = (with_upper, lower);
        }
    }
    logits.sort_unstable_by(descending);
    let mut bar = top;
    for l in logits {
        bar = *l;
        above += mass(simd, &[bar], top, scale);
        if above >= wanted {
            break;
        }
    }
    bar
}

/// The cut of top-p over all of `row` that is not below `lowest`, and the mass of that.
#[inline(always)]
pub fn nucleus<S: Simd>(simd: S, row: &[f32], top_p: f32, [lowest, top, scale]: [f32; 3], kept: &mut Vec<f32>) -> (f32, f64) {
    let bars = BARS.map(|nats| (top - nats / scale).max(lowest));
    let (all, masses) = masses_above(simd, row, bars, [lowest, top, scale]);
    let wanted = f64::from(top_p) * all;
    let found = masses.iter().position(|m| *m >= wanted).unwrap_or(BARS.len());
    let (below, above) = if found == 0 { (f32::INFINITY, 0.0) } else { (bars[found - 1], masses[found - 1]) };
    collect(simd, row, *bars.get(found).unwrap_or(&lowest), below, kept);
    (cut(simd, kept, above, wanted, top, scale), all)
}

/// The mass of `row` that is not below `lowest`, and of that which is not below each of `bars`.
#[inline(always)]
fn masses_above<S: Simd>(simd: S, row: &[f32], bars: [f32; 6], [lowest, top, scale]: [f32; 3]) -> (f64, [f64; 6]) {
    let n = S::f32s::LEN;
    let (mut all, mut above) = (0.0, [0.0; 6]);
    let zero = S::f32s::splat(simd, 0.0);
    for block in row.chunks(512 * n) {
        let (mut sum, mut sums) = (zero, [zero; 6]);
        let vectors = block.chunks_exact(n);
        let rest = vectors.remainder();
        for chunk in vectors {
            let v = S::f32s::from_slice(simd, chunk);
            let e = v.simd_ge(lowest).select(exp_neg(simd, (v - top) * scale), zero);
            sum += e;
            if v.simd_ge(bars[5]).any_true() {
                for (sum, bar) in sums.iter_mut().zip(bars) {
                    *sum += v.simd_ge(bar).select(e, zero);
                }
            }
        }
        if !rest.is_empty() {
            let v = load_part(simd, rest, f32::NAN);
            let e = v.simd_ge(lowest).select(exp_neg(simd, (v - top) * scale), zero);
            sum += e;
            for (sum, bar) in sums.iter_mut().zip(bars) {
                *sum += v.simd_ge(bar).select(e, zero);
            }
        }
        all += f64::from(sum.reduce_sum());
        for (above, sum) in above.iter_mut().zip(sums) {
            *above += f64::from(sum.reduce_sum());
        }
    }
    (all, above)
}

//! The logits at which top-k and top-p cut. Both are found exactly; ties of a cut stay together, whatever their number.
//!
//! A cut is searched by masses: how much lies at or above each of a few bars says between which two it is, and only what lies
//! there is looked at again. Top-k is the same with every logit's mass 1.

use crate::device::cpu::math::{exp_neg, load_last, load_part};
use fearless_simd::prelude::*;

/// Vectors of a row whose lane-wise maxima make a group of [`kth`].
const GROUP: usize = 16;
/// Vectors whose masses are summed in f32.
const BLOCK: usize = 512;
/// At most this many are sorted.
const FEW: usize = 48;
/// Bars at once.
const BARS: usize = 6;
/// Distances from the highest logit, in nats, of the first bars of [`nucleus`].
const NATS: [f32; BARS] = [0.5, 1.0, 2.0, 3.5, 5.5, 8.0];

/// Buffers of a thread.
#[derive(Default)]
pub struct Scratch {
    /// Candidates, and behind them anything.
    kept: Vec<f32>,
    /// Maxima of groups.
    groups: Vec<f32>,
    /// Sums of blocks.
    pub masses: Vec<f64>,
}

impl Scratch {
    /// Room for the candidates of a row.
    fn fit(&mut self, row: usize, lanes: usize) {
        if self.kept.len() < row + lanes {
            self.kept.resize(row + lanes, 0.0);
        }
    }
}

/// Weight of a logit: exp((l - top) scale), so 1 if `scale` is 0.
#[derive(Clone, Copy)]
pub struct Weight {
    /// The highest logit.
    pub top: f32,
    /// 1 / temperature.
    pub scale: f32,
}

impl Weight {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, logits: S::f32s) -> S::f32s {
        exp_neg(simd, (logits - self.top) * self.scale)
    }
}

fn descending(a: &f32, b: &f32) -> std::cmp::Ordering {
    b.total_cmp(a)
}

/// The `k`th highest logit (from 1) of those that are not below `lowest`, or `lowest`.
#[inline(always)]
pub fn kth<S: Simd>(simd: S, row: &[f32], k: usize, lowest: f32, scratch: &mut Scratch) -> f32 {
    scratch.fit(row.len(), S::f32s::LEN);
    // If k disjoint groups have maxima of at least b, so have k logits: only those must be looked at.
    maxima(simd, row, &mut scratch.groups);
    let mut bar = lowest;
    if 2 * k <= scratch.groups.len() {
        bar = scratch.groups.select_nth_unstable_by(k - 1, descending).1.max(lowest);
    }
    let count = collect(simd, row, [bar, f32::INFINITY], &mut scratch.kept);
    if count < k { lowest } else { cut(simd, &mut scratch.kept, count, 0.0, k as f64, Weight { top: 0.0, scale: 0.0 }) }
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
            most = S::f32s::from_slice(simd, v).max_precise(most);
        }
        if !rest.is_empty() {
            most = load_part(simd, rest, f32::NEG_INFINITY).max_precise(most);
        }
        groups.extend_from_slice(most.as_slice());
    }
}

/// Mass of all of `logits`.
#[inline(always)]
pub fn mass<S: Simd>(simd: S, logits: &[f32], weight: Weight) -> f64 {
    let n = S::f32s::LEN;
    let mut total = 0.0;
    for block in logits.chunks(BLOCK * n) {
        let mut sum = S::f32s::splat(simd, 0.0);
        let vectors = block.chunks_exact(n);
        let rest = vectors.remainder();
        for v in vectors {
            sum += weight.of(simd, S::f32s::from_slice(simd, v));
        }
        if !rest.is_empty() {
            sum += weight.of(simd, load_part(simd, rest, f32::NEG_INFINITY));
        }
        total += f64::from(sum.reduce_sum());
    }
    total
}

/// Put the logits of `row` from `low` up to, but without, `high` to the front of `kept`, in order; how many there are. `kept` is
/// longer than `row` by a vector.
#[inline(always)]
fn collect<S: Simd>(simd: S, row: &[f32], [low, high]: [f32; 2], kept: &mut [f32]) -> usize {
    let n = S::f32s::LEN;
    let mut count = 0;
    for chunk in row.chunks_exact(n) {
        let v = S::f32s::from_slice(simd, chunk);
        push(simd, v, v.simd_ge(low) & v.simd_lt(high), kept, &mut count);
    }
    for l in &row[row.len() / n * n..] {
        kept[count] = *l;
        count += usize::from(*l >= low && *l < high);
    }
    count
}

/// [`collect`] of the first `count` of `kept`, in place: a write never passes the read position.
#[inline(always)]
fn narrow<S: Simd>(simd: S, kept: &mut [f32], count: usize, [low, high]: [f32; 2]) -> usize {
    let n = S::f32s::LEN;
    let (full, mut left) = (count / n * n, 0);
    for at in (0..full).step_by(n) {
        let v = S::f32s::from_slice(simd, &kept[at..at + n]);
        push(simd, v, v.simd_ge(low) & v.simd_lt(high), kept, &mut left);
    }
    for at in full..count {
        let l = kept[at];
        kept[left] = l;
        left += usize::from(l >= low && l < high);
    }
    left
}

#[inline(always)]
fn push<S: Simd>(_: S, v: S::f32s, mask: S::mask32s, kept: &mut [f32], count: &mut usize) {
    let bits = mask.to_bitmask();
    if bits != 0 {
        v.compress(mask).store_slice(&mut kept[*count..*count + S::f32s::LEN]);
        *count += bits.count_ones() as usize;
    }
}

/// The highest of the first `count` logits of `kept` such that what is not below it weighs `wanted`, of which `above` lies
/// elsewhere; the lowest, if rounding leaves less than that.
#[inline(always)]
fn cut<S: Simd>(simd: S, kept: &mut [f32], mut count: usize, mut above: f64, wanted: f64, weight: Weight) -> f32 {
    while count > FEW {
        let bars = quantiles(&kept[..count]);
        let (all, masses) = masses_above(simd, &kept[..count], bars, f32::NEG_INFINITY, weight);
        // Below the lowest bar, if there is something: rounding may leave its total mass slightly below `wanted`.
        let last = if masses[BARS - 1] < all { BARS } else { BARS - 1 };
        let found = masses.iter().position(|m| above + m >= wanted).unwrap_or(last);
        let low = *bars.get(found).unwrap_or(&f32::NEG_INFINITY);
        let high = if found == 0 { f32::INFINITY } else { bars[found - 1] };
        let left = narrow(simd, kept, count, [low, high]);
        if left == count {
            break; // ties alone
        }
        above += if found == 0 { 0.0 } else { masses[found - 1] };
        count = left;
    }
    let kept = &mut kept[..count];
    kept.sort_unstable_by(descending);
    for l in kept.iter() {
        above += f64::from(weight.of(simd, S::f32s::splat(simd, *l)).as_slice()[0]);
        if above >= wanted {
            return *l;
        }
    }
    kept.last().copied().unwrap_or(f32::NEG_INFINITY)
}

/// Numbers that part those of a sample into parts of the same size, highest first.
fn quantiles(values: &[f32]) -> [f32; BARS] {
    const SAMPLE: usize = 8 * (BARS + 1) - 1;
    let mut sample: [f32; SAMPLE] = std::array::from_fn(|i| values[i * values.len() / SAMPLE]);
    sample.sort_unstable_by(descending);
    std::array::from_fn(|i| sample[8 * i + 7])
}

/// The cut of top-p over all of `row` that is not below `lowest`, and the mass of that.
#[inline(always)]
pub fn nucleus<S: Simd>(simd: S, row: &[f32], top_p: f32, lowest: f32, weight: Weight, scratch: &mut Scratch) -> (f32, f64) {
    scratch.fit(row.len(), S::f32s::LEN);
    let mut bars = NATS;
    for bar in &mut bars {
        *bar = (weight.top - *bar / weight.scale).max(lowest);
    }
    let (all, masses) = masses_above(simd, row, bars, lowest, weight);
    let wanted = f64::from(top_p) * all;
    let found = masses.iter().position(|m| *m >= wanted).unwrap_or(BARS);
    let (high, above) = if found == 0 { (f32::INFINITY, 0.0) } else { (bars[found - 1], masses[found - 1]) };
    let count = collect(simd, row, [*bars.get(found).unwrap_or(&lowest), high], &mut scratch.kept);
    (cut(simd, &mut scratch.kept, count, above, wanted, weight), all)
}

/// The cut of top-p over logits not below `bar`, which [`kth`] has found.
#[inline(always)]
pub fn nucleus_above<S: Simd>(simd: S, row: &[f32], top_p: f32, bar: f32, weight: Weight, scratch: &mut Scratch) -> f32 {
    let count = collect(simd, row, [bar, f32::INFINITY], &mut scratch.kept);
    let wanted = f64::from(top_p) * mass(simd, &scratch.kept[..count], weight);
    cut(simd, &mut scratch.kept, count, 0.0, wanted, weight).max(bar)
}

/// The mass of `row` that is not below `lowest`, and of that which is not below each of `bars`, which fall.
#[inline(always)]
fn masses_above<S: Simd>(simd: S, row: &[f32], bars: [f32; BARS], lowest: f32, weight: Weight) -> (f64, [f64; BARS]) {
    let n = S::f32s::LEN;
    let (mut all, mut above) = (0.0, [0.0; BARS]);
    let zero = S::f32s::splat(simd, 0.0);
    for block in row.chunks(BLOCK * n) {
        let (mut sum, mut sums) = (zero, [zero; BARS]);
        let rest = block.len() % n;
        for chunk in block.chunks_exact(n) {
            add(simd, S::f32s::from_slice(simd, chunk), bars, lowest, weight, &mut sum, &mut sums);
        }
        if rest > 0 {
            let last = if block.len() < n { load_part(simd, block, f32::NAN) } else { load_last(simd, block, rest, f32::NAN) };
            add(simd, last, bars, lowest, weight, &mut sum, &mut sums);
        }
        all += f64::from(sum.reduce_sum());
        for (above, sum) in above.iter_mut().zip(sums) {
            *above += f64::from(sum.reduce_sum());
        }
    }
    (all, above)
}

#[inline(always)]
fn add<S: Simd>(
    simd: S,
    logits: S::f32s,
    bars: [f32; BARS],
    lowest: f32,
    weight: Weight,
    sum: &mut S::f32s,
    sums: &mut [S::f32s; BARS],
) {
    let zero = S::f32s::splat(simd, 0.0);
    let e = logits.simd_ge(lowest).select(weight.of(simd, logits), zero);
    *sum += e;
    if logits.simd_ge(bars[BARS - 1]).any_true() {
        for (sum, bar) in sums.iter_mut().zip(bars) {
            *sum += logits.simd_ge(bar).select(e, zero);
        }
    }
}

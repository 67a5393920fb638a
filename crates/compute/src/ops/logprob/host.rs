//! Log-probability head: log pi(target), entropy, sum p^2, whether the target is the arg-max and, in place, dlogits = dlogp * (onehot - p).
//!
//! Rows are read once: a row's sums are kept relative to the highest logit so far, and scaled when a higher one comes. Sums of a block
//! are f32, sums of blocks f64.

use super::Chunk;
use crate::device::cpu::math::{BLOCK, EXP_LOWEST, exp_inside, load_part, max4, store_part};
use crate::device::cpu::{Cpu, OutputTile, TileGrid, Tiled, task_rows};
use crate::simd;
use fearless_simd::prelude::*;

/// Maximum of an empty set.
const LOWEST: f32 = -1e30;

impl Chunk {
    fn range(&self) -> std::ops::Range<usize> {
        self.first_row..self.first_row + self.rows
    }

    fn tile_rows(&self) -> usize {
        task_rows(self.rows, self.vocab)
    }

    fn logits<'a>(&self, logits: &'a mut [f32]) -> Tiled<'a> {
        Tiled::new(logits, TileGrid::rows(self.rows, self.stride, self.tile_rows()))
    }
}

/// Statistics of each row of a chunk of logits, all (R): log pi(target), entropy in nats, sum of squared probabilities, log sum exp of
/// the logits, and 1 where the target is the arg-max (the first, if several logits are highest), else 0.
pub fn forward(
    cpu: &Cpu,
    chunk: Chunk,
    logits: &[f32],
    targets: &[u32],
    logp: &mut [f32],
    entropy: &mut [f32],
    sum_p2: &mut [f32],
    lse: &mut [f32],
    hit: &mut [f32],
) {
    let cut = TileGrid::rows(chunk.rows, 1, chunk.tile_rows());
    let outputs = [logp, entropy, sum_p2, lse, hit].map(|all| Tiled::new(&mut all[chunk.range()], cut));
    let targets = &targets[chunk.range()];
    cpu.for_tiles(outputs, |_, outputs| simd!(cpu, s => forward_tile(s, chunk, logits, targets, outputs)));
}

#[inline(always)]
fn forward_tile<S: Simd>(simd: S, chunk: Chunk, logits: &[f32], targets: &[u32], mut outputs: [OutputTile<'_>; 5]) {
    for i in 0..outputs[0].rows() {
        let row = outputs[0].first_row() + i;
        let target = (targets[row] as usize).min(chunk.vocab - 1);
        let numbers = statistics(simd, &logits[row * chunk.stride..][..chunk.vocab], target);
        for (output, number) in outputs.iter_mut().zip(numbers) {
            output.row(i)[0] = number;
        }
    }
}

/// (log pi(target), entropy, sum p^2, lse, hit)
#[inline(always)]
fn statistics<S: Simd>(simd: S, row: &[f32], target: usize) -> [f32; 5] {
    let (mut most, mut before) = (LOWEST, LOWEST);
    let (mut mass, mut mass2, mut weighted) = (0f64, 0f64, 0f64);
    let chosen = row[target];
    for (k, block) in row.chunks(BLOCK).enumerate() {
        let (start, top) = (k * BLOCK, highest(simd, block));
        if start + block.len() <= target {
            before = before.max(top);
        } else if start <= target && chosen >= top {
            before = before.max(highest(simd, &block[..target - start]));
        }
        if top > most {
            if mass > 0.0 {
                let shift = f64::from(most) - f64::from(top);
                let factor = shift.exp();
                (weighted, mass, mass2) = (factor * (weighted + shift * mass), factor * mass, factor * factor * mass2);
            }
            most = top;
        }
        let sums = sums(simd, block, most).map(f64::from);
        (mass, mass2, weighted) = (mass + sums[0], mass2 + sums[1], weighted + sums[2]);
    }
    let log_mass = mass.ln();
    let lse = f64::from(most) + log_mass;
    let is_hit = chosen >= most && chosen > before;
    let numbers = [f64::from(chosen) - lse, log_mass - weighted / mass, mass2 / (mass * mass), lse].map(|x| x as f32);
    [numbers[0], numbers[1], numbers[2], numbers[3], f32::from(u8::from(is_hit))]
}

/// The highest of these numbers and [`LOWEST`].
#[inline(always)]
pub(crate) fn highest<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let n = S::f32s::LEN;
    let mut most = [S::f32s::splat(simd, LOWEST); 4];
    let fours = values.chunks_exact(4 * n);
    let ones = fours.remainder().chunks_exact(n);
    let rest = ones.remainder();
    for four in fours {
        for (most, v) in most.iter_mut().zip(four.chunks_exact(n)) {
            // In this order a NaN is passed over on x86; where it is not, it shows in the sums all the same.
            *most = S::f32s::from_slice(simd, v).max(*most);
        }
    }
    for (most, v) in most.iter_mut().zip(ones) {
        *most = S::f32s::from_slice(simd, v).max(*most);
    }
    if !rest.is_empty() {
        most[3] = load_part(simd, rest, LOWEST).max(most[3]);
    }
    max4(simd, most)
}

/// Sums of e, e^2 and e (l - most) over logits l, e = exp(l - most).
#[inline(always)]
fn sums<S: Simd>(simd: S, values: &[f32], most: f32) -> [f32; 3] {
    let n = S::f32s::LEN;
    let mut sums = [S::f32s::splat(simd, 0.0); 3];
    let full = values.chunks_exact(n);
    let rest = full.remainder();
    for v in full {
        add(simd, S::f32s::from_slice(simd, v), most, &mut sums);
    }
    if !rest.is_empty() {
        add(simd, load_part(simd, rest, f32::NEG_INFINITY), most, &mut sums);
    }
    let [mass, mass2, weighted] = sums;
    [mass.reduce_sum(), mass2.reduce_sum(), weighted.reduce_sum()]
}

#[inline(always)]
fn add<S: Simd>(simd: S, logits: S::f32s, most: f32, sums: &mut [S::f32s; 3]) {
    // Clamped here, because 0 times infinity is none. In this order a NaN stays one, also on x86.
    let shifted = S::f32s::splat(simd, EXP_LOWEST).max(logits - most);
    let e = exp_inside(simd, shifted);
    sums[0] += e;
    sums[1] = e.mul_add(e, sums[1]);
    sums[2] = e.mul_add(shifted, sums[2]);
}

/// Turn a chunk of logits into its gradient, from `dlogp` (R) and the `row_lse` (R) that forward left; 0 behind the vocabulary.
pub fn backward(cpu: &Cpu, chunk: Chunk, targets: &[u32], dlogp: &[f32], row_lse: &[f32], dlogits: &mut [f32]) {
    cpu.for_tiles([chunk.logits(dlogits)], |_, [mut rows]| {
        for i in 0..rows.rows() {
            let at = chunk.first_row + rows.first_row() + i;
            let target = (targets[at] as usize).min(chunk.vocab - 1);
            let (row, padding) = rows.row(i).split_at_mut(chunk.vocab);
            simd!(cpu, s => backward_row(s, dlogp[at], row_lse[at], row));
            row[target] += dlogp[at];
            padding.fill(0.0);
        }
    });
}

/// -d p
#[inline(always)]
fn backward_row<S: Simd>(simd: S, d: f32, lse: f32, row: &mut [f32]) {
    let mut full = row.chunks_exact_mut(S::f32s::LEN);
    for v in &mut full {
        gradient(simd, S::f32s::from_slice(simd, v), d, lse).store_slice(v);
    }
    let rest = full.into_remainder();
    if !rest.is_empty() {
        store_part(simd, gradient(simd, load_part(simd, rest, 0.0), d, lse), rest);
    }
}

#[inline(always)]
fn gradient<S: Simd>(simd: S, logits: S::f32s, d: f32, lse: f32) -> S::f32s {
    exp_inside(simd, (logits - lse).clamp(EXP_LOWEST, 0.0)) * -d
}

/// Multiply a chunk of logits by `inv_temperature` (1), before [`forward`]; with 1 no bit changes.
pub fn divide(cpu: &Cpu, chunk: Chunk, inv_temperature: &[f32], dlogits: &mut [f32]) {
    let factor = inv_temperature[0];
    if factor == 1.0 {
        return;
    }
    cpu.for_tiles([chunk.logits(dlogits)], |_, [mut rows]| {
        for i in 0..rows.rows() {
            simd!(cpu, s => scale(s, factor, &mut rows.row(i)[..chunk.vocab]));
        }
    });
}

#[inline(always)]
fn scale<S: Simd>(_: S, factor: f32, row: &mut [f32]) {
    row.iter_mut().for_each(|l| *l *= factor);
}

/// As [`backward`], of logits that [`divide`] has divided, to the logits before that; and for an objective that also depends on the
/// entropy of each row, `dentropy` (R) being d loss / d entropy: d entropy / d logits = -p (log p + entropy) / T. `row_lse` and
/// `row_entropy` (R) must be what forward left.
pub fn backward_policy(
    cpu: &Cpu,
    chunk: Chunk,
    targets: &[u32],
    dlogp: &[f32],
    row_lse: &[f32],
    inv_temperature: &[f32],
    row_entropy: &[f32],
    dentropy: &[f32],
    dlogits: &mut [f32],
) {
    let inv = inv_temperature[0];
    cpu.for_tiles([chunk.logits(dlogits)], |_, [mut rows]| {
        for i in 0..rows.rows() {
            let at = chunk.first_row + rows.first_row() + i;
            let target = (targets[at] as usize).min(chunk.vocab - 1);
            let (row, padding) = rows.row(i).split_at_mut(chunk.vocab);
            let (d, e) = (dlogp[at] * inv, dentropy[at] * inv);
            simd!(cpu, s => backward_policy_row(s, d, e, row_lse[at], row_entropy[at], row));
            row[target] += d;
            padding.fill(0.0);
        }
    });
}

/// -d p - e p (log p + entropy)
#[inline(always)]
fn backward_policy_row<S: Simd>(simd: S, d: f32, e: f32, lse: f32, entropy: f32, row: &mut [f32]) {
    let mut full = row.chunks_exact_mut(S::f32s::LEN);
    for v in &mut full {
        policy_gradient(simd, S::f32s::from_slice(simd, v), d, e, lse, entropy).store_slice(v);
    }
    let rest = full.into_remainder();
    if !rest.is_empty() {
        store_part(simd, policy_gradient(simd, load_part(simd, rest, 0.0), d, e, lse, entropy), rest);
    }
}

#[inline(always)]
fn policy_gradient<S: Simd>(simd: S, logits: S::f32s, d: f32, e: f32, lse: f32, entropy: f32) -> S::f32s {
    let log_p = (logits - lse).clamp(EXP_LOWEST, 0.0);
    exp_inside(simd, log_p) * (log_p + entropy).mul_add(-e, S::f32s::splat(simd, -d))
}

//! Global gradient norm, clip factor (PyTorch `clip_grad_norm_`) and finite gate over the gradient arena.

use super::groups_for;
use crate::device::cpu::math::{BLOCK, load_part, sum4};
use crate::device::cpu::{Cpu, TileGrid, Tiled};
use crate::simd;
use fearless_simd::prelude::*;

/// Of each group of `grads` (a segment): the sum of squares, and 1 if a number is not finite, into pair `first` and those after it of
/// `partials`.
pub fn partial(cpu: &Cpu, first: usize, grads: &[f32], partials: &mut [f32]) {
    let groups = groups_for(grads.len());
    let size = grads.len().div_ceil(groups).next_multiple_of(BLOCK);
    let cut = TileGrid::rows(groups, 2, (4 * BLOCK / size).max(1));
    let partials = Tiled::new(&mut partials[2 * first..][..2 * groups], cut);
    cpu.for_tiles([partials], |_, [mut partials]| {
        for i in 0..partials.rows() {
            let group = partials.first_row() + i;
            let range = (group * size).min(grads.len())..((group + 1) * size).min(grads.len());
            let sum = simd!(cpu, s => squares(s, &grads[range.clone()]));
            // Squares of finite numbers may overflow: only where the sum is not finite must the numbers be looked at.
            let bad = !sum.is_finite() && grads[range].iter().any(|g| !g.is_finite());
            partials.row(i).copy_from_slice(&[sum, f32::from(u8::from(bad))]);
        }
    });
}

/// Sum of squares; blocks in f32, their sums in f64.
#[inline(always)]
fn squares<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let n = S::f32s::LEN;
    let mut total = 0.0;
    for block in values.chunks(BLOCK) {
        let mut sums = [S::f32s::splat(simd, 0.0); 4];
        let fours = block.chunks_exact(4 * n);
        let rest = fours.remainder();
        for four in fours {
            for (sum, v) in sums.iter_mut().zip(four.chunks_exact(n)) {
                let v = S::f32s::from_slice(simd, v);
                *sum = v.mul_add(v, *sum);
            }
        }
        for (sum, v) in sums.iter_mut().zip(rest.chunks(n)) {
            let v = load_part(simd, v, 0.0);
            *sum = v.mul_add(v, *sum);
        }
        total += f64::from(sum4(simd, sums));
    }
    total as f32
}

/// Norm, clip factor and count of bad groups of the first `count` pairs of `partials`, into `stats[0..3]`. `hyper[7]` is the norm to clip
/// at, 0 for none.
pub fn finish(count: usize, partials: &[f32], hyper: &[f32], stats: &mut [f32]) {
    let (mut sum, mut bad) = (0.0, 0.0);
    for pair in partials.chunks_exact(2).take(count) {
        sum += f64::from(pair[0]);
        bad += pair[1];
    }
    let (norm, most) = (sum.sqrt() as f32, hyper[7]);
    stats[0] = norm;
    stats[1] = if most > 0.0 { (most / (norm + 1e-6)).min(1.0) } else { 1.0 };
    stats[2] = bad;
}

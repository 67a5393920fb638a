//! Weighted average of snapshots, as a sum of differences from weights that lie near them:
//! merged = base + sum_s w_s (snapshot_s - base), sum_s w_s = 1.

use crate::device::cpu::flat;
use crate::device::cpu::{Cpu, Tiled};
use crate::simd;
use fearless_simd::prelude::*;

/// `merged` (n) += `weights[index]` (`snapshot` - `base`); `merged` must be 0 before the first snapshot.
pub fn accumulate(cpu: &Cpu, index: usize, snapshot: &[f32], base: &[f32], weights: &[f32], merged: &mut [f32]) {
    let (w, cut) = (weights[index], flat(merged.len()));
    cpu.for_tiles([Tiled::new(merged, cut)], |_, [mut merged]| {
        let range = merged.first_col()..merged.first_col() + merged.cols();
        simd!(cpu, s => accumulate_range(s, w, &snapshot[range.clone()], &base[range.clone()], merged.row(0)));
    });
}

#[inline(always)]
fn accumulate_range<S: Simd>(simd: S, w: f32, snapshot: &[f32], base: &[f32], merged: &mut [f32]) {
    let n = S::f32s::LEN;
    let (snapshot, base, mut merged) = (snapshot.chunks_exact(n), base.chunks_exact(n), merged.chunks_exact_mut(n));
    let rest = snapshot.remainder().iter().zip(base.remainder());
    for (merged, (snapshot, base)) in (&mut merged).zip(snapshot.zip(base)) {
        let difference = S::f32s::from_slice(simd, snapshot) - S::f32s::from_slice(simd, base);
        difference.mul_add(w, S::f32s::from_slice(simd, merged)).store_slice(merged);
    }
    for (merged, (snapshot, base)) in merged.into_remainder().iter_mut().zip(rest) {
        *merged += w * (snapshot - base);
    }
}

/// `merged` (n) = `base` + `merged`, after the last snapshot.
pub fn finish(cpu: &Cpu, base: &[f32], merged: &mut [f32]) {
    let cut = flat(merged.len());
    cpu.for_tiles([Tiled::new(merged, cut)], |_, [mut merged]| {
        let range = merged.first_col()..merged.first_col() + merged.cols();
        simd!(cpu, s => finish_range(s, &base[range.clone()], merged.row(0)));
    });
}

#[inline(always)]
fn finish_range<S: Simd>(_: S, base: &[f32], merged: &mut [f32]) {
    merged.iter_mut().zip(base).for_each(|(m, b)| *m += b);
}

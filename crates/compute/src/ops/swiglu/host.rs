//! SwiGLU: h = silu(gate) * up, silu(g) = g / (1 + exp(-g)) (Shazeer 2020).

use crate::device::cpu::math::{load_part, sigmoid, store_part};
use crate::device::cpu::task_rows;
use crate::device::cpu::{Cpu, OutputTile, TileGrid, Tiled};
use crate::simd;
use fearless_simd::prelude::*;

/// `h` (R, cols) from `gate_up` (R, 2 cols): gate in the first columns, up in the others.
pub fn forward(cpu: &Cpu, cols: usize, gate_up: &[f32], h: &mut [f32]) {
    let rows = h.len() / cols;
    let h = Tiled::new(h, TileGrid::rows(rows, cols, task_rows(rows, cols)));
    cpu.for_tiles([h], |_, [h]| simd!(cpu, s => forward_tile(s, gate_up, h)));
}

#[inline(always)]
fn forward_tile<S: Simd>(simd: S, gate_up: &[f32], mut h: OutputTile<'_>) {
    let (n, cols) = (S::f32s::LEN, h.cols());
    for i in 0..h.rows() {
        let (gate, up) = gate_up[(h.first_row() + i) * 2 * cols..][..2 * cols].split_at(cols);
        let (gate, up, mut h) = (gate.chunks_exact(n), up.chunks_exact(n), h.row(i).chunks_exact_mut(n));
        let rest = (gate.remainder(), up.remainder());
        for (h, (gate, up)) in (&mut h).zip(gate.zip(up)) {
            product(simd, S::f32s::from_slice(simd, gate), S::f32s::from_slice(simd, up)).store_slice(h);
        }
        let h = h.into_remainder();
        if !h.is_empty() {
            store_part(simd, product(simd, load_part(simd, rest.0, 0.0), load_part(simd, rest.1, 0.0)), h);
        }
    }
}

#[inline(always)]
fn product<S: Simd>(simd: S, gate: S::f32s, up: S::f32s) -> S::f32s {
    gate * sigmoid(simd, gate) * up
}

/// `dgate_up` (R, 2 cols) from `dh` (R, cols).
pub fn backward(cpu: &Cpu, cols: usize, gate_up: &[f32], dh: &[f32], dgate_up: &mut [f32]) {
    let rows = dh.len() / cols;
    let dgate_up = Tiled::new(dgate_up, TileGrid::rows(rows, 2 * cols, task_rows(rows, 2 * cols)));
    cpu.for_tiles([dgate_up], |_, [dgate_up]| simd!(cpu, s => backward_tile(s, gate_up, dh, dgate_up)));
}

#[inline(always)]
fn backward_tile<S: Simd>(simd: S, gate_up: &[f32], dh: &[f32], mut dgate_up: OutputTile<'_>) {
    let cols = dgate_up.cols() / 2;
    for i in 0..dgate_up.rows() {
        let row = dgate_up.first_row() + i;
        let (gate, up) = gate_up[row * 2 * cols..][..2 * cols].split_at(cols);
        let (dgate, dup) = dgate_up.row(i).split_at_mut(cols);
        backward_row(simd, gate, up, &dh[row * cols..][..cols], dgate, dup);
    }
}

#[inline(always)]
fn backward_row<S: Simd>(simd: S, gate: &[f32], up: &[f32], dh: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = S::f32s::LEN;
    let (gate, up, dh) = (gate.chunks_exact(n), up.chunks_exact(n), dh.chunks_exact(n));
    let (mut dgate, mut dup) = (dgate.chunks_exact_mut(n), dup.chunks_exact_mut(n));
    let rest = (gate.remainder(), up.remainder(), dh.remainder());
    for ((dgate, dup), ((gate, up), dh)) in (&mut dgate).zip(&mut dup).zip(gate.zip(up).zip(dh)) {
        let (gate, up) = (S::f32s::from_slice(simd, gate), S::f32s::from_slice(simd, up));
        let (a, b) = gradients(simd, gate, up, S::f32s::from_slice(simd, dh));
        a.store_slice(dgate);
        b.store_slice(dup);
    }
    if !rest.0.is_empty() {
        let (gate, up) = (load_part(simd, rest.0, 0.0), load_part(simd, rest.1, 0.0));
        let (a, b) = gradients(simd, gate, up, load_part(simd, rest.2, 0.0));
        store_part(simd, a, dgate.into_remainder());
        store_part(simd, b, dup.into_remainder());
    }
}

/// (d up s (1 + gate (1 - s)), d gate s), s = sigmoid(gate)
#[inline(always)]
fn gradients<S: Simd>(simd: S, gate: S::f32s, up: S::f32s, d: S::f32s) -> (S::f32s, S::f32s) {
    let s = sigmoid(simd, gate);
    let one = S::f32s::splat(simd, 1.0);
    let ds = d * s;
    (ds * up * gate.mul_add(one - s, one), ds * gate)
}

//! AdamW (Loshchilov & Hutter 2019) in PyTorch's form, and plain gradient descent, over a segment of the parameter arenas.
//!
//! `hyper` (8): lr, beta1, beta2, eps, weight decay, 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t), max norm. `gate`: the stats of the step,
//! as bit patterns; nothing is written when a gradient, the norm or the loss was not finite.

use crate::device::cpu::flat;
use crate::device::cpu::math::{load_part, store_part};
use crate::device::cpu::{Cpu, Tiled};
use crate::simd;
use fearless_simd::prelude::*;

const EXPONENT: u32 = 0x7f80_0000;

fn is_closed(gate: &[u32]) -> bool {
    gate[2] != 0 || gate[0] & EXPONENT == EXPONENT || gate[4] & EXPONENT == EXPONENT
}

/// The numbers of an update that do not change from element to element.
#[derive(Clone, Copy)]
struct Step {
    clip: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    rate: f32,
    root: f32,
}

/// One update of `values`, `m` and `v` (n) by `grads` (n); the first `decayed` elements decay.
pub fn update(
    cpu: &Cpu,
    decayed: usize,
    grads: &[f32],
    hyper: &[f32],
    gate: &[u32],
    values: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    if is_closed(gate) {
        return;
    }
    let lr = hyper[0];
    let step = Step {
        clip: f32::from_bits(gate[1]),
        beta1: hyper[1],
        beta2: hyper[2],
        eps: hyper[3],
        decay: 1.0 - lr * hyper[4],
        rate: lr * hyper[5],
        root: hyper[6],
    };
    let cut = flat(values.len());
    cpu.for_tiles([values, m, v].map(|data| Tiled::new(data, cut)), |_, [mut values, mut m, mut v]| {
        let first = values.first_col();
        let kept = decayed.clamp(first, first + values.cols()) - first;
        let grads = &grads[first..][..values.cols()];
        let (a, b) = (values.row(0).split_at_mut(kept), grads.split_at(kept));
        let (m, v) = (m.row(0).split_at_mut(kept), v.row(0).split_at_mut(kept));
        simd!(cpu, s => {
            update_range(s, step, b.0, a.0, m.0, v.0);
            update_range(s, Step { decay: 1.0, ..step }, b.1, a.1, m.1, v.1);
        });
    });
}

#[inline(always)]
fn update_range<S: Simd>(simd: S, step: Step, grads: &[f32], values: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    let n = S::f32s::LEN;
    let grads = grads.chunks_exact(n);
    let (mut values, mut m, mut v) = (values.chunks_exact_mut(n), m.chunks_exact_mut(n), v.chunks_exact_mut(n));
    let rest = grads.remainder();
    for (((grads, values), m), v) in grads.zip(&mut values).zip(&mut m).zip(&mut v) {
        let (old_m, old_v) = (S::f32s::from_slice(simd, m), S::f32s::from_slice(simd, v));
        let old = S::f32s::from_slice(simd, values);
        let [new, new_m, new_v] = updated::<S>(step, S::f32s::from_slice(simd, grads), old, old_m, old_v);
        new.store_slice(values);
        new_m.store_slice(m);
        new_v.store_slice(v);
    }
    if !rest.is_empty() {
        let (values, m, v) = (values.into_remainder(), m.into_remainder(), v.into_remainder());
        let (old_m, old_v) = (load_part(simd, m, 0.0), load_part(simd, v, 0.0));
        let old = load_part(simd, values, 0.0);
        let [new, new_m, new_v] = updated::<S>(step, load_part(simd, rest, 0.0), old, old_m, old_v);
        store_part(simd, new, values);
        store_part(simd, new_m, m);
        store_part(simd, new_v, v);
    }
}

/// (value, m, v)
#[inline(always)]
fn updated<S: Simd>(step: Step, grad: S::f32s, value: S::f32s, m: S::f32s, v: S::f32s) -> [S::f32s; 3] {
    let g = grad * step.clip;
    let mean = m.mul_add(step.beta1, g * (1.0 - step.beta1));
    let square = v.mul_add(step.beta2, g * (1.0 - step.beta2) * g);
    let value = value * step.decay - mean * step.rate / square.sqrt().mul_add(step.root, step.eps);
    [value, mean, square]
}

/// One step of plain gradient descent, values -= lr clip grads; no moments, no decay.
pub fn sgd(cpu: &Cpu, grads: &[f32], hyper: &[f32], gate: &[u32], values: &mut [f32]) {
    if is_closed(gate) {
        return;
    }
    let (rate, cut) = (hyper[0] * f32::from_bits(gate[1]), flat(values.len()));
    cpu.for_tiles([Tiled::new(values, cut)], |_, [mut values]| {
        let grads = &grads[values.first_col()..][..values.cols()];
        simd!(cpu, s => sgd_range(s, rate, grads, values.row(0)));
    });
}

#[inline(always)]
fn sgd_range<S: Simd>(simd: S, rate: f32, grads: &[f32], values: &mut [f32]) {
    let n = S::f32s::LEN;
    let (grads, mut values) = (grads.chunks_exact(n), values.chunks_exact_mut(n));
    let rest = grads.remainder();
    for (grads, values) in grads.zip(&mut values) {
        S::f32s::from_slice(simd, grads).mul_add(-rate, S::f32s::from_slice(simd, values)).store_slice(values);
    }
    for (g, v) in rest.iter().zip(values.into_remainder()) {
        *v -= rate * g;
    }
}

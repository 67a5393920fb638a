//! Rotary position embedding (Su et al. 2021), in place on fused q|k|v rows; halves paired as in Hugging Face.

use crate::device::cpu::task_rows;
use crate::device::cpu::{Cpu, OutputTile, TileGrid, Tiled};
use crate::simd;
use fearless_simd::prelude::*;

/// Rotate the first `heads` heads (queries, then keys) of each row of `qkv` (R, stride) by the angles of `positions` (R); `direction` is 1,
/// or -1 for the gradient. `table` is (positions, head_dim): groups of (cos, cos, sin, sin) of two neighbouring frequencies.
pub fn rotate(
    cpu: &Cpu,
    heads: usize,
    head_dim: usize,
    stride: usize,
    direction: f32,
    positions: &[u32],
    table: &[f32],
    qkv: &mut [f32],
) {
    let (rows, cols) = (positions.len(), heads * head_dim);
    let cut = TileGrid { offset: 0, stride, rows, cols, tile_rows: task_rows(rows, cols), tile_cols: cols };
    let qkv = Tiled::new(qkv, cut);
    cpu.for_tiles([qkv], |_, [qkv]| simd!(cpu, s => rotate_tile(s, head_dim, direction, positions, table, qkv)));
}

#[inline(always)]
fn rotate_tile<S: Simd>(simd: S, head_dim: usize, direction: f32, positions: &[u32], table: &[f32], mut qkv: OutputTile<'_>) {
    let last = table.len() / head_dim - 1;
    for i in 0..qkv.rows() {
        let position = (positions[qkv.first_row() + i] as usize).min(last);
        rotate_row(simd, direction, &table[position * head_dim..][..head_dim], qkv.row(i));
    }
}

/// All heads of a row by the angles of `turn` (head_dim).
#[inline(always)]
pub fn rotate_row<S: Simd>(simd: S, direction: f32, turn: &[f32], row: &mut [f32]) {
    let (n, width, half) = (S::f32s::LEN, turn.len(), turn.len() / 2);
    let vectors = half / n;
    for k in 0..vectors {
        let (cos, sin) = cos_sin(simd, &turn[2 * n * k..][..2 * n]);
        let sin = sin * direction;
        let mut at = n * k;
        while at < row.len() {
            let (low, high) = row[at..at + half + n].split_at_mut(half);
            let low = &mut low[..n];
            let (a, b) = (S::f32s::from_slice(simd, low), S::f32s::from_slice(simd, high));
            (-b).mul_add(sin, a * cos).store_slice(low);
            a.mul_add(sin, b * cos).store_slice(high);
            at += width;
        }
    }
    for i in vectors * n..half {
        let (cos, sin) = (turn[i / 2 * 4 + i % 2], turn[i / 2 * 4 + 2 + i % 2] * direction);
        for at in (i..row.len()).step_by(width) {
            let (a, b) = (row[at], row[at + half]);
            row[at] = a * cos - b * sin;
            row[at + half] = b * cos + a * sin;
        }
    }
}

/// The cosines and the sines of two vectors of (cos, cos, sin, sin).
#[inline(always)]
fn cos_sin<S: Simd>(simd: S, turn: &[f32]) -> (S::f32s, S::f32s) {
    let n = S::f32s::LEN;
    let pairs = |v: &[f32]| S::f32s::from_slice(simd, v).bitcast::<S::f64s>();
    let (a, b) = (pairs(&turn[..n]), pairs(&turn[n..]));
    (a.unzip_low(b).bitcast(), a.unzip_high(b).bitcast())
}

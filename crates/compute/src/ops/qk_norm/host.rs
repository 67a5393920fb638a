//! RMSNorm of query or key heads and their rotation; the arithmetic is that of `rmsnorm` and `rope`.

use super::Heads;
use crate::device::cpu::{Cpu, OutputTile, TileGrid, Tiled, task_rows};
use crate::ops::rmsnorm::host::{add_block_sums, backward_row, dot3, scaled, squares};
use crate::ops::rope::host::rotate_row;
use crate::simd;
use fearless_simd::prelude::*;

/// The widest head.
const MOST_WIDTH: usize = 256;

impl Heads {
    fn tile_rows(&self) -> usize {
        task_rows(self.matrix_rows, self.heads * self.width)
    }

    /// All heads of a row in tasks.
    fn window(&self) -> TileGrid {
        let cols = self.all() * self.width;
        TileGrid {
            offset: self.offset,
            stride: self.stride,
            rows: self.matrix_rows,
            cols,
            tile_rows: self.tile_rows(),
            tile_cols: cols,
        }
    }

    /// All heads of a row of the matrix.
    #[inline(always)]
    fn row<'a>(&self, matrix: &'a [f32], row: usize) -> &'a [f32] {
        &matrix[row * self.stride + self.offset..][..self.all() * self.width]
    }

    /// The angles of a position.
    #[inline(always)]
    fn angles<'a>(&self, table: &'a [f32], position: u32) -> &'a [f32] {
        let last = table.len() / self.width - 1;
        &table[(position as usize).min(last) * self.width..][..self.width]
    }
}

/// See [`super::forward`].
pub fn forward(
    cpu: &Cpu,
    heads: Heads,
    eps: f32,
    [raw, gain, table]: [&[f32]; 3],
    positions: &[u32],
    rstd: &mut [f32],
    qkv: &mut [f32],
) {
    let numbers = TileGrid::rows(heads.matrix_rows, heads.heads, heads.tile_rows());
    let outputs = [Tiled::new(rstd, numbers), Tiled::new(qkv, heads.window())];
    cpu.for_tiles(outputs, |_, [rstd, qkv]| {
        simd!(cpu, s => forward_tile(s, heads, eps, [raw, gain, table], positions, rstd, qkv));
    });
}

#[inline(always)]
fn forward_tile<S: Simd>(
    simd: S,
    heads: Heads,
    eps: f32,
    [raw, gain, table]: [&[f32]; 3],
    positions: &[u32],
    mut rstd: OutputTile<'_>,
    mut qkv: OutputTile<'_>,
) {
    let (width, gain) = (heads.width, &gain[..heads.width]);
    for i in 0..qkv.rows() {
        let row = qkv.first_row() + i;
        let (raw, y, rstd) = (heads.row(raw, row), qkv.row(i), rstd.row(i));
        let (raw, values) = raw.split_at(heads.heads * width);
        let (y, copies) = y.split_at_mut(heads.heads * width);
        for ((raw, y), rstd) in raw.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(rstd) {
            *rstd = 1.0 / (squares(simd, raw) * (1.0 / width as f32) + eps).sqrt();
            scaled(simd, *rstd, raw, gain, y);
        }
        rotate_row(simd, 1.0, heads.angles(table, positions[row]), y);
        copies.copy_from_slice(values);
    }
}

/// See [`super::backward`].
pub fn backward(cpu: &Cpu, heads: Heads, [raw, gain, table, rstd, dqkv]: [&[f32]; 5], positions: &[u32], draw: &mut [f32]) {
    let draw = Tiled::new(draw, heads.window());
    cpu.for_tiles([draw], |_, [draw]| {
        simd!(cpu, s => backward_tile(s, heads, [raw, gain, table, rstd, dqkv], positions, draw));
    });
}

#[inline(always)]
fn backward_tile<S: Simd>(
    simd: S,
    heads: Heads,
    [raw, gain, table, rstd, dqkv]: [&[f32]; 5],
    positions: &[u32],
    mut draw: OutputTile<'_>,
) {
    let (width, gain) = (heads.width, &gain[..heads.width]);
    let mut space = [0.0; MOST_WIDTH];
    let back = &mut space[..width];
    for i in 0..draw.rows() {
        let row = draw.first_row() + i;
        let (raw, dqkv, draw) = (heads.row(raw, row), heads.row(dqkv, row), draw.row(i));
        let turn = heads.angles(table, positions[row]);
        for (head, &scale) in rstd[row * heads.heads..][..heads.heads].iter().enumerate() {
            let at = head * width;
            back.copy_from_slice(&dqkv[at..][..width]);
            rotate_row(simd, -1.0, turn, back);
            let raw = &raw[at..][..width];
            let mean = dot3(simd, back, gain, raw) * scale * (1.0 / width as f32);
            backward_row::<S, false>(simd, scale, scale * mean, raw, gain, back, &mut draw[at..][..width]);
        }
        let values = heads.heads * width;
        draw[values..].copy_from_slice(&dqkv[values..]);
    }
}

/// See [`super::backward_gain`].
pub fn backward_gain(cpu: &Cpu, heads: Heads, [raw, table, rstd, dqkv]: [&[f32]; 4], positions: &[u32], dgain: &mut [f32]) {
    add_block_sums(cpu, heads.matrix_rows, heads.tile_rows(), dgain, |range, sums| {
        simd!(cpu, s => gain_block(s, heads, range, [raw, table, rstd, dqkv], positions, sums));
    });
}

#[inline(always)]
fn gain_block<S: Simd>(
    simd: S,
    heads: Heads,
    range: std::ops::Range<usize>,
    [raw, table, rstd, dqkv]: [&[f32]; 4],
    positions: &[u32],
    sums: &mut [f32],
) {
    let n = S::f32s::LEN;
    let mut space = [0.0; MOST_WIDTH];
    let back = &mut space[..heads.width];
    sums.fill(0.0);
    for row in range {
        let (raw, dqkv) = (heads.row(raw, row), heads.row(dqkv, row));
        let turn = heads.angles(table, positions[row]);
        for (head, &scale) in rstd[row * heads.heads..][..heads.heads].iter().enumerate() {
            let at = head * heads.width;
            back.copy_from_slice(&dqkv[at..][..heads.width]);
            rotate_row(simd, -1.0, turn, back);
            let raw = &raw[at..][..heads.width];
            let (mut sums, raw, back) = (sums.chunks_exact_mut(n), raw.chunks_exact(n), back.chunks_exact(n));
            let rest = raw.remainder().iter().zip(back.remainder());
            for (sum, (raw, back)) in (&mut sums).zip(raw.zip(back)) {
                let products = (S::f32s::from_slice(simd, raw) * scale)
                    .mul_add(S::f32s::from_slice(simd, back), S::f32s::from_slice(simd, sum));
                products.store_slice(sum);
            }
            sums.into_remainder().iter_mut().zip(rest).for_each(|(sum, (raw, back))| *sum += raw * scale * back);
        }
    }
}

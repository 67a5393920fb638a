//! Embedding: `y[row] = weight[token[row]]`.

use super::Sizes;
use crate::device::StoredNumber;
use crate::device::cpu::{Cpu, OutputTile, TileGrid, Tiled};
use crate::device::cpu::{TASK, task_rows};
use crate::simd;
use fearless_simd::prelude::*;

/// Columns of a task of [`backward`].
const COLUMNS: usize = 64;

/// `y` (R, cols) = the rows of `weight`, a part of the table, named by `tokens` (R), where they lie in it.
pub(super) fn forward<T: StoredNumber>(cpu: &Cpu, sizes: &Sizes, tokens: &[u32], weight: &[T], y: &mut [f32]) {
    let (rows, cols) = (tokens.len(), sizes.cols);
    let y = Tiled::new(y, TileGrid::rows(rows, cols, task_rows(rows, cols)));
    cpu.for_tiles([y], |_, [mut y]| {
        for i in 0..y.rows() {
            if let Some(row) = sizes.row(tokens[y.first_row() + i]) {
                T::copy(&weight[row * cols..][..cols], y.row(i));
            }
        }
    });
}

/// `dweight`, a part of the table's, += the gradient `dy` (R, cols), row by row onto its token. `order` (R): row numbers sorted by token; `spans` (3 R):
/// (token, start, end) into `order`, empty ones at the end. A task owns some columns of all tokens.
pub(super) fn backward(cpu: &Cpu, sizes: &Sizes, dy: &[f32], order: &[u32], spans: &[u32], dweight: &mut [f32]) {
    let (vocab, cols) = (sizes.vocab, sizes.cols);
    let tile_cols = if dy.len() < 2 * TASK { cols } else { COLUMNS };
    let dweight = Tiled::new(dweight, TileGrid { offset: 0, stride: cols, rows: vocab, cols, tile_rows: vocab, tile_cols });
    cpu.for_tiles([dweight], |_, [dweight]| simd!(cpu, s => backward_tile(s, sizes, dy, order, spans, dweight)));
}

#[inline(always)]
fn backward_tile<S: Simd>(simd: S, sizes: &Sizes, dy: &[f32], order: &[u32], spans: &[u32], mut dweight: OutputTile<'_>) {
    let (n, rows, cols) = (S::f32s::LEN, sizes.rows, sizes.cols);
    // Columns in groups of four vectors, then in vectors, then one by one.
    let (fours, ones) = (dweight.cols() / (4 * n) * (4 * n), dweight.cols() / n * n);
    for span in spans.chunks_exact(3) {
        let (start, end) = (span[1] as usize, (span[2] as usize).min(rows));
        let Some(token) = sizes.row(span[0]).filter(|_| start < end) else { continue };
        let (order, first_col) = (&order[start..end], dweight.first_col());
        let to = dweight.row(token);
        let row = |r: &u32| (*r as usize).min(rows - 1) * cols + first_col;
        for c in (0..fours).step_by(4 * n) {
            add::<S, 4>(simd, order.iter().map(|r| row(r) + c), dy, &mut to[c..c + 4 * n]);
        }
        for c in (fours..ones).step_by(n) {
            add::<S, 1>(simd, order.iter().map(|r| row(r) + c), dy, &mut to[c..c + n]);
        }
        for (c, to) in to.iter_mut().enumerate().skip(ones) {
            *to += order.iter().map(|r| dy[row(r) + c]).sum::<f32>();
        }
    }
}

/// Add the sum of `N` vectors at each of `starts`: the sum first, so that its error is not that of many additions to a large number.
#[inline(always)]
fn add<S: Simd, const N: usize>(simd: S, starts: impl Iterator<Item = usize>, dy: &[f32], to: &mut [f32]) {
    let n = S::f32s::LEN;
    let mut sums = [S::f32s::splat(simd, 0.0); N];
    for start in starts {
        for (sum, v) in sums.iter_mut().zip(dy[start..start + N * n].chunks_exact(n)) {
            *sum += S::f32s::from_slice(simd, v);
        }
    }
    for (sum, to) in sums.iter().zip(to.chunks_exact_mut(n)) {
        (*sum + S::f32s::from_slice(simd, to)).store_slice(to);
    }
}

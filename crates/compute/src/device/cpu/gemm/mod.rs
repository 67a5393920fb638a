//! Matrix products on the CPU: y = x w^T, dx = dy w, dw += dy^T x.
//!
//! One task runs the serial [`product`]. The order of every sum depends only on the depth, so results are bit-identical for any tiling.

mod choose;
mod dots;
mod micro;
mod pack;
mod rate;
mod serial;
#[cfg(test)]
mod tests;

pub use rate::peak_gflops;
pub use serial::{MatrixView, product};

use super::{Cpu, TileGrid, Tiled};
use crate::device::Numbers;
use crate::simd;
use fearless_simd::Simd;
use fearless_simd::prelude::*;
use micro::Base;
use serial::{GemmJob, Right};

/// Sizes and strides of one product.
#[derive(Clone, Copy, Debug)]
pub struct GemmShape {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub cols: usize,
    /// Terms of each sum.
    pub depth: usize,
    /// Elements from row to row, as stored: left, right, result.
    pub strides: [usize; 3],
}

impl GemmShape {
    /// Floating-point operations.
    pub fn flops(&self) -> f64 {
        2.0 * self.rows as f64 * self.cols as f64 * self.depth as f64
    }
}

/// The value that [`forward`] adds to the product.
#[derive(Clone, Copy, Debug)]
pub enum GemmAddend<'a> {
    /// Nothing.
    None,
    /// A vector over the out features.
    Bias(&'a [f32]),
    /// A matrix with the layout of `y`, in another buffer.
    Residual(&'a [f32]),
    /// The previous contents of `y`.
    Output,
}

/// `y = x w^T`, plus `extra`: `x` [rows, depth], `w` [cols, depth], `y` [rows, cols]. Columns of `y` past `cols` are unchanged.
///
/// # Panics
/// When a buffer is too short (a defect of the caller).
pub fn forward<'a>(cpu: &Cpu, x: &[f32], w: impl Into<Numbers<'a>>, y: &mut [f32], shape: &GemmShape, extra: GemmAddend<'_>) {
    let [x_stride, w_stride, _] = shape.strides;
    let base = match extra {
        GemmAddend::None => Base::Zero,
        GemmAddend::Bias(bias) => Base::Row(bias),
        GemmAddend::Residual(residual) => Base::Matrix(residual, shape.strides[2]),
        GemmAddend::Output => Base::Output,
    };
    let job = GemmJob { a: MatrixView::new(x, x_stride), b: Right::transposed(w.into(), w_stride), depth: shape.depth, base };
    run(cpu, job, y, shape);
}

/// `dx = dy w`, or `dx += dy w`: `dy` [rows, depth], `w` [depth, cols], `dx` [rows, cols]. Columns of `dx` past `cols` are unchanged.
///
/// # Panics
/// When a buffer is too short (a defect of the caller).
pub fn backward_input<'a>(cpu: &Cpu, dy: &[f32], w: impl Into<Numbers<'a>>, dx: &mut [f32], shape: &GemmShape, accumulate: bool) {
    let [dy_stride, w_stride, _] = shape.strides;
    let base = if accumulate { Base::Output } else { Base::Zero };
    let job = GemmJob { a: MatrixView::new(dy, dy_stride), b: Right::new(w.into(), w_stride), depth: shape.depth, base };
    run(cpu, job, dx, shape);
}

/// `dw += dy^T x`: `dy` [depth, rows], `x` [depth, cols], `dw` [rows, cols].
///
/// # Panics
/// When a buffer is too short (a defect of the caller).
pub fn backward_weight(cpu: &Cpu, dy: &[f32], x: &[f32], dw: &mut [f32], shape: &GemmShape) {
    let [dy_stride, x_stride, _] = shape.strides;
    let job = GemmJob {
        a: MatrixView::transposed(dy, dy_stride),
        b: Right::new(x.into(), x_stride),
        depth: shape.depth,
        base: Base::Output,
    };
    run(cpu, job, dw, shape);
}

/// `dbias +=` the column sums of `dy`: `dy` [rows, dbias.len()] in rows of `stride`.
///
/// # Panics
/// When a buffer is too short (a defect of the caller).
pub fn backward_bias(cpu: &Cpu, dy: &[f32], dbias: &mut [f32], rows: usize, stride: usize) {
    // Whole cache lines, a multiple of every vector's length.
    const COLS: usize = 32;
    let cols = dbias.len();
    assert!(rows == 0 || cols <= stride && (rows - 1) * stride + cols <= dy.len(), "{rows} x {cols} in rows of {stride}");
    let cut = TileGrid { offset: 0, stride: cols, rows: 1, cols, tile_rows: 1, tile_cols: COLS };
    cpu.for_tiles([Tiled::new(dbias, cut)], |_, [mut tile]| {
        let col = tile.first_col();
        simd!(cpu, s => column_sums(s, tile.row(0), dy, rows, stride, col));
    });
}

/// `sums[j] +=` the sum of column `first_col + j`: first over 256 rows each, then over these sums.
#[inline(always)]
fn column_sums<S: Simd>(s: S, sums: &mut [f32], dy: &[f32], rows: usize, stride: usize, first_col: usize) {
    const ROWS: usize = 256;
    let len = S::f32s::LEN;
    for first in (0..rows).step_by(ROWS) {
        let some = first..rows.min(first + ROWS);
        let mut parts = sums.chunks_exact_mut(len);
        let mut col = first_col;
        for part in &mut parts {
            let mut sum = S::f32s::splat(s, 0.0);
            for i in some.clone() {
                sum += S::f32s::from_slice(s, &dy[i * stride + col..i * stride + col + len]);
            }
            (sum + S::f32s::from_slice(s, part)).store_slice(part);
            col += len;
        }
        for (j, part) in parts.into_remainder().iter_mut().enumerate() {
            let mut sum = 0.0;
            for i in some.clone() {
                sum += dy[i * stride + col + j];
            }
            *part += sum;
        }
    }
}

/// `out = base + a b`, in tiles.
fn run(cpu: &Cpu, job: GemmJob<'_>, out: &mut [f32], shape: &GemmShape) {
    let &GemmShape { rows, cols, depth, strides: [_, _, stride] } = shape;
    let few = job.by_depth() && choose::few_rows(rows, depth);
    let [tile_rows, tile_cols] = if few { [rows, choose::few_cols(depth)] } else { choose::tile(cpu, shape, &job) };
    let cut = TileGrid { offset: 0, stride, rows, cols, tile_rows, tile_cols };
    cpu.for_tiles([Tiled::new(out, cut)], |_, [mut tile]| {
        let job = job.from(tile.first_row(), tile.first_col());
        if few {
            simd!(cpu, s => dots::run(s, &mut tile, &job));
        } else {
            simd!(cpu, s => serial::run(s, &mut tile, &job));
        }
    });
}

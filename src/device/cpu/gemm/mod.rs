//! Products of matrices on the CPU: y = x w^T, dx = dy w, dw += dy^T x.
//!
//! The serial [`product`] is what one task runs. Every sum is taken in one order, which depends on the depth alone, so the same bits come
//! out however an output is cut into tiles.

mod choose;
mod micro;
mod pack;
mod serial;
mod sums;

pub use serial::{View, product};
pub use sums::{column_sums, peak_gflops};

use super::{Cpu, Cut, Tiled};
use crate::simd;
use micro::Base;
use serial::product_onto;

/// Extents and strides of one product.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub cols: usize,
    /// Terms of each sum.
    pub depth: usize,
    /// Elements from row to row, as stored: left, right, result.
    pub strides: [usize; 3],
}

impl Shape {
    /// Multiplications and additions.
    pub fn flops(&self) -> f64 {
        2.0 * self.rows as f64 * self.cols as f64 * self.depth as f64
    }
}

/// What [`forward`] adds to the product.
#[derive(Clone, Copy, Debug)]
pub enum Extra<'a> {
    /// Nothing.
    None,
    /// A vector over the out features.
    Bias(&'a [f32]),
    /// A matrix laid out as `y`, in another buffer.
    Residual(&'a [f32]),
}

/// `y = x w^T`, plus what `extra` says: `x` [rows, depth], `w` [cols, depth], `y` [rows, cols]. Columns of `y` past `cols` stay as they are.
///
/// # Panics
/// When a buffer is too short (a defect of the caller).
pub fn forward(cpu: &Cpu, x: &[f32], w: &[f32], y: &mut [f32], shape: &Shape, extra: Extra<'_>) {
    let [x_stride, w_stride, _] = shape.strides;
    run(
        cpu,
        View::new(x, x_stride),
        View::transposed(w, w_stride),
        y,
        shape,
        match extra {
            Extra::None => Base::Zero,
            Extra::Bias(bias) => Base::Row(bias),
            Extra::Residual(residual) => Base::Matrix(residual, shape.strides[2]),
        },
    );
}

/// `dx = dy w`, or `dx += dy w`: `dy` [rows, depth], `w` [depth, cols], `dx` [rows, cols]. Columns of `dx` past `cols` stay as they are.
///
/// # Panics
/// When a buffer is too short (a defect of the caller).
pub fn backward_input(cpu: &Cpu, dy: &[f32], w: &[f32], dx: &mut [f32], shape: &Shape, accumulate: bool) {
    let [dy_stride, w_stride, _] = shape.strides;
    let base = if accumulate { Base::Output } else { Base::Zero };
    run(cpu, View::new(dy, dy_stride), View::new(w, w_stride), dx, shape, base);
}

/// `dw += dy^T x`: `dy` [depth, rows], `x` [depth, cols], `dw` [rows, cols].
///
/// # Panics
/// When a buffer is too short (a defect of the caller).
pub fn backward_weight(cpu: &Cpu, dy: &[f32], x: &[f32], dw: &mut [f32], shape: &Shape) {
    let [dy_stride, x_stride, _] = shape.strides;
    run(cpu, View::transposed(dy, dy_stride), View::new(x, x_stride), dw, shape, Base::Output);
}

/// `out = base + a b`, in tiles.
fn run(cpu: &Cpu, a: View<'_>, b: View<'_>, out: &mut [f32], shape: &Shape, base: Base<'_>) {
    let &Shape { rows, cols, depth, strides: [_, _, stride] } = shape;
    let [tile_rows, tile_cols] = choose::tile(cpu.level(), rows, cols, depth);
    let cut = Cut { offset: 0, stride, rows, cols, tile_rows, tile_cols };
    cpu.for_tiles([Tiled::new(out, cut)], |_, [mut tile]| {
        let (row, col) = (tile.first_row(), tile.first_col());
        let a = View { data: &a.data[row * a.row..], ..a };
        let b = View { data: &b.data[col * b.col..], ..b };
        let base = match base {
            Base::Row(values) => Base::Row(&values[col..]),
            Base::Matrix(values, stride) => Base::Matrix(&values[row * stride + col..], stride),
            Base::Zero | Base::Output => base,
        };
        simd!(cpu, s => product_onto(s, &mut tile, a, b, depth, base));
    });
}

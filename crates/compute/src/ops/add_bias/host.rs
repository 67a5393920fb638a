//! y += bias, in every row.

use crate::device::cpu::task_rows;
use crate::device::cpu::{Cpu, OutputTile, TileGrid, Tiled};
use crate::simd;
use fearless_simd::prelude::*;

/// `y` (R, C) += `bias` (C).
pub fn forward(cpu: &Cpu, bias: &[f32], y: &mut [f32]) {
    let (rows, cols) = (y.len() / bias.len(), bias.len());
    let y = Tiled::new(y, TileGrid::rows(rows, cols, task_rows(rows, cols)));
    cpu.for_tiles([y], |_, [y]| simd!(cpu, s => forward_tile(s, bias, y)));
}

#[inline(always)]
fn forward_tile<S: Simd>(_: S, bias: &[f32], mut y: OutputTile<'_>) {
    for i in 0..y.rows() {
        y.row(i).iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
}

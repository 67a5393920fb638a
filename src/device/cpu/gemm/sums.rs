//! What belongs to the products: column sums for the gradient of a bias, and the rate that products reach.

use super::{Extra, Shape, forward};
use crate::device::cpu::{Cpu, Cut, Tiled};
use crate::simd;
use fearless_simd::prelude::*;
use web_time::Instant;

/// Columns of a task of [`column_sums`].
const TASK_COLS: usize = 64;

/// `sums` (cols) `+=` the column sums of `values` (rows, stride), each in the order of the rows.
pub fn column_sums(cpu: &Cpu, [rows, cols, stride]: [usize; 3], values: &[f32], sums: &mut [f32]) {
    let cut = Cut { offset: 0, stride: cols, rows: 1, cols, tile_rows: 1, tile_cols: TASK_COLS };
    cpu.for_tiles([Tiled::new(sums, cut)], |_, [mut tile]| {
        let first = tile.first_col();
        simd!(cpu, s => add_rows(s, &values[first..], rows, stride, tile.row(0)));
    });
}

/// Rows are added up from zero, then to what is there: so that a long sum of small numbers is not lost beside a large one.
#[inline(always)]
fn add_rows<S: Simd>(_: S, values: &[f32], rows: usize, stride: usize, sums: &mut [f32]) {
    let mut own = [0.0f32; TASK_COLS];
    for row in 0..rows {
        let values = &values[row * stride..][..sums.len()];
        own.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
    }
    sums.iter_mut().zip(&own).for_each(|(sum, own)| *sum += own);
}

/// The best rate of a large product in GFLOP/s: a tenth of a second of trials.
pub fn peak_gflops(cpu: &Cpu) -> f64 {
    const EDGE: usize = 512;
    let shape = Shape { rows: EDGE, cols: EDGE, depth: EDGE, strides: [EDGE; 3] };
    // Real numbers: a processor that multiplies zeros stays cooler and runs faster.
    let values: Vec<f32> = (0..EDGE * EDGE).map(|i| (i * 2_654_435_761 % 1021) as f32 / 510.0 - 1.0).collect();
    let mut out = vec![0.0; EDGE * EDGE];
    let (begin, mut best) = (Instant::now(), 0.0f64);
    while best == 0.0 || begin.elapsed().as_secs_f64() < 0.1 {
        let trial = Instant::now();
        forward(cpu, &values, &values, &mut out, &shape, Extra::None);
        best = best.max(shape.flops() / trial.elapsed().as_secs_f64() / 1e9);
    }
    best
}

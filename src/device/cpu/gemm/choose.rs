//! Which tiles an output is cut into. Sums are taken in the same order in every tile (`super::serial`), so the number of threads may
//! play a part.

use super::serial::{View, block_of_registers};
use super::{Cpu, Shape};

/// Rows of the result up to which y = x w^T is taken by inner products, without packing the weight.
pub const FEW_ROWS: usize = 32;

/// Columns of a task of few rows, whose part of the weight takes about 128 KB: enough to be worth a task.
pub fn few_cols(depth: usize) -> usize {
    (32_768 / depth.max(1)).next_multiple_of(8).max(8)
}

/// Rows and columns of a tile.
pub fn tile(cpu: &Cpu, shape: &Shape, a: View<'_>, b: View<'_>) -> [usize; 2] {
    let block = block_of_registers(cpu.level());
    let costs = Costs::new(cpu.threads(), block, shape, [a.col == 1, b.col == 1]);
    let mut best = [shape.rows, shape.cols];
    let mut least = f64::INFINITY;
    for row_parts in 1..=shape.rows.div_ceil(LEAST_ROWS).min(MOST_PARTS) {
        for waves in 1..=MOST_WAVES {
            let col_parts = (waves * cpu.threads()).div_ceil(row_parts).min(shape.cols.div_ceil(block[1]));
            let part = |extent: usize, parts: usize, unit: usize| extent.div_ceil(parts).next_multiple_of(unit);
            let tile = [part(shape.rows, row_parts, block[0]), part(shape.cols, col_parts.max(1), block[1])];
            let cost = costs.of(tile);
            if cost < least {
                (least, best) = (cost, tile);
            }
        }
    }
    best
}

const LEAST_ROWS: usize = 96;
const MOST_PARTS: usize = 64;
const MOST_WAVES: usize = 4;

/// Estimates in units of one vector's multiplication and addition.
struct Costs {
    threads: f64,
    extents: [usize; 2],
    depth: f64,
    lanes: f64,
    /// Of an element of the left and of the right operand that a task reads first.
    first: [f64; 2],
}

impl Costs {
    /// `rows_dense`: whether the rows of the left and of the right operand are dense.
    fn new(threads: usize, block: [usize; 2], shape: &Shape, rows_dense: [bool; 2]) -> Self {
        // Measured on Zen 3: a left operand read where it lies, or packed; a right operand copied, or transposed.
        let first = [if rows_dense[0] { 0.3 } else { 2.0 }, if rows_dense[1] { 0.6 } else { 1.4 }];
        Self {
            threads: threads as f64,
            extents: [shape.rows, shape.cols],
            depth: shape.depth as f64,
            lanes: (block[1] / if block[1] == 12 { 3 } else { 2 }) as f64,
            first,
        }
    }

    fn of(&self, [rows, cols]: [usize; 2]) -> f64 {
        // A task's start, and the wait for the last task: others may hold the threads.
        const START: f64 = 4000.0;
        const TAIL: f64 = 0.15;
        let tasks = self.extents[0].div_ceil(rows) * self.extents[1].div_ceil(cols);
        let (rows, cols) = (rows.min(self.extents[0]) as f64, cols.min(self.extents[1]) as f64);
        let task = self.depth * (rows * cols / self.lanes + rows * self.first[0] + cols * self.first[1]) + START;
        let tail = if self.threads > 1.0 { TAIL } else { 0.0 };
        task * ((tasks as f64 / self.threads).ceil() + tail)
    }
}

//! Tile sizes. Sums have the same order in every tile (`serial.rs`), so tile sizes may depend on the number of threads.

use super::serial::{GemmJob, registers};
use super::{Cpu, GemmShape};

/// Whether y = x w^T is computed by inner products, without packing the weight. Depends only on the shape, because it affects the bits.
pub fn few_rows(rows: usize, depth: usize) -> bool {
    // Measured on Zen 3: up to about 48 rows, fewer at small depths, where the final reduction of a sum costs more than its terms.
    rows == 1 || rows <= (depth / 5).min(40)
}

/// Columns per task with few rows: about 128 KB of the weight.
pub fn few_cols(depth: usize) -> usize {
    (32_768 / depth.max(1)).next_multiple_of(8).max(8)
}

/// Rows and columns of a tile: the lowest estimated cost among some divisions with one to four tasks per thread.
pub fn tile(cpu: &Cpu, shape: &GemmShape, job: &GemmJob<'_>) -> [usize; 2] {
    const LEAST_ROWS: usize = 96;
    const MOST_PARTS: usize = 64;
    const MOST_WAVES: usize = 4;
    let costs = Costs::new(cpu, shape, job);
    let [_, width, _] = costs.registers;
    let mut best = [shape.rows, shape.cols];
    let mut least = f64::INFINITY;
    for row_parts in 1..=shape.rows.div_ceil(LEAST_ROWS).min(MOST_PARTS) {
        for waves in 1..=MOST_WAVES {
            let col_parts = (waves * cpu.threads()).div_ceil(row_parts).min(shape.cols.div_ceil(width)).max(1);
            let tile = costs.whole_blocks([row_parts, col_parts]);
            let cost = costs.of(tile);
            if cost < least {
                (least, best) = (cost, tile);
            }
        }
    }
    best
}

/// Estimated costs, in units of one vector multiply-add.
struct Costs<'a> {
    threads: usize,
    registers: [usize; 3],
    shape: &'a GemmShape,
    /// Of an element of the left and of the right operand on first use.
    first: [f64; 2],
}

impl<'a> Costs<'a> {
    fn new(cpu: &Cpu, shape: &'a GemmShape, job: &GemmJob<'_>) -> Self {
        // Fitted to measurements on Zen 3: a left operand is read in place, or packed; a right one is always packed.
        let first = [if job.a.by_rows() { 0.3 } else { 2.0 }, 2.5];
        Self { threads: cpu.threads(), registers: registers(cpu.level()), shape, first }
    }

    /// The tile that makes these many parts, rounded up to whole blocks of registers.
    fn whole_blocks(&self, parts: [usize; 2]) -> [usize; 2] {
        let [rows, cols, _] = self.registers;
        [self.shape.rows.div_ceil(parts[0]).next_multiple_of(rows), self.shape.cols.div_ceil(parts[1]).next_multiple_of(cols)]
    }

    fn of(&self, [rows, cols]: [usize; 2]) -> f64 {
        // Start of a task, and waiting for the last task: a thread may be busy otherwise.
        const START: f64 = 4000.0;
        const WAIT: f64 = 0.05;
        let tasks = self.shape.rows.div_ceil(rows) * self.shape.cols.div_ceil(cols);
        let [rows, cols] = [rows.min(self.shape.rows), cols.min(self.shape.cols)].map(|extent| extent as f64);
        let lanes = self.registers[2] as f64;
        let task = self.shape.depth as f64 * (rows * cols / lanes + rows * self.first[0] + cols * self.first[1]) + START;
        let wait = if self.threads > 1 { WAIT } else { 0.0 };
        task * (tasks.div_ceil(self.threads) as f64 + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Base;
    use super::super::serial::{MatrixView, Right};
    use super::*;

    /// Two threads get about the same work, in tasks of sufficient size.
    #[test]
    fn tiles_are_balanced() {
        let cpu = Cpu::new(2).unwrap();
        for (rows, cols, depth) in [(768, 384, 128), (768, 128, 384), (384, 128, 768), (2048, 1536, 384), (65, 384, 16384)] {
            let shape = GemmShape { rows, cols, depth, strides: [depth, cols, cols] };
            let job =
                GemmJob { a: MatrixView::new(&[], depth), b: Right::F32(MatrixView::new(&[], cols)), depth, base: Base::Zero };
            let [m, n] = tile(&cpu, &shape, &job);
            let tasks = rows.div_ceil(m) * cols.div_ceil(n);
            assert!(tasks % 2 == 0 && tasks <= 16, "{shape:?}: {tasks} tasks of {m} x {n}");
        }
    }
}

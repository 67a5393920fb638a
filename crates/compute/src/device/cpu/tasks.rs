//! Sizes of tasks. They depend only on shapes, so that results do not depend on the number of threads.

use super::TileGrid;
use std::cell::Cell;

/// Minimum elements per task: some microseconds of work.
pub const TASK: usize = 10_240;

/// Rows per task, for `rows` rows of `cols` elements.
pub fn task_rows(rows: usize, cols: usize) -> usize {
    rows.div_ceil((rows * cols / TASK).max(1)).max(1)
}

/// A dense vector divided into tasks.
pub fn flat(len: usize) -> TileGrid {
    TileGrid { offset: 0, stride: len, rows: 1, cols: len, tile_rows: 1, tile_cols: task_rows(len, 1).next_multiple_of(64) }
}

/// Lend `len` numbers of a thread-local buffer with arbitrary contents; it grows as needed and is kept.
pub fn with_scratch<T>(len: usize, body: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local! {
        static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    }
    let mut buffer = SCRATCH.take();
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = body(&mut buffer[..len]);
    SCRATCH.set(buffer);
    result
}

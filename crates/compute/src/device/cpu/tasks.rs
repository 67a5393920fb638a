//! How much of an output is worth a task. Sizes follow from shapes alone, so that results do not depend on the number of threads.

use super::Cut;
use std::cell::Cell;

/// Elements that are worth a task of their own: some microseconds of work.
pub const TASK: usize = 10_240;

/// Rows of `cols` elements that a task takes of `rows`.
pub fn task_rows(rows: usize, cols: usize) -> usize {
    rows.div_ceil((rows * cols / TASK).max(1)).max(1)
}

/// A dense vector in tasks.
pub fn flat(len: usize) -> Cut {
    Cut { offset: 0, stride: len, rows: 1, cols: len, tile_rows: 1, tile_cols: task_rows(len, 1).next_multiple_of(64) }
}

/// Lend `len` numbers of a buffer of this thread, whose values are arbitrary; it grows at its first uses and stays.
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

//! Working memory of a thread, kept from task to task.

use super::tile::STRIP;
use std::cell::RefCell;
use std::thread::LocalKey;

thread_local! {
    static OF_TASK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static OF_CALLER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Run `body`, which starts no tasks, with pieces of these many rows of sixteen numbers, aligned to a cache line, of arbitrary content.
///
/// The memory grows at first use and stays with the thread.
pub fn with_rows<const N: usize, T>(rows: [usize; N], body: impl FnOnce([&mut [[f32; STRIP]]; N]) -> T) -> T {
    with_kept(&OF_TASK, rows, body)
}

/// As [`with_rows`], for a `body` that starts tasks and shares the memory with them.
pub fn with_shared_rows<T>(rows: usize, body: impl FnOnce(&mut [[f32; STRIP]]) -> T) -> T {
    with_kept(&OF_CALLER, [rows], |[rows]| body(rows))
}

fn with_kept<const N: usize, T>(
    cell: &'static LocalKey<RefCell<Vec<f32>>>,
    rows: [usize; N],
    body: impl FnOnce([&mut [[f32; STRIP]]; N]) -> T,
) -> T {
    // Taken, not borrowed: a call inside of `body` gets memory of its own rather than a panic.
    let mut kept = cell.take();
    let needed = (rows.iter().sum::<usize>() + 1) * STRIP;
    if kept.len() < needed {
        kept = vec![0.0; needed];
    }
    let skip = kept.as_ptr().align_offset(64).min(STRIP);
    let mut rest = kept[skip..].as_chunks_mut().0;
    let pieces = rows.map(|n| rest.split_off_mut(..n).unwrap_or_default());
    let result = body(pieces);
    cell.set(kept);
    result
}

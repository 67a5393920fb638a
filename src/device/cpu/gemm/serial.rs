//! The product of one task.

use super::super::Tile;
use super::micro::{Base, Left, Sweep, sweep};
use super::pack;
use fearless_simd::prelude::*;
use fearless_simd::{Level, Simd};
use std::cell::Cell;

/// An operand: element (i, j) is `data[i * row + j * col]`, and `row` or `col` is 1.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Elements, from the first one on.
    pub data: &'a [f32],
    /// Elements from row to row.
    pub row: usize,
    /// Elements from column to column.
    pub col: usize,
}

impl<'a> View<'a> {
    /// Rows of `stride` elements.
    #[inline(always)]
    pub fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, row: stride, col: 1 }
    }

    /// The transposed matrix of one in rows of `stride` elements.
    #[inline(always)]
    pub fn transposed(data: &'a [f32], stride: usize) -> Self {
        Self { data, row: 1, col: stride }
    }
}

/// `out = a b`, or `out += a b`, on this thread: `a` [out.rows, depth], `b` [depth, out.cols].
///
/// # Panics
/// When an operand is too short, or has no stride of 1 (a defect of the caller).
pub fn product<S: Simd>(s: S, out: &mut Tile<'_>, a: View<'_>, b: View<'_>, depth: usize, add: bool) {
    let base = if add { Base::Output } else { Base::Zero };
    product_onto(s, out, a, b, depth, base);
}

/// As [`product`], adding to `base`.
pub(super) fn product_onto<S: Simd>(s: S, out: &mut Tile<'_>, a: View<'_>, b: View<'_>, depth: usize, base: Base<'_>) {
    assert!((a.row == 1 || a.col == 1) && (b.row == 1 || b.col == 1), "{a:?} {b:?}: neither rows nor columns are dense");
    // Taken out for the time of the call: code inside of `LocalKey::with` would not be compiled for the instruction set.
    let mut scratch = SCRATCH.take();
    let room = &mut scratch;
    // A function of its own for each instruction set, whoever calls it.
    s.vectorize(
        #[inline(always)]
        || match S::f32s::LEN {
            16 => blocks::<S, 12, 2, 32>(s, room, out, a, b, depth, base),
            8 => blocks::<S, 6, 2, 16>(s, room, out, a, b, depth, base),
            _ if cfg!(target_arch = "aarch64") => blocks::<S, 8, 3, 12>(s, room, out, a, b, depth, base),
            _ => blocks::<S, 4, 2, 8>(s, room, out, a, b, depth, base),
        },
    );
    SCRATCH.set(scratch);
}

/// Terms of a sum that are taken at once: a panel of as many rows of 16 floats stays in a first-level cache of 32 KB.
pub(super) const MOST_DEPTH: usize = 320;

/// Rows and columns of the output that are held in registers.
pub(super) fn block_of_registers(level: Level) -> [usize; 2] {
    fearless_simd::dispatch!(level, s => block_of(s))
}

#[inline(always)]
fn block_of<S: Simd>(_: S) -> [usize; 2] {
    match S::f32s::LEN {
        16 => [12, 32],
        8 => [6, 16],
        _ if cfg!(target_arch = "aarch64") => [8, 12],
        _ => [4, 8],
    }
}

thread_local! {
    /// Packed operands. It grows at first use and is kept.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// The first `len` floats, on a cache line's boundary.
#[inline(always)]
fn aligned(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    const LINE: usize = 64;
    if scratch.len() < len + LINE {
        scratch.resize(len + LINE, 0.0);
    }
    let skip = scratch.as_ptr().align_offset(LINE).min(LINE);
    &mut scratch[skip..skip + len]
}

#[inline(always)]
fn blocks<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    scratch: &mut Vec<f32>,
    out: &mut Tile<'_>,
    a: View<'_>,
    b: View<'_>,
    depth: usize,
    base: Base<'_>,
) {
    let (rows, cols) = (out.rows(), out.cols());
    if rows == 0 || cols == 0 {
        return;
    }
    let most: usize = std::env::var("KC").map_or(MOST_DEPTH, |v| v.parse().unwrap());
    let parts = depth.div_ceil(most).max(1);
    let longest = depth.div_ceil(parts);
    let left_len = if a.col == 1 { 0 } else { rows * longest };
    let most_panels: usize = std::env::var("PANELS").map_or(PANELS, |v| v.parse().unwrap());
    let strip_cols = cols.next_multiple_of(W).min(most_panels * W);
    let (strip, left) = aligned(scratch, longest * strip_cols + left_len).split_at_mut(longest * strip_cols);
    for part in 0..parts {
        let (first, end) = (part * depth / parts, (part + 1) * depth / parts);
        let base = if part == 0 { base } else { Base::Output };
        if a.col != 1 {
            let rb: usize = std::env::var("RB").map_or(192, |v| v.parse().unwrap());
            for first_row in (0..rows).step_by(rb) {
                let last_row = rows.min(first_row + rb);
                let a = View { data: &a.data[first_row..], ..a };
                pack::left::<R>(&mut left[first_row * (end - first)..], a, last_row - first_row, [first, end]);
            }
        }
        for strip_col in (0..cols).step_by(strip_cols) {
            let end_col = cols.min(strip_col + strip_cols);
            pack::right::<S, W>(s, strip, b, [first, end], [strip_col, end_col]);
            let rb: usize = std::env::var("RB").map_or(192, |v| v.parse().unwrap());
            for first_row in (0..rows).step_by(rb) {
                let last_row = rows.min(first_row + rb);
                for (i, col) in (strip_col..end_col).step_by(W).enumerate() {
                    let panel = &strip[i * (end - first) * W..(i + 1) * (end - first) * W];
                    for (count, [row, end_row]) in pack::groups(last_row - first_row, R) {
                        let (row, end_row) = (row + first_row, end_row + first_row);
                        let left = if a.col == 1 {
                            Left::Rows(&a.data[(row * a.row + first).min(a.data.len())..], a.row)
                        } else {
                            Left::Packed(&left[row * (end - first)..end_row * (end - first)])
                        };
                        let part = Sweep { rows: [row, end_row], col, cols: W.min(cols - col), panel: panel.as_chunks().0, base };
                        sweep_by::<S, V, W>(s, count, left, out, &part);
                    }
                }
            }
        }
    }
}

/// Panels of the right operand that are packed at once: rows of four cache lines are read.
const PANELS: usize = 4;

/// A sweep in blocks of `count` rows.
#[inline(always)]
fn sweep_by<S: Simd, const V: usize, const W: usize>(
    s: S,
    count: usize,
    left: Left<'_>,
    out: &mut Tile<'_>,
    part: &Sweep<'_, W>,
) {
    macro_rules! by_count {
        ($($rows:literal)*) => {
            match count {
                $($rows => sweep::<S, $rows, V, W>(s, left, out, part),)*
                _ => {}
            }
        };
    }
    match S::f32s::LEN {
        16 => by_count!(1 2 3 4 5 6 7 8 9 10 11 12),
        8 => by_count!(1 2 3 4 5 6),
        _ if cfg!(target_arch = "aarch64") => by_count!(1 2 3 4 5 6 7 8),
        _ => by_count!(1 2 3 4),
    }
}

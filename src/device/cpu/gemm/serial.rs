//! The product of one task.

use super::super::Tile;
use super::dots;
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

    /// The part that begins at (row, column).
    #[inline(always)]
    pub(super) fn from(self, row: usize, col: usize) -> Self {
        Self { data: &self.data[(row * self.row + col * self.col).min(self.data.len())..], ..self }
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

/// Terms of a sum that are taken at once: a panel of as many rows of 16 floats takes most of a first-level cache of 32 KB.
pub(super) const MOST_DEPTH: usize = 384;

/// Columns of the right operand that are packed at once: many if they meet several blocks of rows, else few, so that they stay in a
/// second-level cache.
const STRIPS: [usize; 2] = [64, 384];

/// Rows of the left operand that meet all panels before the next rows do: they stay in a second-level cache.
const BLOCK_ROWS: usize = 192;

/// Columns left over by the panels that are computed one by one, if both operands are dense along the depth.
const FEW_COLS: usize = 4;

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

/// The product: parts of the depth, strips of columns, blocks of rows, panels.
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
    let (rows, all_cols) = (out.rows(), out.cols());
    if rows == 0 {
        return;
    }
    let left_over = all_cols % W;
    let by_dots = a.col == 1 && b.row == 1 && left_over <= FEW_COLS;
    let cols = if by_dots { all_cols - left_over } else { all_cols };
    if cols == 0 {
        return dots::columns(s, out, a, b, depth, base, [0, rows], [0, all_cols]);
    }
    let parts = depth.div_ceil(MOST_DEPTH).max(1);
    let longest = depth.div_ceil(parts);
    let strip_cols = cols.min(STRIPS[usize::from(rows > BLOCK_ROWS)]).next_multiple_of(W);
    let left_len = if a.col == 1 { 0 } else { rows * longest };
    let (strip, left) = aligned(scratch, longest * strip_cols + left_len).split_at_mut(longest * strip_cols);
    for part in 0..parts {
        let (first, end) = (part * depth / parts, (part + 1) * depth / parts);
        let base = if part == 0 { base } else { Base::Output };
        let (whole_a, whole_b, a, b) = (a, b, a.from(0, first), b.from(first, 0));
        for col in (0..cols).step_by(strip_cols) {
            let end_col = cols.min(col + strip_cols);
            pack::right::<S, W>(s, strip, b, end - first, [col, end_col]);
            let strip = &strip[..(end_col - col).next_multiple_of(W) * (end - first)];
            for rows in row_blocks(rows) {
                if a.col != 1 && col == 0 {
                    pack::left::<R>(left, a, rows, end - first);
                }
                let left = if a.col == 1 { Left::Rows(a.data, a.row) } else { Left::Packed(left) };
                panels::<S, R, V, W>(s, out, left, strip, rows, [col, end_col], base);
                if part == 0 && end_col == cols && cols < all_cols {
                    // While these rows are in the cache.
                    dots::columns(s, out, whole_a, whole_b, depth, base, rows, [cols, all_cols]);
                }
            }
        }
    }
}

/// First and end row of blocks of rows.
#[inline(always)]
fn row_blocks(rows: usize) -> impl Iterator<Item = [usize; 2]> {
    let block = BLOCK_ROWS;
    (0..rows).step_by(block).map(
        #[inline(always)]
        move |row| [row, rows.min(row + block)],
    )
}

/// A block of rows times all panels of a strip.
#[inline(always)]
fn panels<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    out: &mut Tile<'_>,
    left: Left<'_>,
    strip: &[f32],
    [first_row, last_row]: [usize; 2],
    [col, end_col]: [usize; 2],
    base: Base<'_>,
) {
    let panels = (end_col - col).div_ceil(W);
    let depth = strip.len() / (panels * W);
    for i in 0..panels {
        let panel = strip[i * depth * W..(i + 1) * depth * W].as_chunks().0;
        for (count, [row, end_row]) in pack::groups([first_row, last_row], R) {
            let left = match left {
                Left::Rows(data, stride) => Left::Rows(&data[(row * stride).min(data.len())..], stride),
                Left::Packed(data) => Left::Packed(&data[row * depth..end_row * depth]),
            };
            let col = col + i * W;
            let part = Sweep { rows: [row, end_row], col, cols: W.min(end_col - col), panel, base };
            sweep_by::<S, V, W>(s, count, left, out, &part);
        }
    }
}

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

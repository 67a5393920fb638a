//! The product of one task.

use super::super::OutputTile;
use super::dots;
use super::micro::{Base, Left, PanelSweep, sweep};
use super::pack;
use crate::device::{Bf16, Numbers, StoredNumber};
use fearless_simd::prelude::*;
use fearless_simd::{Level, Simd};
use std::cell::Cell;

/// An operand: element (i, j) is `data[i * row + j * col]`, and `row` or `col` is 1.
#[derive(Clone, Copy, Debug)]
pub struct MatrixView<'a, T = f32> {
    /// Elements, from the first one on.
    pub data: &'a [T],
    /// Elements from row to row.
    pub row: usize,
    /// Elements from column to column.
    pub col: usize,
}

impl<'a, T: StoredNumber> MatrixView<'a, T> {
    /// Rows of `stride` elements.
    #[inline(always)]
    pub fn new(data: &'a [T], stride: usize) -> Self {
        Self { data, row: stride, col: 1 }
    }

    /// The transposed matrix of one in rows of `stride` elements.
    #[inline(always)]
    pub fn transposed(data: &'a [T], stride: usize) -> Self {
        Self { data, row: 1, col: stride }
    }

    /// Whether the elements of a row are adjacent.
    #[inline(always)]
    pub(super) fn by_rows(&self) -> bool {
        self.col == 1
    }

    /// The part that begins at (row, column).
    #[inline(always)]
    pub(super) fn from(self, row: usize, col: usize) -> Self {
        Self { data: &self.data[(row * self.row + col * self.col).min(self.data.len())..], ..self }
    }
}

/// A right operand, which may be stored in 16 bits: it is unpacked when it is packed or multiplied.
#[derive(Clone, Copy, Debug)]
pub(super) enum Right<'a> {
    F32(MatrixView<'a>),
    Bf16(MatrixView<'a, Bf16>),
}

impl<'a> Right<'a> {
    /// Rows of `stride` elements.
    pub fn new(data: Numbers<'a>, stride: usize) -> Self {
        match data {
            Numbers::F32(data) => Self::F32(MatrixView::new(data, stride)),
            Numbers::Bf16(data) => Self::Bf16(MatrixView::new(data, stride)),
        }
    }

    /// The transposed matrix of one in rows of `stride` elements.
    pub fn transposed(data: Numbers<'a>, stride: usize) -> Self {
        match data {
            Numbers::F32(data) => Self::F32(MatrixView::transposed(data, stride)),
            Numbers::Bf16(data) => Self::Bf16(MatrixView::transposed(data, stride)),
        }
    }

    /// The part that begins at (row, column).
    #[inline(always)]
    pub fn from(self, row: usize, col: usize) -> Self {
        match self {
            Self::F32(view) => Self::F32(view.from(row, col)),
            Self::Bf16(view) => Self::Bf16(view.from(row, col)),
        }
    }

    /// Elements from row to row and from column to column.
    #[inline(always)]
    fn strides(&self) -> [usize; 2] {
        match self {
            Self::F32(view) => [view.row, view.col],
            Self::Bf16(view) => [view.row, view.col],
        }
    }
}

/// `base + a b`: `a` [rows, depth], `b` [depth, columns].
#[derive(Clone, Copy, Debug)]
pub(super) struct GemmJob<'a> {
    pub a: MatrixView<'a>,
    pub b: Right<'a>,
    pub depth: usize,
    pub base: Base<'a>,
}

impl GemmJob<'_> {
    /// The part of the result that begins at (row, column).
    #[inline(always)]
    pub fn from(self, row: usize, col: usize) -> Self {
        Self { a: self.a.from(row, 0), b: self.b.from(0, col), depth: self.depth, base: self.base.from(row, col) }
    }

    /// Whether both operands are dense along the depth, as inner products require.
    #[inline(always)]
    pub fn by_depth(&self) -> bool {
        self.a.by_rows() && self.b.strides()[0] == 1
    }
}

/// `out = a b`, or `out += a b`, on this thread: `a` [out.rows, depth], `b` [depth, out.cols].
///
/// Scratch memory is thread-local, grows as needed and is kept.
///
/// # Panics
/// When an operand is too short, or has no stride of 1 (a defect of the caller).
pub fn product<S: Simd>(s: S, out: &mut OutputTile<'_>, a: MatrixView<'_>, b: MatrixView<'_>, depth: usize, add: bool) {
    let base = if add { Base::Output } else { Base::Zero };
    run(s, out, &GemmJob { a, b: Right::F32(b), depth, base });
}

/// As [`product`].
pub(super) fn run<S: Simd>(s: S, out: &mut OutputTile<'_>, job: &GemmJob<'_>) {
    let &GemmJob { a, b, .. } = job;
    let ([row, col], [b_row, b_col]) = ([a.row, a.col], b.strides());
    let dense = (row == 1 || col == 1) && (b_row == 1 || b_col == 1);
    assert!(dense, "strides {row}, {col} and {b_row}, {b_col}: neither rows nor columns are dense");
    // Taken out during the call: code inside `LocalKey::with` would not be compiled for the instruction set.
    let mut scratch = SCRATCH.take();
    let room = &mut scratch;
    // A separate function for each instruction set, for every caller.
    s.vectorize(
        #[inline(always)]
        || match S::f32s::LEN {
            16 => blocks::<S, 8, 2, 32>(s, room, out, job),
            8 => blocks::<S, 6, 2, 16>(s, room, out, job),
            _ if cfg!(target_arch = "aarch64") => blocks::<S, 8, 3, 12>(s, room, out, job),
            _ => blocks::<S, 4, 2, 8>(s, room, out, job),
        },
    );
    SCRATCH.set(scratch);
}

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Rows and columns of the block of the output in registers, and elements of a vector. As in [`run`].
pub(super) fn registers(level: Level) -> [usize; 3] {
    #[inline(always)]
    fn of<S: Simd>(_: S) -> [usize; 3] {
        match S::f32s::LEN {
            16 => [8, 32, 16],
            8 => [6, 16, 8],
            _ if cfg!(target_arch = "aarch64") => [8, 12, 4],
            _ => [4, 8, 4],
        }
    }
    fearless_simd::dispatch!(level, s => of(s))
}

/// Depth of a panel: with rows of 16 floats it takes most of a first-level cache of 32 KB. It determines the order of a sum, so it is the
/// same for all instruction sets.
const MOST_DEPTH: usize = 384;

/// Columns of the right operand that are packed at once: few, which stay in a second-level cache, or many, which are used by several blocks
/// of rows.
const STRIP_COLS: [usize; 2] = [64, 384];

/// Rows of the left operand that are multiplied with all panels before the next rows: they stay in a second-level cache.
const BLOCK_ROWS: usize = 96;

/// Remaining columns that are computed by inner products: a panel would cost as much as a full one.
const FEW_COLS: usize = 4;

/// The product: parts of the depth, strips of columns, blocks of rows, panels.
#[inline(always)]
fn blocks<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    scratch: &mut Vec<f32>,
    out: &mut OutputTile<'_>,
    job: &GemmJob<'_>,
) {
    let (rows, all_cols, depth) = (out.rows(), out.cols(), job.depth);
    let left_over = all_cols % W;
    let cols = if job.by_depth() && left_over <= FEW_COLS { all_cols - left_over } else { all_cols };
    if rows == 0 || cols == 0 {
        return dots::columns(s, out, job, [0, rows], [0, all_cols]);
    }
    let parts = depth.div_ceil(MOST_DEPTH).max(1);
    let longest = depth.div_ceil(parts);
    let strip_cols = cols.min(STRIP_COLS[usize::from(rows > BLOCK_ROWS)]).next_multiple_of(W);
    // Row blocks that are used with one strip only share one buffer, which stays in a cache.
    let left_rows = if cols > strip_cols { rows } else { rows.min(BLOCK_ROWS) };
    let left_len = if job.a.by_rows() { 0 } else { left_rows * longest };
    let (strip, left) = aligned(scratch, longest * strip_cols + left_len).split_at_mut(longest * strip_cols);
    for part in 0..parts {
        let (first, end) = (part * depth / parts, (part + 1) * depth / parts);
        let (a, b) = (job.a.from(0, first), job.b.from(first, 0));
        let base = if part == 0 { job.base } else { Base::Output };
        for col in (0..cols).step_by(strip_cols) {
            let end_col = cols.min(col + strip_cols);
            match b {
                Right::F32(b) => pack::right::<S, f32, W>(s, strip, b, end - first, [col, end_col]),
                Right::Bf16(b) => pack::right::<S, Bf16, W>(s, strip, b, end - first, [col, end_col]),
            }
            let strip = &strip[..(end_col - col).next_multiple_of(W) * (end - first)];
            for row in (0..rows).step_by(BLOCK_ROWS) {
                let rows = [row, rows.min(row + BLOCK_ROWS)];
                let a = a.from(row, 0);
                let left = if a.by_rows() {
                    Left::Rows(a.data, a.row)
                } else {
                    let at = row % left_rows * (end - first);
                    let left = &mut left[at..at + (rows[1] - row) * (end - first)];
                    if col == 0 {
                        pack::left::<R>(left, a, rows[1] - row, end - first);
                    }
                    Left::Packed(left)
                };
                panels::<S, R, V, W>(s, out, left, strip, rows, [col, end_col], base);
                if part == 0 && end_col == cols && cols < all_cols {
                    // While these rows are in the cache.
                    dots::columns(s, out, job, rows, [cols, all_cols]);
                }
            }
        }
    }
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

/// A block of rows times all panels of a strip.
#[inline(always)]
fn panels<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    out: &mut OutputTile<'_>,
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
        for (count, [row, end_row]) in pack::groups([0, last_row - first_row], R) {
            let left = match left {
                Left::Rows(data, stride) => Left::Rows(&data[(row * stride).min(data.len())..], stride),
                Left::Packed(data) => Left::Packed(&data[row * depth..end_row * depth]),
            };
            let col = col + i * W;
            let part = PanelSweep { rows: [first_row + row, first_row + end_row], col, cols: W.min(end_col - col), panel, base };
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
    out: &mut OutputTile<'_>,
    part: &PanelSweep<'_, W>,
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
        8 => by_count!(1 2 3 4 5 6),
        16 => by_count!(1 2 3 4 5 6 7 8),
        _ if cfg!(target_arch = "aarch64") => by_count!(1 2 3 4 5 6 7 8),
        _ => by_count!(1 2 3 4),
    }
}

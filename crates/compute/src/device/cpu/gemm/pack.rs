//! Packing of operands in the order in which the inner loop reads them.

use super::serial::MatrixView;
use crate::device::{StoredNumber, values};
use fearless_simd::prelude::*;
use fearless_simd::{Simd, f32x4};

/// Rows in groups of at most `most`, which differ by one row at most: (rows of a group, first and end row of all such groups).
#[inline(always)]
pub fn groups([first, end]: [usize; 2], most: usize) -> [(usize, [usize; 2]); 2] {
    let count = (end - first).div_ceil(most);
    let (small, larger) = ((end - first) / count, (end - first) % count);
    let middle = first + larger * (small + 1);
    [(small + 1, [first, middle]), (small, [middle, end])]
}

/// Columns of `b` over `depth` rows, as f32, in panels of `[depth][W]`, zeros past the last column.
#[inline(always)]
pub fn right<S: Simd, T: StoredNumber, const W: usize>(
    s: S,
    strip: &mut [f32],
    b: MatrixView<'_, T>,
    depth: usize,
    [col, end_col]: [usize; 2],
) {
    // Some panels at once, so that whole cache lines are read of rows that may be a page apart.
    const SOME: usize = 4;
    for (i, col) in (col..end_col).step_by(SOME * W).enumerate() {
        let end_col = end_col.min(col + SOME * W);
        let strip = &mut strip[i * SOME * W * depth..];
        if b.by_rows() {
            for k in 0..depth {
                let from = &b.data[k * b.row + col..k * b.row + end_col];
                for (i, from) in from.chunks(W).enumerate() {
                    copy_padded(&mut strip[(i * depth + k) * W..][..W], from);
                }
            }
        } else {
            for (i, col) in (col..end_col).step_by(W).enumerate() {
                let panel = &mut strip[i * depth * W..(i + 1) * depth * W];
                transpose::<S, T, W>(s, panel, b.from(0, col), W.min(end_col - col));
            }
        }
    }
}

/// Rows of a column-major `a` over `depth` columns, in blocks of `[depth][rows of a group]`; row `i` is at `packed[i * depth..]`.
#[inline(always)]
pub fn left<const R: usize>(packed: &mut [f32], a: MatrixView<'_>, rows: usize, depth: usize) {
    // Some depths at once, so that their cache lines are still there when the next group reads on in them.
    const SOME: usize = 8;
    /// Floats of a cache line.
    const LINE: usize = 16;
    for first in (0..depth).step_by(SOME) {
        let some = [first, depth.min(first + SOME)];
        for k in some[1]..depth.min(some[1] + SOME) {
            for i in (0..rows).step_by(LINE) {
                prefetch(a.data, k * a.col + i);
            }
        }
        for (count, rows) in groups([0, rows], R) {
            macro_rules! by_count {
                ($($rows:literal)*) => {
                    match count {
                        $($rows if $rows <= R => left_groups::<$rows>(packed, a, rows, depth, some),)*
                        _ => {}
                    }
                };
            }
            by_count!(1 2 3 4 5 6 7 8);
        }
    }
}

#[inline(always)]
fn left_groups<const R: usize>(
    packed: &mut [f32],
    a: MatrixView<'_>,
    [row, end_row]: [usize; 2],
    depth: usize,
    [first, end]: [usize; 2],
) {
    for row in (row..end_row).step_by(R) {
        let block = &mut packed[row * depth..(row + R) * depth].as_chunks_mut::<R>().0[first..end];
        for (to, k) in block.iter_mut().zip(first..) {
            to.copy_from_slice(&a.data[k * a.col + row..][..R]);
        }
    }
}

#[inline(always)]
fn copy_padded<T: StoredNumber>(to: &mut [f32], from: &[T]) {
    if to.len() == from.len() {
        T::copy(from, to);
    } else {
        let (head, tail) = to.split_at_mut(from.len());
        T::copy(from, head);
        tail.fill(0.0);
    }
}

/// `panel[k][j] = b[k][j]` for `cols` columns of a column-major `b`; zeros past them.
#[inline(always)]
fn transpose<S: Simd, T: StoredNumber, const W: usize>(s: S, panel: &mut [f32], b: MatrixView<'_, T>, cols: usize) {
    let panel = panel.as_chunks_mut::<W>().0;
    let depth = panel.len();
    let mut j = 0;
    while j + 4 <= cols {
        transpose4(s, panel, b.from(0, j), j);
        j += 4;
    }
    for j in j..cols {
        let line = &b.data[j * b.col..][..depth];
        for (to, &v) in panel.iter_mut().zip(line) {
            to[j] = v.value();
        }
    }
    if cols < W {
        for to in panel {
            to[cols..].fill(0.0);
        }
    }
}

/// Four columns of `b`, to columns from `j` on.
#[inline(always)]
fn transpose4<S: Simd, T: StoredNumber, const W: usize>(s: S, panel: &mut [[f32; W]], b: MatrixView<'_, T>, j: usize) {
    let depth = panel.len();
    let (mut lines, mut rests) = ([&[] as &[[T; 4]]; 4], [&[] as &[T]; 4]);
    for (i, (line, rest)) in lines.iter_mut().zip(&mut rests).enumerate() {
        (*line, *rest) = b.data[i * b.col..][..depth].as_chunks();
    }
    let (fours, rest) = panel.as_chunks_mut::<4>();
    for (k, to) in fours.iter_mut().enumerate() {
        let p = f32x4::load_array(s, values(&lines[0][k]));
        let q = f32x4::load_array(s, values(&lines[1][k]));
        let r = f32x4::load_array(s, values(&lines[2][k]));
        let t = f32x4::load_array(s, values(&lines[3][k]));
        let (low, high, low2, high2) = (p.zip_low(r), p.zip_high(r), q.zip_low(t), q.zip_high(t));
        low.zip_low(low2).store_slice(&mut to[0][j..j + 4]);
        low.zip_high(low2).store_slice(&mut to[1][j..j + 4]);
        high.zip_low(high2).store_slice(&mut to[2][j..j + 4]);
        high.zip_high(high2).store_slice(&mut to[3][j..j + 4]);
    }
    for (k, to) in rest.iter_mut().enumerate() {
        for (to, line) in to[j..j + 4].iter_mut().zip(rests) {
            *to = line[k].value();
        }
    }
}

/// Prefetch an element that will be read soon.
#[inline(always)]
pub fn prefetch(data: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which no address can make fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, at);
}

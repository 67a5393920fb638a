//! Copies of operands in the order in which the inner loop reads them.

use super::serial::View;
use fearless_simd::prelude::*;
use fearless_simd::{Simd, f32x4};

/// Rows in groups of at most `most`, which differ by one row at most: (rows of a group, first and end row of all such groups).
#[inline(always)]
pub fn groups(rows: usize, most: usize) -> [(usize, [usize; 2]); 2] {
    let count = rows.div_ceil(most);
    let (small, larger) = (rows / count, rows % count);
    let end = larger * (small + 1);
    [(small + 1, [0, end]), (small, [end, rows])]
}

/// Columns of `b`, in panels of `[depth][W]`, zeros past the last column.
#[inline(always)]
pub fn right<S: Simd, const W: usize>(
    s: S,
    strip: &mut [f32],
    b: View<'_>,
    [first, end]: [usize; 2],
    [col, end_col]: [usize; 2],
) {
    let depth = end - first;
    if b.col == 1 {
        for k in 0..depth {
            let from = &b.data[(first + k) * b.row..][col..end_col];
            for (i, from) in from.chunks(W).enumerate() {
                copy_padded(&mut strip[(i * depth + k) * W..][..W], from);
            }
        }
    } else {
        for (i, col) in (col..end_col).step_by(W).enumerate() {
            let panel = &mut strip[i * depth * W..(i + 1) * depth * W];
            let lines = View { data: &b.data[col * b.col + first..], row: b.col, col: 1 };
            transpose(s, panel, W, lines, W.min(end_col - col));
        }
    }
}

/// All rows of a column-major `a`, in blocks of `[depth][rows of the group]`.
#[inline(always)]
pub fn left<const R: usize>(packed: &mut [f32], a: View<'_>, rows: usize, [first, end]: [usize; 2]) {
    // Some depths at once, so that their cache lines are still there when the next group reads on in them.
    const STEP: usize = 8;
    let depth = end - first;
    for some in (0..depth).step_by(STEP) {
        let some = [some, depth.min(some + STEP)];
        for (count, [row, end_row]) in groups(rows, R) {
            macro_rules! by_count {
                ($($rows:literal)*) => {
                    match count {
                        $($rows => left_groups::<$rows>(packed, a, [row, end_row], first, depth, some),)*
                        _ => {}
                    }
                };
            }
            by_count!(1 2 3 4 5 6 7 8 9 10 11 12);
        }
    }
}

#[inline(always)]
fn left_groups<const R: usize>(
    packed: &mut [f32],
    a: View<'_>,
    [row, end_row]: [usize; 2],
    first: usize,
    depth: usize,
    some: [usize; 2],
) {
    for row in (row..end_row).step_by(R) {
        let block = &mut packed[row * depth..(row + R) * depth].as_chunks_mut::<R>().0[some[0]..some[1]];
        for (to, k) in block.iter_mut().zip(first + some[0]..) {
            to.copy_from_slice(&a.data[k * a.col + row..][..R]);
        }
    }
}

#[inline(always)]
fn copy_padded(to: &mut [f32], from: &[f32]) {
    if to.len() == from.len() {
        to.copy_from_slice(from);
    } else {
        let (head, tail) = to.split_at_mut(from.len());
        head.copy_from_slice(from);
        tail.fill(0.0);
    }
}

/// `panel[k][j] = lines[j][k]` for `cols` lines of as many elements as the panel has rows; zeros past `cols`.
#[inline(always)]
fn transpose<S: Simd>(s: S, panel: &mut [f32], width: usize, lines: View<'_>, cols: usize) {
    let depth = panel.len() / width;
    let mut j = 0;
    while j + 4 <= cols {
        let mut line = [lines.data; 4];
        for (i, l) in line.iter_mut().enumerate() {
            *l = &lines.data[(j + i) * lines.row..][..depth];
        }
        let mut k = 0;
        while k + 4 <= depth {
            let at = &mut panel[k * width..(k + 4) * width];
            let a = f32x4::from_slice(s, &line[0][k..k + 4]);
            let b = f32x4::from_slice(s, &line[1][k..k + 4]);
            let c = f32x4::from_slice(s, &line[2][k..k + 4]);
            let d = f32x4::from_slice(s, &line[3][k..k + 4]);
            let (ac0, ac1, bd0, bd1) = (a.zip_low(c), a.zip_high(c), b.zip_low(d), b.zip_high(d));
            ac0.zip_low(bd0).store_slice(&mut at[j..j + 4]);
            ac0.zip_high(bd0).store_slice(&mut at[width + j..width + j + 4]);
            ac1.zip_low(bd1).store_slice(&mut at[2 * width + j..2 * width + j + 4]);
            ac1.zip_high(bd1).store_slice(&mut at[3 * width + j..3 * width + j + 4]);
            k += 4;
        }
        while k < depth {
            for (i, l) in line.iter().enumerate() {
                panel[k * width + j + i] = l[k];
            }
            k += 1;
        }
        j += 4;
    }
    for j in j..cols {
        let line = &lines.data[j * lines.row..][..depth];
        for (to, &v) in panel.chunks_exact_mut(width).zip(line) {
            to[j] = v;
        }
    }
    if cols < width {
        for to in panel.chunks_exact_mut(width) {
            to[cols..].fill(0.0);
        }
    }
}

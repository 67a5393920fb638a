//! Products with few rows or few columns, by inner products: nothing is packed, and each weight is read once from memory.

use super::super::OutputTile;
use super::micro::Base;
use super::pack::groups;
use super::serial::{GemmJob, MatrixView, Right};
use crate::device::{StoredNumber, values};
use fearless_simd::Simd;
use fearless_simd::prelude::*;

/// The product for a row-major left and a column-major right operand, in a separate function for each instruction set.
pub fn run<S: Simd>(s: S, out: &mut OutputTile<'_>, job: &GemmJob<'_>) {
    let (rows, cols) = ([0, out.rows()], [0, out.cols()]);
    s.vectorize(
        #[inline(always)]
        || columns(s, out, job, rows, cols),
    );
}

/// As [`run`], in some rows and columns.
#[inline(always)]
pub fn columns<S: Simd>(s: S, out: &mut OutputTile<'_>, job: &GemmJob<'_>, rows: [usize; 2], cols: [usize; 2]) {
    match job.b {
        Right::F32(b) => columns_of(s, out, (job, b), rows, cols),
        Right::Bf16(b) => columns_of(s, out, (job, b), rows, cols),
    }
}

#[inline(always)]
fn columns_of<S: Simd, T: StoredNumber>(
    s: S,
    out: &mut OutputTile<'_>,
    job: (&GemmJob<'_>, MatrixView<'_, T>),
    rows: [usize; 2],
    cols: [usize; 2],
) {
    match S::f32s::LEN {
        16 => by_width::<S, T, 16>(s, out, job, rows, cols),
        8 => by_width::<S, T, 8>(s, out, job, rows, cols),
        _ => by_width::<S, T, 4>(s, out, job, rows, cols),
    }
}

#[inline(always)]
fn by_width<S: Simd, T: StoredNumber, const L: usize>(
    s: S,
    out: &mut OutputTile<'_>,
    job: (&GemmJob<'_>, MatrixView<'_, T>),
    rows: [usize; 2],
    [first, end]: [usize; 2],
) {
    let mut col = first;
    while rows[0] < rows[1] && col < end {
        let step = match end - col {
            8.. if rows[1] - rows[0] == 1 => 8,
            4.. => 4,
            _ => 1,
        };
        for (count, [row, end_row]) in groups(rows, 3) {
            for row in (row..end_row).step_by(count.max(1)) {
                let at = [row, col];
                match (count, step) {
                    (1, 8) => block::<S, T, L, 1, 8>(s, out, job, at),
                    (1, 4) => block::<S, T, L, 1, 4>(s, out, job, at),
                    (1, _) => block::<S, T, L, 1, 1>(s, out, job, at),
                    (2, 4) => block::<S, T, L, 2, 4>(s, out, job, at),
                    (2, _) => block::<S, T, L, 2, 1>(s, out, job, at),
                    (_, 4) => block::<S, T, L, 3, 4>(s, out, job, at),
                    _ => block::<S, T, L, 3, 1>(s, out, job, at),
                }
            }
        }
        col += step;
    }
}

/// `R` rows times `C` columns. Each sum has `L` lanes, over consecutive vectors, the last one padded with zeros, then lanes in pairs: the
/// same order in any block.
#[inline(always)]
fn block<S: Simd, T: StoredNumber, const L: usize, const R: usize, const C: usize>(
    s: S,
    out: &mut OutputTile<'_>,
    (job, right): (&GemmJob<'_>, MatrixView<'_, T>),
    [row, col]: [usize; 2],
) {
    let (a, b, b_stride) = (&job.a.data[row * job.a.row..], &right.data[col * right.col..], right.col);
    let left = vectors::<f32, L, R>(a, job.a.row, job.depth);
    let right = vectors::<T, L, C>(b, b_stride, job.depth);
    let mut acc = [[S::f32s::splat(s, 0.0); C]; R];
    for k in 0..job.depth / L {
        let (mut a, mut b) = ([[0.0; L]; R], [[0.0; L]; C]);
        for (a, left) in a.iter_mut().zip(&left) {
            *a = left[k];
        }
        for (b, right) in b.iter_mut().zip(&right) {
            *b = values(&right[k]);
        }
        step(s, &mut acc, &a, &b);
    }
    if !job.depth.is_multiple_of(L) {
        step(s, &mut acc, &rest::<f32, L, R>(a, job.a.row, job.depth), &rest::<T, L, C>(b, b_stride, job.depth));
    }
    for (i, acc) in acc.iter().enumerate() {
        let base = job.base.from(row + i, col);
        for (j, (to, acc)) in out.row(row + i)[col..col + C].iter_mut().zip(acc).enumerate() {
            let sum = acc.reduce_sum();
            *to = match base {
                Base::Zero => sum,
                Base::Output => *to + sum,
                Base::Row(values) | Base::Matrix(values, _) => values[j] + sum,
            };
        }
    }
}

/// The whole vectors of `N` lines, `stride` elements from line to line.
#[inline(always)]
fn vectors<T: StoredNumber, const L: usize, const N: usize>(data: &[T], stride: usize, depth: usize) -> [&[[T; L]]; N] {
    let mut lines = [&[] as &[[T; L]]; N];
    for (i, line) in lines.iter_mut().enumerate() {
        // The length as the loop over vectors has it, so that it needs no check.
        *line = &data[i * stride..][..depth].as_chunks().0[..depth / L];
    }
    lines
}

/// The last elements of `N` lines, padded with zeros.
#[inline(always)]
fn rest<T: StoredNumber, const L: usize, const N: usize>(data: &[T], stride: usize, depth: usize) -> [[f32; L]; N] {
    let mut rest = [[0.0; L]; N];
    for (i, rest) in rest.iter_mut().enumerate() {
        let last = data[i * stride..][..depth].as_chunks::<L>().1;
        T::copy(last, &mut rest[..last.len()]);
    }
    rest
}

#[inline(always)]
fn step<S: Simd, const L: usize, const R: usize, const C: usize>(
    s: S,
    acc: &mut [[S::f32s; C]; R],
    left: &[[f32; L]; R],
    right: &[[f32; L]; C],
) {
    let mut a = [S::f32s::splat(s, 0.0); R];
    for (a, left) in a.iter_mut().zip(left) {
        *a = S::f32s::from_slice(s, left);
    }
    for (j, right) in right.iter().enumerate() {
        // One vector of the right operand at a time: all of them would exceed the registers of AVX2.
        let b = S::f32s::from_slice(s, right);
        for (acc, a) in acc.iter_mut().zip(a) {
            acc[j] = a.mul_add(b, acc[j]);
        }
    }
}

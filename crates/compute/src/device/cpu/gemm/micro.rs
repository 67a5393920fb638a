//! The inner loop: a block of the output in registers.

use super::super::OutputTile;
use fearless_simd::Simd;
use fearless_simd::prelude::*;

/// The value that a block of sums is added to.
#[derive(Clone, Copy, Debug)]
pub enum Base<'a> {
    /// Nothing: the output is overwritten.
    Zero,
    /// The output.
    Output,
    /// A row vector, one element per column of the output.
    Row(&'a [f32]),
    /// A matrix of the output's shape: elements from the output's first one on, and the stride.
    Matrix(&'a [f32], usize),
}

impl Base<'_> {
    /// The part that begins at (row, column).
    #[inline(always)]
    pub fn from(self, row: usize, col: usize) -> Self {
        match self {
            Base::Row(values) => Base::Row(&values[col..]),
            Base::Matrix(values, stride) => Base::Matrix(&values[row * stride + col..], stride),
            Base::Zero | Base::Output => self,
        }
    }
}

/// The left operand of a sweep.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// In place, from the first row and depth on, and the stride.
    Rows(&'a [f32], usize),
    /// Packed in blocks of `[depth][R]`.
    Packed(&'a [f32]),
}

/// A part of the output that shares one packed panel of the right operand.
#[derive(Clone, Copy)]
pub struct PanelSweep<'a, const W: usize> {
    /// Rows of the output.
    pub rows: [usize; 2],
    /// First column of the output.
    pub col: usize,
    /// Columns, at most `W`.
    pub cols: usize,
    /// The right operand, `[depth][W]`.
    pub panel: &'a [[f32; W]],
    /// The value that the product is added to.
    pub base: Base<'a>,
}

/// Blocks of `R` rows, one after the other.
#[inline(always)]
pub fn sweep<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    left: Left<'_>,
    out: &mut OutputTile<'_>,
    sweep: &PanelSweep<'_, W>,
) {
    let depth = sweep.panel.len();
    for (i, row) in (sweep.rows[0]..sweep.rows[1]).step_by(R).enumerate() {
        out.prefetch::<R>([row, sweep.col], sweep.cols);
        let acc = match left {
            Left::Rows(data, stride) => {
                let mut rows = [data; R];
                for (j, row) in rows.iter_mut().enumerate() {
                    *row = &data[(i * R + j) * stride..][..depth];
                }
                sums_of_rows::<S, R, V, W>(s, rows, sweep.panel)
            }
            Left::Packed(data) => {
                let block = &data[i * R * depth..(i + 1) * R * depth];
                sums::<S, R, V, W>(s, block.as_chunks().0, sweep.panel)
            }
        };
        write::<S, R, V, W>(s, &acc, out, [row, sweep.col], sweep.cols, sweep.base);
    }
}

/// Sums over the depth of `R` rows times a packed panel of `W` columns, which are `V` vectors.
#[inline(always)]
fn sums_of_rows<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    rows: [&[f32]; R],
    panel: &[[f32; W]],
) -> [[S::f32s; V]; R] {
    // Unrolled, so that elements lie at constant distances from a row's pointer.
    const UNROLL: usize = 2;
    let mut acc = [[S::f32s::splat(s, 0.0); V]; R];
    let (blocks, rest) = panel.as_chunks::<UNROLL>();
    let mut row_blocks = [&[] as &[[f32; UNROLL]]; R];
    for (blocks_of, row) in row_blocks.iter_mut().zip(rows) {
        *blocks_of = &row.as_chunks().0[..blocks.len()];
    }
    for (k, block) in blocks.iter().enumerate() {
        for (u, right) in block.iter().enumerate() {
            let b = vectors::<S, V, W>(s, right);
            for (acc, row) in acc.iter_mut().zip(&row_blocks) {
                add_product(s, acc, row[k][u], &b);
            }
        }
    }
    let first = blocks.len() * UNROLL;
    for (k, right) in rest.iter().enumerate() {
        let b = vectors::<S, V, W>(s, right);
        for (acc, row) in acc.iter_mut().zip(&rows) {
            add_product(s, acc, row[first + k], &b);
        }
    }
    acc
}

/// As [`sums_of_rows`], of a packed block.
#[inline(always)]
fn sums<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    block: &[[f32; R]],
    panel: &[[f32; W]],
) -> [[S::f32s; V]; R] {
    let mut acc = [[S::f32s::splat(s, 0.0); V]; R];
    for (left, right) in block.iter().zip(panel) {
        let b = vectors::<S, V, W>(s, right);
        for (acc, &left) in acc.iter_mut().zip(left) {
            add_product(s, acc, left, &b);
        }
    }
    acc
}

#[inline(always)]
fn vectors<S: Simd, const V: usize, const W: usize>(s: S, row: &[f32; W]) -> [S::f32s; V] {
    let mut vectors = [S::f32s::splat(s, 0.0); V];
    for (vector, part) in vectors.iter_mut().zip(row.chunks_exact(S::f32s::LEN)) {
        *vector = S::f32s::from_slice(s, part);
    }
    vectors
}

#[inline(always)]
fn add_product<S: Simd, const V: usize>(s: S, acc: &mut [S::f32s; V], left: f32, right: &[S::f32s; V]) {
    let left = S::f32s::splat(s, left);
    for (acc, &right) in acc.iter_mut().zip(right) {
        *acc = left.mul_add(right, *acc);
    }
}

/// Write sums, plus `base`, to rows from `row` and columns `col..col + cols` of `out`.
#[inline(always)]
fn write<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    acc: &[[S::f32s; V]; R],
    out: &mut OutputTile<'_>,
    [row, col]: [usize; 2],
    cols: usize,
    base: Base<'_>,
) {
    let mut block = out.block::<R>([row, col], cols);
    let block = block.iter_mut().zip(acc);
    if cols < W {
        for (i, (to, &sums)) in block.enumerate() {
            write_some::<S, V, W>(sums, to, base.from(row + i, col));
        }
        return;
    }
    match base {
        Base::Zero => {
            for (to, &sums) in block {
                store(sums, to);
            }
        }
        Base::Output => {
            for (to, &sums) in block {
                store(plus(s, sums, to), to);
            }
        }
        Base::Row(values) => {
            for (to, &sums) in block {
                store(plus(s, sums, &values[col..col + W]), to);
            }
        }
        Base::Matrix(values, stride) => {
            for (i, (to, &sums)) in block.enumerate() {
                store(plus(s, sums, &values[(row + i) * stride + col..][..W]), to);
            }
        }
    }
}

/// A row of fewer columns than a panel has.
#[inline(always)]
fn write_some<S: Simd, const V: usize, const W: usize>(sums: [S::f32s; V], to: &mut [f32], base: Base<'_>) {
    // A copy: an index that is not constant would keep all sums in memory.
    let mut copy = [0.0; W];
    store(sums, &mut copy);
    let sums = copy.iter();
    match base {
        Base::Zero => to.copy_from_slice(&copy[..to.len()]),
        Base::Output => to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum),
        Base::Row(values) | Base::Matrix(values, _) => {
            for ((to, sum), value) in to.iter_mut().zip(sums).zip(values) {
                *to = sum + value;
            }
        }
    }
}

#[inline(always)]
fn store<S: Simd, V: SimdBase<S, Element = f32>, const N: usize>(values: [V; N], to: &mut [f32]) {
    for (value, to) in values.iter().zip(to.chunks_exact_mut(V::LEN)) {
        value.store_slice(to);
    }
}

#[inline(always)]
fn plus<S: Simd, V: SimdBase<S, Element = f32>, const N: usize>(s: S, mut values: [V; N], other: &[f32]) -> [V; N] {
    for (value, other) in values.iter_mut().zip(other.chunks_exact(V::LEN)) {
        *value += V::from_slice(s, other);
    }
    values
}

//! The inner loop: a block of the output in registers.

use super::super::Tile;
use fearless_simd::Simd;
use fearless_simd::prelude::*;

/// What a block of sums is added to.
#[derive(Clone, Copy, Debug)]
pub enum Base<'a> {
    /// Nothing: the output is overwritten.
    Zero,
    /// The output.
    Output,
    /// A row vector, one element a column of the output.
    Row(&'a [f32]),
    /// A matrix of the output's shape: elements from the output's first one on, and from row to row.
    Matrix(&'a [f32], usize),
}

/// The left operand of a sweep.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Where it lies, from the first row and depth on, and elements from row to row.
    Rows(&'a [f32], usize),
    /// Packed in blocks of `[depth][R]`.
    Packed(&'a [f32]),
}

/// A part of the output that shares one packed panel of the right operand.
#[derive(Clone, Copy)]
pub struct Sweep<'a, const W: usize> {
    /// Rows of the output.
    pub rows: [usize; 2],
    /// First column of the output.
    pub col: usize,
    /// Columns, at most `W`.
    pub cols: usize,
    /// The right operand, `[depth][W]`.
    pub panel: &'a [[f32; W]],
    /// What the product is added to.
    pub base: Base<'a>,
}

/// Blocks of `R` rows, one after the other.
#[inline(always)]
pub fn sweep<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    left: Left<'_>,
    out: &mut Tile<'_>,
    sweep: &Sweep<'_, W>,
) {
    let depth = sweep.panel.len();
    for (i, row) in (sweep.rows[0]..sweep.rows[1]).step_by(R).enumerate() {
        out.prefetch::<R>([row, sweep.col], sweep.cols);
        let acc = match left {
            Left::Rows(data, stride) => {
                let mut rows = [data; R];
                for (j, part) in rows.iter_mut().enumerate() {
                    *part = &data[(i * R + j) * stride..][..depth];
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
    let mut acc = [[S::f32s::splat(s, 0.0); V]; R];
    // Unrolled, so that elements lie at constant distances from a row's pointer.
    let (fours, rest) = panel.as_chunks::<UNROLL>();
    let mut row_fours = [&[] as &[[f32; UNROLL]]; R];
    for i in 0..R {
        row_fours[i] = &rows[i].as_chunks().0[..fours.len()];
    }
    for k in 0..fours.len() {
        for u in 0..UNROLL {
            let mut left = [0.0; R];
            for i in 0..R {
                left[i] = row_fours[i][k][u];
            }
            step(s, &mut acc, &left, &fours[k][u]);
        }
    }
    let first = fours.len() * UNROLL;
    for (k, right) in rest.iter().enumerate() {
        let mut left = [0.0; R];
        for i in 0..R {
            left[i] = rows[i][first + k];
        }
        step(s, &mut acc, &left, right);
    }
    acc
}

const UNROLL: usize = 4;

/// As [`sums_of_rows`], of a packed block.
#[inline(always)]
fn sums<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    block: &[[f32; R]],
    panel: &[[f32; W]],
) -> [[S::f32s; V]; R] {
    let mut acc = [[S::f32s::splat(s, 0.0); V]; R];
    for (left, right) in block.iter().zip(panel) {
        step(s, &mut acc, left, right);
    }
    acc
}

#[inline(always)]
fn step<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    acc: &mut [[S::f32s; V]; R],
    left: &[f32; R],
    right: &[f32; W],
) {
    let len = S::f32s::LEN;
    let mut b = [S::f32s::splat(s, 0.0); V];
    for v in 0..V {
        b[v] = S::f32s::from_slice(s, &right[v * len..(v + 1) * len]);
    }
    for i in 0..R {
        let a = S::f32s::splat(s, left[i]);
        for v in 0..V {
            acc[i][v] = a.mul_add(b[v], acc[i][v]);
        }
    }
}

/// Write sums, plus `base`, to rows from `row` and columns `col..col + cols` of `out`.
#[inline(always)]
fn write<S: Simd, const R: usize, const V: usize, const W: usize>(
    s: S,
    acc: &[[S::f32s; V]; R],
    out: &mut Tile<'_>,
    [row, col]: [usize; 2],
    cols: usize,
    base: Base<'_>,
) {
    let block = out.block::<R>([row, col], cols);
    if cols == W {
        match base {
            Base::Zero => {
                for i in 0..R {
                    store(acc[i], block[i]);
                }
            }
            Base::Output => {
                for i in 0..R {
                    store(plus(s, acc[i], block[i]), block[i]);
                }
            }
            Base::Row(values) => {
                let values = &values[col..col + W];
                for i in 0..R {
                    store(plus(s, acc[i], values), block[i]);
                }
            }
            Base::Matrix(values, stride) => {
                let values = &values[row * stride + col..];
                for i in 0..R {
                    store(plus(s, acc[i], &values[i * stride..][..W]), block[i]);
                }
            }
        }
    } else {
        for i in 0..R {
            // A copy: an index that is not constant would keep all sums in memory.
            let mut sums = [0.0; W];
            store(acc[i], &mut sums);
            let sums = &sums[..cols];
            match base {
                Base::Zero => block[i].copy_from_slice(sums),
                Base::Output => add_to(block[i], sums),
                Base::Row(values) => set_sum(block[i], sums, &values[col..]),
                Base::Matrix(values, stride) => set_sum(block[i], sums, &values[(row + i) * stride + col..]),
            }
        }
    }
}

#[inline(always)]
fn store<S: Simd, V: SimdBase<S, Element = f32>, const N: usize>(values: [V; N], to: &mut [f32]) {
    for v in 0..N {
        values[v].store_slice(&mut to[v * V::LEN..(v + 1) * V::LEN]);
    }
}

#[inline(always)]
fn plus<S: Simd, V: SimdBase<S, Element = f32>, const N: usize>(s: S, mut values: [V; N], other: &[f32]) -> [V; N] {
    for v in 0..N {
        values[v] += V::from_slice(s, &other[v * V::LEN..(v + 1) * V::LEN]);
    }
    values
}

#[inline(always)]
fn add_to(to: &mut [f32], sums: &[f32]) {
    for (to, sum) in to.iter_mut().zip(sums) {
        *to += sum;
    }
}

#[inline(always)]
fn set_sum(to: &mut [f32], sums: &[f32], others: &[f32]) {
    for ((to, sum), other) in to.iter_mut().zip(sums).zip(others) {
        *to = sum + other;
    }
}

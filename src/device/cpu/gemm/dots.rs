//! Products of few rows, or of few columns, by inner products: nothing is packed, and each weight is read once.

use super::super::Tile;
use super::micro::Base;
use super::pack::groups;
use super::serial::View;
use fearless_simd::Simd;
use fearless_simd::prelude::*;

/// `out = base + a b` in some rows and columns, for a row-major `a` and a column-major `b`.
#[inline(always)]
pub fn columns<S: Simd>(
    s: S,
    out: &mut Tile<'_>,
    a: View<'_>,
    b: View<'_>,
    depth: usize,
    base: Base<'_>,
    rows: [usize; 2],
    cols: [usize; 2],
) {
    match S::f32s::LEN {
        16 => by_width::<S, 16>(s, out, a, b, depth, base, rows, cols),
        8 => by_width::<S, 8>(s, out, a, b, depth, base, rows, cols),
        _ => by_width::<S, 4>(s, out, a, b, depth, base, rows, cols),
    }
}

#[inline(always)]
fn by_width<S: Simd, const L: usize>(
    s: S,
    out: &mut Tile<'_>,
    a: View<'_>,
    b: View<'_>,
    depth: usize,
    base: Base<'_>,
    rows: [usize; 2],
    [first, end]: [usize; 2],
) {
    let mut col = first;
    while col < end {
        let step = match end - col {
            8.. if rows[1] - rows[0] == 1 => 8,
            4.. => 4,
            _ => 1,
        };
        for (count, [row, end_row]) in groups(rows, 3) {
            for row in (row..end_row).step_by(count.max(1)) {
                let (a, b, at) = (a.from(row, 0), b.from(0, col), [row, col]);
                match (count, step) {
                    (1, 8) => block::<S, L, 1, 8>(s, out, a, b, depth, base, at),
                    (1, 4) => block::<S, L, 1, 4>(s, out, a, b, depth, base, at),
                    (1, _) => block::<S, L, 1, 1>(s, out, a, b, depth, base, at),
                    (2, 4) => block::<S, L, 2, 4>(s, out, a, b, depth, base, at),
                    (2, _) => block::<S, L, 2, 1>(s, out, a, b, depth, base, at),
                    (_, 4) => block::<S, L, 3, 4>(s, out, a, b, depth, base, at),
                    _ => block::<S, L, 3, 1>(s, out, a, b, depth, base, at),
                }
            }
        }
        col += step;
    }
}

/// `R` rows times `C` columns. A sum is taken in `L` lanes, one vector after the other, the last one padded with zeros.
#[inline(always)]
fn block<S: Simd, const L: usize, const R: usize, const C: usize>(
    s: S,
    out: &mut Tile<'_>,
    a: View<'_>,
    b: View<'_>,
    depth: usize,
    base: Base<'_>,
    [row, col]: [usize; 2],
) {
    let whole = depth / L;
    let (mut left, mut right) = ([&[] as &[[f32; L]]; R], [&[] as &[[f32; L]]; C]);
    let (mut left_rest, mut right_rest) = ([[0.0; L]; R], [[0.0; L]; C]);
    for i in 0..R {
        let (vectors, rest) = a.data[i * a.row..][..depth].as_chunks();
        left[i] = &vectors[..whole];
        left_rest[i][..rest.len()].copy_from_slice(rest);
    }
    for j in 0..C {
        let (vectors, rest) = b.data[j * b.col..][..depth].as_chunks();
        right[j] = &vectors[..whole];
        right_rest[j][..rest.len()].copy_from_slice(rest);
    }
    let mut acc = [[S::f32s::splat(s, 0.0); C]; R];
    for k in 0..whole {
        let (mut p, mut q) = ([[0.0; L]; R], [[0.0; L]; C]);
        for i in 0..R {
            p[i] = left[i][k];
        }
        for j in 0..C {
            q[j] = right[j][k];
        }
        step(s, &mut acc, &p, &q);
    }
    if depth > whole * L {
        step(s, &mut acc, &left_rest, &right_rest);
    }
    for i in 0..R {
        let to = &mut out.row(row + i)[col..col + C];
        for j in 0..C {
            let sum = acc[i][j].reduce_sum();
            to[j] = match base {
                Base::Zero => sum,
                Base::Output => to[j] + sum,
                Base::Row(values) => values[col + j] + sum,
                Base::Matrix(values, stride) => values[(row + i) * stride + col + j] + sum,
            };
        }
    }
}

#[inline(always)]
fn step<S: Simd, const L: usize, const R: usize, const C: usize>(
    s: S,
    acc: &mut [[S::f32s; C]; R],
    left: &[[f32; L]; R],
    right: &[[f32; L]; C],
) {
    let mut b = [S::f32s::splat(s, 0.0); C];
    for j in 0..C {
        b[j] = S::f32s::from_slice(s, &right[j]);
    }
    for i in 0..R {
        let a = S::f32s::from_slice(s, &left[i]);
        for j in 0..C {
            acc[i][j] = a.mul_add(b[j], acc[i][j]);
        }
    }
}

//! Register tiles: products whose result is sixteen columns wide, and what brings operands into the form they take.
//!
//! An operand or result of sixteen columns is a *strip*: rows of `[f32; 16]`, one behind the other. Wider matrices are several strips, padded
//! with zeros. Every element of a result is one sum over k in order, so tiles of any height give the same bits.

use crate::device::{StoredNumber, values};
use fearless_simd::{Bytes, Simd, SimdBase, SimdCvtFloat, SimdFloat, SimdSplit, f32x4, f32x16, i32x16};

/// Columns of a strip, and queries of a panel: lanes that are computed at a time.
pub const STRIP: usize = 16;

/// Strips that hold `columns`.
pub const fn strips(columns: usize) -> usize {
    columns.div_ceil(STRIP)
}

/// Most rows of a register tile: with them the accumulators fill the registers, all but those for an operand.
#[inline(always)]
const fn most_rows<S: Simd>() -> usize {
    match S::f32s::LEN {
        16 => 8,
        8 => 6,
        _ if cfg!(target_arch = "aarch64") => 6,
        _ => 3,
    }
}

/// Evaluate with `$R` the constant that `$rows` is, which is at most [`most_rows`].
macro_rules! with_rows {
    ($S:ty, $rows:expr, $R:ident => $body:expr) => {
        match $rows {
            1 => with_rows!(@ 1, $R => $body),
            2 => with_rows!(@ 2, $R => $body),
            3 => with_rows!(@ 3, $R => $body),
            4 if most_rows::<$S>() >= 4 => with_rows!(@ 4, $R => $body),
            5 if most_rows::<$S>() >= 5 => with_rows!(@ 5, $R => $body),
            6 if most_rows::<$S>() >= 6 => with_rows!(@ 6, $R => $body),
            7 if most_rows::<$S>() >= 7 => with_rows!(@ 7, $R => $body),
            8 if most_rows::<$S>() >= 8 => with_rows!(@ 8, $R => $body),
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
    (@ $n:literal, $R:ident => $body:expr) => {{
        const $R: usize = $n;
        $body
    }};
}

/// Cut `rows` into tiles of nearly equal height, and give (first row, rows) of each.
#[inline(always)]
fn for_tiles<S: Simd>(rows: usize, mut each: impl FnMut(usize, usize)) {
    let tiles = rows.div_ceil(most_rows::<S>());
    for tile in 0..tiles {
        let first = tile * rows / tiles;
        each(first, (tile + 1) * rows / tiles - first);
    }
}

#[inline(always)]
pub fn load<S: Simd>(simd: S, row: &[f32; STRIP]) -> f32x16<S> {
    f32x16::load_array_ref(simd, row)
}

/// Rows of `c` from `first` on: the tile, or the tile added to them.
///
/// Sums over k begin at zero and are added as a whole: long sums are sums of short ones, with smaller errors.
#[inline(always)]
fn put<S: Simd, const R: usize>(simd: S, c: &mut [[f32; STRIP]], first: usize, tile: [f32x16<S>; R], add: bool) {
    let rows = &mut c[first..first + R];
    for r in 0..R {
        let row = if add { load(simd, &rows[r]) + tile[r] } else { tile[r] };
        row.store_array(&mut rows[r]);
    }
}

/// `acc[r] += sum over k of a[r][k] b[k]`
#[inline(always)]
fn multiply_rows<S: Simd, const R: usize>(
    simd: S,
    a: [&[f32]; R],
    b: &[[f32; STRIP]],
    mut acc: [f32x16<S>; R],
) -> [f32x16<S>; R] {
    let mut rows: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        rows[r] = &a[r][..b.len()];
    }
    for (k, b) in b.iter().enumerate() {
        let b = load(simd, b);
        for r in 0..R {
            acc[r] = f32x16::splat(simd, rows[r][k]).mul_add(b, acc[r]);
        }
    }
    acc
}

/// `acc[r] += sum over k of a[k][first + r] b[k]`
#[inline(always)]
fn multiply_columns<S: Simd, const R: usize>(
    simd: S,
    a: &[[f32; STRIP]],
    first: usize,
    b: &[[f32; STRIP]],
    mut acc: [f32x16<S>; R],
) -> [f32x16<S>; R] {
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (&a[first..first + R], load(simd, b));
        for r in 0..R {
            acc[r] = f32x16::splat(simd, a[r]).mul_add(b, acc[r]);
        }
    }
    acc
}

/// `c[i] = sum over k of a[i stride + k] b[k]`: rows of a matrix in memory with a panel.
#[inline(always)]
pub fn rows_by_panel<S: Simd>(simd: S, a: &[f32], stride: usize, b: &[[f32; STRIP]], c: &mut [[f32; STRIP]]) {
    simd.vectorize(
        #[inline(always)]
        || {
            for_tiles::<S>(
                c.len(),
                #[inline(always)]
                |first, rows| {
                    with_rows!(S, rows, R => {
                        let mut rows: [&[f32]; R] = [&[]; R];
                        for (r, row) in rows.iter_mut().enumerate() {
                            *row = &a[(first + r) * stride..];
                        }
                        put(simd, c, first, multiply_rows(simd, rows, b, [f32x16::splat(simd, 0.0); R]), false);
                    });
                },
            );
        },
    );
}

/// `c[i] += sum over k of a[k][i] b[k]`, with `a` a panel and `c` its sixteen rows of a strip; `=` where `add` is false.
#[inline(always)]
pub fn panel_by_strip<S: Simd>(simd: S, a: &[[f32; STRIP]], b: &[[f32; STRIP]], add: bool, c: &mut [[f32; STRIP]]) {
    simd.vectorize(
        #[inline(always)]
        || {
            for_tiles::<S>(
                STRIP,
                #[inline(always)]
                |first, rows| {
                    with_rows!(S, rows, R => {
                        put(simd, c, first, multiply_columns(simd, a, first, b, [f32x16::splat(simd, 0.0); R]), add);
                    });
                },
            );
        },
    );
}

/// `c[i] += sum over panels, then their lanes k, of a[panel height + i][k] b[16 panel + k]`: rows of panels `height` apart with the sixteen
/// rows of a strip that belong to each panel.
#[inline(always)]
pub fn panels_by_strip<S: Simd>(
    simd: S,
    panels: &[usize],
    a: &[[f32; STRIP]],
    height: usize,
    b: &[[f32; STRIP]],
    c: &mut [[f32; STRIP]],
) {
    simd.vectorize(
        #[inline(always)]
        || {
            for_tiles::<S>(
                c.len(),
                #[inline(always)]
                |first, rows| {
                    with_rows!(S, rows, R => {
                        let mut acc = [f32x16::splat(simd, 0.0); R];
                        for &panel in panels {
                            let mut rows: [&[f32]; R] = [&[]; R];
                            for (row, a) in rows.iter_mut().zip(&a[panel * height + first..][..R]) {
                                *row = a;
                            }
                            acc = multiply_rows(simd, rows, &b[panel * STRIP..][..STRIP], acc);
                        }
                        put(simd, c, first, acc, true);
                    });
                },
            );
        },
    );
}

/// Copy rows of `columns` numbers, `stride` apart, into strips of `height` rows each.
#[inline(always)]
pub fn copy_strips(a: &[f32], stride: usize, columns: usize, rows: usize, to: &mut [[f32; STRIP]], height: usize) {
    for i in 0..rows {
        let (whole, rest) = a[i * stride..][..columns].as_chunks();
        for (s, from) in whole.iter().enumerate() {
            to[s * height + i] = *from;
        }
        if !rest.is_empty() {
            let last = &mut to[whole.len() * height + i];
            *last = [0.0; STRIP];
            last[..rest.len()].copy_from_slice(rest);
        }
    }
}

/// Transpose four rows of four.
#[inline(always)]
pub fn transpose4<S: Simd>(rows: [f32x4<S>; 4]) -> [f32x4<S>; 4] {
    let (even, odd) = (rows[0].interleave(rows[2]), rows[1].interleave(rows[3]));
    let (low, high) = (even.0.interleave(odd.0), even.1.interleave(odd.1));
    [low.0, low.1, high.0, high.1]
}

/// Transpose up to sixteen rows of `panel.len()` numbers, `stride` apart, times `scale`; the last row fills the lanes that are left.
#[inline(always)]
pub fn transpose<S: Simd>(simd: S, a: &[f32], stride: usize, rows: usize, scale: f32, panel: &mut [[f32; STRIP]]) {
    for quad in 0..STRIP / 4 {
        let mut from: [&[[f32; 4]]; 4] = [&[]; 4];
        for (i, row) in from.iter_mut().enumerate() {
            *row = a[(4 * quad + i).min(rows - 1) * stride..][..panel.len()].as_chunks().0;
        }
        for (block, to) in panel.chunks_exact_mut(4).enumerate() {
            let mut four = [f32x4::splat(simd, 0.0); 4];
            for (four, row) in four.iter_mut().zip(from) {
                *four = f32x4::load_array_ref(simd, &row[block]) * scale;
            }
            for (to, column) in to.iter_mut().zip(transpose4(four)) {
                column.store_slice(&mut to[4 * quad..4 * quad + 4]);
            }
        }
    }
}

/// The dot products of up to sixteen rows of `columns` numbers of two matrices, `stride` apart.
#[inline(always)]
pub fn dots<S: Simd>(simd: S, a: &[f32], b: &[f32], stride: usize, columns: usize, rows: usize) -> [f32; STRIP] {
    let mut all = [0.0; STRIP];
    for (quad, to) in all.chunks_exact_mut(4).take(rows.div_ceil(4)).enumerate() {
        let mut parts = [f32x4::splat(simd, 0.0); 4];
        for (i, part) in parts.iter_mut().enumerate() {
            let at = (4 * quad + i).min(rows - 1) * stride;
            *part = dot4(simd, &a[at..][..columns], &b[at..][..columns]);
        }
        let [p, q, r, s] = transpose4(parts);
        ((p + q) + (r + s)).store_slice(to);
    }
    all
}

/// Four numbers whose sum is the dot product.
#[inline(always)]
pub fn dot4<S: Simd, T: StoredNumber>(simd: S, a: &[f32], b: &[T]) -> f32x4<S> {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks(), b.as_chunks::<STRIP>());
    let mut sum = f32x16::splat(simd, 0.0);
    for (a, b) in a.iter().zip(b) {
        sum = load(simd, a).mul_add(load(simd, &values(b)), sum);
    }
    let (low, high) = sum.split();
    let (low, high) = (low + high).split();
    let mut sum = low + high;
    for (a, b) in a_rest.as_chunks().0.iter().zip(b_rest.as_chunks::<4>().0) {
        sum = f32x4::load_array_ref(simd, a).mul_add(f32x4::load_array(simd, values(b)), sum);
    }
    sum
}

/// 2^x for x at or below 0 (above, up to 127); exactly 0 below -126.5. Relative error below 2e-7.
#[inline(always)]
pub fn exp2<S: Simd>(simd: S, x: f32x16<S>) -> f32x16<S> {
    /// 1.5 2^23 + 127: added to x, it leaves the biased exponent of 2^round(x) in the low bits.
    const ROUND: f32 = 12_583_039.0;
    /// 2^f in [-0.5, 0.5], least relative error, exact at 0.
    const POLYNOMIAL: [f32; 6] = [0.000_155_946_78, 0.001_340_664_3, 0.009_617_693, 0.055_503_104, 0.240_226_52, 0.693_147_24];
    let x = x.max(-127.0);
    let rounded = x + ROUND;
    let f = x - (rounded - ROUND);
    let mut p = f32x16::splat(simd, POLYNOMIAL[0]);
    for c in &POLYNOMIAL[1..] {
        p = p.mul_add(f, *c);
    }
    p.mul_add(f, 1.0) * f32x16::from_bits(rounded.to_bits() << 23)
}

/// Binary logarithm of finite numbers at or above 1; absolute error below 2e-7 of the result or 1.
#[inline(always)]
pub fn log2<S: Simd>(simd: S, x: f32x16<S>) -> f32x16<S> {
    /// 2 / ln 2 / (2 i + 1), from i = 4 down: log2((1 + t) / (1 - t)) as a series.
    const SERIES: [f32; 5] = [0.320_598_9, 0.412_198_6, 0.577_078, 0.961_796_7, 2.885_39];
    // A mantissa in [sqrt(1/2), sqrt(2)) and its exponent.
    let bits = x.to_bits() + (0x3F80_0000 - 0x3F35_04F3);
    let exponent = f32x16::float_from((bits >> 23).bitcast::<i32x16<S>>() - 127);
    let mantissa = f32x16::from_bits((bits & 0x007F_FFFF) + 0x3F35_04F3);
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut sum = f32x16::splat(simd, SERIES[0]);
    for c in &SERIES[1..] {
        sum = sum.mul_add(square, *c);
    }
    sum.mul_add(t, exponent)
}

/// Put row `i` of strips `height` apart, times `factor`, into `to`, or `add` it to that.
#[inline(always)]
pub fn update_row<S: Simd>(simd: S, to: &mut [f32], strips: &[[f32; STRIP]], height: usize, i: usize, factor: f32, add: bool) {
    for (to, strip) in to.chunks_mut(STRIP).zip(strips.chunks_exact(height)) {
        let row = load(simd, &strip[i]) * factor;
        match <&mut [f32; STRIP]>::try_from(&mut *to) {
            Ok(whole) if add => (load(simd, whole) + row).store_array(whole),
            Ok(whole) => row.store_array(whole),
            Err(_) if add => to.iter_mut().zip(row.to_array()).for_each(|(to, new)| *to += new),
            Err(_) => to.copy_from_slice(&row.to_array()[..to.len()]),
        }
    }
}

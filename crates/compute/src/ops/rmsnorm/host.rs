//! RMSNorm: y = x * rstd * gain, rstd = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019).

use super::MatrixSize;
use crate::device::cpu::math::sum4;
use crate::device::cpu::{Cpu, OutputTile, TileGrid, Tiled, task_rows, with_scratch};
use crate::simd;
use fearless_simd::prelude::*;

impl MatrixSize {
    /// The rows in tasks.
    fn tiles(&self) -> TileGrid {
        TileGrid::rows(self.rows, self.cols, task_rows(self.rows, self.cols))
    }

    /// One number a row, in the same tasks.
    fn numbers(&self) -> TileGrid {
        TileGrid::rows(self.rows, 1, task_rows(self.rows, self.cols))
    }

    #[inline(always)]
    fn row<'a>(&self, matrix: &'a [f32], row: usize) -> &'a [f32] {
        &matrix[row * self.cols..][..self.cols]
    }
}

/// Normalise the rows of `x` into `y`; keep `rstd` (one number a row) for backward.
pub fn forward(cpu: &Cpu, size: MatrixSize, eps: f32, x: &[f32], gain: &[f32], rstd: &mut [f32], y: &mut [f32]) {
    let outputs = [Tiled::new(rstd, size.numbers()), Tiled::new(y, size.tiles())];
    cpu.for_tiles(outputs, |_, [rstd, y]| simd!(cpu, s => forward_tile(s, size, eps, x, gain, rstd, y)));
}

#[inline(always)]
fn forward_tile<S: Simd>(
    simd: S,
    size: MatrixSize,
    eps: f32,
    x: &[f32],
    gain: &[f32],
    mut rstd: OutputTile<'_>,
    mut y: OutputTile<'_>,
) {
    let gain = &gain[..size.cols];
    let share = 1.0 / size.cols as f32;
    for i in 0..y.rows() {
        let (x, y) = (size.row(x, y.first_row() + i), y.row(i));
        let scale = 1.0 / (squares(simd, x) * share + eps).sqrt();
        rstd.row(i)[0] = scale;
        scaled(simd, scale, x, gain, y);
    }
}

/// Sum of squares.
#[inline(always)]
pub fn squares<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let n = S::f32s::LEN;
    let mut sums = [S::f32s::splat(simd, 0.0); 4];
    let fours = x.chunks_exact(4 * n);
    let ones = fours.remainder().chunks_exact(n);
    let rest = ones.remainder();
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four.chunks_exact(n)) {
            let x = S::f32s::from_slice(simd, x);
            *sum = x.mul_add(x, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(ones) {
        let x = S::f32s::from_slice(simd, x);
        *sum = x.mul_add(x, *sum);
    }
    sum4(simd, sums) + rest.iter().map(|x| x * x).sum::<f32>()
}

/// y = x * scale * gain
#[inline(always)]
pub fn scaled<S: Simd>(simd: S, scale: f32, x: &[f32], gain: &[f32], y: &mut [f32]) {
    let n = S::f32s::LEN;
    let (x, gain, mut y) = (x.chunks_exact(n), gain.chunks_exact(n), y.chunks_exact_mut(n));
    let rest = x.remainder().iter().zip(gain.remainder());
    for (y, (x, gain)) in (&mut y).zip(x.zip(gain)) {
        (S::f32s::from_slice(simd, x) * scale * S::f32s::from_slice(simd, gain)).store_slice(y);
    }
    for (y, (x, gain)) in y.into_remainder().iter_mut().zip(rest) {
        *y = x * scale * gain;
    }
}

/// `dx = ` (or `+=`) the gradient of the loss by `x`, from the gradient `dy` by `y`:
/// dx = rstd * (dy * gain - n * mean(dy * gain * n)), n = x * rstd.
pub fn backward(
    cpu: &Cpu,
    size: MatrixSize,
    accumulate: bool,
    x: &[f32],
    gain: &[f32],
    rstd: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) {
    let dx = Tiled::new(dx, size.tiles());
    cpu.for_tiles([dx], |_, [dx]| {
        if accumulate {
            simd!(cpu, s => backward_tile::<_, true>(s, size, x, gain, rstd, dy, dx));
        } else {
            simd!(cpu, s => backward_tile::<_, false>(s, size, x, gain, rstd, dy, dx));
        }
    });
}

#[inline(always)]
fn backward_tile<S: Simd, const ADD: bool>(
    simd: S,
    size: MatrixSize,
    x: &[f32],
    gain: &[f32],
    rstd: &[f32],
    dy: &[f32],
    mut dx: OutputTile<'_>,
) {
    let gain = &gain[..size.cols];
    let share = 1.0 / size.cols as f32;
    for i in 0..dx.rows() {
        let row = dx.first_row() + i;
        let (x, dy, scale) = (size.row(x, row), size.row(dy, row), rstd[row]);
        let mean = dot3(simd, dy, gain, x) * scale * share;
        backward_row::<S, ADD>(simd, scale, scale * mean, x, gain, dy, dx.row(i));
    }
}

/// Sum of products of three.
#[inline(always)]
pub fn dot3<S: Simd>(simd: S, a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let n = S::f32s::LEN;
    let full = a.len() / (2 * n) * (2 * n);
    let mut sums = [S::f32s::splat(simd, 0.0); 4];
    let twos = a.chunks_exact(2 * n).zip(b.chunks_exact(2 * n)).zip(c.chunks_exact(2 * n));
    for ((a, b), c) in twos {
        let low = S::f32s::from_slice(simd, &a[..n]) * S::f32s::from_slice(simd, &b[..n]);
        let high = S::f32s::from_slice(simd, &a[n..]) * S::f32s::from_slice(simd, &b[n..]);
        sums[0] = low.mul_add(S::f32s::from_slice(simd, &c[..n]), sums[0]);
        sums[1] = high.mul_add(S::f32s::from_slice(simd, &c[n..]), sums[1]);
    }
    let rest = a[full..].iter().zip(&b[full..]).zip(&c[full..]);
    sum4(simd, sums) + rest.map(|((a, b), c)| a * b * c).sum::<f32>()
}

/// dx = scale * (dy * gain - x * pull)
#[inline(always)]
pub fn backward_row<S: Simd, const ADD: bool>(
    simd: S,
    scale: f32,
    pull: f32,
    x: &[f32],
    gain: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) {
    let n = S::f32s::LEN;
    let (x, gain, dy, mut dx) = (x.chunks_exact(n), gain.chunks_exact(n), dy.chunks_exact(n), dx.chunks_exact_mut(n));
    let rest = x.remainder().iter().zip(gain.remainder()).zip(dy.remainder());
    for (dx, ((x, gain), dy)) in (&mut dx).zip(x.zip(gain).zip(dy)) {
        let of_y = S::f32s::from_slice(simd, dy) * S::f32s::from_slice(simd, gain);
        let d = S::f32s::from_slice(simd, x).mul_add(-pull, of_y);
        let d = if ADD { d.mul_add(scale, S::f32s::from_slice(simd, dx)) } else { d * scale };
        d.store_slice(dx);
    }
    for (dx, ((x, gain), dy)) in dx.into_remainder().iter_mut().zip(rest) {
        let d = scale * (dy * gain - x * pull);
        *dx = if ADD { *dx + d } else { d };
    }
}

/// `dgain` (cols) += the gradient of the loss by the gain: the sum over all rows of dy * x * rstd.
pub fn backward_gain(cpu: &Cpu, size: MatrixSize, x: &[f32], rstd: &[f32], dy: &[f32], dgain: &mut [f32]) {
    let each = task_rows(size.rows, size.cols);
    add_block_sums(cpu, size.rows, each, dgain, |range, sums| {
        simd!(cpu, s => gain_block(s, size, range, x, rstd, dy, sums));
    });
}

/// `out` += the sums over `rows` rows, of which `block` sums a range into its slice: tasks sum `each` rows, and their sums are added in order.
pub fn add_block_sums(
    cpu: &Cpu,
    rows: usize,
    each: usize,
    out: &mut [f32],
    block: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
) {
    let (blocks, width) = (rows.div_ceil(each), out.len());
    with_scratch(blocks * width, |sums| {
        let tiles = Tiled::new(sums, TileGrid::rows(blocks, width, 1));
        cpu.for_tiles([tiles], |[i, _], [mut sums]| block(i * each..rows.min((i + 1) * each), sums.row(0)));
        let (first, others) = sums.split_at_mut(width);
        for block in others.chunks_exact(width) {
            first.iter_mut().zip(block).for_each(|(sum, b)| *sum += b);
        }
        out.iter_mut().zip(first).for_each(|(d, sum)| *d += *sum);
    });
}

#[inline(always)]
fn gain_block<S: Simd>(
    simd: S,
    size: MatrixSize,
    range: std::ops::Range<usize>,
    x: &[f32],
    rstd: &[f32],
    dy: &[f32],
    sums: &mut [f32],
) {
    let n = S::f32s::LEN;
    let eights = sums.len() / (8 * n) * (8 * n);
    let ones = sums.len() / n * n;
    for first in (0..eights).step_by(8 * n) {
        gain_columns::<S, 8>(simd, size, range.clone(), first, x, rstd, dy, &mut sums[first..]);
    }
    for first in (eights..ones).step_by(n) {
        gain_columns::<S, 1>(simd, size, range.clone(), first, x, rstd, dy, &mut sums[first..]);
    }
    for (c, sum) in sums.iter_mut().enumerate().skip(ones) {
        *sum = range.clone().map(|row| x[row * size.cols + c] * rstd[row] * dy[row * size.cols + c]).sum();
    }
}

/// Of `N` vectors of columns from `first`.
#[inline(always)]
fn gain_columns<S: Simd, const N: usize>(
    simd: S,
    size: MatrixSize,
    range: std::ops::Range<usize>,
    first: usize,
    x: &[f32],
    rstd: &[f32],
    dy: &[f32],
    to: &mut [f32],
) {
    let n = S::f32s::LEN;
    let mut sums = [S::f32s::splat(simd, 0.0); N];
    for row in range {
        let (x, dy) = (&size.row(x, row)[first..][..N * n], &size.row(dy, row)[first..][..N * n]);
        for (sum, (x, dy)) in sums.iter_mut().zip(x.chunks_exact(n).zip(dy.chunks_exact(n))) {
            *sum = (S::f32s::from_slice(simd, x) * rstd[row]).mul_add(S::f32s::from_slice(simd, dy), *sum);
        }
    }
    for (sum, to) in sums.iter().zip(to.chunks_exact_mut(n)) {
        sum.store_slice(to);
    }
}

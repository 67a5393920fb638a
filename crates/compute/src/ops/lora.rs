//! Low-rank adapters (Hu et al. 2021): y += scale (x A^T) B^T. The product with A is an ordinary one (`matmul`); this is the one with B,
//! for up to three parts of y, each with its own A and B.          shaders/lora.wgsl

mod host;

use super::WG;
use super::check::{Case, Check, wide};
use crate::device::{Cost, Device, Dispatcher, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};
use std::ops::Range;

const SHADER: Shader = shader!("lora");

uniform! {
    struct Dims { rows: u32, stride: u32, end0: u32, end1: u32, shift0: u32, shift1: u32, shift2: u32, scale: f32 }
}

/// Maximum parts of a product's output: query, key and value.
const MOST_PARTS: usize = 3;

/// The columns of y (R, N) for the rows of B (M, r), and the scale of the adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraParts {
    /// Columns of y of each part, ascending and disjoint; their lengths add up to M.
    pub columns: Vec<Range<usize>>,
    /// alpha / r
    pub scale: f64,
}

impl LoraParts {
    /// Columns of y with an adapter (M).
    pub fn cols(&self) -> usize {
        self.columns.iter().map(Range::len).sum()
    }

    /// (rows of B, columns of y) of each part.
    fn spans(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        let mut start = 0;
        self.columns.iter().map(move |columns| {
            let rows = start..start + columns.len();
            start = rows.end;
            (rows, columns.clone())
        })
    }
}

/// Extents of an op.
#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    /// Rows of B.
    cols: usize,
    rank: usize,
    /// Parts times rank: columns of u.
    width: usize,
    /// Columns of y.
    stride: usize,
}

/// `y` (R, N) `+= scale u b^T` in the columns of each part; `u` (R, parts x r), `b` (M, r).
///
/// # Panics
/// When shapes do not fit (a defect of the caller).
pub fn forward(r: &mut Recorder<'_>, parts: &LoraParts, u: &Tensor, b: &Tensor, y: &Tensor) {
    let shape = shape(parts, [u, b, y]);
    let of = parts.clone();
    r.op(
        Op { name: "lora.forward", cost: cost(&shape), reads: bind!(u, b), writes: bind!(y) },
        |wgsl| dispatch(wgsl, "forward", parts, &shape, shape.rows * shape.cols, shape.rank),
        move |cpu, [u, b], [y]| host::forward(cpu, &of, &shape, u, b, y),
    );
}

/// `du` (R, parts x r) `= scale dy b`.
///
/// # Panics
/// When shapes do not fit (a defect of the caller).
pub fn backward_input(r: &mut Recorder<'_>, parts: &LoraParts, dy: &Tensor, b: &Tensor, du: &Tensor) {
    let shape = shape(parts, [du, b, dy]);
    let of = parts.clone();
    let longest = parts.columns.iter().map(Range::len).max().unwrap_or(0);
    r.op(
        Op { name: "lora.backward_input", cost: cost(&shape), reads: bind!(dy, b), writes: bind!(du) },
        |wgsl| dispatch(wgsl, "backward_input", parts, &shape, shape.rows * shape.width, longest),
        move |cpu, [dy, b], [du]| host::backward_input(cpu, &of, &shape, dy, b, du),
    );
}

/// `db` (M, r) `+= scale dy^T u`.
///
/// # Panics
/// When shapes do not fit (a defect of the caller).
pub fn backward_weight(r: &mut Recorder<'_>, parts: &LoraParts, dy: &Tensor, u: &Tensor, db: &Tensor) {
    let shape = shape(parts, [u, db, dy]);
    let of = parts.clone();
    r.op(
        Op { name: "lora.backward_weight", cost: cost(&shape), reads: bind!(dy, u), writes: bind!(db) },
        |wgsl| dispatch(wgsl, "backward_weight", parts, &shape, shape.cols * shape.rank, shape.rows),
        move |cpu, [dy, u], [db]| host::backward_weight(cpu, &of, &shape, dy, u, db),
    );
}

fn shape(parts: &LoraParts, [u, b, y]: [&Tensor; 3]) -> Shape {
    let ([rows, width], [cols, rank], [y_rows, stride]) = (u.matrix(), b.matrix(), y.matrix());
    let count = parts.columns.len();
    let ascending = parts.columns.windows(2).all(|pair| pair[0].end <= pair[1].start);
    let inside = parts.columns.last().is_some_and(|last| last.end <= stride);
    assert!(
        (1..=MOST_PARTS).contains(&count)
            && ascending
            && inside
            && cols == parts.cols()
            && width == count * rank
            && rows == y_rows,
        "{parts:?}: {} {:?}, {} {:?}, {} {:?}",
        u.name(),
        u.shape(),
        b.name(),
        b.shape(),
        y.name(),
        y.shape()
    );
    Shape { rows, cols, rank, width, stride }
}

fn cost(s: &Shape) -> Cost {
    let numbers = s.rows * s.width + s.cols * s.rank + 2 * s.rows * s.cols;
    Cost { flops: 2.0 * (s.rows * s.cols * s.rank) as f64, bytes: 4.0 * numbers as f64 }
}

fn dispatch(
    wgsl: &mut Dispatcher<'_>,
    entry: &str,
    parts: &LoraParts,
    s: &Shape,
    invocations: usize,
    iterations: usize,
) -> anyhow::Result<()> {
    let constants = [("WG", f64::from(WG)), ("COLS", s.cols as f64), ("RANK", s.rank as f64), ("WIDTH", s.width as f64)];
    // Unused parts begin where the last one ends.
    let (mut ends, mut shifts) = ([s.cols as u32; 2], [0; MOST_PARTS]);
    for (i, (rows, columns)) in parts.spans().enumerate() {
        shifts[i] = (columns.start - rows.start) as u32;
        if let Some(end) = ends.get_mut(i) {
            *end = rows.end as u32;
        }
    }
    let dims = Dims {
        rows: s.rows as u32,
        stride: s.stride as u32,
        end0: ends[0],
        end1: ends[1],
        shift0: shifts[0],
        shift1: shifts[1],
        shift2: shifts[2],
        scale: parts.scale as f32,
    };
    wgsl.run(&SHADER, entry, &constants, dims, Extent { groups: grid(invocations.div_ceil(WG as usize) as u64), iterations })
}

/// The same arithmetic in f64. `rank` is the number of columns of `b`, `stride` that of `y`.
pub mod twin {
    use super::LoraParts;

    /// The term added to `y`.
    pub fn forward(parts: &LoraParts, u: &[f64], b: &[f64], rank: usize, stride: usize) -> Vec<f64> {
        let width = parts.columns.len() * rank;
        let mut y = vec![0.0; u.len() / width * stride];
        for (row, u) in u.chunks(width).enumerate() {
            for (part, (rows, columns)) in parts.spans().enumerate() {
                for (n, column) in rows.zip(columns) {
                    let sum: f64 = (0..rank).map(|k| u[part * rank + k] * b[n * rank + k]).sum();
                    y[row * stride + column] += parts.scale * sum;
                }
            }
        }
        y
    }

    /// (du, the term added to db)
    pub fn backward(parts: &LoraParts, dy: &[f64], u: &[f64], b: &[f64], rank: usize, stride: usize) -> (Vec<f64>, Vec<f64>) {
        let width = parts.columns.len() * rank;
        let (mut du, mut db) = (vec![0.0; u.len()], vec![0.0; b.len()]);
        for (row, dy) in dy.chunks(stride).enumerate() {
            for (part, (rows, columns)) in parts.spans().enumerate() {
                for (n, column) in rows.zip(columns) {
                    for k in 0..rank {
                        du[row * width + part * rank + k] += parts.scale * dy[column] * b[n * rank + k];
                        db[n * rank + k] += parts.scale * dy[column] * u[row * width + part * rank + k];
                    }
                }
            }
        }
        (du, db)
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[Check { name: "lora", run: check }];

/// One to three parts with gaps between them, and the columns of y.
fn draw(case: &mut Case) -> (LoraParts, usize) {
    let (mut columns, mut at) = (Vec::new(), 0);
    for _ in 0..case.int(1, MOST_PARTS) {
        let start = at + case.pick(&[0, 0, 5, 8]);
        at = start + case.int(1, 70);
        columns.push(start..at);
    }
    let stride = (at + case.int(0, 9)).next_multiple_of(4);
    (LoraParts { columns, scale: case.pick(&[0.25, 1.0, 2.0, 3.3]) }, stride)
}

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (parts, stride) = draw(case);
    let (rows, rank) = (case.int(1, 90), case.int(1, 20));
    case.shape = format!("{rows} rows of {stride}, rank {rank}, {parts:?}");
    let (width, cols) = (parts.columns.len() * rank, parts.cols());
    let (u, b) = (case.normals(rows * width, 1.0), case.normals(cols * rank, 1.0));
    let (y0, dy, db0) = (case.normals(rows * stride, 1.0), case.normals(rows * stride, 1.0), case.normals(cols * rank, 1.0));
    let (tu, tb) = (case.upload(device, "u", &[rows, width], &u), case.upload(device, "b", &[cols, rank], &b));
    let (y, tdy) = (case.upload(device, "y", &[rows, stride], &y0), case.upload(device, "dy", &[rows, stride], &dy));
    let (du, db) = (case.poisoned(device, "du", &[rows, width]), case.upload(device, "db", &[cols, rank], &db0));
    case.replay(device, |r| {
        forward(r, &parts, &tu, &tb, &y);
        backward_input(r, &parts, &tdy, &tb, &du);
        backward_weight(r, &parts, &tdy, &tu, &db);
    })?;
    let plus = |base: &[f32], added: Vec<f64>| -> Vec<f64> { wide(base).iter().zip(added).map(|(a, b)| a + b).collect() };
    case.compare(device, &y, &plus(&y0, twin::forward(&parts, &wide(&u), &wide(&b), rank, stride)))?;
    let (want_du, added) = twin::backward(&parts, &wide(&dy), &wide(&u), &wide(&b), rank, stride);
    case.compare(device, &du, &want_du)?;
    case.compare(device, &db, &plus(&db0, added))
}

#[cfg(test)]
mod tests {
    use super::super::check::{dot, finite_difference_error, probe};
    use super::*;

    #[test]
    fn twin_backward_is_the_derivative() {
        let parts = LoraParts { columns: vec![1..4, 6..8], scale: 1.5 };
        let (rows, rank, stride) = (3, 2, 8);
        let (u, b, weights) = (probe(rows * 2 * rank), probe(parts.cols() * rank), probe(rows * stride));
        let (du, db) = twin::backward(&parts, &weights, &u, &b, rank, stride);
        let loss = |u: &[f64], b: &[f64]| dot(&twin::forward(&parts, u, b, rank, stride), &weights);
        assert!(finite_difference_error(&u, &du, |u| loss(u, &b)) < 1e-6);
        assert!(finite_difference_error(&b, &db, |b| loss(&u, b)) < 1e-6);
    }
}

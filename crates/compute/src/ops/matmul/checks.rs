//! Every tile that the adapter can run, and the tile it would choose, against the twin.

pub mod float16;

use super::super::check::{Case, Check, LARGE_VOCABULARIES, wide};
use super::{Extra, RegisterTile, twin};
use crate::device::{Device, Recorder, Tensor};

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[
    Check { name: "matmul (chosen tiles)", run: check_chosen },
    Check { name: "matmul (few rows)", run: check_few_rows },
    Check { name: "matmul (split dispatches)", run: check_split },
    Check { name: "matmul (divided depth)", run: check_divided_depth },
    Check { name: "matmul (every tile)", run: check_every_tile },
    Check { name: "matmul (gradient of SwiGLU)", run: check_swiglu },
    Check { name: "matmul (bias gradient)", run: check_bias },
    Check { name: "matmul (large vocabularies)", run: check_large_vocabulary },
];

/// A dense matrix laid out in rows of `stride`, NaN in the padding.
#[derive(Clone)]
struct Matrix {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
    stride: usize,
}

const NAN: f32 = f32::from_bits(0xFFFF_FFFF);

impl Matrix {
    fn draw(case: &mut Case, rows: usize, cols: usize, stride: usize) -> Self {
        Self { values: case.normals(rows * cols, 1.0), rows, cols, stride }
    }

    fn upload(&self, device: &Device, case: &Case, name: &str) -> Tensor {
        let mut padded = vec![NAN; self.rows * self.stride];
        for (to, from) in padded.chunks_mut(self.stride).zip(self.values.chunks(self.cols)) {
            to[..self.cols].copy_from_slice(from);
        }
        case.upload(device, name, &[self.rows, self.stride], &padded)
    }

    fn plus(&self, sums: &[f64]) -> Vec<f64> {
        self.values.iter().zip(sums).map(|(&a, b)| f64::from(a) + b).collect()
    }

    /// The device's values must be `want`, and its padding as it was: NaN.
    fn compare(&self, device: &Device, case: &mut Case, got: &Tensor, want: &[f64]) -> anyhow::Result<()> {
        let values: Vec<f32> = device.read(got)?;
        let dense: Vec<f32> = values.chunks(self.stride).flat_map(|row| &row[..self.cols]).copied().collect();
        let touched = values.chunks(self.stride).any(|row| row[self.cols..].iter().any(|v| !v.is_nan()));
        if touched {
            case.worst = f64::INFINITY;
            case.detail = format!("{}: padding columns were written", got.name());
            return Ok(());
        }
        let dense = case.upload(device, got.name(), &[dense.len()], &dense);
        case.compare(device, &dense, want)
    }
}

/// One linear layer: shapes, values, strides.
struct Layer {
    x: Matrix,
    w: Matrix,
    dy: Matrix,
    residual: Matrix,
    bias: Vec<f32>,
}

impl Layer {
    /// Where products may have float16 inputs, all inputs are f16 numbers, so that only the sums can be inexact.
    fn draw(device: &Device, case: &mut Case, rows: usize, n: usize, k: usize, stride: usize) -> Self {
        case.shape = format!("{rows} rows, {n} (stride {stride}) from {k}");
        let mut layer = Self {
            x: Matrix::draw(case, rows, k, k),
            w: Matrix::draw(case, n, k, k),
            dy: Matrix::draw(case, rows, n, stride),
            residual: Matrix::draw(case, rows, n, stride),
            bias: case.normals(n, 1.0),
        };
        if device.gpu().is_some_and(|gpu| gpu.cooperative().is_some()) {
            let operands = [&mut layer.x, &mut layer.w, &mut layer.dy];
            let values = operands.into_iter().flat_map(|matrix| &mut matrix.values);
            values.for_each(|v| *v = (1024.0 * *v).round().clamp(-2048.0, 2048.0) / 1024.0);
        }
        layer
    }

    /// The products of the layer that are asked for, by `tile` or by the chosen one.
    fn check(&self, device: &Device, case: &mut Case, tile: Option<RegisterTile>, products: &[Product]) -> anyhow::Result<()> {
        let (n, k) = (self.w.rows, self.w.cols);
        let (x, w, dy) = (self.x.upload(device, case, "x"), self.w.upload(device, case, "w"), self.dy.upload(device, case, "dy"));
        let (tx, tw, tdy) = (wide(&self.x.values), wide(&self.w.values), wide(&self.dy.values));
        for &product in products {
            // The addend, the device's result (NaN where there is no addend), its layout, the twin's sums.
            let (out, layout, sums) = match product {
                Product::Forward | Product::Bias | Product::Residual => {
                    let out = case.poisoned(device, "y", &[self.dy.rows, self.dy.stride]);
                    let residual = self.residual.upload(device, case, "residual");
                    let bias = case.upload(device, "bias", &[n], &self.bias);
                    let extra = match product {
                        Product::Bias => Extra::Bias(&bias),
                        Product::Residual => Extra::Residual(&residual),
                        _ => Extra::None,
                    };
                    case.replay(device, |r| forward(r, tile, [&x, &w, &out], extra))?;
                    (out, &self.dy, twin::forward(&tx, &tw, n, k))
                }
                Product::Input | Product::InputAdd => {
                    let add = product == Product::InputAdd;
                    let poisoned = case.poisoned(device, "dx", &[self.x.rows, k]);
                    let out = if add { self.x.upload(device, case, "dx accumulated") } else { poisoned };
                    case.replay(device, |r| backward_input(r, tile, [&dy, &w, &out], add))?;
                    (out, &self.x, twin::backward_input(&tdy, &tw, n, k))
                }
                Product::Weight => {
                    let out = self.w.upload(device, case, "dw");
                    case.replay(device, |r| backward_weight(r, tile, [&dy, &x, &out]))?;
                    (out, &self.w, twin::backward_weight(&tdy, &tx, n, k))
                }
            };
            let want = match product {
                Product::Forward | Product::Input => sums,
                Product::Bias => sums.iter().enumerate().map(|(i, v)| v + f64::from(self.bias[i % n])).collect(),
                Product::Residual => self.residual.plus(&sums),
                Product::InputAdd => self.x.plus(&sums),
                Product::Weight => self.w.plus(&sums),
            };
            layout.compare(device, case, &out, &want)?;
        }
        Ok(())
    }
}

/// The computation of a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Product {
    Forward,
    Bias,
    Residual,
    Input,
    InputAdd,
    Weight,
}

const PRODUCTS: [Product; 6] =
    [Product::Forward, Product::Bias, Product::Residual, Product::Input, Product::InputAdd, Product::Weight];

fn forward(r: &mut Recorder<'_>, tile: Option<RegisterTile>, [x, w, y]: [&Tensor; 3], extra: Extra<'_>) {
    match tile {
        Some(tile) => super::forward_by(r, tile, x, w, y, extra),
        None => super::forward(r, x, w, y, extra),
    }
}

fn backward_input(r: &mut Recorder<'_>, tile: Option<RegisterTile>, [dy, w, dx]: [&Tensor; 3], accumulate: bool) {
    match tile {
        Some(tile) => super::backward_input_by(r, tile, dy, w, dx, accumulate),
        None => super::backward_input(r, dy, w, dx, accumulate),
    }
}

fn backward_weight(r: &mut Recorder<'_>, tile: Option<RegisterTile>, [dy, x, dw]: [&Tensor; 3]) {
    match tile {
        Some(tile) => super::backward_weight_by(r, tile, dy, x, dw),
        None => super::backward_weight(r, dy, x, dw),
    }
}

/// N, its stride and K: mostly as models have them, at times a vocabulary of 65 in rows of 68, at times nothing aligned.
fn draw_features(case: &mut Case) -> [usize; 3] {
    let (n, k) = (4 * case.int(1, 40), 4 * case.int(1, 40));
    let odd = case.int(1, 140);
    match case.int(0, 7) {
        0 => [65, 68, k],
        1 => [odd, odd.next_multiple_of(4) + 4, k],
        2 => [odd, odd, case.int(1, 70)],
        _ => [n, n, k],
    }
}

fn check_chosen(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let rows = case.int(super::choose::FEW_ROWS + 1, 200);
    let [n, stride, k] = draw_features(case);
    Layer::draw(device, case, rows, n, k, stride).check(device, case, None, &PRODUCTS)
}

fn check_few_rows(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let rows = case.int(1, super::choose::FEW_ROWS);
    let [n, stride, k] = draw_features(case);
    Layer::draw(device, case, rows, n, k, stride).check(device, case, None, &PRODUCTS)
}

/// The language-model head: the gradient of its input sums over the vocabulary.
fn check_large_vocabulary(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, vocab, k) = (case.int(1, 9), case.pick(&LARGE_VOCABULARIES), 4 * case.int(1, 3));
    Layer::draw(device, case, rows, vocab, k, vocab).check(
        device,
        case,
        None,
        &[Product::Forward, Product::Input, Product::Weight],
    )
}

/// Simulates a device so slow that a product takes several dispatches.
fn check_split(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, n, k) = (4 * case.int(10, 60), 4 * case.int(1, 60), 4 * case.int(1, 30));
    let layer = Layer::draw(device, case, rows, n, k, n);
    let rates = device.rates();
    device.set_flops_per_second((rows * n * k) as f64);
    let result = layer.check(device, case, None, &[Product::Residual, Product::InputAdd, Product::Weight]);
    device.set_flops_per_second(rates.flops_per_second);
    result
}

/// Sums so long that a GPU divides them among workgroups: in the features of few rows, in the rows of a weight's gradient, and in the outputs
/// of an input's.
fn check_divided_depth(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let [n, stride, _] = draw_features(case);
    let (rows, k) = (case.int(super::choose::FEW_ROWS + 1, 64), 4 * case.int(64, 300));
    Layer::draw(device, case, rows, n, k, stride).check(
        device,
        case,
        None,
        &[Product::Forward, Product::Bias, Product::Residual],
    )?;
    if case.worst > 1.0 {
        return Ok(());
    }
    let (rows, n, k) = (case.int(256, 900), 4 * case.int(1, 30), 4 * case.int(1, 30));
    Layer::draw(device, case, rows, n, k, n).check(device, case, None, &[Product::Weight])?;
    if case.worst > 1.0 {
        return Ok(());
    }
    let (rows, n, k) = (case.int(1, 150), case.int(256, 900), 4 * case.int(1, 30));
    let stride = n.next_multiple_of(4) + 4 * case.int(0, 1);
    Layer::draw(device, case, rows, n, k, stride).check(device, case, None, &[Product::Input, Product::InputAdd])
}

/// One product a tile and a case, because a software adapter takes up to a second to compile each kernel.
fn check_every_tile(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let rows = case.int(1, 150);
    let [n, stride, k] = draw_features(case);
    let first = case.int(0, PRODUCTS.len() - 1);
    let layer = Layer::draw(device, case, rows, n, k, stride);
    let shape = case.shape.clone();
    let Some(gpu) = device.gpu() else {
        return layer.check(device, case, None, &PRODUCTS);
    };
    for (i, &tile) in super::choose::checked(gpu).iter().enumerate() {
        case.shape = format!("{}, {shape}", tile.name());
        layer.check(device, case, Some(tile), &[PRODUCTS[(first + i) % PRODUCTS.len()]])?;
        if case.worst > 1.0 {
            break;
        }
    }
    Ok(())
}

fn check_swiglu(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, n, k) = (case.int(1, 200), 4 * case.int(1, 60), 4 * case.int(1, 60));
    let layer = Layer::draw(device, case, rows, n, k, n);
    let scale = case.pick(&[1.0, 5.0, 60.0]);
    let gate_up = case.normals(rows * 2 * k, scale);
    let (dy, w, x) = (layer.dy.upload(device, case, "dy"), layer.w.upload(device, case, "w"), [rows, 2 * k]);
    let (inputs, dh, out) = (
        case.upload(device, "gate_up", &x, &gate_up),
        case.poisoned(device, "dh", &[rows, k]),
        case.poisoned(device, "dgate_up", &x),
    );
    case.replay(device, |r| super::backward_swiglu(r, [&dy, &w, &inputs], &dh, &out))?;
    let sums = twin::backward_input(&wide(&layer.dy.values), &wide(&layer.w.values), n, k);
    case.compare(device, &out, &super::swiglu::twin::backward(&wide(&gate_up), &sums, k))
}

fn check_bias(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, n) = (case.int(1, 300), case.int(1, 150));
    let stride = n.next_multiple_of(4) + 4 * case.int(0, 1);
    case.shape = format!("{rows} rows, {n} (stride {stride})");
    let (dy, dbias) = (Matrix::draw(case, rows, n, stride), Matrix::draw(case, 1, n, stride));
    let (tdy, max_len) = (dy.upload(device, case, "dy"), dbias.upload(device, case, "dbias"));
    let tdbias = max_len.slice(0..n);
    case.replay(device, |r| super::backward_bias(r, &tdy, &tdbias))?;
    dbias.compare(device, case, &max_len, &dbias.plus(&twin::backward_bias(&wide(&dy.values), n)))
}

//! RMSNorm: y = x * rstd * gain, rstd = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019).          shaders/rmsnorm.wgsl

pub(super) mod host;

use super::check::{Case, Check, wide};
use super::{WG, column_group, row_constants, row_iterations, row_lanes};
use crate::device::{Cost, Device, Dispatcher, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("rmsnorm");

/// Maximum rows summed by one invocation in one dispatch.
const ROWS_OF_A_LANE: usize = 32_768;

uniform! { struct Dims { rows: u32, cols4: u32, first_row: u32, eps: f32, accumulate: u32 } }

/// Rows and columns of a matrix whose rows are normalised.
#[derive(Clone, Copy)]
pub(super) struct MatrixSize {
    rows: usize,
    cols: usize,
}

impl MatrixSize {
    fn of(x: &Tensor) -> Self {
        let [rows, cols] = x.matrix();
        Self { rows, cols }
    }

    fn dims(&self, eps: f64, accumulate: bool) -> Dims {
        Dims {
            rows: self.rows as u32,
            cols4: (self.cols / 4) as u32,
            first_row: 0,
            eps: eps as f32,
            accumulate: u32::from(accumulate),
        }
    }

    fn dispatch(&self, wgsl: &mut Dispatcher<'_>, entry: &str, eps: f64, accumulate: bool) -> anyhow::Result<()> {
        const LOOPS: usize = 2;
        let lanes = row_lanes(wgsl.gpu(), self.cols, LOOPS);
        let groups = grid((self.rows as u64).div_ceil(u64::from(WG / lanes)));
        let extent = Extent { groups, iterations: row_iterations(lanes, self.cols, LOOPS) };
        wgsl.run(&SHADER, entry, &row_constants(lanes), self.dims(eps, accumulate), extent)
    }

    fn dispatch_gain(&self, wgsl: &mut Dispatcher<'_>) -> anyhow::Result<()> {
        // Lanes share the rows, which are read a vec4 of a few columns at a time.
        let lanes = row_lanes(wgsl.gpu(), 4 * self.rows.min(ROWS_OF_A_LANE), 1);
        let size = column_group(wgsl.class(), lanes);
        let groups = grid((self.cols as u64 / 4).div_ceil(u64::from(size / lanes)));
        let constants = [("WG", f64::from(size)), ("LANES", f64::from(lanes))];
        let most = ROWS_OF_A_LANE * lanes as usize;
        for first in (0..self.rows).step_by(most) {
            let end = self.rows.min(first + most);
            let dims = Dims { first_row: first as u32, rows: end as u32, ..self.dims(0.0, true) };
            let share = (end - first) as f64 / self.rows as f64;
            let extent = Extent { groups, iterations: row_iterations(lanes, 4 * (end - first), 1) };
            wgsl.run_part(&SHADER, "backward_gain", &constants, dims, extent, share)?;
        }
        Ok(())
    }

    fn cost(&self, passes: f64) -> Cost {
        let numbers = (self.rows * self.cols) as f64;
        Cost { flops: 4.0 * numbers, bytes: 4.0 * passes * numbers }
    }
}

/// Normalise the rows of `x` (R, C) into `y`; keep `rstd` (R) for backward.
pub fn forward(r: &mut Recorder<'_>, x: &Tensor, gain: &Tensor, y: &Tensor, rstd: &Tensor, eps: f64) {
    let size = MatrixSize::of(x);
    r.op(
        Op { name: "rmsnorm.forward", cost: size.cost(3.0), reads: bind!(x, gain), writes: bind!(rstd, y) },
        |wgsl| size.dispatch(wgsl, "forward", eps, false),
        move |cpu, [x, gain], [rstd, y]| host::forward(cpu, size, eps as f32, x, gain, rstd, y),
    );
}

/// `dx = ` (or `+=`) the gradient of the loss with respect to `x`, from the gradient `dy` of `y`.
pub fn backward(r: &mut Recorder<'_>, dy: &Tensor, x: &Tensor, gain: &Tensor, rstd: &Tensor, dx: &Tensor, accumulate: bool) {
    let size = MatrixSize::of(x);
    r.op(
        Op { name: "rmsnorm.backward", cost: size.cost(6.0), reads: bind!(x, gain, rstd, dy), writes: bind!(dx) },
        |wgsl| size.dispatch(wgsl, "backward", 0.0, accumulate),
        move |cpu, [x, gain, rstd, dy], [dx]| host::backward(cpu, size, accumulate, x, gain, rstd, dy, dx),
    );
}

/// `dgain +=` the gradient of the loss with respect to the gain.
pub fn backward_gain(r: &mut Recorder<'_>, dy: &Tensor, x: &Tensor, rstd: &Tensor, dgain: &Tensor) {
    let size = MatrixSize::of(x);
    r.op(
        Op { name: "rmsnorm.backward_gain", cost: size.cost(2.0), reads: bind!(x, rstd, dy), writes: bind!(dgain) },
        |wgsl| size.dispatch_gain(wgsl),
        move |cpu, [x, rstd, dy], [dgain]| host::backward_gain(cpu, size, x, rstd, dy, dgain),
    );
}

/// The same arithmetic in f64, on whole rows.
pub mod twin {
    /// (y, rstd)
    pub fn forward(x: &[f64], gain: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
        let cols = gain.len();
        let mut y = Vec::with_capacity(x.len());
        let mut rstd = Vec::new();
        for row in x.chunks(cols) {
            let scale = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / cols as f64 + eps).sqrt();
            rstd.push(scale);
            y.extend(row.iter().zip(gain).map(|(v, g)| v * scale * g));
        }
        (y, rstd)
    }

    /// (dx, dgain)
    pub fn backward(dy: &[f64], x: &[f64], gain: &[f64], rstd: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let cols = gain.len();
        let mut dx = Vec::with_capacity(x.len());
        let mut dgain = vec![0.0; cols];
        for ((row, drow), &scale) in x.chunks(cols).zip(dy.chunks(cols)).zip(rstd) {
            let mean = (0..cols).map(|c| drow[c] * gain[c] * row[c] * scale).sum::<f64>() / cols as f64;
            for c in 0..cols {
                dx.push(scale * (drow[c] * gain[c] - row[c] * scale * mean));
                dgain[c] += drow[c] * row[c] * scale;
            }
        }
        (dx, dgain)
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[Check { name: "rmsnorm", run: check }];

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, cols, eps) = (case.int(1, 150), 4 * case.int(1, 70), 1e-5);
    case.shape = format!("{rows} x {cols}");
    let (x, dy, dx0) = (case.normals(rows * cols, 2.0), case.normals(rows * cols, 1.0), case.normals(rows * cols, 0.1));
    let (gain, dgain0) = (case.normals(cols, 1.0), case.normals(cols, 1.0));
    let (tx, tdy) = (case.upload(device, "x", &[rows, cols], &x), case.upload(device, "dy", &[rows, cols], &dy));
    let (tgain, tdgain) = (case.upload(device, "gain", &[cols], &gain), case.upload(device, "dgain", &[cols], &dgain0));
    let (ty, trstd) = (case.poisoned(device, "y", &[rows, cols]), case.poisoned(device, "rstd", &[rows]));
    let (tdx, tsum) = (case.poisoned(device, "dx", &[rows, cols]), case.upload(device, "dx accumulated", &[rows, cols], &dx0));
    case.replay(device, |r| {
        forward(r, &tx, &tgain, &ty, &trstd, eps);
        backward(r, &tdy, &tx, &tgain, &trstd, &tdx, false);
        backward(r, &tdy, &tx, &tgain, &trstd, &tsum, true);
        backward_gain(r, &tdy, &tx, &trstd, &tdgain);
    })?;
    let (y, rstd) = twin::forward(&wide(&x), &wide(&gain), eps);
    let (dx, dgain) = twin::backward(&wide(&dy), &wide(&x), &wide(&gain), &rstd);
    let plus = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a + f64::from(b)).collect::<Vec<_>>();
    case.compare(device, &ty, &y)?;
    case.compare(device, &trstd, &rstd)?;
    case.compare(device, &tdx, &dx)?;
    case.compare(device, &tsum, &plus(&dx, &dx0))?;
    case.compare(device, &tdgain, &plus(&dgain, &dgain0))
}

#[cfg(test)]
mod tests {
    use super::super::check::{dot, finite_difference_error, probe};
    use super::twin;

    #[test]
    fn twin_backward_is_the_derivative() {
        let (rows, cols) = (3, 8);
        let (x, gain, weights) = (probe(rows * cols), probe(cols), probe(rows * cols));
        let loss = |x: &[f64], g: &[f64]| dot(&twin::forward(x, g, 1e-5).0, &weights);
        let rstd = twin::forward(&x, &gain, 1e-5).1;
        let (dx, dgain) = twin::backward(&weights, &x, &gain, &rstd);
        assert!(finite_difference_error(&x, &dx, |x| loss(x, &gain)) < 1e-6);
        assert!(finite_difference_error(&gain, &dgain, |g| loss(&x, g)) < 1e-6);
    }
}

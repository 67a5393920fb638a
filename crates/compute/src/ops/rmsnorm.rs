//! RMSNorm: y = x * rstd * gain, rstd = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019).          shaders/rmsnorm.wgsl

mod host;

use super::check::{Case, Check, wide};
use super::{WG, column_group, row_iterations, row_lanes};
use crate::device::{Cost, Device, Dispatcher, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("rmsnorm");

/// Maximum rows summed by one invocation in one dispatch.
const ROWS_OF_A_LANE: usize = 32_768;

uniform! { struct Dims { rows: u32, cols4: u32, stride4: u32, offset4: u32, first_row: u32, eps: f32, accumulate: u32 } }

/// The rows to normalise: a whole matrix, or the heads in a range of its columns.
#[derive(Clone, Copy, Debug)]
pub struct NormRows {
    /// Rows of the matrix.
    pub matrix_rows: usize,
    /// Its columns.
    pub stride: usize,
    /// First column.
    pub offset: usize,
    /// Normalised rows per row of the matrix.
    pub heads: usize,
    /// Width of a normalised row.
    pub cols: usize,
}

impl NormRows {
    /// All rows of `x`, whole.
    pub fn whole(x: &Tensor) -> Self {
        let [matrix_rows, cols] = x.matrix();
        Self { matrix_rows, stride: cols, offset: 0, heads: 1, cols }
    }

    fn count(&self) -> usize {
        self.matrix_rows * self.heads
    }

    fn dims(&self, eps: f64, accumulate: bool) -> Dims {
        Dims {
            rows: self.count() as u32,
            cols4: (self.cols / 4) as u32,
            stride4: (self.stride / 4) as u32,
            offset4: (self.offset / 4) as u32,
            first_row: 0,
            eps: eps as f32,
            accumulate: u32::from(accumulate),
        }
    }

    fn constants(&self, size: u32, lanes: u32) -> [(&'static str, f64); 3] {
        [("WG", f64::from(size)), ("LANES", f64::from(lanes)), ("HEADS", self.heads as f64)]
    }

    fn dispatch(&self, wgsl: &mut Dispatcher<'_>, entry: &str, eps: f64, accumulate: bool) -> anyhow::Result<()> {
        const LOOPS: usize = 2;
        let lanes = row_lanes(wgsl.gpu(), self.cols, LOOPS);
        let groups = grid((self.count() as u64).div_ceil(u64::from(WG / lanes)));
        let extent = Extent { groups, iterations: row_iterations(lanes, self.cols, LOOPS) };
        wgsl.run(&SHADER, entry, &self.constants(WG, lanes), self.dims(eps, accumulate), extent)
    }

    fn dispatch_gain(&self, wgsl: &mut Dispatcher<'_>) -> anyhow::Result<()> {
        // Lanes share the rows, which are read a vec4 of a few columns at a time.
        let lanes = row_lanes(wgsl.gpu(), 4 * self.count().min(ROWS_OF_A_LANE), 1);
        let size = column_group(wgsl.gpu(), lanes);
        let groups = grid((self.cols as u64 / 4).div_ceil(u64::from(size / lanes)));
        let most = ROWS_OF_A_LANE * lanes as usize;
        for first in (0..self.count()).step_by(most) {
            let end = self.count().min(first + most);
            let dims = Dims { first_row: first as u32, rows: end as u32, ..self.dims(0.0, true) };
            let share = (end - first) as f64 / self.count() as f64;
            let extent = Extent { groups, iterations: row_iterations(lanes, 4 * (end - first), 1) };
            wgsl.run_part(&SHADER, "backward_gain", &self.constants(size, lanes), dims, extent, share)?;
        }
        Ok(())
    }

    fn cost(&self, passes: f64) -> Cost {
        let numbers = (self.count() * self.cols) as f64;
        Cost { flops: 4.0 * numbers, bytes: 4.0 * passes * numbers }
    }
}

/// Normalise `rows` of `x` into the same places of `y`; keep `rstd` (one number per normalised row) for backward.
pub fn forward(r: &mut Recorder<'_>, rows: NormRows, x: &Tensor, gain: &Tensor, y: &Tensor, rstd: &Tensor, eps: f64) {
    r.op(
        Op { name: "rmsnorm.forward", cost: rows.cost(3.0), reads: bind!(x, gain), writes: bind!(rstd, y) },
        |wgsl| rows.dispatch(wgsl, "forward", eps, false),
        move |cpu, [x, gain], [rstd, y]| host::forward(cpu, rows, eps as f32, x, gain, rstd, y),
    );
}

/// `dx = ` (or `+=`) the gradient of the loss with respect to `x`, from the gradient `dy` of `y`.
pub fn backward(
    r: &mut Recorder<'_>,
    rows: NormRows,
    dy: &Tensor,
    x: &Tensor,
    gain: &Tensor,
    rstd: &Tensor,
    dx: &Tensor,
    accumulate: bool,
) {
    r.op(
        Op { name: "rmsnorm.backward", cost: rows.cost(6.0), reads: bind!(x, gain, rstd, dy), writes: bind!(dx) },
        |wgsl| rows.dispatch(wgsl, "backward", 0.0, accumulate),
        move |cpu, [x, gain, rstd, dy], [dx]| host::backward(cpu, rows, accumulate, x, gain, rstd, dy, dx),
    );
}

/// `dgain +=` the gradient of the loss with respect to the gain.
pub fn backward_gain(r: &mut Recorder<'_>, rows: NormRows, dy: &Tensor, x: &Tensor, rstd: &Tensor, dgain: &Tensor) {
    r.op(
        Op { name: "rmsnorm.backward_gain", cost: rows.cost(2.0), reads: bind!(x, rstd, dy), writes: bind!(dgain) },
        |wgsl| rows.dispatch_gain(wgsl),
        move |cpu, [x, rstd, dy], [dgain]| host::backward_gain(cpu, rows, x, rstd, dy, dgain),
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
pub const CHECKS: &[Check] =
    &[Check { name: "rmsnorm", run: check_whole }, Check { name: "rmsnorm (heads of a fused row)", run: check_heads }];

fn check_whole(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, cols) = (case.int(1, 150), 4 * case.int(1, 70));
    case.shape = format!("{rows} x {cols}");
    let spec = NormRows { matrix_rows: rows, stride: cols, offset: 0, heads: 1, cols };
    compare(device, case, spec)
}

fn check_heads(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (matrix_rows, heads, cols) = (case.int(1, 40), case.int(1, 5), 4 * case.int(2, 32));
    let offset = 4 * case.int(0, 9);
    let stride = offset + heads * cols + 4 * case.int(0, 9);
    case.shape = format!("{matrix_rows} x {heads} heads of {cols} at {offset} of {stride}");
    compare(device, case, NormRows { matrix_rows, stride, offset, heads, cols })
}

fn compare(device: &Device, case: &mut Case, rows: NormRows) -> anyhow::Result<()> {
    let eps = 1e-5;
    let size = rows.matrix_rows * rows.stride;
    let (x, dy, dx0) = (case.normals(size, 2.0), case.normals(size, 1.0), case.normals(size, 0.1));
    let (gain, dgain0) = (case.normals(rows.cols, 1.0), case.normals(rows.cols, 1.0));
    let places: Vec<usize> = (0..rows.count())
        .flat_map(|row| {
            let start = row / rows.heads * rows.stride + rows.offset + row % rows.heads * rows.cols;
            start..start + rows.cols
        })
        .collect();
    let gather = |v: &[f32]| places.iter().map(|&i| f64::from(v[i])).collect::<Vec<_>>();
    let scatter = |base: &[f32], v: &[f64]| {
        let mut out = wide(base);
        places.iter().zip(v).for_each(|(&i, &v)| out[i] = v);
        out
    };
    let shape = [rows.matrix_rows, rows.stride];
    let (tx, tdy) = (case.upload(device, "x", &shape, &x), case.upload(device, "dy", &shape, &dy));
    let (tgain, tdgain) = (case.upload(device, "gain", &[rows.cols], &gain), case.upload(device, "dgain", &[rows.cols], &dgain0));
    let (ty, trstd) = (case.upload(device, "y", &shape, &dx0), case.poisoned(device, "rstd", &[rows.count()]));
    let (tdx, tsum) = (case.upload(device, "dx", &shape, &dx0), case.upload(device, "dx accumulated", &shape, &dx0));
    case.replay(device, |r| {
        forward(r, rows, &tx, &tgain, &ty, &trstd, eps);
        backward(r, rows, &tdy, &tx, &tgain, &trstd, &tdx, false);
        backward(r, rows, &tdy, &tx, &tgain, &trstd, &tsum, true);
        backward_gain(r, rows, &tdy, &tx, &trstd, &tdgain);
    })?;
    let (y, rstd) = twin::forward(&gather(&x), &wide(&gain), eps);
    let (dx, dgain) = twin::backward(&gather(&dy), &gather(&x), &wide(&gain), &rstd);
    let sum: Vec<f64> = dx.iter().zip(gather(&dx0)).map(|(a, b)| a + b).collect();
    let dgain: Vec<f64> = dgain.iter().zip(&dgain0).map(|(a, &b)| a + f64::from(b)).collect();
    case.compare(device, &ty, &scatter(&dx0, &y))?;
    case.compare(device, &trstd, &rstd)?;
    case.compare(device, &tdx, &scatter(&dx0, &dx))?;
    case.compare(device, &tsum, &scatter(&dx0, &sum))?;
    case.compare(device, &tdgain, &dgain)
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

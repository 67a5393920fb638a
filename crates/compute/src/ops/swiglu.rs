//! SwiGLU: h = silu(gate) * up (Shazeer 2020).          shaders/swiglu.wgsl

mod host;

use super::WG;
use super::check::{Case, Check, wide};
use crate::device::{Cost, Device, Dispatcher, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("swiglu");

uniform! { struct Dims { rows: u32 } }

/// `h` (R, F) from `gate_up` (R, 2 F): gate in the first F columns, up in the others.
pub fn forward(r: &mut Recorder<'_>, gate_up: &Tensor, h: &Tensor) {
    let ([rows, cols], cost) = shape(h);
    r.op(
        Op { name: "swiglu.forward", cost, reads: bind!(gate_up), writes: bind!(h) },
        |wgsl| dispatch(wgsl, "forward", rows, cols),
        move |cpu, [gate_up], [h]| host::forward(cpu, cols, gate_up, h),
    );
}

/// `dgate_up` (R, 2 F) from `dh` (R, F).
pub fn backward(r: &mut Recorder<'_>, gate_up: &Tensor, dh: &Tensor, dgate_up: &Tensor) {
    let ([rows, cols], cost) = shape(dh);
    r.op(
        Op { name: "swiglu.backward", cost, reads: bind!(gate_up, dh), writes: bind!(dgate_up) },
        |wgsl| dispatch(wgsl, "backward", rows, cols),
        move |cpu, [gate_up, dh], [dgate_up]| host::backward(cpu, cols, gate_up, dh, dgate_up),
    );
}

fn shape(h: &Tensor) -> ([usize; 2], Cost) {
    (h.matrix(), Cost { flops: 15.0 * h.len() as f64, bytes: 16.0 * h.len() as f64 })
}

fn dispatch(wgsl: &mut Dispatcher<'_>, entry: &str, rows: usize, cols: usize) -> anyhow::Result<()> {
    let constants = [("WG", f64::from(WG)), ("COLS4", (cols / 4) as f64)];
    let groups = grid((rows * cols / 4).div_ceil(WG as usize) as u64);
    wgsl.run(&SHADER, entry, &constants, Dims { rows: rows as u32 }, Extent::without_loops(groups))
}

/// The same arithmetic in f64.
pub mod twin {
    /// h
    pub fn forward(gate_up: &[f64], cols: usize) -> Vec<f64> {
        gate_up.chunks(2 * cols).flat_map(|row| (0..cols).map(|c| row[c] / (1.0 + (-row[c]).exp()) * row[cols + c])).collect()
    }

    /// dgate_up
    pub fn backward(gate_up: &[f64], dh: &[f64], cols: usize) -> Vec<f64> {
        let mut out = Vec::with_capacity(gate_up.len());
        for (row, d) in gate_up.chunks(2 * cols).zip(dh.chunks(cols)) {
            let sigmoid: Vec<f64> = row[..cols].iter().map(|g| 1.0 / (1.0 + (-g).exp())).collect();
            out.extend((0..cols).map(|c| d[c] * row[cols + c] * sigmoid[c] * (1.0 + row[c] * (1.0 - sigmoid[c]))));
            out.extend((0..cols).map(|c| d[c] * row[c] * sigmoid[c]));
        }
        out
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[Check { name: "swiglu", run: check }];

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, cols) = (case.int(1, 90), 4 * case.int(1, 60));
    case.shape = format!("{rows} x {cols}");
    // Wide values too: exp must neither overflow nor turn into NaN.
    let scale = case.pick(&[1.0, 5.0, 60.0]);
    let (gate_up, dh) = (case.normals(rows * 2 * cols, scale), case.normals(rows * cols, 1.0));
    let (x, dy) = (case.upload(device, "gate_up", &[rows, 2 * cols], &gate_up), case.upload(device, "dh", &[rows, cols], &dh));
    let (h, dx) = (case.poisoned(device, "h", &[rows, cols]), case.poisoned(device, "dgate_up", &[rows, 2 * cols]));
    case.replay(device, |r| {
        forward(r, &x, &h);
        backward(r, &x, &dy, &dx);
    })?;
    case.compare(device, &h, &twin::forward(&wide(&gate_up), cols))?;
    case.compare(device, &dx, &twin::backward(&wide(&gate_up), &wide(&dh), cols))
}

#[cfg(test)]
mod tests {
    use super::super::check::{dot, finite_difference_error, probe};
    use super::twin;

    #[test]
    fn twin_backward_is_the_derivative() {
        let (x, weights) = (probe(2 * 8), probe(2 * 4));
        let dx = twin::backward(&x, &weights, 4);
        assert!(finite_difference_error(&x, &dx, |x| dot(&twin::forward(x, 4), &weights)) < 1e-6);
    }
}

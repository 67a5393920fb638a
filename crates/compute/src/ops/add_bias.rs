//! A bias in addition to a residual, after a product: y += bias. Its gradient is `matmul::backward_bias`.          shaders/add_bias.wgsl

mod host;

use super::WG;
use super::check::{Case, Check, wide};
use crate::device::{Cost, Device, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("add_bias");

uniform! { struct Dims { rows: u32 } }

/// `y` (R, C) += `bias` (C).
///
/// # Panics
/// When shapes do not match (a defect of the caller).
pub fn forward(r: &mut Recorder<'_>, bias: &Tensor, y: &Tensor) {
    let [rows, cols] = y.matrix();
    assert!(bias.len() == cols && cols.is_multiple_of(4), "{} is added to {}", bias.name(), y.name());
    let cost = Cost { flops: y.len() as f64, bytes: 8.0 * y.len() as f64 };
    r.op(
        Op { name: "add_bias.forward", cost, reads: bind!(bias), writes: bind!(y) },
        |wgsl| {
            let constants = [("WG", f64::from(WG)), ("COLS4", (cols / 4) as f64)];
            let groups = grid((rows * cols / 4).div_ceil(WG as usize) as u64);
            wgsl.run(&SHADER, "forward", &constants, Dims { rows: rows as u32 }, Extent::without_loops(groups))
        },
        |cpu, [bias], [y]| host::forward(cpu, bias, y),
    );
}

/// The same arithmetic in f64.
pub mod twin {
    /// y
    pub fn forward(bias: &[f64], y: &[f64]) -> Vec<f64> {
        y.iter().zip(bias.iter().cycle()).map(|(y, b)| y + b).collect()
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[Check { name: "add_bias", run: check }];

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, cols) = (case.int(1, 90), 4 * case.int(1, 60));
    case.shape = format!("{rows} x {cols}");
    let (values, bias) = (case.normals(rows * cols, 1.0), case.normals(cols, 1.0));
    let (y, b) = (case.upload(device, "y", &[rows, cols], &values), case.upload(device, "bias", &[cols], &bias));
    case.replay(device, |r| forward(r, &b, &y))?;
    case.compare(device, &y, &twin::forward(&wide(&bias), &wide(&values)))
}

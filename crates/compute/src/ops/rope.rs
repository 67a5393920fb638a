//! Rotary position embedding (Su et al. 2021), in place on fused q|k|v rows; tables are computed on the CPU in f64.
//! shaders/rope.wgsl

mod frequencies;
pub(super) mod host;
mod scaling;

pub use frequencies::Rotation;
pub use scaling::{Llama3Scaling, RopeScaling, YarnScaling};

use super::WG;
use super::check::{Case, Check, wide};
use crate::device::{Cost, Device, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};
use bytemuck::cast_slice;

const SHADER: Shader = shader!("rope");

uniform! { struct Dims { rows: u32, stride2: u32, table_rows: u32, direction: f32 } }

/// Rotate the first `heads` heads (queries, then keys) of each row of `qkv` (R, stride) by the angles of `positions` (R).
pub fn forward(r: &mut Recorder<'_>, heads: usize, positions: &Tensor, table: &Tensor, qkv: &Tensor) {
    rotate(r, heads, positions, table, qkv, 1.0);
}

/// The gradient of a rotation is the inverse rotation, with the same scale.
pub fn backward(r: &mut Recorder<'_>, heads: usize, positions: &Tensor, table: &Tensor, dqkv: &Tensor) {
    rotate(r, heads, positions, table, dqkv, -1.0);
}

fn rotate(r: &mut Recorder<'_>, heads: usize, positions: &Tensor, table: &Tensor, qkv: &Tensor, direction: f32) {
    let ([rows, stride], [table_rows, head_dim]) = (qkv.matrix(), table.matrix());
    let items = (rows * heads * head_dim / 4) as u64;
    let cost = Cost { flops: 12.0 * items as f64, bytes: 48.0 * items as f64 };
    r.op(
        Op { name: "rope.rotate", cost, reads: bind!(positions, table), writes: bind!(qkv) },
        |wgsl| {
            let dims = Dims { rows: rows as u32, stride2: (stride / 2) as u32, table_rows: table_rows as u32, direction };
            let constants = [("WG", f64::from(WG)), ("HEADS", heads as f64), ("QUARTER", (head_dim / 4) as f64)];
            wgsl.run(&SHADER, "rotate", &constants, dims, Extent::without_loops(grid(items.div_ceil(u64::from(WG)))))
        },
        move |cpu, [positions, table], [qkv]| {
            host::rotate(cpu, heads, head_dim, stride, direction, cast_slice(positions), table, qkv);
        },
    );
}

/// The table for `positions` positions: (positions, D/4) groups of (cos, cos, sin, sin) times the scale: D numbers per position.
pub fn table(rotation: &Rotation, positions: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(positions * rotation.frequencies.len() * 2);
    for p in 0..positions {
        for pair in rotation.frequencies.chunks(2) {
            let angles: Vec<f64> = pair.iter().map(|f| f * p as f64).collect();
            out.extend(angles.iter().map(|a| (rotation.scale * a.cos()) as f32));
            out.extend(angles.iter().map(|a| (rotation.scale * a.sin()) as f32));
        }
    }
    out
}

/// The same arithmetic in f64, with its own angles.
pub mod twin {
    use super::Rotation;

    /// Rotate and scale the first `heads` heads of each row in place; `direction` 1 or -1.
    pub fn rotate(qkv: &mut [f64], stride: usize, heads: usize, rotation: &Rotation, positions: &[u32], direction: f64) {
        let half = rotation.frequencies.len();
        for (row, &p) in qkv.chunks_mut(stride).zip(positions) {
            for head in row.chunks_mut(2 * half).take(heads) {
                for i in 0..half {
                    let (sin, cos) = (direction * rotation.frequencies[i] * f64::from(p)).sin_cos();
                    let (sin, cos) = (rotation.scale * sin, rotation.scale * cos);
                    (head[i], head[i + half]) = (head[i] * cos - head[i + half] * sin, head[i + half] * cos + head[i] * sin);
                }
            }
        }
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[Check { name: "rope", run: check }];

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, heads, head_dim) = (case.int(1, 60), case.int(1, 6), 4 * case.int(2, 32));
    let stride = head_dim * (heads + case.int(0, 3));
    case.shape = format!("{rows} rows, {heads} heads of {head_dim}, stride {stride}");
    let positions: Vec<u32> = (0..rows).map(|_| case.int(0, 99) as u32).collect();
    let values = case.normals(rows * stride, 1.0);
    let frequencies = (0..head_dim / 2).map(|i| 1e4f64.powf(-2.0 * i as f64 / head_dim as f64)).collect();
    let rotation = Rotation { frequencies, scale: case.pick(&[1.0, 1.3689]) };
    let table = case.upload(device, "table", &[100, head_dim], &table(&rotation, 100));
    let p = case.upload_u32(device, "positions", &positions);
    let turned = case.upload(device, "qkv", &[rows, stride], &values);
    let back = case.upload(device, "dqkv", &[rows, stride], &values);
    case.replay(device, |r| {
        forward(r, heads, &p, &table, &turned);
        backward(r, heads, &p, &table, &back);
    })?;
    for (tensor, direction) in [(turned, 1.0), (back, -1.0)] {
        let mut want = wide(&values);
        twin::rotate(&mut want, stride, heads, &rotation, &positions, direction);
        case.compare(device, &tensor, &want)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::check::{dot, finite_difference_error, probe};
    use super::{Rotation, twin};

    #[test]
    fn rotating_back_is_the_derivative() {
        let (positions, rotation) = ([3u32, 0, 7], Rotation { frequencies: vec![1.0, 0.1], scale: 1.3 });
        let (x, weights) = (probe(3 * 8), probe(3 * 8));
        let loss = |x: &[f64]| {
            let mut y = x.to_vec();
            twin::rotate(&mut y, 8, 1, &rotation, &positions, 1.0);
            dot(&y, &weights)
        };
        let mut dx = weights.clone();
        twin::rotate(&mut dx, 8, 1, &rotation, &positions, -1.0);
        assert!(finite_difference_error(&x, &dx, loss) < 1e-6);
    }
}

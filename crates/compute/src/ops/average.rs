//! Weighted average of snapshots, sum_s w_s snapshot_s with sum_s w_s = 1 (PMA, arXiv 2505.12082, Eq. 1).          shaders/average.wgsl

mod host;

use super::WG;
use super::check::{Case, Check, wide};
use crate::device::{Cost, Device, Dispatcher, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("average");
/// vec4 per invocation.
const PER_THREAD: usize = 4;

uniform! { struct Dims { n4: u32, index: u32, threads: u32 } }

/// `merged` (n) += `weights[index]` (`snapshot` - `base`); clear `merged` before the first snapshot.
pub fn accumulate(r: &mut Recorder<'_>, snapshot: &Tensor, base: &Tensor, weights: &Tensor, index: usize, merged: &Tensor) {
    let len = merged.len();
    r.op(
        Op { name: "average.accumulate", cost: cost(len, 16.0), reads: bind!(snapshot, base, weights), writes: bind!(merged) },
        |wgsl| dispatch(wgsl, "accumulate", len, index),
        move |cpu, [snapshot, base, weights], [merged]| {
            host::accumulate(cpu, index, snapshot, base, weights, merged);
        },
    );
}

/// `merged` (n) = `base` + `merged`, after the last snapshot.
pub fn finish(r: &mut Recorder<'_>, base: &Tensor, merged: &Tensor) {
    let len = merged.len();
    r.op(
        Op { name: "average.finish", cost: cost(len, 12.0), reads: bind!(base), writes: bind!(merged) },
        |wgsl| dispatch(wgsl, "finish", len, 0),
        |cpu, [base], [merged]| host::finish(cpu, base, merged),
    );
}

fn cost(len: usize, bytes: f64) -> Cost {
    Cost { flops: 3.0 * len as f64, bytes: bytes * len as f64 }
}

fn dispatch(wgsl: &mut Dispatcher<'_>, entry: &str, len: usize, index: usize) -> anyhow::Result<()> {
    let n4 = len / 4;
    let groups = grid(n4.div_ceil(WG as usize * PER_THREAD) as u64);
    let dims = Dims { n4: n4 as u32, index: index as u32, threads: groups[0] * groups[1] * WG };
    wgsl.run(&SHADER, entry, &[("WG", f64::from(WG))], dims, Extent { groups, iterations: n4.div_ceil(dims.threads as usize) })
}

/// The definition, in f64.
pub mod twin {
    /// Sum of the snapshots, each times its weight.
    pub fn average(snapshots: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
        let n = snapshots.first().map_or(0, Vec::len);
        (0..n).map(|i| snapshots.iter().zip(weights).map(|(s, w)| w * s[i]).sum()).collect()
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[Check { name: "average", run: check }];

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (n, count) = (4 * case.int(1, 3000), case.int(1, 12));
    case.shape = format!("{count} snapshots of {n} numbers");
    let snapshots: Vec<Vec<f32>> = (0..count).map(|_| case.normals(n, 1.0)).collect();
    // Weights may be negative, but must sum to 1.
    let raw: Vec<f64> = wide(&case.normals(count, 1.0)).iter().map(|w| w.abs() + 0.1).collect();
    let sum: f64 = raw.iter().sum();
    let weights: Vec<f64> = raw.iter().map(|w| f64::from((w / sum) as f32)).collect();
    let rest = 1.0 - weights.iter().sum::<f64>();
    let base = case.normals(n, 1.0);
    let on_device: Vec<f32> = weights.iter().map(|w| *w as f32).collect();
    let (base_tensor, weights_tensor) =
        (case.upload(device, "base", &[n], &base), case.upload(device, "weights", &[count], &on_device));
    let merged = case.poisoned(device, "merged", &[n]);
    let tensors: Vec<Tensor> = snapshots.iter().map(|s| case.upload(device, "snapshot", &[n], s)).collect();
    case.replay(device, |r| {
        r.clear(&merged);
        tensors.iter().enumerate().for_each(|(i, s)| accumulate(r, s, &base_tensor, &weights_tensor, i, &merged));
        finish(r, &base_tensor, &merged);
    })?;
    // Weights rounded to f32 sum to 1 only approximately; the remainder is the base's weight.
    let mut all: Vec<Vec<f64>> = snapshots.iter().map(|s| wide(s)).collect();
    all.push(wide(&base));
    let weights: Vec<f64> = weights.into_iter().chain([rest]).collect();
    case.compare(device, &merged, &twin::average(&all, &weights))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twin_applies_each_weight() {
        assert_eq!(twin::average(&[vec![1.0, 2.0], vec![5.0, -2.0]], &[0.25, 0.75]), [4.0, -1.0]);
    }
}

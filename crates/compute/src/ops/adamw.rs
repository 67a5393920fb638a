//! AdamW (Loshchilov & Hutter 2019) in PyTorch's form, and plain gradient descent, over the parameter arenas.          shaders/adamw.wgsl

mod host;

use super::WG;
use super::check::{Case, Check, wide};
use super::objective::stats;
use crate::device::{Cost, Device, Dispatcher, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};
use bytemuck::cast_slice;
use serde::{Deserialize, Serialize};

const SHADER: Shader = shader!("adamw");
/// vec4 updated per invocation, so that the settings are read once for several.
const PER_THREAD: usize = 4;
/// Elements of the buffer that [`UpdateParams::pack`] fills.
pub const HYPER_LEN: usize = 8;

uniform! { struct Dims { n4: u32, decayed4: u32, threads: u32 } }

/// Hyperparameters of an update; new each step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateParams {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Epsilon, added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, on matrices.
    pub weight_decay: f64,
    /// Maximum global norm; 0 for no clipping.
    pub max_grad_norm: f64,
    /// Number of this update, from 1.
    pub step: u64,
}

impl Default for UpdateParams {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, max_grad_norm: 0.0, step: 1 }
    }
}

impl UpdateParams {
    /// In the shaders' layout; bias corrections are computed here, in f64.
    pub fn pack(&self) -> [f32; HYPER_LEN] {
        let t = self.step as f64;
        [
            self.learning_rate,
            self.beta1,
            self.beta2,
            self.epsilon,
            self.weight_decay,
            1.0 / (1.0 - self.beta1.powf(t)),
            1.0 / (1.0 - self.beta2.powf(t)).sqrt(),
            self.max_grad_norm,
        ]
        .map(|x| x as f32)
    }
}

/// One segment of the four parameter arenas.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Parameter values.
    pub values: &'a Tensor,
    /// Their gradients.
    pub grads: &'a Tensor,
    /// First moments.
    pub m: &'a Tensor,
    /// Second moments.
    pub v: &'a Tensor,
    /// Number of leading elements in matrices, to which weight decay applies.
    pub decayed: usize,
}

/// One update of a segment. `gate` is the stats buffer after `grad_norm::forward`: nothing changes if a gradient or the loss is not finite.
pub fn update(r: &mut Recorder<'_>, segment: Segment<'_>, hyper: &Tensor, gate: &Tensor) {
    let Segment { values, grads, m, v, decayed } = segment;
    let len = values.len();
    let cost = Cost { flops: 15.0 * len as f64, bytes: 28.0 * len as f64 };
    r.op(
        Op { name: "adamw.update", cost, reads: bind!(grads, hyper, gate), writes: bind!(values, m, v) },
        |wgsl| dispatch(wgsl, "update", len, decayed),
        move |cpu, [grads, hyper, gate], [values, m, v]| {
            host::update(cpu, decayed, grads, hyper, cast_slice(gate), values, m, v);
        },
    );
}

/// One step of plain gradient descent of a segment, values -= lr clip grads, with the same `gate`; no moments, no decay.
pub fn sgd(r: &mut Recorder<'_>, values: &Tensor, grads: &Tensor, hyper: &Tensor, gate: &Tensor) {
    let len = values.len();
    let cost = Cost { flops: 2.0 * len as f64, bytes: 12.0 * len as f64 };
    r.op(
        Op { name: "adamw.sgd", cost, reads: bind!(grads, hyper, gate), writes: bind!(values) },
        |wgsl| dispatch(wgsl, "sgd", len, 0),
        |cpu, [grads, hyper, gate], [values]| host::sgd(cpu, grads, hyper, cast_slice(gate), values),
    );
}

fn dispatch(wgsl: &mut Dispatcher<'_>, entry: &str, len: usize, decayed: usize) -> anyhow::Result<()> {
    let n4 = len / 4;
    let groups = grid(n4.div_ceil(WG as usize * PER_THREAD) as u64);
    let dims = Dims { n4: n4 as u32, decayed4: (decayed / 4) as u32, threads: groups[0] * groups[1] * WG };
    wgsl.run(&SHADER, entry, &[("WG", f64::from(WG))], dims, Extent { groups, iterations: n4.div_ceil(dims.threads as usize) })
}

/// The same arithmetic in f64.
pub mod twin {
    use super::UpdateParams;

    /// Update values in place by plain gradient descent.
    pub fn sgd(values: &mut [f64], grads: &[f64], clip: f64, h: &UpdateParams) {
        values.iter_mut().zip(grads).for_each(|(v, g)| *v -= h.learning_rate * clip * g);
    }

    /// Update values, m and v in place.
    pub fn update(values: &mut [f64], grads: &[f64], m: &mut [f64], v: &mut [f64], decayed: usize, clip: f64, h: &UpdateParams) {
        for i in 0..values.len() {
            let g = grads[i] * clip;
            m[i] = h.beta1 * m[i] + (1.0 - h.beta1) * g;
            v[i] = h.beta2 * v[i] + (1.0 - h.beta2) * g * g;
            let denominator = v[i].sqrt() / (1.0 - h.beta2.powf(h.step as f64)).sqrt() + h.epsilon;
            if i < decayed {
                values[i] *= 1.0 - h.learning_rate * h.weight_decay;
            }
            values[i] -= h.learning_rate / (1.0 - h.beta1.powf(h.step as f64)) * m[i] / denominator;
        }
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[
    Check { name: "adamw", run: check },
    Check { name: "adamw (finite gate)", run: |device, case| check_gate(device, case, Kind::AdamW) },
    Check { name: "sgd", run: check_sgd },
    Check { name: "sgd (finite gate)", run: |device, case| check_gate(device, case, Kind::Sgd) },
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    AdamW,
    Sgd,
}

struct Buffers {
    host: [Vec<f32>; 4],
    tensors: [Tensor; 4],
    decayed: usize,
    hyper: UpdateParams,
    packed: Tensor,
}

fn buffers(device: &Device, case: &mut Case) -> Buffers {
    let n = 4 * case.int(1, 3000);
    let decayed = 4 * case.int(0, n / 4);
    let host =
        [case.normals(n, 1.0), case.normals(n, 0.1), case.normals(n, 0.1), case.normals(n, 0.1).iter().map(|x| x * x).collect()];
    let tensors = ["values", "grads", "m", "v"].map(|name| Tensor::new(device, "check", name, &[n]));
    tensors.iter().zip(&host).for_each(|(t, h)| device.write(t, h));
    let hyper = UpdateParams { weight_decay: 0.1, step: case.int(1, 500) as u64, beta2: 0.99, ..UpdateParams::default() };
    let packed = Tensor::new(device, "check", "hyper", &[HYPER_LEN]);
    device.write(&packed, &hyper.pack());
    case.shape = format!("{n} numbers, {decayed} decayed, step {}", hyper.step);
    Buffers { host, tensors, decayed, hyper, packed }
}

fn run(device: &Device, case: &Case, b: &Buffers, gate: &[f32; stats::LEN], kind: Kind) -> anyhow::Result<()> {
    let gate = case.upload(device, "gate", &[stats::LEN], gate);
    let [values, grads, m, v] = &b.tensors;
    case.replay(device, |r| match kind {
        Kind::AdamW => update(r, Segment { values, grads, m, v, decayed: b.decayed }, &b.packed, &gate),
        Kind::Sgd => sgd(r, values, grads, &b.packed, &gate),
    })
}

/// An open gate, sometimes with clipping.
fn open_gate(case: &mut Case) -> (f32, [f32; stats::LEN]) {
    let clip = case.pick(&[1.0, 0.25]);
    let mut gate = [0.0; stats::LEN];
    (gate[stats::GRAD_NORM], gate[stats::CLIP_SCALE]) = (3.0, clip);
    (clip, gate)
}

fn check_sgd(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let b = buffers(device, case);
    let (clip, gate) = open_gate(case);
    run(device, case, &b, &gate, Kind::Sgd)?;
    let mut values = wide(&b.host[0]);
    twin::sgd(&mut values, &wide(&b.host[1]), f64::from(clip), &b.hyper);
    case.compare(device, &b.tensors[0], &values)?;
    case.compare(device, &b.tensors[2], &wide(&b.host[2]))
}

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let b = buffers(device, case);
    let (clip, gate) = open_gate(case);
    run(device, case, &b, &gate, Kind::AdamW)?;
    let [mut values, grads, mut m, mut v] = b.host.each_ref().map(|h| wide(h));
    twin::update(&mut values, &grads, &mut m, &mut v, b.decayed, f64::from(clip), &b.hyper);
    case.compare(device, &b.tensors[0], &values)?;
    case.compare(device, &b.tensors[2], &m)?;
    case.compare(device, &b.tensors[3], &v)
}

/// With the flag set, or a norm or loss that is not finite, no bit may change.
fn check_gate(device: &Device, case: &mut Case, kind: Kind) -> anyhow::Result<()> {
    let b = buffers(device, case);
    let mut gate = [0.0; stats::LEN];
    gate[stats::CLIP_SCALE] = 1.0;
    match case.int(0, 3) {
        0 => gate[stats::NOT_FINITE] = 1.0,
        1 => gate[stats::LOSS] = case.pick(&[f32::NAN, f32::INFINITY]),
        2 => gate[stats::GRAD_NORM] = f32::NAN,
        _ => gate[stats::GRAD_NORM] = f32::INFINITY,
    }
    run(device, case, &b, &gate, kind)?;
    for i in [0, 2, 3] {
        let after: Vec<u32> = device.read(&b.tensors[i])?;
        if after != bytemuck::cast_slice::<f32, u32>(&b.host[i]) {
            (case.worst, case.detail) = (f64::INFINITY, format!("{} changed behind a closed gate", b.tensors[i].name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First step of Adam moves every number by lr against its gradient's sign, whatever its size (Kingma & Ba 2015, section 2.1).
    #[test]
    fn twin_first_step_is_a_sign_step() {
        let hyper = UpdateParams::default();
        let (mut values, grads) = (vec![0.0; 3], [1e-3, -20.0, 0.5]);
        twin::update(&mut values, &grads, &mut [0.0; 3], &mut [0.0; 3], 0, 1.0, &hyper);
        for (v, g) in values.iter().zip(grads) {
            assert!((v + hyper.learning_rate * g.signum()).abs() < 1e-7, "{v}");
        }
    }
}

//! Global gradient norm, clip factor (PyTorch `clip_grad_norm_`) and finite gate over the gradient arena.          shaders/grad_norm.wgsl

mod host;

use super::WG;
use super::adamw::{self, UpdateParams};
use super::check::{Case, Check, wide};
use super::objective::stats;
use crate::device::{Cost, Device, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("grad_norm");
/// Numbers summed per invocation: keeps f32 sums short.
const PER_THREAD: usize = 16;
/// Maximum workgroups (and partial sums) per segment.
const MAX_GROUPS: usize = 4096;

uniform! { struct Dims { n4: u32, threads: u32, first: u32, count: u32 } }

/// Number of pairs of partial sums for segments of these sizes.
pub fn partials_len(segments: impl Iterator<Item = usize>) -> usize {
    segments.map(groups_for).sum()
}

fn groups_for(elements: usize) -> usize {
    elements.div_ceil(4 * WG as usize * PER_THREAD).clamp(1, MAX_GROUPS)
}

/// Of a loop of `iterations` and a sum over the workgroup.
fn extent(groups: [u32; 3], iterations: u32) -> Extent {
    Extent { groups, iterations: (iterations + WG.ilog2()) as usize }
}

/// Norm, clip factor and number of workgroups with non-finite values over all `segments`, into `stats[0..3]`. `partials` holds
/// [`partials_len`] pairs; the clip threshold is in `hyper`.
pub fn forward(r: &mut Recorder<'_>, segments: &[&Tensor], partials: &Tensor, hyper: &Tensor, stats: &Tensor) {
    let constants = [("WG", f64::from(WG))];
    let mut first = 0;
    for grads in segments {
        let groups = groups_for(grads.len());
        // `grid` may round the number of groups up to a rectangle; the shader ignores those beyond.
        let dims = Dims { n4: (grads.len() / 4) as u32, threads: groups as u32 * WG, first: first as u32, count: 0 };
        let cost = Cost { flops: 2.0 * grads.len() as f64, bytes: grads.bytes() as f64 };
        r.op(
            Op { name: "grad_norm.partial", cost, reads: bind!(grads), writes: bind!(partials) },
            |wgsl| wgsl.run(&SHADER, "partial", &constants, dims, extent(grid(groups as u64), dims.n4.div_ceil(dims.threads))),
            move |cpu, [grads], [partials]| host::partial(cpu, first, grads, partials),
        );
        first += groups;
    }
    let dims = Dims { n4: 0, threads: 0, first: 0, count: first as u32 };
    r.op(
        Op { name: "grad_norm.finish", cost: Cost::default(), reads: bind!(hyper), writes: bind!(partials, stats) },
        |wgsl| wgsl.run(&SHADER, "finish", &constants, dims, extent([1, 1, 1], dims.count.div_ceil(WG))),
        move |_, [hyper], [partials, stats]| host::finish(first, partials, hyper, stats),
    );
}

/// The same arithmetic in f64.
pub mod twin {
    /// (norm, clip factor)
    pub fn forward(grads: &[f64], max_norm: f64) -> (f64, f64) {
        let norm = grads.iter().map(|g| g * g).sum::<f64>().sqrt();
        (norm, if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 })
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] =
    &[Check { name: "grad_norm", run: check }, Check { name: "grad_norm (finite gate)", run: check_gate }];

fn run(device: &Device, case: &Case, parts: &[Vec<f32>], max_norm: f64) -> anyhow::Result<Tensor> {
    let segments: Vec<Tensor> = parts.iter().map(|v| case.upload(device, "grads", &[v.len()], v)).collect();
    let partials = case.poisoned(device, "partials", &[partials_len(parts.iter().map(Vec::len)), 2]);
    let hyper = Tensor::new(device, "check", "hyper", &[adamw::HYPER_LEN]);
    device.write(&hyper, &UpdateParams { max_grad_norm: max_norm, ..UpdateParams::default() }.pack());
    let out = case.upload(device, "stats", &[stats::LEN], &[0.0; stats::LEN]);
    case.replay(device, |r| forward(r, &segments.iter().collect::<Vec<_>>(), &partials, &hyper, &out))?;
    Ok(out)
}

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let parts: Vec<Vec<f32>> = (0..case.int(1, 3))
        .map(|_| 4 * case.int(1, 9000))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|n| case.normals(n, 0.1))
        .collect();
    let max_norm = case.pick(&[0.0, 1.0, 1e6]);
    case.shape = format!("segments of {:?}, clip at {max_norm}", parts.iter().map(Vec::len).collect::<Vec<_>>());
    let out = run(device, case, &parts, max_norm)?;
    let (norm, clip) = twin::forward(&wide(&parts.concat()), max_norm);
    let mut want = vec![0.0; stats::LEN];
    (want[stats::GRAD_NORM], want[stats::CLIP_SCALE]) = (norm, clip);
    case.compare(device, &out, &want)
}

/// One non-finite number anywhere must set the flag.
fn check_gate(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let mut parts = vec![case.normals(4 * 700, 0.1), case.normals(4 * 5000, 0.1)];
    let (part, bad) = (case.int(0, 1), case.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0xFFC0_0001)]));
    let at = case.int(0, parts[part].len() - 1);
    parts[part][at] = bad;
    case.shape = format!("{bad} at {at} of segment {part}");
    let values: Vec<f32> = device.read(&run(device, case, &parts, 1.0)?)?;
    if values[stats::NOT_FINITE] != 1.0 {
        (case.worst, case.detail) = (f64::INFINITY, format!("flag is {}", values[stats::NOT_FINITE]));
    }
    Ok(())
}

//! Plans for GPUs: without tuning the first candidate, with tuning by measurement, once per class of shapes.

use super::candidates::{candidates, decode_candidates, most_lanes, untuned};
use super::source::{AttentionPass, AttentionPlan, Staging};
use super::{AttentionShape, DecodePlan, Decoding, PASSES, TiledDecodePlan, decode_by, dispatch, subgroup_exchange, with_caches};
use crate::bind;
use crate::device::{Device, Gpu, GpuClass, Op, Recorder, Recording, Tensor, Vendor};
use sha2::{Digest as _, Sha256};
use web_time::Instant;

/// The text for a pass on this device.
pub(super) fn plan(device: &Device, gpu: &Gpu, pass: AttentionPass, shape: AttentionShape) -> AttentionPlan {
    match gpu.class() {
        GpuClass::Software => direct(pass, shape.head_dim),
        GpuClass::Hardware => shared(device, gpu, pass, shape),
    }
}

/// The plan of software adapters, from measurements (LOG.md). More rows a thread use a loaded row more often, but on lavapipe the time
/// to compile grows with the square of a thread's values, so their number is bounded.
pub(super) fn direct(pass: AttentionPass, head_dim: usize) -> AttentionPlan {
    let rows = (128 / head_dim).clamp(1, 4);
    AttentionPlan { pass, staging: Staging::Direct, head_dim, threads: 8, rows, split: 1, chunk: 1, shuffled: 1 }
}

/// Operations below which no choice of plan matters.
const SMALLEST_MEASURED: f64 = 2e6;

fn shared(device: &Device, gpu: &Gpu, pass: AttentionPass, shape: AttentionShape) -> AttentionPlan {
    let first = untuned(pass, shape.head_dim);
    if !device.is_tuning() || shape.cost(2.0, 0.0, 0.0).flops < SMALLEST_MEASURED {
        return first;
    }
    let plans = candidates(gpu.vendor(), pass, shape.head_dim, subgroup_exchange::lanes(device, gpu));
    let example = example(shape);
    let names: Vec<_> = plans.iter().map(AttentionPlan::name).collect();
    let named = |name: &str| plans.iter().copied().find(|plan| plan.name() == name).unwrap_or(first);
    let AttentionShape { time, head_dim, .. } = example;
    let texts = plans.iter().map(AttentionPlan::text);
    let key = format!("attention {}/{} D{head_dim} G{} T{time}", hash(texts), first.entry(), example.group());
    let chosen = named(&device.tuned(&key, &names, |name| seconds(device, || pass_of(device, named(name), example))));
    // A long context may have more iterations than the example: some drivers execute a limited number.
    let fits = chosen.iterations(shape.time, shape.group()) <= gpu.max_iterations();
    if fits { chosen } else { first }
}

/// The representative of similar shapes: enough work for a GPU, in few bytes.
fn example(shape: AttentionShape) -> AttentionShape {
    /// Numbers of a tensor like `out`.
    const NUMBERS: usize = 1 << 21;
    let time = if shape.time <= 128 {
        64
    } else if shape.time <= 512 {
        256
    } else {
        1024
    };
    let group = shape.group().next_power_of_two().min(8);
    let heads = 8;
    let batch = (NUMBERS / (time * heads * shape.head_dim)).max(1);
    AttentionShape { batch, time, heads, kv_heads: heads / group, head_dim: shape.head_dim }
}

/// First 8 digits of a hash over the candidates' texts: another generator asks other questions.
fn hash(texts: impl Iterator<Item = String>) -> String {
    let mut hash = Sha256::new();
    texts.for_each(|text| hash.update(text));
    hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

const SCRATCH: &str = "tuning";

/// A tensor of real numbers: a GPU that multiplies zeros stays cooler and runs faster.
fn filled(device: &Device, shape: &[usize]) -> Tensor {
    let tensor = Tensor::new(device, SCRATCH, "tuning", shape);
    let values: Vec<f32> = (0..tensor.len()).map(|i| (i * 2_654_435_761 % 1021) as f32 / 510.0 - 1.0).collect();
    device.write(&tensor, &values);
    tensor
}

fn whole(device: &Device, values: &[u32]) -> Tensor {
    let tensor = Tensor::new(device, SCRATCH, "tuning", &[values.len()]);
    device.write(&tensor, values);
    tensor
}

/// One pass over a batch of whole documents.
fn pass_of(device: &Device, plan: AttentionPlan, shape: AttentionShape) -> anyhow::Result<Recording> {
    let (tokens, width) = (shape.tokens(), shape.heads * shape.head_dim);
    let positions = whole(device, &(0..tokens).map(|i| (i % shape.time) as u32).collect::<Vec<_>>());
    let qkv = filled(device, &[tokens, shape.row_width()]);
    let [out, dout] = [0; 2].map(|_| filled(device, &[tokens, width]));
    let [lse, delta] = [0; 2].map(|_| filled(device, &[tokens, shape.heads]));
    let mut r = Recorder::new(device, "tuning");
    let cost = shape.cost(3.0, 2.0, 2.0);
    match plan.pass {
        AttentionPass::Forward => r.op(
            Op { name: "attention.forward", cost, reads: bind!(qkv, positions), writes: bind!(out, lse) },
            |wgsl| dispatch(wgsl, plan, shape, 1.0),
            |_, [..], [..]| unreachable!("only GPUs are measured"),
        ),
        AttentionPass::BackwardQuery => {
            let dqkv = filled(device, &[tokens, shape.row_width()]);
            r.op(
                Op {
                    name: "attention.backward_query",
                    cost,
                    reads: bind!(qkv, positions, out, lse, dout),
                    writes: bind!(delta, dqkv),
                },
                |wgsl| dispatch(wgsl, plan, shape, 1.0),
                |_, [..], [..]| unreachable!("only GPUs are measured"),
            );
        }
        AttentionPass::BackwardKey => {
            let dqkv = filled(device, &[tokens, shape.row_width()]);
            r.op(
                Op { name: "attention.backward_key", cost, reads: bind!(qkv, positions, lse, dout, delta), writes: bind!(dqkv) },
                |wgsl| dispatch(wgsl, plan, shape, 1.0),
                |_, [..], [..]| unreachable!("only GPUs are measured"),
            );
        }
    }
    r.finish()
}

/// Least time of three replays, after one that compiles.
fn seconds(device: &Device, record: impl FnOnce() -> anyhow::Result<Recording>) -> anyhow::Result<f64> {
    let best = record().and_then(|recording| least(device, &recording));
    device.scratch_freed(SCRATCH);
    best
}

fn least(device: &Device, recording: &Recording) -> anyhow::Result<f64> {
    device.replay(recording)?;
    device.wait()?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let begin = Instant::now();
        device.replay(recording)?;
        device.wait()?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Workgroups that occupy any GPU.
const ENOUGH: usize = 256;

/// The decoding kernel for this device.
pub(super) fn decode_plan(device: &Device, gpu: &Gpu, shape: AttentionShape, max_time: usize) -> Decoding {
    let head_dim = shape.head_dim;
    let divides = |n: &usize| shape.group().is_multiple_of(*n);
    match gpu.class() {
        GpuClass::Software => {
            let heads = [4, 3, 2].into_iter().find(divides).unwrap_or(1);
            Decoding::Lanes(DecodePlan { head_dim, threads: 8, heads, chunk: 1 })
        }
        GpuClass::Hardware if head_dim <= 512 => Decoding::Tiled(tiled(device, gpu, shape, max_time)),
        GpuClass::Hardware => Decoding::Lanes(DecodePlan { head_dim, threads: 64, heads: 1, chunk: 1 }),
    }
}

/// Heads that share keys load them once, unless that leaves a GPU without work.
fn untuned_decode(shape: AttentionShape) -> TiledDecodePlan {
    let fits = |heads: usize| TiledDecodePlan::new(shape.head_dim, heads).fits();
    let busy = |n: &usize| shape.group().is_multiple_of(*n) && fits(*n) && shape.batch * shape.heads / n >= ENOUGH;
    let heads = [4, 3, 2].into_iter().find(busy).unwrap_or(1);
    TiledDecodePlan::new(shape.head_dim, heads)
}

fn tiled(device: &Device, gpu: &Gpu, shape: AttentionShape, max_time: usize) -> TiledDecodePlan {
    let first = untuned_decode(shape);
    // Below this the time of a launch is most of it.
    if !device.is_tuning() || shape.batch * shape.kv_heads * max_time * shape.head_dim < 1 << 19 {
        return first;
    }
    let lanes = subgroup_exchange::lanes(device, gpu);
    let mut plans = decode_candidates(gpu.vendor(), shape.head_dim, first.heads, lanes);
    for heads in [1, 2, 4].into_iter().filter(|n| *n != first.heads && shape.group().is_multiple_of(*n)) {
        plans.extend(
            decode_candidates(gpu.vendor(), shape.head_dim, heads, lanes).into_iter().filter(TiledDecodePlan::fits).take(2),
        );
    }
    let (example, time) = decode_example(shape, max_time);
    let names: Vec<_> = plans.iter().map(TiledDecodePlan::name).collect();
    let named = |name: &str| plans.iter().copied().find(|plan| plan.name() == name).unwrap_or(first);
    let texts = plans.iter().map(TiledDecodePlan::text);
    let AttentionShape { batch, heads, kv_heads, head_dim, .. } = example;
    let key = format!("attention {}/decode D{head_dim} H{heads}:{kv_heads} B{batch} T{time}", hash(texts));
    let chosen = named(&device.tuned(&key, &names, |name| seconds(device, || decode_of(device, named(name), example, time))));
    if chosen.iterations(max_time) <= gpu.max_iterations() { chosen } else { first }
}

/// Representative numbers of sequences and tokens of the cache.
fn decode_example(shape: AttentionShape, max_time: usize) -> (AttentionShape, usize) {
    /// Numbers of a cache of keys.
    const NUMBERS: usize = 1 << 23;
    let time = if max_time <= 128 {
        128
    } else if max_time <= 512 {
        512
    } else {
        2048
    };
    let batch = if shape.batch <= 2 {
        1
    } else if shape.batch <= 16 {
        8
    } else {
        64
    };
    let most = NUMBERS / (time * shape.kv_heads * shape.head_dim);
    (AttentionShape { batch: batch.min(most).max(1), time: 1, ..shape }, time)
}

/// One token of each sequence of a full cache.
fn decode_of(device: &Device, plan: TiledDecodePlan, shape: AttentionShape, time: usize) -> anyhow::Result<Recording> {
    let batch = shape.batch;
    let qkv = filled(device, &[batch, shape.row_width()]);
    let [cache_k, cache_v] = [0; 2].map(|_| filled(device, &[batch, time, shape.kv_heads * shape.head_dim]));
    let positions = whole(device, &vec![time as u32 - 1; batch]);
    let assigned = whole(device, &vec![0; 3 * batch]);
    let out = filled(device, &[batch, shape.heads * shape.head_dim]);
    let mut r = Recorder::new(device, "tuning");
    decode_by(&mut r, |_, _| Decoding::Tiled(plan), shape, &qkv, &positions, &cache_k, &cache_v, &assigned, &out);
    r.finish()
}

/// Head widths of well-known models, and odd ones.
pub(in crate::ops) const HEAD_DIMS: [usize; 8] = [8, 24, 32, 64, 80, 96, 128, 256];

/// The texts for a GPU of this vendor, at common head widths: (stem, WGSL).
pub(super) fn sources(vendor: Vendor) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = subgroup_exchange::TESTED_LANES.map(subgroup_exchange::source).into();
    let mut push = |stem: String, text: String| {
        if all.iter().all(|(known, _)| *known != stem) {
            all.push((stem, text));
        }
    };
    // With subgroup operations, and without.
    for (head_dim, lanes) in HEAD_DIMS.into_iter().flat_map(|d| [1, most_lanes(vendor)].map(|lanes| (d, lanes))) {
        for pass in PASSES {
            candidates(vendor, pass, head_dim, lanes).iter().for_each(|plan| push(plan.stem(), plan.text()));
        }
        for heads in [1, 2, 3, 4] {
            let plans = decode_candidates(vendor, head_dim, heads, lanes).into_iter().filter(TiledDecodePlan::fits);
            plans.flat_map(|plan| with_caches(Decoding::Tiled(plan))).for_each(|(stem, text)| push(stem, text));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With tuning on, a GPU gets one of its candidates, the same again, and measurements leave no memory; with tuning off the first one.
    #[test]
    fn tuned_plans_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let shape = AttentionShape { batch: 16, time: 64, heads: 8, kv_heads: 4, head_dim: 32 };
        let mut chosen = Vec::new();
        for tuning in [false, true, true] {
            let mut device = Device::open_named(None).expect("a device");
            if device.gpu().is_some_and(|gpu| gpu.class() == GpuClass::Software) {
                device.switch_gpu_class();
            }
            let Some(gpu) = device.gpu() else { return };
            if tuning {
                device.enable_tuning_in(Some(folder.path().to_path_buf()));
            }
            let plan = plan(&device, gpu, AttentionPass::BackwardKey, shape);
            assert!(
                candidates(gpu.vendor(), plan.pass, 32, subgroup_exchange::lanes(&device, gpu)).contains(&plan),
                "{}",
                plan.name()
            );
            assert!(!device.ledger().entries().contains_key(SCRATCH), "scratch is freed");
            chosen.push(plan);
        }
        assert_eq!(chosen[0], untuned(AttentionPass::BackwardKey, 32));
        assert_eq!(chosen[1], chosen[2]);
    }
}

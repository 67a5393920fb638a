//! Attention against its twin: every plan that the adapter may get, random shapes and documents.

use super::super::check::{Case, Check, wide};
use super::{
    AttentionPass, AttentionPlan, AttentionShape, Decoding, PASSES, Staging, TiledDecodePlan, append, backward_by, candidates,
    choose, decode, decode_by, forward_by, subgroup_exchange, twin,
};
use crate::device::{Device, ElementType, F16, Gpu, Tensor, Vendor};

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[
    Check { name: "attention (direct)", run: |device, case| check(device, case, Staging::Direct) },
    Check { name: "attention (shared)", run: |device, case| check(device, case, Staging::Shared) },
    Check { name: "attention (decode)", run: |device, case| check_decode(device, case, false, &[ElementType::F32]) },
    Check { name: "attention (decode, tiled)", run: |device, case| check_decode(device, case, true, &[ElementType::F32]) },
    Check { name: "attention (decode, half-precision cache)", run: |device, case| check_decode(device, case, false, &HALF) },
    Check {
        name: "attention (decode, tiled, half-precision cache)",
        run: |device, case| check_decode(device, case, true, &HALF),
    },
];

/// Caches that must give the same bits, of numbers that are halves.
const HALF: [ElementType; 2] = [ElementType::F32, ElementType::F16];

fn draw(case: &mut Case) -> AttentionShape {
    let kv_heads = case.int(1, 3);
    let heads = kv_heads * case.int(1, 4);
    let head_dim = case.pick(&[8, 12, 24, 32, 64, 80, 96, 128]);
    let long = case.int(0, 5) == 0;
    let (batch, time) = if long { (1, case.int(81, 300)) } else { (case.int(1, 3), case.int(1, 80)) };
    AttentionShape { batch, time, heads, kv_heads, head_dim }
}

/// Positions of tokens in documents that end at random places.
fn documents(case: &mut Case, shape: AttentionShape) -> Vec<u32> {
    let mut positions = Vec::new();
    for _ in 0..shape.batch {
        let cuts = case.int(0, 4);
        let starts: Vec<usize> = (0..cuts).map(|_| case.int(0, shape.time - 1)).collect();
        let mut begin = 0;
        for t in 0..shape.time {
            if starts.contains(&t) {
                begin = t;
            }
            positions.push((t - begin) as u32);
        }
    }
    positions
}

fn check(device: &Device, case: &mut Case, staging: Staging) -> anyhow::Result<()> {
    let shape = draw(case);
    let plans = match (staging, device.gpu()) {
        (Staging::Direct, _) => PASSES.map(|pass| choose::direct(pass, shape.head_dim)),
        (Staging::Shared, Some(gpu)) => {
            let (lanes, vendor) = (subgroup_exchange::lanes(device, gpu), case.pick(vendors(gpu)));
            PASSES.map(|pass| case.pick(&passes(vendor, pass, shape.head_dim, lanes)))
        }
        (Staging::Shared, None) => {
            case.shape = "not for this adapter".into();
            return Ok(());
        }
    };
    check_plans(device, case, shape, plans)
}

/// The vendors whose plans run on this GPU: software gets those of all.
fn vendors(gpu: &Gpu) -> &'static [Vendor] {
    let at = Vendor::ALL.iter().position(|&vendor| vendor == gpu.vendor()).filter(|_| !gpu.is_software());
    at.map_or(&Vendor::ALL, |at| &Vendor::ALL[at..=at])
}

/// The plans of a vendor that run where `lanes` neighbours have subgroup operations.
fn passes(vendor: Vendor, pass: AttentionPass, head_dim: usize, lanes: usize) -> Vec<AttentionPlan> {
    let all = candidates::candidates(vendor, pass, head_dim, candidates::most_lanes(vendor));
    all.into_iter().filter(|plan| plan.shuffled <= lanes).collect()
}

/// As [`passes`], for decoding.
fn decodings(vendor: Vendor, head_dim: usize, heads: usize, lanes: usize) -> Vec<TiledDecodePlan> {
    let all = candidates::decode_candidates(vendor, head_dim, heads, candidates::most_lanes(vendor));
    all.into_iter().filter(|plan| plan.shuffled <= lanes).collect()
}

/// One plan for each of [`PASSES`].
fn check_plans(device: &Device, case: &mut Case, shape: AttentionShape, plans: [AttentionPlan; 3]) -> anyhow::Result<()> {
    let [forward, query, key] = plans;
    let positions = documents(case, shape);
    let names = plans.map(|plan| plan.name()).join(", ");
    case.shape = format!("{shape:?}, {names}");
    let (width, out_shape) = (shape.row_width(), [shape.batch, shape.time, shape.heads * shape.head_dim]);
    let qkv = case.normals(shape.tokens() * width, 1.5);
    let dout = case.normals(out_shape.iter().product(), 1.0);
    let tqkv = case.upload(device, "qkv", &[shape.batch, shape.time, width], &qkv);
    let tdout = case.upload(device, "dout", &out_shape, &dout);
    let tpositions = case.upload_u32(device, "positions", &positions);
    let tout = case.poisoned(device, "out", &out_shape);
    let [tlse, tdelta] = ["lse", "delta"].map(|n| case.poisoned(device, n, &[shape.tokens(), shape.heads]));
    let tdqkv = case.poisoned(device, "dqkv", &[shape.batch, shape.time, width]);
    case.replay(device, |r| {
        forward_by(r, |_, _| forward, shape, &tqkv, &tpositions, &tout, &tlse);
        backward_by(r, |_, _| [query, key], shape, &tqkv, &tpositions, &tout, &tlse, &tdout, &tdelta, &tdqkv);
    })?;
    let (out, lse) = twin::forward(shape, &wide(&qkv), &positions);
    let (delta, dqkv) = twin::backward(shape, &wide(&qkv), &positions, &out, &lse, &wide(&dout));
    case.compare(device, &tout, &out)?;
    case.compare(device, &tlse, &lse)?;
    case.compare(device, &tdelta, &delta)?;
    case.compare(device, &tdqkv, &dqkv)
}

/// Inputs of a check of decoding.
struct CacheInputs {
    shape: AttentionShape,
    cache_shape: [usize; 3],
    prompt: Tensor,
    places: Tensor,
    new: Tensor,
    newest: Tensor,
    assigned: Tensor,
}

impl CacheInputs {
    /// Append prompts and new tokens to caches of this type, and decode.
    fn decoded(
        &self,
        device: &Device,
        case: &Case,
        tiled: Option<TiledDecodePlan>,
        element: ElementType,
    ) -> anyhow::Result<Tensor> {
        let Self { shape, cache_shape, prompt, places, new, newest, assigned } = self;
        let [cache_k, cache_v] = ["cache_k", "cache_v"].map(|name| {
            let cache = Tensor::of_type(device, "check", name, cache_shape, element);
            device.write(&cache, &vec![u32::MAX; cache.bytes() as usize / 4]);
            cache
        });
        let [flat_k, flat_v] = [&cache_k, &cache_v].map(|c| c.reshape(&[1, cache_shape[0] * cache_shape[1], cache_shape[2]]));
        let out = case.poisoned(device, "out", &[shape.batch, shape.heads * shape.head_dim]);
        let (step, all) = (AttentionShape { time: 1, ..*shape }, AttentionShape { batch: 1, time: shape.tokens(), ..*shape });
        case.replay(device, |r| {
            append(r, all, prompt, places, &flat_k, &flat_v);
            append(r, step, new, newest, &cache_k, &cache_v);
            match tiled {
                Some(plan) => {
                    decode_by(r, |_, _| Decoding::Tiled(plan), step, new, newest, &cache_k, &cache_v, assigned, &out);
                }
                None => decode(r, step, new, newest, &cache_k, &cache_v, assigned, &out),
            }
        })?;
        Ok(out)
    }
}

fn check_decode(device: &Device, case: &mut Case, tiled: bool, types: &[ElementType]) -> anyhow::Result<()> {
    let shape = draw(case);
    if !tiled {
        return check_decode_plan(device, case, shape, None, types);
    }
    let Some(gpu) = device.gpu() else {
        case.shape = "not for this adapter".into();
        return Ok(());
    };
    let heads = case.int(1, 4);
    let fits = TiledDecodePlan::new(shape.head_dim, heads).fits();
    let heads = if shape.group().is_multiple_of(heads) && fits { heads } else { 1 };
    let (lanes, vendor) = (subgroup_exchange::lanes(device, gpu), case.pick(vendors(gpu)));
    let plans = decodings(vendor, shape.head_dim, heads, lanes);
    let plan = case.pick(&plans);
    check_decode_plan(device, case, shape, Some(plan), types)
}

/// Sequences of unequal length in a cache that is larger than they are: the prompts are appended at once, then one token each. By the plan
/// that the device takes, or by the one that is given. With caches of each of these types, which must not change a bit.
fn check_decode_plan(
    device: &Device,
    case: &mut Case,
    shape: AttentionShape,
    tiled: Option<TiledDecodePlan>,
    types: &[ElementType],
) -> anyhow::Result<()> {
    let max_time = shape.time + case.int(0, 9);
    let name = tiled.map(|plan| plan.name()).unwrap_or_default();
    case.shape = format!("{shape:?}, cache of {max_time} {name}");
    let width = shape.row_width();
    let mut qkv = case.normals(shape.tokens() * width, 1.5);
    if types.contains(&ElementType::F16) {
        qkv.iter_mut().for_each(|x| *x = F16::from_f32(*x).to_f32());
    }
    // Sequence b consists of the first lengths[b] tokens, and the last of these is the new one.
    let lengths: Vec<usize> = (0..shape.batch).map(|_| case.int(1, shape.time)).collect();
    let whole: Vec<u32> = (0..shape.tokens()).map(|i| (i % shape.time) as u32).collect();
    let newest: Vec<u32> = lengths.iter().map(|&n| n as u32 - 1).collect();
    let row_of = |b: usize| (b * shape.time + lengths[b] - 1) * width;
    let new_rows: Vec<f32> = (0..shape.batch).flat_map(|b| qkv[row_of(b)..row_of(b) + width].to_vec()).collect();
    // The prompt does not hold the new token, and later entries of the cache must have no effect.
    let mut prompt = qkv.clone();
    (0..shape.batch).for_each(|b| prompt[row_of(b)..(b + 1) * shape.time * width].fill(7.0));
    // The first of a sequence's keys lie in rows of their own behind the sequences', if it has any there.
    let prefixed: Vec<usize> = lengths.iter().map(|&n| case.pick(&[0, n - 1]).min(case.int(0, n))).collect();
    let behind = |b: usize| (shape.batch + 1 + b) * max_time;
    let place = |b: usize, t: usize| if t < prefixed[b] { behind(b) + t } else { b * max_time + t };
    let places: Vec<u32> = (0..shape.tokens()).map(|i| place(i / shape.time, i % shape.time) as u32).collect();
    let assigned: Vec<u32> = (0..shape.batch).flat_map(|b| [u32::MAX, behind(b) as u32, prefixed[b] as u32]).collect();
    let cache_shape = [2 * shape.batch + 1, max_time, shape.kv_heads * shape.head_dim];
    let inputs = CacheInputs {
        shape,
        cache_shape,
        prompt: case.upload(device, "prompt", &[shape.batch, shape.time, width], &prompt),
        places: case.upload_u32(device, "places", &places),
        new: case.upload(device, "new", &[shape.batch, 1, width], &new_rows),
        newest: case.upload_u32(device, "newest", &newest),
        assigned: case.upload_u32(device, "assigned", &assigned),
    };
    let outs: Vec<Tensor> =
        types.iter().map(|&element| inputs.decoded(device, case, tiled, element)).collect::<anyhow::Result<_>>()?;
    let out = twin::forward(shape, &wide(&qkv), &whole).0;
    let each = shape.heads * shape.head_dim;
    let want: Vec<f64> =
        (0..shape.batch).flat_map(|b| out[row_of(b) / width * each..(row_of(b) / width + 1) * each].to_vec()).collect();
    let bits = |out: &Tensor| device.read::<u32>(out);
    for out in &outs[1..] {
        if bits(out)? != bits(&outs[0])? {
            case.worst = f64::INFINITY;
            case.detail = "the bits differ from those of a cache in f32".into();
            return Ok(());
        }
    }
    outs.iter().try_for_each(|out| case.compare(device, out, &want))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each plan once.
    fn union<P: PartialEq>(vendors: &[Vendor], of: impl Fn(Vendor) -> Vec<P>) -> Vec<P> {
        let mut all = Vec::new();
        for plan in vendors.iter().flat_map(|&vendor| of(vendor)) {
            if !all.contains(&plan) {
                all.push(plan);
            }
        }
        all
    }

    /// Minutes on software adapters: the random cases of `CHECKS` run a few plans each time.
    #[test]
    #[ignore = "minutes"]
    fn every_candidate_matches_its_reference() -> anyhow::Result<()> {
        let device = Device::open_named(None)?;
        let Some(gpu) = device.gpu() else { return Ok(()) };
        let lanes = subgroup_exchange::lanes(&device, gpu);
        let (mut count, mut failures) = (0, Vec::new());
        let mut note = |case: Case| {
            count += 1;
            if case.worst > 1.0 || case.worst.is_nan() {
                failures.push(format!("{}: {:.1} x allowed, {}", case.shape, case.worst, case.detail));
            }
        };
        for head_dim in candidates::TUNED_HEAD_DIMS {
            let plans = PASSES.map(|pass| union(vendors(gpu), |vendor| passes(vendor, pass, head_dim, lanes)));
            for i in 0..plans.iter().map(Vec::len).max().unwrap_or(0) {
                let mut case = Case::new("every candidate", i as u64);
                let kv_heads = case.int(1, 2);
                let (heads, time) = (kv_heads * case.int(1, 3), case.int(70, 150));
                let shape = AttentionShape { batch: 2, time, heads, kv_heads, head_dim };
                let nth = |pass: usize| plans[pass][i % plans[pass].len()];
                check_plans(&device, &mut case, shape, [nth(0), nth(1), nth(2)])?;
                note(case);
            }
            for heads in 1..=4 {
                let all = union(vendors(gpu), |vendor| decodings(vendor, head_dim, heads, lanes));
                for (i, plan) in all.into_iter().filter(TiledDecodePlan::fits).enumerate() {
                    let mut case = Case::new("every candidate", 100 + i as u64);
                    let shape = AttentionShape { batch: 2, time: case.int(130, 300), heads: 2 * heads, kv_heads: 2, head_dim };
                    check_decode_plan(&device, &mut case, shape, Some(plan), &[ElementType::F32])?;
                    note(case);
                }
            }
        }
        eprintln!("{count} cases, {lanes} neighbours with subgroup operations");
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    }
}

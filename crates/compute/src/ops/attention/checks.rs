//! Attention against its twin: every staging that the adapter can run, random shapes and documents.

use super::super::check::{Case, Check, wide};
use super::{
    AttentionPass, Decoding, Shape, Staging, TiledDecodePlan, append, backward_by, decode, decode_by, forward_by, plan, twin,
};
use crate::device::{Device, ElementType, F16, Gpu, Tensor};

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

fn draw(case: &mut Case) -> Shape {
    let kv_heads = case.int(1, 3);
    let heads = kv_heads * case.int(1, 4);
    let head_dim = case.pick(&[8, 12, 24, 32, 64, 80, 96, 128]);
    let long = case.int(0, 5) == 0;
    let (batch, time) = if long { (1, case.int(81, 300)) } else { (case.int(1, 3), case.int(1, 80)) };
    Shape { batch, time, heads, kv_heads, head_dim }
}

/// Positions of tokens in documents that end at random places.
fn documents(case: &mut Case, shape: Shape) -> Vec<u32> {
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
    if device.gpu().is_none() && staging != Staging::Direct {
        case.shape = "not for this adapter".into();
        return Ok(());
    }
    let shape = draw(case);
    let positions = documents(case, shape);
    case.shape = format!("{shape:?}");
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
        forward_by(r, |_| plan(staging, AttentionPass::Forward, shape), shape, &tqkv, &tpositions, &tout, &tlse);
        let plans = |_: &Gpu| [AttentionPass::BackwardQuery, AttentionPass::BackwardKey].map(|pass| plan(staging, pass, shape));
        backward_by(r, plans, shape, &tqkv, &tpositions, &tout, &tlse, &tdout, &tdelta, &tdqkv);
    })?;
    let (out, lse) = twin::forward(shape, &wide(&qkv), &positions);
    let (delta, dqkv) = twin::backward(shape, &wide(&qkv), &positions, &out, &lse, &wide(&dout));
    case.compare(device, &tout, &out)?;
    case.compare(device, &tlse, &lse)?;
    case.compare(device, &tdelta, &delta)?;
    case.compare(device, &tdqkv, &dqkv)
}

/// What a check of decoding uploads.
struct CacheInputs {
    shape: Shape,
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
        let (step, all) = (Shape { time: 1, ..*shape }, Shape { batch: 1, time: shape.tokens(), ..*shape });
        case.replay(device, |r| {
            append(r, all, prompt, places, &flat_k, &flat_v);
            append(r, step, new, newest, &cache_k, &cache_v);
            match tiled {
                Some(plan) => {
                    decode_by(r, |_| Decoding::Tiled(plan), step, new, newest, &cache_k, &cache_v, assigned, &out);
                }
                None => decode(r, step, new, newest, &cache_k, &cache_v, assigned, &out),
            }
        })?;
        Ok(out)
    }
}

/// Sequences of unequal length in a cache that is larger than they are: the prompts are appended at once, then one token each. By the plan
/// that the device takes, or by a tiled one with any number of heads that fits. With caches of each of these types.
fn check_decode(device: &Device, case: &mut Case, tiled: bool, types: &[ElementType]) -> anyhow::Result<()> {
    if device.gpu().is_none() && tiled {
        case.shape = "not for this adapter".into();
        return Ok(());
    }
    let shape = draw(case);
    let heads = case.int(1, 4);
    let fits = TiledDecodePlan { head_dim: shape.head_dim, heads }.fits();
    let heads = if shape.group().is_multiple_of(heads) && fits { heads } else { 1 };
    let max_time = shape.time + case.int(0, 9);
    case.shape = format!("{shape:?}, cache of {max_time}");
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
    // The prompt does not hold the new token, and what lies behind it in the cache must not matter.
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
    let tiled = tiled.then_some(TiledDecodePlan { head_dim: shape.head_dim, heads });
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

//! Causal grouped-query attention within documents, without the T x T matrix (Dao et al. 2022).        generated WGSL: source.rs, decode.rs
//!
//! `qkv` (B, T, (H + 2 Hkv) D) holds query heads, then key heads, then value heads of a token, after RoPE. `positions` (B T) is each
//! token's place in its document: query t of a sequence sees keys `t - positions[t] ..= t` of that sequence.

mod checks;
mod decode;
mod passes;
mod source;
mod staging;
mod text;
pub mod twin;

pub use checks::CHECKS;
pub use decode::DecodePlan;
pub use source::{Pass, Plan, Staging};

use crate::bind;
use crate::gpu::{AdapterClass, Cost, Gpu, Recording, Shader, Tensor, grid};
use crate::uniform;
use anyhow::anyhow;

const APPEND: Shader = Shader { stem: "attention", source: include_str!("../../../shaders/attention.wgsl") };
/// Most loop iterations of a thread: lavapipe stops loops silently at 65,535 (reference/stack.md 2).
const MAX_ITERATIONS: usize = 60_000;

uniform! { struct Dims { batch: u32, time: u32, heads: u32, kv_heads: u32, tiles: u32, scale: f32 } }
uniform! { struct DecodeDims { batch: u32, heads: u32, kv_heads: u32, max_time: u32, cache_rows: u32, scale: f32 } }
uniform! { struct AppendDims { rows: u32, time: u32, max_time: u32, width4: u32, skip4: u32 } }

/// The sizes of an attention problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sequences, B.
    pub batch: usize,
    /// Tokens of each, T.
    pub time: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Key and value heads, Hkv; divides H.
    pub kv_heads: usize,
    /// Width of a head, D: a multiple of 4.
    pub head_dim: usize,
}

impl Shape {
    /// B T
    pub fn tokens(&self) -> usize {
        self.batch * self.time
    }

    /// Columns of `qkv`.
    pub fn row_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Query heads that share a kv head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }

    /// Cost of `products` products of a query with a key (or value) for each of the pairs that see each other, and of going once over
    /// `qkv` and over `outs` tensors like `out`.
    fn cost(&self, products: f64, qkvs: f64, outs: f64) -> Cost {
        let pairs = (self.batch * self.heads) as f64 * self.time as f64 * (self.time + 1) as f64 / 2.0;
        let numbers = self.tokens() as f64 * (qkvs * self.row_width() as f64 + outs * (self.heads * self.head_dim) as f64);
        Cost { flops: 2.0 * products * self.head_dim as f64 * pairs, bytes: 4.0 * numbers }
    }
}

/// The staging that suits an adapter.
pub fn staging(gpu: &Gpu) -> Staging {
    match (gpu.class(), gpu.subgroup_size()) {
        (AdapterClass::Hardware, _) => Staging::Shared,
        (AdapterClass::Software, Some(4 | 8)) => Staging::Subgroup,
        (AdapterClass::Software, _) => Staging::Direct,
    }
}

/// The text for a pass, from what was measured (LOG.md). More rows a thread use a loaded row more often, but on lavapipe the time to
/// compile grows with the square of what a thread holds, so that is bounded: `numbers` of each of its matrices.
fn plan(gpu: &Gpu, staging: Staging, pass: Pass, shape: Shape) -> Plan {
    let head_dim = shape.head_dim;
    let rows_for = |most: usize, numbers: usize| (numbers / head_dim).clamp(1, most);
    match staging {
        Staging::Direct => Plan { pass, staging, head_dim, threads: 8, rows: rows_for(4, 128), split: 1, chunk: 1 },
        Staging::Subgroup => {
            let lanes = gpu.subgroup_size().unwrap_or(8) as usize;
            let rows = if pass == Pass::Forward { rows_for(4, 256) } else { rows_for(2, 128) };
            Plan { pass, staging, head_dim, threads: lanes, rows, split: 1, chunk: lanes }
        }
        Staging::Shared => {
            // A thread holds at most 32 numbers of a row, so that what it owns stays in registers.
            let split = [1, 2, 4].into_iter().find(|s| head_dim / s <= 32 && (head_dim / 4).is_multiple_of(*s)).unwrap_or(1);
            let rows = if pass == Pass::Forward { 2 } else { 1 };
            Plan { pass, staging, head_dim, threads: 64, rows, split, chunk: 4 }
        }
    }
}

/// `out` (B, T, H D) and `lse` (B T, H), the log of the sum of exponentials of a query's scores.
pub fn forward(r: &mut Recording, gpu: &Gpu, shape: Shape, qkv: &Tensor, positions: &Tensor, out: &Tensor, lse: &Tensor) {
    let plan = plan(gpu, staging(gpu), Pass::Forward, shape);
    forward_by(r, gpu, plan, shape, qkv, positions, out, lse);
}

fn forward_by(
    r: &mut Recording,
    gpu: &Gpu,
    plan: Plan,
    shape: Shape,
    qkv: &Tensor,
    positions: &Tensor,
    out: &Tensor,
    lse: &Tensor,
) {
    run(r, gpu, plan, shape, bind!(qkv, positions, out, lse), shape.cost(2.0, 1.0, 1.0));
}

/// All of `dqkv` (B, T, (H + 2 Hkv) D) from `dout`; `delta` (B T, H), the dot products of `dout` and `out`, is written on the way.
pub fn backward(
    r: &mut Recording,
    gpu: &Gpu,
    shape: Shape,
    qkv: &Tensor,
    positions: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    dout: &Tensor,
    delta: &Tensor,
    dqkv: &Tensor,
) {
    let plans = [Pass::BackwardQuery, Pass::BackwardKey].map(|pass| plan(gpu, staging(gpu), pass, shape));
    backward_by(r, gpu, plans, shape, qkv, positions, out, lse, dout, delta, dqkv);
}

fn backward_by(
    r: &mut Recording,
    gpu: &Gpu,
    plans: [Plan; 2],
    shape: Shape,
    qkv: &Tensor,
    positions: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    dout: &Tensor,
    delta: &Tensor,
    dqkv: &Tensor,
) {
    let [query, key] = plans;
    run(r, gpu, query, shape, bind!(qkv, positions, out, lse, dout, delta, dqkv), shape.cost(3.0, 1.0, 3.0));
    run(r, gpu, key, shape, bind!(qkv, positions, lse, dout, delta, dqkv), shape.cost(4.0, 2.0, 1.0));
}

fn run(r: &mut Recording, gpu: &Gpu, plan: Plan, shape: Shape, bindings: &[(&str, &Tensor)], cost: Cost) {
    assert!(shape.heads.is_multiple_of(shape.kv_heads) && shape.head_dim.is_multiple_of(4), "{shape:?}");
    let heads_streamed = if plan.pass == Pass::BackwardKey { shape.group() } else { 1 };
    if heads_streamed * (shape.time / plan.chunk + 2) > MAX_ITERATIONS {
        return r.fail(&anyhow!(
            "a context of {} tokens is too long for this version of attention; use a smaller --seq-len",
            shape.time
        ));
    }
    let tiles = shape.time.div_ceil(plan.tile_rows());
    let heads = if plan.pass == Pass::BackwardKey { shape.kv_heads } else { shape.heads };
    let dims = Dims {
        batch: shape.batch as u32,
        time: shape.time as u32,
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        tiles: tiles as u32,
        scale: shape.scale(),
    };
    match gpu.kernel_from_text(&plan.stem(), &plan.text(), plan.entry(), &[]) {
        Ok(kernel) => r.dispatch(gpu, &kernel, dims, bindings, grid((shape.batch * heads * tiles) as u64), cost),
        Err(error) => r.fail(&error),
    }
}

/// Copy the keys and values of `qkv` (B, T, ...) into the caches (Bmax, Tmax, Hkv D): token t of sequence b goes to row
/// `positions[b T + t]` of sequence b. T is 1 when decoding, the length of the prompts before that.
pub fn append(r: &mut Recording, gpu: &Gpu, shape: Shape, qkv: &Tensor, positions: &Tensor, cache_k: &Tensor, cache_v: &Tensor) {
    let width4 = shape.kv_heads * shape.head_dim / 4;
    let dims = AppendDims {
        rows: shape.tokens() as u32,
        time: shape.time as u32,
        max_time: cache_k.shape()[1] as u32,
        width4: width4 as u32,
        skip4: (shape.heads * shape.head_dim / 4) as u32,
    };
    let work = shape.tokens() * width4;
    let cost = Cost { flops: 0.0, bytes: 64.0 * work as f64 };
    let groups = grid((work as u64).div_ceil(64));
    r.run(gpu, &APPEND, "append", &[], dims, bind!(qkv, positions, cache_k, cache_v), groups, cost);
}

fn decode_plan(gpu: &Gpu, shape: Shape) -> DecodePlan {
    match gpu.class() {
        AdapterClass::Software => {
            let heads = [4, 3, 2].into_iter().find(|&n| shape.group().is_multiple_of(n)).unwrap_or(1);
            DecodePlan { head_dim: shape.head_dim, threads: 8, heads, chunk: 1 }
        }
        AdapterClass::Hardware => DecodePlan { head_dim: shape.head_dim, threads: 64, heads: 1, chunk: 2 },
    }
}

/// `out` (B, H D) of one new token a sequence, whose index is `positions` (B), over keys and values `0 ..= positions[b]` of the caches
/// (Bmax, Tmax, Hkv D). `qkv` is (B, 1, ...); its key and value must have been [`append`]ed. `assigned` (B, 3) says in its second and
/// third column where the keys before an index lie, counted in tokens from the start of the cache, and what that index is: 0 where all
/// are in the sequence's own row. `shape.time` is not used.
pub fn decode(
    r: &mut Recording,
    gpu: &Gpu,
    shape: Shape,
    qkv: &Tensor,
    positions: &Tensor,
    cache_k: &Tensor,
    cache_v: &Tensor,
    assigned: &Tensor,
    out: &Tensor,
) {
    decode_by(r, gpu, decode_plan(gpu, shape), shape, qkv, positions, cache_k, cache_v, assigned, out);
}

fn decode_by(
    r: &mut Recording,
    gpu: &Gpu,
    plan: DecodePlan,
    shape: Shape,
    qkv: &Tensor,
    positions: &Tensor,
    cache_k: &Tensor,
    cache_v: &Tensor,
    assigned: &Tensor,
    out: &Tensor,
) {
    let max_time = cache_k.shape()[1];
    let dims = DecodeDims {
        batch: shape.batch as u32,
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        max_time: max_time as u32,
        cache_rows: (cache_k.shape()[0] * max_time) as u32,
        scale: shape.scale(),
    };
    // The positions are not known here: half of the cache, on average.
    let pairs = (shape.batch * shape.heads * max_time) as f64 / 2.0;
    let rows = (shape.batch * shape.kv_heads * max_time) as f64 / 2.0;
    let cost = Cost { flops: 4.0 * shape.head_dim as f64 * pairs, bytes: 8.0 * shape.head_dim as f64 * rows };
    let groups = grid((shape.batch * shape.heads / plan.heads) as u64);
    match gpu.kernel_from_text(&plan.stem(), &plan.text(), "decode", &[]) {
        Ok(kernel) => r.dispatch(gpu, &kernel, dims, bind!(qkv, positions, cache_k, cache_v, assigned, out), groups, cost),
        Err(error) => r.fail(&error),
    }
}

/// Texts of every staging and pass at a few head widths, as (stem, WGSL), for the translation tests.
pub fn sources() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for head_dim in [8, 32, 64, 128] {
        for pass in [Pass::Forward, Pass::BackwardQuery, Pass::BackwardKey] {
            let split = (head_dim / 32).max(1);
            let plan = Plan { pass, staging: Staging::Direct, head_dim, threads: 8, rows: 2, split: 1, chunk: 1 };
            let shared = Plan { staging: Staging::Shared, threads: 64, rows: 1, split, chunk: 4, ..plan };
            let subgroup = Plan { staging: Staging::Subgroup, chunk: 8, ..plan };
            all.extend([plan, shared, subgroup].map(|p| (p.stem(), p.text())));
        }
        for (threads, heads, chunk) in [(8, 2, 1), (64, 1, 2)] {
            let plan = DecodePlan { head_dim, threads, heads, chunk };
            all.push((plan.stem(), plan.text()));
        }
    }
    all
}

#[cfg(test)]
mod bench;

#[cfg(test)]
mod tests {
    use crate::gpu::{reflect::reflect, resolve};

    #[test]
    fn texts_are_distinct_and_fit_every_adapter() -> anyhow::Result<()> {
        let mut stems = std::collections::HashSet::new();
        for (stem, text) in super::sources() {
            assert!(stems.insert(stem.clone()), "{stem} twice");
            let found = reflect(&stem, &resolve(&text)?)?;
            assert!(found.entry_points.iter().all(|e| e.bindings.len() <= 1 + 7), "{stem}: bindings");
            let module = &found.module;
            let shared = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
            let bytes: u32 = shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
            assert!(bytes <= 16_384, "{stem}: {bytes} bytes of workgroup memory");
        }
        Ok(())
    }
}

//! Causal grouped-query attention within documents, without the T x T matrix (Dao et al. 2022).
//! Generated WGSL: source.rs, decode.rs; which of it a device gets: choose.rs.
//!
//! `qkv` (B, T, (H + 2 Hkv) D) holds query heads, then key heads, then value heads of a token, after RoPE. `positions` (B T) is each
//! token's index in its document: query t of a sequence attends to keys `t - positions[t] ..= t` of that sequence.

mod candidates;
mod checks;
mod choose;
mod decode;
mod decode_tiled;
mod host;
mod passes;
mod source;
mod staging;
mod subgroup_exchange;
pub mod twin;

pub use checks::CHECKS;
pub(super) use choose::HEAD_DIMS;
pub use decode::DecodePlan;
pub use decode_tiled::TiledDecodePlan;
pub use source::{AttentionPass, AttentionPlan, Staging};

use super::stored::StoredShader;
use crate::device::{Cost, Device, Dispatcher, ElementType, Extent, F16, Gpu, Op, Recorder, Tensor, Vendor, grid};
use crate::{bind, shader, uniform};
use anyhow::Context as _;
use bytemuck::{cast_slice, cast_slice_mut};

const CACHES: [&str; 2] = ["cache_k", "cache_v"];
const APPEND: StoredShader = StoredShader { shader: shader!("attention"), buffers: &CACHES, element: ElementType::F16 };

uniform! { struct Dims { batch: u32, time: u32, heads: u32, kv_heads: u32, tiles: u32, scale: f32 } }
uniform! { struct DecodeDims { batch: u32, heads: u32, kv_heads: u32, max_time: u32, cache_rows: u32, scale: f32 } }
uniform! { struct AppendDims { rows: u32, time: u32, max_time: u32, width4: u32, skip4: u32 } }

/// The sizes of an attention problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences, B.
    pub batch: usize,
    /// Tokens per sequence, T.
    pub time: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Key and value heads, Hkv; divides H.
    pub kv_heads: usize,
    /// Width of a head, D: a multiple of 4.
    pub head_dim: usize,
}

impl AttentionShape {
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

    fn check(&self) {
        assert!(self.heads.is_multiple_of(self.kv_heads) && self.head_dim.is_multiple_of(4), "{self:?}");
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

/// `out` (B, T, H D) and `lse` (B T, H), the log of the sum of exponentials of a query's scores.
pub fn forward(r: &mut Recorder<'_>, shape: AttentionShape, qkv: &Tensor, positions: &Tensor, out: &Tensor, lse: &Tensor) {
    let plan = |device: &Device, gpu: &Gpu| choose::plan(device, gpu, AttentionPass::Forward, shape);
    forward_by(r, plan, shape, qkv, positions, out, lse);
}

/// As [`forward`]; on a GPU by the plan that `plan` makes.
fn forward_by(
    r: &mut Recorder<'_>,
    plan: impl Fn(&Device, &Gpu) -> AttentionPlan,
    shape: AttentionShape,
    qkv: &Tensor,
    positions: &Tensor,
    out: &Tensor,
    lse: &Tensor,
) {
    shape.check();
    r.op(
        Op { name: "attention.forward", cost: shape.cost(2.0, 1.0, 1.0), reads: bind!(qkv, positions), writes: bind!(out, lse) },
        |wgsl| dispatch(wgsl, plan(wgsl.device, wgsl.gpu()), shape, 1.0),
        move |cpu, [qkv, positions], [out, lse]| host::forward(cpu, shape, qkv, cast_slice(positions), out, lse),
    );
}

/// All of `dqkv` (B, T, (H + 2 Hkv) D) from `dout`; also writes `delta` (B T, H), the dot products of `dout` and `out`.
pub fn backward(
    r: &mut Recorder<'_>,
    shape: AttentionShape,
    qkv: &Tensor,
    positions: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    dout: &Tensor,
    delta: &Tensor,
    dqkv: &Tensor,
) {
    let plans = |device: &Device, gpu: &Gpu| {
        [AttentionPass::BackwardQuery, AttentionPass::BackwardKey].map(|pass| choose::plan(device, gpu, pass, shape))
    };
    backward_by(r, plans, shape, qkv, positions, out, lse, dout, delta, dqkv);
}

/// As [`backward`]; on a GPU by the plans that `plans` makes, one for the gradient of the queries, one for that of keys and values.
fn backward_by(
    r: &mut Recorder<'_>,
    plans: impl Fn(&Device, &Gpu) -> [AttentionPlan; 2],
    shape: AttentionShape,
    qkv: &Tensor,
    positions: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    dout: &Tensor,
    delta: &Tensor,
    dqkv: &Tensor,
) {
    shape.check();
    r.op(
        Op {
            name: "attention.backward",
            cost: shape.cost(7.0, 3.0, 4.0),
            reads: bind!(qkv, positions, out, lse, dout),
            writes: bind!(delta, dqkv),
        },
        |wgsl| {
            let [query, key] = plans(wgsl.device, wgsl.gpu());
            dispatch(wgsl, query, shape, 3.0 / 7.0)?;
            dispatch(wgsl, key, shape, 4.0 / 7.0)
        },
        move |cpu, [qkv, positions, out, lse, dout], [delta, dqkv]| {
            host::backward(cpu, shape, qkv, cast_slice(positions), out, lse, dout, delta, dqkv);
        },
    );
}

fn dispatch(wgsl: &mut Dispatcher<'_>, plan: AttentionPlan, shape: AttentionShape, share: f64) -> anyhow::Result<()> {
    let tiles = shape.time.div_ceil(plan.tile_rows());
    let heads = if plan.pass == AttentionPass::BackwardKey { shape.kv_heads } else { shape.heads };
    let dims = Dims {
        batch: shape.batch as u32,
        time: shape.time as u32,
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        tiles: tiles as u32,
        scale: shape.scale(),
    };
    let kernel = wgsl.gpu().kernel_from_text(&plan.stem(), &plan.text(), plan.entry(), &[])?;
    let extent =
        Extent { groups: grid((shape.batch * heads * tiles) as u64), iterations: plan.iterations(shape.time, shape.group()) };
    wgsl.dispatch(&kernel, dims, extent, share).with_context(|| format!("a context of {} tokens", shape.time))
}

/// Copy the keys and values of `qkv` (B, T, ...) into the caches (Bmax, Tmax, Hkv D), which are in f32 or half precision: token t of sequence
/// b goes to row `positions[b T + t]` of sequence b. T is 1 when decoding, the length of the prompts before that.
pub fn append(r: &mut Recorder<'_>, shape: AttentionShape, qkv: &Tensor, positions: &Tensor, cache_k: &Tensor, cache_v: &Tensor) {
    let (width, max_time) = (shape.kv_heads * shape.head_dim, cache_k.shape()[1]);
    let work = shape.tokens() * width / 4;
    let (element, is_half) = (cache_k.element(), is_half([cache_k, cache_v]));
    let bytes = (8 * (4 + element.bytes()) * work) as f64;
    r.op(
        Op {
            name: "attention.append",
            cost: Cost { flops: 0.0, bytes },
            reads: bind!(qkv, positions),
            writes: bind!(cache_k, cache_v),
        },
        |wgsl| {
            let dims = AppendDims {
                rows: shape.tokens() as u32,
                time: shape.time as u32,
                max_time: max_time as u32,
                width4: (width / 4) as u32,
                skip4: (shape.heads * shape.head_dim / 4) as u32,
            };
            APPEND.run(wgsl, element, "append", &[], (dims, Extent::without_loops(grid((work as u64).div_ceil(64)))))
        },
        move |_, [qkv, positions], [cache_k, cache_v]| match is_half {
            false => host::append(shape, max_time, qkv, cast_slice(positions), cache_k, cache_v),
            true => {
                let (cache_k, cache_v) = (cast_slice_mut::<f32, F16>(cache_k), cast_slice_mut(cache_v));
                host::append(shape, max_time, qkv, cast_slice(positions), cache_k, cache_v);
            }
        },
    );
}

/// Whether the caches are in half precision.
fn is_half(caches: [&Tensor; 2]) -> bool {
    let [k, v] = caches.map(Tensor::element);
    assert!(k == v && k != ElementType::Bf16, "caches of {k:?} and {v:?}");
    k == ElementType::F16
}

/// One of the two decoding kernels.
#[derive(Clone, Copy)]
enum Decoding {
    /// Every lane has its own keys: for software adapters.
    Lanes(DecodePlan),
    /// Lanes share a key: for GPUs.
    Tiled(TiledDecodePlan),
}

impl Decoding {
    /// Name and text for a cache with elements of this type.
    fn named_text(self, cache: ElementType) -> (String, String) {
        let (stem, text) = match self {
            Self::Lanes(plan) => (plan.stem(), plan.text()),
            Self::Tiled(plan) => (plan.stem(), plan.text()),
        };
        (stem + cache.suffix(), decode::with_cache(&text, cache))
    }

    /// Query heads of a workgroup.
    fn heads(self) -> usize {
        match self {
            Self::Lanes(plan) => plan.heads,
            Self::Tiled(plan) => plan.heads,
        }
    }

    fn iterations(self, time: usize) -> usize {
        match self {
            Self::Lanes(plan) => plan.iterations(time),
            Self::Tiled(plan) => plan.iterations(time),
        }
    }
}

/// `out` (B, H D) of one new token per sequence at index `positions` (B), over keys and values `0 ..= positions[b]` of the caches (Bmax,
/// Tmax, Hkv D). `qkv` is (B, 1, ...); its key and value must have been [`append`]ed. The second and third columns of `assigned` (B, 3) are
/// the cache position (in tokens) of a separate prefix, and its length: 0 if all keys are in the sequence's own row. `shape.time` is not
/// used.
pub fn decode(
    r: &mut Recorder<'_>,
    shape: AttentionShape,
    qkv: &Tensor,
    positions: &Tensor,
    cache_k: &Tensor,
    cache_v: &Tensor,
    assigned: &Tensor,
    out: &Tensor,
) {
    let plan = |device: &Device, gpu: &Gpu| choose::decode_plan(device, gpu, shape, cache_k.shape()[1]);
    decode_by(r, plan, shape, qkv, positions, cache_k, cache_v, assigned, out);
}

/// As [`decode`]; on a GPU by the plan that `plan` makes.
fn decode_by(
    r: &mut Recorder<'_>,
    plan: impl Fn(&Device, &Gpu) -> Decoding,
    shape: AttentionShape,
    qkv: &Tensor,
    positions: &Tensor,
    cache_k: &Tensor,
    cache_v: &Tensor,
    assigned: &Tensor,
    out: &Tensor,
) {
    let (cache_rows, max_time) = (cache_k.shape()[0], cache_k.shape()[1]);
    let (cache, is_half) = (cache_k.element(), is_half([cache_k, cache_v]));
    // The positions are not known here: half of the cache, on average.
    let pairs = (shape.batch * shape.heads * max_time) as f64 / 2.0;
    let rows = (shape.batch * shape.kv_heads * max_time) as f64 / 2.0;
    r.op(
        Op {
            name: "attention.decode",
            cost: Cost { flops: 4.0 * shape.head_dim as f64 * pairs, bytes: (2 * cache.bytes() * shape.head_dim) as f64 * rows },
            reads: bind!(qkv, positions, cache_k, cache_v, assigned),
            writes: bind!(out),
        },
        |wgsl| {
            let plan = plan(wgsl.device, wgsl.gpu());
            let dims = DecodeDims {
                batch: shape.batch as u32,
                heads: shape.heads as u32,
                kv_heads: shape.kv_heads as u32,
                max_time: max_time as u32,
                cache_rows: (cache_rows * max_time) as u32,
                scale: shape.scale(),
            };
            let groups = grid((shape.batch * shape.heads / plan.heads()) as u64);
            let extent = Extent { groups, iterations: plan.iterations(max_time) };
            let (stem, text) = plan.named_text(cache);
            wgsl.run_text((&stem, &text), "decode", dims, extent)
        },
        move |cpu, [qkv, positions, cache_k, cache_v, assigned], [out]| {
            let (positions, assigned) = (cast_slice(positions), cast_slice(assigned));
            match is_half {
                false => host::decode(cpu, shape, qkv, positions, [cache_k, cache_v], max_time, assigned, out),
                true => {
                    let caches = [cache_k, cache_v].map(cast_slice::<f32, F16>);
                    host::decode(cpu, shape, qkv, positions, caches, max_time, assigned, out);
                }
            }
        },
    );
}

const PASSES: [AttentionPass; 3] = [AttentionPass::Forward, AttentionPass::BackwardQuery, AttentionPass::BackwardKey];

/// All texts that a GPU of this vendor may get, at common head widths: (stem, WGSL).
pub fn hardware_sources(vendor: Vendor) -> Vec<(String, String)> {
    choose::sources(vendor)
}

/// The copy into caches in half precision: (stem, WGSL).
pub(super) fn stored_source() -> (String, String) {
    APPEND.source()
}

/// The texts for GPUs of all vendors, each once: (stem, WGSL).
pub fn all_hardware_sources() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for (stem, text) in Vendor::ALL.into_iter().flat_map(hardware_sources) {
        if all.iter().all(|(known, _)| *known != stem) {
            all.push((stem, text));
        }
    }
    all
}

/// The texts for software adapters, at some head widths: (stem, WGSL).
pub fn software_sources() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for head_dim in [8, 32, 64, 128] {
        all.extend(PASSES.map(|pass| choose::direct(pass, head_dim)).map(|p| (p.stem(), p.text())));
        all.extend(with_caches(Decoding::Lanes(DecodePlan { head_dim, threads: 8, heads: 2, chunk: 1 })));
    }
    all
}

/// The texts for caches in f32 and in half precision.
fn with_caches(plan: Decoding) -> [(String, String); 2] {
    [ElementType::F32, ElementType::F16].map(|cache| plan.named_text(cache))
}

#[cfg(test)]
mod bench;

#[cfg(test)]
mod tests {
    use crate::device::{reflect::reflect, resolve};

    #[test]
    fn generated_kernels_are_distinct_and_fit_every_adapter() -> anyhow::Result<()> {
        let mut stems = std::collections::HashSet::new();
        for (stem, text) in [super::all_hardware_sources(), super::software_sources()].concat() {
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

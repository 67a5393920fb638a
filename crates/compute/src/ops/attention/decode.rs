//! Generates the WGSL of attention for one new token per sequence over a cache of keys and values.
//!
//! A workgroup owns `heads` query heads that share a kv head. Its lanes split the keys, so that no row is loaded twice; at the
//! end their (maximum, sum, accumulator) are combined through workgroup memory. The first keys of a row may lie elsewhere in the cache:
//! sequences that begin alike share them.

use super::source::{AttentionPass, AttentionPlan, Staging, Stream};
use crate::device::ElementType;
use crate::ops::stored;
use crate::ops::wgsl_text::WgslText;

/// Parameters of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodePlan {
    /// D, a multiple of 4.
    pub head_dim: usize,
    /// Invocations in a workgroup.
    pub threads: usize,
    /// Query heads of a workgroup; divides the size of a group.
    pub heads: usize,
    /// Keys of a lane that are unrolled.
    pub chunk: usize,
}

pub(super) const BINDINGS: &str = "#import grid
struct Dims { batch: u32, heads: u32, kv_heads: u32, max_time: u32, cache_rows: u32, scale: f32 }

@group(0) @binding(0) var<uniform> dims: Dims;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read> cache_k: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> cache_v: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> assigned: array<u32>;";

pub(super) const HELPERS: &str = "
fn query_at(row: u32, head: u32) -> u32 { return row * (dims.heads + 2u * dims.kv_heads) * D4 + head * D4; }
fn out_at(row: u32, head: u32) -> u32 { return (row * dims.heads + head) * D4; }
fn cache_at(row: u32, kv: u32) -> u32 { return (row * dims.kv_heads + kv) * D4; }
fn load_k(i: u32) -> vec4<f32> { return cache_k[i]; }
fn load_v(i: u32) -> vec4<f32> { return cache_v[i]; }
fn total(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }
// exp of an argument that is at most 0, except for rounding.
fn exp_below(x: f32) -> f32 { return exp(clamp(x, -87.0, 0.0)); }
";

const KEY: Stream = Stream { name: "k", buffer: "cache_k", at: "cache_at", head: "kv", by_call: true };
const VALUE: Stream = Stream { name: "v", buffer: "cache_v", at: "cache_at", head: "kv", by_call: true };

/// A text for caches with elements of this type.
pub(super) fn with_cache(text: &str, element: ElementType) -> String {
    stored::text(text, &super::CACHES, element)
}

impl DecodePlan {
    /// Name of the text, unique.
    pub fn stem(&self) -> String {
        let Self { head_dim, threads, heads, chunk } = self;
        format!("attention_decode_d{head_dim}_w{threads}_r{heads}_c{chunk}")
    }

    /// vec4 that are combined at a time: 8 KiB of workgroup memory.
    fn combined(&self) -> usize {
        (512 / self.threads).min(self.head_dim / 4)
    }

    /// Loop iterations of an invocation over a cache of `time` tokens.
    pub fn iterations(&self, time: usize) -> usize {
        let Self { head_dim, threads, heads, chunk } = *self;
        let stream = time.div_ceil(threads * chunk);
        let parts = (head_dim / 4).div_ceil(self.combined());
        let combine = threads + parts * self.combined().div_ceil(threads) * (1 + threads);
        stream + heads * combine
    }

    /// The text.
    pub fn text(&self) -> String {
        let Self { head_dim, threads, heads, chunk } = *self;
        let body = AttentionPlan {
            pass: AttentionPass::Forward,
            staging: Staging::Direct,
            head_dim,
            threads,
            rows: heads,
            split: 1,
            chunk,
            shuffled: 1,
        };
        let mut t = WgslText::default();
        t.line("// Attention of one new token a sequence over its cache.             made by crates/compute/src/ops/attention/decode.rs");
        t.line(format!("// Head width {head_dim}, {heads} query heads a workgroup, {chunk} keys of a lane at a time."));
        t.line(BINDINGS);
        t.line(format!("const D4 = {}u;", head_dim / 4));
        t.line(format!("var<workgroup> most_slots: array<f32, {threads}>;"));
        t.line(format!("var<workgroup> sum_slots: array<f32, {threads}>;"));
        t.line(format!("var<workgroup> acc_slots: array<vec4<f32>, {}>;", threads * self.combined()));
        t.line(HELPERS);
        t.line(format!("@compute @workgroup_size({threads})"));
        t.line("fn decode(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,");
        t.open("          @builtin(local_invocation_index) local: u32)");
        start(&mut t, heads);
        for r in 0..heads {
            for d in 0..head_dim / 4 {
                t.line(format!("let q{r}_{d} = qkv[query_at(row, head + {r}u) + {d}u] * dims.scale;"));
            }
            t.line(format!("let begin{r} = 0u;"));
            t.line(format!("let reach{r} = newest;"));
            body.start_softmax(&mut t, r);
        }
        t.open(&format!("for (var j = local; j <= newest; j += {}u)", threads * chunk));
        for c in 0..chunk {
            t.line(format!("let key{c} = min(j + {}u, newest);", c * threads));
            t.line(format!(
                "let row{c} = min(select(row * dims.max_time, prefix, key{c} < prefixed) + key{c}, dims.cache_rows - 1u);"
            ));
            t.line(format!("let k{c}_at = cache_at(row{c}, kv);"));
            t.line(format!("let v{c}_at = k{c}_at;"));
        }
        body.dots(&mut t, "s", "q", &KEY);
        for r in 0..heads {
            body.softmax(&mut t, r, threads);
        }
        body.accumulate(&mut t, "acc", "p", &VALUE);
        t.close();
        for r in 0..heads {
            self.combine(&mut t, r);
        }
        t.close();
        t.text
    }

    /// Combine the lanes' partial results of one head, and write it.
    fn combine(&self, t: &mut WgslText, r: usize) {
        let (threads, at_a_time) = (self.threads, self.combined());
        t.line(format!("most_slots[local] = most{r};"));
        t.line("workgroupBarrier();");
        t.line(format!("var peak{r} = most_slots[0];"));
        t.line(format!("for (var i = 1u; i < {threads}u; i++) {{ peak{r} = max(peak{r}, most_slots[i]); }}"));
        t.line(format!("let weight{r} = exp_below(most{r} - peak{r});"));
        t.line(format!("sum_slots[local] = sum{r} * weight{r};"));
        for d in (0..self.head_dim / 4).step_by(at_a_time) {
            let now = at_a_time.min(self.head_dim / 4 - d);
            for i in 0..now {
                t.line(format!("acc_slots[{}u + local] = acc{r}_{} * weight{r};", i * threads, d + i));
            }
            t.line("workgroupBarrier();");
            t.open(&format!("for (var i = local; i < {now}u && inside; i += {threads}u)"));
            t.line("var sum = 0.0;");
            t.line("var acc = vec4<f32>(0.0);");
            t.open(&format!("for (var other = 0u; other < {threads}u; other++)"));
            t.line("sum += sum_slots[other];");
            t.line(format!("acc += acc_slots[i * {threads}u + other];"));
            t.close();
            t.line(format!("out[out_at(row, head + {r}u) + {d}u + i] = acc * (1.0 / max(sum, 1e-30));"));
            t.close();
            t.line("workgroupBarrier();");
        }
    }
}

/// Open a kernel: the row of this workgroup, its `heads` query heads, and the keys that they see. All are the same for every invocation of the
/// workgroup.
pub(super) fn start(t: &mut WgslText, heads: usize) {
    t.line("let item = linear_group(group, groups);");
    t.line(format!("let per_row = dims.heads / {heads}u;"));
    t.line("let inside = item / per_row < dims.batch;");
    t.line("let row = min(item / per_row, dims.batch - 1u);");
    t.line(format!("let head = item % per_row * {heads}u; // the first of this workgroup"));
    t.line("let kv = head / (dims.heads / dims.kv_heads);");
    t.line("let newest = min(positions[row], dims.max_time - 1u);");
    t.line("let prefix = assigned[3u * row + 1u];");
    t.line("let prefixed = assigned[3u * row + 2u];");
}

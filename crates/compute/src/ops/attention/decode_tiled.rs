//! Generates the WGSL of decoding for GPUs, with many lanes and coalesced loads.
//!
//! A workgroup owns `heads` query heads that share a kv head and goes over the cache in tiles of `keys` keys. First several neighbouring
//! threads share a key, each with some of its vec4, so that a wave reads whole cache lines; their sums meet in workgroup memory. Then every
//! thread owns one vec4 of the head and every n-th key of the tile, and adds up values; at the end these sums meet, too. No thread holds more
//! than a few numbers, whatever the head width.

use super::decode::{self, BINDINGS, HELPERS};
use super::source::neighbour;
use crate::ops::wgsl_text::WgslText;

/// Scores whose maximum one thread takes.
const OCTET: usize = 8;

/// Parameters of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TiledDecodePlan {
    /// D, a multiple of 4, at most 512.
    pub head_dim: usize,
    /// Query heads of a workgroup, at most 4; divides the size of a group.
    pub heads: usize,
    /// Invocations in a workgroup: a power of two.
    pub threads: usize,
    /// Keys of a tile: a power of two, at most twice the invocations.
    pub keys: usize,
    /// Threads that share a key: a power of two that divides `head_dim / 4`.
    pub split: usize,
    /// Threads of a key that add up their sums by subgroup operations: a power of two, at most `split`. 1: through workgroup memory.
    pub shuffled: usize,
}

impl TiledDecodePlan {
    /// The plan that is used without measurements.
    pub fn new(head_dim: usize, heads: usize) -> Self {
        let split = Self::split_for(head_dim, 8);
        Self { head_dim, heads, threads: 128, keys: if heads == 1 { 128 } else { 64 }, split, shuffled: 1 }
    }

    /// The largest number of threads that can share a key, up to `most`.
    pub(super) fn split_for(head_dim: usize, most: usize) -> usize {
        [16, 8, 4, 2].into_iter().find(|&s| s <= most && (head_dim / 4).is_multiple_of(s)).unwrap_or(1)
    }

    /// Few enough numbers a thread that no compiler of `scripts/check-gpus` spills: 48 of the queries. At least one thread for each vec4 of
    /// the head, and whole rounds of keys, so that subgroup operations find all threads.
    pub fn fits(&self) -> bool {
        let Self { heads, threads, keys, split, shuffled, .. } = *self;
        let rounds = shuffled == 1 || (keys * split).is_multiple_of(threads);
        let small = heads <= 4 && heads * self.width4() / split <= 12 && self.memory() <= 16_384;
        small && rounds && keys <= 2 * threads && self.width4() <= threads
    }

    /// Bytes of workgroup memory.
    fn memory(&self) -> usize {
        let Self { heads, threads, keys, .. } = *self;
        4 * (heads * ((keys + 4) * self.parts() + keys + keys / OCTET) + keys + 5 * threads)
    }

    /// Name of the text, unique.
    pub fn stem(&self) -> String {
        format!("attention_decode_tiled_d{}_{}", self.head_dim, self.name())
    }

    /// Name among the plans of the same head width.
    pub fn name(&self) -> String {
        let Self { heads, threads, keys, split, shuffled, .. } = self;
        let exchange = if *shuffled > 1 { format!("_x{shuffled}") } else { String::new() };
        format!("w{threads}_r{heads}_k{keys}_s{split}{exchange}")
    }

    fn width4(&self) -> usize {
        self.head_dim / 4
    }

    /// Parts of a score that meet in workgroup memory.
    fn parts(&self) -> usize {
        self.split / self.shuffled
    }

    /// Threads that own the same vec4 of the head, each with other keys.
    fn groups(&self) -> usize {
        self.threads / self.width4()
    }

    /// Scores that a thread owns, at most.
    fn items(&self) -> usize {
        (self.heads * self.keys).div_ceil(self.threads)
    }

    /// Loop iterations of an invocation over a cache of `time` tokens.
    pub fn iterations(&self, time: usize) -> usize {
        let Self { heads, threads, keys, split, .. } = *self;
        let tile = 1 + (keys * split).div_ceil(threads) + keys.div_ceil(self.groups());
        time.div_ceil(keys) * tile + heads * self.groups()
    }

    /// The text.
    pub fn text(&self) -> String {
        let Self { head_dim, heads, threads, keys, split, .. } = *self;
        let (parts, width4) = (self.parts(), self.width4());
        let mut t = WgslText::default();
        t.line("// Attention of one new token a sequence over its cache.             made by crates/compute/src/ops/attention/decode_tiled.rs");
        t.line(format!(
            "// Head width {head_dim}, {heads} query heads a workgroup, tiles of {keys} keys, {split} threads a key."
        ));
        t.line(BINDINGS);
        t.line(format!("const D4 = {width4}u;"));
        // Rows of part_scores are 4 longer than a tile: threads that share a key write to different banks.
        t.line(format!("var<workgroup> part_scores: array<array<array<f32, {}>, {parts}>, {heads}>;", keys + 4));
        t.line(format!("var<workgroup> weights: array<array<f32, {keys}>, {heads}>;"));
        t.line(format!("var<workgroup> maxima: array<array<f32, {}>, {heads}>;", keys / OCTET));
        t.line(format!("var<workgroup> key_rows: array<u32, {keys}>;"));
        t.line(format!("var<workgroup> acc_slots: array<vec4<f32>, {threads}>;"));
        t.line(format!("var<workgroup> sum_slots: array<f32, {threads}>;"));
        t.line(HELPERS);
        t.line(format!("@compute @workgroup_size({threads})"));
        t.line("fn decode(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,");
        t.open("          @builtin(local_invocation_index) local: u32)");
        self.start(&mut t);
        t.open(&format!("for (var first = 0u; first <= newest; first += {keys}u)"));
        self.score(&mut t);
        self.weigh(&mut t);
        self.add_values(&mut t);
        t.line("workgroupBarrier();");
        t.close();
        for h in 0..heads {
            self.combine(&mut t, h);
        }
        t.close();
        t.text
    }

    fn start(&self, t: &mut WgslText) {
        let Self { heads, split, .. } = *self;
        // Barriers in the loop over keys need bounds that are the same for the whole workgroup.
        decode::start(t, heads);
        t.line(format!("let part = local % {split}u; // of a key"));
        t.line("let column = local % D4; // of a value");
        t.line("let last_row = cache_at(dims.cache_rows - 1u, kv);");
        for h in 0..heads {
            for d in 0..self.width4() / split {
                t.line(format!("let q{h}_{d} = qkv[query_at(row, head + {h}u) + part + {}u] * dims.scale;", d * split));
            }
            t.line(format!("var acc{h} = vec4<f32>(0.0);"));
            t.line(format!("var sum{h} = 0.0;"));
            t.line(format!("var most{h} = -1e9;"));
        }
    }

    /// Parts of the scores of a tile, and where its rows are.
    fn score(&self, t: &mut WgslText) {
        let Self { heads, threads, keys, split, shuffled, .. } = *self;
        if shuffled > 1 {
            // The same rounds for all threads, as subgroup operations demand.
            t.open(&format!("for (var round = 0u; round < {keys}u; round += {}u)", threads / split));
            t.line(format!("let k = round + local / {split}u;"));
        } else {
            t.open(&format!("for (var k = local / {split}u; k < {keys}u; k += {}u)", threads / split));
        }
        t.line("let key = min(first + k, newest);");
        t.line("let place = min(select(row * dims.max_time, prefix, key < prefixed) + key, dims.cache_rows - 1u);");
        t.line("let at = cache_at(place, kv);");
        for d in 0..self.width4() / split {
            t.line(format!("let k_{d} = load_k(at + part + {}u);", d * split));
        }
        for h in 0..heads {
            let products: Vec<_> = (0..self.width4() / split).map(|d| format!("q{h}_{d} * k_{d}")).collect();
            let sum = format!("total({})", products.join(" + "));
            if shuffled == 1 {
                t.line(format!("part_scores[{h}][part][k] = {sum};"));
                continue;
            }
            t.line(format!("var score{h} = {sum};"));
            for distance in (0..shuffled.ilog2()).map(|bit| 1 << bit) {
                t.line(format!("score{h} += {};", neighbour(&format!("score{h}"), distance)));
            }
        }
        if shuffled > 1 {
            // Threads that used subgroup operations have the same sums: one of them stores them.
            t.open(&format!("if part % {shuffled}u == 0u"));
            for h in 0..heads {
                t.line(format!("part_scores[{h}][part / {shuffled}u][k] = score{h};"));
            }
            t.close();
        }
        t.open("if part == 0u");
        t.line("key_rows[k] = at;");
        t.close();
        t.close();
        t.line("workgroupBarrier();");
    }

    /// Scores to weights: online softmax, rescaled once a tile.
    fn weigh(&self, t: &mut WgslText) {
        let Self { heads, threads, keys, .. } = *self;
        let owned = heads * keys;
        for i in 0..self.items() {
            // The last item is not every thread's: those past the end repeat the last score.
            let clamp = (i + 1) * threads > owned;
            let index = format!("local + {}u", i * threads);
            t.line(format!("let item{i} = {};", if clamp { format!("min({index}, {}u)", owned - 1) } else { index }));
            let place = |p: usize| format!("part_scores[item{i} / {keys}u][{p}][item{i} % {keys}u]");
            let parts: Vec<_> = (0..self.parts()).map(place).collect();
            t.line(format!("let seen{i} = first + item{i} % {keys}u <= newest;"));
            t.line(format!("let score{i} = select(-1e9, {}, seen{i});", parts.join(" + ")));
            t.line(format!("weights[item{i} / {keys}u][item{i} % {keys}u] = score{i};"));
        }
        t.line("workgroupBarrier();");
        t.open(&format!("if local < {}u", owned / OCTET));
        t.line(format!("let h = local / {}u;", keys / OCTET));
        t.line(format!("let octet = local % {}u;", keys / OCTET));
        let most = (0..OCTET).map(|i| format!("weights[h][octet * {OCTET}u + {i}u]")).reduce(|a, b| format!("max({a}, {b})"));
        t.line(format!("maxima[h][octet] = {};", most.unwrap_or_default()));
        t.close();
        t.line("workgroupBarrier();");
        for h in 0..heads {
            let most = (0..keys / OCTET).fold(format!("most{h}"), |most, i| format!("max({most}, maxima[{h}][{i}])"));
            t.line(format!("let rise{h} = {most};"));
            t.line(format!("let shrink{h} = exp_below(most{h} - rise{h});"));
            t.line(format!("most{h} = rise{h};"));
            t.line(format!("acc{h} *= shrink{h};"));
            t.line(format!("sum{h} *= shrink{h};"));
        }
        for i in 0..self.items() {
            let rise = (1..heads).fold("rise0".to_string(), |r, h| format!("select({r}, rise{h}, item{i} / {keys}u == {h}u)"));
            t.line(format!(
                "weights[item{i} / {keys}u][item{i} % {keys}u] = select(0.0, exp_below(score{i} - {rise}), seen{i});"
            ));
        }
        t.line("workgroupBarrier();");
    }

    fn add_values(&self, t: &mut WgslText) {
        let (keys, groups) = (self.keys, self.groups());
        let idle = self.threads != groups * self.width4();
        if idle {
            t.open(&format!("if local < {}u", groups * self.width4()));
        }
        t.open(&format!("for (var k = local / D4; k < {keys}u; k += {groups}u)"));
        t.line("let value = load_v(min(key_rows[k], last_row) + column);");
        for h in 0..self.heads {
            t.line(format!("let p{h} = weights[{h}][k];"));
            t.line(format!("acc{h} += p{h} * value;"));
            t.line(format!("sum{h} += p{h};"));
        }
        t.close();
        if idle {
            t.close();
        }
    }

    /// Combine the threads' partial results of one head, and write it.
    fn combine(&self, t: &mut WgslText, h: usize) {
        t.line(format!("acc_slots[local] = acc{h};"));
        t.line(format!("sum_slots[local] = sum{h};"));
        t.line("workgroupBarrier();");
        t.open("if local < D4 && inside");
        t.line("var sum = 0.0;");
        t.line("var acc = vec4<f32>(0.0);");
        t.open(&format!("for (var g = 0u; g < {}u; g++)", self.groups()));
        t.line("sum += sum_slots[g * D4 + local];");
        t.line("acc += acc_slots[g * D4 + local];");
        t.close();
        t.line(format!("out[out_at(row, head + {h}u) + local] = acc * (1.0 / max(sum, 1e-30));"));
        t.close();
        if h + 1 < self.heads {
            t.line("workgroupBarrier();");
        }
    }
}

//! Generates the WGSL of the three passes of attention: declarations and building blocks; bodies in passes.rs, loops in staging.rs.
//!
//! The head dimension must be unrolled in the text: q, k, accumulators are named registers, as a loop over a private array is ten times
//! slower on software adapters. One family serves every adapter; what differs is [`Staging`], how the streamed rows reach the lanes.
//! `cargo test --lib print_attention -- --ignored --nocapture` prints the texts.

use crate::ops::wgsl_text::WgslText;
use std::fmt::Write as _;

/// How the rows that every lane of a tile needs (keys and values; in the key pass queries and `dout`) reach the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Staging {
    /// Each lane loads them from storage: runs anywhere.
    Direct,
    /// The workgroup loads a tile into workgroup memory: for GPUs.
    Shared,
}

/// One of the three kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionPass {
    /// `out`, `lse`: a thread owns query rows, keys and values stream by.
    Forward,
    /// `delta` and the query columns of `dqkv`: as forward.
    BackwardQuery,
    /// The key and value columns of `dqkv`: a thread owns key rows, queries and `dout` stream by.
    BackwardKey,
}

/// Parameters of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionPlan {
    /// The pass of the kernel.
    pub pass: AttentionPass,
    /// The path of streamed rows to the lanes.
    pub staging: Staging,
    /// D, a multiple of 4.
    pub head_dim: usize,
    /// Invocations in a workgroup.
    pub threads: usize,
    /// Rows that a thread owns.
    pub rows: usize,
    /// Neighbouring threads that share a row, each with its part of the head dimension; more than 1 needs [`Staging::Shared`].
    pub split: usize,
    /// Streamed rows that are unrolled: between two of them nothing is rescaled.
    pub chunk: usize,
    /// Neighbouring threads of a row that add up their sums by subgroup operations: a power of two that divides `split`. 1: all sums go
    /// through workgroup memory.
    pub shuffled: usize,
}

/// A matrix whose rows stream by.
pub(super) struct Stream {
    pub name: &'static str,
    pub buffer: &'static str,
    /// WGSL function (row, head) -> first vec4.
    pub at: &'static str,
    /// WGSL variable.
    pub head: &'static str,
    /// Whether it is read by a function `load_{name}` instead of an index.
    pub by_call: bool,
}

pub(super) const KEY: Stream = Stream { name: "k", buffer: "qkv", at: "key_at", head: "kv", by_call: false };
pub(super) const VALUE: Stream = Stream { name: "v", buffer: "qkv", at: "value_at", head: "kv", by_call: false };
pub(super) const QUERY: Stream = Stream { name: "q", buffer: "qkv", at: "query_at", head: "head", by_call: false };
pub(super) const DOUT: Stream = Stream { name: "g", buffer: "dout", at: "out_at", head: "head", by_call: false };

const BINDINGS: [(&str, &str, &str); 7] = [
    ("qkv", "read", "array<vec4<f32>>"),
    ("positions", "read", "array<u32>"),
    ("out", "read", "array<vec4<f32>>"),
    ("lse", "read", "array<f32>"),
    ("dout", "read", "array<vec4<f32>>"),
    ("delta", "read", "array<f32>"),
    ("dqkv", "read_write", "array<vec4<f32>>"),
];

const HELPERS: &str = "
// Where row `row` (batch * time + t) of a head starts, in vec4.
fn row_width() -> u32 { return (dims.heads + 2u * dims.kv_heads) * D4; }
fn query_at(row: u32, head: u32) -> u32 { return row * row_width() + head * D4; }
fn key_at(row: u32, kv: u32) -> u32 { return row * row_width() + (dims.heads + kv) * D4; }
fn value_at(row: u32, kv: u32) -> u32 { return row * row_width() + (dims.heads + dims.kv_heads + kv) * D4; }
fn out_at(row: u32, head: u32) -> u32 { return (row * dims.heads + head) * D4; }
fn total(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }
// exp of an argument that is at most 0, except for rounding.
fn exp_below(x: f32) -> f32 { return exp(clamp(x, -87.0, 0.0)); }
";

impl AttentionPlan {
    /// Name of the text, unique.
    pub fn stem(&self) -> String {
        let staging = format!("{:?}", self.staging).to_lowercase();
        format!("attention_{}_{staging}_d{}_{}", self.entry(), self.head_dim, self.name())
    }

    /// Name among the plans of the same pass and head width.
    pub fn name(&self) -> String {
        let Self { threads, rows, split, chunk, shuffled, .. } = self;
        let exchange = if *shuffled > 1 { format!("_x{shuffled}") } else { String::new() };
        format!("w{threads}_r{rows}_s{split}_c{chunk}{exchange}")
    }

    /// Name of its entry point.
    pub fn entry(&self) -> &'static str {
        match self.pass {
            AttentionPass::Forward => "forward",
            AttentionPass::BackwardQuery => "backward_query",
            AttentionPass::BackwardKey => "backward_key",
        }
    }

    /// Rows that a workgroup owns.
    pub fn tile_rows(&self) -> usize {
        self.threads / self.split * self.rows
    }

    /// A plan of a GPU: at most `vectors` vec4 of each matrix's row in a thread, `chunk` streamed rows at a time, about `threads`
    /// invocations, and as many as `lanes` neighbours that use subgroup operations.
    pub(super) fn shared(
        pass: AttentionPass,
        head_dim: usize,
        vectors: usize,
        chunk: usize,
        threads: usize,
        lanes: usize,
    ) -> Self {
        let width4 = head_dim / 4;
        let split = (1..=width4).find(|&s| width4.is_multiple_of(s) && width4 / s <= vectors).unwrap_or(width4);
        // Whole waves where that goes.
        let sizes: Vec<usize> = match threads {
            256 => vec![256, 192, 160, 128],
            _ => vec![128, 160, 192, 256],
        };
        let threads = sizes.into_iter().find(|t| t.is_multiple_of(split)).unwrap_or(128 / split * split);
        let shuffled = 1 << split.trailing_zeros().min(lanes.ilog2());
        Self { pass, staging: Staging::Shared, head_dim, threads, rows: 1, split, chunk, shuffled }
    }

    /// Threads' sums of a row that meet in workgroup memory.
    fn exchanging(&self) -> usize {
        self.split / self.shuffled
    }

    /// Bytes of workgroup memory for exchanged sums.
    fn exchange_memory(&self) -> usize {
        if self.exchanging() > 1 { 2 * 4 * self.threads / self.shuffled * self.exchanged() } else { 0 }
    }

    /// Whether sums and at least one chunk of streamed rows fit in the workgroup memory that every adapter has.
    pub(super) fn fits(&self) -> bool {
        self.exchange_memory() + self.chunk * (2 * 4 * self.head_dim + 12) <= 16_384
    }

    /// Streamed rows that lie in workgroup memory at a time: two matrices of them, three numbers each, and the exchanged sums fit in 16 KiB.
    pub(super) fn staged_rows(&self) -> usize {
        let rows = 16_384_usize.saturating_sub(self.exchange_memory()) / (2 * 4 * self.head_dim + 12);
        (rows / self.chunk).clamp(1, 32 / self.chunk) * self.chunk
    }

    /// Loop iterations of an invocation over a sequence of `time` tokens, where `group` query heads share a key head.
    pub fn iterations(&self, time: usize, group: usize) -> usize {
        let once = match self.staging {
            Staging::Direct => time.div_ceil(self.chunk) + 1,
            Staging::Shared => {
                let staged = self.staged_rows();
                let copies = (staged * self.head_dim / 4).div_ceil(self.threads) + staged.div_ceil(self.threads);
                (time.div_ceil(staged) + 1) * (1 + copies + staged.div_ceil(self.chunk))
            }
        };
        if self.pass == AttentionPass::BackwardKey { group * (1 + once) } else { once }
    }

    /// vec4 of a row that one thread holds.
    pub(super) fn part(&self) -> usize {
        self.head_dim / 4 / self.split
    }

    pub(super) fn streams(&self) -> [Stream; 2] {
        if self.pass == AttentionPass::BackwardKey { [QUERY, DOUT] } else { [KEY, VALUE] }
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut t = WgslText::default();
        self.header(&mut t);
        t.line(format!("@compute @workgroup_size({})", self.threads));
        t.line(format!(
            "fn {}(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,",
            self.entry()
        ));
        t.open("    @builtin(local_invocation_index) local: u32)");
        match self.pass {
            AttentionPass::Forward => self.forward(&mut t),
            AttentionPass::BackwardQuery => self.backward_query(&mut t),
            AttentionPass::BackwardKey => self.backward_key(&mut t),
        }
        t.close();
        t.text
    }

    pub(super) fn header(&self, t: &mut WgslText) {
        let Self { head_dim, rows, split, chunk, staging, .. } = self;
        t.line(
            "// Causal grouped-query attention within documents.             made by crates/compute/src/ops/attention/source.rs",
        );
        t.line(format!(
            "// {staging:?}: head width {head_dim} over {split} threads, {rows} rows a thread, {chunk} streamed rows at a time."
        ));
        t.line("#import grid");
        t.line("struct Dims { batch: u32, time: u32, heads: u32, kv_heads: u32, tiles: u32, scale: f32 }");
        t.line("");
        t.line("@group(0) @binding(0) var<uniform> dims: Dims;");
        for (i, (name, access, kind)) in BINDINGS.iter().enumerate() {
            let (used, written) = match self.pass {
                AttentionPass::Forward => (["qkv", "positions", "out", "lse"].contains(name), ["out", "lse"].contains(name)),
                AttentionPass::BackwardQuery => (true, *name == "delta"),
                AttentionPass::BackwardKey => (*name != "out", false),
            };
            let access = if written { "read_write" } else { access };
            if used {
                t.line(format!("@group(0) @binding({}) var<storage, {access}> {name}: {kind};", i + 1));
            }
        }
        t.line(format!("const D4 = {}u;", head_dim / 4));
        if self.staging == Staging::Shared {
            let staged = self.staged_rows();
            // Nested, so that a constant index needs no bounds check: [streamed row][of a thread's part][thread of the row].
            for stream in self.streams() {
                t.line(format!(
                    "var<workgroup> {}_tile: array<array<array<vec4<f32>, {split}>, {}>, {staged}>;",
                    stream.name,
                    self.part()
                ));
            }
            if self.pass == AttentionPass::BackwardKey {
                t.line(format!("var<workgroup> lse_tile: array<f32, {staged}>;"));
                t.line(format!("var<workgroup> delta_tile: array<f32, {staged}>;"));
                t.line(format!("var<workgroup> reach_tile: array<u32, {staged}>;"));
            }
            if self.exchanging() > 1 {
                // Two sets, used alternately, so that one barrier is enough for an exchange.
                let lanes = self.threads / split;
                t.line(format!(
                    "var<workgroup> part_sums: array<array<array<array<f32, {}>, {lanes}>, {}>, 2>;",
                    self.exchanging(),
                    self.exchanged()
                ));
            }
        }
        t.text.push_str(HELPERS);
        t.line("");
    }

    /// Sums that threads of a row exchange at a time.
    pub(super) fn exchanged(&self) -> usize {
        self.rows * self.chunk * if self.pass == AttentionPass::Forward { 1 } else { 2 }
    }

    /// Which tile of which head this workgroup owns, and which rows this thread. Heavy tiles come first.
    pub(super) fn place(&self, t: &mut WgslText) {
        let keys = self.pass == AttentionPass::BackwardKey;
        let (heads, head) = if keys { ("dims.kv_heads", "kv") } else { ("dims.heads", "head") };
        t.line("let item = linear_group(group, groups);");
        t.line(format!("let {head} = item / dims.tiles % {heads};"));
        t.line(format!("let batch = item / dims.tiles / {heads};"));
        t.line("let base = min(batch, dims.batch - 1u) * dims.time; // row of the sequence's first token");
        if keys {
            t.line("let group_size = dims.heads / dims.kv_heads;");
            t.line(format!("let first = item % dims.tiles * {}u;", self.tile_rows()));
        } else {
            t.line("let kv = head / (dims.heads / dims.kv_heads);");
            t.line(format!("let first = (dims.tiles - 1u - item % dims.tiles) * {}u;", self.tile_rows()));
        }
        let lane = if self.split > 1 { format!("local / {}u", self.split) } else { "local".to_string() };
        if self.split > 1 {
            t.line(format!(
                "let part = local % {}u; // this thread owns every {}th vec4 of the head dimension",
                self.split, self.split
            ));
        }
        if self.exchanging() > 1 {
            t.line("var parity = 0u;");
        }
        for r in 0..self.rows {
            let offset = r * self.threads / self.split;
            t.line(format!("let t{r} = min(first + {lane} + {offset}u, dims.time - 1u);"));
            t.line(format!("let own{r} = batch < dims.batch && first + {lane} + {offset}u < dims.time;"));
        }
    }

    /// A query sees the keys begin ..= begin + reach; one unsigned comparison tells, as a key before `begin` wraps around.
    pub(super) fn reach(&self, t: &mut WgslText) {
        for r in 0..self.rows {
            t.line(format!("let reach{r} = positions[base + t{r}];"));
            t.line(format!("let begin{r} = t{r} - reach{r};"));
        }
    }

    /// `{name}{r}_{c}` = own row r . streamed row c, for all r and c; each streamed vec4 is fetched once for all own rows.
    pub(super) fn dots(&self, t: &mut WgslText, name: &str, own: &str, stream: &Stream) {
        for c in 0..self.chunk {
            for d in 0..self.part() {
                let x = format!("{name}_{}{c}_{d}", stream.name);
                let mut line = format!("let {x} = {};", self.fetch(stream, c, d));
                for r in 0..self.rows {
                    let _ = match d {
                        0 => write!(line, " var {name}{r}_{c}_v = {own}{r}_{d} * {x};"),
                        _ => write!(line, " {name}{r}_{c}_v += {own}{r}_{d} * {x};"),
                    };
                }
                t.line(&line);
            }
            for r in 0..self.rows {
                t.line(format!("var {name}{r}_{c} = total({name}{r}_{c}_v);"));
            }
        }
    }

    /// own row r += sum over c of `{weight}{r}_{c}` * streamed row c.
    pub(super) fn accumulate(&self, t: &mut WgslText, own: &str, weight: &str, stream: &Stream) {
        for d in 0..self.part() {
            for c in 0..self.chunk {
                let x = format!("{own}_{}{c}_{d}", stream.name);
                let mut line = format!("let {x} = {};", self.fetch(stream, c, d));
                for r in 0..self.rows {
                    let _ = write!(line, " {own}{r}_{d} += {weight}{r}_{c} * {x};");
                }
                t.line(&line);
            }
        }
    }

    pub(super) fn exchange(&self, t: &mut WgslText, names: &[&str]) {
        let all: Vec<_> = names
            .iter()
            .flat_map(|n| (0..self.rows).flat_map(move |r| (0..self.chunk).map(move |c| format!("{n}{r}_{c}"))))
            .collect();
        self.exchange_of(t, &all);
    }

    /// Threads that share a row add up what each has of these sums.
    pub(super) fn exchange_of(&self, t: &mut WgslText, sums: &[String]) {
        for name in sums {
            for distance in (0..self.shuffled.ilog2()).map(|bit| 1 << bit) {
                t.line(format!("{name} += {};", neighbour(name, distance)));
            }
        }
        if self.exchanging() == 1 {
            return;
        }
        let row = format!("[local / {}u]", self.split);
        // Threads that used subgroup operations have the same sum: one of them stores it.
        let (place, one) = match self.shuffled {
            1 => ("[part]".to_string(), None),
            n => (format!("[part / {n}u]"), Some(format!("if part % {n}u == 0u"))),
        };
        if let Some(one) = &one {
            t.open(one);
        }
        for (i, name) in sums.iter().enumerate() {
            t.line(format!("part_sums[parity][{i}]{row}{place} = {name};"));
        }
        if one.is_some() {
            t.close();
        }
        t.line("workgroupBarrier();");
        for (i, name) in sums.iter().enumerate() {
            let parts: Vec<_> = (0..self.exchanging()).map(|p| format!("part_sums[parity][{i}]{row}[{p}]")).collect();
            t.line(format!("{name} = {};", parts.join(" + ")));
        }
        t.line("parity = 1u - parity;");
    }

    pub(super) fn load(&self, t: &mut WgslText, name: &str, r: usize, at: &str, head: &str, scale: &str) {
        let part = if self.split > 1 { " + part" } else { "" };
        for d in 0..self.part() {
            t.line(format!("let {name}{r}_{d} = {at}(base + t{r}, {head}){part} + {}u]{scale};", d * self.split));
        }
    }

    pub(super) fn zero(&self, t: &mut WgslText, name: &str, r: usize) {
        for d in 0..self.part() {
            t.line(format!("var {name}{r}_{d} = vec4<f32>(0.0);"));
        }
    }

    pub(super) fn store(&self, t: &mut WgslText, at: &str, head: &str, name: &str, r: usize, scale: &str) {
        let part = if self.split > 1 { " + part" } else { "" };
        for d in 0..self.part() {
            t.line(format!("{at}(base + t{r}, {head}){part} + {}u] = {name}{r}_{d}{scale};", d * self.split));
        }
    }
}

/// The value of a variable in the invocation whose index in the subgroup differs in the bit `distance`.
pub(super) fn neighbour(name: &str, distance: usize) -> String {
    match distance {
        1 => format!("quadSwapX({name})"),
        2 => format!("quadSwapY({name})"),
        _ => format!("subgroupShuffleXor({name}, {distance}u)"),
    }
}

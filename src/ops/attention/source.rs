//! Writes the WGSL of the three passes of attention.
//!
//! The head dimension must be unrolled in the text: q, k, accumulators are named registers, as a loop over a private array is ten times
//! slower on software adapters. One family serves every adapter; what differs is [`Staging`], how the streamed rows reach the lanes.
//! `cargo test -p lehr print_attention -- --ignored --nocapture` prints the texts.

use super::text::Text;
use std::fmt::Write as _;

/// How the rows that every lane of a tile needs (keys and values; in the key pass queries and `dout`) reach the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Staging {
    /// Each lane loads them from storage: runs anywhere.
    Direct,
    /// The workgroup loads a tile into workgroup memory: for GPUs.
    Shared,
    /// Lane i of a subgroup loads row i, `subgroupBroadcast` feeds the others: for software adapters, where a load of 8 lanes costs the
    /// same whether they want one row or eight. The workgroup is exactly one subgroup.
    Subgroup,
}

/// One of the three kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// `out`, `lse`: a thread owns query rows, keys and values stream by.
    Forward,
    /// `delta` and the query columns of `dqkv`: as forward.
    BackwardQuery,
    /// The key and value columns of `dqkv`: a thread owns key rows, queries and `dout` stream by.
    BackwardKey,
}

/// Everything that shapes a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Which kernel.
    pub pass: Pass,
    /// How streamed rows arrive.
    pub staging: Staging,
    /// D, a multiple of 4.
    pub head_dim: usize,
    /// Invocations in a workgroup; with [`Staging::Subgroup`] the subgroup size.
    pub threads: usize,
    /// Rows that a thread owns.
    pub rows: usize,
    /// Neighbouring threads that share a row, each with its part of the head dimension; more than 1 needs [`Staging::Shared`].
    pub split: usize,
    /// Streamed rows that are unrolled: between two of them nothing is rescaled.
    pub chunk: usize,
}

/// A matrix whose rows stream by.
pub(super) struct Stream {
    pub name: &'static str,
    pub buffer: &'static str,
    /// WGSL function (row, head) -> first vec4.
    pub at: &'static str,
    /// WGSL variable.
    pub head: &'static str,
}

const KEY: Stream = Stream { name: "k", buffer: "qkv", at: "key_at", head: "kv" };
const VALUE: Stream = Stream { name: "v", buffer: "qkv", at: "value_at", head: "kv" };
const QUERY: Stream = Stream { name: "q", buffer: "qkv", at: "query_at", head: "head" };
const DOUT: Stream = Stream { name: "g", buffer: "dout", at: "out_at", head: "head" };

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
// exp of what is never above 0, but for rounding.
fn exp_below(x: f32) -> f32 { return exp(clamp(x, -87.0, 0.0)); }
";

impl Plan {
    /// Name of the text, unique.
    pub fn stem(&self) -> String {
        let staging = format!("{:?}", self.staging).to_lowercase();
        let Self { head_dim, threads, rows, split, chunk, .. } = self;
        format!("attention_{}_{staging}_d{head_dim}_w{threads}_r{rows}_s{split}_c{chunk}", self.entry())
    }

    /// Name of its entry point.
    pub fn entry(&self) -> &'static str {
        match self.pass {
            Pass::Forward => "forward",
            Pass::BackwardQuery => "backward_query",
            Pass::BackwardKey => "backward_key",
        }
    }

    /// Rows that a workgroup owns.
    pub fn tile_rows(&self) -> usize {
        self.threads / self.split * self.rows
    }

    /// Streamed rows that lie in workgroup memory at a time: two matrices of them and the exchanged sums fit in 16 KiB.
    fn staged_rows(&self) -> usize {
        (1280 / self.head_dim / self.chunk).clamp(1, 32 / self.chunk.min(32)) * self.chunk
    }

    /// vec4 of a row that one thread holds.
    fn part(&self) -> usize {
        self.head_dim / 4 / self.split
    }

    fn streams(&self) -> [Stream; 2] {
        if self.pass == Pass::BackwardKey { [QUERY, DOUT] } else { [KEY, VALUE] }
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut t = Text::default();
        self.header(&mut t);
        let lane = if self.staging == Staging::Subgroup { ", @builtin(subgroup_invocation_id) lane: u32" } else { "" };
        t.line(&format!("@compute @workgroup_size({})", self.threads));
        t.line(&format!(
            "fn {}(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,",
            self.entry()
        ));
        t.open(&format!("    @builtin(local_invocation_index) local: u32{lane})"));
        match self.pass {
            Pass::Forward => self.forward(&mut t),
            Pass::BackwardQuery => self.backward_query(&mut t),
            Pass::BackwardKey => self.backward_key(&mut t),
        }
        t.close();
        t.text
    }

    fn header(&self, t: &mut Text) {
        let Self { head_dim, rows, split, chunk, staging, .. } = self;
        t.line("// Causal grouped-query attention within documents.             made by src/ops/attention/source.rs");
        t.line(&format!(
            "// {staging:?}: head width {head_dim} over {split} threads, {rows} rows a thread, {chunk} streamed rows at a time."
        ));
        t.line("#import grid");
        t.line("struct Dims { batch: u32, time: u32, heads: u32, kv_heads: u32, tiles: u32, scale: f32 }");
        t.line("");
        t.line("@group(0) @binding(0) var<uniform> dims: Dims;");
        for (i, (name, access, kind)) in BINDINGS.iter().enumerate() {
            let (used, written) = match self.pass {
                Pass::Forward => (["qkv", "positions", "out", "lse"].contains(name), ["out", "lse"].contains(name)),
                Pass::BackwardQuery => (true, *name == "delta"),
                Pass::BackwardKey => (*name != "out", false),
            };
            let access = if written { "read_write" } else { access };
            if used {
                t.line(&format!("@group(0) @binding({}) var<storage, {access}> {name}: {kind};", i + 1));
            }
        }
        t.line(&format!("const D4 = {}u;", head_dim / 4));
        if self.staging == Staging::Shared {
            let staged = self.staged_rows();
            for stream in self.streams() {
                t.line(&format!("var<workgroup> {}_tile: array<vec4<f32>, {}>;", stream.name, staged * head_dim / 4));
            }
            if self.pass == Pass::BackwardKey {
                t.line(&format!("var<workgroup> lse_tile: array<f32, {staged}>;"));
                t.line(&format!("var<workgroup> delta_tile: array<f32, {staged}>;"));
                t.line(&format!("var<workgroup> reach_tile: array<u32, {staged}>;"));
            }
            if self.split > 1 {
                t.line(&format!("var<workgroup> part_sums: array<f32, {}>;", self.threads * self.exchanged()));
            }
        }
        t.text.push_str(HELPERS);
        t.line("");
    }

    /// Sums that threads of a row exchange at a time.
    fn exchanged(&self) -> usize {
        self.rows * self.chunk * if self.pass == Pass::Forward { 1 } else { 2 }
    }

    /// Which tile of which head this workgroup owns, and which rows this thread. Heavy tiles come first.
    fn place(&self, t: &mut Text) {
        let keys = self.pass == Pass::BackwardKey;
        let (heads, head) = if keys { ("dims.kv_heads", "kv") } else { ("dims.heads", "head") };
        t.line("let item = linear_group(group, groups);");
        t.line(&format!("let {head} = item / dims.tiles % {heads};"));
        t.line(&format!("let batch = item / dims.tiles / {heads};"));
        t.line("let base = min(batch, dims.batch - 1u) * dims.time; // row of the sequence's first token");
        if keys {
            t.line("let group_size = dims.heads / dims.kv_heads;");
            t.line(&format!("let first = item % dims.tiles * {}u;", self.tile_rows()));
        } else {
            t.line("let kv = head / (dims.heads / dims.kv_heads);");
            t.line(&format!("let first = (dims.tiles - 1u - item % dims.tiles) * {}u;", self.tile_rows()));
        }
        let lane = if self.split > 1 { format!("local / {}u", self.split) } else { "local".to_string() };
        if self.split > 1 {
            t.line(&format!("let part = local % {}u * {}u; // of the head dimension", self.split, self.part()));
        }
        for r in 0..self.rows {
            let offset = r * self.threads / self.split;
            t.line(&format!("let t{r} = min(first + {lane} + {offset}u, dims.time - 1u);"));
            t.line(&format!("let own{r} = batch < dims.batch && first + {lane} + {offset}u < dims.time;"));
        }
    }

    fn forward(&self, t: &mut Text) {
        self.place(t);
        self.reach(t);
        for r in 0..self.rows {
            self.load(t, "q", r, "qkv[query_at", "head", " * dims.scale");
            self.start_softmax(t, r);
        }
        self.stream(t, |t| {
            self.dots(t, "s", "q", &KEY);
            self.exchange(t, &["s"]);
            for r in 0..self.rows {
                self.softmax(t, r, 1);
            }
            self.accumulate(t, "acc", "p", &VALUE);
        });
        for r in 0..self.rows {
            t.open(&format!("if own{r}"));
            t.line(&format!("let inverse = 1.0 / max(sum{r}, 1e-30);"));
            self.store(t, "out[out_at", "head", "acc", r, " * inverse");
            t.line(&format!("lse[(base + t{r}) * dims.heads + head] = most{r} + log(max(sum{r}, 1e-30));"));
            t.close();
        }
    }

    pub(super) fn start_softmax(&self, t: &mut Text, r: usize) {
        self.zero(t, "acc", r);
        t.line(&format!("var most{r} = -1e9;"));
        t.line(&format!("var sum{r} = 0.0;"));
    }

    /// Online softmax of one row over a chunk of keys `step` apart: rescale what there is once, then weigh.
    pub(super) fn softmax(&self, t: &mut Text, r: usize, step: usize) {
        let chunk = 0..self.chunk;
        for c in chunk.clone() {
            t.line(&format!("let seen{r}_{c} = j + {}u - begin{r} <= reach{r};", c * step));
            t.line(&format!("s{r}_{c} = select(-1e9, s{r}_{c}, seen{r}_{c});"));
        }
        let largest = chunk.clone().fold(format!("most{r}"), |acc, c| format!("max({acc}, s{r}_{c})"));
        t.line(&format!("let rise{r} = {largest};"));
        t.line(&format!("let shrink{r} = exp_below(most{r} - rise{r});"));
        t.line(&format!("most{r} = rise{r};"));
        for c in chunk.clone() {
            t.line(&format!("let p{r}_{c} = select(0.0, exp_below(s{r}_{c} - rise{r}), seen{r}_{c});"));
        }
        let weights: Vec<_> = chunk.map(|c| format!("p{r}_{c}")).collect();
        t.line(&format!("sum{r} = sum{r} * shrink{r} + ({});", weights.join(" + ")));
        for d in 0..self.part() {
            t.line(&format!("acc{r}_{d} *= shrink{r};"));
        }
    }

    fn backward_query(&self, t: &mut Text) {
        self.place(t);
        self.reach(t);
        for r in 0..self.rows {
            self.load(t, "q", r, "qkv[query_at", "head", " * dims.scale");
            self.load(t, "g", r, "dout[out_at", "head", "");
            self.load(t, "o", r, "out[out_at", "head", "");
            self.zero(t, "dq", r);
            t.line(&format!("let lse{r} = lse[(base + t{r}) * dims.heads + head];"));
            let products: Vec<_> = (0..self.part()).map(|d| format!("g{r}_{d} * o{r}_{d}")).collect();
            t.line(&format!("var delta{r}_0 = total({});", products.join(" + ")));
        }
        self.exchange_of(t, &(0..self.rows).map(|r| format!("delta{r}_0")).collect::<Vec<_>>());
        self.stream(t, |t| {
            self.dots(t, "s", "q", &KEY);
            self.dots(t, "dp", "g", &VALUE);
            self.exchange(t, &["s", "dp"]);
            for r in 0..self.rows {
                for c in 0..self.chunk {
                    t.line(&format!(
                        "let ds{r}_{c} = select(0.0, exp_below(s{r}_{c} - lse{r}) * (dp{r}_{c} - delta{r}_0), j + {c}u - begin{r} <= reach{r});"
                    ));
                }
            }
            self.accumulate(t, "dq", "ds", &KEY);
        });
        for r in 0..self.rows {
            t.open(&format!("if own{r}"));
            self.store(t, "dqkv[query_at", "head", "dq", r, " * dims.scale");
            t.line(&format!("delta[(base + t{r}) * dims.heads + head] = delta{r}_0;"));
            t.close();
        }
    }

    fn backward_key(&self, t: &mut Text) {
        self.place(t);
        for r in 0..self.rows {
            self.load(t, "k", r, "qkv[key_at", "kv", " * dims.scale");
            self.load(t, "v", r, "qkv[value_at", "kv", "");
            self.zero(t, "dk", r);
            self.zero(t, "dv", r);
        }
        t.open("for (var head = kv * group_size; head < (kv + 1u) * group_size; head++)");
        self.stream(t, |t| {
            self.dots(t, "s", "k", &QUERY);
            self.dots(t, "dp", "v", &DOUT);
            self.exchange(t, &["s", "dp"]);
            for c in 0..self.chunk {
                for name in ["lse", "delta", "reach"] {
                    t.line(&format!("let {name}_{c} = {};", self.scalar(name, c)));
                }
                for r in 0..self.rows {
                    t.line(&format!("let p{r}_{c} = select(0.0, exp_below(s{r}_{c} - lse_{c}), j + {c}u - t{r} < reach_{c});"));
                    t.line(&format!("let ds{r}_{c} = p{r}_{c} * (dp{r}_{c} - delta_{c});"));
                }
            }
            self.accumulate(t, "dk", "ds", &QUERY);
            self.accumulate(t, "dv", "p", &DOUT);
        });
        t.close();
        for r in 0..self.rows {
            t.open(&format!("if own{r}"));
            self.store(t, "dqkv[key_at", "kv", "dk", r, " * dims.scale");
            self.store(t, "dqkv[value_at", "kv", "dv", r, "");
            t.close();
        }
    }

    /// A query sees the keys begin ..= begin + reach; one unsigned comparison tells, as a key before `begin` wraps around.
    fn reach(&self, t: &mut Text) {
        for r in 0..self.rows {
            t.line(&format!("let reach{r} = positions[base + t{r}];"));
            t.line(&format!("let begin{r} = t{r} - reach{r};"));
        }
    }

    /// The loop over streamed rows; `body` sees `j`, the time of the chunk's first row.
    fn stream(&self, t: &mut Text, body: impl FnOnce(&mut Text)) {
        let step = if self.staging == Staging::Shared { self.staged_rows() } else { self.chunk };
        let var = if self.staging == Staging::Shared { "tile" } else { "j" };
        if self.pass == Pass::BackwardKey {
            t.line("// Queries from the first key on, until a document begins that the tile's last key is not in.");
            t.line(&format!("let last = first + {}u;", self.tile_rows() - 1));
            t.open(&format!(
                "for (var {var} = first; {var} < dims.time && {var} - positions[base + {var}] <= last; {var} += {step}u)"
            ));
        } else {
            t.line("// Keys from where the first query's document begins.");
            t.line(&format!("let end = min(first + {}u, dims.time);", self.tile_rows()));
            t.open(&format!("for (var {var} = first - positions[base + first]; {var} < end; {var} += {step}u)"));
        }
        match self.staging {
            Staging::Direct => self.stage_direct(t),
            Staging::Subgroup => self.stage_subgroup(t),
            Staging::Shared => self.stage_shared(t),
        }
        body(t);
        if self.staging == Staging::Shared {
            t.close();
            t.line("workgroupBarrier();");
        }
        t.close();
    }

    fn stage_direct(&self, t: &mut Text) {
        for c in 0..self.chunk {
            t.line(&format!("let row{c} = base + min(j + {c}u, dims.time - 1u);"));
            for s in self.streams() {
                t.line(&format!("let {}{c}_at = {}(row{c}, {});", s.name, s.at, s.head));
            }
        }
    }

    fn stage_subgroup(&self, t: &mut Text) {
        t.line("let mine = base + min(j + lane, dims.time - 1u);");
        for s in self.streams() {
            t.line(&format!("let my_{}_at = {}(mine, {});", s.name, s.at, s.head));
            for d in 0..self.part() {
                t.line(&format!("let my_{0}_{d} = {1}[my_{0}_at + {d}u];", s.name, s.buffer));
            }
        }
        if self.pass == Pass::BackwardKey {
            t.line("let my_lse = lse[mine * dims.heads + head];");
            t.line("let my_delta = delta[mine * dims.heads + head];");
            t.line("let my_reach = select(0u, positions[mine] + 1u, j + lane < dims.time);");
        }
    }

    fn stage_shared(&self, t: &mut Text) {
        let (staged, threads) = (self.staged_rows(), self.threads);
        t.open(&format!("for (var i = local; i < {}u; i += {threads}u)", staged * self.head_dim / 4));
        t.line("let row = base + min(tile + i / D4, dims.time - 1u);");
        for s in self.streams() {
            t.line(&format!("{}_tile[i] = {}[{}(row, {}) + i % D4];", s.name, s.buffer, s.at, s.head));
        }
        t.close();
        if self.pass == Pass::BackwardKey {
            t.open(&format!("for (var i = local; i < {staged}u; i += {threads}u)"));
            t.line("let row = base + min(tile + i, dims.time - 1u);");
            t.line("lse_tile[i] = lse[row * dims.heads + head];");
            t.line("delta_tile[i] = delta[row * dims.heads + head];");
            t.line("reach_tile[i] = select(0u, positions[row] + 1u, tile + i < dims.time);");
            t.close();
        }
        t.line("workgroupBarrier();");
        t.open(&format!("for (var c0 = 0u; c0 < {staged}u; c0 += {}u)", self.chunk));
        t.line("let j = tile + c0;");
        t.line(&format!("let staged = c0 * D4{};", if self.split > 1 { " + part" } else { "" }));
    }

    /// vec4 `d` of streamed row `c`.
    fn fetch(&self, stream: &Stream, c: usize, d: usize) -> String {
        let Stream { name, buffer, .. } = stream;
        match self.staging {
            Staging::Direct => format!("{buffer}[{name}{c}_at + {d}u]"),
            Staging::Shared => format!("{name}_tile[staged + {}u]", c * self.head_dim / 4 + d),
            Staging::Subgroup => format!("subgroupBroadcast(my_{name}_{d}, {c}u)"),
        }
    }

    /// A number that belongs to streamed row `c`.
    fn scalar(&self, name: &str, c: usize) -> String {
        match (self.staging, name) {
            (Staging::Direct, "reach") => format!("select(0u, positions[row{c}] + 1u, j + {c}u < dims.time)"),
            (Staging::Direct, _) => format!("{name}[row{c} * dims.heads + head]"),
            (Staging::Shared, _) => format!("{name}_tile[c0 + {c}u]"),
            (Staging::Subgroup, _) => format!("subgroupBroadcast(my_{name}, {c}u)"),
        }
    }

    /// `{name}{r}_{c}` = own row r . streamed row c, for all r and c; each streamed vec4 is fetched once for all own rows.
    pub(super) fn dots(&self, t: &mut Text, name: &str, own: &str, stream: &Stream) {
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
                t.line(&format!("var {name}{r}_{c} = total({name}{r}_{c}_v);"));
            }
        }
    }

    /// own row r += sum over c of `{weight}{r}_{c}` * streamed row c.
    pub(super) fn accumulate(&self, t: &mut Text, own: &str, weight: &str, stream: &Stream) {
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

    fn exchange(&self, t: &mut Text, names: &[&str]) {
        let all: Vec<_> = names
            .iter()
            .flat_map(|n| (0..self.rows).flat_map(move |r| (0..self.chunk).map(move |c| format!("{n}{r}_{c}"))))
            .collect();
        self.exchange_of(t, &all);
    }

    /// Threads that share a row add up what each has of these sums.
    fn exchange_of(&self, t: &mut Text, sums: &[String]) {
        if self.split == 1 {
            return;
        }
        for (i, name) in sums.iter().enumerate() {
            t.line(&format!("part_sums[{}u + local] = {name};", i * self.threads));
        }
        t.line("workgroupBarrier();");
        for (i, name) in sums.iter().enumerate() {
            let at = i * self.threads;
            let parts: Vec<_> =
                (0..self.split).map(|p| format!("part_sums[{}u + local / {1}u * {1}u]", at + p, self.split)).collect();
            t.line(&format!("{name} = {};", parts.join(" + ")));
        }
        t.line("workgroupBarrier();");
    }

    fn load(&self, t: &mut Text, name: &str, r: usize, at: &str, head: &str, scale: &str) {
        let part = if self.split > 1 { " + part" } else { "" };
        for d in 0..self.part() {
            t.line(&format!("let {name}{r}_{d} = {at}(base + t{r}, {head}){part} + {d}u]{scale};"));
        }
    }

    fn zero(&self, t: &mut Text, name: &str, r: usize) {
        for d in 0..self.part() {
            t.line(&format!("var {name}{r}_{d} = vec4<f32>(0.0);"));
        }
    }

    fn store(&self, t: &mut Text, at: &str, head: &str, name: &str, r: usize, scale: &str) {
        let part = if self.split > 1 { " + part" } else { "" };
        for d in 0..self.part() {
            t.line(&format!("{at}(base + t{r}, {head}){part} + {d}u] = {name}{r}_{d}{scale};"));
        }
    }
}

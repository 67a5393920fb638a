//! Matrix products by tile, in GFLOP/s: `cargo bench --bench matmul` (or `--profile dev`: the device does the work), `-- forward` for one role,
//! `-- forward 32x` also for the tiles whose names have that in them, `-- tune` for the tuner's choices alone.
//!
//! Every shape runs all candidates in turn, round after round, and counts the best round of each, so that a busy machine disturbs all
//! alike. `baseline` is the kernel that these replaced on software adapters: 32 x 16 in registers, one summed index a turn, both operands
//! stored across it (so it exists for `backward_weight` only and would need transposed copies, not counted here, in the other roles).
//! Set `MESA_SHADER_CACHE_DISABLE=true` for true first-dispatch times on Mesa.

use lehr::gpu::{Cost, Gpu, Kernel, Recording, Tensor};
use lehr::ops::matmul::{self, Extra, Role, Tile};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

/// (rows, out features, in features) of linear layers, largest last.
const LAYERS: [[usize; 3]; 7] = [
    [768, 384, 128],
    [768, 704, 128],
    [768, 128, 352],
    [2048, 1536, 384],
    [2048, 384, 1536],
    [4096, 1152, 384],
    [1024, 1024, 1024],
];

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let (only, tiles) = (args.next(), args.next().unwrap_or_default());
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(7);
    let gpu = pollster::block_on(Gpu::open(None))?;
    println!("{} | {} | best of {rounds}, GFLOP/s", gpu.summary().name, gpu.summary().driver);
    if only.as_ref().is_none_or(|o| o == "tune") {
        tuning(&gpu)?;
    }
    for role in Role::ALL {
        if only.as_ref().is_none_or(|o| role.entry().contains(o.as_str())) {
            table(&gpu, role, &tiles, rounds)?;
        }
    }
    Ok(())
}

/// What the tuner chooses for these layers when it knows nothing, and how long it takes.
fn tuning(gpu: &Gpu) -> anyhow::Result<()> {
    gpu.enable_tuning_in(None);
    let begin = Instant::now();
    let mut chosen = Vec::new();
    for role in Role::ALL {
        for [rows, n, k] in LAYERS {
            let [rows, cols, depth] = match role {
                Role::Forward => [rows, n, k],
                Role::BackwardInput => [rows, k, n],
                Role::BackwardWeight => [n, k, rows],
            };
            let name = matmul::choose(gpu, role, &matmul::Shape { rows, cols, depth, strides: [4; 3] }).map(Tile::name);
            chosen.push(format!("{} {rows}x{cols}x{depth} {}", role.entry(), name.unwrap_or_default()));
        }
    }
    println!("tuned in {:.2} s:\n  {}", begin.elapsed().as_secs_f64(), chosen.join("\n  "));
    let begin = Instant::now();
    let peak = matmul::measured_peak_gflops(gpu)?;
    println!("peak {peak:.1} GFLOP/s, measured in {:.2} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// What computes a product.
enum Way {
    Tile(Tile),
    Baseline(Arc<Kernel>),
}

fn ways(gpu: &Gpu, role: Role) -> anyhow::Result<Vec<(String, Way)>> {
    let mut ways: Vec<_> = matmul::tiles(gpu).iter().map(|&t| (t.name(), Way::Tile(t))).collect();
    if role == Role::BackwardWeight {
        ways.push(("baseline 32x16".into(), Way::Baseline(gpu.kernel_from_text("baseline", &baseline(), "main", &[])?)));
    }
    Ok(ways)
}

fn table(gpu: &Gpu, role: Role, tiles: &str, rounds: usize) -> anyhow::Result<()> {
    let mut ways = ways(gpu, role)?;
    ways.retain(|(name, _)| name.contains(tiles));
    let mut lines: Vec<String> = ways.iter().map(|(name, _)| format!("{name:16}")).collect();
    let mut head = format!("{:16} {:>8}", role.entry(), "first ms");
    for (i, layer) in LAYERS.into_iter().enumerate() {
        let problem = Problem::new(gpu, role, layer);
        let flops = 2.0 * layer.iter().product::<usize>() as f64;
        let repeats = (4e8 / flops).ceil() as usize;
        let mut recordings = Vec::new();
        for ((name, way), line) in ways.iter().zip(&mut lines) {
            let once = problem.record(gpu, way, 1)?;
            let first = problem.time(gpu, &once)?;
            problem.verify(gpu, name)?;
            if i == 0 {
                write!(line, " {:8.0}", 1e3 * first)?;
            }
            recordings.push(problem.record(gpu, way, repeats)?);
        }
        let mut best = vec![f64::INFINITY; ways.len()];
        for _ in 0..rounds {
            for (best, recording) in best.iter_mut().zip(&recordings) {
                *best = best.min(problem.time(gpu, recording)? / repeats as f64);
            }
        }
        let [rows, n, k] = layer;
        write!(head, " {:>14}", format!("{rows}x{n}x{k}"))?;
        for (line, best) in lines.iter_mut().zip(best) {
            write!(line, " {:14.1}", flops / best / 1e9)?;
        }
    }
    println!("\n{head}\n{}", lines.join("\n"));
    Ok(())
}

/// One product and a few of its results, computed on the host.
struct Problem {
    role: Role,
    operands: [Tensor; 3],
    expected: Vec<(usize, f64)>,
}

impl Problem {
    fn new(gpu: &Gpu, role: Role, [rows, n, k]: [usize; 3]) -> Self {
        let (x, w, y) = ([rows, k], [n, k], [rows, n]);
        let extents = match role {
            Role::Forward => [x, w, y],
            Role::BackwardInput => [y, w, x],
            Role::BackwardWeight => [y, x, w],
        };
        let operands = extents.map(|extent| Tensor::new(gpu, "bench", "bench", &extent));
        let values = |seed: usize, extent: [usize; 2]| -> Vec<f32> {
            (0..extent[0] * extent[1]).map(|i| ((i + seed) * 2_654_435_761 % 1021) as f32 / 510.0 - 1.0).collect()
        };
        let (left, right) = (values(1, extents[0]), values(2, extents[1]));
        gpu.write(&operands[0], &left);
        gpu.write(&operands[1], &right);
        let [out_rows, out_cols] = extents[2];
        let depth = rows * n * k / (out_rows * out_cols);
        let expected = (0..64).map(|i| {
            let (row, col) = (i * 7919 % out_rows, (i * 104_729 + 5) % out_cols);
            let at = |q: usize| match role {
                Role::Forward => (row * depth + q, col * depth + q),
                Role::BackwardInput => (row * depth + q, q * out_cols + col),
                Role::BackwardWeight => (q * out_rows + row, q * out_cols + col),
            };
            let sum = (0..depth).map(|q| f64::from(left[at(q).0]) * f64::from(right[at(q).1])).sum();
            (row * out_cols + col, sum)
        });
        Self { role, expected: expected.collect(), operands }
    }

    fn record(&self, gpu: &Gpu, way: &Way, repeats: usize) -> anyhow::Result<Recording> {
        let [left, right, out] = &self.operands;
        let mut r = Recording::new("bench");
        for _ in 0..repeats {
            match (way, self.role) {
                (Way::Tile(tile), Role::Forward) => matmul::forward_by(&mut r, gpu, *tile, left, right, out, Extra::None),
                (Way::Tile(tile), Role::BackwardInput) => matmul::backward_input_by(&mut r, gpu, *tile, left, right, out, false),
                (Way::Tile(tile), Role::BackwardWeight) => matmul::backward_weight_by(&mut r, gpu, *tile, left, right, out),
                (Way::Baseline(kernel), _) => record_baseline(&mut r, gpu, kernel, [left, right, out]),
            }
        }
        r.finish(gpu)
    }

    fn time(&self, gpu: &Gpu, recording: &Recording) -> anyhow::Result<f64> {
        let begin = Instant::now();
        gpu.replay(recording)?;
        gpu.wait()?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// After one run; the result is cleared for the next.
    fn verify(&self, gpu: &Gpu, name: &str) -> anyhow::Result<()> {
        let got: Vec<f32> = gpu.read(&self.operands[2])?;
        gpu.write(&self.operands[2], &vec![0f32; got.len()]);
        for &(at, want) in &self.expected {
            let error = (f64::from(got[at]) - want).abs();
            anyhow::ensure!(error < 1e-3, "{name} {}: element {at} is {}, not {want}", self.role.entry(), got[at]);
        }
        Ok(())
    }
}

lehr::uniform! { struct Extents { rows: u32, cols: u32, depth: u32 } }

fn record_baseline(r: &mut Recording, gpu: &Gpu, kernel: &Arc<Kernel>, [dy, x, dw]: [&Tensor; 3]) {
    let ([depth, rows], [_, cols]) = (dy.matrix(), x.matrix());
    let extents = Extents { rows: rows as u32, cols: cols as u32, depth: depth as u32 };
    let groups = [cols.div_ceil(128) as u32, rows.div_ceil(32) as u32, 1];
    let cost = Cost { flops: 2.0 * (rows * cols * depth) as f64, bytes: 0.0 };
    r.dispatch(gpu, kernel, extents, &[("a", dy), ("b", x), ("c", dw)], groups, cost);
}

/// c = a^T b by register tiles of 32 x 16 straight from storage; extents are multiples of 4.
fn baseline() -> String {
    let mut body = String::new();
    for r in 0..32 {
        (0..4).for_each(|g| body += &format!("    var s{r}_{g} = vec4<f32>();\n"));
    }
    body += "    for (var i = 0u; i < p.depth; i++) {\n";
    (0..8).for_each(|v| body += &format!("        let a{v} = a[(i * p.rows + min(row + {}u, p.rows - 4u)) >> 2u];\n", 4 * v));
    (0..4).for_each(|g| body += &format!("        let b{g} = b[(i * p.cols + min(col + {}u, p.cols - 4u)) >> 2u];\n", 4 * g));
    for r in 0..32 {
        (0..4).for_each(|g| body += &format!("        s{r}_{g} += a{}.{} * b{g};\n", r / 4, ["x", "y", "z", "w"][r % 4]));
    }
    body += "    }\n";
    for r in 0..32 {
        for g in 0..4 {
            let inside = format!("row + {r}u < p.rows && col + {}u < p.cols", 4 * g);
            body += &format!("    if {inside} {{ c[((row + {r}u) * p.cols + col) / 4u + {g}u] = s{r}_{g}; }}\n");
        }
    }
    format!(
        "struct Extents {{ rows: u32, cols: u32, depth: u32 }}\n\
         @group(0) @binding(0) var<uniform> p: Extents;\n\
         @group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;\n\
         @group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;\n\
         @compute @workgroup_size(8)\n\
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{\n    \
         let row = group.y * 32u;\n    let col = (group.x * 8u + lane) * 16u;\n{body}}}\n"
    )
}

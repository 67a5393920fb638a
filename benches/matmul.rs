//! Matrix products by tile, in GFLOP/s: `cargo bench --bench matmul` (or `--profile dev`: the device does the work), `-- forward` for one role,
//! `-- forward 32x` also for the tiles whose names have that in them, `-- tune` for the tuner's choices alone.
//!
//! Every shape runs all candidates in turn, round after round, and counts the best round of each, so that a busy machine disturbs all
//! alike. On the CPU there is one way. `LEHR_ADAPTER` names the device. Set `MESA_SHADER_CACHE_DISABLE=true` for true first-dispatch times on Mesa.

use lehr::device::{Device, Recorder, Recording, Tensor};
use lehr::ops::matmul::{self, Extra, RegisterTile, Role};
use std::fmt::Write as _;
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
    let device = Device::open_named(None)?;
    println!("{} | {} | best of {rounds}, GFLOP/s", device.summary().name, device.summary().driver);
    if only.as_ref().is_none_or(|o| o == "tune") {
        tuning(&device)?;
    }
    for role in Role::ALL {
        if only.as_ref().is_none_or(|o| role.entry().contains(o.as_str())) {
            table(&device, role, &tiles, rounds)?;
        }
    }
    Ok(())
}

/// What the tuner chooses for these layers when it knows nothing, and how long it takes.
fn tuning(device: &Device) -> anyhow::Result<()> {
    device.enable_tuning_in(None);
    let begin = Instant::now();
    let mut chosen = Vec::new();
    for role in Role::ALL {
        for [rows, n, k] in LAYERS {
            let [rows, cols, depth] = match role {
                Role::Forward => [rows, n, k],
                Role::BackwardInput => [rows, k, n],
                Role::BackwardWeight => [n, k, rows],
            };
            let Some(gpu) = device.gpu() else { continue };
            let shape = matmul::GemmShape { rows, cols, depth, strides: [4; 3] };
            let name = matmul::choose(device, gpu, role, &shape).map(RegisterTile::name);
            chosen.push(format!("{} {rows}x{cols}x{depth} {}", role.entry(), name.unwrap_or_default()));
        }
    }
    println!("tuned in {:.2} s:\n  {}", begin.elapsed().as_secs_f64(), chosen.join("\n  "));
    let begin = Instant::now();
    let peak = matmul::measured_peak_gflops(device)?;
    println!("peak {peak:.1} GFLOP/s, measured in {:.2} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// What computes a product: the device's choice, or a tile of a GPU.
type Way = Option<RegisterTile>;

fn ways(device: &Device) -> Vec<(String, Way)> {
    match device.gpu() {
        Some(gpu) => matmul::tiles(gpu).iter().map(|&t| (t.name(), Some(t))).collect(),
        None => vec![("cpu".into(), None)],
    }
}

fn table(device: &Device, role: Role, tiles: &str, rounds: usize) -> anyhow::Result<()> {
    let mut ways = ways(device);
    ways.retain(|(name, _)| name.contains(tiles));
    let mut lines: Vec<String> = ways.iter().map(|(name, _)| format!("{name:16}")).collect();
    let mut head = format!("{:16} {:>8}", role.entry(), "first ms");
    for (i, layer) in LAYERS.into_iter().enumerate() {
        let problem = Problem::new(device, role, layer);
        let flops = 2.0 * layer.iter().product::<usize>() as f64;
        let repeats = (4e8 / flops).ceil() as usize;
        let mut recordings = Vec::new();
        for ((name, way), line) in ways.iter().zip(&mut lines) {
            let once = problem.record(device, *way, 1)?;
            let first = problem.time(device, &once)?;
            problem.verify(device, name)?;
            if i == 0 {
                write!(line, " {:8.0}", 1e3 * first)?;
            }
            recordings.push(problem.record(device, *way, repeats)?);
        }
        let mut best = vec![f64::INFINITY; ways.len()];
        for _ in 0..rounds {
            for (best, recording) in best.iter_mut().zip(&recordings) {
                *best = best.min(problem.time(device, recording)? / repeats as f64);
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
    fn new(device: &Device, role: Role, [rows, n, k]: [usize; 3]) -> Self {
        let (x, w, y) = ([rows, k], [n, k], [rows, n]);
        let extents = match role {
            Role::Forward => [x, w, y],
            Role::BackwardInput => [y, w, x],
            Role::BackwardWeight => [y, x, w],
        };
        let operands = extents.map(|extent| Tensor::new(device, "bench", "bench", &extent));
        let values = |seed: usize, extent: [usize; 2]| -> Vec<f32> {
            (0..extent[0] * extent[1]).map(|i| ((i + seed) * 2_654_435_761 % 1021) as f32 / 510.0 - 1.0).collect()
        };
        let (left, right) = (values(1, extents[0]), values(2, extents[1]));
        device.write(&operands[0], &left);
        device.write(&operands[1], &right);
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

    fn record(&self, device: &Device, way: Way, repeats: usize) -> anyhow::Result<Recording> {
        let [left, right, out] = &self.operands;
        let mut r = Recorder::new(device, "bench");
        for _ in 0..repeats {
            match (way, self.role) {
                (Some(tile), Role::Forward) => matmul::forward_by(&mut r, tile, left, right, out, Extra::None),
                (Some(tile), Role::BackwardInput) => matmul::backward_input_by(&mut r, tile, left, right, out, false),
                (Some(tile), Role::BackwardWeight) => matmul::backward_weight_by(&mut r, tile, left, right, out),
                (None, Role::Forward) => matmul::forward(&mut r, left, right, out, Extra::None),
                (None, Role::BackwardInput) => matmul::backward_input(&mut r, left, right, out, false),
                (None, Role::BackwardWeight) => matmul::backward_weight(&mut r, left, right, out),
            }
        }
        r.finish()
    }

    fn time(&self, device: &Device, recording: &Recording) -> anyhow::Result<f64> {
        let begin = Instant::now();
        device.replay(recording)?;
        device.wait()?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// After one run; the result is cleared for the next.
    fn verify(&self, device: &Device, name: &str) -> anyhow::Result<()> {
        let got: Vec<f32> = device.read(&self.operands[2])?;
        device.write(&self.operands[2], &vec![0f32; got.len()]);
        for &(at, want) in &self.expected {
            let error = (f64::from(got[at]) - want).abs();
            anyhow::ensure!(error < 1e-3, "{name} {}: element {at} is {}, not {want}", self.role.entry(), got[at]);
        }
        Ok(())
    }
}

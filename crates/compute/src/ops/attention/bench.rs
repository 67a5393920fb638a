//! Speed of the stagings side by side: `cargo test attention_speed -- --ignored --nocapture`. Figures in LOG.md.

use super::{AttentionPass, AttentionPlan, AttentionShape, DecodePlan, Decoding, Staging, backward_by, decode_by, forward_by};
use crate::device::{Device, Recorder, Recording, Tensor};
use crate::ops::check::Case;

/// Processor seconds that this process has used: on a busy machine the only figure that means anything.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds =
        tasks.filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.sum::<f64>() / 1e9
}

struct Setup {
    shape: AttentionShape,
    tensors: Vec<Tensor>,
}

impl Setup {
    fn new(device: &Device, shape: AttentionShape) -> Self {
        let mut case = Case::new("bench", 1);
        let (n, width, wide) = (shape.tokens(), shape.row_width(), shape.heads * shape.head_dim);
        let positions: Vec<u32> = (0..n).map(|i| (i % shape.time) as u32).collect();
        let (qkv, dout) = (case.normals(n * width, 1.0), case.normals(n * wide, 1.0));
        let mut tensors = vec![case.upload(device, "qkv", &[n, width], &qkv), case.upload_u32(device, "positions", &positions)];
        tensors.push(case.upload(device, "dout", &[n, wide], &dout));
        tensors.push(Tensor::new(device, "bench", "out", &[n, wide]));
        tensors.push(Tensor::new(device, "bench", "lse", &[n, shape.heads]));
        tensors.push(Tensor::new(device, "bench", "delta", &[n, shape.heads]));
        tensors.push(Tensor::new(device, "bench", "dqkv", &[n, width]));
        Self { shape, tensors }
    }

    /// (forward, backward), recorded.
    fn record(&self, device: &Device, plan: impl Fn(AttentionPass) -> AttentionPlan) -> anyhow::Result<[Recording; 2]> {
        let [qkv, positions, dout, out, lse, delta, dqkv] = &self.tensors[..] else { unreachable!() };
        let (mut f, mut b) = (Recorder::new(device, "forward"), Recorder::new(device, "backward"));
        forward_by(&mut f, |_, _| plan(AttentionPass::Forward), self.shape, qkv, positions, out, lse);
        let plans = [plan(AttentionPass::BackwardQuery), plan(AttentionPass::BackwardKey)];
        backward_by(&mut b, |_, _| plans, self.shape, qkv, positions, out, lse, dout, delta, dqkv);
        Ok([f.finish()?, b.finish()?])
    }
}

/// [wall, processor] seconds of a replay.
fn timed(device: &Device, recording: &Recording) -> anyhow::Result<[f64; 2]> {
    let (begin, cpu) = (std::time::Instant::now(), cpu_seconds());
    device.replay(recording)?;
    device.wait()?;
    Ok([begin.elapsed().as_secs_f64(), cpu_seconds() - cpu])
}

#[test]
#[ignore = "a measurement"]
fn attention_speed() -> anyhow::Result<()> {
    let device = Device::open_named(None)?;
    let only = std::env::var("LEHR_PLAN").ok();
    for (batch, heads, time, head_dim) in [(12, 4, 64, 32), (16, 6, 256, 64), (2, 9, 1024, 64)] {
        let shape = AttentionShape { batch, time, heads, kv_heads: heads, head_dim };
        let setup = Setup::new(&device, shape);
        let mut runs = Vec::new();
        for (staging, threads, rows, split, chunk) in [
            (Staging::Direct, 8, 2, 1, 1),
            (Staging::Direct, 8, 4, 1, 1),
            (Staging::Shared, 64, 1, 1, 4),
            (Staging::Shared, 64, 2, 2, 4),
        ] {
            let plan = |pass| AttentionPlan { pass, staging, head_dim, threads, rows, split, chunk, shuffled: 1 };
            let name = format!("{staging:?} rows {rows} split {split}");
            if only.as_ref().is_none_or(|o| name.starts_with(o.as_str())) {
                let recordings = setup.record(&device, plan)?;
                let mut first = Vec::new();
                for r in &recordings {
                    first.push(timed(&device, r)?[1]);
                }
                runs.push((name, recordings, [[f64::INFINITY; 2]; 2], first));
            }
        }
        for _ in 0..9 {
            for (_, recordings, best, _) in &mut runs {
                for (recording, best) in recordings.iter().zip(best) {
                    let now = timed(&device, recording)?;
                    *best = [best[0].min(now[0]), best[1].min(now[1])];
                }
            }
        }
        println!(
            "B {batch} H {heads} T {time} D {head_dim}: best wall ms, best cpu ms, GF/s by wall and by two cores; first run cpu s"
        );
        let flops = shape.cost(2.0, 0.0, 0.0).flops;
        for (name, _, best, first) in &runs {
            print!("{name:26}");
            for (work, [wall, cpu]) in [1.0, 2.5].into_iter().zip(best) {
                let rate = work * flops / 1e9;
                print!("   {:8.2} {:8.2} ms {:5.1} {:5.1}", 1e3 * wall, 1e3 * cpu, rate / wall, 2.0 * rate / cpu);
            }
            println!("   {:5.2} {:5.2} s", first[0], first[1]);
        }
    }
    Ok(())
}

#[test]
#[ignore = "a measurement"]
fn attention_decode_speed() -> anyhow::Result<()> {
    let device = Device::open_named(None)?;
    for (batch, heads, kv_heads, max_time, head_dim) in [(64, 6, 6, 256, 64), (64, 8, 2, 256, 64), (16, 4, 4, 64, 32)] {
        let shape = AttentionShape { batch, time: 1, heads, kv_heads, head_dim };
        let case = Case::new("bench", 1);
        let qkv = Tensor::new(&device, "bench", "qkv", &[batch, shape.row_width()]);
        let [k, v] = ["k", "v"].map(|n| Tensor::new(&device, "bench", n, &[batch, max_time, kv_heads * head_dim]));
        let out = Tensor::new(&device, "bench", "out", &[batch, heads * head_dim]);
        let positions = case.upload_u32(&device, "positions", &vec![max_time as u32 - 1; batch]);
        let assigned = case.upload_u32(&device, "assigned", &vec![0; 3 * batch]);
        println!(
            "B {batch} H {heads}/{kv_heads} cache {max_time} D {head_dim}: best wall ms, cpu ms, GF/s by two cores; first run cpu s"
        );
        for (at_once, chunk) in [(1, 1), (1, 2), (1, 4), (4, 1), (4, 2)] {
            if !shape.group().is_multiple_of(at_once) {
                continue;
            }
            let plan = DecodePlan { head_dim, threads: 8, heads: at_once, chunk };
            let mut r = Recorder::new(&device, "decode");
            decode_by(&mut r, |_, _| Decoding::Lanes(plan), shape, &qkv, &positions, &k, &v, &assigned, &out);
            let r = r.finish()?;
            let first = timed(&device, &r)?[1];
            let best = (0..9).map(|_| timed(&device, &r)).collect::<anyhow::Result<Vec<_>>>()?;
            let [wall, cpu] = [0, 1].map(|i| best.iter().map(|b| b[i]).fold(f64::INFINITY, f64::min));
            let rate = 2.0 * 4.0 * (batch * heads * max_time * head_dim) as f64 / cpu / 1e9;
            println!("heads {at_once} chunk {chunk}   {:8.2} {:8.2} ms {rate:5.1}   {first:5.2} s", 1e3 * wall, 1e3 * cpu);
        }
    }
    Ok(())
}

/// `LEHR_PLAN=attention_forward_shared_d8 cargo test print_attention -- --ignored --nocapture`
#[test]
#[ignore = "prints"]
fn print_attention() {
    let wanted = std::env::var("LEHR_PLAN").unwrap_or_default();
    for (stem, text) in [super::all_hardware_sources(), super::software_sources()].concat() {
        if stem.contains(&wanted) {
            println!("// ---------------- {stem}\n{text}");
        }
    }
}

//! Speed of the stagings side by side: `cargo test attention_speed -- --ignored --nocapture`. Figures in LOG.md.

use super::{Pass, Plan, Shape, Staging, backward_by, forward_by};
use crate::gpu::{Gpu, Recording, Tensor};
use crate::ops::check::Case;
use std::time::Instant;

struct Setup {
    shape: Shape,
    tensors: Vec<Tensor>,
}

impl Setup {
    fn new(gpu: &Gpu, shape: Shape) -> Self {
        let mut case = Case::new("bench", 1);
        let (n, width, wide) = (shape.tokens(), shape.row_width(), shape.heads * shape.head_dim);
        let positions: Vec<u32> = (0..n).map(|i| (i % shape.time) as u32).collect();
        let (qkv, dout) = (case.normals(n * width, 1.0), case.normals(n * wide, 1.0));
        let mut tensors = vec![case.upload(gpu, "qkv", &[n, width], &qkv), case.upload_u32(gpu, "positions", &positions)];
        tensors.push(case.upload(gpu, "dout", &[n, wide], &dout));
        tensors.push(Tensor::new(gpu, "bench", "out", &[n, wide]));
        tensors.push(Tensor::new(gpu, "bench", "lse", &[n, shape.heads]));
        tensors.push(Tensor::new(gpu, "bench", "delta", &[n, shape.heads]));
        tensors.push(Tensor::new(gpu, "bench", "dqkv", &[n, width]));
        Self { shape, tensors }
    }

    /// (forward, backward), recorded.
    fn record(&self, gpu: &Gpu, plan: impl Fn(Pass) -> Plan) -> anyhow::Result<[Recording; 2]> {
        let [qkv, positions, dout, out, lse, delta, dqkv] = &self.tensors[..] else { unreachable!() };
        let (mut f, mut b) = (Recording::new("forward"), Recording::new("backward"));
        forward_by(&mut f, gpu, plan(Pass::Forward), self.shape, qkv, positions, out, lse);
        let plans = [plan(Pass::BackwardQuery), plan(Pass::BackwardKey)];
        backward_by(&mut b, gpu, plans, self.shape, qkv, positions, out, lse, dout, delta, dqkv);
        Ok([f.finish(gpu)?, b.finish(gpu)?])
    }
}

#[test]
#[ignore = "a measurement"]
fn attention_speed() -> anyhow::Result<()> {
    let gpu = pollster::block_on(Gpu::open(None))?;
    let only = std::env::var("LEHR_PLAN").ok();
    for (batch, heads, time, head_dim) in [(12, 4, 64, 32), (16, 6, 256, 64), (2, 9, 1024, 64)] {
        let shape = Shape { batch, time, heads, kv_heads: heads, head_dim };
        let setup = Setup::new(&gpu, shape);
        let mut runs = Vec::new();
        for (staging, threads, rows, split, chunk) in [
            (Staging::Direct, 8, 1, 1, 4),
            (Staging::Direct, 8, 4, 1, 4),
            (Staging::Direct, 8, 8, 1, 4),
            (Staging::Shared, 64, 1, 1, 8),
            (Staging::Shared, 64, 1, 2, 8),
            (Staging::Subgroup, 8, 1, 1, 8),
            (Staging::Subgroup, 8, 2, 1, 8),
            (Staging::Subgroup, 8, 4, 1, 8),
            (Staging::Subgroup, 8, 8, 1, 8),
        ] {
            let plan = |pass| Plan { pass, staging, head_dim, threads, rows, split, chunk };
            let name = format!("{staging:?} rows {rows} split {split}");
            if only.as_ref().is_none_or(|o| name.starts_with(o.as_str())) {
                let begin = Instant::now();
                let recordings = setup.record(&gpu, plan)?;
                for r in &recordings {
                    gpu.replay(r)?;
                }
                gpu.wait()?;
                runs.push((name, recordings, [f64::INFINITY; 3], begin.elapsed().as_secs_f64()));
            }
        }
        for _ in 0..9 {
            for (_, recordings, best, _) in &mut runs {
                let times = [gpu.profile(&recordings[0])?, gpu.profile(&recordings[1])?].concat();
                for (slot, row) in best.iter_mut().zip(&times) {
                    *slot = slot.min(row.seconds);
                }
            }
        }
        println!("B {batch} H {heads} T {time} D {head_dim}: forward, backward (query, key) ms and GF/s; first run s");
        let flops = shape.cost(2.0, 0.0, 0.0).flops;
        for (name, _, [f, q, k], first) in &runs {
            let ms = [f, q, k].map(|s| 1e3 * s);
            println!(
                "{name:26} {:8.2} ms {:5.1}   {:8.2} ms ({:7.2} {:7.2}) {:5.1}   {first:5.1}",
                ms[0],
                flops / f / 1e9,
                ms[1] + ms[2],
                ms[1],
                ms[2],
                2.5 * flops / (q + k) / 1e9
            );
        }
    }
    Ok(())
}

/// `LEHR_PLAN=attention_forward_subgroup_d8 cargo test print_attention -- --ignored --nocapture`
#[test]
#[ignore = "prints"]
fn print_attention() {
    let wanted = std::env::var("LEHR_PLAN").unwrap_or_default();
    for (stem, text) in super::sources() {
        if stem.contains(&wanted) {
            println!("// ---------------- {stem}\n{text}");
        }
    }
}

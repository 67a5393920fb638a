//! `lehr bench --rollouts`: tokens per second of sampling, and the upper bound from the adapter's memory bandwidth.

use super::bench::Args;
use crate::cli::{open, output};
use crate::config::{CacheDtype, ModelConfig, WeightsDtype};
use crate::device::{Device, ElementType, Recorder, Recording, Tensor};
use crate::model::{Model, RolloutBatch, RolloutEngine, RolloutRequest};
use crate::ops::sample::Sampling;
use crate::progress::silent;
use crate::rng::Rng;
use crate::world::World;
use std::path::PathBuf;
use web_time::Instant;

/// Flags of `lehr bench --rollouts`.
#[derive(clap::Args, Debug)]
pub struct RolloutArgs {
    /// Measure rollouts: random prompts, each continued to the full completion length.
    #[arg(long)]
    pub rollouts: bool,
    /// A model folder or a run; random weights of the preset's shape when absent.
    #[arg(long, requires = "rollouts")]
    model: Option<PathBuf>,
    /// Number of completions.
    #[arg(long, default_value_t = 64, requires = "rollouts")]
    completions: usize,
    /// Completions per prompt.
    #[arg(long, default_value_t = 8, requires = "rollouts")]
    num_generations: usize,
    /// Tokens per prompt.
    #[arg(long, default_value_t = 32, requires = "rollouts")]
    prompt_length: usize,
    /// Tokens per completion.
    #[arg(long, default_value_t = 64, requires = "rollouts")]
    completion_length: usize,
    /// Completions generated at once; all when absent.
    #[arg(long, requires = "rollouts")]
    rollout_batch_size: Option<usize>,
    /// Data type of the weights in memory; sums are in float32. For random weights, auto is float32.
    #[arg(long, value_enum, default_value = "auto", requires = "rollouts")]
    dtype: WeightsDtype,
    /// Data type of the key/value cache; sums are in float32.
    #[arg(long, value_enum, default_value = "float32", requires = "rollouts")]
    kv_cache_dtype: CacheDtype,
}

/// Measure.
pub fn run(args: &Args, preset: &ModelConfig) -> anyhow::Result<i32> {
    let own = &args.rollouts;
    anyhow::ensure!(
        own.num_generations > 0 && own.completions > 0 && own.prompt_length > 0 && own.completion_length > 0,
        "--completions, --num-generations, --prompt-length and --completion-length must be at least 1"
    );
    let device = open::device(&args.device)?;
    let max_len = own.prompt_length + own.completion_length;
    let model = match &own.model {
        Some(path) => {
            let dir = open::model_folder("--model", path)?;
            open::frozen_model(&device, &dir, &open::config(&dir)?, max_len, own.dtype)?
        }
        None => {
            let model = Model::frozen(&device, preset, max_len, own.dtype.resolve(ElementType::F32))?;
            model.initialise(&device, 1);
            model
        }
    };
    let slots = own.rollout_batch_size.unwrap_or(own.completions).min(own.completions);
    let mut engine = RolloutEngine::in_world(&device, &model, slots, max_len, own.kv_cache_dtype.element(), World::solo())?;
    let requests = requests(args, model.config.vocab_size);
    let mut seconds = Vec::new();
    for round in 0..=args.steps {
        let begin = Instant::now();
        let sampling = Sampling { seed: round as u64, ..Sampling::default() };
        let batch = RolloutBatch { requests: &requests, sampling: &sampling, stops: &[] };
        engine.run(&device, &model, batch, &mut silent)?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    // The first run includes compilation.
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    let bandwidth = bandwidth(&device)?;
    report(args, &device, &model, &engine, &seconds, bandwidth)?;
    match engine.recording() {
        Some(step) if args.profile => super::bench::profile_rows(args, device.profile(step)?),
        _ => Ok(0),
    }
}

fn requests(args: &Args, vocab: usize) -> Vec<RolloutRequest> {
    let (own, rng) = (&args.rollouts, Rng::new(1, "bench"));
    let prompt =
        |group: usize| (0..own.prompt_length as u64).map(|at| rng.below(group as u64, at, vocab as u64) as u32).collect();
    (0..own.completions)
        .map(|i| RolloutRequest { prompt: prompt(i / own.num_generations), key: [0, i as u32], max_new: own.completion_length })
        .collect()
}

fn report(
    args: &Args,
    device: &Device,
    model: &Model,
    engine: &RolloutEngine,
    seconds: &[f64],
    bandwidth: f64,
) -> anyhow::Result<()> {
    let own = &args.rollouts;
    let drawn = (own.completions * own.completion_length) as f64;
    let (median, best) = (seconds[seconds.len() / 2], seconds[0]);
    // Each step reads every weight once, and every row its own keys and values: half of a completion and the prompt on average.
    let (c, cache) = (&model.config, own.kv_cache_dtype.element());
    let seen = own.prompt_length as f64 + own.completion_length as f64 / 2.0;
    let cache_bytes = engine.slots() as f64 * seen * (2 * cache.bytes() * c.num_hidden_layers * c.key_value_dim()) as f64;
    let floor = engine.slots() as f64 * bandwidth / (model.parameters.value_bytes() as f64 + cache_bytes);
    let summary = device.summary();
    if args.json {
        return output::json_line(&serde_json::json!({
            "adapter": summary.name,
            "driver": summary.driver,
            "parameters": model.parameters.count(),
            "completions": own.completions,
            "num_generations": own.num_generations,
            "prompt_length": own.prompt_length,
            "completion_length": own.completion_length,
            "rollout_batch_size": engine.slots(),
            "seconds": median,
            "best_seconds": best,
            "tokens_per_second": drawn / median,
            "best_tokens_per_second": drawn / best,
            "bytes_per_second": bandwidth,
            "floor_tokens_per_second": floor,
            "dispatches_per_token": engine.recording().map(Recording::dispatches),
        }));
    }
    output::line(&format!(
        "{} completions of {} tokens in {} rows on {}: {:.0} tokens/s ({:.0} at best), {:.1} ms/step; at {:.1} GB/s no more than {:.0} tokens/s",
        own.completions,
        own.completion_length,
        engine.slots(),
        summary.name,
        drawn / median,
        drawn / best,
        1e3 * median * engine.slots() as f64 / drawn,
        bandwidth / 1e9,
        floor
    ))
}

/// Bytes per second read and written by a copy.
fn bandwidth(device: &Device) -> anyhow::Result<f64> {
    const ELEMENTS: usize = 16 << 20;
    const TIMES: usize = 4;
    let [from, to] = ["from", "to"].map(|name| Tensor::new(device, "bench", name, &[ELEMENTS]));
    let mut r = Recorder::new(device, "bandwidth");
    r.copy(&from, &to);
    let r = r.finish()?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let begin = Instant::now();
        device.replay_times(&r, TIMES)?;
        device.wait()?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(8.0 * (ELEMENTS * TIMES) as f64 / best)
}

//! `lehr bench`: tokens per second of a training step on random tokens, or of rollouts, and time per kernel.

use super::bench_rollouts::{self, RolloutArgs};
use super::bench_tune;
use crate::cli::{open, output};
use crate::config::{DeviceSettings, Settings, SettingsLayers};
use crate::data::{Dataset, TextSource, TokenFile};
use crate::device::{Device, ProfileRow};
use crate::ops::matmul::measured_peak_gflops;
use crate::rng::Rng;
use crate::train::Trainer;
use std::sync::Arc;
use web_time::Instant;

/// Flags of `lehr bench`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Preset with the model and recipe to measure.
    #[arg(long, default_value = "nano")]
    pub(super) preset: String,
    /// Sequences per step; the preset's when absent.
    #[arg(long)]
    batch: Option<usize>,
    /// Tokens per sequence; the preset's when absent.
    #[arg(long)]
    seq: Option<usize>,
    /// Vocabulary size.
    #[arg(long, default_value_t = 65)]
    vocab: usize,
    /// Updates to time.
    #[arg(long, default_value_t = 10)]
    pub(super) steps: usize,
    /// Warm-up steps, not timed; at least one.
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// Also time every kernel separately.
    #[arg(long)]
    pub(super) profile: bool,
    /// Measure the kernels that this device may choose from, cache the choices, and print candidates and times instead.
    #[arg(long, conflicts_with_all = ["rollouts", "profile"])]
    tune: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) device: DeviceSettings,
    #[command(flatten)]
    pub(super) rollouts: RolloutArgs,
}

/// Measure.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    anyhow::ensure!(args.steps > 0 && args.vocab > 0, "--steps and --vocab must be at least 1");
    let settings = settings(args)?;
    if args.rollouts.rollouts {
        return bench_rollouts::run(args, &settings.model.config(args.vocab, settings.train.seq_len));
    }
    if args.tune {
        return bench_tune::run(args, &settings);
    }
    let begin = Instant::now();
    let mut trainer = trainer(args, &settings, open::device(&args.device)?)?;
    trainer.step()?;
    trainer.flush()?;
    let first_step_seconds = begin.elapsed().as_secs_f64();
    let peak = measured_peak_gflops(&trainer.device)?;
    time_steps(&mut trainer, args.warmup.saturating_sub(1))?;
    let seconds = time_steps(&mut trainer, args.steps)?;
    let times = BenchTimes { median: seconds[seconds.len() / 2], best: seconds[0], first_step: first_step_seconds };
    report(args, &settings, &trainer, peak, times)?;
    if args.profile {
        profile(args, &trainer)?;
    }
    Ok(0)
}

/// Seconds.
struct BenchTimes {
    median: f64,
    best: f64,
    first_step: f64,
}

/// A trainer on random tokens.
pub(super) fn trainer(args: &Args, settings: &Settings, device: Device) -> anyhow::Result<Trainer> {
    let t = &settings.train;
    let n = (t.batch_size * (t.seq_len + 1) * 4) as u64;
    let rng = Rng::new(t.seed, "bench");
    let tokens: Vec<u32> = (0..n).map(|i| rng.below(0, i, args.vocab as u64) as u32).collect();
    let file = Arc::new(TokenFile::from_tokens(&tokens, &[n], args.vocab)?);
    let source = TextSource::new(Dataset::split(file, 0.0)?, t.seq_len, t.seed)?;
    Trainer::new(device, settings, &settings.model.config(args.vocab, t.seq_len), Box::new(source))
}

/// Seconds of each update, ascending.
fn time_steps(trainer: &mut Trainer, steps: usize) -> anyhow::Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for _ in 0..steps {
        let begin = Instant::now();
        trainer.step()?;
        trainer.flush()?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

fn report(args: &Args, settings: &Settings, trainer: &Trainer, peak: f64, times: BenchTimes) -> anyhow::Result<()> {
    let t = &settings.train;
    let tokens = trainer.tokens_per_step() as f64;
    let flops = tokens * trainer.model.config.flops_per_token_training((t.seq_len as f64 + 1.0) / 2.0);
    let achieved = flops / times.median / 1e9;
    let summary = trainer.device.summary();
    let Some((pass, passes)) = trainer.recording() else { anyhow::bail!("bench times pre-training") };
    if args.json {
        return output::json_line(&serde_json::json!({
            "preset": args.preset,
            "adapter": summary.name,
            "driver": summary.driver,
            "parameters": trainer.model.parameters.count(),
            "batch_size": t.batch_size,
            "seq_len": t.seq_len,
            "tokens_per_second": tokens / times.median,
            "step_ms": 1e3 * times.median,
            "best_step_ms": 1e3 * times.best,
            "gflop_per_step": flops / 1e9,
            "matmul_gflops": achieved,
            "measured_peak_gflops": peak,
            "mfu": achieved / peak,
            "first_step_seconds": times.first_step,
            "device_bytes": trainer.device.ledger().total(),
            "dispatches_per_step": pass.dispatches() * passes + trainer.optimizer.recording().dispatches(),
        }));
    }
    output::line(&format!(
        "{} on {}: {:.0} tokens/s, {:.1} ms/step (best {:.1}), {:.1} of {:.1} GFLOP/s ({:.0} %), first step after {:.1} s",
        args.preset,
        summary.name,
        tokens / times.median,
        1e3 * times.median,
        1e3 * times.best,
        achieved,
        peak,
        100.0 * achieved / peak,
        times.first_step
    ))
}

fn settings(args: &Args) -> anyhow::Result<Settings> {
    let mut layers = SettingsLayers::default();
    layers.preset(&args.preset)?;
    let mut settings = layers.settings()?;
    settings.train.batch_size = args.batch.unwrap_or(settings.train.batch_size);
    settings.train.seq_len = args.seq.unwrap_or(settings.train.seq_len);
    settings.validate()?;
    Ok(settings)
}

/// Time every kernel of a step separately: the sum is larger than the step, because each waits for the one before.
fn profile(args: &Args, trainer: &Trainer) -> anyhow::Result<()> {
    let Some((pass, times)) = trainer.recording() else { anyhow::bail!("bench times pre-training") };
    let mut rows: Vec<ProfileRow> = trainer.device.profile(pass)?;
    for row in &mut rows {
        row.calls *= times;
        row.seconds *= times as f64;
        row.cost.flops *= times as f64;
        row.cost.bytes *= times as f64;
    }
    rows.extend(trainer.device.profile(trainer.optimizer.recording())?);
    profile_rows(args, rows).map(|_| ())
}

/// Print a profile.
pub(super) fn profile_rows(args: &Args, mut rows: Vec<ProfileRow>) -> anyhow::Result<i32> {
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let all: f64 = rows.iter().map(|r| r.seconds).sum();
    if !args.json {
        output::line(&format!("\n{:<64} {:>6} {:>9} {:>6} {:>8} {:>7}", "kernel", "calls", "ms", "share", "GFLOP/s", "GB/s"))?;
    }
    for r in rows {
        let (gflops, gbs) = (r.cost.flops / r.seconds / 1e9, r.cost.bytes / r.seconds / 1e9);
        if args.json {
            output::json_line(&serde_json::json!({
                "kernel": r.kernel, "calls": r.calls, "ms": 1e3 * r.seconds, "share": r.seconds / all, "gflops": gflops, "gb_per_second": gbs,
            }))?;
        } else {
            output::line(&format!(
                "{:<64} {:>6} {:>9.2} {:>5.1}% {:>8.1} {:>7.1}",
                r.kernel,
                r.calls,
                1e3 * r.seconds,
                100.0 * r.seconds / all,
                gflops,
                gbs
            ))?;
        }
    }
    Ok(0)
}

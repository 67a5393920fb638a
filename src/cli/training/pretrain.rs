//! `lehr pretrain`

use crate::cli::{is_typed, open, output};
use crate::config::{RingPlace, Settings, SettingsLayers, Stage, TaskKind, UsageError};
use crate::data::TokenizerKind;
use crate::event::Finished;
use crate::number_format::did_you_mean;
use crate::run_folder;
use crate::session::control::{CommandReader, INTERRUPTED};
use crate::session::emitter::Listener;
use crate::session::starting_point;
use crate::session::{DryRun, RunStart, dry_run, train};
use crate::vfs::{RealFs, human_bytes};
use clap::ArgMatches;
use std::path::PathBuf;
use web_time::Instant;

/// Flags of `lehr pretrain`: all settings, and the starting point.
#[derive(clap::Args, Debug)]
// Flattened into other commands, whose group has this name too; clap refuses that in debug builds.
#[group(skip)]
pub struct Args {
    /// Preset of model and recipe: nano, tiny, small, smollm2-135m, qwen2.5-0.5b, qwen3-0.6b or llama3.2-1b.
    #[arg(long)]
    preset: Option<String>,
    /// TOML file of settings, such as `config.toml` in a run folder.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Folder of the new run; runs/pretrain-NNN when absent.
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Resume the run in this folder, from its newest valid checkpoint and with its own settings.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["run", "init", "fork", "preset", "config"])]
    resume: Option<PathBuf>,
    /// Print the model's size and the memory for training, and exit.
    #[arg(long)]
    dry_run: bool,
    /// Print every event as a JSON line on standard output.
    #[arg(long)]
    json: bool,
    /// Open the window on this run.
    #[cfg(feature = "app")]
    #[arg(long)]
    window: bool,
    /// Read commands as JSON lines from standard input, such as {"command":"Pause"}.
    #[arg(long)]
    control: bool,
    #[command(flatten)]
    pub(super) settings: Settings,
}

impl Args {
    /// Settings from all layers, lowest first: the command's defaults, a fork's parent, the preset, the config file, and those of `flags`
    /// that `typed` marks as explicit.
    pub(super) fn layered(&self, mut layers: SettingsLayers, flags: &Settings, typed: &ArgMatches) -> anyhow::Result<Settings> {
        if let Some(fork) = &flags.start.fork {
            open::start_exists("--fork", fork)?;
            // A fork has its parent's settings, except explicit flags.
            layers.file(&RealFs, &starting_point::settings_of_fork(&RealFs, fork)?)?;
            layers.forget_section("start");
        }
        if let Some(name) = &self.preset {
            layers.preset(name)?;
        }
        if let Some(path) = &self.config {
            layers.file(&RealFs, path)?;
        }
        layers.flags(typed, flags)?;
        layers.fitted()
    }
}

/// Train.
pub fn run(args: &Args, typed: &ArgMatches, started: Instant) -> anyhow::Result<i32> {
    let settings = args.layered(SettingsLayers::default(), &args.settings, typed)?;
    let stage = settings.stage();
    anyhow::ensure!(
        stage == Stage::Pretrain,
        "{}: has a section [{1}], which is for another stage; use lehr {1}",
        if args.config.is_some() { "--config" } else { "--fork" },
        stage.name()
    );
    start(args, settings, typed, started)
}

/// Train with these settings, or print the estimate for a dry run.
pub(super) fn start(args: &Args, settings: Settings, typed: &ArgMatches, started: Instant) -> anyhow::Result<i32> {
    // A resumed run may be extended to more updates.
    let max_steps = (args.resume.is_some() && is_typed(typed, "max_steps")).then_some(settings.train.max_steps);
    let start = RunStart { run: args.run.clone(), resume: args.resume.clone(), max_steps };
    match &args.resume {
        Some(run) => {
            open::run_exists("--resume", run)?;
            refuse_flags_on_resume(run, typed)?;
        }
        None => check_usage(&settings)?,
    }
    #[cfg(feature = "app")]
    if args.window && !args.dry_run {
        anyhow::ensure!(max_steps.is_none(), "--max-steps: --window resumes a run as it is; leave --window out");
        return crate::cli::app::train_in_window(settings.stage().name(), args.run.as_deref(), args.resume.as_deref());
    }
    if args.dry_run {
        return plan(&settings, &start, args.json);
    }
    let commands = args.control.then(|| Box::new(std::io::BufReader::new(std::io::stdin())) as CommandReader);
    let finished = train(&RealFs, settings, &start, commands, output::console_listener(args.json), started)?;
    Ok(exit_code(&finished))
}

/// Checks for new runs of any stage, including mistyped names.
fn check_usage(settings: &Settings) -> anyhow::Result<()> {
    settings.data.data.iter().try_for_each(|path| open::data_exists("--data", path))?;
    settings.data.val_data.iter().try_for_each(|path| open::data_exists("--val-data", path))?;
    let begin = &settings.start;
    begin.init.iter().try_for_each(|name| open::start_exists("--init", name))?;
    let is_new = begin.init.is_none() && begin.fork.is_none();
    let has_data = !settings.data.data.is_empty();
    let is_custom = settings.task.as_ref().is_some_and(|task| task.task == TaskKind::Custom);
    let lacks = match settings.stage() {
        Stage::Pretrain if !has_data => {
            Some("--data: no text named. Give --data PATH (a file, a folder, JSONL, or - for standard input)")
        }
        Stage::Sft if !has_data => {
            Some("--data: no rows named. Give --data PATH, a JSONL file with messages, or prompt and completion")
        }
        Stage::Sft if is_new => Some("--init: fine-tuning starts from a model; name its folder, or a run (RUN, RUN@STEP)"),
        Stage::Grpo if is_new => {
            Some("--init: reinforcement learning starts from a model; name its folder, or a run (RUN, RUN@STEP)")
        }
        Stage::Grpo if is_custom && !has_data => Some("--data: --task custom needs rows with prompt and answer"),
        Stage::Pretrain | Stage::Sft | Stage::Grpo => None,
    };
    if let Some(text) = lacks {
        anyhow::bail!(UsageError(text.to_owned()));
    }
    if is_new { check_tokenizer(&settings.data.tokenizer) } else { Ok(()) }
}

/// Reject a tokenizer that is neither a built-in kind nor an existing path.
fn check_tokenizer(name: &str) -> anyhow::Result<()> {
    match name.parse::<TokenizerKind>() {
        Ok(TokenizerKind::Path(path)) if !path.exists() => {
            let hint = did_you_mean(name, ["bytes", "chars", "words", "bpe:N"]);
            let name = crate::vfs::clean(name);
            anyhow::bail!(UsageError(format!("--tokenizer {name}: no such tokenizer, file or folder{hint}")))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(UsageError(format!("{error:#}")).into()),
    }
}

fn exit_code(finished: &Finished) -> i32 {
    if finished.reason == "stopped" { INTERRUPTED } else { 0 }
}

/// A resumed run keeps its frozen settings; a flag that would change them is rejected.
fn refuse_flags_on_resume(run: &std::path::Path, typed: &ArgMatches) -> anyhow::Result<()> {
    use clap::parser::ValueSource::CommandLine;
    let own = ["resume", "max_steps", "json", "control", "window", "dry_run", "adapter", "threads", "matmul_precision"];
    for id in typed.ids().map(clap::Id::as_str).filter(|id| !own.contains(id)) {
        // Groups (the sections, named after their types) are ids too, but have no value.
        let is_flag =
            !id.starts_with(char::is_uppercase) && typed.try_contains_id(id).unwrap_or(false) && typed.try_get_raw(id).is_ok();
        if is_flag && typed.value_source(id) == Some(CommandLine) {
            anyhow::bail!(
                "--{}: a resumed run keeps the settings in {}; leave the flag out, or start a new run with --init",
                id.replace('_', "-"),
                run_folder::config(run).display()
            );
        }
    }
    Ok(())
}

fn plan(settings: &Settings, start: &RunStart, json: bool) -> anyhow::Result<i32> {
    let mut listener: Listener = output::console_listener(false);
    let DryRun { settings, config, plan, device, done } = dry_run(&RealFs, settings, start, &mut listener)?;
    let left = settings.train.max_steps.saturating_sub(done.unwrap_or(0));
    let most = device.sizes().max_tensor_bytes;
    let parameters = crate::model::Parameters::new(&config, most)?.count();
    let trained = crate::model::Parameters::trained(&config, most)?.count();
    let seconds = estimated_seconds(&settings, left, &config, &device)?;
    if json {
        let parts: serde_json::Map<String, serde_json::Value> =
            plan.parts.iter().map(|(k, v)| (k.to_string(), (*v).into())).collect();
        output::json_line(&serde_json::json!({
            "parameters": parameters, "trained_parameters": trained, "micro_batch": plan.micro_batch, "bytes": parts, "total_bytes": plan.total(),
            "adapter": device.summary().name, "estimated_seconds": seconds, "resumed_at_step": done,
            "merge_ring": plan.ring.map(|(place, bytes)| serde_json::json!({ "place": place, "bytes": bytes })),
        }))?;
        return Ok(0);
    }
    if let Some(done) = done {
        output::line(&format!("resumed      after {done} of {} steps", settings.train.max_steps))?;
    }
    output::line(&format!("parameters   {}", output::count(parameters as u64)))?;
    if config.lora.is_some() {
        output::line(&format!("trained      {} (adapters)", output::count(trained as u64)))?;
    }
    let (micro, whole, tokens) = (plan.micro_batch, settings.train.batch_size, settings.train.seq_len);
    output::line(&match settings.stage() {
        Stage::Grpo => {
            format!("micro-batch  {micro} rows of {tokens} tokens, into which the {whole} completions of a step are packed")
        }
        Stage::Pretrain | Stage::Sft => format!("micro-batch  {micro} of {whole} sequences"),
    })?;
    for (name, bytes) in &plan.parts {
        output::line(&format!("{name:<12} {}", human_bytes(*bytes)))?;
    }
    if let Some((place, bytes)) = plan.ring.filter(|(place, _)| *place != RingPlace::Device) {
        let place = if place == RingPlace::Host { "in the host's memory" } else { "on disk, in the folder of temporary files" };
        output::line(&format!("{:<12} {} {place}", "merge ring", human_bytes(bytes)))?;
    }
    output::line(&format!("{:<12} {} on {}", "together", human_bytes(plan.total()), device.summary().name))?;
    if let Some(seconds) = seconds {
        output::line(&format!("{:<12} about {} for {left} steps", "time", output::duration(seconds.max(1.0))))?;
    }
    Ok(0)
}

/// Estimated training time, without evaluation and saves: FLOPs over the share of this device's measured matmul peak that steps usually
/// reach. `None` for GRPO, where the length of completions is unknown.
fn estimated_seconds(
    settings: &Settings,
    steps: u64,
    config: &crate::config::ModelConfig,
    device: &crate::device::Device,
) -> anyhow::Result<Option<f64>> {
    if settings.stage() == Stage::Grpo {
        return Ok(None);
    }
    let reached = device.sizes().share_of_peak;
    let t = &settings.train;
    let tokens = (steps * t.batch_size as u64 * t.seq_len as u64) as f64;
    let context = (t.seq_len as f64 + 1.0) / 2.0;
    let again = if t.checkpoints_activations() { config.flops_per_token_forward(context) } else { 0.0 };
    let flops = config.flops_per_token_training(context) + again;
    Ok(Some(tokens * flops / (crate::ops::matmul::measured_peak_gflops(device)? * 1e9 * reached)))
}

//! `lehr replay`: one GRPO step on recorded completions, with details of every pass and token.

mod rows;
mod step;

use crate::cli::{open, output, refuse, with_stage_defaults};
use crate::config::{
    DeviceSettings, GRPO_DEFAULTS, GrpoSettings, RolloutSettings, Settings, SettingsLayers, Stage, TrainSettings,
};
use crate::device::Device;
use crate::event::{Number, ProbabilityChange, Tokens};
use crate::merge::COPIED;
use crate::model::Model;
use crate::model_files::checkpoint::{CheckpointOrigin, CheckpointTarget, IfExists, save};
use crate::model_files::hf_config::{HfConfig, config_json};
use crate::model_files::safetensors_file::write_safetensors;
use crate::train::bins::{QUARTILES, bin};
use crate::train::reinforce::{Rollout, UpdateStats, probe, tokens};
use crate::vfs::{RealFs, Vfs as _, display_path, write_whole_by};
use anyhow::{Context as _, Result, ensure};
use clap::ArgMatches;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use step::{PassReport, ReplayedStep};

/// Flags of `lehr replay`: the flags of `lehr grpo` that apply to a step on recorded completions, and more.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model to update: a folder (lehr's or Hugging Face's), or a run folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Completions, one JSON object per line: {"group":0,"prompt":[ids],"completion":[ids],"reward":1.0}, optionally "truncated",
    /// "old_logprobs", "ref_logprobs" and "advantages", which are computed if missing; or the samples.jsonl of a run. - for standard input.
    #[arg(long, value_name = "FILE.jsonl")]
    rollouts: PathBuf,
    /// Step to replay, if the file has several (as samples.jsonl).
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Reference model of the KL term; the model before the step when absent.
    #[arg(long, value_name = "DIR")]
    ref_model: Option<PathBuf>,
    /// Settings file, such as the config.toml of a run folder; flags take precedence.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write each pass's gradient before clipping, with Hugging Face's tensor names, prefixed with PASS/ if there are several passes. The
    /// gradients of several mini-batches are summed.
    #[arg(long, value_name = "FILE.safetensors")]
    grads: Option<PathBuf>,
    /// Write the model after the step into a new folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write each row with its computed values, including log-probabilities after the step ("new_logprobs").
    #[arg(long, value_name = "FILE.jsonl")]
    rows: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceSettings,
    #[command(flatten)]
    train: TrainSettings,
    #[command(flatten)]
    rollout: RolloutSettings,
    #[command(flatten)]
    grpo: GrpoSettings,
}

/// Settings of a run that do not apply to one step on recorded completions.
const OF_RUNS: &[&str] = &[
    "max_steps",
    "batch_size",
    "min_learning_rate",
    "lr_scheduler",
    "warmup_steps",
    "decay_steps",
    "decay_shape",
    "num_generations",
    "top_k",
    "top_p",
    "min_p",
    "max_prompt_length",
    "rollout_batch_size",
    "dynamic_sampling",
    "log_completions",
    "probe_every",
];

/// The command with this stage's defaults and help.
pub fn command(command: clap::Command) -> clap::Command {
    let help = [
        ("learning_rate", "Learning rate of every update"),
        ("seq_len", "Tokens in a packed row; 0 takes the longest prompt with its completion"),
        ("micro_batch_size", "Packed rows computed at once; chosen to fit memory when absent"),
        ("mini_batch_size", "Completions in one optimizer update; all rows when absent"),
        ("max_completion_length", "Divisor of --loss-type dr_grpo, in tokens"),
        ("temperature", "Divides the logits, as when the completions were sampled"),
        ("seed", "Seed of --lopti-split random"),
    ];
    with_stage_defaults(command, OF_RUNS, GRPO_DEFAULTS, &help)
}

/// The printed results.
#[derive(Serialize)]
struct ReplayReport {
    completions: usize,
    passes: Vec<PassReport>,
    /// By probability at the time of the rollout: shares of tokens and of the gradient. By probability before the step: changes.
    tokens: Tokens,
    /// By group of completions: the share that moved in the direction of the advantage, among the tokens that moved and have one, as in
    /// `tokens.probe`; `None` without such a token. Allows paired comparisons between settings.
    right_by_group: Vec<Option<f64>>,
    /// By quartile of the probability before: the mean change of probability of its tokens, up or down; `None` without tokens.
    moved: [Option<f64>; QUARTILES.len()],
    /// The same by quartile, then by group of completions. Allows paired comparisons between quartiles and between settings.
    moved_by_group: [Vec<Option<f64>>; QUARTILES.len()],
}

/// Sum and count of values.
#[derive(Clone, Copy, Default)]
struct RunningMean(f64, u64);

impl RunningMean {
    fn add(&mut self, value: f64) {
        *self = Self(self.0 + value, self.1 + 1);
    }

    fn value(self) -> Option<f64> {
        (self.1 > 0).then(|| self.0 / self.1 as f64)
    }
}

/// See [`ReplayReport::moved`] and [`ReplayReport::moved_by_group`]; `old_logprobs` are those of the model before the step.
fn moved(rollouts: &[Rollout], after: &[Vec<f32>]) -> ([Option<f64>; QUARTILES.len()], [Vec<Option<f64>>; QUARTILES.len()]) {
    let mut all = [RunningMean::default(); QUARTILES.len()];
    let mut groups: BTreeMap<u32, [RunningMean; QUARTILES.len()]> = BTreeMap::new();
    for (rollout, after) in rollouts.iter().zip(after) {
        let group = groups.entry(rollout.group).or_default();
        for change in probe::changes(from_ref(rollout), from_ref(after)) {
            let by = change.moved().abs();
            if let Some(b) = bin(&QUARTILES, change.probability()).filter(|_| by.is_finite()) {
                all[b].add(by);
                group[b].add(by);
            }
        }
    }
    let by_group = std::array::from_fn(|b| groups.values().map(|bins| bins[b].value()).collect());
    (all.map(RunningMean::value), by_group)
}

/// See [`ReplayReport::right_by_group`]; `old_logprobs` are those of the model before the step.
fn right_by_group(rollouts: &[Rollout], after: &[Vec<f32>]) -> Vec<Option<f64>> {
    let mut groups: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for (rollout, after) in rollouts.iter().zip(after) {
        let (right, all) = groups.entry(rollout.group).or_default();
        for is_right in
            probe::changes(from_ref(rollout), from_ref(after)).iter().filter_map(probe::TokenChange::moved_with_advantage)
        {
            *all += 1;
            *right += u64::from(is_right);
        }
    }
    groups.into_values().map(|(right, all)| (all > 0).then(|| right as f64 / all as f64)).collect()
}

/// Replay.
pub fn run(args: &Args, typed: &ArgMatches) -> Result<i32> {
    refuse(typed, OF_RUNS, "is for runs; a replay is one step on the completions of --rollouts")?;
    let mut settings = settings(args, typed)?;
    for path in [&args.grads, &args.rows].into_iter().flatten() {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        ensure!(parent.is_none_or(Path::is_dir), "{}: there is no such folder to write into", display_path(path));
    }
    let place = args.out.as_deref().map(out_place).transpose()?;
    let dir = open::model_folder("--model", &args.model)?;
    let config = open::config(&dir)?;
    let limits = rows::ModelLimits { vocab_size: config.model.vocab_size, context: config.model.max_position_embeddings };
    let rollouts = rows::read(&args.rollouts, limits, args.step)?;
    let longest = rollouts.iter().map(|r| r.prompt.len() + r.completion.len()).max().unwrap_or(1);
    let train = &mut settings.train;
    ensure!(
        train.seq_len == 0 || train.seq_len >= longest,
        "--seq-len {}: the longest prompt with its completion has {longest} tokens",
        train.seq_len
    );
    if train.seq_len == 0 {
        train.seq_len = longest;
    }
    train.batch_size = rollouts.len();
    note_what_is_not_used(&settings, &rollouts);
    let device = open::device(&args.device)?;
    let model = open::model(&device, &dir, &config, settings.train.seq_len)?;
    let reference = args.ref_model.as_deref().map(|path| reference(&device, path, &config, &settings.train)).transpose()?;
    let made = step::make(&device, &model, reference.as_ref(), &settings, rollouts, args.grads.is_some())?;
    if let Some(path) = &args.grads {
        write_gradients(&model, &made, path)?;
    }
    if let Some(path) = &args.rows {
        write_rows(&made, path)?;
    }
    if let Some((parent, name)) = &place {
        write_model(&device, &model, &dir, &config, (parent, name))?;
    }
    let report = report(made, settings.grpo.as_ref().map_or(0.0, |grpo| grpo.reweight_alpha));
    if args.json {
        output::json_line(&report)?
    } else {
        print(&report)?
    }
    Ok(0)
}

fn settings(args: &Args, typed: &ArgMatches) -> Result<Settings> {
    let mut layers = SettingsLayers::of(Stage::Grpo)?;
    if let Some(path) = &args.config {
        layers.file(&RealFs, path)?;
    }
    let flags = Settings {
        train: args.train.clone(),
        rollout: Some(args.rollout.clone()),
        grpo: Some(args.grpo.clone()),
        ..Settings::default()
    };
    layers.overlay_flags(typed, &flags, &["train", "rollout", "grpo"]);
    let settings = layers.settings()?;
    check(&settings)?;
    Ok(settings)
}

/// A run's checks of these sections, without those that apply only to runs.
fn check(settings: &Settings) -> Result<()> {
    if let (Some(rollout), Some(grpo)) = (&settings.rollout, &settings.grpo) {
        rollout.validate()?;
        grpo.validate()?;
    }
    let t = &settings.train;
    ensure!(t.learning_rate.is_finite() && t.learning_rate >= 0.0, "--learning-rate {}: must be 0 or more", t.learning_rate);
    t.validate_optimizer()?;
    let mini = settings.grpo.as_ref().and_then(|grpo| grpo.mini_batch_size);
    ensure!(mini != Some(0), "--mini-batch-size 0: must be at least 1");
    Ok(())
}

/// Report settings that have no effect because the rows have the values.
fn note_what_is_not_used(settings: &Settings, rollouts: &[crate::train::reinforce::Rollout]) {
    let Some(grpo) = &settings.grpo else { return };
    if rollouts.iter().all(|r| !r.advantages.is_empty()) && grpo.reweight_alpha > 0.0 {
        output::note("note: the rows bring advantages, which are taken as they are; --reweight-alpha does nothing");
    }
}

/// The reference model, of any shape with the same vocabulary.
fn reference(device: &Device, path: &Path, config: &HfConfig, train: &TrainSettings) -> Result<Model> {
    let dir = open::model_folder("--ref-model", path)?;
    let own = open::config(&dir)?;
    let (known, wanted) = (own.model.vocab_size, config.model.vocab_size);
    ensure!(known == wanted, "--ref-model {}: knows {known} tokens, the model {wanted}", display_path(path));
    open::frozen_model(device, &dir, &own, train.seq_len, train.dtype.unwrap_or_default())
}

fn report(made: ReplayedStep, alpha: f64) -> ReplayReport {
    let (mut rollouts, after) = (made.rollouts, &made.after);
    let mut tokens = Tokens {
        gradient: Some(made.by_quartile),
        grad_norm: made.passes.iter().map(|p| (p.pass.clone(), Number(p.together.grad_norm))).collect(),
        ..tokens::statistics(1, &rollouts, alpha)
    };
    // Changes are measured from the model, whatever old log-probabilities the rows have.
    rollouts.iter_mut().zip(made.before).for_each(|(r, before)| r.old_logprobs = before);
    tokens.probe = Some(probe::probe(&probe::changes(&rollouts, after)));
    let right_by_group = right_by_group(&rollouts, after);
    let (moved, moved_by_group) = moved(&rollouts, after);
    ReplayReport { completions: rollouts.len(), passes: made.passes, tokens, right_by_group, moved, moved_by_group }
}

/// Tables within 80 columns: losses of the updates, clip fractions, tokens by probability, changes.
fn print(report: &ReplayReport) -> Result<()> {
    let updates: Vec<(&str, &UpdateStats)> =
        report.passes.iter().flat_map(|pass| pass.updates.iter().map(|u| (pass.pass.as_str(), u))).collect();
    let losses = updates.iter().map(|(pass, u)| {
        let note = if u.skipped { "skipped: not finite" } else { "" };
        let numbers = [format!("{:.5}", u.loss), format!("{:.5}", u.policy_loss), format!("{:.5}", u.grad_norm)];
        let rest = [u.tokens.to_string(), format!("{:.4}", u.entropy), note.to_owned()];
        [(*pass).to_owned()].into_iter().chain(numbers).chain(rest).collect()
    });
    table(&["pass", "loss", "policy loss", "grad norm", "tokens", "entropy", ""], losses)?;
    output::line("")?;
    let limits = updates.iter().map(|(pass, u)| {
        let clips = [u.clip_low, u.clip_high, u.clip_dual].map(|share| format!("{share:.4}"));
        [(*pass).to_owned()].into_iter().chain(clips).chain([u.kl, u.approx_kl].map(|kl| format!("{kl:.2e}"))).collect()
    });
    table(&["pass", "clipped low", "high", "dual", "kl", "approx kl"], limits)?;
    let (t, Some(probe)) = (&report.tokens.quartiles, &report.tokens.probe) else { return Ok(()) };
    let bins: Vec<String> =
        t.from.iter().enumerate().map(|(b, from)| format!("{from:.2} to {:.2}", t.from.get(b + 1).unwrap_or(&1.0))).collect();
    output::line("")?;
    let norms = report.tokens.gradient.as_ref();
    let shares = bins.iter().enumerate().map(|(b, bin)| {
        let norm = norms.map_or("-".into(), |g| format!("{:.5}", g.quartiles[b].0));
        let shares = [t.all.share[b].0, t.all.gradient[b].0].map(|share| format!("{share:.3}"));
        [bin.clone(), t.all.count[b].to_string()].into_iter().chain(shares).chain([norm]).collect()
    });
    table(&["probability", "tokens", "share", "of the gradient", "grad norm"], shares)?;
    output::line("")?;
    let ProbabilityChange { count, least, lower, median, upper, most, right, .. } = &probe.all;
    let moved = bins.iter().enumerate().map(|(b, bin)| {
        let changes = [least, lower, median, upper, most].map(|of| signed(of[b].0));
        let right = if right[b].0.is_nan() { "-".into() } else { format!("{:.3}", right[b].0) };
        [bin.clone(), count[b].to_string()].into_iter().chain(changes).chain([right]).collect()
    });
    table(&["moved", "tokens", "least", "lower", "median", "upper", "most", "right"], moved)
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<()> {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    output::aligned(&[head].into_iter().chain(rows).collect::<Vec<_>>(), |_| true).iter().try_for_each(|line| output::line(line))
}

fn signed(x: f64) -> String {
    if x.is_nan() { "-".into() } else { format!("{x:+.5}") }
}

fn write_gradients(model: &Model, made: &ReplayedStep, path: &Path) -> Result<()> {
    let one = made.passes.len() == 1;
    let mut names = Vec::new();
    let mut ranges = BTreeMap::new();
    for (pass, gradient) in made.passes.iter().zip(&made.gradients) {
        let mut start = 0;
        for (name, shape) in model.names() {
            let n: usize = shape.iter().product();
            let name = if one { name } else { format!("{}/{name}", pass.pass) };
            ranges.insert(name.clone(), &gradient[start..start + n]);
            names.push((name, shape));
            start += n;
        }
    }
    write_whole_by(path, |out| write_safetensors(out, &BTreeMap::new(), &names, |name, sink| sink.write(ranges[name])))
}

fn write_rows(made: &ReplayedStep, path: &Path) -> Result<()> {
    write_whole_by(path, |out| {
        for (rollout, after) in made.rollouts.iter().zip(&made.after) {
            let mut row = serde_json::to_value(rollout)?;
            row["new_logprobs"] = serde_json::to_value(after)?;
            writeln!(out, "{row}")?;
        }
        Ok(())
    })
}

/// Parent and name of the output folder, checked before any work.
fn out_place(path: &Path) -> Result<(PathBuf, String)> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("--out {}: name a new folder", display_path(path)))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(parent.is_dir(), "--out {}: there is no folder {}", display_path(path), display_path(parent));
    let empty = !path.exists() || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    ensure!(empty, "--out {}: exists and is not empty: choose another name or remove it", display_path(path));
    Ok((parent.to_owned(), name.to_owned()))
}

/// Write the current model, with the configuration and tokenizer of its original folder.
fn write_model(device: &Device, model: &Model, from: &Path, config: &HfConfig, (parent, name): (&Path, &str)) -> Result<()> {
    /// Maximum size of a copied file.
    const MAX_COPIED: u64 = 64 << 20;
    let bytes = 4 * model.parameters.count() as u64 + (1 << 20);
    let place = CheckpointTarget { parent, name, bytes, existing: IfExists::Refuse };
    let origin = CheckpointOrigin { adapter: "lehr replay".into(), ..CheckpointOrigin::default() };
    save(&RealFs, place, &origin, |out| {
        let mut reader = model.reader(device, &model.values);
        out.file("model.safetensors", |file| {
            write_safetensors(file, &BTreeMap::new(), &model.names(), |name, sink| reader.write(name, sink))
        })?;
        out.json("config.json", &config_json(&config.model, &config.tokens))?;
        for name in COPIED.iter().filter(|name| from.join(name).is_file()) {
            let bytes = RealFs.read(&from.join(name), MAX_COPIED).with_context(|| display_path(&from.join(name)))?;
            out.file(name, |file| Ok(file.write_all(&bytes)?))?;
        }
        Ok(())
    })?;
    Ok(())
}

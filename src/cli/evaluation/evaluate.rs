//! `lehr eval`: loss on text, or accuracy on a task's questions.

mod task;

use crate::cli::{is_typed, open, output, refuse};
use crate::config::{CacheSettings, DataSettings, DeviceSettings, StorageSettings, TaskSettings, UsageError};
use crate::data::{self, Batch, IGNORE, Notices, TokenCache};
use crate::device::Device;
use crate::progress::silent;
use crate::train::{Evaluation, Scorer};
use crate::vfs::RealFs;
use clap::ArgMatches;
use std::path::PathBuf;
use web_time::Instant;

/// Flags of `lehr eval`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model folder (lehr's or Hugging Face's), or a run folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text file, folder of text files, JSONL with `text`, or - for standard input; may be repeated. With --task: a JSONL file of questions.
    #[arg(long, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Score only this share of the tokens, from the end (the held-out part); 1 for all.
    #[arg(long, default_value_t = 1.0)]
    val_fraction: f64,
    /// Tokens per window; the model's context when absent.
    #[arg(long)]
    seq_len: Option<usize>,
    /// Windows computed at once, limited by memory; with --task: completions, chosen to suit the adapter when absent.
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// Maximum tokens to score; 0 for all.
    #[arg(long, default_value_t = 0)]
    max_tokens: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// With --json: also the mean loss of each window, in order, for paired comparisons of models.
    #[arg(long, requires = "json")]
    windows: bool,
    #[command(flatten)]
    storage: StorageSettings,
    #[command(flatten)]
    cache: CacheSettings,
    #[command(flatten)]
    device: DeviceSettings,
    #[command(flatten)]
    task_eval: task::Args,
    #[command(flatten)]
    task: TaskSettings,
}

/// Flags for text only.
const OF_TEXT: &[&str] = &["val_fraction", "seq_len", "max_tokens", "windows"];

/// The command with the help of both kinds of evaluation.
pub fn command(command: clap::Command) -> clap::Command {
    let help = "Answer a task's held-out questions and grade the answers, instead of the loss on text";
    let command = command.mut_arg("eval_questions", |arg| arg.hide(true));
    command.mut_arg("task", |arg| arg.help(help).long_help(help).hide_default_value(true))
}

/// Evaluate.
pub fn run(args: &Args, typed: &ArgMatches) -> anyhow::Result<i32> {
    anyhow::ensure!(args.batch_size > 0, "--batch-size 0: must be at least 1");
    args.data.iter().try_for_each(|path| open::data_exists("--data", path))?;
    let given = |name: &str| is_typed(typed, name);
    anyhow::ensure!(!given("eval_questions"), "--eval-questions: use --count for the number of questions");
    if given("task") {
        refuse(typed, OF_TEXT, "means nothing with --task")?;
        return task::run(args, given("batch_size").then_some(args.batch_size));
    }
    if let Some(name) = task_flags().iter().find(|name| given(name)) {
        anyhow::bail!("--{}: goes with --task, which is not given", name.replace('_', "-"));
    }
    anyhow::ensure!(!given("kv_cache_dtype"), "--kv-cache-dtype: goes with --task, which is not given");
    if args.data.is_empty() {
        let text = "--data or --task: is missing; name a text whose loss to compute (--data text.txt), or a task whose questions to answer \
                    (--task kk, math or custom)";
        anyhow::bail!(UsageError(text.to_owned()));
    }
    text(args)
}

/// Names of the flags that require --task.
fn task_flags() -> Vec<String> {
    let command = <task::Args as clap::Args>::augment_args(clap::Command::new("task"));
    let command = <TaskSettings as clap::Args>::augment_args(command);
    command.get_arguments().map(|arg| arg.get_id().to_string()).collect()
}

/// The loss on text.
fn text(args: &Args) -> anyhow::Result<i32> {
    anyhow::ensure!(
        args.val_fraction > 0.0 && args.val_fraction <= 1.0,
        "--val-fraction {}: must be above 0 and at most 1",
        args.val_fraction
    );
    let dir = open::model_folder("--model", &args.model)?;
    let config = open::config(&dir)?;
    let tokenizer = open::tokenizer(&dir, &config)?;
    let (context, why) = config.model.usable_context();
    let seq_len = args.seq_len.unwrap_or(context.min(1024));
    anyhow::ensure!(
        (1..=context).contains(&seq_len),
        "--seq-len {seq_len}: this model takes 1 to {context} tokens at once ({why})"
    );
    let mut notices = Notices::new();
    let whole = args.val_fraction >= 1.0;
    let settings = DataSettings {
        data: args.data.clone(),
        val_fraction: if whole { 0.0 } else { args.val_fraction },
        ..DataSettings::default()
    };
    let (_, dataset) = data::load(&RealFs, &settings, Some(tokenizer), &TokenCache::User, &mut notices, &mut silent)?;
    notices.take().iter().for_each(|n| output::note(&format!("note: {n}")));
    let range = if whole { Some(dataset.train) } else { dataset.val };
    let Some(range) = range else { anyhow::bail!("--data: too little text to score") };
    let device = open::device(&args.device)?;
    let model = open::frozen_model(&device, &dir, &config, seq_len, args.storage.dtype)?;
    let batch_size = open::fitting_rows(&device, &config.model, seq_len, args.batch_size);
    let scorer = Scorer::new(&device, &model, batch_size, seq_len)?;
    let begin = Instant::now();
    let most = if args.max_tokens == 0 { u64::MAX } else { args.max_tokens };
    let batches = range.val_batches(batch_size, seq_len, most);
    let (found, windows) = match args.windows {
        true => by_window(&device, &scorer, batches)?,
        false => (scorer.evaluate(&device, batches)?, Vec::new()),
    };
    let seconds = begin.elapsed().as_secs_f64();
    if args.json {
        let mut report = serde_json::json!({
            "eval_loss": found.loss, "perplexity": found.loss.exp(), "eval_tokens": found.tokens, "eval_seconds": seconds,
        });
        if args.windows {
            report["windows"] = windows.into();
        }
        output::json_line(&report)?;
    } else {
        output::line(&format!(
            "loss {:.4} nats per token, perplexity {:.3}, {} tokens in {}",
            found.loss,
            found.loss.exp(),
            found.tokens,
            output::duration(seconds)
        ))?;
    }
    Ok(0)
}

/// The mean loss, and that of each window with scored tokens.
fn by_window(device: &Device, scorer: &Scorer, batches: impl Iterator<Item = Batch>) -> anyhow::Result<(Evaluation, Vec<f64>)> {
    let (mut sum, mut tokens, mut windows) = (0.0, 0, Vec::new());
    for batch in batches {
        let (logp, _) = scorer.score(device, &batch)?;
        for (logp, targets) in logp.chunks(batch.seq_len).zip(batch.targets.chunks(batch.seq_len)) {
            let scored = logp.iter().zip(targets).filter(|(_, target)| **target != IGNORE);
            let losses: Vec<f64> = scored.map(|(l, _)| -f64::from(*l)).collect();
            let total: f64 = losses.iter().sum();
            if !losses.is_empty() {
                windows.push(total / losses.len() as f64);
            }
            (sum, tokens) = (sum + total, tokens + losses.len() as u64);
        }
    }
    let loss = if tokens == 0 { f64::NAN } else { sum / tokens as f64 };
    Ok((Evaluation { loss, tokens, ..Evaluation::default() }, windows))
}

//! Shared by `lehr merge sweep` and `lehr landscape`: checkpoints by name, the evaluation text, progress, files.

use super::{open, output};
use crate::config::{DataSettings, DeviceSettings};
use crate::data::{self, Notices, TokenCache, TokenRange, Tokenizer};
use crate::device::Device;
use crate::model_files::checkpoint;
use crate::progress::silent;
use crate::run_folder;
use crate::run_folder::checkpoints::{self, split_step};
use crate::session;
use crate::train::WeightEvaluator;
use crate::vfs::{RealFs, Vfs as _, display_path};
use anyhow::{Context as _, Result, bail, ensure};
use std::path::{Path, PathBuf};
use web_time::Instant;

/// The evaluation text.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Evaluation text")]
pub struct HeldOutText {
    /// Evaluate on this text (file, folder of text files, JSONL with `text`; may be repeated) instead of the run's validation split.
    #[arg(long, visible_alias = "val-data", value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Use only this share of --data, from the end (the held-out part); 1 for all.
    #[arg(long, default_value_t = 1.0, requires = "data")]
    val_fraction: f64,
    /// Maximum tokens per evaluation; 0 for all; that of the run's evaluations when absent.
    #[arg(long)]
    max_tokens: Option<u64>,
    /// Tokens per window; the run's when absent.
    #[arg(long)]
    seq_len: Option<usize>,
    /// Windows computed at once, limited by memory; results do not depend on it.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    #[command(flatten)]
    pub device: DeviceSettings,
}

impl HeldOutText {
    /// An evaluator on a device for weights of the shape in `dir` (a model folder). `run` is its run.
    ///
    /// # Errors
    /// One line with the flag, folder or file, and the cause.
    pub fn evaluator(&self, dir: &Path, run: Option<&Path>, device: &DeviceSettings) -> Result<WeightEvaluator> {
        ensure!(self.batch_size > 0, "--batch-size 0: must be at least 1");
        self.data.iter().try_for_each(|path| open::data_exists("--data", path))?;
        ensure!(
            self.val_fraction > 0.0 && self.val_fraction <= 1.0,
            "--val-fraction {}: must be above 0 and at most 1",
            self.val_fraction
        );
        let settings = run.map(|run| run_folder::settings(&RealFs, run)).transpose()?;
        let config = open::config(dir)?;
        let context = config.model.max_position_embeddings;
        let own = settings.as_ref().map_or(context.min(1024), |s| s.train.seq_len);
        let seq_len = self.seq_len.unwrap_or(own);
        ensure!((1..=context).contains(&seq_len), "--seq-len {seq_len}: must lie between 1 and the model's context of {context}");
        let usual = settings.as_ref().map_or(16_384, |s| s.eval.eval_tokens);
        let most = match self.max_tokens.unwrap_or(usual) {
            0 => u64::MAX,
            most => most,
        };
        let rows = |device: &Device| open::fitting_rows(device, &config.model, seq_len, self.batch_size);
        if let ([], Some(run), Some(mut settings)) = (self.data.as_slice(), run, settings) {
            let of = || format!("{} (name a text with --data)", display_path(run));
            let gone = settings.data.data.iter().any(|p| p.as_os_str() == "-");
            ensure!(!gone, "{}: was trained on standard input, which is gone", of());
            settings.train.seq_len = seq_len;
            let source = session::source(&RealFs, &settings, dir, &mut output::console_listener(false)).with_context(of)?;
            let device = open::device(device)?;
            let batches = source.val_batches(rows(&device), seq_len, most);
            let batches = batches.with_context(|| format!("{}: holds no text out for validation", of()))?.collect();
            return WeightEvaluator::new(device, &config.model, batches);
        }
        ensure!(
            !self.data.is_empty(),
            "--data: {} is not in a run folder, so that there is no text to evaluate on: name one",
            display_path(dir)
        );
        let range = self.range(open::tokenizer(dir, &config)?)?;
        let device = open::device(device)?;
        let batches = range.val_batches(rows(&device), seq_len, most).collect();
        WeightEvaluator::new(device, &config.model, batches)
    }

    /// The tokens of --data.
    fn range(&self, tokenizer: Tokenizer) -> Result<TokenRange> {
        let whole = self.val_fraction >= 1.0;
        let val_fraction = if whole { 0.0 } else { self.val_fraction };
        let data = DataSettings { data: self.data.clone(), val_fraction, ..DataSettings::default() };
        let mut notices = Notices::new();
        let (_, dataset) = data::load(&RealFs, &data, Some(tokenizer), &TokenCache::User, &mut notices, &mut silent)?;
        notices.take().iter().for_each(|n| output::note(&format!("note: {n}")));
        let range = if whole { Some(dataset.train).filter(|t| t.len() > 1) } else { dataset.val };
        range.context("--data: too little text to score")
    }
}

/// The run of a checkpoint folder.
pub fn run_of(dir: &Path) -> Option<PathBuf> {
    let parent = dir.parent()?;
    // The parent of a path such as `step-00000500` is the current folder, whose name is not in it.
    let absolute = std::path::absolute(parent).ok()?;
    let run = absolute.parent()?;
    (absolute == checkpoints::folder(run) && run_folder::config(run).is_file()).then(|| run.to_owned())
}

/// The model folder of `RUN@STEP`, `RUN` (its newest valid checkpoint) or a folder.
///
/// # Errors
/// One line with what is missing and what exists.
pub fn folder_of(spec: &str) -> Result<PathBuf> {
    let (path, step) = match Path::new(spec).is_dir() {
        true => (Path::new(spec), None),
        false => split_step(spec),
    };
    let at = display_path(path);
    let unknown = || match path.exists() {
        true => format!("{at}: is a file; name RUN@STEP, RUN or a model's folder"),
        false => {
            format!("{at}: there is no such folder; name RUN@STEP, RUN or a model's folder{}", open::similar_name_hint(path))
        }
    };
    open::ensure_exists(path.is_dir(), unknown)?;
    let is_run = run_folder::is_run(&RealFs, path)?;
    let Some(step) = step else {
        if !is_run {
            ensure!(path.join("config.json").is_file(), "{at}: holds no config.json: neither a model nor a run");
            return Ok(path.to_owned());
        }
        return Ok(checkpoints::newest_of(&RealFs, path)?.path);
    };
    ensure!(is_run, "{at}: is not a run folder (it holds no config.toml): leave the @{step} out");
    let dir = checkpoints::folder(path).join(checkpoint::step_name(step));
    if !dir.is_dir() {
        let steps: Vec<u64> = checkpoints::list(&RealFs, path)?.iter().rev().map(|(step, _)| *step).collect();
        bail!("{at}: no checkpoint of step {step}; there are: {}", crate::merge::ranges(&steps));
    }
    Ok(dir)
}

/// Progress of a series of evaluations.
pub struct EvalProgress {
    all: usize,
    done: usize,
    begin: Instant,
    /// When the first one finished, which includes the startup time.
    first: Option<Instant>,
    line: output::ProgressLine,
}

impl EvalProgress {
    /// For `all` evaluations.
    pub fn new(all: usize) -> Self {
        Self {
            all,
            done: 0,
            begin: Instant::now(),
            first: None,
            line: output::ProgressLine::with_interval(output::LONG_LINE_SECONDS),
        }
    }

    /// One more is finished.
    pub fn step(&mut self) {
        self.set_done(self.done + 1);
    }

    /// Reports the number of finished ones.
    pub fn set_done(&mut self, done: usize) {
        self.done = done;
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        let each = match self.done {
            1 => now.duration_since(self.begin).as_secs_f64(),
            n => now.duration_since(first).as_secs_f64() / n.saturating_sub(1).max(1) as f64,
        };
        let (done, all) = (self.done, self.all);
        let left = output::duration(each * all.saturating_sub(done) as f64);
        self.line.show(|| format!("{done} of {all} evaluations, {each:.1} s each, about {left} left"));
        if done >= all {
            self.line.end();
        }
    }
}

/// Create the output folder before work starts.
///
/// # Errors
/// The folder cannot be created.
pub fn prepare(out: Option<&Path>) -> Result<()> {
    out.map_or(Ok(()), |dir| std::fs::create_dir_all(dir).with_context(|| format!("--out {}: cannot be made", display_path(dir))))
}

/// Write files into a folder, atomically; each replaces an older one of its name.
///
/// # Errors
/// A file that cannot be written.
pub fn save(dir: &Path, files: &[(&str, String)]) -> Result<()> {
    prepare(Some(dir))?;
    for (name, content) in files {
        let path = dir.join(name);
        RealFs.replace(&path, content.as_bytes()).with_context(|| display_path(&path))?;
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    output::note(&format!("written to {}: {}", display_path(dir), names.join(", ")));
    Ok(())
}

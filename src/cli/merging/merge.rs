//! `lehr merge`

use super::sweep;
use crate::cli::output;
use crate::config::{DecayShape, MergeMethod};
use crate::merge::{
    self, AdapterFold, Interval, MergeInputs, MergeRecipe, MergeRule, MergeTarget, MergeWindow, Verification, WeightedFolders,
    WindowSpec,
};
use crate::model_files::checkpoint::Manifest;
use crate::model_files::gguf::is_gguf;
use crate::model_files::safetensors_file::Dtype;
use crate::progress::Progress;
use crate::run_folder::is_run;
use crate::session::control::{Control, INTERRUPTED};
use crate::vfs::{RealFs, display_path, human_bytes};
use std::path::{Path, PathBuf};
use web_time::Instant;

const EXAMPLES: &str = "\
Examples:
  The newest ten checkpoints of a run, with equal weights:
    lehr merge runs/stories --out merged
  Five checkpoints, 200 steps apart, up to step 3000, newer ones with larger weights:
    lehr merge runs/stories --last 5 --every 200 --at 3000 --method wma --out merged
  Show what would be merged, with the interval in training tokens:
    lehr merge runs/stories --last 5 --every 400ktok --dry-run
  Any checkpoint folders, oldest first, with explicit weights:
    lehr merge ckpt/checkpoint-100 ckpt/checkpoint-200 --weights 1,3 --out merged
  An adapter (LoRA) folded into its base model:
    lehr merge --lora runs/sft-001/checkpoints/step-00000500 --out merged

The result is a Hugging Face folder: lehr eval --model merged, lehr pretrain --init merged, or AutoModelForCausalLM.from_pretrained.
Train with, for example, --save-every 100 --keep-every 100 to keep the checkpoints that a merge needs.";

/// Flags of `lehr merge`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<MergeCommand>,
    /// One run folder, or checkpoint folders (lehr's or Hugging Face's), oldest first.
    #[arg(value_name = "RUN | DIR", required_unless_present = "lora")]
    inputs: Vec<PathBuf>,
    /// Fold this adapter (a PEFT folder, or a run with --lora-rank) into its base model instead of averaging checkpoints.
    #[arg(long, value_name = "DIR | RUN", conflicts_with_all = ["inputs", "method", "alpha", "decay", "weights", "last", "every", "at", "threads"])]
    lora: Option<PathBuf>,
    /// The adapter's base model, where it is not at the place that adapter_config.json names.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Output folder.
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Averaging method; sma when absent, weights with --weights.
    #[arg(long, value_enum)]
    method: Option<MergeMethod>,
    /// Factor a of ema and ema-normalized, 0.2 when absent.
    #[arg(long, value_name = "A")]
    alpha: Option<f64>,
    /// Learning-rate decay that wsm emulates, 1-sqrt when absent.
    #[arg(long, value_enum)]
    decay: Option<DecayShape>,
    /// One weight per checkpoint, oldest first; normalized to sum 1.
    #[arg(long, value_name = "W,W,...", value_delimiter = ',', allow_negative_numbers = true)]
    weights: Vec<f64>,
    /// Number of the run's checkpoints to merge; 10, or all if there are fewer, when absent.
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Interval between them: steps (200) or training tokens (400ktok, 4Mtok); the smallest available when absent.
    #[arg(long, value_name = "STEPS|TOKENS")]
    every: Option<Interval>,
    /// Step of the newest of them; that of the run's newest valid checkpoint when absent.
    #[arg(long, value_name = "STEP")]
    at: Option<u64>,
    /// Data type of the result; that of the checkpoints (F32 if they differ) when absent.
    #[arg(long, value_enum)]
    dtype: Option<StoredDtype>,
    /// Show and check the merge, write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Number of threads; all of the processor's when absent.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// Subcommands.
#[derive(clap::Subcommand, Debug)]
enum MergeCommand {
    /// Loss of many merges of a run: interval by number by method.
    Sweep(Box<sweep::Args>),
}

/// Data types.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum StoredDtype {
    F32,
    F16,
    Bf16,
}

impl StoredDtype {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }
}

/// Merge.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    if let Some(MergeCommand::Sweep(sweep)) = &args.command {
        return sweep::run(sweep);
    }
    if let Some(adapter) = &args.lora {
        return fold(args, adapter);
    }
    anyhow::ensure!(args.base.is_none(), "--base: is the base model of --lora; leave it out");
    anyhow::ensure!(args.threads.is_none_or(|n| (1..=256).contains(&n)), "--threads: must lie between 1 and 256");
    let rule = rule(args)?;
    let target = args.out.as_ref().map(|out| MergeTarget::new(&RealFs, out)).transpose()?;
    let (folders, window) = folders(args)?;
    // A wrong number of weights is rejected before reading any folder.
    rule.raw_weights(folders.len())?;
    let mut inputs = MergeInputs::open(&RealFs, &folders, Verification::Hashes)?;
    if let Some(stored) = args.dtype {
        inputs.write_as(stored.dtype());
    }
    let mut merge = inputs.merge(&rule)?;
    if let Some(threads) = args.threads {
        merge.threads = threads;
    }
    let recipe = MergeRecipe::new(&merge, &rule, window.as_ref());
    print_notes(&inputs, window.as_ref(), &recipe);
    if !args.json {
        print_plan(&merge, &recipe)?;
    }
    let Some(target) = target.filter(|_| !args.dry_run) else {
        if args.json {
            output::json_line(&serde_json::json!({"recipe": recipe, "read_bytes": inputs.bytes(), "dry_run": true}))?;
        }
        return Ok(0);
    };
    save(args, &merge, &target, &recipe)
}

/// Fold an adapter into its base model.
fn fold(args: &Args, adapter: &Path) -> anyhow::Result<i32> {
    let target = args.out.as_ref().map(|out| MergeTarget::new(&RealFs, out)).transpose()?;
    let adapter = crate::cli::open::model_folder("--lora", adapter)?;
    let fold = AdapterFold::open(&RealFs, &adapter, args.base.as_deref(), args.dtype.map(StoredDtype::dtype))?;
    let out = args.out.as_deref().unwrap_or(Path::new(""));
    let Some(target) = target.filter(|_| !args.dry_run) else {
        if args.json {
            output::json_line(&serde_json::json!({
                "lora": adapter, "base": fold.base(), "weights_bytes": fold.bytes(), "dry_run": true,
            }))?;
        } else {
            let (adapter, base) = (display_path(&adapter), display_path(fold.base()));
            output::line(&format!("{adapter} into {base}: {} of weights", human_bytes(fold.bytes())))?;
        }
        return Ok(0);
    };
    let _control = Control::listen(None)?;
    let begin = Instant::now();
    let Some(manifest) = written(|progress| fold.save(&RealFs, &target, progress))? else { return Ok(INTERRUPTED) };
    let (written, seconds) = (manifest.bytes(), begin.elapsed().as_secs_f64());
    if args.json {
        output::json_line(&serde_json::json!({
            "lora": adapter, "base": fold.base(), "out": out, "written_bytes": written, "seconds": seconds,
        }))?;
    } else {
        output::line(&format!("{}: {} written in {seconds:.2} s", display_path(out), human_bytes(written)))?;
    }
    Ok(0)
}

/// The method; unused flags are rejected.
fn rule(args: &Args) -> anyhow::Result<MergeRule> {
    let given = !args.weights.is_empty();
    let method = args.method.unwrap_or(if given { MergeMethod::Weights } else { MergeMethod::Sma });
    let name = method.name();
    anyhow::ensure!(
        !given || method == MergeMethod::Weights,
        "--weights: {name} has weights of its own; leave one of the two out"
    );
    let uses_alpha = matches!(method, MergeMethod::Ema | MergeMethod::EmaNormalized);
    anyhow::ensure!(args.alpha.is_none() || uses_alpha, "--alpha: {name} has none; it belongs to ema and ema-normalized");
    anyhow::ensure!(args.decay.is_none() || method == MergeMethod::Wsm, "--decay: {name} has none; it belongs to wsm");
    MergeRule::new(method, args.alpha.unwrap_or(0.2), args.decay.unwrap_or_default(), &args.weights, "")
}

/// The folders, oldest first, and their window if they are of a run.
fn folders(args: &Args) -> anyhow::Result<(Vec<PathBuf>, Option<MergeWindow>)> {
    if let [run] = args.inputs.as_slice()
        && is_run(&RealFs, run)?
    {
        let spec = WindowSpec { last: args.last.unwrap_or(10), every: args.every, at: args.at };
        let window = match (args.last, args.weights.len()) {
            (Some(_), _) => merge::choose(&RealFs, run, &spec)?,
            (None, 0) => merge::choose_at_most(&RealFs, run, &spec)?,
            (None, last) => merge::choose(&RealFs, run, &WindowSpec { last, ..spec })?,
        };
        return Ok((window.folders(), Some(window)));
    }
    for path in &args.inputs {
        anyhow::ensure!(
            !is_gguf(&RealFs, path)?,
            "{}: is a GGUF file; merge averages folders with safetensors",
            display_path(path)
        );
        crate::cli::open::folder_exists(path)?;
        anyhow::ensure!(!is_run(&RealFs, path)?, "{}: is a run; name one run alone, or checkpoint folders", display_path(path));
    }
    for (flag, typed) in [("last", args.last.is_some()), ("every", args.every.is_some()), ("at", args.at.is_some())] {
        anyhow::ensure!(!typed, "--{flag}: chooses checkpoints of a run, but checkpoint folders are named; leave it out");
    }
    Ok((args.inputs.clone(), None))
}

fn print_notes(inputs: &MergeInputs, window: Option<&MergeWindow>, recipe: &MergeRecipe) {
    for reason in window.iter().flat_map(|w| &w.skipped) {
        output::note(&format!("note: skipped a checkpoint: {reason}"));
    }
    for note in &inputs.notes {
        output::note(&format!("note: {note}"));
    }
    let steps: Vec<u64> = inputs.folders.iter().filter_map(merge::InputFolder::step).collect();
    if !steps.is_sorted() && recipe.method != "sma" && recipe.method != "weights" {
        output::note(
            "note: the steps of these folders do not grow; weights go by the order in which they are named, oldest first",
        );
    }
}

/// Print the plan.
fn print_plan(merge: &WeightedFolders, recipe: &MergeRecipe) -> anyhow::Result<()> {
    let inputs = merge.inputs();
    let n = inputs.folders.len();
    let of = match (&recipe.run, recipe.every_steps, recipe.tokens_per_step) {
        (Some(run), Some(every), Some(tokens)) if every > 0 => {
            format!(" of {}, every {every} steps ({} tokens)", crate::vfs::clean(run), output::count(every * tokens))
        }
        (Some(run), ..) => format!(" of {}", crate::vfs::clean(run)),
        _ => String::new(),
    };
    output::line(&format!("{} of {n} checkpoint{}{of}", recipe.rule(), if n == 1 { "" } else { "s" }))?;
    output::line(&format!("{:>10}  {:>9}  folder", "step", "weight"))?;
    for (folder, weight) in inputs.folders.iter().zip(merge.weights()) {
        let step = folder.step().map_or("?".to_owned(), |s| s.to_string());
        output::line(&format!("{step:>10}  {weight:>9.6}  {}", display_path(&folder.dir)))?;
    }
    output::line(&recipe.figures())?;
    let types: std::collections::BTreeSet<&str> = inputs.tensors.iter().map(|t| t.dtype.name()).collect();
    let types: Vec<&str> = types.into_iter().collect();
    let numbers: usize = inputs.tensors.iter().map(merge::MergedTensor::len).sum();
    output::line(&format!(
        "{} tensors, {} numbers, {}, from {} on {} threads",
        inputs.tensors.len(),
        output::count(numbers as u64),
        types.join(" and "),
        human_bytes(inputs.bytes()),
        merge.threads
    ))
}

/// The manifest of a folder that `save` writes while its progress is shown; `None` after an interruption, which leaves nothing behind.
fn written(save: impl FnOnce(&mut Progress<'_>) -> anyhow::Result<Manifest>) -> anyhow::Result<Option<Manifest>> {
    let mut line = output::ProgressLine::after(output::PLAIN_LINE_SECONDS);
    let saved = save(&mut |what, done, all| {
        line.show(|| format!("{what} {} %", 100 * done / all.max(1)));
        Ok(!Control::interrupted())
    });
    line.end();
    if saved.is_err() && Control::interrupted() {
        output::note("stopped: nothing was written");
        return Ok(None);
    }
    saved.map(Some)
}

fn save(args: &Args, merge: &WeightedFolders, target: &MergeTarget, recipe: &MergeRecipe) -> anyhow::Result<i32> {
    // Ctrl-C removes partial output.
    let _control = Control::listen(None)?;
    let begin = Instant::now();
    let Some(manifest) = written(|progress| merge.save(&RealFs, target, recipe, progress))? else { return Ok(INTERRUPTED) };
    let seconds = begin.elapsed().as_secs_f64();
    let (read, written) = (merge.inputs().bytes(), manifest.bytes());
    let out = args.out.as_deref().unwrap_or(Path::new(""));
    if args.json {
        return output::json_line(&serde_json::json!({
            "recipe": recipe, "out": out, "read_bytes": read, "written_bytes": written, "seconds": seconds,
        }))
        .map(|()| 0);
    }
    output::line(&format!(
        "{}: {} written, {} read in {seconds:.2} s ({}/s)",
        display_path(out),
        human_bytes(written),
        human_bytes(read),
        human_bytes((read as f64 / seconds.max(1e-9)) as u64)
    ))?;
    Ok(0)
}

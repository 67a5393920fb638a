//! `lehr grpo`

use super::{pretrain, sft};
use crate::config::{GRPO_DEFAULTS, GrpoSettings, Layers, RolloutSettings, Stage, TaskSettings};
use crate::session::begin::settings_of_fork;
use clap::ArgMatches;
use clap::parser::ValueSource::CommandLine;
use web_time::Instant;

/// Flags of `lehr grpo`: those of `lehr pretrain`, and its own.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: pretrain::Args,
    /// Read from `typed`, as all settings are.
    #[command(flatten)]
    _task: TaskSettings,
    #[command(flatten)]
    _rollout: RolloutSettings,
    #[command(flatten)]
    _grpo: GrpoSettings,
}

/// Settings of the supervised stages that mean nothing here.
const OF_OTHER_STAGES: &[&str] = &[
    "val_fraction",
    "eval_tokens",
    "sample_tokens",
    "sample_prompt",
    "merge_every",
    "merge_last",
    "merge_method",
    "merge_ring",
    "merge_alpha",
    "merge_decay",
    "rescue",
    "rescue_patience",
    "rescue_optimizer",
    "rescue_data",
    "rescue_limit",
    "rescue_learning_rate_scale",
];

/// The command with the defaults and the help of this stage.
pub fn command(mut command: clap::Command) -> clap::Command {
    let known: Vec<String> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    for name in sft::OF_NEW_MODELS.iter().chain(OF_OTHER_STAGES).filter(|name| known.iter().any(|k| k == *name)) {
        command = command.mut_arg(name, |arg| arg.hide(true));
    }
    for (name, value) in GRPO_DEFAULTS {
        command = command.mut_arg(name, |arg| arg.default_value(*value));
    }
    let help = [
        (
            "data",
            "JSONL rows of questions: the public rows of kk, GSM8K's, or prompt and answer; kk and math make their own without",
        ),
        ("val_data", "Questions to be judged by, in a file of their own"),
        ("seq_len", "Tokens that are computed in a row at once; 0 takes the longest prompt and completion together"),
        ("batch_size", "Completions in a step: --num-generations for each prompt"),
        ("micro_batch_size", "Rows of --seq-len tokens computed at once; chosen to fit memory when absent"),
        ("max_steps", "Steps to make: completions of --batch-size, and all the updates that they give"),
        ("run", "Folder of the new run; runs/grpo-NNN when absent"),
    ];
    for (name, text) in help {
        command = command.mut_arg(name, |arg| arg.help(text).long_help(text));
    }
    command
}

/// Reinforce.
pub fn run(args: &Args, typed: &ArgMatches, started: Instant) -> anyhow::Result<i32> {
    let given = |name: &str| typed.value_source(name) == Some(CommandLine);
    if let Some(name) = sft::OF_NEW_MODELS.iter().find(|name| given(name)) {
        anyhow::bail!(
            "--{}: reinforcement takes shape and tokenizer from the model of --init; leave the flag out",
            name.replace('_', "-")
        );
    }
    let known = |name: &&&str| typed.try_contains_id(name).is_ok();
    if let Some(name) = OF_OTHER_STAGES.iter().filter(known).find(|name| given(name)) {
        anyhow::bail!("--{}: means nothing to lehr grpo; leave the flag out", name.replace('_', "-"));
    }
    if let Ok(Some(fork)) = typed.try_get_one::<String>("fork") {
        let mut parent = Layers::default();
        parent.file(&settings_of_fork(fork)?)?;
        let stage = parent.settings()?.stage();
        anyhow::ensure!(
            stage == Stage::Grpo,
            "--fork {}: is a run of lehr {}, whose data are others; begin from its weights with --init",
            fork.escape_debug(),
            stage.name()
        );
    }
    let mut settings = pretrain::layered(Layers::of(Stage::Grpo)?, None, args.common.config.as_ref(), typed)?;
    if !given("min_learning_rate") {
        // A constant rate has no other end.
        let train = &mut settings.train;
        train.min_learning_rate = train.min_learning_rate.min(train.learning_rate);
    }
    pretrain::start(&args.common, settings, typed, started)
}

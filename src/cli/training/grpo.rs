//! `lehr grpo`

use super::pretrain;
use super::sft::OF_NEW_MODELS;
use crate::cli::{check_fork, is_typed, refuse, with_stage_defaults};
use crate::config::{GRPO_DEFAULTS, GrpoSettings, RolloutSettings, Settings, SettingsLayers, Stage, TaskSettings};
use clap::ArgMatches;
use web_time::Instant;

/// Flags of `lehr grpo`: those of `lehr pretrain`, and more.
#[derive(clap::Args, Debug)]
#[group(id = "GrpoArgs")]
pub struct Args {
    #[command(flatten)]
    common: pretrain::Args,
    #[command(flatten)]
    task: TaskSettings,
    #[command(flatten)]
    rollout: RolloutSettings,
    #[command(flatten)]
    grpo: GrpoSettings,
}

/// Settings of the supervised stages that have no effect here.
const OF_SUPERVISION: &[&str] = &[
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
];

/// The command with this stage's defaults and help.
pub fn command(command: clap::Command) -> clap::Command {
    let help = [
        (
            "data",
            "Rows of questions (JSONL, a list in JSON, Parquet; a folder of them): the public rows of kk, GSM8K's, or prompt and answer; kk and math make their own without",
        ),
        ("val_data", "Evaluation questions in a separate file"),
        ("seq_len", "Tokens that are computed in a row at once; 0 takes the longest prompt and completion together"),
        ("batch_size", "Completions in a step: --num-generations for each prompt"),
        ("micro_batch_size", "Rows of --seq-len tokens computed at once; chosen to fit memory when absent"),
        ("max_steps", "Number of steps: each samples --batch-size completions and makes all their updates"),
        ("run", "Folder of the new run; runs/grpo-NNN when absent"),
    ];
    with_stage_defaults(command, &[OF_NEW_MODELS, OF_SUPERVISION].concat(), GRPO_DEFAULTS, &help)
}

/// Train with GRPO.
pub fn run(args: &Args, typed: &ArgMatches, started: Instant) -> anyhow::Result<i32> {
    refuse(typed, OF_NEW_MODELS, "GRPO takes shape and tokenizer from the model of --init")?;
    refuse(typed, OF_SUPERVISION, "means nothing to lehr grpo")?;
    check_fork(typed, Stage::Grpo)?;
    let flags = Settings {
        task: Some(args.task.clone()),
        rollout: Some(args.rollout.clone()),
        grpo: Some(args.grpo.clone()),
        ..args.common.settings.clone()
    };
    let mut settings = args.common.layered(SettingsLayers::of(Stage::Grpo)?, &flags, typed)?;
    if !is_typed(typed, "min_learning_rate") {
        // A constant learning rate has a single value.
        let train = &mut settings.train;
        train.min_learning_rate = train.min_learning_rate.min(train.learning_rate);
    }
    pretrain::start(&args.common, settings, typed, started)
}

//! `lehr sft`

use super::pretrain;
use crate::cli::{check_fork, is_typed, refuse, with_stage_defaults};
use crate::config::{SFT_DEFAULTS, Settings, SettingsLayers, SftSettings, Stage};
use clap::ArgMatches;
use web_time::Instant;

/// Flags of `lehr sft`: those of `lehr pretrain`, and more.
#[derive(clap::Args, Debug)]
#[group(id = "SftArgs")]
pub struct Args {
    #[command(flatten)]
    common: pretrain::Args,
    #[command(flatten)]
    sft: SftSettings,
}

/// Flags that do not apply to an existing model.
pub(super) const OF_NEW_MODELS: &[&str] = &[
    "preset",
    "tokenizer",
    "architecture",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "max_position_embeddings",
    "initializer_range",
];

/// The command with this stage's defaults and help.
pub fn command(command: clap::Command) -> clap::Command {
    let help = [
        (
            "data",
            "Rows (JSONL or a list in JSON, also .gz or .zst; Parquet, Arrow) with messages, conversations, prompt and completion, instruction and output, or text; or a folder of such files. PATH:WEIGHT sees each row WEIGHT times an epoch. May be repeated",
        ),
        ("val_data", "Validation rows in a separate file; then --val-fraction is not used"),
        ("val_fraction", "Share of the rows of each file held out for validation; fixed when the run starts"),
        ("seq_len", "Tokens in a sequence; longer rows are cut. 0 takes the model's context, at most 1024"),
        ("max_steps", "Number of steps, instead of --num-train-epochs"),
        ("run", "Folder of the new run; runs/sft-NNN when absent"),
    ];
    let command = with_stage_defaults(command, OF_NEW_MODELS, SFT_DEFAULTS, &help);
    command.mut_arg("data", |arg| arg.value_name("PATH[:WEIGHT]")).mut_arg("max_steps", |arg| arg.hide_default_value(true))
}

/// Fine-tune.
pub fn run(args: &Args, typed: &ArgMatches, started: Instant) -> anyhow::Result<i32> {
    let given = |name: &str| is_typed(typed, name);
    refuse(typed, OF_NEW_MODELS, "fine-tuning takes shape and tokenizer from the model of --init")?;
    check_fork(typed, Stage::Sft)?;
    let flags = Settings { sft: Some(args.sft.clone()), ..args.common.settings.clone() };
    let mut settings = args.common.layered(SettingsLayers::of(Stage::Sft)?, &flags, typed)?;
    let epochs = given("num_train_epochs");
    anyhow::ensure!(!(epochs && given("max_steps")), "--max-steps: conflicts with --num-train-epochs; give one of them");
    if let Some(sft) = &mut settings.sft {
        if given("fork") && !given("chat_template") {
            // The parent's template is in its checkpoint; the file may have changed.
            sft.chat_template = None;
        }
        if given("max_steps") {
            sft.num_train_epochs = 0.0;
        }
        let train = &mut settings.train;
        if sft.num_train_epochs == 0.0 && !given("warmup_steps") && args.common.config.is_none() {
            // The default is for longer runs.
            train.warmup_steps = train.warmup_steps.min(train.max_steps / 10);
        }
        if sft.num_train_epochs > 0.0 {
            // Unknown until the rows are loaded; larger than any setting it is compared with.
            train.max_steps = 1 << 40;
        }
    }
    pretrain::start(&args.common, settings, typed, started)
}

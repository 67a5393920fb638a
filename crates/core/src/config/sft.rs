//! Settings of supervised fine-tuning.

use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The stage of a run: recorded in its `config.toml` by the section that only this stage has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Text; every token counts in the loss.
    #[default]
    Pretrain,
    /// Rows of messages; the assistant's part counts in the loss.
    Sft,
    /// Questions whose completions are graded.
    Grpo,
}

impl Stage {
    /// The command's name, also used in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Sft => "sft",
            Self::Grpo => "grpo",
        }
    }
}

/// How rows become batches. Names follow TRL's SFTConfig.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Fine-tuning")]
pub struct SftSettings {
    /// Passes over the rows; 0 uses --max-steps instead, as does an explicit --max-steps.
    #[arg(long, default_value_t = 3.0)]
    pub num_train_epochs: f64,
    /// For rows of messages: only assistant messages count in the loss.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub assistant_only_loss: bool,
    /// For rows of prompt and completion: only the completion counts in the loss.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub completion_only_loss: bool,
    /// Pack several rows into one sequence (best fit decreasing); rows do not attend to each other.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub packing: bool,
    /// Jinja file with the chat template; the model's own when absent, a plain one if it has none.
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// NAME=VALUE for the chat template, such as enable_thinking=false; a row's own chat_template_kwargs take precedence. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub chat_template_kwargs: Vec<String>,
    /// Date returned by a template's strftime_now (2026-11-25); lehr writes the day the run began.
    #[arg(long, hide = true)]
    pub date: Option<String>,
}

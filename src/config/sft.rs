//! Settings of supervised fine-tuning.

use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a run does: recorded in its `config.toml` by the section that only this stage has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Text, every token of which counts.
    #[default]
    Pretrain,
    /// Rows of messages, of which the assistant's part counts.
    Sft,
    /// Questions, whose answers are judged.
    Grpo,
}

impl Stage {
    /// The command, and the name in events.
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
    /// Passes over the rows; 0 goes by --max-steps instead, as does typing --max-steps.
    #[arg(long, default_value_t = 3.0)]
    pub num_train_epochs: f64,
    /// In rows of messages: only what the assistant says counts in the loss.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub assistant_only_loss: bool,
    /// In rows of prompt and completion: only the completion counts in the loss.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub completion_only_loss: bool,
    /// Put several rows into one sequence (best fit decreasing); they do not see one another.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub packing: bool,
    /// A Jinja file to write messages by; the model's own template when absent, a plain one where it has none.
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// NAME=VALUE for the chat template, such as enable_thinking=false; a row's own chat_template_kwargs go first. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub chat_template_kwargs: Vec<String>,
    /// The day that a template's strftime_now says (2026-11-25); lehr writes the day the run began.
    #[arg(long, hide = true)]
    pub date: Option<String>,
}

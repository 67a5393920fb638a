//! How checkpoints of one run are merged, and what a run begins from.

use super::DecayShape;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// How N checkpoints of one run, oldest first, become one (weights: `merge::MergeRule`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MergeMethod {
    /// Simple moving average: all weigh the same.
    #[default]
    Sma,
    /// Exponential, by the recursion A = a M + (1 - a) A from the oldest: for small a the oldest weighs most.
    Ema,
    /// Exponential weights a (1 - a)^(N - i), divided by their sum: the newest weighs most.
    EmaNormalized,
    /// Weighted moving average: the i-th weighs i.
    Wma,
    /// Weights that emulate a learning-rate decay over the window.
    Wsm,
    /// The weights that are given.
    Weights,
}

impl MergeMethod {
    /// As it is typed and written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sma => "sma",
            Self::Ema => "ema",
            Self::EmaNormalized => "ema-normalized",
            Self::Wma => "wma",
            Self::Wsm => "wsm",
            Self::Weights => "weights",
        }
    }
}

/// Where the snapshots of a live merge are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RingPlace {
    /// On the device if they fit, else in the host's memory, else on disk.
    #[default]
    Auto,
    /// In the device's memory.
    Device,
    /// In the host's memory.
    Host,
    /// In the run's folder.
    Disk,
}

/// Merging while training: the run itself is never touched.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Live merging")]
pub struct MergeSettings {
    /// Keep a snapshot of the weights every so many updates, and judge the merge of the newest ones at each evaluation; 0 for no merging.
    #[arg(long, default_value_t = 0)]
    pub merge_every: u64,
    /// Snapshots in a merge (N of the PMA paper).
    #[arg(long, default_value_t = 10)]
    pub merge_last: usize,
    /// How they are weighed.
    #[arg(long, value_enum, default_value = "sma")]
    pub merge_method: MergeMethod,
    /// Factor a of ema and ema-normalized.
    #[arg(long, default_value_t = 0.2)]
    pub merge_alpha: f64,
    /// Decay that wsm emulates.
    #[arg(long, value_enum, default_value = "1-sqrt")]
    pub merge_decay: DecayShape,
    /// Where the snapshots are kept.
    #[arg(long, value_enum, default_value = "auto")]
    pub merge_ring: RingPlace,
}

/// What becomes of Adam's moments when a run begins from weights that exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerState {
    /// Zero, and its step count too.
    #[default]
    Fresh,
    /// Those of the (newest) checkpoint.
    Keep,
}

/// What a run begins from.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Start")]
pub struct StartSettings {
    /// Begin from a model's weights, shape and tokenizer: a Hugging Face folder, RUN (its newest checkpoint), RUN@STEP, or a merge,
    /// merge:RUN?last=10&every=100&method=sma (also at=, alpha=, decay=).
    #[arg(long, value_name = "DIR|RUN@STEP|merge:RUN?...", conflicts_with = "fork")]
    pub init: Option<String>,
    /// Go on from a checkpoint of another run as a run of its own, at the same step, with the same data order, and other settings.
    #[arg(long, value_name = "RUN@STEP")]
    pub fork: Option<String>,
    /// Adam's moments after --init: fresh, or those of the (newest) checkpoint. A fork keeps them unless told otherwise.
    #[arg(long, value_enum, value_name = "fresh|keep")]
    pub init_optimizer: Option<OptimizerState>,
    /// What --init or --fork was resolved to; lehr writes it.
    #[arg(long, hide = true)]
    pub parent: Option<String>,
}

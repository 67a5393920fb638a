//! Settings of checkpoint merging, and of a run's starting point.

use super::DecayShape;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// How N checkpoints of one run, oldest first, are averaged (weights: `merge::MergeRule`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MergeMethod {
    /// Simple moving average: equal weights.
    #[default]
    Sma,
    /// Exponential, by the recursion A = a M + (1 - a) A from the oldest: for small a the oldest has the largest weight.
    Ema,
    /// Exponential weights a (1 - a)^(N - i), divided by their sum: the newest has the largest weight.
    EmaNormalized,
    /// Weighted moving average: the i-th has weight i.
    Wma,
    /// Weights that emulate a learning-rate decay over the window.
    Wsm,
    /// Explicit weights.
    Weights,
}

impl MergeMethod {
    /// Its name in flags and files.
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

/// Where the snapshots of live merging are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RingPlace {
    /// On the device if they fit, else in host memory, else on disk.
    #[default]
    Auto,
    /// In device memory.
    Device,
    /// In host memory.
    Host,
    /// In the run's folder.
    Disk,
}

/// Merging while training: the run's own weights are never changed.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Live merging")]
pub struct MergeSettings {
    /// Keep a snapshot of the weights every N steps, and evaluate the merge of the newest ones at each evaluation; 0 for no merging.
    #[arg(long, default_value_t = 0)]
    pub merge_every: u64,
    /// Snapshots in a merge (N of the PMA paper).
    #[arg(long, default_value_t = 10)]
    pub merge_last: usize,
    /// How snapshots are weighted.
    #[arg(long, value_enum, default_value = "sma")]
    pub merge_method: MergeMethod,
    /// Factor a of ema and ema-normalized.
    #[arg(long, default_value_t = 0.2)]
    pub merge_alpha: f64,
    /// Learning-rate decay that wsm emulates.
    #[arg(long, value_enum, default_value = "1-sqrt")]
    pub merge_decay: DecayShape,
    /// Where the snapshots are kept.
    #[arg(long, value_enum, default_value = "auto")]
    pub merge_ring: RingPlace,
}

/// Adam's moments when a run starts from existing weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerState {
    /// Zero, including the step count.
    #[default]
    Fresh,
    /// Those of the (newest) checkpoint.
    Keep,
}

/// Starting point of a run.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Start")]
pub struct StartSettings {
    /// Start from a model's weights, shape and tokenizer: a Hugging Face folder, RUN (its newest checkpoint), RUN@STEP, or a merge,
    /// merge:RUN?last=10&every=100&method=sma (also at=, alpha=, decay=).
    #[arg(long, value_name = "DIR|RUN@STEP|merge:RUN?...", conflicts_with = "fork")]
    pub init: Option<String>,
    /// Fork another run: continue from its checkpoint as a new run, at the same step, with the same data order, and other settings.
    #[arg(long, value_name = "RUN@STEP")]
    pub fork: Option<String>,
    /// Adam's moments after --init: fresh, or those of the (newest) checkpoint. A fork keeps them by default.
    #[arg(long, value_enum, value_name = "fresh|keep")]
    pub init_optimizer: Option<OptimizerState>,
    /// The resolved source of --init or --fork; written by lehr.
    #[arg(long, hide = true)]
    pub parent: Option<String>,
}

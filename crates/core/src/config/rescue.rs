//! Settings of spike detection and rescue.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// The state that a run returns to when a spike does not pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RescueMethod {
    /// Nothing: spikes are reported and training continues.
    #[default]
    Off,
    /// The newest good checkpoint before the spike.
    Rollback,
    /// The merge of the last three good checkpoints before the spike (PMA paper, section 4.5).
    Pma,
}

impl RescueMethod {
    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Rollback => "rollback",
            Self::Pma => "pma",
        }
    }
}

/// Adam's moments after a rescue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RescueOptimizer {
    /// Those of the newest checkpoint used.
    #[default]
    Keep,
    /// Zero, including the step count.
    Reset,
}

impl RescueOptimizer {
    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Reset => "reset",
        }
    }
}

/// Training data after a rescue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RescueData {
    /// Skip after a rollback, whose replay would be bit-identical; replay after a merge.
    #[default]
    Auto,
    /// Train on the same batches again.
    Replay,
    /// Skip the batches from the checkpoint to the spike.
    Skip,
}

/// Spike detection and rescue.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Spikes")]
pub struct RescueSettings {
    /// When the loss rises and does not recover: off reports it, rollback returns to the newest good checkpoint before it, pma to the merge
    /// of the last three good ones.
    #[arg(long, value_enum, default_value = "off")]
    pub rescue: RescueMethod,
    /// Adam's moments after a rescue: those of the newest checkpoint used, or zero.
    #[arg(long, value_enum, default_value = "keep")]
    pub rescue_optimizer: RescueOptimizer,
    /// Batches between the checkpoint and the spike: replay them or skip them; auto is skip for rollback, replay for pma.
    #[arg(long, value_enum, default_value = "auto")]
    pub rescue_data: RescueData,
    /// Rescues within 2,000 steps before the run gives up.
    #[arg(long, default_value_t = 4)]
    pub rescue_limit: u64,
    /// Updates to wait for a spike to pass by itself.
    #[arg(long, default_value_t = 100)]
    pub rescue_patience: u64,
}

impl RescueSettings {
    /// A conflict between these settings, in one line, if any.
    pub(super) fn problem(&self, save_every: u64) -> Option<String> {
        let name = self.rescue.name();
        if !(1..=1000).contains(&self.rescue_limit) {
            return Some(format!("--rescue-limit {}: must lie between 1 and 1000", self.rescue_limit));
        }
        if !(1..=1_000_000).contains(&self.rescue_patience) {
            return Some(format!("--rescue-patience {}: must lie between 1 and 1000000 steps", self.rescue_patience));
        }
        if self.rescue != RescueMethod::Off && save_every == 0 {
            return Some(format!(
                "--rescue {name}: goes back to checkpoints, but --save-every 0 saves only the end; set --save-every 100"
            ));
        }
        let repeats = self.rescue == RescueMethod::Rollback && self.rescue_optimizer == RescueOptimizer::Keep;
        if repeats && self.rescue_data == RescueData::Replay {
            let text = "--rescue rollback with --rescue-optimizer keep and --rescue-data replay: would make the same steps once more, to \
                        the bit, and meet the same spike; use --rescue-data skip or --rescue-optimizer reset";
            return Some(text.into());
        }
        None
    }
}

//! What happens when training diverges.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// What a run goes back to when a spike does not pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Rescue {
    /// Nothing: spikes are reported, training goes on.
    #[default]
    Off,
    /// The newest good checkpoint before the spike.
    Rollback,
    /// The merge of the last three good checkpoints before the spike (PMA paper, section 4.5).
    Pma,
}

/// Adam's moments after a rescue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RescueOptimizer {
    /// Those of the newest good checkpoint.
    #[default]
    Keep,
    /// Zero.
    Reset,
}

/// The data after a rescue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RescueData {
    /// The same batches once more.
    #[default]
    Replay,
    /// Pass over the batches from the checkpoint to the spike.
    Skip,
}

/// Spikes and what is done about them.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Spikes")]
pub struct RescueSettings {
    /// What a run goes back to when a spike does not pass.
    #[arg(long, value_enum, default_value = "off")]
    pub rescue: Rescue,
    /// Adam's moments after a rescue.
    #[arg(long, value_enum, default_value = "keep")]
    pub rescue_optimizer: RescueOptimizer,
    /// Train on the batches before the spike once more, or pass over them.
    #[arg(long, value_enum, default_value = "replay")]
    pub rescue_data: RescueData,
    /// Rescues within 2,000 updates before the run gives up.
    #[arg(long, default_value_t = 4)]
    pub rescue_limit: u64,
}

//! Layer 6: one run from its settings to its last checkpoint.

mod actions;
mod clock;
pub mod control;
mod driver_notes;
pub mod emitter;
mod merging;
mod open;
mod ranks;
mod reinforce;
pub mod rescue;
mod run;
mod sampling;
pub mod save;
mod stage;
pub mod starting_point;
mod unsaved;

pub use open::{DryRun, RunStart, dry_run, train};
pub use stage::{source, today};

use crate::config::Settings;
use sha2::{Digest, Sha256};

/// Hash of the settings that determine tensors and arithmetic: a checkpoint is resumed only with the same hash.
///
/// # Errors
/// Only if settings do not serialise, which would be a defect.
pub fn config_hash(settings: &Settings) -> anyhow::Result<String> {
    let text = toml::to_string(&settings.model)? + &toml::to_string(&settings.train)?;
    Ok(crate::model_files::checkpoint::hex(&Sha256::digest(text))[..16].to_string())
}

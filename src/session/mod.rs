//! Floor 5: one run: its folder, its lock, its events, its checkpoints to keep.

mod actions;
pub mod begin;
mod clock;
pub mod control;
mod driver_notes;
pub mod emitter;
pub mod event_log;
pub mod folder;
pub mod lock;
mod merging;
mod open;
mod ranks;
mod reinforce;
pub mod rescue;
pub mod retention;
mod run;
mod sampling;
pub mod save;
mod stage;
pub mod tensorboard;
mod unsaved;

pub use open::{DryRun, Start, dry_run, train};
pub use run::{Run, Running};
pub use stage::{source, today};

use crate::config::Settings;
use sha2::{Digest, Sha256};

/// Seconds since 1970.
pub fn unix_time() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Hash of the settings that fix tensors and arithmetic: a checkpoint is resumed under the same.
///
/// # Errors
/// Only if settings do not serialise, which would be a defect.
pub fn config_hash(settings: &Settings) -> anyhow::Result<String> {
    let text = toml::to_string(&settings.model)? + &toml::to_string(&settings.train)?;
    Ok(crate::model::checkpoint::hex(&Sha256::digest(text))[..16].to_string())
}

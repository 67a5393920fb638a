//! A run on several ranks: checks before it starts, and the part of ranks other than 0.

use super::control::Control;
use super::emitter::{Listener, Notification};
use super::open::{PreparedRun, RunStart, prepare_rank};
use super::stage::LoadedData;
use crate::config::{DeviceSettings, Settings, Stage};
use crate::device::Device;
use crate::event::{Event, Finished};
use crate::train::Trainer;
use crate::vfs::{Vfs, display_path};
use crate::world::{OtherRankFailed, World, share};
use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Reason of a run that ended with an error.
pub(super) const FAILED: &str = "failed";

fn hash(text: &str) -> String {
    crate::model_files::checkpoint::hex(&Sha256::digest(text))[..16].to_string()
}

/// Every setting that is not of the device, by its flag. Settings that are not set are left out.
fn flags(settings: &Settings) -> Result<Vec<(String, String)>> {
    let settings = Settings { device: DeviceSettings::default(), ..settings.clone() };
    let sections = toml::Table::try_from(settings)?;
    let flags = sections.into_iter().flat_map(|(name, section)| match section {
        toml::Value::Table(section) => section.into_iter().collect(),
        value => vec![(name, value)],
    });
    Ok(flags.map(|(name, value)| (format!("--{}", name.replace('_', "-")), value.to_string())).collect())
}

/// Check the flags, before anything is opened.
///
/// # Errors
/// A difference, with its rank.
pub(super) fn check_flags(world: &World, settings: &Settings, start: &RunStart) -> Result<()> {
    if world.is_solo() {
        return Ok(());
    }
    world.watch_signals(Control::interrupted, Control::interrupt);
    let path = |name: &str, path: &Option<PathBuf>| (name.to_owned(), path.as_deref().map_or("not set".into(), display_path));
    let mut values = vec![path("--run", &start.run), path("--resume", &start.resume)];
    match start.resume {
        // Rank 0 reads the settings of the run.
        Some(_) => values.extend(start.max_steps.map(|steps| ("--max-steps".to_owned(), steps.to_string()))),
        None => values.extend(flags(settings)?),
    }
    world.ensure_equal(&values)
}

/// On rank 0: send settings and starting point to the other ranks.
///
/// # Errors
/// A lost rank.
pub(super) fn send_settings(world: &World, settings: &Settings, existing: Option<&Path>, resumed: bool) -> Result<()> {
    if world.is_solo() {
        return Ok(());
    }
    let existing = existing.map(std::path::absolute).transpose()?;
    world.broadcast(rmp_serde::to_vec(&(toml::to_string(settings)?, existing, resumed))?).map(|_| ())
}

/// Check data, model shape and final settings, after they are loaded.
///
/// # Errors
/// A difference, with its rank.
pub(super) fn check_data(world: &World, settings: &Settings, loaded: &LoadedData) -> Result<()> {
    if world.is_solo() {
        return Ok(());
    }
    let (material, config) = (&loaded.material, &loaded.config);
    let mut values = vec![
        ("tokens of --data for training and validation".to_owned(), format!("{:?}", material.tokens())),
        (
            "content of --data (hash)".to_owned(),
            material.content_hash().map_or("none".into(), |hash| hash.chars().take(16).collect()),
        ),
        ("shape of the model".to_owned(), format!("{config:?}")),
    ];
    values.extend(flags(settings)?);
    world.ensure_equal(&values)
}

/// Whether ranks have different kinds of devices.
///
/// # Errors
/// A lost rank.
pub(super) fn has_mixed_devices(world: &World, device: &Device) -> Result<bool> {
    let all = world.all_gather_values(&device.fingerprint())?;
    Ok(all.iter().any(|other| other != &all[0]))
}

/// Check that the devices' limits divide the gradients equally.
///
/// # Errors
/// A difference, with its rank.
pub(super) fn check_layout(world: &World, trainer: &Trainer) -> Result<()> {
    if !trainer.mixed_devices {
        return Ok(());
    }
    let layout = hash(&format!("{:?}", trainer.optimizer.all_reduce_layout()));
    world.ensure_equal(&[("division of the gradients by the devices' limits (hash)", layout)])
}

/// Warn if the shares of a batch are unequal, because ranks then wait for others.
pub(super) fn notice_uneven(world: &World, settings: &Settings, listener: &mut Listener) {
    let (rows, ranks) = (settings.train.batch_size, world.size());
    if settings.stage() == Stage::Grpo || rows.is_multiple_of(ranks) || !world.is_root() {
        return;
    }
    let (most, least) = (share(rows, ranks - 1, ranks).len(), rows / ranks);
    let text = format!(
        "--batch-size {rows} on {ranks} ranks: shares of {most} and {least} sequences, so that some ranks wait for others; a multiple of \
         {ranks} is faster"
    );
    listener(Notification::Event(&Event::Warning { text }));
}

/// On ranks other than 0: take part in a run until its end.
///
/// # Errors
/// Unusable data or device, a lost rank, a device fault; [`OtherRankFailed`] if another rank reports the error.
pub(super) fn run_worker(vfs: &dyn Vfs, world: &World, device: &DeviceSettings) -> Result<Finished> {
    // Rank 0 resolves settings, run folder and starting point.
    world.check_all(Ok(()))?;
    let (text, existing, resumed): (String, Option<PathBuf>, bool) = rmp_serde::from_slice(&world.broadcast(Vec::new())?)?;
    let mut settings: Settings = toml::from_str(&text).context("settings from rank 0 (a defect of lehr)")?;
    // A resumed run keeps its device settings, unless flags set others.
    settings.device = if resumed { device.clone().or(settings.device) } else { device.clone() };
    let mut listener: Listener = Box::new(|_| {});
    let PreparedRun { mut trainer, .. } = prepare_rank(vfs, world, &mut settings, existing.as_deref(), resumed, &mut listener)?;
    // Allocates it; rank 0 broadcasts the weights.
    world.check_all(trainer.keep_reference(None))?;
    let _signals = Control::listen(None)?;
    let reason = trainer.run_worker()?;
    if reason == FAILED {
        return Err(OtherRankFailed.into());
    }
    Ok(Finished { reason, step: trainer.state.step, ..Finished::default() })
}

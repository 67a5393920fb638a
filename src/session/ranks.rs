//! A run on several ranks: what they must agree on before they start, and what the others do while rank 0 runs it.

use super::control::Control;
use super::emitter::{Listener, Notification};
use super::open::{Prepared, Start, prepare};
use super::stage::Loaded;
use crate::config::{DeviceSettings, Settings, Stage};
use crate::device::Device;
use crate::event::{Event, Finished};
use crate::world::{Elsewhere, World, share};
use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// How a run that ended in an error is announced to have ended.
pub(super) const FAILED: &str = "failed";

fn hash(text: &str) -> String {
    crate::model::checkpoint::hex(&Sha256::digest(text))[..16].to_string()
}

/// Settings as text, without what computes, which may differ from rank to rank.
fn text_of(settings: &Settings) -> Result<String> {
    Ok(toml::to_string(&Settings { device: DeviceSettings::default(), ..settings.clone() })?)
}

/// Before anything is opened: the same program, started with the same flags.
///
/// # Errors
/// What differs, and where.
pub(super) fn agree_at_first(world: &World, settings: &Settings, start: &Start) -> Result<()> {
    if world.is_solo() {
        return Ok(());
    }
    world.watch_signals(Control::interrupted, Control::interrupt);
    let paths = format!("{:?} {:?} {:?}", start.run, start.resume, start.max_steps);
    world.agree(&[
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("flags (their hash)", hash(&(text_of(settings)? + &paths))),
        ("stage", settings.stage().name().to_owned()),
    ])
}

/// On rank 0: tell the others by what settings, and from which model, the run is made.
///
/// # Errors
/// A lost rank.
pub(super) fn tell(world: &World, settings: &Settings, existing: Option<&Path>, resumed: bool) -> Result<()> {
    if world.is_solo() {
        return Ok(());
    }
    let existing = existing.map(std::path::absolute).transpose()?;
    world.broadcast(rmp_serde::to_vec(&(toml::to_string(settings)?, existing, resumed))?).map(|_| ())
}

/// The same data and settings everywhere, once they are read.
///
/// # Errors
/// What differs, and where.
pub(super) fn agree_on_data(world: &World, settings: &Settings, loaded: &Loaded) -> Result<()> {
    if world.is_solo() {
        return Ok(());
    }
    let (material, config) = (&loaded.material, &loaded.config);
    world.agree(&[
        ("tokens of --data for training and validation", format!("{:?}", material.tokens())),
        ("content of --data (its hash)", material.content_hash().map_or("none".into(), |hash| hash.chars().take(16).collect())),
        ("shape of the model", format!("{config:?}")),
        ("settings (their hash)", hash(&text_of(settings)?)),
    ])
}

/// Whether the ranks compute on different kinds of devices.
///
/// # Errors
/// A lost rank.
pub(super) fn has_mixed_devices(world: &World, device: &Device) -> Result<bool> {
    let all = world.gather_values(&device.fingerprint())?;
    Ok(all.iter().any(|other| other != &all[0]))
}

/// A batch whose shares are not equal makes ranks wait.
pub(super) fn notice_uneven(world: &World, settings: &Settings, sink: &mut Listener) {
    let (rows, ranks) = (settings.train.batch_size, world.size());
    if settings.stage() == Stage::Grpo || rows.is_multiple_of(ranks) || !world.is_root() {
        return;
    }
    let (most, least) = (share(rows, ranks - 1, ranks).len(), rows / ranks);
    let text = format!(
        "--batch-size {rows} on {ranks} ranks: shares of {most} and {least} sequences, so that some ranks wait for others; a multiple of \
         {ranks} is faster, and computes the same otherwise"
    );
    sink(Notification::Event(&Event::Warning { text }));
}

/// On every rank but rank 0: take part in a run to its end.
///
/// # Errors
/// Data or a device that cannot be used, a lost rank, a device fault; [`Elsewhere`] where another rank tells what is wrong.
pub(super) fn follow(world: &World, device: &DeviceSettings) -> Result<Finished> {
    // Rank 0 finds the settings, the run's folder and what the run begins from.
    world.together(Ok(()))?;
    let (text, existing, resumed): (String, Option<PathBuf>, bool) = rmp_serde::from_slice(&world.broadcast(Vec::new())?)?;
    let mut settings: Settings = toml::from_str(&text).context("settings from rank 0 (a defect of lehr)")?;
    // A run that is resumed has a device of its own, where none is named anew.
    settings.device = if resumed { device.clone().or(settings.device) } else { device.clone() };
    let mut sink: Listener = Box::new(|_| {});
    let Prepared { mut trainer, .. } = prepare(world, &mut settings, existing.as_deref(), resumed, &mut sink)?;
    // Room for it: the model itself comes from rank 0.
    trainer.keep_reference(None)?;
    world.together(Ok(()))?;
    let _signals = Control::listen(false)?;
    let reason = trainer.follow().with_context(|| world.name(world.rank()))?;
    if reason == FAILED {
        return Err(Elsewhere.into());
    }
    Ok(Finished { reason, step: trainer.state.step, ..Finished::default() })
}

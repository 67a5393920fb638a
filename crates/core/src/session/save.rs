//! A checkpoint of a training run: the model in Hugging Face format, and the state needed to resume.

use super::rescue::RescueWatch;
use crate::data::Tokenizer;
use crate::device::{Arena, Device};
use crate::merge::ring::Ring;
use crate::model::Model;
use crate::model_files::adapter::{self, AdapterFolder};
use crate::model_files::checkpoint::{
    self, Checkpoint, CheckpointOrigin, CheckpointTarget, CheckpointWriter, IfExists, Manifest, SaveFailed,
};
use crate::model_files::hf_config::{SpecialTokens, config_json};
use crate::model_files::safetensors_file::{SafetensorsFile, write_safetensors};
use crate::train::{MergedWindow, Optimizer, Trainer, TrainerState};
use crate::vfs::{Vfs, display_path};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// `trainer.json`: all state except tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerFile {
    /// Step and live settings.
    pub state: TrainerState,
    /// Seconds of training, over all starts.
    pub seconds: f64,
    /// Training tokens of a fork's parent at the fork.
    #[serde(default)]
    pub tokens_before: u64,
    /// Length of `events.jsonl` at the save; later lines are cut off on resume.
    pub events_bytes: u64,
    /// Tokens for training and for validation, to detect changed data.
    pub data_tokens: (u64, u64),
    /// A hash of the data and its order; `None` for generated data.
    #[serde(default)]
    pub data_hash: Option<String>,
    /// Length of `samples.jsonl`, likewise.
    #[serde(default)]
    pub samples_bytes: u64,
    /// The last validation loss.
    #[serde(with = "crate::event::optional_number")]
    pub eval_loss: Option<f64>,
    /// The last exact match on held-out questions, greedy decoding.
    #[serde(default, with = "crate::event::optional_number")]
    pub accuracy: Option<f64>,
    /// The step of the final evaluation, if it is in the log already.
    #[serde(default)]
    pub final_eval_step: Option<u64>,
    /// State of spike detection.
    #[serde(default)]
    pub watch: RescueWatch,
}

/// The parts of a model folder.
#[derive(Clone, Copy)]
pub struct ModelFolder<'a> {
    /// The device.
    pub device: &'a Device,
    /// The model.
    pub model: &'a Model,
    /// The weights to write: the model's own, or a merge.
    pub values: &'a Arena,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
}

impl ModelFolder<'_> {
    fn tokens(&self) -> SpecialTokens {
        let ends = self.tokenizer.end_tokens().ids().to_vec();
        SpecialTokens { bos: self.tokenizer.bos_id(), eos: ends, pad: self.tokenizer.pad_id() }
    }

    /// Write the files of a Hugging Face folder, or a PEFT folder of a model's adapters; `metadata` goes into the weights file.
    ///
    /// # Errors
    /// A device or disk error.
    pub fn write(&self, out: &mut CheckpointWriter<'_>, metadata: &BTreeMap<String, String>) -> anyhow::Result<()> {
        let config = &self.model.config;
        let weights = if config.lora.is_some() { adapter::WEIGHTS } else { "model.safetensors" };
        out.file(weights, |file| self.tensors(file, metadata, &[("", self.values)]))?;
        if let Some(lora) = &config.lora {
            out.json(adapter::CONFIG, &adapter::config_json(lora, self.model.frozen_source().as_deref()))?;
        }
        out.json("config.json", &config_json(config, &self.tokens()))?;
        out.json("generation_config.json", &self.tokenizer.generation_config())?;
        for (name, bytes) in self.tokenizer.files(config.max_position_embeddings, config.architecture)? {
            out.file(&name, |file| Ok(file.write_all(&bytes)?))?;
        }
        Ok(())
    }

    /// (name, shape) of every tensor, with a prefix.
    fn names(&self, prefix: &str) -> Vec<(String, Vec<usize>)> {
        self.model.names().into_iter().map(|(n, s)| (format!("{prefix}{n}"), s)).collect()
    }

    /// Write arenas under Hugging Face names, each with a prefix.
    fn tensors(
        &self,
        file: &mut dyn std::io::Write,
        metadata: &BTreeMap<String, String>,
        arenas: &[(&str, &Arena)],
    ) -> anyhow::Result<()> {
        let names: Vec<_> = arenas.iter().flat_map(|(prefix, _)| self.names(prefix)).collect();
        let mut readers: Vec<_> = arenas.iter().map(|(prefix, arena)| (*prefix, self.model.reader(self.device, arena))).collect();
        write_safetensors(file, metadata, &names, |name, sink| {
            for (prefix, reader) in &mut readers {
                // The empty prefix is only used alone, so the first match is the right one.
                if let Some(bare) = name.strip_prefix(*prefix) {
                    return reader.write(bare, sink);
                }
            }
            anyhow::bail!("no arena holds {name}")
        })
    }

    /// Write every snapshot of a ring under its step, through the scratch arena.
    fn snapshots(&self, file: &mut dyn std::io::Write, ring: &Ring, scratch: &Arena) -> anyhow::Result<()> {
        let prefixes: Vec<String> = ring.steps().into_iter().map(snapshot_prefix).collect();
        let names: Vec<_> = prefixes.iter().flat_map(|prefix| self.names(prefix)).collect();
        let (mut reader, mut at) = (self.model.reader(self.device, scratch), None);
        write_safetensors(file, &BTreeMap::new(), &names, |name, sink| {
            let found = prefixes.iter().position(|prefix| name.starts_with(prefix.as_str()));
            let i = found.with_context(|| format!("no snapshot holds {name}"))?;
            if at != Some(i) {
                ring.copy_to_scratch(self.device, i)?;
                (reader, at) = (self.model.reader(self.device, scratch), Some(i));
            }
            reader.write(&name[prefixes[i].len()..], sink)
        })
    }

    /// Size of a folder with `arenas` arenas, to within a few KiB.
    pub fn bytes(&self, arenas: u64) -> u64 {
        let config = &self.model.config;
        let names = self.model.names();
        let header: usize = names.iter().map(|(name, _)| name.len() + HEADER_BYTES).sum();
        let tokenizer = self.tokenizer.files(config.max_position_embeddings, config.architecture);
        let tokenizer: usize = tokenizer.map_or(0, |files| files.iter().map(|(_, bytes)| bytes.len()).sum());
        (4 * self.model.parameters.count() + header) as u64 * arenas + tokenizer as u64 + SMALL_FILES
    }
}

/// Bytes of a tensor's entry in a safetensors header, without its name but with its prefix.
const HEADER_BYTES: usize = 120;
/// Bytes of configuration, manifest and other small files.
const SMALL_FILES: u64 = 32 << 10;

fn snapshot_prefix(step: u64) -> String {
    format!("{}/", checkpoint::step_name(step))
}

/// File of live merging's snapshots in a checkpoint.
const SNAPSHOTS: &str = "snapshots.safetensors";

/// File of a pending step of GRPO in a checkpoint; MessagePack, because JSON loses bits of numbers.
const PENDING_STEP: &str = "rollouts.msgpack";
/// Maximum size of that file; completions of a step are far smaller.
const MAX_PENDING_STEP_BYTES: u64 = 1 << 30;

/// Save a checkpoint of a run; it is durable on return. Overwrites the gradient arena.
///
/// # Errors
/// [`SaveFailed`]: nothing of it remains, and older checkpoints are untouched.
pub fn save(
    vfs: &dyn Vfs,
    checkpoints: &Path,
    trainer: &Trainer,
    tokenizer: &Tokenizer,
    file: &TrainerFile,
    origin: &CheckpointOrigin,
) -> Result<(PathBuf, Manifest), SaveFailed> {
    let Trainer { device, model, optimizer, .. } = trainer;
    let folder = ModelFolder { device, model, values: &model.values, tokenizer };
    let ring = trainer.live_merge.as_ref().map(|live| &live.ring).filter(|ring| !ring.steps().is_empty());
    let arenas = 1 + moments(optimizer).len() as u64 + ring.map_or(0, |ring| ring.steps().len() as u64);
    // Serializing a pending step cannot fail; if it did, the save would report it.
    let pending_step = trainer.pending_step().and_then(|step| rmp_serde::to_vec_named(step).ok());
    let place = CheckpointTarget {
        parent: checkpoints,
        name: &checkpoint::step_name(file.state.step),
        bytes: folder.bytes(arenas) + pending_step.as_ref().map_or(0, |bytes| bytes.len() as u64),
        existing: IfExists::Replace,
    };
    checkpoint::save(vfs, place, origin, |out| {
        folder.write(out, &BTreeMap::new())?;
        out.file("optimizer.safetensors", |file| folder.tensors(file, &BTreeMap::new(), &moments(optimizer)))?;
        if let Some(ring) = ring {
            out.file(SNAPSHOTS, |file| folder.snapshots(file, ring, &optimizer.grads))?;
        }
        if trainer.pending_step().is_some() {
            let bytes = pending_step.as_ref().context(PENDING_STEP)?;
            out.file(PENDING_STEP, |file| Ok(file.write_all(bytes)?))?;
        }
        out.json("trainer.json", file)
    })
}

/// Write the merge in the gradient arena as a separate model folder.
///
/// # Errors
/// As [`save`]; an existing folder is refused.
pub fn export_merge(
    vfs: &dyn Vfs,
    place: (&Path, &str),
    trainer: &Trainer,
    tokenizer: &Tokenizer,
    window: &MergedWindow,
    origin: &CheckpointOrigin,
) -> Result<(PathBuf, Manifest), SaveFailed> {
    let folder = ModelFolder { device: &trainer.device, model: &trainer.model, values: &trainer.optimizer.grads, tokenizer };
    let list = |texts: Vec<String>| texts.join(",");
    let metadata = BTreeMap::from([
        ("merge_method".to_owned(), window.method.clone()),
        ("merge_steps".to_owned(), list(window.steps.iter().map(u64::to_string).collect())),
        ("merge_weights".to_owned(), list(window.weights.iter().map(f64::to_string).collect())),
        ("merge_run".to_owned(), origin.run_id.clone()),
    ]);
    let place = CheckpointTarget { parent: place.0, name: place.1, bytes: folder.bytes(1), existing: IfExists::Replace };
    checkpoint::save(vfs, place, origin, |out| folder.write(out, &metadata))
}

/// Restore a verified checkpoint onto the device, bit for bit: weights, moments, snapshots, and the trainer's state.
///
/// # Errors
/// Files that do not match the model, or cannot be read.
pub fn restore(vfs: &dyn Vfs, checkpoint: &Checkpoint, trainer: &mut Trainer) -> anyhow::Result<TrainerFile> {
    restore_snapshots(vfs, checkpoint, trainer)?;
    match &trainer.model.config.lora {
        None => trainer.model.load(&trainer.device, &checkpoint.weights(vfs)?)?,
        Some(_) => trainer.model.load_adapters(vfs, &trainer.device, &AdapterFolder::open(vfs, &checkpoint.path)?)?,
    }
    restore_moments(vfs, checkpoint, trainer)?;
    let file: TrainerFile = checkpoint.trainer(vfs).context("trainer.json")?;
    trainer.state = file.state.clone();
    let path = checkpoint.path.join(PENDING_STEP);
    let step = match vfs.exists(&path)? {
        true => Some(rmp_serde::from_slice(&vfs.read(&path, MAX_PENDING_STEP_BYTES)?).with_context(|| display_path(&path))?),
        false => None,
    };
    trainer.set_pending_step(step);
    Ok(file)
}

/// Restore Adam's moments of a checkpoint.
///
/// # Errors
/// As [`restore`].
pub fn restore_moments(vfs: &dyn Vfs, checkpoint: &Checkpoint, trainer: &Trainer) -> anyhow::Result<()> {
    let Trainer { device, model, optimizer, .. } = trainer;
    let moments = checkpoint.optimizer(vfs)?;
    for (prefix, arena) in self::moments(optimizer) {
        model.fill(device, arena, &mut |name, shape| moments.read_f32(&format!("{prefix}{name}"), shape))?;
    }
    Ok(())
}

/// Moments by the prefix of their names in a file.
fn moments(optimizer: &Optimizer) -> Vec<(&'static str, &Arena)> {
    let second = optimizer.second.iter().flat_map(|second| [("m2.", &second.m), ("v2.", &second.v)]);
    [("m.", &optimizer.m), ("v.", &optimizer.v)].into_iter().chain(second).collect()
}

/// Restore the ring; overwrites the model's weights in the process. A ring of another length keeps the newest snapshots that fit.
fn restore_snapshots(vfs: &dyn Vfs, checkpoint: &Checkpoint, trainer: &mut Trainer) -> anyhow::Result<()> {
    let Trainer { device, model, live_merge: Some(live), .. } = trainer else { return Ok(()) };
    live.ring.clear();
    let path = checkpoint.path.join(SNAPSHOTS);
    if !vfs.exists(&path)? {
        return Ok(());
    }
    let file = SafetensorsFile::open(vfs, &path)?;
    let name_of = |name: &String| name.split_once('/').and_then(|(step, _)| checkpoint::step_of(step));
    let steps: BTreeSet<u64> = file.tensors().keys().filter_map(name_of).collect();
    for step in steps {
        let prefix = snapshot_prefix(step);
        model.fill(device, &model.values, &mut |name, shape| file.read_f32(&format!("{prefix}{name}"), shape))?;
        live.ring.push(device, model, step)?;
    }
    Ok(())
}

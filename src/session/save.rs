//! A checkpoint of a training run: the model as Hugging Face reads it, and what resuming needs.

use crate::data::Tokenizer;
use crate::gpu::{Arena, Gpu};
use crate::model::Model;
use crate::model::checkpoint::{self, Checkpoint, CheckpointWriter, Existing, Manifest, Origin, Place, SaveFailed};
use crate::model::hf_config::{SpecialTokens, config_json, generation_config_json};
use crate::model::safetensors_file::write_safetensors;
use crate::train::{Optimizer, TrainerState};
use crate::vfs::Vfs;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `trainer.json`: all that is not a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerFile {
    /// Step and live settings.
    pub state: TrainerState,
    /// Seconds of training, over all starts.
    pub seconds: f64,
    /// Length of `events.jsonl` when this was saved: what lies behind is cut off on resume.
    pub events_bytes: u64,
    /// Tokens for training and for validation: a text that has become another would train another model.
    pub data_tokens: (u64, u64),
    /// The last validation loss.
    #[serde(with = "crate::event::optional_number")]
    pub eval_loss: Option<f64>,
}

/// What a model folder is made from.
#[derive(Clone, Copy)]
pub struct ModelFolder<'a> {
    /// The device.
    pub gpu: &'a Gpu,
    /// The model.
    pub model: &'a Model,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
}

impl ModelFolder<'_> {
    fn tokens(&self) -> SpecialTokens {
        SpecialTokens { bos: self.tokenizer.bos_id(), eos: self.tokenizer.eos_id().into_iter().collect(), pad: None }
    }

    /// The files that make a Hugging Face folder.
    ///
    /// # Errors
    /// A device fault or a disk that fails.
    pub fn write(&self, out: &mut CheckpointWriter<'_>) -> anyhow::Result<()> {
        let config = &self.model.config;
        out.file("model.safetensors", |file| self.tensors(file, &[("", &self.model.values)]))?;
        out.json("config.json", &config_json(config, &self.tokens()))?;
        out.json("generation_config.json", &generation_config_json(&self.tokens()))?;
        for (name, bytes) in self.tokenizer.files(config.max_position_embeddings, config.architecture)? {
            out.file(&name, |file| Ok(file.write_all(&bytes)?))?;
        }
        Ok(())
    }

    /// Arenas under Hugging Face's names, each with a prefix.
    fn tensors(&self, file: &mut dyn std::io::Write, arenas: &[(&str, &Arena)]) -> anyhow::Result<()> {
        let names: Vec<(String, Vec<usize>)> = arenas
            .iter()
            .flat_map(|(prefix, _)| self.model.names().into_iter().map(move |(n, s)| (format!("{prefix}{n}"), s)))
            .collect();
        let mut readers: Vec<_> = arenas.iter().map(|(prefix, arena)| (*prefix, self.model.reader(self.gpu, arena))).collect();
        write_safetensors(file, &BTreeMap::new(), &names, |name, sink| {
            for (prefix, reader) in &mut readers {
                // The empty prefix stands alone, so the first that fits is the right one.
                if let Some(bare) = name.strip_prefix(*prefix) {
                    return reader.write(bare, sink);
                }
            }
            anyhow::bail!("no arena holds {name}")
        })
    }

    /// Bytes that a folder takes, with (three arenas) or without (one) what resuming needs.
    pub fn bytes(&self, arenas: u64) -> u64 {
        4 * self.model.parameters.count() as u64 * arenas + (1 << 20)
    }
}

/// Save a checkpoint of a run; it is durable when this returns.
///
/// # Errors
/// [`SaveFailed`]: nothing of it is left and older checkpoints are untouched.
pub fn save(
    vfs: &dyn Vfs,
    checkpoints: &Path,
    folder: ModelFolder<'_>,
    optimizer: &Optimizer,
    trainer: &TrainerFile,
    origin: &Origin,
) -> Result<(PathBuf, Manifest), SaveFailed> {
    let place = Place {
        parent: checkpoints,
        name: &checkpoint::step_name(trainer.state.step),
        bytes: folder.bytes(3),
        existing: Existing::Replace,
    };
    checkpoint::save(vfs, place, origin, |out| {
        folder.write(out)?;
        out.file("optimizer.safetensors", |file| folder.tensors(file, &[("m.", &optimizer.m), ("v.", &optimizer.v)]))?;
        out.json("trainer.json", trainer)
    })
}

/// Put a verified checkpoint back onto the device, bit for bit.
///
/// # Errors
/// Files that do not fit the model, or cannot be read.
pub fn restore(
    vfs: &dyn Vfs,
    checkpoint: &Checkpoint,
    gpu: &Gpu,
    model: &Model,
    optimizer: &Optimizer,
) -> anyhow::Result<TrainerFile> {
    model.load(gpu, &checkpoint.weights()?)?;
    let moments = checkpoint.optimizer()?;
    for (prefix, arena) in [("m.", &optimizer.m), ("v.", &optimizer.v)] {
        model.fill(gpu, arena, &mut |name, shape| moments.read_f32(&format!("{prefix}{name}"), shape))?;
    }
    checkpoint.trainer(vfs).context("trainer.json")
}

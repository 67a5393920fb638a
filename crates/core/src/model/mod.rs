//! Models on a device: weights, transformer, generation, rollouts.

pub mod activations;
pub mod conversation;
mod generate;
pub mod inspect;
mod prefill;
pub mod rollout;
pub mod transformer;
mod weights;

pub use activations::{Activations, PassKind};
pub use generate::Generator;
pub use rollout::{RolloutBatch, RolloutEngine, RolloutRequest, SampledCompletion};
pub use weights::{Adapter, Block, BlockAdapters, Parameters, PerProduct, TensorSpec, TrainedParameters, WeightInit, Weights};

use crate::config::ModelConfig;
use crate::device::{Arena, Device, ElementType, Tensor};
use crate::model_files::adapter::AdapterFolder;
use crate::model_files::safetensors_file::TensorSink;
use crate::model_files::weight_files::{WeightFiles, check, stored};
use crate::ops::rope;
use crate::vfs::Vfs;
use std::path::PathBuf;
use std::sync::Mutex;

/// Returns the numbers of (Hugging Face name, shape).
pub type WeightReader<'a> = dyn FnMut(&str, &[usize]) -> anyhow::Result<Vec<f32>> + 'a;

/// A model on the device: its shape, its parameters, and its rotation table.
pub struct Model {
    /// The shape.
    pub config: ModelConfig,
    /// The trained parameters and their layout: all weights, or the adapters if there are any.
    pub parameters: Parameters,
    /// Values of the trained parameters.
    pub values: Arena,
    /// All weights, trained or frozen, as a tree.
    pub weights: Weights<Tensor>,
    /// The adapters of each block; empty without adapters.
    pub adapters: Vec<BlockAdapters<Tensor>>,
    /// The frozen base weights of adapters.
    frozen: Option<FrozenWeights>,
    rope_table: Tensor,
}

/// Weights that are not trained.
struct FrozenWeights {
    parameters: Parameters,
    values: Arena,
    /// The folder or file they were loaded from.
    source: Mutex<Option<PathBuf>>,
}

impl Model {
    /// Allocate a model for contexts of up to `context` tokens; its values are zero until [`Model::initialise`] or [`Model::load`]. What is
    /// trained is in f32; the base weights of adapters are stored as the shape says ([`crate::config::Lora::base`]).
    ///
    /// # Errors
    /// An invalid shape, a context beyond which transformers computes differently, or a tensor larger than the adapter can bind.
    pub fn new(device: &Device, config: &ModelConfig, context: usize) -> anyhow::Result<Self> {
        Self::of(device, config, context, ElementType::F32)
    }

    /// As [`Model::new`], of weights that are not trained, without adapters; matrices are stored as `element`.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn frozen(device: &Device, config: &ModelConfig, context: usize, element: ElementType) -> anyhow::Result<Self> {
        Self::of(device, &ModelConfig { lora: None, ..config.clone() }, context, element)
    }

    fn of(device: &Device, config: &ModelConfig, context: usize, element: ElementType) -> anyhow::Result<Self> {
        if let Some(problem) = config.problems().into_iter().next() {
            anyhow::bail!("{problem}");
        }
        if let Some((most, why)) = config.exact_context() {
            anyhow::ensure!(context <= most, "{context} tokens: this model takes at most {most} at once: {why}");
        }
        let most = device.sizes().max_tensor_bytes;
        let parameters = match &config.lora {
            None => Parameters::frozen(config, most, element)?,
            Some(_) => Parameters::trained(config, most)?,
        };
        let values = parameters.values(device, if config.lora.is_some() { "adapters" } else { "values" });
        let (weights, adapters, frozen) = match parameters.tree(&values) {
            TrainedParameters::Weights(weights) => (weights, Vec::new(), None),
            TrainedParameters::Adapters(adapters) => {
                let parameters = Parameters::frozen(config, most, config.lora.as_ref().map_or(element, |lora| lora.base))?;
                let values = parameters.values(device, "values");
                let TrainedParameters::Weights(weights) = parameters.tree(&values) else {
                    unreachable!("declared without adapters")
                };
                (weights, adapters, Some(FrozenWeights { parameters, values, source: Mutex::new(None) }))
            }
        };
        let rope_table = Tensor::new(device, "rope table", "rope_table", &[context, config.head_dim]);
        let rotation = rope::Rotation::new(config.head_dim, config.rope_theta, config.rope_scaling.as_ref());
        device.write(&rope_table, &rope::table(&rotation, context));
        Ok(Self { config: config.clone(), parameters, values, weights, adapters, frozen, rope_table })
    }

    /// All weights, trained or frozen: declarations and arena.
    pub fn base(&self) -> (&Parameters, &Arena) {
        self.frozen.as_ref().map_or((&self.parameters, &self.values), |frozen| (&frozen.parameters, &frozen.values))
    }

    /// Number of weights and adapter parameters.
    pub fn count(&self) -> usize {
        self.parameters.count() + self.frozen.as_ref().map_or(0, |frozen| frozen.parameters.count())
    }

    /// The folder or file that frozen weights were loaded from.
    pub fn frozen_source(&self) -> Option<PathBuf> {
        let frozen = self.frozen.as_ref()?;
        frozen.source.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Random values from a seed; adapters start without effect.
    pub fn initialise(&self, device: &Device, seed: u64) {
        let (parameters, values) = self.base();
        parameters.initialise(device, values, seed);
        self.initialise_adapters(device, seed);
    }

    /// Tensors that a folder of weights lacks: the initial values of the adapters, if the model has any.
    pub fn initialise_adapters(&self, device: &Device, seed: u64) {
        if self.frozen.is_some() {
            self.parameters.initialise(device, &self.values, seed);
        }
    }

    /// The context for recordings of this model.
    pub fn context<'a>(&'a self, device: &'a Device) -> transformer::Context<'a> {
        let (config, weights, adapters) = (&self.config, &self.weights, Some(&self.adapters[..]).filter(|of| !of.is_empty()));
        transformer::Context { device, config, weights, adapters, rope_table: &self.rope_table }
    }

    /// Longest context that the rotation table covers.
    pub fn max_context(&self) -> usize {
        self.rope_table.shape()[0]
    }

    /// (name in files, shape) of all trained parameters, in order of declaration.
    pub fn names(&self) -> Vec<(String, Vec<usize>)> {
        self.parameters.names()
    }

    /// Load weights from a Hugging Face folder.
    ///
    /// # Errors
    /// Missing, unexpected or differently shaped tensors, values that are not finite, or files that cannot be read.
    pub fn load(&self, device: &Device, files: &WeightFiles) -> anyhow::Result<()> {
        self.check(files)?;
        let (parameters, arena) = self.base();
        parameters.fill(device, arena, &mut |name, shape| files.read_f32(self.stored(files, name), shape))?;
        if let Some(frozen) = &self.frozen {
            let source = std::path::absolute(files.dir())?;
            *frozen.source.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(source);
        }
        Ok(())
    }

    /// Load adapters from a PEFT folder, and the weights of its base model.
    ///
    /// # Errors
    /// As [`Model::load`], or adapters of another rank, alpha or other projections.
    pub fn load_adapters(&self, vfs: &dyn Vfs, device: &Device, folder: &AdapterFolder) -> anyhow::Result<()> {
        folder.expect(&self.config, &self.names())?;
        self.load(device, &folder.open_base(vfs)?)?;
        self.fill(device, &self.values, &mut |name, shape| folder.read_f32(name, shape))
    }

    /// The name under which a file stores a parameter; see [`stored`].
    pub fn stored<'a>(&self, files: &WeightFiles, name: &'a str) -> &'a str {
        stored(&self.config, files, name)
    }

    /// Reject files that do not match this shape.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn check(&self, files: &WeightFiles) -> anyhow::Result<()> {
        check(&self.config, &self.base().0.names(), files)
    }

    /// All values of a Hugging Face folder, concatenated in order of declaration, on the host: for [`Model::set`].
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn read(&self, files: &WeightFiles) -> anyhow::Result<Vec<f32>> {
        self.check(files)?;
        let (parameters, _) = self.base();
        let mut all = Vec::with_capacity(parameters.count());
        for (name, shape, _) in parameters.specs().iter().flat_map(TensorSpec::ranges) {
            all.extend(files.read_f32(self.stored(files, name), shape)?);
        }
        Ok(all)
    }

    /// Upload the values of the trained parameters, concatenated in order of declaration.
    ///
    /// # Panics
    /// When the number of values differs from the model's (a defect of the caller).
    pub fn set(&self, device: &Device, all: &[f32]) {
        let mut rest = all;
        for (spec, tensor) in self.parameters.tensors(&self.values) {
            let (own, others) = rest.split_at(spec.len());
            device.write_numbers(&tensor, own);
            rest = others;
        }
        assert!(rest.is_empty(), "{} values too many", rest.len());
    }

    /// Download the values of the trained parameters, concatenated in order of declaration.
    ///
    /// # Errors
    /// A device fault.
    pub fn get(&self, device: &Device) -> anyhow::Result<Vec<f32>> {
        let mut all = Vec::new();
        for (_, tensor) in self.parameters.tensors(&self.values) {
            all.extend(device.read_numbers(&tensor)?);
        }
        Ok(all)
    }

    /// Fill an arena of the trained parameters (values, or a moment) tensor by tensor; `read` returns the numbers of (name in files,
    /// shape).
    ///
    /// # Errors
    /// The error of `read`.
    pub fn fill(&self, device: &Device, arena: &Arena, read: &mut WeightReader<'_>) -> anyhow::Result<()> {
        self.parameters.fill(device, arena, read)
    }

    /// A reader of an arena's numbers by Hugging Face name, which downloads tensor by tensor: for writing files.
    pub fn reader<'a>(&'a self, device: &'a Device, arena: &'a Arena) -> ArenaReader<'a> {
        ArenaReader { model: self, device, arena, last: None }
    }
}

/// Reads an arena's numbers part by part; see [`Model::reader`].
pub struct ArenaReader<'a> {
    model: &'a Model,
    device: &'a Device,
    arena: &'a Arena,
    /// The fused tensor read last: its parts are requested one after another.
    last: Option<(usize, Vec<f32>)>,
}

impl ArenaReader<'_> {
    /// Write the numbers of the parameter `name` into a file.
    ///
    /// # Errors
    /// A device fault or a write that fails.
    pub fn write(&mut self, name: &str, sink: &mut TensorSink<'_>) -> anyhow::Result<()> {
        let specs = self.model.parameters.specs();
        let found = specs
            .iter()
            .enumerate()
            .find_map(|(i, spec)| spec.ranges().find(|(part, _, _)| *part == name).map(|(_, _, range)| (i, range)));
        let (index, range) = found.ok_or_else(|| anyhow::anyhow!("the model has no parameter {name}"))?;
        if self.last.as_ref().is_none_or(|(i, _)| *i != index) {
            self.last = Some((index, self.device.read_numbers(&self.arena.tensor(index, name))?));
        }
        match &self.last {
            Some((_, numbers)) => sink.write(&numbers[range]),
            None => unreachable!("it was just read"),
        }
    }
}

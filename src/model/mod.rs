//! Floor 3: what a model is and how it is kept: weights, transformer, generation, Hugging Face files, checkpoints.

pub mod activations;
pub mod checkpoint;
pub mod conversation;
mod generate;
pub mod gguf;
pub mod hf_config;
pub mod inspect;
mod prefill;
pub mod rollout;
pub mod safetensors_file;
pub mod transformer;
pub mod weight_files;
mod weights;

pub use activations::{Activations, Pass};
pub use generate::Generator;
pub use rollout::{Completion, Request, Rollouts};
pub use weights::{Block, Init, Parameters, Spec, Weights};

use crate::config::ModelConfig;
use crate::device::{Arena, Device, Tensor};
use crate::ops::rope;
use safetensors_file::TensorSink;
use weight_files::WeightFiles;

/// Two names of one tensor where embeddings are tied.
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Gives the numbers of (Hugging Face name, shape).
pub type Reader<'a> = dyn FnMut(&str, &[usize]) -> anyhow::Result<Vec<f32>> + 'a;

/// A model on the device: its shape, its parameters, and the table of its rotations.
pub struct Model {
    /// The shape.
    pub config: ModelConfig,
    /// What is declared, and where it lies.
    pub parameters: Parameters,
    /// Parameter values.
    pub values: Arena,
    /// The same, as the tree of weights.
    pub weights: Weights<Tensor>,
    rope_table: Tensor,
}

impl Model {
    /// Allocate a model for contexts of up to `context` tokens; its values are zero until [`Model::initialise`] or [`Model::load`].
    ///
    /// # Errors
    /// A shape that cannot work, a context that would be computed otherwise than transformers does, or a tensor larger than the adapter can bind.
    pub fn new(device: &Device, config: &ModelConfig, context: usize) -> anyhow::Result<Self> {
        if let Some(problem) = config.problems().into_iter().next() {
            anyhow::bail!("{problem}");
        }
        if let Some((most, why)) = config.exact_context() {
            anyhow::ensure!(context <= most, "{context} tokens: this model takes at most {most} at once: {why}");
        }
        let parameters = Parameters::new(config, device.sizes().max_tensor_bytes)?;
        let values = parameters.arena(device, "values");
        let rope_table = Tensor::new(device, "rope table", "rope_table", &[context, config.head_dim]);
        device.write(
            &rope_table,
            &rope::table(&rope::Rotation::new(config.head_dim, config.rope_theta, config.rope_scaling.as_ref()), context),
        );
        Ok(Self { config: config.clone(), weights: parameters.weights(&values), parameters, values, rope_table })
    }

    /// Random values from a seed.
    pub fn initialise(&self, device: &Device, seed: u64) {
        for (spec, tensor) in self.parameters.tensors(&self.values) {
            device.write(&tensor, &spec.initial_values(seed));
        }
    }

    /// What recordings of this model need.
    pub fn context<'a>(&'a self, device: &'a Device) -> transformer::Context<'a> {
        transformer::Context { device, config: &self.config, weights: &self.weights, rope_table: &self.rope_table }
    }

    /// Longest context that the rotation table covers.
    pub fn max_context(&self) -> usize {
        self.rope_table.shape()[0]
    }

    /// (Hugging Face name, shape) of every parameter, in order of declaration.
    pub fn names(&self) -> Vec<(String, Vec<usize>)> {
        self.parameters.specs().iter().flat_map(|s| s.parts.iter().cloned()).collect()
    }

    /// Values from a Hugging Face folder.
    ///
    /// # Errors
    /// Missing, unexpected or differently shaped tensors, values that are not finite, or files that cannot be read.
    pub fn load(&self, device: &Device, files: &WeightFiles) -> anyhow::Result<()> {
        self.check(files)?;
        self.fill(device, &self.values, &mut |name, shape| files.read_f32(self.stored(files, name), shape))
    }

    /// Under which name a file holds a parameter; see [`stored`].
    pub fn stored<'a>(&self, files: &WeightFiles, name: &'a str) -> &'a str {
        stored(&self.config, files, name)
    }

    /// Refuse files that do not belong to this shape.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn check(&self, files: &WeightFiles) -> anyhow::Result<()> {
        check(&self.config, &self.names(), files)
    }

    /// All values of a Hugging Face folder one after another, in order of declaration, on the host: for [`Model::set`].
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn read(&self, files: &WeightFiles) -> anyhow::Result<Vec<f32>> {
        self.check(files)?;
        let mut all = Vec::with_capacity(self.parameters.specs().iter().map(Spec::len).sum());
        for (name, shape, _) in self.parameters.specs().iter().flat_map(Spec::ranges) {
            all.extend(files.read_f32(self.stored(files, name), shape)?);
        }
        Ok(all)
    }

    /// Put values onto the device that stand one after another in order of declaration.
    ///
    /// # Panics
    /// When there are not as many as the model has (a defect of the caller).
    pub fn set(&self, device: &Device, all: &[f32]) {
        let mut rest = all;
        for (spec, tensor) in self.parameters.tensors(&self.values) {
            let (own, others) = rest.split_at(spec.len());
            device.write(&tensor, own);
            rest = others;
        }
        assert!(rest.is_empty(), "{} values too many", rest.len());
    }

    /// All values from the device, one after another in order of declaration.
    ///
    /// # Errors
    /// A device fault.
    pub fn get(&self, device: &Device) -> anyhow::Result<Vec<f32>> {
        let mut all = Vec::new();
        for (_, tensor) in self.parameters.tensors(&self.values) {
            all.extend(device.read::<f32>(&tensor)?);
        }
        Ok(all)
    }

    /// Fill an arena (values, or a moment) tensor by tensor; `read` gives the numbers of (Hugging Face name, shape).
    ///
    /// # Errors
    /// What `read` returns.
    pub fn fill(&self, device: &Device, arena: &Arena, read: &mut Reader<'_>) -> anyhow::Result<()> {
        for (spec, tensor) in self.parameters.tensors(arena) {
            let mut whole = Vec::with_capacity(spec.len());
            for (name, shape, _) in spec.ranges() {
                whole.extend(read(name, shape)?);
            }
            device.write(&tensor, &whole);
        }
        Ok(())
    }

    /// The numbers of an arena by Hugging Face name, read from the device tensor by tensor: for writing files.
    pub fn reader<'a>(&'a self, device: &'a Device, arena: &'a Arena) -> ArenaReader<'a> {
        ArenaReader { model: self, device, arena, last: None }
    }
}

/// Under which name a file holds a parameter: tied embeddings may stand there as the head alone.
pub fn stored<'a>(config: &ModelConfig, files: &WeightFiles, name: &'a str) -> &'a str {
    let as_head = config.tie_word_embeddings && name == EMBEDDING && files.shape(EMBEDDING).is_none();
    if as_head && files.shape(HEAD).is_some() { HEAD } else { name }
}

/// Refuse files that do not hold the parameters `names` of a model of this shape.
///
/// # Errors
/// As [`Model::load`].
pub fn check(config: &ModelConfig, names: &[(String, Vec<usize>)], files: &WeightFiles) -> anyhow::Result<()> {
    let tied = config.tie_word_embeddings;
    let ignorable = |name: &str| (tied && name == HEAD) || name.ends_with("rotary_emb.inv_freq");
    let names: Vec<_> = names.iter().map(|(name, shape)| (stored(config, files, name).to_owned(), shape.clone())).collect();
    files.expect(&names, &ignorable)?;
    if tied && [HEAD, EMBEDDING].iter().all(|name| files.shape(name).is_some()) {
        let shape = [config.vocab_size, config.hidden_size];
        anyhow::ensure!(
            files.read_f32(HEAD, &shape)? == files.read_f32(EMBEDDING, &shape)?,
            "{}: config.json says tie_word_embeddings, but lm_head.weight differs from the embedding; set it to false",
            crate::vfs::shown(files.dir())
        );
    }
    Ok(())
}

/// Hands out an arena's numbers part by part; see [`Model::reader`].
pub struct ArenaReader<'a> {
    model: &'a Model,
    device: &'a Device,
    arena: &'a Arena,
    /// The fused tensor read last: its parts are asked for one after another.
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
            self.last = Some((index, self.device.read(&self.arena.tensor(index, name))?));
        }
        match &self.last {
            Some((_, numbers)) => sink.write(&numbers[range]),
            None => unreachable!("it was just read"),
        }
    }
}

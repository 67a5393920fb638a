//! Every setting, once: clap holds the default, the help and the flag; serde the value in files; the window draws it from the same schema.
//!
//! Precedence: default < preset < config file < flags actually typed (`layers.rs`).

mod fit;
mod grpo;
mod layers;
mod lora;
mod merge;
mod model;
mod rescue;
pub mod schema;
mod sft;
mod task;
mod validate;

pub use grpo::{
    Algorithm, GrpoSettings, LoptiMoments, LoptiOrder, LoptiSplit, LossType, OptimizerKind, RolloutSettings, ScaleRewards,
};
pub use layers::{GRPO_DEFAULTS, Layers, SFT_DEFAULTS, preset_names};
pub use lehr_compute::ops::rope::{Llama3Scaling, RopeScaling, YarnScaling};
pub use lora::{Lora, LoraSettings, Product, Projection};
pub use merge::{MergeMethod, MergeSettings, OptimizerState, RingPlace, StartSettings};
pub use model::{Architecture, ModelConfig};
pub use rescue::{Rescue, RescueData, RescueOptimizer, RescueSettings};
pub use sft::{SftSettings, Stage};
pub use task::{Form, Grader, MathKind, TaskKind, TaskSettings};

use crate::device::Selection;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A command line that lacks something or names something unknown; the command ends with exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// All settings of a training run, one section a concern.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The model's shape.
    #[command(flatten)]
    pub model: ModelSettings,
    /// What it learns from.
    #[command(flatten)]
    pub data: DataSettings,
    /// How it learns.
    #[command(flatten)]
    pub train: TrainSettings,
    /// What is looked at on the way.
    #[command(flatten)]
    pub eval: EvalSettings,
    /// What is kept.
    #[command(flatten)]
    pub save: SaveSettings,
    /// What it begins from.
    #[command(flatten)]
    pub start: StartSettings,
    /// Adapters in place of all weights.
    #[command(flatten)]
    pub lora: LoraSettings,
    /// Merging while it trains.
    #[command(flatten)]
    pub merge: MergeSettings,
    /// What happens when it diverges.
    #[command(flatten)]
    pub rescue: RescueSettings,
    /// How rows of messages become batches; only a run of `lehr sft` has this section.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sft: Option<SftSettings>,
    /// What is practised; this and the next two sections are those of a run of `lehr grpo`.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskSettings>,
    /// How completions are sampled.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSettings>,
    /// How the policy is updated.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpo: Option<GrpoSettings>,
    /// Where it runs.
    #[command(flatten)]
    pub device: DeviceSettings,
}

/// The shape of a new model; a model that is loaded brings its own.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Model")]
pub struct ModelSettings {
    /// Family of decoder.
    #[arg(long, value_enum, default_value = "llama")]
    pub architecture: Architecture,
    /// Width of the residual stream.
    #[arg(long, default_value_t = 128)]
    pub hidden_size: usize,
    /// Width inside the SwiGLU.
    #[arg(long, default_value_t = 352)]
    pub intermediate_size: usize,
    /// Number of blocks.
    #[arg(long, default_value_t = 4)]
    pub num_hidden_layers: usize,
    /// Query heads.
    #[arg(long, default_value_t = 4)]
    pub num_attention_heads: usize,
    /// Key/value heads; as many as query heads when absent.
    #[arg(long)]
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; hidden size / heads when absent.
    #[arg(long)]
    pub head_dim: Option<usize>,
    /// Added to the mean square in RMSNorm.
    #[arg(long, default_value_t = 1e-5)]
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[arg(long, default_value_t = 10000.0)]
    pub rope_theta: f64,
    /// One matrix for embedding and head.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub tie_word_embeddings: bool,
    /// Longest context the model is meant for; --seq-len when absent.
    #[arg(long)]
    pub max_position_embeddings: Option<usize>,
    /// Standard deviation of random weights.
    #[arg(long, default_value_t = 0.02)]
    pub initializer_range: f64,
}

/// Where text comes from and how it becomes tokens.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Data")]
pub struct DataSettings {
    /// Text file, rows with `text` (JSONL, JSON, Parquet), either compressed or not, a folder of them, or - for standard input; may be
    /// repeated.
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Share of the tokens, from the end, held out for validation.
    #[arg(long, default_value_t = 0.1)]
    pub val_fraction: f64,
    /// Validation text in a file of its own; then --val-fraction is not used.
    #[arg(long, value_name = "PATH")]
    pub val_data: Option<PathBuf>,
    /// bytes, chars or words (of the corpus), bpe:N (trained on the corpus), or a tokenizer.json or its folder.
    #[arg(long, default_value = "chars")]
    pub tokenizer: String,
}

/// The recipe.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Training")]
pub struct TrainSettings {
    /// Updates to make.
    #[arg(long, default_value_t = 2000)]
    pub max_steps: u64,
    /// Sequences in one update.
    #[arg(long, default_value_t = 12)]
    pub batch_size: usize,
    /// Tokens in a sequence.
    #[arg(long, default_value_t = 64)]
    pub seq_len: usize,
    /// Sequences computed at once; must divide the batch; chosen to fit memory when absent.
    #[arg(long)]
    pub micro_batch_size: Option<usize>,
    /// Keep only the input of each block for the backward pass, and compute the rest of the block again there: memory for activations
    /// falls to about one block's, an update takes about a third longer, and the numbers stay the same to the bit.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_checkpointing: Option<bool>,
    /// Device memory that the run may take, in GiB: what is computed at once is chosen to fit, and a run that cannot fit is refused. Leave a
    /// tenth of a GPU's memory to its driver and the display.
    #[arg(long, value_name = "GIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_gib: Option<f64>,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-3)]
    pub learning_rate: f64,
    /// Learning rate at the end of the decay.
    #[arg(long, default_value_t = 1e-4)]
    pub min_learning_rate: f64,
    /// Learning-rate schedule.
    #[arg(long, value_enum, default_value = "cosine")]
    pub lr_scheduler: Scheduler,
    /// Updates of linear warm-up.
    #[arg(long, default_value_t = 100)]
    pub warmup_steps: u64,
    /// Updates of decay at the end (wsd).
    #[arg(long, default_value_t = 200)]
    pub decay_steps: u64,
    /// Shape of that decay (wsd).
    #[arg(long, value_enum, default_value = "1-sqrt")]
    pub decay_shape: DecayShape,
    /// AdamW: decay of the first moment.
    #[arg(long, default_value_t = 0.9)]
    pub adam_beta1: f64,
    /// AdamW: decay of the second moment.
    #[arg(long, default_value_t = 0.99)]
    pub adam_beta2: f64,
    /// AdamW: added to the root of the second moment.
    #[arg(long, default_value_t = 1e-8)]
    pub adam_epsilon: f64,
    /// Decoupled weight decay, on tensors of rank 2.
    #[arg(long, default_value_t = 0.1)]
    pub weight_decay: f64,
    /// Clip the global gradient norm to this; 0 turns clipping off.
    #[arg(long, default_value_t = 1.0)]
    pub max_grad_norm: f64,
    /// Seed of weights, data order and samples.
    #[arg(long, default_value_t = 1337)]
    pub seed: u64,
}

/// Held-out loss and samples.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Evaluation")]
pub struct EvalSettings {
    /// Evaluate every so many updates (and at the start and the end); 0 for only those two.
    #[arg(long, default_value_t = 250)]
    pub eval_every: u64,
    /// Tokens of the validation split to score along the way; 0 for all of it, as at the end of a run.
    #[arg(long, default_value_t = 16384)]
    pub eval_tokens: u64,
    /// Also write this many tokens of sample text at each evaluation.
    #[arg(long, default_value_t = 0)]
    pub sample_tokens: usize,
    /// What samples continue.
    #[arg(long, default_value = "\n")]
    pub sample_prompt: String,
    /// Norms of weights and gradients, block by block, every so many updates (and at the first); 0 for never.
    #[arg(long, default_value_t = 50)]
    pub norms_every: u64,
}

/// Checkpoints and logs.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Saving")]
pub struct SaveSettings {
    /// Save every so many updates (and at the end); 0 for only the end.
    #[arg(long, default_value_t = 500)]
    pub save_every: u64,
    /// Newest checkpoints to keep, at least 2.
    #[arg(long, default_value_t = 3)]
    pub keep_last: usize,
    /// Also keep every checkpoint whose step is a multiple of this; 0 for none.
    #[arg(long, default_value_t = 0)]
    pub keep_every: u64,
    /// End a run that could save nothing for so many minutes (a full disk) instead of training on unsaved; 0 trains on.
    #[arg(long, default_value_t = 60, value_name = "MINUTES")]
    pub max_unsaved_minutes: u64,
    /// Also write TensorBoard event files into the run folder.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub tensorboard: bool,
}

/// What computes.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Device")]
pub struct DeviceSettings {
    /// What computes, by index, part of its name (`lehr doctor` lists them) or backend, or `cpu`; a GPU, else the CPU when absent.
    #[arg(long, value_name = "NAME|INDEX|cpu")]
    pub adapter: Option<String>,
    /// Threads of the CPU executor; one for each physical core when absent. Any number gives the same bits.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

impl From<&DeviceSettings> for Selection {
    fn from(settings: &DeviceSettings) -> Self {
        Self { adapter: settings.adapter.clone(), threads: settings.threads }
    }
}

impl DeviceSettings {
    /// These, and where they say nothing, `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self { adapter: self.adapter.or(others.adapter), threads: self.threads.or(others.threads) }
    }

    /// As words of a command line.
    pub fn words(&self) -> Vec<String> {
        let adapter = self.adapter.iter().flat_map(|a| ["--adapter".to_owned(), a.clone()]);
        adapter.chain(self.threads.iter().flat_map(|n| ["--threads".to_owned(), n.to_string()])).collect()
    }
}

/// How the learning rate runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Warm-up, then constant.
    Constant,
    /// Warm-up, then half a cosine down to the minimum.
    #[default]
    Cosine,
    /// Warm-up, then a line down to the minimum.
    Linear,
    /// Warm-up, stable, decay.
    Wsd,
}

/// How the decay of a WSD schedule runs, from 1 at its start to 0 at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum DecayShape {
    /// Half a cosine.
    #[serde(rename = "cosine")]
    Cosine,
    /// A line.
    #[serde(rename = "linear")]
    Linear,
    /// 1 - sqrt(progress).
    #[default]
    #[serde(rename = "1-sqrt")]
    #[value(name = "1-sqrt")]
    OneMinusSqrt,
}

/// `Default` for a section is what clap parses from no flags at all, so a default is written once.
macro_rules! default_from_clap {
    ($($section:ty),*) => {$(
        impl Default for $section {
            fn default() -> Self {
                #[derive(clap::Parser)]
                struct Only {
                    #[command(flatten)]
                    section: $section,
                }
                <Only as clap::Parser>::parse_from([""]).section
            }
        }
    )*};
}
default_from_clap!(
    ModelSettings,
    DataSettings,
    TrainSettings,
    EvalSettings,
    SaveSettings,
    StartSettings,
    LoraSettings,
    MergeSettings,
    RescueSettings,
    SftSettings,
    TaskSettings,
    RolloutSettings,
    GrpoSettings,
    DeviceSettings
);

impl Settings {
    /// What the run does.
    pub fn stage(&self) -> Stage {
        match (&self.sft, &self.grpo) {
            (_, Some(_)) => Stage::Grpo,
            (Some(_), None) => Stage::Sft,
            (None, None) => Stage::Pretrain,
        }
    }

    /// The sections of reinforcement learning, when this is a run of that.
    pub fn reinforcement(&self) -> Option<(&TaskSettings, &RolloutSettings, &GrpoSettings)> {
        Some((self.task.as_ref()?, self.rollout.as_ref()?, self.grpo.as_ref()?))
    }
}

/// Whether something that is done every `every` steps is due at this one; 0 is never, as in every setting of this kind.
pub fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

impl TrainSettings {
    /// Whether most activations are computed a second time instead of being kept.
    pub fn checkpoints_activations(&self) -> bool {
        self.activation_checkpointing.unwrap_or(false)
    }
}

impl ModelSettings {
    /// The full shape for a tokenizer's vocabulary and a context length.
    pub fn config(&self, vocab_size: usize, seq_len: usize) -> ModelConfig {
        ModelConfig {
            architecture: self.architecture,
            vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1)),
            max_position_embeddings: self.max_position_embeddings.unwrap_or(seq_len),
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta,
            rope_scaling: None,
            attention_bias: false,
            sliding_window: None,
            tie_word_embeddings: self.tie_word_embeddings,
            initializer_range: self.initializer_range,
            lora: None,
        }
    }
}

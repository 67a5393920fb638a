//! All settings, defined once: clap holds default, help and flag; serde reads and writes files; the window draws forms from the same
//! schema.
//!
//! Precedence: default < preset < config file < explicit flags (`layers.rs`).

mod fit;
mod grpo;
mod layers;
mod lora;
mod merge;
mod model;
mod rescue;
pub mod schema;
mod sft;
mod storage;
mod task;
mod validate;

pub use grpo::{
    Algorithm, GrpoSettings, LoptiMoments, LoptiOrder, LoptiSplit, LossType, OptimizerKind, RolloutSettings, ScaleRewards,
};
pub use layers::{GRPO_DEFAULTS, SFT_DEFAULTS, SettingsLayers, preset_names};
pub use lehr_compute::ops::rope::{Llama3Scaling, RopeScaling, YarnScaling};
pub use lora::{Lora, LoraSettings, Product, Projection};
pub use merge::{MergeMethod, MergeSettings, OptimizerState, RingPlace, StartSettings};
pub use model::{Architecture, ModelConfig};
pub use rescue::{RescueData, RescueMethod, RescueOptimizer, RescueSettings};
pub use sft::{SftSettings, Stage};
pub use storage::{CacheDtype, CacheSettings, StorageSettings, WeightsDtype};
pub use task::{Grader, MathKind, PuzzleForm, TaskKind, TaskSettings};

use crate::device::{ElementType, MatmulPrecision, Selection};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A command line with a missing or unknown argument; the command exits with code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// All settings of a training run, in sections.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The model's shape.
    #[command(flatten)]
    pub model: ModelSettings,
    /// Training data and tokenizer.
    #[command(flatten)]
    pub data: DataSettings,
    /// Training recipe.
    #[command(flatten)]
    pub train: TrainSettings,
    /// Evaluation.
    #[command(flatten)]
    pub eval: EvalSettings,
    /// Checkpoints and logs.
    #[command(flatten)]
    pub save: SaveSettings,
    /// Starting point.
    #[command(flatten)]
    pub start: StartSettings,
    /// Low-rank adapters.
    #[command(flatten)]
    pub lora: LoraSettings,
    /// Live merging.
    #[command(flatten)]
    pub merge: MergeSettings,
    /// Handling of divergence.
    #[command(flatten)]
    pub rescue: RescueSettings,
    /// How rows of messages become batches; only for runs of `lehr sft`.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sft: Option<SftSettings>,
    /// RL task; this and the next two sections are for runs of `lehr grpo`.
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
    /// Compute device.
    #[command(flatten)]
    pub device: DeviceSettings,
}

/// The shape of a new model; ignored for a loaded model.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Model")]
pub struct ModelSettings {
    /// Decoder architecture.
    #[arg(long, value_enum, default_value = "llama")]
    pub architecture: Architecture,
    /// Width of the residual stream.
    #[arg(long, default_value_t = 128)]
    pub hidden_size: usize,
    /// Inner width of the SwiGLU.
    #[arg(long, default_value_t = 352)]
    pub intermediate_size: usize,
    /// Number of blocks.
    #[arg(long, default_value_t = 4)]
    pub num_hidden_layers: usize,
    /// Query heads.
    #[arg(long, default_value_t = 4)]
    pub num_attention_heads: usize,
    /// Key/value heads; the number of query heads when absent.
    #[arg(long)]
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; hidden size / heads when absent.
    #[arg(long)]
    pub head_dim: Option<usize>,
    /// Epsilon of RMSNorm, added to the mean square.
    #[arg(long, default_value = "1e-5")]
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[arg(long, default_value_t = 10000.0)]
    pub rope_theta: f64,
    /// Tie the embedding and the output head.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub tie_word_embeddings: bool,
    /// Maximum context length of the model; --seq-len when absent.
    #[arg(long)]
    pub max_position_embeddings: Option<usize>,
    /// Standard deviation of initial weights.
    #[arg(long, default_value_t = 0.02)]
    pub initializer_range: f64,
}

/// Training data and tokenizer.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Data")]
pub struct DataSettings {
    /// Training data: a text file, rows with `text` (JSONL, JSON, Parquet), compressed or not, a folder of them, or - for standard input;
    /// may be repeated.
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Share of the tokens, from the end, held out for validation.
    #[arg(long, default_value_t = 0.1)]
    pub val_fraction: f64,
    /// Separate file of validation text; --val-fraction is then not used.
    #[arg(long, value_name = "PATH")]
    pub val_data: Option<PathBuf>,
    /// Tokenizer: bytes, chars or words (of the corpus), bpe:N (trained on the corpus), or a tokenizer.json or its folder.
    #[arg(long, default_value = "chars")]
    pub tokenizer: String,
}

/// Training recipe.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Training")]
pub struct TrainSettings {
    /// Number of steps.
    #[arg(long, default_value_t = 2000)]
    pub max_steps: u64,
    /// Sequences per step.
    #[arg(long, default_value_t = 12)]
    pub batch_size: usize,
    /// Tokens per sequence.
    #[arg(long, default_value_t = 64)]
    pub seq_len: usize,
    /// Sequences computed at once; must divide the batch size; chosen to fit memory when absent.
    #[arg(long)]
    pub micro_batch_size: Option<usize>,
    /// Keep only the input of each block for the backward pass and recompute the rest: activation memory falls to about one block's, an
    /// step takes about a third longer, and results stay bit-identical.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_checkpointing: Option<bool>,
    /// Data type in memory of weights that are not trained: the base model of adapters (--lora-rank), and the reference model of lehr grpo
    /// (--beta). Sums are in float32. auto when absent.
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<WeightsDtype>,
    /// Device memory limit of the run, in GiB: the micro-batch size is chosen to fit, and a run that cannot fit is refused. Leave a tenth
    /// of a GPU's memory to its driver and the display.
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
    /// Shape of the decay (wsd).
    #[arg(long, value_enum, default_value = "1-sqrt")]
    pub decay_shape: DecayShape,
    /// AdamW: decay rate of the first moment.
    #[arg(long, default_value_t = 0.9)]
    pub adam_beta1: f64,
    /// AdamW: decay rate of the second moment.
    #[arg(long, default_value_t = 0.99)]
    pub adam_beta2: f64,
    /// AdamW: epsilon, added to the root of the second moment.
    #[arg(long, default_value = "1e-8")]
    pub adam_epsilon: f64,
    /// Decoupled weight decay, applied to tensors of rank 2.
    #[arg(long, default_value_t = 0.1)]
    pub weight_decay: f64,
    /// Maximum global gradient norm (gradient clipping); 0 turns clipping off.
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
    /// Evaluate every N steps (and at the start and the end); 0 for only those two.
    #[arg(long, default_value_t = 250)]
    pub eval_every: u64,
    /// Validation tokens per evaluation during training; 0 for all, as at the end of a run.
    #[arg(long, default_value_t = 16384)]
    pub eval_tokens: u64,
    /// Also generate this many tokens of sample text at each evaluation.
    #[arg(long, default_value_t = 0)]
    pub sample_tokens: usize,
    /// Prompt of the sample text.
    #[arg(long, default_value = "\n")]
    pub sample_prompt: String,
    /// Log norms of weights and gradients, block by block, every N steps (and at the first); 0 for never.
    #[arg(long, default_value_t = 50)]
    pub norms_every: u64,
}

/// Checkpoints and logs.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Saving")]
pub struct SaveSettings {
    /// Save every N steps (and at the end); 0 for only the end.
    #[arg(long, default_value_t = 500)]
    pub save_every: u64,
    /// Number of newest checkpoints to keep, at least 2.
    #[arg(long, default_value_t = 3)]
    pub keep_last: usize,
    /// Also keep every checkpoint whose step is a multiple of N; 0 for none.
    #[arg(long, default_value_t = 0)]
    pub keep_every: u64,
    /// Stop a run that could not save for N minutes (a full disk) instead of training on unsaved; 0 never stops.
    #[arg(long, default_value_t = 60, value_name = "MINUTES")]
    pub max_unsaved_minutes: u64,
    /// Also write TensorBoard event files into the run folder.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub tensorboard: bool,
}

/// Compute device.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Device")]
pub struct DeviceSettings {
    /// Compute device, by index, part of its name (`lehr doctor` lists them), backend, or `cpu`; a GPU if available, else the CPU, when
    /// absent.
    #[arg(long, value_name = "NAME|INDEX|cpu")]
    pub adapter: Option<String>,
    /// Threads of the CPU executor; one per physical core when absent. Results are bit-identical for any number.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Lowest precision of large matrix products (compare torch.set_float32_matmul_precision): float32 when absent. float16 also permits
    /// inputs rounded to 16 bits, with 32-bit sums, on a GPU that lists cooperative matrices (tensor cores).
    #[arg(long, value_name = "PRECISION", value_parser = matmul_precision())]
    pub matmul_precision: Option<MatmulPrecision>,
}

/// Parses the names of precisions.
fn matmul_precision() -> impl TypedValueParser<Value = MatmulPrecision> {
    let named = |name: String| MatmulPrecision::ALL.into_iter().find(|p| p.name() == name).unwrap_or_default();
    PossibleValuesParser::new(MatmulPrecision::ALL.map(MatmulPrecision::name)).map(named)
}

impl From<&DeviceSettings> for Selection {
    fn from(settings: &DeviceSettings) -> Self {
        let matmul_precision = settings.matmul_precision.unwrap_or_default();
        Self { adapter: settings.adapter.clone(), threads: settings.threads, matmul_precision }
    }
}

impl DeviceSettings {
    /// These settings, with missing values taken from `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            adapter: self.adapter.or(others.adapter),
            threads: self.threads.or(others.threads),
            matmul_precision: self.matmul_precision.or(others.matmul_precision),
        }
    }

    /// As command-line arguments.
    pub fn words(&self) -> Vec<String> {
        let adapter = self.adapter.iter().flat_map(|a| ["--adapter".to_owned(), a.clone()]);
        let threads = self.threads.iter().flat_map(|n| ["--threads".to_owned(), n.to_string()]);
        let precision = self.matmul_precision.iter().flat_map(|p| ["--matmul-precision".to_owned(), p.name().to_owned()]);
        adapter.chain(threads).chain(precision).collect()
    }
}

/// Learning-rate schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Warm-up, then constant.
    Constant,
    /// Warm-up, then half a cosine down to the minimum.
    #[default]
    Cosine,
    /// Warm-up, then linear down to the minimum.
    Linear,
    /// Warm-up, stable, decay.
    Wsd,
}

/// Shape of the decay of a WSD schedule, from 1 at its start to 0 at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum DecayShape {
    /// Half a cosine.
    #[serde(rename = "cosine")]
    Cosine,
    /// Linear.
    #[serde(rename = "linear")]
    Linear,
    /// 1 - sqrt(progress).
    #[default]
    #[serde(rename = "1-sqrt")]
    #[value(name = "1-sqrt")]
    OneMinusSqrt,
}

/// `Default` of a section is what clap parses from no flags, so defaults are defined once.
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
    /// The stage of the run.
    pub fn stage(&self) -> Stage {
        match (&self.sft, &self.grpo) {
            (_, Some(_)) => Stage::Grpo,
            (Some(_), None) => Stage::Sft,
            (None, None) => Stage::Pretrain,
        }
    }

    /// Whether the run keeps weights that are not trained: a base model, or a reference model.
    pub fn has_frozen_weights(&self) -> bool {
        self.lora.lora_rank.is_some() || self.has_reference_model()
    }

    /// Whether the run keeps a reference model; with adapters it is the base model without them.
    pub fn has_reference_model(&self) -> bool {
        self.lora.lora_rank.is_none() && self.grpo.as_ref().is_some_and(|grpo| grpo.beta > 0.0)
    }

    /// The GRPO sections, if this is a GRPO run.
    pub fn reinforcement(&self) -> Option<(&TaskSettings, &RolloutSettings, &GrpoSettings)> {
        Some((self.task.as_ref()?, self.rollout.as_ref()?, self.grpo.as_ref()?))
    }
}

/// Whether an action with interval `every` is due at this step; 0 means never, as in all such settings.
pub fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

impl TrainSettings {
    /// Whether most activations are recomputed instead of kept.
    pub fn checkpoints_activations(&self) -> bool {
        self.activation_checkpointing.unwrap_or(false)
    }

    /// How weights that are not trained are stored, once the files are known.
    pub fn frozen_element(&self) -> ElementType {
        self.dtype.unwrap_or_default().resolve(ElementType::F32)
    }
}

impl ModelSettings {
    /// The full model shape, for a vocabulary size and a context length.
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

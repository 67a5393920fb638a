//! Scales of the experiments: models, tokens and the grid that all claims share.

use crate::config::{Architecture, DecayShape, ModelSettings, Scheduler, TrainSettings};

/// Snapshots of a base run: one every 0.25 % of its tokens.
pub const GRID: u64 = 400;
/// The paper's default interval V0 in snapshots: 8B of 1607B tokens, 0.5 %.
pub const V0: u64 = 2;
/// The paper's default count.
pub const N: usize = 10;
/// The paper's evaluation points in snapshots: 204, 452, 1112 and 1607B of 1607B tokens are 12.7, 28, 69 and 100 %.
pub const READOUTS: [u64; 4] = [51, 112, 276, 400];
/// The paper's fork of the annealed branch in snapshots: 1.4T of 1.65T tokens are 85 %.
pub const FORK: u64 = 340;

/// A model and the length of its training.
#[derive(Clone, Debug, PartialEq)]
pub struct Size {
    /// Name in tables.
    pub name: &'static str,
    /// Hidden size.
    pub hidden: usize,
    /// Intermediate size.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Updates of a base run, a multiple of [`GRID`].
    pub steps: u64,
    /// Learning rate of the stable phase.
    pub learning_rate: f64,
}

/// The regime of P9: a stable start, then a learning rate at which training diverges.
#[derive(Clone, Debug, PartialEq)]
pub struct DivergentRegime {
    /// Learning rate.
    pub learning_rate: f64,
    /// Adam's betas: the first moment decays more slowly than the second, so that steps after a rare large gradient are far too long.
    pub betas: [f64; 2],
    /// Updates of warm-up.
    pub warmup: u64,
    /// Updates of a run.
    pub steps: u64,
    /// Number of runs, each with its own seed.
    pub runs: u64,
    /// Updates after a rescue.
    pub horizon: u64,
}

/// One scale.
#[derive(Clone, Debug, PartialEq)]
pub struct PmaScale {
    /// Its name for `--scale`.
    pub name: &'static str,
    /// Smallest first.
    pub sizes: Vec<Size>,
    /// Sequences per update.
    pub batch_size: usize,
    /// Tokens per sequence.
    pub seq_len: usize,
    /// Validation tokens of every comparison, always the same.
    pub val_tokens: u64,
    /// Updates of continued training (P7).
    pub ct_steps: u64,
    /// Updates of fine-tuning (P8).
    pub sft_steps: u64,
    /// Grid points per side of the loss slice (P10).
    pub slice: usize,
    /// The regime of P9.
    pub hot: DivergentRegime,
}

/// Valid names for `--scale`; `test` is for tests.
pub const SCALES: [&str; 3] = ["tiny", "small", "gpu"];

const fn size(name: &'static str, shape: [usize; 4], steps: u64, learning_rate: f64) -> Size {
    let [hidden, intermediate, layers, heads] = shape;
    Size { name, hidden, intermediate, layers, heads, steps, learning_rate }
}

/// A scale that takes seconds; its results mean nothing.
fn for_tests(hot: DivergentRegime) -> PmaScale {
    PmaScale {
        name: "test",
        sizes: ["S", "M", "L"].map(|n| size(n, [16, 32, 1, 2], GRID, 4e-3)).to_vec(),
        batch_size: 2,
        seq_len: 16,
        val_tokens: 1024,
        ct_steps: 40,
        sft_steps: 40,
        slice: 5,
        hot: DivergentRegime { steps: 300, runs: 2, warmup: 10, horizon: 60, ..hot },
    }
}

impl PmaScale {
    /// A scale by name.
    ///
    /// # Errors
    /// No such scale; the message lists them.
    pub fn from_name(name: &str) -> anyhow::Result<Self> {
        let hot = DivergentRegime { learning_rate: 6e-3, betas: [0.98, 0.9], warmup: 100, steps: 1500, runs: 8, horizon: 300 };
        Ok(match name {
            "tiny" => Self {
                name: "tiny",
                sizes: vec![
                    size("S", [48, 128, 2, 3], 4000, 4e-3),
                    size("M", [64, 176, 3, 4], 4000, 4e-3),
                    size("L", [96, 256, 3, 6], 3200, 3e-3),
                ],
                batch_size: 8,
                seq_len: 64,
                val_tokens: 32_768,
                ct_steps: 400,
                sft_steps: 300,
                slice: 13,
                hot,
            },
            "small" => Self {
                name: "small",
                sizes: vec![
                    size("200k", [80, 216, 3, 5], 12_000, 2e-3),
                    size("800k", [128, 352, 4, 4], 12_000, 1.5e-3),
                    size("3M", [224, 608, 5, 7], 12_000, 1e-3),
                ],
                batch_size: 12,
                seq_len: 128,
                val_tokens: 65_536,
                ct_steps: 1200,
                sft_steps: 800,
                slice: 21,
                hot: DivergentRegime { steps: 6000, ..hot },
            },
            "gpu" => Self {
                name: "gpu",
                sizes: vec![
                    size("1M", [128, 352, 5, 4], 24_000, 1.5e-3),
                    size("6M", [256, 704, 8, 8], 24_000, 1e-3),
                    size("25M", [512, 1408, 8, 8], 24_000, 6e-4),
                ],
                batch_size: 32,
                seq_len: 256,
                val_tokens: 262_144,
                ct_steps: 4000,
                sft_steps: 2000,
                slice: 25,
                hot: DivergentRegime { steps: 12_000, ..hot },
            },
            "test" => for_tests(hot),
            _ => anyhow::bail!("--scale {}: no such scale; choose one of {}", crate::vfs::clean(name), SCALES.join(", ")),
        })
    }

    /// Tokens per update.
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch_size * self.seq_len) as u64
    }

    /// The smallest size.
    pub fn smallest(&self) -> &Size {
        &self.sizes[0]
    }

    /// The middle size.
    pub fn middle(&self) -> &Size {
        &self.sizes[self.sizes.len() / 2]
    }

    /// Settings of a base run: short warm-up, then constant.
    pub fn recipe(&self, size: &Size, seed: u64) -> TrainSettings {
        TrainSettings {
            max_steps: size.steps,
            batch_size: self.batch_size,
            seq_len: self.seq_len,
            learning_rate: size.learning_rate,
            min_learning_rate: 0.0,
            lr_scheduler: Scheduler::Constant,
            warmup_steps: size.steps / 50,
            decay_steps: size.steps - size.at(FORK),
            decay_shape: DecayShape::Cosine,
            seed,
            ..TrainSettings::default()
        }
    }
}

impl Size {
    /// The step of a grid snapshot.
    pub fn at(&self, snapshot: u64) -> u64 {
        snapshot * (self.steps / GRID)
    }

    /// Updates between snapshots.
    pub fn snapshot_interval(&self) -> u64 {
        self.steps / GRID
    }

    /// The model's settings.
    pub fn model(&self) -> ModelSettings {
        ModelSettings {
            architecture: Architecture::Llama,
            hidden_size: self.hidden,
            intermediate_size: self.intermediate,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            ..ModelSettings::default()
        }
    }
}

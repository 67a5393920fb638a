//! Settings of reinforcement learning. Names are TRL's GRPOConfig's where it has them; Advantage Reweighting and Lopti are those of arXiv
//! 2505.12929, with the semantics of its released code.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// Where advantages come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Algorithm {
    /// Reward against the mean of the group.
    #[default]
    #[serde(rename = "grpo")]
    Grpo,
    /// Reward whitened over all response tokens of the batch, without a group's baseline.
    #[serde(rename = "reinforce++")]
    #[value(name = "reinforce++")]
    ReinforcePlusPlus,
}

/// How much each token weighs in the loss of a mini-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum LossType {
    /// All tokens the same: 1 / (tokens of the mini-batch).
    #[default]
    #[serde(rename = "token-mean")]
    TokenMean,
    /// 1 / (completions): long ones count for more.
    #[serde(rename = "seq-mean-token-sum")]
    SeqMeanTokenSum,
    /// 1 / (completions x own length): the loss of the first GRPO paper.
    #[serde(rename = "seq-mean-token-mean")]
    SeqMeanTokenMean,
    /// 1 / (completions x --max-completion-length), as in Dr. GRPO.
    #[serde(rename = "dr_grpo")]
    #[value(name = "dr_grpo")]
    DrGrpo,
}

/// What rewards are divided by, after the group's mean is taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ScaleRewards {
    /// Standard deviation of the group (n - 1).
    #[default]
    Group,
    /// Standard deviation of all rewards of the step (n - 1).
    Batch,
    /// Nothing.
    None,
}

/// Which part Lopti updates first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LoptiOrder {
    /// Low-probability tokens, then the others: Lopti.
    #[default]
    LowFirst,
    /// The reverse, which the paper found to collapse.
    HighFirst,
}

/// How Lopti divides tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LoptiSplit {
    /// By their probability.
    #[default]
    Probability,
    /// By lot, into parts of the same sizes: a control.
    Random,
}

/// Which moments Lopti's second pass goes on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LoptiMoments {
    /// Those of the first, as in the released code.
    #[default]
    Shared,
    /// Its own: a control.
    Separate,
}

/// What makes an update of a gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW.
    #[default]
    Adamw,
    /// Plain gradient descent, without moments and without weight decay.
    Sgd,
}

/// Rollouts: how completions are sampled.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Rollouts")]
pub struct RolloutSettings {
    /// Completions of one prompt: a group. --batch-size counts completions, so that a step has --batch-size / this many prompts.
    #[arg(long, default_value_t = 8)]
    pub num_generations: usize,
    /// Divides the logits, in sampling and in training.
    #[arg(long, default_value_t = 1.0)]
    pub temperature: f64,
    /// Keep this many most probable tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    /// Keep the smallest set of most probable tokens with this much probability.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f64,
    /// Keep tokens at least this probable relative to the most probable.
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f64,
    /// Tokens of a completion at most.
    #[arg(long, default_value_t = 256)]
    pub max_completion_length: usize,
    /// Tokens of a prompt at most; a longer one is passed over.
    #[arg(long, default_value_t = 512)]
    pub max_prompt_length: usize,
    /// Completions generated at once; as many as fit when absent.
    #[arg(long)]
    pub rollout_batch_size: Option<usize>,
    /// Draw new prompts for groups whose rewards are all equal, at most this many times a step; 0 keeps such groups (DAPO's dynamic sampling).
    #[arg(long, default_value_t = 0)]
    pub dynamic_sampling: usize,
    /// Write the rollouts of every so many steps to samples.jsonl; 0 for none.
    #[arg(long, default_value_t = 10)]
    pub log_completions: u64,
}

/// The update.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Policy optimisation")]
pub struct GrpoSettings {
    /// Where advantages come from.
    #[arg(long, value_enum, default_value = "grpo")]
    pub algorithm: Algorithm,
    /// Weight of the KL term against the model that the run began from; 0 keeps no such model.
    #[arg(long, default_value_t = 0.0)]
    pub beta: f64,
    /// Clip the ratio below at 1 - this.
    #[arg(long, default_value_t = 0.2)]
    pub epsilon: f64,
    /// Clip the ratio above at 1 + this; --epsilon when absent.
    #[arg(long)]
    pub epsilon_high: Option<f64>,
    /// Dual clip: where the advantage is negative, the ratio counts as this at most; off when absent.
    #[arg(long)]
    pub delta: Option<f64>,
    /// Weight of the entropy bonus.
    #[arg(long, default_value_t = 0.0)]
    pub entropy_coef: f64,
    /// How much each token weighs.
    #[arg(long, value_enum, default_value = "token-mean")]
    pub loss_type: LossType,
    /// What rewards are divided by.
    #[arg(long, value_enum, default_value = "group")]
    pub scale_rewards: ScaleRewards,
    /// Passes over the completions of a step.
    #[arg(long, default_value_t = 1)]
    pub num_iterations: usize,
    /// Completions in one optimiser update; all of --batch-size when absent.
    #[arg(long)]
    pub mini_batch_size: Option<usize>,
    /// Completions that ran into --max-completion-length teach nothing.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub mask_truncated_completions: bool,
    /// Advantage Reweighting: advantages times alpha x probability + 1 - alpha; 0 is off.
    #[arg(long, default_value_t = 0.0)]
    pub reweight_alpha: f64,
    /// Lopti: update tokens below this probability and the others in passes of their own; off when absent (or 0).
    #[arg(long)]
    pub lopti_eta: Option<f64>,
    /// Lopti by share instead: the least probable part of a step's tokens that is updated on its own.
    #[arg(long, conflicts_with = "lopti_eta")]
    pub lopti_quantile: Option<f64>,
    /// Which part is updated first.
    #[arg(long, value_enum, default_value = "low-first")]
    pub lopti_order: LoptiOrder,
    /// How tokens are divided.
    #[arg(long, value_enum, default_value = "probability")]
    pub lopti_split: LoptiSplit,
    /// Which moments the second pass goes on with.
    #[arg(long, value_enum, default_value = "shared")]
    pub lopti_moments: LoptiMoments,
    /// What makes an update of a gradient.
    #[arg(long, value_enum, default_value = "adamw")]
    pub optimizer: OptimizerKind,
    /// Update only tokens whose probability lies in these quartiles, such as 1 or 1,4 (1: below 0.25, 4: above 0.75); all when absent.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub mask_bins: Vec<u8>,
    /// Every so many steps also measure what the update did to each token's probability, and the gradient of each quartile; 0 for never.
    #[arg(long, default_value_t = 0)]
    pub probe_every: u64,
}

impl GrpoSettings {
    /// Lopti's threshold; 0 is as good as absent.
    pub fn lopti_eta(&self) -> Option<f64> {
        self.lopti_eta.filter(|eta| *eta > 0.0)
    }

    /// Upper clip range.
    pub fn epsilon_high(&self) -> f64 {
        self.epsilon_high.unwrap_or(self.epsilon)
    }
}

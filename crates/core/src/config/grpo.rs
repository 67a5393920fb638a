//! Settings of GRPO. Names follow TRL's GRPOConfig where it has them; Advantage Reweighting and Lopti are those of arXiv 2505.12929, with
//! the semantics of its released code.

use super::CacheDtype;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// Advantage estimator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Algorithm {
    /// Reward relative to the mean of the group.
    #[default]
    #[serde(rename = "grpo")]
    Grpo,
    /// Reward whitened over all response tokens of the batch, without a group baseline.
    #[serde(rename = "reinforce++")]
    #[value(name = "reinforce++")]
    ReinforcePlusPlus,
}

/// Aggregation of token losses in a mini-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum LossType {
    /// Equal weight for all tokens: 1 / (tokens of the mini-batch).
    #[default]
    #[serde(rename = "token-mean")]
    TokenMean,
    /// 1 / (completions): long completions weigh more.
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

/// Divisor of rewards, after the group mean is subtracted.
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

/// The part of the tokens that Lopti updates first.
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
    /// By probability.
    #[default]
    Probability,
    /// Random split into parts of the same sizes: a control.
    Random,
}

/// Adam moments of Lopti's second pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LoptiMoments {
    /// Shared with the first pass, as in the released code.
    #[default]
    Shared,
    /// Separate: a control.
    Separate,
}

/// Optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW.
    #[default]
    Adamw,
    /// Plain gradient descent, without moments or weight decay.
    Sgd,
}

/// Rollouts: how completions are sampled.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Rollouts")]
pub struct RolloutSettings {
    /// Completions per prompt: the group size. --batch-size counts completions; a step has --batch-size / --num-generations prompts.
    #[arg(long, default_value_t = 8)]
    pub num_generations: usize,
    /// Sampling temperature; divides the logits in sampling and in training.
    #[arg(long, default_value_t = 1.0)]
    pub temperature: f64,
    /// Sample from the K most probable tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    /// Sample from the smallest set of most probable tokens whose probability reaches this.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f64,
    /// Minimum probability of a token, relative to the most probable one.
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f64,
    /// Maximum number of tokens in a completion.
    #[arg(long, default_value_t = 256)]
    pub max_completion_length: usize,
    /// Maximum number of tokens in a prompt; longer prompts are skipped.
    #[arg(long, default_value_t = 512)]
    pub max_prompt_length: usize,
    /// Completions generated at once; the largest number that fits when absent.
    #[arg(long)]
    pub rollout_batch_size: Option<usize>,
    /// Data type of the key/value cache of rollouts; sums are in float32. With float16 twice as many completions fit; updates compute the
    /// probabilities of the sampled tokens again, in float32.
    #[arg(long, value_enum, default_value = "float32")]
    pub kv_cache_dtype: CacheDtype,
    /// Sample new prompts for groups whose rewards are all equal, at most N times per step; 0 keeps such groups (DAPO's dynamic sampling).
    #[arg(long, default_value_t = 0)]
    pub dynamic_sampling: usize,
    /// Write the rollouts of every N-th step to samples.jsonl; 0 for none.
    #[arg(long, default_value_t = 10)]
    pub log_completions: u64,
}

/// Policy updates.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Policy optimization")]
pub struct GrpoSettings {
    /// Advantage estimator.
    #[arg(long, value_enum, default_value = "grpo")]
    pub algorithm: Algorithm,
    /// Weight of the KL term against the reference model, the run's starting point; 0 keeps no reference model.
    #[arg(long, default_value_t = 0.0)]
    pub beta: f64,
    /// Lower clip bound of the ratio is 1 - epsilon.
    #[arg(long, default_value_t = 0.2)]
    pub epsilon: f64,
    /// Upper clip bound of the ratio is 1 + epsilon_high; --epsilon when absent.
    #[arg(long)]
    pub epsilon_high: Option<f64>,
    /// Dual clip: upper bound of the ratio where the advantage is negative; off when absent.
    #[arg(long)]
    pub delta: Option<f64>,
    /// Weight of the entropy bonus.
    #[arg(long, default_value_t = 0.0)]
    pub entropy_coef: f64,
    /// Aggregation of token losses.
    #[arg(long, value_enum, default_value = "token-mean")]
    pub loss_type: LossType,
    /// Divisor of rewards.
    #[arg(long, value_enum, default_value = "group")]
    pub scale_rewards: ScaleRewards,
    /// Passes over the completions of a step.
    #[arg(long, default_value_t = 1)]
    pub num_iterations: usize,
    /// Completions in one optimizer update; all of --batch-size when absent.
    #[arg(long)]
    pub mini_batch_size: Option<usize>,
    /// Exclude completions that reached --max-completion-length from the loss.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub mask_truncated_completions: bool,
    /// Advantage Reweighting: advantages times alpha x probability + 1 - alpha; 0 is off.
    #[arg(long, default_value_t = 0.0)]
    pub reweight_alpha: f64,
    /// Lopti: update tokens below this probability and the others in separate passes; off when absent (or 0).
    #[arg(long)]
    pub lopti_eta: Option<f64>,
    /// Lopti by share instead: the share of least probable tokens of a step that is updated separately.
    #[arg(long, conflicts_with = "lopti_eta")]
    pub lopti_quantile: Option<f64>,
    /// The part of the tokens that is updated first.
    #[arg(long, value_enum, default_value = "low-first")]
    pub lopti_order: LoptiOrder,
    /// How tokens are divided into the two parts.
    #[arg(long, value_enum, default_value = "probability")]
    pub lopti_split: LoptiSplit,
    /// Adam moments of the second pass.
    #[arg(long, value_enum, default_value = "shared")]
    pub lopti_moments: LoptiMoments,
    /// Optimizer.
    #[arg(long, value_enum, default_value = "adamw")]
    pub optimizer: OptimizerKind,
    /// Update only tokens whose probability is in these quartiles, such as 1 or 1,4 (1: below 0.25, 4: above 0.75); all when absent.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub mask_bins: Vec<u8>,
    /// Every N steps, also measure how the update changed each token's probability, and the gradient of each quartile; 0 for never.
    #[arg(long, default_value_t = 0)]
    pub probe_every: u64,
}

impl GrpoSettings {
    /// Lopti's threshold; 0 is the same as absent.
    pub fn lopti_eta(&self) -> Option<f64> {
        self.lopti_eta.filter(|eta| *eta > 0.0)
    }

    /// Upper clip bound, epsilon unless set.
    pub fn epsilon_high(&self) -> f64 {
        self.epsilon_high.unwrap_or(self.epsilon)
    }
}

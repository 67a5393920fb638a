//! One completion, with the data that an update needs.

use serde::{Deserialize, Serialize};

/// A completion of a prompt. Per-token vectors have one entry per token of `completion`, or are empty until computed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rollout {
    /// Completions of one prompt in one step share this number.
    pub group: u32,
    /// Tokens of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// The sampled tokens, including the stop token.
    pub completion: Vec<u32>,
    /// Reward from the grader.
    pub reward: f64,
    /// Whether it reached the maximum length.
    pub truncated: bool,
    /// Whether its grader failed: it then has no reward and is excluded from advantages and loss.
    pub ungraded: bool,
    /// log pi(token) at the step's temperature from the trainer's forward pass, before any update of the step ("old").
    pub old_logprobs: Vec<f32>,
    /// The same by the reference model; empty when beta is 0.
    pub ref_logprobs: Vec<f32>,
    /// log pi(token) from the sampler; `mismatch/logprob_max_abs` compares `old_logprobs` with it.
    pub sampled_logprobs: Vec<f32>,
    /// Entropy of the distribution that each token was sampled from, in nats, from the trainer.
    pub entropy: Vec<f32>,
    /// Sum of squared probabilities of that distribution: |d log pi / d logits| = sqrt(sum p^2 - 2 p + 1).
    pub sum_p2: Vec<f32>,
    /// Advantage of each token, Advantage Reweighting included.
    pub advantages: Vec<f32>,
}

impl Rollout {
    /// Probability of each token at the time of the rollout.
    pub fn old_probabilities(&self) -> impl Iterator<Item = f64> + '_ {
        self.old_logprobs.iter().map(|l| f64::from(*l).exp())
    }
}

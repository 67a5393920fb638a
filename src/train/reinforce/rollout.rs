//! One completion and all that an update needs to know of it.

use serde::{Deserialize, Serialize};

/// A completion of a prompt. Vectors that are per token have an entry for each token of `completion`, or none while they are not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rollout {
    /// Completions of one prompt in one step share this number.
    pub group: u32,
    /// Tokens of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// What was sampled, with the token that ended it.
    pub completion: Vec<u32>,
    /// What the grader gave.
    pub reward: f64,
    /// It ran into the limit of its length.
    pub truncated: bool,
    /// Its grader failed: it has no reward, takes no part in advantages and loss.
    pub ungraded: bool,
    /// log pi(token) at the step's temperature by the trainer's own forward pass, before any update of the step ("old").
    pub old_logprobs: Vec<f32>,
    /// The same by the reference model; empty when beta is 0.
    pub ref_logprobs: Vec<f32>,
    /// log pi(token) as the sampler saw it: what `mismatch/logprob_max_abs` compares `old_logprobs` with.
    pub sampled_logprobs: Vec<f32>,
    /// Entropy of the distribution that each token was drawn from, in nats, by the trainer.
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

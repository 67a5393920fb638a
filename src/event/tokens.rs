//! What reinforcement does to tokens, by their probability: the numbers of figures 1 and 3 of arXiv 2505.12929.

use super::{Number, number};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The response tokens of one step's completions. "Probability" is the one at the time of the rollout, at the step's temperature.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    /// Updates made when the completions were sampled, plus one: the step that they are for.
    pub step: u64,
    /// Response tokens.
    pub tokens: u64,
    /// By the paper's bins: [0, 0.25), [0.25, 0.5), [0.5, 0.75), [0.75, 1].
    pub quartiles: Bins,
    /// By tenths of probability.
    pub deciles: Bins,
    /// Gradient norm of each pass before clipping: `all`, or `low` and `high`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grad_norm: BTreeMap<String, Number>,
    /// What the step's update did to the probability of each of these tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Norm of the gradient with respect to all parameters of each quartile's tokens by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient: Option<BinGradient>,
}

/// Bins of probability. Every list below has an entry for each bin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bins {
    /// Lower edges; a bin holds its lower edge and not its upper one, the last bin ends with 1.
    pub from: Vec<f64>,
    /// All tokens.
    pub all: Binned,
    /// Those whose advantage is above 0.
    pub positive: Binned,
    /// Those whose advantage is below 0.
    pub negative: Binned,
}

/// Means and shares, an entry for each bin; a mean of no tokens is no number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Binned {
    /// Tokens.
    pub count: Vec<u64>,
    /// Part of all tokens of the step.
    pub share: Vec<Number>,
    /// Mean |advantage|, Advantage Reweighting included.
    pub advantage: Vec<Number>,
    /// Part of the sum over all tokens of |advantage| |d log pi / d logits|, where |d log pi / d logits| = sqrt(sum p^2 - 2 p + 1).
    pub gradient: Vec<Number>,
    /// Mean entropy of the distributions that the tokens were drawn from, in nats.
    pub entropy: Vec<Number>,
    /// Mean of what Advantage Reweighting multiplied advantages by, alpha p + 1 - alpha.
    pub weight: Vec<Number>,
}

/// Change of probability, p after the update - p before it, by quartile of the probability before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// All tokens that were measured.
    pub all: Moved,
    /// Those whose advantage is above 0: right is up.
    pub positive: Moved,
    /// Those whose advantage is below 0: right is down.
    pub negative: Moved,
}

/// Quantiles of the change, an entry for each bin; of no tokens they are no numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Tokens.
    pub count: Vec<u64>,
    /// Least change, the 0.5 % most extreme on this side left out.
    pub least: Vec<Number>,
    /// A quarter of the tokens changed by less.
    pub lower: Vec<Number>,
    /// Median change.
    pub median: Vec<Number>,
    /// A quarter of the tokens changed by more.
    pub upper: Vec<Number>,
    /// Greatest change, the 0.5 % most extreme on this side left out.
    pub most: Vec<Number>,
    /// Of the tokens with an advantage that moved at all, the part that moved to where the advantage wants it.
    pub right: Vec<Number>,
    /// Tokens of each bin in 40 cells of equal width from `least` to `most`, both included; none where these are equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<Vec<u64>>,
}

/// Norms of gradients with respect to all parameters, before clipping.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BinGradient {
    /// Of all tokens together.
    #[serde(with = "number")]
    pub all: f64,
    /// Of each quartile's tokens by themselves, over the same denominator.
    pub quartiles: Vec<Number>,
}

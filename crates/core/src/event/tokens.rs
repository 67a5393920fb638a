//! Tokens of GRPO completions by probability: the numbers of figures 1 and 3 of arXiv 2505.12929.

use super::{Number, number};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The tokens of one step's completions. "Probability" is that of the rollout, at the step's temperature.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    /// The step that the completions are for: updates made when they were sampled, plus one.
    pub step: u64,
    /// Number of completion tokens.
    pub tokens: u64,
    /// The paper's bins: [0, 0.25), [0.25, 0.5), [0.5, 0.75), [0.75, 1].
    pub quartiles: Bins,
    /// By tenths of the probability range.
    pub deciles: Bins,
    /// Gradient norm of each pass before clipping: `all`, or `low` and `high`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grad_norm: BTreeMap<String, Number>,
    /// Change in the probability of these tokens made by the step's update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Gradient norm with respect to all parameters, for each quartile's tokens separately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient: Option<BinGradient>,
}

/// Bins of probability. Each list below has one entry per bin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bins {
    /// Lower edges; a bin includes its lower edge but not its upper edge, and the last bin includes 1.
    pub from: Vec<f64>,
    /// All tokens.
    pub all: Binned,
    /// Tokens with a positive advantage.
    pub positive: Binned,
    /// Tokens with a negative advantage.
    pub negative: Binned,
}

/// Means and shares, one entry per bin; the mean of an empty bin is NaN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Binned {
    /// Number of tokens.
    pub count: Vec<u64>,
    /// Share of all tokens of the step.
    pub share: Vec<Number>,
    /// Mean |advantage|, including Advantage Reweighting.
    pub advantage: Vec<Number>,
    /// Share of the sum over all tokens of |advantage| |d log pi / d logits|, where |d log pi / d logits| = sqrt(sum p^2 - 2 p + 1).
    pub gradient: Vec<Number>,
    /// Mean entropy of the distributions that the tokens were sampled from, in nats.
    pub entropy: Vec<Number>,
    /// Mean weight of Advantage Reweighting, alpha p + 1 - alpha.
    pub weight: Vec<Number>,
}

/// Change of probability, p after the update - p before it, by quartile of the probability before the update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// All measured tokens.
    pub all: ProbabilityChange,
    /// Tokens with a positive advantage, whose probability should rise.
    pub positive: ProbabilityChange,
    /// Tokens with a negative advantage, whose probability should fall.
    pub negative: ProbabilityChange,
}

/// Quantiles of the change, one entry per bin; NaN for an empty bin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbabilityChange {
    /// Number of tokens.
    pub count: Vec<u64>,
    /// Smallest change, without the most extreme 0.5 % at this end.
    pub least: Vec<Number>,
    /// Lower quartile.
    pub lower: Vec<Number>,
    /// Median.
    pub median: Vec<Number>,
    /// Upper quartile.
    pub upper: Vec<Number>,
    /// Largest change, without the most extreme 0.5 % at this end.
    pub most: Vec<Number>,
    /// Among tokens with a nonzero advantage and a nonzero change, the share that changed in the direction of the advantage.
    pub right: Vec<Number>,
    /// Histogram of each bin: 40 cells of equal width from `least` to `most`, both included; empty where these are equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<Vec<u64>>,
}

/// Gradient norms with respect to all parameters, before clipping.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BinGradient {
    /// All tokens.
    #[serde(with = "number")]
    pub all: f64,
    /// Each quartile's tokens separately, with the same denominator.
    pub quartiles: Vec<Number>,
}

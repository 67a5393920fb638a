//! What a model is like inside while it learns: how sure it is of the tokens it is to learn, and how large its blocks and their gradients are.

use super::Number;
use serde::{Deserialize, Serialize};

/// Held-out tokens by the probability that the model gave them: where the loss, and the gradient, come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Predictions {
    /// Updates made so far.
    pub step: u64,
    /// Tokens looked at.
    pub tokens: u64,
    /// By quarters of probability.
    pub quartiles: Predicted,
    /// By tenths of probability.
    pub deciles: Predicted,
}

/// Shares, an entry for each bin of probability. A bin holds its lower edge and not its upper one; the last bin ends with 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Lower edges.
    pub from: Vec<f64>,
    /// Tokens.
    pub count: Vec<u64>,
    /// Part of all tokens.
    pub share: Vec<Number>,
    /// Part of the sum of the losses, -log p.
    pub loss: Vec<Number>,
    /// Part of the sum of |d loss / d logits| = sqrt(sum p^2 - 2 p + 1).
    pub gradient: Vec<Number>,
}

/// L2 norms of weights and of their gradients before clipping, part by part. A step of reinforcement makes several updates: of its last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Norms {
    /// Updates made, the one that this gradient made included.
    pub step: u64,
    /// The parts, lowest first: `embed`, `layers.0`, ..., `norm`, `head`.
    pub parts: Vec<String>,
    /// Norm of each part's weights before the update.
    pub weights: Vec<Number>,
    /// Norm of each part's gradient.
    pub gradients: Vec<Number>,
}

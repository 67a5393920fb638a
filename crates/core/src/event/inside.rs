//! Inside a model during training: the probabilities of the target tokens, and the norms of its blocks and their gradients.

use super::Number;
use serde::{Deserialize, Serialize};

/// Held-out tokens by their probability under the model: which of them the loss and the gradient come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Predictions {
    /// Updates made so far.
    pub step: u64,
    /// Number of tokens evaluated.
    pub tokens: u64,
    /// By quarters of the probability range.
    pub quartiles: Predicted,
    /// By tenths of the probability range.
    pub deciles: Predicted,
}

/// Shares, one entry per bin of probability. A bin includes its lower edge but not its upper edge; the last bin includes 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Lower edges of the bins.
    pub from: Vec<f64>,
    /// Number of tokens.
    pub count: Vec<u64>,
    /// Share of all tokens.
    pub share: Vec<Number>,
    /// Share of the summed loss, -log p.
    pub loss: Vec<Number>,
    /// Share of the summed |d loss / d logits| = sqrt(sum p^2 - 2 p + 1).
    pub gradient: Vec<Number>,
}

/// L2 norms of weights and of their gradients before clipping, block by block. In GRPO, those of the step's last update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Norms {
    /// Updates made, including the one that this gradient was for.
    pub step: u64,
    /// The blocks, lowest first: `embed`, `layers.0`, ..., `norm`, `head`.
    pub parts: Vec<String>,
    /// Norm of each block's weights before the update.
    pub weights: Vec<Number>,
    /// Norm of each block's gradient.
    pub gradients: Vec<Number>,
}

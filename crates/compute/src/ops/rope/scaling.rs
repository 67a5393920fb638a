//! Rotary scalings, with the names of transformers' `rope_parameters`.

use serde::{Deserialize, Serialize};

/// Scaling of the rotary frequencies `rope_theta^(-2i/D)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Position interpolation: every frequency divided by `factor`.
    Linear {
        /// Factor of the context length.
        factor: f64,
    },
    /// Dynamic NTK: no scaling up to `max_position_embeddings` tokens, beyond which frequencies depend on the length of the text.
    Dynamic {
        /// Applies only beyond `max_position_embeddings`.
        factor: f64,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn(YarnScaling),
    /// Llama 3.
    Llama3(Llama3Scaling),
}

/// YaRN (transformers `_compute_yarn_parameters`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct YarnScaling {
    /// Low frequencies are divided by this.
    pub factor: f64,
    /// The context length of the original pre-training.
    pub original_max_position_embeddings: u64,
    /// Pairs with more rotations than this within the original context keep their frequency.
    pub beta_fast: f64,
    /// Pairs with fewer rotations than this are divided by `factor`.
    pub beta_slow: f64,
    /// Both bounds are rounded to whole pairs.
    pub truncate: bool,
    /// Scale of cosines and sines; computed from the other fields when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
    /// With `mscale_all_dim`: numerator of the attention factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mscale: Option<f64>,
    /// With `mscale`: denominator of the attention factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mscale_all_dim: Option<f64>,
}

/// Llama 3's frequency scaling (transformers `_compute_llama3_parameters`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Llama3Scaling {
    /// Long wavelengths are stretched by this.
    pub factor: f64,
    /// Wavelengths above `original / low_freq_factor` are stretched fully.
    pub low_freq_factor: f64,
    /// Wavelengths below `original / high_freq_factor` are unchanged.
    pub high_freq_factor: f64,
    /// The context length of the original pre-training.
    pub original_max_position_embeddings: u64,
}

//! The shape of a model, with Hugging Face's names.

use super::{Lora, RopeScaling};
use serde::{Deserialize, Serialize};

/// The supported decoder architectures. They share one set of kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// `LlamaForCausalLM`.
    #[default]
    Llama,
    /// `Qwen2ForCausalLM`: biases on the q, k and v projections.
    Qwen2,
    /// `Qwen3ForCausalLM`: RMSNorm on each head of q and k.
    Qwen3,
    /// `MistralForCausalLM`: as Llama, valid within its sliding window.
    Mistral,
}

/// More blocks than any model has; names and arenas are allocated for all of them before a file is read.
const MAX_LAYERS: usize = 10_000;

/// Everything that determines a model's tensors and arithmetic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Decoder architecture.
    pub architecture: Architecture,
    /// Rows of the embedding (V).
    pub vocab_size: usize,
    /// Width of the residual stream (C).
    pub hidden_size: usize,
    /// Inner width of the SwiGLU (F).
    pub intermediate_size: usize,
    /// Number of blocks (L).
    pub num_hidden_layers: usize,
    /// Query heads (H).
    pub num_attention_heads: usize,
    /// Key/value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head (D); H * D need not equal C.
    pub head_dim: usize,
    /// Maximum context length of the model.
    pub max_position_embeddings: usize,
    /// Epsilon of RMSNorm, added to the mean square before the root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// Biases on the q, k, v and output projections (Llama and Qwen3; Qwen2 always has those of q, k and v).
    pub attention_bias: bool,
    /// Tokens that a query attends to, itself included (Mistral). lehr attends to the whole context, which is the same up to this length.
    pub sliding_window: Option<usize>,
    /// Tied embedding and output head.
    pub tie_word_embeddings: bool,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// Trained adapters; the base weights are then frozen. Not part of `config.json`.
    #[serde(skip)]
    pub lora: Option<Lora>,
}

impl ModelConfig {
    /// Total width of the query heads (H * D).
    pub fn query_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Total width of the key (or value) heads.
    pub fn key_value_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Width of the fused q, k, v projection.
    pub fn qkv_dim(&self) -> usize {
        self.query_dim() + 2 * self.key_value_dim()
    }

    /// Whether q, k and v have biases.
    pub fn qkv_bias(&self) -> bool {
        self.architecture == Architecture::Qwen2 || self.attention_bias
    }

    /// Context length up to which transformers computes the same as lehr, and the reason for the bound; `None` without a bound.
    pub fn exact_context(&self) -> Option<(usize, String)> {
        let window = self.sliding_window.map(|window| (window, format!("sliding_window = {window}, and lehr has no window")));
        let most = self.max_position_embeddings;
        let dynamic = matches!(self.rope_scaling, Some(RopeScaling::Dynamic { .. })).then(|| {
            let why = format!(
                "rope_type = \"dynamic\", whose frequencies depend on the length of the text beyond max_position_embeddings = {most}"
            );
            (most, why)
        });
        window.into_iter().chain(dynamic).min_by_key(|(most, _)| *most)
    }

    /// Tokens that the model takes at once, and what bounds them: its context, or less where transformers computes differently beyond.
    pub fn usable_context(&self) -> (usize, String) {
        let whole = self.max_position_embeddings;
        self.exact_context()
            .filter(|(most, _)| *most < whole)
            .unwrap_or_else(|| (whole, "its context, max_position_embeddings".to_owned()))
    }

    /// Whether q and k have RMSNorm on each head.
    pub fn qk_norm(&self) -> bool {
        self.architecture == Architecture::Qwen3
    }

    /// Multiply-adds of the matrix products for one token forward, times two: the usual FLOP count (Kaplan et al. 2020, 2N plus attention).
    ///
    /// `context` is the mean number of keys per query; for causal attention over T tokens that is (T + 1) / 2.
    pub fn flops_per_token_forward(&self, context: f64) -> f64 {
        let matmul = self.num_hidden_layers
            * (self.hidden_size * self.qkv_dim()
                + self.query_dim() * self.hidden_size
                + 3 * self.hidden_size * self.intermediate_size)
            + self.hidden_size * self.vocab_size;
        let attention = 2.0 * context * (self.num_hidden_layers * self.query_dim()) as f64;
        2.0 * (matmul as f64 + attention)
    }

    /// Training costs three forward passes: one forward and two backward, one of which is saved for frozen base weights.
    pub fn flops_per_token_training(&self, context: f64) -> f64 {
        let passes = if self.lora.is_some() { 2.0 } else { 3.0 };
        passes * self.flops_per_token_forward(context)
    }

    /// One line per invalid field, with the field, its value and the remedy.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (name, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 || value > 1 << 24 {
                out.push(format!("{name} = {value}: must be between 1 and {}", 1 << 24));
            }
        }
        if !out.is_empty() {
            return out;
        }
        if self.num_hidden_layers > MAX_LAYERS {
            out.push(format!("num_hidden_layers = {}: must be at most {MAX_LAYERS}", self.num_hidden_layers));
        }
        if self.architecture == Architecture::Llama && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            out.push(format!(
                "hidden_size = {}: transformers takes a Llama only when num_attention_heads = {} divides it; \
                 --architecture qwen3 has no such rule",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            out.push(format!(
                "num_key_value_heads = {}: must divide num_attention_heads = {}",
                self.num_key_value_heads, self.num_attention_heads
            ));
        }
        if !self.head_dim.is_multiple_of(4) || !(8..=128).contains(&self.head_dim) {
            out.push(format!("head_dim = {}: must be a multiple of 4 between 8 and 128", self.head_dim));
        }
        for (name, value) in [("hidden_size", self.hidden_size), ("intermediate_size", self.intermediate_size)] {
            if value % 4 != 0 {
                let low = (value / 4 * 4).max(4);
                out.push(format!("{name} = {value}: must be a multiple of 4, such as {low} or {}", value / 4 * 4 + 4));
            }
        }
        for (name, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                out.push(format!("{name} = {value}: must be a positive number"));
            }
        }
        if self.sliding_window == Some(0) {
            out.push("sliding_window = 0: must be at least 1, or null".to_owned());
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            out.push(format!("initializer_range = {}: must be zero or more", self.initializer_range));
        }
        out
    }
}

//! The shape of a model: from a GGUF file's metadata to a `config.json`, and back.

use super::file::GgufFile;
use super::names;
use super::value::{Metadata, MetadataValue};
use crate::config::{Architecture, Llama3Scaling, ModelConfig, RopeScaling, YarnScaling};
use crate::vfs::clean;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

/// Metadata of an architecture that is used, or that does not affect the arithmetic.
const KNOWN: [&str; 27] = [
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.causal",
    "attention.sliding_window",
    "expert_count",
    "expert_used_count",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.llama3_factor",
    "rope.scaling.llama3_high_freq_factor",
    "rope.scaling.llama3_low_freq_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "tensor_data_layout",
];

impl GgufFile {
    /// The `config.json` of this model.
    ///
    /// # Errors
    /// A missing or unsupported setting, by name.
    pub fn config_json(&self) -> Result<serde_json::Value> {
        self.refuse_unknown()?;
        let need = |name: &str| self.integer(name)?.with_context(|| format!("{}.{name} is missing", self.arch));
        let hidden = need("embedding_length")?;
        let embedding = self.shape("model.embed_tokens.weight").context("tensor 'token_embd.weight' is missing")?;
        let head_dim = self.integer("attention.key_length")?.unwrap_or(hidden / self.heads.0 as u64);
        for name in ["attention.value_length", "rope.dimension_count"] {
            let value = self.integer(name)?.unwrap_or(head_dim);
            ensure!(value == head_dim, "{}.{name} = {value}: must be the width of a head, {head_dim}", self.arch);
        }
        let token = |name: &str| self.metadata.integer(&format!("tokenizer.ggml.{name}_token_id"));
        let mut eos: Vec<u64> = Vec::new();
        for id in [token("eos")?, token("eot")?].into_iter().flatten() {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        let (class, bias) = match self.arch.as_str() {
            "qwen2" => ("Qwen2ForCausalLM", false),
            "qwen3" => ("Qwen3ForCausalLM", self.shape("model.layers.0.self_attn.q_proj.bias").is_some()),
            _ => ("LlamaForCausalLM", self.shape("model.layers.0.self_attn.q_proj.bias").is_some()),
        };
        let epsilon = self.number("attention.layer_norm_rms_epsilon")?;
        Ok(json!({
            "architectures": [class],
            "model_type": self.arch,
            "vocab_size": embedding[0],
            "hidden_size": hidden,
            "intermediate_size": need("feed_forward_length")?,
            "num_hidden_layers": need("block_count")?,
            "num_attention_heads": self.heads.0,
            "num_key_value_heads": self.heads.1,
            "head_dim": head_dim,
            "max_position_embeddings": need("context_length")?,
            "rms_norm_eps": epsilon.with_context(|| format!("{}.attention.layer_norm_rms_epsilon is missing", self.arch))?,
            "rope_parameters": self.rope(head_dim as usize)?,
            "attention_bias": bias,
            "tie_word_embeddings": self.shape("lm_head.weight").is_none(),
            "bos_token_id": token("bos")?,
            "eos_token_id": eos,
            "pad_token_id": token("padding")?,
        }))
    }

    fn integer(&self, name: &str) -> Result<Option<u64>> {
        self.metadata.integer(&format!("{}.{name}", self.arch))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.metadata.number(&format!("{}.{name}", self.arch))
    }

    /// Unsupported settings that would change the arithmetic.
    fn refuse_unknown(&self) -> Result<()> {
        let arch = &self.arch;
        let prefix = format!("{arch}.");
        for (name, value) in self.metadata.iter().filter_map(|(name, value)| Some((name.strip_prefix(&prefix)?, value))) {
            ensure!(KNOWN.contains(&name), "{arch}.{} = {}: lehr does not build that", clean(name), value.display());
        }
        let experts = self.integer("expert_count")?.unwrap_or(0);
        ensure!(experts == 0, "{arch}.expert_count = {experts}: lehr builds no mixture of experts");
        let causal = self.metadata.flag(&format!("{arch}.attention.causal"))?.unwrap_or(true);
        ensure!(causal, "{arch}.attention.causal = false: lehr's attention is causal");
        let (window, context) = (self.integer("attention.sliding_window")?, self.integer("context_length")?.unwrap_or(0));
        if let Some(window) = window.filter(|window| *window > 0 && *window < context) {
            bail!("{arch}.attention.sliding_window = {window}: lehr attends to the whole context of {context} tokens");
        }
        Ok(())
    }

    /// `rope_parameters`. llama.cpp stores Llama 3's scaling as one factor per frequency.
    fn rope(&self, head_dim: usize) -> Result<serde_json::Value> {
        let arch = &self.arch;
        let theta = self.number("rope.freq_base")?.unwrap_or(10000.0);
        let kind = self.metadata.text(&format!("{arch}.rope.scaling.type"))?;
        let factor = match self.number("rope.scaling.factor")? {
            None => self.number("rope.scale_linear")?,
            some => some,
        };
        // 0 means 1, as in llama.cpp; a factor without a type is linear scaling.
        let factor = factor.filter(|factor| *factor != 0.0).unwrap_or(1.0);
        let original = self.integer("rope.scaling.original_context_length")?;
        let scaled = if factor == 1.0 { None } else { kind.or(Some("linear")) };
        let mut out = match scaled {
            None | Some("none") => json!({"rope_type": "default"}),
            Some("linear") => json!({"rope_type": "linear", "factor": factor}),
            Some("yarn") => json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings":
                    original.with_context(|| format!("{arch}.rope.scaling.original_context_length is missing"))?,
                "beta_fast": self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                "beta_slow": self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            }),
            Some(other) => bail!("{arch}.rope.scaling.type = \"{}\": lehr reads none, linear and yarn", clean(other)),
        };
        if let Some(factors) = &self.rope_freqs {
            ensure!(
                scaled.is_none_or(|kind| kind == "none"),
                "tensor '{}' beside {arch}.rope.scaling: two scalings",
                names::ROPE_FREQS
            );
            if factors.iter().any(|factor| *factor != 1.0) {
                out = json!(RopeScaling::Llama3(self.llama3(factors, theta, head_dim)?));
            }
        }
        out["rope_theta"] = json!(theta);
        Ok(out)
    }

    /// The Llama 3 settings that give these factors: those that lehr wrote beside them, or those published by Meta.
    fn llama3(&self, factors: &[f32], theta: f64, head_dim: usize) -> Result<Llama3Scaling> {
        let pairs = head_dim / 2;
        ensure!(factors.len() == pairs, "tensor '{}' has {} factors, a head has {pairs}", names::ROPE_FREQS, factors.len());
        let usual = published(factors);
        let number =
            |name: &str, usual: f64| Ok::<_, anyhow::Error>(self.number(&format!("rope.scaling.{name}"))?.unwrap_or(usual));
        let original = self.integer("rope.scaling.original_context_length")?;
        let found = Llama3Scaling {
            factor: number("llama3_factor", usual.factor)?,
            low_freq_factor: number("llama3_low_freq_factor", usual.low_freq_factor)?,
            high_freq_factor: number("llama3_high_freq_factor", usual.high_freq_factor)?,
            original_max_position_embeddings: original.unwrap_or(usual.original_max_position_embeddings),
        };
        ensure!(
            matches_factors(&found, factors, theta, head_dim),
            "tensor '{}': its factors are not those of Llama 3 (factor {}, low_freq_factor {}, high_freq_factor {}, {} tokens)",
            names::ROPE_FREQS,
            found.factor,
            found.low_freq_factor,
            found.high_freq_factor,
            found.original_max_position_embeddings
        );
        Ok(found)
    }
}

/// The settings published by Meta, with the factor of the file.
fn published(factors: &[f32]) -> Llama3Scaling {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    Llama3Scaling { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192 }
}

/// Whether these settings give these factors.
fn matches_factors(scaling: &Llama3Scaling, factors: &[f32], theta: f64, head_dim: usize) -> bool {
    let own = llama3_factors(scaling, theta, head_dim);
    own.iter().zip(factors).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs())
}

/// The divisor of each rotary frequency (convert_hf_to_gguf.py).
pub(super) fn llama3_factors(scaling: &Llama3Scaling, theta: f64, head_dim: usize) -> Vec<f32> {
    let original = scaling.original_max_position_embeddings as f64;
    let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
    let factor_of = |pair: usize| {
        let wavelength = 2.0 * std::f64::consts::PI * theta.powf(2.0 * pair as f64 / head_dim as f64);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            scaling.factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / scaling.factor + smooth)
        }
    };
    (0..head_dim / 2).map(|pair| factor_of(pair) as f32).collect()
}

/// The metadata of a model's shape.
///
/// # Errors
/// A shape that llama.cpp computes differently.
pub(super) fn settings(model: &ModelConfig) -> Result<Metadata> {
    let arch = names::architecture(model.architecture);
    ensure!(
        !(model.attention_bias && model.architecture == Architecture::Qwen3),
        "attention_bias = true: llama.cpp has no biases in Qwen3's attention"
    );
    // llama.cpp has no window for these architectures: contexts up to the window give the same results.
    let context =
        model.exact_context().map_or(model.max_position_embeddings, |(most, _)| most.min(model.max_position_embeddings));
    let mut out = Metadata::default();
    let mut whole = |name: &str, value: usize| out.set(format!("{arch}.{name}"), MetadataValue::U32(value as u32));
    whole("block_count", model.num_hidden_layers);
    whole("context_length", context);
    whole("embedding_length", model.hidden_size);
    whole("feed_forward_length", model.intermediate_size);
    whole("attention.head_count", model.num_attention_heads);
    whole("attention.head_count_kv", model.num_key_value_heads);
    whole("attention.key_length", model.head_dim);
    whole("attention.value_length", model.head_dim);
    whole("rope.dimension_count", model.head_dim);
    whole("vocab_size", model.vocab_size);
    out.set(format!("{arch}.attention.layer_norm_rms_epsilon"), MetadataValue::F32(model.rms_norm_eps as f32));
    out.set(format!("{arch}.rope.freq_base"), MetadataValue::F32(model.rope_theta as f32));
    let scaling = format!("{arch}.rope.scaling");
    let mut scaled = |kind: &str, factor: f64| {
        out.set(format!("{scaling}.type"), MetadataValue::Text(kind.to_owned()));
        out.set(format!("{scaling}.factor"), MetadataValue::F32(factor as f32));
    };
    match model.rope_scaling {
        None => {}
        // The factors are stored as a tensor, which llama.cpp reads; settings that do not follow from it are for lehr.
        Some(RopeScaling::Llama3(llama3)) => {
            let factors = llama3_factors(&llama3, model.rope_theta, model.head_dim);
            if published(&factors) != llama3 {
                let original =
                    u32::try_from(llama3.original_max_position_embeddings).context("original_max_position_embeddings")?;
                out.set(format!("{scaling}.original_context_length"), MetadataValue::U32(original));
                for (name, value) in [
                    ("factor", llama3.factor),
                    ("low_freq_factor", llama3.low_freq_factor),
                    ("high_freq_factor", llama3.high_freq_factor),
                ] {
                    out.set(format!("{scaling}.llama3_{name}"), MetadataValue::F32(value as f32));
                }
            }
        }
        Some(RopeScaling::Linear { factor }) => scaled("linear", factor),
        // lehr does not exceed the original context, within which there is no scaling.
        Some(RopeScaling::Dynamic { .. }) => {}
        Some(RopeScaling::Yarn(yarn)) => {
            check_yarn(&yarn)?;
            scaled("yarn", yarn.factor);
            let original = u32::try_from(yarn.original_max_position_embeddings).context("original_max_position_embeddings")?;
            out.set(format!("{scaling}.original_context_length"), MetadataValue::U32(original));
            out.set(format!("{scaling}.yarn_beta_fast"), MetadataValue::F32(yarn.beta_fast as f32));
            out.set(format!("{scaling}.yarn_beta_slow"), MetadataValue::F32(yarn.beta_slow as f32));
        }
    }
    Ok(out)
}

/// llama.cpp rounds the bounds, and scales cosines and sines by 1 + ln(factor) / 10.
fn check_yarn(yarn: &YarnScaling) -> Result<()> {
    ensure!(yarn.truncate, "rope_scaling.truncate = false: llama.cpp rounds YaRN's bounds to whole pairs");
    let usual = 0.1 * yarn.factor.ln() + 1.0;
    let own = yarn.attention_factor.unwrap_or(usual);
    ensure!(
        (own - usual).abs() < 1e-6 && yarn.mscale.is_none() && yarn.mscale_all_dim.is_none(),
        "rope_scaling.attention_factor, mscale, mscale_all_dim: llama.cpp has only the usual 1 + ln(factor) / 10 = {usual}"
    );
    Ok(())
}

//! `config.json` and `generation_config.json` as `transformers` 4 and 5 read and write them.
//!
//! A setting that would change the arithmetic and that lehr does not build is refused by name; defaults for absent fields are those of
//! the `transformers` classes.

use crate::config::{Architecture, Llama3Scaling, ModelConfig};
use crate::vfs::{RealFs, Vfs, clean, shown};
use anyhow::{Context, Result, bail, ensure};
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The ids of the tokens that begin, end and fill a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Put before a text.
    pub bos: Option<u32>,
    /// Any of them ends a text.
    pub eos: Vec<u32>,
    /// Fills up batches.
    pub pad: Option<u32>,
}

/// A `config.json` that lehr can build.
#[derive(Clone, Debug, PartialEq)]
pub struct HfConfig {
    /// The shape.
    pub model: ModelConfig,
    /// The special tokens.
    pub tokens: SpecialTokens,
    /// What is in the file and not used, worth a line to the user.
    pub notices: Vec<String>,
}

/// Read a `config.json`.
///
/// # Errors
/// One line that names file, field, value and reason.
pub fn read(path: &Path) -> Result<HfConfig> {
    let bytes = RealFs.read(path, 1 << 20).with_context(|| shown(path))?;
    parse(&bytes).with_context(|| shown(path))
}

/// Every token that ends a text: of config.json, of generation_config.json beside it, and the tokenizer's own.
///
/// # Errors
/// A generation_config.json that is there and cannot be read.
pub fn stop_tokens(dir: &Path, config: &HfConfig, tokenizer_eos: Option<u32>) -> Result<Vec<u32>> {
    let mut stops = config.tokens.eos.clone();
    stops.extend(tokenizer_eos);
    let path = dir.join("generation_config.json");
    if path.is_file() {
        let text = RealFs.read(&path, 1 << 20).with_context(|| shown(&path))?;
        let parsed: Value = serde_json::from_slice(&text).with_context(|| shown(&path))?;
        let eos = &parsed["eos_token_id"];
        let list = eos.as_array().map_or(std::slice::from_ref(eos), Vec::as_slice);
        stops.extend(list.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
    }
    stops.sort_unstable();
    stops.dedup();
    Ok(stops)
}

/// Parse the text of a `config.json`.
///
/// # Errors
/// One line that names field, value and reason.
pub fn parse(text: &[u8]) -> Result<HfConfig> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    ensure!(!text.trim_ascii().is_empty(), "is empty");
    let UniqueKeys(map) = serde_json::from_slice(text).map_err(|e| anyhow::anyhow!("{}", clean(&e.to_string())))?;
    let fields = Fields(&map);
    let architecture = fields.architecture()?;
    fields.refuse_unbuilt(architecture)?;
    let model = fields.model(architecture)?;
    if let Some(problem) = model.problems().first() {
        bail!("{problem}");
    }
    let (tokens, mut notices) = fields.tokens(model.vocab_size)?;
    for name in ["attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop"] {
        if map.get(name).and_then(Value::as_f64).is_some_and(|p| p != 0.0) {
            notices.push(format!("{name} = {}: lehr trains without dropout", map[name]));
        }
    }
    Ok(HfConfig { model, tokens, notices })
}

/// A JSON object in which no key stands twice.
struct UniqueKeys(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for UniqueKeys {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = UniqueKeys;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueKeys, A::Error> {
                let mut out = Map::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if out.contains_key(&key) {
                        return Err(A::Error::custom(format!("duplicate key '{key}'")));
                    }
                    out.insert(key, value);
                }
                Ok(UniqueKeys(out))
            }
        }
        d.deserialize_map(V)
    }
}

/// The fields of a config, with the class defaults of `transformers` where one is absent.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    /// The value, unless it is absent or null.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    fn integer(&self, name: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        Ok(Some(number.with_context(|| format!("{name} = {}: must be a whole number", clean(&value.to_string())))?))
    }

    fn required(&self, name: &str) -> Result<usize> {
        self.integer(name)?.with_context(|| format!("{name} is missing"))
    }

    fn boolean(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().with_context(|| format!("{name} = {}: must be true or false", clean(&value.to_string())))
    }

    fn number(&self, name: &str, default: f64) -> Result<f64> {
        number(self.get(name), name)?.map_or(Ok(default), Ok)
    }

    fn architecture(&self) -> Result<Architecture> {
        const KNOWN: [(&str, &str, Architecture); 3] = [
            ("LlamaForCausalLM", "llama", Architecture::Llama),
            ("Qwen2ForCausalLM", "qwen2", Architecture::Qwen2),
            ("Qwen3ForCausalLM", "qwen3", Architecture::Qwen3),
        ];
        let only = "lehr builds LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM";
        if let Some(value) = self.get("architectures") {
            let names: Vec<&str> = value.as_array().map(|a| a.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
            let found = KNOWN.iter().find(|row| names == [row.0]);
            return found.map(|row| row.2).with_context(|| format!("architectures = {}: {only}", clean(&value.to_string())));
        }
        let Some(value) = self.get("model_type") else { bail!("architectures is missing: {only}") };
        let found = KNOWN.iter().find(|row| value == row.1);
        found.map(|row| row.2).with_context(|| format!("model_type = {}: {only}", clean(&value.to_string())))
    }

    /// Settings that would change the arithmetic.
    fn refuse_unbuilt(&self, architecture: Architecture) -> Result<()> {
        let refuse = |name: &str, why: &str| {
            let value = self.get(name).map(|v| clean(&v.to_string())).unwrap_or_default();
            Err(anyhow::anyhow!("{name} = {value}: {why}"))
        };
        if architecture != Architecture::Qwen2 && self.boolean("attention_bias", false)? {
            return refuse("attention_bias", "lehr has no bias on the output projection; only Qwen2's q, k, v biases");
        }
        if self.boolean("mlp_bias", false)? {
            return refuse("mlp_bias", "lehr has no biases in the SwiGLU");
        }
        if self.get("hidden_act").is_some_and(|act| act != "silu") {
            return refuse("hidden_act", "lehr has only silu");
        }
        if self.boolean("use_sliding_window", false)? {
            return refuse("use_sliding_window", "lehr attends to the whole context only");
        }
        if self.boolean("rope_interleaved", false)? {
            return refuse("rope_interleaved", "lehr rotates halves, as transformers does");
        }
        let full = |v: &Value| v.as_array().is_some_and(|a| a.iter().all(|t| t == "full_attention"));
        if self.get("layer_types").is_some_and(|v| !full(v)) {
            return refuse("layer_types", "lehr has only full_attention");
        }
        if self.get("partial_rotary_factor").is_some_and(|v| v.as_f64() != Some(1.0)) {
            return refuse("partial_rotary_factor", "lehr rotates whole heads");
        }
        if self.get("quantization_config").is_some() {
            bail!("quantization_config: lehr reads only unquantised weights: take the original model");
        }
        Ok(())
    }

    fn model(&self, architecture: Architecture) -> Result<ModelConfig> {
        let qwen = architecture != Architecture::Llama;
        let (hidden_size, heads) = (self.required("hidden_size")?, self.required("num_attention_heads")?);
        // Absent is the class default; null is one for each query head.
        let key_value_heads = match self.0.get("num_key_value_heads") {
            None if qwen => 32,
            _ => self.integer("num_key_value_heads")?.unwrap_or(heads),
        };
        let head_dim = match self.0.get("head_dim") {
            None if architecture == Architecture::Qwen3 => 128,
            _ => self.integer("head_dim")?.unwrap_or(hidden_size / heads.max(1)),
        };
        let (rope_theta, rope_scaling) = self.rope()?;
        Ok(ModelConfig {
            architecture,
            vocab_size: self.required("vocab_size")?,
            hidden_size,
            intermediate_size: self.required("intermediate_size")?,
            num_hidden_layers: self.required("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim,
            max_position_embeddings: self.integer("max_position_embeddings")?.unwrap_or(if qwen { 32768 } else { 2048 }),
            rms_norm_eps: self.number("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: self.boolean("tie_word_embeddings", false)?,
            initializer_range: self.number("initializer_range", 0.02)?,
        })
    }

    /// transformers 5 has `rope_parameters`, 4 has `rope_theta` and `rope_scaling`.
    fn rope(&self) -> Result<(f64, Option<Llama3Scaling>)> {
        let name = if self.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
        let theta = self.number("rope_theta", 10000.0)?;
        let Some(value) = self.get(name) else { return Ok((theta, None)) };
        let Some(rope) = value.as_object() else { bail!("{name} = {}: must be an object", clean(&value.to_string())) };
        let field = |key: &str| number(rope.get(key), &format!("{name}.{key}"));
        let theta = field("rope_theta")?.unwrap_or(theta);
        if let Some(part) = field("partial_rotary_factor")?.filter(|part| *part != 1.0) {
            bail!("{name}.partial_rotary_factor = {part}: lehr rotates whole heads");
        }
        if rope.values().any(Value::is_object) {
            bail!("{name}: gives each kind of layer its own rotation; lehr has one for all");
        }
        let kind = rope.get("rope_type").or(rope.get("type"));
        match kind.map_or(Some("default"), Value::as_str) {
            Some("default") => return Ok((theta, None)),
            Some("llama3") => {}
            _ => bail!(
                "{name}.rope_type = {}: lehr has only default and llama3",
                clean(&kind.map(Value::to_string).unwrap_or_default())
            ),
        }
        let need = |key: &str| -> Result<f64> {
            let value = field(key)?.with_context(|| format!("{name}.{key} is missing"))?;
            ensure!(value > 0.0, "{name}.{key} = {value}: must be above 0");
            Ok(value)
        };
        let original = need("original_max_position_embeddings")?;
        ensure!(
            original.fract() == 0.0 && original < 1e12,
            "{name}.original_max_position_embeddings = {original}: must be a whole number"
        );
        let scaling = Llama3Scaling {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_max_position_embeddings: original as u64,
        };
        let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
        ensure!(low < high, "{name}.low_freq_factor = {low}: must be below high_freq_factor = {high}");
        Ok((theta, Some(scaling)))
    }

    fn tokens(&self, vocab_size: usize) -> Result<(SpecialTokens, Vec<String>)> {
        let mut notices = Vec::new();
        let mut ids = |name: &str| -> Result<Vec<u32>> {
            let Some(value) = self.get(name) else { return Ok(Vec::new()) };
            let list = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            let mut out = Vec::new();
            for id in list {
                // -1 is an old way to say "none".
                if id == -1 {
                    continue;
                }
                let number = id.as_u64().and_then(|n| u32::try_from(n).ok());
                let number = number
                    .with_context(|| format!("{name} = {}: must be a token id or a list of them", clean(&value.to_string())))?;
                if number as usize >= vocab_size {
                    notices.push(format!("{name} = {number}: lies outside the vocabulary of {vocab_size} and is not used"));
                } else {
                    out.push(number);
                }
            }
            Ok(out)
        };
        let (bos, eos, pad) = (ids("bos_token_id")?, ids("eos_token_id")?, ids("pad_token_id")?);
        Ok((SpecialTokens { bos: bos.first().copied(), eos, pad: pad.first().copied() }, notices))
    }
}

fn number(value: Option<&Value>, name: &str) -> Result<Option<f64>> {
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(None) };
    let number = value.as_f64().filter(|x| x.is_finite());
    Ok(Some(number.with_context(|| format!("{name} = {}: must be a number", clean(&value.to_string())))?))
}

fn eos_json(tokens: &SpecialTokens) -> Value {
    match tokens.eos.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    }
}

/// The `config.json` that both `transformers` 4 and 5 load: rotary settings stand there in both dialects.
pub fn config_json(model: &ModelConfig, tokens: &SpecialTokens) -> Value {
    let (class, model_type) = match model.architecture {
        Architecture::Llama => ("LlamaForCausalLM", "llama"),
        Architecture::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Architecture::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let rope = model.rope_scaling.map(|s| {
        json!({
            "rope_type": "llama3",
            "factor": s.factor,
            "low_freq_factor": s.low_freq_factor,
            "high_freq_factor": s.high_freq_factor,
            "original_max_position_embeddings": s.original_max_position_embeddings,
        })
    });
    let mut parameters = rope.clone().unwrap_or_else(|| json!({"rope_type": "default"}));
    parameters["rope_theta"] = json!(model.rope_theta);
    let mut out = json!({
        "architectures": [class],
        "model_type": model_type,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_theta": model.rope_theta,
        "rope_scaling": rope,
        "rope_parameters": parameters,
        "tie_word_embeddings": model.tie_word_embeddings,
        "initializer_range": model.initializer_range,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_cache": true,
        "bos_token_id": tokens.bos,
        "eos_token_id": eos_json(tokens),
        "pad_token_id": tokens.pad,
        "dtype": "float32",
        "torch_dtype": "float32",
    });
    match model.architecture {
        Architecture::Llama => (out["attention_bias"], out["mlp_bias"]) = (json!(false), json!(false)),
        Architecture::Qwen2 => out["use_sliding_window"] = json!(false),
        Architecture::Qwen3 => (out["attention_bias"], out["use_sliding_window"]) = (json!(false), json!(false)),
    }
    out
}

/// The `generation_config.json` beside it: sampling as trained, until an end token.
pub fn generation_config_json(tokens: &SpecialTokens) -> Value {
    json!({
        "_from_model_config": true,
        "do_sample": true,
        "bos_token_id": tokens.bos,
        "eos_token_id": eos_json(tokens),
        "pad_token_id": tokens.pad,
    })
}

//! `config.json` and `generation_config.json` as `transformers` 4 and 5 read and write them.
//!
//! An unsupported setting that would change the arithmetic is rejected by name; defaults for absent fields are those of the `transformers`
//! classes.

mod rope;

use crate::config::{Architecture, ModelConfig};
use crate::vfs::{Vfs, clean, display_path};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Class and `model_type` of an architecture.
pub(crate) fn names(architecture: Architecture) -> (&'static str, &'static str) {
    match architecture {
        Architecture::Llama => ("LlamaForCausalLM", "llama"),
        Architecture::Mistral => ("MistralForCausalLM", "mistral"),
        Architecture::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Architecture::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    }
}

/// Maximum number of tokens in a role.
pub const MAX_ROLE_TOKENS: usize = 1024;

/// The ids of the special tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Beginning of a text.
    pub bos: Option<u32>,
    /// End of a text; any of them.
    pub eos: Vec<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// A supported `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct HfConfig {
    /// The shape.
    pub model: ModelConfig,
    /// The special tokens.
    pub tokens: SpecialTokens,
    /// Notices on unused fields, for the user.
    pub notices: Vec<String>,
}

/// Read a `config.json`.
///
/// # Errors
/// One line with file, field, value and reason.
pub fn read(vfs: &dyn Vfs, path: &Path) -> Result<HfConfig> {
    let bytes = vfs.read(path, 1 << 20).with_context(|| display_path(path))?;
    parse(&bytes).with_context(|| display_path(path))
}

/// The configuration of a model: from the `config.json` of a folder (for an adapter without one, of its base model), or from a GGUF file.
///
/// # Errors
/// As [`read`].
pub fn of_model(vfs: &dyn Vfs, path: &Path) -> Result<HfConfig> {
    let path = &super::adapter::folder_containing(vfs, path, "config.json")?;
    if !super::gguf::is_gguf(vfs, path)? {
        return read(vfs, &path.join("config.json"));
    }
    let file = super::gguf::GgufFile::open(vfs, path)?;
    file.config_json().and_then(|json| parse(json.to_string().as_bytes())).with_context(|| display_path(path))
}

/// Whether the `config.json` of a folder declares weights in bfloat16 (`dtype`, `torch_dtype` before transformers 5). The files themselves are
/// authoritative.
///
/// # Errors
/// A file that cannot be read.
pub fn declares_bfloat16(vfs: &dyn Vfs, dir: &Path) -> Result<bool> {
    let path = dir.join("config.json");
    let bytes = if vfs.is_file(&path)? { vfs.read(&path, 1 << 20).with_context(|| display_path(&path))? } else { Vec::new() };
    let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let declared = config.get("dtype").or_else(|| config.get("torch_dtype")).and_then(Value::as_str);
    Ok(declared.is_some_and(|dtype| dtype.trim_start_matches("torch.") == "bfloat16"))
}

/// Parse the text of a `config.json`.
///
/// # Errors
/// One line with field, value and reason.
pub fn parse(text: &[u8]) -> Result<HfConfig> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    ensure!(!text.trim_ascii().is_empty(), "is empty");
    let UniqueKeys(map) = serde_json::from_slice(text).map_err(|e| anyhow::anyhow!("{}", clean(&e.to_string())))?;
    let fields = ConfigFields(&map);
    let architecture = fields.architecture()?;
    fields.refuse_unbuilt()?;
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
    if let Some((most, why)) = model.exact_context().filter(|(most, _)| *most < model.max_position_embeddings) {
        notices.push(format!("more than {most} tokens at once are refused: {why}"));
    }
    Ok(HfConfig { model, tokens, notices })
}

/// A JSON object without duplicate keys.
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
struct ConfigFields<'a>(&'a Map<String, Value>);

impl ConfigFields<'_> {
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
        let only = "lehr builds LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM";
        let families = Architecture::value_variants().iter().copied();
        let kind = self.get("model_type");
        let Some(value) = self.get("architectures") else {
            let Some(kind) = kind else { bail!("architectures is missing: {only}") };
            let found = families.into_iter().find(|family| kind == names(*family).1);
            return found.with_context(|| format!("model_type = {}: {only}", clean(&kind.to_string())));
        };
        let given: Vec<&str> = value.as_array().map(|a| a.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
        let found = families.into_iter().find(|family| given == [names(*family).0]);
        let architecture = found.with_context(|| format!("architectures = {}: {only}", clean(&value.to_string())))?;
        let (class, model_type) = names(architecture);
        if let Some(kind) = kind.filter(|kind| *kind != model_type) {
            bail!("model_type = {}, but architectures = [\"{class}\"]: they contradict each other", clean(&kind.to_string()));
        }
        Ok(architecture)
    }

    fn refusal<T>(&self, name: &str, why: &str) -> Result<T> {
        let value = self.get(name).map(|v| clean(&v.to_string())).unwrap_or_default();
        bail!("{name} = {value}: {why}")
    }

    /// Unsupported settings that would change the arithmetic.
    fn refuse_unbuilt(&self) -> Result<()> {
        if self.boolean("mlp_bias", false)? {
            return self.refusal("mlp_bias", "lehr has no biases in the SwiGLU");
        }
        if self.get("hidden_act").is_some_and(|act| act != "silu") {
            return self.refusal("hidden_act", "lehr has only silu");
        }
        if self.boolean("rope_interleaved", false)? {
            return self.refusal("rope_interleaved", "lehr rotates halves, as transformers does");
        }
        if self.get("partial_rotary_factor").is_some_and(|v| v.as_f64() != Some(1.0)) {
            return self.refusal("partial_rotary_factor", "lehr rotates whole heads");
        }
        if self.get("quantization_config").is_some() {
            bail!("quantization_config: lehr reads only unquantised weights: use the original model");
        }
        Ok(())
    }

    fn model(&self, architecture: Architecture) -> Result<ModelConfig> {
        let qwen = matches!(architecture, Architecture::Qwen2 | Architecture::Qwen3);
        let (hidden_size, heads) = (self.required("hidden_size")?, self.required("num_attention_heads")?);
        // Absent is the class default; null is the number of query heads.
        let key_value_heads = match self.0.get("num_key_value_heads") {
            None if qwen => 32,
            None if architecture == Architecture::Mistral => 8,
            _ => self.integer("num_key_value_heads")?.unwrap_or(heads),
        };
        let head_dim = match self.0.get("head_dim") {
            None if architecture == Architecture::Qwen3 => 128,
            _ => self.integer("head_dim")?.unwrap_or(hidden_size / heads.max(1)),
        };
        let num_hidden_layers = self.required("num_hidden_layers")?;
        let usual_context = match architecture {
            Architecture::Llama => 2048,
            Architecture::Mistral => 131_072,
            Architecture::Qwen2 | Architecture::Qwen3 => 32768,
        };
        let max_position_embeddings = self.integer("max_position_embeddings")?.unwrap_or(usual_context);
        let (rope_theta, rope_scaling) = rope::read(self, max_position_embeddings)?;
        // Qwen2 and Mistral do not have this setting.
        let biases = matches!(architecture, Architecture::Llama | Architecture::Qwen3);
        Ok(ModelConfig {
            architecture,
            vocab_size: self.required("vocab_size")?,
            hidden_size,
            intermediate_size: self.required("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: self.number("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            attention_bias: biases && self.boolean("attention_bias", false)?,
            sliding_window: self.sliding_window(architecture, num_hidden_layers)?,
            tie_word_embeddings: self.boolean("tie_word_embeddings", false)?,
            initializer_range: self.number("initializer_range", 0.02)?,
            lora: None,
        })
    }

    /// Mistral's window; Qwen's layers must all attend to the whole context.
    fn sliding_window(&self, architecture: Architecture, layers: usize) -> Result<Option<usize>> {
        // Absent is the class default; null is none.
        let window = match self.0.get("sliding_window") {
            None => Some(4096),
            Some(_) => self.integer("sliding_window")?,
        };
        let types = self.get("layer_types");
        if let Some(types) = types {
            let full = types.as_array().filter(|types| types.iter().all(|t| t == "full_attention"));
            let Some(full) = full else { return self.refusal("layer_types", "lehr has only full_attention") };
            ensure!(full.len() == layers, "layer_types has {} entries, but num_hidden_layers = {layers}", full.len());
        }
        match architecture {
            Architecture::Llama => Ok(None),
            Architecture::Mistral if types.is_some() && window.is_some() => self.refusal(
                "layer_types",
                "transformers makes a Ministral of it, which lehr does not build; set sliding_window to null",
            ),
            Architecture::Mistral => Ok(window),
            Architecture::Qwen2 | Architecture::Qwen3 => {
                let first = self.integer("max_window_layers")?.unwrap_or(28);
                if types.is_none() && window.is_some() && first < layers && self.boolean("use_sliding_window", false)? {
                    let why = format!(
                        "layers from max_window_layers = {first} on have a sliding window; lehr attends to the whole context only"
                    );
                    return self.refusal("use_sliding_window", &why);
                }
                Ok(None)
            }
        }
    }

    fn tokens(&self, vocab_size: usize) -> Result<(SpecialTokens, Vec<String>)> {
        let mut notices = Vec::new();
        let mut ids = |name: &str| -> Result<Vec<u32>> {
            let Some(value) = self.get(name) else { return Ok(Vec::new()) };
            let list = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            ensure!(list.len() <= MAX_ROLE_TOKENS, "{name} lists {} tokens, more than {MAX_ROLE_TOKENS}", list.len());
            let mut out = Vec::new();
            for id in list {
                // -1 is an old spelling of "none".
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

/// A `config.json` for both `transformers` 4 and 5: it has the rotary settings in both formats.
pub fn config_json(model: &ModelConfig, tokens: &SpecialTokens) -> Value {
    let (class, model_type) = names(model.architecture);
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
    for (name, value) in rope::write(model) {
        out[name] = value;
    }
    match model.architecture {
        Architecture::Llama => (out["attention_bias"], out["mlp_bias"]) = (json!(model.attention_bias), json!(false)),
        Architecture::Mistral => out["sliding_window"] = json!(model.sliding_window),
        Architecture::Qwen2 => out["use_sliding_window"] = json!(false),
        Architecture::Qwen3 => {
            (out["attention_bias"], out["use_sliding_window"]) = (json!(model.attention_bias), json!(false));
        }
    }
    out
}

//! The rules that transformers 5 uses for a folder's `tokenizer_class` (`models/auto/tokenization_auto.py`). Some classes take only vocabulary,
//! merges, added tokens and post-processor from `tokenizer.json` and bring the other parts themselves. lehr does the same and says so where it
//! makes a difference; transformers 4 followed `tokenizer.json`. One difference remains, with a note: such a class loses the added tokens of
//! `tokenizer.json` that `added_tokens_decoder` does not list, where there is one; lehr keeps them.

use super::guarded;
use crate::data::display_text;
use anyhow::{Result, anyhow};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Classes with rules of their own that lehr does not have. Others are unknown to transformers too, which then follows `tokenizer.json`.
const FOREIGN: [&str; 16] = [
    "AlbertTokenizer",
    "BartTokenizer",
    "BertTokenizer",
    "BigBirdTokenizer",
    "CLIPTokenizer",
    "CodeLlamaTokenizer",
    "DebertaTokenizer",
    "GPTNeoXTokenizer",
    "NllbTokenizer",
    "OpenAIGPTTokenizer",
    "Qwen3_5Tokenizer",
    "RobertaTokenizer",
    "T5Tokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLMRobertaTokenizer",
];

/// Qwen2's words.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The parts of a `tokenizer.json` that a class may replace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ClassParts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: ModelFlags,
}

/// Flags of a BPE model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct ModelFlags {
    r#type: Option<String>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
}

/// Where `AutoTokenizer` finds the class of a folder.
pub(super) struct ClassSource<'a> {
    /// `tokenizer_config.json`.
    pub(super) config: &'a Map<String, Value>,
    /// `model_type` of `config.json`.
    pub(super) model_type: Option<&'a str>,
    /// `tokenizer_class` of `config.json`.
    pub(super) of_model: Option<&'a str>,
}

impl<'a> ClassSource<'a> {
    /// Of a folder with these files.
    pub(super) fn of(config: &'a Map<String, Value>, model: &'a Map<String, Value>) -> Self {
        let text = |key: &str| model.get(key).and_then(Value::as_str);
        Self { config, model_type: text("model_type"), of_model: text("tokenizer_class") }
    }

    /// The class, without `Fast`; `None` if `tokenizer.json` is used unchanged.
    fn class(&self, file: &ClassParts) -> Option<&'a str> {
        let bare = |name: &'a str| name.strip_suffix("Fast").unwrap_or(name);
        let declared = self.config.get("tokenizer_class").and_then(Value::as_str).or(self.of_model).map(bare);
        let registered = match self.model_type.unwrap_or_default() {
            "qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe" => Some("Qwen2Tokenizer"),
            "mistral" | "mixtral" => Some("TokenizersBackend"),
            "gemma" | "gemma2" | "gemma3" | "gemma3_text" => Some("GemmaTokenizer"),
            "cohere" | "cohere2" => Some("CohereTokenizer"),
            "gpt2" | "phi" | "starcoder2" => Some("GPT2Tokenizer"),
            _ => None,
        };
        let has_code = self.config.get("auto_map").is_some_and(|map| map.is_array() || !map["AutoTokenizer"].is_null());
        if !has_code && declared == Some("LlamaTokenizer") && self.model_type != Some("qwen2") && file.is_byte_level() {
            return None;
        }
        match (declared, registered) {
            (Some(declared), Some(registered)) if declared != registered && !has_code => match self.model_type {
                _ if registered == "TokenizersBackend" => None,
                // Published Qwen2 models declare wrong classes.
                Some("qwen2") => Some(registered),
                _ => Some(declared),
            },
            (declared, registered) => declared.or(registered),
        }
    }

    /// The parts that the folder's class puts in place of the file's, unless they mean the same, and a note about it. `has_bytes`: the
    /// vocabulary has a token for every byte.
    ///
    /// # Errors
    /// Parts that the `tokenizers` crate cannot read.
    pub(super) fn replaced(&self, file: &ClassParts, has_bytes: bool) -> Result<(Option<ClassParts>, Option<String>)> {
        let Some(class) = self.class(file) else { return Ok((None, None)) };
        let unchanged = "set it to PreTrainedTokenizerFast if tokenizer.json is right";
        if FOREIGN.contains(&class) {
            let note = format!("tokenizer_class = {class}: transformers 5 has rules for this class, lehr follows tokenizer.json");
            return Ok((None, Some(note)));
        }
        if file.model.r#type.as_deref().is_some_and(|kind| kind != "BPE") {
            return Ok((None, None));
        }
        let Some(mut parts) = self.parts(class) else { return Ok((None, None)) };
        // Every text has tokens, and none is unknown.
        if has_bytes && parts.model.byte_fallback == Some(true) {
            parts.model.unk_token.clone_from(&file.model.unk_token);
        }
        if parts.canonical()? == file.canonical()? {
            return Ok((None, None));
        }
        let note = format!(
            "tokenizer_class = {}: texts are split by the rules of this class, which differ from tokenizer.json, as in transformers 5 \
             (transformers 4 follows tokenizer.json); {unchanged}",
            display_text(class)
        );
        Ok((Some(parts), Some(note)))
    }

    /// A note about the added tokens of the file that its class would lose.
    pub(super) fn lost_tokens<'t>(&self, file: &ClassParts, added: impl Iterator<Item = &'t str>) -> Option<String> {
        let class = self.class(file)?;
        self.parts(class).filter(|_| file.model.r#type.as_deref().is_none_or(|kind| kind == "BPE"))?;
        let content = |token: &'a Value| token.as_str().or_else(|| token.get("content")?.as_str());
        let listed = self.config.get("added_tokens_decoder")?.as_object()?.values();
        let roles = self.config.iter().filter(|(key, _)| key.ends_with("_token")).map(|(_, token)| token);
        let lists = self.config.iter().filter(|(key, _)| key.ends_with("_special_tokens"));
        let lists = lists.flat_map(|(_, tokens)| tokens.as_array().into_iter().flatten());
        let known: HashSet<&str> = listed.chain(roles).chain(lists).filter_map(content).collect();
        let lost: Vec<&str> = added.filter(|token| !known.contains(token)).collect();
        let (first, more) = (display_text(lost.first()?), lost.len() - 1);
        Some(format!(
            "tokenizer_class = {}: with this class transformers 5 drops the added token {first:?} of tokenizer.json{}, which \
             added_tokens_decoder does not list; lehr keeps all. List them there",
            display_text(class),
            if more > 0 { format!(" and {more} more") } else { String::new() }
        ))
    }

    /// The parts of a class that lehr knows.
    fn parts(&self, class: &str) -> Option<ClassParts> {
        let prefixed = self.config.get("add_prefix_space").and_then(Value::as_bool);
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let bytes = |use_regex: bool| {
            let prefixed = prefixed.unwrap_or(false);
            json!({"type": "ByteLevel", "add_prefix_space": prefixed, "trim_offsets": true, "use_regex": use_regex})
        };
        let (byte_level, nfc) = (bytes(true), json!({"type": "NFC"}));
        let sequence = |steps: &[Value]| json!({"type": "Sequence", "pretokenizers": steps});
        let mut spaces = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        let fallback = ModelFlags { fuse_unk: Some(true), byte_fallback: Some(true), ..ModelFlags::default() };
        let (normalizer, pre_tokenizer, decoder, model) = match class {
            "LlamaTokenizer" => {
                let prefixed = prefixed.unwrap_or(true);
                let legacy = !matches!(self.config.get("legacy"), None | Some(Value::Null | Value::Bool(false)));
                let scheme = if !prefixed {
                    "never"
                } else if legacy {
                    "always"
                } else {
                    "first"
                };
                if prefixed {
                    spaces.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                }
                let words = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
                (Value::Null, words, json!({"type": "Sequence", "decoders": spaces}), fallback)
            }
            "GemmaTokenizer" => {
                let words =
                    json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
                let unknown = super::companions::content(self.config, "unk_token").unwrap_or("<unk>").to_owned();
                let model = ModelFlags { unk_token: Some(unknown), ..fallback };
                (replace(" ", "▁"), words, json!({"type": "Sequence", "decoders": spaces}), model)
            }
            "Qwen2Tokenizer" => {
                let words = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
                (nfc, sequence(&[words, bytes(false)]), byte_level, ModelFlags::default())
            }
            "CohereTokenizer" => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                (nfc, sequence(&[digits, bytes(true)]), byte_level, ModelFlags::default())
            }
            "GPT2Tokenizer" => (Value::Null, bytes(true), byte_level, ModelFlags::default()),
            _ => return None,
        };
        Some(ClassParts { normalizer, pre_tokenizer, decoder, model })
    }
}

impl ClassParts {
    /// The parts of a `tokenizer.json`.
    pub(super) fn of(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).map_err(|e| anyhow!("{}", display_text(&e.to_string())))
    }

    /// Puts these parts into the text of a `tokenizer.json`.
    pub(super) fn put_into(self, json: &[u8]) -> Result<Vec<u8>> {
        let mut file: Value = serde_json::from_slice(json)?;
        let model = self.model;
        (file["normalizer"], file["pre_tokenizer"], file["decoder"]) = (self.normalizer, self.pre_tokenizer, self.decoder);
        let flags = json!({"type": "BPE", "unk_token": model.unk_token, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": model.fuse_unk.unwrap_or(false), "byte_fallback": model.byte_fallback.unwrap_or(false), "ignore_merges": false,
            "dropout": null});
        if let (Value::Object(whole), Value::Object(flags)) = (&mut file["model"], flags) {
            whole.extend(flags);
        }
        Ok(serde_json::to_vec(&file)?)
    }

    fn is_byte_level(&self) -> bool {
        let is = |part: &Value| part["type"] == "ByteLevel";
        let within = |part: &Value, list: &str| is(part) || part[list].as_array().is_some_and(|steps| steps.iter().any(is));
        within(&self.pre_tokenizer, "pretokenizers") || within(&self.decoder, "decoders")
    }

    /// The parts with all defaults filled in, without what does not matter: offsets, and a byte-level decoder's settings.
    fn canonical(&self) -> Result<(Value, ModelFlags)> {
        let file = json!({"version": "1.0", "added_tokens": [], "normalizer": self.normalizer, "pre_tokenizer": self.pre_tokenizer,
            "post_processor": null, "decoder": self.decoder, "model": {"type": "BPE", "vocab": {}, "merges": []}});
        let inner =
            guarded(|| tokenizers::Tokenizer::from_bytes(file.to_string())).map_err(|e| anyhow!("{}", display_text(&e)))?;
        let mut parts = serde_json::to_value(&inner)?;
        simplify(&mut parts);
        if parts["decoder"]["type"] == "ByteLevel" {
            parts["decoder"] = json!("ByteLevel");
        }
        let mut model = ModelFlags { r#type: None, ..self.model.clone() };
        for flag in [&mut model.fuse_unk, &mut model.byte_fallback, &mut model.ignore_merges] {
            flag.get_or_insert_default();
        }
        for affix in [&mut model.continuing_subword_prefix, &mut model.end_of_word_suffix] {
            affix.take_if(|text| text.is_empty());
        }
        Ok((parts, model))
    }
}

/// Removes `trim_offsets`, and sequences of one step.
fn simplify(part: &mut Value) {
    match part {
        Value::Object(fields) => {
            fields.remove("trim_offsets");
            fields.values_mut().for_each(simplify);
            for list in ["normalizers", "pretokenizers", "decoders"] {
                if let Some([only]) = part[list].as_array().map(Vec::as_slice) {
                    *part = only.clone();
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(simplify),
        _ => {}
    }
}

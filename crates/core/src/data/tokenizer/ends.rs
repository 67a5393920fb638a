//! The end of a text: the end tokens of a model folder, its padding token, and the sampling settings of its files.

use super::Tokenizer;
use crate::data::chat::{Chat, ChatTemplate};
use crate::data::display_text;
use crate::model_files::hf_config::MAX_ROLE_TOKENS;
use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value, json};

/// End tokens, and the end string if the chat template has one. Returned by [`Tokenizer::end_tokens`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndTokens {
    ids: Vec<u32>,
    text: Option<String>,
}

impl EndTokens {
    /// The end tokens: those of `generation_config.json` and `config.json`, the tokenizer's, and the chat template's end-of-turn token.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether this token ends a text.
    pub fn contains(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// The text that the chat template writes after an assistant message, if it does not begin with an added token: a stop string.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    fn of(tokenizer: &Tokenizer) -> Self {
        let (turn, text) = end_of_turn(tokenizer).unwrap_or_default();
        let mut ids = Vec::new();
        for id in tokenizer.generation.eos.iter().copied().chain(tokenizer.eos).chain(turn) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Self { ids, text }
    }
}

/// The token, or text, that the tokenizer's chat template writes after an assistant message. Unusable templates are reported elsewhere.
fn end_of_turn(tokenizer: &Tokenizer) -> Option<(Option<u32>, Option<String>)> {
    let template = ChatTemplate::new(&tokenizer.chat_template().ok()??, tokenizer.special_tokens(), 0).ok()?;
    let chat = Chat::of_user("a");
    let end = template.end_of_turn(&chat)?;
    let first = tokenizer.encode(end.trim_start()).ok()?.first().copied();
    let added = tokenizer.inner.get_added_tokens_decoder();
    Some(match first.filter(|id| added.contains_key(id)) {
        Some(id) => (Some(id), None),
        None => (None, Some(end)),
    })
}

/// Special tokens and sampling settings of the model's `config.json` and `generation_config.json`.
#[derive(Debug, Default)]
pub(super) struct Generation {
    pub(super) eos: Vec<u32>,
    pub(super) bos: Option<u32>,
    pub(super) pad: Option<u32>,
    /// `generation_config.json`, unchanged.
    settings: Map<String, Value>,
}

impl Generation {
    /// From the two files; the first takes precedence, as in `transformers`, but the end tokens of both count.
    pub(super) fn new(settings: Map<String, Value>, config: &Map<String, Value>) -> Result<Self> {
        let both = |role: &str| -> Result<Vec<u32>> {
            let mut ids = token_ids("generation_config.json", &settings, role)?;
            ids.extend(token_ids("config.json", config, role)?);
            Ok(ids)
        };
        let (eos, bos, pad) = (both("eos_token_id")?, both("bos_token_id")?, both("pad_token_id")?);
        Ok(Self { eos, bos: bos.first().copied(), pad: pad.first().copied(), settings })
    }
}

/// One id or a list of them; null and -1 mean none.
fn token_ids(file: &str, config: &Map<String, Value>, role: &str) -> Result<Vec<u32>> {
    let value = config.get(role).unwrap_or(&Value::Null);
    let (mut ids, list) = (Vec::new(), value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
    ensure!(list.len() <= MAX_ROLE_TOKENS, "{file}: {role} lists {} tokens, more than {MAX_ROLE_TOKENS}", list.len());
    for id in list {
        match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => ids.push(id),
            None if id.is_null() || *id == -1 => {}
            None => bail!("{file}: {role} = {}: must be a token id or a list of them", display_text(&value.to_string())),
        }
    }
    Ok(ids)
}

impl Tokenizer {
    /// The tokens or text that end a text of this model.
    pub fn end_tokens(&self) -> &EndTokens {
        self.ends.get_or_init(|| EndTokens::of(self))
    }

    /// The padding token, if `generation_config.json` or `config.json` names one.
    pub fn pad_id(&self) -> Option<u32> {
        self.generation.pad
    }

    /// The `generation_config.json` for a model with this tokenizer: the one that was read, with all end tokens added.
    pub fn generation_config(&self) -> Value {
        let mut config = self.generation.settings.clone();
        if config.is_empty() {
            config.insert("_from_model_config".into(), json!(true));
            config.insert("do_sample".into(), json!(true));
        }
        config.insert("bos_token_id".into(), json!(self.bos));
        let eos = match self.end_tokens().ids() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        config.insert("eos_token_id".into(), eos);
        config.insert("pad_token_id".into(), json!(self.generation.pad));
        Value::Object(config)
    }

    /// Whether the token begins or ends a text, or pads: such tokens are not part of the decoded text.
    pub(super) fn is_hidden(&self, id: u32) -> bool {
        self.end_tokens().contains(id) || self.bos == Some(id) || self.generation.pad == Some(id) || self.pad == Some(id)
    }
}

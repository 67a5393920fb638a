//! Tokenizer functions for chats: the chat template, special tokens by role, and the position of each token in the text.

use super::{TokenSpelling, Tokenizer, guarded};
use crate::data::display_text;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::sync::Arc;

/// The file of a separate chat template; it takes precedence over `chat_template` in `tokenizer_config.json`.
const TEMPLATE_FILE: &str = "chat_template.jinja";

impl Tokenizer {
    /// The ids of a text and the byte range of each; `with_special` adds the tokens of the post-processor (for example a begin token),
    /// whose ranges are empty.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_places(&self, text: &str, with_special: bool) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        if !matches!(self.direct, super::BuiltinTokenizer::Off) {
            let ids = self.encode(text)?;
            let mut end = 0;
            let places: Vec<Range<usize>> = ids
                .iter()
                .map(|id| {
                    let start = end;
                    end += self.bytes_spelled(*id);
                    start..end
                })
                .collect();
            if end == text.len() {
                return Ok((ids, places));
            }
        }
        let encoding = guarded(|| self.inner.encode(text, with_special))
            .map_err(|e| anyhow!("tokenizer: cannot encode {:?}: {}", display_text(text), display_text(&e)))?;
        Ok((encoding.get_ids().to_vec(), encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect()))
    }

    /// Bytes of text that a token represents, for the built-in tokenizers.
    fn bytes_spelled(&self, id: u32) -> usize {
        let token = self.inner.id_to_token(id).unwrap_or_default();
        let whole = self.spelling == TokenSpelling::Verbatim || self.is_special(id) || self.eos == Some(id);
        if whole { token.len() } else { token.chars().count() }
    }

    /// The tokenizer's chat template, if any: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`; of several, the one
    /// named `default`.
    ///
    /// # Errors
    /// A template that is not a string.
    pub fn chat_template(&self) -> Result<Option<String>> {
        if let Some((_, bytes)) = self.extra.iter().find(|(name, _)| name == TEMPLATE_FILE) {
            let text = String::from_utf8(bytes.clone()).ok().with_context(|| format!("{TEMPLATE_FILE}: not UTF-8"))?;
            return Ok(Some(text));
        }
        match self.config.get("chat_template") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Array(list)) => {
                let default = list.iter().find(|t| t["name"] == "default").or(list.first());
                match default.map(|t| &t["template"]) {
                    Some(Value::String(text)) => Ok(Some(text.clone())),
                    _ => bail!(
                        "tokenizer_config.json: chat_template holds no template named default. Give one with --chat-template"
                    ),
                }
            }
            Some(_) => {
                bail!("tokenizer_config.json: chat_template is neither a string nor a list. Give one with --chat-template")
            }
        }
    }

    /// The same tokenizer with this chat template in its `tokenizer_config.json`, replacing any other.
    pub fn with_chat_template(&self, template: &str) -> Self {
        let mut config = (*self.config).clone();
        config.insert("chat_template".into(), json!(template));
        let extra = self.extra.iter().filter(|(name, _)| name != TEMPLATE_FILE).cloned().collect();
        Self { config: Arc::new(config), extra: Arc::new(extra), ends: Arc::default(), ..self.clone() }
    }

    /// Special tokens by role, as templates use them: `bos_token`, `eos_token` and the others that `tokenizer_config.json` names.
    pub fn special_tokens(&self) -> Map<String, Value> {
        let text = |value: &Value| match value {
            Value::String(_) => Some(value.clone()),
            Value::Object(map) => map.get("content").filter(|content| content.is_string()).cloned(),
            _ => None,
        };
        let roles = self.config.iter().filter(|(key, _)| key.ends_with("_token"));
        roles.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
    }
}

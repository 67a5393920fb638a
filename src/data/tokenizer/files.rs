//! Tokenizers as files: reading `tokenizer.json` and its companions from strangers, writing them so that `AutoTokenizer` opens them.

use super::{CharTable, Direct, END_OF_TEXT, Spelling, Tokenizer, guarded, words};
use crate::config::Architecture;
use crate::data::{shown, shown_path};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// The largest `tokenizer.json` that is read; those of 250,000 tokens have 20 MiB.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// The largest of the small files beside it.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Ids may have gaps (reserved tokens), but an id this far above the number of tokens would only waste memory in the model.
const MAX_ID_GAP: u64 = 4096;
/// Files that are kept and written again unread.
const EXTRA_FILES: [&str; 3] = ["chat_template.jinja", "special_tokens_map.json", "added_tokens.json"];

impl Tokenizer {
    /// Reads a folder with `tokenizer.json`, or such a file. The special tokens' roles come from `tokenizer_config.json` beside it,
    /// else from the ids in `generation_config.json` or `config.json`.
    ///
    /// Errors name the file and what is wrong with it: more than 64 MiB, not JSON, a token twice, ids that repeat, are negative or far
    /// beyond the number of tokens, a special token that is not in the vocabulary.
    pub fn from_folder(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let name = shown_path(&file);
        ensure!(
            file.exists(),
            "tokenizer = {name}: no such file. Use bytes, chars, words, bpe:N, or a path to a tokenizer.json or its folder"
        );
        let json = read_bounded(&file, MAX_JSON_BYTES)?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let mut config = read_config(&folder.join("tokenizer_config.json"))?;
        let mut extra = Vec::new();
        for file in EXTRA_FILES {
            let path = folder.join(file);
            if path.is_file() {
                extra.push((file.to_owned(), read_bounded(&path, MAX_CONFIG_BYTES)?));
            }
        }
        let has_role = |config: &Map<String, Value>, role: &str| config.get(role).is_some_and(|v| !v.is_null());
        if !has_role(&config, "eos_token") || !has_role(&config, "bos_token") {
            let ids = [read_config(&folder.join("generation_config.json"))?, read_config(&folder.join("config.json"))?];
            let tokenizer = Self::from_bytes(&name, json.clone(), Map::new(), Vec::new())?;
            for role in ["eos", "bos"] {
                let id = ids.iter().find_map(|c| first_id(c.get(&format!("{role}_token_id"))?));
                let token = id.and_then(|id| tokenizer.inner.id_to_token(id));
                if let (false, Some(token)) = (has_role(&config, &format!("{role}_token")), token) {
                    config.insert(format!("{role}_token"), json!(token));
                }
            }
        }
        Self::from_bytes(&name, json, config, extra)
    }

    /// The files that make `AutoTokenizer.from_pretrained` open this tokenizer: (name, content). Context length in tokens.
    ///
    /// Beside a Qwen2 model transformers 5 builds a `Qwen2Tokenizer` with rules of its own, whatever `tokenizer_class` says, and loses the
    /// blanks of a tokenizer that is not Qwen's. An `auto_map` without a slow class makes it take tokenizer.json as it is.
    pub fn files(&self, model_max_length: usize, architecture: Architecture) -> Result<Vec<(String, Vec<u8>)>> {
        let mut config = (*self.config).clone();
        if architecture == Architecture::Qwen2 && !config.contains_key("tokenizer_class") {
            config.insert("auto_map".into(), json!({"AutoTokenizer": [null, "unused.Unused"]}));
        }
        config.insert("model_max_length".into(), json!(model_max_length));
        config.entry("tokenizer_class").or_insert(json!("PreTrainedTokenizerFast"));
        config.entry("clean_up_tokenization_spaces").or_insert(json!(false));
        let mut files = vec![
            ("tokenizer.json".to_owned(), self.json.to_vec()),
            ("tokenizer_config.json".to_owned(), serde_json::to_vec_pretty(&config)?),
        ];
        files.extend(self.extra.iter().cloned());
        Ok(files)
    }

    /// Checks a `tokenizer.json` and takes it into use. `name` is for messages.
    pub(super) fn from_bytes(
        name: &str,
        json: Vec<u8>,
        config: Map<String, Value>,
        extra: Vec<(String, Vec<u8>)>,
    ) -> Result<Self> {
        let file: TokenizerFile = serde_json::from_slice(&json).map_err(|e| anyhow!("{name}: {}", shown(&e.to_string())))?;
        check_ids(name, &file)?;
        let mut inner =
            guarded(|| tokenizers::Tokenizer::from_bytes(&json)).map_err(|e| anyhow!("{name}: cannot be used: {}", shown(&e)))?;
        // Settings of somebody's batch job, which would cut or lengthen our text.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| anyhow!("{name}: {e}"))?;
        let vocab = inner.get_vocab(true);
        for t in &file.added_tokens {
            let got = vocab.get(&t.content).copied().unwrap_or_default();
            let token = shown(&t.content);
            ensure!(
                i64::from(got) == t.id,
                "{name}: added token {token:?} has id {}, but {got} by its place. Correct the id",
                t.id
            );
        }
        let vocab_size = vocab.values().max().map_or(0, |id| *id as usize + 1);
        let role = |role: &str| special_id(&config, role, &vocab);
        let (eos, bos) = (role("eos_token")?, role("bos_token")?);
        let special = inner.get_added_tokens_decoder().into_iter().filter(|(_, t)| t.special).map(|(id, _)| id).collect();
        let mut tokenizer = Self {
            direct: Direct::Off,
            spelling: if file.has_byte_level_decoder() { Spelling::ByteLevel } else { Spelling::Other },
            inner: Arc::new(inner),
            json: json.into(),
            config: Arc::new(config),
            extra: Arc::new(extra),
            special: Arc::new(special),
            vocab_size,
            eos,
            bos,
        };
        tokenizer.recognise(&vocab);
        Ok(tokenizer)
    }

    /// Takes the direct path if this is what [`Self::bytes`] or [`Self::chars`] would make, to the last field, or splits words as GPT-2.
    fn recognise(&mut self, vocab: &HashMap<String, u32>) {
        let (end, words): (Vec<_>, Vec<_>) = vocab.iter().partition(|(token, _)| *token == END_OF_TEXT);
        let chars: Option<Vec<(char, u32)>> = words.iter().map(|(token, id)| Some((only_char(token)?, **id))).collect();
        let Ok(mine) = serde_json::from_slice::<Value>(&self.json) else {
            return;
        };
        if self.eos.is_some() == end.is_empty() {
            return;
        }
        let Some(chars) = chars else {
            if words::is_gpt2_like(&mine) {
                self.direct = Direct::Words;
            }
            return;
        };
        let same = |parts: Result<Value>| parts.is_ok_and(|parts| parts == mine);
        if same(super::build::bytes_json(!end.is_empty())) {
            self.direct = Direct::Bytes;
        } else if same(super::build::chars_json(chars.iter().map(|(c, _)| *c), !end.is_empty())) {
            self.direct = Direct::Chars(Arc::new(CharTable::new(chars)));
            self.spelling = Spelling::Verbatim;
        }
    }
}

fn only_char(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// The id of the token that `tokenizer_config.json` names for a role, as a string or as an object with `content`.
fn special_id(config: &Map<String, Value>, role: &str, vocab: &HashMap<String, u32>) -> Result<Option<u32>> {
    let token = match config.get(role) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(token)) => token,
        Some(value) => match value.get("content") {
            Some(Value::String(token)) => token,
            _ => bail!("tokenizer_config.json: {role} is neither a string nor an object with content. Correct it"),
        },
    };
    match vocab.get(token) {
        Some(id) => Ok(Some(*id)),
        None => bail!("tokenizer_config.json: {role} = {:?} is not in tokenizer.json. Correct one of them", shown(token)),
    }
}

fn first_id(value: &Value) -> Option<u32> {
    let id = value.as_array().map_or(Some(value), |list| list.first())?;
    u32::try_from(id.as_u64()?).ok()
}

fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let name = shown_path(path);
    let meta = fs::metadata(path).with_context(|| format!("{name}: cannot be opened"))?;
    ensure!(meta.is_file(), "{name}: not a regular file");
    ensure!(meta.len() <= most, "{name}: {} bytes, more than {} MiB. Is it the right file?", meta.len(), most >> 20);
    fs::read(path).with_context(|| format!("{name}: cannot be read"))
}

/// A small JSON object beside the tokenizer; empty if there is none.
fn read_config(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    let name = shown_path(path);
    serde_json::from_slice(&read_bounded(path, MAX_CONFIG_BYTES)?).map_err(|e| anyhow!("{name}: {}", shown(&e.to_string())))
}

/// What is checked in a `tokenizer.json` before the crate, which trusts it, sees it.
#[derive(Deserialize)]
struct TokenizerFile {
    model: ModelPart,
    #[serde(default)]
    added_tokens: Vec<AddedPart>,
    #[serde(default)]
    decoder: Option<Value>,
}

#[derive(Deserialize)]
struct ModelPart {
    vocab: Vocab,
}

#[derive(Deserialize)]
struct AddedPart {
    id: i64,
    content: String,
}

/// Tokens and ids in the order of the file; for Unigram, whose vocabulary is a list, the id is the place.
struct Vocab(Vec<(String, i64)>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocab;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map from token to id, or a list of [token, score]")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut entries = Vec::new();
                while let Some(token) = map.next_key::<String>()? {
                    let id = map.next_value::<i64>().map_err(|e| de::Error::custom(format!("token {:?}: {e}", shown(&token))))?;
                    entries.push((token, id));
                }
                Ok(Vocab(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocab, A::Error> {
                let mut entries = Vec::new();
                while let Some((token, _)) = list.next_element::<(String, IgnoredAny)>()? {
                    let id = entries.len() as i64;
                    entries.push((token, id));
                }
                Ok(Vocab(entries))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

impl TokenizerFile {
    /// Whether tokens are spelled in GPT-2's byte alphabet.
    fn has_byte_level_decoder(&self) -> bool {
        let is = |decoder: &Value, kind: &str| decoder.get("type").and_then(Value::as_str) == Some(kind);
        self.decoder.as_ref().is_some_and(|decoder| {
            let only = decoder.get("decoders").and_then(Value::as_array).filter(|list| list.len() == 1).map(|list| &list[0]);
            is(decoder, "ByteLevel") || (is(decoder, "Sequence") && only.is_some_and(|d| is(d, "ByteLevel")))
        })
    }
}

fn check_ids(name: &str, file: &TokenizerFile) -> Result<()> {
    let vocab = &file.model.vocab.0;
    ensure!(!vocab.is_empty() || !file.added_tokens.is_empty(), "{name}: model.vocab is empty");
    let (mut ids, mut tokens) = (HashSet::new(), HashSet::new());
    for (token, id) in vocab {
        ensure!(tokens.insert(token.as_str()), "{name}: model.vocab has the token {:?} twice", shown(token));
        ensure!(ids.insert(*id), "{name}: model.vocab: token {:?} has id {id}, which another token has too", shown(token));
    }
    let count = vocab.len() + file.added_tokens.iter().filter(|t| !tokens.contains(t.content.as_str())).count();
    let most = 2 * count as u64 + MAX_ID_GAP;
    let added = file.added_tokens.iter().map(|t| (&t.content, t.id));
    for (token, id) in vocab.iter().map(|(token, id)| (token, *id)).chain(added) {
        let fits = u64::try_from(id).is_ok_and(|id| id < most);
        ensure!(
            fits,
            "{name}: token {:?} has id {id}, but there are {count} tokens. Correct or regenerate the file",
            shown(token)
        );
    }
    Ok(())
}

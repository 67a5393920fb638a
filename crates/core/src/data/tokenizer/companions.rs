//! Special tokens that are only named by the files next to `tokenizer.json`, handled as in `transformers` (`tokenization_utils_base.py`
//! `_from_pretrained`, `tokenization_utils_tokenizers.py` `__init__`).

use super::ends::Generation;
use super::guarded;
use crate::data::display_text;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use tokenizers::AddedToken;

/// The roles of `transformers`, in its order; other keys that end in `_token` are roles too.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const CONFIG: &str = "tokenizer_config.json";

/// The files next to a `tokenizer.json`.
#[derive(Default)]
pub(super) struct Companions {
    /// `tokenizer_config.json`, merged with `special_tokens_map.json`.
    pub(super) config: Map<String, Value>,
    /// `added_tokens.json`.
    pub(super) added: Map<String, Value>,
    /// Files that are kept unchanged.
    pub(super) extra: Vec<(String, Vec<u8>)>,
    /// `vocab_size` of `config.json`.
    pub(super) most: Option<usize>,
    pub(super) generation: Generation,
    /// `config.json`, which may decide about the tokenizer's class; empty for a GGUF file.
    pub(super) model: Map<String, Value>,
}

impl Companions {
    /// The files of a built-in tokenizer.
    pub(super) fn of(config: Map<String, Value>) -> Self {
        Self { config, ..Self::default() }
    }
}

/// `special_tokens_map.json` takes precedence over `tokenizer_config.json`, unless the latter lists its added tokens.
pub(super) fn merge_map(config: &mut Map<String, Value>, map: Map<String, Value>) {
    if !config.contains_key("added_tokens_decoder") {
        config.extend(map);
    }
}

/// Adds the tokens of these files to `inner`, in the order of `transformers`. A role's token that neither ends nor begins a text and lies
/// outside the model's vocabulary is left out: the model has no row for it.
pub(super) fn add_tokens(inner: &mut tokenizers::Tokenizer, files: &Companions) -> Result<()> {
    let (roles, extra) = (roles(&files.config)?, extra(&files.config)?);
    let listed = listed(inner, files, &roles, &extra)?;
    let mut known: HashSet<String> = inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    known.extend(listed.values().map(|token| token.content.clone()));
    let mut next = listed.keys().map(|id| *id as usize + 1).fold(size(inner), usize::max);
    let declared: Vec<(u32, String)> = listed.iter().map(|(id, token)| (*id, token.content.clone())).collect();
    let mut tokens: Vec<AddedToken> = listed.into_values().collect();
    for (role, token) in roles.into_iter().chain(extra.into_iter().map(|token| (String::new(), token))) {
        if known.contains(&token.content) {
            continue;
        }
        if inner.token_to_id(&token.content).is_none() {
            if let Some(most) = files.most.filter(|most| next >= *most) {
                ensure!(
                    !["bos_token", "eos_token"].contains(&role.as_str()),
                    "{CONFIG}: {role} = {:?} is not in tokenizer.json, and the model's vocabulary of {most} has no room for it. Correct \
                     one of them",
                    display_text(&token.content)
                );
                continue;
            }
            next += 1;
        }
        known.insert(token.content.clone());
        tokens.push(token);
    }
    guarded(|| inner.add_tokens(tokens))
        .map_err(|e| anyhow!("{CONFIG}: its added tokens cannot be used: {}", display_text(&e)))?;
    for (id, content) in declared {
        let got = inner.token_to_id(&content).unwrap_or_default();
        let token = display_text(&content);
        ensure!(got == id, "{CONFIG}: added_tokens_decoder: token {token:?} has id {id}, but {got} by its place. Correct the id");
    }
    Ok(())
}

/// Added tokens by id: `added_tokens_decoder`, else those of `tokenizer.json` and `added_tokens.json`. Those with a role are special.
fn listed(
    inner: &tokenizers::Tokenizer,
    files: &Companions,
    roles: &[(String, AddedToken)],
    extra: &[AddedToken],
) -> Result<BTreeMap<u32, AddedToken>> {
    let mut listed = BTreeMap::new();
    let with_role: HashSet<&str> = roles.iter().map(|(_, token)| token.content.as_str()).collect();
    let more: HashSet<&str> = extra.iter().map(|token| token.content.as_str()).collect();
    let has_role = |content: &str| with_role.contains(content);
    let not_an_id = |key: &str| format!("{CONFIG}: added_tokens_decoder: {:?} is not a token id. Correct it", display_text(key));
    match files.config.get("added_tokens_decoder") {
        Some(Value::Object(tokens)) => {
            for (key, value) in tokens {
                let id = key.parse().with_context(|| not_an_id(key))?;
                let token = value.as_object().and_then(|fields| flagged(fields, false));
                listed.insert(
                    id,
                    token.with_context(|| format!("{CONFIG}: added_tokens_decoder: {id} has no content. Correct it"))?,
                );
            }
        }
        Some(_) => bail!("{CONFIG}: added_tokens_decoder is not a map from id to token. Correct it"),
        None => {
            for (content, id) in &files.added {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.with_context(|| {
                    format!("added_tokens.json: token {:?} has no token id. Correct it", display_text(content))
                })?;
                let special = has_role(content) || more.contains(content.as_str());
                listed.insert(id, AddedToken::from(content.clone(), special));
            }
            listed.extend(inner.get_added_tokens_decoder());
        }
    }
    for token in listed.values_mut() {
        token.special |= has_role(&token.content);
    }
    Ok(listed)
}

/// The largest id + 1.
fn size(inner: &tokenizers::Tokenizer) -> usize {
    inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
}

/// (role, token) of `config`.
fn roles(config: &Map<String, Value>) -> Result<Vec<(String, AddedToken)>> {
    let mut roles = Vec::new();
    let more = config.keys().map(String::as_str).filter(|key| key.ends_with("_token") && !ROLES.contains(key));
    for role in ROLES.into_iter().chain(more) {
        let known = ROLES.contains(&role);
        match config.get(role).filter(|value| known || value.is_string()) {
            None | Some(Value::Null) => {}
            Some(value) => roles.push((role.to_owned(), token(role, value)?)),
        }
    }
    if let Some(Value::Object(named)) = config.get("extra_special_tokens") {
        for (role, value) in named {
            roles.push((role.clone(), token(role, value)?));
        }
    }
    Ok(roles)
}

/// Special tokens without a role.
fn extra(config: &Map<String, Value>) -> Result<Vec<AddedToken>> {
    let list = |key: &str| config.get(key).and_then(Value::as_array).filter(|list| !list.is_empty());
    let Some(list) = list("extra_special_tokens").or_else(|| list("additional_special_tokens")) else { return Ok(Vec::new()) };
    list.iter().map(|value| token("extra_special_tokens", value)).collect()
}

/// The text of the token that has a role.
pub(super) fn content<'a>(config: &'a Map<String, Value>, role: &str) -> Option<&'a str> {
    let value = config.get(role)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A special token, given as a string, or as an object with `content` and flags.
fn token(role: &str, value: &Value) -> Result<AddedToken> {
    match value {
        Value::String(content) => Some(AddedToken::from(content.clone(), true)),
        Value::Object(fields) => flagged(fields, true).map(|token| token.special(true)),
        _ => None,
    }
    .with_context(|| format!("{CONFIG}: {role} is neither a string nor an object with content. Correct it"))
}

fn flagged(fields: &Map<String, Value>, special: bool) -> Option<AddedToken> {
    let flag = |name: &str| fields.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(special);
    let token = AddedToken::from(fields.get("content")?.as_str()?, special);
    let normalized = flag("normalized").unwrap_or(token.normalized);
    let set = |name: &str| flag(name).unwrap_or(false);
    Some(token.single_word(set("single_word")).lstrip(set("lstrip")).rstrip(set("rstrip")).normalized(normalized))
}

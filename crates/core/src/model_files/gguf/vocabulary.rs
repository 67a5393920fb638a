//! The tokenizer of a GGUF file, as the files of a Hugging Face folder.

use super::file::GgufFile;
use super::pre_tokenizer::PreTokenizer;
use super::value::{Metadata, MetadataValue};
use crate::model_files::{byte_of, char_of};
use crate::vfs::{clean, display_path};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// Maximum vocabulary size.
const MAX_TOKENS: usize = 1 << 20;
/// Limits for reconstructing merges: length of a token that is split at each of its characters, total bytes, and number of pairs.
pub(crate) const MAX_TOKEN: usize = 1 << 10;
const MAX_TOKEN_BYTES: usize = 64 << 20;
const MAX_PAIRS: usize = 1 << 21;

/// Kind of a token (llama.cpp's `llama_token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenType {
    Normal = 1,
    Unknown = 2,
    /// A special token.
    Control = 3,
    /// An added token with text.
    UserDefined = 4,
    /// Fills a gap between ids.
    Unused = 5,
    /// A byte, as `<0x0A>`.
    Byte = 6,
}

/// A tokenizer as files.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`
    pub tokenizer: Value,
    /// `tokenizer_config.json`, with the chat template in it.
    pub config: Map<String, Value>,
}

/// A vocabulary by id.
struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Vec<TokenType>,
    ids: HashMap<&'a str, usize>,
}

impl GgufFile {
    /// The tokenizer.
    ///
    /// # Errors
    /// No tokenizer, or an unsupported one, by name.
    pub fn tokenizer_files(&self) -> Result<TokenizerFiles> {
        tokenizer_files(&self.metadata).with_context(|| display_path(self.path()))
    }
}

/// The tokenizer of this metadata.
pub(crate) fn tokenizer_files(metadata: &Metadata) -> Result<TokenizerFiles> {
    let model = metadata.text("tokenizer.ggml.model")?.context("tokenizer.ggml.model is missing: the file has no tokenizer")?;
    let vocabulary = Vocabulary::read(metadata)?;
    let mut adds_bos = false;
    let mut tokenizer = match model {
        "gpt2" => {
            let pre = PreTokenizer::from_name(metadata.text("tokenizer.ggml.pre")?)?;
            adds_bos = pre.adds_bos;
            vocabulary.byte_level(metadata, &pre)?
        }
        "llama" => {
            adds_bos = true;
            vocabulary.sentencepiece(metadata)?
        }
        "rwkv" => vocabulary.single_symbol_tokenizer(&vocabulary.unescaped()?).context("tokenizer.ggml.model = \"rwkv\"")?,
        other => {
            bail!("tokenizer.ggml.model = \"{}\": lehr reads gpt2 (byte-level BPE) and llama (SentencePiece BPE)", clean(other))
        }
    };
    let adds_bos = metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
    let adds_eos = metadata.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let role = |name: &str| vocabulary.role(metadata, name);
    let (bos, eos) = (role("bos")?, role("eos")?);
    tokenizer["post_processor"] = frame(bos.filter(|_| adds_bos), eos.filter(|_| adds_eos));
    let mut config = Map::new();
    for (name, token) in [("bos", bos), ("eos", eos), ("unk", role("unknown")?), ("pad", role("padding")?)] {
        if let Some((_, token)) = token {
            config.insert(format!("{name}_token"), json!(token));
        }
    }
    config.insert("add_bos_token".into(), json!(adds_bos));
    config.insert("add_eos_token".into(), json!(adds_eos));
    if let Some(template) = metadata.text("tokenizer.chat_template")? {
        config.insert("chat_template".into(), json!(template));
    }
    Ok(TokenizerFiles { tokenizer, config })
}

/// Post-processing that adds BOS and EOS.
fn frame(begin: Option<(usize, &str)>, end: Option<(usize, &str)>) -> Value {
    if begin.is_none() && end.is_none() {
        return Value::Null;
    }
    let special = |(_, token): (usize, &str)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let around = |id: &str, kind: usize| {
        let text = json!({"Sequence": {"id": id, "type_id": kind}});
        let parts = begin.map(special).into_iter().chain([text]).chain(end.map(special));
        parts.collect::<Vec<Value>>()
    };
    let specials = begin.into_iter().chain(end);
    let specials: Map<String, Value> =
        specials.map(|(id, token)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}))).collect();
    let pair: Vec<Value> = around("A", 0).into_iter().chain(around("B", 1)).collect();
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": specials})
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self> {
        let tokens = metadata.texts("tokenizer.ggml.tokens")?.context("tokenizer.ggml.tokens is missing")?;
        ensure!((1..=MAX_TOKENS).contains(&tokens.len()), "tokenizer.ggml.tokens has {} entries", tokens.len());
        let kinds = match metadata.get("tokenizer.ggml.token_type") {
            None => vec![TokenType::Normal; tokens.len()],
            Some(MetadataValue::I32s(list)) => list.iter().map(|code| kind_of(*code)).collect::<Result<_>>()?,
            Some(_) => bail!("tokenizer.ggml.token_type: must be a list of 32-bit numbers"),
        };
        ensure!(
            kinds.len() == tokens.len(),
            "tokenizer.ggml.token_type has {} entries, tokenizer.ggml.tokens {}",
            kinds.len(),
            tokens.len()
        );
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate().filter(|(id, _)| kinds[*id] != TokenType::Unused) {
            if let Some(other) = ids.insert(token.as_str(), id) {
                bail!("tokenizer.ggml.tokens: {:?} has the ids {other} and {id}", clean(token));
            }
        }
        Ok(Self { tokens, kinds, ids })
    }

    /// The token of a role.
    fn role(&self, metadata: &Metadata, name: &str) -> Result<Option<(usize, &'a str)>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = metadata.integer(&key)? else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|id| Some((id, self.tokens.get(id)?.as_str())));
        let token = token.with_context(|| format!("{key} = {id}: there are {} tokens", self.tokens.len()))?;
        // llama.cpp stores the padding id if the tokenizer has no such token.
        Ok(Some(token).filter(|(id, _)| self.kinds[*id] != TokenType::Unused))
    }

    fn used(&self) -> impl Iterator<Item = (usize, &'a str, TokenType)> {
        let used = self.tokens.iter().zip(&self.kinds).enumerate().filter(|(_, (_, kind))| **kind != TokenType::Unused);
        used.map(|(id, (token, kind))| (id, token.as_str(), *kind))
    }

    fn added(&self) -> Vec<Value> {
        let added =
            self.used().filter(|(_, _, kind)| matches!(kind, TokenType::Control | TokenType::UserDefined | TokenType::Unknown));
        added.map(|(id, token, kind)| added_token(id, token, kind != TokenType::UserDefined)).collect()
    }

    fn map(&self) -> Map<String, Value> {
        self.used().map(|(id, token, _)| (token.to_owned(), json!(id))).collect()
    }

    fn byte_level(&self, metadata: &Metadata, pre: &PreTokenizer) -> Result<Value> {
        let merges = metadata.texts("tokenizer.ggml.merges")?.context("tokenizer.ggml.merges is missing")?;
        let known = |token: &str| self.ids.contains_key(token);
        let (mut kept, mut lost) = (Vec::with_capacity(merges.len()), None);
        for merge in merges {
            // The first part has at least one character, which may be a space.
            let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let (left, right) = at.map(|at| (&merge[..at], &merge[at + 1..])).unwrap_or_default();
            ensure!(!left.is_empty() && !right.is_empty(), "tokenizer.ggml.merges: {:?} is not a pair", clean(merge));
            if known(left) && known(right) && known(&format!("{left}{right}")) {
                kept.push(json!([left, right]));
            } else {
                lost = Some(merge);
            }
        }
        // Files of lehr's own tokenizers of characters and bytes, with merges that only join the bytes of a character.
        if let Some(lost) = lost.filter(|_| kept.len() < merges.len()) {
            let spelled = self.used().filter(|(_, _, kind)| *kind == TokenType::Normal);
            let texts: Option<Vec<(usize, Vec<u8>)>> = spelled.map(|(id, token, _)| Some((id, bytes_of(token)?))).collect();
            return match texts.map(|texts| self.single_symbol_tokenizer(&texts)) {
                Some(Ok(tokenizer)) => Ok(tokenizer),
                _ => bail!("tokenizer.ggml.merges: {:?} makes no token", clean(lost)),
            };
        }
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        Ok(tokenizer_json(self.added(), pre.json(), byte_level, bpe(self.map(), kept, pre.ignore_merges)))
    }

    /// A tokenizer whose tokens are the single bytes or characters `texts`; other text is rejected.
    fn single_symbol_tokenizer(&self, texts: &[(usize, Vec<u8>)]) -> Result<Value> {
        if texts.len() == 256 && texts.iter().all(|(_, text)| text.len() == 1) {
            let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
            let mut map: Map<String, Value> = texts.iter().map(|(id, text)| (char_of(text[0]).to_string(), json!(id))).collect();
            map.extend(self.specials());
            return Ok(tokenizer_json(self.added(), byte_level.clone(), byte_level, bpe(map, Vec::new(), false)));
        }
        let mut map = Map::new();
        for (id, text) in texts {
            let text = std::str::from_utf8(text).ok().filter(|text| text.chars().count() == 1);
            map.insert(text.with_context(|| format!("token {id} is not a single character"))?.to_owned(), json!(id));
        }
        map.extend(self.specials());
        let split = json!({"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false});
        let model = json!({"type": "WordLevel", "vocab": map, "unk_token": "[UNK]"});
        Ok(tokenizer_json(self.added(), split, json!({"type": "Fuse"}), model))
    }

    fn specials(&self) -> impl Iterator<Item = (String, Value)> {
        self.used().filter(|(_, _, kind)| *kind != TokenType::Normal).map(|(id, token, _)| (token.to_owned(), json!(id)))
    }

    /// The texts of an RWKV vocabulary, without Python's escapes.
    fn unescaped(&self) -> Result<Vec<(usize, Vec<u8>)>> {
        let normal = self.used().filter(|(_, _, kind)| *kind == TokenType::Normal);
        normal.map(|(id, token, _)| Ok((id, unescape(token).with_context(|| format!("token {id} is not escaped"))?))).collect()
    }

    /// As transformers' `sentencepiece_tokenizer`: pieces are merged in the order of their scores.
    fn sentencepiece(&self, metadata: &Metadata) -> Result<Value> {
        let Some(MetadataValue::F32s(scores)) = metadata.get("tokenizer.ggml.scores") else {
            bail!("tokenizer.ggml.scores is missing, or no list of 32-bit floats")
        };
        ensure!(
            scores.len() == self.tokens.len() && scores.iter().all(|score| !score.is_nan()),
            "tokenizer.ggml.scores has {} entries, tokenizer.ggml.tokens {}",
            scores.len(),
            self.tokens.len()
        );
        let prefix = metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let mut model = bpe(self.map(), self.merges(scores)?, false);
        (model["fuse_unk"], model["byte_fallback"]) = (json!(true), json!(true));
        model["unk_token"] = json!(self.role(metadata, "unknown")?.map(|(_, token)| token));
        let scheme = if prefix { "first" } else { "never" };
        let pre = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(tokenizer_json(self.added(), pre, json!({"type": "Sequence", "decoders": decoders}), model))
    }

    /// Every pair of tokens that forms a token, best score first (transformers' `generate_merges`).
    fn merges(&self, scores: &[f32]) -> Result<Vec<Value>> {
        struct Pair<'b> {
            parts: (&'b str, &'b str),
            key: (f32, usize, usize),
        }
        let bytes: usize = self.tokens.iter().map(String::len).sum();
        ensure!(bytes <= MAX_TOKEN_BYTES, "tokenizer.ggml.tokens has {bytes} bytes of text: is it a vocabulary?");
        let mut pairs = Vec::new();
        for (id, token, _) in self.used() {
            ensure!(
                token.len() <= MAX_TOKEN,
                "tokenizer.ggml.tokens: token {id} has {} bytes, more than {MAX_TOKEN}",
                token.len()
            );
            ensure!(pairs.len() <= MAX_PAIRS, "tokenizer.ggml.tokens: more than {MAX_PAIRS} pairs of tokens make a token");
            let first = pairs.len();
            let count = token.chars().count();
            for (before, (at, _)) in token.char_indices().enumerate().skip(1) {
                let parts = token.split_at(at);
                if self.ids.contains_key(parts.0) && self.ids.contains_key(parts.1) {
                    pairs.push(Pair { parts, key: (scores[id], before, count - before) });
                }
            }
            pairs[first..].sort_by_key(|pair| (self.ids[pair.parts.0], self.ids[pair.parts.1]));
        }
        let order = |pair: &Pair| (pair.key.1, pair.key.2);
        pairs.sort_by(|a, b| b.key.0.total_cmp(&a.key.0).then_with(|| order(b).cmp(&order(a))));
        Ok(pairs.into_iter().map(|pair| json!([pair.parts.0, pair.parts.1])).collect())
    }
}

fn kind_of(code: i32) -> Result<TokenType> {
    let all =
        [TokenType::Normal, TokenType::Unknown, TokenType::Control, TokenType::UserDefined, TokenType::Unused, TokenType::Byte];
    // Undefined, as in a file of an old converter.
    let found = if code == 0 { Some(TokenType::Normal) } else { all.into_iter().find(|kind| *kind as i32 == code) };
    found.with_context(|| format!("tokenizer.ggml.token_type: {code} is not a type of token"))
}

fn bpe(vocab: Map<String, Value>, merges: Vec<Value>, ignore_merges: bool) -> Value {
    json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges})
}

fn tokenizer_json(added: Vec<Value>, pre: Value, decoder: Value, model: Value) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre, "post_processor": null, "decoder": decoder, "model": model})
}

fn added_token(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special})
}

/// The bytes of a token in GPT-2's alphabet; `None` if it is not in that alphabet.
pub(crate) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// Python's escapes, as llama.cpp reads them (`llama_unescape_rwkv_token`).
fn unescape(token: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = token.bytes();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'\\' => match rest.next()? {
                b't' => b'\t',
                b'n' => b'\n',
                b'r' => b'\r',
                b'x' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                }
                other => other,
            },
            other => other,
        });
    }
    Some(out)
}

/// The inverse of [`unescape`]: bytes outside printable ASCII as `\xNN`.
pub(crate) fn escape(text: &[u8]) -> String {
    let mut out = String::new();
    for byte in text {
        match byte {
            b'\\' => out.push_str("\\\\"),
            0x21..=0x7e => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

/// Placeholder texts for unused ids; none is one of `tokens`.
pub(crate) fn fillers(tokens: &HashSet<&str>) -> impl FnMut(usize) -> String {
    let mark = (0..).map(|n| "_".repeat(n)).find(|mark| !tokens.iter().any(|t| t.starts_with(&format!("[{mark}PAD"))));
    let mark = mark.unwrap_or_default();
    move |id| format!("[{mark}PAD{id}]")
}

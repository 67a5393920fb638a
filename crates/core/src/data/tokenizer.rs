//! Text to token ids and back, always defined by a `tokenizer.json` that Hugging Face tools can open.
//!
//! Built in: `bytes` (one token per byte), `chars` (one token per character of the corpus), `words` (one token per word between spaces),
//! `bpe:N` (byte-level BPE trained on the corpus). Any other `tokenizer.json` is read with the `tokenizers` crate. The built-in ones have a
//! direct implementation that is many times faster and gives the same ids; the crate is the reference, and tests compare the two.

mod build;
mod chat;
mod classes;
mod companions;
mod ends;
mod files;
mod frame;
mod gguf;
mod gguf_metadata;
mod growth;
mod stream;
mod word_splitter;

pub use ends::EndTokens;
pub(super) use frame::TextFrame;
pub use gguf_metadata::gguf_metadata;
pub use stream::DecodeStream;
pub(super) use word_splitter::WordMemory;

use super::display_text;
use crate::model_files::char_of;
use anyhow::{Result, anyhow, bail, ensure};
use std::cell::Cell;
use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Once, OnceLock};

/// The token that the built-in tokenizers append to each of several documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The token of `words` for out-of-vocabulary words.
pub const UNKNOWN: &str = "<unk>";

/// The largest vocabulary of `bpe:N`.
const MAX_BPE_VOCAB: usize = 1 << 20;

/// The setting `tokenizer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// One token per byte: 256 tokens, any text can be encoded.
    Bytes,
    /// One token per character that occurs in the corpus.
    Chars,
    /// One token per word that occurs in the corpus; words are separated by spaces.
    Words,
    /// Byte-level BPE with at most this many tokens, trained on the corpus.
    Bpe(usize),
    /// A `tokenizer.json`, or the folder that contains it.
    Path(PathBuf),
}

impl FromStr for TokenizerKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let hint = "Use bytes, chars, words, bpe:N, or a path to a tokenizer.json or its folder";
        Ok(match text {
            "" => bail!("tokenizer = \"\": empty. {hint}"),
            "bytes" => Self::Bytes,
            "chars" => Self::Chars,
            "words" => Self::Words,
            _ => match text.strip_prefix("bpe:") {
                Some(size) => {
                    let n = size
                        .parse()
                        .map_err(|_| anyhow!("tokenizer = {}: N must be a whole number. {hint}", display_text(text)))?;
                    ensure!(
                        (257..=MAX_BPE_VOCAB).contains(&n),
                        "tokenizer = {}: N must be 257 (256 bytes and {END_OF_TEXT}) to {MAX_BPE_VOCAB}",
                        display_text(text)
                    );
                    Self::Bpe(n)
                }
                None if text == "bpe" => bail!("tokenizer = bpe: the size is missing. Write bpe:N, such as bpe:1024"),
                None => Self::Path(text.into()),
            },
        })
    }
}

/// A tokenizer; cheap to clone, can be shared between threads.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    direct: BuiltinTokenizer,
    spelling: TokenSpelling,
    /// `tokenizer.json`, as it was read or built.
    json: Arc<[u8]>,
    /// `tokenizer_config.json`, including the chat template.
    config: Arc<serde_json::Map<String, serde_json::Value>>,
    /// Other files of the tokenizer, kept unchanged.
    extra: Arc<Vec<(String, Vec<u8>)>>,
    special: Arc<HashSet<u32>>,
    vocab_size: usize,
    eos: Option<u32>,
    bos: Option<u32>,
    pad: Option<u32>,
    /// End tokens, padding and sampling settings of the model's files.
    generation: Arc<ends::Generation>,
    /// Computed on first use, because it takes a rendering of the chat template.
    ends: Arc<OnceLock<EndTokens>>,
    /// [`Tokenizer::class_note`].
    class_note: Option<Arc<str>>,
}

/// Fast implementations for the built-in kinds of tokenizers.
#[derive(Clone)]
enum BuiltinTokenizer {
    Off,
    Bytes,
    Chars(Arc<CharTable>),
    /// Byte-level BPE over GPT-2's words: split and cached here, merged by the crate.
    Words,
}

/// The encoding of a token's text in the vocabulary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenSpelling {
    /// Each character of the token's text is a byte, in GPT-2's byte alphabet.
    ByteLevel,
    /// The token's text is the text itself.
    Verbatim,
    /// Decoded by the crate; the rules say what can be streamed, `None` that nothing can.
    Other(Option<stream::DecoderRules>),
}

/// Ids by code point, in pages of 256: a lookup is two loads, and an unused script costs nothing.
struct CharTable {
    pages: Vec<Option<Box<[u32; 256]>>>,
}

impl CharTable {
    const ABSENT: u32 = u32::MAX;

    fn new(chars: impl IntoIterator<Item = (char, u32)>) -> Self {
        let mut pages: Vec<Option<Box<[u32; 256]>>> = vec![None; (char::MAX as usize >> 8) + 1];
        for (c, id) in chars {
            let page = pages[c as usize >> 8].get_or_insert_with(|| Box::new([Self::ABSENT; 256]));
            page[c as usize & 255] = id;
        }
        Self { pages }
    }

    fn get(&self, c: char) -> Option<u32> {
        let page = self.pages[c as usize >> 8].as_ref()?;
        Some(page[c as usize & 255]).filter(|id| *id != Self::ABSENT)
    }
}

impl Tokenizer {
    /// The ids of a text, without special tokens at either end: for text from a chat template. For a complete text use
    /// [`Self::encode_text`]. The text of a special token becomes that token, as in `transformers`, unless `split_special_tokens` is set.
    ///
    /// An error if the tokenizer has no token for a character (only `chars` and external tokenizers).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids, &mut WordMemory::default())?;
        Ok(ids)
    }

    /// As [`Self::encode`], appending to `ids`. A caller with much text keeps one `memory` for this tokenizer, each thread its own.
    pub(super) fn encode_into(&self, text: &str, ids: &mut Vec<u32>, memory: &mut WordMemory) -> Result<()> {
        if matches!(self.direct, BuiltinTokenizer::Off) {
            ids.extend_from_slice(self.encode_by_crate(text, false)?.get_ids());
            return Ok(());
        }
        let Some(eos) = self.eos else {
            return self.encode_directly(text, ids, memory);
        };
        for (i, part) in text.split(END_OF_TEXT).enumerate() {
            if i > 0 {
                ids.push(eos);
            }
            self.encode_directly(part, ids, memory)?;
        }
        Ok(())
    }

    /// The text of ids. Tokens that begin or end a text, or pad, are left out; other special tokens are text (`<think>`). Ids without a
    /// token are left out too, as in `transformers`, because a model's vocabulary may be padded beyond its tokenizer's.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let seen: Vec<u32> = ids.iter().copied().filter(|id| !self.is_hidden(*id)).collect();
        guarded(|| self.inner.decode(&seen, false)).map_err(|e| anyhow!("tokenizer: cannot decode {} ids: {e}", ids.len()))
    }

    /// A streaming decoder for tokens that follow those of `before`: their text depends on them (the space before a word).
    pub fn decode_stream(&self, before: &[u32]) -> DecodeStream {
        DecodeStream::new(self.clone(), before)
    }

    /// Number of embedding rows that a model needs: the largest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The end-of-text token, if any.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// The begin-of-text token, if any.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Whether the id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// One token as readable text, with bytes of incomplete characters as `\xNN`; `None` if there is no such token.
    pub fn token_text(&self, id: u32) -> Option<String> {
        let token = self.inner.id_to_token(id)?;
        if self.spelling != TokenSpelling::ByteLevel || self.is_special(id) {
            return Some(token);
        }
        let mut text = String::new();
        for chunk in stream::bytes_of(&token).utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|b| format!("\\x{b:02X}")));
        }
        Some(text)
    }

    /// The id of a token by its exact text in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// `tokenizer.json`, always the same bytes: usable as a cache key.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Whether encoding is so fast that threads do not help.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.direct, BuiltinTokenizer::Bytes | BuiltinTokenizer::Chars(_))
    }

    fn encode_directly(&self, text: &str, ids: &mut Vec<u32>, memory: &mut WordMemory) -> Result<()> {
        match &self.direct {
            BuiltinTokenizer::Off => bail!("tokenizer: no direct path"),
            BuiltinTokenizer::Bytes => ids.extend(text.bytes().map(u32::from)),
            BuiltinTokenizer::Words => {
                for word in word_splitter::split(text) {
                    if !memory.append_cached(word, ids) {
                        let first = ids.len();
                        self.encode_word(word, ids)?;
                        memory.keep(word, &ids[first..]);
                    }
                }
            }
            BuiltinTokenizer::Chars(table) => {
                ids.reserve(text.len());
                for c in text.chars() {
                    ids.push(table.get(c).ok_or_else(|| unknown_char(c))?);
                }
            }
        }
        Ok(())
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) -> Result<()> {
        use tokenizers::Model;
        let spelled: String = word.bytes().map(char_of).collect();
        let tokens = guarded(|| self.inner.get_model().tokenize(&spelled));
        ids.extend(
            tokens
                .map_err(|e| anyhow!("tokenizer: cannot encode {:?}: {}", display_text(word), display_text(&e)))?
                .iter()
                .map(|t| t.id),
        );
        Ok(())
    }

    /// `whole`: with the special tokens that the post-processor adds.
    fn encode_by_crate(&self, text: &str, whole: bool) -> Result<tokenizers::Encoding> {
        guarded(|| self.inner.encode_fast(text, whole))
            .map_err(|e| anyhow!("tokenizer: cannot encode {:?}: {}", display_text(text), display_text(&e)))
    }
}

fn unknown_char(c: char) -> anyhow::Error {
    anyhow!(
        "tokenizer: the character {c:?} (U+{:04X}) is not in its vocabulary. Leave it out, or use bytes or bpe:N instead of chars",
        c as u32
    )
}

thread_local! {
    /// Whether a panic of this thread is reported as an error.
    static IN_GUARD: Cell<bool> = const { Cell::new(false) };
}

/// Runs the crate's code on external text; a panic becomes an error, without the usual text.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IN_GUARD.get() {
                usual(info);
            }
        }));
    });
    let before = IN_GUARD.replace(true);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    IN_GUARD.set(before);
    match outcome {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizers library panicked on it".into()),
    }
}

#[cfg(test)]
mod tests;

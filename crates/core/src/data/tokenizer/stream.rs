//! Streaming decoding: never half a character, and in total the same text as decoding all at once.

use super::{TokenSpelling, Tokenizer};
use anyhow::Result;
use serde_json::Value;

/// Number of tokens kept as context. A text depends on whether others precede it, and `Strip` removes from the beginning of the whole: the
/// context must have some text.
const CONTEXT: usize = 16;

/// The part of a decoded text that further tokens may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DecoderRules {
    /// A run of byte tokens (`<0x41>`) is decoded as a whole: one invalid byte turns all of its characters into U+FFFD.
    byte_runs: bool,
    /// U+FFFD at the end may be the beginning of a character.
    incomplete: bool,
}

impl DecoderRules {
    /// The rules of a decoder of `tokenizer.json`; `None` if any part of its text may change, so that it is only known at the end.
    pub(super) fn of(decoder: &Value) -> Option<Self> {
        let (mut rules, mut steps, mut fused) = (Self::default(), Vec::new(), false);
        flatten(decoder, &mut steps);
        for (i, step) in steps.iter().enumerate() {
            let single = step["pattern"]["String"].as_str().is_some_and(|pattern| pattern.chars().count() == 1);
            match step["type"].as_str().unwrap_or_default() {
                "Fuse" => fused = true,
                "Metaspace" => {}
                "Replace" if !fused || single => {}
                "WordPiece" if !fused => {}
                "Strip" if step["stop"] == 0 => {}
                "ByteFallback" if !fused && steps[..i].iter().all(|step| keeps_byte_tokens(step)) => rules.byte_runs = true,
                "ByteLevel" if !fused => (fused, rules.incomplete) = (true, true),
                _ => return None,
            }
        }
        Some(rules)
    }
}

/// The steps of a decoder, in order.
fn flatten<'a>(decoder: &'a Value, steps: &mut Vec<&'a Value>) {
    match decoder["decoders"].as_array() {
        Some(list) => list.iter().for_each(|step| flatten(step, steps)),
        None if decoder.is_null() => {}
        None => steps.push(decoder),
    }
}

/// Whether a step before `ByteFallback` neither makes nor changes byte tokens.
fn keeps_byte_tokens(step: &Value) -> bool {
    let (pattern, content) = (step["pattern"]["String"].as_str().unwrap_or_default(), step["content"].as_str().unwrap_or("x"));
    let in_byte_token = |c: char| c.is_ascii_hexdigit() || "<x>+".contains(c);
    step["type"] == "Replace"
        && pattern.chars().count() == 1
        && !(pattern.contains(in_byte_token) || content.contains(in_byte_token))
}

/// Whether `ByteFallback` reads the token as a byte.
pub(super) fn is_byte_token(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    token.len() == 6 && digits.is_some_and(|digits| u8::from_str_radix(digits, 16).is_ok())
}

/// Decodes tokens one at a time; created by [`Tokenizer::decode_stream`].
pub struct DecodeStream {
    tokenizer: Tokenizer,
    /// Byte-level tokenizers: the first bytes of an incomplete character.
    bytes: Vec<u8>,
    /// Other tokenizers: the most recent tokens; the decoder needs them as context.
    ids: Vec<u32>,
    /// Number of `ids` before the streamed text.
    before: usize,
    /// The beginning of the text of `ids` that precedes the stream or has been returned.
    shown: String,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, before: &[u32]) -> Self {
        let seen = |id: &u32| !tokenizer.is_hidden(*id) && tokenizer.inner.id_to_token(*id).is_some();
        let mut ids: Vec<u32> = before.iter().copied().filter(seen).collect();
        // Tokens that cannot be decoded are no context.
        let text = |ids: &[u32]| tokenizer.decode(ids).unwrap_or_default();
        let mut start = ids.len().saturating_sub(CONTEXT);
        while start > 0 && tokenizer.inner.id_to_token(ids[start]).is_some_and(|token| is_byte_token(&token)) {
            start -= 1;
        }
        let last = &ids[start..];
        let mut shown = text(last);
        if shown.is_empty() {
            shown = text(&ids);
        } else {
            ids = last.to_vec();
        }
        if matches!(tokenizer.spelling, TokenSpelling::Other(Some(rules)) if rules.incomplete) && shown.ends_with('\u{fffd}') {
            shown.pop();
        }
        Self { tokenizer, bytes: Vec::new(), before: ids.len(), shown, ids }
    }

    /// The text that this token completes. Empty for tokens that begin or end a text or pad, within a character, and while later tokens may
    /// change the text.
    ///
    /// # Errors
    /// A decoder that fails on these tokens.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.tokenizer.is_hidden(id) {
            return Ok(String::new());
        }
        let Some(token) = self.tokenizer.inner.id_to_token(id) else {
            return Ok(String::new());
        };
        match self.tokenizer.spelling {
            TokenSpelling::Verbatim => Ok(token),
            TokenSpelling::ByteLevel => {
                self.bytes.extend(bytes_of(&token));
                Ok(take_text(&mut self.bytes))
            }
            TokenSpelling::Other(rules) => {
                self.ids.push(id);
                match rules {
                    Some(rules) if !(rules.byte_runs && is_byte_token(&token)) => self.decode_more(rules.incomplete),
                    _ => Ok(String::new()),
                }
            }
        }
    }

    /// The rest of the text: an incomplete character becomes U+FFFD.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<String> {
        match self.tokenizer.spelling {
            TokenSpelling::Verbatim => Ok(String::new()),
            TokenSpelling::ByteLevel => Ok(String::from_utf8_lossy(&self.bytes).into_owned()),
            TokenSpelling::Other(_) => self.decode_more(false),
        }
    }

    /// The text of `ids` that has not been returned; `hold` keeps U+FFFD at its end back.
    fn decode_more(&mut self, hold: bool) -> Result<String> {
        let mut now = self.tokenizer.decode(&self.ids)?;
        if !now.starts_with(&self.shown) {
            // The continuation alters what precedes it (it extends a run of bytes): the text before stays as it was shown.
            self.ids.drain(..self.before);
            (self.before, self.shown) = (0, String::new());
            now = self.tokenizer.decode(&self.ids)?;
        }
        let whole = now.len();
        if hold && now.ends_with(char::REPLACEMENT_CHARACTER) {
            now.truncate(whole - char::REPLACEMENT_CHARACTER.len_utf8());
        }
        let text = now.get(self.shown.len()..).unwrap_or_default().to_owned();
        if now.len() > self.shown.len() {
            self.shown = now;
        }
        if self.shown.len() == whole && self.ids.len() > 2 * CONTEXT {
            let recent = self.ids[self.ids.len() - CONTEXT..].to_vec();
            let shown = self.tokenizer.decode(&recent)?;
            if !shown.is_empty() {
                (self.before, self.ids, self.shown) = (recent.len(), recent, shown);
            }
        }
        Ok(text)
    }
}

/// The bytes that a token of a byte-level tokenizer represents. An added token is plain text.
pub(super) fn bytes_of(token: &str) -> Vec<u8> {
    token.chars().map(crate::model_files::byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// Removes all but an incomplete last character from `bytes`, and decodes it like `from_utf8_lossy`.
fn take_text(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    loop {
        match std::str::from_utf8(&bytes[done..]) {
            Ok(good) => {
                text.push_str(good);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let good = done + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[done..good]));
                match error.error_len() {
                    Some(length) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        done = good + length;
                    }
                    None => {
                        bytes.drain(..good);
                        return text;
                    }
                }
            }
        }
    }
}

//! Streaming decoding: never half a character, and in total the same text as decoding all at once.

use super::{TokenSpelling, Tokenizer};
use anyhow::Result;

/// Maximum number of tokens held back while the text ends in the replacement character, which the model may have meant.
const MAX_PENDING: usize = 16;

/// Decodes tokens one at a time; created by [`Tokenizer::decode_stream`].
pub struct DecodeStream {
    tokenizer: Tokenizer,
    /// Byte-level tokenizers: the first bytes of an incomplete character.
    bytes: Vec<u8>,
    /// Other tokenizers: the most recent tokens, of which the first `shown` have been returned. The decoder needs them as context.
    ids: Vec<u32>,
    shown: usize,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, before: &[u32]) -> Self {
        let ids = before[before.len().saturating_sub(MAX_PENDING)..].to_vec();
        Self { tokenizer, bytes: Vec::new(), shown: ids.len(), ids }
    }

    /// The text that this token completes; empty for tokens that begin or end a text or pad, and within a character.
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
            TokenSpelling::Other => {
                self.ids.push(id);
                self.decode_rest(false)
            }
        }
    }

    /// The rest of the text: an incomplete character becomes U+FFFD.
    pub fn finish(mut self) -> Result<String> {
        match self.tokenizer.spelling {
            TokenSpelling::Verbatim => Ok(String::new()),
            TokenSpelling::ByteLevel => Ok(String::from_utf8_lossy(&self.bytes).into_owned()),
            TokenSpelling::Other => self.decode_rest(true),
        }
    }

    fn decode_rest(&mut self, at_end: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.shown])?;
        let now = self.tokenizer.decode(&self.ids)?;
        let incomplete = now.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.shown < MAX_PENDING;
        if !at_end && (incomplete || now.len() <= before.len()) {
            return Ok(String::new());
        }
        let text = now.get(before.len()..).unwrap_or_default().to_owned();
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(text)
    }
}

/// The bytes that a token of a byte-level tokenizer represents. An added token is plain text.
pub(super) fn bytes_of(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// GPT-2's byte alphabet: printable Latin-1 represents itself, the other 68 bytes follow in order from U+0100.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The character for a byte in GPT-2's byte alphabet: the inverse of [`byte_of`].
pub(crate) fn char_of(byte: u8) -> char {
    match byte {
        0x00..=0x20 => char::from_u32(0x100 + u32::from(byte)).unwrap_or(' '),
        0x7F..=0xA0 => char::from_u32(0x121 + u32::from(byte) - 0x7F).unwrap_or(' '),
        0xAD => '\u{143}',
        _ => char::from(byte),
    }
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

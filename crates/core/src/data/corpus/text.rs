//! Plain text, read in pieces of about 1 MiB that are cut where no tokenizer merges across the cut.

use super::{ByteReader, DocumentPiece};
use crate::data::{END_OF_TEXT, Notices};
use crate::number_format::counted;
use anyhow::{Context, Result, ensure};
use std::io::Read;

/// Bytes per piece.
const PIECE_BYTES: usize = 1 << 20;
/// Bytes before the end of the buffer that are searched for a good cut.
const CUT_SEARCH_BYTES: usize = 1 << 16;

/// Reader of one text file; bytes that are not UTF-8 are skipped and counted.
pub(super) struct TextReader {
    name: String,
    source_bytes: u64,
    reader: ByteReader,
    /// Read but not yet returned.
    buffer: Vec<u8>,
    at_end: bool,
    finished: bool,
    bytes_read: u64,
    bad_bytes: u64,
    /// Position of the start of `buffer`, counted from 0.
    line: u64,
    column: u64,
    saw_crlf: bool,
}

impl TextReader {
    pub(super) fn new(name: String, source_bytes: u64, reader: ByteReader) -> Self {
        Self {
            name,
            source_bytes,
            reader,
            buffer: Vec::new(),
            at_end: false,
            finished: false,
            bytes_read: 0,
            bad_bytes: 0,
            line: 0,
            column: 0,
            saw_crlf: false,
        }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read.min(self.source_bytes)
    }

    /// The next piece; the last one ends the document.
    pub(super) fn next_piece(&mut self, notices: &mut Notices) -> Result<Option<DocumentPiece>> {
        if self.finished {
            return Ok(None);
        }
        self.fill()?;
        let (mut text, undecided) = self.decode(notices)?;
        self.saw_crlf = self.saw_crlf || text.contains("\r\n");
        self.buffer = if self.at_end {
            self.finished = true;
            self.warn_at_end(notices);
            Vec::new()
        } else {
            let mut rest = text.split_off(cut_point(&text)).into_bytes();
            rest.extend(undecided);
            rest
        };
        self.advance(&text);
        if text.is_empty() && self.bytes_read == 0 {
            return Ok(None);
        }
        Ok(Some(DocumentPiece { text, ends_document: self.finished }))
    }

    fn fill(&mut self) -> Result<()> {
        // At least half a piece in addition to what is left, so that a buffer of uncut text still grows.
        let wanted = PIECE_BYTES.saturating_sub(self.buffer.len()).max(PIECE_BYTES / 2) as u64;
        let read = self.reader.by_ref().take(wanted).read_to_end(&mut self.buffer);
        let read = read.with_context(|| format!("{}: cannot be read", self.name))? as u64;
        self.bytes_read += read;
        self.at_end = read < wanted;
        Ok(())
    }

    /// The buffer as text, and the bytes at its end that may be an incomplete character.
    fn decode(&mut self, notices: &mut Notices) -> Result<(String, Vec<u8>)> {
        let bytes = match String::from_utf8(std::mem::take(&mut self.buffer)) {
            Ok(text) => return Ok((text, Vec::new())),
            Err(error) => error.into_bytes(),
        };
        let mut text = String::with_capacity(bytes.len());
        let mut rest = bytes.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(good) => {
                    text.push_str(good);
                    return Ok((text, Vec::new()));
                }
                Err(error) => error,
            };
            let (good, bad) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(good));
            let length = match error.error_len() {
                Some(length) => length,
                None if self.at_end => bad.len(),
                None => return Ok((text, bad.to_vec())),
            };
            self.count_bad(length, &text, notices)?;
            rest = &bad[length..];
        }
    }

    fn count_bad(&mut self, length: usize, before: &str, notices: &mut Notices) -> Result<()> {
        if self.bad_bytes == 0 {
            let line = self.line + newlines(before);
            let column = before.rfind('\n').map_or(self.column + before.len() as u64, |at| (before.len() - at - 1) as u64);
            notices.push(format!("{}:{}:{}: not UTF-8; such bytes are left out", self.name, line + 1, column + 1));
        }
        self.bad_bytes += length as u64;
        ensure!(
            self.bad_bytes * 100 <= self.source_bytes,
            "{}: more than 1 % of its {} bytes are not UTF-8. Is it text? Convert it to UTF-8",
            self.name,
            self.source_bytes
        );
        Ok(())
    }

    fn warn_at_end(&self, notices: &mut Notices) {
        if self.bad_bytes > 0 {
            notices.push(format!("{}: {} left out: not UTF-8", self.name, counted(self.bad_bytes, "byte")));
        }
        if self.saw_crlf {
            notices.push(format!("{}: lines end in CR LF, kept as they are", self.name));
        }
    }

    fn advance(&mut self, text: &str) {
        self.line += newlines(text);
        self.column = text.rfind('\n').map_or(self.column + text.len() as u64, |at| (text.len() - at - 1) as u64);
    }
}

fn newlines(text: &str) -> u64 {
    text.bytes().filter(|b| *b == b'\n').count() as u64
}

/// A cut such that tokenizing both sides separately gives the same tokens as tokenizing them together.
///
/// The word splitters of GPT-2 and its descendants end a word after a single newline and before a single space, if both neighbours are not
/// white space. If there is no such place near the end, the cut is between two characters.
fn cut_point(text: &str) -> usize {
    let bytes = text.as_bytes();
    let first = bytes.len().saturating_sub(CUT_SEARCH_BYTES).max(1);
    // ASCII neighbours only: other characters would have to be decoded, and there are enough ASCII ones.
    let solid = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_graphic);
    let lone = |at: &usize, byte: u8| bytes[*at] == byte && solid(at - 1) && solid(at + 1);
    let places = first..bytes.len();
    if let Some(newline) = places.clone().rev().find(|at| lone(at, b'\n')) {
        return newline + 1;
    }
    places.rev().find(|at| lone(at, b' ')).unwrap_or_else(|| before_marker(text))
}

/// The end of the text, or the start of an incomplete end-of-text marker there: a marker is never cut.
fn before_marker(text: &str) -> usize {
    let part = (1..END_OF_TEXT.len()).rev().find(|length| text.ends_with(&END_OF_TEXT[..*length]));
    // A text that is only such a prefix is cut at its end, or no piece would ever be returned.
    text.len() - part.filter(|length| *length < text.len()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_words() {
        assert_eq!(cut_point("one two\nthree"), 8);
        assert_eq!(cut_point("one two\n\nthree"), 3, "two newlines are one word to GPT-2");
        assert_eq!(cut_point("one  two"), 8);
        assert_eq!(cut_point(""), 0);
        assert_eq!(cut_point("ééé"), 6);
        assert_eq!((cut_point("ééé<|end"), cut_point("ééé<|endoftext|>"), cut_point("<")), (6, 19, 1), "never inside a marker");
    }
}

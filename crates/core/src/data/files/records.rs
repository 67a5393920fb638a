//! Splits JSON into records without parsing it: lines of JSONL, or the elements of one list. Memory is bounded.

use std::io::{BufRead, Result};
use std::ops::Range;

/// Longer records are skipped, to bound memory.
pub(in crate::data) const MAX_RECORD_BYTES: usize = 16 << 20;

/// Result of reading a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::data) enum Record {
    /// No more records.
    End,
    /// The record exceeds the limit and was skipped.
    TooLong,
    /// It is in [`Records::bytes`]; `true` if its end was found, `false` if only the end of the file.
    Whole(bool),
}

/// Reads records one at a time.
pub(in crate::data) struct Records<R> {
    reader: R,
    bytes: Vec<u8>,
    list: bool,
    place: TextPosition,
    /// Bytes read so far.
    consumed: u64,
}

/// Position in the text.
struct TextPosition {
    /// Whether a list was opened, or closed.
    opened: bool,
    closed: bool,
    line: u64,
    /// The line on which the record begins.
    start: u64,
}

/// State inside a list element.
#[derive(Default)]
struct ElementState {
    begun: bool,
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl<R: BufRead> Records<R> {
    /// A reader of lines, or of the elements of a list.
    pub(in crate::data) fn new(reader: R, list: bool) -> Self {
        Self {
            reader,
            bytes: Vec::new(),
            list,
            place: TextPosition { opened: false, closed: false, line: 1, start: 1 },
            consumed: 0,
        }
    }

    /// The current record.
    pub(in crate::data) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The line on which the record begins.
    pub(in crate::data) fn start_line(&self) -> u64 {
        self.place.start
    }

    /// Bytes read so far.
    pub(in crate::data) fn bytes_read(&self) -> u64 {
        self.consumed
    }

    /// The next record, which may be an empty line.
    pub(in crate::data) fn next(&mut self) -> Result<Record> {
        self.bytes.clear();
        let (mut inside, mut too_long) = (ElementState::default(), false);
        self.place.start = self.place.line;
        loop {
            let chunk = match self.reader.fill_buf() {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                chunk => chunk?,
            };
            if chunk.is_empty() {
                return Ok(self.at_end(inside.begun, too_long));
            }
            let (range, consumed, ended) = match self.list {
                true => self.place.element(chunk, &mut inside),
                false => self.place.rest_of_line(chunk, &mut inside),
            };
            too_long = too_long || self.bytes.len() + range.len() > MAX_RECORD_BYTES;
            if !too_long {
                self.bytes.extend_from_slice(&chunk[range]);
            }
            self.reader.consume(consumed);
            self.consumed += consumed as u64;
            if ended {
                return Ok(if too_long { Record::TooLong } else { Record::Whole(true) });
            }
        }
    }

    fn at_end(&mut self, begun: bool, too_long: bool) -> Record {
        // A list that is not closed is truncated, even if the end is between two elements, or behind one that is complete: an empty record,
        // which fails to parse, follows it.
        let cut_off = !begun && self.list && self.place.opened && !std::mem::replace(&mut self.place.closed, true);
        match (too_long, begun || cut_off) {
            (true, _) => Record::TooLong,
            (false, true) => Record::Whole(false),
            (false, false) => Record::End,
        }
    }
}

impl TextPosition {
    /// (bytes of the record, bytes to consume, whether the record ends there)
    fn rest_of_line(&mut self, chunk: &[u8], inside: &mut ElementState) -> (Range<usize>, usize, bool) {
        inside.begun = true;
        match chunk.iter().position(|b| *b == b'\n') {
            Some(at) => {
                self.line += 1;
                (0..at, at + 1, true)
            }
            None => (0..chunk.len(), chunk.len(), false),
        }
    }

    /// As [`Self::rest_of_line`]. Text after the list becomes a record of its own, which then fails to parse.
    fn element(&mut self, chunk: &[u8], inside: &mut ElementState) -> (Range<usize>, usize, bool) {
        let mut from = if inside.begun { Some(0) } else { None };
        for (i, byte) in chunk.iter().enumerate() {
            self.line += u64::from(*byte == b'\n');
            if !inside.begun {
                match byte {
                    b'[' if !self.opened => self.opened = true,
                    b']' if !self.closed => self.closed = true,
                    b',' if !self.closed => {}
                    byte if byte.is_ascii_whitespace() => {}
                    _ => (inside.begun, self.start, from) = (true, self.line, Some(i)),
                }
            }
            if inside.begun && self.ends(*byte, inside) {
                return (from.unwrap_or(i)..i, i + 1, true);
            }
        }
        (from.unwrap_or(chunk.len())..chunk.len(), chunk.len(), false)
    }

    /// Whether this byte is the comma or bracket that ends the element.
    fn ends(&mut self, byte: u8, inside: &mut ElementState) -> bool {
        match (inside.quoted, inside.escaped, byte) {
            (true, true, _) => inside.escaped = false,
            (true, false, b'\\') => inside.escaped = true,
            (_, _, b'"') => inside.quoted = !inside.quoted,
            (true, ..) => {}
            (_, _, b'[' | b'{') => inside.depth += 1,
            (_, _, b',' | b']') if inside.depth == 0 => {
                self.closed = self.closed || byte == b']';
                return true;
            }
            (_, _, b']' | b'}') => inside.depth = inside.depth.saturating_sub(1),
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn cut(text: &str, list: bool) -> Vec<(u64, String, bool)> {
        // A small buffer, so that records span several buffers.
        let mut records = Records::new(BufReader::with_capacity(3, text.as_bytes()), list);
        let mut out = Vec::new();
        while let Record::Whole(ended) = records.next().unwrap() {
            out.push((records.start_line(), String::from_utf8(records.bytes().to_vec()).unwrap(), ended));
            assert!(out.len() < 100);
        }
        assert_eq!(records.bytes_read(), text.len() as u64);
        out
    }

    fn own(list: &[(u64, &str, bool)]) -> Vec<(u64, String, bool)> {
        list.iter().map(|(line, text, ended)| (*line, (*text).to_owned(), *ended)).collect()
    }

    #[test]
    fn records_are_lines_or_array_elements() {
        assert_eq!(cut("a\n\nb", false), own(&[(1, "a", true), (2, "", true), (3, "b", false)]));
        assert_eq!(cut("[]\n", true), own(&[]));
        assert_eq!(
            cut(" [\n {\"a\": \"],\\\"}\"},\n\n [1, 2]\n, 3]\n", true),
            own(&[(2, "{\"a\": \"],\\\"}\"}", true), (4, "[1, 2]\n", true), (5, "3", true)])
        );
        assert_eq!(cut("[{\"a\": 1}, {\"b\"", true), own(&[(1, "{\"a\": 1}", true), (1, "{\"b\"", false), (1, "", false)]));
        assert_eq!(cut("[1, 2", true), own(&[(1, "1", true), (1, "2", false), (1, "", false)]), "cut off behind one");
        assert_eq!(cut("[1,", true), own(&[(1, "1", true), (1, "", false)]), "cut off between two");
        assert_eq!(cut("[1] x", true), own(&[(1, "1", true), (1, "x", false)]));
    }

    #[test]
    fn overlong_records_are_skipped() {
        let long = format!("[\"{}\", 1]", "x".repeat(MAX_RECORD_BYTES));
        let mut records = Records::new(BufReader::new(long.as_bytes()), true);
        assert_eq!(
            (records.next().unwrap(), records.next().unwrap(), records.bytes()),
            (Record::TooLong, Record::Whole(true), &b"1"[..])
        );
        let long = format!("{}\n1", "x".repeat(MAX_RECORD_BYTES + 1));
        let mut records = Records::new(BufReader::new(long.as_bytes()), false);
        assert_eq!(
            (records.next().unwrap(), records.next().unwrap(), records.start_line()),
            (Record::TooLong, Record::Whole(false), 2)
        );
    }
}

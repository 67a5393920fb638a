//! JSONL, one document a line: bad lines are skipped and counted, never fatal on their own.

use super::{Piece, Reader};
use crate::data::{Notices, shown};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};

/// A longer line is skipped: no document of a corpus is that long, and memory must stay bounded.
const MAX_LINE_BYTES: usize = 16 << 20;
/// Skipped lines that are shown one by one before they are only counted.
const SHOWN: u64 = 3;
/// Documents looked at for repetitions.
const DUPLICATE_SAMPLE: u64 = 10_000;

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// Reads one JSONL file.
pub(super) struct LineReader {
    name: String,
    reader: BufReader<Reader>,
    line: Vec<u8>,
    line_number: u64,
    bytes_read: u64,
    records: u64,
    not_utf8: u64,
    unusable: u64,
    empty: u64,
    seen: HashSet<u64>,
    documents: u64,
    repeated: u64,
}

/// What the next line turned out to be.
enum Line {
    End,
    TooLong,
    /// In `self.line`; `true` if a newline ended it.
    Whole(bool),
}

impl LineReader {
    pub(super) fn new(name: String, reader: Reader) -> Self {
        Self {
            name,
            reader: BufReader::with_capacity(1 << 18, reader),
            line: Vec::new(),
            line_number: 0,
            bytes_read: 0,
            records: 0,
            not_utf8: 0,
            unusable: 0,
            empty: 0,
            seen: HashSet::new(),
            documents: 0,
            repeated: 0,
        }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The next line with usable text.
    pub(super) fn next_document(&mut self, notices: &mut Notices) -> Result<Option<Piece>> {
        loop {
            let terminated = match self.read_line().with_context(|| format!("{}: cannot be read", self.name))? {
                Line::End => {
                    self.finish(notices)?;
                    return Ok(None);
                }
                Line::TooLong => {
                    let mib = MAX_LINE_BYTES >> 20;
                    notices.push(format!("{}:{}: line longer than {mib} MiB, skipped", self.name, self.line_number));
                    continue;
                }
                Line::Whole(terminated) => terminated,
            };
            if let Some(text) = self.parse(terminated, notices) {
                self.note_repetition(&text);
                return Ok(Some(Piece { text, ends_document: true }));
            }
        }
    }

    fn read_line(&mut self) -> std::io::Result<Line> {
        self.line.clear();
        self.line_number += 1;
        let mut too_long = false;
        loop {
            let chunk = match self.reader.fill_buf() {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                chunk => chunk?,
            };
            if chunk.is_empty() {
                return Ok(match (too_long, self.line.is_empty()) {
                    (true, _) => Line::TooLong,
                    (false, true) => Line::End,
                    (false, false) => Line::Whole(false),
                });
            }
            let newline = chunk.iter().position(|b| *b == b'\n');
            let taken = newline.unwrap_or(chunk.len());
            too_long = too_long || self.line.len() + taken > MAX_LINE_BYTES;
            if !too_long {
                self.line.extend_from_slice(&chunk[..taken]);
            }
            let consumed = taken + usize::from(newline.is_some());
            self.reader.consume(consumed);
            self.bytes_read += consumed as u64;
            if newline.is_some() {
                return Ok(if too_long { Line::TooLong } else { Line::Whole(true) });
            }
        }
    }

    /// The document in the current line, or `None` after counting why there is none.
    fn parse(&mut self, terminated: bool, notices: &mut Notices) -> Option<String> {
        let line = self.line.trim_ascii();
        if line.is_empty() {
            return None;
        }
        self.records += 1;
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => {
                self.not_utf8 += 1;
                if self.not_utf8 <= SHOWN {
                    let byte = error.valid_up_to() + 1;
                    notices.push(format!("{}:{}:{byte}: not UTF-8, line skipped", self.name, self.line_number));
                }
                return None;
            }
        };
        // serde would also take an array as a record, by position.
        let parsed = if text.starts_with('{') {
            serde_json::from_str::<Record>(text).map_err(|e| (e.is_eof() && !terminated, e.to_string()))
        } else {
            Err((false, "not a JSON object".into()))
        };
        match parsed {
            Ok(record) if record.text.is_empty() => {
                self.empty += 1;
                None
            }
            Ok(record) => Some(record.text.into_owned()),
            Err((true, _)) => {
                notices.push(format!("{}:{}: last line is cut off, skipped", self.name, self.line_number));
                None
            }
            Err((false, why)) => {
                self.unusable += 1;
                if self.unusable <= SHOWN {
                    notices.push(format!("{}:{}: skipped: {}", self.name, self.line_number, shown(&why)));
                }
                None
            }
        }
    }

    fn note_repetition(&mut self, text: &str) {
        if self.documents < DUPLICATE_SAMPLE {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            self.repeated += u64::from(!self.seen.insert(hasher.finish()));
            self.documents += 1;
        }
    }

    fn finish(&self, notices: &mut Notices) -> Result<()> {
        let (name, records) = (&self.name, self.records);
        ensure!(
            self.not_utf8 * 100 <= records,
            "{name}: {} of {records} lines are not UTF-8, more than 1 %. Convert the file to UTF-8",
            self.not_utf8
        );
        if self.not_utf8 > 0 {
            notices.push(format!("{name}: {} of {records} lines skipped: not UTF-8", self.not_utf8));
        }
        if self.unusable > 0 {
            notices.push(format!("{name}: {} of {records} lines skipped: no usable string in the field text", self.unusable));
        }
        if self.empty > 0 {
            notices.push(format!("{name}: {} of {records} documents are empty, left out", self.empty));
        }
        if self.repeated * 2 > self.documents && self.documents > 1 {
            notices.push(format!("{name}: {} of the first {} documents repeat an earlier one", self.repeated, self.documents));
        }
        Ok(())
    }
}

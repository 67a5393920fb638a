//! JSON, one document per line or list element: bad ones are skipped and counted, and are not fatal on their own.

use super::{ByteReader, DocumentPiece};
use crate::data::files::{MAX_RECORD_BYTES, Record, Records};
use crate::data::{Notices, display_text};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufReader;

/// Skipped lines that are reported individually; further ones are only counted.
const SHOWN: u64 = 3;
/// Documents examined for duplicates.
const DUPLICATE_SAMPLE: u64 = 10_000;

#[derive(Deserialize)]
struct TextRecord<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// Reader of one file.
pub(super) struct LineReader {
    name: String,
    cut: Records<BufReader<ByteReader>>,
    /// Name of a record in messages.
    unit: &'static str,
    records: u64,
    not_utf8: u64,
    unusable: u64,
    too_long: u64,
    empty: u64,
    repetitions: Repetitions,
}

impl LineReader {
    /// A reader of lines, or of the elements of a list.
    pub(super) fn new(name: String, reader: ByteReader, list: bool) -> Self {
        Self {
            name,
            cut: Records::new(BufReader::with_capacity(1 << 18, reader), list),
            unit: if list { "row" } else { "line" },
            records: 0,
            not_utf8: 0,
            unusable: 0,
            too_long: 0,
            empty: 0,
            repetitions: Repetitions::default(),
        }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.cut.bytes_read()
    }

    /// The next document with usable text.
    pub(super) fn next_document(&mut self, notices: &mut Notices) -> Result<Option<DocumentPiece>> {
        loop {
            let terminated = match self.cut.next().with_context(|| format!("{}: cannot be read", self.name))? {
                Record::End => {
                    self.finish(notices)?;
                    return Ok(None);
                }
                Record::TooLong => {
                    self.too_long += 1;
                    let mib = MAX_RECORD_BYTES >> 20;
                    notices.push(format!(
                        "{}:{}: {} longer than {mib} MiB, skipped",
                        self.name,
                        self.cut.start_line(),
                        self.unit
                    ));
                    continue;
                }
                Record::Whole(terminated) => terminated,
            };
            if let Some(text) = self.parse(terminated, notices) {
                self.repetitions.note(&text);
                return Ok(Some(DocumentPiece { text, ends_document: true }));
            }
        }
    }

    /// The document in the current line; `None` if it is unusable, which is counted.
    fn parse(&mut self, terminated: bool, notices: &mut Notices) -> Option<String> {
        let line = self.cut.bytes().trim_ascii();
        let (number, unit) = (self.cut.start_line(), self.unit);
        if line.is_empty() {
            // Without even a space: what follows the elements of a list that is not closed.
            if !terminated && self.cut.bytes().is_empty() {
                notices.push(format!("{}:{number}: the list is cut off: no ] at its end", self.name));
            }
            return None;
        }
        self.records += 1;
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => {
                self.not_utf8 += 1;
                if self.not_utf8 <= SHOWN {
                    let byte = error.valid_up_to() + 1;
                    notices.push(format!("{}:{number}:{byte}: not UTF-8, {unit} skipped", self.name));
                }
                return None;
            }
        };
        // serde would also accept an array as a record, by position.
        let parsed = if text.starts_with('{') {
            serde_json::from_str::<TextRecord>(text).map_err(|e| (e.is_eof() && !terminated, e.to_string()))
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
                notices.push(format!("{}:{number}: last {unit} is cut off, skipped", self.name));
                None
            }
            Err((false, why)) => {
                self.unusable += 1;
                if self.unusable <= SHOWN {
                    notices.push(format!("{}:{number}: skipped: {}", self.name, display_text(&why)));
                }
                None
            }
        }
    }

    fn finish(&self, notices: &mut Notices) -> Result<()> {
        let (name, records, unit) = (&self.name, self.records, self.unit);
        ensure!(
            self.not_utf8 * 100 <= records,
            "{name}: {} of {records} {unit}s are not UTF-8, more than 1 %. Convert the file to UTF-8",
            self.not_utf8
        );
        ensure!(
            self.too_long == 0 || self.too_long < records + self.too_long,
            "{name}: every {unit} is longer than {} MiB. Is it one document a {unit}?",
            MAX_RECORD_BYTES >> 20
        );
        if self.not_utf8 > 0 {
            notices.push(format!("{name}: {} of {records} {unit}s skipped: not UTF-8", self.not_utf8));
        }
        if self.unusable > 0 {
            notices.push(format!("{name}: {} of {records} {unit}s skipped: no usable string in the field text", self.unusable));
        }
        if self.empty > 0 {
            notices.push(format!("{name}: {} of {records} documents left out: empty", self.empty));
        }
        self.repetitions.finish(name, notices);
        Ok(())
    }
}

/// Counts duplicates among the first documents.
#[derive(Default)]
pub(super) struct Repetitions {
    seen: HashSet<u64>,
    documents: u64,
    repeated: u64,
}

impl Repetitions {
    pub(super) fn note(&mut self, text: &str) {
        if self.documents < DUPLICATE_SAMPLE {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            self.repeated += u64::from(!self.seen.insert(hasher.finish()));
            self.documents += 1;
        }
    }

    pub(super) fn finish(&self, name: &str, notices: &mut Notices) {
        if self.repeated * 2 > self.documents && self.documents > 1 {
            notices.push(format!("{name}: {} of the first {} documents repeat an earlier one", self.repeated, self.documents));
        }
    }
}

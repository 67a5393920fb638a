//! Parquet and Arrow, one document per row in the column `text`.

use super::DocumentPiece;
use super::lines::Repetitions;
use crate::data::Notices;
use crate::data::files::{Columns, FileFormat};
use crate::vfs::VfsReader;
use anyhow::{Result, ensure};
use serde_json::Value;
use std::sync::Arc;

const TEXT: &str = "text";

/// Reader of one file.
pub(super) struct ColumnReader {
    name: String,
    rows: Columns,
    bytes: u64,
    empty: u64,
    all: u64,
    repetitions: Repetitions,
}

impl ColumnReader {
    /// # Errors
    /// A damaged file, or one without the column.
    pub(super) fn open(name: &str, file: Arc<dyn VfsReader>, format: FileFormat) -> Result<Self> {
        let columns = Columns::open(name, file.clone(), format, None)?;
        ensure!(
            columns.names().iter().any(|column| column == TEXT),
            "{name}: has no column text; its columns are {}. Pre-training reads text; rows of messages are for lehr sft",
            crate::data::display_text(&columns.names().join(", "))
        );
        let rows = Columns::open(name, file.clone(), format, Some(TEXT))?;
        Ok(Self { name: name.to_owned(), rows, bytes: file.bytes(), empty: 0, all: 0, repetitions: Repetitions::default() })
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.rows.bytes_done(self.bytes)
    }

    /// The next row with text.
    pub(super) fn next_document(&mut self, notices: &mut Notices) -> Result<Option<DocumentPiece>> {
        while let Some((number, mut row)) = self.rows.next_row()? {
            self.all += 1;
            match row.remove(TEXT) {
                Some(Value::String(text)) if !text.is_empty() => {
                    self.repetitions.note(&text);
                    return Ok(Some(DocumentPiece { text, ends_document: true }));
                }
                Some(Value::String(_)) | None => self.empty += 1,
                Some(_) => anyhow::bail!("{}: row {number}: text: must be a string", self.name),
            }
        }
        if self.empty > 0 {
            notices.push(format!("{}: {} of {} documents left out: empty", self.name, self.empty, self.all));
        }
        self.repetitions.finish(&self.name, notices);
        Ok(None)
    }
}

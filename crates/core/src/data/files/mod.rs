//! Data files: plain or compressed; JSON lines, JSON lists or columnar; and folders of them.

#[cfg(not(target_arch = "wasm32"))]
mod columns;
mod folder;
#[cfg(not(target_arch = "wasm32"))]
mod footer;
mod records;
mod sniff;

#[cfg(not(target_arch = "wasm32"))]
pub(super) use columns::Columns;
pub(super) use folder::regular_rows;
pub use folder::{DataFolder, data_folder};
pub(super) use records::{MAX_RECORD_BYTES, Record, Records};

use super::shown_path;
use crate::vfs::{FileCursor, Vfs, VfsReader};
use anyhow::{Context, Result, bail, ensure};
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) type ByteReader = Box<dyn Read + Send>;

/// The division of a file into records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFormat {
    /// The whole file is one text.
    Text,
    /// One JSON object per line.
    JsonLines,
    /// One JSON list of objects.
    JsonList,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC, a file or a stream, as `datasets` keeps it on disk.
    Arrow,
}

impl FileFormat {
    /// The format of a regular file, by its first bytes and its name.
    ///
    /// # Errors
    /// A file that cannot be read, or has an unsupported format; one line that names the format.
    pub(super) fn of(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        let name = shown_path(path);
        let (head, _) = vfs.read_at(path, 0, 8).with_context(|| format!("{name}: cannot be read"))?;
        if head.starts_with(b"PAR1") {
            return Ok(Self::Parquet);
        }
        let extension = extension(path);
        let packed = head.starts_with(b"\x1F\x8B") || head.starts_with(b"\x28\xB5\x2F\xFD");
        ensure!(
            !packed || !["parquet", "arrow"].contains(&extension.as_str()),
            "{name}: is compressed as a whole; decompress it first. Parquet compresses its own columns"
        );
        if head.starts_with(b"ARROW1") || (extension == "arrow" && !head.is_empty()) {
            return Ok(Self::Arrow);
        }
        ensure!(extension != "parquet" || head.is_empty(), "{name}: is not a Parquet file, in spite of its name");
        let lines = ["jsonl", "ndjson"].contains(&extension.as_str());
        if !lines && extension != "json" {
            return Ok(Self::Text);
        }
        let first = first_character(vfs, path)?;
        Ok(match first {
            Some(b'[') => Self::JsonList,
            Some(b'{') | None => Self::JsonLines,
            Some(_) => {
                if lines {
                    Self::JsonLines
                } else {
                    Self::Text
                }
            }
        })
    }
}

/// The format of a file of rows: a list if it begins with one, else lines.
///
/// # Errors
/// As [`FileFormat::of`].
pub(super) fn format_of_rows(vfs: &dyn Vfs, path: &Path) -> Result<FileFormat> {
    match FileFormat::of(vfs, path)? {
        FileFormat::Text => {
            Ok(if first_character(vfs, path)? == Some(b'[') { FileFormat::JsonList } else { FileFormat::JsonLines })
        }
        other => Ok(other),
    }
}

/// The first byte that is not white space, among the first few thousand.
fn first_character(vfs: &dyn Vfs, path: &Path) -> Result<Option<u8>> {
    let name = shown_path(path);
    let file = vfs.open(path).with_context(|| format!("{name}: cannot be opened"))?;
    let mut head = Vec::new();
    let reader = unpack(&name, file)?.reader;
    reader.take(HEAD_BYTES).read_to_end(&mut head).with_context(|| format!("{name}: cannot be read"))?;
    Ok(head.trim_ascii_start().first().copied())
}

/// The extension that gives the format, in lower case, without a trailing `.gz` or `.zst`.
pub(super) fn extension(path: &Path) -> String {
    let of = |path: &Path| path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    match of(path).as_str() {
        "gz" | "zst" => of(Path::new(path.file_stem().unwrap_or_default())),
        other => other.to_owned(),
    }
}

const HEAD_BYTES: u64 = 4096;
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// A text file open for reading.
pub(super) struct OpenedText {
    /// The decompressed content, without a byte order mark.
    pub reader: ByteReader,
    /// Bytes of the file read so far.
    pub done: Arc<AtomicU64>,
    /// Whether it is compressed.
    pub compressed: bool,
}

/// Decompresses a file and checks that it is text.
///
/// # Errors
/// A file that cannot be read, or is not text; one line that names the format.
pub(super) fn unpack(name: &str, file: Arc<dyn VfsReader>) -> Result<OpenedText> {
    let done = Arc::new(AtomicU64::new(0));
    let (head, reader) = peek(name, Box::new(CountingReader { inner: FileCursor::new(file, 0), done: done.clone() }))?;
    let unpacked: ByteReader = if head.starts_with(b"\x1F\x8B") {
        Box::new(flate2::read::MultiGzDecoder::new(reader))
    } else if head.starts_with(b"\x28\xB5\x2F\xFD") {
        zstd(name, reader)?
    } else {
        return Ok(OpenedText { reader: as_text(name, head, reader)?, done, compressed: false });
    };
    let (head, reader) = peek(name, unpacked)?;
    Ok(OpenedText { reader: as_text(name, head, reader)?, done, compressed: true })
}

#[cfg(not(target_arch = "wasm32"))]
fn zstd(name: &str, reader: ByteReader) -> Result<ByteReader> {
    Ok(Box::new(zstd::Decoder::new(reader).with_context(|| format!("{name}: cannot be unpacked"))?))
}

#[cfg(target_arch = "wasm32")]
fn zstd(name: &str, _: ByteReader) -> Result<ByteReader> {
    bail!("{name}: is zstd-compressed, which is not read here; unpack it first (unzstd)")
}

/// The first bytes, and a reader of all of them.
fn peek(name: &str, mut reader: ByteReader) -> Result<(Vec<u8>, ByteReader)> {
    let mut head = Vec::new();
    reader.by_ref().take(HEAD_BYTES).read_to_end(&mut head).with_context(|| format!("{name}: cannot be read"))?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(reader))))
}

fn as_text(name: &str, head: Vec<u8>, mut reader: ByteReader) -> Result<ByteReader> {
    if let Some(what) = sniff::not_text(&head) {
        bail!("{name}: this is {what}");
    }
    if head.starts_with(BOM) {
        reader.read_exact(&mut [0; BOM.len()]).with_context(|| format!("{name}: cannot be read"))?;
    }
    Ok(reader)
}

struct CountingReader {
    inner: FileCursor,
    done: Arc<AtomicU64>,
}

impl Read for CountingReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests;

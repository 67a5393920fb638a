//! Says what a file is before it is read as text: compressed and UTF-16 files are common mistakes with confusing consequences.

use super::{Reader, Source};
use anyhow::{Context, Result, bail};
use std::io::{Cursor, Read};

const HEAD_BYTES: u64 = 4096;
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// First bytes of files that are not text, with what to say about them.
const MAGIC: &[(&[u8], &str)] = &[
    (b"\x1F\x8B", "gzip-compressed; unpack it first (gunzip)"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"PAR1", "a Parquet file; convert it to JSONL first"),
    (b"ARROW1", "an Arrow file; convert it to JSONL first"),
    (b"\x28\xB5\x2F\xFD", "zstd-compressed; unpack it first (unzstd)"),
    (b"\xFD7zXZ\x00", "xz-compressed; unpack it first (unxz)"),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive; unpack it first"),
    (b"%PDF-", "a PDF; extract its text first"),
    (b"GGUF", "a GGUF model, not text"),
    (b"SQLite format 3\x00", "an SQLite database, not text"),
    (b"version https://git-lfs.github.com/spec", "a git-LFS pointer; fetch the file itself (git lfs pull)"),
    (b"\xFF\xFE", "UTF-16 text; convert it to UTF-8 first"),
    (b"\xFE\xFF", "UTF-16 text; convert it to UTF-8 first"),
];

/// Opens a source at its first character: the byte order mark of UTF-8 is skipped, anything that is not text is refused by name.
pub(super) fn open_text(source: &Source) -> Result<Reader> {
    let mut reader = source.reader()?;
    let mut head = Vec::new();
    reader.by_ref().take(HEAD_BYTES).read_to_end(&mut head).with_context(|| format!("{}: cannot be read", source.name))?;
    if let Some(what) = not_text(&head) {
        bail!("{}: this is {what}", source.name);
    }
    if head.starts_with(BOM) {
        head.drain(..BOM.len());
    }
    Ok(Box::new(Cursor::new(head).chain(reader)))
}

fn not_text(head: &[u8]) -> Option<&'static str> {
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(what);
    }
    if head.starts_with(b"BZh") && head.get(4..10) == Some(b"1AY&SY") {
        return Some("bzip2-compressed; unpack it first (bunzip2)");
    }
    // UTF-16 without a mark: nearly every other byte of Western text is zero, and none of UTF-8 text.
    let pairs = head.len() / 2;
    let zeros = |parity: usize| head.iter().skip(parity).step_by(2).filter(|b| **b == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    if pairs >= 8 && even.max(odd) * 2 > pairs && even.min(odd) * 10 < pairs {
        return Some("UTF-16 text; convert it to UTF-8 first");
    }
    None
}

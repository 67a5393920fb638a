//! Identifies files that are not text: archives and UTF-16 files are common mistakes that otherwise cause confusing errors.

/// Magic bytes of files that are not text, with the message for each.
const MAGIC: &[(&[u8], &str)] = &[
    (b"\x1F\x8B", "gzip-compressed twice; unpack it first (gunzip)"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"PAR1", "a Parquet file inside a compressed one; decompress it first: Parquet compresses its own columns"),
    (b"ARROW1", "an Arrow file inside a compressed one; decompress it first"),
    (b"\x28\xB5\x2F\xFD", "zstd-compressed; unpack it first (unzstd)"),
    (b"\xFD7zXZ\x00", "xz-compressed; unpack it first (unxz)"),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive; unpack it first"),
    (b"%PDF-", "a PDF; extract its text first"),
    (b"GGUF", "a GGUF model, not text"),
    (b"SQLite format 3\x00", "an SQLite database, not text"),
    (b"version https://git-lfs.github.com/spec", "a git-LFS pointer; fetch the file itself (git lfs pull)"),
    (b"\xFF\xFE", UTF16),
    (b"\xFE\xFF", UTF16),
];

const UTF16: &str = "UTF-16 text; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)";

/// The type of a file with these first bytes, with the remedy; `None` for text.
pub(super) fn not_text(head: &[u8]) -> Option<&'static str> {
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(what);
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("a tar archive; unpack it first (tar -xf)");
    }
    if head.starts_with(b"BZh") && head.get(4..10) == Some(b"1AY&SY") {
        return Some("bzip2-compressed; unpack it first (bunzip2)");
    }
    // UTF-16 without a byte order mark: about every other byte of Western text is zero; UTF-8 text has no zero bytes.
    let pairs = head.len() / 2;
    let zeros = |parity: usize| head.iter().skip(parity).step_by(2).filter(|b| **b == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    if pairs >= 8 && even.max(odd) * 2 > pairs && even.min(odd) * 10 < pairs {
        return Some(UTF16);
    }
    None
}

//! The cached token file: layout, checks, and atomic writing.
//!
//! ```text
//! offset  bytes  content (numbers in native byte order; a file with the other order has the wrong magic)
//!      0      8  magic
//!      8      4  format version
//!     12      4  bytes per token, 2 or 4
//!     16      8  vocabulary size
//!     24      8  number of tokens
//!     32      8  number of documents
//!     40     32  key: hash of the text, the tokenizer and the format version
//!     72      4  CRC-32C of everything after the header
//!     76      4  CRC-32C of bytes 0..76
//!     80         tokens, zeros up to a multiple of 8, document ends (8 bytes each)
//! ```

use super::writer::{Bounds, TokenOutput, TokenWriter, WrittenTokens};
use super::{TokenCache, TokenFile, TokenIds, TokenStore, write_corpus};
use crate::data::{Corpus, Notices, Tokenizer, shown_path};
use crate::progress::Progress;
use anyhow::{Result, anyhow};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAGIC: u64 = u64::from_be_bytes(*b"LEHRTOK\n");
const FORMAT_VERSION: u32 = 2;
const HEADER_BYTES: usize = 80;
const TEMPORARY_PREFIX: &str = ".making-";

/// Why there is no cached file.
pub(super) enum CacheFailure {
    /// The text or the tokenizer is invalid: keeping the tokens in memory would not help.
    Data(anyhow::Error),
    /// The cache folder is unusable.
    Cache(String),
}

/// A write to the cache failed; distinguished from errors of the text by its type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct CacheWriteError(#[from] io::Error);

/// A verified file in the cache, mapped.
pub(super) struct MappedTokens {
    map: memmap2::Mmap,
    header: CacheHeader,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct CacheHeader {
    width: u32,
    vocab_size: u64,
    tokens: u64,
    documents: u64,
    key: [u8; 32],
    body_crc: u32,
}

/// Finds the tokens of this text and tokenizer in the cache, or creates them.
pub(super) fn find_or_make(
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    cache: &TokenCache,
    notices: &mut Notices,
    progress: &mut Progress<'_>,
) -> Result<TokenFile, CacheFailure> {
    let folder = folder_of(cache).map_err(CacheFailure::Cache)?;
    let key = key_of(corpus, tokenizer).map_err(CacheFailure::Data)?;
    let name: String = key[..16].iter().map(|b| format!("{b:02x}")).collect();
    let path = folder.join(format!("tokens-{name}.bin"));
    let cannot = |e: &dyn std::fmt::Display| CacheFailure::Cache(format!("{}: {e}", shown_path(&path)));
    if path.exists() {
        match open(&path, &key, tokenizer) {
            Ok(found) => return Ok(found),
            Err(why) => notices.push(format!("{}: {why}; made again", shown_path(&path))),
        }
    }
    fs::create_dir_all(&folder).map_err(|e| cannot(&e))?;
    remove_abandoned(&folder);
    match make(&path, &key, corpus, tokenizer, notices, progress) {
        Ok(()) => open(&path, &key, tokenizer).map(|made| TokenFile { from_cache: false, ..made }).map_err(|e| cannot(&e)),
        Err(error) => Err(match error.downcast_ref::<CacheWriteError>() {
            Some(why) => cannot(why),
            None => CacheFailure::Data(error),
        }),
    }
}

fn folder_of(cache: &TokenCache) -> Result<PathBuf, String> {
    if let TokenCache::Folder(folder) = cache {
        return Ok(folder.clone());
    }
    if let Some(folder) = std::env::var_os("LEHR_CACHE").filter(|f| !f.is_empty()) {
        return Ok(folder.into());
    }
    use etcetera::BaseStrategy;
    let base = etcetera::choose_base_strategy().map_err(|e| format!("no cache folder: {e}"))?;
    Ok(base.cache_dir().join("lehr"))
}

/// Everything that the tokens depend on: not the files' names or times.
fn key_of(corpus: &Corpus, tokenizer: &Tokenizer) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(FORMAT_VERSION.to_le_bytes());
    let rules = tokenizer.rules()?;
    hash.update((rules.len() as u64).to_le_bytes());
    hash.update(rules);
    hash.update(tokenizer.eos_id().map_or(-1, i64::from).to_le_bytes());
    corpus.hash_into(&mut hash)?;
    Ok(hash.finalize().into())
}

fn make(
    path: &Path,
    key: &[u8; 32],
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    notices: &mut Notices,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(folder).map_err(CacheWriteError)?;
    let vocab_size = tokenizer.vocab_size();
    let file = FileOutput::new(temporary, vocab_size).map_err(CacheWriteError)?;
    let mut writer = TokenWriter::new(TokenOutput::File(file), vocab_size, Bounds::of(corpus, tokenizer)?);
    write_corpus(corpus, tokenizer, &mut writer, notices, progress)?;
    let WrittenTokens { output: TokenOutput::File(file), ends, count } = writer.finish()? else {
        return Err(anyhow!("token file: written to memory, not to a file"));
    };
    file.publish(path, *key, vocab_size, count, &ends).map_err(CacheWriteError)?;
    Ok(())
}

/// Writes tokens into a temporary file.
pub(super) struct FileOutput {
    out: BufWriter<tempfile::NamedTempFile>,
    width: u32,
    crc: u32,
    bytes: u64,
    /// Conversion buffer.
    narrow: Vec<u16>,
}

impl FileOutput {
    fn new(file: tempfile::NamedTempFile, vocab_size: usize) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 18, file);
        out.write_all(&[0; HEADER_BYTES])?;
        let width = if vocab_size <= 1 << 16 { 2 } else { 4 };
        Ok(Self { out, width, crc: 0, bytes: 0, narrow: Vec::new() })
    }

    pub(super) fn append(&mut self, ids: &[u32]) -> Result<()> {
        let written = if self.width == 2 {
            let mut narrow = std::mem::take(&mut self.narrow);
            narrow.clear();
            narrow.extend(ids.iter().map(|id| *id as u16));
            let written = self.write(bytemuck::cast_slice(&narrow));
            self.narrow = narrow;
            written
        } else {
            self.write(bytemuck::cast_slice(ids))
        };
        Ok(written.map_err(CacheWriteError)?)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Completes the file, then renames it, so that under its final name it is always complete.
    fn publish(mut self, path: &Path, key: [u8; 32], vocab_size: usize, tokens: u64, ends: &[u64]) -> io::Result<()> {
        let padding = self.bytes.next_multiple_of(8) - self.bytes;
        self.write(&[0; 8][..padding as usize])?;
        self.write(bytemuck::cast_slice(ends))?;
        let (width, body_crc) = (self.width, self.crc);
        let header = CacheHeader { width, vocab_size: vocab_size as u64, tokens, documents: ends.len() as u64, key, body_crc };
        let mut file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header.to_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        // Without this the name may be lost in a power cut, at the cost of tokenizing again.
        if let Some(Ok(folder)) = path.parent().map(File::open) {
            folder.sync_all().ok();
        }
        Ok(())
    }
}

impl CacheHeader {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC.to_ne_bytes());
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.width.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.vocab_size.to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.tokens.to_ne_bytes());
        bytes[32..40].copy_from_slice(&self.documents.to_ne_bytes());
        bytes[40..72].copy_from_slice(&self.key);
        bytes[72..76].copy_from_slice(&self.body_crc.to_ne_bytes());
        let crc = crc32c::crc32c(&bytes[..76]);
        bytes[76..80].copy_from_slice(&crc.to_ne_bytes());
        bytes
    }

    /// `None` unless every fixed field and the checksum are right.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let header = Self {
            width: u32_at(12)?,
            vocab_size: u64_at(16)?,
            tokens: u64_at(24)?,
            documents: u64_at(32)?,
            key: bytes.get(40..72)?.try_into().ok()?,
            body_crc: u32_at(72)?,
        };
        let same = bytes.get(..HEADER_BYTES)? == header.to_bytes();
        (same && (header.width == 2 || header.width == 4)).then_some(header)
    }

    fn ends_offset(&self) -> Option<u64> {
        self.tokens.checked_mul(u64::from(self.width))?.checked_next_multiple_of(8)?.checked_add(HEADER_BYTES as u64)
    }

    fn file_bytes(&self) -> Option<u64> {
        self.ends_offset()?.checked_add(self.documents.checked_mul(8)?)
    }
}

/// Opens and verifies a cached file; the error describes what is wrong with it.
fn open(path: &Path, key: &[u8; 32], tokenizer: &Tokenizer) -> Result<TokenFile, String> {
    let file = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() || meta.len() < HEADER_BYTES as u64 {
        return Err(format!("{} bytes, not a token file", meta.len()));
    }
    // SAFETY: files in the cache are complete before they get their name and are replaced by renaming, never written in place, so the
    // mapped bytes do not change. Editing the cache by hand during a run breaks that, as with any mapped file.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| format!("cannot be mapped: {e}"))?;
    let header = CacheHeader::from_bytes(&map).ok_or("its header is damaged or from another version")?;
    if header.key != *key || header.vocab_size != tokenizer.vocab_size() as u64 {
        return Err("it holds other text".into());
    }
    let wanted = header.file_bytes();
    if wanted != Some(map.len() as u64) {
        return Err(format!("it has {} bytes and should have {}", map.len(), wanted.unwrap_or(u64::MAX)));
    }
    if crc32c::crc32c(&map[HEADER_BYTES..]) != header.body_crc {
        return Err("its checksum is wrong".into());
    }
    let store = TokenStore::Mapped(MappedTokens { map, header });
    Ok(TokenFile { store, vocab_size: tokenizer.vocab_size(), from_cache: true, separator: None })
}

impl MappedTokens {
    pub(super) fn ids(&self) -> TokenIds<'_> {
        let bytes = &self.map[HEADER_BYTES..][..self.header.tokens as usize * self.header.width as usize];
        if self.header.width == 2 {
            TokenIds::Narrow(bytemuck::cast_slice(bytes))
        } else {
            TokenIds::Wide(bytemuck::cast_slice(bytes))
        }
    }

    pub(super) fn ends(&self) -> &[u64] {
        let bytes = self.header.documents as usize * 8;
        bytemuck::cast_slice(&self.map[self.map.len() - bytes..])
    }
}

/// Deletes temporary files of killed runs that are older than a day.
fn remove_abandoned(folder: &Path) {
    const DAY_SECS: u64 = 24 * 60 * 60;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let age = entry.metadata().ok().and_then(|m| m.modified().ok()?.elapsed().ok());
        let ours = entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX);
        if ours && age.is_some_and(|age| age.as_secs() > DAY_SECS) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

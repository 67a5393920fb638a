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
use crate::vfs::{FileKind, Vfs, VfsFile, unique_suffix, unix_time};
use anyhow::Result;
use sha2::{Digest, Sha256};
use std::io::{self, BufWriter, SeekFrom, Write};
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
    map: Box<dyn AsRef<[u8]> + Send + Sync>,
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
    vfs: &dyn Vfs,
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
    if vfs.exists(&path).map_err(|e| CacheFailure::Cache(e.to_string()))? {
        match open(vfs, &path, &key, tokenizer) {
            Ok(found) => return Ok(found),
            Err(why) => notices.push(format!("{}: {why}; made again", shown_path(&path))),
        }
    }
    vfs.create_dir_all(&folder).map_err(|e| cannot(&e))?;
    remove_abandoned(vfs, &folder);
    match make(vfs, &path, &key, corpus, tokenizer, notices, progress) {
        Ok(()) => open(vfs, &path, &key, tokenizer).map(|made| TokenFile { from_cache: false, ..made }).map_err(|e| cannot(&e)),
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
    vfs: &dyn Vfs,
    path: &Path,
    key: &[u8; 32],
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    notices: &mut Notices,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let temporary = path.with_file_name(format!("{TEMPORARY_PREFIX}{}", unique_suffix()));
    let vocab_size = tokenizer.vocab_size();
    let mut file = FileOutput::new(vfs, temporary, vocab_size).map_err(CacheWriteError)?;
    let mut append = |ids: &[u32]| file.append(ids);
    let mut writer = TokenWriter::new(TokenOutput::File(&mut append), vocab_size, Bounds::of(corpus, tokenizer)?);
    write_corpus(corpus, tokenizer, &mut writer, notices, progress)?;
    let WrittenTokens { ends, count, .. } = writer.finish()?;
    file.publish(path, *key, vocab_size, count, &ends).map_err(CacheWriteError)?;
    Ok(())
}

/// A file that is removed unless it gets another name.
struct TemporaryFile<'a> {
    vfs: &'a dyn Vfs,
    path: PathBuf,
    /// `None` once it is written.
    file: Option<Box<dyn VfsFile + 'a>>,
    is_kept: bool,
}

impl TemporaryFile<'_> {
    fn file(&mut self) -> io::Result<&mut (dyn VfsFile + '_)> {
        Ok(&mut **self.file.as_mut().ok_or_else(|| io::Error::other("is closed"))?)
    }

    /// Syncs the file and renames it, so that under its final name it is always complete.
    fn publish(mut self, path: &Path) -> io::Result<()> {
        self.file()?.fsync()?;
        self.file = None;
        self.vfs.rename(&self.path, path)?;
        self.is_kept = true;
        // Without this the name may be lost in a power cut, at the cost of tokenizing again.
        path.parent().map(|folder| self.vfs.fsync_dir(folder).ok());
        Ok(())
    }
}

impl Write for TemporaryFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file()?.flush()
    }
}

impl Drop for TemporaryFile<'_> {
    fn drop(&mut self) {
        self.file = None;
        if !self.is_kept {
            self.vfs.remove_file(&self.path).ok();
        }
    }
}

/// Writes tokens into a temporary file.
struct FileOutput<'a> {
    out: BufWriter<TemporaryFile<'a>>,
    width: u32,
    crc: u32,
    bytes: u64,
    /// Conversion buffer.
    narrow: Vec<u16>,
}

impl<'a> FileOutput<'a> {
    fn new(vfs: &'a dyn Vfs, path: PathBuf, vocab_size: usize) -> io::Result<Self> {
        let file = Some(vfs.create_new(&path)?);
        let mut out = BufWriter::with_capacity(1 << 18, TemporaryFile { vfs, path, file, is_kept: false });
        out.write_all(&[0; HEADER_BYTES])?;
        let width = if vocab_size <= 1 << 16 { 2 } else { 4 };
        Ok(Self { out, width, crc: 0, bytes: 0, narrow: Vec::new() })
    }

    fn append(&mut self, ids: &[u32]) -> Result<()> {
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

    /// Completes the file and gives it its name.
    fn publish(mut self, path: &Path, key: [u8; 32], vocab_size: usize, tokens: u64, ends: &[u64]) -> io::Result<()> {
        let padding = self.bytes.next_multiple_of(8) - self.bytes;
        self.write(&[0; 8][..padding as usize])?;
        self.write(bytemuck::cast_slice(ends))?;
        let (width, body_crc) = (self.width, self.crc);
        let header = CacheHeader { width, vocab_size: vocab_size as u64, tokens, documents: ends.len() as u64, key, body_crc };
        let mut file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.file()?.seek(SeekFrom::Start(0))?;
        file.write_all(&header.to_bytes())?;
        file.publish(path)
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
fn open(vfs: &dyn Vfs, path: &Path, key: &[u8; 32], tokenizer: &Tokenizer) -> Result<TokenFile, String> {
    let file = vfs.open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    if file.bytes() < HEADER_BYTES as u64 {
        return Err(format!("{} bytes, not a token file", file.bytes()));
    }
    let mapped = file.map().map_err(|e| format!("cannot be mapped: {e}"))?;
    let map = (*mapped).as_ref();
    let header = CacheHeader::from_bytes(map).ok_or("its header is damaged or from another version")?;
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
    let store = TokenStore::Mapped(MappedTokens { map: mapped, header });
    Ok(TokenFile { store, vocab_size: tokenizer.vocab_size(), from_cache: true, separator: None })
}

impl MappedTokens {
    pub(super) fn ids(&self) -> TokenIds<'_> {
        let bytes = &(*self.map).as_ref()[HEADER_BYTES..][..self.header.tokens as usize * self.header.width as usize];
        if self.header.width == 2 {
            TokenIds::Narrow(bytemuck::cast_slice(bytes))
        } else {
            TokenIds::Wide(bytemuck::cast_slice(bytes))
        }
    }

    pub(super) fn ends(&self) -> &[u64] {
        let bytes = self.header.documents as usize * 8;
        let map = (*self.map).as_ref();
        bytemuck::cast_slice(&map[map.len() - bytes..])
    }
}

/// Deletes temporary files of killed runs that are older than a day.
fn remove_abandoned(vfs: &dyn Vfs, folder: &Path) {
    const DAY_SECONDS: f64 = 24.0 * 60.0 * 60.0;
    let is_ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(TEMPORARY_PREFIX);
    let entries = vfs.list(folder).unwrap_or_default();
    for entry in entries.into_iter().filter(|entry| entry.kind == FileKind::File && is_ours(&entry.name)) {
        let path = folder.join(entry.name);
        let modified = vfs.metadata(&path).ok().flatten().and_then(|found| found.modified);
        if modified.is_some_and(|modified| unix_time() - modified.as_secs_f64() > DAY_SECONDS) {
            vfs.remove_file(&path).ok();
        }
    }
}

//! Text sources: files, folders, rows, standard input or memory, streamed in pieces with bounded memory.
//!
//! A text file is one document, every character included. A JSONL file, a list in a JSON file, and a Parquet or Arrow file hold one
//! document per row, in the field `text`. Files may be compressed (`.gz`, `.zst`). A folder stands for its data files, sorted by path.

#[cfg(not(target_arch = "wasm32"))]
mod columns;
mod lines;
mod text;

use super::files::{self, ByteReader, FileFormat, OpenedText};
use super::{Notices, shown_path};
use crate::vfs::{FileCursor, FileKind, FileMetadata, MemoryFile, Vfs, VfsReader};
use anyhow::{Context, Result, ensure};
use lines::LineReader;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use text::TextReader;

/// Text sources, checked and in order, not yet read.
#[derive(Default)]
pub struct Corpus<'a> {
    sources: Vec<CorpusFile<'a>>,
    /// Validation files found in folders.
    validation: Vec<PathBuf>,
}

/// A part of a document, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentPiece {
    /// The text; it may be empty at the end of a document.
    pub text: String,
    /// Whether the document ends after this piece.
    pub ends_document: bool,
}

enum CorpusOrigin<'a> {
    /// Opened where it is read: there may be more files than a process may hold open.
    File(&'a dyn Vfs, PathBuf),
    /// Standard input, or a text in memory.
    Open(Arc<dyn VfsReader>),
}

struct CorpusFile<'a> {
    /// Name for messages.
    name: String,
    format: FileFormat,
    origin: CorpusOrigin<'a>,
    /// Size in bytes when it was opened.
    bytes: u64,
    /// When the file was last changed.
    modified: Option<Duration>,
}

impl<'a> Corpus<'a> {
    /// Opens the named files and folders, in order; `-` is standard input. No text is read yet, except standard input.
    ///
    /// Refused: paths that are missing, empty, UTF-16, or neither file nor folder; folders without data.
    pub fn open(vfs: &'a dyn Vfs, paths: &[PathBuf], notices: &mut Notices) -> Result<Self> {
        let mut corpus = Self::default();
        for path in paths {
            if path.as_os_str() == "-" {
                corpus.add_standard_input(vfs)?;
                continue;
            }
            if find(vfs, path)?.kind == FileKind::Dir {
                let folder = files::data_folder(vfs, path, true, notices)?;
                folder.train.iter().try_for_each(|file| corpus.add_file(vfs, file, notices))?;
                corpus.validation.extend(folder.validation);
            } else {
                corpus.add_file(vfs, path, notices)?;
            }
        }
        ensure!(
            corpus.total_bytes() > 0,
            "{}: 0 bytes of text. Name a file with text in it",
            corpus.sources.first().map_or("data", |s| s.name.as_str())
        );
        Ok(corpus)
    }

    /// One document in memory, with a name for messages.
    pub fn from_text(name: &str, text: impl Into<Arc<str>>) -> Self {
        let mut corpus = Self::default();
        corpus.sources.push(CorpusFile::of_open(name, Arc::new(MemoryFile(text.into()))));
        corpus
    }

    /// Validation files found in folders.
    pub fn validation_files(&self) -> &[PathBuf] {
        &self.validation
    }

    /// Total size of all sources, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.sources.iter().map(|s| s.bytes).sum()
    }

    /// Whether an end-of-text token is needed: several files, or a file of rows.
    pub fn may_have_several_documents(&self) -> bool {
        self.sources.len() > 1 || self.sources.iter().any(|s| s.format != FileFormat::Text)
    }

    /// Whether any document contains this text.
    ///
    /// # Errors
    /// As [`DocumentPieces::next_piece`].
    pub fn contains(&self, words: &str, notices: &mut Notices) -> Result<bool> {
        let mut pieces = self.pieces();
        while let Some(piece) = pieces.next_piece(notices)? {
            if piece.text.contains(words) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Starts reading from the beginning.
    pub fn pieces(&self) -> DocumentPieces<'_, 'a> {
        DocumentPieces { corpus: self, next: 0, open: None, bytes_done: 0, saw_text: false }
    }

    /// Hashes every byte of every source, with its length and format.
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "only the cache hashes, and a browser has none"))]
    pub(super) fn hash_into(&self, hash: &mut Sha256) -> Result<()> {
        let mut buffer = vec![0u8; 1 << 18];
        for source in &self.sources {
            hash.update([source.format as u8]);
            hash.update(source.bytes.to_le_bytes());
            let mut reader = FileCursor::new(source.file()?, 0);
            loop {
                let n = reader.read(&mut buffer).with_context(|| format!("{}: cannot be read", source.name))?;
                if n == 0 {
                    break;
                }
                hash.update(&buffer[..n]);
            }
        }
        Ok(())
    }

    fn add_file(&mut self, vfs: &'a dyn Vfs, path: &Path, notices: &mut Notices) -> Result<()> {
        let name = shown_path(path);
        // Checked before opening: opening a pipe waits for a writer, and reading a device may never end.
        let found = find(vfs, path)?;
        ensure!(
            found.kind == FileKind::File,
            "{name}: not a regular file (a device, pipe or socket). Name a file, or - for standard input"
        );
        let format = FileFormat::of(vfs, path)?;
        if format == FileFormat::Text && files::extension(path) == "json" {
            notices.push(format!("{name}: holds no list of rows and no row a line: read as plain text"));
        }
        let source = CorpusFile {
            name,
            format,
            origin: CorpusOrigin::File(vfs, path.into()),
            bytes: found.bytes,
            modified: found.modified,
        };
        source.check()?;
        self.sources.push(source);
        Ok(())
    }

    fn add_standard_input(&mut self, vfs: &dyn Vfs) -> Result<()> {
        const NAME: &str = "standard input";
        ensure!(
            self.sources.iter().all(|source| source.name != NAME),
            "data = -: standard input can be read only once. Name - once"
        );
        let copy = vfs
            .standard_input()
            .context("standard input: cannot be copied to a temporary file; set TMPDIR to a folder with enough space")?;
        let source = CorpusFile::of_open(NAME, copy);
        source.check()?;
        self.sources.push(source);
        Ok(())
    }
}

impl CorpusFile<'_> {
    fn of_open(name: &str, file: Arc<dyn VfsReader>) -> Self {
        let (bytes, format) = (file.bytes(), FileFormat::Text);
        Self { name: name.into(), format, origin: CorpusOrigin::Open(file), bytes, modified: None }
    }

    /// The raw bytes.
    fn file(&self) -> Result<Arc<dyn VfsReader>> {
        match &self.origin {
            CorpusOrigin::File(vfs, path) => vfs.open(path).with_context(|| format!("{}: cannot be opened", self.name)),
            CorpusOrigin::Open(file) => Ok(file.clone()),
        }
    }

    /// A reader of the decompressed text.
    fn open(&self) -> Result<OpenedText> {
        files::unpack(&self.name, self.file()?)
    }

    /// An error if it cannot be read in its format.
    fn check(&self) -> Result<()> {
        match self.format {
            FileFormat::Parquet | FileFormat::Arrow => self.documents().map(drop),
            _ if self.bytes == 0 => Ok(()),
            _ => self.open().map(drop),
        }
    }

    /// The rows of a columnar file.
    #[cfg(not(target_arch = "wasm32"))]
    fn documents(&self) -> Result<OpenFile> {
        Ok(OpenFile::Columns(columns::ColumnReader::open(&self.name, self.file()?, self.format)?))
    }

    #[cfg(target_arch = "wasm32")]
    fn documents(&self) -> Result<OpenFile> {
        anyhow::bail!("{}: files in columns are not read here. Convert it to JSONL", self.name)
    }

    /// Starts reading documents.
    fn start(&self) -> Result<OpenFile> {
        if matches!(self.format, FileFormat::Parquet | FileFormat::Arrow) {
            return self.documents();
        }
        let opened = self.open()?;
        let packed = opened.compressed.then(|| opened.done.clone());
        Ok(match self.format {
            FileFormat::Text => OpenFile::Text(TextReader::new(self.name.clone(), self.bytes, opened.reader), packed),
            format => OpenFile::Lines(LineReader::new(self.name.clone(), opened.reader, format == FileFormat::JsonList), packed),
        })
    }

    /// An error if the file changed since it was opened: parts of two versions would make a corpus that never existed.
    fn check_unchanged(&self) -> Result<()> {
        if let CorpusOrigin::File(vfs, path) = &self.origin {
            let gone = || format!("{}: disappeared while it was read", self.name);
            let found = vfs.metadata(path).with_context(gone)?.with_context(gone)?;
            ensure!(
                (found.bytes, found.modified) == (self.bytes, self.modified),
                "{}: changed while it was read. Run again when nothing writes to it",
                self.name
            );
        }
        Ok(())
    }
}

/// Reader over all sources of a [`Corpus`]; buffers a few MiB at most.
pub struct DocumentPieces<'c, 'a> {
    corpus: &'c Corpus<'a>,
    next: usize,
    open: Option<OpenFile>,
    bytes_done: u64,
    saw_text: bool,
}

/// Bytes read of a compressed file.
type CompressedBytes = Option<Arc<AtomicU64>>;

enum OpenFile {
    Text(TextReader, CompressedBytes),
    Lines(LineReader, CompressedBytes),
    #[cfg(not(target_arch = "wasm32"))]
    Columns(columns::ColumnReader),
}

impl OpenFile {
    fn next_piece(&mut self, notices: &mut Notices) -> Result<Option<DocumentPiece>> {
        match self {
            Self::Text(reader, _) => reader.next_piece(notices),
            Self::Lines(reader, _) => reader.next_document(notices),
            #[cfg(not(target_arch = "wasm32"))]
            Self::Columns(reader) => reader.next_document(notices),
        }
    }

    fn bytes_read(&self) -> u64 {
        match self {
            Self::Text(_, Some(done)) | Self::Lines(_, Some(done)) => done.load(Ordering::Relaxed),
            Self::Text(reader, None) => reader.bytes_read(),
            Self::Lines(reader, None) => reader.bytes_read(),
            #[cfg(not(target_arch = "wasm32"))]
            Self::Columns(reader) => reader.bytes_read(),
        }
    }
}

impl DocumentPieces<'_, '_> {
    /// The next piece, or `None` at the end. Documents without text are skipped.
    ///
    /// Errors: a source cannot be read or has changed; more than 1 % of it is not UTF-8; the whole corpus contains only white space.
    pub fn next_piece(&mut self, notices: &mut Notices) -> Result<Option<DocumentPiece>> {
        loop {
            if self.open.is_none() {
                let Some(source) = self.corpus.sources.get(self.next) else {
                    ensure!(self.saw_text, "{}", self.nothing_usable());
                    return Ok(None);
                };
                self.open = Some(source.start()?);
            }
            let Some(open) = &mut self.open else { continue };
            let (piece, done) = (open.next_piece(notices)?, open.bytes_read());
            match piece {
                Some(piece) => {
                    self.bytes_done = self.bytes_before() + done.min(self.corpus.sources[self.next].bytes);
                    self.saw_text = self.saw_text || piece.text.contains(|c: char| !c.is_whitespace());
                    return Ok(Some(piece));
                }
                None => {
                    self.corpus.sources[self.next].check_unchanged()?;
                    self.next += 1;
                    self.bytes_done = self.bytes_before();
                    self.open = None;
                }
            }
        }
    }

    /// Source bytes read so far, out of [`Corpus::total_bytes`].
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done
    }

    fn bytes_before(&self) -> u64 {
        self.corpus.sources[..self.next].iter().map(|s| s.bytes).sum()
    }

    fn nothing_usable(&self) -> String {
        let sources = &self.corpus.sources;
        let first = sources.first().map_or("data", |s| s.name.as_str());
        let others = if sources.len() > 1 { format!(" and {} more", sources.len() - 1) } else { String::new() };
        let rows = sources.iter().any(|s| s.format != FileFormat::Text);
        let hint = if rows { "Each row needs a string in the field text" } else { "Name a file with text in it" };
        format!("{first}{others}: {} bytes, but no usable text. {hint}", self.corpus.total_bytes())
    }
}

fn find(vfs: &dyn Vfs, path: &Path) -> Result<FileMetadata> {
    let name = shown_path(path);
    let found = vfs.metadata(path);
    let found = found.map_err(|e| anyhow::anyhow!("{name}: cannot be opened: {e}. Check the path and its permissions"))?;
    found.with_context(|| format!("{name}: no such file or folder"))
}

#[cfg(test)]
mod tests;

//! Token files: a corpus as token ids, tokenized once, cached by content, memory-mapped.
//!
//! Every document is encoded as `transformers` encodes a text, including the begin token of the tokenizer's post-processor. If there are
//! several documents, each is followed by the tokenizer's end-of-text token. That token in the text itself also ends a document, which
//! keeps the documents of files such as TinyStories apart. Without a begin token, the first token of a document is predicted from the
//! preceding end-of-text token, as in GPT-2; the first of several documents gets one prepended.

#[cfg(not(target_arch = "wasm32"))]
mod cache;
mod writer;

use super::tokenizer::WordMemory;
use super::{Corpus, DocumentPiece, Notices, Tokenizer};
use crate::progress::{Progress, report};
use crate::vfs::Vfs;
use anyhow::{Result, ensure};
use std::path::PathBuf;
use writer::{Bounds, TokenOutput, TokenWriter};

/// Where tokenized corpora are cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenCache {
    /// `$LEHR_CACHE`, else `lehr` in the user's cache folder.
    User,
    /// The given folder.
    Folder(PathBuf),
    /// No cache: the tokens stay in memory.
    Off,
}

/// A tokenized corpus, read-only: in memory or mapped from the cache.
pub struct TokenFile {
    store: TokenStore,
    vocab_size: usize,
    from_cache: bool,
    /// The token that ends a document and begins the next.
    separator: Option<u32>,
}

enum TokenStore {
    Narrow {
        tokens: Vec<u16>,
        ends: Vec<u64>,
    },
    Wide {
        tokens: Vec<u32>,
        ends: Vec<u64>,
    },
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(cache::MappedTokens),
}

/// Ids below 65,536 take two bytes.
enum TokenIds<'a> {
    Narrow(&'a [u16]),
    Wide(&'a [u32]),
}

impl TokenFile {
    /// Number of tokens.
    pub fn len(&self) -> u64 {
        match self.ids() {
            TokenIds::Narrow(ids) => ids.len() as u64,
            TokenIds::Wide(ids) => ids.len() as u64,
        }
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends of the documents, ascending: document `i` is tokens `ends[i - 1]..ends[i]`. The last end is the number of tokens.
    pub fn document_ends(&self) -> &[u64] {
        match &self.store {
            TokenStore::Narrow { ends, .. } | TokenStore::Wide { ends, .. } => ends,
            #[cfg(not(target_arch = "wasm32"))]
            TokenStore::Mapped(mapped) => mapped.ends(),
        }
    }

    /// The vocabulary that the ids were checked against.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that ends a document and is the first input of the next, if documents have no begin token.
    pub fn separator(&self) -> Option<u32> {
        self.separator
    }

    /// The same file with this separator.
    #[must_use]
    pub fn with_separator(self, separator: Option<u32>) -> Self {
        Self { separator, ..self }
    }

    /// Whether the tokens were found in the cache.
    pub fn is_from_cache(&self) -> bool {
        self.from_cache
    }

    /// Copies tokens `start..start + out.len()`; the caller must stay within [`Self::len`].
    pub fn read(&self, start: u64, out: &mut [u32]) {
        let start = start as usize;
        match self.ids() {
            TokenIds::Narrow(ids) => {
                let ids = &ids[start..start + out.len()];
                out.iter_mut().zip(ids).for_each(|(out, id)| *out = u32::from(*id));
            }
            TokenIds::Wide(ids) => out.copy_from_slice(&ids[start..start + out.len()]),
        }
    }

    fn ids(&self) -> TokenIds<'_> {
        match &self.store {
            TokenStore::Narrow { tokens, .. } => TokenIds::Narrow(tokens),
            TokenStore::Wide { tokens, .. } => TokenIds::Wide(tokens),
            #[cfg(not(target_arch = "wasm32"))]
            TokenStore::Mapped(mapped) => mapped.ids(),
        }
    }

    /// Tokens in memory, as one or several documents. Errors: an id outside the vocabulary, ends that do not ascend.
    pub fn from_tokens(tokens: &[u32], ends: &[u64], vocab_size: usize) -> Result<Self> {
        let mut writer = TokenWriter::new(TokenOutput::memory(vocab_size), vocab_size, Bounds::default());
        let mut start = 0;
        for end in ends {
            ensure!(*end >= start && *end <= tokens.len() as u64, "document end {end} is outside {start}..={}", tokens.len());
            writer.push(&tokens[start as usize..*end as usize])?;
            writer.end_document()?;
            start = *end;
        }
        writer.push(&tokens[start as usize..])?;
        writer.finish()?.into_memory(vocab_size)
    }
}

/// Description of the progress.
const WHAT: &str = "reading text";

/// Tokenizes a corpus, or uses the cached result for the same text and tokenizer.
///
/// `progress` receives (source bytes done, total source bytes) several times a second. If the cache cannot be written, the tokens stay in
/// memory, with a notice. Errors: the corpus cannot be read or has no usable text; a character has no token.
pub fn tokenize(
    vfs: &dyn Vfs,
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    cache: &TokenCache,
    notices: &mut Notices,
    progress: &mut Progress<'_>,
) -> Result<TokenFile> {
    let bounds = Bounds::of(corpus, tokenizer)?;
    let separator = bounds.separator();
    #[cfg(not(target_arch = "wasm32"))]
    if *cache != TokenCache::Off {
        match cache::find_or_make(vfs, corpus, tokenizer, cache, notices, progress) {
            Ok(found) => return Ok(found.with_separator(separator)),
            Err(cache::CacheFailure::Data(error)) => return Err(error),
            Err(cache::CacheFailure::Cache(why)) => {
                notices.push(format!("token cache: {why}; the tokens stay in memory. Set LEHR_CACHE to a writable folder"));
            }
        }
    }
    #[cfg(target_arch = "wasm32")]
    let _ = (vfs, cache);
    let vocab_size = tokenizer.vocab_size();
    let mut writer = TokenWriter::new(TokenOutput::memory(vocab_size), vocab_size, bounds);
    write_corpus(corpus, tokenizer, &mut writer, notices, progress)?;
    Ok(writer.finish()?.into_memory(vocab_size)?.with_separator(separator))
}

/// Streams a corpus through its tokenizer into `writer`.
fn write_corpus(
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    writer: &mut TokenWriter<'_>,
    notices: &mut Notices,
    progress: &mut Progress<'_>,
) -> Result<()> {
    #[cfg(not(target_arch = "wasm32"))]
    if !tokenizer.is_table() {
        return threads::write_corpus(corpus, tokenizer, writer, notices, progress);
    }
    let (total, mut shown, mut ids) = (corpus.total_bytes(), 0, Vec::new());
    let (mut pieces, mut memory, mut before) = (corpus.pieces(), WordMemory::default(), PreviousCharacter::default());
    report(progress, WHAT, 0, total)?;
    while let Some(piece) = pieces.next_piece(notices)? {
        ids.clear();
        tokenizer.encode_piece(before.of(&piece), &piece.text, &mut ids, &mut memory)?;
        writer.push(&ids)?;
        if piece.ends_document {
            writer.end_document()?;
        }
        // With short documents this would otherwise be called a million times a second.
        if pieces.bytes_done() - shown >= 1 << 20 {
            shown = pieces.bytes_done();
            report(progress, WHAT, shown, total)?;
        }
    }
    report(progress, WHAT, total, total)?;
    Ok(())
}

/// The character before each piece.
#[derive(Default)]
struct PreviousCharacter(Option<char>);

impl PreviousCharacter {
    /// The character before this piece, which must be the next one; `None` at the start of a document.
    fn of(&mut self, piece: &DocumentPiece) -> Option<char> {
        let last = piece.text.chars().next_back().or(self.0).filter(|_| !piece.ends_document);
        std::mem::replace(&mut self.0, last)
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod threads {
    use super::*;
    use crate::data::DocumentPieces;
    use anyhow::Context;
    use std::collections::BTreeMap;
    use std::sync::{Mutex, mpsc};

    /// Bytes of text per job; short documents share one.
    const JOB_BYTES: usize = 1 << 18;
    /// More threads hardly help: reading and writing use one thread each.
    const MAX_THREADS: usize = 8;

    /// Pieces, each with the character before it.
    type Job = Vec<(Option<char>, DocumentPiece)>;
    /// The ids of each piece, and whether it ends a document.
    type Done = Result<Vec<(Vec<u32>, bool)>>;

    /// As [`super::write_corpus`], but encodes on several threads and writes in the order of the text.
    pub(super) fn write_corpus(
        corpus: &Corpus,
        tokenizer: &Tokenizer,
        writer: &mut TokenWriter<'_>,
        notices: &mut Notices,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let count = std::thread::available_parallelism().map_or(2, usize::from).min(MAX_THREADS);
        let (job_sender, jobs) = mpsc::channel::<(u64, Job)>();
        let (done_sender, done) = mpsc::channel::<(u64, Done)>();
        let jobs = Mutex::new(jobs);
        std::thread::scope(|scope| {
            // Moved here, so that leaving this scope, even early, closes the channel and ends the threads.
            let job_sender = job_sender;
            for i in 0..count {
                let (jobs, done_sender) = (&jobs, done_sender.clone());
                std::thread::Builder::new()
                    .name(format!("tokenize-{i}"))
                    .spawn_scoped(scope, move || encode_jobs(tokenizer, jobs, &done_sender))
                    .context("cannot start a thread to tokenise")?;
            }
            let total = corpus.total_bytes();
            let (mut pieces, mut waiting, mut before) = (corpus.pieces(), BTreeMap::new(), PreviousCharacter::default());
            let (mut sent, mut written, mut at_end) = (0, 0, false);
            report(progress, WHAT, 0, total)?;
            loop {
                while !at_end && sent - written < 2 * count as u64 {
                    let job = next_job(&mut pieces, &mut before, notices)?;
                    at_end = job.is_empty();
                    if !at_end {
                        job_sender.send((sent, job)).context("the tokenising threads are gone")?;
                        sent += 1;
                    }
                }
                if written == sent {
                    report(progress, WHAT, total, total)?;
                    return Ok(());
                }
                let (index, result) = done.recv().context("the tokenising threads are gone")?;
                waiting.insert(index, result?);
                while let Some(encoded) = waiting.remove(&written) {
                    written += 1;
                    for (ids, ends_document) in encoded {
                        writer.push(&ids)?;
                        if ends_document {
                            writer.end_document()?;
                        }
                    }
                }
                report(progress, WHAT, pieces.bytes_done(), total)?;
            }
        })
    }

    fn encode_jobs(tokenizer: &Tokenizer, jobs: &Mutex<mpsc::Receiver<(u64, Job)>>, done: &mpsc::Sender<(u64, Done)>) {
        let mut memory = WordMemory::default();
        let mut encode = |(before, piece): (Option<char>, DocumentPiece)| {
            let mut ids = Vec::new();
            tokenizer.encode_piece(before, &piece.text, &mut ids, &mut memory)?;
            Ok((ids, piece.ends_document))
        };
        loop {
            let job = match jobs.lock() {
                Ok(jobs) => jobs.recv(),
                Err(_) => return,
            };
            let Ok((index, pieces)) = job else { return };
            let encoded = pieces.into_iter().map(&mut encode).collect();
            if done.send((index, encoded)).is_err() {
                return;
            }
        }
    }

    fn next_job(pieces: &mut DocumentPieces<'_, '_>, before: &mut PreviousCharacter, notices: &mut Notices) -> Result<Job> {
        let (mut job, mut bytes) = (Vec::new(), 0);
        while bytes < JOB_BYTES {
            let Some(piece) = pieces.next_piece(notices)? else { break };
            bytes += piece.text.len();
            job.push((before.of(&piece), piece));
        }
        Ok(job)
    }
}

#[cfg(test)]
mod tests;

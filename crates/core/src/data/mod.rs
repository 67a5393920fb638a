//! Data pipeline: text in, training batches out. Tokenizers, corpora, token files, batches.
//!
//! [`Corpus`] reads a file, a folder or standard input in bounded memory; [`Tokenizer`] turns text into token ids; [`tokenize`] writes them
//! to a [`TokenFile`], memory-mapped and cached by content; [`Dataset`] splits that into training and validation; [`TrainOrder`] gives the
//! tokens of step `n`. This layer is independent of models and devices.
//!
//! Input is untrusted: every reader is bounded, nothing panics, and skipped input is counted in [`Notices`].

mod batches;
pub mod chat;
mod corpus;
mod files;
mod json_rows;
mod shards;
mod source;
mod stop_strings;
pub mod tasks;
mod tokenizer;

pub use batches::{Batch, Dataset, IGNORE, TokenRange, TrainOrder, ValBatches};
pub use corpus::{Corpus, DocumentPiece, DocumentPieces};
pub use files::{DataFolder, data_folder};
pub use json_rows::{Object, read_objects};
pub use shards::{TokenCache, TokenFile, tokenize};
pub use source::{ContentHash, Source, TextSource};
pub use stop_strings::StopStringFilter;
pub use tokenizer::{DecodeStream, END_OF_TEXT, EndTokens, Tokenizer, TokenizerKind, gguf_metadata};

use crate::config::DataSettings;
use crate::progress::Progress;
use crate::vfs::Vfs;
use anyhow::Result;

/// Warnings for the caller to print, one line each, without duplicates.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    lines: Vec<String>,
}

impl Notices {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line unless it is already present; beyond a thousand lines the rest is dropped.
    pub fn push(&mut self, line: impl Into<String>) {
        const MOST: usize = 1000;
        let line = line.into();
        if self.lines.len() < MOST && !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    /// The lines so far, oldest first.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Removes and returns the lines so far, to print them as they occur.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// Whether there are no warnings.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// Loads everything that [`DataSettings`] names: opens the text, builds or loads the tokenizer, tokenizes (or uses the cache), splits.
///
/// `tokenizer` replaces `settings.tokenizer` when a trained model comes with its own. `progress` receives (bytes done, total bytes) of the
/// file being tokenized. Errors name the file or setting, and the remedy.
pub fn load(
    vfs: &dyn Vfs,
    settings: &DataSettings,
    tokenizer: Option<Tokenizer>,
    cache: &TokenCache,
    notices: &mut Notices,
    progress: &mut Progress<'_>,
) -> Result<(Tokenizer, Dataset)> {
    anyhow::ensure!(
        !settings.data.is_empty(),
        "data: no text named. Give --data PATH (a file, a folder, JSONL, or - for standard input)"
    );
    let train = Corpus::open(vfs, &settings.data, notices)?;
    let named = settings.val_data.as_slice();
    let val = if named.is_empty() { train.validation_files() } else { named };
    let val = if val.is_empty() { None } else { Some(Corpus::open(vfs, val, notices)?) };
    let tokenizer = match tokenizer {
        Some(tokenizer) => {
            tokenizer.check_marker(std::iter::once(&train).chain(&val), notices)?;
            tokenizer
        }
        None => Tokenizer::build(vfs, &settings.tokenizer.parse()?, &train, val.as_ref(), notices)?,
    };
    let train = std::sync::Arc::new(tokenize(vfs, &train, &tokenizer, cache, notices, progress)?);
    let dataset = match val {
        Some(val) => {
            Dataset::with_validation(train, std::sync::Arc::new(tokenize(vfs, &val, &tokenizer, cache, notices, progress)?))
        }
        None => Dataset::split(train, settings.val_fraction)?,
    };
    Ok((tokenizer, dataset))
}

/// External text for one line of output: control characters escaped, at most 80 characters.
fn display_text(text: &str) -> String {
    const MOST: usize = 80;
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == MOST {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A path for one line of output, not shortened because the user has to find the file.
fn shown_path(path: &std::path::Path) -> String {
    path.to_string_lossy().chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

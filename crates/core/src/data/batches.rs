//! From tokens to batches: train/validation split, training order, validation windows. All are pure functions of a few integers.

use super::{ContentHash, TokenFile};
use crate::rng::{Permutation, Rng};
use anyhow::{Result, ensure};
use std::ops::Range;
use std::sync::Arc;

/// Target of a position that is ignored in the loss: the next token belongs to another document or does not exist.
pub const IGNORE: u32 = u32::MAX;

/// Training and validation tokens.
#[derive(Clone)]
pub struct Dataset {
    /// Training tokens.
    pub train: TokenRange,
    /// Validation tokens, if any are held out.
    pub val: Option<TokenRange>,
}

/// A contiguous range of a token file.
#[derive(Clone)]
pub struct TokenRange {
    file: Arc<TokenFile>,
    range: Range<u64>,
}

/// Rows of `seq_len` tokens with their targets; all three vectors are `batch_size` x `seq_len`, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Number of rows.
    pub batch_size: usize,
    /// Tokens per row.
    pub seq_len: usize,
    /// Input tokens.
    pub tokens: Vec<u32>,
    /// The token that follows each input, or [`IGNORE`].
    pub targets: Vec<u32>,
    /// Position in the row, 0 to `seq_len` - 1, where the input's document begins: attention is restricted to positions from there on.
    /// Where documents have no begin token, the document starts at the separator that ends the previous one.
    pub doc_start: Vec<u32>,
    /// Inputs that are not padding.
    pub num_tokens: usize,
}

impl Dataset {
    /// The first floor(n * (1 - `val_fraction`)) tokens are for training, the rest for validation; with 0 nothing is held out.
    pub fn split(file: Arc<TokenFile>, val_fraction: f64) -> Result<Self> {
        ensure!((0.0..1.0).contains(&val_fraction), "val_fraction = {val_fraction}: must be at least 0 and below 1");
        let n = file.len();
        let cut = ((n as f64 * (1.0 - val_fraction)).floor() as u64).min(n);
        let part = |range| TokenRange { file: file.clone(), range };
        Ok(Self { train: part(0..cut), val: Some(part(cut..n)).filter(TokenRange::has_targets) })
    }

    /// One file for training, another for validation.
    pub fn with_validation(train: Arc<TokenFile>, val: Arc<TokenFile>) -> Self {
        Self { train: TokenRange::whole(train), val: Some(TokenRange::whole(val)).filter(TokenRange::has_targets) }
    }
}

impl TokenRange {
    /// Hashes the tokens and document ends, to identify the data.
    pub fn hash_into(&self, hash: &mut ContentHash) {
        const PIECE: u64 = 1 << 16;
        for start in self.range.clone().step_by(PIECE as usize) {
            let mut ids = vec![0; (self.range.end - start).min(PIECE) as usize];
            self.file.read(start, &mut ids);
            hash.numbers(&ids);
        }
        let ends = self.file.document_ends().iter().filter(|end| self.range.contains(end));
        ends.for_each(|end| hash.bytes(&(end - self.range.start).to_le_bytes()));
    }

    /// All tokens of a file.
    pub fn whole(file: Arc<TokenFile>) -> Self {
        let range = 0..file.len();
        Self { file, range }
    }

    /// Number of tokens.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether the range is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Position of these tokens in the file.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Consecutive, non-overlapping windows, `batch_size` per batch, up to `max_tokens` (rounded up to whole windows) or the end. Over the
    /// whole range every token with a predecessor in its document is a target exactly once. The last window is padded with token 0 and the
    /// last batch with empty rows; padding is [`IGNORE`]d and is a document of its own.
    pub fn val_batches(&self, batch_size: usize, seq_len: usize, max_tokens: u64) -> ValBatches {
        let (batch_size, seq_len) = (batch_size.max(1), seq_len.max(1));
        let targets = self.len().saturating_sub(1);
        let windows = targets.min(max_tokens).div_ceil(seq_len as u64);
        ValBatches { tokens: self.clone(), batch_size, seq_len, windows, next: 0 }
    }

    /// Whether it contains any target.
    fn has_targets(&self) -> bool {
        self.len() >= 2
    }

    /// Appends the row that begins at token `offset` of this range, padded after the end of the range.
    fn append_row(&self, offset: u64, batch: &mut Batch) {
        let seq_len = batch.seq_len;
        let start = self.range.start + offset;
        // The last token of the range has no target, so it is not an input either.
        let inputs = (self.range.end.saturating_sub(start + 1)).min(seq_len as u64) as usize;
        let mut ids = vec![0; if inputs == 0 { 0 } else { inputs + 1 }];
        self.file.read(start, &mut ids);
        let (ends, separator) = (self.file.document_ends(), self.file.separator());
        let mut document = ends.partition_point(|end| *end <= start);
        let (mut doc_start, mut joins) = (0, false);
        for i in 0..inputs {
            let position = start + i as u64;
            if ends.get(document) == Some(&position) {
                document += 1;
                doc_start = if joins { doc_start } else { i };
            }
            let last_of_document = ends.get(document) == Some(&(position + 1));
            // The separator is a target in the document that it ends, but an input only in the next.
            joins = last_of_document && separator == Some(ids[i]);
            doc_start = if joins { i } else { doc_start };
            batch.tokens.push(ids[i]);
            batch.targets.push(if last_of_document && !joins { IGNORE } else { ids[i + 1] });
            batch.doc_start.push(doc_start as u32);
        }
        batch.num_tokens += inputs;
        let padded = batch.tokens.len() + seq_len - inputs;
        batch.tokens.resize(padded, 0);
        batch.targets.resize(padded, IGNORE);
        batch.doc_start.resize(padded, inputs as u32);
    }
}

impl Batch {
    /// Number of targets that count in the loss.
    pub fn target_count(&self) -> usize {
        self.targets.iter().filter(|t| **t != IGNORE).count()
    }

    fn with_capacity(batch_size: usize, seq_len: usize) -> Self {
        let n = batch_size * seq_len;
        let (tokens, targets, doc_start) = (Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n));
        Self { batch_size, seq_len, tokens, targets, doc_start, num_tokens: 0 }
    }
}

/// Training order: which window each sequence of a run uses. Sequence `s` depends only on the seed and `s`, so a counter of sequences is
/// the whole state.
///
/// An epoch divides the text into windows of `seq_len` inputs plus one target, starting at a random offset (so boundaries differ between
/// epochs), and visits each window once in random order.
#[derive(Clone)]
pub struct TrainOrder {
    tokens: TokenRange,
    seq_len: usize,
    rng: Rng,
    windows: u64,
    phases: u64,
}

impl TrainOrder {
    /// The training order of these tokens. An error if there are too few for one window.
    pub fn new(tokens: TokenRange, seq_len: usize, seed: u64) -> Result<Self> {
        let (n, t) = (tokens.len(), seq_len as u64);
        ensure!(t > 0, "seq_len = 0: must be at least 1");
        ensure!(
            n > t,
            "data: {n} tokens for training, but one window needs {} (seq_len = {seq_len} and one target). Use more text or a smaller --seq-len",
            t + 1
        );
        // The number of windows that fits for every offset: all epochs have the same length, and locating a window needs no search.
        let windows = ((n - t) / t).max(1);
        let phases = (n - windows * t).min(t);
        Ok(Self { tokens, seq_len, rng: Rng::new(seed, "data"), windows, phases })
    }

    /// Windows per epoch.
    pub fn windows_per_epoch(&self) -> u64 {
        self.windows
    }

    /// Epochs completed before `sequence`, as a fraction.
    pub fn epochs_at(&self, sequence: u64) -> f64 {
        sequence as f64 / self.windows as f64
    }

    /// (epoch, first token) of a sequence; tokens are counted from the start of the training range.
    pub fn locate(&self, sequence: u64) -> (u64, u64) {
        let (epoch, index) = (sequence / self.windows, sequence % self.windows);
        let phase = self.rng.below(epoch, u64::MAX, self.phases);
        let window = Permutation::new(self.windows, self.rng, epoch).at(index);
        (epoch, phase + window * self.seq_len as u64)
    }

    /// The batch of update `step`, counted from 0: `batch_size` sequences from `step * batch_size` on.
    pub fn batch(&self, step: u64, batch_size: usize) -> Batch {
        self.batch_from(step.wrapping_mul(batch_size as u64), batch_size)
    }

    /// The batch of `batch_size` sequences starting at `sequence`.
    pub fn batch_from(&self, sequence: u64, batch_size: usize) -> Batch {
        let mut batch = Batch::with_capacity(batch_size, self.seq_len);
        for row in 0..batch_size as u64 {
            let (_, offset) = self.locate(sequence.wrapping_add(row));
            self.tokens.append_row(offset, &mut batch);
        }
        batch
    }
}

/// Iterator over the batches of an evaluation; returned by [`TokenRange::val_batches`].
#[derive(Clone)]
pub struct ValBatches {
    tokens: TokenRange,
    batch_size: usize,
    seq_len: usize,
    windows: u64,
    next: u64,
}

impl Iterator for ValBatches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.next >= self.windows {
            return None;
        }
        let mut batch = Batch::with_capacity(self.batch_size, self.seq_len);
        for _ in 0..self.batch_size {
            // Rows after the last window start at the end of the range and are all padding.
            let offset = if self.next < self.windows { self.next * self.seq_len as u64 } else { self.tokens.len() };
            self.tokens.append_row(offset, &mut batch);
            self.next += 1;
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.windows.saturating_sub(self.next).div_ceil(self.batch_size as u64) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for ValBatches {}

#[cfg(test)]
mod tests;

//! From tokens to batches: the split, the order of training, the walk over validation text. All of it pure functions of a few integers.

use super::{ContentHash, TokenFile};
use crate::rng::{Permutation, Rng};
use anyhow::{Result, ensure};
use std::ops::Range;
use std::sync::Arc;

/// The target of a position that is not scored: its next token belongs to another document or does not exist.
pub const IGNORE: u32 = u32::MAX;

/// What a model is trained on and judged by.
#[derive(Clone)]
pub struct Dataset {
    /// Tokens to learn from.
    pub train: TokenRange,
    /// Tokens to be judged by, if any were held out.
    pub val: Option<TokenRange>,
}

/// A stretch of a token file.
#[derive(Clone)]
pub struct TokenRange {
    file: Arc<TokenFile>,
    range: Range<u64>,
}

/// Rows of `seq_len` tokens with their targets; all three vectors are `batch_size` x `seq_len`, row after row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Number of rows.
    pub batch_size: usize,
    /// Tokens in a row.
    pub seq_len: usize,
    /// Inputs.
    pub tokens: Vec<u32>,
    /// The token that follows each input, or [`IGNORE`].
    pub targets: Vec<u32>,
    /// The place in the row, 0 to `seq_len` - 1, where the input's document begins: attention reaches back to there and no further. Where
    /// documents have no begin token of their own, that is the token that ends the one before.
    pub doc_start: Vec<u32>,
    /// Inputs that are no padding.
    pub num_tokens: usize,
}

impl Dataset {
    /// The first floor(n * (1 - `val_fraction`)) tokens for training, the rest for validation; 0 holds nothing out.
    pub fn split(file: Arc<TokenFile>, val_fraction: f64) -> Result<Self> {
        ensure!((0.0..1.0).contains(&val_fraction), "val_fraction = {val_fraction}: must be at least 0 and below 1");
        let n = file.len();
        let cut = ((n as f64 * (1.0 - val_fraction)).floor() as u64).min(n);
        let part = |range| TokenRange { file: file.clone(), range };
        Ok(Self { train: part(0..cut), val: Some(part(cut..n)).filter(TokenRange::has_targets) })
    }

    /// All of one file for training, all of another for validation.
    pub fn with_validation(train: Arc<TokenFile>, val: Arc<TokenFile>) -> Self {
        Self { train: TokenRange::whole(train), val: Some(TokenRange::whole(val)).filter(TokenRange::has_targets) }
    }
}

impl TokenRange {
    /// Its tokens and where its documents end, for telling it from others.
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

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which tokens of the file these are.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Windows that follow one another without overlap, `batch_size` a batch, until `max_tokens` (rounded up to whole windows) or the
    /// end. Over the whole range every token with a predecessor in its document is a target exactly once. The last window is filled up
    /// with token 0, the last batch with empty rows, all of it [`IGNORE`]d and in a document of its own.
    pub fn val_batches(&self, batch_size: usize, seq_len: usize, max_tokens: u64) -> ValBatches {
        let (batch_size, seq_len) = (batch_size.max(1), seq_len.max(1));
        let targets = self.len().saturating_sub(1);
        let windows = targets.min(max_tokens).div_ceil(seq_len as u64);
        ValBatches { tokens: self.clone(), batch_size, seq_len, windows, next: 0 }
    }

    /// Whether anything in it can be predicted.
    fn has_targets(&self) -> bool {
        self.len() >= 2
    }

    /// Appends the row that begins at token `offset` of this range; where the range ends, padding follows.
    fn append_row(&self, offset: u64, batch: &mut Batch) {
        let seq_len = batch.seq_len;
        let start = self.range.start + offset;
        // The last token of the range has no target in it, so that it is no input either.
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
            // A target of the document that it ends, it is an input of the next alone.
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
    /// Number of positions that are scored.
    pub fn target_count(&self) -> usize {
        self.targets.iter().filter(|t| **t != IGNORE).count()
    }

    fn with_capacity(batch_size: usize, seq_len: usize) -> Self {
        let n = batch_size * seq_len;
        let (tokens, targets, doc_start) = (Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n));
        Self { batch_size, seq_len, tokens, targets, doc_start, num_tokens: 0 }
    }
}

/// Which window of the training text each sequence of a run is: sequence `s` depends on the seed and `s` alone, so that a counter of
/// sequences is all there is to save.
///
/// An epoch cuts the text into windows of `seq_len` inputs and one target more, from a first token that the epoch draws (so that
/// boundaries move from epoch to epoch), and visits each once in an order that it draws too.
#[derive(Clone)]
pub struct TrainOrder {
    tokens: TokenRange,
    seq_len: usize,
    rng: Rng,
    windows: u64,
    phases: u64,
}

impl TrainOrder {
    /// The order of training on these tokens. An error if they do not fill one window.
    pub fn new(tokens: TokenRange, seq_len: usize, seed: u64) -> Result<Self> {
        let (n, t) = (tokens.len(), seq_len as u64);
        ensure!(t > 0, "seq_len = 0: must be at least 1");
        ensure!(
            n > t,
            "data: {n} tokens for training, but one window needs {} (seq_len = {seq_len} and one target). Use more text or a smaller --seq-len",
            t + 1
        );
        // As many windows as fit behind every phase, so that all epochs have the same number and finding one needs no search.
        let windows = ((n - t) / t).max(1);
        let phases = (n - windows * t).min(t);
        Ok(Self { tokens, seq_len, rng: Rng::new(seed, "data"), windows, phases })
    }

    /// Windows in an epoch.
    pub fn windows_per_epoch(&self) -> u64 {
        self.windows
    }

    /// Epochs behind sequence `sequence`, with the part of the current one.
    pub fn epochs_at(&self, sequence: u64) -> f64 {
        sequence as f64 / self.windows as f64
    }

    /// (epoch, first token) of a sequence; the token counts from the start of the training range.
    pub fn locate(&self, sequence: u64) -> (u64, u64) {
        let (epoch, index) = (sequence / self.windows, sequence % self.windows);
        let phase = self.rng.below(epoch, u64::MAX, self.phases);
        let window = Permutation::new(self.windows, self.rng, epoch).at(index);
        (epoch, phase + window * self.seq_len as u64)
    }

    /// The batch of update `step`, counted from 0: sequences `step * batch_size` and following.
    pub fn batch(&self, step: u64, batch_size: usize) -> Batch {
        self.batch_from(step.wrapping_mul(batch_size as u64), batch_size)
    }

    /// The batch of `batch_size` sequences from `sequence` on.
    pub fn batch_from(&self, sequence: u64, batch_size: usize) -> Batch {
        let mut batch = Batch::with_capacity(batch_size, self.seq_len);
        for row in 0..batch_size as u64 {
            let (_, offset) = self.locate(sequence.wrapping_add(row));
            self.tokens.append_row(offset, &mut batch);
        }
        batch
    }
}

/// The batches of a validation pass; made by [`TokenRange::val_batches`].
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
            // Rows after the last window begin where nothing is left and become padding.
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

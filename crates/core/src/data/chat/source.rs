//! Batches of examples, packed or one per row, each a pure function of (seed, number).

use super::examples::Example;
use super::pack::{Bin, MixtureShare, best_fit, draws, shuffled};
use crate::data::{Batch, ContentHash, IGNORE, Source};
use crate::rng::Rng;
use anyhow::{Result, ensure};
use std::sync::{Mutex, PoisonError};

/// Bit of a stored token that marks it as a target.
const SCORED: u32 = 1 << 31;

/// All examples, concatenated.
#[derive(Clone, Debug, Default)]
pub struct ExampleStore {
    tokens: Vec<u32>,
    ends: Vec<usize>,
}

impl ExampleStore {
    /// Stores an example and returns its number.
    ///
    /// # Errors
    /// More than 2^32 examples.
    pub fn push(&mut self, example: &Example) -> Result<u32> {
        let number = u32::try_from(self.ends.len())?;
        ensure!(example.tokens.iter().all(|id| id & SCORED == 0), "a token id above 2^31");
        self.tokens.extend(example.tokens.iter().zip(&example.scored).map(|(id, scored)| id | if *scored { SCORED } else { 0 }));
        self.ends.push(self.tokens.len());
        Ok(number)
    }

    /// Number of examples.
    pub fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn example(&self, number: u32) -> &[u32] {
        let i = number as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.tokens[start..self.ends[i]]
    }

    fn count(&self, numbers: impl Iterator<Item = u32>) -> u64 {
        numbers.map(|i| self.example(i).len() as u64).sum()
    }
}

/// Input of [`ChatSource::new`].
pub struct ChatRows {
    /// The examples, none longer than `seq_len`.
    pub store: ExampleStore,
    /// (examples of a file, weight), for training.
    pub train: Vec<(std::ops::Range<u32>, f64)>,
    /// Validation examples.
    pub val: Vec<u32>,
}

/// A source of batches of examples.
pub struct ChatSource {
    store: ExampleStore,
    train: Vec<MixtureShare>,
    val: Vec<Bin>,
    seq_len: usize,
    seed: u64,
    packing: bool,
    /// Index of the first row after the end of the run; rows from there on are empty.
    end: u64,
    tokens: (u64, u64),
    epochs: Mutex<Epochs>,
}

/// Epochs packed so far.
#[derive(Default)]
struct Epochs {
    /// Number of rows before each epoch.
    starts: Vec<u64>,
    /// The rows of the epoch packed last.
    last: Option<(u64, Vec<Bin>)>,
}

impl ChatSource {
    /// Examples in random order; with `packing` several share a row of `seq_len` tokens, without attending to one another.
    ///
    /// # Errors
    /// There are no training examples.
    pub fn new(rows: ChatRows, seq_len: usize, seed: u64, packing: bool) -> Result<Self> {
        let train: Vec<MixtureShare> =
            rows.train.into_iter().map(|(examples, weight)| MixtureShare { examples, weight }).collect();
        ensure!(draws(&train, seed, 0).len() + draws(&train, seed, 1).len() > 0, "--data: no row is left to learn from");
        let tokens =
            (rows.store.count(train.iter().flat_map(|share| share.examples.clone())), rows.store.count(rows.val.iter().copied()));
        // Packing sorts by length; rows are shuffled so that a partial evaluation is representative.
        let val = shuffled(&bins(&rows.store, rows.val, seq_len, packing), Rng::new(0, "validation rows"), 0);
        let epochs = Mutex::new(Epochs { starts: vec![0], last: None });
        Ok(Self { store: rows.store, train, val, seq_len, seed, packing, end: u64::MAX, tokens, epochs })
    }

    /// Ends after this many epochs; returns the number of updates with `batch_size` rows each.
    pub fn end_after(&mut self, epochs: f64, batch_size: usize) -> u64 {
        let whole = epochs.floor() as u64;
        let (start, rows) = (self.start(whole), self.start(whole + 1) - self.start(whole));
        self.end = start + (epochs.fract() * rows as f64).ceil() as u64;
        self.end.div_ceil(batch_size as u64).max(1)
    }

    /// Number of rows in the first epoch.
    pub fn rows_per_epoch(&self) -> u64 {
        self.start(1)
    }

    /// Number of rows before an epoch.
    fn start(&self, epoch: u64) -> u64 {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        while epochs.starts.len() as u64 <= epoch {
            self.pack_next(&mut epochs);
        }
        epochs.starts[epoch as usize]
    }

    /// Packs the next epoch.
    fn pack_next(&self, epochs: &mut Epochs) {
        let epoch = epochs.starts.len() as u64 - 1;
        let packed = self.epoch(epoch);
        epochs.starts.push(epochs.starts[epoch as usize] + packed.len() as u64);
        epochs.last = Some((epoch, packed));
    }

    fn epoch(&self, epoch: u64) -> Vec<Bin> {
        let drawn = draws(&self.train, self.seed, epoch);
        shuffled(&bins(&self.store, drawn, self.seq_len, self.packing), Rng::new(self.seed, "packed rows"), epoch)
    }

    /// (epoch, row in it) of a row of the run.
    fn locate(&self, epochs: &mut Epochs, row: u64) -> (u64, usize) {
        while epochs.starts.last().is_none_or(|start| *start <= row) {
            self.pack_next(epochs);
        }
        let epoch = epochs.starts.partition_point(|start| *start <= row) - 1;
        (epoch as u64, (row - epochs.starts[epoch]) as usize)
    }

    fn append(&self, bin: &[u32], batch: &mut Batch) {
        let row_start = batch.tokens.len();
        for number in bin {
            let example = self.store.example(*number);
            let doc_start = (batch.tokens.len() - row_start) as u32;
            batch.tokens.extend(example.iter().map(|id| id & !SCORED));
            let targets = example[1..].iter().map(|id| if id & SCORED == 0 { IGNORE } else { id & !SCORED });
            batch.targets.extend(targets.chain([IGNORE]));
            batch.doc_start.resize(batch.tokens.len(), doc_start);
        }
        let used = batch.tokens.len() - row_start;
        batch.num_tokens += used;
        batch.tokens.resize(row_start + self.seq_len, 0);
        batch.targets.resize(row_start + self.seq_len, IGNORE);
        batch.doc_start.resize(row_start + self.seq_len, used as u32);
    }
}

fn bins(store: &ExampleStore, drawn: Vec<u32>, seq_len: usize, packing: bool) -> Vec<Bin> {
    match packing {
        true => best_fit(&drawn, |i| store.example(i).len(), seq_len),
        false => drawn.into_iter().map(|i| vec![i]).collect(),
    }
}

fn empty(batch_size: usize, seq_len: usize) -> Batch {
    Batch { batch_size, seq_len, tokens: Vec::new(), targets: Vec::new(), doc_start: Vec::new(), num_tokens: 0 }
}

impl Source for ChatSource {
    fn batch(&self, n: u64, batch_size: usize) -> Batch {
        let mut batch = empty(batch_size, self.seq_len);
        let first = n.saturating_mul(batch_size as u64);
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        for row in (0..batch_size as u64).map(|i| first.saturating_add(i)) {
            if row >= self.end {
                self.append(&[], &mut batch);
                continue;
            }
            let (epoch, index) = self.locate(&mut epochs, row);
            if epochs.last.as_ref().is_none_or(|(of, _)| *of != epoch) {
                epochs.last = Some((epoch, self.epoch(epoch)));
            }
            let bin = epochs.last.as_ref().map_or(&[][..], |(_, packed)| &packed[index]);
            self.append(bin, &mut batch);
        }
        batch
    }

    fn val_batches(
        &self,
        batch_size: usize,
        seq_len: usize,
        max_tokens: u64,
    ) -> Option<Box<dyn ExactSizeIterator<Item = Batch> + '_>> {
        if self.val.is_empty() {
            return None;
        }
        debug_assert_eq!(seq_len, self.seq_len);
        // The number of rows that contain `max_tokens` targets.
        let mut targets = 0;
        let scored =
            |bin: &Bin| bin.iter().flat_map(|i| &self.store.example(*i)[1..]).filter(|id| **id & SCORED != 0).count() as u64;
        let rows = self.val.iter().take_while(|bin| (targets < max_tokens).then(|| targets += scored(bin)).is_some()).count();
        let batches = self.val[..rows].chunks(batch_size.max(1)).map(move |bins| {
            let mut batch = empty(batch_size, self.seq_len);
            bins.iter().for_each(|bin| self.append(bin, &mut batch));
            (bins.len()..batch_size).for_each(|_| self.append(&[], &mut batch));
            batch
        });
        Some(Box::new(batches))
    }

    fn tokens(&self) -> (u64, u64) {
        self.tokens
    }

    fn content_hash(&self) -> Option<String> {
        let mut hash = ContentHash::default();
        hash.numbers(&self.store.tokens);
        self.store.ends.iter().for_each(|end| hash.bytes(&(*end as u64).to_le_bytes()));
        for share in &self.train {
            hash.numbers(&[share.examples.start, share.examples.end]);
            hash.bytes(&share.weight.to_le_bytes());
        }
        self.val.iter().for_each(|bin| hash.numbers(bin));
        Some(hash.finish())
    }

    fn epochs(&self, n: u64, batch_size: usize) -> f64 {
        let row = n.saturating_mul(batch_size as u64).min(self.end);
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        let (epoch, index) = self.locate(&mut epochs, row);
        let rows = epochs.starts[epoch as usize + 1] - epochs.starts[epoch as usize];
        epoch as f64 + index as f64 / rows.max(1) as f64
    }
}

#[cfg(test)]
mod tests;

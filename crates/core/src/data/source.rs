//! Batches of a stage: the batch of update n, and the batches of an evaluation.

use super::{Batch, Dataset, TokenRange, TrainOrder};
use anyhow::Result;
use sha2::{Digest, Sha256};

/// Batches in an order that is a pure function of their number, so a counter is the whole state.
pub trait Source: Send {
    /// The batch of update `n`, counted from 0, with `batch_size` rows.
    fn batch(&self, n: u64, batch_size: usize) -> Batch;

    /// The first `max_tokens` validation tokens (rounded up to whole rows), always the same; `None` when nothing is held out.
    fn val_batches(
        &self,
        batch_size: usize,
        seq_len: usize,
        max_tokens: u64,
    ) -> Option<Box<dyn ExactSizeIterator<Item = Batch> + '_>>;

    /// (training tokens, validation tokens)
    fn tokens(&self) -> (u64, u64);

    /// A hash of the data and its order, so that a resumed run can verify that they are unchanged; `None` for generated data.
    fn content_hash(&self) -> Option<String> {
        None
    }

    /// Passes over the training data in the first `n` batches of `batch_size` rows.
    fn epochs(&self, n: u64, batch_size: usize) -> f64;
}

/// A hash of data, part by part, including the length of each part.
#[derive(Clone, Default)]
pub struct ContentHash(Sha256);

impl ContentHash {
    /// Hashes token ids, or other numbers.
    pub fn numbers(&mut self, numbers: &[u32]) {
        self.bytes(bytemuck::cast_slice(numbers));
    }

    /// Hashes bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The hash in hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Running text in which every next token counts in the loss: pretraining.
#[derive(Clone)]
pub struct TextSource {
    order: TrainOrder,
    val: Option<TokenRange>,
    tokens: (u64, u64),
    hash: String,
}

impl TextSource {
    /// Windows of `seq_len` tokens of the text, in a random order.
    ///
    /// # Errors
    /// Too little text for one window.
    pub fn new(data: Dataset, seq_len: usize, seed: u64) -> Result<Self> {
        let tokens = (data.train.len(), data.val.as_ref().map_or(0, TokenRange::len));
        let mut hash = ContentHash::default();
        data.train.hash_into(&mut hash);
        data.val.iter().for_each(|val| val.hash_into(&mut hash));
        let order = TrainOrder::new(data.train, seq_len, seed)?;
        Ok(Self { order, val: data.val, tokens, hash: hash.finish() })
    }
}

impl Source for TextSource {
    fn batch(&self, n: u64, batch_size: usize) -> Batch {
        self.order.batch(n, batch_size)
    }

    fn val_batches(
        &self,
        batch_size: usize,
        seq_len: usize,
        max_tokens: u64,
    ) -> Option<Box<dyn ExactSizeIterator<Item = Batch> + '_>> {
        self.val.as_ref().map(|val| Box::new(val.val_batches(batch_size, seq_len, max_tokens)) as Box<_>)
    }

    fn tokens(&self) -> (u64, u64) {
        self.tokens
    }

    fn content_hash(&self) -> Option<String> {
        Some(self.hash.clone())
    }

    fn epochs(&self, n: u64, batch_size: usize) -> f64 {
        self.order.epochs_at(n.saturating_mul(batch_size as u64))
    }
}

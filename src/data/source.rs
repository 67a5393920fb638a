//! What a stage trains on and is judged by: update n's batch, and the batches of a validation pass.

use super::{Batch, Dataset, TokenRange, TrainOrder};
use anyhow::Result;

/// Batches in an order that is a pure function of their number, so that a counter is all there is to save.
pub trait Source: Send {
    /// The batch of update `n`, counted from 0, with `batch_size` rows.
    fn batch(&self, n: u64, batch_size: usize) -> Batch;

    /// A walk over the first `max_tokens` validation tokens (rounded up to whole rows), always the same; `None` when nothing is held out.
    fn val_batches(
        &self,
        batch_size: usize,
        seq_len: usize,
        max_tokens: u64,
    ) -> Option<Box<dyn ExactSizeIterator<Item = Batch> + '_>>;

    /// (tokens for training, for validation)
    fn tokens(&self) -> (u64, u64);

    /// Passes over the training data behind the first `n` batches of `batch_size` rows.
    fn epochs(&self, n: u64, batch_size: usize) -> f64;
}

/// Running text, every next token of which counts the same: pre-training.
#[derive(Clone)]
pub struct TextSource {
    order: TrainOrder,
    val: Option<TokenRange>,
    tokens: (u64, u64),
}

impl TextSource {
    /// Windows of `seq_len` tokens of the text, in an order drawn from the seed.
    ///
    /// # Errors
    /// Too little text for one window.
    pub fn new(data: Dataset, seq_len: usize, seed: u64) -> Result<Self> {
        let tokens = (data.train.len(), data.val.as_ref().map_or(0, TokenRange::len));
        Ok(Self { order: TrainOrder::new(data.train, seq_len, seed)?, val: data.val, tokens })
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

    fn epochs(&self, n: u64, batch_size: usize) -> f64 {
        self.order.epochs_at(n.saturating_mul(batch_size as u64))
    }
}

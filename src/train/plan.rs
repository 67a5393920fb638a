//! How much memory a run takes, before it takes it; and how many sequences are computed at once.

use super::merge::ring::choose_place;
use super::reinforce;
use crate::config::{MergeSettings, ModelConfig, RingPlace, Settings, TrainSettings};
use crate::device::Sizes;
use crate::model::{Parameters, Pass, activations, rollout as rollouts};

/// Device memory of a training run, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// (purpose, bytes), as in the device's ledger.
    pub parts: Vec<(&'static str, u64)>,
    /// Sequences computed at once; in reinforcement rows, each of which holds as many completions as fit.
    pub micro_batch: usize,
    /// Where the snapshots of a live merge are kept, and their bytes there, if there is one.
    pub ring: Option<(RingPlace, u64)>,
}

impl MemoryPlan {
    /// For training a model of this shape by these settings.
    ///
    /// # Errors
    /// When one tensor is larger than the adapter can bind.
    pub fn training(c: &ModelConfig, t: &TrainSettings, merge: &MergeSettings, sizes: Sizes) -> anyhow::Result<Self> {
        let arena = Parameters::new(c, sizes.max_tensor_bytes)?.arena_bytes();
        let micro_batch = micro_batch(c, t, sizes);
        let activations = activations::bytes(c, micro_batch, t.seq_len, Pass::Training, sizes);
        let rope = 4 * (t.seq_len * c.head_dim) as u64;
        let mut parts = vec![
            ("values", arena),
            ("grads", arena),
            ("adam_m", arena),
            ("adam_v", arena),
            ("activations", activations),
            ("rope table", rope),
        ];
        let ring = (merge.merge_every > 0).then(|| {
            let bytes = arena * merge.merge_last as u64;
            (choose_place(merge.merge_ring, sizes.merge_ring_bytes, bytes), bytes)
        });
        if let Some((RingPlace::Device, bytes)) = ring {
            parts.push(("merge ring", bytes));
        }
        parts.extend(scratch(sizes));
        Ok(Self { parts, micro_batch, ring })
    }

    /// For reinforcing a model of this shape: rollouts, policy and reference model.
    ///
    /// # Errors
    /// As [`MemoryPlan::training`], or lengths that cannot work.
    pub fn reinforcement(c: &ModelConfig, settings: &Settings, sizes: Sizes) -> anyhow::Result<Self> {
        let (mut parts, micro_batch) = reinforce::memory_parts(c, settings, sizes)?;
        if let Some(rollout) = &settings.rollout {
            let max_len = rollout.max_prompt_length + rollout.max_completion_length;
            let slots = reinforce::slots(c, settings, rollout, sizes);
            parts.push(("rollouts", rollouts::bytes(c, slots, max_len, settings.train.batch_size, sizes)));
        }
        parts.extend(scratch(sizes));
        Ok(Self { parts, micro_batch, ring: None })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What a device keeps for its kernels.
fn scratch(sizes: Sizes) -> Option<(&'static str, u64)> {
    (sizes.scratch_bytes > 0).then_some(("scratch", sizes.scratch_bytes))
}

/// Tokens computed at once, at most: a token may occur that often, and one invocation sums its rows (lavapipe ends loops at 65,535).
const MAX_ROWS: usize = 32_768;

/// As many rows of `time` tokens as `rows` says, if so many can be computed at once. It is not asked where not even one can.
///
/// # Errors
/// Rows that are too long, or too many.
pub fn rows_at_once(time: usize, rows: impl FnOnce() -> usize) -> anyhow::Result<usize> {
    anyhow::ensure!((1..=MAX_ROWS).contains(&time), "--seq-len {time}: must be at least 1 and at most {MAX_ROWS}");
    let rows = rows();
    anyhow::ensure!(
        (1..=MAX_ROWS / time).contains(&rows),
        "--micro-batch-size {rows}: of {time} tokens each; at most {MAX_ROWS} tokens are computed at once, so use at most {}",
        MAX_ROWS / time
    );
    Ok(rows)
}

/// Sequences computed at once: as set, else the largest divisor of the batch that stays within what suits the adapter.
pub fn micro_batch(c: &ModelConfig, t: &TrainSettings, sizes: Sizes) -> usize {
    if let Some(set) = t.micro_batch_size {
        return set;
    }
    let most = most_rows(c, t.seq_len, sizes);
    (1..=t.batch_size.min(most)).rev().find(|&n| t.batch_size.is_multiple_of(n)).unwrap_or(1)
}

/// Sequences of this length that suit the device at once, at least one.
pub fn most_rows(c: &ModelConfig, seq_len: usize, sizes: Sizes) -> usize {
    let (most_tokens, most_bytes) = (sizes.training_tokens, sizes.activation_bytes);
    let fits = |n: usize| {
        n * seq_len <= most_tokens
            && activations::bytes(c, n, seq_len, Pass::Training, sizes) <= most_bytes
            && (4 * n * seq_len * (2 * c.intermediate_size).max(c.qkv_dim())) as u64 <= sizes.max_tensor_bytes
    };
    // All three grow with the number of sequences.
    (1..=most_tokens / seq_len.max(1)).rev().find(|&n| fits(n)).unwrap_or(1)
}

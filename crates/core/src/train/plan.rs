//! Device memory of a run, computed before allocation; and the micro-batch size.

use super::reinforce;
use crate::config::{MergeSettings, ModelConfig, RingPlace, Settings, Stage, TrainSettings};
use crate::device::{ElementType, Sizes};
use crate::merge::ring::choose_place;
use crate::model::{Parameters, PassKind, activations, rollout as rollouts};
use crate::vfs::human_bytes;

/// Device memory of a training run, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// (purpose, bytes), as in the device's ledger.
    pub parts: Vec<(&'static str, u64)>,
    /// Sequences computed at once; in GRPO, rows, each of which holds as many completions as fit.
    pub micro_batch: usize,
    /// Where the snapshots of live merging are kept, and their size in bytes.
    pub ring: Option<(RingPlace, u64)>,
}

impl MemoryPlan {
    /// Plan for a run of any stage.
    ///
    /// # Errors
    /// As [`MemoryPlan::training`] and [`MemoryPlan::reinforcement`].
    pub fn of(c: &ModelConfig, settings: &Settings, sizes: Sizes) -> anyhow::Result<Self> {
        match settings.stage() {
            Stage::Grpo => Self::reinforcement(c, settings, sizes),
            Stage::Pretrain | Stage::Sft => Self::training(c, &settings.train, &settings.merge, sizes),
        }
    }

    /// Plan for supervised training of a model of this shape.
    ///
    /// # Errors
    /// When one tensor is larger than the adapter can bind.
    pub fn training(c: &ModelConfig, t: &TrainSettings, merge: &MergeSettings, sizes: Sizes) -> anyhow::Result<Self> {
        let micro_batch = micro_batch(c, t, sizes);
        let pass = PassKind::training(t.checkpoints_activations());
        let activations = activations::bytes(c, micro_batch, t.seq_len, pass, sizes);
        let rope = 4 * (t.seq_len * c.head_dim) as u64;
        let mut parts = parameter_bytes(c, sizes)?;
        parts.extend([("activations", activations), ("rope table", rope)]);
        let trained = Parameters::trained(c, sizes.max_tensor_bytes)?.arena_bytes();
        let ring = (merge.merge_every > 0).then(|| {
            let bytes = trained * merge.merge_last as u64;
            (choose_place(merge.merge_ring, sizes.merge_ring_bytes, bytes), bytes)
        });
        if let Some((RingPlace::Device, bytes)) = ring {
            parts.push(("merge ring", bytes));
        }
        parts.extend(scratch(sizes));
        Ok(Self { parts, micro_batch, ring })
    }

    /// Plan for GRPO on a model of this shape: rollouts, policy and reference model.
    ///
    /// # Errors
    /// As [`MemoryPlan::training`], or invalid lengths.
    pub fn reinforcement(c: &ModelConfig, settings: &Settings, sizes: Sizes) -> anyhow::Result<Self> {
        let (mut parts, micro_batch) = reinforce::memory_parts(c, settings, sizes)?;
        if let Some(rollout) = &settings.rollout {
            let max_len = rollout.max_prompt_length + rollout.max_completion_length;
            let slots = reinforce::slots(c, settings, rollout, sizes);
            let row = (max_len, rollout.kv_cache_dtype.element());
            parts.push(("rollouts", rollouts::bytes(c, slots, row, settings.train.batch_size, sizes)));
        }
        parts.extend(scratch(sizes));
        Ok(Self { parts, micro_batch, ring: None })
    }

    /// Bytes of one purpose.
    fn part(&self, name: &str) -> u64 {
        self.parts.iter().filter(|(part, _)| *part == name).map(|(_, bytes)| bytes).sum()
    }

    /// Total bytes.
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// A device's sizes under a memory limit (`--max-memory-gib`): less is computed at once until the plan fits.
///
/// # Errors
/// A run that does not fit with the smallest micro-batch; as [`MemoryPlan::of`].
pub fn within_memory(c: &ModelConfig, settings: &Settings, mut sizes: Sizes) -> anyhow::Result<Sizes> {
    let Some(gib) = settings.train.max_memory_gib else { return Ok(sizes) };
    let most = (gib * f64::from(1 << 30)) as u64;
    loop {
        let plan = MemoryPlan::of(c, settings, sizes)?;
        if plan.total() <= most {
            return Ok(sizes);
        }
        let rollout_cache_bytes = (sizes.rollout_cache_bytes / 2).max(1 << 20);
        let fewer_rollouts = Sizes { rollout_cache_bytes, prefill_tokens: (sizes.prefill_tokens / 2).max(64), ..sizes };
        let (activation_bytes, logits_bytes) =
            ((sizes.activation_bytes / 2).max(1 << 20), (sizes.logits_bytes / 2).max(64 << 20));
        let fewer_rows = Sizes { activation_bytes, logits_bytes, ..sizes };
        // The larger part first, as far as it goes.
        let smaller = match plan.part("rollouts") > plan.part("activations") {
            true => [fewer_rollouts, fewer_rows],
            false => [fewer_rows, fewer_rollouts],
        };
        if let Some(next) = smaller.into_iter().find(|next| *next != sizes) {
            sizes = next;
        } else {
            let parts: Vec<String> = plan.parts.iter().map(|(name, bytes)| format!("{name} {}", human_bytes(*bytes))).collect();
            anyhow::bail!(
                "--max-memory-gib {gib}: the run takes {} ({}); use --lora-rank, --activation-checkpointing, a shorter --seq-len, or a smaller \
                 --micro-batch-size or --rollout-batch-size",
                human_bytes(plan.total()),
                parts.join(", ")
            );
        }
    }
}

/// Device memory of weights, adapters, gradients and moments.
///
/// # Errors
/// When one tensor is larger than the adapter can bind.
pub(super) fn parameter_bytes(c: &ModelConfig, sizes: Sizes) -> anyhow::Result<Vec<(&'static str, u64)>> {
    let element = c.lora.as_ref().map_or(ElementType::F32, |lora| lora.base);
    let weights = Parameters::frozen(c, sizes.max_tensor_bytes, element)?.value_bytes();
    let trained = Parameters::trained(c, sizes.max_tensor_bytes)?.arena_bytes();
    let adapters = c.lora.as_ref().map(|_| ("adapters", trained));
    let learning = [("grads", trained), ("adam_m", trained), ("adam_v", trained)];
    Ok([("values", weights)].into_iter().chain(adapters).chain(learning).collect())
}

/// Memory that a device needs for its kernels.
fn scratch(sizes: Sizes) -> Option<(&'static str, u64)> {
    (sizes.scratch_bytes > 0).then_some(("scratch", sizes.scratch_bytes))
}

/// Tokens computed at once, at most: a token may occur that often, and one invocation sums its rows (lavapipe ends loops at 65,535).
const MAX_ROWS: usize = 32_768;

/// Number of rows of `time` tokens to compute at once, as `rows` returns it. `rows` is not called if not even one row is allowed.
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

/// Sequences computed at once: as set, else the largest divisor of the batch size that suits the adapter.
pub fn micro_batch(c: &ModelConfig, t: &TrainSettings, sizes: Sizes) -> usize {
    if let Some(set) = t.micro_batch_size {
        return set;
    }
    let most = most_rows(c, t, sizes);
    (1..=t.batch_size.min(most)).rev().find(|&n| t.batch_size.is_multiple_of(n)).unwrap_or(1)
}

/// Number of sequences at once that suits the device, at least one.
pub fn most_rows(c: &ModelConfig, t: &TrainSettings, sizes: Sizes) -> usize {
    let (seq_len, pass) = (t.seq_len, PassKind::training(t.checkpoints_activations()));
    let (most_tokens, most_bytes) = (sizes.training_tokens, sizes.activation_bytes);
    let fits = |n: usize| {
        n * seq_len <= most_tokens
            && activations::bytes(c, n, seq_len, pass, sizes) <= most_bytes
            && (4 * n * seq_len * (2 * c.intermediate_size).max(c.qkv_dim())) as u64 <= sizes.max_tensor_bytes
    };
    // All three grow with the number of sequences.
    (1..=most_tokens / seq_len.max(1)).rev().find(|&n| fits(n)).unwrap_or(1)
}

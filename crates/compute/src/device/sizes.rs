//! Sizes that suit a device. Each device provides its own, so that higher layers do not depend on its kind.

/// Maximum amounts of work for a device at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Maximum bytes of a binding: one tensor, or one segment of an arena. Tables (embedding, head) may be larger; they are bound in parts.
    pub max_tensor_bytes: u64,
    /// Tokens of one forward and backward pass.
    pub training_tokens: usize,
    /// Bytes of activations of one forward and backward pass.
    pub activation_bytes: u64,
    /// Bytes of logits computed at once. A GPU reads the head and adds to its gradient once for each chunk of rows: with 64 MiB and 151,936
    /// tokens that would be 64 rows.
    pub logits_bytes: u64,
    /// Prompt tokens in one prefill pass.
    pub prefill_tokens: usize,
    /// Completions sampled at once.
    pub rollout_rows: usize,
    /// Bytes of the key/value caches of rollouts.
    pub rollout_cache_bytes: u64,
    /// Decoding steps per submission.
    pub replays_at_once: usize,
    /// Maximum bytes of live-merging snapshots in device memory by default.
    pub merge_ring_bytes: u64,
    /// Bytes of [`super::Device::scratch`].
    pub scratch_bytes: u64,
    /// Share of the measured matmul peak that a training step usually reaches, for estimates of time (LOG.md).
    pub share_of_peak: f64,
}

impl Sizes {
    /// A GPU: needs large amounts, within its memory (drivers do not report its size).
    pub const GPU: Self = Self {
        max_tensor_bytes: SAFE_BINDING,
        training_tokens: 32_768,
        // The logits, which these include, leave room for as many tokens as with 64 MiB.
        activation_bytes: (2 << 30) + (192 << 20),
        logits_bytes: 256 << 20,
        prefill_tokens: 4096,
        rollout_rows: 512,
        rollout_cache_bytes: 4 << 30,
        replays_at_once: 8,
        merge_ring_bytes: 2 << 30,
        scratch_bytes: 16 << 20,
        share_of_peak: 0.33,
    };

    /// Software Vulkan: not faster beyond a few thousand tokens, its dispatches get long, and its memory is the host's.
    pub const SOFTWARE_GPU: Self = Self {
        max_tensor_bytes: SAFE_BINDING,
        training_tokens: 4096,
        activation_bytes: 2 << 30,
        logits_bytes: 64 << 20,
        prefill_tokens: 512,
        rollout_rows: 64,
        rollout_cache_bytes: 1 << 30,
        replays_at_once: 2,
        merge_ring_bytes: 4 << 30,
        scratch_bytes: 0,
        share_of_peak: 0.7,
    };

    /// The CPU: not faster with more tokens once a product's operands exceed the caches; a replay is synchronous.
    pub const CPU: Self = Self {
        max_tensor_bytes: if cfg!(target_pointer_width = "32") { SAFE_BINDING } else { 1 << 40 },
        training_tokens: 4096,
        activation_bytes: 2 << 30,
        logits_bytes: 64 << 20,
        prefill_tokens: 512,
        rollout_rows: 64,
        rollout_cache_bytes: 1 << 30,
        replays_at_once: 1,
        merge_ring_bytes: 4 << 30,
        scratch_bytes: 0,
        share_of_peak: 0.6,
    };
}

/// Bindings past 2^31 - 4 bytes miscompute on some drivers (wgpu issues 2361, 10305).
pub(super) const SAFE_BINDING: u64 = (1 << 31) - 256;

//! Activations: everything that a pass over (B, T) tokens writes. One buffer each, because WebGPU forbids binding a buffer for reading and
//! for writing in one dispatch.

use super::weights::PerProduct;
use crate::config::ModelConfig;
use crate::device::{Device, Sizes, Tensor};
use crate::ops::logprob::RowStats;
use crate::ops::objective::stats;

/// The kind of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassKind {
    /// Log-probabilities only: the blocks share one set of buffers.
    Forward,
    /// Forward, with separate buffers for every block, for inspection.
    Inspection,
    /// Forward and backward, with separate buffers for every block.
    Training,
    /// Forward and backward with activation checkpointing: every block keeps its output, the next block's input. All other buffers are
    /// shared, and the backward pass recomputes their contents.
    Checkpointed,
}

impl PassKind {
    /// A training pass, with activation checkpointing or without.
    pub fn training(checkpointing: bool) -> Self {
        if checkpointing { Self::Checkpointed } else { Self::Training }
    }
}

/// Buffers that the host writes before a pass.
#[derive(Clone, Debug)]
pub struct PassInputs<T> {
    /// (R) u32
    pub tokens: T,
    /// (R) u32; any value where `weights` is 0
    pub targets: T,
    /// (R) u32: index of the token inside its document
    pub positions: T,
    /// (R) f32: share of each target in the loss
    pub weights: T,
    /// (R) u32, training: see `ops::embedding::Spans`
    pub order: T,
    /// (3 R) u32, training
    pub spans: T,
}

/// Forward activations of one block.
#[derive(Clone, Debug)]
pub struct BlockActivations<T> {
    /// (R, C) normalised input of attention
    pub attn_in: T,
    /// (R)
    pub attn_rstd: T,
    /// (R, H D + 2 Hkv D) before q/k norm; Qwen3 only
    pub qkv_raw: Option<T>,
    /// (R H) and (R Hkv), Qwen3 only
    pub qk_rstd: Option<[T; 2]>,
    /// (R, H D + 2 Hkv D) after norm and rotation
    pub qkv: T,
    /// (R, H D)
    pub attn_out: T,
    /// (R, H) log-sum-exp of the scores
    pub attn_lse: T,
    /// (R, C) residual stream after attention
    pub after_attn: T,
    /// (R, C) normalised input of the MLP
    pub mlp_in: T,
    /// (R)
    pub mlp_rstd: T,
    /// (R, 2 F)
    pub gate_up: T,
    /// (R, F)
    pub hidden: T,
    /// (R, C) residual stream after the MLP
    pub after_mlp: T,
    /// (R, parts x rank) x A^T of the adapters of each product
    pub adapted: PerProduct<T>,
}

/// Gradients of activations; one set serves every block.
#[derive(Clone, Debug)]
pub struct Gradients<T> {
    /// (R, C) of the residual stream, all the way down
    pub stream: T,
    /// (R, C) of a normalised input
    pub norm_in: T,
    /// (R, H D + 2 Hkv D)
    pub qkv: T,
    /// (R, H D + 2 Hkv D) before q/k norm; Qwen3 only
    pub qkv_raw: Option<T>,
    /// (R, H D)
    pub attn_out: T,
    /// (R, H)
    pub delta: T,
    /// (R, F)
    pub hidden: T,
    /// (R, 2 F)
    pub gate_up: T,
    /// (R, parts x rank)
    pub adapted: PerProduct<T>,
}

/// The activations of a pass.
#[derive(Clone, Debug)]
pub struct Activations<T> {
    /// Sequences.
    pub batch: usize,
    /// Tokens per sequence.
    pub time: usize,
    /// The kind of pass.
    pub pass: PassKind,
    /// From the host.
    pub inputs: PassInputs<T>,
    /// (R, C)
    pub embedded: T,
    /// One per block, or clones of one.
    pub blocks: Vec<BlockActivations<T>>,
    /// (R, C) normalised input of the head
    pub head_in: T,
    /// (R)
    pub head_rstd: T,
    /// (rows of a chunk, padded V): logits, then their gradient, one chunk at a time
    pub logits: T,
    /// (R) log pi(target)
    pub logp: T,
    /// (R)
    pub entropy: T,
    /// (R) sum of squared probabilities
    pub sum_p2: T,
    /// (R) log sum exp of the logits
    pub lse: T,
    /// (R) 1 where the target is the arg-max, else 0
    pub hit: T,
    /// (R) d loss / d log pi(target)
    pub dlogp: T,
    /// `ops::objective::stats`
    pub stats: T,
    /// Training only.
    pub gradients: Option<Gradients<T>>,
}

/// Rows of logits computed at once: a multiple of 64, so that chunks are aligned.
pub fn chunk_rows(rows: usize, vocab_stride: usize, sizes: Sizes) -> usize {
    let most = sizes.logits_bytes.min(sizes.max_tensor_bytes) as usize / (4 * vocab_stride);
    rows.min((most / 64 * 64).max(64))
}

/// Width of a row of logits: padded so that rows can be read as vec4.
pub fn vocab_stride(vocab: usize) -> usize {
    vocab.next_multiple_of(4)
}

impl<T: Clone> BlockActivations<T> {
    /// The activations of all blocks, with shared buffers where the pass allows.
    fn declare(c: &ModelConfig, r: usize, pass: PassKind, make: &mut impl FnMut(&str, &[usize]) -> T) -> Vec<Self> {
        let (width, inner, heads) = (c.hidden_size, c.intermediate_size, c.num_attention_heads);
        let mut block = || Self {
            attn_in: make("attn_in", &[r, width]),
            attn_rstd: make("attn_rstd", &[r]),
            qkv_raw: c.qk_norm().then(|| make("qkv_raw", &[r, c.qkv_dim()])),
            qk_rstd: c.qk_norm().then(|| [make("q_rstd", &[r * heads]), make("k_rstd", &[r * c.num_key_value_heads])]),
            qkv: make("qkv", &[r, c.qkv_dim()]),
            attn_out: make("attn_out", &[r, c.query_dim()]),
            attn_lse: make("attn_lse", &[r, heads]),
            after_attn: make("after_attn", &[r, width]),
            mlp_in: make("mlp_in", &[r, width]),
            mlp_rstd: make("mlp_rstd", &[r]),
            gate_up: make("gate_up", &[r, 2 * inner]),
            hidden: make("hidden", &[r, inner]),
            after_mlp: make("after_mlp", &[r, width]),
            adapted: adapted(c, r, make),
        };
        let blocks = c.num_hidden_layers;
        match pass {
            PassKind::Inspection | PassKind::Training => (0..blocks).map(|_| block()).collect(),
            PassKind::Forward => vec![block(); blocks],
            PassKind::Checkpointed => {
                let first = block();
                let rest = (1..blocks).map(|_| Self { after_mlp: make("after_mlp", &[r, width]), ..first.clone() }).collect();
                [vec![first.clone()], rest].concat()
            }
        }
    }
}

/// (R, parts x rank) for each product with adapters.
fn adapted<T>(c: &ModelConfig, r: usize, make: &mut impl FnMut(&str, &[usize]) -> T) -> PerProduct<T> {
    PerProduct::of(c, |_, parts, rank| make("adapted", &[r, parts.columns.len() * rank]))
}

impl<T: Clone> Activations<T> {
    /// The only place where activations are named and shaped; `make` allocates each.
    pub fn declare(
        c: &ModelConfig,
        batch: usize,
        time: usize,
        pass: PassKind,
        sizes: Sizes,
        mut make: impl FnMut(&str, &[usize]) -> T,
    ) -> Self {
        let r = batch * time;
        let (width, inner, heads) = (c.hidden_size, c.intermediate_size, c.num_attention_heads);
        let training = matches!(pass, PassKind::Training | PassKind::Checkpointed);
        let inputs = PassInputs {
            tokens: make("tokens", &[r]),
            targets: make("targets", &[r]),
            positions: make("positions", &[r]),
            weights: make("weights", &[r]),
            order: make("order", &[r]),
            spans: make("spans", &[3 * r]),
        };
        let embedded = make("embedded", &[r, width]);
        let blocks = BlockActivations::declare(c, r, pass, &mut make);
        let stride = vocab_stride(c.vocab_size);
        Activations {
            batch,
            time,
            pass,
            inputs,
            embedded,
            blocks,
            head_in: make("head_in", &[r, width]),
            head_rstd: make("head_rstd", &[r]),
            logits: make("logits", &[chunk_rows(r, stride, sizes), stride]),
            logp: make("logp", &[r]),
            entropy: make("entropy", &[r]),
            sum_p2: make("sum_p2", &[r]),
            lse: make("lse", &[r]),
            hit: make("hit", &[r]),
            dlogp: make("dlogp", &[r]),
            stats: make("stats", &[stats::LEN]),
            gradients: training.then(|| Gradients {
                stream: make("d_stream", &[r, width]),
                norm_in: make("d_norm_in", &[r, width]),
                qkv: make("d_qkv", &[r, c.qkv_dim()]),
                qkv_raw: c.qk_norm().then(|| make("d_qkv_raw", &[r, c.qkv_dim()])),
                attn_out: make("d_attn_out", &[r, c.query_dim()]),
                delta: make("delta", &[r, heads]),
                hidden: make("d_hidden", &[r, inner]),
                gate_up: make("d_gate_up", &[r, 2 * inner]),
                adapted: adapted(c, r, &mut make),
            }),
        }
    }
}

impl Activations<Tensor> {
    /// Allocate for `batch` sequences of `time` tokens.
    pub fn new(device: &Device, c: &ModelConfig, batch: usize, time: usize, pass: PassKind) -> Self {
        Self::nested(device, c, &[batch], time, pass).swap_remove(0)
    }

    /// Activations for several numbers of sequences, largest first, in shared memory: for passes of different sizes that run one after
    /// another.
    ///
    /// # Panics
    /// When `batches` is empty or a later one is larger than the first (a defect of the caller).
    pub fn nested(device: &Device, c: &ModelConfig, batches: &[usize], time: usize, pass: PassKind) -> Vec<Self> {
        let mut storage: Vec<Tensor> = Vec::new();
        let sizes = device.sizes();
        let largest = Self::declare(c, batches[0], time, pass, sizes, |name, shape| {
            let tensor = Tensor::new(device, "activations", name, shape);
            storage.push(tensor.clone());
            tensor
        });
        let smaller = |batch: &usize| {
            let mut rest = storage.iter();
            Self::declare(c, *batch, time, pass, sizes, |name, shape| match rest.next() {
                Some(whole) => whole.slice(0..shape.iter().product()).reshape(shape),
                None => unreachable!("{name}: not declared for the largest batch"),
            })
        };
        let others: Vec<Self> = batches[1..].iter().map(smaller).collect();
        std::iter::once(largest).chain(others).collect()
    }

    /// The row statistics that the head writes.
    pub fn row_stats(&self) -> RowStats {
        let [logp, entropy, sum_p2, lse, hit] = [&self.logp, &self.entropy, &self.sum_p2, &self.lse, &self.hit].map(Clone::clone);
        RowStats { logp, entropy, sum_p2, lse, hit }
    }
}

/// Bytes that [`Activations::new`] allocates.
pub fn bytes(c: &ModelConfig, batch: usize, time: usize, pass: PassKind, sizes: Sizes) -> u64 {
    let mut bytes = 0u64;
    Activations::declare(c, batch, time, pass, sizes, |_, shape| {
        bytes += (4 * shape.iter().product::<usize>() as u64).next_multiple_of(16);
    });
    bytes
}

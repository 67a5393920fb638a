//! The decoder: one line per op, forward and then backward in reverse order.
//!
//! `x` is the residual stream (R, C), R = batch x time. Parameter gradients are `+=`; activation gradients `=`; the stream's gradient is a
//! single buffer, into which the norms add.

use super::activations::{Activations, BlockActivations, PassKind};
use super::weights::{Adapter, Block, BlockAdapters, TrainedParameters, Weights};
use crate::config::{ModelConfig, Product};
use crate::device::{Device, Recorder, Tensor};
use crate::ops::logprob::Chunk;
use crate::ops::matmul::Extra;
use crate::ops::qk_norm::Heads;
use crate::ops::{add_bias, attention, embedding, logprob, lora, matmul, objective, qk_norm, rmsnorm, rope, swiglu};

/// Context of a model's recordings.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The device.
    pub device: &'a Device,
    /// The shape.
    pub config: &'a ModelConfig,
    /// Parameter values.
    pub weights: &'a Weights<Tensor>,
    /// The adapters of each block; `None` computes without them.
    pub adapters: Option<&'a [BlockAdapters<Tensor>]>,
    /// Rotation table (positions, D).
    pub rope_table: &'a Tensor,
}

impl Context<'_> {
    pub(super) fn attention_shape(&self, batch: usize, time: usize) -> attention::AttentionShape {
        let c = self.config;
        attention::AttentionShape {
            batch,
            time,
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
        }
    }

    /// Query heads, and key heads with the values behind them, of fused rows, for Qwen3's norms.
    fn heads(&self, qkv: &Tensor) -> [Heads; 2] {
        let c = self.config;
        let [matrix_rows, stride] = qkv.matrix();
        let heads = |offset, heads, copied| Heads { matrix_rows, stride, offset, heads, copied, width: c.head_dim };
        let keys = c.num_key_value_heads;
        [heads(0, c.num_attention_heads, 0), heads(c.query_dim(), keys, keys)]
    }

    /// The adapter of a product, and the buffer of x a^T.
    fn adapter<'b>(
        &'b self,
        layer: usize,
        a: &'b BlockActivations<Tensor>,
        product: Product,
    ) -> Option<(&'b Adapter<Tensor>, &'b Tensor)> {
        self.adapters?[layer].get(product).zip(a.adapted.get(product))
    }

    fn rotated_heads(&self) -> usize {
        self.config.num_attention_heads + self.config.num_key_value_heads
    }
}

/// Where the keys and values of a pass are.
#[derive(Clone, Copy)]
pub enum KvSource<'a> {
    /// In the pass itself: training, scoring.
    Sequence,
    /// In the pass itself; keys and values also go into the caches (1, tokens, Hkv D), token i to row `places[i]`. Stops after the last
    /// block's keys and values: prefill of rollouts.
    Prefill {
        /// Keys and values of each layer.
        caches: &'a [[Tensor; 2]],
        /// (R) u32
        places: &'a Tensor,
    },
    /// In the caches (rows, max_len, Hkv D), to which the pass adds its own; one token per row. `assigned` as in `sample::NormRows`.
    Cache {
        /// Keys and values of each layer.
        caches: &'a [[Tensor; 2]],
        /// (B, 3) u32
        assigned: &'a Tensor,
    },
}

/// Tokens to the input of the head.
pub fn record_forward(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>) {
    record_blocks(r, m, acts, KvSource::Sequence);
    record_final_norm(r, m, acts);
}

/// One token per row to logits, with attention over a cache.
pub(super) fn record_decode(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    acts: &Activations<Tensor>,
    caches: &[[Tensor; 2]],
    assigned: &Tensor,
) {
    record_blocks(r, m, acts, KvSource::Cache { caches, assigned });
    record_final_norm(r, m, acts);
    record_logits(r, m, &acts.head_in, &acts.logits);
}

/// The last product, with as many rows of the head at once as can be bound.
pub(super) fn record_logits(r: &mut Recorder<'_>, m: Context<'_>, head_in: &Tensor, logits: &Tensor) {
    for (first, head) in head_parts(m.device, m.weights.output()) {
        matmul::forward(r, head_in, &head, &logits.columns_from(first), Extra::None);
    }
}

/// The rows of the head, or of its gradient, in bindable parts, each with its first row.
fn head_parts(device: &Device, head: &Tensor) -> Vec<(usize, Tensor)> {
    head.row_parts(device.sizes().max_tensor_bytes)
}

/// Tokens through all blocks: the single definition of the decoder.
pub(super) fn record_blocks(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>, kv_source: KvSource<'_>) {
    embedding::forward(r, &acts.inputs.tokens, &m.weights.embed, &acts.embedded);
    let mut x = &acts.embedded;
    for (layer, a) in acts.blocks.iter().enumerate() {
        record_block(r, m, acts, (layer, x), kv_source);
        if matches!(kv_source, KvSource::Prefill { caches, .. } if layer + 1 == caches.len()) {
            return;
        }
        let down = [&a.hidden, &m.weights.blocks[layer].down, &a.after_mlp];
        record_product(r, down, Extra::Residual(&a.after_attn), m.adapter(layer, a, Product::Down));
        x = &a.after_mlp;
    }
}

/// A block from its input `x` to the input of its last product; for the last block of a prefill, to the keys and values.
fn record_block(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    acts: &Activations<Tensor>,
    (layer, x): (usize, &Tensor),
    kv_source: KvSource<'_>,
) {
    let (w, a, eps) = (&m.weights.blocks[layer], &acts.blocks[layer], m.config.rms_norm_eps);
    rmsnorm::forward(r, x, &w.attn_norm, &a.attn_in, &a.attn_rstd, eps);
    record_qkv(r, m, layer, a, &acts.inputs.positions);
    record_attention(r, m, acts, (layer, a), kv_source);
    if matches!(kv_source, KvSource::Prefill { caches, .. } if layer + 1 == caches.len()) {
        return;
    }
    let attn_proj = [&a.attn_out, &w.attn_proj, &a.after_attn];
    record_product(r, attn_proj, Extra::Residual(x), m.adapter(layer, a, Product::AttnProj));
    if let Some(bias) = &w.attn_proj_bias {
        add_bias::forward(r, bias, &a.after_attn);
    }
    rmsnorm::forward(r, &a.after_attn, &w.mlp_norm, &a.mlp_in, &a.mlp_rstd, eps);
    record_product(r, [&a.mlp_in, &w.gate_up, &a.gate_up], Extra::None, m.adapter(layer, a, Product::GateUp));
    swiglu::forward(r, &a.gate_up, &a.hidden);
}

/// y = x w^T and `extra`, plus the adapter's part. `[x, w, y]`; the adapter and the buffer of x a^T.
fn record_product(r: &mut Recorder<'_>, [x, w, y]: [&Tensor; 3], extra: Extra<'_>, adapter: Option<(&Adapter<Tensor>, &Tensor)>) {
    matmul::forward(r, x, w, y, extra);
    if let Some((adapter, u)) = adapter {
        matmul::forward(r, x, &adapter.a, u, Extra::None);
        lora::forward(r, &adapter.parts, u, &adapter.b, y);
    }
}

fn record_attention(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    acts: &Activations<Tensor>,
    (layer, a): (usize, &BlockActivations<Tensor>),
    kv_source: KvSource<'_>,
) {
    let (shape, positions) = (m.attention_shape(acts.batch, acts.time), &acts.inputs.positions);
    match kv_source {
        KvSource::Sequence => attention::forward(r, shape, &a.qkv, positions, &a.attn_out, &a.attn_lse),
        KvSource::Prefill { caches, places } => {
            let [cache_k, cache_v] = &caches[layer];
            let flat = attention::AttentionShape { batch: 1, time: shape.tokens(), ..shape };
            attention::append(r, flat, &a.qkv, places, cache_k, cache_v);
            if layer + 1 < caches.len() {
                attention::forward(r, shape, &a.qkv, positions, &a.attn_out, &a.attn_lse);
            }
        }
        KvSource::Cache { caches, assigned } => {
            let [cache_k, cache_v] = &caches[layer];
            attention::append(r, shape, &a.qkv, positions, cache_k, cache_v);
            attention::decode(r, shape, &a.qkv, positions, cache_k, cache_v, assigned, &a.attn_out);
        }
    }
}

fn record_final_norm(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>) {
    let x = acts.blocks.last().map_or(&acts.embedded, |a| &a.after_mlp);
    rmsnorm::forward(r, x, &m.weights.final_norm, &acts.head_in, &acts.head_rstd, m.config.rms_norm_eps);
}

/// Normalised input to rotated queries and keys, and values.
fn record_qkv(r: &mut Recorder<'_>, m: Context<'_>, layer: usize, a: &BlockActivations<Tensor>, positions: &Tensor) {
    let (w, eps) = (&m.weights.blocks[layer], m.config.rms_norm_eps);
    let extra = w.qkv_bias.as_ref().map_or(Extra::None, Extra::Bias);
    let qkv = [&a.attn_in, &w.qkv, a.qkv_raw.as_ref().unwrap_or(&a.qkv)];
    record_product(r, qkv, extra, m.adapter(layer, a, Product::Qkv));
    if let (Some(raw), Some([q_rstd, k_rstd]), Some(q_norm), Some(k_norm)) = (&a.qkv_raw, &a.qk_rstd, &w.q_norm, &w.k_norm) {
        let ([q, k], turn) = (m.heads(&a.qkv), (positions, m.rope_table));
        qk_norm::forward(r, q, turn, raw, q_norm, &a.qkv, q_rstd, eps);
        qk_norm::forward(r, k, turn, raw, k_norm, &a.qkv, k_rstd, eps);
    } else {
        rope::forward(r, m.rotated_heads(), positions, m.rope_table, &a.qkv);
    }
}

/// The head over all rows, chunk by chunk: log pi(target), entropy, sum p^2, hit of each row, no gradient.
pub fn record_head(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>) {
    record_head_at(r, m, acts, None);
}

/// As [`record_head`], at a temperature with the reciprocal `inv_temperature` (1).
pub fn record_head_at(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>, inv_temperature: Option<&Tensor>) {
    for (chunk, logits, head_in) in chunks(m, acts) {
        record_logits(r, m, &head_in, &logits);
        if let Some(inv_temperature) = inv_temperature {
            logprob::divide(r, chunk, &logits, inv_temperature);
        }
        logprob::forward(r, chunk, &logits, &acts.inputs.targets, &acts.row_stats());
    }
}

/// The objective of a training pass.
#[derive(Clone, Copy)]
pub enum Objective<'a> {
    /// `ops::objective::cross_entropy`.
    CrossEntropy,
    /// `ops::objective::policy`.
    Policy(&'a objective::PolicyRows<Tensor>),
}

/// The head with cross-entropy and its gradient: see [`record_head_and_objective`].
pub fn record_head_and_loss(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>, grads: &TrainedParameters<Tensor>) {
    record_head_and_objective(r, m, acts, grads, Objective::CrossEntropy);
}

/// The head with an objective and its gradient: writes d(head input) to `norm_in`, adds to the head's gradient.
pub fn record_head_and_objective(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    acts: &Activations<Tensor>,
    grads: &TrainedParameters<Tensor>,
    by: Objective<'_>,
) {
    let d = gradients(acts);
    let (rows, targets) = (acts.row_stats(), &acts.inputs.targets);
    for (chunk, logits, head_in) in chunks(m, acts) {
        let d_head_in = d.norm_in.rows(chunk.first_row..chunk.first_row + chunk.rows);
        let span = (chunk.first_row, chunk.rows);
        record_logits(r, m, &head_in, &logits);
        match by {
            Objective::CrossEntropy => {
                logprob::forward(r, chunk, &logits, targets, &rows);
                objective::cross_entropy(r, span, &rows, &acts.inputs.weights, &acts.dlogp, &acts.stats);
                logprob::backward(r, chunk, &logits, targets, &acts.dlogp, &rows.lse);
            }
            Objective::Policy(policy) => {
                let (inv_temperature, gradient) = (&policy.inv_temperature, (&acts.dlogp, &policy.dentropy));
                logprob::divide(r, chunk, &logits, inv_temperature);
                logprob::forward(r, chunk, &logits, targets, &rows);
                objective::policy(r, span, &rows, policy, &acts.dlogp, &acts.stats);
                logprob::backward_policy(r, chunk, &logits, targets, inv_temperature, gradient, &rows);
            }
        }
        for (first, head) in head_parts(m.device, m.weights.output()) {
            matmul::backward_input(r, &logits.columns_from(first), &head, &d_head_in, first > 0);
        }
        let dhead = grads.weights().map_or(Vec::new(), |grads| head_parts(m.device, grads.output()));
        for (first, dhead) in dhead {
            matmul::backward_weight(r, &logits.columns_from(first), &head_in, &dhead);
        }
    }
}

/// From d(head input) down to the embedding: adds the gradients of all trained parameters below the head. With activation checkpointing
/// each block is recomputed first, except the last, whose buffers are still valid.
pub fn record_backward(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>, grads: &TrainedParameters<Tensor>) {
    let d = gradients(acts);
    let last = acts.blocks.last().map_or(&acts.embedded, |a| &a.after_mlp);
    if let Some(grads) = grads.weights() {
        rmsnorm::backward_gain(r, &d.norm_in, last, &acts.head_rstd, &grads.final_norm);
    }
    rmsnorm::backward(r, &d.norm_in, last, &m.weights.final_norm, &acts.head_rstd, &d.stream, false);
    for i in (0..acts.blocks.len()).rev() {
        let x = if i == 0 { &acts.embedded } else { &acts.blocks[i - 1].after_mlp };
        if acts.pass == PassKind::Checkpointed && i + 1 < acts.blocks.len() {
            record_block(r, m, acts, (i, x), KvSource::Sequence);
            // Input of the last product, for its adapter's gradient.
            let a = &acts.blocks[i];
            if let Some((adapter, u)) = m.adapter(i, a, Product::Down) {
                matmul::forward(r, &a.hidden, &adapter.a, u, Extra::None);
            }
        }
        record_mlp_backward(r, m, acts, i, grads);
        record_attention_backward(r, m, acts, (i, x), grads);
    }
    if let Some(grads) = grads.weights() {
        embedding::backward(r, &d.stream, &grads.embed, &acts.inputs.order, &acts.inputs.spans);
    }
}

/// The MLP of block `i`: from the stream's gradient after it to the one before it.
fn record_mlp_backward(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    acts: &Activations<Tensor>,
    i: usize,
    grads: &TrainedParameters<Tensor>,
) {
    let (d, a, w, g) = (gradients(acts), &acts.blocks[i], &m.weights.blocks[i], grads.block(i));
    let adapter = |product| adapter_backward(m, acts, i, product, grads);
    if adapter(Product::Down).is_none() {
        if let Some(g) = g {
            matmul::backward_weight(r, &d.stream, &a.hidden, &g.down);
        }
        matmul::backward_swiglu(r, [&d.stream, &w.down, &a.gate_up], &d.hidden, &d.gate_up);
    } else {
        record_product_backward(r, [&d.stream, &a.hidden, &w.down, &d.hidden], g.map(|g| &g.down), adapter(Product::Down));
        swiglu::backward(r, &a.gate_up, &d.hidden, &d.gate_up);
    }
    let gate_up = [&d.gate_up, &a.mlp_in, &w.gate_up, &d.norm_in];
    record_product_backward(r, gate_up, g.map(|g| &g.gate_up), adapter(Product::GateUp));
    if let Some(g) = g {
        rmsnorm::backward_gain(r, &d.norm_in, &a.after_attn, &a.mlp_rstd, &g.mlp_norm);
    }
    rmsnorm::backward(r, &d.norm_in, &a.after_attn, &w.mlp_norm, &a.mlp_rstd, &d.stream, true);
}

/// Attention of block `i`, with input `x`, likewise.
fn record_attention_backward(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    acts: &Activations<Tensor>,
    (i, x): (usize, &Tensor),
    grads: &TrainedParameters<Tensor>,
) {
    let (d, a, w, g) = (gradients(acts), &acts.blocks[i], &m.weights.blocks[i], grads.block(i));
    let adapter = |product| adapter_backward(m, acts, i, product, grads);
    if let Some(dbias) = g.and_then(|g| g.attn_proj_bias.as_ref()) {
        matmul::backward_bias(r, &d.stream, dbias);
    }
    let attn_proj = [&d.stream, &a.attn_out, &w.attn_proj, &d.attn_out];
    record_product_backward(r, attn_proj, g.map(|g| &g.attn_proj), adapter(Product::AttnProj));
    let (shape, positions) = (m.attention_shape(acts.batch, acts.time), &acts.inputs.positions);
    attention::backward(r, shape, &a.qkv, positions, &a.attn_out, &a.attn_lse, &d.attn_out, &d.delta, &d.qkv);
    let d_projected = record_heads_backward(r, m, (w, g), a, acts);
    if let Some(dbias) = g.and_then(|g| g.qkv_bias.as_ref()) {
        matmul::backward_bias(r, d_projected, dbias);
    }
    let qkv = [d_projected, &a.attn_in, &w.qkv, &d.norm_in];
    record_product_backward(r, qkv, g.map(|g| &g.qkv), adapter(Product::Qkv));
    if let Some(g) = g {
        rmsnorm::backward_gain(r, &d.norm_in, x, &a.attn_rstd, &g.attn_norm);
    }
    rmsnorm::backward(r, &d.norm_in, x, &w.attn_norm, &a.attn_rstd, &d.stream, true);
}

/// An adapter, its gradient, x a^T and its gradient.
type AdapterBackward<'a> = [(&'a Adapter<Tensor>, &'a Tensor); 2];

/// The adapter of a product of block `i`, if adapters are trained.
fn adapter_backward<'a>(
    m: Context<'a>,
    acts: &'a Activations<Tensor>,
    i: usize,
    product: Product,
    grads: &'a TrainedParameters<Tensor>,
) -> Option<AdapterBackward<'a>> {
    let (adapter, grad) = (m.adapters?[i].get(product)?, grads.adapters(i)?.get(product)?);
    Some([(adapter, acts.blocks[i].adapted.get(product)?), (grad, gradients(acts).adapted.get(product)?)])
}

/// dx of y = x w^T and its adapter, and the gradients of the trained ones. `[dy, x, w, dx]`.
fn record_product_backward(
    r: &mut Recorder<'_>,
    [dy, x, w, dx]: [&Tensor; 4],
    dw: Option<&Tensor>,
    adapter: Option<AdapterBackward<'_>>,
) {
    if let Some(dw) = dw {
        matmul::backward_weight(r, dy, x, dw);
    }
    matmul::backward_input(r, dy, w, dx, false);
    if let Some([(adapter, u), (grad, du)]) = adapter {
        lora::backward_weight(r, &adapter.parts, dy, u, &grad.b);
        lora::backward_input(r, &adapter.parts, dy, &adapter.b, du);
        matmul::backward_weight(r, du, x, &grad.a);
        matmul::backward_input(r, du, &adapter.a, dx, true);
    }
}

/// From the gradient of rotated queries and keys, and values, to that of the product's output.
fn record_heads_backward<'a>(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    (w, g): (&Block<Tensor>, Option<&Block<Tensor>>),
    a: &BlockActivations<Tensor>,
    acts: &'a Activations<Tensor>,
) -> &'a Tensor {
    let d = gradients(acts);
    let turn = (&acts.inputs.positions, m.rope_table);
    let (Some(raw), Some([q_rstd, k_rstd]), Some(d_raw)) = (&a.qkv_raw, &a.qk_rstd, &d.qkv_raw) else {
        rope::backward(r, m.rotated_heads(), turn.0, turn.1, &d.qkv);
        return &d.qkv;
    };
    let (dq_norm, dk_norm) = (g.and_then(|g| g.q_norm.as_ref()), g.and_then(|g| g.k_norm.as_ref()));
    let norms = [(&w.q_norm, dq_norm, q_rstd), (&w.k_norm, dk_norm, k_rstd)];
    for (heads, (gain, dgain, rstd)) in m.heads(&d.qkv).into_iter().zip(norms) {
        if let Some(dgain) = dgain {
            qk_norm::backward_gain(r, heads, turn, &d.qkv, raw, rstd, dgain);
        }
        if let Some(gain) = gain {
            qk_norm::backward(r, heads, turn, &d.qkv, raw, gain, rstd, d_raw);
        }
    }
    d_raw
}

fn gradients(acts: &Activations<Tensor>) -> &super::activations::Gradients<Tensor> {
    match &acts.gradients {
        Some(d) => d,
        None => unreachable!("a backward needs activations of PassKind::Training"),
    }
}

/// (chunk, its logits, its rows of the head's input)
pub(super) fn chunks<'a>(m: Context<'a>, acts: &'a Activations<Tensor>) -> impl Iterator<Item = (Chunk, Tensor, Tensor)> + 'a {
    let total = acts.batch * acts.time;
    let [most, stride] = acts.logits.matrix();
    (0..total).step_by(most).map(move |first_row| {
        let rows = most.min(total - first_row);
        let chunk = Chunk { rows, first_row, vocab: m.config.vocab_size, stride };
        (chunk, acts.logits.rows(0..rows), acts.head_in.rows(first_row..first_row + rows))
    })
}

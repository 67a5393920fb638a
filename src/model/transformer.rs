//! The decoder, written out: one line an op, forward and then the same list upside down.
//!
//! `x` is the residual stream (R, C), R = batch x time. Parameter gradients are `+=`; activation gradients `=`; the stream's gradient
//! is one buffer all the way down, into which the norms add.

use super::activations::{Activations, BlockActivations};
use super::weights::{Block, Weights};
use crate::config::ModelConfig;
use crate::device::{Device, Recorder, Tensor};
use crate::ops::logprob::Chunk;
use crate::ops::matmul::Extra;
use crate::ops::rmsnorm::Rows;
use crate::ops::{add_bias, attention, embedding, logprob, matmul, objective, rmsnorm, rope, swiglu};

/// What every recording of a model needs.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The device.
    pub device: &'a Device,
    /// The shape.
    pub config: &'a ModelConfig,
    /// Parameter values.
    pub weights: &'a Weights<Tensor>,
    /// Rotation table (positions, D).
    pub rope_table: &'a Tensor,
}

impl Context<'_> {
    pub(super) fn attention_shape(&self, batch: usize, time: usize) -> attention::Shape {
        let c = self.config;
        attention::Shape { batch, time, heads: c.num_attention_heads, kv_heads: c.num_key_value_heads, head_dim: c.head_dim }
    }

    /// Query and key heads of a fused row: (rows, first column, heads), for Qwen3's norms.
    fn head_rows(&self, qkv: &Tensor) -> [Rows; 2] {
        let c = self.config;
        let [matrix_rows, stride] = qkv.matrix();
        let rows = |offset, heads| Rows { matrix_rows, stride, offset, heads, cols: c.head_dim };
        [rows(0, c.num_attention_heads), rows(c.query_dim(), c.num_key_value_heads)]
    }

    fn rotated_heads(&self) -> usize {
        self.config.num_attention_heads + self.config.num_key_value_heads
    }
}

/// Where a pass finds the keys and values that its queries see.
#[derive(Clone, Copy)]
pub enum Attend<'a> {
    /// In the pass itself: training, scoring.
    Sequence,
    /// In the pass itself; keys and values also go into the caches (1, tokens, Hkv D), token i to row `places[i]`. Whatever comes after the
    /// last block's keys and values is left out: the prompts of rollouts.
    Prefill {
        /// Keys and values of each layer.
        caches: &'a [[Tensor; 2]],
        /// (R) u32
        places: &'a Tensor,
    },
    /// In the caches (rows, room, Hkv D), to which the pass adds its own; one token a row. `assigned` as `sample::Rows` has it.
    Cache {
        /// Keys and values of each layer.
        caches: &'a [[Tensor; 2]],
        /// (B, 3) u32
        assigned: &'a Tensor,
    },
}

/// Tokens to the input of the head.
pub fn record_forward(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>) {
    record_blocks(r, m, acts, Attend::Sequence);
    record_final_norm(r, m, acts);
}

/// One token a row to logits, with attention over a cache.
pub(super) fn record_decode(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    acts: &Activations<Tensor>,
    caches: &[[Tensor; 2]],
    assigned: &Tensor,
) {
    record_blocks(r, m, acts, Attend::Cache { caches, assigned });
    record_final_norm(r, m, acts);
    matmul::forward(r, &acts.head_in, m.weights.output(), &acts.logits, Extra::None);
}

/// Tokens through every block: the one description of the decoder.
pub(super) fn record_blocks(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>, attend: Attend<'_>) {
    let eps = m.config.rms_norm_eps;
    embedding::forward(r, &acts.inputs.tokens, &m.weights.embed, &acts.embedded);
    let mut x = &acts.embedded;
    for (layer, (w, a)) in m.weights.blocks.iter().zip(&acts.blocks).enumerate() {
        rmsnorm::forward(r, Rows::whole(x), x, &w.attn_norm, &a.attn_in, &a.attn_rstd, eps);
        record_qkv(r, m, w, a, &acts.inputs.positions);
        record_attention(r, m, acts, (layer, a), attend);
        if matches!(attend, Attend::Prefill { caches, .. } if layer + 1 == caches.len()) {
            return;
        }
        matmul::forward(r, &a.attn_out, &w.attn_proj, &a.after_attn, Extra::Residual(x));
        if let Some(bias) = &w.attn_proj_bias {
            add_bias::forward(r, bias, &a.after_attn);
        }
        rmsnorm::forward(r, Rows::whole(x), &a.after_attn, &w.mlp_norm, &a.mlp_in, &a.mlp_rstd, eps);
        matmul::forward(r, &a.mlp_in, &w.gate_up, &a.gate_up, Extra::None);
        swiglu::forward(r, &a.gate_up, &a.hidden);
        matmul::forward(r, &a.hidden, &w.down, &a.after_mlp, Extra::Residual(&a.after_attn));
        x = &a.after_mlp;
    }
}

fn record_attention(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    acts: &Activations<Tensor>,
    (layer, a): (usize, &BlockActivations<Tensor>),
    attend: Attend<'_>,
) {
    let (shape, positions) = (m.attention_shape(acts.batch, acts.time), &acts.inputs.positions);
    match attend {
        Attend::Sequence => attention::forward(r, shape, &a.qkv, positions, &a.attn_out, &a.attn_lse),
        Attend::Prefill { caches, places } => {
            let [cache_k, cache_v] = &caches[layer];
            let flat = attention::Shape { batch: 1, time: shape.tokens(), ..shape };
            attention::append(r, flat, &a.qkv, places, cache_k, cache_v);
            if layer + 1 < caches.len() {
                attention::forward(r, shape, &a.qkv, positions, &a.attn_out, &a.attn_lse);
            }
        }
        Attend::Cache { caches, assigned } => {
            let [cache_k, cache_v] = &caches[layer];
            attention::append(r, shape, &a.qkv, positions, cache_k, cache_v);
            attention::decode(r, shape, &a.qkv, positions, cache_k, cache_v, assigned, &a.attn_out);
        }
    }
}

fn record_final_norm(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>) {
    let x = acts.blocks.last().map_or(&acts.embedded, |a| &a.after_mlp);
    rmsnorm::forward(r, Rows::whole(x), x, &m.weights.final_norm, &acts.head_in, &acts.head_rstd, m.config.rms_norm_eps);
}

/// Normalised input to rotated queries and keys, and values.
pub(super) fn record_qkv(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    w: &Block<Tensor>,
    a: &BlockActivations<Tensor>,
    positions: &Tensor,
) {
    let eps = m.config.rms_norm_eps;
    let extra = w.qkv_bias.as_ref().map_or(Extra::None, Extra::Bias);
    matmul::forward(r, &a.attn_in, &w.qkv, a.qkv_raw.as_ref().unwrap_or(&a.qkv), extra);
    if let (Some(raw), Some([q_rstd, k_rstd]), Some(q_norm), Some(k_norm)) = (&a.qkv_raw, &a.qk_rstd, &w.q_norm, &w.k_norm) {
        let [q, k] = m.head_rows(&a.qkv);
        r.copy(raw, &a.qkv); // for the values; the norms overwrite queries and keys
        rmsnorm::forward(r, q, raw, q_norm, &a.qkv, q_rstd, eps);
        rmsnorm::forward(r, k, raw, k_norm, &a.qkv, k_rstd, eps);
    }
    rope::forward(r, m.rotated_heads(), positions, m.rope_table, &a.qkv);
}

/// The head over all rows, chunk by chunk: log pi(target), entropy, sum p^2, hit of each row, no gradient.
pub fn record_head(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>) {
    record_head_at(r, m, acts, None);
}

/// The same at a temperature, which `inv_temperature` (1) is the reciprocal of.
pub fn record_head_at(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>, inv_temperature: Option<&Tensor>) {
    for (chunk, logits, head_in) in chunks(m, acts) {
        matmul::forward(r, &head_in, m.weights.output(), &logits, Extra::None);
        if let Some(inv_temperature) = inv_temperature {
            logprob::divide(r, chunk, &logits, inv_temperature);
        }
        logprob::forward(r, chunk, &logits, &acts.inputs.targets, &acts.row_stats());
    }
}

/// What the head learns by.
#[derive(Clone, Copy)]
pub enum Objective<'a> {
    /// `ops::objective::cross_entropy`.
    CrossEntropy,
    /// `ops::objective::policy`.
    Policy(&'a objective::PolicyRows<Tensor>),
}

/// The head with cross-entropy and its gradient: see [`record_head_and_objective`].
pub fn record_head_and_loss(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>, grads: &Weights<Tensor>) {
    record_head_and_objective(r, m, acts, grads, Objective::CrossEntropy);
}

/// The head with an objective and its gradient: leaves d(head input) in `stream`'s partner `norm_in`, adds to the head's gradient.
pub fn record_head_and_objective(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    acts: &Activations<Tensor>,
    grads: &Weights<Tensor>,
    by: Objective<'_>,
) {
    let d = gradients(acts);
    let (rows, targets) = (acts.row_stats(), &acts.inputs.targets);
    for (chunk, logits, head_in) in chunks(m, acts) {
        let d_head_in = d.norm_in.rows(chunk.first_row..chunk.first_row + chunk.rows);
        let span = (chunk.first_row, chunk.rows);
        matmul::forward(r, &head_in, m.weights.output(), &logits, Extra::None);
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
        matmul::backward_input(r, &logits, m.weights.output(), &d_head_in, false);
        matmul::backward_weight(r, &logits, &head_in, grads.output());
    }
}

/// From d(head input) down to the embedding: adds the gradient of every parameter below the head.
pub fn record_backward(r: &mut Recorder<'_>, m: Context<'_>, acts: &Activations<Tensor>, grads: &Weights<Tensor>) {
    let d = gradients(acts);
    let stream_rows = Rows::whole(&d.stream);
    let last = acts.blocks.last().map_or(&acts.embedded, |a| &a.after_mlp);
    rmsnorm::backward_gain(r, stream_rows, &d.norm_in, last, &acts.head_rstd, &grads.final_norm);
    rmsnorm::backward(r, stream_rows, &d.norm_in, last, &m.weights.final_norm, &acts.head_rstd, &d.stream, false);
    for (i, a) in acts.blocks.iter().enumerate().rev() {
        let (w, g) = (&m.weights.blocks[i], &grads.blocks[i]);
        let x = if i == 0 { &acts.embedded } else { &acts.blocks[i - 1].after_mlp };
        // MLP
        matmul::backward_weight(r, &d.stream, &a.hidden, &g.down);
        matmul::backward_input(r, &d.stream, &w.down, &d.hidden, false);
        swiglu::backward(r, &a.gate_up, &d.hidden, &d.gate_up);
        matmul::backward_weight(r, &d.gate_up, &a.mlp_in, &g.gate_up);
        matmul::backward_input(r, &d.gate_up, &w.gate_up, &d.norm_in, false);
        rmsnorm::backward_gain(r, stream_rows, &d.norm_in, &a.after_attn, &a.mlp_rstd, &g.mlp_norm);
        rmsnorm::backward(r, stream_rows, &d.norm_in, &a.after_attn, &w.mlp_norm, &a.mlp_rstd, &d.stream, true);
        // attention
        if let Some(dbias) = &g.attn_proj_bias {
            matmul::backward_bias(r, &d.stream, dbias);
        }
        matmul::backward_weight(r, &d.stream, &a.attn_out, &g.attn_proj);
        matmul::backward_input(r, &d.stream, &w.attn_proj, &d.attn_out, false);
        let shape = m.attention_shape(acts.batch, acts.time);
        let positions = &acts.inputs.positions;
        attention::backward(r, shape, &a.qkv, positions, &a.attn_out, &a.attn_lse, &d.attn_out, &d.delta, &d.qkv);
        record_qkv_backward(r, m, (w, g), a, acts);
        rmsnorm::backward_gain(r, stream_rows, &d.norm_in, x, &a.attn_rstd, &g.attn_norm);
        rmsnorm::backward(r, stream_rows, &d.norm_in, x, &w.attn_norm, &a.attn_rstd, &d.stream, true);
    }
    embedding::backward(r, &d.stream, &grads.embed, &acts.inputs.order, &acts.inputs.spans);
}

/// Gradient of rotated queries and keys, and values, down to the normalised input of attention.
fn record_qkv_backward(
    r: &mut Recorder<'_>,
    m: Context<'_>,
    (w, g): (&Block<Tensor>, &Block<Tensor>),
    a: &BlockActivations<Tensor>,
    acts: &Activations<Tensor>,
) {
    let d = gradients(acts);
    rope::backward(r, m.rotated_heads(), &acts.inputs.positions, m.rope_table, &d.qkv);
    let mut d_projected = &d.qkv;
    if let (Some(raw), Some([q_rstd, k_rstd]), Some(d_raw)) = (&a.qkv_raw, &a.qk_rstd, &d.qkv_raw) {
        r.copy(&d.qkv, d_raw); // for the values
        let norms = [(&w.q_norm, &g.q_norm, q_rstd), (&w.k_norm, &g.k_norm, k_rstd)];
        for (rows, (gain, dgain, rstd)) in m.head_rows(&d.qkv).into_iter().zip(norms) {
            if let (Some(gain), Some(dgain)) = (gain, dgain) {
                rmsnorm::backward_gain(r, rows, &d.qkv, raw, rstd, dgain);
                rmsnorm::backward(r, rows, &d.qkv, raw, gain, rstd, d_raw, false);
            }
        }
        d_projected = d_raw;
    }
    if let Some(dbias) = &g.qkv_bias {
        matmul::backward_bias(r, d_projected, dbias);
    }
    matmul::backward_weight(r, d_projected, &a.attn_in, &g.qkv);
    matmul::backward_input(r, d_projected, &w.qkv, &d.norm_in, false);
}

fn gradients(acts: &Activations<Tensor>) -> &super::activations::Gradients<Tensor> {
    match &acts.gradients {
        Some(d) => d,
        None => unreachable!("a backward needs activations of Pass::Training"),
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

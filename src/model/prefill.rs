//! Prompts into the cache before anything is drawn: many tokens at once, and each prompt once, however many completions it gets.

use super::Model;
use super::activations::{self, Activations, Pass};
use super::transformer::{Context, record_after_attention, record_qkv};
use crate::config::ModelConfig;
use crate::gpu::{AdapterClass, Gpu, Recording, Tensor};
use crate::ops::rmsnorm::Rows;
use crate::ops::{attention, embedding, rmsnorm};
use anyhow::Result;

/// Prompts are cut to a common length that is a multiple of this, so that few recordings serve all.
const GRAIN: usize = 16;

/// Passes over prompts of up to so many tokens.
pub(super) struct Prefill {
    acts: Activations<Tensor>,
    /// Where each token's key and value go, counted in tokens from the start of the cache (R).
    places: Tensor,
    pass: Recording,
}

impl Prefill {
    /// For prompts of up to `longest` tokens; `room` is the most that there can be. `caches` (rows, room, Hkv D) are written.
    pub fn new(gpu: &Gpu, model: &Model, caches: &[[Tensor; 2]], longest: usize, room: usize) -> Result<Self> {
        let [batch, time] = shape(longest, room, gpu.class());
        let acts = Activations::new(gpu, &headless(&model.config), batch, time, Pass::Forward);
        let places = Tensor::new(gpu, "rollouts", "places", &[batch * time]);
        let positions: Vec<u32> = (0..batch * time).map(|i| (i % time) as u32).collect();
        gpu.write(&acts.inputs.positions, &positions);
        let flat = |cache: &Tensor| cache.reshape(&[1, cache.matrix()[0], cache.matrix()[1]]);
        let caches: Vec<[Tensor; 2]> = caches.iter().map(|pair| [flat(&pair[0]), flat(&pair[1])]).collect();
        let mut r = Recording::new("prefill");
        record(&mut r, model.context(gpu), &acts, &caches, &places);
        Ok(Self { acts, places, pass: r.finish(gpu)? })
    }

    /// Prompts of so many tokens fit.
    pub fn longest(&self) -> usize {
        self.acts.time
    }

    /// Keys and values of `prompts`, each with the place of its first token in the cache. Does not wait.
    pub fn run(&self, gpu: &Gpu, prompts: &[(&[u32], u32)]) -> Result<()> {
        let [batch, time] = [self.acts.batch, self.acts.time];
        for some in prompts.chunks(batch) {
            let mut tokens = vec![0; batch * time];
            let mut places = vec![u32::MAX; batch * time];
            for (row, (prompt, first)) in some.iter().enumerate() {
                tokens[row * time..][..prompt.len()].copy_from_slice(prompt);
                places[row * time..][..prompt.len()].iter_mut().zip(*first..).for_each(|(place, at)| *place = at);
            }
            gpu.write(&self.acts.inputs.tokens, &tokens);
            gpu.write(&self.places, &places);
            gpu.replay(&self.pass)?;
        }
        Ok(())
    }
}

/// Prompts and tokens of each in one pass.
fn shape(longest: usize, room: usize, class: AdapterClass) -> [usize; 2] {
    let most = match class {
        AdapterClass::Software => 512,
        AdapterClass::Hardware => 4096,
    };
    let time = longest.next_multiple_of(GRAIN).min(room);
    [(most / time).max(1), time]
}

/// Nothing is predicted here, so that no logits are needed.
fn headless(c: &ModelConfig) -> ModelConfig {
    ModelConfig { vocab_size: 1, ..c.clone() }
}

/// Bytes that passes over prompts of up to `room` tokens take.
pub(super) fn bytes(c: &ModelConfig, room: usize, class: AdapterClass, max_binding_bytes: u64) -> u64 {
    let [batch, time] = shape(room, room, class);
    activations::bytes(&headless(c), batch, time, Pass::Forward, max_binding_bytes) + (4 * batch * time) as u64
}

/// As `record_forward`, as far as keys and values need it.
fn record(r: &mut Recording, m: Context<'_>, acts: &Activations<Tensor>, caches: &[[Tensor; 2]], places: &Tensor) {
    let (gpu, eps, positions) = (m.gpu, m.config.rms_norm_eps, &acts.inputs.positions);
    let shape = m.attention_shape(acts.batch, acts.time);
    let flat = attention::Shape { batch: 1, time: shape.tokens(), ..shape };
    embedding::forward(r, gpu, &acts.inputs.tokens, &m.weights.embed, &acts.embedded);
    let mut x = &acts.embedded;
    for (i, ((w, a), [cache_k, cache_v])) in m.weights.blocks.iter().zip(&acts.blocks).zip(caches).enumerate() {
        rmsnorm::forward(r, gpu, Rows::whole(x), x, &w.attn_norm, &a.attn_in, &a.attn_rstd, eps);
        record_qkv(r, m, w, a, positions);
        attention::append(r, gpu, flat, &a.qkv, places, cache_k, cache_v);
        if i + 1 < caches.len() {
            attention::forward(r, gpu, shape, &a.qkv, positions, &a.attn_out, &a.attn_lse);
            record_after_attention(r, m, w, a, x);
        }
        x = &a.after_mlp;
    }
}

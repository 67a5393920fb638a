//! Prefill: keys and values of prompts into the cache, many tokens at once, and each prompt only once, whatever its number of completions.

use super::Model;
use super::activations::{self, Activations, PassKind};
use super::transformer::{KvSource, record_blocks};
use crate::config::ModelConfig;
use crate::device::{Device, Recorder, Recording, Sizes, Tensor};
use anyhow::Result;

/// Prompts are padded to a multiple of this length, so that few recordings serve all.
const GRAIN: usize = 16;

/// Prefill passes for prompts up to a certain length.
pub(super) struct Prefill {
    acts: Activations<Tensor>,
    /// Cache position of each token's key and value, counted in tokens from the start of the cache (R).
    places: Tensor,
    pass: Recording,
}

impl Prefill {
    /// For prompts of up to `longest` tokens; `max_len` is the upper limit. `caches` (rows, max_len, Hkv D) are written.
    pub fn new(device: &Device, model: &Model, caches: &[[Tensor; 2]], longest: usize, max_len: usize) -> Result<Self> {
        let [batch, time] = shape(longest, max_len, device.sizes().prefill_tokens);
        let acts = Activations::new(device, &headless(&model.config), batch, time, PassKind::Forward);
        let places = Tensor::new(device, "rollouts", "places", &[batch * time]);
        let positions: Vec<u32> = (0..batch * time).map(|i| (i % time) as u32).collect();
        device.write(&acts.inputs.positions, &positions);
        let flat = |cache: &Tensor| cache.reshape(&[1, cache.matrix()[0], cache.matrix()[1]]);
        let caches: Vec<[Tensor; 2]> = caches.iter().map(|pair| [flat(&pair[0]), flat(&pair[1])]).collect();
        let mut r = Recorder::new(device, "prefill");
        record_blocks(&mut r, model.context(device), &acts, KvSource::Prefill { caches: &caches, places: &places });
        Ok(Self { acts, places, pass: r.finish()? })
    }

    /// Maximum prompt length.
    pub fn longest(&self) -> usize {
        self.acts.time
    }

    /// Write keys and values of `prompts`, each with the cache position of its first token. Does not wait.
    pub fn run(&self, device: &Device, prompts: &[(&[u32], u32)]) -> Result<()> {
        let [batch, time] = [self.acts.batch, self.acts.time];
        for some in prompts.chunks(batch) {
            let mut tokens = vec![0; batch * time];
            let mut places = vec![u32::MAX; batch * time];
            for (row, (prompt, first)) in some.iter().enumerate() {
                tokens[row * time..][..prompt.len()].copy_from_slice(prompt);
                places[row * time..][..prompt.len()].iter_mut().zip(*first..).for_each(|(place, at)| *place = at);
            }
            device.write(&self.acts.inputs.tokens, &tokens);
            device.write(&self.places, &places);
            device.replay(&self.pass)?;
        }
        Ok(())
    }
}

/// Number of prompts, and tokens of each, in one pass.
fn shape(longest: usize, max_len: usize, most: usize) -> [usize; 2] {
    let time = longest.next_multiple_of(GRAIN).min(max_len);
    [(most / time).max(1), time]
}

/// Prefill predicts nothing and needs no logits.
fn headless(c: &ModelConfig) -> ModelConfig {
    ModelConfig { vocab_size: 1, ..c.clone() }
}

/// Bytes of the prefill passes for prompts of up to `max_len` tokens.
pub(super) fn bytes(c: &ModelConfig, max_len: usize, sizes: Sizes) -> u64 {
    let [batch, time] = shape(max_len, max_len, sizes.prefill_tokens);
    activations::bytes(&headless(c), batch, time, PassKind::Forward, sizes) + (4 * batch * time) as u64
}

//! Generation with a key/value cache: one token per replay; sampled tokens stay on the device, the host reads them back asynchronously.

use super::Model;
use super::activations::{Activations, PassKind};
use super::transformer::record_decode;
use crate::device::{Device, ElementType, ReadRing, Recorder, Recording, Tensor};
use crate::ops::sample::{self, PROMPT_HEAD, Sampling};

/// Replays in flight before the host waits for the first of them.
const AHEAD: usize = 2;

/// Generates `batch` rows of up to `max_len` tokens, prompts included.
pub struct Generator {
    rows: sample::SampleRows,
    settings: Tensor,
    step: Recording,
    batch: usize,
    max_len: usize,
}

impl Generator {
    /// Allocate the cache, in f32, and record one step.
    ///
    /// # Errors
    /// When `max_len` is beyond the model's table of rotations, or a kernel does not compile.
    pub fn new(device: &Device, model: &Model, batch: usize, max_len: usize) -> anyhow::Result<Self> {
        Self::with_cache(device, model, batch, max_len, ElementType::F32)
    }

    /// As [`Generator::new`], with a cache of this type: f32 or half precision.
    ///
    /// # Errors
    /// As [`Generator::new`].
    pub fn with_cache(device: &Device, model: &Model, batch: usize, max_len: usize, cache: ElementType) -> anyhow::Result<Self> {
        anyhow::ensure!(max_len <= model.max_context(), "{max_len} tokens: the model was opened for {}", model.max_context());
        let c = &model.config;
        let acts = Activations::new(device, c, batch, 1, PassKind::Forward);
        let shape = [batch, max_len, c.key_value_dim()];
        let make = |name: &str| Tensor::of_type(device, "kv cache", name, &shape, cache);
        let caches: Vec<[Tensor; 2]> = (0..c.num_hidden_layers).map(|_| [make("cache_k"), make("cache_v")]).collect();
        let rows = sample::SampleRows {
            tokens: acts.inputs.tokens.clone(),
            positions: acts.inputs.positions.clone(),
            assigned: Tensor::new(device, "generation", "assigned", &[batch, 3]),
            prompt: Tensor::new(device, "generation", "prompt", &[batch, PROMPT_HEAD + max_len]),
            drawn: Tensor::new(device, "generation", "drawn", &[batch, 2, max_len]),
        };
        let settings = Tensor::new(device, "generation", "settings", &[sample::SETTINGS_LEN]);
        let mut r = Recorder::new(device, "generate");
        record_decode(&mut r, model.context(device), &acts, &caches, &rows.assigned);
        sample::draw(&mut r, c.vocab_size, &acts.logits, &settings, &rows);
        Ok(Self { rows, settings, step: r.finish()?, batch, max_len })
    }

    /// Continue each prompt (row 0, 1, ...; unused rows repeat the last) by up to `max_new` tokens. `on_tokens` gets (index in the row, the
    /// token of each row) for every token after the shortest prompt, as they arrive; it returns false to stop.
    ///
    /// # Errors
    /// An empty or too long prompt, or a device fault.
    pub fn run(
        &self,
        device: &Device,
        prompts: &[Vec<u32>],
        max_new: usize,
        sampling: &Sampling,
        on_tokens: impl FnMut(usize, &[u32]) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        self.run_from(device, prompts, 0, max_new, sampling, on_tokens)
    }

    /// As [`Self::run`]; the first `cached` tokens of each row are those of the previous run, whose keys and values are reused. The last
    /// sampled token of that run is not cached.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_from(
        &self,
        device: &Device,
        prompts: &[Vec<u32>],
        cached: usize,
        max_new: usize,
        sampling: &Sampling,
        mut on_tokens: impl FnMut(usize, &[u32]) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let (shortest, longest) = self.start(device, prompts, cached, sampling)?;
        let last = (longest + max_new).min(self.max_len);
        let mut ring = ReadRing::new(device, self.batch, AHEAD + 1);
        // Index of the token of the next replay, and of the next one to read.
        let mut read = shortest;
        for next in cached + 1..last {
            device.replay(&self.step)?;
            if next < shortest {
                // Nothing to read yet, but limit the number of submissions in flight.
                if next % 64 == 0 {
                    device.wait()?;
                }
                continue;
            }
            ring.request(device, &self.rows.tokens);
            if ring.pending() > AHEAD {
                let tokens: Vec<u32> = ring.take(device)?;
                if !on_tokens(read, &tokens)? {
                    return Ok(());
                }
                read += 1;
            }
        }
        while ring.pending() > 0 {
            let tokens: Vec<u32> = ring.take(device)?;
            if !on_tokens(read, &tokens)? {
                return Ok(());
            }
            read += 1;
        }
        Ok(())
    }

    /// Maximum tokens of a row, prompt included.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// log pi of each token of a row in the last run, by index, under the distribution it was sampled from (greedy: at temperature 1), in
    /// nats; 0 for prompt tokens, undefined after the last sampled one.
    ///
    /// # Errors
    /// A device fault.
    pub fn logprobs(&self, device: &Device, row: usize) -> anyhow::Result<Vec<f32>> {
        let drawn: Vec<u32> = device.read(&self.rows.drawn)?;
        let own = &drawn[2 * row * self.max_len..2 * (row + 1) * self.max_len];
        Ok(own[self.max_len..].iter().map(|bits| f32::from_bits(*bits)).collect())
    }

    /// Write prompts and settings; returns the lengths of the shortest and the longest prompt.
    fn start(&self, device: &Device, prompts: &[Vec<u32>], cached: usize, sampling: &Sampling) -> anyhow::Result<(usize, usize)> {
        anyhow::ensure!(!prompts.is_empty() && prompts.len() <= self.batch, "{} prompts for {} rows", prompts.len(), self.batch);
        let width = PROMPT_HEAD + self.max_len;
        let mut given = vec![0u32; self.batch * width];
        let mut first = vec![0u32; self.batch];
        for row in 0..self.batch {
            let prompt = &prompts[row.min(prompts.len() - 1)];
            anyhow::ensure!(!prompt.is_empty(), "the prompt holds no token; give at least one character");
            anyhow::ensure!(
                prompt.len() < self.max_len,
                "the prompt has {} tokens, but the model's context holds {}; shorten the prompt",
                prompt.len(),
                self.max_len
            );
            let own = &mut given[row * width..(row + 1) * width];
            anyhow::ensure!(cached < prompt.len(), "{cached} tokens are cached, but the prompt has {}", prompt.len());
            // Sampling is keyed by the row.
            own[..PROMPT_HEAD].copy_from_slice(&[prompt.len() as u32, self.max_len as u32, row as u32, 0, 0, 0]);
            own[PROMPT_HEAD..PROMPT_HEAD + prompt.len()].copy_from_slice(prompt);
            first[row] = prompt[cached];
        }
        device.write(&self.rows.prompt, &given);
        device.write(&self.rows.tokens, &first);
        device.write(&self.rows.positions, &vec![cached as u32; self.batch]);
        device.write(&self.rows.assigned, &(0..self.batch as u32).flat_map(|row| [row, 0, 0]).collect::<Vec<u32>>());
        device.write(&self.settings, &sampling.pack(&[]));
        let lengths = prompts.iter().map(Vec::len);
        Ok((lengths.clone().min().unwrap_or(1), lengths.max().unwrap_or(1)))
    }
}

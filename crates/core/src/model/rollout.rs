//! Rollouts: many requests on a fixed number of rows (continuous batching). Prompts are prefilled first, each once; then a row that has
//! ended its request takes the next one on the device. The host reads the number of ended requests, some tokens late, and waits for nothing
//! else.

use super::Model;
use super::activations::{self, Activations, PassKind};
use super::prefill::{self, Prefill};
use super::transformer::record_decode;
use crate::config::ModelConfig;
use crate::device::{Device, ElementType, ReadRing, Recorder, Recording, Sizes, Tensor};
use crate::ops::sample::{self, Ended, IDLE, MOST_STOPS, PROMPT_HEAD, SETTINGS_LEN, SampleRows, Sampling};
use crate::progress::{Progress, silent};
use crate::world::{RankCommand, World};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Reads in flight before the host waits for the first of them.
const AHEAD: usize = 1;
/// Maximum bytes of queued requests on the device.
const QUEUE_BYTES: usize = 64 << 20;
/// Bytes of the cache always available for prompts.
const PROMPT_BYTES: usize = 64 << 20;

/// A prompt to complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRequest {
    /// The prompt, at least one token.
    pub prompt: Vec<u32>,
    /// Random key of its samples, together with the seed: results do not depend on rows or other requests.
    pub key: [u32; 2],
    /// Maximum number of sampled tokens.
    pub max_new: usize,
}

impl RolloutRequest {
    /// The tokens to prefill: all but the last, which is fed when the first token is sampled.
    fn prefix(&self) -> &[u32] {
        &self.prompt[..self.prompt.len() - 1]
    }
}

/// Requests, and how their tokens are sampled.
#[derive(Clone, Copy, Debug)]
pub struct RolloutBatch<'a> {
    /// The prompts to complete.
    pub requests: &'a [RolloutRequest],
    /// Temperature, seed and truncation of the distribution.
    pub sampling: &'a Sampling,
    /// Tokens that end a completion.
    pub stops: &'a [u32],
}

/// A finished completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampledCompletion {
    /// The sampled tokens, including the stop token.
    pub tokens: Vec<u32>,
    /// log pi of each under the full distribution at the temperature (greedy: at temperature 1).
    pub logprobs: Vec<f32>,
    /// Whether it reached the maximum length without a stop token.
    pub truncated: bool,
}

/// A rollout engine for one model.
pub struct RolloutEngine {
    acts: Activations<Tensor>,
    /// (slots + rows of prompts, max_len, Hkv D) for each layer.
    caches: Vec<[Tensor; 2]>,
    settings: Tensor,
    assigned: Tensor,
    max_len: usize,
    prefill: Option<Prefill>,
    /// Buffers and recording for a number of requests, created when first needed.
    queue: Option<RequestQueue>,
    /// The ranks, which share the requests.
    world: World,
}

struct RequestQueue {
    rows: SampleRows,
    ended: Ended,
    step: Recording,
}

/// Cache position and length of a request's prefilled tokens.
type CachedPrefix = [u32; 2];

impl RolloutEngine {
    /// Command: sample completions.
    pub const ROLLOUTS: &str = "rollouts";

    /// Maximum tokens of a prompt and its completion.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Allocate `slots` rows (fewer when their logits would be too large) of up to `max_len` tokens, prompt and completion together, with a
    /// cache in f32.
    ///
    /// # Errors
    /// When `max_len` is beyond the model's table of rotations.
    pub fn new(device: &Device, model: &Model, slots: usize, max_len: usize) -> Result<Self> {
        Self::in_world(device, model, slots, max_len, ElementType::F32, World::solo())
    }

    /// As [`RolloutEngine::new`], with a cache of this type (f32 or half precision), on one of several ranks, which share the requests.
    ///
    /// # Errors
    /// As [`RolloutEngine::new`].
    pub fn in_world(
        device: &Device,
        model: &Model,
        slots: usize,
        max_len: usize,
        cache: ElementType,
        world: World,
    ) -> Result<Self> {
        ensure!(slots > 0 && max_len > 1, "{slots} rows of {max_len} tokens: there is nothing to generate in");
        ensure!(max_len <= model.max_context(), "{max_len} tokens: the model was opened for {}", model.max_context());
        let c = &model.config;
        let slots = fitting(c, slots, device.sizes());
        let acts = Activations::new(device, c, slots, 1, PassKind::Forward);
        let rows = slots + prompt_rows(c, slots, (max_len, cache), device.sizes());
        let shape = [rows, max_len, c.key_value_dim()];
        let make = |name: &str| Tensor::of_type(device, "kv cache", name, &shape, cache);
        let caches = (0..c.num_hidden_layers).map(|_| [make("cache_k"), make("cache_v")]).collect();
        let settings = Tensor::new(device, "rollouts", "settings", &[SETTINGS_LEN]);
        let assigned = Tensor::new(device, "rollouts", "assigned", &[slots, 3]);
        Ok(Self { acts, caches, settings, assigned, max_len, prefill: None, queue: None, world })
    }

    /// Number of rows.
    pub fn slots(&self) -> usize {
        self.acts.batch
    }

    /// The recording of one token for every row, for measurements; `None` before the first [`RolloutEngine::run`].
    pub fn recording(&self) -> Option<&Recording> {
        self.queue.as_ref().map(|queue| &queue.step)
    }

    /// Complete every request. `progress` regularly gets the number of ended requests; if it stops the work, the result is `None`.
    ///
    /// # Errors
    /// An empty or too long prompt, a device fault, or the error of `progress`.
    pub fn run(
        &mut self,
        device: &Device,
        model: &Model,
        batch: RolloutBatch<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Vec<SampledCompletion>>> {
        self.check(batch)?;
        let world = self.world.clone();
        let task = world.broadcast_command(Self::ROLLOUTS, &(batch.requests, batch.sampling, batch.stops))?;
        let out = self.share(device, model, batch, progress)?;
        task.done();
        Ok(out)
    }

    /// On ranks other than 0: execute [`RolloutEngine::ROLLOUTS`].
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub fn run_command(&mut self, device: &Device, model: &Model, command: &RankCommand) -> Result<()> {
        let (requests, sampling, stops): (Vec<RolloutRequest>, Sampling, Vec<u32>) = command.read()?;
        let batch = RolloutBatch { requests: &requests, sampling: &sampling, stops: &stops };
        self.share(device, model, batch, &mut silent).map(|_| ())
    }

    /// Sample a contiguous share of the requests, which often have the same prompt, and gather all completions.
    fn share(
        &mut self,
        device: &Device,
        model: &Model,
        batch: RolloutBatch<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Vec<SampledCompletion>>> {
        if self.world.is_solo() {
            return self.run_alone(device, model, batch, progress);
        }
        let own = RolloutBatch { requests: &batch.requests[self.world.share(batch.requests.len())], ..batch };
        let all = batch.requests.len() as u64;
        let mut of_all = |what: &str, done: u64, own: u64| progress(what, done * all / own.max(1), all);
        let found = self.run_alone(device, model, own, &mut of_all)?;
        let parts: Vec<Option<Vec<SampledCompletion>>> = self.world.all_gather_values(&found)?;
        Ok(parts.into_iter().collect::<Option<Vec<_>>>().map(|parts| parts.concat()))
    }

    fn run_alone(
        &mut self,
        device: &Device,
        model: &Model,
        batch: RolloutBatch<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Vec<SampledCompletion>>> {
        let RolloutBatch { requests, sampling, stops } = batch;
        device.write(&self.settings, &sampling.pack(stops));
        let mut out = Vec::with_capacity(requests.len());
        while out.len() < requests.len() {
            let done = out.len();
            let (some, prompts) = self.take(&requests[done..]);
            let prefixes = self.fill(device, model, some, &prompts)?;
            let (max_len, slots) = (self.max_len, self.slots());
            let queue = self.queue(device, model, some.len())?;
            queue.start(device, some, &prefixes, slots, max_len);
            let mut report_ended = |ended: usize| progress("generating", (done + ended) as u64, requests.len() as u64);
            if !queue.finish(device, some, &prefixes, &mut report_ended)? {
                return Ok(None);
            }
            out.extend(queue.completions(device, some, max_len, stops)?);
        }
        Ok(Some(out))
    }

    /// The next requests that fit, and the cache positions of their prompts.
    fn take<'a>(&self, requests: &'a [RolloutRequest]) -> (&'a [RolloutRequest], HashMap<&'a [u32], u32>) {
        let tokens = self.caches[0][0].matrix()[0];
        let mut places = HashMap::new();
        let mut next = self.slots() * self.max_len;
        let most = (QUEUE_BYTES / (12 * (self.max_len + PROMPT_HEAD))).max(1);
        let mut count = 0;
        for request in requests.iter().take(most) {
            let prefix = request.prefix();
            if !prefix.is_empty() && next < tokens && !places.contains_key(prefix) {
                if next + prefix.len() > tokens {
                    break;
                }
                places.insert(prefix, next as u32);
                next += prefix.len();
            }
            count += 1;
        }
        // If not even one fits, prompts are fed token by token.
        (&requests[..count.max(1)], places)
    }

    /// Prefill the prompts' keys and values.
    fn fill(
        &mut self,
        device: &Device,
        model: &Model,
        requests: &[RolloutRequest],
        places: &HashMap<&[u32], u32>,
    ) -> Result<Vec<CachedPrefix>> {
        let longest = places.keys().map(|prompt| prompt.len()).max().unwrap_or(0);
        if longest > 0 {
            let fits = self.prefill.as_ref().is_some_and(|prefill| prefill.longest() >= longest);
            if !fits {
                self.prefill = Some(Prefill::new(device, model, &self.caches, longest, self.max_len)?);
            }
            let mut prompts: Vec<(&[u32], u32)> = places.iter().map(|(prompt, place)| (*prompt, *place)).collect();
            prompts.sort_by_key(|(_, place)| *place);
            if let Some(prefill) = &self.prefill {
                prefill.run(device, &prompts)?;
            }
        }
        let of = |request: &RolloutRequest| {
            let prefix = request.prefix();
            places.get(prefix).map_or([0, 0], |place| [*place, prefix.len() as u32])
        };
        Ok(requests.iter().map(of).collect())
    }

    fn check(&self, RolloutBatch { requests, stops, .. }: RolloutBatch<'_>) -> Result<()> {
        ensure!(stops.len() <= MOST_STOPS, "{} tokens end a text; at most {MOST_STOPS} are looked for", stops.len());
        for request in requests {
            ensure!(!request.prompt.is_empty(), "the prompt holds no token; give at least one character");
            ensure!(request.max_new > 0, "a completion of 0 tokens; ask for at least 1");
            ensure!(
                request.prompt.len() < self.max_len,
                "the prompt has {} tokens, but prompt and completion have room for {}; shorten the prompt",
                request.prompt.len(),
                self.max_len
            );
        }
        Ok(())
    }

    /// Buffers for `count` requests, and their recording.
    fn queue(&mut self, device: &Device, model: &Model, count: usize) -> Result<&RequestQueue> {
        let fits = self.queue.as_ref().is_some_and(|queue| queue.rows.prompt.matrix()[0] >= count);
        if !fits {
            let make = |name: &str, shape: &[usize]| Tensor::new(device, "rollouts", name, shape);
            let rows = SampleRows {
                tokens: self.acts.inputs.tokens.clone(),
                positions: self.acts.inputs.positions.clone(),
                assigned: self.assigned.clone(),
                prompt: make("prompt", &[count, PROMPT_HEAD + self.max_len]),
                drawn: make("drawn", &[count, 2, self.max_len]),
            };
            let ended = Ended { lengths: make("lengths", &[count]), progress: make("progress", &[3]) };
            let mut r = Recorder::new(device, "rollouts");
            record_decode(&mut r, model.context(device), &self.acts, &self.caches, &rows.assigned);
            sample::draw(&mut r, model.config.vocab_size, &self.acts.logits, &self.settings, &rows);
            sample::refill(&mut r, &self.settings, &rows, &ended);
            self.queue = Some(RequestQueue { rows, ended, step: r.finish()? });
        }
        match &self.queue {
            Some(queue) => Ok(queue),
            None => unreachable!("it was just made"),
        }
    }
}

impl RequestQueue {
    /// Upload requests; each row takes its first.
    fn start(&self, device: &Device, requests: &[RolloutRequest], prefixes: &[CachedPrefix], slots: usize, max_len: usize) {
        let mut prompt = Vec::with_capacity(requests.len() * (PROMPT_HEAD + max_len));
        for (request, prefix) in requests.iter().zip(prefixes) {
            let given = [request.prompt.len() as u32, request.max_new.min(max_len) as u32];
            prompt.extend(given.iter().chain(&request.key).chain(prefix).chain(&request.prompt));
            prompt.extend(std::iter::repeat_n(0, max_len - request.prompt.len()));
        }
        let first = |row: usize| match (requests.get(row), prefixes.get(row)) {
            (Some(request), Some([place, fed])) => [request.prompt[*fed as usize], *fed, row as u32, *place, *fed],
            _ => [0, 0, IDLE, 0, 0],
        };
        let rows: Vec<[u32; 5]> = (0..slots).map(first).collect();
        device.write(&self.rows.prompt, &prompt);
        device.write(&self.rows.tokens, &rows.iter().map(|row| row[0]).collect::<Vec<u32>>());
        device.write(&self.rows.positions, &rows.iter().map(|row| row[1]).collect::<Vec<u32>>());
        device.write(&self.rows.assigned, &rows.iter().flat_map(|row| [row[2], row[3], row[4]]).collect::<Vec<u32>>());
        device.write(&self.ended.lengths, &vec![0u32; requests.len()]);
        device.write(&self.ended.progress, &[slots.min(requests.len()) as u32, 0, requests.len() as u32]);
    }

    /// Replay until all have ended; false when `progress` stopped it.
    fn finish(
        &self,
        device: &Device,
        requests: &[RolloutRequest],
        prefixes: &[CachedPrefix],
        report_ended: &mut dyn FnMut(usize) -> Result<bool>,
    ) -> Result<bool> {
        // A submission costs more than a short wait, but replays in flight when the last request ends are wasted.
        let at_once = device.sizes().replays_at_once;
        let mut ring = ReadRing::new(device, 3, AHEAD + 1);
        // Every replay advances every busy row by one token: this number is always enough.
        let mut left: usize =
            requests.iter().zip(prefixes).map(|(r, prefix)| r.prompt.len() - prefix[1] as usize + r.max_new).sum();
        let mut ended = 0;
        while ended < requests.len() && (left > 0 || ring.pending() > 0) {
            if left > 0 {
                let now = at_once.min(left);
                left -= now;
                device.replay_times(&self.step, now)?;
                ring.request(device, &self.ended.progress);
            }
            if ring.pending() > AHEAD || left == 0 {
                ended = ring.take::<u32>(device)?[1] as usize;
                if !report_ended(ended)? {
                    return Ok(false);
                }
            }
        }
        ensure!(ended >= requests.len(), "rollouts: {ended} of {} requests ended (a defect of lehr)", requests.len());
        Ok(true)
    }

    fn completions(
        &self,
        device: &Device,
        requests: &[RolloutRequest],
        max_len: usize,
        stops: &[u32],
    ) -> Result<Vec<SampledCompletion>> {
        let lengths: Vec<u32> = device.read(&self.ended.lengths)?;
        let drawn: Vec<u32> = device.read(&self.rows.drawn)?;
        let of = |(i, request): (usize, &RolloutRequest)| {
            let (tokens, logp) = drawn[2 * max_len * i..2 * max_len * (i + 1)].split_at(max_len);
            let own = request.prompt.len()..lengths[i] as usize;
            let tokens = tokens[own.clone()].to_vec();
            let truncated = !tokens.last().is_some_and(|last| stops.contains(last));
            SampledCompletion { tokens, logprobs: logp[own].iter().map(|bits| f32::from_bits(*bits)).collect(), truncated }
        };
        Ok(requests.iter().enumerate().map(of).collect())
    }
}

/// Number of rows whose logits are computed at once.
fn fitting(c: &ModelConfig, slots: usize, sizes: Sizes) -> usize {
    slots.min(activations::chunk_rows(slots, activations::vocab_stride(c.vocab_size), sizes))
}

/// Bytes of one row of `max_len` tokens in one layer's keys, and in all caches.
fn row_bytes(c: &ModelConfig, (max_len, cache): (usize, ElementType)) -> [u64; 2] {
    let row = (cache.bytes() * max_len * c.key_value_dim()) as u64;
    [row, 2 * row * c.num_hidden_layers as u64]
}

/// Cache rows for prompts: a quarter of the others, more if rows are small, within the maximum tensor size.
fn prompt_rows(c: &ModelConfig, slots: usize, row: (usize, ElementType), sizes: Sizes) -> usize {
    let [row, all_layers] = row_bytes(c, row);
    let wanted = slots.div_ceil(4).max((PROMPT_BYTES as u64 / all_layers.max(1)) as usize);
    wanted.min((sizes.max_tensor_bytes / row.max(1)).saturating_sub(slots as u64) as usize)
}

/// Number of rows of `max_len` tokens that suits a device, limited by cache memory; `cache` is the type of its elements.
pub fn default_slots(c: &ModelConfig, max_len: usize, cache: ElementType, sizes: Sizes) -> usize {
    let [row, all_layers] = row_bytes(c, (max_len, cache));
    let (most, bytes) = (sizes.rollout_rows as u64, sizes.rollout_cache_bytes);
    // A fifth is for prompts.
    let rows = most.min(bytes / all_layers.max(1)).min(sizes.max_tensor_bytes / row.max(1) * 4 / 5);
    fitting(c, rows.max(1) as usize, sizes)
}

/// Bytes of rollouts of `count` requests in `slots` rows of `max_len` tokens, with a cache of this type.
pub fn bytes(c: &ModelConfig, slots: usize, (max_len, cache): (usize, ElementType), count: usize, sizes: Sizes) -> u64 {
    let slots = fitting(c, slots, sizes);
    let rows = slots + prompt_rows(c, slots, (max_len, cache), sizes);
    let acts = activations::bytes(c, slots, 1, PassKind::Forward, sizes);
    let prompts = prefill::bytes(c, max_len, sizes);
    rows as u64 * row_bytes(c, (max_len, cache))[1] + acts + prompts + (12 * count * (max_len + PROMPT_HEAD)) as u64
}

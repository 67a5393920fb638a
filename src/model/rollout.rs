//! Rollouts: many requests through a fixed number of rows. A row that has ended its request takes the next by itself, on the device; the
//! host hears how many have ended, some tokens late, and waits for nothing else.

use super::Model;
use super::activations::{self, Activations, Pass};
use super::generate::record_decode;
use crate::config::ModelConfig;
use crate::gpu::{AdapterClass, Gpu, ReadRing, Recording, Tensor};
use crate::ops::sample::{self, Ended, IDLE, MOST_STOPS, PROMPT_HEAD, Rows, SETTINGS_LEN, Sampling};
use anyhow::{Result, ensure};

/// Replays that may be under way before the host looks at the first of them.
const AHEAD: usize = 4;

/// Something to be continued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What is given, at least one token.
    pub prompt: Vec<u32>,
    /// With the seed of the sampling this is what its draws depend on: not on rows, nor on other requests.
    pub key: [u32; 2],
    /// Tokens to draw at most.
    pub max_new: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// The tokens that were drawn, with the one that ended it.
    pub tokens: Vec<u32>,
    /// log pi of each, of the whole distribution at the temperature (greedy: at temperature 1).
    pub logprobs: Vec<f32>,
    /// It ran into its limit: no stop came.
    pub truncated: bool,
}

/// See the module.
pub struct Rollouts {
    acts: Activations<Tensor>,
    caches: Vec<[Tensor; 2]>,
    settings: Tensor,
    requests: Tensor,
    room: usize,
    /// Buffers and recording for so many requests, made when they are first needed.
    queue: Option<Queue>,
}

struct Queue {
    rows: Rows,
    ended: Ended,
    step: Recording,
}

impl Rollouts {
    /// Allocate `slots` rows of up to `room` tokens, prompt and completion together.
    ///
    /// # Errors
    /// When `room` is beyond the model's table of rotations.
    pub fn new(gpu: &Gpu, model: &Model, slots: usize, room: usize) -> Result<Self> {
        ensure!(slots > 0 && room > 1, "{slots} rows of {room} tokens: there is nothing to generate in");
        ensure!(room <= model.max_context(), "{room} tokens: the model was opened for {}", model.max_context());
        let c = &model.config;
        let acts = Activations::new(gpu, c, slots, 1, Pass::Forward);
        let cache = |name: &str| Tensor::new(gpu, "kv cache", name, &[slots, room, c.key_value_dim()]);
        let caches = (0..c.num_hidden_layers).map(|_| [cache("cache_k"), cache("cache_v")]).collect();
        let settings = Tensor::new(gpu, "rollouts", "settings", &[SETTINGS_LEN]);
        let requests = Tensor::new(gpu, "rollouts", "requests", &[slots]);
        Ok(Self { acts, caches, settings, requests, room, queue: None })
    }

    /// Rows.
    pub fn slots(&self) -> usize {
        self.acts.batch
    }

    /// Continue every request. `progress` hears (ended, all) now and then, and may end it: then the result is `None`.
    ///
    /// # Errors
    /// An empty or too long prompt, a device fault, or what `progress` returns.
    pub fn run(
        &mut self,
        gpu: &Gpu,
        model: &Model,
        requests: &[Request],
        sampling: &Sampling,
        stops: &[u32],
        progress: &mut dyn FnMut(usize, usize) -> Result<bool>,
    ) -> Result<Option<Vec<Completion>>> {
        if requests.is_empty() {
            return Ok(Some(Vec::new()));
        }
        self.check(requests, stops)?;
        let (room, slots) = (self.room, self.slots());
        let queue = self.queue(gpu, model, requests.len())?;
        queue.start(gpu, requests, slots, room);
        gpu.write(&self.settings, &sampling.pack(stops));
        let queue = self.queue(gpu, model, requests.len())?;
        let mut ring = ReadRing::new(gpu, 2, AHEAD + 1);
        // Every replay moves every busy row by one token, so that this many are enough whatever is drawn.
        let most: usize = requests.iter().map(|r| r.prompt.len() + r.max_new).sum();
        let mut ended = 0;
        for _ in 0..most {
            gpu.replay(&queue.step)?;
            ring.ask(gpu, &queue.ended.progress);
            if ring.pending() > AHEAD {
                ended = ring.take::<u32>(gpu)?[1] as usize;
                if !progress(ended, requests.len())? {
                    return Ok(None);
                }
                if ended >= requests.len() {
                    break;
                }
            }
        }
        while ring.pending() > 0 {
            ended = ring.take::<u32>(gpu)?[1] as usize;
        }
        ensure!(ended >= requests.len(), "rollouts: {ended} of {} requests ended (a defect of lehr)", requests.len());
        queue.completions(gpu, requests, room, stops).map(Some)
    }

    fn check(&self, requests: &[Request], stops: &[u32]) -> Result<()> {
        ensure!(stops.len() <= MOST_STOPS, "{} tokens end a text; at most {MOST_STOPS} are looked for", stops.len());
        for request in requests {
            ensure!(!request.prompt.is_empty(), "the prompt holds no token; give at least one character");
            ensure!(request.max_new > 0, "a completion of 0 tokens; ask for at least 1");
            ensure!(
                request.prompt.len() < self.room,
                "the prompt has {} tokens, but prompt and completion have room for {}; shorten the prompt",
                request.prompt.len(),
                self.room
            );
        }
        Ok(())
    }

    /// Buffers for `count` requests, and the recording over them.
    fn queue(&mut self, gpu: &Gpu, model: &Model, count: usize) -> Result<&Queue> {
        let fits = self.queue.as_ref().is_some_and(|queue| queue.rows.output.matrix()[0] == count);
        if !fits {
            let make = |name: &str, shape: &[usize]| Tensor::new(gpu, "rollouts", name, shape);
            let rows = Rows {
                tokens: self.acts.inputs.tokens.clone(),
                positions: self.acts.inputs.positions.clone(),
                requests: self.requests.clone(),
                prompt: make("prompt", &[count, PROMPT_HEAD + self.room]),
                output: make("output", &[count, self.room]),
                logp: make("sampled_logp", &[count, self.room]),
            };
            let ended = Ended { lengths: make("lengths", &[count]), progress: make("progress", &[2]) };
            let mut r = Recording::new("rollouts");
            record_decode(&mut r, model.context(gpu), &self.acts, &self.caches);
            sample::draw(&mut r, gpu, model.config.vocab_size, &self.acts.logits, &self.settings, &rows);
            sample::refill(&mut r, gpu, &self.settings, &rows, &ended);
            self.queue = Some(Queue { rows, ended, step: r.finish(gpu)? });
        }
        match &self.queue {
            Some(queue) => Ok(queue),
            None => unreachable!("it was just made"),
        }
    }
}

impl Queue {
    /// Requests onto the device; each row takes its first.
    fn start(&self, gpu: &Gpu, requests: &[Request], slots: usize, room: usize) {
        let mut prompt = Vec::with_capacity(requests.len() * (PROMPT_HEAD + room));
        for request in requests {
            let [first, second] = request.key;
            prompt.extend([request.prompt.len() as u32, request.max_new.min(room) as u32, first, second]);
            prompt.extend(&request.prompt);
            prompt.extend(std::iter::repeat_n(0, room - request.prompt.len()));
        }
        let of = |row: usize| requests.get(row).map_or(0, |r| r.prompt[0]);
        let taken: Vec<u32> = (0..slots).map(|row| if row < requests.len() { row as u32 } else { IDLE }).collect();
        gpu.write(&self.rows.prompt, &prompt);
        gpu.write(&self.rows.tokens, &(0..slots).map(of).collect::<Vec<u32>>());
        gpu.write(&self.rows.positions, &vec![0u32; slots]);
        gpu.write(&self.rows.requests, &taken);
        gpu.write(&self.ended.lengths, &vec![0u32; requests.len()]);
        gpu.write(&self.ended.progress, &[slots.min(requests.len()) as u32, 0]);
    }

    fn completions(&self, gpu: &Gpu, requests: &[Request], room: usize, stops: &[u32]) -> Result<Vec<Completion>> {
        let lengths: Vec<u32> = gpu.read(&self.ended.lengths)?;
        let output: Vec<u32> = gpu.read(&self.rows.output)?;
        let logp: Vec<f32> = gpu.read(&self.rows.logp)?;
        let of = |(i, request): (usize, &Request)| {
            let drawn = i * room + request.prompt.len()..i * room + lengths[i] as usize;
            let tokens = output[drawn.clone()].to_vec();
            let truncated = !tokens.last().is_some_and(|last| stops.contains(last));
            Completion { tokens, logprobs: logp[drawn].to_vec(), truncated }
        };
        Ok(requests.iter().enumerate().map(of).collect())
    }
}

/// Rows that suit an adapter: a GPU wants many, as far as their cache fits; a software adapter gains nothing past some dozens.
pub fn default_slots(c: &ModelConfig, room: usize, class: AdapterClass, max_binding_bytes: u64) -> usize {
    let row = (4 * room * c.key_value_dim()) as u64;
    let all_layers = 2 * row * c.num_hidden_layers as u64;
    let (most, bytes) = match class {
        AdapterClass::Software => (64, 1u64 << 30),
        AdapterClass::Hardware => (512, 4 << 30),
    };
    (most as u64).min(bytes / all_layers.max(1)).min(max_binding_bytes / row.max(1)).max(1) as usize
}

/// Bytes that rollouts of `count` requests in `slots` rows of `room` tokens take.
pub fn bytes(c: &ModelConfig, slots: usize, room: usize, count: usize, max_binding_bytes: u64) -> u64 {
    let cache = (2 * 4 * slots * room * c.key_value_dim() * c.num_hidden_layers) as u64;
    cache + activations::bytes(c, slots, 1, Pass::Forward, max_binding_bytes) + (12 * count * (room + PROMPT_HEAD)) as u64
}

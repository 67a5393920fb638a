//! Sampling on the device: temperature, top-k, top-p, min-p, one counter-based random number per row.          shaders/sample.wgsl

mod host;

use super::check::{Case, Check, LARGE_VOCABULARIES};
use crate::device::{Cost, Device, Extent, Gpu, GpuClass, Op, Recorder, Shader, Tensor};
use crate::rng::{Rng, unit};
use crate::{bind, shader, uniform};
use anyhow::ensure;
use bytemuck::{cast_slice, cast_slice_mut};
use serde::{Deserialize, Serialize};

const SHADER: Shader = shader!("sample");
/// Elements of the buffer that [`Sampling::pack`] fills.
pub const SETTINGS_LEN: usize = 8 + MOST_STOPS;
/// Maximum number of stop tokens.
pub const MOST_STOPS: usize = 64;
/// Numbers before a request's prompt: its length, the maximum number of sampled tokens, the two words of its random key, and the cache
/// position (in tokens) and number of its prefilled tokens (which exclude the last).
pub const PROMPT_HEAD: usize = 6;
/// Marks a row without a request.
pub const IDLE: u32 = u32::MAX;

uniform! { struct Dims { vocab: u32, stride: u32, max_len: u32, batch: u32, count: u32 } }

/// Sampling parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Temperature; 0 is greedy.
    pub temperature: f64,
    /// Number of most probable tokens to keep (ties stay together); 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most probable tokens whose probability reaches this; 1 keeps all.
    pub top_p: f64,
    /// Minimum probability relative to the most probable token; 0 keeps all.
    pub min_p: f64,
    /// Random numbers are a function of (seed, row, position).
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl Sampling {
    /// Validate the parameters. `dashes` is the prefix of a setting's name in messages: `--` for a flag.
    ///
    /// # Errors
    /// The setting that is out of range.
    pub fn check(&self, dashes: &str) -> anyhow::Result<()> {
        let Self { temperature, top_p, min_p, .. } = *self;
        ensure!(
            (0.0..=100.0).contains(&temperature),
            "{dashes}temperature {temperature}: must be 0 (greedy) or more, at most 100"
        );
        ensure!(top_p > 0.0 && top_p <= 1.0, "{dashes}top-p {top_p}: must be above 0 and at most 1");
        ensure!((0.0..=1.0).contains(&min_p), "{dashes}min-p {min_p}: must lie between 0 and 1");
        Ok(())
    }

    fn rng(&self) -> Rng {
        Rng::new(self.seed, "sample")
    }

    /// In the shader's layout. At most [`MOST_STOPS`] stop tokens; the rest are ignored.
    pub fn pack(&self, stops: &[u32]) -> [u32; SETTINGS_LEN] {
        let key = self.rng().key();
        let bits = |x: f64| (x as f32).to_bits();
        let stops = &stops[..stops.len().min(MOST_STOPS)];
        let mut out = [0; SETTINGS_LEN];
        let head = [bits(self.temperature), self.top_k, bits(self.top_p), bits(self.min_p), key[0], key[1], stops.len() as u32];
        out[..7].copy_from_slice(&head);
        out[7..7 + stops.len()].copy_from_slice(stops);
        out
    }
}

/// The rows being generated, and their requests.
#[derive(Clone, Debug)]
pub struct SampleRows {
    /// Next input tokens (B).
    pub tokens: Tensor,
    /// Its index in the request's row (B).
    pub positions: Tensor,
    /// The request of each row, or [`IDLE`]; cache position and number of its prefilled tokens (B, 3).
    pub assigned: Tensor,
    /// [`PROMPT_HEAD`] numbers and the prompt tokens of each request (N, 6 + max_len).
    pub prompt: Tensor,
    /// Every input or sampled token of each request but the first, by index; then as f32 log pi of each sampled token under the full
    /// distribution at the temperature (greedy: at 1), 0 for prompt tokens (N, 2, max_len).
    pub drawn: Tensor,
}

/// Results of requests.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Length of each ended request, including prompt and stop token (N).
    pub lengths: Tensor,
    /// (3): next request, number of ended requests, number of requests.
    pub progress: Tensor,
}

/// Sample the token after each row's position from `logits` (B, stride), or take it from the prompt; advance the rows.
pub fn draw(r: &mut Recorder<'_>, vocab: usize, logits: &Tensor, settings: &Tensor, rows: &SampleRows) {
    let SampleRows { tokens, positions, assigned, prompt, drawn } = rows;
    let (batch, sizes) = (tokens.len(), Sizes::of(rows, vocab, logits.matrix()[1]));
    r.op(
        Op {
            name: "sample.draw",
            cost: Cost { flops: 0.0, bytes: 100.0 * (batch * vocab) as f64 },
            reads: bind!(logits, settings, prompt),
            writes: bind!(tokens, positions, assigned, drawn),
        },
        |wgsl| {
            let size = draw_group(wgsl.gpu(), vocab);
            let extent = Extent { groups: [batch as u32, 1, 1], iterations: draw_iterations(size, vocab) };
            wgsl.run(&SHADER, "draw", &[("WG", f64::from(size))], sizes.dims(), extent)
        },
        move |cpu, [logits, settings, prompt], [tokens, positions, assigned, drawn]| {
            let [settings, prompt] = [settings, prompt].map(cast_slice);
            let [tokens, positions, assigned, drawn] = [tokens, positions, assigned, drawn].map(cast_slice_mut);
            host::draw(cpu, sizes, logits, settings, prompt, assigned, tokens, positions, drawn);
        },
    );
}

/// Assign the next requests to rows whose request has ended, in row order; call it after [`draw`].
pub fn refill(r: &mut Recorder<'_>, settings: &Tensor, rows: &SampleRows, ended: &Ended) {
    let SampleRows { tokens, positions, assigned, prompt, .. } = rows;
    let Ended { lengths, progress } = ended;
    let sizes = Sizes::of(rows, 0, 0);
    r.op(
        Op {
            name: "sample.refill",
            cost: Cost { flops: 0.0, bytes: 100.0 * tokens.len() as f64 },
            reads: bind!(settings, prompt),
            writes: bind!(tokens, positions, assigned, lengths, progress),
        },
        |wgsl| {
            let size = group(wgsl.class(), sizes.batch);
            // Two walks over a block of rows, each of which compares its token with the stops.
            let walk = 2 * sizes.batch.div_ceil(size as usize) * (1 + MOST_STOPS);
            let extent = Extent { groups: [1, 1, 1], iterations: walk + size as usize };
            wgsl.run(&SHADER, "refill", &[("WG", f64::from(size))], sizes.dims(), extent)
        },
        move |_, [settings, prompt], [tokens, positions, assigned, lengths, progress]| {
            let [settings, prompt] = [settings, prompt].map(cast_slice);
            let [tokens, positions, assigned, lengths, progress] =
                [tokens, positions, assigned, lengths, progress].map(cast_slice_mut);
            host::refill(sizes, settings, prompt, tokens, positions, assigned, lengths, progress);
        },
    );
}

/// Invocations that share `items`. On a software adapter few, because barriers are expensive.
fn group(class: GpuClass, items: usize) -> u32 {
    match class {
        GpuClass::Software => 8,
        GpuClass::Hardware if items <= 512 => 64,
        GpuClass::Hardware => 256,
    }
}

/// Invocations that share a row of [`draw`]: as [`group`], more if each would loop too long.
fn draw_group(gpu: &Gpu, vocab: usize) -> u32 {
    const MOST: u32 = 256;
    let fits = |size: &u32| draw_iterations(*size, vocab) <= gpu.max_iterations();
    let least = group(gpu.class(), vocab);
    std::iter::successors(Some(least), |size| (*size < MOST).then_some(2 * size)).find(fits).unwrap_or(MOST)
}

/// Loop iterations of one of `size` invocations that share a row of [`draw`]: walks over its block of columns (the highest logit, two
/// searches of 16 rounds each, four sums and the draw), reductions, the walk over the others' sums, the rounds of Philox.
fn draw_iterations(size: u32, vocab: usize) -> usize {
    const ROUNDS: usize = 16;
    let (size, steps) = (size as usize, size.ilog2() as usize);
    (2 * ROUNDS + 5) * vocab.div_ceil(size) + 2 * ROUNDS + (2 * ROUNDS + 3) * steps + size + 10
}

/// Columns of the logits that count, columns that they have, rows that are generated at once, tokens of each, requests.
#[derive(Clone, Copy)]
struct Sizes {
    vocab: usize,
    stride: usize,
    batch: usize,
    max_len: usize,
    count: usize,
}

impl Sizes {
    fn of(rows: &SampleRows, vocab: usize, stride: usize) -> Self {
        Self { vocab, stride, batch: rows.tokens.len(), max_len: rows.drawn.shape()[2], count: rows.drawn.shape()[0] }
    }

    fn dims(self) -> Dims {
        let [vocab, stride, max_len, batch, count] =
            [self.vocab, self.stride, self.max_len, self.batch, self.count].map(|n| n as u32);
        Dims { vocab, stride, max_len, batch, count }
    }
}

/// The same in f64, with a sort.
pub mod twin {
    use super::Sampling;

    /// Probability of each token after all filters.
    pub fn distribution(logits: &[f64], s: &Sampling) -> Vec<f64> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let top = logits[order[0]];
        if s.temperature <= 0.0 {
            let first = (0..logits.len()).find(|&i| logits[i] == top);
            return (0..logits.len()).map(|i| f64::from(u8::from(Some(i) == first))).collect();
        }
        let mut weight: Vec<f64> = logits.iter().map(|l| ((l - top) / s.temperature).exp()).collect();
        let keep_from = |weight: &mut Vec<f64>, bar: f64| {
            for (w, l) in weight.iter_mut().zip(logits) {
                if *l < bar {
                    *w = 0.0;
                }
            }
        };
        if s.top_k > 0 && (s.top_k as usize) < logits.len() {
            keep_from(&mut weight, logits[order[s.top_k as usize - 1]]);
        }
        if s.top_p < 1.0 {
            let wanted = s.top_p * weight.iter().sum::<f64>();
            let mut mass = 0.0;
            let mut bar = top;
            for &i in &order {
                bar = logits[i];
                mass += weight[i];
                if mass >= wanted {
                    break;
                }
            }
            keep_from(&mut weight, bar);
        }
        let floor = s.min_p * weight.iter().copied().fold(0.0, f64::max);
        weight.iter_mut().for_each(|w| *w = if *w < floor { 0.0 } else { *w });
        let total: f64 = weight.iter().sum();
        weight.iter().map(|w| w / total).collect()
    }

    /// log pi of a token under the whole distribution.
    pub fn log_probability(logits: &[f64], token: usize, temperature: f64) -> f64 {
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let whole: f64 = logits.iter().map(|l| ((l - top) / temperature).exp()).sum();
        (logits[token] - top) / temperature - whole.ln()
    }

    /// One row after another: (token, index, request, where its prefix lies, tokens of that). Requests `waiting` are given out in order;
    /// `prompts` as [`super::SampleRows::prompt`] has them. Returns how many have ended.
    pub fn refill(
        rows: &mut [[u32; 5]],
        lengths: &mut [u32],
        prompts: &[&[u32]],
        mut waiting: std::ops::Range<usize>,
        stops: &[u32],
        max_len: usize,
    ) -> u32 {
        let mut ended = 0;
        for row in rows.iter_mut().filter(|row| row[2] != super::IDLE) {
            let [token, index, request, ..] = row.map(|n| n as usize);
            let [given, may] = [0, 1].map(|i| prompts[request][i] as usize);
            if index < given {
                continue; // the token is one of the prompt's
            }
            let drawn = index + 1 - given;
            if stops.contains(&(token as u32)) || drawn >= may || index + 1 >= max_len {
                lengths[request] = index as u32 + 1;
                ended += 1;
                *row = match waiting.next() {
                    Some(next) => {
                        let [.., from, fed] = [0, 1, 2, 3, 4, 5].map(|i| prompts[next][i]);
                        [prompts[next][super::PROMPT_HEAD + fed as usize], fed, next as u32, from, fed]
                    }
                    None => [0, 0, super::IDLE, 0, 0],
                };
            }
        }
        ended
    }

    /// The token in whose share of the distribution `u` falls, and how near the next share's edge is.
    pub fn draw(distribution: &[f64], u: f64) -> (usize, f64) {
        let mut sum = 0.0;
        for (i, p) in distribution.iter().enumerate() {
            if *p > 0.0 && sum + p > u {
                return (i, (u - sum).min(sum + p - u));
            }
            sum += p;
        }
        (distribution.iter().rposition(|p| *p > 0.0).unwrap_or(0), 0.0)
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[
    Check { name: "sample", run: |device, case| check(device, case, 20, |case| case.int(1, 700)) },
    Check {
        name: "sample (large vocabularies)",
        run: |device, case| check(device, case, 2, |case| case.pick(&LARGE_VOCABULARIES)),
    },
    Check { name: "sample (refill)", run: check_refill },
];

fn check(device: &Device, case: &mut Case, most_rows: usize, vocab: fn(&mut Case) -> usize) -> anyhow::Result<()> {
    let (batch, vocab, max_len) = (case.int(1, most_rows), vocab(case), 8);
    let stride = vocab.next_multiple_of(4);
    let sampling = Sampling {
        temperature: case.pick(&[0.0, 0.7, 1.0, 1.5]),
        top_k: case.pick(&[0, 1, 5, 50]),
        top_p: case.pick(&[1.0, 0.9, 0.3]),
        min_p: case.pick(&[0.0, 0.05]),
        seed: case.int(0, 1 << 30) as u64,
    };
    case.shape = format!("{batch} rows, vocabulary {vocab}, {sampling:?}");
    let logits = case.normals(batch * stride, 3.0);
    let positions: Vec<u32> = (0..batch).map(|_| case.int(0, max_len - 2) as u32).collect();
    // Rows work at any request, and take their next token from its prompt while it lasts.
    let count = batch + case.int(0, 5);
    let head = max_len + PROMPT_HEAD;
    let mut prompt = vec![7u32; count * head];
    for request in 0..count {
        prompt[request * head] = case.pick(&[0, max_len as u32]);
        prompt[request * head + 2] = case.int(0, 1 << 30) as u32;
        prompt[request * head + 3] = case.int(0, 1 << 30) as u32;
    }
    let shift = case.int(0, count - 1);
    let requests: Vec<u32> = (0..batch).map(|row| ((row + shift) % count) as u32).collect();
    let rows = upload(device, case, &vec![0; batch], &positions, &requests, &prompt, [count, max_len]);
    let up = |case: &Case, name: &str, v: &[u32]| case.upload_u32(device, name, v);
    let settings = up(case, "settings", &sampling.pack(&[]));
    let tl = case.upload(device, "logits", &[batch, stride], &logits);
    case.replay(device, |r| draw(r, vocab, &tl, &settings, &rows))?;
    let got: Vec<u32> = device.read(&rows.tokens)?;
    let after: Vec<u32> = device.read(&rows.positions)?;
    let drawn: Vec<u32> = device.read(&rows.drawn)?;
    for row in 0..batch {
        let (p, request) = (positions[row] as usize, requests[row] as usize);
        let own = &prompt[request * head..][..PROMPT_HEAD];
        let values: Vec<f64> = logits[row * stride..][..vocab].iter().map(|&l| f64::from(l)).collect();
        let key = u64::from(own[2]) | (u64::from(own[3]) << 32);
        let u = f64::from(unit(sampling.rng().words(p as u64, key)[0]));
        let (mut want, edge) = twin::draw(&twin::distribution(&values, &sampling), u);
        let mut want_logp = 0.0;
        if own[0] > 0 {
            want = 7;
        } else if edge < 1e-5 && got[row] as usize != want {
            continue; // rounding may choose either neighbour of an edge
        }
        if own[0] == 0 {
            let temperature = if sampling.temperature > 0.0 { sampling.temperature } else { 1.0 };
            want_logp = twin::log_probability(&values, want, temperature);
        }
        let at = request * 2 * max_len + p + 1;
        let near = (f64::from(f32::from_bits(drawn[at + max_len])) - want_logp).abs() < 1e-4 * (1.0 + want_logp.abs());
        let right = got[row] as usize == want && after[row] as usize == p + 1 && drawn[at] as usize == want && near;
        if !right {
            (case.worst, case.detail) = (f64::INFINITY, format!("row {row}: token {} instead of {want}", got[row]));
        }
    }
    Ok(())
}

/// Rows on the device; outputs are poisoned.
fn upload(
    device: &Device,
    case: &Case,
    tokens: &[u32],
    positions: &[u32],
    requests: &[u32],
    prompt: &[u32],
    [count, max_len]: [usize; 2],
) -> SampleRows {
    let assigned: Vec<u32> = requests.iter().flat_map(|r| [*r, u32::MAX, u32::MAX]).collect();
    SampleRows {
        tokens: case.upload_u32(device, "tokens", tokens),
        positions: case.upload_u32(device, "positions", positions),
        assigned: case.upload_u32(device, "assigned", &assigned).reshape(&[requests.len(), 3]),
        prompt: case.upload_u32(device, "prompt", prompt),
        drawn: case.poisoned(device, "drawn", &[count, 2, max_len]),
    }
}

/// Rows in the middle of their requests, at their ends, and idle ones; more requests or fewer than rows that want one.
fn check_refill(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (batch, max_len) = (case.int(1, 150), case.int(2, 9));
    let begun = case.int(0, batch);
    // The buffers may hold more requests than there are.
    let count = begun + case.int(0, batch);
    let capacity = count + case.int(1, 4);
    case.shape = format!("{batch} rows of {max_len}, {begun} of {count} requests begun");
    let mut prompt = vec![u32::MAX; capacity * (PROMPT_HEAD + max_len)];
    for own in prompt.chunks_mut(PROMPT_HEAD + max_len).take(count) {
        let given = case.int(1, max_len - 1);
        let fed = case.int(0, given - 1);
        own[..PROMPT_HEAD].copy_from_slice(&[given, case.int(1, max_len), 1, 2, case.int(0, 99), fed].map(|n| n as u32));
        own[PROMPT_HEAD..][..given].iter_mut().for_each(|t| *t = case.int(0, 9) as u32);
    }
    let stops: Vec<u32> = (0..case.int(0, 3)).map(|_| case.int(0, 9) as u32).collect();
    let requests: Vec<u32> = (0..batch).map(|row| if row < begun { (begun - 1 - row) as u32 } else { IDLE }).collect();
    let tokens: Vec<u32> = (0..batch).map(|_| case.int(0, 9) as u32).collect();
    let positions: Vec<u32> = (0..batch).map(|_| case.int(0, max_len - 1) as u32).collect();
    let rows = upload(device, case, &tokens, &positions, &requests, &prompt, [capacity, max_len]);
    let before = case.int(0, 5) as u32;
    let ended = Ended {
        lengths: case.upload_u32(device, "lengths", &vec![u32::MAX; capacity]),
        progress: case.upload_u32(device, "progress", &[begun as u32, before, count as u32]),
    };
    let settings = case.upload_u32(device, "settings", &Sampling::default().pack(&stops));
    case.replay(device, |r| refill(r, &settings, &rows, &ended))?;
    let row = |i: usize| [tokens[i], positions[i], requests[i], u32::MAX, u32::MAX];
    let mut want: Vec<[u32; 5]> = (0..batch).map(row).collect();
    let mut lengths = vec![u32::MAX; capacity];
    let waiting: Vec<&[u32]> = prompt.chunks(PROMPT_HEAD + max_len).collect();
    let over = twin::refill(&mut want, &mut lengths, &waiting, begun..count, &stops, max_len);
    let [tokens, positions, assigned]: [Vec<u32>; 3] =
        [device.read(&rows.tokens)?, device.read(&rows.positions)?, device.read(&rows.assigned)?];
    let got: Vec<[u32; 5]> = assigned.chunks(3).enumerate().map(|(i, a)| [tokens[i], positions[i], a[0], a[1], a[2]]).collect();
    let taken = (begun as u32 + over).min(count as u32);
    let right = device.read::<u32>(&ended.progress)? == [taken, before + over, count as u32]
        && device.read::<u32>(&ended.lengths)? == lengths
        && got == want;
    if !right {
        let first = (0..batch).find(|&i| got[i] != want[i]);
        (case.worst, case.detail) = (f64::INFINITY, format!("row {first:?}: {:?}", first.map(|i| (got[i], want[i]))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twin_filters_as_hugging_face_does() {
        // Probabilities 0.5, 0.25, 0.15, 0.1.
        let logits: Vec<f64> = [0.25f64, 0.5, 0.1, 0.15].iter().map(|p| p.ln()).collect();
        let kept = |s: Sampling| twin::distribution(&logits, &s).iter().map(|p| *p > 0.0).collect::<Vec<_>>();
        let base = Sampling::default();
        assert_eq!(kept(Sampling { top_k: 2, ..base }), [true, true, false, false]);
        assert_eq!(kept(Sampling { top_p: 0.7, ..base }), [true, true, false, false]);
        assert_eq!(kept(Sampling { top_p: 0.8, ..base }), [true, true, false, true]);
        assert_eq!(kept(Sampling { min_p: 0.25, ..base }), [true, true, false, true]);
        assert_eq!(kept(Sampling { temperature: 0.0, ..base }), [false, true, false, false]);
    }
}

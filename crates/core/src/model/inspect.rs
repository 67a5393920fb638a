//! Inspection of a model on one text: the attention of every head, the logit lens, and the predictions for each next token.
//!
//! The attention matrix is never materialised on the device (`ops::attention` streams it), so queries and keys are read back and softmax(q
//! k^T / sqrt(D)) is computed here, for this one text. The logit lens (nostalgebraist 2020) applies the final norm and the head to the
//! residual stream after each block: the prediction if that block were the last.

use super::transformer;
use super::{Activations, Model, PassKind};
use crate::config::ModelConfig;
use crate::device::{Device, Recorder, Tensor};
use crate::ops::{logprob, rmsnorm};
use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// Maximum tokens of a text.
pub const MOST_TOKENS: usize = 512;
/// Maximum number of attention values: about 150 MB as JSON.
const MOST_ATTENTION: usize = 1 << 24;
/// Maximum number of predictions per token.
pub const MOST_GUESSES: usize = 1000;

/// The result, as `lehr inspect --json` prints it: one object. Positions count from 0 everywhere.
///
/// ```json
/// {"model": "runs/stories/checkpoints/step-00000500",
///  "tokens": [{"id": 5, "piece": "t", "logprob": null, "rank": null, "entropy": 2.1,
///              "next": [{"id": 9, "piece": "h", "probability": 0.62}]}],
///  "attention": [[[[1.0], [0.25, 0.75]]]],
///  "lens": [{"part": "embed", "positions": [{"entropy": 3.9, "actual": 0.01, "rank": 14,
///            "next": [{"id": 5, "piece": "t", "probability": 0.2}]}]},
///           {"part": "layers.0", "positions": [{"entropy": 2.1, "actual": 0.62, "rank": 1,
///            "next": [{"id": 9, "piece": "h", "probability": 0.62}]}]}]}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// The model's folder.
    pub model: String,
    /// The text, token by token.
    pub tokens: Vec<InspectedToken>,
    /// Attention probabilities `[layer][head][query][key]`, to six decimals. A query attends to itself and the tokens before it, so row q
    /// has q + 1 entries, which sum to 1.
    pub attention: Vec<Vec<Vec<Vec<f32>>>>,
    /// The logit lens: `embed` (the stream before the first block), then `layers.0`, `layers.1`, ... (after each block). The last is the
    /// model's own prediction.
    pub lens: Vec<Lens>,
}

/// A token of the text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InspectedToken {
    /// Its id.
    pub id: u32,
    /// Its text; bytes that are not a whole character as `\xNN`.
    pub piece: String,
    /// log p(this token | those before it), in nats; `None` for the first.
    pub logprob: Option<f32>,
    /// Rank of its probability among all tokens: 1 is the most probable. `None` for the first.
    pub rank: Option<u32>,
    /// Entropy of the distribution of the token *after* this one, in nats.
    pub entropy: f32,
    /// The most probable tokens after this one, most probable first.
    pub next: Vec<PredictedToken>,
}

/// A predicted next token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PredictedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub piece: String,
    /// Its probability.
    pub probability: f32,
}

/// Predictions from one part's residual stream, through the final norm and the head.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lens {
    /// `embed`, `layers.0`, `layers.1`, ...
    pub part: String,
    /// At each token of the text.
    pub positions: Vec<LensPrediction>,
}

/// The lens prediction after one position.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LensPrediction {
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
    /// Probability of the actual next token; `None` at the end of the text.
    pub actual: Option<f32>,
    /// Rank of that among all tokens: 1 is the most probable. `None` at the end of the text.
    pub rank: Option<u32>,
    /// The most probable tokens, most probable first.
    pub next: Vec<PredictedToken>,
}

/// Parameters of an inspection.
#[derive(Clone, Copy)]
pub struct InspectRequest<'a> {
    /// The text.
    pub tokens: &'a [u32],
    /// Number of predictions per next token.
    pub top: usize,
    /// The text of a token.
    pub piece: &'a dyn Fn(u32) -> String,
}

/// Maximum length of a text to inspect with this model, in tokens.
pub fn most_tokens(c: &ModelConfig) -> usize {
    let heads = c.num_hidden_layers * c.num_attention_heads;
    let fits = |t: usize| heads * t * (t + 1) / 2 <= MOST_ATTENTION;
    (1..=MOST_TOKENS.min(c.max_position_embeddings)).rev().find(|t| fits(*t)).unwrap_or(1)
}

/// Inspect one text. The model must have been opened for its length.
///
/// # Errors
/// A text that is empty or too long, a token outside the vocabulary, numbers that are not finite, or a device fault.
pub fn inspect(device: &Device, model: &Model, ask: InspectRequest<'_>) -> anyhow::Result<Inspection> {
    let (c, time) = (&model.config, ask.tokens.len());
    ensure!(time > 0, "the text holds no token; give at least one character");
    let most = most_tokens(c).min(model.max_context());
    ensure!(time <= most, "the text has {time} tokens; of this model at most {most} can be inspected at once: shorten it");
    ensure!((1..=MOST_GUESSES).contains(&ask.top), "--top {}: must lie between 1 and {MOST_GUESSES}", ask.top);
    if let Some(bad) = ask.tokens.iter().find(|t| **t as usize >= c.vocab_size) {
        anyhow::bail!("token {bad}: the model's vocabulary ends at {}", c.vocab_size - 1);
    }
    let acts = Activations::new(device, c, 1, time, PassKind::Inspection);
    let targets: Vec<u32> = ask.tokens[1..].iter().copied().chain([0]).collect();
    device.write(&acts.inputs.tokens, ask.tokens);
    device.write(&acts.inputs.targets, &targets);
    device.write(&acts.inputs.positions, &(0..time as u32).collect::<Vec<_>>());
    let mut forward = Recorder::new(device, "inspect");
    transformer::record_forward(&mut forward, model.context(device), &acts);
    device.replay(&forward.finish()?)?;
    let streams = std::iter::once(&acts.embedded).chain(acts.blocks.iter().map(|block| &block.after_mlp));
    let names = std::iter::once("embed".to_owned()).chain((0..c.num_hidden_layers).map(|i| format!("layers.{i}")));
    let (mut lens, mut logprobs) = (Vec::new(), Vec::new());
    for (part, stream) in names.zip(streams) {
        let positions = lens_rows(model.context(device), &acts, stream, ask).with_context(|| part.clone())?;
        logprobs = device.read(&acts.logp)?;
        lens.push(Lens { part, positions });
    }
    let heads = acts.blocks.iter().enumerate().map(|(layer, block)| attention(device, c, &block.qkv, layer));
    let attention = heads.collect::<anyhow::Result<_>>()?;
    // The last block's output goes through the norm and the head as in the model itself.
    let own = lens.last().map(|last| last.positions.as_slice()).unwrap_or_default();
    let tokens = ask.tokens.iter().zip(own).enumerate().map(|(i, (id, after))| {
        let before = i.checked_sub(1);
        InspectedToken {
            id: *id,
            piece: (ask.piece)(*id),
            logprob: before.map(|before| logprobs[before]),
            rank: before.and_then(|before| own[before].rank),
            entropy: after.entropy,
            next: after.next.clone(),
        }
    });
    Ok(Inspection { model: String::new(), tokens: tokens.collect(), attention, lens })
}

const OVERFLOW: &str = "its numbers are not finite: the activations of this model overflow 32-bit floats";

/// The head over a residual stream (R, C), chunk by chunk: the predictions for each next token. Writes `acts.logp`.
fn lens_rows(
    m: transformer::Context<'_>,
    acts: &Activations<Tensor>,
    stream: &Tensor,
    ask: InspectRequest<'_>,
) -> anyhow::Result<Vec<LensPrediction>> {
    let (device, c, time) = (m.device, m.config, ask.tokens.len());
    let mut found = Vec::new();
    for (chunk, logits, head_in) in transformer::chunks(m, acts) {
        let mut r = Recorder::new(device, "lens");
        if chunk.first_row == 0 {
            let (gain, out, rstd) = (&m.weights.final_norm, &acts.head_in, &acts.head_rstd);
            rmsnorm::forward(&mut r, stream, gain, out, rstd, c.rms_norm_eps);
        }
        transformer::record_logits(&mut r, m, &head_in, &logits);
        logprob::forward(&mut r, chunk, &logits, &acts.inputs.targets, &acts.row_stats());
        device.replay(&r.finish()?)?;
        let (numbers, [_, stride]): (Vec<f32>, _) = (device.read(&logits)?, logits.matrix());
        for (row, numbers) in numbers.chunks(stride).map(|row| &row[..c.vocab_size]).enumerate() {
            let next = ask.tokens.get(chunk.first_row + row + 1);
            found.push(LogitSummary { best: highest(numbers, ask.top), rank: next.map(|next| rank(numbers, *next as usize)) });
        }
    }
    let [logp, entropy, lse] = [&acts.logp, &acts.entropy, &acts.lse].map(|of| device.read::<f32>(of));
    let (logp, entropy, lse) = (logp?, entropy?, lse?);
    // An overflow of a maximum or sum shows here, even if clamps hide it elsewhere.
    ensure!(lse.iter().chain(&entropy).all(|number| number.is_finite()), OVERFLOW);
    // Some drivers clamp an infinite logit to the largest number.
    let valid = |row: &LogitSummary| row.best.iter().all(|(_, logit)| logit.abs() < 1e30);
    ensure!(found.iter().all(valid), OVERFLOW);
    let lens_row = |(i, row): (usize, LogitSummary)| {
        let guess = |(id, logit): (u32, f32)| PredictedToken {
            id,
            piece: (ask.piece)(id),
            probability: (f64::from(logit) - f64::from(lse[i])).exp().min(1.0) as f32,
        };
        let actual = (i + 1 < time).then(|| f64::from(logp[i]).exp().min(1.0) as f32);
        LensPrediction { entropy: entropy[i], actual, rank: row.rank, next: row.best.into_iter().map(guess).collect() }
    };
    Ok(found.into_iter().enumerate().map(lens_row).collect())
}

/// Host-side summary of a row of logits.
struct LogitSummary {
    /// (token, logit) of the best predictions.
    best: Vec<(u32, f32)>,
    rank: Option<u32>,
}

/// The `top` highest logits, highest first; ties in order.
fn highest(logits: &[f32], top: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(top + 1);
    for (id, logit) in logits.iter().enumerate() {
        if best.len() < top || best.last().is_some_and(|(_, lowest)| logit > lowest) {
            let at = best.partition_point(|(_, other)| other >= logit);
            best.insert(at, (id as u32, *logit));
            best.truncate(top);
        }
    }
    best
}

/// 1 for the highest logit; ties in order.
fn rank(logits: &[f32], id: usize) -> u32 {
    let own = logits[id];
    1 + logits.iter().enumerate().filter(|(other, logit)| **logit > own || (**logit == own && *other < id)).count() as u32
}

/// softmax(q k^T / sqrt(D)) of every head, from a block's rotated queries and keys (T, H D + 2 Hkv D), in f64.
fn attention(device: &Device, c: &ModelConfig, qkv: &Tensor, layer: usize) -> anyhow::Result<Vec<Vec<Vec<f32>>>> {
    let (numbers, d): (Vec<f32>, _) = (device.read(qkv)?, c.head_dim);
    let rows: Vec<&[f32]> = numbers.chunks(c.qkv_dim()).collect();
    let group = c.num_attention_heads / c.num_key_value_heads;
    let scale = 1.0 / (d as f64).sqrt();
    let mut heads = Vec::with_capacity(c.num_attention_heads);
    for head in 0..c.num_attention_heads {
        let (query, key) = (head * d, c.query_dim() + head / group * d);
        let row = |(t, row): (usize, &&[f32])| {
            let dot = |other: &[f32]| {
                row[query..query + d].iter().zip(&other[key..key + d]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
            };
            let scores: Vec<f64> = rows[..=t].iter().map(|other| scale * dot(other)).collect();
            softmax(&scores)
        };
        let matrix: Vec<Vec<f32>> = rows.iter().enumerate().map(row).collect();
        ensure!(matrix.iter().flatten().all(|p| p.is_finite()), "layers.{layer}: {OVERFLOW}");
        heads.push(matrix);
    }
    Ok(heads)
}

/// Rounded to six decimals, to keep the JSON short.
fn softmax(scores: &[f64]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| ((weight / sum * 1e6).round() / 1e6) as f32).collect()
}

//! Measurements: held-out loss of any weighted sum of checkpoints, by text window; gradients for curvature.

use super::arm::{PmaArm, TrainingText};
use super::context::PmaContext;
use super::scale::Size;
use super::trajectory::{read_arena, write_values};
use crate::data::{Batch, IGNORE};
use crate::device::{Arena, Device};
use crate::model::Model;
use crate::train::{GradientPass, Scorer};
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;

/// Text windows scored at once.
const ROWS: usize = 32;

/// Evaluation of weights on held-out text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutScores {
    /// Mean loss of each text window, in nats per token.
    pub windows: Vec<f64>,
    /// Share of target tokens predicted with the highest probability, and share of exactly matched answers (the task only).
    pub accuracy: Option<[f64; 2]>,
}

impl HeldOutScores {
    /// Mean loss.
    pub fn loss(&self) -> f64 {
        self.windows.iter().sum::<f64>() / self.windows.len().max(1) as f64
    }
}

/// A model size on the device, opened on demand.
pub struct SizedModel<'a> {
    context: &'a PmaContext<'a>,
    size: &'a Size,
    device: OnceCell<OpenDevice>,
}

struct OpenDevice {
    device: Device,
    model: Model,
    scorer: Scorer,
    slope: Slope,
}

struct Slope {
    pass: GradientPass,
    grads: Arena,
}

impl<'a> SizedModel<'a> {
    /// For models of this size.
    pub fn new(context: &'a PmaContext<'a>, size: &'a Size) -> Self {
        Self { context, size, device: OnceCell::new() }
    }

    fn device(&self) -> anyhow::Result<&OpenDevice> {
        if self.device.get().is_none() {
            let seq_len = self.context.scale.seq_len;
            let device = Device::open(&self.context.device)?;
            let model = Model::new(&device, &self.size.model().config(self.context.texts.vocab, seq_len), seq_len)?;
            let scorer = Scorer::new(&device, &model, ROWS, seq_len)?;
            let grads = model.parameters.arena(&device, "grads");
            let acts = GradientPass::activations(&device, &model, ROWS, seq_len);
            let pass = GradientPass::new(&device, &model, acts, &model.parameters.tree(&grads))?;
            let _ = self.device.set(OpenDevice { device, model, scorer, slope: Slope { pass, grads } });
        }
        self.device.get().ok_or_else(|| anyhow::anyhow!("the device was not opened"))
    }

    /// Held-out loss of a weighted sum of checkpoints, cached.
    ///
    /// # Errors
    /// Checkpoints that were not stored, or a device error.
    pub fn score(&self, arm: &PmaArm, mix: &[(u64, f64)], text: TrainingText) -> anyhow::Result<HeldOutScores> {
        let checkpoints = &self.context.checkpoints;
        let most = self.context.scale.val_tokens;
        let key = [checkpoints.key(arm), serde_json::to_string(mix)?, format!("{text:?} {most}")];
        checkpoints.cached(&["score", &key[0], &key[1], &key[2]], || {
            crate::papers::jobs::check()?;
            self.score_weights(&checkpoints.merged(arm, mix)?, text)
        })
    }

    /// Held-out loss of given weights.
    ///
    /// # Errors
    /// A device error.
    pub fn score_weights(&self, weights: &[f32], text: TrainingText) -> anyhow::Result<HeldOutScores> {
        self.score_weights_on(weights, text, self.context.scale.val_tokens)
    }

    /// The same on the first `most` tokens.
    ///
    /// # Errors
    /// A device error.
    pub fn score_weights_on(&self, weights: &[f32], text: TrainingText, most: u64) -> anyhow::Result<HeldOutScores> {
        let d = self.device()?;
        write_values(&d.device, &d.model.values, weights)?;
        let seq_len = self.context.scale.seq_len;
        let source = self.context.texts.source(text, seq_len, 0)?;
        let batches = source.val_batches(ROWS, seq_len, most);
        let mut scored = HeldOutScores { windows: Vec::new(), accuracy: None };
        let mut counts = [0u64; 4];
        for batch in batches.into_iter().flatten() {
            let (logp, _) = d.scorer.score(&d.device, &batch)?;
            scored.windows.extend(window_losses(&batch, &logp));
            if text == TrainingText::Task {
                let logits: Vec<f32> = d.device.read(&d.scorer.acts.logits)?;
                let stride = d.scorer.acts.logits.matrix()[1];
                self.count(&batch, &logits, stride, &mut counts);
            }
        }
        if text == TrainingText::Task {
            let share = |right: u64, all: u64| right as f64 / all.max(1) as f64;
            scored.accuracy = Some([share(counts[0], counts[1]), share(counts[2], counts[3])]);
        }
        Ok(scored)
    }

    /// Count correct tokens, tokens, correct answers, answers. An answer is correct if greedy decoding would produce it: every token of it
    /// has the highest probability after the correct ones before it.
    fn count(&self, batch: &Batch, logits: &[f32], stride: usize, counts: &mut [u64; 4]) {
        let task = self.context.texts.task(batch.seq_len, 0);
        let right = |row: usize| {
            let logits = &logits[row * stride..row * stride + self.context.texts.vocab];
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
            best == Some(batch.targets[row] as usize)
        };
        for window in 0..batch.batch_size {
            for (first, len) in task.answers() {
                let rows = window * batch.seq_len + first..window * batch.seq_len + first + len;
                if batch.targets[rows.start] == IGNORE {
                    continue;
                }
                let hits = rows.filter(|row| right(*row)).count();
                counts[0] += hits as u64;
                counts[1] += len as u64;
                counts[2] += u64::from(hits == len);
                counts[3] += 1;
            }
        }
    }

    /// Gradient of the mean training loss over the first `tokens` tokens of the held-out text.
    ///
    /// # Errors
    /// A device error.
    pub fn gradient(&self, weights: &[f32], tokens: u64) -> anyhow::Result<Vec<f64>> {
        let d = self.device()?;
        write_values(&d.device, &d.model.values, weights)?;
        let seq_len = self.context.scale.seq_len;
        let source = self.context.texts.source(TrainingText::Base, seq_len, 0)?;
        let batches: Vec<Batch> = source.val_batches(ROWS, seq_len, tokens).into_iter().flatten().collect();
        let targets: usize = batches.iter().map(Batch::target_count).sum();
        for (segment, _) in d.slope.grads.segments() {
            d.device.write(segment, &vec![0f32; segment.len()]);
        }
        for batch in &batches {
            d.slope.pass.run(&d.device, batch, 1.0 / targets.max(1) as f32)?;
        }
        Ok(read_arena(&d.device, &d.slope.grads)?.into_iter().map(f64::from).collect())
    }
}

/// Mean loss of each text window that has targets.
fn window_losses(batch: &Batch, logp: &[f32]) -> Vec<f64> {
    let rows = logp.chunks(batch.seq_len).zip(batch.targets.chunks(batch.seq_len));
    rows.filter_map(|(logp, targets)| {
        let scored: Vec<f64> = logp.iter().zip(targets).filter(|(_, t)| **t != IGNORE).map(|(l, _)| -f64::from(*l)).collect();
        (!scored.is_empty()).then(|| scored.iter().sum::<f64>() / scored.len() as f64)
    })
    .collect()
}

/// H d at `at` by central differences of the gradient: (g(at + e d) - g(at - e d)) / 2 e.
///
/// # Errors
/// Errors of `gradient`.
pub fn hessian_times(
    gradient: &mut dyn FnMut(&[f32]) -> anyhow::Result<Vec<f64>>,
    at: &[f32],
    direction: &[f64],
    e: f64,
) -> anyhow::Result<Vec<f64>> {
    let mut moved = |sign: f64| {
        let point: Vec<f32> = at.iter().zip(direction).map(|(a, d)| (f64::from(*a) + sign * e * d) as f32).collect();
        gradient(&point)
    };
    let (up, down) = (moved(1.0)?, moved(-1.0)?);
    Ok(up.iter().zip(&down).map(|(u, d)| (u - d) / (2.0 * e)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// On 1/2 x^T A x with a random symmetric A the product is A d for any step.
    #[test]
    fn curvature_of_a_quadratic() {
        let n = 7;
        let rng = Rng::new(5, "hessian");
        let raw = |i: usize, j: usize| rng.normal_pair(i.min(j) as u64, i.max(j) as u64)[0];
        let times = |x: &[f64]| -> Vec<f64> { (0..n).map(|i| (0..n).map(|j| raw(i, j) * x[j]).sum()).collect() };
        let at: Vec<f32> = (0..n).map(|i| rng.normal_pair(99, i as u64)[0] as f32).collect();
        let d: Vec<f64> = (0..n).map(|i| rng.normal_pair(98, i as u64)[0]).collect();
        let mut gradient = |x: &[f32]| Ok(times(&x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()));
        let found = hessian_times(&mut gradient, &at, &d, 0.1).unwrap();
        for (f, want) in found.iter().zip(times(&d)) {
            assert!((f - want).abs() < 1e-5 * (1.0 + want.abs()), "{f} {want}");
        }
    }
}

//! Held-out loss: log-probabilities of a stream of batches, no gradient.

use super::predictions::PredictionStats;
use crate::data::{Batch, IGNORE};
use crate::device::Tensor;
use crate::device::{Device, Recorder, Recording};
use crate::model::{Activations, Model, PassKind, Weights, transformer};
use crate::progress::{Progress, report, silent};

/// Mean loss over some tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Share of targets that were the most probable token.
    pub mean_token_accuracy: f64,
    /// Tokens scored.
    pub tokens: u64,
}

/// Runs a model forward over (batch, time) tokens.
pub struct Scorer {
    /// Inputs and results.
    pub acts: Activations<Tensor>,
    recording: Recording,
}

impl Scorer {
    /// Allocate and record.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn new(device: &Device, model: &Model, batch: usize, time: usize) -> anyhow::Result<Self> {
        let acts = Activations::new(device, &model.config, batch, time, PassKind::Forward);
        Self::over(device, model, acts)
    }

    /// Record over existing activations, such as those of a training pass.
    ///
    /// # Errors
    /// As [`Scorer::new`].
    pub fn over(device: &Device, model: &Model, acts: Activations<Tensor>) -> anyhow::Result<Self> {
        Self::of_weights(device, model, &model.weights, acts)
    }

    /// Record over weights other than the model's own, such as a merge.
    ///
    /// # Errors
    /// As [`Scorer::new`].
    pub fn of_weights(
        device: &Device,
        model: &Model,
        weights: &Weights<Tensor>,
        acts: Activations<Tensor>,
    ) -> anyhow::Result<Self> {
        Self::record(transformer::Context { weights, ..model.context(device) }, acts, None)
    }

    /// Record over existing activations, at the temperature 1 / `inv_temperature` (1).
    ///
    /// # Errors
    /// As [`Scorer::new`].
    pub fn at(device: &Device, model: &Model, acts: Activations<Tensor>, inv_temperature: &Tensor) -> anyhow::Result<Self> {
        Self::record(model.context(device), acts, Some(inv_temperature))
    }

    /// As [`Scorer::at`], without the model's adapters.
    ///
    /// # Errors
    /// As [`Scorer::new`].
    pub fn without_adapters(
        device: &Device,
        model: &Model,
        acts: Activations<Tensor>,
        inv_temperature: &Tensor,
    ) -> anyhow::Result<Self> {
        Self::record(transformer::Context { adapters: None, ..model.context(device) }, acts, Some(inv_temperature))
    }

    fn record(m: transformer::Context<'_>, acts: Activations<Tensor>, inv_temperature: Option<&Tensor>) -> anyhow::Result<Self> {
        let mut r = Recorder::new(m.device, "score");
        transformer::record_forward(&mut r, m, &acts);
        transformer::record_head_at(&mut r, m, &acts, inv_temperature);
        Ok(Self { recording: r.finish()?, acts })
    }

    /// (log pi(target), entropy) of every position of a batch; meaningless where the target is [`IGNORE`].
    ///
    /// # Errors
    /// A device fault.
    pub fn score(&self, device: &Device, batch: &Batch) -> anyhow::Result<(Vec<f32>, Vec<f32>)> {
        upload_tokens(device, &self.acts, batch);
        device.replay(&self.recording)?;
        Ok((device.read(&self.acts.logp)?, device.read(&self.acts.entropy)?))
    }

    /// Mean loss over batches of this scorer's shape.
    ///
    /// # Errors
    /// A device fault.
    pub fn evaluate(&self, device: &Device, batches: impl ExactSizeIterator<Item = Batch>) -> anyhow::Result<Evaluation> {
        self.evaluate_with_predictions(device, batches, None, &mut silent)
    }

    /// As [`Scorer::evaluate`], bit-identical; `seen` collects the predictions for the first tokens, `progress` gets the number of finished
    /// batches.
    ///
    /// # Errors
    /// As [`Scorer::evaluate`], or the error of `progress`; [`Interrupted`](crate::progress::Interrupted) when it stops the evaluation.
    pub fn evaluate_with_predictions(
        &self,
        device: &Device,
        batches: impl ExactSizeIterator<Item = Batch>,
        mut seen: Option<&mut PredictionStats>,
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<Evaluation> {
        let (mut sum, mut hits, mut tokens, all) = (0.0, 0.0, 0, batches.len() as u64);
        for (done, batch) in batches.enumerate() {
            upload_tokens(device, &self.acts, &batch);
            device.replay(&self.recording)?;
            let logp: Vec<f32> = device.read(&self.acts.logp)?;
            let hit: Vec<f32> = device.read(&self.acts.hit)?;
            for ((l, h), _) in logp.iter().zip(&hit).zip(&batch.targets).filter(|(_, t)| **t != IGNORE) {
                sum -= f64::from(*l);
                hits += f64::from(*h);
                tokens += 1;
            }
            if let Some(seen) = seen.as_mut().filter(|seen| seen.needs_more()) {
                let sum_p2: Vec<f32> = device.read(&self.acts.sum_p2)?;
                let scored = logp.iter().zip(&sum_p2).zip(&batch.targets).filter(|(_, t)| **t != IGNORE);
                seen.add(scored.map(|((l, s), _)| (*l, *s)));
            }
            report(progress, "evaluating", done as u64 + 1, all)?;
        }
        let mean = |of: f64| if tokens == 0 { f64::NAN } else { of / tokens as f64 };
        Ok(Evaluation { loss: mean(sum), mean_token_accuracy: mean(hits), tokens })
    }
}

/// Upload tokens, targets and positions of a batch.
pub(super) fn upload_tokens(device: &Device, acts: &Activations<Tensor>, batch: &Batch) {
    assert_eq!((batch.batch_size, batch.seq_len), (acts.batch, acts.time), "the batch has another shape than the pass");
    device.write(&acts.inputs.tokens, &batch.tokens);
    device.write(&acts.inputs.targets, &batch.targets);
    device.write(&acts.inputs.positions, &positions(batch));
}

/// Index of each token within its document; rotary positions and attention use it.
pub(super) fn positions(batch: &Batch) -> Vec<u32> {
    batch.doc_start.iter().enumerate().map(|(i, start)| (i % batch.seq_len) as u32 - start).collect()
}

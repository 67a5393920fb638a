//! The supervised stages, pre-training and fine-tuning: batches from a source, a gradient pass, held-out loss. They differ in the source.

use super::predictions::PredictionStats;
use super::stage::{Parts, TrainingStage};
use super::{Evaluation, GradientPass, Optimizer, Scorer, StepResult, micro_batch, rows_at_once};
use crate::config::Settings;
use crate::data::{Batch, IGNORE, Source};
use crate::device::{Device, ReadRing, Recording, Tensor};
use crate::event::{Event, Step};
use crate::model::{Activations, Model, Pass, Trained};
use crate::ops::adamw::UpdateParams;
use crate::ops::objective::stats;
use crate::progress::Progress;
use std::collections::VecDeque;

/// State of a supervised stage beside model and optimizer.
pub(super) struct Supervised {
    pass: GradientPass,
    scorer: Scorer,
    source: Box<dyn Source>,
    ring: ReadRing,
    /// Updates whose results have not arrived yet.
    late: VecDeque<Late>,
    batch_size: usize,
}

/// Host-side numbers of an update when it is submitted.
#[derive(Clone, Copy, Debug, Default)]
struct Late {
    step: u64,
    learning_rate: f64,
    num_tokens: u64,
    epoch: f64,
}

impl Supervised {
    /// Activations of the training pass, which all recordings share.
    pub fn activations(device: &Device, settings: &Settings, model: &Model) -> anyhow::Result<Activations<Tensor>> {
        let t = &settings.train;
        let micro = rows_at_once(t.seq_len, || micro_batch(&model.config, t, device.sizes()))?;
        Ok(Activations::new(device, &model.config, micro, t.seq_len, Pass::training(t.checkpoints_activations())))
    }

    pub fn new(
        device: &Device,
        settings: &Settings,
        model: &Model,
        acts: Activations<Tensor>,
        grads: &Trained<Tensor>,
        source: Box<dyn Source>,
    ) -> anyhow::Result<Self> {
        let scorer = Scorer::over(device, model, acts.clone())?;
        let pass = GradientPass::new(device, model, acts, grads)?;
        let (ring, late) = (ReadRing::new(device, stats::LEN, 3), VecDeque::new());
        Ok(Self { pass, scorer, source, ring, late, batch_size: settings.train.batch_size })
    }

    /// Add the gradient of the mean loss over a batch's targets.
    fn gradient(&self, device: &Device, batch: &Batch) -> anyhow::Result<()> {
        let targets = batch.targets.iter().filter(|t| **t != IGNORE).count();
        let weight = 1.0 / targets.max(1) as f32;
        for micro in micro_batches(batch, self.pass.acts.batch) {
            self.pass.run(device, &micro, weight)?;
        }
        Ok(())
    }
}

impl TrainingStage for Supervised {
    fn step(&mut self, parts: Parts<'_>, hyper: UpdateParams, _: &mut Progress<'_>) -> anyhow::Result<Option<StepResult>> {
        let Parts { device, model, optimizer, live_merge, state } = parts;
        let n = state.step + state.skipped_batches;
        let batch = self.source.batch(n, self.batch_size);
        optimizer.clear(device)?;
        self.gradient(device, &batch)?;
        let norms = optimizer.norms_of(state.step + 1);
        norms.map_or(Ok(()), |norms| norms.before(device))?;
        optimizer.update(device, &hyper)?;
        norms.map_or(Ok(()), |norms| norms.after(device))?;
        state.step += 1;
        state.optimizer_steps += 1;
        state.num_tokens += batch.num_tokens as u64;
        self.ring.ask(device, &self.pass.acts.stats);
        self.late.push_back(Late {
            step: state.step,
            learning_rate: hyper.learning_rate,
            num_tokens: state.num_tokens,
            epoch: self.source.epochs(n + 1, self.batch_size),
        });
        if let Some(norms) = optimizer.norms.as_mut().filter(|norms| norms.is_due(state.step)) {
            norms.ask(device, state.step);
        }
        if let Some(live) = live_merge {
            live.after_update(device, model, state.step)?;
        }
        if self.late.len() > 1 { self.take(device, optimizer) } else { Ok(None) }
    }

    fn take(&mut self, device: &Device, optimizer: &mut Optimizer) -> anyhow::Result<Option<StepResult>> {
        let Some(late) = self.late.pop_front() else { return Ok(None) };
        let numbers: Vec<f32> = self.ring.take(device)?;
        let norms = optimizer.norms.as_mut().map_or(Ok(None), |norms| norms.take(device, late.step))?;
        let (loss, grad_norm) = (f64::from(numbers[stats::LOSS]), f64::from(numbers[stats::GRAD_NORM]));
        // As the gate in adamw.wgsl: when logits overflow, the loss is infinite while clamps may leave a finite, wrong gradient.
        let finite = numbers[stats::NOT_FINITE] == 0.0 && grad_norm.is_finite() && loss.is_finite();
        let numbers = Step {
            step: late.step,
            num_tokens: late.num_tokens,
            epoch: late.epoch,
            loss,
            entropy: f64::from(numbers[stats::ENTROPY]),
            mean_token_accuracy: f64::from(numbers[stats::ACCURACY]),
            // The sum of squares of a gradient with a NaN is undefined.
            grad_norm: if finite { grad_norm } else { f64::NAN },
            learning_rate: late.learning_rate,
            skipped: !finite,
            ..Step::default()
        };
        Ok(Some(StepResult { numbers, events: norms.map(Event::Norms).into_iter().collect(), samples: Vec::new() }))
    }

    fn tokens_per_step(&self) -> u64 {
        (self.batch_size * self.pass.acts.time) as u64
    }

    fn recording(&self) -> Option<(&Recording, usize)> {
        Some((&self.pass.recording, self.batch_size / self.pass.acts.batch))
    }

    fn evaluate(
        &self,
        device: &Device,
        by: Option<&Scorer>,
        tokens: u64,
        seen: Option<&mut PredictionStats>,
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<Option<Evaluation>> {
        let most = if tokens == 0 { u64::MAX } else { tokens };
        let acts = &self.pass.acts;
        let Some(batches) = self.source.val_batches(acts.batch, acts.time, most) else { return Ok(None) };
        by.unwrap_or(&self.scorer).evaluate_seeing(device, batches, seen, progress).map(Some)
    }
}

/// The batch in slices of `rows` rows.
fn micro_batches(batch: &Batch, rows: usize) -> impl Iterator<Item = Batch> + '_ {
    (0..batch.batch_size / rows).map(move |i| {
        let part = i * rows * batch.seq_len..(i + 1) * rows * batch.seq_len;
        Batch {
            batch_size: rows,
            seq_len: batch.seq_len,
            tokens: batch.tokens[part.clone()].to_vec(),
            targets: batch.targets[part.clone()].to_vec(),
            doc_start: batch.doc_start[part].to_vec(),
            num_tokens: 0,
        }
    })
}

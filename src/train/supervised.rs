//! The supervised stages, pre-training and fine-tuning: batches from a source, a gradient pass, held-out loss. A stage is its source.

use super::predictions::Seen;
use super::{Evaluation, GradientPass, Scorer, micro_batch, rows_at_once};
use crate::config::Settings;
use crate::data::{Batch, IGNORE, Source};
use crate::device::{Device, ReadRing, Tensor};
use crate::model::{Activations, Model, Pass, Trained};
use crate::ops::objective::stats;
use std::collections::VecDeque;

/// What a supervised stage needs beside model and optimizer.
pub(super) struct Supervised {
    pub pass: GradientPass,
    scorer: Scorer,
    source: Box<dyn Source>,
    ring: ReadRing,
    /// Updates whose numbers are still on their way.
    late: VecDeque<Late>,
}

/// What the host knows of an update when it is submitted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Late {
    pub step: u64,
    pub learning_rate: f64,
    pub num_tokens: u64,
    pub epoch: f64,
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
        model: &Model,
        acts: Activations<Tensor>,
        grads: &Trained<Tensor>,
        source: Box<dyn Source>,
    ) -> anyhow::Result<Self> {
        let scorer = Scorer::over(device, model, acts.clone())?;
        let pass = GradientPass::new(device, model, acts, grads)?;
        Ok(Self { pass, scorer, source, ring: ReadRing::new(device, stats::LEN, 3), late: VecDeque::new() })
    }

    /// Batch `n` of the source.
    pub fn batch(&self, n: u64, batch_size: usize) -> Batch {
        self.source.batch(n, batch_size)
    }

    /// Passes over the data behind the first `n` batches.
    pub fn epochs(&self, n: u64, batch_size: usize) -> f64 {
        self.source.epochs(n, batch_size)
    }

    /// Add the gradient of the mean loss over a batch's targets.
    pub fn gradient(&self, device: &Device, batch: &Batch) -> anyhow::Result<()> {
        let targets = batch.targets.iter().filter(|t| **t != IGNORE).count();
        let weight = 1.0 / targets.max(1) as f32;
        for micro in micro_batches(batch, self.pass.acts.batch) {
            self.pass.run(device, &micro, weight)?;
        }
        Ok(())
    }

    /// An update was submitted: its numbers come one update later.
    pub fn submitted(&mut self, device: &Device, late: Late) {
        self.ring.ask(device, &self.pass.acts.stats);
        self.late.push_back(late);
    }

    /// Updates whose numbers were not taken yet.
    pub fn pending(&self) -> usize {
        self.ring.pending()
    }

    /// The numbers of the oldest of those, as `ops::objective::stats` lays them out.
    pub fn take(&mut self, device: &Device) -> anyhow::Result<(Late, Vec<f32>)> {
        let numbers = self.ring.take(device)?;
        Ok((self.late.pop_front().unwrap_or_default(), numbers))
    }

    /// Held-out loss by the model's own weights, or by another scorer of the same shape; `seen` takes what was said of the first tokens.
    pub fn evaluate(
        &self,
        device: &Device,
        scorer: Option<&Scorer>,
        tokens: u64,
        seen: Option<&mut Seen>,
        mut progress: impl FnMut(usize, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Evaluation>> {
        let most = if tokens == 0 { u64::MAX } else { tokens };
        let acts = &self.pass.acts;
        let Some(batches) = self.source.val_batches(acts.batch, acts.time, most) else { return Ok(None) };
        let all = batches.len();
        scorer.unwrap_or(&self.scorer).evaluate_seeing(device, batches, seen, |done| progress(done, all)).map(Some)
    }
}

/// Rows of a batch, `rows` at a time.
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

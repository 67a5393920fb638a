//! The supervised stages, pre-training and fine-tuning: batches from a source, a gradient pass, held-out loss. A stage is its source.

use super::predictions::Seen;
use super::{Evaluation, GradientPass, Optimizer, Scorer, micro_batch, rows_at_once};
use crate::config::{Settings, TrainSettings};
use crate::data::{Batch, IGNORE, Source};
use crate::device::{Device, ReadRing, Tensor};
use crate::model::{Activations, Model, Weights};
use crate::ops::adamw::UpdateParams;
use crate::ops::objective::stats;
use crate::world::{Announced, World};
use anyhow::bail;
use std::collections::VecDeque;
use std::ops::Range;

/// What a supervised stage needs beside model and optimizer.
pub(super) struct Supervised {
    pub pass: GradientPass,
    scorer: Scorer,
    source: Box<dyn Source>,
    ring: ReadRing,
    /// Updates whose numbers are still on their way.
    late: VecDeque<Late>,
    /// The ranks, each of which computes a share of the rows.
    world: World,
}

/// What rank 0 announces: update n with its settings, and held-out loss over so many tokens.
const UPDATE: &str = "update";
const EVALUATION: &str = "evaluation";

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
    pub fn activations(
        device: &Device,
        settings: &Settings,
        model: &Model,
        world: &World,
    ) -> anyhow::Result<Activations<Tensor>> {
        let t = &settings.train;
        anyhow::ensure!(
            t.batch_size >= world.size(),
            "--batch-size {}: {} ranks have no sequence each; start fewer, or use a larger batch",
            t.batch_size,
            world.size()
        );
        // The largest share: ranks with a row less fill it up with an empty one.
        let rows = t.batch_size.div_ceil(world.size());
        let share =
            TrainSettings { batch_size: rows, micro_batch_size: t.micro_batch_size.map(|set| set.min(rows)), ..t.clone() };
        let micro = rows_at_once(t.seq_len, || micro_batch(&model.config, &share, device.sizes()))?;
        Ok(GradientPass::activations(device, model, micro, t.seq_len))
    }

    pub fn new(
        device: &Device,
        model: &Model,
        acts: Activations<Tensor>,
        grads: &Weights<Tensor>,
        source: Box<dyn Source>,
        world: World,
    ) -> anyhow::Result<Self> {
        let scorer = Scorer::over(device, model, acts.clone())?;
        let pass = GradientPass::new(device, model, acts, grads)?;
        Ok(Self { pass, scorer, source, ring: ReadRing::new(device, stats::LEN, 3), late: VecDeque::new(), world })
    }

    /// Batch `n` of the source.
    pub fn batch(&self, n: u64, batch_size: usize) -> Batch {
        self.source.batch(n, batch_size)
    }

    /// Passes over the data behind the first `n` batches.
    pub fn epochs(&self, n: u64, batch_size: usize) -> f64 {
        self.source.epochs(n, batch_size)
    }

    /// Make the gradient of the mean loss over the targets of batch n, by all ranks; the others make update `hyper` with it.
    pub fn gradient(
        &self,
        device: &Device,
        optimizer: &Optimizer,
        (n, batch): (u64, &Batch),
        hyper: UpdateParams,
    ) -> anyhow::Result<()> {
        let task = self.world.announce(UPDATE, &(n, hyper))?;
        self.add_gradient(device, optimizer, batch)?;
        task.done();
        Ok(())
    }

    /// On the other ranks: what rank 0 announces.
    pub fn follow(&self, device: &Device, optimizer: &Optimizer, batch_size: usize, announced: &Announced) -> anyhow::Result<()> {
        match announced.kind.as_str() {
            UPDATE => {
                let (n, hyper): (u64, UpdateParams) = announced.read()?;
                self.add_gradient(device, optimizer, &self.batch(n, batch_size))?;
                optimizer.update(device, &hyper)
            }
            EVALUATION => {
                let (tokens, seen): (u64, bool) = announced.read()?;
                let mut own = Seen::default();
                self.evaluate_share(device, tokens, seen.then_some(&mut own), |_, _| Ok(())).map(|_| ())
            }
            kind => bail!("{kind}: nothing that a rank of this stage does (a defect of lehr)"),
        }
    }

    fn add_gradient(&self, device: &Device, optimizer: &Optimizer, batch: &Batch) -> anyhow::Result<()> {
        optimizer.clear(device)?;
        let targets = batch.targets.iter().filter(|t| **t != IGNORE).count();
        let weight = 1.0 / targets.max(1) as f32;
        for micro in micro_batches(batch, self.world.share(batch.batch_size), self.pass.acts.batch) {
            self.pass.run(device, &micro, weight)?;
        }
        optimizer.sum_over_ranks(device)
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
        let Some(scorer) = scorer else {
            let task = self.world.announce(EVALUATION, &(tokens, seen.is_some()))?;
            let found = self.evaluate_share(device, tokens, seen, progress)?;
            task.done();
            return Ok(found);
        };
        let Some(batches) = self.val_batches(tokens) else { return Ok(None) };
        let all = batches.len();
        scorer.evaluate_seeing(device, batches, seen, |done| progress(done, all)).map(Some)
    }

    fn val_batches(&self, tokens: u64) -> Option<Box<dyn ExactSizeIterator<Item = Batch> + '_>> {
        let (most, acts) = (if tokens == 0 { u64::MAX } else { tokens }, &self.pass.acts);
        self.source.val_batches(acts.batch, acts.time, most)
    }

    /// Held-out loss by the model's own weights, each rank over neighbouring batches, put together on all.
    fn evaluate_share(
        &self,
        device: &Device,
        tokens: u64,
        mut seen: Option<&mut Seen>,
        mut progress: impl FnMut(usize, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Evaluation>> {
        let Some(batches) = self.val_batches(tokens) else { return Ok(None) };
        let own = self.world.share(batches.len());
        let (all, batches) = (own.len(), batches.skip(own.start).take(own.len()));
        let found = self.scorer.evaluate_seeing(device, batches, seen.as_deref_mut(), |done| progress(done, all))?;
        if self.world.is_solo() {
            return Ok(Some(found));
        }
        let n = found.tokens as f64;
        let sum = |mean: f64| if n == 0.0 { 0.0 } else { mean * n };
        let mut sums = [sum(found.loss), sum(found.mean_token_accuracy), n];
        self.world.sum_f64(&mut sums)?;
        if let Some(seen) = seen {
            let all = self.world.gather_values(&std::mem::take(&mut seen.tokens))?;
            seen.add(all.into_iter().flatten());
        }
        let [loss, hits, n] = sums;
        Ok(Some(Evaluation { loss: loss / n, mean_token_accuracy: hits / n, tokens: n as u64 }))
    }
}

/// Rows `share` of a batch, `rows` at a time; what is missing at the end is filled up with rows that count nothing.
fn micro_batches(batch: &Batch, share: Range<usize>, rows: usize) -> impl Iterator<Item = Batch> + '_ {
    let time = batch.seq_len;
    share.clone().step_by(rows).map(move |first| {
        let part = first * time..(first + rows).min(share.end) * time;
        let empty = rows * time - part.len();
        let cut = |of: &[u32], fill: &dyn Fn(usize) -> u32| -> Vec<u32> {
            of[part.clone()].iter().copied().chain((0..empty).map(fill)).collect()
        };
        Batch {
            batch_size: rows,
            seq_len: time,
            tokens: cut(&batch.tokens, &|_| 0),
            targets: cut(&batch.targets, &|_| IGNORE),
            // Every position a document of its own: attention has next to nothing to do.
            doc_start: cut(&batch.doc_start, &|i| (i % time) as u32),
            num_tokens: 0,
        }
    })
}

//! The trainer of every supervised stage: batches from a source, a gradient pass, the update, held-out loss. A stage is its source.

use super::merge::{LiveMerge, MergedWindow};
use super::{Evaluation, GradientPass, Optimizer, Scorer, learning_rate, micro_batch};
use crate::config::{ModelConfig, Settings};
use crate::data::{Batch, IGNORE, Source};
use crate::event::Hyper as LiveHyper;
use crate::gpu::{Gpu, ReadRing, Recording};
use crate::model::Model;
use crate::ops::adamw::Hyper;
use crate::ops::objective::stats;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Tokens in a micro-batch, at most: a token may occur that often, and one invocation sums its rows (lavapipe ends loops at 65,535).
const MAX_ROWS: usize = 32_768;

/// Everything that training needs beside files, events and commands.
pub struct Trainer {
    /// The device.
    pub gpu: Gpu,
    /// The model.
    pub model: Model,
    /// Gradients and moments.
    pub optimizer: Optimizer,
    settings: Settings,
    pass: GradientPass,
    scorer: Scorer,
    /// Snapshots and their merge, if the settings ask for them.
    pub live_merge: Option<LiveMerge>,
    source: Box<dyn Source>,
    ring: ReadRing,
    /// Updates whose numbers are still on their way.
    late: VecDeque<Late>,
    /// What a checkpoint must hold beside tensors.
    pub state: TrainerState,
}

/// What the host knows of an update when it is submitted.
#[derive(Clone, Copy, Debug, Default)]
struct Late {
    step: u64,
    learning_rate: f64,
    num_tokens: u64,
    epoch: f64,
}

/// What a checkpoint must hold beside tensors; the rest follows from the settings and these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Updates made.
    pub step: u64,
    /// Tokens seen, padding left out.
    pub num_tokens: u64,
    /// Updates since Adam's moments were zero: what the bias correction goes by.
    pub optimizer_steps: u64,
    /// Settings that were changed while the run went on.
    pub hyper: LiveHyper,
    /// Updates' worth of training data passed over so far (a rescue may skip the data that led to a spike): update n is made from the
    /// source's batch n + this.
    #[serde(default)]
    pub skipped_batches: u64,
    /// Factor on the learning rate that rescues have left, beside the live one.
    #[serde(default)]
    pub rescue_scale: Option<f64>,
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Number of the update.
    pub step: u64,
    /// Mean cross-entropy, before the update.
    pub loss: f64,
    /// Mean entropy of the predictions.
    pub entropy: f64,
    /// Share of the targets that were the most probable token.
    pub mean_token_accuracy: f64,
    /// Tokens seen so far, this update's included, padding left out.
    pub num_tokens: u64,
    /// Passes over the training data so far.
    pub epoch: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// The gradient was not finite; nothing was changed.
    pub skipped: bool,
}

impl Trainer {
    /// Allocate everything and record the passes; parameters are random (from the seed) until a checkpoint is loaded over them.
    ///
    /// # Errors
    /// A shape or a batch that cannot work, or a kernel that does not compile.
    pub fn new(gpu: Gpu, settings: &Settings, config: &ModelConfig, source: Box<dyn Source>) -> anyhow::Result<Self> {
        let t = &settings.train;
        let model = Model::new(&gpu, config, t.seq_len)?;
        let micro = micro_batch(config, t, gpu.class(), gpu.max_binding_bytes());
        anyhow::ensure!(t.seq_len <= MAX_ROWS, "--seq-len {}: at most {MAX_ROWS} tokens are computed at once", t.seq_len);
        anyhow::ensure!(
            micro * t.seq_len <= MAX_ROWS,
            "--micro-batch-size {micro}: {} tokens at once; at most {MAX_ROWS} are computed at once, so use at most {}",
            micro * t.seq_len,
            MAX_ROWS / t.seq_len
        );
        let acts = GradientPass::activations(&gpu, &model, micro, t.seq_len);
        let optimizer = Optimizer::new(&gpu, &model.parameters, &model.values, &acts.stats)?;
        let scorer = Scorer::over(&gpu, &model, acts.clone())?;
        let scratch = (&optimizer.grads, &optimizer.grad_weights);
        let live_merge = LiveMerge::new(&gpu, &model, acts.clone(), scratch, &settings.merge)?;
        let pass = GradientPass::new(&gpu, &model, acts, &optimizer.grad_weights)?;
        model.initialise(&gpu, t.seed);
        Ok(Self {
            source,
            ring: ReadRing::new(&gpu, stats::LEN, 3),
            late: VecDeque::new(),
            state: TrainerState::default(),
            settings: settings.clone(),
            gpu,
            model,
            optimizer,
            pass,
            scorer,
            live_merge,
        })
    }

    /// Make the next update: submits it and returns the numbers of the update before, which have arrived meanwhile.
    ///
    /// # Errors
    /// A device fault.
    pub fn step(&mut self) -> anyhow::Result<Option<StepResult>> {
        let batch = self.source.batch(self.state.step + self.state.skipped_batches, self.settings.train.batch_size);
        self.update(&batch)?;
        if self.ring.pending() > 1 { self.take().map(Some) } else { Ok(None) }
    }

    /// The numbers of updates that were submitted and not yet returned, oldest first.
    ///
    /// # Errors
    /// A device fault.
    pub fn flush(&mut self) -> anyhow::Result<Vec<StepResult>> {
        (0..self.ring.pending()).map(|_| self.take()).collect()
    }

    /// One update on a given batch.
    fn update(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let targets = batch.targets.iter().filter(|t| **t != IGNORE).count();
        let weight = 1.0 / targets.max(1) as f32;
        self.optimizer.clear(&self.gpu)?;
        for micro in micro_batches(batch, self.pass.acts.batch) {
            self.pass.run(&self.gpu, &micro, weight)?;
        }
        let hyper = self.hyper();
        self.optimizer.update(&self.gpu, &hyper)?;
        self.ring.ask(&self.gpu, &self.pass.acts.stats);
        self.state.step += 1;
        self.state.optimizer_steps += 1;
        self.state.num_tokens += batch.num_tokens as u64;
        self.late.push_back(Late {
            step: self.state.step,
            learning_rate: hyper.learning_rate,
            num_tokens: self.state.num_tokens,
            epoch: self.source.epochs(self.state.step + self.state.skipped_batches, self.settings.train.batch_size),
        });
        match &mut self.live_merge {
            Some(live) => live.after_update(&self.gpu, &self.model, self.state.step),
            None => Ok(()),
        }
    }

    fn take(&mut self) -> anyhow::Result<StepResult> {
        let numbers: Vec<f32> = self.ring.take(&self.gpu)?;
        let late = self.late.pop_front().unwrap_or_default();
        let (loss, grad_norm) = (f64::from(numbers[stats::LOSS]), f64::from(numbers[stats::GRAD_NORM]));
        // As the gate in adamw.wgsl: where logits overflow, the loss is infinite while clamps may leave a finite, wrong gradient.
        let finite = numbers[stats::NOT_FINITE] == 0.0 && grad_norm.is_finite() && loss.is_finite();
        Ok(StepResult {
            step: late.step,
            num_tokens: late.num_tokens,
            epoch: late.epoch,
            loss,
            entropy: f64::from(numbers[stats::ENTROPY]),
            mean_token_accuracy: f64::from(numbers[stats::ACCURACY]),
            // The sum of squares of a gradient with a NaN may be anything.
            grad_norm: if finite { grad_norm } else { f64::NAN },
            learning_rate: late.learning_rate,
            skipped: !finite,
        })
    }

    /// What the next update is made with.
    fn hyper(&self) -> Hyper {
        let t = &self.settings.train;
        let live = &self.state.hyper;
        Hyper {
            learning_rate: learning_rate(t, self.state.step + 1)
                * live.learning_rate_scale.unwrap_or(1.0)
                * self.state.rescue_scale.unwrap_or(1.0),
            beta1: t.adam_beta1,
            beta2: t.adam_beta2,
            epsilon: t.adam_epsilon,
            weight_decay: t.weight_decay,
            max_grad_norm: live.max_grad_norm.unwrap_or(t.max_grad_norm),
            step: self.state.optimizer_steps + 1,
        }
    }

    /// Mean loss on the validation split (`None` when nothing is held out), on its first `tokens` tokens (0: on all of it).
    ///
    /// # Errors
    /// A device fault, or what `progress` (batches done, batches in all) returns.
    pub fn evaluate(
        &self,
        tokens: u64,
        progress: impl FnMut(usize, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Evaluation>> {
        self.evaluate_by(&self.scorer, tokens, progress)
    }

    fn evaluate_by(
        &self,
        scorer: &Scorer,
        tokens: u64,
        mut progress: impl FnMut(usize, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Evaluation>> {
        let most = if tokens == 0 { u64::MAX } else { tokens };
        let Some(batches) = self.source.val_batches(self.pass.acts.batch, self.pass.acts.time, most) else { return Ok(None) };
        let all = batches.len();
        scorer.evaluate(&self.gpu, batches, |done| progress(done, all)).map(Some)
    }

    /// Merge the snapshots and score the merge as [`Trainer::evaluate`] scores the run's own weights, which it leaves alone. `None` while
    /// there are fewer than two snapshots. Until the next update the merge lies in the gradients' arena.
    ///
    /// # Errors
    /// A device fault, or what `progress` returns.
    pub fn evaluate_merge(
        &self,
        tokens: u64,
        progress: impl FnMut(usize, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<(MergedWindow, Option<Evaluation>)>> {
        let Some(live) = &self.live_merge else { return Ok(None) };
        let Some(window) = live.merge(&self.gpu)? else { return Ok(None) };
        Ok(Some((window, self.evaluate_by(&live.scorer, tokens, progress)?)))
    }

    /// Adam's moments to zero, as at the start of a run.
    ///
    /// # Errors
    /// A device fault.
    pub fn forget_moments(&mut self) -> anyhow::Result<()> {
        let mut clear = Recording::new("forget moments");
        self.optimizer.m.segments().chain(self.optimizer.v.segments()).for_each(|(t, _)| clear.clear(t));
        self.gpu.replay(&clear.finish(&self.gpu)?)?;
        self.state.optimizer_steps = 0;
        Ok(())
    }

    /// Tokens in one update.
    pub fn tokens_per_step(&self) -> u64 {
        (self.settings.train.batch_size * self.settings.train.seq_len) as u64
    }

    /// The recording of one micro-batch, for profiles, and how often it runs in an update.
    pub fn recording(&self) -> (&Recording, usize) {
        (&self.pass.recording, self.settings.train.batch_size / self.pass.acts.batch)
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

//! The supervised stages, pre-training and fine-tuning: batches from a source, a gradient pass, held-out loss. They differ in the source.

use super::predictions::PredictionStats;
use super::stage::{TrainerParts, TrainingStage};
use super::{Evaluation, GradientPass, Optimizer, Scorer, StepResult, micro_batch, rows_at_once};
use crate::config::{Settings, TrainSettings};
use crate::data::{Batch, IGNORE, Source};
use crate::device::{Device, ReadRing, Recording, Tensor};
use crate::event::{Event, Step};
use crate::model::{Activations, Model, PassKind, TrainedParameters};
use crate::ops::adamw::UpdateParams;
use crate::ops::objective::stats;
use crate::progress::{Interrupted, Progress, silent};
use crate::world::{RankCommand, World};
use anyhow::bail;
use std::collections::VecDeque;
use std::ops::Range;

/// State of a supervised stage besides model and optimizer.
pub(super) struct Supervised {
    pass: GradientPass,
    scorer: Scorer,
    source: Box<dyn Source>,
    ring: ReadRing,
    /// Updates whose results have not arrived yet.
    late: VecDeque<SubmittedUpdate>,
    batch_size: usize,
    /// The ranks, which share the rows.
    world: World,
}

/// Commands: update n, and held-out loss.
const UPDATE: &str = "update";
const EVALUATION: &str = "evaluation";

/// Host-side numbers of an update when it is submitted.
#[derive(Clone, Copy, Debug, Default)]
struct SubmittedUpdate {
    step: u64,
    learning_rate: f64,
    num_tokens: u64,
    epoch: f64,
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
            "--batch-size {}: fewer sequences than ranks ({}); start fewer ranks, or use a larger batch",
            t.batch_size,
            world.size()
        );
        // The largest share; smaller ones are padded with empty rows.
        let rows = t.batch_size.div_ceil(world.size());
        let share =
            TrainSettings { batch_size: rows, micro_batch_size: t.micro_batch_size.map(|set| set.min(rows)), ..t.clone() };
        let micro = rows_at_once(t.seq_len, || micro_batch(&model.config, &share, device.sizes()))?;
        Ok(Activations::new(device, &model.config, micro, t.seq_len, PassKind::training(t.checkpoints_activations())))
    }

    pub fn new(
        device: &Device,
        settings: &Settings,
        model: &Model,
        acts: Activations<Tensor>,
        grads: &TrainedParameters<Tensor>,
        source: Box<dyn Source>,
        world: World,
    ) -> anyhow::Result<Self> {
        let scorer = Scorer::over(device, model, acts.clone())?;
        let pass = GradientPass::new(device, model, acts, grads)?;
        let (ring, late) = (ReadRing::new(device, stats::LEN, 3), VecDeque::new());
        Ok(Self { pass, scorer, source, ring, late, batch_size: settings.train.batch_size, world })
    }

    /// Compute the gradient of the mean loss over the targets of the whole batch, summed over ranks.
    fn gradient(&self, device: &Device, optimizer: &Optimizer, batch: &Batch) -> anyhow::Result<()> {
        optimizer.clear(device)?;
        let targets = batch.targets.iter().filter(|t| **t != IGNORE).count();
        let weight = 1.0 / targets.max(1) as f32;
        let mut micros = micro_batches(batch, self.world.share(batch.batch_size), self.pass.acts.batch).peekable();
        while let Some(micro) = micros.next() {
            self.pass.upload(device, &micro, weight);
            match micros.peek() {
                Some(_) => device.replay(&self.pass.recording)?,
                None => optimizer.replay_and_sum(device, &self.pass.recording)?,
            }
        }
        Ok(())
    }

    fn val_batches(&self, rows: usize, tokens: u64) -> Option<Box<dyn ExactSizeIterator<Item = Batch> + '_>> {
        self.source.val_batches(rows, self.pass.acts.time, if tokens == 0 { u64::MAX } else { tokens })
    }

    /// Held-out loss of the model's own weights; ranks share the rows, and all return the result. The inner result is [`Interrupted`] if
    /// `progress` ended it on one rank, after all ranks have finished.
    fn evaluate_share(
        &self,
        device: &Device,
        tokens: u64,
        mut seen: Option<&mut PredictionStats>,
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<Option<anyhow::Result<Evaluation>>> {
        let at_once = self.pass.acts.batch;
        if self.world.is_solo() {
            let batches = self.val_batches(at_once, tokens);
            return Ok(batches.map(|batches| self.scorer.evaluate_with_predictions(device, batches, seen, progress)));
        }
        // Split by rows, because the number of rows at once depends on the device.
        let Some(rows) = self.val_batches(1, tokens) else { return Ok(None) };
        let share = self.world.share(rows.len());
        let mut rows = rows.skip(share.start);
        let batches = share.clone().step_by(at_once).map(|first| {
            let join = |mut all: Batch, row: Batch| {
                all.tokens.extend(row.tokens);
                all.targets.extend(row.targets);
                all.doc_start.extend(row.doc_start);
                all
            };
            let joined = rows.by_ref().take(at_once.min(share.end - first)).reduce(join);
            padded(Batch { batch_size: at_once, ..joined.unwrap_or_else(|| unreachable!("rows of the share")) })
        });
        let found = match self.scorer.evaluate_with_predictions(device, batches, seen.as_deref_mut(), progress) {
            Err(error) if !error.is::<Interrupted>() => return Err(error),
            found => found,
        };
        let own = found.ok().map(|found| {
            let sum = |mean: f64| if found.tokens == 0 { 0.0 } else { mean * found.tokens as f64 };
            let tokens = seen.as_deref_mut().map(|seen| std::mem::take(&mut seen.tokens)).unwrap_or_default();
            ([sum(found.loss), sum(found.mean_token_accuracy)], found.tokens, tokens)
        });
        let all: Vec<Option<OwnShare>> = self.world.all_gather_values(&own)?;
        let Some(all) = all.into_iter().collect::<Option<Vec<_>>>() else { return Ok(Some(Err(Interrupted.into()))) };
        let n: u64 = all.iter().map(|rank| rank.1).sum();
        let mean = |i: usize| all.iter().map(|rank| rank.0[i]).sum::<f64>() / n as f64;
        let found = Evaluation { loss: mean(0), mean_token_accuracy: mean(1), tokens: n };
        if let Some(seen) = seen {
            seen.add(all.into_iter().flat_map(|rank| rank.2));
        }
        Ok(Some(Ok(found)))
    }
}

/// Results of a rank: sums of losses and correct predictions, number of tokens, and predictions of single tokens.
type OwnShare = ([f64; 2], u64, Vec<(f32, f32)>);

impl TrainingStage for Supervised {
    fn step(&mut self, parts: TrainerParts<'_>, hyper: UpdateParams, _: &mut Progress<'_>) -> anyhow::Result<Option<StepResult>> {
        let TrainerParts { device, model, optimizer, live_merge, state } = parts;
        let n = state.step + state.skipped_batches;
        // Before the batch is made, so that all ranks make it at the same time.
        let task = self.world.broadcast_command(UPDATE, &(n, hyper))?;
        let batch = self.source.batch(n, self.batch_size);
        self.gradient(device, optimizer, &batch)?;
        task.done();
        let norms = optimizer.norms_of(state.step + 1);
        norms.map_or(Ok(()), |norms| norms.measure_before(device))?;
        optimizer.update(device, &hyper)?;
        norms.map_or(Ok(()), |norms| norms.measure_after(device))?;
        state.step += 1;
        state.optimizer_steps += 1;
        state.num_tokens += batch.num_tokens as u64;
        self.ring.request(device, &self.pass.acts.stats);
        self.late.push_back(SubmittedUpdate {
            step: state.step,
            learning_rate: hyper.learning_rate,
            num_tokens: state.num_tokens,
            epoch: self.source.epochs(n + 1, self.batch_size),
        });
        if let Some(norms) = optimizer.norms.as_mut().filter(|norms| norms.is_due(state.step)) {
            norms.request(device, state.step);
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

    fn run_command(&mut self, device: &Device, _: &Model, optimizer: &Optimizer, command: &RankCommand) -> anyhow::Result<()> {
        match command.kind.as_str() {
            UPDATE => {
                let (n, hyper): (u64, UpdateParams) = command.read()?;
                self.gradient(device, optimizer, &self.source.batch(n, self.batch_size))?;
                optimizer.update(device, &hyper)
            }
            EVALUATION => {
                let (tokens, seen): (u64, bool) = command.read()?;
                let mut own = PredictionStats::default();
                self.evaluate_share(device, tokens, seen.then_some(&mut own), &mut silent).map(|_| ())
            }
            kind => bail!("{kind}: unknown command (a defect of lehr)"),
        }
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
        let Some(scorer) = by else {
            let task = self.world.broadcast_command(EVALUATION, &(tokens, seen.is_some()))?;
            let found = self.evaluate_share(device, tokens, seen, progress)?;
            task.done();
            return found.transpose();
        };
        let Some(batches) = self.val_batches(self.pass.acts.batch, tokens) else { return Ok(None) };
        scorer.evaluate_with_predictions(device, batches, seen, progress).map(Some)
    }
}

/// Rows `share` of a batch in slices of `rows` rows.
fn micro_batches(batch: &Batch, share: Range<usize>, rows: usize) -> impl Iterator<Item = Batch> + '_ {
    let time = batch.seq_len;
    share.clone().step_by(rows).map(move |first| {
        let part = first * time..(first + rows).min(share.end) * time;
        let cut = |of: &[u32]| of[part.clone()].to_vec();
        let (tokens, targets, doc_start) = (cut(&batch.tokens), cut(&batch.targets), cut(&batch.doc_start));
        padded(Batch { batch_size: rows, seq_len: time, tokens, targets, doc_start, num_tokens: 0 })
    })
}

/// Pad a batch to its number of rows with rows without targets.
fn padded(mut batch: Batch) -> Batch {
    let missing = batch.batch_size * batch.seq_len - batch.tokens.len();
    batch.tokens.extend(std::iter::repeat_n(0, missing));
    batch.targets.extend(std::iter::repeat_n(IGNORE, missing));
    // One document per position, so that attention costs almost nothing.
    batch.doc_start.extend((0..missing).map(|i| (i % batch.seq_len) as u32));
    batch
}

//! The trainer: a model, its optimizer, and what its stage does with them. A supervised stage is its source of batches; reinforcement
//! makes its own (`train/reinforce`).

use super::merge::{LiveMerge, MergedWindow};
use super::predictions::Seen;
use super::reinforce::{PendingStep, Progress, Reinforce, TaskContext};
use super::supervised::{Late, Supervised};
use super::{Evaluation, Optimizer, PartNorms, learning_rate};
use crate::config::{ModelConfig, Settings, TrainSettings};
use crate::data::Source;
use crate::device::{Device, Recorder, Recording};
use crate::event::{Completion, Event, LiveSettings, Number, TaskEval};
use crate::model::Model;
use crate::model::weight_files::WeightFiles;
use crate::ops::adamw::UpdateParams;
use crate::ops::objective::stats;
use crate::world::World;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that training needs beside files, events and commands.
pub struct Trainer {
    /// The device.
    pub device: Device,
    /// The model.
    pub model: Model,
    /// Gradients and moments.
    pub optimizer: Optimizer,
    pub(super) settings: Settings,
    pub(super) work: Work,
    pub(super) world: World,
    /// The ranks compute on different kinds of devices, whose updates differ in the last bits: all take the weights of rank 0.
    pub mixed_devices: bool,
    /// Snapshots and their merge, if the settings ask for them.
    pub live_merge: Option<LiveMerge>,
    /// What a checkpoint must hold beside tensors.
    pub state: TrainerState,
}

/// What a stage does.
pub(super) enum Work {
    Supervised(Box<Supervised>),
    Reinforce(Box<Reinforce>),
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
    pub hyper: LiveSettings,
    /// Updates' worth of training data passed over so far (a rescue may skip the data that led to a spike): update n is made from the
    /// source's batch n + this.
    #[serde(default)]
    pub skipped_batches: u64,
    /// Factor on the learning rate that rescues have left, beside the live one.
    #[serde(default)]
    pub rescue_scale: Option<f64>,
    /// The same of the moments that Lopti's second pass may have of its own.
    #[serde(default)]
    pub second_optimizer_steps: u64,
    /// Reinforcement: questions that were asked so far, those passed over included.
    #[serde(default)]
    pub questions: u64,
}

/// The numbers of one update (of a step with all its updates, in reinforcement).
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// Everything else, by name.
    pub metrics: BTreeMap<String, Number>,
    /// What else is to be told of it.
    pub events: Vec<Event>,
    /// Completions to keep.
    pub samples: Vec<Completion>,
}

impl Trainer {
    /// Allocate everything and record the passes; parameters are random (from the seed) until a checkpoint is loaded over them.
    ///
    /// # Errors
    /// A shape or a batch that cannot work, or a kernel that does not compile.
    pub fn new(device: Device, settings: &Settings, config: &ModelConfig, source: Box<dyn Source>) -> anyhow::Result<Self> {
        Self::in_world(World::solo(), device, settings, config, source)
    }

    /// The same on one of several ranks, which train together: rank 0 is used as any trainer, the others call [`Trainer::follow`].
    ///
    /// # Errors
    /// As [`Trainer::new`], or fewer sequences in a batch than ranks.
    pub fn in_world(
        world: World,
        device: Device,
        settings: &Settings,
        config: &ModelConfig,
        source: Box<dyn Source>,
    ) -> anyhow::Result<Self> {
        let settings = &of_rank(settings, &world);
        let model = Model::new(&device, config, settings.train.seq_len)?;
        let acts = Supervised::activations(&device, settings, &model, &world)?;
        let mut optimizer = Optimizer::new(&device, &model.parameters, &model.values, &acts.stats)?;
        optimizer.join(&device, &world, &acts.stats);
        optimizer.measure_parts(&device, &model.parameters, &model.values, settings.eval.norms_every)?;
        let scratch = (&optimizer.grads, &optimizer.grad_weights);
        let live_merge = LiveMerge::new(&device, &model, acts.clone(), scratch, &settings.merge)?;
        let work = Supervised::new(&device, &model, acts, &optimizer.grad_weights, source, world.clone())?;
        let work = Work::Supervised(Box::new(work));
        model.initialise(&device, settings.train.seed);
        let (state, settings, mixed_devices) = (TrainerState::default(), settings.clone(), false);
        Ok(Self { state, settings, device, model, optimizer, work, world, mixed_devices, live_merge })
    }

    /// The same for reinforcement.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn reinforce(
        device: Device,
        settings: &Settings,
        config: &ModelConfig,
        task_context: TaskContext,
    ) -> anyhow::Result<Self> {
        Self::reinforce_in_world(World::solo(), device, settings, config, task_context)
    }

    /// The same on one of several ranks; see [`Trainer::in_world`]. Only rank 0 asks and grades.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn reinforce_in_world(
        world: World,
        device: Device,
        settings: &Settings,
        config: &ModelConfig,
        task_context: TaskContext,
    ) -> anyhow::Result<Self> {
        let settings = &of_rank(settings, &world);
        let model = Model::new(&device, config, settings.train.seq_len)?;
        let work = Reinforce::new(&device, &model, settings, task_context, &world)?;
        let mut optimizer = work.optimizer(&device, &model, settings)?;
        optimizer.join(&device, &world, work.stats());
        optimizer.measure_parts(&device, &model.parameters, &model.values, settings.eval.norms_every)?;
        model.initialise(&device, settings.train.seed);
        let (work, live_merge) = (Work::Reinforce(Box::new(work)), None);
        let (state, settings, mixed_devices) = (TrainerState::default(), settings.clone(), false);
        Ok(Self { state, settings, device, model, optimizer, work, world, mixed_devices, live_merge })
    }

    /// Reinforcement: hold the policy to the model of a folder, or to itself as it is now. Nothing is kept where the loss has no KL term.
    ///
    /// # Errors
    /// Weights that do not fit, or a device fault.
    pub fn keep_reference(&mut self, files: Option<&WeightFiles>) -> anyhow::Result<()> {
        match &mut self.work {
            Work::Supervised(_) => Ok(()),
            Work::Reinforce(work) => work.keep_reference(&self.device, &self.model, files),
        }
    }

    /// The model that the policy is held to, if there is one.
    pub fn reference(&self) -> Option<&Model> {
        match &self.work {
            Work::Supervised(_) => None,
            Work::Reinforce(work) => work.reference(),
        }
    }

    /// A step of reinforcement that is not done, for a checkpoint.
    pub fn pending_step(&self) -> Option<&PendingStep> {
        match &self.work {
            Work::Supervised(_) => None,
            Work::Reinforce(work) => work.pending_step(),
        }
    }

    /// Go on with a step that a checkpoint held, or with none.
    pub fn set_pending_step(&mut self, step: Option<PendingStep>) {
        if let Work::Reinforce(work) = &mut self.work {
            work.set_pending_step(step);
        }
    }

    /// Reinforcement: ask the held-out questions. `None` for a supervised stage, or when `progress` stopped it.
    ///
    /// # Errors
    /// A grader that fails, or a device fault.
    pub fn evaluate_task(&mut self, temperature: f64, progress: &mut Progress<'_>) -> anyhow::Result<Option<TaskEval>> {
        match &mut self.work {
            Work::Supervised(_) => Ok(None),
            Work::Reinforce(work) => work.evaluate_task(&self.device, &self.model, self.state.step, temperature, progress),
        }
    }

    /// Make the next update: submits it and returns the numbers of the update before, which have arrived meanwhile. In reinforcement an
    /// update of a step; the step's numbers come with its last.
    ///
    /// # Errors
    /// A device fault.
    pub fn step(&mut self) -> anyhow::Result<Option<StepResult>> {
        self.step_watched(&mut |_, _, _| true)
    }

    /// The same. `progress` hears what goes on within a step of reinforcement, and may stop it between two tokens: what was sampled is
    /// given up then, and sampled again alike by the next call.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_watched(&mut self, progress: &mut Progress<'_>) -> anyhow::Result<Option<StepResult>> {
        let before = self.state.step;
        let result = match &mut self.work {
            Work::Reinforce(work) => {
                let hyper = hyper(&self.settings.train, &self.state);
                work.step(&self.device, &self.model, &mut self.optimizer, &mut self.state, hyper, progress)?
            }
            Work::Supervised(_) => self.supervised_step()?,
        };
        if self.state.step != before {
            self.keep_alike()?;
        }
        Ok(result)
    }

    fn supervised_step(&mut self) -> anyhow::Result<Option<StepResult>> {
        let Work::Supervised(work) = &mut self.work else { return Ok(None) };
        let (batch_size, n) = (self.settings.train.batch_size, self.state.step + self.state.skipped_batches);
        let batch = work.batch(n, batch_size);
        let hyper = hyper(&self.settings.train, &self.state);
        work.gradient(&self.device, &self.optimizer, (n, &batch), hyper)?;
        let norms = self.optimizer.norms_of(self.state.step + 1);
        norms.map_or(Ok(()), |norms| norms.before(&self.device))?;
        self.optimizer.update(&self.device, &hyper)?;
        norms.map_or(Ok(()), |norms| norms.after(&self.device))?;
        self.state.step += 1;
        self.state.optimizer_steps += 1;
        self.state.num_tokens += batch.num_tokens as u64;
        let late = Late {
            step: self.state.step,
            learning_rate: hyper.learning_rate,
            num_tokens: self.state.num_tokens,
            epoch: work.epochs(n + 1, batch_size),
        };
        work.submitted(&self.device, late);
        if let Some(norms) = self.optimizer.norms.as_mut().filter(|norms| norms.is_due(late.step)) {
            norms.ask(&self.device, late.step);
        }
        if let Some(live) = &mut self.live_merge {
            live.after_update(&self.device, &self.model, self.state.step)?;
        }
        if work.pending() > 1 { take(work, self.optimizer.norms.as_mut(), &self.device).map(Some) } else { Ok(None) }
    }

    /// The numbers of updates that were submitted and not yet returned, oldest first.
    ///
    /// # Errors
    /// A device fault.
    pub fn flush(&mut self) -> anyhow::Result<Vec<StepResult>> {
        let Work::Supervised(work) = &mut self.work else { return Ok(Vec::new()) };
        (0..work.pending()).map(|_| take(work, self.optimizer.norms.as_mut(), &self.device)).collect()
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
        let Work::Supervised(work) = &self.work else { return Ok(None) };
        work.evaluate(&self.device, None, tokens, None, progress)
    }

    /// The same, to the bit; what the model said of the first tokens is left in `seen`.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub fn evaluate_seeing(
        &self,
        tokens: u64,
        seen: &mut Seen,
        progress: impl FnMut(usize, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Evaluation>> {
        let Work::Supervised(work) = &self.work else { return Ok(None) };
        work.evaluate(&self.device, None, tokens, Some(seen), progress)
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
        let Some(window) = live.merge(&self.device)? else { return Ok(None) };
        let Work::Supervised(work) = &self.work else { return Ok(None) };
        Ok(Some((window, work.evaluate(&self.device, Some(&live.scorer), tokens, None, progress)?)))
    }

    /// Adam's moments to zero, as at the start of a run.
    ///
    /// # Errors
    /// A device fault.
    pub fn forget_moments(&mut self) -> anyhow::Result<()> {
        let mut clear = Recorder::new(&self.device, "forget moments");
        let second = self.optimizer.second.iter().flat_map(|second| [&second.m, &second.v]);
        let arenas = [&self.optimizer.m, &self.optimizer.v].into_iter().chain(second);
        arenas.flat_map(|arena| arena.segments()).for_each(|(t, _)| clear.clear(t));
        self.device.replay(&clear.finish()?)?;
        (self.state.optimizer_steps, self.state.second_optimizer_steps) = (0, 0);
        Ok(())
    }

    /// Tokens in one update; in reinforcement, completions.
    pub fn tokens_per_step(&self) -> u64 {
        match &self.work {
            Work::Supervised(_) => (self.settings.train.batch_size * self.settings.train.seq_len) as u64,
            Work::Reinforce(_) => self.settings.train.batch_size as u64,
        }
    }

    /// The recording of one micro-batch, for profiles, and how often it runs in an update; `None` in reinforcement.
    pub fn recording(&self) -> Option<(&Recording, usize)> {
        let Work::Supervised(work) = &self.work else { return None };
        Some((&work.pass.recording, self.settings.train.batch_size / work.pass.acts.batch))
    }
}

/// The oldest update's numbers.
fn take(work: &mut Supervised, norms: Option<&mut PartNorms>, device: &Device) -> anyhow::Result<StepResult> {
    let (late, numbers) = work.take(device)?;
    let norms = norms.map_or(Ok(None), |norms| norms.take(device, late.step))?;
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
        events: norms.map(Event::Norms).into_iter().collect(),
        ..StepResult::default()
    })
}

/// What only rank 0 does, the others leave out.
fn of_rank(settings: &Settings, world: &World) -> Settings {
    let mut own = settings.clone();
    if !world.is_root() {
        (own.merge.merge_every, own.eval.norms_every) = (0, 0);
    }
    own
}

/// What the next update is made with.
fn hyper(t: &TrainSettings, state: &TrainerState) -> UpdateParams {
    let live = &state.hyper;
    UpdateParams {
        learning_rate: learning_rate(t, state.step + 1)
            * live.learning_rate_scale.unwrap_or(1.0)
            * state.rescue_scale.unwrap_or(1.0),
        max_grad_norm: live.max_grad_norm.unwrap_or(t.max_grad_norm),
        step: state.optimizer_steps + 1,
        ..UpdateParams::from(t)
    }
}

//! The trainer: a model, its optimizer, and what its stage does with them. A supervised stage is its source of batches; reinforcement
//! makes its own (`train/reinforce`).

use super::live_merge::{LiveMerge, MergedWindow};
use super::predictions::Seen;
use super::reinforce::{PendingStep, Reinforce, TaskContext};
use super::stage::{Parts, Stage};
use super::supervised::Supervised;
use super::{Evaluation, Optimizer, learning_rate};
use crate::config::{ModelConfig, Settings, TrainSettings};
use crate::data::Source;
use crate::device::{Device, Recorder, Recording};
use crate::event::{Completion, Event, LiveSettings, Step, TaskEval};
use crate::model::Model;
use crate::model::weight_files::WeightFiles;
use crate::ops::adamw::UpdateParams;
use crate::progress::{Progress, silent};
use crate::world::World;
use serde::{Deserialize, Serialize};

/// Everything that training needs beside files, events and commands.
pub struct Trainer {
    /// The device.
    pub device: Device,
    /// The model.
    pub model: Model,
    /// Gradients and moments.
    pub optimizer: Optimizer,
    settings: TrainSettings,
    pub(super) stage: Box<dyn Stage>,
    pub(super) world: World,
    /// The ranks compute on different kinds of devices, whose updates differ in the last bits: all take the weights of rank 0.
    pub mixed_devices: bool,
    /// Snapshots and their merge, if the settings ask for them.
    pub live_merge: Option<LiveMerge>,
    /// What a checkpoint must hold beside tensors.
    pub state: TrainerState,
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

/// The numbers of one update (of a step with all its updates, in reinforcement), and what else is reported of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepResult {
    /// As the log has them, but for throughput, time and memory, which whoever runs the trainer knows.
    pub numbers: Step,
    /// Statistics and warnings of the step.
    pub events: Vec<Event>,
    /// Completions to keep.
    pub samples: Vec<Completion>,
}

impl std::ops::Deref for StepResult {
    type Target = Step;

    fn deref(&self) -> &Step {
        &self.numbers
    }
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
        let grads = &optimizer.grad_weights;
        let stage = Box::new(Supervised::new(&device, settings, &model, acts, grads, source, world.clone())?);
        model.initialise(&device, settings.train.seed);
        let (state, settings, mixed_devices) = (TrainerState::default(), settings.train.clone(), false);
        Ok(Self { state, settings, device, model, optimizer, stage, world, mixed_devices, live_merge })
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
        let stage = Box::new(Reinforce::new(&device, &model, settings, task_context, &world)?);
        let mut optimizer = stage.optimizer(&device, &model, settings)?;
        optimizer.join(&device, &world, stage.stats());
        optimizer.measure_parts(&device, &model.parameters, &model.values, settings.eval.norms_every)?;
        model.initialise(&device, settings.train.seed);
        let (state, settings, mixed_devices) = (TrainerState::default(), settings.train.clone(), false);
        Ok(Self { state, settings, device, model, optimizer, stage, world, mixed_devices, live_merge: None })
    }

    /// Reinforcement: hold the policy to the model of a folder, or to itself as it is now. Nothing is kept where the loss has no KL term.
    ///
    /// # Errors
    /// Weights that do not fit, or a device fault.
    pub fn keep_reference(&mut self, files: Option<&WeightFiles>) -> anyhow::Result<()> {
        self.stage.keep_reference(&self.device, &self.model, files)
    }

    /// The model that the policy is held to, if there is one.
    pub fn reference(&self) -> Option<&Model> {
        self.stage.reference()
    }

    /// A step of reinforcement that is not done, for a checkpoint.
    pub fn pending_step(&self) -> Option<&PendingStep> {
        self.stage.pending_step()
    }

    /// Go on with a step that a checkpoint held, or with none.
    pub fn set_pending_step(&mut self, step: Option<PendingStep>) {
        self.stage.set_pending_step(step);
    }

    /// Reinforcement: ask the held-out questions. `None` for a supervised stage, or when `progress` stopped it.
    ///
    /// # Errors
    /// A grader that fails, or a device fault.
    pub fn evaluate_task(&mut self, temperature: f64, progress: &mut Progress<'_>) -> anyhow::Result<Option<TaskEval>> {
        self.stage.evaluate_task(&self.device, &self.model, self.state.step, temperature, progress)
    }

    /// Make the next update: submits it and returns the numbers of the update before, which have arrived meanwhile. In reinforcement an
    /// update of a step; the step's numbers come with its last.
    ///
    /// # Errors
    /// A device fault.
    pub fn step(&mut self) -> anyhow::Result<Option<StepResult>> {
        self.step_watched(&mut silent)
    }

    /// The same. `progress` hears what goes on within a step of reinforcement, and may stop it between two tokens: what was sampled is
    /// given up then, and sampled again alike by the next call.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_watched(&mut self, progress: &mut Progress<'_>) -> anyhow::Result<Option<StepResult>> {
        let (before, hyper) = (self.state.step, hyper(&self.settings, &self.state));
        let Self { device, model, optimizer, live_merge, state, stage, .. } = self;
        let result = stage.step(Parts { device, model, optimizer, live_merge: live_merge.as_mut(), state }, hyper, progress)?;
        if self.state.step != before {
            self.keep_alike()?;
        }
        Ok(result)
    }

    /// The numbers of updates that were submitted and not yet returned, oldest first.
    ///
    /// # Errors
    /// A device fault.
    pub fn flush(&mut self) -> anyhow::Result<Vec<StepResult>> {
        std::iter::from_fn(|| self.stage.take(&self.device, &mut self.optimizer).transpose()).collect()
    }

    /// Mean loss on the validation split (`None` when nothing is held out), on its first `tokens` tokens (0: on all of it).
    ///
    /// # Errors
    /// A device fault, or what `progress` returns; [`Interrupted`](crate::progress::Interrupted) when that ends it.
    pub fn evaluate(&self, tokens: u64, progress: &mut Progress<'_>) -> anyhow::Result<Option<Evaluation>> {
        self.stage.evaluate(&self.device, None, tokens, None, progress)
    }

    /// The same, to the bit; what the model said of the first tokens is left in `seen`.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub fn evaluate_seeing(
        &self,
        tokens: u64,
        seen: &mut Seen,
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<Option<Evaluation>> {
        self.stage.evaluate(&self.device, None, tokens, Some(seen), progress)
    }

    /// Merge the snapshots and score the merge as [`Trainer::evaluate`] scores the run's own weights, which it leaves alone. `None` while
    /// there are fewer than two snapshots. Until the next update the merge lies in the gradients' arena.
    ///
    /// # Errors
    /// A device fault, or what `progress` returns.
    pub fn evaluate_merge(
        &self,
        tokens: u64,
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<Option<(MergedWindow, Option<Evaluation>)>> {
        let Some(live) = &self.live_merge else { return Ok(None) };
        let Some(window) = live.merge(&self.device)? else { return Ok(None) };
        let mut progress = |_: &str, done, all| progress("evaluating the merge", done, all);
        Ok(Some((window, self.stage.evaluate(&self.device, Some(&live.scorer), tokens, None, &mut progress)?)))
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
        self.stage.tokens_per_step()
    }

    /// The recording of one micro-batch, for profiles, and how often it runs in an update; `None` in reinforcement.
    pub fn recording(&self) -> Option<(&Recording, usize)> {
        self.stage.recording()
    }
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

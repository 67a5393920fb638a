//! The trainer: a model, its optimizer, and its stage. A supervised stage has a source of batches; GRPO samples its own
//! (`train/reinforce`).

use super::live_merge::{LiveMerge, MergedWindow};
use super::predictions::PredictionStats;
use super::reinforce::{PendingStep, Reinforce, TaskContext};
use super::stage::{TrainerParts, TrainingStage};
use super::supervised::Supervised;
use super::{Evaluation, Optimizer, learning_rate};
use crate::config::{ModelConfig, Settings, TrainSettings};
use crate::data::Source;
use crate::device::{Device, Recorder, Recording};
use crate::event::{Completion, Event, LiveSettings, Step, TaskEval};
use crate::model::Model;
use crate::model_files::weight_files::WeightFiles;
use crate::ops::adamw::UpdateParams;
use crate::progress::{Progress, silent};
use crate::world::World;
use serde::{Deserialize, Serialize};

/// Everything that training needs except files, events and commands.
pub struct Trainer {
    /// The device.
    pub device: Device,
    /// The model.
    pub model: Model,
    /// Gradients and moments.
    pub optimizer: Optimizer,
    settings: TrainSettings,
    pub(super) stage: Box<dyn TrainingStage>,
    pub(super) world: World,
    /// The ranks have different kinds of devices, whose updates differ by rounding: all take the weights of rank 0.
    pub mixed_devices: bool,
    /// Snapshots and their merge, if live merging is on.
    pub live_merge: Option<LiveMerge>,
    /// State that a checkpoint holds besides tensors.
    pub state: TrainerState,
}

/// State that a checkpoint holds besides tensors; the rest follows from the settings and this.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Updates made.
    pub step: u64,
    /// Tokens trained on, without padding.
    pub num_tokens: u64,
    /// Updates since Adam's moments were zero, for the bias correction.
    pub optimizer_steps: u64,
    /// Settings that were changed during the run.
    pub hyper: LiveSettings,
    /// Batches skipped so far (a rescue may skip the data that led to a spike): update n uses the source's batch n + this.
    #[serde(default)]
    pub skipped_batches: u64,
    /// Factor on the learning rate from rescues, on top of the live one.
    #[serde(default)]
    pub rescue_scale: Option<f64>,
    /// `optimizer_steps` of the separate moments of Lopti's second pass.
    #[serde(default)]
    pub second_optimizer_steps: u64,
    /// GRPO: number of questions used so far, including skipped ones.
    #[serde(default)]
    pub questions: u64,
}

/// The results of one update (in GRPO, of a step with all its updates).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepResult {
    /// As in the log, without throughput, time and memory, which the caller adds.
    pub numbers: Step,
    /// Statistics and warnings of the step.
    pub events: Vec<Event>,
    /// Completions to log.
    pub samples: Vec<Completion>,
}

impl std::ops::Deref for StepResult {
    type Target = Step;

    fn deref(&self) -> &Step {
        &self.numbers
    }
}

impl Trainer {
    /// Allocate everything and record the passes; parameters are random (from the seed) until a checkpoint is loaded.
    ///
    /// # Errors
    /// An invalid shape or batch size, or a kernel that does not compile.
    pub fn new(device: Device, settings: &Settings, config: &ModelConfig, source: Box<dyn Source>) -> anyhow::Result<Self> {
        let trainer = Self::in_world(World::solo(), device, settings, config, source)?;
        trainer.initialise();
        Ok(trainer)
    }

    /// As [`Trainer::new`], on one of several ranks: rank 0 is used like a single process, the others call [`Trainer::run_worker`]. Parameters are
    /// zero until [`Trainer::initialise`] is called or a model is loaded.
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
        let settings = &settings_of_rank(settings, &world);
        let model = Model::new(&device, config, settings.train.seq_len)?;
        let acts = Supervised::activations(&device, settings, &model, &world)?;
        let mut optimizer = Optimizer::new(&device, &model.parameters, &model.values, &acts.stats)?;
        optimizer.measure_parts(&device, &model.parameters, &model.values, settings.eval.norms_every)?;
        let scratch = (&optimizer.grads, &optimizer.grad_weights);
        let live_merge = LiveMerge::new(&device, &model, acts.clone(), scratch, &settings.merge)?;
        let (grads, stats) = (&optimizer.grad_weights, acts.stats.clone());
        let stage = Box::new(Supervised::new(&device, settings, &model, acts, grads, source, world.clone())?);
        optimizer.join(&device, &world, &stats, stage.recording().map(|(pass, _)| pass));
        let (state, settings, mixed_devices) = (TrainerState::default(), settings.train.clone(), false);
        Ok(Self { state, settings, device, model, optimizer, stage, world, mixed_devices, live_merge })
    }

    /// As [`Trainer::new`], for GRPO.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn reinforce(
        device: Device,
        settings: &Settings,
        config: &ModelConfig,
        task_context: TaskContext,
    ) -> anyhow::Result<Self> {
        let trainer = Self::reinforce_in_world(World::solo(), device, settings, config, task_context)?;
        trainer.initialise();
        Ok(trainer)
    }

    /// As [`Trainer::in_world`], for GRPO. Only rank 0 asks and grades.
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
        let settings = &settings_of_rank(settings, &world);
        let model = Model::new(&device, config, settings.train.seq_len)?;
        let stage = Box::new(Reinforce::new(&device, &model, settings, task_context, &world)?);
        let mut optimizer = stage.optimizer(&device, &model, settings)?;
        optimizer.join(&device, &world, stage.stats(), None);
        optimizer.measure_parts(&device, &model.parameters, &model.values, settings.eval.norms_every)?;
        let (state, settings, mixed_devices) = (TrainerState::default(), settings.train.clone(), false);
        Ok(Self { state, settings, device, model, optimizer, stage, world, mixed_devices, live_merge: None })
    }

    /// Random parameters, from the seed of the settings.
    pub fn initialise(&self) {
        self.model.initialise(&self.device, self.settings.seed);
    }

    /// The initial values of adapters, which a folder with weights does not hold.
    pub fn initialise_adapters(&self) {
        self.model.initialise_adapters(&self.device, self.settings.seed);
    }

    /// GRPO: use the model of a folder, or a copy of the current one, as the reference model. Nothing is kept if the loss has no KL term.
    ///
    /// # Errors
    /// Weights that do not fit, or a device fault.
    pub fn keep_reference(&mut self, files: Option<&WeightFiles>) -> anyhow::Result<()> {
        self.stage.keep_reference(&self.device, &self.model, files)
    }

    /// The reference model, if there is one.
    pub fn reference(&self) -> Option<&Model> {
        self.stage.reference()
    }

    /// The pending step of GRPO, for a checkpoint.
    pub fn pending_step(&self) -> Option<&PendingStep> {
        self.stage.pending_step()
    }

    /// Set the pending step from a checkpoint, if it held one.
    pub fn set_pending_step(&mut self, step: Option<PendingStep>) {
        self.stage.set_pending_step(step);
    }

    /// GRPO: evaluate on the held-out questions. `None` for a supervised stage, or when `progress` stopped it.
    ///
    /// # Errors
    /// A grader that fails, or a device fault.
    pub fn evaluate_task(&mut self, temperature: f64, progress: &mut Progress<'_>) -> anyhow::Result<Option<TaskEval>> {
        self.stage.evaluate_task(&self.device, &self.model, self.state.step, temperature, progress)
    }

    /// Submit the next update and return the results of the previous one, which have arrived meanwhile. In GRPO this is one update of a
    /// step; the step's results come with its last update.
    ///
    /// # Errors
    /// A device fault.
    pub fn step(&mut self) -> anyhow::Result<Option<StepResult>> {
        self.step_watched(&mut silent)
    }

    /// As [`Trainer::step`]. `progress` receives the progress within a GRPO step and may stop it between two tokens: the samples are then
    /// discarded, and sampled again identically by the next call.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_watched(&mut self, progress: &mut Progress<'_>) -> anyhow::Result<Option<StepResult>> {
        // A GRPO step has several updates.
        let updates = |s: &TrainerState| (s.step, s.optimizer_steps, s.second_optimizer_steps);
        let (before, hyper) = (updates(&self.state), hyper(&self.settings, &self.state));
        let Self { device, model, optimizer, live_merge, state, stage, .. } = self;
        let result =
            stage.step(TrainerParts { device, model, optimizer, live_merge: live_merge.as_mut(), state }, hyper, progress)?;
        if updates(&self.state) != before {
            self.synchronize(self.state.step != before.0)?;
        }
        Ok(result)
    }

    /// The results of updates that were submitted and not yet returned, oldest first.
    ///
    /// # Errors
    /// A device fault.
    pub fn flush(&mut self) -> anyhow::Result<Vec<StepResult>> {
        std::iter::from_fn(|| self.stage.take(&self.device, &mut self.optimizer).transpose()).collect()
    }

    /// Mean loss on the validation split (`None` when nothing is held out), on its first `tokens` tokens (0: on all of it).
    ///
    /// # Errors
    /// A device fault, or the error of `progress`; [`Interrupted`](crate::progress::Interrupted) when it stops the evaluation.
    pub fn evaluate(&self, tokens: u64, progress: &mut Progress<'_>) -> anyhow::Result<Option<Evaluation>> {
        self.stage.evaluate(&self.device, None, tokens, None, progress)
    }

    /// As [`Trainer::evaluate`], bit-identical; `seen` collects the predictions for the first tokens.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub fn evaluate_with_predictions(
        &self,
        tokens: u64,
        seen: &mut PredictionStats,
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<Option<Evaluation>> {
        self.stage.evaluate(&self.device, None, tokens, Some(seen), progress)
    }

    /// Merge the snapshots and score the merge as [`Trainer::evaluate`] scores the run's own weights, which do not change. `None` while
    /// there are fewer than two snapshots. Until the next update the merge is in the gradients' arena.
    ///
    /// # Errors
    /// A device fault, or the error of `progress`.
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

    /// Zero Adam's moments, as at the start of a run.
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

    /// Tokens per update; in GRPO, completions.
    pub fn tokens_per_step(&self) -> u64 {
        self.stage.tokens_per_step()
    }

    /// The recording of one micro-batch, for profiles, and the number of times it runs per update; `None` in GRPO.
    pub fn recording(&self) -> Option<(&Recording, usize)> {
        self.stage.recording()
    }
}

/// Settings without what only rank 0 does.
fn settings_of_rank(settings: &Settings, world: &World) -> Settings {
    let mut own = settings.clone();
    if !world.is_root() {
        (own.merge.merge_every, own.eval.norms_every) = (0, 0);
    }
    own
}

/// Hyperparameters of the next update.
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

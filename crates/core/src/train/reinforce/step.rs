//! A GRPO step: sample and grade completions, score them, compute advantages from rewards, and update, pass by pass and mini-batch by
//! mini-batch. A step can be interrupted between any two updates and continued from a checkpoint with bit-identical results.

use super::sampling::{SampledStep, Sampler};
use super::step_report::{self, Seconds};
use super::{Loss, Policy, PolicyModel, UpdatePass, UpdateStats, advantage, passes, probe, warnings};
use crate::config::{GrpoSettings, ModelConfig, RolloutSettings, Settings, is_due};
use crate::data::Tokenizer;
use crate::data::tasks::Task;
use crate::device::{Device, ElementType, Sizes, Tensor};
use crate::event::{BinGradient, Event, Norms, TaskEval};
use crate::model::rollout::default_slots;
use crate::model::{Model, RolloutEngine};
use crate::model_files::weight_files::WeightFiles;
use crate::ops::adamw::UpdateParams;
use crate::ops::sample::Sampling;
use crate::progress::Progress;
use crate::train::stage::{TrainerParts, TrainingStage};
use crate::train::{Optimizer, StepResult, TrainerState};
use crate::world::{RankCommand, World};
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use web_time::Instant;

/// RL task, tokenizer and prompt format.
pub struct TaskContext {
    /// RL task: questions and grader.
    pub task: Box<dyn Task>,
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// Stop tokens.
    pub stops: Vec<u32>,
    /// Whether prompts are formatted with a chat template.
    pub chat: bool,
}

/// State of GRPO besides model and optimizer.
pub struct Reinforce {
    pub(super) task_context: TaskContext,
    pub(super) engine: RolloutEngine,
    policy: Policy,
    /// The reference model, if the loss has a KL term.
    reference: Option<Model>,
    /// Storage type of its matrices.
    reference_element: ElementType,
    pub(super) rollout: RolloutSettings,
    grpo: GrpoSettings,
    pub(super) seed: u64,
    completions: usize,
    pending_step: Option<PendingStep>,
    watch: warnings::WarningState,
}

/// A pending step, between its rollouts and its last update, as saved in a checkpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PendingStep {
    /// Completions with grades, scores and advantages.
    pub sampled: SampledStep,
    /// The settings when they were sampled: live changes take effect at the next step.
    pub grpo: GrpoSettings,
    /// Their temperature.
    pub temperature: f64,
    /// The finished updates, in order.
    pub updates: Vec<FinishedUpdate>,
    /// Time spent so far.
    pub seconds: Seconds,
    /// Gradients by quartile, measured before the first update.
    pub gradient: Option<BinGradient>,
    /// Measured at the last update.
    #[serde(skip)]
    norms: Option<Norms>,
    /// All updates of the step, derived from the other fields.
    #[serde(skip)]
    plan: Option<Vec<(UpdatePass, Range<usize>)>>,
}

/// A finished update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinishedUpdate {
    /// Its pass: `all`, `low` or `high`.
    pub pass: String,
    /// Its statistics.
    pub stats: UpdateStats,
}

impl Reinforce {
    /// Allocate everything; the matching optimizer comes from [`Reinforce::optimizer`].
    ///
    /// # Errors
    /// Invalid lengths, or a kernel that does not compile.
    pub fn new(device: &Device, model: &Model, settings: &Settings, task_context: TaskContext, world: &World) -> Result<Self> {
        let (_, rollout, grpo) = settings.reinforcement().context("the settings have no GRPO sections")?;
        let completions = settings.train.batch_size;
        let max_len = rollout.max_prompt_length + rollout.max_completion_length;
        ensure!(
            completions >= world.size(),
            "--batch-size {completions}: fewer completions than ranks ({}); start fewer ranks, or use a larger batch",
            world.size()
        );
        // A rank never uses more rows than its share of completions.
        let slots = slots(&model.config, settings, rollout, device.sizes()).min(completions.div_ceil(world.size()));
        Ok(Self {
            task_context,
            engine: RolloutEngine::in_world(device, model, slots, max_len, rollout.kv_cache_dtype.element(), world.clone())?,
            policy: Policy::in_world(device, model, settings, world.clone())?,
            reference: None,
            reference_element: settings.train.frozen_element(),
            rollout: rollout.clone(),
            grpo: grpo.clone(),
            seed: settings.train.seed,
            completions,
            pending_step: None,
            watch: warnings::WarningState::default(),
        })
    }

    /// The optimizer of these settings.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn optimizer(&self, device: &Device, model: &Model, settings: &Settings) -> Result<Optimizer> {
        self.policy.optimizer(device, model, settings)
    }

    /// Statistics of an update, on the device.
    pub fn stats(&self) -> &Tensor {
        self.policy.stats()
    }

    /// Sample the completions of a new step, score them and fill in advantages; `None` when `progress` stopped it.
    fn start_step(
        &mut self,
        on: PolicyModel<'_>,
        state: &mut TrainerState,
        progress: &mut Progress<'_>,
    ) -> Result<Option<PendingStep>> {
        let mut now = PendingStep {
            grpo: GrpoSettings {
                reweight_alpha: state.hyper.reweight_alpha.unwrap_or(self.grpo.reweight_alpha),
                lopti_eta: state.hyper.lopti_eta.or(self.grpo.lopti_eta),
                ..self.grpo.clone()
            },
            temperature: state.hyper.temperature.unwrap_or(self.rollout.temperature),
            ..PendingStep::default()
        };
        let mut asked = state.questions;
        let r = &self.rollout;
        let sampling = Sampling { temperature: now.temperature, top_k: r.top_k, top_p: r.top_p, min_p: r.min_p, seed: self.seed };
        let mut sampler = Sampler {
            device: on.device,
            model: on.model,
            engine: &mut self.engine,
            task: self.task_context.task.as_mut(),
            tokenizer: &self.task_context.tokenizer,
            stops: &self.task_context.stops,
            chat: self.task_context.chat,
            settings: &self.rollout,
            completions: self.completions,
            sampling,
            step: state.step,
        };
        let Some(sampled) = sampler.sample(&mut asked, progress)? else { return Ok(None) };
        state.questions = asked;
        [now.seconds.rollout, now.seconds.grade] = sampled.seconds;
        now.sampled = sampled;
        let begin = Instant::now();
        progress("scoring", 0, 1)?;
        let rollouts = &mut now.sampled.rollouts;
        self.policy.score(on.device, on.model, rollouts, now.temperature)?;
        let without_adapters = (self.grpo.beta > 0.0 && !on.model.adapters.is_empty()).then_some(on.model);
        if let Some(reference) = self.reference.as_ref().or(without_adapters) {
            self.policy.score_reference(on.device, reference, rollouts, now.temperature)?;
        }
        advantage::fill(rollouts, &now.grpo)?;
        now.seconds.score = begin.elapsed().as_secs_f64();
        if self.is_probed(state.step + 1) {
            let begin = Instant::now();
            let loss = self.loss(&now);
            now.gradient = Some(probe::gradient_by_quartile(&mut self.policy, on, &now.sampled.rollouts, &now.grpo, &loss)?);
            now.seconds.probe = begin.elapsed().as_secs_f64();
        }
        Ok(Some(now))
    }

    /// All updates of a step: all mini-batches of a pass, then those of the next.
    fn plan(&self, now: &PendingStep, step: u64) -> Result<Vec<(UpdatePass, Range<usize>)>> {
        let all = passes(&now.sampled.rollouts, &now.grpo, self.seed, step)?;
        let batches: Vec<Range<usize>> = self.policy.mini_batches(now.sampled.rollouts.len()).collect();
        Ok(all.iter().flat_map(|pass| batches.iter().map(|range| (pass.clone(), range.clone()))).collect())
    }

    fn loss(&self, now: &PendingStep) -> Loss {
        // Groups with equal rewards contribute nothing to the gradient and are skipped.
        Loss { temperature: now.temperature, skip_idle: true, ..Loss::of(&self.rollout, &now.grpo) }
    }

    fn is_probed(&self, step: u64) -> bool {
        is_due(step, self.grpo.probe_every)
    }

    /// Finish the step and return its results.
    fn finish(
        &mut self,
        on: PolicyModel<'_>,
        state: &mut TrainerState,
        hyper: &UpdateParams,
        mut now: PendingStep,
        progress: &mut Progress<'_>,
    ) -> Result<StepResult> {
        state.step += 1;
        let tokens: usize = now.sampled.rollouts.iter().map(|r| r.prompt.len() + r.completion.len()).sum();
        state.num_tokens += tokens as u64;
        let mut after = None;
        if self.is_probed(state.step) {
            let begin = Instant::now();
            progress("probing", 0, 1)?;
            after = Some(self.policy.logprobs(on.device, on.model, &now.sampled.rollouts, now.temperature)?);
            now.seconds.probe += begin.elapsed().as_secs_f64();
        }
        let logged = is_due(state.step, self.rollout.log_completions);
        let samples =
            if logged { step_report::completions(&now.sampled, &self.task_context.tokenizer, state.step)? } else { Vec::new() };
        let (mut numbers, mut events) = step_report::step(&now, after.as_deref(), state, &self.rollout, &mut self.watch);
        numbers.learning_rate = hyper.learning_rate;
        events.extend(now.norms.take().map(Event::Norms));
        Ok(StepResult { numbers, events, samples })
    }
}

impl TrainingStage for Reinforce {
    fn keep_reference(&mut self, device: &Device, model: &Model, files: Option<&WeightFiles>) -> Result<()> {
        // With adapters, the reference is the model without them.
        if self.grpo.beta == 0.0 || !model.adapters.is_empty() {
            return Ok(());
        }
        let reference = Model::frozen(device, &model.config, model.max_context(), self.reference_element)?;
        match files {
            Some(files) => reference.load(device, files)?,
            None => reference.set(device, &model.get(device)?),
        }
        self.reference = Some(reference);
        Ok(())
    }

    fn reference(&self) -> Option<&Model> {
        self.reference.as_ref()
    }

    fn pending_step(&self) -> Option<&PendingStep> {
        self.pending_step.as_ref()
    }

    fn set_pending_step(&mut self, step: Option<PendingStep>) {
        self.pending_step = step;
    }

    /// The next update of the pending step; samples first if there is none. The step's results come with its last update.
    fn step(&mut self, parts: TrainerParts<'_>, hyper: UpdateParams, progress: &mut Progress<'_>) -> Result<Option<StepResult>> {
        let TrainerParts { device, model, optimizer, state, .. } = parts;
        let on = PolicyModel { device, model, optimizer };
        let mut now = match self.pending_step.take() {
            Some(now) => now,
            None => match self.start_step(on, state, progress)? {
                Some(now) => now,
                None => return Ok(None),
            },
        };
        let plan = match now.plan.take() {
            Some(plan) => plan,
            None => self.plan(&now, state.step)?,
        };
        if let Some((pass, range)) = plan.get(now.updates.len()) {
            let begin = Instant::now();
            self.policy.optimizer_steps = [state.optimizer_steps, state.second_optimizer_steps];
            let loss = self.loss(&now);
            let is_last = now.updates.len() + 1 == plan.len();
            let norms = on.optimizer.norms_of(state.step + 1).filter(|_| is_last);
            norms.map_or(Ok(()), |norms| norms.measure_before(device))?;
            let stats = self.policy.update(on, &now.sampled.rollouts, range.clone(), pass, &loss, &hyper)?;
            if let Some(norms) = norms {
                norms.measure_after(device)?;
                now.norms = Some(norms.read(device, state.step + 1)?);
            }
            [state.optimizer_steps, state.second_optimizer_steps] = self.policy.optimizer_steps;
            now.updates.push(FinishedUpdate { pass: pass.name.to_owned(), stats });
            now.seconds.update += begin.elapsed().as_secs_f64();
            progress("updating", now.updates.len() as u64, plan.len() as u64)?;
        }
        if now.updates.len() < plan.len() {
            now.plan = Some(plan);
            self.pending_step = Some(now);
            return Ok(None);
        }
        self.finish(on, state, &hyper, now, progress).map(Some)
    }

    fn run_command(&mut self, device: &Device, model: &Model, optimizer: &Optimizer, command: &RankCommand) -> Result<()> {
        let on = PolicyModel { device, model, optimizer };
        match command.kind.as_str() {
            RolloutEngine::ROLLOUTS => self.engine.run_command(device, model, command),
            Policy::SCORE => self.policy.run_score_command(device, (model, self.reference.as_ref()), command),
            Policy::UPDATE => self.policy.run_update_command(on, command),
            kind => bail!("{kind}: unknown command (a defect of lehr)"),
        }
    }

    fn tokens_per_step(&self) -> u64 {
        self.completions as u64
    }

    fn evaluate_task(
        &mut self,
        device: &Device,
        model: &Model,
        step: u64,
        temperature: f64,
        progress: &mut Progress<'_>,
    ) -> Result<Option<TaskEval>> {
        self.held_out(device, model, step, temperature, progress)
    }
}

/// Completions that are generated at once.
pub fn slots(config: &ModelConfig, settings: &Settings, rollout: &RolloutSettings, sizes: Sizes) -> usize {
    let max_len = rollout.max_prompt_length + rollout.max_completion_length;
    let most = || default_slots(config, max_len, rollout.kv_cache_dtype.element(), sizes);
    rollout.rollout_batch_size.unwrap_or_else(most).min(settings.train.batch_size).max(1)
}

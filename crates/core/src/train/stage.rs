//! The interface of the stages: pre-training and fine-tuning are [`super::supervised::Supervised`] over a source of batches, GRPO
//! ([`super::reinforce::Reinforce`]) samples its own.

use super::live_merge::LiveMerge;
use super::predictions::PredictionStats;
use super::reinforce::PendingStep;
use super::{Evaluation, Optimizer, Scorer, StepResult, TrainerState};
use crate::device::{Device, Recording};
use crate::event::TaskEval;
use crate::model::Model;
use crate::model_files::weight_files::WeightFiles;
use crate::ops::adamw::UpdateParams;
use crate::progress::Progress;
use crate::world::RankCommand;
use anyhow::Result;

/// The parts of a trainer that its stage uses.
pub(super) struct TrainerParts<'a> {
    pub device: &'a Device,
    pub model: &'a Model,
    pub optimizer: &'a mut Optimizer,
    pub live_merge: Option<&'a mut LiveMerge>,
    pub state: &'a mut TrainerState,
}

/// A training stage. The defaults are for stages without the feature; [`super::Trainer`] documents each method.
pub(super) trait TrainingStage {
    /// Make the next update, with `hyper`.
    fn step(&mut self, parts: TrainerParts<'_>, hyper: UpdateParams, progress: &mut Progress<'_>) -> Result<Option<StepResult>>;

    /// The result of the oldest update that was submitted and not yet returned.
    fn take(&mut self, _: &Device, _: &mut Optimizer) -> Result<Option<StepResult>> {
        Ok(None)
    }

    /// On ranks other than 0: execute a command.
    fn run_command(&mut self, device: &Device, model: &Model, optimizer: &Optimizer, command: &RankCommand) -> Result<()>;

    /// Tokens per update; in GRPO, completions.
    fn tokens_per_step(&self) -> u64;

    /// Held-out loss of the model's own weights, or of those of the recording `by`.
    fn evaluate(
        &self,
        _: &Device,
        _by: Option<&Scorer>,
        _tokens: u64,
        _: Option<&mut PredictionStats>,
        _: &mut Progress<'_>,
    ) -> Result<Option<Evaluation>> {
        Ok(None)
    }

    /// Evaluate on the task's held-out questions.
    fn evaluate_task(
        &mut self,
        _: &Device,
        _: &Model,
        _step: u64,
        _temperature: f64,
        _: &mut Progress<'_>,
    ) -> Result<Option<TaskEval>> {
        Ok(None)
    }

    fn recording(&self) -> Option<(&Recording, usize)> {
        None
    }

    fn keep_reference(&mut self, _: &Device, _: &Model, _: Option<&WeightFiles>) -> Result<()> {
        Ok(())
    }

    fn reference(&self) -> Option<&Model> {
        None
    }

    fn pending_step(&self) -> Option<&PendingStep> {
        None
    }

    fn set_pending_step(&mut self, _: Option<PendingStep>) {}
}

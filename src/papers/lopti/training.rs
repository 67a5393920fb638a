//! Training of an arm with the common trainer, with evaluations and a record.

use super::arm::{ArmEval, ArmStage, LevelCounts, LoptiArm, LoptiRecord};
use super::task_setup::TaskSetup;
use crate::config::{DeviceSettings, GrpoSettings, RolloutSettings, Settings};
use crate::device::Device;
use crate::event::{Event, TaskEval};
use crate::papers::jobs::{AttemptResult, check};
use crate::papers::store::WorkFolder;
use crate::progress::{Interrupted, Progress};
use crate::session::control::Control;
use crate::train::{StepResult, Trainer, TrainingLoop, train};
use crate::vfs::{display_path, write_whole};
use anyhow::Context as _;
use std::path::PathBuf;
use web_time::Instant;

/// Shared state for training arms.
pub struct TrainingContext<'a> {
    /// Where arms are stored.
    pub store: &'a WorkFolder,
    /// Vocabulary and questions of the arm's task.
    pub task_setup: &'a TaskSetup,
    /// Adapter by name or index.
    pub device: &'a DeviceSettings,
}

/// File of an arm's final weights.
fn weights_file(store: &WorkFolder, arm: &LoptiArm) -> PathBuf {
    store.folder(&arm.name, &arm.key()).join("weights.f32")
}

/// The final weights of a finished arm, in Hugging Face's order of tensors.
///
/// # Errors
/// The file is missing or damaged.
pub fn weights(store: &WorkFolder, arm: &LoptiArm) -> anyhow::Result<Vec<f32>> {
    let path = weights_file(store, arm);
    let bytes = std::fs::read(&path).with_context(|| format!("{}: cannot be read", display_path(&path)))?;
    anyhow::ensure!(bytes.len().is_multiple_of(4), "{}: damaged; remove its folder", display_path(&path));
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

impl TrainingContext<'_> {
    /// Train an arm unless it exists. Its parent must exist.
    ///
    /// # Errors
    /// A device or disk error, or [`Interrupted`].
    pub fn train(&self, arm: &LoptiArm, progress: &mut Progress<'_>) -> anyhow::Result<AttemptResult> {
        self.store.once(&arm.name, &arm.key(), || {
            let begin = Instant::now();
            let mut training = match &arm.work {
                ArmStage::FineTune => self.fine_tuning(arm, progress)?,
                ArmStage::Reinforce { from, rollout, grpo, .. } => self.reinforcement(arm, from, rollout, grpo, progress)?,
            };
            train(&mut training, arm.train.max_steps)?;
            let LoptiTraining { trainer, mut record, .. } = training;
            if let ArmStage::FineTune = arm.work {
                let weights = trainer.model.get(&trainer.device)?;
                write_whole(&weights_file(self.store, arm), bytemuck::cast_slice(&weights))?;
            }
            record.seconds = begin.elapsed().as_secs_f64();
            self.store.finish(&arm.name, &arm.key(), arm, &record)
        })
    }

    fn device(&self) -> anyhow::Result<Device> {
        // Without tuning: kernels chosen by timing would make the bits vary.
        Device::open(self.device)
    }

    fn fine_tuning<'a>(&self, arm: &'a LoptiArm, progress: &'a mut Progress<'a>) -> anyhow::Result<LoptiTraining<'a>> {
        let settings = Settings { model: arm.model.clone(), train: arm.train.clone(), ..Settings::default() };
        let config = arm.model.config(self.task_setup.vocab(), arm.train.seq_len);
        let worked_solutions = self.task_setup.worked_solutions(&arm.task, arm.train.seq_len, arm.train.seed)?;
        let trainer = Trainer::new(self.device()?, &settings, &config, Box::new(worked_solutions))?;
        let record = LoptiRecord { updates: arm.train.max_steps, ..LoptiRecord::default() };
        Ok(LoptiTraining { trainer, arm, record, progress })
    }

    fn reinforcement<'a>(
        &self,
        arm: &'a LoptiArm,
        from: &LoptiArm,
        rollout: &RolloutSettings,
        grpo: &GrpoSettings,
        progress: &'a mut Progress<'a>,
    ) -> anyhow::Result<LoptiTraining<'a>> {
        let settings = Settings {
            model: arm.model.clone(),
            train: arm.train.clone(),
            task: Some(arm.task.clone()),
            rollout: Some(rollout.clone()),
            grpo: Some(grpo.clone()),
            ..Settings::default()
        };
        let config = arm.model.config(self.task_setup.vocab(), arm.train.seq_len);
        let task_context = self.task_setup.task_context(&arm.task, arm.train.seed)?;
        let mut trainer = Trainer::reinforce(self.device()?, &settings, &config, task_context)?;
        trainer.model.set(&trainer.device, &weights(self.store, from)?);
        trainer.keep_reference(None)?;
        let asked = serde_json::to_string(&(&arm.task, rollout, arm.train.seed))?;
        let first = self.store.cached(&["exam", &from.key(), &asked], || evaluate(&mut trainer, rollout.temperature))?;
        Ok(LoptiTraining { trainer, arm, record: LoptiRecord { evals: vec![first], ..LoptiRecord::default() }, progress })
    }
}

/// An arm during training.
struct LoptiTraining<'a> {
    trainer: Trainer,
    arm: &'a LoptiArm,
    record: LoptiRecord,
    progress: &'a mut Progress<'a>,
}

impl TrainingLoop for LoptiTraining<'_> {
    fn trainer(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    fn before_update(&mut self) -> anyhow::Result<bool> {
        check().map(|()| true)
    }

    fn update(&mut self) -> anyhow::Result<Option<StepResult>> {
        self.trainer.step_watched(&mut |_, _, _| Ok(!Control::interrupted()))
    }

    fn report(&mut self, row: StepResult) -> anyhow::Result<()> {
        match self.arm.work {
            ArmStage::FineTune => self.record.loss.push(if row.loss.is_finite() { row.loss } else { f64::MAX }),
            ArmStage::Reinforce { .. } => note(&mut self.record, &row),
        }
        Ok(())
    }

    fn after_update(&mut self, is_step: bool) -> anyhow::Result<bool> {
        let step = self.trainer.state.step;
        (self.progress)("training", step, self.arm.train.max_steps)?;
        if let ArmStage::Reinforce { rollout, evals, .. } = &self.arm.work
            && is_step
            && evals.contains(&step)
        {
            self.record.evals.push(evaluate(&mut self.trainer, rollout.temperature)?);
        }
        Ok(true)
    }
}

/// Record a step's numbers.
fn note(record: &mut LoptiRecord, row: &StepResult) {
    let metric = |name: &str| row.metrics.get(name).map_or(f64::NAN, |n| n.0);
    let finite = |v: f64| if v.is_finite() { v } else { 0.0 };
    record.reward.push(finite(metric("reward")));
    record.correct.push(finite(metric(CORRECT)));
    record.entropy.push(finite(row.entropy));
    record.grad_norm.push(finite(row.grad_norm));
    record.updates += finite(metric("num_updates")) as u64;
    for event in &row.events {
        if let Event::Tokens(tokens) = event {
            let shares: Vec<f64> = tokens.quartiles.all.share.iter().map(|s| finite(s.0)).collect();
            if row.step == 1 {
                record.shares[0].clone_from(&shares);
            }
            record.shares[1] = shares;
        }
    }
}

/// The metric for a step's share of correct completions.
const CORRECT: &str = "accuracy";

/// Evaluate greedy and sampled answers.
fn evaluate(trainer: &mut Trainer, temperature: f64) -> anyhow::Result<ArmEval> {
    let mut ask = |temperature: f64| -> anyhow::Result<TaskEval> {
        Ok(trainer.evaluate_task(temperature, &mut |_, _, _| Ok(!Control::interrupted()))?.ok_or(Interrupted)?)
    };
    let (sampled, greedy) = (ask(temperature)?, ask(0.0)?);
    Ok(ArmEval { step: sampled.step, sampled: levels(&sampled), greedy: levels(&greedy) })
}

fn levels(of: &TaskEval) -> LevelCounts {
    let counts = |score: &crate::event::Score| (score.count, (score.accuracy * score.count as f64).round() as u64);
    of.levels.iter().map(|(level, score)| (*level, counts(score))).collect()
}

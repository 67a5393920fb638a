//! Training an arm: the trainer of every stage, with exams and a record.

use super::arm::{Arm, Exam, Levels, Record, Work};
use super::task_setup::TaskSetup;
use crate::config::{DeviceSettings, Settings};
use crate::device::Device;
use crate::event::{Event, TaskEval};
use crate::papers::attempts::{Ended, Interrupted};
use crate::papers::store::Store;
use crate::session::control::Control;
use crate::train::{StepResult, Trainer};
use crate::vfs::shown;
use crate::vfs::write_whole;
use anyhow::Context as _;
use std::path::PathBuf;
use web_time::Instant;

/// What a trainer of arms needs.
pub struct TrainingContext<'a> {
    /// Where arms are kept.
    pub store: &'a Store,
    /// Words and questions of the arm's task.
    pub task_setup: &'a TaskSetup,
    /// Adapter by name or index.
    pub device: &'a DeviceSettings,
}

/// File of an arm's last weights.
fn weights_file(store: &Store, arm: &Arm) -> PathBuf {
    store.folder(&arm.name, &arm.key()).join("weights.f32")
}

/// The last weights of a finished arm, by Hugging Face's order of tensors.
///
/// # Errors
/// The file is gone or damaged.
pub fn weights(store: &Store, arm: &Arm) -> anyhow::Result<Vec<f32>> {
    let path = weights_file(store, arm);
    let bytes = std::fs::read(&path).with_context(|| format!("{}: cannot be read", shown(&path)))?;
    anyhow::ensure!(bytes.len().is_multiple_of(4), "{}: damaged; remove its folder", shown(&path));
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

impl TrainingContext<'_> {
    /// Train an arm unless it is there. What it begins from must be. `tell` gets the part that is done.
    ///
    /// # Errors
    /// A device fault or a disk that refuses.
    pub fn train(&self, arm: &Arm, tell: &mut dyn FnMut(f64)) -> anyhow::Result<Ended> {
        let (name, key) = (&arm.name, &arm.key());
        if self.store.is_done(name, key) {
            return Ok(Ended::Done);
        }
        let Some(_lock) = self.store.lock(name, key)? else { return Ok(Ended::Busy) };
        if self.store.is_done(name, key) {
            return Ok(Ended::Done);
        }
        let begin = Instant::now();
        let record = match &arm.work {
            Work::FineTune => self.fine_tune(arm, tell)?,
            Work::Reinforce { .. } => self.reinforce(arm, tell)?,
        };
        let Some(mut record) = record else { return Ok(Ended::Interrupted) };
        record.seconds = begin.elapsed().as_secs_f64();
        self.store.finish(name, key, arm, &record)?;
        Ok(Ended::Done)
    }

    fn device(&self) -> anyhow::Result<Device> {
        // Not tuned: kernels that were chosen by the clock would make the bits depend on the day.
        Device::open(self.device)
    }

    /// `None` when a signal came.
    fn fine_tune(&self, arm: &Arm, tell: &mut dyn FnMut(f64)) -> anyhow::Result<Option<Record>> {
        let settings = Settings { model: arm.model.clone(), train: arm.train.clone(), ..Settings::default() };
        let config = arm.model.config(self.task_setup.vocab(), arm.train.seq_len);
        let worked_solutions = self.task_setup.worked_solutions(&arm.task, arm.train.seq_len, arm.train.seed)?;
        let mut trainer = Trainer::new(self.device()?, &settings, &config, Box::new(worked_solutions))?;
        let mut record = Record { updates: arm.train.max_steps, ..Record::default() };
        for done in 1..=arm.train.max_steps {
            if Control::interrupted() {
                return Ok(None);
            }
            record.loss.extend(trainer.step()?.map(|row| row.loss));
            tell(done as f64 / arm.train.max_steps as f64);
        }
        record.loss.extend(trainer.flush()?.into_iter().map(|row| row.loss));
        record.loss.iter_mut().filter(|l| !l.is_finite()).for_each(|l| *l = f64::MAX);
        let weights = trainer.model.get(&trainer.device)?;
        write_whole(&weights_file(self.store, arm), bytemuck::cast_slice(&weights))?;
        Ok(Some(record))
    }

    /// `None` when a signal came.
    fn reinforce(&self, arm: &Arm, tell: &mut dyn FnMut(f64)) -> anyhow::Result<Option<Record>> {
        let Work::Reinforce { from, rollout, grpo, exams } = &arm.work else { return Ok(None) };
        let settings = Settings {
            model: arm.model.clone(),
            train: arm.train.clone(),
            task: Some(arm.task.clone()),
            rollout: Some(rollout.clone()),
            grpo: Some((**grpo).clone()),
            ..Settings::default()
        };
        let config = arm.model.config(self.task_setup.vocab(), arm.train.seq_len);
        let task_context = self.task_setup.task_context(&arm.task, arm.train.seed)?;
        let mut trainer = Trainer::reinforce(self.device()?, &settings, &config, task_context)?;
        trainer.model.set(&trainer.device, &weights(self.store, from)?);
        trainer.keep_reference(None)?;
        let mut record = Record::default();
        let asked = serde_json::to_string(&(&arm.task, rollout, arm.train.seed))?;
        record.exams.push(self.store.remember(&["exam", &from.key(), &asked], || {
            exam(&mut trainer, rollout.temperature)?.ok_or_else(|| Interrupted.into())
        })?);
        while trainer.state.step < arm.train.max_steps {
            let row = trainer.step_watched(&mut |_, _, _| !Control::interrupted())?;
            if Control::interrupted() {
                return Ok(None);
            }
            let Some(row) = row else { continue };
            note(&mut record, &row);
            tell(row.step as f64 / arm.train.max_steps as f64);
            if exams.contains(&row.step) {
                let Some(exam) = exam(&mut trainer, rollout.temperature)? else { return Ok(None) };
                record.exams.push(exam);
            }
        }
        Ok(Some(record))
    }
}

/// A step's numbers.
fn note(record: &mut Record, row: &StepResult) {
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

/// The metric of a step that says how many of its completions are right.
const CORRECT: &str = "accuracy";

/// Both ways to answer; `None` when a signal came.
fn exam(trainer: &mut Trainer, temperature: f64) -> anyhow::Result<Option<Exam>> {
    let mut ask = |temperature: f64| trainer.evaluate_task(temperature, &mut |_, _, _| !Control::interrupted());
    let (Some(sampled), Some(greedy)) = (ask(temperature)?, ask(0.0)?) else { return Ok(None) };
    Ok(Some(Exam { step: sampled.step, sampled: levels(&sampled), greedy: levels(&greedy) }))
}

fn levels(of: &TaskEval) -> Levels {
    let counts = |score: &crate::event::Score| (score.count, (score.accuracy * score.count as f64).round() as u64);
    of.levels.iter().map(|(level, score)| (*level, counts(score))).collect()
}

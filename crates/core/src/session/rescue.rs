//! Loss spikes in a run: detected spikes are reported; with `--rescue` the run is rolled back to good weights, or ends with a report.
//!
//! All of this depends only on the updates' numbers and on scheduled saves, and its state is part of every checkpoint: a run that is killed
//! anywhere and resumed makes the same decisions and reaches the same bits. Saves by a stop or `SaveNow` are therefore not used for a
//! rollback. Checkpoints after the one restored belong to the abandoned part of the run and are removed.

use super::run::Run;
use super::save;
use crate::config::{RescueMethod, is_due};
use crate::event::{Event, LiveSettings, Rescue, Step};
use crate::merge::{MergeInputs, MergeRule, Verification};
use crate::model_files::checkpoint::{Checkpoint, step_name};
use crate::number_format::counted;
use crate::run_folder::checkpoints;
use crate::train::rescue::{Ladder, RescuePlan};
use crate::train::spike::{Detector, PersistentSpike, Sign};
use crate::vfs::display_path;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The spike detector and the rescue ladder of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RescueWatch {
    /// Detects spikes.
    pub detector: Detector,
    /// Decides how to respond.
    pub ladder: Ladder,
    /// A persistent spike that is not handled yet; nothing is saved meanwhile.
    #[serde(skip)]
    trouble: Option<PersistentSpike>,
}

impl RescueWatch {
    /// Whether a rollback is pending, so that further numbers are discarded.
    pub fn is_rollback_pending(&self) -> bool {
        self.trouble.is_some()
    }
}

impl Run<'_> {
    fn rescues(&self) -> bool {
        self.settings.rescue.rescue != RescueMethod::Off
    }

    /// Check an update's numbers.
    pub(super) fn check_step(&mut self, result: &Step) {
        let patience = self.settings.rescue.rescue_patience;
        let sign = self.watch.detector.observe(result.step, result.loss, result.grad_norm, patience);
        if self.rescues() {
            self.watch.ladder.updated(result.step, self.watch.detector.is_calm());
        }
        match sign {
            None => {}
            Some(Sign::PersistentSpike(trouble)) if self.rescues() => self.watch.trouble = Some(trouble),
            Some(sign) => self.out.emit(&Event::Warning { text: spike_message(&sign, result) }),
        }
    }

    /// Save the start of a run, so that a rescue can return to it.
    pub(super) fn save_start(&mut self) -> Result<()> {
        if !self.rescues() || self.last_saved.is_some() {
            return Ok(());
        }
        self.watch.ladder.started(self.trainer.state.step);
        self.save(false)
    }

    /// Record a scheduled save (and `lost` if it failed).
    pub(super) fn watch_save(&mut self, step: u64, lost: bool) {
        if lost {
            self.watch.ladder.lost(step);
        } else if self.rescues() && is_due(step, self.settings.save.save_every) {
            self.watch.ladder.saved(step, self.watch.detector.is_calm());
        }
        self.retention.keep_good(self.watch.ladder.pinned());
    }

    /// True if nothing was done since the rollback to this step: its checkpoint is the restored one and stays valid.
    pub(super) fn just_rolled_back(&self) -> bool {
        let step = self.trainer.state.step;
        self.last_saved == Some(step) && self.watch.ladder.past.last().is_some_and(|past| past.to == step)
    }

    /// Report a run that ends during a spike; its last checkpoint is not a good one.
    pub(super) fn report_unfinished(&mut self) {
        let Some(onset) = self.watch.detector.pending_step() else { return };
        // A full disk may have cost some of them.
        let is_there = |step: &u64| self.vfs.exists(&self.folder.checkpoints().join(step_name(*step))).unwrap_or_default();
        let good = self.watch.ladder.pinned().filter(|step| *step < onset).filter(is_there).max();
        let good = good.map_or(String::new(), |step| format!("; the newest good checkpoint is that of step {step}"));
        let text = format!("the run ends in a spike, which began about step {onset} and had not passed{good}");
        self.out.emit(&Event::Warning { text });
    }

    /// Roll back after a persistent spike; true if the run did, with the clock stopped.
    pub(super) fn rescue(&mut self) -> Result<bool> {
        let Some(trouble) = self.watch.trouble.take() else { return Ok(false) };
        self.clock.stop();
        // Updates submitted meanwhile are discarded too.
        self.trainer.flush()?;
        let (vfs, run) = (self.vfs, self.folder.path().to_path_buf());
        let (mut found, mut damaged) = (BTreeMap::new(), Vec::new());
        let mut usable = |step: u64| match Checkpoint::open(vfs, &checkpoints::folder(&run).join(step_name(step))) {
            Ok(checkpoint) => found.insert(step, checkpoint).is_none(),
            Err(error) => {
                damaged.push(format!("cannot go back to step {step}: {error:#}"));
                false
            }
        };
        let decided = self.watch.ladder.decide(&trouble, &self.settings.rescue, &mut usable);
        damaged.into_iter().for_each(|text| self.out.emit(&Event::Warning { text }));
        let plan = match decided {
            Ok(plan) => plan,
            Err(account) => {
                let good = self.watch.ladder.pinned().filter(|step| *step < trouble.onset).max();
                let fork = good.map_or(String::new(), |step| format!(": --fork {}@{step} continues from it", display_path(&run)));
                bail!("{account}; what was saved stays{fork}");
            }
        };
        let checkpoints = plan.from_steps.iter().map(|step| found.remove(step).context("a checkpoint that was just verified"));
        self.roll_back(&plan, &trouble, &checkpoints.collect::<Result<Vec<_>>>()?)?;
        Ok(true)
    }

    fn roll_back(&mut self, plan: &RescuePlan, trouble: &PersistentSpike, from: &[Checkpoint]) -> Result<()> {
        let newest = from.last().context("a plan names a checkpoint")?;
        let vfs = self.vfs;
        let trainer = &mut self.trainer;
        let before = trainer.state.clone();
        let file = save::restore(vfs, newest, trainer)?;
        if from.len() > 1 {
            let dirs: Vec<_> = from.iter().map(|checkpoint| checkpoint.path.clone()).collect();
            let inputs = MergeInputs::open(vfs, &dirs, Verification::Sizes)?;
            inputs.merge(&MergeRule::Sma)?.load(&trainer.device, &trainer.model)?;
        }
        if plan.reset {
            trainer.forget_moments()?;
        }
        trainer.state.skipped_batches = before.skipped_batches + plan.skip;
        trainer.state.rescue_scale = Some(plan.learning_rate_scale).filter(|scale| *scale != 1.0);
        trainer.broadcast_state()?;
        let hyper = trainer.state.hyper.clone();
        self.watch.detector.roll_back(file.watch.detector);
        (self.last_saved, self.checkpoint) = (Some(plan.to()), Some(newest.path.clone()));
        let purged = self.retention.remove_after(vfs, self.folder.path(), plan.to())?;
        let out = &mut self.out;
        let tokens = self.settings.eval.eval_tokens;
        let after = self.trainer.evaluate(tokens, &mut |what, done, all| out.progress(what, done, all))?;
        self.eval_loss = after.map(|e| e.loss);
        let settings = &self.settings.rescue;
        self.out.emit(&Event::Rescue(Rescue {
            step: trouble.at,
            to_step: plan.to(),
            method: settings.rescue.name().into(),
            from_steps: plan.from_steps.clone(),
            cause: trouble.cause.clone(),
            note: plan.note.clone(),
            onset: trouble.onset,
            loss_before: trouble.loss_before,
            loss_at_spike: trouble.loss_at_spike,
            eval_loss: self.eval_loss,
            optimizer: settings.rescue_optimizer.name().into(),
            skipped_batches: plan.skip,
            learning_rate_scale: plan.learning_rate_scale,
            count: self.watch.ladder.past.len() as u64,
        }));
        purged.warnings.into_iter().for_each(|text| self.out.emit(&Event::Warning { text }));
        self.report_live_settings(&before.hyper, &hyper, plan.to());
        Ok(())
    }

    /// Report live settings that were restored from the checkpoint.
    fn report_live_settings(&mut self, before: &LiveSettings, after: &LiveSettings, step: u64) {
        let norm = self.settings.train.max_grad_norm;
        for (name, before, after, default) in [
            ("learning_rate_scale", before.learning_rate_scale, after.learning_rate_scale, 1.0),
            ("max_grad_norm", before.max_grad_norm, after.max_grad_norm, norm),
        ] {
            let (before, after) = (before.unwrap_or(default), after.unwrap_or(default));
            if before != after {
                self.out.emit(&Event::HyperChanged { step, name: name.into(), before, after });
            }
        }
    }
}

/// A spike as a line of text.
fn spike_message(sign: &Sign, result: &Step) -> String {
    let step = result.step;
    match sign {
        Sign::Spike { loss, usual, .. } => {
            format!("step {step}: the loss has risen to {loss:.3}, typically {usual:.3} (grad_norm {:.3})", result.grad_norm)
        }
        Sign::Norm { grad_norm, usual } => {
            format!("step {step}: grad_norm is {grad_norm:.3}, typically {usual:.3}")
        }
        Sign::Passed { onset, lasted, peak } => {
            let lasted = counted(*lasted, "step");
            format!("step {step}: the loss is back, {lasted} after its rise about step {onset} (highest {peak:.3})")
        }
        Sign::PersistentSpike(trouble) => format!(
            "step {step}: {}; training has diverged: start from a checkpoint before it (--fork RUN@STEP) with a lower --learning-rate, \
             or let --rescue rollback or pma do so automatically",
            trouble.cause
        ),
    }
}

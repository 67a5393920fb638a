//! Reinforcement learning besides training: evaluation on held-out questions, and the reference model.

use super::run::Run;
use super::save::ModelFolder;
use super::starting_point::StartingPoint;
use crate::config::Settings;
use crate::data::Tokenizer;
use crate::data::tasks::GraderGone;
use crate::event::Event;
use crate::model_files::checkpoint::{self, CheckpointOrigin, CheckpointTarget, IfExists};
use crate::model_files::weight_files::WeightFiles;
use crate::number_format::counted;
use crate::run_folder::RunFolder;
use crate::train::Trainer;
use crate::vfs::{Vfs, display_path};
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;

impl Run<'_> {
    /// Evaluate on held-out questions: greedily, and sampled as in training.
    pub(super) fn evaluate_task(&mut self) -> Result<()> {
        let sampled = self.settings.rollout.as_ref().map_or(1.0, |r| r.temperature);
        let sampled = self.trainer.state.hyper.temperature.unwrap_or(sampled);
        for temperature in [0.0, sampled] {
            let (out, control) = (&mut self.out, &mut self.control);
            let found = self.trainer.evaluate_task(temperature, &mut |what, done, all| {
                out.progress(what, done, all)?;
                Ok(!control.is_urgent())
            })?;
            let Some(eval) = found else { return Ok(()) };
            // If nothing could be graded, the previous accuracy is kept.
            if temperature == 0.0 {
                self.accuracy = Some(eval.all.accuracy).filter(|accuracy| accuracy.is_finite()).or(self.accuracy);
            }
            let text = (eval.ungraded > 0).then(|| {
                format!(
                    "evaluation after step {}: {} without a reward, not counted, since the grader failed twice: {}",
                    eval.step,
                    counted(eval.ungraded, "answer"),
                    eval.ungraded_reason
                )
            });
            self.out.emit(&Event::TaskEval(eval));
            text.into_iter().for_each(|text| self.out.emit(&Event::Warning { text }));
        }
        Ok(())
    }
}

impl Run<'_> {
    /// When the grader is gone, the run ends in an error but loses nothing: the updates so far are saved, and the run can be resumed once
    /// the grader is repaired. Other errors are returned unchanged.
    pub(super) fn save_without_grader(&mut self, error: anyhow::Error) -> anyhow::Error {
        let step = self.trainer.state.step;
        if !error.is::<GraderGone>() {
            return error;
        }
        let is_saved = self.last_saved == Some(step) && self.trainer.pending_step().is_none();
        self.clock.stop();
        let saved = if is_saved || step == 0 { Ok(()) } else { self.save(true) };
        match saved {
            Ok(()) if step == 0 => error,
            Ok(()) => error.context(format!(
                "the run was saved after step {step}; repair the grader and continue with --resume {}",
                display_path(self.folder.path())
            )),
            Err(unsaved) => error.context(format!("step {step} could not be saved ({unsaved:#})")),
        }
    }
}

/// Folder of the reference model of a run with a KL term.
const REFERENCE: &str = "reference";

/// Set a trainer's reference model: for a resumed run from its folder, for a fork from its parent's, otherwise the initial model.
///
/// # Errors
/// A run that has lost its reference model.
pub(super) fn take_reference(
    vfs: &dyn Vfs,
    settings: &Settings,
    start_from: &StartingPoint,
    trainer: &mut Trainer,
) -> Result<()> {
    if !settings.has_reference_model() {
        return Ok(());
    }
    let Some(run) = start_from.continued_run() else { return trainer.keep_reference(None) };
    let dir = run.join(REFERENCE);
    ensure!(
        vfs.is_dir(&dir)?,
        "{}: the reference model that --beta {} needs is missing; put it back, or start a new run with --init",
        display_path(&dir),
        settings.grpo.as_ref().map_or(0.0, |grpo| grpo.beta)
    );
    trainer.keep_reference(Some(&WeightFiles::open(vfs, &dir).context("the reference model")?))
}

/// Store the reference model of a new run in its folder: its starting point may be gone when it is resumed.
///
/// # Errors
/// A disk error.
pub(super) fn keep_reference(
    vfs: &dyn Vfs,
    folder: &RunFolder,
    trainer: &Trainer,
    tokenizer: &Tokenizer,
    parent: Option<String>,
) -> Result<()> {
    let Some(model) = trainer.reference() else { return Ok(()) };
    let files = ModelFolder { device: &trainer.device, model, values: &model.values, tokenizer };
    let place = CheckpointTarget { parent: folder.path(), name: REFERENCE, bytes: files.bytes(1), existing: IfExists::Replace };
    let origin = CheckpointOrigin { parent, ..CheckpointOrigin::default() };
    checkpoint::save(vfs, place, &origin, |out| files.write(out, &BTreeMap::new()))?;
    Ok(())
}

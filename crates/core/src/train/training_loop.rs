//! The training loop, shared by runs (`session/run.rs`) and the papers' experiments.

use super::{StepResult, Trainer};
use anyhow::Result;

/// Hooks around the updates of a trainer.
pub trait TrainingLoop {
    /// The trainer.
    fn trainer(&mut self) -> &mut Trainer;

    /// Called before an update; false ends the loop at once.
    ///
    /// # Errors
    /// Any error that ends the training.
    fn before_update(&mut self) -> Result<bool>;

    /// Make the next update.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    fn update(&mut self) -> Result<Option<StepResult>>;

    /// Called when the results of an update have arrived, in order.
    ///
    /// # Errors
    /// Any error that ends the training.
    fn report(&mut self, result: StepResult) -> Result<()>;

    /// Called after an update; `is_step` is whether a step ended with it (a GRPO step has several updates). False ends the loop.
    ///
    /// # Errors
    /// Any error that ends the training.
    fn after_update(&mut self, is_step: bool) -> Result<bool>;

    /// Report the updates whose results have not arrived yet. True when a report rolled the trainer back, so that updates remain to be
    /// made.
    ///
    /// # Errors
    /// A device fault, or any error that ends the training.
    fn finish_pending(&mut self) -> Result<bool> {
        for result in self.trainer().flush()? {
            self.report(result)?;
        }
        Ok(false)
    }
}

/// Make updates until the trainer has made `max_steps`; false when [`TrainingLoop::before_update`] ended the loop.
///
/// # Errors
/// Any error of a hook.
pub fn train(on: &mut impl TrainingLoop, max_steps: u64) -> Result<bool> {
    loop {
        while on.trainer().state.step < max_steps {
            if !on.before_update()? {
                return Ok(false);
            }
            let step = on.trainer().state.step;
            // A paused run may have been stepped to its end.
            if step >= max_steps {
                break;
            }
            if let Some(result) = on.update()? {
                on.report(result)?;
            }
            let is_step = on.trainer().state.step != step;
            if !on.after_update(is_step)? {
                break;
            }
        }
        if !on.finish_pending()? {
            return Ok(true);
        }
    }
}

//! The loop around a trainer, the same for a run (`session/run.rs`) and for the papers' experiments.

use super::{StepResult, Trainer};
use anyhow::Result;

/// What is done around the updates of a trainer.
pub trait TrainingLoop {
    /// The trainer.
    fn trainer(&mut self) -> &mut Trainer;

    /// Before an update; false ends the loop at once.
    ///
    /// # Errors
    /// What ends the training.
    fn before_update(&mut self) -> Result<bool>;

    /// Make the next update.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    fn update(&mut self) -> Result<Option<StepResult>>;

    /// The numbers of an update have arrived; they come in order.
    ///
    /// # Errors
    /// What ends the training.
    fn report(&mut self, result: StepResult) -> Result<()>;

    /// After an update; `is_step` tells whether a step ended with it (a step of reinforcement has several updates). False makes it the last.
    ///
    /// # Errors
    /// What ends the training.
    fn after_update(&mut self, is_step: bool) -> Result<bool>;

    /// Report the updates whose numbers have not arrived yet. True when these sent the trainer back, so that it has updates to make again.
    ///
    /// # Errors
    /// A device fault, or what ends the training.
    fn settle(&mut self) -> Result<bool> {
        for result in self.trainer().flush()? {
            self.report(result)?;
        }
        Ok(false)
    }
}

/// Make updates until the trainer has made `max_steps`; false when [`TrainingLoop::before_update`] ended the loop.
///
/// # Errors
/// What any part of `on` reports.
pub fn train(on: &mut impl TrainingLoop, max_steps: u64) -> Result<bool> {
    loop {
        while on.trainer().state.step < max_steps {
            if !on.before_update()? {
                return Ok(false);
            }
            let step = on.trainer().state.step;
            // A run that is paused may have been stepped to its end meanwhile.
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
        if !on.settle()? {
            return Ok(true);
        }
    }
}

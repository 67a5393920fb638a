//! The main loop of a run: trainer, events, commands, checkpoints and signals.

use super::clock::RunClock;
use super::control::{Control, RunRequest};
use super::emitter::{EventEmitter, GradNorms};
use super::rescue::RescueWatch;
use super::unsaved::FailedSaves;
use crate::config::{Settings, Stage, is_due};
use crate::data::Tokenizer;
use crate::event::{Command, Event, Finished, Started, Step};
use crate::model::Generator;
use crate::model_files::checkpoint::CheckpointOrigin;
use crate::run_folder::{Retention, RunFolder};
use crate::train::{StepResult, Trainer, TrainingLoop, train};
use crate::vfs::{Vfs, unix_time};
use std::path::PathBuf;
use web_time::Instant;

/// An opened and checked run with its progress.
pub struct Run<'a> {
    /// File system.
    pub(super) vfs: &'a dyn Vfs,
    /// The folder, locked.
    pub(super) folder: RunFolder,
    /// The frozen settings.
    pub(super) settings: Settings,
    /// Origin written into checkpoints, except the step; the parent is the starting point: `RUN@STEP` or a merge.
    pub(super) origin: CheckpointOrigin,
    /// The model's tokenizer.
    pub(super) tokenizer: Tokenizer,
    /// Model, optimizer, data.
    pub(super) trainer: Trainer,
    /// Commands and signals.
    pub(super) control: Control,
    /// Log and listeners.
    pub(super) out: EventEmitter<'a>,
    /// Best matmul throughput of the adapter, for MFU.
    pub(super) peak_gflops: f64,
    /// When the process started.
    pub(super) started: Instant,
    /// (tokens for training, for validation)
    pub(super) data_tokens: (u64, u64),
    /// Hash of the data.
    pub(super) data_hash: Option<String>,
    pub(super) retention: Retention,
    /// Step of the newest checkpoint.
    pub(super) last_saved: Option<u64>,
    pub(super) checkpoint: Option<PathBuf>,
    pub(super) unsaved: FailedSaves,
    pub(super) eval_loss: Option<f64>,
    pub(super) accuracy: Option<f64>,
    /// The step of the final evaluation, which is not repeated when a completed run is resumed.
    pub(super) final_eval_step: Option<u64>,
    pub(super) grad_norms: GradNorms,
    pub(super) watch: RescueWatch,
    /// Seconds of training before this start.
    pub(super) seconds_before: f64,
    /// Tokens that a fork's parent had seen.
    pub(super) tokens_before: u64,
    pub(super) clock: RunClock,
    pub(super) sampler: Option<Generator>,
    /// Samples requested since this start.
    pub(super) samples_asked: u64,
}

impl Run<'_> {
    /// Train to the end, or until a stop is requested.
    ///
    /// # Errors
    /// A device error, or a failed last save; earlier saves remain.
    pub fn train(mut self) -> anyhow::Result<Finished> {
        self.run().map_err(|error| {
            let error = self.save_without_grader(error);
            // A message that begins with a flag means wrong usage; this run had begun.
            let error = match error.to_string().starts_with("--") {
                true => error.context(format!("step {}", self.trainer.state.step)),
                false => error,
            };
            self.out.emit(&Event::Failed { text: format!("{error:#}") });
            error
        })
    }

    fn run(&mut self) -> anyhow::Result<Finished> {
        self.trainer.broadcast_state()?;
        self.broadcast_command();
        if self.last_saved.is_none() {
            self.evaluate(self.settings.eval.eval_tokens)?;
        }
        self.save_start()?;
        self.start_clock();
        let max_steps = self.settings.train.max_steps;
        let completed = train(self, max_steps)?;
        self.finish(if completed { "completed" } else { "stopped" })
    }

    /// Run the evaluation and save that are due after an update; true if one was, with the clock stopped.
    fn run_scheduled(&mut self) -> anyhow::Result<bool> {
        let (step, settings) = (self.trainer.state.step, &self.settings);
        let every = |n: u64| is_due(step, n) && step < settings.train.max_steps;
        let (eval, save) =
            (every(settings.eval.eval_every), every(settings.save.save_every) || self.unsaved.is_due(Instant::now()));
        if !eval && !save {
            return Ok(false);
        }
        if self.drain()? {
            return Ok(true);
        }
        if eval {
            self.evaluate(self.settings.eval.eval_tokens)?;
        }
        if save {
            self.save(false)?;
        }
        Ok(true)
    }

    fn broadcast_command(&mut self) {
        let adapter = self.trainer.device.summary();
        let event = Event::Started(Started {
            stage: self.settings.stage().name().into(),
            run: self.folder.path().to_path_buf(),
            step: self.trainer.state.step,
            max_steps: self.settings.train.max_steps,
            parameters: self.trainer.model.count() as u64,
            tokens_per_step: self.trainer.tokens_per_step(),
            train_tokens: self.data_tokens.0,
            val_tokens: self.data_tokens.1,
            adapter: adapter.name.clone(),
            driver: adapter.driver.clone(),
            startup_seconds: self.started.elapsed().as_secs_f64(),
            version: env!("CARGO_PKG_VERSION").into(),
            parent: self.origin.parent.clone(),
            time: unix_time(),
        });
        self.out.emit(&event);
    }

    fn start_clock(&mut self) {
        self.clock.start(self.trainer.state.num_tokens);
    }

    /// Wait for pending updates, log them, and stop the clock; true if their numbers caused a rollback.
    fn drain(&mut self) -> anyhow::Result<bool> {
        for result in self.trainer.flush()? {
            self.log(result);
        }
        self.clock.stop();
        self.rescue()
    }

    /// Log an update and check its numbers for spikes.
    fn log(&mut self, result: StepResult) {
        if self.watch.is_rollback_pending() {
            return;
        }
        let StepResult { numbers, events, samples } = result;
        let t = &self.trainer;
        let rate = self.clock.rate(numbers.num_tokens);
        let context = (self.settings.train.seq_len as f64 + 1.0) / 2.0;
        let flops = t.model.config.flops_per_token_training(context);
        let step = Step {
            tokens_per_second: rate,
            mfu: rate * flops / (self.peak_gflops * 1e9),
            seconds: self.seconds_before + self.clock.seconds(),
            device_bytes: t.device.ledger().total(),
            ..numbers
        };
        self.grad_norms.push(step.grad_norm);
        self.out.emit(&Event::Step(step.clone()));
        events.iter().for_each(|event| self.out.emit(event));
        self.out.keep_samples(&samples);
        if step.skipped {
            let text = format!(
                "step {}: the gradient was not finite, so nothing was changed; if this continues, lower --learning-rate",
                step.step
            );
            self.out.emit(&Event::Warning { text });
        }
        // The loss of GRPO does not indicate divergence.
        if self.settings.stage() != Stage::Grpo {
            self.check_step(&step);
        }
    }

    fn finish(&mut self, reason: &str) -> anyhow::Result<Finished> {
        self.drain()?;
        let step = self.trainer.state.step;
        if reason == "completed" && self.final_eval_step != Some(step) {
            // The final evaluation uses the whole validation split.
            self.evaluate(0)?;
            self.final_eval_step = Some(step);
        }
        let within_a_step = self.trainer.pending_step().is_some();
        if within_a_step || (self.last_saved != Some(step) && step > 0) {
            self.save(true)?;
        }
        if reason == "completed" {
            self.report_unfinished();
        }
        let seconds = self.seconds_before + self.clock.counted;
        let tokens = self.trainer.state.num_tokens;
        let finished = Finished {
            step,
            reason: reason.into(),
            eval_loss: self.eval_loss,
            accuracy: self.accuracy,
            tokens,
            seconds,
            tokens_per_second: if seconds > 0.0 { (tokens - self.tokens_before) as f64 / seconds } else { 0.0 },
            checkpoint: self.checkpoint.clone(),
            grad_norm: self.grad_norms.summary(),
            spikes: self.watch.detector.spikes,
            rescues: self.watch.ladder.past.len() as u64,
        };
        self.out.emit(&Event::Finished(finished.clone()));
        self.out.sync();
        Ok(finished)
    }
}

impl TrainingLoop for Run<'_> {
    fn trainer(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    /// Handle commands and signals since the last update; false to stop the run.
    fn before_update(&mut self) -> anyhow::Result<bool> {
        let mut paused = false;
        loop {
            let request = if paused { self.control.wait() } else { self.control.poll() };
            let Some(request) = request else { return Ok(true) };
            let command = match request {
                RunRequest::Stop => return Ok(false),
                RunRequest::Invalid(text) => {
                    self.out.emit(&Event::Warning { text });
                    continue;
                }
                RunRequest::Command(command) => command,
            };
            let step = self.trainer.state.step;
            match command {
                Command::Stop => return Ok(false),
                Command::Pause if !paused => {
                    self.drain()?;
                    self.out.emit(&Event::Paused { step: self.trainer.state.step });
                    paused = true;
                }
                Command::Resume if paused => {
                    self.out.emit(&Event::Resumed { step });
                    self.start_clock();
                    paused = false;
                }
                Command::Pause | Command::Resume => {}
                Command::Step if paused && step < self.settings.train.max_steps => {
                    self.start_clock();
                    // A step of GRPO is several updates.
                    while self.trainer.state.step == step {
                        match self.update()? {
                            Some(result) => self.log(result),
                            None if self.control.is_urgent() => break,
                            None => {}
                        }
                    }
                    if !self.drain()? {
                        self.run_scheduled()?;
                    }
                }
                Command::Step => {
                    self.out.emit(&Event::Warning { text: "Step needs a paused run with steps left".into() });
                }
                other => {
                    self.drain()?;
                    self.side_command(other)?;
                    if !paused {
                        self.start_clock();
                    }
                }
            }
        }
    }

    /// The next update; sampling reports its progress, and is interrupted by a pending command or signal.
    fn update(&mut self) -> anyhow::Result<Option<StepResult>> {
        let (out, control) = (&mut self.out, &mut self.control);
        self.trainer.step_watched(&mut |what, done, all| {
            out.progress(what, done, all)?;
            Ok(!control.is_urgent())
        })
    }

    fn report(&mut self, result: StepResult) -> anyhow::Result<()> {
        self.log(result);
        Ok(())
    }

    /// Between the updates of one step of GRPO nothing is scheduled.
    fn after_update(&mut self, is_step: bool) -> anyhow::Result<bool> {
        if self.rescue()? || (is_step && self.run_scheduled()?) {
            self.start_clock();
        }
        Ok(true)
    }

    /// Handle the last pending numbers, which may cause a rollback.
    fn finish_pending(&mut self) -> anyhow::Result<bool> {
        let went_back = self.drain()?;
        if went_back {
            self.start_clock();
        }
        Ok(went_back)
    }
}

//! One run from its first line to its last: the loop around the trainer, with events out, commands in, checkpoints and signals.

use super::clock::Clock;
use super::control::{Control, Request};
use super::emitter::{EventEmitter, GradNorms, Listener};
use super::event_log::{self, EventLog};
use super::folder::RunFolder;
use super::rescue::Watch;
use super::retention::{Policy, Retention};
use super::save;
use super::tensorboard::TensorBoard;
use super::unsaved::Unsaved;
use crate::config::{Settings, Stage};
use crate::data::Tokenizer;
use crate::event::{Checkpoint as Saved, Finished, Started, Step};
use crate::event::{Command, Event};
use crate::model::Generator;
use crate::model::checkpoint::{Checkpoint, Origin};
use crate::train::{StepResult, Trainer};
use crate::vfs::Vfs;
use std::path::PathBuf;
use web_time::Instant;

/// Everything a run needs, opened and checked.
pub struct Run<'a> {
    /// Where files go.
    pub vfs: &'a dyn Vfs,
    /// The folder, locked.
    pub folder: RunFolder,
    /// The frozen settings.
    pub settings: Settings,
    /// What the run begins from, when it begins from something: `RUN@STEP` or a merge.
    pub parent: Option<String>,
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// Model, optimizer, data.
    pub trainer: Trainer,
    /// Commands and signals.
    pub control: Control,
    /// Who listens.
    pub sink: Listener,
    /// Best matmul rate of the adapter, for MFU.
    pub peak_gflops: f64,
    /// When the process started.
    pub started: Instant,
    /// (tokens for training, for validation)
    pub data_tokens: (u64, u64),
    /// What tells the data from other data.
    pub data_hash: Option<String>,
}

/// A run that is going.
pub struct Running<'a> {
    pub(super) run: Run<'a>,
    pub(super) out: EventEmitter,
    pub(super) retention: Retention,
    pub(super) origin: Origin,
    pub(super) last_saved: Option<u64>,
    pub(super) unsaved: Unsaved,
    pub(super) checkpoint: Option<PathBuf>,
    pub(super) eval_loss: Option<f64>,
    pub(super) accuracy: Option<f64>,
    pub(super) grad_norms: GradNorms,
    pub(super) watch: Watch,
    /// Seconds of training before this start.
    pub(super) seconds_before: f64,
    /// Tokens that a fork's parent had seen.
    pub(super) tokens_before: u64,
    pub(super) clock: Clock,
    pub(super) sampler: Option<Generator>,
    /// Samples that were asked for since this start.
    pub(super) samples_asked: u64,
}

impl<'a> Run<'a> {
    /// Train to the end, or until somebody asks to stop. `resume` continues from a checkpoint of this run.
    ///
    /// # Errors
    /// A device fault, or a last save that failed; what was saved before stays.
    pub fn train(self, resume: Option<&Checkpoint>) -> anyhow::Result<Finished> {
        let mut running = self.start(resume)?;
        match running.go() {
            Ok(finished) => Ok(finished),
            Err(error) => {
                let error = running.save_without_grader(error);
                running.out.emit(&Event::Failed { text: format!("{error:#}") });
                Err(error)
            }
        }
    }

    // Length: one thing after another.
    fn start(mut self, resume: Option<&Checkpoint>) -> anyhow::Result<Running<'a>> {
        let (mut seconds_before, mut eval_loss, mut last_saved, mut samples_bytes) = (0.0, None, None, 0);
        let mut tokens_before = self.trainer.state.num_tokens;
        let (mut grad_norms, mut watch) = (GradNorms::default(), Watch::default());
        let log = match resume {
            None => EventLog::create(&self.folder.events())?,
            Some(checkpoint) => {
                let t = &mut self.trainer;
                let file = save::restore(self.vfs, checkpoint, t)?;
                (seconds_before, eval_loss, last_saved) = (file.seconds, file.eval_loss, Some(file.state.step));
                (tokens_before, samples_bytes) = (file.tokens_before, file.samples_bytes);
                watch = file.watch;
                anyhow::ensure!(
                    file.data_tokens == self.data_tokens,
                    "--resume: the text of --data has changed: {} training and {} validation tokens, it began with {} and {}; \
                     put the text back, or start a new run with --init",
                    self.data_tokens.0,
                    self.data_tokens.1,
                    file.data_tokens.0,
                    file.data_tokens.1
                );
                // Checkpoints of earlier versions have none.
                let same = file.data_hash.is_none() || self.data_hash.is_none() || file.data_hash == self.data_hash;
                anyhow::ensure!(
                    same,
                    "--resume: the text of --data has changed: as much as before, but another, or in another order; put it back, or \
                     start a new run with --init"
                );
                let mut log = EventLog::resume(&self.folder.events(), file.events_bytes)?;
                for event in event_log::read_all(&self.folder.events())?.0 {
                    if let Event::Step(step) = event {
                        grad_norms.push(step.grad_norm);
                    }
                }
                // That it was saved stood behind the cut. A log that cannot be written stops no run.
                let (step, path, bytes) = (checkpoint.step(), checkpoint.path.clone(), checkpoint.manifest.bytes());
                let _ = log.append(&Event::Checkpoint(Saved { step, path, bytes, save_seconds: 0.0 }));
                log
            }
        };
        let tensorboard = match self.settings.save.tensorboard {
            true => Some(TensorBoard::create(self.folder.path(), resume.map(Checkpoint::step))?),
            false => None,
        };
        let s = &self.settings.save;
        let retention = Retention::new(Policy { keep_last: s.keep_last, keep_every: s.keep_every });
        let adapter = self.trainer.device.summary();
        let origin = Origin {
            step: 0,
            run_id: self.folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
            config_hash: super::config_hash(&self.settings)?,
            adapter: adapter.title(),
            parent: self.parent.clone(),
        };
        let sink = std::mem::replace(&mut self.sink, Box::new(|_| {}));
        Ok(Running {
            checkpoint: resume.map(|c| c.path.clone()),
            out: EventEmitter::new(log, (self.folder.samples(), samples_bytes), tensorboard, sink),
            grad_norms,
            watch,
            clock: Clock::default(),
            run: self,
            retention,
            origin,
            last_saved,
            unsaved: Unsaved::default(),
            eval_loss,
            accuracy: None,
            seconds_before,
            tokens_before,
            sampler: None,
            samples_asked: 0,
        })
    }
}

impl Running<'_> {
    fn go(&mut self) -> anyhow::Result<Finished> {
        self.run.trainer.share_state()?;
        self.announce();
        let settings = self.run.settings.clone();
        if self.last_saved.is_none() {
            self.evaluate(settings.eval.eval_tokens)?;
        }
        self.save_start()?;
        self.start_clock();
        loop {
            while self.run.trainer.state.step < settings.train.max_steps {
                if !self.handle_commands()? {
                    return self.finish("stopped");
                }
                // A paused run may have been stepped to its end.
                if self.run.trainer.state.step < settings.train.max_steps {
                    let before = self.run.trainer.state.step;
                    if let Some(result) = self.step()? {
                        self.report(&result);
                    }
                    // Between the updates of one step of reinforcement nothing is due.
                    if self.rescue()? || (self.run.trainer.state.step != before && self.run_scheduled()?) {
                        self.start_clock();
                    }
                }
            }
            // The last numbers may be those that send it back.
            if !self.settle()? {
                return self.finish("completed");
            }
            self.start_clock();
        }
    }

    /// Evaluate and save after an update that is due for it; true when one was. The clock stands then.
    fn run_scheduled(&mut self) -> anyhow::Result<bool> {
        let (step, settings) = (self.run.trainer.state.step, &self.run.settings);
        let every = |n: u64| n > 0 && step.is_multiple_of(n) && step < settings.train.max_steps;
        let (eval, save) =
            (every(settings.eval.eval_every), every(settings.save.save_every) || self.unsaved.is_due(Instant::now()));
        if !eval && !save {
            return Ok(false);
        }
        if self.settle()? {
            return Ok(true);
        }
        if eval {
            self.evaluate(self.run.settings.eval.eval_tokens)?;
        }
        if save {
            self.save(false)?;
        }
        Ok(true)
    }

    fn announce(&mut self) {
        let r = &self.run;
        let adapter = r.trainer.device.summary();
        let event = Event::Started(Started {
            stage: r.settings.stage().name().into(),
            run: r.folder.path().to_path_buf(),
            step: r.trainer.state.step,
            max_steps: r.settings.train.max_steps,
            parameters: r.trainer.model.parameters.count() as u64,
            tokens_per_step: r.trainer.tokens_per_step(),
            train_tokens: r.data_tokens.0,
            val_tokens: r.data_tokens.1,
            adapter: adapter.name.clone(),
            driver: adapter.driver.clone(),
            startup_seconds: r.started.elapsed().as_secs_f64(),
            version: env!("CARGO_PKG_VERSION").into(),
            parent: r.parent.clone(),
            time: super::unix_time(),
        });
        self.out.emit(&event);
    }

    fn start_clock(&mut self) {
        self.clock.start(self.run.trainer.state.num_tokens);
    }

    /// Wait for the updates under way, report them, and stop the clock; true when their numbers sent the run back.
    fn settle(&mut self) -> anyhow::Result<bool> {
        for result in self.run.trainer.flush()? {
            self.report(&result);
        }
        self.clock.stop();
        self.rescue()
    }

    /// The next update; sampling is told of, and stopped when somebody wants the run to do something else.
    fn step(&mut self) -> anyhow::Result<Option<StepResult>> {
        let (out, control) = (&mut self.out, &mut self.run.control);
        self.run.trainer.step_watched(&mut |what, done, all| {
            out.progress(what, done, all);
            !control.is_urgent()
        })
    }

    fn report(&mut self, result: &StepResult) {
        if self.watch.gives_up() {
            return;
        }
        let t = &self.run.trainer;
        let rate = self.clock.rate(result.num_tokens);
        let context = (self.run.settings.train.seq_len as f64 + 1.0) / 2.0;
        let flops = t.model.config.flops_per_token_training(context);
        self.grad_norms.push(result.grad_norm);
        let event = Event::Step(Step {
            step: result.step,
            loss: result.loss,
            grad_norm: result.grad_norm,
            learning_rate: result.learning_rate,
            entropy: result.entropy,
            mean_token_accuracy: result.mean_token_accuracy,
            num_tokens: result.num_tokens,
            epoch: result.epoch,
            tokens_per_second: rate,
            mfu: rate * flops / (self.run.peak_gflops * 1e9),
            seconds: self.seconds_before + self.clock.seconds(),
            device_bytes: t.device.ledger().total(),
            skipped: result.skipped,
            metrics: result.metrics.clone(),
        });
        self.out.emit(&event);
        result.events.iter().for_each(|event| self.out.emit(event));
        self.out.keep_samples(&result.samples);
        if result.skipped {
            let text = format!(
                "update {}: the gradient was not finite, so nothing was changed; if this goes on, lower --learning-rate",
                result.step
            );
            self.out.emit(&Event::Warning { text });
        }
        // The loss of reinforcement says nothing of divergence.
        if self.run.settings.stage() != Stage::Grpo {
            self.watch(result);
        }
    }

    /// Commands and signals that came since the last step; false when the run is to stop.
    fn handle_commands(&mut self) -> anyhow::Result<bool> {
        let mut paused = false;
        loop {
            let request = if paused { self.run.control.wait() } else { self.run.control.poll() };
            let Some(request) = request else { return Ok(true) };
            let command = match request {
                Request::Stop => return Ok(false),
                Request::Invalid(text) => {
                    self.out.emit(&Event::Warning { text });
                    continue;
                }
                Request::Command(command) => command,
            };
            let step = self.run.trainer.state.step;
            match command {
                Command::Stop => return Ok(false),
                Command::Pause if !paused => {
                    self.settle()?;
                    self.out.emit(&Event::Paused { step: self.run.trainer.state.step });
                    paused = true;
                }
                Command::Resume if paused => {
                    self.out.emit(&Event::Resumed { step });
                    self.start_clock();
                    paused = false;
                }
                Command::Pause | Command::Resume => {}
                Command::Step if paused && step < self.run.settings.train.max_steps => {
                    self.start_clock();
                    // A step of reinforcement is several updates.
                    while self.run.trainer.state.step == step {
                        let result = self.step()?;
                        result.iter().for_each(|r| self.report(r));
                        if result.is_none() && self.run.control.is_urgent() {
                            break;
                        }
                    }
                    if !self.settle()? {
                        self.run_scheduled()?;
                    }
                }
                Command::Step => {
                    self.out.emit(&Event::Warning { text: "Step works while the run is paused and updates are left".into() });
                }
                other => {
                    self.settle()?;
                    self.side_command(other)?;
                    if !paused {
                        self.start_clock();
                    }
                }
            }
        }
    }

    fn finish(&mut self, reason: &str) -> anyhow::Result<Finished> {
        self.settle()?;
        let step = self.run.trainer.state.step;
        if reason == "completed" {
            // The last word is on the whole validation split.
            self.evaluate(0)?;
            self.report_unfinished();
        }
        let within_a_step = self.run.trainer.pending_step().is_some();
        if within_a_step || (self.last_saved != Some(step) && step > 0) {
            self.save(true)?;
        }
        let seconds = self.seconds_before + self.clock.counted;
        let tokens = self.run.trainer.state.num_tokens;
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

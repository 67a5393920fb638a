//! Actions of a run besides training: commands between two updates, evaluation, saves.

use super::run::Run;
use super::sampling::SampleRequest;
use super::save::{self, TrainerFile};
use super::unsaved::SaveNotice;
use crate::config::Stage;
use crate::event::{Command, Eval, Event, LiveSettings, SavedCheckpoint};
use crate::model_files::checkpoint::CheckpointOrigin;
use crate::run_folder::PurgeResult;
use crate::train::predictions::PredictionStats;
use crate::vfs::display_path;
use web_time::Instant;

/// Valid range of a setting, as text and as a predicate.
type SettingRange = (&'static str, fn(f64) -> bool);

impl Run<'_> {
    /// Commands that do not stop or continue the run.
    pub(super) fn side_command(&mut self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::SaveNow => {
                self.unsaved.request(Instant::now());
                self.save(false)
            }
            Command::EvalNow => self.evaluate(self.settings.eval.eval_tokens),
            Command::SampleNow { prompt, temperature, tokens, chat } => {
                self.sample_now(&SampleRequest { prompt, temperature, tokens, chat })
            }
            Command::SetHyper(new) => {
                self.set_hyper(&new);
                Ok(())
            }
            Command::MergeNow => self.merge_now(),
            Command::Pause | Command::Resume | Command::Step | Command::Stop => Ok(()),
        }
    }

    /// Change live settings; invalid changes give a warning.
    fn set_hyper(&mut self, new: &LiveSettings) {
        const NOT_NEGATIVE: SettingRange = ("zero or more", |x| (0.0..=f64::MAX).contains(&x));
        const SHARE: SettingRange = ("at least 0 and at most 1", |x| (0.0..=1.0).contains(&x));
        const HEAT: SettingRange = ("above 0 and at most 100", |x| x > 0.0 && x <= 100.0);
        let step = self.trainer.state.step;
        let settings = &self.settings;
        let policy = settings.reinforcement().map(|(_, rollout, grpo)| (rollout, grpo));
        let (temperature, alpha) = (policy.map(|(r, _)| r.temperature), policy.map(|(_, g)| g.reweight_alpha));
        let (norm, eta) = (Some(settings.train.max_grad_norm), policy.map(|(_, g)| g.lopti_eta.unwrap_or(0.0)));
        let live = &mut self.trainer.state.hyper;
        // The default is none if the stage does not have the setting.
        let changes = [
            ("learning_rate_scale", &mut live.learning_rate_scale, new.learning_rate_scale, Some(1.0), NOT_NEGATIVE),
            ("max_grad_norm", &mut live.max_grad_norm, new.max_grad_norm, norm, NOT_NEGATIVE),
            ("temperature", &mut live.temperature, new.temperature, temperature, HEAT),
            ("reweight_alpha", &mut live.reweight_alpha, new.reweight_alpha, alpha, SHARE),
            ("lopti_eta", &mut live.lopti_eta, new.lopti_eta, eta, SHARE),
        ];
        for (name, slot, value, default, (words, may_be)) in changes {
            let Some(value) = value else { continue };
            let event = match default {
                None => {
                    let text = format!("SetHyper: {name}: only a run of lehr grpo has this; nothing was changed");
                    Event::Warning { text }
                }
                Some(_) if !may_be(value) => {
                    Event::Warning { text: format!("SetHyper: {name} = {value}: must be {words}; nothing was changed") }
                }
                Some(default) => {
                    let before = slot.replace(value).unwrap_or(default);
                    Event::HyperChanged { step, name: name.into(), before, after: value }
                }
            };
            self.out.emit(&event);
        }
    }

    /// Evaluate the loss on `tokens` tokens of the validation split (0: all), and write a sample if requested.
    pub(super) fn evaluate(&mut self, tokens: u64) -> anyhow::Result<()> {
        if self.settings.stage() == Stage::Grpo {
            return self.evaluate_task();
        }
        let begin = Instant::now();
        let out = &mut self.out;
        let mut seen = PredictionStats::default();
        let found =
            self.trainer.evaluate_with_predictions(tokens, &mut seen, &mut |what, done, all| out.progress(what, done, all))?;
        let step = self.trainer.state.step;
        if let Some(e) = found {
            self.eval_loss = Some(e.loss);
            let event = Event::Eval(Eval {
                step,
                eval_loss: e.loss,
                perplexity: e.loss.exp(),
                eval_mean_token_accuracy: e.mean_token_accuracy,
                eval_tokens: e.tokens,
                eval_seconds: begin.elapsed().as_secs_f64(),
            });
            self.out.emit(&event);
            self.out.emit(&Event::Predictions(Box::new(seen.predictions(step))));
            self.evaluate_merge(tokens, Some(e.loss))?;
        }
        let (wanted, prompt) = (self.settings.eval.sample_tokens, self.settings.eval.sample_prompt.clone());
        if wanted > 0 { self.sample(&prompt, wanted) } else { Ok(()) }
    }

    /// Save. A failed save is a warning while the run continues (the next one may succeed). It is an error at the end of the run, after a
    /// long time without a successful save, or if the run folder is gone.
    pub(super) fn save(&mut self, last: bool) -> anyhow::Result<()> {
        let begin = Instant::now();
        if self.just_rolled_back() {
            let text = "nothing was saved: the run has just gone back to this step, whose checkpoint stays as it is".into();
            self.out.emit(&Event::Warning { text });
            return Ok(());
        }
        self.folder.check(self.vfs)?;
        self.trainer.ensure_same_before_save()?;
        let step = self.trainer.state.step;
        self.watch_save(step, false);
        let origin = CheckpointOrigin { step, ..self.origin.clone() };
        self.retention.invalidate(step);
        let checkpoints = self.folder.checkpoints();
        let attempt = |run: &Self| save::save(run.vfs, &checkpoints, &run.trainer, &run.tokenizer, &run.trainer_file(), &origin);
        let mut saved = attempt(self);
        if let Err(full) = &saved
            && full.disk_full
            && self.make_space(step, full.missing(), last)
        {
            saved = attempt(self);
        }
        match saved {
            Ok((path, manifest)) => {
                self.last_saved = Some(step);
                self.checkpoint = Some(path.clone());
                let save_seconds = begin.elapsed().as_secs_f64();
                self.out.emit(&Event::Checkpoint(SavedCheckpoint { step, path, bytes: manifest.bytes(), save_seconds }));
                self.unsaved.saved().into_iter().for_each(|text| self.out.emit(&Event::Warning { text }));
                let purged = self.retention.purge(self.vfs, self.folder.path());
                let warnings = match purged {
                    Ok(purged) => purged.warnings,
                    Err(e) => vec![format!("{e:#}")],
                };
                warnings.into_iter().for_each(|text| self.out.emit(&Event::Warning { text }));
                Ok(())
            }
            Err(error) => {
                self.watch_save(step, true);
                self.trainer.device.check()?;
                if last {
                    return Err(error.into());
                }
                let minutes = self.settings.save.max_unsaved_minutes;
                match self.unsaved.failed(&error.to_string(), minutes, Instant::now()) {
                    SaveNotice::Silence => {}
                    SaveNotice::Report(text) => self.out.emit(&Event::Warning { text }),
                    SaveNotice::End(text) => anyhow::bail!("{text}{}", self.newest_checkpoint()),
                }
                Ok(())
            }
        }
    }

    fn trainer_file(&self) -> TrainerFile {
        TrainerFile {
            state: self.trainer.state.clone(),
            seconds: self.seconds_before + self.clock.counted,
            tokens_before: self.tokens_before,
            events_bytes: self.out.offset(),
            samples_bytes: self.out.samples_offset(),
            data_tokens: self.data_tokens,
            data_hash: self.data_hash.clone(),
            eval_loss: self.eval_loss,
            accuracy: self.accuracy,
            final_eval_step: self.final_eval_step,
            watch: self.watch.clone(),
        }
    }

    /// Delete the oldest checkpoints that need not stay, so that `missing` bytes more are free for that of `step`; whether any was deleted.
    fn make_space(&mut self, step: u64, missing: u64, last: bool) -> bool {
        let purged = self.retention.make_space(self.vfs, self.folder.path(), missing, last).unwrap_or_else(|error| {
            self.out.emit(&Event::Warning { text: format!("no checkpoint was deleted to make space: {error:#}") });
            PurgeResult::default()
        });
        let made = !purged.deleted.is_empty();
        let named =
            |old| format!("the disk is full: the checkpoint of step {old} was deleted to make space for that of step {step}");
        let texts = purged.deleted.into_iter().map(named).chain(purged.warnings);
        texts.for_each(|text| self.out.emit(&Event::Warning { text }));
        made
    }

    /// The newest checkpoint, from which a failed run can be resumed.
    fn newest_checkpoint(&self) -> String {
        let resume = display_path(self.folder.path());
        self.last_saved
            .map_or(String::new(), |step| format!("; its newest checkpoint is that of step {step} (--resume {resume})"))
    }
}

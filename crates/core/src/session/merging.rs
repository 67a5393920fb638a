//! Live merging in a run: after each evaluation, and on command.

use super::run::Run;
use super::save;
use crate::event::{Event, Merged, Number};
use crate::model_files::checkpoint::{CheckpointOrigin, step_name};
use crate::progress::silent;
use crate::train::{Evaluation, MergedWindow};
use std::collections::BTreeMap;
use std::path::PathBuf;
use web_time::Instant;

impl Run<'_> {
    /// Evaluate the merge of the newest snapshots on the same tokens as the run's own weights, whose loss is `raw`. Does nothing with fewer
    /// than two snapshots.
    pub(super) fn evaluate_merge(&mut self, tokens: u64, raw: Option<f64>) -> anyhow::Result<()> {
        let begin = Instant::now();
        let out = &mut self.out;
        let found = self.trainer.evaluate_merge(tokens, &mut |what, done, all| out.progress(what, done, all))?;
        let Some((window, evaluation)) = found else { return Ok(()) };
        self.report_merged(&window, evaluation, raw, None, begin);
        Ok(())
    }

    /// `MergeNow`: evaluate the merge and write it as a model folder.
    pub(super) fn merge_now(&mut self) -> anyhow::Result<()> {
        let Some(live) = &self.trainer.live_merge else {
            let text = "MergeNow: this run keeps no snapshots; start it with --merge-every N".into();
            self.out.emit(&Event::Warning { text });
            return Ok(());
        };
        if live.ring.steps().len() < 2 {
            let text = format!(
                "MergeNow: there are fewer than two snapshots yet; one is taken every {} steps",
                live.snapshot_interval()
            );
            self.out.emit(&Event::Warning { text });
            return Ok(());
        }
        let (begin, method) = (Instant::now(), live.method_name());
        let tokens = self.settings.eval.eval_tokens;
        let raw = self.trainer.evaluate(tokens, &mut silent)?.map(|e| e.loss);
        let Some((window, evaluation)) = self.trainer.evaluate_merge(tokens, &mut silent)? else { return Ok(()) };
        let path = self.write_merge(&window, method)?;
        self.report_merged(&window, evaluation, raw, path, begin);
        Ok(())
    }

    /// Write the merge as a model folder; a disk error is a warning.
    fn write_merge(&mut self, window: &MergedWindow, method: &str) -> anyhow::Result<Option<PathBuf>> {
        let step = self.trainer.state.step;
        let parent = self.folder.merged();
        let made = match self.vfs.kind(&parent)? {
            None => self.vfs.create_dir(&parent),
            Some(_) => Ok(()),
        };
        let origin =
            CheckpointOrigin { step, parent: Some(format!("merge of {} steps", window.steps.len())), ..self.origin.clone() };
        let name = format!("{}-{method}", step_name(step));
        let written = match made {
            Ok(()) => save::export_merge(self.vfs, (&parent, &name), &self.trainer, &self.tokenizer, window, &origin)
                .map(|(path, _)| path)
                .map_err(|e| e.to_string()),
            Err(e) => Err(format!("{}: cannot be made: {e}", crate::vfs::display_path(&parent))),
        };
        match written {
            Ok(path) => Ok(Some(path)),
            Err(text) => {
                self.trainer.device.check()?;
                self.out.emit(&Event::Warning { text });
                Ok(None)
            }
        }
    }

    fn report_merged(
        &mut self,
        window: &MergedWindow,
        evaluation: Option<Evaluation>,
        raw: Option<f64>,
        path: Option<PathBuf>,
        begin: Instant,
    ) {
        let Some(live) = &self.trainer.live_merge else { return };
        let step = self.trainer.state.step;
        let name = format!("merge/{}/eval_loss", live.method_name());
        let event = Event::Merged(Merged {
            step,
            method: window.method.clone(),
            steps: window.steps.clone(),
            mean_age_tokens: window.mean_age(step) * self.trainer.tokens_per_step() as f64,
            metrics: evaluation.iter().map(|e| (name.clone(), Number(e.loss))).collect::<BTreeMap<_, _>>(),
            eval_loss: raw,
            anneal_estimate: evaluation.zip(raw).map(|(e, raw)| anneal_estimate(raw, e.loss)),
            eval_tokens: evaluation.map_or(0, |e| e.tokens),
            merge_seconds: begin.elapsed().as_secs_f64(),
            path,
        });
        self.out.emit(&event);
    }
}

/// Share of the gain of annealing that a merge obtains: all of it in the paper (PMA, section 4.1); measured here 0.79 [0.77, 0.81] over
/// three sizes and three seeds, sma of 10 at 0.5 % of the tokens (docs/results/pma, P2).
const RECOVERED: f64 = 0.79;

/// Estimated loss if the learning rate had been annealed. Equal to `raw` if the merge gains nothing; annealing never raises it.
fn anneal_estimate(raw: f64, merged: f64) -> f64 {
    if merged < raw { raw - (raw - merged) / RECOVERED } else { raw }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_below_the_merge_or_absent() {
        assert!((anneal_estimate(2.0, 1.921) - 1.9).abs() < 1e-12);
        assert_eq!((anneal_estimate(2.0, 2.5), anneal_estimate(2.0, f64::NAN)), (2.0, 2.0));
    }
}

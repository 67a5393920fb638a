//! Validation of the GRPO settings.

use crate::config::{Grader, GrpoSettings, RescueMethod, RolloutSettings, Settings, TaskKind, TaskSettings};
use anyhow::ensure;

impl Settings {
    /// # Errors
    /// The first GRPO setting that is out of range or contradicts another.
    pub(super) fn validate_grpo(&self) -> anyhow::Result<()> {
        let Some((task, rollout, grpo)) = self.reinforcement() else { return Ok(()) };
        ensure!(
            self.start.init.is_some() || self.start.fork.is_some(),
            "--init: reinforcement learning starts from a model; name its folder, or a run (RUN, RUN@STEP)"
        );
        ensure!(
            self.merge.merge_every == 0,
            "--merge-every {}: lehr grpo has no live merge; leave it out",
            self.merge.merge_every
        );
        ensure!(
            self.rescue.rescue == RescueMethod::Off,
            "--rescue: lehr grpo has no rescue, its loss shows no spikes; leave it out"
        );
        task.validate(!self.data.data.is_empty())?;
        rollout.validate()?;
        grpo.validate()?;
        let (batch, group) = (self.train.batch_size, rollout.num_generations);
        ensure!(
            batch.is_multiple_of(group),
            "--batch-size {batch}: counts completions, {group} (--num-generations) of each prompt, so it must be a multiple of {group}: \
             {} or {}",
            (batch / group).max(1) * group,
            (batch / group + 1) * group
        );
        let mini = grpo.mini_batch_size.unwrap_or(batch);
        ensure!(
            mini > 0 && batch.is_multiple_of(mini),
            "--mini-batch-size {mini}: must divide --batch-size {batch}, the completions of a step"
        );
        Ok(())
    }
}

impl TaskSettings {
    /// # Errors
    /// A setting that is out of range or requires another one. `rows` is whether --data is set.
    pub fn validate(&self, rows: bool) -> anyhow::Result<()> {
        Self::list("people", &self.people, 2..=8)?;
        Self::list("difficulty", &self.difficulty, 1..=5)?;
        ensure!(self.eval_questions > 0, "--eval-questions 0: must be at least 1");
        if self.task == TaskKind::Custom {
            ensure!(rows, "--data: --task custom needs rows with prompt and answer");
            let process = self.grader == Grader::Process;
            ensure!(
                process == self.grader_command.is_some(),
                "--grader-command: belongs to --grader process, {}",
                if process { "which needs it" } else { "which is not the requested grader" }
            );
        }
        ensure!(
            self.grader_timeout.is_finite() && self.grader_timeout > 0.0,
            "--grader-timeout {}: must be above 0",
            self.grader_timeout
        );
        Ok(())
    }
}

impl RolloutSettings {
    /// # Errors
    /// A setting that is out of range.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.num_generations > 0, "--num-generations 0: must be at least 1");
        ensure!(
            self.temperature.is_finite() && self.temperature > 0.0 && self.temperature <= 100.0,
            "--temperature {}: must be above 0 and at most 100; without chance there is nothing to learn from",
            self.temperature
        );
        ensure!(self.top_p > 0.0 && self.top_p <= 1.0, "--top-p {}: must be above 0 and at most 1", self.top_p);
        ensure!((0.0..=1.0).contains(&self.min_p), "--min-p {}: must lie between 0 and 1", self.min_p);
        ensure!(self.max_completion_length > 0, "--max-completion-length 0: must be at least 1");
        ensure!(self.max_prompt_length > 0, "--max-prompt-length 0: must be at least 1");
        ensure!(self.rollout_batch_size != Some(0), "--rollout-batch-size 0: must be at least 1");
        ensure!(self.dynamic_sampling <= 100, "--dynamic-sampling {}: must be at most 100 rounds", self.dynamic_sampling);
        Ok(())
    }
}

impl GrpoSettings {
    /// # Errors
    /// A setting that is out of range or contradicts another.
    pub fn validate(&self) -> anyhow::Result<()> {
        let within = |flag: &str, value: f64, least: f64, most: f64| {
            ensure!((least..=most).contains(&value), "--{flag} {value}: must lie between {least} and {most}");
            Ok(())
        };
        within("beta", self.beta, 0.0, 100.0)?;
        within("epsilon", self.epsilon, 0.0, 1.0)?;
        within("epsilon-high", self.epsilon_high(), 0.0, 1e6)?;
        if let Some(delta) = self.delta {
            let least = 1.0 + self.epsilon_high();
            ensure!(delta.is_finite() && delta >= least, "--delta {delta}: must be at least 1 + --epsilon-high, {least}");
        }
        within("entropy-coef", self.entropy_coef, -100.0, 100.0)?;
        ensure!(
            (1..=1000).contains(&self.num_iterations),
            "--num-iterations {}: must lie between 1 and 1000",
            self.num_iterations
        );
        within("reweight-alpha", self.reweight_alpha, 0.0, 1.0)?;
        within("lopti-eta", self.lopti_eta.unwrap_or(0.0), 0.0, 1.0)?;
        within("lopti-quantile", self.lopti_quantile.unwrap_or(0.0), 0.0, 1.0)?;
        ensure!(
            self.lopti_eta().is_none() || self.lopti_quantile.is_none(),
            "--lopti-quantile: is another way to say --lopti-eta; give one of them"
        );
        if let Some(bin) = self.mask_bins.iter().find(|bin| !(1..=4).contains(*bin)) {
            anyhow::bail!("--mask-bins {bin}: quartiles are 1 (below 0.25) to 4 (above 0.75)");
        }
        Ok(())
    }
}

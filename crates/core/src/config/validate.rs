//! Reject invalid settings before anything is written: one line each, with the flag, its value and the remedy.

mod grpo;

use super::{MergeMethod, RescueMethod, Scheduler, Settings, Stage, TrainSettings, WeightsDtype};

fn positive(flag: &str, value: f64, most: f64) -> anyhow::Result<()> {
    anyhow::ensure!(value.is_finite() && value > 0.0 && value <= most, "--{flag} {value}: must be above 0 and at most {most}");
    Ok(())
}

fn at_least_one(flag: &str, value: u64) -> anyhow::Result<()> {
    anyhow::ensure!((1..=1 << 40).contains(&value), "--{flag} {value}: must be at least 1");
    Ok(())
}

impl Settings {
    /// # Errors
    /// The first setting that is out of range or contradicts another.
    pub fn validate(&self) -> anyhow::Result<()> {
        let (t, d, s) = (&self.train, &self.data, &self.save);
        at_least_one("max-steps", t.max_steps)?;
        at_least_one("batch-size", t.batch_size as u64)?;
        // In fine-tuning 0 is "the model's context", until the model is loaded.
        if self.stage() == Stage::Pretrain || t.seq_len > 0 {
            at_least_one("seq-len", t.seq_len as u64)?;
        }
        self.validate_sft()?;
        self.validate_grpo()?;
        // More than 2^28 tokens do not fit into host memory.
        anyhow::ensure!(
            (t.batch_size as u64).saturating_mul(t.seq_len as u64) <= 1 << 28,
            "--batch-size {}: with --seq-len {} a step takes more than {} tokens",
            t.batch_size,
            t.seq_len,
            1 << 28
        );
        t.validate_schedule()?;
        if let Some(micro) = t.micro_batch_size {
            anyhow::ensure!(
                micro > 0 && t.batch_size.is_multiple_of(micro),
                "--micro-batch-size {micro}: must divide --batch-size {}",
                t.batch_size
            );
        }
        if let Some(dtype) = t.dtype.filter(|_| !self.has_frozen_weights()) {
            anyhow::ensure!(
                dtype == WeightsDtype::Auto,
                "--dtype: all weights of this run are trained, in float32; leave it out, or train adapters (--lora-rank)"
            );
        }
        if let Some(gib) = t.max_memory_gib {
            positive("max-memory-gib", gib, 1e6)?;
        }
        if d.val_data.is_none() {
            anyhow::ensure!(
                (0.0..1.0).contains(&d.val_fraction),
                "--val-fraction {}: must be at least 0 and below 1",
                d.val_fraction
            );
        }
        self.validate_merge()?;
        self.validate_lora()?;
        if let Some(problem) = self.rescue.problem(s.save_every) {
            anyhow::bail!("{problem}");
        }
        anyhow::ensure!(s.keep_last >= 2, "--keep-last {}: must be at least 2, so that a bad newest one is no loss", s.keep_last);
        Ok(())
    }

    fn validate_merge(&self) -> anyhow::Result<()> {
        let m = &self.merge;
        if m.merge_every == 0 {
            return Ok(());
        }
        anyhow::ensure!((1..=1000).contains(&m.merge_last), "--merge-last {}: must lie between 1 and 1000", m.merge_last);
        anyhow::ensure!(
            m.merge_alpha > 0.0 && m.merge_alpha <= 1.0,
            "--merge-alpha {}: must be above 0 and at most 1",
            m.merge_alpha
        );
        anyhow::ensure!(
            m.merge_method != MergeMethod::Weights,
            "--merge-method weights: a live merge starts with fewer checkpoints than it ends with; use sma, ema, wma or wsm"
        );
        Ok(())
    }

    fn validate_lora(&self) -> anyhow::Result<()> {
        if self.lora.adapters()?.is_none() {
            return Ok(());
        }
        let start = &self.start;
        anyhow::ensure!(
            start.init.is_some() || start.fork.is_some(),
            "--lora-rank: adapters are trained beside a model; name its folder with --init, or a run (RUN, RUN@STEP)"
        );
        let merge = start.init.as_ref().filter(|init| init.starts_with("merge:"));
        anyhow::ensure!(
            merge.is_none(),
            "--init {}: adapters need a base model in a folder; write it with lehr merge, and name the folder",
            merge.map_or("", String::as_str).escape_debug()
        );
        anyhow::ensure!(
            self.merge.merge_every == 0,
            "--merge-every {}: adapters (--lora-rank) are not merged while a run trains; leave it out",
            self.merge.merge_every
        );
        anyhow::ensure!(
            self.rescue.rescue != RescueMethod::Pma,
            "--rescue pma: checkpoints of adapters (--lora-rank) are not averaged; use rollback"
        );
        Ok(())
    }

    fn validate_sft(&self) -> anyhow::Result<()> {
        let Some(sft) = &self.sft else { return Ok(()) };
        let epochs = sft.num_train_epochs;
        anyhow::ensure!(
            (0.0..=1e6).contains(&epochs),
            "--num-train-epochs {epochs}: must be above 0 and at most a million, or 0 to go by --max-steps"
        );
        anyhow::ensure!(
            self.start.init.is_some() || self.start.fork.is_some(),
            "--init: fine-tuning starts from a model; name its folder, or a run (RUN, RUN@STEP)"
        );
        Ok(())
    }
}

impl TrainSettings {
    /// Optimizer, learning rate and its schedule.
    fn validate_schedule(&self) -> anyhow::Result<()> {
        positive("learning-rate", self.learning_rate, 1.0)?;
        anyhow::ensure!(
            self.min_learning_rate.is_finite() && (0.0..=self.learning_rate).contains(&self.min_learning_rate),
            "--min-learning-rate {}: must lie between 0 and --learning-rate {}",
            self.min_learning_rate,
            self.learning_rate
        );
        self.validate_optimizer()?;
        if self.lr_scheduler != Scheduler::Constant {
            anyhow::ensure!(
                self.warmup_steps < self.max_steps,
                "--warmup-steps {}: must be below --max-steps {}",
                self.warmup_steps,
                self.max_steps
            );
        }
        if self.lr_scheduler == Scheduler::Wsd {
            anyhow::ensure!(
                self.warmup_steps + self.decay_steps <= self.max_steps,
                "--decay-steps {}: warm-up and decay together must fit into --max-steps {}",
                self.decay_steps,
                self.max_steps
            );
        }
        Ok(())
    }

    /// Check the optimizer's settings, except the learning rate.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate_optimizer(&self) -> anyhow::Result<()> {
        for (flag, value) in [("adam-beta1", self.adam_beta1), ("adam-beta2", self.adam_beta2)] {
            anyhow::ensure!((0.0..1.0).contains(&value), "--{flag} {value}: must be at least 0 and below 1");
        }
        let (epsilon, decay, norm) = (self.adam_epsilon, self.weight_decay, self.max_grad_norm);
        anyhow::ensure!(epsilon.is_finite() && epsilon >= 1e-12, "--adam-epsilon {epsilon}: must be at least 1e-12");
        anyhow::ensure!((0.0..=1.0).contains(&decay), "--weight-decay {decay}: must lie between 0 and 1");
        anyhow::ensure!(norm.is_finite() && norm >= 0.0, "--max-grad-norm {norm}: must be 0 (off) or more");
        Ok(())
    }
}

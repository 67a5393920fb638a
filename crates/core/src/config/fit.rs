//! Defaults that depend on other settings: a short run warms up, evaluates and saves more often, and no default makes a run fail. Explicit
//! values (flags, config files) are never changed; if they do not fit, `validate` rejects them by name.

use super::{Scheduler, Settings, Stage};

impl Settings {
    /// Fit the defaults to the run's length, batch size, learning rate and width. `is_explicit` returns whether the user set a field.
    pub fn fit_defaults(&mut self, is_explicit: impl Fn(&str) -> bool) {
        let is_default = |field: &str| !is_explicit(field);
        self.fit_shape(&is_default);
        self.fit_groups(&is_default);
        self.fit_schedule(&is_default);
        let steps = self.train.max_steps;
        // At the default of 2,000 updates, a quarter equals the defaults.
        let interval = |every: u64| every.min((steps / 4).max(1));
        if is_default("eval_every") {
            self.eval.eval_every = interval(self.eval.eval_every);
        }
        if is_default("save_every") {
            self.save.save_every = interval(self.save.save_every);
        }
        if let Some(rollout) = self.rollout.as_mut().filter(|_| is_default("log_completions")) {
            rollout.log_completions = interval(rollout.log_completions);
        }
        // A window larger than the number of snapshots would never be full.
        let merge = &mut self.merge;
        if is_default("merge_last") && merge.merge_every > 0 {
            let snapshots = usize::try_from(steps / merge.merge_every).unwrap_or(usize::MAX);
            merge.merge_last = merge.merge_last.min(snapshots.max(1));
        }
    }

    /// Warm-up and decay that fit into the run, a final learning rate below the peak.
    fn fit_schedule(&mut self, is_default: &impl Fn(&str) -> bool) {
        let train = &mut self.train;
        let steps = train.max_steps;
        if is_default("min_learning_rate") {
            let share = if train.lr_scheduler == Scheduler::Constant { 1.0 } else { 0.1 };
            train.min_learning_rate = train.min_learning_rate.min(share * train.learning_rate);
        }
        let decays = train.lr_scheduler == Scheduler::Wsd;
        if is_default("warmup_steps") {
            let left = if decays && !is_default("decay_steps") { steps.saturating_sub(train.decay_steps) } else { steps };
            train.warmup_steps = train.warmup_steps.min(steps / 10).min(left);
        }
        if is_default("decay_steps") {
            train.decay_steps = train.decay_steps.min(steps / 5).min(steps.saturating_sub(train.warmup_steps));
        }
    }

    /// Batch size and prompt length for which batch and groups divide evenly.
    fn fit_groups(&mut self, is_default: &impl Fn(&str) -> bool) {
        let Some(rollout) = &mut self.rollout else { return };
        let (batch, group) = (&mut self.train.batch_size, &mut rollout.num_generations);
        if is_default("num_generations") {
            // A group of one has no baseline: then the batch size is rejected.
            let fitting = (2..=*group).rev().find(|n| batch.is_multiple_of(*n));
            *group = fitting.unwrap_or(*group);
        } else if is_default("batch_size") && *group > 0 {
            *batch = (*batch / *group).max(1) * *group;
        }
    }

    /// A number of heads that divides an explicit width.
    fn fit_shape(&mut self, is_default: &impl Fn(&str) -> bool) {
        if self.stage() != Stage::Pretrain {
            return;
        }
        let model = &mut self.model;
        if is_default("num_attention_heads") && is_default("head_dim") && model.head_dim.is_none() {
            // The widths of heads that are accepted; where none divides the width of the model, that is refused.
            let fits = |heads: &usize| {
                let head_dim = model.hidden_size / heads;
                model.hidden_size.is_multiple_of(*heads) && head_dim.is_multiple_of(4) && (8..=128).contains(&head_dim)
            };
            // Fewer heads than usual, or more for a wide model.
            let fitting = (1..=model.num_attention_heads).rev().find(fits);
            let fitting = fitting.or_else(|| (model.num_attention_heads + 1..=model.hidden_size / 8).find(fits));
            model.num_attention_heads = fitting.unwrap_or(model.num_attention_heads);
        }
        if let Some(groups) = model.num_key_value_heads.filter(|_| is_default("num_key_value_heads")) {
            let heads = model.num_attention_heads;
            model.num_key_value_heads = (1..=groups).rev().find(|n| heads.is_multiple_of(*n)).or(Some(groups));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Settings, SettingsLayers, Stage, preset_names};

    fn fitted(stage: Stage, change: impl FnOnce(&mut Settings), explicit: &[&str]) -> Settings {
        let mut settings = SettingsLayers::of(stage).unwrap().settings().unwrap();
        change(&mut settings);
        settings.fit_defaults(|field| explicit.contains(&field));
        settings
    }

    #[test]
    fn defaults_fit_runs_of_any_length() {
        for steps in [1, 2, 3, 5, 9, 10, 11, 40, 99, 100, 101, 250, 999, 2000, 100_000] {
            for name in preset_names() {
                let mut layers = SettingsLayers::default();
                layers.preset(name).unwrap();
                let mut settings = layers.settings().unwrap();
                settings.train.max_steps = steps;
                settings.merge.merge_every = 7;
                settings.fit_defaults(|field| ["max_steps", "merge_every"].contains(&field));
                settings.validate().unwrap_or_else(|e| panic!("{name}, {steps} steps: {e:#}"));
                assert!(settings.eval.eval_every > 0 && settings.save.save_every > 0, "{name}, {steps} steps");
            }
        }
    }

    #[test]
    fn presets_at_their_own_length_are_unchanged() {
        for name in preset_names() {
            let mut layers = SettingsLayers::default();
            layers.preset(name).unwrap();
            let (before, mut after) = (layers.settings().unwrap(), layers.settings().unwrap());
            after.fit_defaults(|_| false);
            assert_eq!((&after.train, &after.model), (&before.train, &before.model), "{name}");
        }
    }

    #[test]
    fn explicit_values_are_kept_and_defaults_adapt() {
        let warm = fitted(Stage::Pretrain, |s| (s.train.max_steps, s.train.warmup_steps) = (100, 150), &["warmup_steps"]);
        assert_eq!(warm.train.warmup_steps, 150);
        assert!(warm.validate().unwrap_err().to_string().starts_with("--warmup-steps 150: must be below --max-steps 100"));
        let wsd = |change: fn(&mut Settings), explicit: &[&str]| {
            let change = |s: &mut Settings| {
                (s.train.lr_scheduler, s.train.max_steps) = (crate::config::Scheduler::Wsd, 100);
                change(s);
            };
            let settings = fitted(Stage::Pretrain, change, explicit);
            settings.validate().unwrap_or_else(|e| panic!("{e:#}"));
            (settings.train.warmup_steps, settings.train.decay_steps)
        };
        assert_eq!(wsd(|_| (), &[]), (10, 20));
        assert_eq!(wsd(|s| s.train.decay_steps = 100, &["decay_steps"]), (0, 100));
        assert_eq!(wsd(|s| s.train.warmup_steps = 95, &["warmup_steps"]), (95, 5));
        let slow = fitted(Stage::Pretrain, |s| s.train.learning_rate = 1e-5, &["learning_rate"]);
        assert!((slow.train.min_learning_rate - 1e-6).abs() < 1e-18, "{}", slow.train.min_learning_rate);
    }

    #[test]
    fn groups_divide_the_batch_and_heads_the_width() {
        let groups = |batch, group, explicit: &str| {
            let change = |s: &mut Settings| {
                s.train.batch_size = batch;
                s.rollout.as_mut().unwrap().num_generations = group;
            };
            let settings = fitted(Stage::Grpo, change, &[explicit]);
            (settings.train.batch_size, settings.rollout.unwrap().num_generations)
        };
        assert_eq!(groups(100, 8, "batch_size"), (100, 5));
        assert_eq!(groups(64, 8, "batch_size"), (64, 8));
        // No group size of two or more divides it: unchanged, and rejected later.
        assert_eq!(groups(11, 8, "batch_size"), (11, 8));
        assert_eq!(groups(128, 6, "num_generations"), (126, 6));
        assert_eq!(groups(128, 200, "num_generations"), (200, 200));
        let heads = |width, explicit: &[&str]| {
            fitted(Stage::Pretrain, |s| s.model.hidden_size = width, explicit).model.num_attention_heads
        };
        assert_eq!((heads(128, &["hidden_size"]), heads(100, &["hidden_size"]), heads(24, &["hidden_size"])), (4, 1, 3));
        // Heads of 1024 / 4 would be wider than any that is accepted; no head divides a width of 6.
        assert_eq!((heads(1024, &["hidden_size"]), heads(200, &["hidden_size"]), heads(6, &["hidden_size"])), (8, 2, 4));
        assert_eq!(heads(100, &["hidden_size", "num_attention_heads"]), 4);
    }
}

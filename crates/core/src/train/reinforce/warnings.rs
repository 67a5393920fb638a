//! Warnings on what commonly confuses new users of GRPO, with the remedy, at most rarely repeated.

use crate::number_format::{counted, percent};
use serde::{Deserialize, Serialize};

/// Consecutive steps before a condition is reported.
const HABIT: u64 = 5;
/// Steps before a warning is repeated.
const AGAIN: u64 = 200;
/// Share of groups without reward variance that triggers a warning.
const IDLE: f64 = 0.8;
/// Share of truncated completions that triggers a warning.
const CUT: f64 = 0.5;
/// Share of the time spent in generation that triggers a warning.
const GENERATING: f64 = 0.7;
/// Share of the initial entropy below which it has collapsed.
const COLLAPSED: f64 = 0.1;
/// Absolute bound in nats per token: a model that was certain from the start does not trigger the warning.
const SURE: f64 = 0.05;
/// Tolerated difference between the log-probabilities of sampler and trainer.
const MISMATCH: f64 = 0.02;

/// The numbers of one step. Values that were not measured are NaN and trigger nothing.
#[derive(Clone, Debug)]
pub struct WarningInputs {
    /// Steps made, including this one.
    pub step: u64,
    /// Loss of the first pass.
    pub loss: f64,
    /// Share of tokens that were clipped in the step's first update.
    pub clip_ratio: f64,
    /// Updates in the step.
    pub updates: usize,
    /// Share of groups whose rewards are all equal.
    pub idle_groups: f64,
    /// Mean reward.
    pub reward: f64,
    /// Minimum and maximum reward of this task, if known.
    pub reward_range: Option<(f64, f64)>,
    /// Share of truncated completions.
    pub truncated: f64,
    /// Mean entropy of the tokens' distributions, in nats.
    pub entropy: f64,
    /// Seconds: rollouts, scoring, updates.
    pub seconds: [f64; 3],
    /// Largest difference between log-probabilities of sampler and trainer.
    pub mismatch: f64,
    /// Number of ungraded completions, and the last error.
    pub ungraded: (usize, String),
    /// Number of questions that the tokenizer cannot encode, and the first error.
    pub unspelt: (usize, String),
}

impl Default for WarningInputs {
    fn default() -> Self {
        let nan = f64::NAN;
        Self {
            step: 0,
            loss: nan,
            clip_ratio: nan,
            updates: 1,
            idle_groups: nan,
            reward: nan,
            reward_range: None,
            truncated: nan,
            entropy: nan,
            seconds: [nan; 3],
            mismatch: nan,
            ungraded: Default::default(),
            unspelt: Default::default(),
        }
    }
}

/// A condition that is reported after [`HABIT`] consecutive steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct RecurringWarning {
    in_a_row: u64,
    said_at: Option<u64>,
}

impl RecurringWarning {
    /// As above, reported immediately.
    fn report_now(&mut self, step: u64, is: bool) -> bool {
        let now = is && self.said_at.is_none_or(|at| step >= at + AGAIN);
        if now {
            self.said_at = Some(step);
        }
        now
    }

    fn noticed(&mut self, step: u64, is: bool) -> bool {
        self.in_a_row = if is { self.in_a_row + 1 } else { 0 };
        let due = self.said_at.is_none_or(|at| step >= at + AGAIN);
        let now = self.in_a_row >= HABIT && due;
        if now {
            self.said_at = Some(step);
        }
        now
    }
}

/// State of the warnings. Part of a checkpoint; without it a resumed run repeats warnings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WarningState {
    explained: bool,
    idle: RecurringWarning,
    cut: RecurringWarning,
    generating: RecurringWarning,
    sure: RecurringWarning,
    mismatch: RecurringWarning,
    ungraded: RecurringWarning,
    unspelt: RecurringWarning,
    /// Mean entropy of the first steps, and their number.
    first_entropy: (f64, u64),
}

impl WarningState {
    /// The warnings after a step.
    pub fn observe(&mut self, seen: &WarningInputs) -> Vec<String> {
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.explained, true) {
            out.extend(explanation(seen));
        }
        out.extend(self.left_out(seen));
        if self.idle.noticed(seen.step, seen.idle_groups > IDLE) {
            out.push(idle(seen));
        }
        if self.cut.noticed(seen.step, seen.truncated > CUT) {
            out.push(format!(
                "{} of the completions ran into --max-completion-length for {HABIT} steps: they are graded although truncated. Raise \
                 it, or fine-tune the model to end its answers; --mask-truncated-completions leaves them out of the update",
                percent(seen.truncated, 0)
            ));
        }
        let [rollouts, score, update] = seen.seconds;
        if self.generating.noticed(seen.step, rollouts / (rollouts + score + update) > GENERATING) {
            out.push(format!(
                "{} of the time goes into generating. That is usual; more completions at once (--rollout-batch-size) and a smaller \
                 --max-completion-length make it faster, and --num-iterations 2 takes more updates from the same completions",
                percent(rollouts / (rollouts + score + update), 0)
            ));
        }
        let is_collapsed = self.is_collapsed(seen);
        if self.sure.noticed(seen.step, is_collapsed) {
            out.push(format!(
                "entropy fell to {:.3} nats per token from {:.3} at first: completions of a group become alike, and then nothing is learned \
                 from them. Lower the learning rate, raise --temperature or --epsilon-high, or set --entropy-coef 0.001",
                seen.entropy, self.first_entropy.0
            ));
        }
        if self.mismatch.noticed(seen.step, seen.mismatch > MISMATCH) {
            out.push(format!(
                "sampler and trainer disagree about a log-probability by {:.3}: with --top-k, --top-p or --min-p that is usual (the \
                 update knows the whole distribution), otherwise run `lehr doctor`",
                seen.mismatch
            ));
        }
        out
    }

    /// Completions and questions left out of the step.
    fn left_out(&mut self, seen: &WarningInputs) -> Vec<String> {
        let (step, mut out) = (seen.step, Vec::new());
        let (ungraded, why) = &seen.ungraded;
        if self.ungraded.report_now(step, *ungraded > 0) {
            out.push(format!(
                "step {step}: {} without a reward, since the grader failed twice; left out of advantages and loss, and counted in \
                 completions/ungraded: {why}",
                counted(*ungraded as u64, "completion")
            ));
        }
        let (unspelt, why) = &seen.unspelt;
        if self.unspelt.report_now(step, *unspelt > 0) {
            out.push(format!("step {step}: {} skipped: {why}", counted(*unspelt as u64, "question")));
        }
        out
    }

    fn is_collapsed(&mut self, seen: &WarningInputs) -> bool {
        let (mean, n) = &mut self.first_entropy;
        if !seen.entropy.is_finite() {
            return false;
        }
        if *n < HABIT {
            *mean = (*mean * *n as f64 + seen.entropy) / (*n + 1) as f64;
            *n += 1;
            return false;
        }
        seen.entropy < COLLAPSED * *mean && seen.entropy < SURE
    }
}

/// Values of the first step that are right but surprising.
fn explanation(seen: &WarningInputs) -> Vec<String> {
    let mut out = Vec::new();
    if seen.loss.abs() < 1e-3 {
        out.push(
            "the loss is about 0, and that is right: advantages of a group sum to 0 and the ratio of new to old probabilities is 1 before \
             the first update, so the loss says nothing about progress; its gradient does the work. Look at reward"
                .into(),
        );
    }
    if seen.clip_ratio == 0.0 && seen.updates == 1 {
        out.push(
            "clip_ratio is 0, and that is right: with one update a step the ratio of new to old probabilities is 1 when it is computed, so \
             that --epsilon has nothing to clip; it takes part with --num-iterations, --mini-batch-size or --lopti-eta"
                .into(),
        );
    }
    out
}

fn idle(seen: &WarningInputs) -> String {
    let which = match seen.reward_range {
        Some((least, greatest)) if seen.reward > least + 0.8 * (greatest - least) => {
            "the questions are too easy: choose harder ones"
        }
        Some((least, greatest)) if seen.reward < least + 0.2 * (greatest - least) => {
            "the questions are too hard: choose easier ones, or fine-tune first"
        }
        _ => "the questions are too easy or too hard: choose others, or fine-tune first",
    };
    format!(
        "in {} of the groups all completions got the same reward for {HABIT} steps, so that their advantage is 0 and they teach nothing; \
         {which}. More completions a question (--num-generations) or a higher --temperature bring differences, --dynamic-sampling 3 draws \
         other questions instead",
        percent(seen.idle_groups, 0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The warnings over `steps` steps: (step, text).
    fn issued(steps: u64, seen: impl Fn(u64) -> WarningInputs) -> Vec<(u64, String)> {
        let mut watch = WarningState::default();
        let mut out = Vec::new();
        for step in 1..=steps {
            // A resumed run continues with the saved state.
            watch = serde_json::from_str(&serde_json::to_string(&watch).unwrap()).unwrap();
            out.extend(watch.observe(&WarningInputs { step, ..seen(step) }).into_iter().map(|t| (step, t)));
        }
        out
    }

    #[test]
    fn a_healthy_run_gets_each_explanation_once() {
        let healthy = WarningInputs {
            loss: 1e-6,
            clip_ratio: 0.0,
            idle_groups: 0.3,
            truncated: 0.01,
            entropy: 0.4,
            seconds: [3.0, 1.0, 4.0],
            mismatch: 1e-4,
            ..WarningInputs::default()
        };
        let found = issued(1000, |_| healthy.clone());
        assert!(found.len() == 2 && found.iter().all(|(step, _)| *step == 1), "{found:?}");
        assert!(found[0].1.starts_with("the loss is about 0") && found[1].1.starts_with("clip_ratio is 0"));
        // With several updates a ratio of 0 needs no explanation; unmeasured values trigger nothing.
        assert_eq!(issued(3, |_| WarningInputs { updates: 4, loss: 0.5, ..healthy.clone() }), []);
        assert_eq!(issued(300, |_| WarningInputs::default()), []);
    }

    #[test]
    fn recurring_warnings_are_rare_and_name_a_remedy() {
        let cases: [(WarningInputs, &str, &str); 5] = [
            (WarningInputs { idle_groups: 0.9, ..WarningInputs::default() }, "90 % of the groups", "--dynamic-sampling"),
            (WarningInputs { truncated: 1.0, ..WarningInputs::default() }, "100 % of the completions", "--max-completion-length"),
            (WarningInputs { seconds: [8.0, 1.0, 1.0], ..WarningInputs::default() }, "80 % of the time", "--rollout-batch-size"),
            (WarningInputs { mismatch: 0.5, ..WarningInputs::default() }, "0.500", "lehr doctor"),
            (
                WarningInputs { idle_groups: 0.81, reward: 2.9, reward_range: Some((-3.0, 3.0)), ..WarningInputs::default() },
                "too easy",
                "harder",
            ),
        ];
        for (seen, what, cure) in cases {
            let found = issued(410, |_| seen.clone());
            assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [5, 205, 405], "{found:?}");
            assert!(found[0].1.contains(what) && found[0].1.contains(cure) && !found[0].1.contains("  "), "{}", found[0].1);
            // Isolated steps trigger nothing.
            assert_eq!(issued(400, |step| if step % 5 == 0 { WarningInputs::default() } else { seen.clone() }), []);
        }
        let hard = WarningInputs { idle_groups: 1.0, reward: -2.9, reward_range: Some((-3.0, 3.0)), ..WarningInputs::default() };
        assert!(issued(5, |_| hard.clone())[0].1.contains("too hard: choose easier"));
    }

    #[test]
    fn ungraded_completions_are_reported_at_once_then_rarely() {
        let failed = WarningInputs {
            ungraded: (2, "it ended".into()),
            unspelt: (1, "no such character".into()),
            ..WarningInputs::default()
        };
        let found = issued(210, |_| failed.clone());
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [1, 1, 201, 201], "{found:?}");
        assert!(found[0].1.contains("2 completions without a reward") && found[0].1.ends_with("it ended"), "{}", found[0].1);
        assert!(found[1].1.contains("1 question skipped: no such character"), "{}", found[1].1);
    }

    #[test]
    fn entropy_collapse_needs_a_fall() {
        let entropy = |e: f64| WarningInputs { entropy: e, ..WarningInputs::default() };
        let found = issued(100, |step| entropy(if step < 40 { 0.5 } else { 0.01 }));
        assert!(
            found.len() == 1 && found[0].0 == 44 && found[0].1.contains("0.010") && found[0].1.contains("0.500"),
            "{found:?}"
        );
        assert_eq!(issued(100, |_| entropy(0.01)), []);
        assert_eq!(issued(100, |step| entropy(if step < 40 { 5.0 } else { 0.3 })), []);
    }
}

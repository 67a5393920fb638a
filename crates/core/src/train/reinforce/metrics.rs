//! Metrics of a step, with the names of TRL and verl.

use super::SampledStep;
use crate::event::Number;
use crate::stats::{deviation, mean};
use std::collections::BTreeMap;

/// Names and values.
pub type Metrics = BTreeMap<String, Number>;

/// Insert one metric.
pub(super) fn set(metrics: &mut Metrics, name: impl Into<String>, value: f64) {
    metrics.insert(name.into(), Number(value));
}

/// Statistics of a step's completions: rewards, accuracy (also by level), lengths, and the difference of log-probabilities between sampler
/// and trainer.
pub(super) fn of_completions(sampled: &SampledStep, generations: usize) -> Metrics {
    let mut out = Metrics::new();
    let of = |group: &[super::Rollout]| group.iter().filter(|r| !r.ungraded).map(|r| r.reward).collect::<Vec<f64>>();
    let rewards = of(&sampled.rollouts);
    set(&mut out, "reward", mean(&rewards));
    let groups: Vec<Vec<f64>> = sampled.rollouts.chunks(generations).map(of).collect();
    let stds: Vec<f64> = groups.iter().map(|group| std(group)).collect();
    set(&mut out, "reward_std", mean(&stds));
    let flat = groups.iter().filter(|group| group.iter().all(|r| *r == group[0])).count();
    set(&mut out, "frac_reward_zero_std", flat as f64 / stds.len().max(1) as f64);
    let ungraded = sampled.rollouts.len() - rewards.len();
    if ungraded > 0 {
        set(&mut out, "completions/ungraded", ungraded as f64);
    }
    let mut parts: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut levels: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for answer in sampled.answers.iter().filter(|answer| !answer.grade.ungraded) {
        answer.grade.parts.iter().for_each(|(name, value)| parts.entry(name).or_default().push(*value));
        levels.entry(sampled.questions[answer.question].level).or_default().push(f64::from(u8::from(answer.grade.correct)));
    }
    for (name, values) in parts {
        set(&mut out, format!("rewards/{name}/mean"), mean(&values));
        set(&mut out, format!("rewards/{name}/std"), std(&values));
    }
    let correct: Vec<f64> = levels.values().flatten().copied().collect();
    set(&mut out, "accuracy", mean(&correct));
    if levels.len() > 1 {
        levels.iter().for_each(|(level, values)| set(&mut out, format!("accuracy/{level}"), mean(values)));
    }
    lengths(sampled, &mut out);
    set(&mut out, "mismatch/logprob_max_abs", mismatch(sampled));
    if sampled.dropped_groups > 0 {
        set(&mut out, "dynamic_sampling/dropped_groups", sampled.dropped_groups as f64);
    }
    out
}

fn lengths(sampled: &SampledStep, out: &mut Metrics) {
    let all: Vec<f64> = sampled.rollouts.iter().map(|r| r.completion.len() as f64).collect();
    let ended: Vec<f64> = sampled.rollouts.iter().filter(|r| !r.truncated).map(|r| r.completion.len() as f64).collect();
    for (name, values) in [("length", &all), ("terminated_length", &ended)] {
        if values.is_empty() {
            continue;
        }
        set(out, format!("completions/mean_{name}"), mean(values));
        set(out, format!("completions/min_{name}"), values.iter().copied().fold(f64::INFINITY, f64::min));
        set(out, format!("completions/max_{name}"), values.iter().copied().fold(0.0, f64::max));
    }
    set(out, "completions/clipped_ratio", 1.0 - ended.len() as f64 / all.len().max(1) as f64);
}

/// The largest difference of a token's log-probability between sampler and trainer.
fn mismatch(sampled: &SampledStep) -> f64 {
    let pairs = sampled.rollouts.iter().flat_map(|r| r.sampled_logprobs.iter().zip(&r.old_logprobs));
    pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// Standard deviation (n - 1), as TRL reports it; 0 of a single value.
fn std(values: &[f64]) -> f64 {
    if values.len() < 2 { 0.0 } else { deviation(values) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tasks::{Grade, Question};
    use crate::train::reinforce::{GradedCompletion, Rollout};

    #[test]
    fn rewards_lengths_and_levels_are_averaged() {
        let question = |level| Question { level, ..Question::default() };
        let answer = |question, correct| GradedCompletion {
            question,
            grade: Grade { correct, parts: BTreeMap::from([("format".to_owned(), 1.0)]), ..Grade::default() },
            ..GradedCompletion::default()
        };
        let rollout = |reward, length, truncated| Rollout {
            reward,
            completion: vec![0; length],
            truncated,
            sampled_logprobs: vec![-1.0; length],
            old_logprobs: vec![-1.5; length],
            ..Rollout::default()
        };
        let sampled = SampledStep {
            questions: vec![question(3), question(4)],
            answers: vec![answer(0, true), answer(0, true), answer(1, false), answer(1, true)],
            rollouts: vec![rollout(3.0, 4, false), rollout(3.0, 6, false), rollout(-1.0, 9, true), rollout(3.0, 5, false)],
            ..SampledStep::default()
        };
        let m = of_completions(&sampled, 2);
        let get = |name: &str| m[name].0;
        assert_eq!([get("reward"), get("frac_reward_zero_std")], [2.0, 0.5]);
        assert!((get("reward_std") - 8f64.sqrt() / 2.0).abs() < 1e-12);
        assert_eq!([get("accuracy"), get("accuracy/3"), get("accuracy/4")], [0.75, 1.0, 0.5]);
        assert_eq!([get("completions/mean_length"), get("completions/mean_terminated_length")], [6.0, 5.0]);
        assert_eq!([get("completions/clipped_ratio"), get("completions/max_length")], [0.25, 9.0]);
        assert_eq!([get("mismatch/logprob_max_abs"), get("rewards/format/mean")], [0.5, 1.0]);
        assert!(!m.contains_key("completions/ungraded"));
        let mut sampled = sampled;
        (sampled.rollouts[2].ungraded, sampled.answers[2].grade.ungraded) = (true, true);
        let m = of_completions(&sampled, 2);
        let get = |name: &str| m[name].0;
        assert_eq!([get("reward"), get("frac_reward_zero_std"), get("completions/ungraded")], [3.0, 1.0, 1.0]);
        assert_eq!([get("accuracy"), get("accuracy/4")], [1.0, 1.0]);
    }
}

//! Reporting of a GRPO step: metrics, token statistics, warnings, completions.

use super::metrics::{self, Metrics, set};
use super::sampling::SampledStep;
use super::step::{FinishedUpdate, PendingStep};
use super::{UpdateStats, probe, tokens, warnings};
use crate::config::RolloutSettings;
use crate::data::Tokenizer;
use crate::event::{Completion, Event, Number, Step};
use crate::train::TrainerState;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Time spent in the parts of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Sampling.
    pub rollout: f64,
    /// Grading.
    pub grade: f64,
    /// Old (and reference) log-probabilities.
    pub score: f64,
    /// Updates.
    pub update: f64,
    /// Measuring the effect of the update.
    pub probe: f64,
}

impl Seconds {
    fn total(&self) -> f64 {
        self.rollout + self.grade + self.score + self.update + self.probe
    }
}

/// The results and events of a finished step; `after` are the tokens' log-probabilities after the last update, if measured.
pub(super) fn step(
    now: &PendingStep,
    after: Option<&[Vec<f32>]>,
    state: &TrainerState,
    settings: &RolloutSettings,
    watch: &mut warnings::WarningState,
) -> (Step, Vec<Event>) {
    let rollouts = &now.sampled.rollouts;
    let mut all = metrics::of_completions(&now.sampled, settings.num_generations);
    let together = UpdateStats::aggregate(&now.updates.iter().map(|m| m.stats).collect::<Vec<_>>());
    of_updates(&now.updates, &together, now.grpo.beta, &mut all);
    of_time(&now.seconds, rollouts.iter().map(|r| r.completion.len()).sum(), &mut all);
    let mut stats = tokens::statistics(state.step, rollouts, now.grpo.reweight_alpha);
    stats.grad_norm = grad_norms(&now.updates);
    stats.gradient = now.gradient.clone();
    stats.probe = after.map(|after| probe::probe(&probe::changes(rollouts, after)));
    let entropies = || rollouts.iter().flat_map(|r| &r.entropy).map(|h| f64::from(*h));
    let entropy = crate::stats::mean(&entropies().collect::<Vec<_>>());
    let get = |name: &str| all.get(name).map_or(f64::NAN, |n| n.0);
    let first = now.updates.first().map(|m| m.stats).unwrap_or_default();
    let warnings = watch.observe(&warnings::WarningInputs {
        step: state.step,
        loss: first.loss,
        clip_ratio: first.clip_low + first.clip_high,
        updates: now.updates.len(),
        idle_groups: get("frac_reward_zero_std"),
        reward: get("reward"),
        truncated: get("completions/clipped_ratio"),
        entropy,
        seconds: [now.seconds.rollout, now.seconds.score, now.seconds.update],
        mismatch: get("mismatch/logprob_max_abs"),
        ungraded: ungraded(&now.sampled),
        unspelt: now.sampled.unspelt.clone(),
        ..warnings::WarningInputs::default()
    });
    let mut events = vec![Event::Tokens(Box::new(stats))];
    events.extend(warnings.into_iter().map(|text| Event::Warning { text }));
    let numbers = Step {
        step: state.step,
        loss: loss(&now.updates),
        entropy,
        mean_token_accuracy: f64::NAN,
        num_tokens: state.num_tokens,
        grad_norm: together.grad_norm,
        skipped: together.skipped,
        metrics: all,
        ..Step::default()
    };
    (numbers, events)
}

/// Number of completions without a reward, and the last error.
fn ungraded(sampled: &SampledStep) -> (usize, String) {
    let of: Vec<_> = sampled.answers.iter().filter(|answer| answer.grade.ungraded).collect();
    (of.len(), of.last().map(|answer| answer.grade.reason.clone()).unwrap_or_default())
}

/// The mean loss of a mini-batch, summed over the passes that divide its tokens.
fn loss(updates: &[FinishedUpdate]) -> f64 {
    let passes: std::collections::BTreeSet<&str> = updates.iter().map(|m| m.pass.as_str()).collect();
    updates.iter().map(|m| m.stats.loss).sum::<f64>() / (updates.len() / passes.len().max(1)).max(1) as f64
}

/// Mean gradient norm of each pass.
fn grad_norms(updates: &[FinishedUpdate]) -> BTreeMap<String, Number> {
    let mut of: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    updates.iter().for_each(|m| of.entry(&m.pass).or_default().push(m.stats.grad_norm));
    of.into_iter().map(|(pass, norms)| (pass.to_owned(), Number(crate::stats::mean(&norms)))).collect()
}

fn of_updates(updates: &[FinishedUpdate], together: &UpdateStats, beta: f64, out: &mut Metrics) {
    let UpdateStats { clip_low, clip_high, clip_dual, .. } = *together;
    set(out, "policy_loss", together.policy_loss);
    if beta > 0.0 {
        set(out, "kl", together.kl);
    }
    set(out, "ppo_kl", together.approx_kl);
    set(out, "ratio_deviation", together.ratio_deviation);
    set(out, "clip_ratio/low_mean", clip_low);
    set(out, "clip_ratio/high_mean", clip_high);
    set(out, "clip_ratio/dual_mean", clip_dual);
    set(out, "clip_ratio/region_mean", clip_low + clip_high + clip_dual);
    set(out, "num_updates", updates.len() as f64);
    for (pass, norm) in grad_norms(updates) {
        if pass == "all" {
            continue;
        }
        let of_pass: u64 = updates.iter().filter(|m| m.pass == pass).map(|m| m.stats.tokens).sum();
        set(out, format!("lopti/{pass}/grad_norm"), norm.0);
        set(out, format!("lopti/{pass}/share"), of_pass as f64 / together.tokens.max(1) as f64);
    }
}

fn of_time(seconds: &Seconds, tokens: usize, out: &mut Metrics) {
    for (name, value) in [
        ("gen", seconds.rollout),
        ("reward", seconds.grade),
        ("old_log_prob", seconds.score),
        ("update_actor", seconds.update),
        ("probe", seconds.probe),
    ] {
        set(out, format!("timing_s/{name}"), value);
    }
    set(out, "step_time", seconds.total());
    set(out, "rollout_tokens_per_second", tokens as f64 / seconds.rollout.max(1e-9));
}

/// The completions of a step, as written to `samples.jsonl`.
///
/// # Errors
/// Tokens that the tokenizer does not have.
pub(super) fn completions(sampled: &SampledStep, tokenizer: &Tokenizer, step: u64) -> Result<Vec<Completion>> {
    let of = |(answer, rollout): (&super::GradedCompletion, &super::Rollout)| {
        let question = &sampled.questions[answer.question];
        let mut stream = tokenizer.decode_stream(&[]);
        let pieces = rollout.completion.iter().map(|id| stream.push(*id)).collect::<Result<Vec<_>>>()?;
        Ok(Completion {
            step,
            group: rollout.group,
            prompt: question.prompt.clone(),
            text: answer.text.clone(),
            answer: question.answer.clone(),
            level: question.level,
            reward: answer.grade.reward,
            rewards: answer.grade.parts.clone(),
            correct: answer.grade.correct,
            reason: answer.grade.reason.clone(),
            truncated: rollout.truncated,
            prompt_tokens: rollout.prompt.clone(),
            tokens: rollout.completion.clone(),
            pieces,
            logprobs: rollout.old_logprobs.clone(),
            entropy: rollout.entropy.clone(),
            advantages: rollout.advantages.clone(),
        })
    };
    sampled.answers.iter().zip(&sampled.rollouts).map(of).collect()
}

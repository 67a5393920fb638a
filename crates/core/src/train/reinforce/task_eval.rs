//! Evaluation on an RL task: held-out questions, answered and graded, with the uncertainty of the result.

use super::sampling::{graded, text_of};
use super::step::Reinforce;
use crate::data::Tokenizer;
use crate::data::tasks::{Grade, Question, Split, Task};
use crate::device::Device;
use crate::event::{Score, TaskEval};
use crate::model::{Model, RolloutBatch, RolloutEngine, RolloutRequest, SampledCompletion};
use crate::ops::sample::Sampling;
use crate::progress::Progress;
use crate::stats::Z;
use anyhow::{Result, ensure};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Everything needed to answer questions.
pub struct TaskModel<'a> {
    /// The device.
    pub device: &'a Device,
    /// The model.
    pub model: &'a Model,
    /// Rollout engine; its rows hold prompt and completion.
    pub engine: &'a mut RolloutEngine,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Stop tokens.
    pub stops: &'a [u32],
    /// Whether prompts are formatted with a chat template.
    pub chat: bool,
}

/// Settings of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct TaskEvalSpec {
    /// Number of held-out questions, from the first.
    pub questions: u64,
    /// Answers per question.
    pub samples: usize,
    /// Maximum tokens per answer.
    pub max_completion_length: usize,
    /// Temperature (0: greedy), filters and seed.
    pub sampling: Sampling,
}

/// One question with its graded answers.
#[derive(Clone, Debug, Default)]
pub struct GradedQuestion {
    /// The question.
    pub question: Question,
    /// Its answers, as far as they could be graded.
    pub answers: Vec<GradedAnswer>,
}

/// Questions with their answers; number of ungraded answers, and the last error.
pub type TaskResults = (Vec<GradedQuestion>, (u64, String));

/// One answer.
#[derive(Clone, Debug, Default)]
pub struct GradedAnswer {
    /// Its text, without the stop token.
    pub text: String,
    /// The grade.
    pub grade: Grade,
    /// Its length.
    pub tokens: usize,
    /// Whether it reached the maximum length.
    pub truncated: bool,
}

impl TaskModel<'_> {
    /// Answer and grade. `None` when `progress` stopped it. Questions that cannot be encoded or are too long are left out, and so are
    /// ungraded answers: the result has their number and the last error.
    ///
    /// # Errors
    /// A prompt that does not fit, a grader that fails, or a device fault.
    pub fn evaluate(
        &mut self,
        task: &mut dyn Task,
        spec: &TaskEvalSpec,
        progress: &mut Progress<'_>,
    ) -> Result<Option<TaskResults>> {
        let mut out = Vec::new();
        let mut requests = Vec::new();
        let max_len = self.engine.max_len().saturating_sub(spec.max_completion_length);
        for n in 0..spec.questions {
            let question = task.question(Split::Eval, n)?;
            let Some(prompt) = question.encode(self.tokenizer, self.chat).ok().filter(|prompt| prompt.len() <= max_len) else {
                continue;
            };
            for sample in 0..spec.samples {
                // An evaluation has its own random keys, which no training step uses.
                let key = [u32::MAX - sample as u32, n as u32];
                requests.push(RolloutRequest { prompt: prompt.clone(), key, max_new: spec.max_completion_length });
            }
            out.push(GradedQuestion { question, answers: Vec::new() });
        }
        ensure!(!out.is_empty(), "task {}: no question of evaluation fits into {max_len} tokens", task.name());
        let mut watch = |_: &str, done, all| progress("evaluating", done, all);
        let batch = RolloutBatch { requests: &requests, sampling: &spec.sampling, stops: self.stops };
        let run = self.engine.run(self.device, self.model, batch, &mut watch)?;
        let Some(completions) = run else { return Ok(None) };
        let texts = completions.iter().map(|c| text_of(c, self.tokenizer, self.stops)).collect::<Result<Vec<_>>>()?;
        let asked: Vec<(&Question, &str)> =
            texts.iter().enumerate().map(|(i, text)| (&out[i / spec.samples].question, text.as_str())).collect();
        let grades = graded(task, &asked)?;
        let mut ungraded = (0, String::new());
        for (i, ((text, grade), SampledCompletion { tokens, truncated, .. })) in
            texts.into_iter().zip(grades).zip(completions).enumerate()
        {
            if grade.ungraded {
                ungraded = (ungraded.0 + 1, grade.reason);
                continue;
            }
            out[i / spec.samples].answers.push(GradedAnswer { text, grade, tokens: tokens.len(), truncated });
        }
        // Questions without a graded answer are left out.
        out.retain(|graded_questions| !graded_questions.answers.is_empty());
        Ok(Some((out, ungraded)))
    }
}

/// Scores of the answers, in total and by level.
pub fn scores(graded_questions: &[GradedQuestion]) -> (Score, BTreeMap<u32, Score>) {
    let mut levels: BTreeMap<u32, Vec<&GradedQuestion>> = BTreeMap::new();
    graded_questions.iter().for_each(|e| levels.entry(e.question.level).or_default().push(e));
    let all: Vec<&GradedQuestion> = graded_questions.iter().collect();
    (score(&all), levels.into_iter().map(|(level, of)| (level, score(&of))).collect())
}

/// Mean of a number over all answers; NaN where there are none.
fn mean(of: &[&GradedQuestion], value: &dyn Fn(&GradedAnswer) -> f64) -> f64 {
    let answers = || of.iter().flat_map(|e| &e.answers);
    answers().map(value).sum::<f64>() / answers().count() as f64
}

fn score(of: &[&GradedQuestion]) -> Score {
    let mean = |value: &dyn Fn(&GradedAnswer) -> f64| mean(of, value);
    let accuracy = mean(&|a| f64::from(u8::from(a.grade.correct)));
    let independent = independent(of);
    Score {
        count: of.iter().map(|e| e.answers.len() as u64).sum(),
        accuracy,
        interval: if independent > 0.0 { wilson(accuracy * independent, independent) } else { [0.0, 1.0] },
        reward: mean(&|a| a.grade.reward),
        mean_length: mean(&|a| a.tokens as f64),
        clipped_ratio: mean(&|a| f64::from(u8::from(a.truncated))),
    }
}

/// Effective number of independent answers. Answers to one question are correlated, so their number is divided by the design effect: the
/// variance of the mean from that of the per-question shares, over that of independent answers (Kish 1965, 8.2), never below 1. If all
/// answers agree, the correlation is unknown: the number of questions.
fn independent(of: &[&GradedQuestion]) -> f64 {
    let (questions, count) = (of.len() as f64, of.iter().map(|e| e.answers.len()).sum::<usize>() as f64);
    if of.iter().all(|e| e.answers.len() <= 1) {
        return count;
    }
    let share = |e: &GradedQuestion| e.answers.iter().filter(|a| a.grade.correct).count() as f64 / e.answers.len() as f64;
    let mean = of.iter().map(|e| share(e)).sum::<f64>() / questions;
    let variance = of.iter().map(|e| (share(e) - mean).powi(2)).sum::<f64>() / (questions - 1.0);
    let effect = (variance / questions) / (mean * (1.0 - mean) / count);
    if effect.is_finite() { count / effect.max(1.0) } else { questions }
}

/// The full results of an evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct TaskScores {
    /// Number of questions.
    pub questions: u64,
    /// Score of their answers.
    #[serde(flatten)]
    pub score: Score,
    /// Mean of each part of the reward.
    pub rewards: BTreeMap<String, f64>,
    /// Share of answers in the requested format; `None` if the task does not check it.
    pub format: Option<f64>,
    /// Estimated share of questions with at least one correct answer in k, for k = 1, 2, 4, ... and all: [`pass_at_k`].
    #[serde(rename = "pass@")]
    pub pass_at: BTreeMap<usize, f64>,
}

/// Results over all questions, and by level.
pub fn reports(graded_questions: &[GradedQuestion]) -> (TaskScores, BTreeMap<u32, TaskScores>) {
    let mut levels: BTreeMap<u32, Vec<&GradedQuestion>> = BTreeMap::new();
    graded_questions.iter().for_each(|e| levels.entry(e.question.level).or_default().push(e));
    let all: Vec<&GradedQuestion> = graded_questions.iter().collect();
    (report(&all), levels.into_iter().map(|(level, of)| (level, report(&of))).collect())
}

fn report(of: &[&GradedQuestion]) -> TaskScores {
    let samples = of.iter().map(|e| e.answers.len()).min().unwrap_or(0);
    let names: BTreeSet<&String> = of.iter().flat_map(|e| &e.answers).flat_map(|a| a.grade.parts.keys()).collect();
    let part = |a: &GradedAnswer, name: &str| a.grade.parts.get(name).copied().unwrap_or(0.0);
    let pass = |k: usize| {
        let right = |e: &GradedQuestion| e.answers.iter().filter(|a| a.grade.correct).count();
        of.iter().map(|e| pass_at_k(e.answers.len(), right(e), k)).sum::<f64>() / of.len() as f64
    };
    let powers = (0..usize::BITS).map(|i| 1usize << i).take_while(|k| *k <= samples);
    TaskScores {
        questions: of.len() as u64,
        score: score(of),
        rewards: names.iter().map(|name| ((*name).clone(), mean(of, &|a| part(a, name)))).collect(),
        format: names.contains(&"format".to_owned()).then(|| mean(of, &|a| f64::from(u8::from(part(a, "format") > 0.0)))),
        pass_at: powers.chain((samples > 0).then_some(samples)).map(|k| (k, pass(k))).collect(),
    }
}

/// Wilson's 95 % interval for a share of `right` in `n` (Wilson 1927, without continuity correction).
pub fn wilson(right: f64, n: f64) -> [f64; 2] {
    if n == 0.0 {
        return [0.0, 1.0];
    }
    let p = right / n;
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(middle - half).max(0.0), (middle + half).min(1.0)]
}

/// The unbiased estimate of pass@k from `right` correct answers of `n`: 1 - C(n - right, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374,
/// Eq. 1).
pub fn pass_at_k(n: usize, right: usize, k: usize) -> f64 {
    if n < right + k {
        return 1.0;
    }
    1.0 - (n - right + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

impl Reinforce {
    /// Evaluate on the held-out questions; see [`crate::train::Trainer::evaluate_task`].
    pub(super) fn held_out(
        &mut self,
        device: &Device,
        model: &Model,
        step: u64,
        temperature: f64,
        progress: &mut Progress<'_>,
    ) -> Result<Option<TaskEval>> {
        let begin = web_time::Instant::now();
        let task = self.task_context.task.as_mut();
        let spec = TaskEvalSpec {
            questions: task.eval_questions(),
            samples: 1,
            max_completion_length: self.rollout.max_completion_length,
            sampling: Sampling { temperature, seed: self.seed, ..Sampling::default() },
        };
        let (tokenizer, stops, chat) = (&self.task_context.tokenizer, self.task_context.stops.as_slice(), self.task_context.chat);
        let mut evaluator = TaskModel { device, model, engine: &mut self.engine, tokenizer, stops, chat };
        let Some((graded_questions, (ungraded, ungraded_reason))) = evaluator.evaluate(task, &spec, progress)? else {
            return Ok(None);
        };
        let (all, levels) = scores(&graded_questions);
        let eval_seconds = begin.elapsed().as_secs_f64();
        let task = task.name().to_owned();
        Ok(Some(TaskEval { step, task, temperature, all, levels, ungraded, ungraded_reason, eval_seconds }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_at_k_is_the_probability_that_k_draws_contain_a_correct_one() {
        // Brute force over all subsets.
        for (n, right, k) in [(5usize, 2usize, 2usize), (6, 1, 3), (4, 4, 1), (4, 0, 2), (7, 3, 5)] {
            let subsets = (0u32..1 << n).filter(|s| s.count_ones() as usize == k);
            let with = subsets.clone().filter(|s| s & ((1 << right) - 1) != 0).count();
            let want = with as f64 / subsets.count() as f64;
            assert!((pass_at_k(n, right, k) - want).abs() < 1e-12, "{n} {right} {k}");
        }
    }

    /// Questions with (correct answers, answers).
    fn graded_questions(of: &[(usize, usize)]) -> Vec<GradedQuestion> {
        let answer = |correct| GradedAnswer { grade: Grade { correct, ..Grade::default() }, ..GradedAnswer::default() };
        let one = |(right, n): &(usize, usize)| GradedQuestion {
            answers: (0..*n).map(|i| answer(i < *right)).collect(),
            ..GradedQuestion::default()
        };
        of.iter().map(one).collect()
    }

    #[test]
    fn intervals_account_for_correlated_answers() {
        let count = |of: &[(usize, usize)]| independent(&graded_questions(of).iter().collect::<Vec<_>>());
        // One answer each: all of them.
        assert_eq!(count(&[(1, 1), (0, 1), (0, 1)]), 3.0);
        // Answers to a question always agree: the number of questions, up to the correction of the variance.
        let agreeing: Vec<_> = (0..100).map(|i| (8 * (i % 2), 8)).collect();
        assert!((count(&agreeing) - 99.0).abs() < 1e-9, "{}", count(&agreeing));
        // Questions do not differ: the number of answers.
        assert_eq!(count(&[(4, 8); 50]), 400.0);
        // All correct: the correlation is unknown.
        assert_eq!(count(&[(8, 8); 50]), 50.0);
        let (all, _) = reports(&graded_questions(&[(1, 2), (2, 2), (0, 2)]));
        assert_eq!((all.questions, all.score.count, all.score.accuracy, all.format), (3, 6, 0.5, None));
        assert_eq!(all.pass_at, BTreeMap::from([(1, 0.5), (2, 2.0 / 3.0)]));
    }

    #[test]
    fn wilson_matches_known_cases() {
        // 10 of 20: statsmodels.stats.proportion.proportion_confint(10, 20, method="wilson").
        let [low, high] = wilson(10.0, 20.0);
        assert!((low - 0.299_298).abs() < 1e-5 && (high - 0.700_702).abs() < 1e-5, "{low} {high}");
        let [low, high] = wilson(0.0, 10.0);
        assert!(low == 0.0 && (high - 0.277_533).abs() < 1e-5, "{high}");
    }
}

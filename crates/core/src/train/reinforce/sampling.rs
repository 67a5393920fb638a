//! From questions to graded completions: the first half of a step.

use super::Rollout;
use crate::config::RolloutSettings;
use crate::data::Tokenizer;
use crate::data::tasks::{Grade, Question, Split, Task};
use crate::device::Device;
use crate::model::{Model, RolloutBatch, RolloutEngine, RolloutRequest, SampledCompletion};
use crate::ops::sample::Sampling;
use crate::progress::Progress;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// A graded completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GradedCompletion {
    /// Index of its question in [`SampledStep::questions`].
    pub question: usize,
    /// The completion as text, without the stop token.
    pub text: String,
    /// The grade.
    pub grade: Grade,
}

/// The completions of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampledStep {
    /// One per group.
    pub questions: Vec<Question>,
    /// One per completion, grouped.
    pub answers: Vec<GradedCompletion>,
    /// The same completions as token ids.
    pub rollouts: Vec<Rollout>,
    /// Groups that were dropped because all of their rewards were equal.
    pub dropped_groups: usize,
    /// Questions skipped because they are longer than --max-prompt-length.
    pub too_long: usize,
    /// Questions skipped because the tokenizer cannot encode them, and the first error.
    #[serde(default)]
    pub unspelt: (usize, String),
    /// Seconds of sampling, and of grading.
    pub seconds: [f64; 2],
}

/// Everything needed to sample and grade.
pub struct Sampler<'a> {
    /// The device.
    pub device: &'a Device,
    /// The policy.
    pub model: &'a Model,
    /// Rollout engine.
    pub engine: &'a mut RolloutEngine,
    /// RL task: questions and grader.
    pub task: &'a mut dyn Task,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Stop tokens.
    pub stops: &'a [u32],
    /// Whether prompts are formatted with a chat template.
    pub chat: bool,
    /// Lengths and number of completions.
    pub settings: &'a RolloutSettings,
    /// Completions per step.
    pub completions: usize,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// Part of the random key of every sample.
    pub step: u64,
}

/// Maximum number of consecutive skipped prompts before sampling fails.
const MOST_TOO_LONG: usize = 1000;

impl Sampler<'_> {
    /// Sample a step's groups; `asked` is the number of the next question, and is advanced. `None` when `progress` stopped it: `asked` is
    /// then undefined.
    ///
    /// # Errors
    /// Questions that do not fit, a grader that fails, or a device fault.
    pub fn sample(&mut self, asked: &mut u64, progress: &mut Progress<'_>) -> Result<Option<SampledStep>> {
        let mut all = SampledStep::default();
        let groups = self.completions / self.settings.num_generations;
        // Random numbers are keyed by (step, number of the completion): another round of the same step uses other numbers.
        let mut first_key = 0;
        for round in 0..=self.settings.dynamic_sampling {
            let missing = groups - all.questions.len();
            let Some(more) = self.round(missing, asked, first_key, progress)? else { return Ok(None) };
            first_key += more.rollouts.len() as u32;
            let last = round == self.settings.dynamic_sampling;
            all.take(more, self.settings.num_generations, groups, !last);
            if all.questions.len() >= groups {
                break;
            }
        }
        Ok(Some(all))
    }

    /// One round: sample and grade `groups` groups.
    fn round(
        &mut self,
        groups: usize,
        asked: &mut u64,
        first_key: u32,
        progress: &mut Progress<'_>,
    ) -> Result<Option<SampledStep>> {
        let mut out = SampledStep::default();
        let prompts = self.next_questions(groups, asked, &mut out)?;
        let generations = self.settings.num_generations;
        let requests: Vec<RolloutRequest> = (0..groups * generations)
            .map(|i| RolloutRequest {
                prompt: prompts[i / generations].clone(),
                key: [self.step as u32, first_key + i as u32],
                max_new: self.settings.max_completion_length,
            })
            .collect();
        let begin = web_time::Instant::now();
        let mut watch = |_: &str, done, all| progress("sampling", done, all);
        let batch = RolloutBatch { requests: &requests, sampling: &self.sampling, stops: self.stops };
        let Some(completions) = self.engine.run(self.device, self.model, batch, &mut watch)? else {
            return Ok(None);
        };
        out.seconds[0] = begin.elapsed().as_secs_f64();
        for (i, completion) in completions.into_iter().enumerate() {
            let question = i / generations;
            let text = text_of(&completion, self.tokenizer, self.stops)?;
            out.answers.push(GradedCompletion { question, text, grade: Grade::default() });
            out.rollouts.push(Rollout {
                group: question as u32,
                prompt: prompts[question].clone(),
                completion: completion.tokens,
                truncated: completion.truncated,
                sampled_logprobs: completion.logprobs,
                ..Rollout::default()
            });
        }
        let begin = web_time::Instant::now();
        self.grade(&mut out)?;
        out.seconds[1] = begin.elapsed().as_secs_f64();
        Ok(Some(out))
    }

    /// The next questions that can be encoded and are short enough, and their prompt ids.
    fn next_questions(&self, groups: usize, asked: &mut u64, out: &mut SampledStep) -> Result<Vec<Vec<u32>>> {
        let mut prompts = Vec::new();
        while out.questions.len() < groups {
            let question = self.task.question(Split::Train, *asked)?;
            *asked += 1;
            let ids = match question.encode(self.tokenizer, self.chat) {
                Ok(ids) => ids,
                Err(error) => {
                    let (count, why) = &mut out.unspelt;
                    *count += 1;
                    ensure!(*count < MOST_TOO_LONG, "task {}: {MOST_TOO_LONG} questions in a row: {error:#}", self.task.name());
                    if why.is_empty() {
                        *why = format!("{error:#}");
                    }
                    continue;
                }
            };
            if ids.len() > self.settings.max_prompt_length {
                out.too_long += 1;
                ensure!(
                    out.too_long < MOST_TOO_LONG,
                    "--max-prompt-length {}: {MOST_TOO_LONG} questions in a row are longer (the last has {} tokens)",
                    self.settings.max_prompt_length,
                    ids.len()
                );
                continue;
            }
            prompts.push(ids);
            out.questions.push(question);
        }
        Ok(prompts)
    }

    fn grade(&mut self, sampled: &mut SampledStep) -> Result<()> {
        let asked: Vec<(&Question, &str)> =
            sampled.answers.iter().map(|a| (&sampled.questions[a.question], a.text.as_str())).collect();
        let grades = graded(self.task, &asked)?;
        for ((grade, answer), rollout) in grades.into_iter().zip(&mut sampled.answers).zip(&mut sampled.rollouts) {
            (rollout.reward, rollout.ungraded) = (grade.reward, grade.ungraded);
            answer.grade = grade;
        }
        Ok(())
    }
}

/// Grade each answer.
pub(super) fn graded(task: &mut dyn Task, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
    let grades = task.grade(answers)?;
    let name = task.name();
    ensure!(grades.len() == answers.len(), "task {name}: {} grades for {} answers", grades.len(), answers.len());
    for Grade { reward, .. } in &grades {
        ensure!(reward.is_finite(), "task {name}: a reward of {reward}; it must be a number");
    }
    Ok(grades)
}

/// A completion as text, without the stop token.
pub(super) fn text_of(completion: &SampledCompletion, tokenizer: &Tokenizer, stops: &[u32]) -> Result<String> {
    let ended = completion.tokens.last().is_some_and(|last| stops.contains(last));
    tokenizer.decode(&completion.tokens[..completion.tokens.len() - usize::from(ended)])
}

impl SampledStep {
    /// Append another round's groups, up to `most` groups; with `drop_uniform_groups` only those whose rewards differ.
    fn take(&mut self, more: SampledStep, generations: usize, most: usize, drop_uniform_groups: bool) {
        self.too_long += more.too_long;
        self.unspelt.0 += more.unspelt.0;
        if self.unspelt.1.is_empty() {
            self.unspelt.1 = more.unspelt.1;
        }
        (0..2).for_each(|i| self.seconds[i] += more.seconds[i]);
        let groups = more.answers.chunks(generations).zip(more.rollouts.chunks(generations));
        for (question, (answers, rollouts)) in more.questions.into_iter().zip(groups) {
            if self.questions.len() >= most {
                break;
            }
            let mut rewards = rollouts.iter().filter(|r| !r.ungraded).map(|r| r.reward);
            let first = rewards.next();
            if drop_uniform_groups && rewards.all(|reward| Some(reward) == first) {
                self.dropped_groups += 1;
                continue;
            }
            let group = self.questions.len();
            self.questions.push(question);
            self.answers.extend(answers.iter().map(|a| GradedCompletion { question: group, ..a.clone() }));
            self.rollouts.extend(rollouts.iter().map(|r| Rollout { group: group as u32, ..r.clone() }));
        }
    }
}

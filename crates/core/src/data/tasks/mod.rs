//! Verifiable tasks: sources of questions, and graders.

pub mod custom;
mod distinct;
mod draws;
pub mod kk;
pub mod math;
#[cfg(not(target_arch = "wasm32"))]
mod process;
mod question_set;
mod question_stream;

pub use distinct::Distinct;
pub use draws::Draws;

use super::tokenizer::UNKNOWN;
use super::{Notices, Tokenizer, display_text};
use crate::config::{DataSettings, TaskKind, TaskSettings};
use crate::vfs::Vfs;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The split of a question. Training and evaluation never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Training questions.
    Train,
    /// Evaluation questions.
    Eval,
}

/// A question with the information that its grader needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// The prompt as text (after the chat template, if one is used).
    pub prompt: String,
    /// The reference answer in the grader's format.
    pub answer: String,
    /// The level by which results are grouped: number of people, or difficulty.
    pub level: u32,
}

impl Question {
    /// The tokens of the prompt, at least one in addition to a begin token. Text from a chat template (`chat`) already has its begin token.
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot encode, or that has no tokens.
    pub fn encode(&self, tokenizer: &Tokenizer, chat: bool) -> Result<Vec<u32>> {
        let ids = tokenizer.encode(&self.prompt).context("the question")?;
        ensure!(!ids.is_empty(), "the question holds no token; a model must be asked something");
        if chat { Ok(ids) } else { tokenizer.encode_text(&self.prompt).context("the question") }
    }
}

/// The result of grading a completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Grade {
    /// The reward.
    pub reward: f64,
    /// Exact match: counted by accuracy.
    pub correct: bool,
    /// Components of the reward by name (`format`, `answer`).
    pub parts: BTreeMap<String, f64>,
    /// The reason, in a few words.
    pub reason: String,
    /// The grader could not grade it: it is excluded from training and from all counts.
    #[serde(default)]
    pub ungraded: bool,
}

impl Grade {
    /// Reward 1 for a correct answer, 0 for an incorrect one with the given reason.
    pub(crate) fn right_or_not(verdict: Result<(), String>) -> Self {
        match verdict {
            Ok(()) => Self { reward: 1.0, correct: true, reason: "right".into(), ..Self::default() },
            Err(reason) => Self { reason, ..Self::default() },
        }
    }

    /// An ungraded result with the given reason.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn none(reason: String) -> Self {
        Self { reason, ungraded: true, ..Self::default() }
    }
}

/// The error of a grader program that has stopped working: it cannot be started, or no longer grades anything.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct GraderGone(pub String);

/// An RL task.
pub trait Task: Send {
    /// Its name, as in `--task`.
    fn name(&self) -> &'static str;

    /// Question `n` of a split: a pure function of the task, its seed and `n`, so a counter is the whole state. Rows of a file are
    /// reshuffled after each pass.
    ///
    /// # Errors
    /// The generator finds no further question.
    fn question(&self, split: Split, n: u64) -> Result<Question>;

    /// Number of evaluation questions.
    fn eval_questions(&self) -> u64;

    /// A hash of the rows and their order; `None` for generated questions.
    fn content_hash(&self) -> Option<String> {
        None
    }

    /// Grades completions (question, text without the token that ended it), in order.
    ///
    /// # Errors
    /// [`GraderGone`]. A completion is never an error, whatever it contains; one on which a program fails is [`Grade::ungraded`].
    fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>>;
}

/// The sources of a task: see [`open`].
pub(crate) struct TaskInput<'a> {
    vfs: &'a dyn Vfs,
    settings: &'a TaskSettings,
    data: &'a DataSettings,
    seed: u64,
    tokenizer: Option<&'a Tokenizer>,
    date: i64,
}

/// Opens the task of these settings. `seed` determines the generated questions and the order of rows. `tokenizer` provides the chat
/// template of `--chat`, which uses `date` (seconds since 1970) as the current date.
///
/// # Errors
/// A setting out of range; unusable rows.
pub fn open(
    vfs: &dyn Vfs,
    settings: &TaskSettings,
    data: &DataSettings,
    seed: u64,
    tokenizer: Option<&Tokenizer>,
    date: i64,
    notices: &mut Notices,
) -> Result<Box<dyn Task>> {
    let input = TaskInput { vfs, settings, data, seed, tokenizer, date };
    let task: Box<dyn Task> = match settings.task {
        TaskKind::Kk => Box::new(kk::Kk::open(&input, notices)?),
        TaskKind::Math => Box::new(math::Math::open(&input, notices)?),
        TaskKind::Custom => Box::new(custom::Custom::open(&input, notices)?),
    };
    if let Some(tokenizer) = tokenizer {
        check_words(task.as_ref(), tokenizer, notices)?;
    }
    Ok(task)
}

/// Checks that the tokenizer can encode the questions. A word tokenizer built from other rows may lack some words.
fn check_words(task: &dyn Task, tokenizer: &Tokenizer, notices: &mut Notices) -> Result<()> {
    const LOOKED_AT: u64 = 64;
    for n in 0..task.eval_questions().min(LOOKED_AT) {
        let prompt = task.question(Split::Eval, n)?.prompt;
        let ids = tokenizer.encode(&prompt).with_context(|| format!("--task {}: a question", task.name()))?;
        let Some(unknown) = tokenizer.token_id(UNKNOWN).filter(|id| ids.contains(id)) else { continue };
        let is_unknown = |word: &&str| tokenizer.encode(word).is_ok_and(|ids| ids.contains(&unknown));
        notices.push(format!(
            "--task {}: the tokenizer has no token for {:?} in the questions and reads {UNKNOWN}; its rows should be made with the \
             same settings",
            task.name(),
            display_text(prompt.split_whitespace().find(is_unknown).unwrap_or_default())
        ));
        break;
    }
    Ok(())
}

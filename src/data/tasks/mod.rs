//! Verifiable tasks: where questions come from and how answers are judged.

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
use super::{Notices, Tokenizer, shown};
use crate::config::{DataSettings, TaskKind, TaskSettings};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which questions: those of training and those of evaluation never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// To learn from.
    Train,
    /// To be judged by.
    Eval,
}

/// Something that is asked, and what its grader needs to know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// What the model is given, as text (already through a chat template, if one is used).
    pub prompt: String,
    /// The right answer as the grader wants it.
    pub answer: String,
    /// What results are grouped by: the number of people, or the grade of difficulty.
    pub level: u32,
}

impl Question {
    /// The tokens of the prompt, at least one beside a begin token. One that a chat template wrote (`chat`) has its begin token already.
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot spell, or that has no token.
    pub fn encode(&self, tokenizer: &Tokenizer, chat: bool) -> Result<Vec<u32>> {
        let ids = tokenizer.encode(&self.prompt).context("the question")?;
        ensure!(!ids.is_empty(), "the question holds no token; a model must be asked something");
        if chat { Ok(ids) } else { tokenizer.encode_text(&self.prompt).context("the question") }
    }
}

/// What a grader says of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Grade {
    /// The reward.
    pub reward: f64,
    /// Entirely right: what accuracy counts.
    pub correct: bool,
    /// Parts of the reward by name (`format`, `answer`).
    pub parts: BTreeMap<String, f64>,
    /// Why, in a few words.
    pub reason: String,
    /// The grader could not judge it: nothing is known of it, and it is neither learned from nor counted.
    #[serde(default)]
    pub ungraded: bool,
}

impl Grade {
    /// 1 for a right answer, 0 for one that is not, for the reason given.
    pub(crate) fn right_or_not(verdict: Result<(), String>) -> Self {
        match verdict {
            Ok(()) => Self { reward: 1.0, correct: true, reason: "right".into(), ..Self::default() },
            Err(reason) => Self { reason, ..Self::default() },
        }
    }

    /// No verdict, for the reason given.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn none(reason: String) -> Self {
        Self { reason, ungraded: true, ..Self::default() }
    }
}

/// The error of a program that judges no more: it cannot be started, or judges nothing however often it is.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct GraderGone(pub String);

/// A task.
pub trait Task: Send {
    /// Its name, as in --task.
    fn name(&self) -> &'static str;

    /// Question `n` of a split: a pure function of the task, its seed and `n`, so that a counter is all there is to save. Rows of a file
    /// come in a new order each time all have been asked.
    ///
    /// # Errors
    /// A generator that finds no further question.
    fn question(&self, split: Split, n: u64) -> Result<Question>;

    /// Questions of the evaluation split.
    fn eval_questions(&self) -> u64;

    /// A hash of the rows that questions come from, and of their order; `None` where they are made.
    fn content_hash(&self) -> Option<String> {
        None
    }

    /// Judge completions (question, text without the token that ended it), in order.
    ///
    /// # Errors
    /// [`GraderGone`]. An answer, however odd, is never an error; one that a program fails on is [`Grade::ungraded`].
    fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>>;
}

/// The task that the settings ask for. `seed` decides which questions are made and in what order rows come. `tokenizer` brings the chat
/// template of `--chat`, which sees `date` (seconds since 1970) as today.
///
/// # Errors
/// A setting out of range; rows that cannot be used.
pub fn open(
    settings: &TaskSettings,
    data: &DataSettings,
    seed: u64,
    tokenizer: Option<&Tokenizer>,
    date: i64,
    notices: &mut Notices,
) -> Result<Box<dyn Task>> {
    let task: Box<dyn Task> = match settings.task {
        TaskKind::Kk => Box::new(kk::Kk::open(settings, data, seed, tokenizer, date, notices)?),
        TaskKind::Math => Box::new(math::Math::open(settings, data, seed, tokenizer, date, notices)?),
        TaskKind::Custom => Box::new(custom::Custom::open(settings, data, seed, tokenizer, date, notices)?),
    };
    if let Some(tokenizer) = tokenizer {
        check_words(task.as_ref(), tokenizer, notices)?;
    }
    Ok(task)
}

/// Whether a tokenizer can spell what is asked. A tokenizer of words that was made from other rows may lack some.
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
            shown(prompt.split_whitespace().find(is_unknown).unwrap_or_default())
        ));
        break;
    }
    Ok(())
}

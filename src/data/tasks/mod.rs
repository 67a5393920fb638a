//! Verifiable tasks: where questions come from and how answers are judged.

mod asker;
mod bank;
pub mod custom;
mod distinct;
mod draws;
pub mod kk;
pub mod math;
#[cfg(not(target_arch = "wasm32"))]
mod process;

pub use distinct::Distinct;
pub use draws::Draws;

use super::Notices;
use super::Tokenizer;
use crate::config::{DataSettings, TaskKind, TaskSettings};
use anyhow::Result;
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
}

impl Grade {
    /// 1 for a right answer, 0 for one that is not, for the reason given.
    pub(crate) fn right_or_not(verdict: Result<(), String>) -> Self {
        match verdict {
            Ok(()) => Self { reward: 1.0, correct: true, reason: "right".into(), ..Self::default() },
            Err(reason) => Self { reason, ..Self::default() },
        }
    }
}

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

    /// Judge completions (question, text without the token that ended it), in order.
    ///
    /// # Errors
    /// A grader process that fails or takes too long. An answer, however odd, is never an error.
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
    Ok(match settings.task {
        TaskKind::Kk => Box::new(kk::Kk::open(settings, data, seed, tokenizer, date, notices)?),
        TaskKind::Math => Box::new(math::Math::open(settings, data, seed, tokenizer, date, notices)?),
        TaskKind::Custom => Box::new(custom::Custom::open(settings, data, seed, tokenizer, date, notices)?),
    })
}

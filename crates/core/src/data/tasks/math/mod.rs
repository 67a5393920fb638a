//! Generated arithmetic and countdown problems, and rows such as those of GSM8K and MATH, graded by their answer: 1 if it is right, else 0.
//!
//! `answer` locates the answer in a completion, `tokens` and `expression` parse it, `value` computes it exactly, `reading` compares,
//! `verdict` has the rules and their differences from math-verify.

pub mod answer;
pub mod arithmetic;
pub mod countdown;
pub mod expression;
pub mod reading;
mod tokens;
pub mod value;
pub mod verdict;

pub use verdict::{GradingRules, grade};

use super::distinct::{Distinct, allowed, level_of};
use super::draws::Draws;
use super::question_set::{HeldOutQuestions, QuestionSource, RowReader};
use super::question_stream::QuestionStream;
use super::{Grade, Question, Split, Task, TaskInput};
use crate::config::{MathKind, TaskSettings};
use crate::data::chat::{prompt_chat, question_chat};
use crate::data::json_rows::Object;
use crate::data::{Notices, display_text};
use anyhow::{Context, Result, bail, ensure};
use countdown::Countdown;
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;

/// Difficulty grades.
pub const GRADES: std::ops::RangeInclusive<usize> = 1..=5;
/// Format of a row, for messages.
pub const EXAMPLE: &str = r##"{"question": "...", "answer": "... #### 72"}"##;
/// Fields with a question, and the text that follows it; below, fields with its answer, possibly a rationale that ends with the answer.
const QUESTIONS: [(&str, &str); 3] = [("question", "\n"), ("problem", "\n"), ("prompt", "")];
const ANSWERS: [&str; 2] = ["answer", "solution"];
/// One in this many questions is for evaluation.
const BUCKETS: u64 = 4;
/// About one draw in four is an evaluation question.
const MOST_DRAWS: usize = 100_000;

/// System prompt for rows.
const SYSTEM: &str = "Reason step by step, and put the final number in \\boxed{}.";
/// System prompt for arithmetic.
const SYSTEM_ARITHMETIC: &str = "Compute. Put the result in \\boxed{}.";
/// System prompt for countdown.
const SYSTEM_COUNTDOWN: &str = "Write an expression of the given numbers, each used exactly once, with + - * / and brackets, that makes \
the target. Put the expression alone between <answer> and </answer>.";

/// A question with its answer as text: a row of `lehr data math`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MathRow {
    /// The prompt.
    pub prompt: String,
    /// The answer in the grader's format: a number, or `3,5,2=16`.
    pub answer: String,
    /// Difficulty grade.
    pub level: u32,
    /// The target completion.
    pub completion: String,
    /// Prompt and completion.
    pub text: String,
}

/// A number with spaces between its digits, so that each is one token of `--tokenizer words`.
pub fn spaced(number: i64) -> String {
    number.to_string().chars().map(String::from).collect::<Vec<_>>().join(" ")
}

/// Question `n` of a grade, with its key: a function of its arguments. The split is a function of the question itself, so training and
/// evaluation do not overlap, for every seed.
///
/// # Errors
/// No question is found, which is ruled out for the grades in [`GRADES`].
pub fn generate_problem(kind: MathKind, grade: usize, seed: u64, split: Split, n: u64) -> Result<(String, MathRow)> {
    let purpose = match split {
        Split::Train => "math train",
        Split::Eval => "math eval",
    };
    let mut draws = Draws::new(seed, purpose, n);
    for _ in 0..MOST_DRAWS {
        let (key, prompt, answer, completion) = match kind {
            MathKind::Arithmetic => {
                let sum = arithmetic::sum(grade, &mut draws);
                (sum.key, sum.prompt, sum.value.to_string(), format!(" {}", spaced(sum.value)))
            }
            MathKind::Countdown => {
                let made = Countdown::draw(grade, &mut draws);
                (made.key(), made.prompt(), made.answer(), format!(" {}", made.solution))
            }
        };
        let eval = fnv1a(&key).is_multiple_of(BUCKETS);
        if eval == (split == Split::Eval) {
            let text = format!("{prompt}{completion}");
            return Ok((key, MathRow { prompt, answer, level: grade as u32, completion, text }));
        }
    }
    bail!("--difficulty {grade}: no question in {MOST_DRAWS} draws")
}

/// FNV-1a with a finalizer, since without it the low bits depend only on the low bits of the text.
fn fnv1a(text: &str) -> u64 {
    let hash = text.bytes().fold(0xCBF2_9CE4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
    (hash ^ (hash >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 20
}

/// Distinct questions of a split.
pub fn distinct(kind: MathKind, grades: Vec<usize>, seed: u64, split: Split) -> Distinct<MathRow> {
    Distinct::new(grades, split, move |grade, split, n| generate_problem(kind, grade, seed, split, n))
}

/// The task `math`.
pub struct Math {
    kind: MathKind,
    question_stream: QuestionStream,
    /// Grades of generated questions.
    grades: Vec<usize>,
    seed: u64,
    source: QuestionSource,
    digits_apart: bool,
}

impl Math {
    /// Generated questions, or with `--data` those of the rows; with only `--val-data`, evaluation questions are rows.
    ///
    /// # Errors
    /// A setting out of range, an invalid row.
    pub(crate) fn open(input: &TaskInput<'_>, notices: &mut Notices) -> Result<Self> {
        let &TaskInput { vfs, settings, data, seed, tokenizer, date } = input;
        let kind = settings.math;
        let system = match kind {
            _ if !data.data.is_empty() || data.val_data.is_some() => SYSTEM,
            MathKind::Arithmetic => SYSTEM_ARITHMETIC,
            MathKind::Countdown => SYSTEM_COUNTDOWN,
        };
        let question_stream = QuestionStream::new(settings, tokenizer, date, Some(system), false)?;
        let make = |row: Object| {
            let mut question = row_question(&row)?;
            let key = question.prompt.clone();
            let is_list = asked_in_messages(&row);
            let chat = if is_list { prompt_chat(&row)? } else { question_chat(question.prompt.trim_end(), &row)? };
            let rendered = question_stream.conversation(chat)?;
            ensure!(rendered.is_some() || !is_list, "prompt: is a list of messages, which needs --chat");
            question.prompt = rendered.unwrap_or(question.prompt);
            Ok((key, question))
        };
        let reader = RowReader { vfs, example: EXAMPLE, tokenizer, make };
        let grades =
            if data.data.is_empty() { TaskSettings::list("difficulty", &settings.difficulty, GRADES)? } else { Vec::new() };
        let source = QuestionSource::open(settings, data, seed, &reader, notices, |notices| {
            let distinct = distinct(kind, grades.clone(), seed, Split::Eval);
            HeldOutQuestions::make(settings, distinct, "--difficulty", notices, |_, row| question(&question_stream, row))
        })?;
        let digits_apart = tokenizer.is_some_and(verdict::splits_digits);
        Ok(Self { kind, question_stream, grades, seed, source, digits_apart })
    }
}

fn question(question_stream: &QuestionStream, row: MathRow) -> Result<Question> {
    let prompt = question_stream.chat(&row.prompt)?.unwrap_or(row.prompt);
    Ok(Question { prompt, answer: row.answer, level: row.level })
}

/// Whether a row asks its question in messages: `prompt` is the only field of a question, and a list.
fn asked_in_messages(row: &Object) -> bool {
    let field = QUESTIONS.iter().find(|(field, _)| row.get(*field).is_some_and(|value| !value.is_null()));
    field.is_some_and(|(field, _)| *field == "prompt") && row["prompt"].is_array()
}

/// A row as a question: `question`, `problem` or `prompt`; and `answer` or `solution`, which is a number or a few words, or a text with
/// these after `####` or in `\boxed{}`. The row's own answer must get the reward.
///
/// # Errors
/// The field that is missing or invalid.
pub fn row_question(row: &Object) -> Result<Question> {
    let there = |field: &str| row.get(field).filter(|value| !value.is_null());
    let asked = QUESTIONS.iter().find_map(|(field, end)| Some((field, there(field)?, end)));
    let (field, asked, end) = asked.context("question: missing. Give the question")?;
    let asked = match asked {
        Value::String(text) => Cow::Borrowed(text.as_str()),
        // Messages for the chat template; what they say is the question.
        Value::Array(_) if asked_in_messages(row) => {
            let messages = prompt_chat(row)?.messages;
            Cow::Owned(messages.iter().filter_map(|message| message["content"].as_str()).collect::<Vec<_>>().join("\n"))
        }
        Value::Array(_) => bail!("{field}: must be a string. Give messages in the field prompt"),
        _ => bail!("{field}: must be a string"),
    };
    let found = ANSWERS.iter().find_map(|field| Some((*field, there(field)?)));
    let (field, answer) = found.context("answer: missing. Give the number, or a text that ends in #### and the number")?;
    let own = match answer {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => bail!("{field}: must be a string or a number"),
    };
    let answer = match Countdown::parse(&own) {
        Some(_) => own,
        None => verdict::reference(&own).map_err(|why| anyhow::anyhow!("{field}: {:?} {why}", display_text(&own)))?,
    };
    Ok(Question { prompt: format!("{asked}{end}"), answer, level: super::custom::level(row) })
}

impl Task for Math {
    fn name(&self) -> &'static str {
        "math"
    }

    fn question(&self, split: Split, n: u64) -> Result<Question> {
        self.source.question(split, n, |held| {
            let grade = self.grades[level_of(n, self.grades.len())];
            let make = |n| generate_problem(self.kind, grade, self.seed, split, n).map(|(_, row)| row);
            question(&self.question_stream, allowed(n, make, |row| !held.contains(|| row.prompt.clone()))?)
        })
    }

    fn eval_questions(&self) -> u64 {
        self.source.eval_questions()
    }

    fn content_hash(&self) -> Option<String> {
        self.source.content_hash()
    }

    fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
        // Generated problems have to be computed: `4 7 * 3` is not an answer to `4 7 * 3 =`.
        let rules = GradingRules { made: !self.grades.is_empty(), digits_apart: self.digits_apart };
        Ok(answers.iter().map(|(question, completion)| verdict::grade_question(question, completion, rules)).collect())
    }
}

//! The task `custom`: rows of `prompt` and `answer`, and a selectable grader.

use super::math::{GradingRules, verdict};
#[cfg(not(target_arch = "wasm32"))]
use super::process::GraderProcess;
use super::question_set::{QuestionSource, RowReader};
use super::question_stream::QuestionStream;
use super::{Grade, Question, Split, Task, TaskInput};
use crate::config::{Grader, TaskSettings};
use crate::data::chat::prompt_chat;
use crate::data::json_rows::Object;
use crate::data::{Notices, display_text};
use anyhow::{Result, bail};
use regex::{Regex, RegexBuilder};
use serde_json::Value;
use std::collections::HashMap;

/// Format of a row, for messages.
pub const EXAMPLE: &str = r#"{"prompt": "...", "answer": "..."}"#;
/// Maximum size of a compiled regular expression in bytes, and number of cached expressions.
const MAX_REGEX_BYTES: usize = 1 << 20;
const MAX_REGEXES: usize = 1024;

/// Grades completions against the answers of rows.
pub struct RowGrader {
    kind: Kind,
    rules: GradingRules,
    regexes: HashMap<String, Regex>,
}

enum Kind {
    Exact,
    Number,
    Regex,
    #[cfg(not(target_arch = "wasm32"))]
    Process(GraderProcess),
}

impl RowGrader {
    /// The grader of `--grader` and `--grader-command`.
    ///
    /// # Errors
    /// Incompatible settings.
    pub fn new(settings: &TaskSettings) -> Result<Self> {
        let kind = match (settings.grader, &settings.grader_command) {
            (Grader::Process, None) => bail!("--grader process: needs --grader-command, the program that grades"),
            #[cfg(not(target_arch = "wasm32"))]
            (_, Some(command)) => Kind::Process(GraderProcess::new(command, settings.grader_timeout)?),
            #[cfg(target_arch = "wasm32")]
            (_, Some(_)) => bail!("--grader-command: there are no programs to start here"),
            (Grader::Exact, None) => Kind::Exact,
            (Grader::Number, None) => Kind::Number,
            (Grader::Regex, None) => Kind::Regex,
        };
        Ok(Self { kind, rules: GradingRules::default(), regexes: HashMap::new() })
    }

    /// Checks that completions can be graded against this answer.
    ///
    /// # Errors
    /// The answer is not a number, or not a regular expression, where one is needed.
    pub fn check(&self, answer: &str) -> Result<()> {
        match self.kind {
            Kind::Number => {
                verdict::reference(answer).map_err(|why| anyhow::anyhow!("answer: {:?} {why}", display_text(answer)))?;
            }
            Kind::Regex => drop(compile(answer)?),
            _ => {}
        }
        Ok(())
    }

    /// Grades completions, in order.
    ///
    /// # Errors
    /// A grader program that fails, takes too long or writes invalid output.
    pub fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
        let verdict = |right: bool| Grade::right_or_not(if right { Ok(()) } else { Err("another answer".into()) });
        match &mut self.kind {
            #[cfg(not(target_arch = "wasm32"))]
            Kind::Process(process) => process.grade(answers),
            Kind::Exact => Ok(answers.iter().map(|(q, answer)| verdict(q.answer.trim() == answer.trim())).collect()),
            Kind::Number => {
                let graded = |(question, answer): &(&Question, &str)| verdict::grade_question(question, answer, self.rules);
                Ok(answers.iter().map(graded).collect())
            }
            Kind::Regex => {
                if self.regexes.len() > MAX_REGEXES {
                    self.regexes.clear();
                }
                let mut grades = Vec::new();
                for (question, answer) in answers {
                    if !self.regexes.contains_key(&question.answer) {
                        self.regexes.insert(question.answer.clone(), compile(&question.answer)?);
                    }
                    grades.push(verdict(self.regexes[&question.answer].is_match(answer)));
                }
                Ok(grades)
            }
        }
    }
}

fn compile(answer: &str) -> Result<Regex> {
    let error = |e: regex::Error| {
        // The message of the regex crate spans several lines; its last line is the error.
        let text = e.to_string();
        anyhow::anyhow!(
            "answer: {:?} is not a regular expression: {}",
            display_text(answer),
            display_text(text.lines().last().unwrap_or_default())
        )
    };
    RegexBuilder::new(answer).size_limit(MAX_REGEX_BYTES).build().map_err(error)
}

/// The task `custom`.
pub struct Custom {
    grader: RowGrader,
    source: QuestionSource,
}

impl Custom {
    /// Reads the rows of `--data`.
    ///
    /// # Errors
    /// No rows, an invalid row, incompatible settings.
    pub(crate) fn open(input: &TaskInput<'_>, notices: &mut Notices) -> Result<Self> {
        let &TaskInput { vfs, settings, data, seed, tokenizer, date } = input;
        let question_stream = QuestionStream::new(settings, tokenizer, date, None, false)?;
        let mut grader = RowGrader::new(settings)?;
        grader.rules.digits_apart = tokenizer.is_some_and(verdict::splits_digits);
        let make = |row: Object| {
            let question = row_question(&row, &question_stream)?;
            grader.check(&question.answer)?;
            Ok((question.prompt.clone(), question))
        };
        let reader = RowReader { vfs, example: EXAMPLE, tokenizer, make };
        let source = QuestionSource::open(settings, data, seed, &reader, notices, |_| no_generator())?;
        Ok(Self { grader, source })
    }
}

/// The error of a request for a generated question: this task has rows only.
fn no_generator<T>() -> Result<T> {
    bail!("--task custom: needs --data, a JSONL file with rows such as {EXAMPLE}")
}

/// A row as a question. The prompt is text, or messages for the chat template.
fn row_question(row: &Object, question_stream: &QuestionStream) -> Result<Question> {
    let prompt = match (question_stream.conversation(prompt_chat(row)?)?, row.get("prompt")) {
        (Some(text), _) => text,
        (None, Some(Value::String(text))) => text.clone(),
        (None, _) => bail!("prompt: is a list of messages, which needs --chat"),
    };
    Ok(Question { prompt, answer: row_answer(row)?, level: level(row) })
}

/// The answer of a row: a string or a number.
///
/// # Errors
/// A missing answer, or one of another type.
pub fn row_answer(row: &Object) -> Result<String> {
    match row.get("answer") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(_) => bail!("answer: must be a string or a number"),
        None => bail!("answer: missing. Give the correct answer"),
    }
}

/// The level by which results are grouped; 0 if the row has none.
pub fn level(row: &Object) -> u32 {
    match row.get("level") {
        // MATH's format is "Level 5".
        Some(Value::String(text)) => text.rsplit(' ').next().and_then(|level| level.parse().ok()).unwrap_or(0),
        level => level.and_then(Value::as_u64).and_then(|level| u32::try_from(level).ok()).unwrap_or(0),
    }
}

impl Task for Custom {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn question(&self, split: Split, n: u64) -> Result<Question> {
        self.source.question(split, n, |_| no_generator())
    }

    fn eval_questions(&self) -> u64 {
        self.source.eval_questions()
    }

    fn content_hash(&self) -> Option<String> {
        self.source.content_hash()
    }

    fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
        self.grader.grade(answers)
    }
}

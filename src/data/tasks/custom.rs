//! The task `custom`: rows of `prompt` and `answer`, and a judge of one's choice.

use super::math::verdict;
#[cfg(not(target_arch = "wasm32"))]
use super::process::Process;
use super::question_set::{Reader, Source};
use super::question_stream::QuestionStream;
use super::{Grade, Question, Split, Task};
use crate::config::{DataSettings, Grader, TaskSettings};
use crate::data::chat::prompt_chat;
use crate::data::json_rows::Object;
use crate::data::{Notices, Tokenizer, shown};
use anyhow::{Result, bail};
use regex::{Regex, RegexBuilder};
use serde_json::Value;
use std::collections::HashMap;

/// What a row looks like, for messages.
pub const EXAMPLE: &str = r#"{"prompt": "...", "answer": "..."}"#;
/// Bytes that a regular expression may take when compiled, and expressions kept.
const MAX_REGEX_BYTES: usize = 1 << 20;
const MAX_REGEXES: usize = 1024;

/// Judges completions by the answers of rows.
pub struct RowGrader {
    kind: Kind,
    regexes: HashMap<String, Regex>,
}

enum Kind {
    Exact,
    Number,
    Regex,
    #[cfg(not(target_arch = "wasm32"))]
    Process(Process),
}

impl RowGrader {
    /// The judge of `--grader` and `--grader-command`.
    ///
    /// # Errors
    /// Settings that do not fit together.
    pub fn new(settings: &TaskSettings) -> Result<Self> {
        let kind = match (settings.grader, &settings.grader_command) {
            (Grader::Process, None) => bail!("--grader process: needs --grader-command, the program that judges"),
            #[cfg(not(target_arch = "wasm32"))]
            (_, Some(command)) => Kind::Process(Process::new(command, settings.grader_timeout)?),
            #[cfg(target_arch = "wasm32")]
            (_, Some(_)) => bail!("--grader-command: there are no programs to start here"),
            (Grader::Exact, None) => Kind::Exact,
            (Grader::Number, None) => Kind::Number,
            (Grader::Regex, None) => Kind::Regex,
        };
        Ok(Self { kind, regexes: HashMap::new() })
    }

    /// Whether an answer can be judged by.
    ///
    /// # Errors
    /// No number, or no regular expression, where one is needed.
    pub fn check(&self, answer: &str) -> Result<()> {
        match self.kind {
            Kind::Number => {
                verdict::reference(answer).map_err(|why| anyhow::anyhow!("answer: {:?} {why}", shown(answer)))?;
            }
            Kind::Regex => drop(compile(answer)?),
            _ => {}
        }
        Ok(())
    }

    /// A verdict for each completion, in order.
    ///
    /// # Errors
    /// A program that fails, takes too long or talks nonsense.
    pub fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
        let verdict = |right: bool| Grade::right_or_not(if right { Ok(()) } else { Err("another answer".into()) });
        match &mut self.kind {
            #[cfg(not(target_arch = "wasm32"))]
            Kind::Process(process) => process.grade(answers),
            Kind::Exact => Ok(answers.iter().map(|(q, said)| verdict(q.answer.trim() == said.trim())).collect()),
            Kind::Number => Ok(answers.iter().map(|(question, said)| verdict::judge(question, said, false)).collect()),
            Kind::Regex => {
                if self.regexes.len() > MAX_REGEXES {
                    self.regexes.clear();
                }
                let mut grades = Vec::new();
                for (question, said) in answers {
                    if !self.regexes.contains_key(&question.answer) {
                        self.regexes.insert(question.answer.clone(), compile(&question.answer)?);
                    }
                    grades.push(verdict(self.regexes[&question.answer].is_match(said)));
                }
                Ok(grades)
            }
        }
    }
}

fn compile(answer: &str) -> Result<Regex> {
    let error = |e: regex::Error| {
        // The message draws a picture over several lines; its last line says what is wrong.
        let text = e.to_string();
        anyhow::anyhow!(
            "answer: {:?} is no regular expression: {}",
            shown(answer),
            shown(text.lines().last().unwrap_or_default())
        )
    };
    RegexBuilder::new(answer).size_limit(MAX_REGEX_BYTES).build().map_err(error)
}

/// See the module.
pub struct Custom {
    judge: RowGrader,
    source: Source,
}

impl Custom {
    /// The rows of `--data`.
    ///
    /// # Errors
    /// No rows, one that cannot be used, settings that do not fit together.
    pub fn open(
        settings: &TaskSettings,
        data: &DataSettings,
        seed: u64,
        tokenizer: Option<&Tokenizer>,
        date: i64,
        notices: &mut Notices,
    ) -> Result<Self> {
        let question_stream = QuestionStream::new(settings, tokenizer, date, None, false)?;
        let judge = RowGrader::new(settings)?;
        let make = |row: Object| {
            let question = row_question(&row, &question_stream)?;
            judge.check(&question.answer)?;
            Ok((question.prompt.clone(), question))
        };
        let reader = Reader { example: EXAMPLE, tokenizer, make };
        let source = Source::open(settings, data, seed, &reader, notices, |_| nothing_made())?;
        Ok(Self { judge, source })
    }
}

/// Where a question is to come from that is no row.
fn nothing_made<T>() -> Result<T> {
    bail!("--task custom: needs --data, a JSONL file with rows such as {EXAMPLE}")
}

/// A row as a question. The prompt is a text, or messages for the chat template.
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
/// It is missing or something else.
pub fn row_answer(row: &Object) -> Result<String> {
    match row.get("answer") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(_) => bail!("answer: must be a string or a number"),
        None => bail!("answer: missing. Give what is right"),
    }
}

/// What results are grouped by, if the row says it.
pub fn level(row: &Object) -> u32 {
    match row.get("level") {
        // MATH says "Level 5".
        Some(Value::String(text)) => text.rsplit(' ').next().and_then(|level| level.parse().ok()).unwrap_or(0),
        level => level.and_then(Value::as_u64).and_then(|level| u32::try_from(level).ok()).unwrap_or(0),
    }
}

impl Task for Custom {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn question(&self, split: Split, n: u64) -> Result<Question> {
        self.source.question(split, n, |_| nothing_made())
    }

    fn eval_questions(&self) -> u64 {
        self.source.eval_questions()
    }

    fn content_hash(&self) -> Option<String> {
        self.source.content_hash()
    }

    fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
        self.judge.grade(answers)
    }
}

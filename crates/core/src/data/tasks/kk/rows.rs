//! External rows of puzzles: the public ones, those of `lehr data kk`, and rows with a response to be graded.

use super::claim::{Claim, solutions};
use super::{english, notation, reading};
use crate::config::PuzzleForm;
use crate::data::display_text;
use crate::data::json_rows::Object;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Format of a row, for messages.
pub const EXAMPLE: &str = r#"{"quiz": "...", "solution_text_format": "..."}"#;

/// The puzzle of a row.
#[derive(Clone, Debug)]
pub struct RowPuzzle {
    /// Names of the people; `None` if the row has none.
    pub names: Option<Vec<String>>,
    /// The claims in the public notation.
    pub statements: Option<Vec<Claim>>,
    /// The claims parsed from the quiz, or why it cannot be parsed; `None` without a quiz.
    pub quiz: Option<Result<reading::ParsedPuzzle, String>>,
    /// For each person, whether they are a knight, according to the row.
    pub solution: Option<Vec<bool>>,
}

/// Result of solving a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SolvedRow {
    /// Names of the people.
    pub names: Vec<String>,
    /// Number of consistent assignments.
    pub solutions: u32,
    /// For each person, whether they are a knight; only if the solution is unique.
    pub solution: Option<Vec<bool>>,
    /// Whether this equals the row's solution; `None` if the row has none.
    pub agrees: Option<bool>,
    /// Whether quiz and statements agree; `None` if one is missing or the quiz is in an unknown wording.
    pub quiz_agrees: Option<bool>,
}

impl SolvedRow {
    /// The solution in the public format, if there is one.
    pub fn text(&self) -> Option<String> {
        let solution = self.solution.as_ref()?;
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        Some(english::solution(&names, |person| solution.get(person).copied().unwrap_or(false)))
    }
}

/// The puzzle of a row.
///
/// # Errors
/// The invalid field, and the reason.
pub fn from_row(row: &Object) -> Result<RowPuzzle> {
    let statements = match row.get("statements") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(notation::parse(text).context("statements")?),
        Some(list @ Value::Array(_)) => Some(notation::parse(&list.to_string()).context("statements")?),
        Some(_) => bail!("statements: must be a string such as \"(('lying', 1), ('not', ('lying', 0)))\""),
    };
    let names = match row.get("names") {
        None | Some(Value::Null) => None,
        Some(list) => Some(serde_json::from_value::<Vec<String>>(list.clone()).ok().context("names: must be a list of strings")?),
    };
    let solution = match row.get("solution") {
        None | Some(Value::Null) => None,
        Some(list) => Some(bools(list).context("solution: must be a list of true and false, or of 0 and 1")?),
    };
    let quiz = text(row, "quiz")?.or(text(row, "prompt")?).map(|quiz| reading::read(quiz).map_err(|e| format!("{e:#}")));
    Ok(RowPuzzle { names, statements, quiz, solution })
}

fn bools(value: &Value) -> Option<Vec<bool>> {
    let one = |value: &Value| value.as_bool().or_else(|| value.as_u64().filter(|n| *n < 2).map(|n| n == 1));
    value.as_array()?.iter().map(one).collect()
}

/// A field that is a string; `None` if it is missing.
fn text<'a>(row: &'a Object, field: &str) -> Result<Option<&'a str>> {
    match row.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        // For a list of messages, the last one, which a model answers.
        Some(Value::Array(list)) if field == "prompt" => {
            let content = list.last().and_then(|message| message["content"].as_str());
            content.map(Some).context("prompt: must be a string or a list of messages")
        }
        Some(_) => bail!("{field}: must be a string"),
    }
}

/// Solves a row's puzzle and compares the result with the row.
///
/// # Errors
/// A row without a puzzle, or with inconsistent parts.
pub fn solve(given: &RowPuzzle) -> Result<SolvedRow> {
    let read = given.quiz.as_ref().and_then(|quiz| quiz.as_ref().ok());
    let claims = match (&given.statements, &given.quiz) {
        (Some(claims), _) => claims,
        (None, Some(Ok(read))) => &read.claims,
        (None, Some(Err(why))) => bail!("quiz: {why}"),
        (None, None) => bail!("holds neither statements nor quiz"),
    };
    let people = claims.len();
    let numbered = || (1..=people).map(|i| format!("Person{i}")).collect();
    let names = given.names.clone().or_else(|| read.map(|read| read.names.clone())).unwrap_or_else(numbered);
    ensure!(names.len() == people, "names: {} people, but {people} claims", names.len());
    let found = solutions(claims);
    let only = (found.count() == 1).then(|| found.assignments()[0]);
    let solution: Option<Vec<bool>> = only.map(|bits| (0..people).map(|p| bits >> p & 1 == 1).collect());
    if let Some(stated) = &given.solution {
        ensure!(stated.len() == people, "solution: {} people, but {people} claims", stated.len());
    }
    Ok(SolvedRow {
        agrees: given.solution.as_ref().map(|stated| solution.as_ref() == Some(stated)),
        quiz_agrees: given.statements.as_ref().and(read).map(|read| &read.claims == claims && read.names == names),
        solutions: found.count(),
        names,
        solution,
    })
}

/// The question and answer of a row, for training and grading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptFields {
    /// The prompt, if the row has one.
    pub prompt: Option<String>,
    /// The puzzle.
    pub quiz: Option<String>,
    /// The solution in the public format.
    pub answer: String,
    /// Number of people.
    pub people: usize,
    /// The wording.
    pub form: PuzzleForm,
}

/// Prompt, puzzle and answer of a row; a missing answer is computed.
///
/// # Errors
/// The field that is missing or invalid.
pub fn prompt_fields(row: &Object) -> Result<PromptFields> {
    let (prompt, quiz) = (text(row, "prompt")?.map(str::to_owned), text(row, "quiz")?.map(str::to_owned));
    let answer = match text(row, "solution_text_format")? {
        Some(answer) => answer.to_owned(),
        None => {
            let solved = solve(&from_row(row)?)?;
            solved
                .text()
                .with_context(|| format!("holds no solution_text_format, and its puzzle has {} solutions", solved.solutions))?
        }
    };
    let people = super::reward::roles(&answer)
        .map_err(|e| anyhow::anyhow!("solution_text_format: {:?} {e}", display_text(&answer)))?
        .len();
    let compact = quiz.as_ref().or(prompt.as_ref()).is_some_and(|text| reading::is_compact(text));
    Ok(PromptFields { prompt, quiz, answer, people, form: if compact { PuzzleForm::Compact } else { PuzzleForm::Natural } })
}

/// The name of a form, as in `--form`.
pub fn form_name(form: PuzzleForm) -> &'static str {
    match form {
        PuzzleForm::Natural => "natural",
        PuzzleForm::Compact => "compact",
    }
}

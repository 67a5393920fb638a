//! The task `kk`: generated puzzles, or rows of a file.

use super::super::distinct::{Distinct, allowed, level_of};
use super::super::question_set::{HeldOutQuestions, QuestionSource, RowReader};
use super::super::question_stream::QuestionStream;
use super::super::{Grade, Question, Split, Task, TaskInput};
use super::claim::Claim;
use super::generate::{PEOPLE, Puzzle, fingerprint};
use super::{generate_puzzle, notation, reward, row, rows};
use crate::config::{PuzzleForm, TaskSettings};
use crate::data::Notices;
use crate::data::chat::question_chat;
use crate::data::json_rows::Object;
use anyhow::{Result, ensure};

/// System prompt, natural form.
const SYSTEM: &str = "You are a careful assistant. First reason about the problem inside <think> </think>, then give the result inside \
<answer> </answer>. The user asks a logic puzzle. Once you know what every person is, write one line for each in the answer, like this: \
<answer>\n(1) Zoey is a knight\n(2) Oliver is a knave\n(3) ...\n</answer>";
/// System prompt, compact form.
const SYSTEM_COMPACT: &str = "Knights always tell the truth, knaves always lie. First reason inside <think> </think>, then say what every \
person is, like this: <answer> A knight B knave </answer>";

/// Distinct puzzles of a split.
pub fn distinct(people: Vec<usize>, seed: u64, split: Split) -> Distinct<Puzzle> {
    Distinct::new(people, split, move |people, split, n| {
        let puzzle = generate_puzzle(people, seed, split, n)?;
        Ok((notation::print(&puzzle.claims), puzzle))
    })
}

/// The task `kk`.
pub struct Kk {
    form: PuzzleForm,
    question_stream: QuestionStream,
    /// Numbers of people in generated puzzles.
    people: Vec<usize>,
    seed: u64,
    source: QuestionSource,
}

impl Kk {
    /// Generated puzzles, or with `--data` those of the rows; with only `--val-data`, evaluation questions are rows.
    ///
    /// # Errors
    /// A setting out of range, an invalid row.
    pub(crate) fn open(input: &TaskInput<'_>, notices: &mut Notices) -> Result<Self> {
        let &TaskInput { vfs, settings, data, seed, tokenizer, date } = input;
        let system = if settings.form == PuzzleForm::Compact { SYSTEM_COMPACT } else { SYSTEM };
        let question_stream = QuestionStream::new(settings, tokenizer, date, Some(system), true)?;
        let form = settings.form;
        let make = |row: Object| row_question(&question_stream, form, &row);
        let reader = RowReader { vfs, example: rows::EXAMPLE, tokenizer, make };
        let people = if data.data.is_empty() { TaskSettings::list("people", &settings.people, PEOPLE)? } else { Vec::new() };
        let source = QuestionSource::open(settings, data, seed, &reader, notices, |notices| {
            let distinct = distinct(people.clone(), seed, Split::Eval);
            HeldOutQuestions::make(settings, distinct, "--people", notices, |n, puzzle| {
                question(&question_stream, form, &puzzle, seed, n)
            })
        })?;
        Ok(Self { form, question_stream, people, seed, source })
    }
}

/// The key of a puzzle, invariant to names and the order of people.
fn key(claims: &[Claim]) -> String {
    format!("{:016x}", fingerprint(claims))
}

fn question(question_stream: &QuestionStream, form: PuzzleForm, puzzle: &Puzzle, seed: u64, n: u64) -> Result<Question> {
    let row = row(form, puzzle, seed, n);
    let prompt = question_stream.chat(&row.quiz)?.unwrap_or(row.prompt);
    Ok(Question { prompt, answer: row.solution_text_format, level: puzzle.people() as u32 })
}

/// A row as a question. Its key depends on the claims only, not on names and the order of people.
fn row_question(question_stream: &QuestionStream, form: PuzzleForm, row: &Object) -> Result<(String, Question)> {
    let asked = rows::prompt_fields(row)?;
    ensure!(
        asked.form == form,
        "is written in the {} form; use --form {}",
        rows::form_name(asked.form),
        rows::form_name(asked.form)
    );
    let given = rows::from_row(row)?;
    let read = given.quiz.as_ref().and_then(|quiz| quiz.as_ref().ok()).map(|read| &read.claims);
    let puzzle = given.statements.as_ref().or(read).map(|claims| key(claims));
    let quiz = asked.quiz.as_ref().or(asked.prompt.as_ref());
    let chat = quiz.map(|quiz| question_stream.conversation(question_chat(quiz, row)?)).transpose()?.flatten();
    let plain = || asked.prompt.clone().or_else(|| Some(super::plain_prompt(form, asked.quiz.as_ref()?)));
    let prompt = chat.or_else(plain).ok_or_else(|| anyhow::anyhow!("holds neither quiz nor prompt"))?;
    reward::check(form, &asked.answer)?;
    let key = puzzle.unwrap_or_else(|| prompt.clone());
    Ok((key, Question { prompt, answer: asked.answer, level: asked.people as u32 }))
}

impl Task for Kk {
    fn name(&self) -> &'static str {
        "kk"
    }

    fn question(&self, split: Split, n: u64) -> Result<Question> {
        self.source.question(split, n, |held| {
            let people = self.people[level_of(n, self.people.len())];
            let may = |puzzle: &Puzzle| !held.contains(|| key(&puzzle.claims));
            let puzzle = allowed(n, |n| generate_puzzle(people, self.seed, split, n), may)?;
            question(&self.question_stream, self.form, &puzzle, self.seed, n)
        })
    }

    fn eval_questions(&self) -> u64 {
        self.source.eval_questions()
    }

    fn content_hash(&self) -> Option<String> {
        self.source.content_hash()
    }

    fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
        let one = |(question, answer): &(&Question, &str)| {
            Ok(reward::grade(self.form, &reward::roles(&question.answer)?, &question.prompt, answer))
        };
        answers.iter().map(one).collect()
    }
}

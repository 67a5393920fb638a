//! Knights and Knaves: knights always tell the truth and knaves always lie; each person's role follows from the claims.
//!
//! `claim` has claims and their truth tables, `notation` the tuples of the public rows, `generate` the puzzles, `search` the steps of a
//! solution, `english` and `compact` the wordings, `reward` the grader. The public data are those of Xie et al. 2024 (K&K) and Logic-RL.

pub mod claim;
pub mod compact;
pub mod english;
pub mod generate;
pub mod notation;
pub mod reading;
pub mod reward;
pub mod rows;
pub mod search;
mod task;

pub use task::{Kk, distinct};

use super::Split;
use super::draws::Draws;
use crate::config::PuzzleForm;
use anyhow::Result;
use generate::{Puzzle, puzzle};
use serde::Serialize;

/// A puzzle as text with its step-by-step solution: a row of `lehr data kk`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KkRow {
    /// Text of the puzzle.
    pub quiz: String,
    /// Names of the people.
    pub names: Vec<String>,
    /// For each person, whether they are a knight.
    pub solution: Vec<bool>,
    /// `(1) Zoey is a knight`, one line per person.
    pub solution_text_format: String,
    /// The claims in the public notation.
    pub statements: String,
    /// The prompt.
    pub prompt: String,
    /// The target completion: steps and answer.
    pub completion: String,
    /// Prompt and completion.
    pub text: String,
}

/// Puzzle `n` of a split: a function of its arguments alone.
///
/// # Errors
/// As [`puzzle`].
pub fn generate_puzzle(people: usize, seed: u64, split: Split, n: u64) -> Result<Puzzle> {
    let purpose = match split {
        Split::Train => "kk train",
        Split::Eval => "kk eval",
    };
    puzzle(people, split, &mut Draws::new(seed, purpose, n))
}

/// The puzzle as text; names, wording and steps are random, determined by (seed, n).
pub fn row(form: PuzzleForm, puzzle: &Puzzle, seed: u64, n: u64) -> KkRow {
    let mut words = Draws::new(seed, "kk words", n);
    let mut steps = Draws::new(seed, "kk steps", n);
    let people = puzzle.people();
    let names: Vec<&str> = match form {
        PuzzleForm::Natural => {
            words.distinct_numbers(english::NAMES.len(), people).into_iter().map(|i| english::NAMES[i]).collect()
        }
        PuzzleForm::Compact => (0..people).map(compact::name).collect(),
    };
    let is_knight = |person: usize| puzzle.is_knight(person);
    let next = if form == PuzzleForm::Natural { search::SearchOrder::Mentioned } else { search::SearchOrder::Any };
    let steps_taken = search::search(&puzzle.claims, next, &mut steps);
    let solution = english::solution(&names, is_knight);
    let (quiz, thought, answer, gap) = match form {
        PuzzleForm::Natural => (
            english::quiz(&puzzle.claims, &names, &mut words),
            format!("\n{}\n", english::reasoning(&steps_taken, &puzzle.claims, &names, &mut steps)),
            format!("\n{solution}\n"),
            "\n",
        ),
        PuzzleForm::Compact => (
            compact::quiz(&puzzle.claims),
            format!("{} ", compact::reasoning(&steps_taken, &mut steps)),
            format!(" {} ", compact::answer(people, is_knight)),
            " ",
        ),
    };
    let prompt = plain_prompt(form, &quiz);
    let completion = format!("{thought}</think>{gap}<answer>{answer}</answer>");
    KkRow {
        names: names.into_iter().map(str::to_owned).collect(),
        solution: (0..people).map(is_knight).collect(),
        solution_text_format: solution,
        statements: notation::print(&puzzle.claims),
        text: format!("{prompt}{completion}"),
        quiz,
        prompt,
        completion,
    }
}

/// The prompt without a chat template.
fn plain_prompt(form: PuzzleForm, quiz: &str) -> String {
    let gap = match form {
        PuzzleForm::Natural => '\n',
        PuzzleForm::Compact => ' ',
    };
    format!("{quiz}{gap}<think>")
}

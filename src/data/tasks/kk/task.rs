//! The task `kk`: puzzles that are made, or rows of a file.

use super::super::{Grade, Question, Split, Task};
use super::generate::{PEOPLE, Puzzle};
use super::{made, reward, row};
use crate::config::{Form, TaskSettings};
use crate::data::Notices;
use anyhow::{Result, ensure};
use std::collections::{BTreeSet, HashSet};

/// So many puzzles in a row that are known already: there are hardly any others.
const MOST_REPEATS: usize = 2000;

/// Distinct puzzles of a split in the order of their numbers: those whose claims have occurred before are passed over.
pub struct Distinct {
    people: Vec<usize>,
    seed: u64,
    split: Split,
    next: u64,
    seen: HashSet<Vec<super::claim::Claim>>,
    repeats: Vec<usize>,
}

impl Distinct {
    /// Begins at question 0.
    pub fn new(people: Vec<usize>, seed: u64, split: Split) -> Self {
        let repeats = vec![0; people.len()];
        Self { people, seed, split, next: 0, seen: HashSet::new(), repeats }
    }

    /// The number of the next puzzle, and the puzzle; `None` when there are hardly any others.
    ///
    /// # Errors
    /// As [`made`].
    pub fn draw(&mut self) -> Result<Option<(u64, Puzzle)>> {
        while self.repeats.iter().any(|repeats| *repeats < MOST_REPEATS) {
            let n = self.next;
            self.next += 1;
            let level = (n % self.people.len() as u64) as usize;
            if self.repeats[level] >= MOST_REPEATS {
                continue;
            }
            let puzzle = made(self.people[level], self.seed, self.split, n)?;
            if self.seen.insert(puzzle.claims.clone()) {
                self.repeats[level] = 0;
                return Ok(Some((n, puzzle)));
            }
            self.repeats[level] += 1;
        }
        Ok(None)
    }

    /// Numbers of people of which hardly any other puzzles are left.
    pub fn exhausted(&self) -> BTreeSet<usize> {
        let levels = self.people.iter().zip(&self.repeats);
        levels.filter(|(_, repeats)| **repeats >= MOST_REPEATS).map(|(people, _)| *people).collect()
    }
}

/// See the module.
pub struct Kk {
    form: Form,
    people: Vec<usize>,
    seed: u64,
    eval: Vec<Question>,
}

impl Kk {
    /// Puzzles that are made.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn made(settings: &TaskSettings, seed: u64, notices: &mut Notices) -> Result<Self> {
        let people = TaskSettings::list("people", &settings.people, PEOPLE)?;
        ensure!(settings.eval_questions > 0, "--eval-questions 0: at least one question is needed to judge by");
        let mut distinct = Distinct::new(people.clone(), seed, Split::Eval);
        let mut eval = Vec::new();
        while eval.len() < settings.eval_questions {
            let Some((n, puzzle)) = distinct.draw()? else { break };
            eval.push(question(settings.form, &puzzle, seed, n));
        }
        let exhausted: Vec<String> = distinct.exhausted().iter().map(usize::to_string).collect();
        if !exhausted.is_empty() {
            notices.push(format!(
                "--eval-questions {}: there are no more puzzles of {} people that are kept from training; {} distinct ones in all",
                settings.eval_questions,
                exhausted.join(", "),
                eval.len()
            ));
        }
        Ok(Self { form: settings.form, people, seed, eval })
    }
}

fn question(form: Form, puzzle: &Puzzle, seed: u64, n: u64) -> Question {
    let row = row(form, puzzle, seed, n);
    Question { prompt: row.prompt, answer: row.solution_text_format, level: puzzle.people() as u32 }
}

impl Task for Kk {
    fn name(&self) -> &'static str {
        "kk"
    }

    fn question(&self, split: Split, n: u64) -> Result<Question> {
        match split {
            Split::Eval => Ok(self.eval[(n % self.eval.len() as u64) as usize].clone()),
            Split::Train => {
                let people = self.people[(n % self.people.len() as u64) as usize];
                Ok(question(self.form, &made(people, self.seed, split, n)?, self.seed, n))
            }
        }
    }

    fn eval_questions(&self) -> u64 {
        self.eval.len() as u64
    }

    fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
        let one = |(question, answer): &(&Question, &str)| {
            Ok(reward::grade(self.form, &reward::roles(&question.answer)?, &question.prompt, answer))
        };
        answers.iter().map(one).collect()
    }
}

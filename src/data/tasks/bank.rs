//! Where a task's questions come from. Of rows of a file: which are for training, in what order, and which are kept for evaluation.

use super::distinct::{Distinct, level_of};
use super::{Question, Split};
use crate::config::{DataSettings, TaskSettings};
use crate::data::json_rows::{Object, read_objects};
use crate::data::{Notices, shown_path};
use crate::rng::{Permutation, Rng};
use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A question and what tells it from others.
pub type Keyed = (String, Question);

/// Questions in memory.
pub struct Bank {
    train: Vec<Question>,
    eval: Vec<Question>,
    rng: Rng,
}

impl Bank {
    /// Reads `--data` and `--val-data`; `example` is what a row looks like. Without `--val-data` the last `--eval-questions` rows are for
    /// evaluation. What is asked there is taken out of training.
    ///
    /// # Errors
    /// The first row that `make` refuses, with its place; too few rows.
    pub fn read(
        settings: &TaskSettings,
        data: &DataSettings,
        seed: u64,
        example: &str,
        notices: &mut Notices,
        make: impl Fn(Object) -> Result<Keyed>,
    ) -> Result<Self> {
        some(settings)?;
        let mut train = read(&data.data, example, &make)?;
        let name = data.data.first().map(|path| shown_path(path)).unwrap_or_default();
        let eval = match &data.val_data {
            Some(_) => to_judge_by(settings, data, example, &make)?.unwrap_or_default(),
            None => {
                let most = settings.eval_questions;
                ensure!(
                    train.len() > most,
                    "{name}: {} rows, of which --eval-questions {most} leaves none to train on; name fewer, or give --val-data",
                    train.len()
                );
                train.split_off(train.len() - most)
            }
        };
        let known: HashSet<String> = eval.iter().map(|(key, _)| key.clone()).collect();
        let all = train.len();
        train.retain(|(key, _)| !known.contains(key));
        if train.len() < all {
            notices.push(format!(
                "{name}: {} of {all} rows ask what evaluation asks; they are left out of training",
                all - train.len()
            ));
        }
        ensure!(!train.is_empty(), "{name}: no row is left to train on");
        let questions = |rows: Vec<Keyed>| rows.into_iter().map(|(_, question)| question).collect();
        Ok(Self { train: questions(train), eval: questions(eval), rng: Rng::new(seed, "task rows") })
    }

    /// Question `n`: of training in a new order each time all have been asked.
    pub fn question(&self, split: Split, n: u64) -> Question {
        let (rows, at) = match split {
            Split::Eval => (&self.eval, n % self.eval.len() as u64),
            Split::Train => {
                let count = self.train.len() as u64;
                (&self.train, Permutation::new(count, self.rng, n / count).at(n % count))
            }
        };
        rows[at as usize].clone()
    }
}

/// Questions to be judged by, apart from those to learn from.
pub struct Held {
    questions: Vec<Question>,
    /// What tells them from others; empty where those to learn from can be none of them.
    keys: HashSet<String>,
}

impl Held {
    /// Rows of `--val-data`, `--eval-questions` of them at most; `None` if there is no such file.
    ///
    /// # Errors
    /// As [`Bank::read`].
    pub fn read(
        settings: &TaskSettings,
        data: &DataSettings,
        example: &str,
        make: impl Fn(Object) -> Result<Keyed>,
    ) -> Result<Option<Self>> {
        let rows = to_judge_by(settings, data, example, make)?;
        Ok(rows.map(|rows| {
            let (keys, questions) = rows.into_iter().unzip();
            Self { questions, keys }
        }))
    }

    /// Made ones, `--eval-questions` of them, or as many as there are; `flag` is what levels are said by.
    ///
    /// # Errors
    /// What making one says.
    pub fn make<T>(
        settings: &TaskSettings,
        mut distinct: Distinct<T>,
        flag: &str,
        notices: &mut Notices,
        make: impl Fn(u64, T) -> Result<Question>,
    ) -> Result<Self> {
        some(settings)?;
        let (wanted, mut questions) = (settings.eval_questions, Vec::new());
        while questions.len() < wanted {
            let Some((n, made)) = distinct.draw()? else { break };
            questions.push(make(n, made)?);
        }
        if let Some(note) = distinct.note(wanted, questions.len(), flag) {
            notices.push(note);
        }
        Ok(Self { questions, keys: HashSet::new() })
    }

    /// Whether what this names is asked here.
    pub fn asks(&self, key: impl FnOnce() -> String) -> bool {
        !self.keys.is_empty() && self.keys.contains(&key())
    }
}

/// Where a task's questions come from.
pub enum Source {
    /// All are rows.
    Rows(Bank),
    /// Those to learn from are made, or there are none.
    Held(Held),
}

impl Source {
    /// Question `n`; `make` makes those to learn from that are no rows.
    ///
    /// # Errors
    /// What `make` says.
    pub fn question(&self, split: Split, n: u64, make: impl FnOnce(&Held) -> Result<Question>) -> Result<Question> {
        match (self, split) {
            (Self::Rows(bank), _) => Ok(bank.question(split, n)),
            (Self::Held(held), Split::Eval) => Ok(held.questions[level_of(n, held.questions.len())].clone()),
            (Self::Held(held), Split::Train) => make(held),
        }
    }

    /// Questions of evaluation.
    pub fn eval_questions(&self) -> u64 {
        match self {
            Self::Rows(bank) => bank.eval.len() as u64,
            Self::Held(held) => held.questions.len() as u64,
        }
    }
}

/// Rows of `--val-data`, `--eval-questions` of them at most; `None` if there is no such file.
fn to_judge_by(
    settings: &TaskSettings,
    data: &DataSettings,
    example: &str,
    make: impl Fn(Object) -> Result<Keyed>,
) -> Result<Option<Vec<Keyed>>> {
    some(settings)?;
    let Some(path) = &data.val_data else { return Ok(None) };
    let mut rows = read(std::slice::from_ref(path), example, make)?;
    rows.truncate(settings.eval_questions);
    ensure!(!rows.is_empty(), "--val-data {}: holds no row", shown_path(path));
    Ok(Some(rows))
}

/// Whether any question is wanted to judge by.
fn some(settings: &TaskSettings) -> Result<()> {
    ensure!(settings.eval_questions > 0, "--eval-questions 0: at least one question is needed to judge by");
    Ok(())
}

fn read(paths: &[PathBuf], example: &str, make: impl Fn(Object) -> Result<Keyed>) -> Result<Vec<Keyed>> {
    let mut rows = Vec::new();
    for path in paths {
        let path = train_file(path)?;
        read_objects(&path, example, &mut |_, _| {}, |place, row| {
            rows.push(make(row).with_context(|| place.to_owned())?);
            Ok(())
        })?;
    }
    Ok(rows)
}

/// A file, or the `train.jsonl` of a folder.
fn train_file(path: &Path) -> Result<PathBuf> {
    ensure!(path.exists(), "--data {}: there is no such file or folder", shown_path(path));
    let inside = path.join("train.jsonl");
    ensure!(
        !path.is_dir() || inside.is_file(),
        "--data {}: this folder holds no train.jsonl. Name a JSONL file",
        shown_path(path)
    );
    Ok(if path.is_dir() { inside } else { path.to_owned() })
}

//! Questions from rows of a file: which are for training, in what order, and which are kept for evaluation.

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
        ensure!(settings.eval_questions > 0, "--eval-questions 0: at least one question is needed to judge by");
        let read = |paths: &[PathBuf]| -> Result<Vec<Keyed>> {
            let mut rows = Vec::new();
            for path in paths {
                let path = train_file(path)?;
                read_objects(&path, example, &mut |_, _| {}, |place, row| {
                    rows.push(make(row).with_context(|| place.to_owned())?);
                    Ok(())
                })?;
            }
            Ok(rows)
        };
        let mut train = read(&data.data)?;
        let name = data.data.first().map(|path| shown_path(path)).unwrap_or_default();
        let mut eval = match &data.val_data {
            Some(path) => read(std::slice::from_ref(path))?,
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
        eval.truncate(settings.eval_questions);
        ensure!(!eval.is_empty(), "--val-data: holds no row");
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

    /// Questions of evaluation.
    pub fn eval_questions(&self) -> u64 {
        self.eval.len() as u64
    }
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

//! Sources of a task's questions. For rows of a file: which are for training, in what order, and which are held out for evaluation.

use super::distinct::{Distinct, Keyed, level_of};
use super::{Question, Split};
use crate::config::{DataSettings, TaskSettings};
use crate::data::chat::row_files;
use crate::data::json_rows::{Object, read_objects};
use crate::data::{ContentHash, Notices, Tokenizer, shown_path};
use crate::number_format::counted;
use crate::progress::silent;
use crate::rng::{Permutation, Rng};
use crate::vfs::Vfs;
use anyhow::{Error, Result, ensure};
use std::collections::HashSet;
use std::path::PathBuf;

/// Maximum number of skipped rows per file that are reported with place and reason.
const TOLD: usize = 3;

/// Converts rows to questions. Unusable rows are skipped and counted: a few bad rows do not end a run.
pub struct RowReader<'a, F: Fn(Object) -> Result<Keyed<Question>>> {
    /// The files.
    pub vfs: &'a dyn Vfs,
    /// Format of a row, for messages.
    pub example: &'a str,
    /// Checks questions; a row whose question it cannot encode is skipped too.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Converts a row to a question.
    pub make: F,
}

/// Questions from rows, in memory.
pub struct QuestionSet {
    train: Vec<Question>,
    eval: Vec<Question>,
    rng: Rng,
}

impl QuestionSet {
    /// Reads `--data` and `--val-data`. Without `--val-data` the last `--eval-questions` rows are for evaluation. Training rows with a
    /// question of the evaluation are left out.
    ///
    /// # Errors
    /// Too few rows, or no usable row, with the place and reason of the first.
    pub fn read(
        settings: &TaskSettings,
        data: &DataSettings,
        seed: u64,
        reader: &RowReader<'_, impl Fn(Object) -> Result<Keyed<Question>>>,
        notices: &mut Notices,
    ) -> Result<Self> {
        ensure_eval_questions(settings)?;
        let mut train = reader.read(&data.data, notices)?;
        let name = data.data.first().map(|path| shown_path(path)).unwrap_or_default();
        let eval = match &data.val_data {
            Some(_) => reader.evaluation_rows(settings, data, notices)?.unwrap_or_default(),
            None => {
                let most = settings.eval_questions;
                ensure!(
                    train.len() > most,
                    "{name}: {}, of which --eval-questions {most} leaves none to train on; name fewer, or give --val-data",
                    counted(train.len() as u64, "row")
                );
                train.split_off(train.len() - most)
            }
        };
        let known: HashSet<String> = eval.iter().map(|(key, _)| key.clone()).collect();
        let all = train.len();
        train.retain(|(key, _)| !known.contains(key));
        if train.len() < all {
            notices.push(format!("{name}: {} of {all} rows left out of training: evaluation asks the same", all - train.len()));
        }
        ensure!(!train.is_empty(), "{name}: no row is left to train on");
        let questions = |rows: Vec<Keyed<Question>>| rows.into_iter().map(|(_, question)| question).collect();
        Ok(Self { train: questions(train), eval: questions(eval), rng: Rng::new(seed, "task rows") })
    }

    /// Question `n`; training questions are reshuffled after each pass.
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

/// Evaluation questions that are separate from the source of training questions.
pub struct HeldOutQuestions {
    questions: Vec<Question>,
    /// Their keys, to exclude them from training; empty if overlap is impossible.
    keys: HashSet<String>,
}

impl HeldOutQuestions {
    /// At most `--eval-questions` rows of `--val-data`; `None` if that is not set.
    ///
    /// # Errors
    /// As [`QuestionSet::read`].
    pub fn read(
        settings: &TaskSettings,
        data: &DataSettings,
        reader: &RowReader<'_, impl Fn(Object) -> Result<Keyed<Question>>>,
        notices: &mut Notices,
    ) -> Result<Option<Self>> {
        let rows = reader.evaluation_rows(settings, data, notices)?;
        Ok(rows.map(|rows| {
            let (keys, questions) = rows.into_iter().unzip();
            Self { questions, keys }
        }))
    }

    /// Generates `--eval-questions` questions, or all if there are fewer; `flag` is the name of the setting for levels.
    ///
    /// # Errors
    /// Errors of the generator.
    pub fn make<T>(
        settings: &TaskSettings,
        mut distinct: Distinct<T>,
        flag: &str,
        notices: &mut Notices,
        make: impl Fn(u64, T) -> Result<Question>,
    ) -> Result<Self> {
        ensure_eval_questions(settings)?;
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

    /// Whether the question with this key is among them.
    pub fn contains(&self, key: impl FnOnce() -> String) -> bool {
        !self.keys.is_empty() && self.keys.contains(&key())
    }
}

/// Source of a task's questions.
pub enum QuestionSource {
    /// All questions are rows.
    Rows(QuestionSet),
    /// Training questions are generated, or there are none.
    HeldOutQuestions(HeldOutQuestions),
}

impl QuestionSource {
    /// The rows of `--data`; without them, evaluation questions from `--val-data`, or those generated by `make`.
    ///
    /// # Errors
    /// As [`QuestionSet::read`]; errors of `make`.
    pub fn open(
        settings: &TaskSettings,
        data: &DataSettings,
        seed: u64,
        reader: &RowReader<'_, impl Fn(Object) -> Result<Keyed<Question>>>,
        notices: &mut Notices,
        make: impl FnOnce(&mut Notices) -> Result<HeldOutQuestions>,
    ) -> Result<Self> {
        if !data.data.is_empty() {
            return Ok(Self::Rows(QuestionSet::read(settings, data, seed, reader, notices)?));
        }
        let held = HeldOutQuestions::read(settings, data, reader, notices)?;
        Ok(Self::HeldOutQuestions(held.map_or_else(|| make(notices), Ok)?))
    }

    /// Question `n`; `make` generates training questions that are not rows.
    ///
    /// # Errors
    /// Errors of `make`.
    pub fn question(&self, split: Split, n: u64, make: impl FnOnce(&HeldOutQuestions) -> Result<Question>) -> Result<Question> {
        match (self, split) {
            (Self::Rows(bank), _) => Ok(bank.question(split, n)),
            (Self::HeldOutQuestions(held), Split::Eval) => Ok(held.questions[level_of(n, held.questions.len())].clone()),
            (Self::HeldOutQuestions(held), Split::Train) => make(held),
        }
    }

    /// A hash of the questions that are rows.
    pub fn content_hash(&self) -> Option<String> {
        let parts: [&[Question]; 2] = match self {
            Self::Rows(bank) => [&bank.train, &bank.eval],
            Self::HeldOutQuestions(held) if held.keys.is_empty() => return None,
            Self::HeldOutQuestions(held) => [&held.questions, &[]],
        };
        let mut hash = ContentHash::default();
        for part in parts {
            hash.bytes(&part.len().to_le_bytes());
            for question in part {
                hash.bytes(question.prompt.as_bytes());
                hash.bytes(question.answer.as_bytes());
            }
        }
        Some(hash.finish())
    }

    /// Number of evaluation questions.
    pub fn eval_questions(&self) -> u64 {
        match self {
            Self::Rows(bank) => bank.eval.len() as u64,
            Self::HeldOutQuestions(held) => held.questions.len() as u64,
        }
    }
}

impl<F: Fn(Object) -> Result<Keyed<Question>>> RowReader<'_, F> {
    /// At most `--eval-questions` rows of `--val-data`; `None` if that is not set.
    fn evaluation_rows(
        &self,
        settings: &TaskSettings,
        data: &DataSettings,
        notices: &mut Notices,
    ) -> Result<Option<Vec<Keyed<Question>>>> {
        ensure_eval_questions(settings)?;
        let Some(path) = &data.val_data else { return Ok(None) };
        let mut rows = self.read(std::slice::from_ref(path), notices)?;
        rows.truncate(settings.eval_questions);
        ensure!(!rows.is_empty(), "{}: holds no row", shown_path(path));
        Ok(Some(rows))
    }

    fn read(&self, paths: &[PathBuf], notices: &mut Notices) -> Result<Vec<Keyed<Question>>> {
        let mut rows = Vec::new();
        for path in paths {
            let (mut bad, mut count, before) = (Vec::new(), 0, rows.len());
            for file in row_files(self.vfs, path, notices)?.train {
                read_objects(self.vfs, &file, self.example, &mut silent, |place, row| {
                    match (self.make)(row).and_then(|row| self.check_encodable(row)) {
                        Ok(row) => rows.push(row),
                        Err(error) => {
                            count += 1;
                            if bad.len() < TOLD {
                                bad.push(error.context(place.to_owned()));
                            }
                        }
                    }
                    Ok(())
                })?;
            }
            let good = rows.len() - before;
            if let (0, Some(first)) = (good, bad.first()) {
                let others = if count > 1 { format!("; none of the {count} rows can be used") } else { String::new() };
                return Err(Error::msg(format!("{first:#}{others}")));
            }
            if count > 0 {
                notices.push(left_out(&shown_path(path), count, good, &bad));
            }
        }
        Ok(rows)
    }

    /// Checks that the tokenizer can encode the question.
    fn check_encodable(&self, row: Keyed<Question>) -> Result<Keyed<Question>> {
        if let Some(tokenizer) = self.tokenizer {
            row.1.encode(tokenizer, true)?;
        }
        Ok(row)
    }
}

fn left_out(name: &str, count: usize, good: usize, bad: &[Error]) -> String {
    let reasons: Vec<String> = bad.iter().map(|error| format!("{error:#}")).collect();
    let more = if count > bad.len() { format!("; and {} more", count - bad.len()) } else { String::new() };
    format!("{name}: {} of {} left out: {}{more}", counted(count as u64, "unusable row"), count + good, reasons.join("; "))
}

/// Checks that there is at least one evaluation question.
fn ensure_eval_questions(settings: &TaskSettings) -> Result<()> {
    ensure!(settings.eval_questions > 0, "--eval-questions 0: at least one question is needed for evaluation");
    Ok(())
}

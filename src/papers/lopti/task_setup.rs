//! Training data: vocabulary, worked solutions for fine-tuning, questions for reinforcement learning.

use crate::config::{DataSettings, TaskKind, TaskSettings};
use crate::data::tasks::{self, Split, Task, kk};
use crate::data::{Batch, IGNORE, Notices, Source, Tokenizer};
use crate::train::reinforce::TaskContext;
use crate::vfs::RealFs;
use anyhow::Context as _;
use std::collections::BTreeSet;

/// Puzzles of each number of people, or sums, that the vocabulary is collected from.
const LOOKED_AT: u64 = 300;
/// Seed offset, so that fine-tuning and reinforcement learning use different puzzles.
const OTHER_SEED: u64 = 1_000_003;

/// A worked solution.
struct WorkedSolution {
    prompt: String,
    completion: String,
}

/// A kind of task: the same vocabulary for every arm.
#[derive(Clone)]
pub struct TaskSetup {
    /// One token per word of puzzles, one token per character of sums.
    pub tokenizer: Tokenizer,
    /// The token that ends a completion.
    pub stop: u32,
}

impl TaskSetup {
    /// For a kind of task.
    ///
    /// # Errors
    /// None in practice: questions that cannot be generated.
    pub fn new(kind: TaskKind) -> anyhow::Result<Self> {
        let settings = |people: &str| TaskSettings {
            task: kind,
            people: people.into(),
            form: crate::config::PuzzleForm::Compact,
            ..TaskSettings::default()
        };
        let tokenizer = match kind {
            TaskKind::Math => {
                let task = open(&settings("3"), 0)?;
                let mut seen = BTreeSet::new();
                for n in 0..LOOKED_AT {
                    let example = solved(&settings("3"), task.as_ref(), 0, n)?;
                    seen.extend(example.prompt.chars().chain(example.completion.chars()).chain("0123456789-".chars()));
                }
                Tokenizer::chars(seen, true)?
            }
            _ => {
                let mut words = BTreeSet::new();
                let task = open(&settings("2"), 0)?;
                for people in 2..=8 {
                    for n in 0..LOOKED_AT {
                        let example = solved(&settings(&people.to_string()), task.as_ref(), 0, n)?;
                        let text = format!("{} {}", example.prompt, example.completion);
                        words.extend(text.split_whitespace().map(str::to_owned));
                    }
                }
                Tokenizer::words(words)?
            }
        };
        let stop = tokenizer.eos_id().context("the vocabulary has no token that ends a text")?;
        Ok(Self { tokenizer, stop })
    }

    /// Size of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// Questions, their grader, and the tokenizer.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn task_context(&self, settings: &TaskSettings, seed: u64) -> anyhow::Result<TaskContext> {
        Ok(TaskContext { task: open(settings, seed)?, tokenizer: self.tokenizer.clone(), stops: vec![self.stop], chat: false })
    }

    /// Worked solutions with the loss on completions only.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn worked_solutions(&self, settings: &TaskSettings, seq_len: usize, seed: u64) -> anyhow::Result<WorkedSolutions> {
        let seed = seed + OTHER_SEED;
        Ok(WorkedSolutions { task_setup: self.clone(), settings: settings.clone(), task: open(settings, seed)?, seq_len, seed })
    }
}

fn open(settings: &TaskSettings, seed: u64) -> anyhow::Result<Box<dyn Task>> {
    tasks::open(&RealFs, settings, &DataSettings::default(), seed, None, 0, &mut Notices::new())
}

/// Question `n` with its solution: a step-by-step search for a puzzle, the result for a sum.
fn solved(settings: &TaskSettings, task: &dyn Task, seed: u64, n: u64) -> anyhow::Result<WorkedSolution> {
    if settings.task == TaskKind::Kk {
        let people = TaskSettings::list("people", &settings.people, kk::generate::PEOPLE)?;
        let puzzle = kk::generate_puzzle(people[(n % people.len() as u64) as usize], seed, Split::Train, n)?;
        let row = kk::row(settings.form, &puzzle, seed, n);
        return Ok(WorkedSolution { prompt: row.prompt, completion: row.completion });
    }
    let question = task.question(Split::Train, n)?;
    Ok(WorkedSolution { prompt: question.prompt, completion: question.answer })
}

/// Maximum number of solutions per row.
const MOST_IN_A_ROW: u64 = 8;

/// See [`TaskSetup::worked_solutions`].
pub struct WorkedSolutions {
    task_setup: TaskSetup,
    settings: TaskSettings,
    task: Box<dyn Task>,
    seq_len: usize,
    seed: u64,
}

impl WorkedSolutions {
    /// Prompt and completion with its end, as tokens; empty if the question cannot be generated.
    fn tokens(&self, n: u64) -> (Vec<u32>, Vec<u32>) {
        let made = || -> anyhow::Result<(Vec<u32>, Vec<u32>)> {
            let example = solved(&self.settings, self.task.as_ref(), self.seed, n)?;
            let mut completion = self.task_setup.tokenizer.encode(&example.completion)?;
            completion.push(self.task_setup.stop);
            Ok((self.task_setup.tokenizer.encode(&example.prompt)?, completion))
        };
        made().unwrap_or_default()
    }
}

impl Source for WorkedSolutions {
    /// Each row is packed with whole solutions, which do not attend to one another.
    fn batch(&self, n: u64, batch_size: usize) -> Batch {
        let (time, rows) = (self.seq_len, batch_size * self.seq_len);
        let (mut tokens, mut targets, mut doc_start) = (vec![0; rows], vec![IGNORE; rows], vec![0; rows]);
        let mut num_tokens = 0;
        for row in 0..batch_size {
            let (at, first) = (row * time, (n * batch_size as u64 + row as u64) * MOST_IN_A_ROW);
            let mut filled = 0;
            for (prompt, completion) in (first..first + MOST_IN_A_ROW).map(|n| self.tokens(n)) {
                let all: Vec<u32> = prompt.iter().chain(&completion).copied().collect();
                let used = all.len().saturating_sub(1);
                // A solution that is too long for a row is truncated, and nothing after the cut counts.
                let kept = if filled == 0 { used.min(time) } else { used };
                if filled + kept > time || kept == 0 {
                    break;
                }
                let (here, scored) = (at + filled, prompt.len().saturating_sub(1).min(kept));
                tokens[here..here + kept].copy_from_slice(&all[..kept]);
                targets[here + scored..here + kept].copy_from_slice(&all[scored + 1..=kept]);
                doc_start[here..here + kept].fill(filled as u32);
                filled += kept;
            }
            // Padding attends only to itself.
            (filled..time).for_each(|i| doc_start[at + i] = i as u32);
            num_tokens += filled;
        }
        Batch { batch_size, seq_len: time, tokens, targets, doc_start, num_tokens }
    }

    fn val_batches(&self, _: usize, _: usize, _: u64) -> Option<Box<dyn ExactSizeIterator<Item = Batch> + '_>> {
        None
    }

    fn tokens(&self) -> (u64, u64) {
        (0, 0)
    }

    /// Puzzles are generated on demand, so an epoch never ends.
    fn epochs(&self, _: u64, _: usize) -> f64 {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fine_tuning_rows_are_worked_solutions_and_only_they_are_scored() {
        let task_setup = TaskSetup::new(TaskKind::Kk).unwrap();
        let settings = TaskSettings { people: "2-3".into(), form: crate::config::PuzzleForm::Compact, ..TaskSettings::default() };
        let worked_solutions = task_setup.worked_solutions(&settings, 128, 3).unwrap();
        let batch = worked_solutions.batch(2, 4);
        assert_eq!(batch, worked_solutions.batch(2, 4));
        assert_ne!(batch.tokens, worked_solutions.batch(3, 4).tokens);
        let mut solutions = 0;
        for row in 0..4 {
            let at = row * 128;
            // Runs of one document.
            let starts: Vec<usize> = (0..128).filter(|i| batch.doc_start[at + i] as usize == *i).collect();
            for (k, start) in starts.iter().enumerate() {
                let end = starts.get(k + 1).copied().unwrap_or(128);
                assert!((*start..end).all(|i| batch.doc_start[at + i] as usize == *start));
                let Some(first) = (*start..end).find(|i| batch.targets[at + i] != IGNORE) else {
                    assert_eq!(end - start, 1, "padding sees itself alone");
                    continue;
                };
                solutions += 1;
                assert!((first..end).all(|i| batch.targets[at + i] != IGNORE));
                let prompt = task_setup.tokenizer.decode(&batch.tokens[at + start..=at + first]).unwrap();
                let completion = task_setup.tokenizer.decode(&batch.targets[at + first..at + end - 1]).unwrap();
                assert!(prompt.ends_with("<think>") && completion.ends_with("</answer>"), "{prompt} | {completion}");
                assert_eq!(batch.targets[at + end - 1], task_setup.stop);
                assert!((first..end - 1).all(|i| batch.tokens[at + i + 1] == batch.targets[at + i]));
            }
        }
        assert!(solutions > 4, "{solutions} solutions in four rows");
        // Every word of a puzzle of eight is known.
        let puzzle = kk::generate_puzzle(8, 77, Split::Eval, 5).unwrap();
        let row = kk::row(crate::config::PuzzleForm::Compact, &puzzle, 77, 5);
        let ids = task_setup.tokenizer.encode(&row.text).unwrap();
        assert_eq!(task_setup.tokenizer.decode(&ids).unwrap(), row.text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

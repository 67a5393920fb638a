//! Questions of several levels in turn, each once.

use super::Split;
use anyhow::Result;
use std::collections::{BTreeSet, HashSet};

/// So many questions of a level in a row that are known already: there are hardly any others.
const MOST_REPEATS: usize = 2000;

/// A question and what tells it from others.
pub type KeyedQuestion<T> = (String, T);

/// Makes question `n` of a level.
pub type Maker<T> = dyn Fn(usize, Split, u64) -> Result<KeyedQuestion<T>>;

/// Distinct questions of a split, of each level in turn; those that have occurred before are passed over.
pub struct Distinct<T> {
    levels: Vec<Level>,
    split: Split,
    make: Box<Maker<T>>,
    turn: usize,
    seen: HashSet<String>,
}

struct Level {
    level: usize,
    /// Questions of it that have been made.
    made: u64,
    /// Of these the last so many were known.
    repeats: usize,
}

impl<T> Distinct<T> {
    /// Begins at question 0.
    pub fn new(levels: Vec<usize>, split: Split, make: impl Fn(usize, Split, u64) -> Result<KeyedQuestion<T>> + 'static) -> Self {
        let levels = levels.into_iter().map(|level| Level { level, made: 0, repeats: 0 }).collect();
        Self { levels, split, make: Box::new(make), turn: 0, seen: HashSet::new() }
    }

    /// The number of the next question, as `level_of` counts, and the question; `None` when there are hardly any others.
    ///
    /// # Errors
    /// What making it says.
    pub fn draw(&mut self) -> Result<Option<(u64, T)>> {
        let count = self.levels.len();
        for _ in 0..count {
            let place = self.turn % count;
            self.turn += 1;
            while self.levels[place].repeats < MOST_REPEATS {
                let level = &mut self.levels[place];
                let n = level.made * count as u64 + place as u64;
                level.made += 1;
                let (key, made) = (self.make)(level.level, self.split, n)?;
                if self.seen.insert(key) {
                    level.repeats = 0;
                    return Ok(Some((n, made)));
                }
                level.repeats += 1;
            }
        }
        Ok(None)
    }

    /// Levels of which hardly any other questions are left.
    pub fn exhausted(&self) -> BTreeSet<usize> {
        self.levels.iter().filter(|level| level.repeats >= MOST_REPEATS).map(|level| level.level).collect()
    }

    /// A line for people where some level has run out: `wanted` questions, `found` of them.
    pub fn note(&self, wanted: usize, found: usize, what: &str) -> Option<String> {
        let exhausted: Vec<String> = self.exhausted().iter().map(usize::to_string).collect();
        (!exhausted.is_empty()).then(|| {
            format!(
                "--eval-questions {wanted}: there are no more different questions of {what} {} that are kept from training; {found} \
                 questions in all",
                exhausted.join(", ")
            )
        })
    }
}

/// Which of `levels` question `n` is of: each in turn.
pub fn level_of(n: u64, levels: usize) -> usize {
    (n % levels.max(1) as u64) as usize
}

/// The question that stands for `n` where some may not be asked: the first of n, n + 2^40, n + 2 2^40 and so on that `may` allows.
///
/// # Errors
/// What making it says; that none is found.
pub fn allowed<T>(n: u64, make: impl Fn(u64) -> Result<T>, may: impl Fn(&T) -> bool) -> Result<T> {
    const MOST: u64 = 1 << 10;
    for attempt in 0..MOST {
        let made = make(n + (attempt << 40))?;
        if may(&made) {
            return Ok(made);
        }
    }
    anyhow::bail!("--val-data: asks all that could be made for training. Name fewer rows there")
}

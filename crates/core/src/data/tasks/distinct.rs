//! Distinct questions of several levels, level by level in rotation.

use super::Split;
use anyhow::Result;
use std::collections::{BTreeSet, HashSet};

/// Consecutive duplicates after which a level counts as exhausted.
const MOST_REPEATS: usize = 2000;

/// A question with a key that identifies it.
pub type Keyed<T> = (String, T);

/// Generates question `n` of a level.
pub type QuestionMaker<T> = dyn Fn(usize, Split, u64) -> Result<Keyed<T>>;

/// Distinct questions of a split, taken from each level in rotation; duplicates are skipped.
pub struct Distinct<T> {
    levels: Vec<LevelState>,
    split: Split,
    make: Box<QuestionMaker<T>>,
    turn: usize,
    seen: HashSet<String>,
}

struct LevelState {
    level: usize,
    /// Questions generated of this level.
    made: u64,
    /// Consecutive duplicates at the end of these.
    repeats: usize,
}

impl<T> Distinct<T> {
    /// Starts at question 0.
    pub fn new(levels: Vec<usize>, split: Split, make: impl Fn(usize, Split, u64) -> Result<Keyed<T>> + 'static) -> Self {
        let levels = levels.into_iter().map(|level| LevelState { level, made: 0, repeats: 0 }).collect();
        Self { levels, split, make: Box::new(make), turn: 0, seen: HashSet::new() }
    }

    /// The next question with its number, as `level_of` counts; `None` when all levels are exhausted.
    ///
    /// # Errors
    /// Errors of the generator.
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

    /// Levels that are exhausted.
    pub fn exhausted(&self) -> BTreeSet<usize> {
        self.levels.iter().filter(|level| level.repeats >= MOST_REPEATS).map(|level| level.level).collect()
    }

    /// A notice if a level is exhausted: `wanted` questions, `found` of them.
    pub fn note(&self, wanted: usize, found: usize, what: &str) -> Option<String> {
        let exhausted: Vec<String> = self.exhausted().iter().map(usize::to_string).collect();
        (!exhausted.is_empty()).then(|| {
            format!(
                "--eval-questions {wanted}: there are no more distinct questions of {what} {} that are kept from training; {found} \
                 questions in all",
                exhausted.join(", ")
            )
        })
    }
}

/// The level of question `n`, an index into `levels` levels in rotation.
pub fn level_of(n: u64, levels: usize) -> usize {
    (n % levels.max(1) as u64) as usize
}

/// The substitute for question `n` if some are excluded: the first of n, n + 2^40, n + 2 2^40 and so on that `may` accepts.
///
/// # Errors
/// Errors of the generator; no acceptable question was found.
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

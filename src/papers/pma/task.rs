//! A fine-tuning task with one correct answer: a word, a colon, the word reversed. Loss on the answer only.

use crate::data::{Batch, IGNORE, Source};
use crate::rng::Rng;

/// Letters per word.
const WORD: usize = 4;
/// Size of the alphabet.
const LETTERS: u64 = 10;
/// `abcd:dcba` and the line end.
const ROW: usize = 2 * WORD + 2;
/// Characters of the task, in the order of [`TaskRows::ids`].
pub const CHARACTERS: &str = "abcdefghij:\n";

/// Rows of the task, packed into windows, each a separate document.
#[derive(Clone, Debug)]
pub struct TaskRows {
    /// Token ids of [`CHARACTERS`].
    pub ids: Vec<u32>,
    /// Seed for the order of rows.
    pub seed: u64,
    /// Tokens per window.
    pub seq_len: usize,
}

/// A tenth of all words is held out.
fn held_out(word: u64) -> bool {
    Rng::new(1, "task held out").below(0, word, 10) == 0
}

impl TaskRows {
    /// All held-out words, or all others.
    fn words_of_split(held: bool) -> Vec<u64> {
        (0..LETTERS.pow(WORD as u32)).filter(|w| held_out(*w) == held).collect()
    }

    /// `abcd:dcba\n` as indices into [`CHARACTERS`].
    fn row(word: u64) -> [usize; ROW] {
        let mut out = [LETTERS as usize + 1; ROW];
        let mut rest = word;
        for i in 0..WORD {
            let letter = (rest % LETTERS) as usize;
            rest /= LETTERS;
            (out[i], out[2 * WORD - i]) = (letter, letter);
        }
        out[WORD] = LETTERS as usize;
        out
    }

    /// Rows per window.
    pub fn rows_per_window(&self) -> usize {
        self.seq_len / ROW
    }

    fn batch_of(&self, batch_size: usize, mut word: impl FnMut(usize) -> Option<u64>) -> Batch {
        let n = batch_size * self.seq_len;
        let mut num_tokens = 0;
        let (mut tokens, mut targets, mut doc_start) = (vec![0; n], vec![IGNORE; n], vec![0; n]);
        for window in 0..batch_size {
            for slot in 0..self.rows_per_window() {
                let at = window * self.seq_len + slot * ROW;
                if let Some(word) = word(window * self.rows_per_window() + slot) {
                    let row = Self::row(word).map(|c| self.ids[c]);
                    tokens[at..at + ROW].copy_from_slice(&row);
                    num_tokens += ROW;
                    targets[at + WORD..at + ROW - 1].copy_from_slice(&row[WORD + 1..]);
                }
                doc_start[at..at + ROW].fill((slot * ROW) as u32);
            }
            let used = self.rows_per_window() * ROW;
            doc_start[window * self.seq_len + used..(window + 1) * self.seq_len].fill(used as u32);
        }
        Batch { batch_size, seq_len: self.seq_len, tokens, targets, doc_start, num_tokens }
    }

    /// Positions of the answers in a window: (first position whose target is in the answer, length).
    pub fn answers(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.rows_per_window()).map(|slot| (slot * ROW + WORD, WORD + 1))
    }
}

impl Source for TaskRows {
    fn batch(&self, n: u64, batch_size: usize) -> Batch {
        let words = Self::words_of_split(false);
        let rng = Rng::new(self.seed, "task");
        self.batch_of(batch_size, |slot| Some(words[rng.below(n, slot as u64, words.len() as u64) as usize]))
    }

    fn val_batches(
        &self,
        batch_size: usize,
        _seq_len: usize,
        max_tokens: u64,
    ) -> Option<Box<dyn ExactSizeIterator<Item = Batch> + '_>> {
        let words = Self::words_of_split(true);
        let windows = (words.len() / self.rows_per_window().max(1)).min((max_tokens as usize).div_ceil(self.seq_len));
        let per_batch = batch_size * self.rows_per_window();
        let batches = (0..windows.div_ceil(batch_size)).map(move |i| {
            self.batch_of(batch_size, |slot| {
                words.get(i * per_batch + slot).copied().filter(|_| i * batch_size + slot / self.rows_per_window() < windows)
            })
        });
        Some(Box::new(batches))
    }

    fn tokens(&self) -> (u64, u64) {
        ((Self::words_of_split(false).len() * ROW) as u64, (Self::words_of_split(true).len() * ROW) as u64)
    }

    fn epochs(&self, n: u64, batch_size: usize) -> f64 {
        n as f64 * (batch_size * self.rows_per_window()) as f64 / Self::words_of_split(false).len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> TaskRows {
        TaskRows { ids: (0..12).collect(), seed: 3, seq_len: 64 }
    }

    #[test]
    fn rows_are_reversed_words_and_only_answers_are_scored() {
        let batch = task().batch(0, 2);
        assert_eq!(batch.target_count(), 2 * 6 * (WORD + 1));
        for window in 0..2 {
            for slot in 0..6 {
                let at = window * 64 + slot * ROW;
                let row = &batch.tokens[at..at + ROW];
                let mut back = row[..WORD].to_vec();
                back.reverse();
                assert_eq!((&row[WORD + 1..ROW - 1], row[WORD], row[ROW - 1]), (&back[..], 10, 11));
                assert_eq!(&batch.targets[at + WORD..at + ROW - 1], &row[WORD + 1..]);
                assert!(batch.targets[at..at + WORD].iter().all(|t| *t == IGNORE));
                assert_eq!(batch.doc_start[at + 3], (slot * ROW) as u32);
            }
        }
        assert_eq!(batch, task().batch(0, 2));
        assert_ne!(batch, task().batch(1, 2));
    }

    #[test]
    fn training_and_held_out_words_are_disjoint() {
        let (train, held) = (TaskRows::words_of_split(false), TaskRows::words_of_split(true));
        assert_eq!(train.len() + held.len(), 10_000);
        assert!((800..1200).contains(&held.len()) && held.iter().all(|w| !train.contains(w)));
    }
}

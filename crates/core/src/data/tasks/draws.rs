//! Random draws for one question: a counter over [`Rng`], so that question `n` is a function of (seed, purpose, n).

use crate::rng::Rng;

/// Random draws for one question.
#[derive(Clone, Debug)]
pub struct Draws {
    rng: Rng,
    question: u64,
    used: u64,
}

impl Draws {
    /// The draws of `question` for one purpose.
    pub fn new(seed: u64, purpose: &str, question: u64) -> Self {
        Self { rng: Rng::new(seed, purpose), question, used: 0 }
    }

    /// Uniform in 0..n; 0 for an empty range.
    pub fn below(&mut self, n: usize) -> usize {
        self.used += 1;
        self.rng.below(self.question, self.used, n as u64) as usize
    }

    /// True or false with equal probability.
    pub fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    /// A random element of a list that is not empty.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// `count` distinct numbers of 0..n, in random order.
    pub fn distinct_numbers(&mut self, n: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in 0..count.min(n) {
            let other = i + self.below(n - i);
            all.swap(i, other);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_is_uniform() {
        let mut first = [0; 5];
        for n in 0..5000 {
            let some = Draws::new(1, "test", n).distinct_numbers(5, 3);
            let distinct: std::collections::BTreeSet<_> = some.iter().collect();
            assert!(some.len() == 3 && distinct.len() == 3 && some.iter().all(|i| *i < 5));
            first[some[0]] += 1;
        }
        assert!(first.iter().all(|count| (880..1120).contains(count)), "{first:?}");
        assert_eq!(Draws::new(1, "test", 7).distinct_numbers(9, 9), Draws::new(1, "test", 7).distinct_numbers(9, 9));
    }
}

//! Placement of examples in batch rows: mixture, order and packing of an epoch, as functions of seed and epoch.

use crate::rng::{Permutation, Rng};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Examples (by number) that share a row, in order.
pub type Bin = Vec<u32>;

/// The examples of a file, and their weight in the mixture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MixtureShare {
    /// Numbers of its examples.
    pub examples: Range<u32>,
    /// Passes over them per epoch.
    pub weight: f64,
}

/// The examples of epoch `epoch`, in a random order.
///
/// A file of n examples with weight w contributes the draws floor(w n e) to floor(w n (e + 1)) of an endless series that goes through all n
/// in a new order each time. So after any number of epochs the counts of a file's examples differ by at most one, and with weight 1 each
/// occurs once per epoch.
pub(super) fn draws(shares: &[MixtureShare], seed: u64, epoch: u64) -> Vec<u32> {
    let mut drawn = Vec::new();
    for (i, share) in shares.iter().enumerate() {
        let n = u64::from(share.examples.end - share.examples.start);
        if n == 0 {
            continue;
        }
        let rng = Rng::new(seed, &format!("rows of file {i}"));
        let until = |e: u64| (share.weight * n as f64 * e as f64).floor() as u64;
        let mut pass: Option<(u64, Permutation)> = None;
        for place in until(epoch)..until(epoch + 1) {
            let number = place / n;
            let order = match &pass {
                Some((of, order)) if *of == number => order,
                _ => &pass.insert((number, Permutation::new(n, rng, number))).1,
            };
            drawn.push(share.examples.start + order.at(place % n) as u32);
        }
    }
    shuffled(&drawn, Rng::new(seed, "rows"), epoch)
}

/// A permutation of `things`, a function of (rng, epoch).
pub(super) fn shuffled<T: Clone>(things: &[T], rng: Rng, epoch: u64) -> Vec<T> {
    let order = Permutation::new(things.len().max(1) as u64, rng, epoch);
    (0..things.len() as u64).map(|i| things[order.at(i) as usize].clone()).collect()
}

/// Best-fit decreasing (TRL's `bfd`): longest first, each into the fullest row in which it fits. No example is cut. Examples of equal
/// length keep their order.
pub fn best_fit(drawn: &[u32], length: impl Fn(u32) -> usize, seq_len: usize) -> Vec<Bin> {
    let mut sorted = drawn.to_vec();
    sorted.sort_by_key(|example| std::cmp::Reverse(length(*example)));
    let mut bins: Vec<Bin> = Vec::new();
    let mut by_space: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for example in sorted {
        let needed = length(example);
        let found = by_space.range_mut(needed..).next().and_then(|(space, queue)| Some((*space, queue.pop_front()?)));
        let (space, bin) = match found {
            Some((space, bin)) => {
                if by_space.get(&space).is_some_and(VecDeque::is_empty) {
                    by_space.remove(&space);
                }
                (space, bin)
            }
            None => {
                bins.push(Vec::new());
                (seq_len, bins.len() - 1)
            }
        };
        bins[bin].push(example);
        by_space.entry(space.saturating_sub(needed)).or_default().push_back(bin);
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in TRL's documentation of `pack_dataset`: lengths 5 (cut to 4), 2, 3, 1, row length 4.
    #[test]
    fn packing_matches_trl() {
        let lengths = [4, 2, 3, 1];
        assert_eq!(best_fit(&[0, 1, 2, 3], |i| lengths[i as usize], 4), [vec![0], vec![2, 3], vec![1]]);
    }

    #[test]
    fn packing_respects_the_limit_and_places_each_example_once() {
        let rng = Rng::new(5, "test");
        for case in 0..200 {
            let seq_len = 1 + rng.below(case, 0, 40) as usize;
            let n = rng.below(case, 1, 60) as u32;
            let lengths: Vec<usize> = (0..n).map(|i| 1 + rng.below(case, 2 + u64::from(i), seq_len as u64) as usize).collect();
            let drawn: Vec<u32> = (0..n).collect();
            let bins = best_fit(&drawn, |i| lengths[i as usize], seq_len);
            let mut all: Vec<u32> = bins.concat();
            all.sort_unstable();
            assert_eq!(all, drawn);
            let sums: Vec<usize> = bins.iter().map(|b| b.iter().map(|i| lengths[*i as usize]).sum()).collect();
            assert!(sums.iter().all(|s| *s <= seq_len));
            // Best fit never leaves two rows that could be merged: at most one row is at most half full.
            assert!(sums.iter().filter(|s| **s * 2 <= seq_len).count() <= 1, "{sums:?} of {seq_len}");
        }
    }

    #[test]
    fn each_example_once_per_epoch_and_mixture_weights_hold() {
        let shares = [
            MixtureShare { examples: 0..30, weight: 1.0 },
            MixtureShare { examples: 30..100, weight: 2.0 },
            MixtureShare { examples: 100..107, weight: 0.4 },
        ];
        let mut seen = vec![0u32; 107];
        for epoch in 0..10 {
            let drawn = draws(&shares, 9, epoch);
            assert_eq!(drawn, draws(&shares, 9, epoch));
            drawn.iter().for_each(|i| seen[*i as usize] += 1);
            let e = epoch as u32 + 1;
            assert!(seen[..30].iter().all(|n| *n == e));
            assert!(seen[30..100].iter().all(|n| *n == 2 * e));
            let want = 0.4 * f64::from(e);
            assert!(seen[100..].iter().all(|n| f64::from(*n) >= want.floor() && f64::from(*n) <= want.ceil()), "{seen:?}");
            assert_eq!(seen[100..].iter().sum::<u32>(), (want * 7.0).floor() as u32, "epoch {epoch}");
        }
        assert_ne!(draws(&shares, 9, 0), draws(&shares, 9, 1));
        assert_ne!(draws(&shares, 9, 0), draws(&shares, 10, 0));
    }
}

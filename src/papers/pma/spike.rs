//! Detection of a diverged run: a loss spike from which it does not recover.

use crate::papers::stats::median;

/// Updates whose median is the loss before a spike.
const BEFORE: usize = 50;
/// Updates within which a run must recover.
const AFTER: usize = 100;
/// Minimum height of a spike, in nats.
const JUMP: f64 = 0.5;
/// Minimum height of the loss afterwards for a run that has not recovered, in nats.
pub const LOST: f64 = 0.2;

/// A divergence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Index of the spike's first update.
    pub at: usize,
    /// Median loss of the 50 updates before it.
    pub before: f64,
    /// Median loss of the 100 updates after it.
    pub after: f64,
}

/// The first update whose loss is 0.5 nats above the median of the 50 before, if the median of the 100 after it is still 0.2 nats above.
pub fn first_lost(loss: &[f64]) -> Option<Divergence> {
    // Non-finite losses count as infinite.
    let loss: Vec<f64> = loss.iter().map(|l| if l.is_finite() { *l } else { f64::INFINITY }).collect();
    (BEFORE..loss.len().saturating_sub(AFTER)).find_map(|at| {
        let before = median(&loss[at - BEFORE..at]);
        if loss[at] <= before + JUMP {
            return None;
        }
        let after = median(&loss[at + 1..=at + AFTER]);
        // The median of infinities is not a number.
        (after.is_nan() || after > before + LOST).then_some(Divergence { at, before, after })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lasting_spikes_count_as_lost() {
        let calm: Vec<f64> = (0..400).map(|i| 2.0 + 0.01 * f64::from(i % 5)).collect();
        assert_eq!(first_lost(&calm), None);
        let mut passing = calm.clone();
        passing[200..240].fill(5.0);
        assert_eq!(first_lost(&passing), None);
        let mut lost = calm.clone();
        lost[200..].fill(2.9);
        assert_eq!(first_lost(&lost).map(|l| l.at), Some(200));
        let mut broken = calm;
        broken[150..].fill(f64::NAN);
        assert_eq!(first_lost(&broken).map(|l| l.at), Some(150));
    }
}

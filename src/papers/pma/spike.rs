//! When a run is lost: a spike that does not pass.

use crate::papers::stats::median;

/// Updates whose median is the trajectory before a spike.
const BEFORE: usize = 50;
/// Updates that a spike has to pass.
const AFTER: usize = 100;
/// A spike is this far above the trajectory, in nats.
const JUMP: f64 = 0.5;
/// What is still this far above it afterwards has not come back, in nats.
pub const LOST: f64 = 0.2;

/// A lost trajectory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lost {
    /// Index of the spike's first update.
    pub at: usize,
    /// Median loss of the 50 updates before it.
    pub before: f64,
    /// Median loss of the 100 updates after it.
    pub after: f64,
}

/// The first update whose loss is 0.5 nats above the median of the 50 before, where the median of the 100 after it is still 0.2 above.
pub fn first_lost(loss: &[f64]) -> Option<Lost> {
    // What is not finite is as bad as can be.
    let loss: Vec<f64> = loss.iter().map(|l| if l.is_finite() { *l } else { f64::INFINITY }).collect();
    (BEFORE..loss.len().saturating_sub(AFTER)).find_map(|at| {
        let before = median(&loss[at - BEFORE..at]);
        if loss[at] <= before + JUMP {
            return None;
        }
        let after = median(&loss[at + 1..=at + AFTER]);
        // The middle of infinities is no number.
        (after.is_nan() || after > before + LOST).then_some(Lost { at, before, after })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_come_back_is_lost() {
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

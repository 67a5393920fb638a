//! Better, worse or inconclusive: the difference of two models on the same questions, with its 95 % interval.

use crate::stats::{mean, t_interval};
use minijinja::value::Value;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Two lists of numbers, one number per question (or text window), in the same order.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// A step and the path to its list, such as `before.sampled.per_question`.
    pub before: String,
    /// The list that it is compared with.
    pub after: String,
    /// For losses: lower is better.
    #[serde(default)]
    pub lower_is_better: bool,
}

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparisonVerdict {
    /// The interval is entirely on the better side of zero.
    Better,
    /// The interval is entirely on the other side.
    Worse,
    /// The interval includes zero, or there are too few pairs for a verdict.
    Inconclusive,
}

impl ComparisonVerdict {
    /// Its name in conditions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// A paired difference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedDifference {
    /// Means of the same pairs, before and after.
    pub means: [f64; 2],
    /// Mean of after - before.
    pub mean: f64,
    /// Its 95 % interval.
    pub interval: [f64; 2],
    /// Number of questions in both lists.
    pub count: usize,
    /// Its verdict.
    pub verdict: ComparisonVerdict,
}

/// Minimum number of pairs for a verdict.
const FEWEST: usize = 20;

impl PairedDifference {
    /// From lists in the same order; pairs with NaN are ignored.
    pub fn of(before: &[f64], after: &[f64], lower_is_better: bool) -> Self {
        let pairs: Vec<(f64, f64)> =
            before.iter().copied().zip(after.iter().copied()).filter(|(b, a)| (a - b).is_finite()).collect();
        let differences: Vec<f64> = pairs.iter().map(|(b, a)| a - b).collect();
        let (befores, afters): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let interval = t_interval(&differences).unwrap_or([f64::NAN; 2]);
        let is_above = if lower_is_better { interval[1] < 0.0 } else { interval[0] > 0.0 };
        let is_below = if lower_is_better { interval[0] > 0.0 } else { interval[1] < 0.0 };
        let verdict = match before.len() == after.len() && differences.len() >= FEWEST {
            true if is_above => ComparisonVerdict::Better,
            true if is_below => ComparisonVerdict::Worse,
            _ => ComparisonVerdict::Inconclusive,
        };
        Self { means: [mean(&befores), mean(&afters)], mean: mean(&differences), interval, count: differences.len(), verdict }
    }

    /// Why the verdict is inconclusive, after "the interval".
    fn reason(&self) -> String {
        match self.interval[0] <= 0.0 && self.interval[1] >= 0.0 {
            true => "includes zero".into(),
            false => format!("rests on only {} pairs of values", self.count),
        }
    }

    /// For texts: `rise.before` and `rise.after` (means of the same pairs), `rise.difference`, `rise.low`, `rise.high`, `rise.count`, `rise.verdict`, `rise.reason`.
    pub fn value(&self) -> Value {
        Value::from(BTreeMap::from([
            ("before", Value::from(self.means[0])),
            ("after", Value::from(self.means[1])),
            ("difference", Value::from(self.mean)),
            ("low", Value::from(self.interval[0])),
            ("high", Value::from(self.interval[1])),
            ("count", Value::from(self.count)),
            ("verdict", Value::from(self.verdict.name())),
            ("reason", Value::from(self.reason())),
        ]))
    }
}

/// Facts of a comparison.
pub const FIELDS: &[&str] = &["before", "after", "difference", "low", "high", "count", "verdict", "reason"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paired_interval_decides() {
        // Differences alternate between 0.2 and 0: mean 0.1, variance 0.01 n / (n - 1), standard error sqrt(0.01 / (n - 1)).
        let before: Vec<f64> = (0..101).map(|i| f64::from(i % 7)).collect();
        let after: Vec<f64> = before.iter().enumerate().take(100).map(|(i, x)| x + if i % 2 == 0 { 0.2 } else { 0.0 }).collect();
        let rise = PairedDifference::of(&before[..100], &after, false);
        // Student's t for 99 degrees of freedom, 97.5 %: 1.984.
        let half = 1.984 * (0.01f64 / 99.0).sqrt();
        assert!((rise.mean - 0.1).abs() < 1e-12 && (rise.interval[0] - (0.1 - half)).abs() < 1e-4, "{rise:?}");
        assert_eq!((rise.count, rise.verdict), (100, ComparisonVerdict::Better));
        assert_eq!(PairedDifference::of(&after, &before[..100], false).verdict, ComparisonVerdict::Worse);
        assert_eq!(PairedDifference::of(&before[..100], &after, true).verdict, ComparisonVerdict::Worse);
        assert_eq!(PairedDifference::of(&after, &before[..100], true).verdict, ComparisonVerdict::Better);
        // Other questions, too few of them, or no difference: inconclusive.
        assert_eq!(PairedDifference::of(&before, &after, false).verdict, ComparisonVerdict::Inconclusive);
        let few = PairedDifference::of(&before[..10], &after[..10], false);
        assert_eq!((few.verdict, few.reason()), (ComparisonVerdict::Inconclusive, "rests on only 10 pairs of values".into()));
        assert_eq!(PairedDifference::of(&after, &after, false).verdict, ComparisonVerdict::Inconclusive);
        // Large differences that cancel: the same mean, inconclusive.
        let noisy: Vec<f64> = before.iter().take(100).enumerate().map(|(i, x)| x + if i % 2 == 0 { 9.1 } else { -8.9 }).collect();
        let noisy = PairedDifference::of(&before[..100], &noisy, false);
        assert_eq!((noisy.verdict, noisy.reason()), (ComparisonVerdict::Inconclusive, "includes zero".into()));
        // Questions without a grade are ignored.
        let mut holes = after.clone();
        holes[3] = f64::NAN;
        assert_eq!(PairedDifference::of(&before[..100], &holes, false).count, 99);
    }
}

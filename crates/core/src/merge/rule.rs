//! Weights of the checkpoints of a window. Checkpoints are counted oldest first; weights sum to 1.

use crate::config::{DecayShape, MergeMethod};
use anyhow::{Result, ensure};

/// A merge method with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum MergeRule {
    /// 1/N (PMA, Eq. 3).
    Sma,
    /// A_1 = M_1, A_i = a M_i + (1 - a) A_(i-1) (PMA, Eq. 4; the base case is lehr's): w_1 = (1 - a)^(N - 1), w_i = a (1 - a)^(N - i).
    Ema {
        /// a, above 0 and at most 1.
        alpha: f64,
    },
    /// a (1 - a)^(N - i) over their sum: the weights of PMA's section 4.2, normalized to sum to 1.
    EmaNormalized {
        /// a, above 0 and at most 1.
        alpha: f64,
    },
    /// i / (N (N + 1) / 2) (PMA, Eq. 5).
    Wma,
    /// Emulates a learning rate decay over the window (theorem of WSM, arXiv 2507.17634): if the update between checkpoints j and j + 1
    /// counts d_j (1 >= d_1 >= ... >= d_(N-1) >= 0), the weights are 1 - d_1, d_1 - d_2, ..., d_(N-1). d_j is the decay factor in the
    /// middle of that interval.
    Wsm {
        /// Shape of the decay from 1 to 0 over the window.
        decay: DecayShape,
    },
    /// Given weights, divided by their sum.
    Weights(Vec<f64>),
}

impl MergeRule {
    /// From settings; `weights` are used only by [`MergeMethod::Weights`].
    ///
    /// # Errors
    /// An invalid alpha or invalid weights; the message names the flags `--{prefix}alpha` and `--{prefix}weights`.
    pub fn new(method: MergeMethod, alpha: f64, decay: DecayShape, weights: &[f64], prefix: &str) -> Result<Self> {
        if matches!(method, MergeMethod::Ema | MergeMethod::EmaNormalized) {
            ensure!(alpha > 0.0 && alpha <= 1.0, "--{prefix}alpha {alpha}: must be above 0 and at most 1");
        }
        Ok(match method {
            MergeMethod::Sma => Self::Sma,
            MergeMethod::Ema => Self::Ema { alpha },
            MergeMethod::EmaNormalized => Self::EmaNormalized { alpha },
            MergeMethod::Wma => Self::Wma,
            MergeMethod::Wsm => Self::Wsm { decay },
            MergeMethod::Weights => {
                ensure!(!weights.is_empty(), "--{prefix}weights: one number for each checkpoint is needed, oldest first");
                let sum: f64 = weights.iter().sum();
                ensure!(
                    weights.iter().all(|w| w.is_finite()) && sum.is_finite() && sum.abs() > 1e-9,
                    "--{prefix}weights: must be finite numbers whose sum is not 0, they sum to {sum}"
                );
                Self::Weights(weights.to_vec())
            }
        })
    }

    /// The method without its parameters.
    pub fn method(&self) -> MergeMethod {
        match self {
            Self::Sma => MergeMethod::Sma,
            Self::Ema { .. } => MergeMethod::Ema,
            Self::EmaNormalized { .. } => MergeMethod::EmaNormalized,
            Self::Wma => MergeMethod::Wma,
            Self::Wsm { .. } => MergeMethod::Wsm,
            Self::Weights(_) => MergeMethod::Weights,
        }
    }

    /// Weights for `n` checkpoints, oldest first; they sum to 1.
    ///
    /// # Errors
    /// As [`Self::raw_weights`].
    pub fn weights(&self, n: usize) -> Result<Vec<f64>> {
        let raw = self.raw_weights(n)?;
        let sum: f64 = raw.iter().sum();
        Ok(raw.iter().map(|w| w / sum).collect())
    }

    /// Weights for `n` checkpoints, oldest first, before division by their sum. For `sma` and `wma` they are integers, so that a merge that
    /// divides last adds no rounding error: 1/10 is not a binary fraction.
    ///
    /// # Errors
    /// No checkpoints, or a number of given weights that differs from the number of checkpoints.
    pub fn raw_weights(&self, n: usize) -> Result<Vec<f64>> {
        ensure!(n > 0, "a merge needs at least one checkpoint");
        Ok(match self {
            Self::Sma => vec![1.0; n],
            Self::Ema { alpha } => {
                (0..n).map(|i| if i == 0 { 1.0 } else { *alpha } * (1.0 - alpha).powi((n - 1 - i) as i32)).collect()
            }
            Self::EmaNormalized { alpha } => (0..n).map(|i| (1.0 - alpha).powi((n - 1 - i) as i32)).collect(),
            Self::Wma => (1..=n).map(|i| i as f64).collect(),
            Self::Wsm { decay } => {
                let intervals = (n - 1) as f64;
                let counts: Vec<f64> = (0..n - 1).map(|j| decay.remaining((j as f64 + 0.5) / intervals)).collect();
                let before = std::iter::once(1.0).chain(counts.iter().copied());
                let after = counts.iter().copied().chain([0.0]);
                before.zip(after).map(|(b, a)| b - a).collect()
            }
            Self::Weights(given) => {
                ensure!(
                    given.len() == n,
                    "--weights: {} numbers for {n} checkpoints: give one for each, oldest first",
                    given.len()
                );
                given.clone()
            }
        })
    }

    /// Mean age of `weights` in intervals: the lag of the merge behind the newest checkpoint.
    pub fn mean_age(weights: &[f64]) -> f64 {
        weights.iter().rev().enumerate().map(|(age, w)| age as f64 * w).sum()
    }

    /// Effective number of checkpoints, 1 / sum w^2: how much independent noise the merge averages away.
    pub fn effective_count(weights: &[f64]) -> f64 {
        1.0 / weights.iter().map(|w| w * w).sum::<f64>()
    }
}

impl std::fmt::Display for MergeRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ema { alpha } | Self::EmaNormalized { alpha } => write!(f, "{} {alpha}", self.method().name()),
            Self::Wsm { decay } => write!(f, "wsm {}", decay.name()),
            _ => f.write_str(self.method().name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn near(a: f64, b: f64, digits: f64) -> bool {
        (a - b).abs() <= digits
    }

    /// N = 10 as in the PMA paper: mean age, effective count, weight of the oldest and of the newest, computed by hand.
    #[test]
    fn lag_and_effective_count_of_windows_match_the_paper() {
        for (rule, age, count, first, last) in [
            (MergeRule::Sma, 4.50, 10.0, 0.100, 0.100),
            (MergeRule::Wma, 3.00, 7.9, 0.018, 0.182),
            (MergeRule::Ema { alpha: 0.1 }, 5.51, 5.1, 0.387, 0.100),
            (MergeRule::Ema { alpha: 0.2 }, 3.46, 7.9, 0.134, 0.200),
            (MergeRule::EmaNormalized { alpha: 0.1 }, 3.65, 9.2, 0.059, 0.154),
            (MergeRule::EmaNormalized { alpha: 0.2 }, 2.80, 7.3, 0.030, 0.224),
        ] {
            let w = rule.weights(10).unwrap();
            assert!(near(MergeRule::mean_age(&w), age, 0.006), "{rule}: age {}", MergeRule::mean_age(&w));
            assert!(near(MergeRule::effective_count(&w), count, 0.06), "{rule}: count {}", MergeRule::effective_count(&w));
            assert!(near(w[0], first, 0.0006) && near(w[9], last, 0.0006), "{rule}: {w:?}");
        }
    }

    proptest! {
        /// The recursion of Eq. 4 equals the weighted sum of its closed form.
        #[test]
        fn the_recursion_matches_its_closed_form(xs in prop::collection::vec(-5.0f64..5.0, 1..20), alpha in 0.01f64..=1.0) {
            let recursion = xs[1..].iter().fold(xs[0], |a, x| alpha * x + (1.0 - alpha) * a);
            let w = MergeRule::Ema { alpha }.weights(xs.len()).unwrap();
            let closed: f64 = w.iter().zip(&xs).map(|(w, x)| w * x).sum();
            prop_assert!(near(recursion, closed, 1e-12));
        }

        /// A WSM merge equals SGD with each update scaled by the decay.
        #[test]
        fn wsm_scales_the_updates(updates in prop::collection::vec(-1.0f64..1.0, 1..15), shape in 0usize..3) {
            let decay = [DecayShape::Cosine, DecayShape::Linear, DecayShape::OneMinusSqrt][shape];
            let (mut theta, mut decayed, mut checkpoints) = (0.3, 0.3, vec![0.3]);
            for (j, u) in updates.iter().enumerate() {
                theta += u;
                decayed += u * decay.remaining((j as f64 + 0.5) / updates.len() as f64);
                checkpoints.push(theta);
            }
            let w = MergeRule::Wsm { decay }.weights(checkpoints.len()).unwrap();
            let merged: f64 = w.iter().zip(&checkpoints).map(|(w, x)| w * x).sum();
            prop_assert!(near(merged, decayed, 1e-12));
        }

        #[test]
        fn weights_sum_to_one_and_only_custom_ones_are_negative(n in 1usize..40, alpha in 0.01f64..=1.0) {
            for rule in [
                MergeRule::Sma, MergeRule::Wma, MergeRule::Ema { alpha }, MergeRule::EmaNormalized { alpha },
                MergeRule::Wsm { decay: DecayShape::Linear },
            ] {
                let w = rule.weights(n).unwrap();
                prop_assert!(w.len() == n && near(w.iter().sum(), 1.0, 1e-12) && w.iter().all(|w| *w >= 0.0), "{rule}: {w:?}");
            }
        }
    }

    #[test]
    fn alpha_one_selects_the_newest() {
        for rule in [MergeRule::Ema { alpha: 1.0 }, MergeRule::EmaNormalized { alpha: 1.0 }] {
            assert_eq!(rule.weights(4).unwrap(), [0.0, 0.0, 0.0, 1.0]);
        }
    }

    #[test]
    fn invalid_weights_are_refused() {
        let new = |method, alpha, weights: &[f64]| MergeRule::new(method, alpha, DecayShape::Linear, weights, "");
        assert!(new(MergeMethod::Ema, 0.0, &[]).is_err() && new(MergeMethod::EmaNormalized, f64::NAN, &[]).is_err());
        assert!(new(MergeMethod::Weights, 0.1, &[]).is_err() && new(MergeMethod::Weights, 0.1, &[1.0, -1.0]).is_err());
        assert!(new(MergeMethod::Weights, 0.1, &[1.0, 3.0]).unwrap().weights(3).is_err());
        assert_eq!(new(MergeMethod::Weights, 0.1, &[1.0, 3.0]).unwrap().weights(2).unwrap(), [0.25, 0.75]);
        assert!(MergeRule::Sma.weights(0).is_err());
    }
}

//! Held-out tokens by predicted probability: where the loss and the gradient come from. Host arithmetic on the results of an evaluation.

use super::bins::{DECILES, QUARTILES, bin, logit_norm, short};
use crate::event::{Predicted, Predictions};

/// Predictions for the first tokens of an evaluation.
#[derive(Clone, Debug)]
pub struct PredictionStats {
    /// Maximum number of tokens.
    pub most: usize,
    /// (log pi(target), sum p^2) of each.
    pub tokens: Vec<(f32, f32)>,
}

impl Default for PredictionStats {
    /// Empty; the number of tokens is enough for stable shares at a negligible readback cost.
    fn default() -> Self {
        Self { most: 4096, tokens: Vec::new() }
    }
}

impl PredictionStats {
    /// Whether more tokens are needed.
    pub fn needs_more(&self) -> bool {
        self.tokens.len() < self.most
    }

    /// Add tokens, up to the maximum.
    pub fn add(&mut self, tokens: impl Iterator<Item = (f32, f32)>) {
        self.tokens.extend(tokens.take(self.most - self.tokens.len().min(self.most)));
    }

    /// Statistics by probability.
    pub fn predictions(&self, step: u64) -> Predictions {
        let tokens = self.tokens.len() as u64;
        Predictions { step, tokens, quartiles: predicted(&QUARTILES, &self.tokens), deciles: predicted(&DECILES, &self.tokens) }
    }
}

fn predicted(from: &[f64], tokens: &[(f32, f32)]) -> Predicted {
    // (tokens, loss, gradient) of each bin.
    let mut sums = vec![(0u64, 0.0, 0.0); from.len()];
    for (logprob, sum_p2) in tokens.iter().map(|(l, s)| (f64::from(*l), f64::from(*s))) {
        if let Some(sum) = bin(from, logprob.exp()).and_then(|at| sums.get_mut(at)) {
            sum.0 += 1;
            sum.1 -= logprob;
            sum.2 += logit_norm(logprob, sum_p2);
        }
    }
    // A share of an empty total is 0.
    let of = |part: f64, whole: f64| short(if whole == 0.0 { 0.0 } else { part / whole });
    let (loss, gradient) = (sums.iter().map(|s| s.1).sum::<f64>(), sums.iter().map(|s| s.2).sum::<f64>());
    Predicted {
        from: from.to_vec(),
        count: sums.iter().map(|s| s.0).collect(),
        share: sums.iter().map(|s| of(s.0 as f64, tokens.len() as f64)).collect(),
        loss: sums.iter().map(|s| of(s.1, loss)).collect(),
        gradient: sums.iter().map(|s| of(s.2, gradient)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Number;

    fn seen(tokens: &[(f32, f32)]) -> Predictions {
        let mut seen = PredictionStats::default();
        seen.add(tokens.iter().copied());
        seen.predictions(7)
    }

    #[test]
    fn shares_of_two_tokens_match_hand_computation() {
        // 0.35 of (0.35, 0.25, 0.2, 0.2), and 0.95 of (0.95, 0.05).
        let found = seen(&[(0.35f32.ln(), 0.265), (0.95f32.ln(), 0.905)]);
        let numbers = |values: &[Number]| values.iter().map(|v| v.0).collect::<Vec<_>>();
        let close = |got: &[Number], want: &[f64]| {
            assert!(numbers(got).iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5), "{got:?}, not {want:?}");
        };
        assert_eq!((found.step, found.tokens, found.quartiles.count.as_slice()), (7, 2, &[0, 1, 0, 1][..]));
        assert_eq!(found.deciles.count, [0, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        close(&found.quartiles.share, &[0.0, 0.5, 0.0, 0.5]);
        let (a, b) = (-0.35f64.ln(), -0.95f64.ln());
        close(&found.quartiles.loss, &[0.0, a / (a + b), 0.0, b / (a + b)]);
        // |(-0.65, 0.25, 0.2, 0.2)| and |(-0.05, 0.05)|.
        let (a, b) = (0.565f64.sqrt(), 0.005f64.sqrt());
        close(&found.quartiles.gradient, &[0.0, a / (a + b), 0.0, b / (a + b)]);
    }

    #[test]
    fn empty_and_certain_predictions_are_finite() {
        let none = seen(&[]);
        assert_eq!((none.tokens, none.quartiles.share[0], none.quartiles.loss[3]), (0, Number(0.0), Number(0.0)));
        let sure = seen(&[(0.0, 1.0); 3]);
        assert_eq!((sure.quartiles.count[3], sure.quartiles.share[3]), (3, Number(1.0)));
        assert_eq!((sure.quartiles.loss[3], sure.quartiles.gradient[3]), (Number(0.0), Number(0.0)));
        // A NaN is in no bin, and the shares of the tokens show it.
        assert_eq!(seen(&[(f32::NAN, 0.5), (0.0, 1.0)]).quartiles.share[3], Number(0.5));
    }

    #[test]
    fn only_the_first_tokens_are_summarised() {
        let mut seen = PredictionStats::default();
        for _ in 0..3 {
            seen.add(std::iter::repeat_n((-1.0, 0.5), 1500));
        }
        assert!(!seen.needs_more());
        assert_eq!(seen.predictions(1).tokens, 4096);
        seen.add(std::iter::once((-1.0, 0.5)));
        assert_eq!(seen.tokens.len(), 4096);
    }
}

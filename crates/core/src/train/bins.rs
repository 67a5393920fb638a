//! Tokens by the probability that a model gives them: bins, and the norm of a token's gradient at the logits. Used by all stages.
//!
//! The gradient of log pi(o) with respect to the logits is e_o - p, whose norm is sqrt(sum p^2 - 2 p_o + 1) (arXiv 2505.12929, proof of
//! Proposition 4.2). It lies between sqrt(N / (N - 1)) (1 - p_o) and sqrt(2) (1 - p_o) for N tokens of vocabulary.

use crate::event::Number;

/// Lower edges of the paper's bins.
pub const QUARTILES: [f64; 4] = [0.0, 0.25, 0.5, 0.75];
/// Lower edges of tenths, each the double nearest to the decimal.
pub const DECILES: [f64; 10] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// The bin of a probability: the last whose lower edge is not above it. NaN has none.
pub fn bin(from: &[f64], probability: f64) -> Option<usize> {
    from.iter().rposition(|edge| *edge <= probability)
}

/// |d log pi(o) / d logits|.
pub fn logit_norm(logprob: f64, sum_p2: f64) -> f64 {
    if sum_p2.is_nan() {
        return f64::NAN;
    }
    let gap = -logprob.exp_m1();
    // Near p = 1 single precision leaves only the rounding error of the sum; these bounds of the norm do not depend on it.
    (sum_p2 - 2.0 * logprob.exp() + 1.0).max(gap * gap).min(2.0 * gap * gap).sqrt()
}

/// A number rounded to six significant digits, to keep log lines short.
pub(super) fn short(value: f64) -> Number {
    if value == 0.0 || !value.is_finite() {
        return Number(value);
    }
    let digits = 5 - value.abs().log10().floor() as i32;
    // Divided by exact powers, so that 0.3 prints as 0.3.
    let power = 10f64.powi(digits.abs());
    Number(if digits >= 0 { (value * power).round() / power } else { (value / power).round() * power })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_belong_to_the_upper_bin() {
        assert_eq!([0.0, 0.2499, 0.25, 0.5, 0.75, 1.0].map(|p| bin(&QUARTILES, p)), [0, 0, 1, 2, 3, 3].map(Some));
        assert_eq!([0.0999, 0.1, 0.7, 0.9, 1.0000001].map(|p| bin(&DECILES, p)), [0, 1, 7, 9, 9].map(Some));
        assert_eq!(bin(&DECILES, f64::NAN), None);
    }

    #[test]
    fn edges_are_printed_with_six_digits() {
        let written = |v: f64| serde_json::to_string(&short(v)).unwrap();
        assert_eq!([0.1 + 0.2, 1.0 / 3.0, 0.0, 123_456_789.0].map(written), ["0.3", "0.333333", "0.0", "123457000.0"]);
        assert_eq!(written(-2.0e-7 / 3.0), "-6.66667e-8");
    }
}

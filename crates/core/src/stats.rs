//! Means, quantiles and confidence intervals.

/// Mean; NaN for an empty list.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { f64::NAN } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// (smallest, largest); infinite and reversed for an empty list.
pub fn range(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    values.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

/// Standard deviation (n - 1).
pub fn deviation(values: &[f64]) -> f64 {
    let m = mean(values);
    (values.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / (values.len() as f64 - 1.0)).sqrt()
}

/// Median; NaN for an empty list.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Weighted mean of (value, weight); values that are not finite or have no positive weight are ignored; NaN for an empty list.
pub fn weighted_mean(values: impl IntoIterator<Item = (f64, f64)>) -> f64 {
    let counted = values.into_iter().filter(|(value, weight)| value.is_finite() && *weight > 0.0);
    let (sum, mass) = counted.fold((0.0, 0.0), |(sum, mass), (value, weight)| (sum + value * weight, mass + weight));
    sum / mass
}

/// Quantile by linear interpolation; NaN for an empty list.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, q)
}

/// Quantile of ascending numbers by linear interpolation; NaN for an empty list.
pub fn quantile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// 97.5 % quantile of the normal distribution: half the width of a 95 % interval in standard errors.
pub const Z: f64 = 1.959_963_984_540_054;

/// Two-sided 95 % interval of the mean by Student's t; `None` for fewer than two values.
pub fn t_interval(values: &[f64]) -> Option<[f64; 2]> {
    if values.len() < 2 {
        return None;
    }
    let half = t_quantile(values.len() - 1) * deviation(values) / (values.len() as f64).sqrt();
    Some([mean(values) - half, mean(values) + half])
}

/// Two-sided 95 % interval of the mean of successive values of one run, which resemble their predecessors: [`t_interval`] with the effective
/// number of values n (1 - r) / (1 + r) of a first-order autoregressive series (Bayley and Hammersley 1946), at least two. The
/// autocorrelation r at lag 1 is corrected for its bias -(1 + 3 r) / n (Kendall 1954), and the deviation for the correlation. `None` for
/// fewer than five values.
pub fn series_interval(values: &[f64]) -> Option<[f64; 2]> {
    let n = values.len() as f64;
    if values.len() < 5 {
        return None;
    }
    let m = mean(values);
    let squares: f64 = values.iter().map(|v| (v - m) * (v - m)).sum();
    let products: f64 = values.windows(2).map(|pair| (pair[0] - m) * (pair[1] - m)).sum();
    let lag = if squares > 0.0 { products / squares } else { 0.0 };
    let r = ((n * lag + 1.0) / (n - 3.0)).clamp(0.0, 1.0);
    let effective = (n * (1.0 - r) / (1.0 + r)).max(2.0);
    let variance = squares / (n - n / effective);
    let half = t_quantile(effective as usize - 1) * (variance / effective).sqrt();
    Some([m - half, m + half])
}

/// 97.5 % quantile of Student's t distribution with this many degrees of freedom.
pub fn t_quantile(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
        2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    // Beyond the table, the first term of the expansion about the normal quantile.
    TABLE.get(freedom.max(1) - 1).copied().unwrap_or(1.96 + 2.4 / freedom as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn quantiles_match_counting() {
        let rng = Rng::new(1, "quantile");
        let values: Vec<f64> = (0..1001).map(|i| rng.normal_pair(1, i)[0]).collect();
        for q in [0.0, 0.005, 0.25, 0.5, 0.9, 1.0] {
            let found = quantile(&values, q);
            let below = values.iter().filter(|v| **v < found).count() as f64 / 1000.0;
            assert!((below - q).abs() < 1.1e-3, "{q}: {below}");
        }
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn nan_weights_are_ignored() {
        assert_eq!(weighted_mean([(1.0, 1.0), (4.0, 2.0), (f64::NAN, 9.0), (7.0, 0.0)]), 3.0);
        assert!(weighted_mean([]).is_nan() && mean(&[]).is_nan());
    }

    /// Of 2,000 autoregressive series, the interval holds the true mean in about 95 %; the one for independent values in far fewer.
    #[test]
    fn intervals_of_series_cover_the_mean() {
        let rng = Rng::new(7, "series");
        let covers = |interval: [f64; 2]| interval[0] <= 0.0 && interval[1] >= 0.0;
        for (r, least, most_naive) in [(0.0f64, 0.93, 1.0), (0.5, 0.9, 0.8), (0.8, 0.85, 0.6)] {
            let (mut held, mut naive) = (0, 0);
            for series in 0..2000u64 {
                let noise = |i: u64| rng.normal_pair(series, i)[0];
                let mut value = noise(999) / (1.0 - r * r).sqrt();
                let mut values = Vec::new();
                for i in 0..30 {
                    value = r * value + noise(i);
                    values.push(value);
                }
                held += usize::from(covers(series_interval(&values).unwrap()));
                naive += usize::from(covers(t_interval(&values).unwrap()));
            }
            let [held, naive] = [held, naive].map(|n| n as f64 / 2000.0);
            assert!(held >= least && naive <= most_naive, "r = {r}: {held} and {naive}");
        }
        assert_eq!(series_interval(&[2.0; 6]), Some([2.0; 2]));
        assert_eq!(series_interval(&[1.0; 4]), None);
    }

    #[test]
    fn intervals_match_published_tables() {
        // Student's t, 97.5 %: 2.776 for 4 degrees of freedom, 2.262 for 9, 2.045 for 29.
        for (degrees, wanted) in [(4, 2.776), (9, 2.262), (29, 2.045)] {
            assert!((t_quantile(degrees) / wanted - 1.0).abs() < 0.02, "{degrees}: {}", t_quantile(degrees));
        }
    }
}

//! Confidence intervals: a bootstrap over seeds and validation windows, and Student's t over seeds.
//!
//! A percentile bootstrap over three seeds is too narrow: it cannot extend beyond the largest and the smallest. Therefore a check counts
//! only if the t interval agrees.

use crate::rng::Rng;
pub use crate::stats::{deviation, mean, median, quantile, range, t_interval};
use serde::Serialize;

/// Number of resamples.
pub const DRAWS: u64 = 2000;

/// An effect with its intervals.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Mean over the units.
    pub mean: f64,
    /// 95 % bootstrap interval: units and windows resampled.
    pub bootstrap: [f64; 2],
    /// 95 % interval of Student's t over the units' means; absent for a single unit.
    pub student: Option<[f64; 2]>,
    /// The value of each unit.
    pub units: Vec<f64>,
}

/// Arms of a unit (a seed, or a seed of one size), indexed by arm and window.
pub type Unit = Vec<Vec<f64>>;

impl Estimate {
    /// For a statistic of the arms' mean losses. In each draw units are resampled with replacement, and windows too, the same ones for all
    /// units and arms: they are paired (Owen's pigeonhole bootstrap for crossed factors).
    pub fn of(units: &[Unit], statistic: impl Fn(&[f64]) -> f64) -> Self {
        let own: Vec<f64> = units.iter().map(|unit| statistic(&unit.iter().map(|arm| mean(arm)).collect::<Vec<_>>())).collect();
        let windows = units.iter().flatten().map(Vec::len).min().unwrap_or(0);
        let rng = Rng::new(1, "bootstrap");
        let mut draws: Vec<f64> = Vec::with_capacity(DRAWS as usize);
        for draw in 0..DRAWS {
            let picked: Vec<usize> =
                (0..windows as u64).map(|i| rng.below(draw, 1 + i, windows.max(1) as u64) as usize).collect();
            let value = |unit: &Unit| {
                let means: Vec<f64> =
                    unit.iter().map(|arm| picked.iter().map(|w| arm[*w]).sum::<f64>() / windows.max(1) as f64).collect();
                statistic(&means)
            };
            let resampled: Vec<f64> = units.iter().map(value).collect();
            let n = units.len() as u64;
            let sum: f64 = (0..n).map(|i| resampled[rng.below(draw, (1 << 40) + i, n) as usize]).sum();
            draws.push(sum / n.max(1) as f64);
        }
        Self { mean: mean(&own), bootstrap: percentiles(draws), student: t_interval(&own), units: own }
    }

    /// For one number per unit.
    pub fn of_values(values: &[f64]) -> Self {
        let units: Vec<Unit> = values.iter().map(|v| vec![vec![*v]]).collect();
        Self::of(&units, |m| m[0])
    }

    /// The wider bound on each side, used by checks.
    pub fn interval(&self) -> [f64; 2] {
        let t = self.student.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
        [self.bootstrap[0].min(t[0]), self.bootstrap[1].max(t[1])]
    }
}

fn percentiles(draws: Vec<f64>) -> [f64; 2] {
    if draws.iter().any(|d| !d.is_finite()) {
        return [f64::NEG_INFINITY, f64::INFINITY];
    }
    [quantile(&draws, 0.025), quantile(&draws, 0.975)]
}

/// Spearman's rank correlation; NaN if one side is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let (ma, mb) = (mean(&a), mean(&b));
    let cov: f64 = a.iter().zip(&b).map(|(x, y)| (x - ma) * (y - mb)).sum();
    let var = |v: &[f64], m: f64| v.iter().map(|x| (x - m) * (x - m)).sum::<f64>();
    cov / (var(&a, ma) * var(&b, mb)).sqrt()
}

/// Ranks from 1; equal values share their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    values
        .iter()
        .map(|v| {
            let below = values.iter().filter(|o| *o < v).count() as f64;
            let equal = values.iter().filter(|o| *o == v).count() as f64;
            below + (equal + 1.0) / 2.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 400 data sets of 8 seeds and 40 windows with a true effect of 0.3: the interval used by checks covers it in about 95 % of them.
    #[test]
    fn interval_coverage_matches_its_level() {
        let (mut hits, mut narrow, worlds) = (0, 0, 150u64);
        for world in 0..worlds {
            let rng = Rng::new(world, "coverage");
            let unit = |seed: u64| -> Unit {
                let own = 0.3 + 0.1 * rng.normal_pair(1, seed)[0];
                let window = |w: u64| 2.0 + rng.normal_pair(2, w)[0];
                let noise = |w: u64| 0.2 * rng.normal_pair(3, 1000 * seed + w)[0];
                let raw: Vec<f64> = (0..40).map(window).collect();
                let merged = (0..40).map(|w| raw[w as usize] - own + noise(w)).collect();
                vec![raw, merged]
            };
            let units: Vec<Unit> = (0..8).map(unit).collect();
            let found = Estimate::of(&units, |m| m[0] - m[1]);
            let [low, high] = found.interval();
            hits += u64::from((low..=high).contains(&0.3));
            narrow += u64::from(high - low < 0.4);
        }
        assert!(hits >= worlds * 90 / 100, "{hits} of {worlds}");
        assert!(hits < worlds || narrow > 0, "an interval that always covers says nothing");
        assert!(narrow > worlds * 9 / 10, "{narrow}");
    }

    #[test]
    fn quantiles_and_correlations() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0, 4.0], 0.5), 2.5);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[9.0, 8.0, 1.0]), -1.0);
        assert!((spearman(&[1.0, 1.0, 2.0], &[5.0, 5.0, 7.0]) - 1.0).abs() < 1e-12);
        // From Student's table: three values, two degrees of freedom.
        let [low, high] = t_interval(&[1.0, 2.0, 3.0]).unwrap();
        assert!((high - 2.0 - 4.303 / 3f64.sqrt()).abs() < 1e-9 && (low + high - 4.0).abs() < 1e-9);
        assert_eq!(t_interval(&[1.0]), None);
    }

    /// Both arms use the same windows: their common variation does not widen the interval.
    #[test]
    fn pairing_cancels_shared_variation() {
        let raw: Vec<f64> = (0..50).map(|i| f64::from(i % 7)).collect();
        let merged: Vec<f64> = raw.iter().map(|v| v - 0.25).collect();
        let found = Estimate::of(&vec![vec![raw, merged]; 3], |m| m[0] - m[1]);
        assert!((found.mean - 0.25).abs() < 1e-12 && (found.bootstrap[0] - found.bootstrap[1]).abs() < 1e-9);
    }
}

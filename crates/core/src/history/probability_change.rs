//! Distribution of the changes of probability in an update, from the log.

use crate::event::{Number, ProbabilityChange};
use crate::plot::{Distribution, Histogram, Quantiles};
use crate::stats::weighted_mean;

/// The changes of one or several steps, by bin: counts where the log has them, otherwise the token-weighted mean of the steps' quantiles,
/// as in logs of earlier versions.
pub fn spreads(steps: &[&ProbabilityChange]) -> Vec<Distribution> {
    let bins = steps.iter().map(|m| m.count.len()).max().unwrap_or(0);
    (0..bins).map(|b| spread(steps, b)).collect()
}

fn spread(steps: &[&ProbabilityChange], b: usize) -> Distribution {
    let at = |list: &[Number]| list.get(b).map_or(f64::NAN, |v| v.0);
    let counted = |m: &&ProbabilityChange| {
        let counts = m.cells.get(b).filter(|cells| !cells.is_empty())?.iter().map(|n| *n as f64).collect();
        Some(Histogram { low: at(&m.least), high: at(&m.most), counts })
    };
    let pooled = Histogram::pooled(&steps.iter().filter_map(counted).collect::<Vec<_>>());
    if !pooled.counts.is_empty() {
        return Distribution::Cells(pooled);
    }
    let mean = |pick: fn(&ProbabilityChange) -> &Vec<Number>| {
        weighted_mean(steps.iter().map(|m| (at(pick(m)), m.count.get(b).map_or(0.0, |n| *n as f64))))
    };
    Distribution::Box(Quantiles {
        least: mean(|m| &m.least),
        lower: mean(|m| &m.lower),
        median: mean(|m| &m.median),
        upper: mean(|m| &m.upper),
        most: mean(|m| &m.most),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_become_violins_and_logs_without_them_boxes() {
        let numbers = |values: [f64; 2]| values.map(Number).to_vec();
        let old = |count: u64, median: f64| ProbabilityChange {
            count: vec![count, 0],
            least: numbers([-1.0, f64::NAN]),
            lower: numbers([-0.5, f64::NAN]),
            median: numbers([median, f64::NAN]),
            upper: numbers([0.5, f64::NAN]),
            most: numbers([1.0, f64::NAN]),
            ..ProbabilityChange::default()
        };
        let found = spreads(&[&old(1, 0.0), &old(3, 0.4)]);
        let Distribution::Box(first) = &found[0] else { panic!("{found:?}") };
        assert!((first.median - 0.3).abs() < 1e-12 && first.most == 1.0);
        assert!(matches!(&found[1], Distribution::Box(q) if q.median.is_nan()));
        let new = ProbabilityChange { cells: vec![vec![1, 3], Vec::new()], ..old(4, 0.2) };
        let found = spreads(&[&old(9, 0.0), &new]);
        let Distribution::Cells(cells) = &found[0] else { panic!("{found:?}") };
        assert_eq!((cells.low, cells.high), (-1.0, 1.0));
        assert!((cells.counts.iter().sum::<f64>() - 4.0).abs() < 1e-9);
        assert!(spreads(&[]).is_empty());
    }
}

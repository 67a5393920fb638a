//! Curves in compact form: every point of a short one, minimum and maximum of each column of a long one. Points are not sampled.

use crate::history::{Axis, Clock, Curve};

/// Points of a curve as rows of the run's clock; a repeated row has the minimum and maximum around it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Trace {
    pub rows: Vec<u32>,
    pub values: Vec<f64>,
}

/// A curve in about `most` points.
pub(super) fn trace(clock: &Clock, curve: &Curve, most: usize) -> Trace {
    if curve.len() <= most {
        return Trace { rows: curve.rows().to_vec(), values: curve.values().to_vec() };
    }
    let at = |i: usize| clock.at(Axis::Steps, curve.rows()[i]);
    let stretches: Vec<_> = curve.segments().filter(|s| !s.is_empty()).collect();
    let span: f64 = stretches.iter().map(|s| at(s.end - 1) - at(s.start)).sum();
    // Columns start at the same steps in all curves of a run, so that they share their rows.
    let width = (2.0 * span / most.max(2) as f64).ceil().max(1.0);
    let mut out = Trace::default();
    for stretch in stretches {
        let mut from = stretch.start;
        while from < stretch.end {
            let edge = ((at(from) / width).floor() + 1.0) * width;
            let to = curve.find(clock, Axis::Steps, &(from..stretch.end), edge).max(from + 1);
            out.push(curve.rows()[from], curve.extremes(from..to));
            from = to;
        }
    }
    out
}

impl Trace {
    fn push(&mut self, row: u32, extremes: Option<(f64, f64)>) {
        let (low, high) = extremes.unwrap_or((f64::NAN, f64::NAN));
        self.rows.push(row);
        self.values.push(low);
        if low < high {
            self.rows.push(row);
            self.values.push(high);
        }
    }

    /// (step, value) to draw, with a gap where the step decreases.
    pub fn points(&self, clock: &Clock) -> Vec<(f64, f64)> {
        let mut out: Vec<(f64, f64)> = Vec::with_capacity(self.rows.len());
        for (row, value) in self.rows.iter().zip(&self.values) {
            let step = clock.at(Axis::Steps, *row);
            if out.last().is_some_and(|last| step < last.0) {
                out.push((step, f64::NAN));
            }
            out.push((step, *value));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Step};
    use crate::history::History;

    fn run(values: impl IntoIterator<Item = (u64, f64)>) -> History {
        let mut run = History::default();
        values.into_iter().for_each(|(step, loss)| run.push(Event::Step(Step { step, loss, ..Step::default() })));
        run
    }

    #[test]
    fn a_long_curve_keeps_its_spikes_and_stays_small() {
        let run = run((1..=100_000).map(|i| (i, if i == 77_777 { 9.0 } else { (i % 10) as f64 * 0.1 })));
        let found = trace(&run.clock, &run.curves["loss"], 1500);
        assert!((1000..=1502).contains(&found.rows.len()), "{}", found.rows.len());
        assert_eq!(found.values.iter().copied().fold(0.0, f64::max), 9.0);
        assert!(found.rows.is_sorted());
        let all: Vec<f64> = found.values.iter().copied().filter(|v| *v < 9.0).collect();
        assert!(all.iter().all(|v| *v == 0.0 || (*v - 0.9).abs() < 1e-12), "each column spans all ten values");
    }

    #[test]
    fn a_short_curve_is_there_whole_and_lifts_where_it_goes_back() {
        let run = run([(1, 5.0), (2, f64::NAN), (3, 4.0), (2, 6.0)]);
        let found = trace(&run.clock, &run.curves["loss"], 1500);
        assert_eq!(found.rows, [0, 1, 2, 3]);
        let points = found.points(&run.clock);
        assert_eq!(points.len(), 5);
        assert!(points[3].1.is_nan() && points[4] == (2.0, 6.0));
    }
}

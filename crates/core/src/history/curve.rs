//! A metric over a run: every point is kept, and drawn through a tree of minima, maxima and sums, never by dropping points.

use super::clock::{Axis, Clock};

/// The drawn part of a curve, and its resolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurveView {
    /// The horizontal axis.
    pub axis: Axis,
    /// The first position.
    pub from: f64,
    /// The last position.
    pub to: f64,
    /// Columns of equal width on the screen, usually pixels.
    pub columns: usize,
    /// Whether the axis is logarithmic: columns have equal ratios. Requires `from` above 0.
    pub log: bool,
}

impl CurveView {
    /// End of the column of `x`; infinite if columns have no width.
    fn edge(&self, x: f64) -> f64 {
        let on = |x: f64| if self.log { x.ln() } else { x };
        let (from, width) = (on(self.from), (on(self.to) - on(self.from)) / self.columns.max(1) as f64);
        // Points before the first column connect the line to it.
        let column = ((on(x) - from) / width).floor().max(-1.0);
        let edge = from + (column + 1.0) * width;
        if self.log { edge.exp() } else { edge }
    }

    fn has_width(&self) -> bool {
        self.to > self.from && (self.to - self.from).is_finite() && (!self.log || self.from > 0.0)
    }
}

/// Fan-out of the tree.
const FAN: usize = 8;

/// All points of a metric. Steps repeat after a rescue: whenever the step decreases, a new segment begins, and the line is interrupted.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    rows: Vec<u32>,
    values: Vec<f64>,
    /// First index of each segment.
    starts: Vec<usize>,
    /// Levels of nodes over `FAN`, `FAN`^2, ... values.
    tree: Vec<Vec<CurveNode>>,
}

/// Summary of some values: minimum, maximum, sum and count of the finite ones.
#[derive(Clone, Copy, Debug)]
struct CurveNode {
    low: f64,
    high: f64,
    sum: f64,
    count: u32,
}

impl CurveNode {
    /// The empty summary.
    const NONE: Self = Self { low: f64::INFINITY, high: f64::NEG_INFINITY, sum: 0.0, count: 0 };

    fn of(value: f64) -> Self {
        if value.is_finite() { Self { low: value, high: value, sum: value, count: 1 } } else { Self::NONE }
    }

    fn and(self, other: Self) -> Self {
        Self {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
            sum: self.sum + other.sum,
            count: self.count + other.count,
        }
    }
}

impl Curve {
    /// Add a point; `row` is a row of the run's [`Clock`].
    pub(super) fn push(&mut self, clock: &Clock, row: u32, value: f64) {
        let went_back = self.rows.last().is_none_or(|&last| clock.at(Axis::Steps, row) < clock.at(Axis::Steps, last));
        if went_back {
            self.starts.push(self.values.len());
        }
        self.rows.push(row);
        self.values.push(value);
        let (mut at, new) = (self.values.len() - 1, CurveNode::of(value));
        for level in 0.. {
            at /= FAN;
            if self.values.len() <= FAN.pow(level as u32) {
                return;
            }
            if self.tree.len() == level {
                // The first nodes of a new level summarize the existing values.
                let count = if level == 0 { self.values.len() } else { self.tree[level - 1].len() };
                let held = |n: usize| {
                    (n * FAN..count.min(n * FAN + FAN)).map(|i| self.node(level, i)).fold(CurveNode::NONE, CurveNode::and)
                };
                let nodes: Vec<_> = (0..count.div_ceil(FAN)).map(held).collect();
                self.tree.push(nodes);
                return;
            }
            match self.tree[level].get_mut(at) {
                Some(node) => *node = node.and(new),
                None => self.tree[level].push(new),
            }
        }
    }

    /// The i-th node of a level; level 0 is the values themselves.
    fn node(&self, level: usize, i: usize) -> CurveNode {
        if level == 0 { CurveNode::of(self.values[i]) } else { self.tree[level - 1][i] }
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no points.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All values, in order.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The rows of the run's [`Clock`] for the values.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The newest value.
    pub fn last(&self) -> Option<f64> {
        self.values.last().copied()
    }

    /// The segments of the line, oldest first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = std::ops::Range<usize>> + '_ {
        (0..self.starts.len()).map(|i| self.segment(i))
    }

    fn segment(&self, i: usize) -> std::ops::Range<usize> {
        self.starts[i]..self.starts.get(i + 1).copied().unwrap_or(self.values.len())
    }

    /// The first point of a segment at or after `x`.
    pub fn find(&self, clock: &Clock, axis: Axis, stretch: &std::ops::Range<usize>, x: f64) -> usize {
        stretch.start + self.rows[stretch.clone()].partition_point(|&row| clock.at(axis, row) < x)
    }

    /// [`Self::find`], in constant time if the answer is the guess or its neighbour: columns of even steps hold the same number of points.
    fn find_near(&self, clock: &Clock, axis: Axis, range: &std::ops::Range<usize>, guess: usize, x: f64) -> usize {
        let behind = |i: usize| i >= range.end || clock.at(axis, self.rows[i]) >= x;
        let mut near = guess.saturating_sub(1).max(range.start + 1)..=(guess + 1).min(range.end);
        near.find(|&i| behind(i) && !behind(i - 1)).unwrap_or_else(|| self.find(clock, axis, range, x))
    }

    /// The point at `x`: the nearest one of the newest segment that spans `x`; None before the curve begins, after it ends, and where it is
    /// interrupted.
    pub fn index_at(&self, clock: &Clock, axis: Axis, x: f64) -> Option<usize> {
        let at = |i: usize| clock.at(axis, self.rows[i]);
        let over = |s: &std::ops::Range<usize>| !s.is_empty() && at(s.start) <= x && x <= at(s.end - 1);
        let stretch = self.segments().rev().find(over)?;
        let behind = self.find(clock, axis, &stretch, x);
        let candidates = [behind.checked_sub(1), Some(behind)].into_iter().flatten().filter(|i| stretch.contains(i));
        candidates.min_by(|&a, &b| (at(a) - x).abs().total_cmp(&(at(b) - x).abs()))
    }

    /// Minimum and maximum of the finite numbers in a range; None if there are none.
    pub fn extremes(&self, range: std::ops::Range<usize>) -> Option<(f64, f64)> {
        let found = self.held_in(range);
        (found.count > 0).then_some((found.low, found.high))
    }

    /// Mean of the finite numbers in a range; None if there are none.
    pub fn mean(&self, range: std::ops::Range<usize>) -> Option<f64> {
        let found = self.held_in(range);
        // Sums of huge numbers may overflow.
        (found.count > 0 && found.sum.is_finite()).then(|| found.sum / f64::from(found.count))
    }

    fn held_in(&self, range: std::ops::Range<usize>) -> CurveNode {
        let (mut from, mut to) = (range.start, range.end.min(self.values.len()));
        let mut found = CurveNode::NONE;
        for level in 0..=self.tree.len() {
            let higher = level < self.tree.len();
            while from < to && (!higher || from % FAN != 0) {
                found = found.and(self.node(level, from));
                from += 1;
            }
            while from < to && (!higher || to % FAN != 0) {
                to -= 1;
                found = found.and(self.node(level, to));
            }
            if from >= to {
                break;
            }
            (from, to) = (from / FAN, to / FAN);
        }
        found
    }

    /// Points on each side that a smoothed line averages over: the window holds `share` of the curve's points. 0 means no smoothing.
    pub fn reach(&self, share: f64) -> usize {
        (0.5 * share.clamp(0.0, 1.0) * self.len() as f64) as usize
    }

    /// Mean of a point and the same number of neighbours on each side (`reach`, fewer at the ends of a segment), so that a smoothed line
    /// neither lags nor leads its curve. NaN if the point is not a number.
    pub fn smoothed_at(&self, i: usize, reach: usize) -> f64 {
        let value = self.values[i];
        if reach == 0 || !value.is_finite() {
            return value;
        }
        let stretch = self.segment(self.starts.partition_point(|&start| start <= i).saturating_sub(1));
        let reach = reach.min(i - stretch.start).min(stretch.end - 1 - i);
        self.mean(i - reach..i + reach + 1).unwrap_or(value)
    }

    /// The smoothed curve, point by point.
    pub fn smoothed(&self, clock: &Clock, reach: usize) -> Self {
        let mut out = Self::default();
        (0..self.len()).for_each(|i| out.push(clock, self.rows[i], self.smoothed_at(i, reach)));
        out
    }

    /// The smoothed curve as lines to draw, with at most one point per column.
    pub fn smoothed_lines(&self, clock: &Clock, cut: &CurveView, reach: usize) -> Vec<Vec<[f64; 2]>> {
        let (mut lines, axis) = (Vec::new(), cut.axis);
        for stretch in self.segments() {
            let first = self.find(clock, axis, &stretch, cut.from).saturating_sub(1).max(stretch.start);
            let last = (self.find(clock, axis, &stretch, cut.to) + 1).min(stretch.end);
            let line = &mut Vec::new();
            let every = if cut.has_width() { last.saturating_sub(first).div_ceil(cut.columns.max(1)).max(1) } else { 1 };
            // The last point is always drawn.
            for i in (first..last).step_by(every).chain((every > 1 && last > first).then(|| last - 1)) {
                match self.smoothed_at(i, reach) {
                    y if y.is_finite() => line.push([clock.at(axis, self.rows[i]), y]),
                    _ => end_line(line, &mut lines),
                }
            }
            end_line(line, &mut lines);
        }
        lines
    }

    /// The curve as lines to draw, with about two points per column at most: a column with more points is drawn by its minimum and maximum,
    /// so that no spike is lost. A NaN interrupts the line.
    pub fn lines(&self, clock: &Clock, cut: &CurveView) -> Vec<Vec<[f64; 2]>> {
        let (mut lines, axis) = (Vec::new(), cut.axis);
        for stretch in self.segments() {
            let first = self.find(clock, axis, &stretch, cut.from).saturating_sub(1).max(stretch.start);
            let last = (self.find(clock, axis, &stretch, cut.to) + 1).min(stretch.end);
            if first >= last {
                continue;
            }
            let line = &mut Vec::new();
            if last - first <= 2 * cut.columns || !cut.has_width() {
                for i in first..last {
                    self.draw(clock, axis, i, line, &mut lines);
                }
            } else {
                let (mut at, mut size) = (first, 1);
                while at < last {
                    let x = clock.at(axis, self.rows[at]);
                    let next = self.find_near(clock, axis, &(at..last), at + size, cut.edge(x)).max(at + 1);
                    size = next - at;
                    match self.extremes(at..next) {
                        None => end_line(line, &mut lines),
                        Some((low, high)) => line.extend([[x, low], [x, high]].iter().take(1 + usize::from(low < high))),
                    }
                    at = next;
                }
            }
            end_line(line, &mut lines);
        }
        lines
    }

    fn draw(&self, clock: &Clock, axis: Axis, i: usize, line: &mut Vec<[f64; 2]>, lines: &mut Vec<Vec<[f64; 2]>>) {
        match self.values[i].is_finite() {
            true => line.push([clock.at(axis, self.rows[i]), self.values[i]]),
            false => end_line(line, lines),
        }
    }
}

fn end_line(line: &mut Vec<[f64; 2]>, lines: &mut Vec<Vec<[f64; 2]>>) {
    if !line.is_empty() {
        lines.push(std::mem::take(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(values: impl IntoIterator<Item = (f64, f64)>) -> (Clock, Curve) {
        let (mut clock, mut curve) = (Clock::default(), Curve::default());
        for (x, y) in values {
            let row = clock.push(x, x, x, x, x);
            curve.push(&clock, row, y);
        }
        (clock, curve)
    }

    fn cut(from: f64, to: f64, columns: usize) -> CurveView {
        CurveView { axis: Axis::Steps, from, to, columns, log: false }
    }

    fn noise(i: u64) -> f64 {
        (f64::from(crate::rng::Rng::new(7, "noise").uniform(0, i)) - 0.5) * 10.0
    }

    #[test]
    fn extremes_match_a_linear_search() {
        for count in [1usize, 7, 8, 9, 63, 64, 65, 513, 1000] {
            let odd = |i: u64| if i % 13 == 5 { f64::NAN } else { noise(i) };
            let (_, curve) = made((0..count as u64).map(|i| (i as f64, odd(i))));
            for (from, to) in (0..60).map(|k| ((k * 37) % count, (k * 91) % (count + 1))) {
                let plain = curve.values[from..to.max(from)].iter().copied().filter(|v| v.is_finite());
                let plain = plain.fold(None, |m: Option<(f64, f64)>, v| Some(m.map_or((v, v), |m| (m.0.min(v), m.1.max(v)))));
                assert_eq!(curve.extremes(from..to.max(from)), plain, "{from}..{to} of {count}");
            }
        }
    }

    #[test]
    fn a_single_spike_is_drawn_among_any_number_of_points() {
        let (clock, curve) = made((0..100_000).map(|i| (f64::from(i), if i == 54_321 { 99.0 } else { 1.0 })));
        let lines = curve.lines(&clock, &cut(0.0, 1e5, 300));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].len() <= 700, "{}", lines[0].len());
        assert_eq!(lines[0].iter().map(|p| p[1]).fold(0.0, f64::max), 99.0);
        assert!(lines[0].is_sorted_by(|a, b| a[0] <= b[0]));
    }

    /// The first of six decades takes a sixth of the width, not one column.
    #[test]
    fn logarithmic_axes_have_equal_ratios() {
        let (clock, curve) = made((1..=100_000).map(|i| (f64::from(i), noise(i as u64))));
        let log = CurveView { log: true, ..cut(1.0, 1e5, 500) };
        let lines = curve.lines(&clock, &log);
        assert!(lines[0].len() <= 1001, "{}", lines[0].len());
        let in_decade = |from: f64| lines[0].iter().filter(|p| p[0] >= from && p[0] < 10.0 * from).count();
        assert_eq!(in_decade(1.0), 9, "points closer than a column are drawn as they are");
        assert!((190..=202).contains(&in_decade(1e4)), "{}", in_decade(1e4));
        let most = |from: usize, to: usize| curve.values[from..to].iter().copied().fold(f64::MIN, f64::max);
        let drawn = lines[0].iter().filter(|p| p[0] >= 1000.0).map(|p| p[1]).fold(f64::MIN, f64::max);
        assert!(drawn >= most(1100, 100_000) && drawn <= most(900, 100_000));
    }

    #[test]
    fn few_points_are_drawn_exactly_and_nan_interrupts_the_line() {
        let (clock, curve) = made([(1.0, 2.0), (2.0, f64::NAN), (3.0, 4.0), (4.0, 5.0)]);
        let lines = curve.lines(&clock, &cut(0.0, 9.0, 100));
        assert_eq!(lines, [vec![[1.0, 2.0]], vec![[3.0, 4.0], [4.0, 5.0]]]);
    }

    #[test]
    fn a_step_that_goes_back_starts_a_segment() {
        let (clock, curve) = made([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (2.0, 7.0), (3.0, 8.0)]);
        assert_eq!(curve.segments().collect::<Vec<_>>(), [0..3, 3..5]);
        assert_eq!(curve.index_at(&clock, Axis::Steps, 2.9), Some(4));
        assert_eq!(curve.lines(&clock, &cut(0.0, 9.0, 100)).len(), 2);
    }

    #[test]
    fn smoothing_is_a_centred_mean() {
        let (clock, curve) = made((0..700).map(|i| (i as f64, if i % 31 == 7 { f64::NAN } else { noise(i) })));
        let reach = curve.reach(0.1);
        assert_eq!(reach, 35);
        let smoothed = curve.smoothed(&clock, reach);
        for i in [0, 1, 20, 300, 650, 698, 699] {
            let r = reach.min(i).min(699 - i);
            let near: Vec<f64> = curve.values[i - r..=i + r].iter().copied().filter(|v| v.is_finite()).collect();
            let mean = near.iter().sum::<f64>() / near.len() as f64;
            assert!((smoothed.values[i] - mean).abs() < 1e-9, "{i}");
        }
        assert!(smoothed.values[7].is_nan(), "what is not a number stays none");
        // A straight line stays the same up to its ends, without lag.
        let (clock, line) = made((0..90).map(|i| (i as f64, 3.0 - 0.5 * i as f64)));
        let same = line.smoothed(&clock, 9);
        assert!(same.values.iter().zip(&line.values).all(|(a, b)| (a - b).abs() < 1e-9));
        assert_eq!(line.reach(0.02), 0, "few points are drawn as they are");
    }

    /// As reported in the issue: a smoothed line was drawn above the measured values where the loss falls fast.
    #[test]
    fn smoothing_stays_below_a_fast_falling_curve() {
        let falls = |i: u64| 3.0 * (-(i as f64) / 12.0).exp();
        let (_, curve) = made((0..200).map(|i| (i as f64, falls(i))));
        let drawn = curve.smoothed_at(37, curve.reach(0.05));
        assert!((drawn / falls(37) - 1.0).abs() < 0.05, "{drawn} for {}", falls(37));
    }

    #[test]
    fn smoothing_keeps_the_ends_and_shape_of_long_curves() {
        let (clock, curve) = made((0..100_000).map(|i| (f64::from(i), f64::from(i) + noise(i as u64))));
        let lines = curve.smoothed_lines(&clock, &cut(0.0, 1e5, 300), curve.reach(0.02));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].len() <= 302, "{}", lines[0].len());
        assert_eq!((lines[0][0][0], lines[0][lines[0].len() - 1][0]), (0.0, 99_999.0));
        assert!(lines[0].iter().all(|p| (p[0] - p[1]).abs() < 5.1));
        assert!(lines[0][50..250].iter().all(|p| (p[0] - p[1]).abs() < 0.5), "noise of 5 over 2000 values");
    }

    #[test]
    fn a_curve_has_no_value_outside_its_range() {
        let (clock, curve) = made([(800.0, 1.0), (801.0, 2.0), (900.0, 3.0), (850.0, 4.0), (870.0, 5.0)]);
        let at = |x: f64| curve.index_at(&clock, Axis::Steps, x).map(|i| curve.values[i]);
        assert_eq!([at(287.0), at(799.0), at(901.0)], [None; 3]);
        assert_eq!([at(800.0), at(810.0), at(900.0)], [Some(1.0), Some(2.0), Some(3.0)]);
        assert_eq!([at(851.0), at(870.0)], [Some(4.0), Some(5.0)], "the newest stretch that is there");
    }

    #[test]
    fn means_match_a_plain_sum() {
        for count in [1usize, 8, 65, 1000] {
            let (_, curve) = made((0..count as u64).map(|i| (i as f64, if i % 13 == 5 { f64::INFINITY } else { noise(i) })));
            for (from, to) in (0..60).map(|k| ((k * 37) % count, (k * 91) % (count + 1))) {
                let plain: Vec<f64> = curve.values[from..to.max(from)].iter().copied().filter(|v| v.is_finite()).collect();
                let wanted = (!plain.is_empty()).then(|| plain.iter().sum::<f64>() / plain.len() as f64);
                match (curve.mean(from..to.max(from)), wanted) {
                    (Some(a), Some(b)) => assert!((a - b).abs() < 1e-9, "{from}..{to} of {count}: {a}, {b}"),
                    (a, b) => assert_eq!(a, b, "{from}..{to} of {count}"),
                }
            }
        }
    }
}

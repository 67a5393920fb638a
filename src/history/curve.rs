//! A metric over a run: every point kept, drawn through a tree of minima and maxima, never by leaving points out.

use super::clock::{Axis, Clock};

/// Which part of a curve is drawn, and how finely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// What is counted to the right.
    pub axis: Axis,
    /// The first position.
    pub from: f64,
    /// The last position.
    pub to: f64,
    /// Parts of equal width on the screen: pixels, as a rule.
    pub columns: usize,
    /// The axis is logarithmic: the parts have equal ratios. Needs `from` above 0.
    pub log: bool,
}

impl Cut {
    /// Where the column of `x` ends; infinite where columns have no width.
    fn edge(&self, x: f64) -> f64 {
        let on = |x: f64| if self.log { x.ln() } else { x };
        let (from, width) = (on(self.from), (on(self.to) - on(self.from)) / self.columns.max(1) as f64);
        // What lies before the first column is the line's way in.
        let column = ((on(x) - from) / width).floor().max(-1.0);
        let edge = from + (column + 1.0) * width;
        if self.log { edge.exp() } else { edge }
    }

    fn has_width(&self) -> bool {
        self.to > self.from && (self.to - self.from).is_finite() && (!self.log || self.from > 0.0)
    }
}

/// Values of a node's children.
const FAN: usize = 8;

/// See the module. Steps repeat after a rescue: each time that the step goes back, a new stretch begins, and the line is lifted.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    rows: Vec<u32>,
    values: Vec<f64>,
    /// Where stretches begin.
    starts: Vec<usize>,
    /// Least and greatest number of `FAN`, `FAN`^2, ... values; NaN where there is none.
    tree: Vec<Vec<(f64, f64)>>,
}

impl Curve {
    /// Add a point; `row` is of the run's [`Clock`].
    pub(super) fn push(&mut self, clock: &Clock, row: u32, value: f64) {
        let went_back = self.rows.last().is_none_or(|&last| clock.at(Axis::Steps, row) < clock.at(Axis::Steps, last));
        if went_back {
            self.starts.push(self.values.len());
        }
        self.rows.push(row);
        self.values.push(value);
        let (mut at, mut pair) = (self.values.len() - 1, (value, value));
        for level in 0.. {
            at /= FAN;
            if self.values.len() <= FAN.pow(level as u32) {
                return;
            }
            if self.tree.len() == level {
                // The level's first nodes, of what was there before.
                let below = |i: usize| if level == 0 { (self.values[i], self.values[i]) } else { self.tree[level - 1][i] };
                let count = if level == 0 { self.values.len() } else { self.tree[level - 1].len() };
                let nodes = (0..count.div_ceil(FAN)).map(|n| (n * FAN..count.min(n * FAN + FAN)).map(below).fold(NONE, widest));
                let nodes: Vec<_> = nodes.collect();
                self.tree.push(nodes);
                return;
            }
            match self.tree[level].get_mut(at) {
                Some(node) => *node = widest(*node, pair),
                None => self.tree[level].push(pair),
            }
            pair = self.tree[level][at];
        }
    }

    /// Points.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no point.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All values, in order.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The rows of the run's [`Clock`] that the values belong to.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The newest value.
    pub fn last(&self) -> Option<f64> {
        self.values.last().copied()
    }

    /// The stretches between which the line is lifted, oldest first.
    pub fn stretches(&self) -> impl DoubleEndedIterator<Item = std::ops::Range<usize>> + '_ {
        (0..self.starts.len()).map(|i| self.stretch(i))
    }

    fn stretch(&self, i: usize) -> std::ops::Range<usize> {
        self.starts[i]..self.starts.get(i + 1).copied().unwrap_or(self.values.len())
    }

    /// The first point of a stretch at or behind `x`.
    pub fn find(&self, clock: &Clock, axis: Axis, stretch: &std::ops::Range<usize>, x: f64) -> usize {
        stretch.start + self.rows[stretch.clone()].partition_point(|&row| clock.at(axis, row) < x)
    }

    /// [`Self::find`], at once where the answer is the guess or a neighbour of it: columns of even steps hold the same number of points.
    fn find_near(&self, clock: &Clock, axis: Axis, range: &std::ops::Range<usize>, guess: usize, x: f64) -> usize {
        let behind = |i: usize| i >= range.end || clock.at(axis, self.rows[i]) >= x;
        let mut near = guess.saturating_sub(1).max(range.start + 1)..=(guess + 1).min(range.end);
        near.find(|&i| behind(i) && !behind(i - 1)).unwrap_or_else(|| self.find(clock, axis, range, x))
    }

    /// The value in the newest stretch that is nearest to `x`, and where it is.
    pub fn nearest(&self, clock: &Clock, axis: Axis, x: f64) -> Option<(f64, f64)> {
        let inside = |s: &std::ops::Range<usize>| clock.at(axis, self.rows[s.start]) <= x;
        let stretch = self.stretches().rev().find(inside).or(self.stretches().next())?;
        let behind = self.find(clock, axis, &stretch, x);
        let candidates = [behind.checked_sub(1), Some(behind)].into_iter().flatten().filter(|i| stretch.contains(i));
        let at = |i: usize| (clock.at(axis, self.rows[i]), self.values[i]);
        candidates.map(at).min_by(|a, b| (a.0 - x).abs().total_cmp(&(b.0 - x).abs()))
    }

    /// Least and greatest number among some values; None when they hold none. Infinite ones do not count.
    pub fn extremes(&self, range: std::ops::Range<usize>) -> Option<(f64, f64)> {
        let found = self.widest_in(range);
        (found.0 <= found.1).then_some(found)
    }

    fn widest_in(&self, range: std::ops::Range<usize>) -> (f64, f64) {
        let (mut from, mut to) = (range.start, range.end.min(self.values.len()));
        let mut found = NONE;
        for level in 0..=self.tree.len() {
            let node = |i: usize| if level == 0 { (self.values[i], self.values[i]) } else { self.tree[level - 1][i] };
            let higher = level < self.tree.len();
            while from < to && (!higher || from % FAN != 0) {
                found = widest(found, node(from));
                from += 1;
            }
            while from < to && (!higher || to % FAN != 0) {
                to -= 1;
                found = widest(found, node(to));
            }
            if from >= to {
                break;
            }
            (from, to) = (from / FAN, to / FAN);
        }
        found
    }

    /// The curve as lines to draw, about two points for each column at most: where there are more, each column has its least and its
    /// greatest value, so that no spike is lost. A NaN lifts the line.
    pub fn lines(&self, clock: &Clock, cut: &Cut) -> Vec<Vec<[f64; 2]>> {
        let (mut lines, axis) = (Vec::new(), cut.axis);
        for stretch in self.stretches() {
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
                        None => lift(line, &mut lines),
                        Some((low, high)) => line.extend([[x, low], [x, high]].iter().take(1 + usize::from(low < high))),
                    }
                    at = next;
                }
            }
            lift(line, &mut lines);
        }
        lines
    }

    fn draw(&self, clock: &Clock, axis: Axis, i: usize, line: &mut Vec<[f64; 2]>, lines: &mut Vec<Vec<[f64; 2]>>) {
        match self.values[i].is_finite() {
            true => line.push([clock.at(axis, self.rows[i]), self.values[i]]),
            false => lift(line, lines),
        }
    }
}

fn lift(line: &mut Vec<[f64; 2]>, lines: &mut Vec<Vec<[f64; 2]>>) {
    if !line.is_empty() {
        lines.push(std::mem::take(line));
    }
}

/// No value yet.
const NONE: (f64, f64) = (f64::INFINITY, f64::NEG_INFINITY);

/// Of two pairs; infinite numbers and NaN are no part of a span.
fn widest(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    let low = if b.0.is_finite() { a.0.min(b.0) } else { a.0 };
    let high = if b.1.is_finite() { a.1.max(b.1) } else { a.1 };
    let low = if low.is_finite() { low } else { f64::INFINITY };
    (low, if high.is_finite() { high } else { f64::NEG_INFINITY })
}

/// A curve's exponential moving average, bias-corrected as Adam's moments are: weight * old + (1 - weight) * new, over the sum of the
/// weights. Follows its curve as that grows.
#[derive(Clone, Debug, Default)]
pub struct Smoothed {
    weight: f64,
    average: f64,
    mass: f64,
    /// What was made of the curve so far.
    pub curve: Curve,
}

impl Smoothed {
    /// Nothing yet; `weight` of the past is 0 (none) to below 1.
    pub fn new(weight: f64) -> Self {
        Self { weight: weight.clamp(0.0, 0.9999), ..Self::default() }
    }

    /// The weight of the past.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Take the points that are new. Numbers that are none are passed over; a stretch begins afresh.
    pub fn follow(&mut self, clock: &Clock, raw: &Curve) {
        for i in self.curve.len()..raw.len() {
            if raw.starts.binary_search(&i).is_ok() {
                (self.average, self.mass) = (0.0, 0.0);
            }
            let mut shown = f64::NAN;
            if raw.values[i].is_finite() {
                self.average = self.weight * self.average + (1.0 - self.weight) * raw.values[i];
                self.mass = self.weight * self.mass + (1.0 - self.weight);
                shown = self.average / self.mass;
            }
            self.curve.push(clock, raw.rows[i], shown);
        }
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

    fn cut(from: f64, to: f64, columns: usize) -> Cut {
        Cut { axis: Axis::Steps, from, to, columns, log: false }
    }

    fn noise(i: u64) -> f64 {
        (f64::from(crate::rng::Rng::new(7, "noise").uniform(0, i)) - 0.5) * 10.0
    }

    #[test]
    fn extremes_are_those_of_a_plain_search() {
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
    fn a_single_spike_is_drawn_however_many_points_there_are() {
        let (clock, curve) = made((0..100_000).map(|i| (f64::from(i), if i == 54_321 { 99.0 } else { 1.0 })));
        let lines = curve.lines(&clock, &cut(0.0, 1e5, 300));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].len() <= 700, "{}", lines[0].len());
        assert_eq!(lines[0].iter().map(|p| p[1]).fold(0.0, f64::max), 99.0);
        assert!(lines[0].is_sorted_by(|a, b| a[0] <= b[0]));
    }

    /// The first of six decades is a sixth of the picture, and is not one column of it.
    #[test]
    fn a_logarithmic_axis_is_cut_into_equal_ratios() {
        let (clock, curve) = made((1..=100_000).map(|i| (f64::from(i), noise(i as u64))));
        let log = Cut { log: true, ..cut(1.0, 1e5, 500) };
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
    fn few_points_are_drawn_as_they_are_and_nan_lifts_the_line() {
        let (clock, curve) = made([(1.0, 2.0), (2.0, f64::NAN), (3.0, 4.0), (4.0, 5.0)]);
        let lines = curve.lines(&clock, &cut(0.0, 9.0, 100));
        assert_eq!(lines, [vec![[1.0, 2.0]], vec![[3.0, 4.0], [4.0, 5.0]]]);
    }

    #[test]
    fn a_step_that_goes_back_begins_a_stretch() {
        let (clock, curve) = made([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (2.0, 7.0), (3.0, 8.0)]);
        assert_eq!(curve.stretches().collect::<Vec<_>>(), [0..3, 3..5]);
        assert_eq!(curve.nearest(&clock, Axis::Steps, 2.9), Some((3.0, 8.0)));
        assert_eq!(curve.lines(&clock, &cut(0.0, 9.0, 100)).len(), 2);
    }

    #[test]
    fn smoothing_is_the_debiased_average_by_its_definition() {
        let (clock, curve) = made((0..50).map(|i| (i as f64, noise(i))));
        let mut smoothed = Smoothed::new(0.8);
        smoothed.follow(&clock, &curve);
        for i in [0, 1, 7, 49] {
            let weights: Vec<f64> = (0..=i).map(|j| 0.8f64.powi((i - j) as i32)).collect();
            let sum: f64 = weights.iter().zip(&curve.values).map(|(w, v)| w * v).sum();
            let mean = sum / weights.iter().sum::<f64>();
            assert!((smoothed.curve.values[i] - mean).abs() < 1e-9, "{i}");
        }
        let (clock, constant) = made((0..9).map(|i| (i as f64, 3.0)));
        let mut same = Smoothed::new(0.99);
        same.follow(&clock, &constant);
        assert!(same.curve.values.iter().all(|v| (v - 3.0).abs() < 1e-9));
    }
}

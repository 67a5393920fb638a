//! Contour lines of a function on a grid: marching squares, joined into lines and loops.

use std::collections::BTreeMap;

/// Values on the grid of `xs` and `ys`.
#[derive(Clone, Debug, Default)]
pub struct Field {
    /// Ascending.
    pub xs: Vec<f64>,
    /// Ascending.
    pub ys: Vec<f64>,
    /// One row for each of `ys`, one number for each of `xs`; NaN for missing values.
    pub values: Vec<Vec<f64>>,
}

/// A contour line; a closed one ends at its first point.
pub type Isoline = Vec<(f64, f64)>;

/// An edge of the grid: its first grid point, and whether it runs along y.
type GridEdge = (usize, usize, bool);

impl Field {
    /// At (column, row); NaN outside.
    fn at(&self, i: usize, j: usize) -> f64 {
        self.values.get(j).and_then(|row| row.get(i)).copied().unwrap_or(f64::NAN)
    }

    /// Lines f = level by linear interpolation along the grid's edges (marching squares, with the mean of the four corners deciding at
    /// saddles). Closed lines end at their first point; others end at the border or at a hole. The order is deterministic.
    pub fn isolines(&self, level: f64) -> Vec<Isoline> {
        let mut links: BTreeMap<GridEdge, Vec<GridEdge>> = BTreeMap::new();
        for j in 0..self.ys.len().saturating_sub(1) {
            for i in 0..self.xs.len().saturating_sub(1) {
                for (a, b) in self.cell(i, j, level) {
                    links.entry(a).or_default().push(b);
                    links.entry(b).or_default().push(a);
                }
            }
        }
        let mut out = Vec::new();
        // Open lines first, from their ends.
        let ends: Vec<GridEdge> = links.iter().filter(|(_, to)| to.len() == 1).map(|(e, _)| *e).collect();
        let all: Vec<GridEdge> = links.keys().copied().collect();
        for start in ends.into_iter().chain(all) {
            let line = walk(&mut links, start);
            if line.len() > 1 {
                out.push(line.into_iter().map(|e| self.crossing(e, level)).collect());
            }
        }
        out
    }

    /// Pairs of edges of a cell that the line connects.
    fn cell(&self, i: usize, j: usize, level: f64) -> Vec<(GridEdge, GridEdge)> {
        let corners = [self.at(i, j), self.at(i + 1, j), self.at(i + 1, j + 1), self.at(i, j + 1)];
        if corners.iter().any(|v| v.is_nan()) {
            return Vec::new();
        }
        let [bottom, right, top, left] = [(i, j, false), (i + 1, j, true), (i, j + 1, false), (i, j, true)];
        let above = corners.map(|v| v >= level);
        let code = above.iter().rev().fold(0, |code, a| code << 1 | usize::from(*a));
        let middle = corners.iter().sum::<f64>() / 4.0 >= level;
        match code {
            1 | 14 => vec![(left, bottom)],
            2 | 13 => vec![(bottom, right)],
            4 | 11 => vec![(right, top)],
            8 | 7 => vec![(top, left)],
            3 | 12 => vec![(left, right)],
            6 | 9 => vec![(bottom, top)],
            5 if middle => vec![(left, top), (bottom, right)],
            10 if !middle => vec![(left, top), (bottom, right)],
            5 | 10 => vec![(left, bottom), (top, right)],
            _ => Vec::new(),
        }
    }

    fn crossing(&self, (i, j, along_y): GridEdge, level: f64) -> (f64, f64) {
        let (k, l) = if along_y { (i, j + 1) } else { (i + 1, j) };
        let (a, b) = (self.at(i, j), self.at(k, l));
        // Next to the outside (minus infinity) the line follows the border.
        let t = match (a.is_finite(), b.is_finite()) {
            (true, true) => ((level - a) / (b - a)).clamp(0.0, 1.0),
            (true, false) => 0.0,
            _ => 1.0,
        };
        (self.xs[i] + (self.xs[k] - self.xs[i]) * t, self.ys[j] + (self.ys[l] - self.ys[j]) * t)
    }

    /// Outline of the region f >= level, closed along the border and around holes; fill it with the even-odd rule.
    pub fn region(&self, level: f64) -> Vec<Isoline> {
        let ring = |axis: &[f64]| -> Vec<f64> {
            let ends = [axis.first(), axis.last()].map(|v| v.copied().unwrap_or(0.0));
            std::iter::once(ends[0]).chain(axis.iter().copied()).chain([ends[1]]).collect()
        };
        let (w, h) = (self.xs.len() + 2, self.ys.len() + 2);
        let values = (0..h).map(|j| {
            let inside = |i: usize| if i == 0 || j == 0 { f64::NAN } else { self.at(i - 1, j - 1) };
            (0..w).map(|i| if inside(i).is_finite() { inside(i) } else { f64::NEG_INFINITY }).collect()
        });
        Field { xs: ring(&self.xs), ys: ring(&self.ys), values: values.collect() }.isolines(level)
    }

    /// A finer grid with `times` as many cells in each direction, through the same values: cubic (Catmull-Rom) with straight ends; next to
    /// holes linear, or missing.
    pub fn refined(&self, times: usize) -> Field {
        let rows: Vec<Vec<f64>> = self.values.iter().map(|row| refine(row, times)).collect();
        let columns = rows.first().map_or(0, Vec::len);
        let mut values = vec![vec![f64::NAN; columns]; (self.ys.len().max(1) - 1) * times + 1];
        for i in 0..columns {
            let column: Vec<f64> = rows.iter().map(|row| row.get(i).copied().unwrap_or(f64::NAN)).collect();
            for (j, v) in refine(&column, times).into_iter().enumerate().take(values.len()) {
                values[j][i] = v;
            }
        }
        let axis = |old: &[f64]| -> Vec<f64> {
            let inner = old.windows(2).flat_map(|p| (0..times).map(move |k| p[0] + (p[1] - p[0]) * k as f64 / times as f64));
            inner.chain(old.last().copied()).collect()
        };
        Field { xs: axis(&self.xs), ys: axis(&self.ys), values }
    }

    /// Minimum and maximum.
    pub fn extent(&self) -> Option<(f64, f64)> {
        super::scale::extent(self.values.iter().flatten().copied(), false)
    }
}

/// Follow and remove the links from an edge.
fn walk(links: &mut BTreeMap<GridEdge, Vec<GridEdge>>, start: GridEdge) -> Vec<GridEdge> {
    let mut line = vec![start];
    let mut at = start;
    while let Some(next) = links.get_mut(&at).and_then(Vec::pop) {
        if let Some(back) = links.get_mut(&next)
            && let Some(i) = back.iter().position(|e| *e == at)
        {
            back.swap_remove(i);
        }
        line.push(next);
        at = next;
    }
    line
}

fn refine(row: &[f64], times: usize) -> Vec<f64> {
    let get = |i: isize| usize::try_from(i).ok().and_then(|i| row.get(i)).copied().filter(|v| v.is_finite());
    let mut out = Vec::with_capacity(row.len() * times);
    for i in 0..row.len().saturating_sub(1) as isize {
        let (b, c) = (get(i).unwrap_or(f64::NAN), get(i + 1).unwrap_or(f64::NAN));
        let (a, d) = (get(i - 1).unwrap_or(2.0 * b - c), get(i + 2).unwrap_or(2.0 * c - b));
        for k in 0..times {
            let t = k as f64 / times as f64;
            let cubic = b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)));
            // A value next to a hole is kept.
            out.push(if k == 0 { b } else { cubic });
        }
    }
    out.extend(row.last());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(n: usize, f: impl Fn(f64, f64) -> f64) -> Field {
        let axis: Vec<f64> = (0..n).map(|i| -2.0 + 4.0 * i as f64 / (n - 1) as f64).collect();
        let values = axis.iter().map(|y| axis.iter().map(|x| f(*x, *y)).collect()).collect();
        Field { xs: axis.clone(), ys: axis, values }
    }

    fn area(line: &Isoline) -> f64 {
        line.windows(2).map(|w| w[0].0 * w[1].1 - w[1].0 * w[0].1).sum::<f64>().abs() / 2.0
    }

    #[test]
    fn a_circle_is_one_closed_loop_of_its_radius() {
        let bowl = field(41, |x, y| x * x + y * y);
        for level in [0.25, 1.0, 3.0] {
            let lines = bowl.isolines(level);
            assert_eq!(lines.len(), 1, "{level}");
            assert_eq!(lines[0].first(), lines[0].last());
            // Linear interpolation of a parabola between points h apart has an error of at most h^2 / 4.
            assert!(lines[0].iter().all(|(x, y)| (x * x + y * y - level).abs() <= 0.01 / 4.0 + 1e-12), "{level}");
            assert!((area(&lines[0]) / (std::f64::consts::PI * level) - 1.0).abs() < 0.02);
        }
        assert!(bowl.isolines(-1.0).is_empty() && bowl.isolines(100.0).is_empty());
    }

    #[test]
    fn refining_keeps_the_values_and_follows_the_function() {
        let f = |x: f64, y: f64| (1.3 * x).sin() + (0.7 * y).cos() * x;
        let coarse = field(15, f);
        let fine = coarse.refined(6);
        assert_eq!((fine.xs.len(), fine.ys.len(), fine.values.len()), (85, 85, 85));
        for (j, y) in fine.ys.iter().enumerate() {
            for (i, x) in fine.xs.iter().enumerate() {
                let error = (fine.values[j][i] - f(*x, *y)).abs();
                let exact = i % 6 == 0 && j % 6 == 0;
                assert!(error < if exact { 1e-12 } else { 0.02 }, "({x}, {y}): {error}");
            }
        }
        for line in fine.isolines(0.3) {
            assert!(line.iter().all(|(x, y)| (f(*x, *y) - 0.3).abs() < 0.02));
        }
    }

    /// Every point is on a grid edge with f = level by interpolation; a line ends at its start or at the border.
    #[test]
    fn lines_end_nowhere_inside() {
        let mut x = 0.123f64;
        for round in 0..50 {
            let mut noise = field(9, |_, _| 0.0);
            for v in noise.values.iter_mut().flatten() {
                x = (x * 991.7 + 0.317).fract();
                *v = x;
            }
            let border = |v: f64| (v.abs() - 2.0).abs() < 1e-12;
            for line in noise.isolines(0.5) {
                let (a, b) = (line[0], line[line.len() - 1]);
                let open = a != b;
                assert!(!open || [a, b].iter().all(|p| border(p.0) || border(p.1)), "round {round}: {a:?} to {b:?}");
            }
            // Regions are always closed, with f >= level inside: their area equals that of a fine sampling.
            let loops = noise.region(0.5);
            assert!(loops.iter().all(|l| l.first() == l.last()), "round {round}");
        }
    }

    #[test]
    fn a_region_reaches_the_border_and_leaves_holes_out() {
        let slope = field(21, |x, _| x);
        let half: f64 = slope.region(0.5).iter().map(area).sum();
        assert!((half - 1.5 * 4.0).abs() < 1e-9, "{half}");
        assert!((slope.region(-9.0).iter().map(area).sum::<f64>() - 16.0).abs() < 1e-9, "all of it");
        let mut holed = slope.clone();
        holed.values[10][15] = f64::NAN;
        assert!(holed.region(0.5).len() == 2 && holed.isolines(1.0).len() == 2, "a hole in the region, a gap in the line");
        assert!(holed.refined(4).values.iter().flatten().all(|v| v.is_nan() || v.abs() <= 2.0 + 1e-9));
    }
}

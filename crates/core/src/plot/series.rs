//! A series of a [`Chart`](super::Chart) and its style.

use super::color::Ink;
use super::frame::{LegendEntry, LegendKey};
use super::scene::{Axes, Point, Scene, Style};

/// The i-th of several distinguishable dash patterns: alternating lengths of dashes and gaps in pixels.
pub fn dash(i: usize) -> &'static [f64] {
    const DASHES: [&[f64]; 6] = [&[], &[6.0, 4.0], &[2.0, 3.0], &[10.0, 3.0, 2.0, 3.0], &[14.0, 5.0], &[1.0, 5.0]];
    DASHES[i % DASHES.len()]
}

/// Opacity of background lines.
pub(super) const PALE: f64 = 0.35;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Line,
    Scatter,
    Band,
}

/// Named points: a line, dots, or a band between two lines. Points that are not finite are gaps.
#[derive(Clone, Debug)]
pub struct Series {
    pub(super) name: String,
    kind: Kind,
    pub(super) points: Vec<(f64, f64)>,
    /// Lower and upper end for each point.
    pub(super) spread: Vec<(f64, f64)>,
    whiskers: bool,
    pub(super) color: Option<Ink>,
    dash: usize,
    marked: bool,
    pale: bool,
    window: usize,
}

impl Series {
    fn new(name: &str, kind: Kind, points: &[(f64, f64)]) -> Self {
        Self {
            name: name.into(),
            kind,
            points: points.to_vec(),
            spread: Vec::new(),
            whiskers: false,
            color: None,
            dash: 0,
            marked: false,
            pale: false,
            window: 0,
        }
    }

    /// A line through (x, y) in the given order. An empty name is omitted from the legend.
    pub fn line(name: &str, points: &[(f64, f64)]) -> Self {
        Self::new(name, Kind::Line, points)
    }

    /// Dots at (x, y).
    pub fn scatter(name: &str, points: &[(f64, f64)]) -> Self {
        Self::new(name, Kind::Scatter, points)
    }

    /// The area between (x, low, high).
    pub fn band(name: &str, edges: &[(f64, f64, f64)]) -> Self {
        let mut series = Self::new(name, Kind::Band, &edges.iter().map(|(x, lo, _)| (*x, *lo)).collect::<Vec<_>>());
        series.spread = edges.iter().map(|(_, lo, hi)| (*lo, *hi)).collect();
        series
    }

    /// A band around the line from (low, high) of each point.
    pub fn with_band(mut self, edges: &[(f64, f64)]) -> Self {
        self.spread = edges.to_vec();
        self
    }

    /// Error bars from (low, high) of each point.
    pub fn with_errors(mut self, ends: &[(f64, f64)]) -> Self {
        (self.spread, self.whiskers) = (ends.to_vec(), true);
        self
    }

    /// A dashed line.
    pub fn dashed(mut self) -> Self {
        self.dash = 1;
        self
    }

    /// The i-th of several dash patterns; 0 is a solid line.
    pub fn dashes(mut self, i: usize) -> Self {
        self.dash = i;
        self
    }

    /// Mark each point of the line with a dot.
    pub fn marked(mut self) -> Self {
        self.marked = true;
        self
    }

    /// A pale background line.
    pub fn pale(mut self) -> Self {
        self.pale = true;
        self
    }

    /// Draw the line pale, and in bold its mean over a centred window of this many points, which is shortened at both ends so that it does
    /// not lag.
    pub fn smoothed(mut self, window: usize) -> Self {
        self.window = window;
        self
    }

    /// The colour of the i-th series instead of the next free one, for related series.
    pub fn color(self, i: usize) -> Self {
        self.ink(Ink::Series(i))
    }

    /// This colour.
    pub fn ink(mut self, ink: Ink) -> Self {
        self.color = Some(ink);
        self
    }

    pub(super) fn entry(&self, ink: Ink) -> LegendEntry {
        let key = match self.kind {
            Kind::Line => LegendKey::Line { dash: self.dash, marked: self.marked, pale: self.pale },
            Kind::Scatter => LegendKey::Dot,
            Kind::Band => LegendKey::Swatch,
        };
        LegendEntry { name: self.name.clone(), ink, key }
    }

    /// Draw bands and raw lines, which are below others.
    pub(super) fn draw_below(&self, scene: &mut Scene, axes: &Axes, ink: Ink) {
        if !self.whiskers && !self.spread.is_empty() {
            for run in runs(
                self.points.iter().zip(&self.spread).map(|((x, _), (lo, hi))| [axes.x.at(*x), axes.y.at(*lo), axes.y.at(*hi)]),
            ) {
                scene.area(run.iter().map(|[x, lo, hi]| [(*x, *lo), (*x, *hi)]).collect(), Style::fill(ink, 0.18));
            }
        }
        if self.kind == Kind::Line && self.window > 1 {
            scene.path(thin(self.pixels(axes, &self.points), axes.area.w), Style::line(ink, 1.1).faint(PALE).round());
        }
    }

    /// Draw lines, error bars and dots.
    pub(super) fn draw(&self, scene: &mut Scene, axes: &Axes, ink: Ink) {
        if self.kind == Kind::Band {
            return;
        }
        let opacity = if self.pale { PALE } else { 1.0 };
        if self.whiskers {
            for ((x, _), (lo, hi)) in self.points.iter().zip(&self.spread) {
                whisker(scene, axes.x.at(*x), (axes.y.at(*lo), axes.y.at(*hi)), Style::line(ink, 1.3).faint(opacity));
            }
        }
        if self.kind == Kind::Line {
            let style = Style::line(ink, if self.pale { 1.2 } else { 2.2 }).dashed(dash(self.dash)).faint(opacity).round();
            scene.path(thin(self.pixels(axes, &self.smooth()), axes.area.w), style);
        }
        if self.marked || self.kind == Kind::Scatter || self.points.len() == 1 {
            let fill = if self.pale {
                PALE
            } else if self.kind == Kind::Scatter {
                0.75
            } else {
                1.0
            };
            let style = Style::fill(ink, fill).edged(Ink::PAPER, 0.8);
            for (x, y) in self.pixels(axes, &self.points).into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()) {
                scene.circle(x, y, 3.6, style);
            }
        }
    }

    /// Points about every six pixels along the drawn lines.
    pub(super) fn trace(&self, axes: &Axes) -> Vec<(f64, f64)> {
        let points = thin(self.pixels(axes, &self.smooth()), axes.area.w);
        let mut out = points.clone();
        if self.kind == Kind::Line {
            for pair in points.windows(2) {
                let [(ax, ay), (bx, by)] = [pair[0], pair[1]];
                let n = ((bx - ax).hypot(by - ay) / 6.0).min(400.0);
                out.extend((1..n as usize).map(|i| (ax + (bx - ax) * i as f64 / n, ay + (by - ay) * i as f64 / n)));
            }
        }
        out.retain(|(x, y)| x.is_finite() && y.is_finite());
        out
    }

    fn pixels(&self, axes: &Axes, points: &[Point]) -> Vec<Point> {
        points.iter().map(|(x, y)| (axes.x.at(*x), axes.y.at(*y))).collect()
    }

    fn smooth(&self) -> Vec<(f64, f64)> {
        let n = self.points.len();
        if self.window < 2 {
            return self.points.clone();
        }
        let mean = |i: usize| {
            let reach = (self.window / 2).min(i).min(n - 1 - i);
            let seen: Vec<f64> = self.points[i - reach..=i + reach].iter().map(|p| p.1).filter(|v| v.is_finite()).collect();
            // A gap remains a gap.
            if self.points[i].1.is_finite() { seen.iter().sum::<f64>() / seen.len() as f64 } else { f64::NAN }
        };
        (0..n).map(|i| (self.points[i].0, mean(i))).collect()
    }
}

/// An error bar.
pub(super) fn whisker(scene: &mut Scene, x: f64, (lo, hi): (f64, f64), style: Style) {
    if x.is_finite() && lo.is_finite() && hi.is_finite() {
        scene.line((x, lo), (x, hi), style);
        for y in [lo, hi] {
            scene.line((x - 3.5, y), (x + 3.5, y), style);
        }
    }
}

/// Segments without a gap.
fn runs(points: impl Iterator<Item = [f64; 3]>) -> Vec<Vec<[f64; 3]>> {
    let mut out: Vec<Vec<[f64; 3]>> = vec![Vec::new()];
    for p in points {
        if p.iter().all(|v| v.is_finite()) {
            if let Some(last) = out.last_mut() {
                last.push(p);
            }
        } else {
            out.push(Vec::new());
        }
    }
    out.retain(|run| run.len() > 1);
    out
}

/// Reduce a long line without visible change: for each half pixel the first, the lowest, the highest and the last point.
pub(super) fn thin(points: Vec<(f64, f64)>, width: f64) -> Vec<(f64, f64)> {
    if (points.len() as f64) < 8.0 * width {
        return points;
    }
    let column = |p: &(f64, f64)| if p.0.is_finite() && p.1.is_finite() { Some((p.0 * 2.0).floor() as i64) } else { None };
    let mut out = Vec::new();
    for chunk in points.chunk_by(|a, b| column(a) == column(b)) {
        let by_height = |a: &usize, b: &usize| chunk[*a].1.total_cmp(&chunk[*b].1);
        let mut keep = [0, chunk.len() - 1, 0, 0];
        keep[2] = (0..chunk.len()).min_by(by_height).unwrap_or(0);
        keep[3] = (0..chunk.len()).max_by(by_height).unwrap_or(0);
        keep.sort_unstable();
        out.extend(keep.iter().enumerate().filter(|(i, k)| *i == 0 || keep[i - 1] != **k).map(|(_, k)| chunk[*k]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_keep_their_extremes_and_gaps() {
        let mut points: Vec<(f64, f64)> = (0..50_000).map(|i| (f64::from(i) * 0.01, (f64::from(i) * 0.7).sin())).collect();
        points[20_000].1 = 9.0;
        points[30_000].1 = f64::NAN;
        let thinned = thin(points.clone(), 500.0);
        assert!(thinned.len() <= 4 * 1001 + 4, "{}", thinned.len());
        assert!(thinned.contains(&points[20_000]) && thinned.iter().any(|p| p.1.is_nan()));
        assert!(thinned.iter().filter(|p| p.1.is_finite()).collect::<Vec<_>>().windows(2).all(|w| w[0].0 <= w[1].0));
    }

    #[test]
    fn smoothing_does_not_lag() {
        let line: Vec<(f64, f64)> = (0..50).map(|i| (f64::from(i), 3.0 - 2.0 * f64::from(i))).collect();
        let smooth = Series::line("", &line).smoothed(9).smooth();
        assert!(line.iter().zip(&smooth).all(|(a, b)| (a.1 - b.1).abs() < 1e-9), "a straight line stays itself");
        let gap = Series::line("", &[(0.0, 1.0), (1.0, f64::NAN), (2.0, 1.0)]).smoothed(3).smooth();
        assert!(gap[1].1.is_nan() && gap[2].1 == 1.0);
    }
}

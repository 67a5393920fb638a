//! Lines and dots over two axes.

use super::color::Ink;
use super::frame::{Captions, GUIDE, LabelPlacer, axes, captions};
use super::scale::{AxisSpec, Values, extent};
use super::scene::{Anchor, Axes, Rect, Scene, Style, TextStyle};
use super::series::Series;

/// Lines, dots and bands over two axes, linear or logarithmic.
///
/// ```
/// use lehr_core::plot::{Chart, Series};
/// let raw = [(0.0, 4.1), (1e6, 1.9), (2e6, 1.7)];
/// let svg = Chart::new("Merging lowers the loss")
///     .x("tokens trained")
///     .y("validation loss (nats per token)")
///     .line("raw", &raw)
///     .add(Series::line("merged", &[(1e6, 1.8), (2e6, 1.6)]).with_band(&[(1.7, 1.9), (1.5, 1.7)]).marked())
///     .hline(1.55, "annealed")
///     .svg();
/// assert!(svg.starts_with("<svg"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Chart {
    pub(super) words: Captions,
    x: AxisSpec,
    y: AxisSpec,
    series: Vec<Series>,
    guides: Vec<(bool, f64, String)>,
    marks: Vec<(f64, f64, String)>,
}

super::builders!(Chart, x.label);

impl Chart {
    /// An empty chart with a title.
    pub fn new(title: &str) -> Self {
        Self { words: Captions { title: title.into(), ..Captions::default() }, ..Self::default() }
    }

    /// Logarithmic horizontal axis; values not above 0 are omitted.
    pub fn log_x(mut self) -> Self {
        self.x.log = true;
        self
    }

    /// Logarithmic vertical axis; values not above 0 are omitted.
    pub fn log_y(mut self) -> Self {
        self.y.log = true;
        self
    }

    /// Kind of values on the horizontal axis.
    pub fn x_values(mut self, values: Values) -> Self {
        self.x.values = values;
        self
    }

    /// Range of the horizontal axis.
    pub fn x_range(mut self, low: f64, high: f64) -> Self {
        self.x.range = Some((low, high));
        self
    }

    /// Range of the vertical axis; lines are clipped to it.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.y.range = Some((low, high));
        self
    }

    /// A line through (x, y).
    pub fn line(self, name: &str, points: &[(f64, f64)]) -> Self {
        self.add(Series::line(name, points))
    }

    /// A pale line through (x, y), and in bold its mean over a centred window of this many points.
    pub fn smoothed(self, name: &str, points: &[(f64, f64)], window: usize) -> Self {
        self.add(Series::line(name, points).smoothed(window))
    }

    /// Dots at (x, y).
    pub fn scatter(self, name: &str, points: &[(f64, f64)]) -> Self {
        self.add(Series::scatter(name, points))
    }

    /// The area between (x, low, high).
    pub fn band(self, name: &str, edges: &[(f64, f64, f64)]) -> Self {
        self.add(Series::band(name, edges))
    }

    /// Add a series.
    #[allow(clippy::should_implement_trait, reason = "a step of a builder; nothing is summed")]
    pub fn add(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// A dashed horizontal line with a label.
    pub fn hline(mut self, y: f64, label: &str) -> Self {
        self.guides.push((false, y, label.into()));
        self
    }

    /// A dashed vertical line with a label.
    pub fn vline(mut self, x: f64, label: &str) -> Self {
        self.guides.push((true, x, label.into()));
        self
    }

    /// A ring around (x, y) with a label.
    pub fn mark(mut self, x: f64, y: f64, label: &str) -> Self {
        self.marks.push((x, y, label.into()));
        self
    }

    fn inks(&self) -> Vec<Ink> {
        let mut next = 0;
        let mut pick = |series: &Series| {
            series.color.unwrap_or_else(|| {
                next += 1;
                Ink::Series(next - 1)
            })
        };
        self.series.iter().map(&mut pick).collect()
    }

    fn spans(&self) -> [(f64, f64); 2] {
        let points = || self.series.iter().flat_map(|s| s.points.iter().copied()).chain(self.marks.iter().map(|m| (m.0, m.1)));
        let guides = |upright: bool| self.guides.iter().filter(move |g| g.0 == upright).map(|g| g.1);
        let spreads = self.series.iter().flat_map(|s| s.spread.iter()).flat_map(|(lo, hi)| [*lo, *hi]);
        let x = self.x.span(extent(points().map(|p| p.0).chain(guides(true)), self.x.log), 0.015);
        // Points outside a given range do not affect the other axis.
        let seen = points().filter(|p| self.x.range.is_none() || (p.0 >= x.0 && p.0 <= x.1));
        let y = self.y.span(extent(seen.map(|p| p.1).chain(spreads).chain(guides(false)), self.y.log), 0.05);
        [x, y]
    }

    pub(super) fn draw(&self, scene: &mut Scene, at: &Rect, panel: bool) {
        let inks = self.inks();
        let legend: Vec<_> = self.series.iter().zip(&inks).map(|(s, ink)| s.entry(*ink)).collect();
        let inner = captions(scene, at, &self.words, &legend, panel);
        let [x, y] = self.spans();
        let axes = axes(scene, &inner, (&self.x, x), (&self.y, y));
        scene.clip(&axes.area);
        self.series.iter().zip(&inks).for_each(|(s, ink)| s.draw_below(scene, &axes, *ink));
        self.draw_guides(scene, &axes);
        self.series.iter().zip(&inks).for_each(|(s, ink)| s.draw(scene, &axes, *ink));
        scene.end_clip();
        self.write_labels(scene, &axes);
    }

    fn draw_guides(&self, scene: &mut Scene, axes: &Axes) {
        let area = &axes.area;
        for (upright, v, _) in &self.guides {
            let (x, y) = (axes.x.at(*v), axes.y.at(*v));
            if *upright && x.is_finite() {
                scene.line((x, area.y), (x, area.bottom()), GUIDE);
            } else if !*upright && y.is_finite() {
                scene.line((area.x, y), (area.right(), y), GUIDE);
            }
        }
    }

    fn write_labels(&self, scene: &mut Scene, axes: &Axes) {
        let area = axes.area;
        let dots = self.series.iter().flat_map(|s| s.trace(axes)).filter(|(x, y)| area.contains(*x, *y)).collect();
        let mut places = LabelPlacer::new(area.inset(2.0, 2.0, 2.0, 2.0), dots);
        for (x, y, label) in &self.marks {
            let (px, py) = (axes.x.at(*x), axes.y.at(*y));
            if area.contains(px, py) {
                scene.circle(px, py, 6.0, Style::line(Ink::Grey(0x1a), 1.8));
                places.take(Rect::new(px - 6.0, py - 6.0, 12.0, 12.0));
                places.write(scene, &LabelPlacer::around(px, py, 10.0), TextStyle::MARK, label);
            }
        }
        let kind = TextStyle { halo: true, ..TextStyle::TICK };
        for (upright, v, label) in &self.guides {
            if *upright {
                let x = axes.x.at(*v);
                let rows = (0..6).flat_map(|row| {
                    let y = area.y + 12.0 + f64::from(row) * kind.line();
                    [(x + 5.0, y, Anchor::Start), (x - 5.0, y, Anchor::End)]
                });
                if x >= area.x && x <= area.right() {
                    places.write(scene, &rows.collect::<Vec<_>>(), kind, label);
                }
            } else {
                let y = axes.y.at(*v);
                let spots =
                    [(area.right() - 4.0, Anchor::End), (area.x + 6.0, Anchor::Start), (area.x + area.w / 2.0, Anchor::Middle)];
                let candidates: Vec<_> = spots.iter().flat_map(|(x, a)| [(*x, y - 5.0, *a), (*x, y + 14.0, *a)]).collect();
                if y >= area.y && y <= area.bottom() {
                    places.write(scene, &candidates, kind, label);
                }
            }
        }
    }
}

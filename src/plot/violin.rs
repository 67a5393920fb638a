//! Violins: how numbers are spread, by group and series, with the box of their quartiles.

use super::color;
use super::frame::{Captions, Entry, Key};
use super::scale::{Axis, Scale, extent};
use super::slots::Slots;
use super::svg::{Anchor, Rect, Svg, Type, polyline};

/// Violins side by side: the width at a height is the density of the numbers there, the bar spans their middle half, the white line is
/// their median.
///
/// ```
/// use lehr::plot::Violins;
/// let svg = Violins::new("Change of probability", &["< 0.25", "> 0.75"])
///     .y("p after - p before")
///     .violins("all tokens updated", &[vec![-0.1, 0.0, 0.0, 0.1], vec![0.0, 0.01]])
///     .violins("improbable ones updated", &[vec![-0.1, 0.0, 0.1], vec![0.0, 0.01]])
///     .outliers(0.01)
///     .svg();
/// assert!(svg.contains("improbable ones updated"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Violins {
    pub(super) words: Captions,
    x: String,
    y: Axis,
    groups: Vec<String>,
    series: Vec<(String, Vec<Shape>)>,
    outliers: f64,
    line: Option<f64>,
}

super::builders!(Violins);

/// Ascending finite numbers of one violin.
#[derive(Clone, Debug, Default)]
struct Shape {
    sorted: Vec<f64>,
}

/// Places along a violin at which its width is computed.
const PLACES: usize = 72;
/// Cells that numbers are counted in first.
const CELLS: usize = 360;

impl Shape {
    fn quantile(&self, q: f64) -> f64 {
        let Some(last) = self.sorted.len().checked_sub(1) else { return f64::NAN };
        let at = q.clamp(0.0, 1.0) * last as f64;
        let (low, high) = (self.sorted[at.floor() as usize], self.sorted[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }

    /// (height, density, the largest being 1) from the lowest to the highest number that is not left out. A Gaussian kernel over counts;
    /// its width is Silverman's (0.9 min(s, IQR / 1.34) n^(-1/5)), but never below a place, so that it is drawn at all.
    fn outline(&self, outliers: f64) -> Vec<(f64, f64)> {
        let (low, high) = (self.quantile(outliers / 2.0), self.quantile(1.0 - outliers / 2.0));
        if !low.is_finite() || high <= low {
            return Vec::new();
        }
        let kept: Vec<f64> = self.sorted.iter().copied().filter(|v| *v >= low && *v <= high).collect();
        let n = kept.len() as f64;
        let mean = kept.iter().sum::<f64>() / n;
        let deviation = (kept.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        let box_ = (self.quantile(0.75) - self.quantile(0.25)) / 1.34;
        let spread = if box_ > 0.0 { box_.min(deviation) } else { deviation };
        let width = (0.9 * spread * n.powf(-0.2)).max((high - low) / PLACES as f64);
        let cell = (high - low) / CELLS as f64;
        let mut counts = vec![0.0f64; CELLS];
        for v in &kept {
            counts[(((v - low) / cell) as usize).min(CELLS - 1)] += 1.0;
        }
        let density = |y: f64| {
            let each = counts.iter().enumerate().filter(|(_, c)| **c > 0.0);
            each.map(|(i, c)| c * (-0.5 * ((y - low - cell * (i as f64 + 0.5)) / width).powi(2)).exp()).sum::<f64>()
        };
        let rows: Vec<(f64, f64)> =
            (0..=PLACES).map(|i| low + (high - low) * i as f64 / PLACES as f64).map(|y| (y, density(y))).collect();
        let most = rows.iter().map(|r| r.1).fold(0.0, f64::max);
        rows.into_iter().map(|(y, d)| (y, d / most)).collect()
    }
}

impl Violins {
    /// Empty groups with their names.
    pub fn new<S: AsRef<str>>(title: &str, groups: &[S]) -> Self {
        let groups = groups.iter().map(|g| g.as_ref().to_string()).collect();
        Self { words: Captions { title: title.into(), ..Captions::default() }, groups, ..Self::default() }
    }

    /// Name of the horizontal axis.
    pub fn x(mut self, label: &str) -> Self {
        self.x = label.into();
        self
    }

    /// Name of the vertical axis, with its unit.
    pub fn y(mut self, label: &str) -> Self {
        self.y.label = label.into();
        self
    }

    /// The numbers of each group; what is no number is left out, a group of none says so.
    pub fn violins(mut self, name: &str, groups: &[Vec<f64>]) -> Self {
        let shape = |values: &Vec<f64>| {
            let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
            sorted.sort_by(f64::total_cmp);
            Shape { sorted }
        };
        self.series.push((name.into(), groups.iter().map(shape).collect()));
        self
    }

    /// Leave out this part of the numbers, the most extreme of either side: say so in the footnote.
    pub fn outliers(mut self, part: f64) -> Self {
        self.outliers = part.clamp(0.0, 0.5);
        self
    }

    /// Show this part of the vertical axis; violins that leave it are cut.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.y.range = Some((low, high));
        self
    }

    /// A thin line across at a height.
    pub fn hline(mut self, y: f64) -> Self {
        self.line = Some(y);
        self
    }

    fn span(&self) -> (f64, f64) {
        let shapes = self.series.iter().flat_map(|s| &s.1);
        let ends = shapes.flat_map(|s| [s.quantile(self.outliers / 2.0), s.quantile(1.0 - self.outliers / 2.0)]);
        self.y.span(extent(ends.chain(self.line), false), 0.05)
    }

    pub(super) fn draw(&self, svg: &mut Svg, at: &Rect, panel: bool) {
        let entry =
            |(i, s): (usize, &(String, Vec<Shape>))| Entry { name: s.0.clone(), color: color::series(i), key: Key::Swatch };
        let legend: Vec<Entry> = self.series.iter().enumerate().map(entry).collect();
        let slots = Slots::open(svg, at, (&self.words, panel), &legend, (&self.x, &self.y, self.span()), &self.groups);
        let (area, scale) = (slots.area, slots.scale);
        svg.clip(&area);
        if let Some(y) = self.line.map(|y| scale.at(y)).filter(|y| y.is_finite()) {
            svg.line((area.x, y), (area.right(), y), r##"stroke="#555555" stroke-width="1.2" stroke-dasharray="5 4""##);
        }
        let empty = self.draw_shapes(svg, &area, &scale);
        svg.end_clip();
        for x in empty {
            svg.text(x, area.bottom() - 5.0, Anchor::Middle, Type::NOTE, "n/a");
        }
        slots.close(svg, area.bottom());
    }

    /// Draw all violins; where there was nothing to draw and room to say so.
    fn draw_shapes(&self, svg: &mut Svg, area: &Rect, scale: &Scale) -> Vec<f64> {
        let step = area.w / self.groups.len().max(1) as f64;
        let slot = (step * 0.84 / self.series.len().max(1) as f64).min(120.0);
        let mut empty = Vec::new();
        for (i, (_, shapes)) in self.series.iter().enumerate() {
            for (g, shape) in shapes.iter().enumerate().take(self.groups.len()) {
                let x = area.x + step * (g as f64 + 0.5) + slot * (i as f64 + 0.5 - self.series.len() as f64 / 2.0);
                if shape.sorted.is_empty() {
                    if slot > 26.0 {
                        empty.push(x);
                    }
                    continue;
                }
                draw_shape(svg, shape, (x, slot * 0.46), scale, (color::series(i), self.outliers));
            }
        }
        empty
    }
}

fn draw_shape(svg: &mut Svg, shape: &Shape, (x, half): (f64, f64), scale: &Scale, (color, outliers): (&str, f64)) {
    let outline = shape.outline(outliers);
    let right = outline.iter().map(|(y, d)| (x + half * d, scale.at(*y)));
    let left = outline.iter().rev().map(|(y, d)| (x - half * d, scale.at(*y)));
    if !outline.is_empty() {
        let style = format!(r#"fill="{color}" fill-opacity="0.4" stroke="{color}" stroke-width="1""#);
        svg.path(&(polyline(right.chain(left)) + "Z"), &style);
    }
    let [lower, median, upper] = [0.25, 0.5, 0.75].map(|q| scale.at(shape.quantile(q)));
    let bar = (half * 0.22).clamp(1.5, 6.0);
    svg.rect(&Rect::new(x - bar, upper, 2.0 * bar, (lower - upper).max(1.2)), &format!(r#"fill="{color}""#));
    svg.line((x - bar, median), (x + bar, median), r##"stroke="#ffffff" stroke-width="1.6""##);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn shape(values: impl Iterator<Item = f64>) -> Shape {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        Shape { sorted }
    }

    /// Of 20,000 normal numbers the outline is the normal density.
    #[test]
    fn outlines_are_densities() {
        let rng = Rng::new(1, "violin");
        let normal = shape((0..10_000).flat_map(|i| rng.normal_pair(0, i)).map(|v| 3.0 + 0.5 * v));
        let outline = normal.outline(0.01);
        assert_eq!(outline.len(), PLACES + 1);
        for (y, d) in &outline {
            let want = (-0.5 * ((y - 3.0) / 0.5).powi(2)).exp();
            assert!((d - want).abs() < 0.08, "{y}: {d}, not {want}");
        }
        // 0.5 % of a normal distribution lies beyond 2.576 deviations on either side.
        let ends = [outline[0].0, outline[PLACES].0];
        assert!((ends[0] - 1.712).abs() < 0.03 && (ends[1] - 4.288).abs() < 0.03, "{ends:?}");
    }

    #[test]
    fn two_heaps_have_two_bellies() {
        let heaps = shape((0..500).map(|i| f64::from(i % 2) * 10.0 + f64::from(i % 7) * 0.1));
        let outline = heaps.outline(0.0);
        let middle = outline.iter().find(|(y, _)| *y > 5.0).unwrap().1;
        assert!(middle < 0.2 && outline[1].1 > 0.4 && outline[PLACES - 1].1 > 0.4, "{outline:?}");
    }

    #[test]
    fn one_number_has_no_outline() {
        assert!(shape([2.0; 9].into_iter()).outline(0.01).is_empty());
        assert!(Shape::default().outline(0.0).is_empty());
    }
}

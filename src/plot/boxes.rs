//! Boxes of quantiles: where the middle of some numbers lies, and how far they reach.

use super::color;
use super::frame::{Captions, Entry, Key};
use super::scale::{Axis, Scale, extent};
use super::series::whisker;
use super::slots::Slots;
use super::svg::{Anchor, Rect, Svg, Type};

/// Five quantiles of some numbers, ascending; NaN where there were none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// Lower end of the whisker.
    pub least: f64,
    /// A quarter lies below.
    pub lower: f64,
    /// The middle.
    pub median: f64,
    /// A quarter lies above.
    pub upper: f64,
    /// Upper end of the whisker.
    pub most: f64,
}

/// Groups of boxes with whiskers side by side, one box a series.
///
/// ```
/// use lehr::plot::{Boxes, Quantiles};
/// let moved = Quantiles { least: -0.2, lower: -0.01, median: 0.0, upper: 0.02, most: 0.3 };
/// let svg = Boxes::new("Change of probability", &["< 0.25", "> 0.75"]).y("p after - p before").boxes("all", &[moved, moved]).svg();
/// assert!(svg.contains("&lt; 0.25"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Boxes {
    pub(super) words: Captions,
    x: String,
    y: Axis,
    groups: Vec<String>,
    series: Vec<(String, Vec<Quantiles>)>,
    line: Option<f64>,
}

super::builders!(Boxes);

impl Boxes {
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

    /// One box for each group.
    pub fn boxes(mut self, name: &str, groups: &[Quantiles]) -> Self {
        self.series.push((name.into(), groups.to_vec()));
        self
    }

    /// A dashed line across at a height.
    pub fn hline(mut self, y: f64) -> Self {
        self.line = Some(y);
        self
    }

    fn span(&self) -> (f64, f64) {
        let ends = self.series.iter().flat_map(|s| &s.1).flat_map(|q| [q.least, q.lower, q.median, q.upper, q.most]);
        self.y.span(extent(ends.chain(self.line), false), 0.05)
    }

    pub(super) fn draw(&self, svg: &mut Svg, at: &Rect, panel: bool) {
        let entry =
            |(i, s): (usize, &(String, Vec<Quantiles>))| Entry { name: s.0.clone(), color: color::series(i), key: Key::Swatch };
        let legend: Vec<Entry> = self.series.iter().enumerate().map(entry).collect();
        let slots = Slots::open(svg, at, (&self.words, panel), &legend, (&self.x, &self.y, self.span()), &self.groups);
        let (area, scale) = (slots.area, slots.scale);
        if let Some(y) = self.line.map(|y| scale.at(y)).filter(|y| y.is_finite()) {
            svg.line((area.x, y), (area.right(), y), r##"stroke="#555555" stroke-width="1.2" stroke-dasharray="5 4""##);
        }
        let step = area.w / self.groups.len().max(1) as f64;
        let slot = (step * 0.76 / self.series.len().max(1) as f64).min(72.0);
        for (i, (_, boxes)) in self.series.iter().enumerate() {
            for (g, quantiles) in boxes.iter().enumerate().take(self.groups.len()) {
                let x = area.x + step * (g as f64 + 0.5) + slot * (i as f64 + 0.5 - self.series.len() as f64 / 2.0);
                match quantiles.median.is_finite() {
                    true => draw_box(svg, quantiles, (x, slot * 0.36), &scale, color::series(i)),
                    false if slot > 26.0 => svg.text(x, area.bottom() - 5.0, Anchor::Middle, Type::NOTE, "n/a"),
                    false => {}
                }
            }
        }
        slots.close(svg, area.bottom());
    }
}

fn draw_box(svg: &mut Svg, q: &Quantiles, (x, half): (f64, f64), scale: &Scale, color: &str) {
    whisker(svg, x, (scale.at(q.least), scale.at(q.most)), &format!(r#"stroke="{color}" stroke-width="1.4""#));
    let (lower, median, upper) = (scale.at(q.lower), scale.at(q.median), scale.at(q.upper));
    if lower.is_finite() && upper.is_finite() {
        // A box of no height is still seen.
        let shape = Rect::new(x - half, upper, 2.0 * half, (lower - upper).max(1.6));
        svg.rect(&shape, r##"fill="#ffffff""##);
        svg.rect(&shape, &format!(r#"fill="{color}" fill-opacity="0.45" stroke="{color}" stroke-width="1.2""#));
    }
    svg.line((x - half, median), (x + half, median), &format!(r#"stroke="{color}" stroke-width="2.6""#));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_where_its_quantiles_are() {
        let q = Quantiles { least: 0.0, lower: 1.0, median: 2.0, upper: 3.0, most: 4.0 };
        let none = Quantiles { least: f64::NAN, lower: f64::NAN, median: f64::NAN, upper: f64::NAN, most: f64::NAN };
        let boxes = Boxes::new("t", &["a", "b"]).boxes("s", &[q, none]);
        let svg = boxes.svg();
        assert_eq!(svg.matches("fill-opacity=\"0.45\"").count(), 1);
        assert!(svg.contains(">n/a<"));
        // The span has a margin of a twentieth: 4.4 high; the box is 2 of it.
        let height = |marker: &str| -> f64 {
            let at = svg.find(marker).unwrap();
            let rect = &svg[svg[..at].rfind("<rect").unwrap()..at];
            rect.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        let mut canvas = Svg::new(760.0, 440.0, "");
        let words = (&boxes.words, false);
        let slots =
            Slots::open(&mut canvas, &Rect::new(0.0, 0.0, 760.0, 440.0), words, &[], ("", &boxes.y, boxes.span()), &boxes.groups);
        assert!((height("fill-opacity=\"0.45\"") - slots.area.h * 2.0 / 4.4).abs() < 0.1);
    }
}

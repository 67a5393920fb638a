//! Violin plots: distributions by group and series, with a box of quartiles; box plots where only quantiles are known.

use super::color::Ink;
use super::frame::{Captions, GUIDE, LegendEntry, LegendKey};
use super::scale::{AxisSpec, Scale, extent};
use super::scene::{Anchor, Rect, Region, Scene, Style, TextStyle};
use super::series::whisker;
use super::slots::SlotFrame;
use crate::number_format::number;
use crate::stats::quantile_of_sorted;

/// Five quantiles of some numbers, ascending; NaN if there are none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// Lower end of the whisker.
    pub least: f64,
    /// First quartile.
    pub lower: f64,
    /// Median.
    pub median: f64,
    /// Third quartile.
    pub upper: f64,
    /// Upper end of the whisker.
    pub most: f64,
}

/// A histogram with bins of equal width.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Lower end of the first bin.
    pub low: f64,
    /// Upper end of the last bin.
    pub high: f64,
    /// Count of each bin.
    pub counts: Vec<f64>,
}

/// Violins side by side: the width at a height is the density of the numbers there, the bar spans the interquartile range, the white line
/// is the median. If only quantiles are known, a box plot.
///
/// ```
/// use lehr_core::plot::Violins;
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
    y: AxisSpec,
    groups: Vec<String>,
    series: Vec<ViolinSeries>,
    outliers: f64,
    line: Option<f64>,
    notes: Vec<String>,
}

super::builders!(Violins, x);

#[derive(Clone, Debug)]
struct ViolinSeries {
    name: String,
    ink: Ink,
    spreads: Vec<Distribution>,
}

/// The known distribution of a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// All numbers, finite and ascending.
    Numbers(Vec<f64>),
    /// A histogram.
    Cells(Histogram),
    /// Quantiles only, drawn as a box plot.
    Box(Quantiles),
}

/// Points along a violin at which its width is computed.
const PLACES: usize = 72;
/// Bins for the initial histogram.
const CELLS: usize = 360;

impl Histogram {
    /// Several distributions combined; numbers of a bin are assumed to be uniform within it.
    pub fn pooled(parts: &[Self]) -> Self {
        let drawn = || parts.iter().filter(|p| p.high > p.low && p.counts.iter().sum::<f64>() > 0.0);
        let (low, high) = drawn().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), p| (a.min(p.low), b.max(p.high)));
        let mut counts = vec![0.0; if high > low { CELLS } else { 0 }];
        let cell = (high - low) / CELLS as f64;
        for part in drawn() {
            let width = (part.high - part.low) / part.counts.len() as f64;
            for (i, count) in part.counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
                let (from, to) = ((part.low + width * i as f64 - low) / cell, (part.low + width * (i + 1) as f64 - low) / cell);
                for (k, sum) in counts.iter_mut().enumerate().take((to.ceil() as usize).min(CELLS)).skip(from as usize) {
                    let shared = to.min((k + 1) as f64) - from.max(k as f64);
                    *sum += count * shared.max(0.0) / (to - from);
                }
            }
        }
        Self { low, high, counts }
    }

    fn total(&self) -> f64 {
        self.counts.iter().sum()
    }

    fn cell(&self) -> f64 {
        (self.high - self.low) / self.counts.len() as f64
    }

    fn middle(&self, i: usize) -> f64 {
        self.low + self.cell() * (i as f64 + 0.5)
    }

    /// The quantile `q`.
    fn quantile(&self, q: f64) -> f64 {
        let mut left = q * self.total();
        for (i, count) in self.counts.iter().enumerate() {
            if left <= *count && *count > 0.0 {
                return self.low + self.cell() * (i as f64 + left / count);
            }
            left -= count;
        }
        self.high
    }

    /// (height, density relative to the maximum) along the violin. A Gaussian kernel over the counts; its width is Silverman's
    /// (0.9 min(s, IQR / 1.34) n^(-1/5)), but at least the distance of points, so that it is visible.
    fn outline(&self, middle_half: f64) -> Vec<(f64, f64)> {
        let n = self.total();
        if self.high <= self.low || n <= 0.0 {
            return Vec::new();
        }
        let each = || self.counts.iter().enumerate().filter(|(_, c)| **c > 0.0).map(|(i, c)| (self.middle(i), *c));
        let mean = each().map(|(v, c)| v * c).sum::<f64>() / n;
        let deviation = (each().map(|(v, c)| c * (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        let box_ = middle_half / 1.34;
        let spread = if box_ > 0.0 { box_.min(deviation) } else { deviation };
        let width = (0.9 * spread * n.powf(-0.2)).max((self.high - self.low) / PLACES as f64);
        let density = |y: f64| each().map(|(v, c)| c * (-0.5 * ((y - v) / width).powi(2)).exp()).sum::<f64>();
        let rows: Vec<(f64, f64)> =
            (0..=PLACES).map(|i| self.low + (self.high - self.low) * i as f64 / PLACES as f64).map(|y| (y, density(y))).collect();
        let most = rows.iter().map(|r| r.1).fold(0.0, f64::max);
        rows.into_iter().map(|(y, d)| (y, d / most)).collect()
    }
}

impl Distribution {
    /// Quantiles; the ends exclude a share of the numbers, the most extreme on each side.
    fn quantiles(&self, outliers: f64) -> Quantiles {
        let at = |q: f64| match self {
            Self::Numbers(sorted) => quantile_of_sorted(sorted, q),
            // Its ends are already cut.
            Self::Cells(cells) if cells.total() > 0.0 => cells.quantile(q),
            _ => f64::NAN,
        };
        match self {
            Self::Box(quantiles) => *quantiles,
            Self::Cells(_) => Quantiles { least: at(0.0), lower: at(0.25), median: at(0.5), upper: at(0.75), most: at(1.0) },
            Self::Numbers(_) => Quantiles {
                least: at(outliers / 2.0),
                lower: at(0.25),
                median: at(0.5),
                upper: at(0.75),
                most: at(1.0 - outliers / 2.0),
            },
        }
    }

    fn outline(&self, outliers: f64) -> Vec<(f64, f64)> {
        let q = self.quantiles(outliers);
        match self {
            Self::Box(_) => Vec::new(),
            Self::Cells(cells) => cells.outline(q.upper - q.lower),
            Self::Numbers(sorted) => counted(sorted, q.least, q.most).outline(q.upper - q.lower),
        }
    }
}

/// Histogram of the numbers between two ends.
fn counted(values: &[f64], low: f64, high: f64) -> Histogram {
    let mut out = Histogram { low, high, counts: vec![0.0; CELLS] };
    let cell = out.cell();
    for v in values.iter().filter(|v| **v >= low && **v <= high && cell > 0.0) {
        out.counts[(((v - low) / cell) as usize).min(CELLS - 1)] += 1.0;
    }
    out
}

impl Violins {
    /// An empty chart with the names of its groups.
    pub fn new<S: AsRef<str>>(title: &str, groups: &[S]) -> Self {
        let groups = groups.iter().map(|g| g.as_ref().to_string()).collect();
        Self { words: Captions { title: title.into(), ..Captions::default() }, groups, ..Self::default() }
    }

    /// The distribution of each group.
    pub fn spreads(mut self, name: &str, spreads: Vec<Distribution>) -> Self {
        let ink = Ink::Series(self.series.len());
        self.series.push(ViolinSeries { name: name.into(), ink, spreads });
        self
    }

    /// The numbers of each group; NaN is omitted, an empty group is labelled as such.
    pub fn violins(self, name: &str, groups: &[Vec<f64>]) -> Self {
        let of = |values: &Vec<f64>| {
            let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
            sorted.sort_by(f64::total_cmp);
            Distribution::Numbers(sorted)
        };
        self.spreads(name, groups.iter().map(of).collect())
    }

    /// Give the last added series the colour of the i-th series.
    pub fn color(mut self, i: usize) -> Self {
        if let Some(last) = self.series.last_mut() {
            last.ink = Ink::Series(i);
        }
        self
    }

    /// Tooltip text of each group besides its quantiles.
    pub fn notes(mut self, notes: Vec<String>) -> Self {
        self.notes = notes;
        self
    }

    /// Omit this share of the numbers, the most extreme on each side; mention it in the footnote.
    pub fn outliers(mut self, part: f64) -> Self {
        self.outliers = part.clamp(0.0, 0.5);
        self
    }

    /// Range of the vertical axis; violins are clipped to it.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.y.range = Some((low, high));
        self
    }

    /// A dashed horizontal line.
    pub fn hline(mut self, y: f64) -> Self {
        self.line = Some(y);
        self
    }

    fn span(&self) -> (f64, f64) {
        let quantiles = self.series.iter().flat_map(|s| &s.spreads).map(|s| s.quantiles(self.outliers));
        let ends = quantiles.flat_map(|q| [q.least, q.lower, q.median, q.upper, q.most]);
        self.y.span(extent(ends.chain(self.line), false), 0.05)
    }

    pub(super) fn draw(&self, scene: &mut Scene, at: &Rect, panel: bool) {
        let legend: Vec<LegendEntry> =
            self.series.iter().map(|s| LegendEntry { name: s.name.clone(), ink: s.ink, key: LegendKey::Swatch }).collect();
        let slots = SlotFrame::open(scene, at, (&self.words, panel), &legend, (&self.x, &self.y, self.span()), &self.groups);
        let (area, scale) = (slots.area, slots.scale);
        scene.clip(&area);
        if let Some(y) = self.line.map(|y| scale.at(y)).filter(|y| y.is_finite()) {
            scene.line((area.x, y), (area.right(), y), GUIDE);
        }
        let empty = self.draw_spreads(scene, &area, &scale);
        scene.end_clip();
        for x in empty {
            scene.text(x, area.bottom() - 5.0, Anchor::Middle, TextStyle::NOTE, "n/a");
        }
        slots.close(scene, area.bottom());
        for (g, name) in self.groups.iter().enumerate() {
            let named = self.series.iter().filter_map(|s| {
                let q = s.spreads.get(g)?.quantiles(self.outliers);
                let [least, lower, median, upper, most] = [q.least, q.lower, q.median, q.upper, q.most].map(number);
                q.median
                    .is_finite()
                    .then(|| format!("{}: {median} median, {lower} and {upper} quarters, {least} least, {most} most", s.name))
            });
            let lines = [format!("{} {name}", self.x).trim().to_owned()]
                .into_iter()
                .chain(self.notes.get(g).cloned())
                .chain(named)
                .collect();
            scene.regions.push(Region { at: slots.column(g, self.groups.len()), lines });
        }
    }

    /// Draw all; returns the positions of empty groups, for a note.
    fn draw_spreads(&self, scene: &mut Scene, area: &Rect, scale: &Scale) -> Vec<f64> {
        let step = area.w / self.groups.len().max(1) as f64;
        let slot = (step * 0.84 / self.series.len().max(1) as f64).min(120.0);
        let mut empty = Vec::new();
        for (i, series) in self.series.iter().enumerate() {
            for (g, spread) in series.spreads.iter().enumerate().take(self.groups.len()) {
                let x = area.x + step * (g as f64 + 0.5) + slot * (i as f64 + 0.5 - self.series.len() as f64 / 2.0);
                let q = spread.quantiles(self.outliers);
                match (q.median.is_finite(), spread) {
                    (false, _) if slot > 26.0 => empty.push(x),
                    (false, _) => {}
                    (true, Distribution::Box(q)) => draw_box(scene, q, (x, (slot * 0.36).min(26.0)), scale, series.ink),
                    (true, _) => draw_violin(scene, (&q, &spread.outline(self.outliers)), (x, slot * 0.46), scale, series.ink),
                }
            }
        }
        empty
    }
}

fn draw_violin(scene: &mut Scene, (q, outline): (&Quantiles, &[(f64, f64)]), (x, half): (f64, f64), scale: &Scale, ink: Ink) {
    if !outline.is_empty() {
        let pairs = outline.iter().map(|(y, d)| [(x + half * d, scale.at(*y)), (x - half * d, scale.at(*y))]);
        scene.area(pairs.collect(), Style::fill(ink, 0.4).edged(ink, 1.0));
    }
    let [lower, median, upper] = [q.lower, q.median, q.upper].map(|v| scale.at(v));
    let bar = (half * 0.22).clamp(1.5, 6.0);
    scene.rect(&Rect::new(x - bar, upper, 2.0 * bar, (lower - upper).max(1.2)), Style::fill(ink, 1.0));
    scene.line((x - bar, median), (x + bar, median), Style::line(Ink::PAPER, 1.6));
}

fn draw_box(scene: &mut Scene, q: &Quantiles, (x, half): (f64, f64), scale: &Scale, ink: Ink) {
    whisker(scene, x, (scale.at(q.least), scale.at(q.most)), Style::line(ink, 1.4));
    let (lower, median, upper) = (scale.at(q.lower), scale.at(q.median), scale.at(q.upper));
    if lower.is_finite() && upper.is_finite() {
        // A box without height is still visible.
        let shape = Rect::new(x - half, upper, 2.0 * half, (lower - upper).max(1.6));
        scene.rect(&shape, Style::fill(Ink::PAPER, 1.0));
        scene.rect(&shape, Style::fill(ink, 0.45).edged(ink, 1.2));
    }
    scene.line((x - half, median), (x + half, median), Style::line(ink, 2.6));
}

#[cfg(test)]
mod tests {
    use super::super::scene::Shape;
    use super::*;
    use crate::rng::Rng;

    fn spread(values: impl Iterator<Item = f64>) -> Distribution {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        Distribution::Numbers(sorted)
    }

    /// For 20,000 normal numbers the outline is the normal density.
    #[test]
    fn outlines_are_densities() {
        let rng = Rng::new(1, "violin");
        let normal = spread((0..10_000).flat_map(|i| rng.normal_pair(0, i)).map(|v| 3.0 + 0.5 * v));
        let outline = normal.outline(0.01);
        assert_eq!(outline.len(), PLACES + 1);
        for (y, d) in &outline {
            let want = (-0.5 * ((y - 3.0) / 0.5).powi(2)).exp();
            assert!((d - want).abs() < 0.08, "{y}: {d}, not {want}");
        }
        // 0.5 % of a normal distribution is beyond 2.576 deviations on each side.
        let ends = [outline[0].0, outline[PLACES].0];
        assert!((ends[0] - 1.712).abs() < 0.03 && (ends[1] - 4.288).abs() < 0.03, "{ends:?}");
    }

    /// Histograms of two steps with different ends, combined, give the violin of all their numbers.
    #[test]
    fn pooled_counts_are_those_of_all_numbers() {
        let rng = Rng::new(2, "violin");
        let numbers = |from: u64| -> Vec<f64> {
            (from..from + 4000)
                .flat_map(|i| rng.normal_pair(0, i))
                .map(|v| if from > 0 { 1.0 + 0.3 * v } else { 0.5 * v })
                .collect()
        };
        let (a, b) = (numbers(0), numbers(5000));
        let coarse = |values: &[f64], low: f64, high: f64| {
            let mut counts = vec![0.0; 40];
            for v in values.iter().filter(|v| (low..high).contains(*v)) {
                counts[((v - low) / (high - low) * 40.0) as usize] += 1.0;
            }
            Histogram { low, high, counts }
        };
        let parts = [coarse(&a, -1.6, 1.6), coarse(&b, 0.1, 1.9)];
        let pooled = Histogram::pooled(&parts);
        assert!((pooled.total() - parts[0].total() - parts[1].total()).abs() < 1e-6);
        assert_eq!((pooled.low, pooled.high), (-1.6, 1.9));
        let exact = spread(a.into_iter().chain(b));
        let (from_counts, from_numbers) = (Distribution::Cells(pooled).quantiles(0.0), exact.quantiles(0.0));
        for (x, y) in [from_counts.lower, from_counts.median, from_counts.upper].iter().zip([
            from_numbers.lower,
            from_numbers.median,
            from_numbers.upper,
        ]) {
            assert!((x - y).abs() < 0.02, "{from_counts:?} {from_numbers:?}");
        }
        assert!(Histogram::pooled(&[]).outline(0.0).is_empty());
    }

    #[test]
    fn two_heaps_have_two_bellies() {
        let heaps = spread((0..500).map(|i| f64::from(i % 2) * 10.0 + f64::from(i % 7) * 0.1));
        let outline = heaps.outline(0.0);
        let middle = outline.iter().find(|(y, _)| *y > 5.0).unwrap().1;
        assert!(middle < 0.2 && outline[1].1 > 0.4 && outline[PLACES - 1].1 > 0.4, "{outline:?}");
    }

    #[test]
    fn one_number_has_no_outline() {
        assert!(spread([2.0; 9].into_iter()).outline(0.01).is_empty());
        assert!(Distribution::Numbers(Vec::new()).outline(0.0).is_empty());
    }

    #[test]
    fn a_box_is_where_its_quantiles_are() {
        let q = Quantiles { least: 0.0, lower: 1.0, median: 2.0, upper: 3.0, most: 4.0 };
        let none = Quantiles { least: f64::NAN, lower: f64::NAN, median: f64::NAN, upper: f64::NAN, most: f64::NAN };
        let scene = super::super::Figure::from(
            Violins::new("t", &["a", "b"]).spreads("s", vec![Distribution::Box(q), Distribution::Box(none)]),
        )
        .scene();
        let boxes: Vec<&Rect> = scene
            .shapes
            .iter()
            .filter_map(|shape| match shape {
                Shape::Rect(at, style) if style.fill == Some((Ink::Series(0), 0.45)) => Some(at),
                _ => None,
            })
            .collect();
        assert_eq!(boxes.len(), 1, "{boxes:?}");
        assert!(scene.shapes.iter().any(|s| matches!(s, Shape::Text { text, .. } if text == "n/a")));
        // The range has a margin of a twentieth at each end: 4.4 high; the box is 2 of it, relative to the height of the groups' regions.
        assert!((boxes[0].h - scene.regions[0].at.h * 2.0 / 4.4).abs() < 0.1, "{boxes:?} {:?}", scene.regions[0].at);
        assert_eq!(scene.regions[0].lines, ["a", "s: 2 median, 1 and 3 quarters, 0 least, 4 most"]);
    }
}

//! Grouped bars with error bars and values.

use super::color::Ink;
use super::frame::{Captions, GUIDE, LegendEntry, LegendKey};
use super::scale::{AxisSpec, Scale, Values, extent, is_integer, value};
use super::scene::{Anchor, Rect, Region, Scene, Style, TextStyle};
use super::series::whisker;
use super::slots::SlotFrame;

/// Groups of bars side by side, one bar per series, with error bars and values.
///
/// ```
/// use lehr_core::plot::Bars;
/// let svg = Bars::new("Loss by method", &["N = 3", "N = 10"])
///     .y("validation loss (nats per token)")
///     .bars("sma", &[1.62, 1.58])
///     .bars_with_errors("ema", &[1.63, 1.60], &[(1.61, 1.65), (1.58, 1.62)])
///     .svg();
/// assert!(svg.contains("1.62"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Bars {
    pub(super) words: Captions,
    x: String,
    y: AxisSpec,
    groups: Vec<String>,
    series: Vec<BarSeries>,
    digits: Option<usize>,
    zero: bool,
    line: Option<(f64, String)>,
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct BarSeries {
    name: String,
    ink: Ink,
    values: Vec<f64>,
    errors: Vec<(f64, f64)>,
}

super::builders!(Bars, x);

impl Bars {
    /// An empty chart with the names of its groups.
    pub fn new<S: AsRef<str>>(title: &str, groups: &[S]) -> Self {
        let groups = groups.iter().map(|g| g.as_ref().to_string()).collect();
        Self { words: Captions { title: title.into(), ..Captions::default() }, groups, zero: true, ..Self::default() }
    }

    /// One value per group; NaN leaves a labelled gap.
    pub fn bars(self, name: &str, values: &[f64]) -> Self {
        self.bars_with_errors(name, values, &[])
    }

    /// One value and its (low, high) per group.
    pub fn bars_with_errors(mut self, name: &str, values: &[f64], errors: &[(f64, f64)]) -> Self {
        let ink = Ink::Series(self.series.len());
        self.series.push(BarSeries { name: name.into(), ink, values: values.to_vec(), errors: errors.to_vec() });
        self
    }

    /// Give the last added bars the colour of the i-th series, to keep colours consistent between charts.
    pub fn color(mut self, i: usize) -> Self {
        if let Some(last) = self.series.last_mut() {
            last.ink = Ink::Series(i);
        }
        self
    }

    /// Values are shares, shown in percent.
    pub fn shares(mut self) -> Self {
        self.y.values = Values::Shares;
        self
    }

    /// Tooltip text of each group besides its values, such as its size.
    pub fn notes(mut self, notes: Vec<String>) -> Self {
        self.notes = notes;
        self
    }

    /// Number of decimals of the values; by default enough to distinguish them, if they fit.
    pub fn digits(mut self, digits: usize) -> Self {
        self.digits = Some(digits);
        self
    }

    /// Bars need not start at 0, for values that differ little; the axis shows where it is cut.
    pub fn from_any(mut self) -> Self {
        self.zero = false;
        self
    }

    /// Show this part of the vertical axis.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        (self.y.range, self.zero) = (Some((low, high)), false);
        self
    }

    /// A dashed horizontal line with a label.
    pub fn hline(mut self, y: f64, label: &str) -> Self {
        self.line = Some((y, label.into()));
        self
    }

    fn span(&self) -> (f64, f64) {
        let values = self.series.iter().flat_map(|s| s.values.iter().copied());
        let ends = self.series.iter().flat_map(|s| s.errors.iter()).flat_map(|(lo, hi)| [*lo, *hi]);
        let zero = self.zero.then_some(0.0);
        let (lo, hi) = self.y.span(extent(values.chain(ends).chain(zero).chain(self.line.as_ref().map(|l| l.0)), false), 0.1);
        // Bars that start at 0 stand on the axis.
        let flat = self.zero && self.y.range.is_none();
        let data = extent(self.series.iter().flat_map(|s| s.values.iter().chain(s.errors.iter().map(|e| &e.0))).copied(), false);
        if flat && data.is_some_and(|d| d.0 >= 0.0) { (0.0, hi) } else { (lo, hi) }
    }

    pub(super) fn draw(&self, scene: &mut Scene, at: &Rect, panel: bool) {
        let legend: Vec<LegendEntry> =
            self.series.iter().map(|s| LegendEntry { name: s.name.clone(), ink: s.ink, key: LegendKey::Swatch }).collect();
        let slots = SlotFrame::open(scene, at, (&self.words, panel), &legend, (&self.x, &self.y, self.span()), &self.groups);
        let (area, scale) = (slots.area, slots.scale);
        self.draw_bars(scene, &area, &scale);
        let digits = self.digits.unwrap_or_else(|| self.enough_digits()) + 1;
        for (g, name) in self.groups.iter().enumerate() {
            let values = self.series.iter().filter_map(|s| Some((s, s.values.get(g).filter(|v| v.is_finite())?)));
            let values = values.map(|(s, v)| {
                if s.name.is_empty() { self.word(*v, digits) } else { format!("{}: {}", s.name, self.word(*v, digits)) }
            });
            let lines = [format!("{} {name}", self.x).trim().to_owned()]
                .into_iter()
                .chain(self.notes.get(g).cloned())
                .chain(values)
                .collect();
            scene.regions.push(Region { at: slots.column(g, self.groups.len()), lines });
        }
        slots.close(scene, scale.at(0.0).clamp(area.y, area.bottom()));
    }

    fn draw_bars(&self, scene: &mut Scene, area: &Rect, scale: &Scale) {
        let step = area.w / self.groups.len().max(1) as f64;
        let bar = (step * 0.8 / self.series.len().max(1) as f64).min(64.0);
        let digits = self.digits.unwrap_or_else(|| self.enough_digits());
        let floor = scale.at(0.0).clamp(area.y, area.bottom());
        // Values that would overlap are omitted; the axis shows them.
        let widest = self
            .series
            .iter()
            .flat_map(|s| s.values.iter())
            .map(|v| TextStyle::NOTE.width(&self.word(*v, digits)))
            .fold(0.0, f64::max);
        let room = if self.series.len() == 1 { step } else { bar };
        for (i, series) in self.series.iter().enumerate() {
            for (g, v) in series.values.iter().enumerate().take(self.groups.len()) {
                let left = area.x + step * (g as f64 + 0.5) + bar * (i as f64 - self.series.len() as f64 / 2.0);
                let mid = left + bar / 2.0;
                if !v.is_finite() {
                    scene.text(mid, floor - 5.0, Anchor::Middle, TextStyle::NOTE, if bar > 14.0 { "n/a" } else { "×" });
                    continue;
                }
                let top = scale.at(*v).clamp(area.y, area.bottom());
                let shape = Rect::new(left + bar * 0.04, top.min(floor), bar * 0.92, (top - floor).abs());
                scene.rect(&shape, Style::fill(series.ink, 0.85));
                let (mut high, mut low) = (top, top);
                if let Some((lo, hi)) = series.errors.get(g) {
                    let ends = (scale.at(*lo).clamp(area.y, area.bottom()), scale.at(*hi).clamp(area.y, area.bottom()));
                    whisker(scene, mid, ends, Style::line(Ink::Grey(0x22), 1.2));
                    (high, low) = (top.min(ends.1), top.max(ends.0));
                }
                if widest + 1.0 <= room {
                    let y = if top > floor { low + 11.0 } else { high - 4.0 };
                    scene.text(
                        mid,
                        y,
                        Anchor::Middle,
                        TextStyle { halo: true, ..TextStyle::NOTE.colored(Ink::Grey(0x33)) },
                        &self.word(*v, digits),
                    );
                }
            }
        }
        if let Some((v, label)) = &self.line {
            let y = scale.at(*v);
            scene.line((area.x, y), (area.right(), y), GUIDE);
            scene.text(area.right() - 4.0, y - 5.0, Anchor::End, TextStyle { halo: true, ..TextStyle::TICK }, label);
        }
    }

    fn word(&self, v: f64, digits: usize) -> String {
        match self.y.values {
            Values::Shares => format!("{} %", value(100.0 * v, digits)),
            _ => value(v, digits),
        }
    }

    /// Decimals for three significant digits of the spread of the values; none for shares.
    fn enough_digits(&self) -> usize {
        match self.y.values {
            Values::Shares => 0,
            _ => digits_for(self.series.iter().flat_map(|s| s.values.iter().copied())),
        }
    }
}

/// Decimals that resolve a hundredth of the spread of these values, or fewer if they are exact.
pub(super) fn digits_for(values: impl Iterator<Item = f64>) -> usize {
    let values: Vec<f64> = values.collect();
    let Some((lo, hi)) = extent(values.iter().copied(), false) else { return 0 };
    let spread = if hi > lo { hi - lo } else { hi.abs() };
    let enough = if spread <= 0.0 { 0 } else { (2.0 - spread.log10().floor()).clamp(0.0, 6.0) as usize };
    (0..enough).find(|p| values.iter().all(|v| !v.is_finite() || is_integer(v * 10f64.powi(*p as i32)))).unwrap_or(enough)
}

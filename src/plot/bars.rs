//! Grouped bars with error bars and values.

use super::color;
use super::frame::{AXIS, Captions, Entry, GRID, Key, captions, foot, side, x_name, y_name, y_ticks};
use super::scale::{Axis, Scale, extent, value, whole};
use super::series::whisker;
use super::svg::{Anchor, Rect, Svg, Type};
use super::text::{shorten, visible};

/// Groups of bars side by side, one bar a series, with error bars and values.
///
/// ```
/// use lehr::plot::Bars;
/// let svg = Bars::new("Loss by method", &["N = 3", "N = 10"])
///     .y("validation loss (nats a token)")
///     .bars("sma", &[1.62, 1.58])
///     .bars_with_errors("ema", &[1.63, 1.60], &[(1.61, 1.65), (1.58, 1.62)])
///     .svg();
/// assert!(svg.contains("1.62"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Bars {
    pub(super) words: Captions,
    x: String,
    y: Axis,
    groups: Vec<String>,
    series: Vec<Group>,
    digits: Option<usize>,
    zero: bool,
    line: Option<(f64, String)>,
}

#[derive(Clone, Debug)]
struct Group {
    name: String,
    values: Vec<f64>,
    errors: Vec<(f64, f64)>,
}

super::builders!(Bars);

impl Bars {
    /// Empty groups with their names.
    pub fn new<S: AsRef<str>>(title: &str, groups: &[S]) -> Self {
        let groups = groups.iter().map(|g| g.as_ref().to_string()).collect();
        Self { words: Captions { title: title.into(), ..Captions::default() }, groups, zero: true, ..Self::default() }
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

    /// One value for each group; what is no number leaves a gap that says so.
    pub fn bars(self, name: &str, values: &[f64]) -> Self {
        self.bars_with_errors(name, values, &[])
    }

    /// One value and its (low, high) for each group.
    pub fn bars_with_errors(mut self, name: &str, values: &[f64], errors: &[(f64, f64)]) -> Self {
        self.series.push(Group { name: name.into(), values: values.to_vec(), errors: errors.to_vec() });
        self
    }

    /// Write the values with so many decimals; without it as many as tell them apart, where there is room.
    pub fn digits(mut self, digits: usize) -> Self {
        self.digits = Some(digits);
        self
    }

    /// Bars that need not begin at 0, for values that differ little: the axis says where it is cut.
    pub fn from_any(mut self) -> Self {
        self.zero = false;
        self
    }

    /// Show this part of the vertical axis.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        (self.y.range, self.zero) = (Some((low, high)), false);
        self
    }

    /// A dashed line across at a height, with its name.
    pub fn hline(mut self, y: f64, label: &str) -> Self {
        self.line = Some((y, label.into()));
        self
    }

    fn span(&self) -> (f64, f64) {
        let values = self.series.iter().flat_map(|s| s.values.iter().copied());
        let ends = self.series.iter().flat_map(|s| s.errors.iter()).flat_map(|(lo, hi)| [*lo, *hi]);
        let zero = self.zero.then_some(0.0);
        let (lo, hi) = self.y.span(extent(values.chain(ends).chain(zero).chain(self.line.as_ref().map(|l| l.0)), false), 0.1);
        // Bars that grow from 0 stand on the axis.
        let flat = self.zero && self.y.range.is_none();
        let data = extent(self.series.iter().flat_map(|s| s.values.iter().chain(s.errors.iter().map(|e| &e.0))).copied(), false);
        if flat && data.is_some_and(|d| d.0 >= 0.0) { (0.0, hi) } else { (lo, hi) }
    }

    pub(super) fn draw(&self, svg: &mut Svg, at: &Rect, panel: bool) {
        let legend: Vec<Entry> = self
            .series
            .iter()
            .enumerate()
            .map(|(i, s)| Entry { name: s.name.clone(), color: color::series(i), key: Key::Swatch })
            .collect();
        let inner = captions(svg, at, &self.words, if legend.len() > 1 { &legend } else { &[] }, panel);
        let names = Names::new(&self.groups, inner.w - 60.0);
        let bottom = foot(&self.x) + names.height - Type::TICK.size;
        let height = (inner.h - bottom - 8.0).max(1.0);
        let scale = Scale::new(false, self.span(), (inner.y + 8.0 + height, inner.y + 8.0));
        let ticks = y_ticks(&scale, height);
        let left = side(ticks.major.iter().map(|(_, l)| l.as_str()), &self.y.label).max(names.overhang);
        let area = Rect::new(inner.x + left, inner.y + 8.0, (inner.w - left - 6.0).max(1.0), height);
        for (v, label) in &ticks.major {
            svg.line((area.x, scale.at(*v)), (area.right(), scale.at(*v)), GRID);
            svg.text(area.x - 7.0, scale.at(*v) + Type::TICK.size * 0.35, Anchor::End, Type::TICK, label);
        }
        self.draw_bars(svg, &area, &scale);
        svg.line((area.x, area.y), (area.x, area.bottom()), AXIS);
        let floor = scale.at(0.0).clamp(area.y, area.bottom());
        svg.line((area.x, floor), (area.right(), floor), AXIS);
        names.draw(svg, &area);
        x_name(svg, &area, &self.x, bottom - 3.0);
        y_name(svg, inner.x, &area, &self.y.label);
    }

    fn draw_bars(&self, svg: &mut Svg, area: &Rect, scale: &Scale) {
        let step = area.w / self.groups.len().max(1) as f64;
        let bar = (step * 0.8 / self.series.len().max(1) as f64).min(64.0);
        let digits = self.digits.unwrap_or_else(|| self.enough_digits());
        let floor = scale.at(0.0).clamp(area.y, area.bottom());
        // Where values would run into each other they are left out: the axis has them.
        let widest =
            self.series.iter().flat_map(|s| s.values.iter()).map(|v| Type::NOTE.width(&value(*v, digits))).fold(0.0, f64::max);
        let room = if self.series.len() == 1 { step } else { bar };
        for (i, series) in self.series.iter().enumerate() {
            for (g, v) in series.values.iter().enumerate().take(self.groups.len()) {
                let left = area.x + step * (g as f64 + 0.5) + bar * (i as f64 - self.series.len() as f64 / 2.0);
                let mid = left + bar / 2.0;
                if !v.is_finite() {
                    svg.text(mid, floor - 5.0, Anchor::Middle, Type::NOTE, if bar > 14.0 { "n/a" } else { "×" });
                    continue;
                }
                let top = scale.at(*v).clamp(area.y, area.bottom());
                let shape = Rect::new(left + bar * 0.04, top.min(floor), bar * 0.92, (top - floor).abs());
                svg.rect(&shape, &format!(r#"fill="{}" fill-opacity="0.85""#, color::series(i)));
                let (mut high, mut low) = (top, top);
                if let Some((lo, hi)) = series.errors.get(g) {
                    let ends = (scale.at(*lo).clamp(area.y, area.bottom()), scale.at(*hi).clamp(area.y, area.bottom()));
                    whisker(svg, mid, ends, r##"stroke="#222222" stroke-width="1.2""##);
                    (high, low) = (top.min(ends.1), top.max(ends.0));
                }
                if widest + 1.0 <= room {
                    let y = if top > floor { low + 11.0 } else { high - 4.0 };
                    svg.text(mid, y, Anchor::Middle, Type { halo: true, ..Type::NOTE.colored("#333333") }, &value(*v, digits));
                }
            }
        }
        if let Some((v, label)) = &self.line {
            let y = scale.at(*v);
            svg.line((area.x, y), (area.right(), y), r##"stroke="#555555" stroke-width="1.2" stroke-dasharray="5 4""##);
            svg.text(area.right() - 4.0, y - 5.0, Anchor::End, Type { halo: true, ..Type::TICK }, label);
        }
    }

    /// So many that three digits of the spread of the values are seen.
    fn enough_digits(&self) -> usize {
        digits_for(self.series.iter().flat_map(|s| s.values.iter().copied()))
    }
}

/// Decimals that show a hundredth of the spread of these values, or the values whole where that takes fewer.
pub(super) fn digits_for(values: impl Iterator<Item = f64>) -> usize {
    let values: Vec<f64> = values.collect();
    let Some((lo, hi)) = extent(values.iter().copied(), false) else { return 0 };
    let spread = if hi > lo { hi - lo } else { hi.abs() };
    let enough = if spread <= 0.0 { 0 } else { (2.0 - spread.log10().floor()).clamp(0.0, 6.0) as usize };
    (0..enough).find(|p| values.iter().all(|v| !v.is_finite() || whole(v * 10f64.powi(*p as i32)))).unwrap_or(enough)
}

/// Names below categories: side by side where they fit, aslant where not.
pub(super) struct Names {
    names: Vec<String>,
    aslant: bool,
    /// One of so many is written.
    every: usize,
    /// Pixels that they need below the axis.
    pub height: f64,
    /// Pixels that the first one needs left of the area.
    pub overhang: f64,
}

const SLANT: f64 = 35.0;

impl Names {
    /// For an area of about this width.
    pub fn new(names: &[String], width: f64) -> Self {
        let step = width / names.len().max(1) as f64;
        let names: Vec<String> = names.iter().map(|n| shorten(&visible(n), Type::TICK.size, 170.0)).collect();
        let widest = names.iter().map(|n| Type::TICK.width(n)).fold(0.0, f64::max);
        let aslant = widest + 8.0 > step;
        let (sin, cos) = SLANT.to_radians().sin_cos();
        let height = if aslant { widest * sin + Type::TICK.size } else { Type::TICK.size };
        let overhang = if aslant { names.first().map_or(0.0, |n| Type::TICK.width(n) * cos - step / 2.0) } else { 0.0 };
        let every = if aslant { (1.3 * Type::TICK.size / step).ceil().max(1.0) as usize } else { 1 };
        Self { names, aslant, every, height, overhang: overhang.max(0.0) + if aslant { 6.0 } else { 0.0 } }
    }

    pub fn draw(&self, svg: &mut Svg, area: &Rect) {
        let step = area.w / self.names.len().max(1) as f64;
        for (i, name) in self.names.iter().enumerate().step_by(self.every) {
            let x = area.x + step * (i as f64 + 0.5);
            let y = area.bottom() + 7.0 + Type::TICK.size * 0.85;
            if self.aslant {
                svg.turned(x + 4.0, y, -SLANT, Anchor::End, Type::TICK, name);
            } else {
                svg.text(x, y, Anchor::Middle, Type::TICK, name);
            }
        }
    }
}

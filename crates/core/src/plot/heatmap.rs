//! A table of numbers as coloured cells.

use super::bars::digits_for;
use super::color::{Ink, Ramp};
use super::frame::{AXIS, Captions, captions, foot, left_margin, x_name, y_name};
use super::scale::{Scale, Values, extent, numbers, value};
use super::scene::{Anchor, Rect, Scene, Style, TextStyle};
use super::slots::CategoryNames;
use super::text::{shorten, visible};

/// Rows and columns of numbers as coloured cells, with a colour bar and, if they fit, the numbers themselves.
///
/// ```
/// use lehr_core::plot::Heatmap;
/// let svg = Heatmap::new("Loss after merging", &["50", "100"], &["3", "6", "10"])
///     .x("checkpoints N")
///     .y("interval V (updates)")
///     .bar("validation loss (nats)")
///     .values(&[vec![1.62, 1.60, 1.59], vec![1.61, 1.58, f64::NAN]])
///     .highlight(1, 1)
///     .svg();
/// assert!(svg.contains("1.58"));
/// ```
#[derive(Clone, Debug)]
pub struct Heatmap {
    pub(super) words: Captions,
    x: String,
    y: String,
    bar: String,
    rows: Vec<String>,
    columns: Vec<String>,
    values: Vec<Vec<f64>>,
    range: Option<(f64, f64)>,
    ramp: Ramp,
    digits: Option<usize>,
    best: Option<(usize, usize)>,
}

super::builders!(Heatmap);

impl Heatmap {
    /// An empty table with row names, from the top, and column names.
    pub fn new<S: AsRef<str>>(title: &str, rows: &[S], columns: &[S]) -> Self {
        let names = |list: &[S]| list.iter().map(|s| s.as_ref().to_string()).collect::<Vec<_>>();
        Self {
            words: Captions { title: title.into(), ..Captions::default() },
            x: String::new(),
            y: String::new(),
            bar: String::new(),
            rows: names(rows),
            columns: names(columns),
            values: Vec::new(),
            range: None,
            ramp: Ramp::Sequential,
            digits: None,
            best: None,
        }
    }

    /// Label of the columns.
    pub fn x(mut self, label: &str) -> Self {
        self.x = label.into();
        self
    }

    /// Label of the rows.
    pub fn y(mut self, label: &str) -> Self {
        self.y = label.into();
        self
    }

    /// Label of the colour bar, with the unit.
    pub fn bar(mut self, label: &str) -> Self {
        self.bar = label.into();
        self
    }

    /// The numbers by row; NaN is an empty cell.
    pub fn values(mut self, rows: &[Vec<f64>]) -> Self {
        self.values = rows.to_vec();
        self
    }

    /// Range of the colours, instead of the range of the numbers.
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    /// Diverging colours around 0: blue below, orange above.
    pub fn diverging(mut self) -> Self {
        self.ramp = Ramp::Diverging;
        self
    }

    /// Decimals of the numbers in the cells.
    pub fn digits(mut self, digits: usize) -> Self {
        self.digits = Some(digits);
        self
    }

    /// Frame a cell.
    pub fn highlight(mut self, row: usize, column: usize) -> Self {
        self.best = Some((row, column));
        self
    }

    fn all(&self) -> impl Iterator<Item = f64> {
        self.values.iter().flatten().copied()
    }

    fn span(&self) -> (f64, f64) {
        let (lo, hi) = self.range.or_else(|| extent(self.all(), false)).unwrap_or((0.0, 1.0));
        if self.ramp == Ramp::Diverging {
            let most = lo.abs().max(hi.abs());
            return if most > 0.0 { (-most, most) } else { (-1.0, 1.0) };
        }
        if hi > lo { (lo, hi) } else { (lo - 0.5, hi + 0.5) }
    }

    pub(super) fn draw(&self, scene: &mut Scene, at: &Rect, panel: bool) {
        let inner = captions(scene, at, &self.words, &[], panel);
        let (lo, hi) = self.span();
        let digits = self.digits.unwrap_or_else(|| digits_for(self.all()));
        let colors = ColorBar::smooth((lo, hi), self.ramp, &self.bar);
        let rows: Vec<String> = self.rows.iter().map(|r| shorten(&visible(r), TextStyle::TICK.size, inner.w * 0.3)).collect();
        let names = CategoryNames::new(&self.columns, inner.w - colors.width() - 60.0);
        let left = left_margin(rows.iter().map(String::as_str), &self.y).max(names.overhang);
        let bottom = foot(&self.x) + names.height - TextStyle::TICK.size;
        let area = inner.inset(left, 4.0, colors.width() + 4.0, bottom);
        let (w, h) = (area.w / self.columns.len().max(1) as f64, area.h / self.rows.len().max(1) as f64);
        // One font size for all cells; no text if a number does not fit.
        let widest = |kind: &TextStyle| self.all().map(|v| kind.width(&value(v, digits))).fold(0.0, f64::max);
        let kind = [TextStyle::TICK, TextStyle { halo: false, ..TextStyle::LEVEL }]
            .into_iter()
            .find(|k| widest(k) + 4.0 <= w && h > 15.0);
        let every = (1.1 * TextStyle::TICK.size / h).ceil() as usize;
        for (i, name) in rows.iter().enumerate() {
            let y = area.y + h * (i as f64 + 0.5);
            if i.is_multiple_of(every) {
                scene.text(area.x - 7.0, y + TextStyle::TICK.size * 0.35, Anchor::End, TextStyle::TICK, name);
            }
            for j in 0..self.columns.len() {
                let cell = Rect::new(area.x + w * j as f64, area.y + h * i as f64, w, h);
                let v = self.values.get(i).and_then(|row| row.get(j)).copied().unwrap_or(f64::NAN);
                self.draw_cell(scene, &cell, (v - lo) / (hi - lo), kind, &value(v, digits));
            }
        }
        if let Some((i, j)) = self.best.filter(|(i, j)| *i < self.rows.len() && *j < self.columns.len()) {
            let cell = Rect::new(area.x + w * j as f64, area.y + h * i as f64, w, h).inset(1.5, 1.5, 1.5, 1.5);
            scene.rect(&cell, Style::line(Ink::PAPER, 5.0));
            scene.rect(&cell, Style::line(Ink::Grey(0x11), 2.5));
        }
        names.draw(scene, &area);
        x_name(scene, &area, &self.x, bottom - 3.0);
        y_name(scene, inner.x, &area, &self.y);
        colors.draw(scene, &Rect::new(area.right() + 16.0, area.y, 14.0, area.h));
    }

    /// `t` is the position on the colour ramp, NaN for a missing number.
    fn draw_cell(&self, scene: &mut Scene, cell: &Rect, t: f64, kind: Option<TextStyle>, text: &str) {
        let (x, y) = (cell.x + cell.w / 2.0, cell.y + cell.h / 2.0);
        let (fill, ink, text) = if t.is_finite() {
            (Ink::Ramp(self.ramp, t), self.ramp.ink(t), text)
        } else {
            (Ink::Grey(0xf3), Ink::Grey(0x8a), "none")
        };
        scene.rect(cell, Style::fill(fill, 1.0).edged(Ink::PAPER, 1.0));
        if let Some(kind) = kind.filter(|k| k.width(text) + 4.0 <= cell.w) {
            scene.text(x, y + kind.size * 0.35, Anchor::Middle, kind.colored(ink), text);
        }
    }
}

/// A vertical colour bar next to a chart.
pub(super) struct ColorBar<'a> {
    ramp: Ramp,
    label: &'a str,
    /// Colours of the bands, from below.
    colors: Vec<f64>,
    /// Height (0 to 1) and label of each tick.
    ticks: Vec<(f64, String)>,
}

impl<'a> ColorBar<'a> {
    /// A continuous colour bar over the span.
    pub fn smooth(span: (f64, f64), ramp: Ramp, label: &'a str) -> Self {
        let ticks = Scale::new(false, span, (0.0, 1.0)).ticks(Values::Numbers, 6).major;
        let place = |v: f64| (v - span.0) / (span.1 - span.0);
        let colors = (0..64).map(|i| (f64::from(i) + 0.5) / 64.0).collect();
        Self { ramp, label, colors, ticks: ticks.into_iter().map(|(v, text)| (place(v), text)).collect() }
    }

    /// One colour between adjacent levels, in bands of equal height.
    pub fn bands(levels: &[f64], ramp: Ramp, label: &'a str) -> Self {
        let n = levels.len() + 1;
        let every = levels.len().div_ceil(9).max(1);
        let chosen = levels.iter().zip(numbers(levels)).enumerate().filter(|(i, _)| (i + 1).is_multiple_of(every));
        let ticks = chosen.map(|(i, (_, text))| ((i + 1) as f64 / n as f64, text)).collect();
        Self { ramp, label, colors: (0..n).map(|i| band(i, n)).collect(), ticks }
    }

    /// Pixels from the chart's right edge.
    pub fn width(&self) -> f64 {
        16.0 + 14.0 + 8.0 + self.widest() + if self.label.is_empty() { 2.0 } else { TextStyle::LABEL.line() + 4.0 }
    }

    fn widest(&self) -> f64 {
        self.ticks.iter().map(|(_, l)| TextStyle::TICK.width(l)).fold(0.0, f64::max)
    }

    pub fn draw(&self, scene: &mut Scene, bar: &Rect) {
        let h = bar.h / self.colors.len() as f64;
        for (i, t) in self.colors.iter().enumerate() {
            // Slight overlap, to avoid visible seams.
            let more = if i > 0 { 0.6 } else { 0.0 };
            let cell = Rect::new(bar.x, bar.bottom() - h * (i + 1) as f64, bar.w, h + more);
            scene.rect(&cell, Style::fill(Ink::Ramp(self.ramp, *t), 1.0));
        }
        scene.rect(bar, AXIS);
        for (t, label) in &self.ticks {
            let y = bar.bottom() - bar.h * t;
            scene.line((bar.right(), y), (bar.right() + 3.0, y), AXIS);
            let baseline = (y + TextStyle::TICK.size * 0.35).clamp(bar.y + TextStyle::TICK.size * 0.6, bar.bottom() + 2.0);
            scene.text(bar.right() + 6.0, baseline, Anchor::Start, TextStyle::TICK, label);
        }
        let text = shorten(&visible(self.label), TextStyle::LABEL.size, bar.h + 30.0);
        let x = bar.right() + 8.0 + self.widest() + TextStyle::LABEL.line() - 3.0;
        scene.rotated_text(x, bar.y + bar.h / 2.0, -90.0, Anchor::Middle, TextStyle::LABEL, &text);
    }
}

/// Colour of the i-th of n bands.
pub(super) fn band(i: usize, n: usize) -> f64 {
    if n > 1 { i as f64 / (n - 1) as f64 } else { 0.5 }
}

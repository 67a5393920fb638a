//! Parts common to all charts: captions, legend, axes, and label placement without overlaps.

use super::color::Ink;
use super::scale::{AxisSpec, Scale};
use super::scene::{Anchor, Axes, Rect, Scene, Style, TextStyle};
use super::text::{visible, wrap};

/// Texts around a chart, and its size.
#[derive(Clone, Debug, Default)]
pub(super) struct Captions {
    pub title: String,
    pub subtitle: String,
    pub footnote: String,
    pub size: Option<(f64, f64)>,
    pub untitled: bool,
    pub no_legend: bool,
}

/// Legend symbol of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LegendKey {
    /// `dash` is an index into the dash patterns.
    Line {
        dash: usize,
        marked: bool,
        pale: bool,
    },
    Dot,
    Swatch,
}

/// An entry of a legend.
#[derive(Clone, Debug)]
pub(super) struct LegendEntry {
    pub name: String,
    pub ink: Ink,
    pub key: LegendKey,
}

/// Margin around a whole chart, and around one in a page that has its title, or in a panel.
const MARGIN: f64 = 14.0;
const INNER_MARGIN: f64 = 6.0;
const KEY: f64 = 22.0;

/// Draw captions and legend; returns the remaining area. A panel has smaller captions than a separate chart.
pub(super) fn captions(scene: &mut Scene, outer: &Rect, words: &Captions, legend: &[LegendEntry], panel: bool) -> Rect {
    let margin = if panel || words.untitled { INNER_MARGIN } else { MARGIN };
    let inner = outer.inset(margin, margin, margin, margin);
    let mut y = inner.y;
    // Small charts have no space for long texts; their `title` element has the full text.
    let allowed = if outer.h < 300.0 { 1 } else { 2 };
    let title = if panel { TextStyle::PANEL } else { TextStyle::TITLE };
    for (text, kind) in [(&words.title, title), (&words.subtitle, TextStyle::SUBTITLE)] {
        if words.untitled && std::ptr::eq(text, &words.title) {
            continue;
        }
        for line in wrap(&visible(text), kind.size * if kind.bold { 1.1 } else { 1.0 }, inner.w, allowed) {
            scene.text(inner.x, y + kind.size * 0.85, Anchor::Start, kind, &line);
            y += kind.line();
        }
    }
    if y > inner.y {
        y += 4.0;
    }
    y = draw_legend(scene, &inner, y, if words.no_legend { &[] } else { legend });
    let mut bottom = inner.bottom();
    let notes = wrap(&visible(&words.footnote), TextStyle::NOTE.size, inner.w, allowed + 1);
    bottom -= notes.len() as f64 * TextStyle::NOTE.line();
    for (i, line) in notes.iter().enumerate() {
        scene.text(inner.x, bottom + TextStyle::NOTE.line() * (i as f64 + 0.8), Anchor::Start, TextStyle::NOTE, line);
    }
    if !notes.is_empty() {
        bottom -= 6.0;
    }
    Rect::new(inner.x, y, inner.w, (bottom - y).max(1.0))
}

fn draw_legend(scene: &mut Scene, inner: &Rect, top: f64, legend: &[LegendEntry]) -> f64 {
    let (mut x, mut y) = (inner.x, top);
    let kind = TextStyle::LABEL;
    for entry in legend.iter().filter(|e| !e.name.is_empty()) {
        let name = super::text::shorten(&visible(&entry.name), kind.size, inner.w - KEY - 8.0);
        let w = KEY + 6.0 + kind.width(&name) + 18.0;
        if x > inner.x && x + w - 18.0 > inner.right() {
            (x, y) = (inner.x, y + kind.line() + 2.0);
        }
        let mid = y + kind.size * 0.55;
        draw_key(scene, x, mid, entry);
        scene.text(x + KEY + 6.0, y + kind.size * 0.9, Anchor::Start, kind, &name);
        x += w;
    }
    if x > inner.x { y + kind.line() + 4.0 } else { top }
}

fn draw_key(scene: &mut Scene, x: f64, y: f64, entry: &LegendEntry) {
    let ink = entry.ink;
    match entry.key {
        LegendKey::Line { dash, marked, pale } => {
            let line =
                Style::line(ink, 2.2).dashed(super::series::dash(dash)).faint(if pale { super::series::PALE } else { 1.0 });
            scene.line((x, y), (x + KEY, y), line);
            if marked {
                scene.circle(x + KEY / 2.0, y, 3.2, Style::fill(ink, 1.0));
            }
        }
        LegendKey::Dot => scene.circle(x + KEY / 2.0, y, 4.0, Style::fill(ink, 0.8)),
        LegendKey::Swatch => scene.rect(&Rect::new(x + 4.0, y - 6.0, KEY - 8.0, 12.0), Style::fill(ink, 1.0)),
    }
}

pub(super) const GRID: Style = hairline(Ink::Grey(0xe8));
pub(super) const AXIS: Style = hairline(Ink::Grey(0x8a));
/// A dashed line for a level or a moment.
pub(super) const GUIDE: Style = Style { width: 1.2, dash: &[5.0, 4.0], ..hairline(Ink::Grey(0x55)) };

const fn hairline(ink: Ink) -> Style {
    Style { fill: None, stroke: Some((ink, 1.0)), width: 1.0, dash: &[], round: false }
}

/// Pixels to the right of the data, for half of the last label.
const BESIDE: f64 = 22.0;

/// Height below the data: tick labels and the axis label.
pub(super) fn foot(label: &str) -> f64 {
    8.0 + TextStyle::TICK.size + if label.is_empty() { 4.0 } else { 8.0 + TextStyle::LABEL.size }
}

/// Width left of the data: these tick labels and the axis label.
pub(super) fn left_margin<'a>(labels: impl Iterator<Item = &'a str>, label: &str) -> f64 {
    let widest = labels.map(|l| TextStyle::TICK.width(l)).fold(0.0, f64::max);
    widest + 10.0 + if label.is_empty() { 0.0 } else { TextStyle::LABEL.line() + 2.0 }
}

/// The label of the vertical axis, rotated; shortened to the length of the axis.
pub(super) fn y_name(scene: &mut Scene, left: f64, area: &Rect, label: &str) {
    let kind = TextStyle::LABEL;
    let text = super::text::shorten(&visible(label), kind.size, area.h + 12.0);
    // Kept inside the canvas.
    scene.rotated_text(left + kind.size * 0.8, area.y + area.h / 2.0, -90.0, Anchor::Middle, kind, &text);
}

/// The label of the horizontal axis, below the tick labels.
pub(super) fn x_name(scene: &mut Scene, area: &Rect, label: &str, below: f64) {
    let text = super::text::shorten(&visible(label), TextStyle::LABEL.size, area.w + 40.0);
    scene.text(area.x + area.w / 2.0, area.bottom() + below, Anchor::Middle, TextStyle::LABEL, &text);
}

/// Draw grid, axes, tick labels and axis labels into `at`.
pub(super) fn axes(scene: &mut Scene, at: &Rect, x: (&AxisSpec, (f64, f64)), y: (&AxisSpec, (f64, f64))) -> Axes {
    let bottom = foot(&x.0.label);
    let height = (at.h - bottom - 6.0).max(1.0);
    let y_scale = |top: f64| Scale::new(y.0.log, y.1, (top + height, top));
    let marks = y_scale(at.y).column(y.0.values);
    let left = left_margin(marks.major.iter().map(|(_, l)| l.as_str()), &y.0.label);
    let area = Rect::new(at.x + left, at.y + 6.0, (at.w - left - BESIDE).max(1.0), height);
    let (xs, ys) = (Scale::new(x.0.log, x.1, (area.x, area.right())), y_scale(area.y));
    for (v, label) in &marks.major {
        let at = ys.at(*v);
        scene.line((area.x, at), (area.right(), at), GRID);
        scene.text(area.x - 7.0, at + TextStyle::TICK.size * 0.35, Anchor::End, TextStyle::TICK, label);
    }
    let columns = xs.row(x.0.values, BESIDE, |label| TextStyle::TICK.width(label));
    for (v, label) in &columns.major {
        let at = xs.at(*v);
        scene.line((at, area.y), (at, area.bottom()), GRID);
        scene.line((at, area.bottom()), (at, area.bottom() + 4.0), AXIS);
        let half = TextStyle::TICK.width(label) / 2.0;
        let shown = at.max(area.x - left + half.min(left));
        scene.text(shown, area.bottom() + 7.0 + TextStyle::TICK.size * 0.85, Anchor::Middle, TextStyle::TICK, label);
    }
    for v in &columns.minor {
        scene.line((xs.at(*v), area.bottom()), (xs.at(*v), area.bottom() + 2.5), AXIS);
    }
    for v in &marks.minor {
        scene.line((area.x - 2.5, ys.at(*v)), (area.x, ys.at(*v)), AXIS);
    }
    scene.line((area.x, area.bottom()), (area.right(), area.bottom()), AXIS);
    scene.line((area.x, area.y), (area.x, area.bottom()), AXIS);
    x_name(scene, &area, &x.0.label, foot(&x.0.label) - 3.0);
    y_name(scene, at.x, &area, &y.0.label);
    let axes = Axes { area, x: xs, y: ys };
    scene.axes = Some(axes);
    axes
}

/// Places labels without overlaps.
pub(super) struct LabelPlacer {
    area: Rect,
    taken: Vec<Rect>,
    dots: Vec<(f64, f64)>,
}

impl LabelPlacer {
    /// Labels are placed in `area`; `dots` are points on lines that they should not cover.
    pub fn new(area: Rect, dots: Vec<(f64, f64)>) -> Self {
        Self { area, taken: Vec::new(), dots }
    }

    /// Reserve a rectangle.
    pub fn take(&mut self, r: Rect) {
        self.taken.push(r);
    }

    /// Cost of a position; 0 is ideal.
    pub fn cost(&self, r: &Rect) -> f64 {
        let outside = r.w * r.h - r.overlap(&self.area);
        let covered: f64 = self.taken.iter().map(|t| t.overlap(r)).sum();
        let dots = self.dots.iter().filter(|(x, y)| r.contains(*x, *y)).count();
        outside * 10.0 + covered * 3.0 + dots as f64 * 8.0
    }

    /// Write a label at the best of the candidates, (x, baseline, anchor) in order of preference.
    pub fn write(&mut self, scene: &mut Scene, candidates: &[(f64, f64, Anchor)], kind: TextStyle, text: &str) {
        let text = visible(text);
        let boxes = candidates.iter().map(|(x, y, anchor)| kind.bounds(*x, *y, *anchor, &text));
        let costs: Vec<f64> = boxes.enumerate().map(|(i, r)| self.cost(&r) + i as f64 * 0.5).collect();
        let best = (0..costs.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b]));
        if let Some((x, y, anchor)) = best.map(|i| candidates[i]) {
            let r = kind.bounds(x, y, anchor, &text);
            // Moved inside if no candidate fits.
            let dx = (self.area.x - r.x).max(0.0) - (r.right() - self.area.right()).max(0.0);
            let dy = (self.area.y - r.y).max(0.0) - (r.bottom() - self.area.bottom()).max(0.0);
            scene.text(x + dx, y + dy, anchor, kind, &text);
            self.take(Rect::new(r.x + dx, r.y + dy, r.w, r.h));
        }
    }

    /// Label positions for a point at (x, y): beside, above, below, then further away.
    pub fn around(x: f64, y: f64, gap: f64) -> Vec<(f64, f64, Anchor)> {
        let mut out = Vec::new();
        for gap in [gap, gap + 7.0, gap + 16.0] {
            let slant = gap * 0.75;
            out.extend([
                (x + gap, y + 4.0, Anchor::Start),
                (x - gap, y + 4.0, Anchor::End),
                (x, y - gap, Anchor::Middle),
                (x, y + gap + 9.0, Anchor::Middle),
                (x + slant, y - slant, Anchor::Start),
                (x + slant, y + slant + 9.0, Anchor::Start),
                (x - slant, y - slant, Anchor::End),
                (x - slant, y + slant + 9.0, Anchor::End),
            ]);
        }
        out
    }
}

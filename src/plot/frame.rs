//! What all pictures share: captions, legend, axes, and places for labels that cover nothing.

use super::scale::{Axis, Scale, Ticks};
use super::svg::{Anchor, Rect, Svg, Type};
use super::text::{visible, wrap};

/// Words around a picture, and its size.
#[derive(Clone, Debug, Default)]
pub(super) struct Captions {
    pub title: String,
    pub subtitle: String,
    pub footnote: String,
    pub size: Option<(f64, f64)>,
    pub untitled: bool,
    pub no_legend: bool,
}

/// How a legend shows a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Key {
    /// `dash` is an index into [`DASHES`](super::series::DASHES).
    Line {
        dash: usize,
        marked: bool,
        pale: bool,
    },
    Dot,
    Swatch,
}

/// A line of a legend.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: String,
    pub color: &'static str,
    pub key: Key,
}

/// Room around the whole picture.
const MARGIN: f64 = 14.0;
const KEY: f64 = 22.0;

/// Write captions and legend; what is left is for the picture itself. A panel has smaller captions than a picture that stands alone.
pub(super) fn captions(svg: &mut Svg, outer: &Rect, words: &Captions, legend: &[Entry], panel: bool) -> Rect {
    let margin = if panel { 6.0 } else { MARGIN };
    let inner = outer.inset(margin, margin, margin, margin);
    let mut y = inner.y;
    // A small picture has no room for long words; its `title` element has them.
    let allowed = if outer.h < 300.0 { 1 } else { 2 };
    let title = if panel { Type::PANEL } else { Type::TITLE };
    for (text, kind) in [(&words.title, title), (&words.subtitle, Type::SUBTITLE)] {
        if words.untitled && std::ptr::eq(text, &words.title) {
            continue;
        }
        for line in wrap(&visible(text), kind.size * if kind.bold { 1.1 } else { 1.0 }, inner.w, allowed) {
            svg.text(inner.x, y + kind.size * 0.85, Anchor::Start, kind, &line);
            y += kind.line();
        }
    }
    if y > inner.y {
        y += 4.0;
    }
    y = draw_legend(svg, &inner, y, if words.no_legend { &[] } else { legend });
    let mut bottom = inner.bottom();
    let notes = wrap(&visible(&words.footnote), Type::NOTE.size, inner.w, allowed + 1);
    bottom -= notes.len() as f64 * Type::NOTE.line();
    for (i, line) in notes.iter().enumerate() {
        svg.text(inner.x, bottom + Type::NOTE.line() * (i as f64 + 0.8), Anchor::Start, Type::NOTE, line);
    }
    if !notes.is_empty() {
        bottom -= 6.0;
    }
    Rect::new(inner.x, y, inner.w, (bottom - y).max(1.0))
}

fn draw_legend(svg: &mut Svg, inner: &Rect, top: f64, legend: &[Entry]) -> f64 {
    let (mut x, mut y) = (inner.x, top);
    let kind = Type::LABEL;
    for entry in legend.iter().filter(|e| !e.name.is_empty()) {
        let name = super::text::shorten(&visible(&entry.name), kind.size, inner.w - KEY - 8.0);
        let w = KEY + 6.0 + kind.width(&name) + 18.0;
        if x > inner.x && x + w - 18.0 > inner.right() {
            (x, y) = (inner.x, y + kind.line() + 2.0);
        }
        let mid = y + kind.size * 0.55;
        draw_key(svg, x, mid, entry);
        svg.text(x + KEY + 6.0, y + kind.size * 0.9, Anchor::Start, kind, &name);
        x += w;
    }
    if x > inner.x { y + kind.line() + 4.0 } else { top }
}

fn draw_key(svg: &mut Svg, x: f64, y: f64, entry: &Entry) {
    let color = entry.color;
    match entry.key {
        Key::Line { dash, marked, pale } => {
            let dash = super::series::dash(dash);
            let opacity = if pale { r#" stroke-opacity="0.35""# } else { "" };
            svg.line((x, y), (x + KEY, y), &format!(r#"stroke="{color}" stroke-width="2.2"{dash}{opacity}"#));
            if marked {
                svg.circle(x + KEY / 2.0, y, 3.2, &format!(r#"fill="{color}""#));
            }
        }
        Key::Dot => svg.circle(x + KEY / 2.0, y, 4.0, &format!(r#"fill="{color}" fill-opacity="0.8""#)),
        Key::Swatch => svg.rect(&Rect::new(x + 4.0, y - 6.0, KEY - 8.0, 12.0), &format!(r#"fill="{color}""#)),
    }
}

/// A drawn pair of axes.
pub(super) struct Axes {
    /// Where the data goes.
    pub area: Rect,
    pub x: Scale,
    pub y: Scale,
}

pub(super) const GRID: &str = r##"stroke="#e8e8e8" stroke-width="1""##;
pub(super) const AXIS: &str = r##"stroke="#8a8a8a" stroke-width="1""##;

/// Height below the data: tick labels and the axis' name.
pub(super) fn foot(label: &str) -> f64 {
    8.0 + Type::TICK.size + if label.is_empty() { 4.0 } else { 8.0 + Type::LABEL.size }
}

/// Width left of the data for these tick labels and the axis' name.
pub(super) fn side<'a>(labels: impl Iterator<Item = &'a str>, label: &str) -> f64 {
    let widest = labels.map(|l| Type::TICK.width(l)).fold(0.0, f64::max);
    widest + 10.0 + if label.is_empty() { 0.0 } else { Type::LABEL.line() + 2.0 }
}

/// The name of the vertical axis, along it; shortened where it is longer than the axis.
pub(super) fn y_name(svg: &mut Svg, left: f64, area: &Rect, label: &str) {
    let kind = Type::LABEL;
    let text = super::text::shorten(&visible(label), kind.size, area.h + 12.0);
    // Near the edge of the canvas it must not stick out.
    svg.turned(left + kind.size * 0.8, area.y + area.h / 2.0, -90.0, Anchor::Middle, kind, &text);
}

/// The name of the horizontal axis, below its labels.
pub(super) fn x_name(svg: &mut Svg, area: &Rect, label: &str, below: f64) {
    let text = super::text::shorten(&visible(label), Type::LABEL.size, area.w + 40.0);
    svg.text(area.x + area.w / 2.0, area.bottom() + below, Anchor::Middle, Type::LABEL, &text);
}

/// Ticks of a vertical axis of this height.
pub(super) fn y_ticks(scale: &Scale, height: f64) -> Ticks {
    scale.ticks(((height / 42.0) as usize).clamp(2, 9))
}

/// Ticks of a horizontal axis, as many as stand side by side.
pub(super) fn x_ticks(scale: &Scale, width: f64) -> Ticks {
    let mut most = ((width / 60.0) as usize).clamp(2, 12);
    loop {
        let ticks = scale.ticks(most);
        let fits = ticks.major.windows(2).all(|pair| {
            let [a, b] = [&pair[0], &pair[1]].map(|(v, label)| (scale.at(*v), Type::TICK.width(label)));
            (b.0 - a.0).abs() >= (a.1 + b.1) / 2.0 + 10.0
        });
        if fits || most <= 2 {
            return ticks;
        }
        most -= 1;
    }
}

/// Draw grid, axes, tick labels and names into `at`.
pub(super) fn axes(svg: &mut Svg, at: &Rect, x: (&Axis, (f64, f64)), y: (&Axis, (f64, f64))) -> Axes {
    let bottom = foot(&x.0.label);
    let height = (at.h - bottom - 6.0).max(1.0);
    let y_scale = |top: f64| Scale::new(y.0.log, y.1, (top + height, top));
    let marks = y_ticks(&y_scale(at.y), height);
    let left = side(marks.major.iter().map(|(_, l)| l.as_str()), &y.0.label);
    // The last label of the horizontal axis may stick out by half its width.
    let area = Rect::new(at.x + left, at.y + 6.0, (at.w - left - 22.0).max(1.0), height);
    let (xs, ys) = (Scale::new(x.0.log, x.1, (area.x, area.right())), y_scale(area.y));
    for (v, label) in &marks.major {
        let at = ys.at(*v);
        svg.line((area.x, at), (area.right(), at), GRID);
        svg.text(area.x - 7.0, at + Type::TICK.size * 0.35, Anchor::End, Type::TICK, label);
    }
    let columns = x_ticks(&xs, area.w);
    for (v, label) in &columns.major {
        let at = xs.at(*v);
        svg.line((at, area.y), (at, area.bottom()), GRID);
        svg.line((at, area.bottom()), (at, area.bottom() + 4.0), AXIS);
        let half = Type::TICK.width(label) / 2.0;
        let shown = at.clamp(area.x - left + half.min(left), (area.right() + 22.0 - half).max(at - half));
        svg.text(shown, area.bottom() + 7.0 + Type::TICK.size * 0.85, Anchor::Middle, Type::TICK, label);
    }
    for v in &columns.minor {
        svg.line((xs.at(*v), area.bottom()), (xs.at(*v), area.bottom() + 2.5), AXIS);
    }
    for v in &marks.minor {
        svg.line((area.x - 2.5, ys.at(*v)), (area.x, ys.at(*v)), AXIS);
    }
    svg.line((area.x, area.bottom()), (area.right(), area.bottom()), AXIS);
    svg.line((area.x, area.y), (area.x, area.bottom()), AXIS);
    x_name(svg, &area, &x.0.label, foot(&x.0.label) - 3.0);
    y_name(svg, at.x, &area, &y.0.label);
    Axes { area, x: xs, y: ys }
}

/// Keeps labels off each other and off what is drawn.
pub(super) struct Placer {
    area: Rect,
    taken: Vec<Rect>,
    dots: Vec<(f64, f64)>,
}

impl Placer {
    /// Labels must lie in `area`; `dots` are places on lines that they should not cover.
    pub fn new(area: Rect, dots: Vec<(f64, f64)>) -> Self {
        Self { area, taken: Vec::new(), dots }
    }

    /// Reserve a rectangle.
    pub fn take(&mut self, r: Rect) {
        self.taken.push(r);
    }

    /// How bad a place is; 0 is perfect.
    pub fn cost(&self, r: &Rect) -> f64 {
        let outside = r.w * r.h - r.overlap(&self.area);
        let covered: f64 = self.taken.iter().map(|t| t.overlap(r)).sum();
        let dots = self.dots.iter().filter(|(x, y)| r.contains(*x, *y)).count();
        outside * 10.0 + covered * 3.0 + dots as f64 * 8.0
    }

    /// Write a label at the best of the candidates, (x, baseline, anchor) in order of liking.
    pub fn write(&mut self, svg: &mut Svg, candidates: &[(f64, f64, Anchor)], kind: Type, text: &str) {
        let text = visible(text);
        let boxes = candidates.iter().map(|(x, y, anchor)| kind.bounds(*x, *y, *anchor, &text));
        let costs: Vec<f64> = boxes.enumerate().map(|(i, r)| self.cost(&r) + i as f64 * 0.5).collect();
        let best = (0..costs.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b]));
        if let Some((x, y, anchor)) = best.map(|i| candidates[i]) {
            let r = kind.bounds(x, y, anchor, &text);
            // Pushed inside where no candidate is.
            let dx = (self.area.x - r.x).max(0.0) - (r.right() - self.area.right()).max(0.0);
            let dy = (self.area.y - r.y).max(0.0) - (r.bottom() - self.area.bottom()).max(0.0);
            svg.text(x + dx, y + dy, anchor, kind, &text);
            self.take(Rect::new(r.x + dx, r.y + dy, r.w, r.h));
        }
    }

    /// Where the label of a point at (x, y) may stand: beside, above, below, then further away.
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

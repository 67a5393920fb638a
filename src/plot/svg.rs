//! SVG's text: elements without ids (so that several pictures may stand in one page), numbers to a hundredth of a pixel.

use super::text::{escape, width};
use std::fmt::Write as _;

/// What the reader has: no font is shipped.
const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif";

/// A rectangle in pixels; y grows downward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// Width.
    pub w: f64,
    /// Height.
    pub h: f64,
}

impl Rect {
    /// From its corner and its size.
    pub fn new(x: f64, y: f64, w: f64, h: f64) -> Self {
        Self { x, y, w, h }
    }

    /// Right edge.
    pub fn right(&self) -> f64 {
        self.x + self.w
    }

    /// Lower edge.
    pub fn bottom(&self) -> f64 {
        self.y + self.h
    }

    /// Without a margin at each side.
    pub(super) fn inset(&self, left: f64, top: f64, right: f64, bottom: f64) -> Self {
        Self::new(self.x + left, self.y + top, (self.w - left - right).max(1.0), (self.h - top - bottom).max(1.0))
    }

    pub(super) fn contains(&self, x: f64, y: f64) -> bool {
        x >= self.x && x <= self.right() && y >= self.y && y <= self.bottom()
    }

    /// Area shared with another.
    pub(super) fn overlap(&self, other: &Self) -> f64 {
        let w = self.right().min(other.right()) - self.x.max(other.x);
        let h = self.bottom().min(other.bottom()) - self.y.max(other.y);
        w.max(0.0) * h.max(0.0)
    }
}

/// Which point of a text its position is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text is set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    pub size: f64,
    pub bold: bool,
    pub color: &'static str,
    /// A rim of the background's colour, so that the text can be read over lines.
    pub halo: bool,
}

impl Type {
    pub const TITLE: Self = Self { size: 17.0, bold: true, color: "#1a1a1a", halo: false };
    pub const PANEL: Self = Self { size: 14.0, bold: true, color: "#1a1a1a", halo: false };
    pub const SUBTITLE: Self = Self { size: 13.0, bold: false, color: "#555555", halo: false };
    pub const LABEL: Self = Self { size: 13.0, bold: false, color: "#333333", halo: false };
    pub const TICK: Self = Self { size: 12.0, bold: false, color: "#444444", halo: false };
    pub const NOTE: Self = Self { size: 11.0, bold: false, color: "#666666", halo: false };
    pub const MARK: Self = Self { size: 12.0, bold: true, color: "#1a1a1a", halo: true };
    pub const LEVEL: Self = Self { size: 10.5, bold: false, color: "#222222", halo: true };

    pub fn width(&self, text: &str) -> f64 {
        width(text, self.size) * if self.bold { 1.1 } else { 1.0 }
    }

    /// Distance of baselines.
    pub fn line(&self) -> f64 {
        (self.size * 1.35).ceil()
    }

    pub fn colored(self, color: &'static str) -> Self {
        Self { color, ..self }
    }

    /// The box of a text whose baseline begins, is centred or ends at a point.
    pub fn bounds(&self, x: f64, y: f64, anchor: Anchor, text: &str) -> Rect {
        let w = self.width(text);
        let left = match anchor {
            Anchor::Start => x,
            Anchor::Middle => x - w / 2.0,
            Anchor::End => x - w,
        };
        Rect::new(left, y - 0.8 * self.size, w, self.size * 1.05)
    }
}

/// A number as SVG has it: two places, none that say nothing.
pub(super) fn num(v: f64) -> String {
    let v = if v.is_finite() { v.clamp(-1e6, 1e6) } else { 0.0 };
    let text = format!("{v:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_string() } else { text.to_string() }
}

/// A document that grows.
pub(super) struct Svg {
    out: String,
}

impl Svg {
    pub fn new(w: f64, h: f64, title: &str) -> Self {
        let (w, h) = (num(w), num(h));
        let title = escape(title);
        let mut out = String::new();
        let _ = writeln!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img" aria-label="{title}" font-family="{FONTS}">"#
        );
        let _ = writeln!(out, "<title>{title}</title>");
        // A background of its own: pages that are dark would swallow dark text.
        let _ = writeln!(out, r##"<rect width="{w}" height="{h}" fill="#ffffff"/>"##);
        Self { out }
    }

    pub fn finish(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }

    /// `style` is attributes, ready to be written.
    pub fn rect(&mut self, r: &Rect, style: &str) {
        let [x, y, w, h] = [r.x, r.y, r.w, r.h].map(num);
        let _ = writeln!(self.out, r#"<rect x="{x}" y="{y}" width="{w}" height="{h}" {style}/>"#);
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), style: &str) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(num);
        let _ = writeln!(self.out, r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {style}/>"#);
    }

    pub fn path(&mut self, d: &str, style: &str) {
        if !d.is_empty() {
            let _ = writeln!(self.out, r#"<path d="{d}" {style}/>"#);
        }
    }

    pub fn circle(&mut self, x: f64, y: f64, r: f64, style: &str) {
        let [x, y, r] = [x, y, r].map(num);
        let _ = writeln!(self.out, r#"<circle cx="{x}" cy="{y}" r="{r}" {style}/>"#);
    }

    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, kind: Type, text: &str) {
        self.turned(x, y, 0.0, anchor, kind, text);
    }

    /// Text turned about its anchor by degrees, clockwise.
    pub fn turned(&mut self, x: f64, y: f64, degrees: f64, anchor: Anchor, kind: Type, text: &str) {
        if text.is_empty() {
            return;
        }
        let [x, y, size] = [x, y, kind.size].map(num);
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let weight = if kind.bold { r#" font-weight="600""# } else { "" };
        let halo =
            if kind.halo { r##" paint-order="stroke" stroke="#ffffff" stroke-width="3" stroke-linejoin="round""## } else { "" };
        let turn = if degrees == 0.0 { String::new() } else { format!(r#" transform="rotate({} {x} {y})""#, num(degrees)) };
        let _ = writeln!(
            self.out,
            r#"<text x="{x}" y="{y}" font-size="{size}" fill="{}"{anchor}{weight}{halo}{turn}>{}</text>"#,
            kind.color,
            escape(text)
        );
    }

    /// What follows, up to [`Svg::end_clip`], is seen inside of the rectangle only. A nested picture clips without an id.
    pub fn clip(&mut self, r: &Rect) {
        let [x, y, w, h] = [r.x, r.y, r.w, r.h].map(num);
        let _ = writeln!(self.out, r#"<svg x="{x}" y="{y}" width="{w}" height="{h}" viewBox="{x} {y} {w} {h}">"#);
    }

    pub fn end_clip(&mut self) {
        self.out.push_str("</svg>\n");
    }
}

/// A path of straight lines through the points; a point that is no number is a gap.
pub(super) fn polyline(points: impl IntoIterator<Item = (f64, f64)>) -> String {
    let mut out = String::new();
    let mut pen_up = true;
    for (x, y) in points {
        if !x.is_finite() || !y.is_finite() {
            pen_up = true;
            continue;
        }
        let _ = write!(out, "{}{} {}", if pen_up { "M" } else { "L" }, num(x), num(y));
        pen_up = false;
    }
    out
}

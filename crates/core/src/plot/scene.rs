//! A figure as shapes in pixels. Colours are roles, so that every renderer has its own theme: [`svg`](super::svg) writes text, the
//! window draws on the screen.

use super::color::Ink;
use super::scale::Scale;
use super::text::width;

/// A position in pixels; y grows downward.
pub type Point = (f64, f64);

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

    /// With a margin removed on each side.
    pub(super) fn inset(&self, left: f64, top: f64, right: f64, bottom: f64) -> Self {
        Self::new(self.x + left, self.y + top, (self.w - left - right).max(1.0), (self.h - top - bottom).max(1.0))
    }

    /// Whether a point is inside.
    pub fn contains(&self, x: f64, y: f64) -> bool {
        x >= self.x && x <= self.right() && y >= self.y && y <= self.bottom()
    }

    /// Area of the intersection with another rectangle.
    pub(super) fn overlap(&self, other: &Self) -> f64 {
        let w = self.right().min(other.right()) - self.x.max(other.x);
        let h = self.bottom().min(other.bottom()) - self.y.max(other.y);
        w.max(0.0) * h.max(0.0)
    }
}

/// The point of a text that its position refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The left end of the baseline.
    Start,
    /// The middle of the baseline.
    Middle,
    /// The right end of the baseline.
    End,
}

/// Typography of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextStyle {
    /// Font size in pixels.
    pub size: f64,
    /// Whether it is bold.
    pub bold: bool,
    /// Its colour.
    pub ink: Ink,
    /// An outline in the background colour, to keep the text readable over lines.
    pub halo: bool,
}

impl TextStyle {
    pub(super) const TITLE: Self = Self { size: 17.0, bold: true, ink: Ink::Grey(0x1a), halo: false };
    pub(super) const PANEL: Self = Self { size: 14.0, bold: true, ink: Ink::Grey(0x1a), halo: false };
    pub(super) const SUBTITLE: Self = Self { size: 13.0, bold: false, ink: Ink::Grey(0x55), halo: false };
    pub(super) const LABEL: Self = Self { size: 13.0, bold: false, ink: Ink::Grey(0x33), halo: false };
    pub(super) const TICK: Self = Self { size: 12.0, bold: false, ink: Ink::Grey(0x44), halo: false };
    pub(super) const NOTE: Self = Self { size: 11.0, bold: false, ink: Ink::Grey(0x66), halo: false };
    pub(super) const MARK: Self = Self { size: 12.0, bold: true, ink: Ink::Grey(0x1a), halo: true };
    pub(super) const LEVEL: Self = Self { size: 10.5, bold: false, ink: Ink::Grey(0x22), halo: true };

    /// Maximum width of a line of text in pixels.
    pub fn width(&self, text: &str) -> f64 {
        width(text, self.size) * if self.bold { 1.1 } else { 1.0 }
    }

    /// Distance between baselines.
    pub(super) fn line(&self) -> f64 {
        (self.size * 1.35).ceil()
    }

    pub(super) fn colored(self, ink: Ink) -> Self {
        Self { ink, ..self }
    }

    /// The bounding box of a text whose baseline starts, is centred or ends at a point.
    pub(super) fn bounds(&self, x: f64, y: f64, anchor: Anchor, text: &str) -> Rect {
        let w = self.width(text);
        let left = match anchor {
            Anchor::Start => x,
            Anchor::Middle => x - w / 2.0,
            Anchor::End => x - w,
        };
        Rect::new(left, y - 0.8 * self.size, w, self.size * 1.05)
    }
}

/// Fill and outline of a shape.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Style {
    /// Colour and opacity of the fill.
    pub fill: Option<(Ink, f64)>,
    /// Colour and opacity of the outline.
    pub stroke: Option<(Ink, f64)>,
    /// Width of the outline in pixels.
    pub width: f64,
    /// Alternating lengths of dashes and gaps in pixels; empty for a solid line.
    pub dash: &'static [f64],
    /// Whether ends and joins are round.
    pub round: bool,
}

impl Style {
    /// Filled.
    pub(super) fn fill(ink: Ink, opacity: f64) -> Self {
        Self { fill: Some((ink, opacity)), ..Self::default() }
    }

    /// A line.
    pub(super) fn line(ink: Ink, width: f64) -> Self {
        Self { stroke: Some((ink, 1.0)), width, ..Self::default() }
    }

    /// With this opacity of the line.
    pub(super) fn faint(mut self, opacity: f64) -> Self {
        self.stroke = self.stroke.map(|(ink, _)| (ink, opacity));
        self
    }

    /// With an outline.
    pub(super) fn edged(mut self, ink: Ink, width: f64) -> Self {
        (self.stroke, self.width) = (Some((ink, 1.0)), width);
        self
    }

    pub(super) fn dashed(mut self, dash: &'static [f64]) -> Self {
        self.dash = dash;
        self
    }

    pub(super) fn round(mut self) -> Self {
        self.round = true;
        self
    }
}

/// A shape; later ones lie over earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A rectangle.
    Rect(Rect, Style),
    /// A straight line.
    Line([Point; 2], Style),
    /// Polylines; a point that is not finite is a gap. Closed polylines together enclose an area, with holes by the even-odd rule.
    Path {
        /// The points of each line.
        lines: Vec<Vec<Point>>,
        /// Whether the last point is joined to the first.
        closed: bool,
        /// Its style.
        style: Style,
    },
    /// The area between two lines, as pairs of opposite points.
    Area(Vec<[Point; 2]>, Style),
    /// Centre and radius.
    Circle(Point, f64, Style),
    /// A line of text.
    Text {
        /// Position of its anchor.
        at: Point,
        /// The anchor.
        anchor: Anchor,
        /// Clockwise rotation around the anchor.
        degrees: f64,
        /// Its typography.
        kind: TextStyle,
        /// The text.
        text: String,
    },
    /// Clip the following shapes, up to [`Shape::EndClip`], to the rectangle.
    Clip(Rect),
    /// End of [`Shape::Clip`].
    EndClip,
}

/// A part of the figure with a tooltip.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Its area.
    pub at: Rect,
    /// Name and value, by line.
    pub lines: Vec<String>,
}

/// A pair of drawn axes.
#[derive(Clone, Copy, Debug)]
pub struct Axes {
    /// The data area.
    pub area: Rect,
    /// From numbers to pixels, horizontally.
    pub x: Scale,
    /// From numbers to pixels, vertically.
    pub y: Scale,
}

/// A figure under construction.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// Width and height in pixels.
    pub size: (f64, f64),
    /// Its description for screen readers.
    pub title: String,
    /// From back to front.
    pub shapes: Vec<Shape>,
    /// Parts with tooltips.
    pub regions: Vec<Region>,
    /// The last drawn axes, for figures with two axes.
    pub axes: Option<Axes>,
}

impl Scene {
    pub(super) fn rect(&mut self, r: &Rect, style: Style) {
        self.shapes.push(Shape::Rect(*r, style));
    }

    pub(super) fn line(&mut self, from: Point, to: Point, style: Style) {
        self.shapes.push(Shape::Line([from, to], style));
    }

    /// One open line.
    pub(super) fn path(&mut self, points: Vec<Point>, style: Style) {
        self.paths(vec![points], false, style);
    }

    pub(super) fn paths(&mut self, lines: Vec<Vec<Point>>, closed: bool, style: Style) {
        self.shapes.push(Shape::Path { lines, closed, style });
    }

    pub(super) fn area(&mut self, pairs: Vec<[Point; 2]>, style: Style) {
        self.shapes.push(Shape::Area(pairs, style));
    }

    pub(super) fn circle(&mut self, x: f64, y: f64, r: f64, style: Style) {
        self.shapes.push(Shape::Circle((x, y), r, style));
    }

    pub(super) fn text(&mut self, x: f64, y: f64, anchor: Anchor, kind: TextStyle, text: &str) {
        self.rotated_text(x, y, 0.0, anchor, kind, text);
    }

    /// Text rotated around its anchor by degrees, clockwise.
    pub(super) fn rotated_text(&mut self, x: f64, y: f64, degrees: f64, anchor: Anchor, kind: TextStyle, text: &str) {
        if !text.is_empty() {
            self.shapes.push(Shape::Text { at: (x, y), anchor, degrees, kind, text: text.into() });
        }
    }

    pub(super) fn clip(&mut self, r: &Rect) {
        self.shapes.push(Shape::Clip(*r));
    }

    pub(super) fn end_clip(&mut self) {
        self.shapes.push(Shape::EndClip);
    }
}

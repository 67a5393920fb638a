//! A function of two numbers as contour lines over coloured bands.

use super::color::{Ink, Ramp};
use super::frame::{AXIS, Captions, LabelPlacer, axes, captions};
use super::heatmap::{ColorBar, band};
use super::isolines::{Field, Isoline};
use super::scale::{AxisSpec, linear_ticks, numbers};
use super::scene::{Anchor, Axes, Rect, Scene, Style, TextStyle};

/// Approximate width of the vertical axis.
const SIDE: f64 = 80.0;

/// Shape of a marked point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A black dot.
    Dot,
    /// A star, for the most important point.
    Star,
    /// A cross, for an empty position.
    Cross,
}

/// Contour lines with their values over coloured bands, with marked points.
///
/// ```
/// use lehr_core::plot::{Contours, Field, Mark};
/// let axis = vec![-1.0, 0.0, 1.0];
/// let values = axis.iter().map(|y| axis.iter().map(|x| x * x + y * y).collect()).collect();
/// let svg = Contours::new("A bowl", Field { xs: axis.clone(), ys: axis, values })
///     .bar("loss (nats)")
///     .point(0.0, 0.0, "merged", Mark::Star)
///     .svg();
/// assert!(svg.contains("merged"));
/// ```
#[derive(Clone, Debug)]
pub struct Contours {
    pub(super) words: Captions,
    field: Field,
    x: AxisSpec,
    y: AxisSpec,
    bar: String,
    levels: Vec<f64>,
    points: Vec<(f64, f64, String, Mark)>,
    path: Vec<(f64, f64)>,
    equal: bool,
}

super::builders!(Contours, x.label);

impl Contours {
    /// Values of the function on a grid; NaN is a hole.
    pub fn new(title: &str, field: Field) -> Self {
        Self {
            words: Captions { title: title.into(), ..Captions::default() },
            field,
            x: AxisSpec::default(),
            y: AxisSpec::default(),
            bar: String::new(),
            levels: Vec::new(),
            points: Vec::new(),
            path: Vec::new(),
            equal: false,
        }
    }

    /// Label of the colour bar, with the unit.
    pub fn bar(mut self, label: &str) -> Self {
        self.bar = label.into();
        self
    }

    /// Draw these levels instead of about ten round ones. Each band between levels has its own colour, however close they are.
    pub fn levels(mut self, levels: &[f64]) -> Self {
        self.levels = levels.to_vec();
        self.levels.sort_by(f64::total_cmp);
        self
    }

    /// A labelled point.
    pub fn point(mut self, x: f64, y: f64, label: &str, mark: Mark) -> Self {
        self.points.push((x, y, label.into(), mark));
        self
    }

    /// A thin line through points: the path of training.
    pub fn path(mut self, points: &[(f64, f64)]) -> Self {
        self.path = points.to_vec();
        self
    }

    /// Equal units on both axes, so that distances can be compared.
    pub fn equal(mut self) -> Self {
        self.equal = true;
        self
    }

    /// The given levels within the field's range, or round ones.
    fn shown_levels(&self) -> Vec<f64> {
        let Some((lo, hi)) = self.field.extent().filter(|(lo, hi)| hi > lo) else { return Vec::new() };
        let levels = if self.levels.is_empty() { linear_ticks(lo, hi, 11) } else { self.levels.clone() };
        levels.into_iter().filter(|v| *v > lo && *v < hi).collect()
    }

    pub(super) fn draw(&self, scene: &mut Scene, at: &Rect, panel: bool) {
        let inner = captions(scene, at, &self.words, &[], panel);
        let levels = self.shown_levels();
        let colors = ColorBar::bands(&levels, Ramp::Pale, &self.bar);
        let ends = |axis: &[f64]| match (axis.first(), axis.last()) {
            (Some(a), Some(b)) if b > a => (*a, *b),
            _ => (0.0, 1.0),
        };
        let (x, y) = (ends(&self.field.xs), ends(&self.field.ys));
        let room = self.square(inner.inset(0.0, 0.0, colors.width() - 16.0, 0.0), x, y);
        let axes = axes(
            scene,
            &room,
            (&AxisSpec { range: Some(x), ..self.x.clone() }, x),
            (&AxisSpec { range: Some(y), ..self.y.clone() }, y),
        );
        let area = axes.area;
        // Smooth lines: about three pixels between points.
        let times = (area.w / 3.0 / self.field.xs.len().max(2) as f64).clamp(1.0, 12.0) as usize;
        let fine = self.field.refined(times);
        let place = |line: &Isoline| line.iter().map(|(px, py)| (axes.x.at(*px), axes.y.at(*py))).collect::<Isoline>();
        scene.rect(&area, Style::fill(Ink::Grey(0xf3), 1.0));
        scene.clip(&area);
        for i in 0..=levels.len() {
            let from = if i == 0 { f64::MIN } else { levels[i - 1] };
            let band = Ink::Ramp(Ramp::Pale, band(i, levels.len() + 1));
            scene.paths(fine.region(from).iter().map(place).collect(), true, Style::fill(band, 1.0));
        }
        let lines: Vec<Vec<Isoline>> = levels.iter().map(|v| fine.isolines(*v).iter().map(place).collect()).collect();
        scene.paths(lines.iter().flatten().cloned().collect(), false, Style::line(Ink::Grey(0x3a), 1.0).faint(0.55));
        scene.path(place(&self.path), Style::line(Ink::Grey(0x1a), 1.2).dashed(&[2.0, 3.0]));
        scene.end_clip();
        scene.rect(&area, AXIS);
        self.write_labels(scene, &axes, &levels, &lines);
        colors.draw(scene, &Rect::new(area.right() + 16.0, area.y, 14.0, area.h));
    }

    /// Natural size in pixels: with square units for [`Contours::equal`].
    pub(super) fn natural(&self, unless: (f64, f64)) -> (f64, f64) {
        let length = |axis: &[f64]| axis.last().copied().unwrap_or(1.0) - axis.first().copied().unwrap_or(0.0);
        let ratio = length(&self.field.ys) / length(&self.field.xs);
        if !self.equal || !ratio.is_finite() {
            return unless;
        }
        let levels = self.shown_levels();
        let colors = ColorBar::bands(&levels, Ramp::Pale, &self.bar);
        let (w, h) = (unless.0 * 0.72, (unless.0 * 0.72 * ratio).clamp(unless.1 * 0.4, unless.1 * 1.6));
        let words = [&self.words.title, &self.words.subtitle, &self.words.footnote].iter().filter(|w| !w.is_empty()).count();
        (w + SIDE + colors.width() + 12.0, h + super::frame::foot(&self.x.label) + 40.0 + 24.0 * words as f64)
    }

    /// The part of `room` in which both axes have the same unit.
    fn square(&self, room: Rect, x: (f64, f64), y: (f64, f64)) -> Rect {
        if !self.equal {
            return room;
        }
        let (side, foot) = (SIDE, super::frame::foot(&self.x.label) + 6.0);
        let (w, h) = (room.w - side, room.h - foot);
        let unit = (w / (x.1 - x.0)).min(h / (y.1 - y.0));
        Rect::new(room.x, room.y, (x.1 - x.0) * unit + side, (y.1 - y.0) * unit + foot)
    }

    fn write_labels(&self, scene: &mut Scene, axes: &Axes, levels: &[f64], lines: &[Vec<Isoline>]) {
        let area = axes.area;
        let mut places = LabelPlacer::new(area.inset(3.0, 3.0, 3.0, 3.0), Vec::new());
        let points = self.points.iter().map(|(x, y, label, mark)| (axes.x.at(*x), axes.y.at(*y), label, *mark));
        let points: Vec<_> = points.filter(|(x, y, ..)| area.contains(*x, *y)).collect();
        for (x, y, _, mark) in &points {
            draw_mark(scene, *x, *y, *mark);
            places.take(Rect::new(x - 6.0, y - 6.0, 12.0, 12.0));
        }
        for (x, y, label, _) in &points {
            places.write(scene, &LabelPlacer::around(*x, *y, 11.0), TextStyle::MARK, label);
        }
        for (lines, label) in lines.iter().zip(numbers(levels)) {
            let spot = lines.iter().flat_map(|line| label_spots(line, &label)).min_by(|a, b| {
                let cost = |s: &LabelSpot| places.cost(&s.bounds) + s.bend * 40.0;
                cost(a).total_cmp(&cost(b))
            });
            if let Some(spot) = spot.filter(|s| places.cost(&s.bounds) < 1.0) {
                scene.rotated_text(spot.x, spot.y, spot.degrees, Anchor::Middle, TextStyle::LEVEL, &label);
                places.take(spot.bounds);
            }
        }
    }
}

/// A possible position of a line's label.
struct LabelSpot {
    x: f64,
    y: f64,
    degrees: f64,
    /// Angle by which the line turns under the text, in radians.
    bend: f64,
    bounds: Rect,
}

/// Label positions along a line that is longer than its label.
fn label_spots(line: &Isoline, label: &str) -> Vec<LabelSpot> {
    let w = TextStyle::LEVEL.width(label);
    let mut along = vec![0.0];
    for pair in line.windows(2) {
        along.push(along[along.len() - 1] + (pair[1].0 - pair[0].0).hypot(pair[1].1 - pair[0].1));
    }
    let length = along[along.len() - 1];
    let mut out = Vec::new();
    let steps = (length / 12.0).min(200.0) as usize;
    for k in 1..steps {
        let s = length * k as f64 / steps as f64;
        let at = |s: f64| line[along.partition_point(|a| *a < s).min(line.len() - 1)];
        if s < w || s > length - w {
            continue;
        }
        let (a, m, b) = (at(s - w / 2.0), at(s), at(s + w / 2.0));
        let turn = |p: (f64, f64), q: (f64, f64)| (q.1 - p.1).atan2(q.0 - p.0);
        let mut bend = (turn(m, b) - turn(a, m)).abs();
        bend = bend.min(2.0 * std::f64::consts::PI - bend);
        let mut angle = turn(a, b);
        // Text is never upside down.
        if angle.abs() > std::f64::consts::FRAC_PI_2 {
            angle -= std::f64::consts::PI * angle.signum();
        }
        let (sin, cos) = angle.sin_cos();
        let (bw, bh) = (w * cos.abs() + 12.0 * sin.abs(), w * sin.abs() + 12.0 * cos.abs());
        let bounds = Rect::new(m.0 - bw / 2.0 - 3.0, m.1 - bh / 2.0 - 3.0, bw + 6.0, bh + 6.0);
        // The text is centred vertically on the line.
        out.push(LabelSpot { x: m.0 - 3.5 * sin, y: m.1 + 3.5 * cos, degrees: angle.to_degrees(), bend, bounds });
    }
    out
}

fn draw_mark(scene: &mut Scene, x: f64, y: f64, mark: Mark) {
    match mark {
        Mark::Dot => scene.circle(x, y, 4.5, Style::fill(Ink::Grey(0x11), 1.0).edged(Ink::PAPER, 1.5)),
        Mark::Star => {
            let corner = |i: usize| {
                let (sin, cos) = (std::f64::consts::PI * i as f64 / 5.0).sin_cos();
                let r = if i.is_multiple_of(2) { 9.5 } else { 4.0 };
                (x + r * sin, y - r * cos)
            };
            let style = Style::fill(Ink::Fixed([0xd6, 0x27, 0x28]), 1.0).edged(Ink::PAPER, 1.3);
            scene.paths(vec![(0..10).map(corner).collect()], true, style);
        }
        Mark::Cross => {
            for style in [Style::line(Ink::PAPER, 4.5).round(), Style::line(Ink::Grey(0x11), 2.2).round()] {
                scene.line((x - 4.5, y - 4.5), (x + 4.5, y + 4.5), style);
                scene.line((x - 4.5, y + 4.5), (x + 4.5, y - 4.5), style);
            }
        }
    }
}

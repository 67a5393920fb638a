//! The curves of the runs, as lines to draw.

use super::Frame;
use super::cuts::{Cuts, Making, Shape, Source};
use crate::app::desk::{Desk, OpenRun};
use crate::app::{seeds, theme};
use crate::history::spec::{Spec, is_noisy, label};
use crate::history::{Curve, Cut};
use eframe::egui::{self, Color32};
use egui_plot::{FilledArea, Line, LineStyle, PlotPoint, PlotPoints, PlotUi};
use std::rc::Rc;

/// A curve of a chart, with how it is drawn.
pub(super) struct Drawn {
    /// The run's name, where several are drawn.
    pub run: String,
    pub name: String,
    pub color: Color32,
    pub style: LineStyle,
    pub shape: Rc<Shape>,
    /// What was measured, behind a smoothed line.
    pub pale: Option<Rc<Shape>>,
    /// At the cross-hair: smoothed or only value, and the raw one where that is another.
    pub value: Option<f64>,
    pub raw: Option<f64>,
}

/// Kinds of lines, for the metrics of a run when colours stand for runs.
const STYLES: [LineStyle; 4] =
    [LineStyle::Solid, LineStyle::Dashed { length: 8.0 }, LineStyle::Dotted { spacing: 5.0 }, LineStyle::Dashed { length: 3.0 }];

impl Drawn {
    /// Least and greatest place upwards.
    pub fn spans(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.shape.span.into_iter().chain(self.pale.as_ref().and_then(|pale| pale.span))
    }

    /// Draw: the spread, the raw curve pale, the line itself.
    pub fn draw<'a>(&'a self, plot: &mut PlotUi<'a>, dark: bool) {
        let [x, low, high] = &self.shape.band;
        if x.len() > 1 {
            let area = FilledArea::new(&self.name, x, low, high);
            plot.add(area.fill_color(self.color.gamma_multiply(0.2)).allow_hover(false));
        }
        let curve = |line: &'a Vec<PlotPoint>| Line::new(self.name.as_str(), PlotPoints::Borrowed(line)).allow_hover(false);
        let pale = self.color.gamma_multiply(if dark { 0.40 } else { 0.30 });
        for line in self.pale.iter().flat_map(|pale| &pale.lines) {
            plot.line(curve(line).color(pale).width(1.0));
        }
        for line in &self.shape.lines {
            plot.line(curve(line).color(self.color).style(self.style).width(1.8));
        }
    }
}

/// The metrics that a chart draws of these runs, in order.
pub fn metrics_of(spec: &Spec, desk: &Desk, runs: &[std::path::PathBuf]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for run in runs.iter().filter_map(|path| desk.run(path)) {
        for metric in spec.of(&run.files.history) {
            // Parts of several runs in one picture would be a tangle.
            let is_part = !spec.metrics.contains(&metric) && !metric.starts_with("merge/") && runs.len() > 1;
            if !is_part && !found.iter().any(|m| m == metric) {
                found.push(metric.to_owned());
            }
        }
    }
    found
}

/// The curves of the runs as lines, with their values at the cross-hair.
pub(super) fn collect(desk: &mut Desk, metrics: &[String], frame: &Frame<'_>, how: &Look, visuals: &egui::Visuals) -> Vec<Drawn> {
    let (axis, smoothing, cursor) = (desk.look.axis, desk.look.smoothing, desk.cursor);
    let mut cuts = std::mem::take(&mut desk.cuts);
    let many = frame.runs.len() > 1;
    let mut drawn = Vec::new();
    for path in frame.runs {
        let Some(run): Option<&mut OpenRun> = desk.run_mut(path) else { continue };
        for (i, metric) in metrics.iter().enumerate() {
            let smooth = is_noisy(metric) && smoothing > 0.0 && run.smooth(metric, smoothing).is_some();
            let Some(raw) = run.files.history.curves.get(metric) else { continue };
            let clock = &run.files.history.clock;
            let mut shape = |curve: &Curve, smoothing: Option<f64>| {
                let source = Source { runs: vec![path.clone()], metric: metric.clone(), smoothing: smoothing.map(f64::to_bits) };
                let how = how.of(vec![(run.files.reading, curve.len())]);
                cuts.get(source, how, |how| Shape::of_lines(curve.lines(clock, &how.cut), how))
            };
            let at = |curve: &Curve| match cursor {
                Some(x) => curve.nearest(clock, axis, x).map(|(_, y)| y),
                None => curve.last(),
            };
            let smoothed = if smooth { run.smoothed.get(metric) } else { None };
            let (color, style) = match many {
                true => (theme::readable(run.color, visuals), STYLES[i % STYLES.len()]),
                false => (theme::readable(theme::series(i), visuals), LineStyle::Solid),
            };
            drawn.push(Drawn {
                run: if many { run.name() } else { String::new() },
                name: label(metric),
                color,
                style,
                pale: smooth.then(|| shape(raw, None)),
                shape: match smoothed {
                    Some(smoothed) => shape(&smoothed.curve, Some(smoothed.weight())),
                    None => shape(raw, None),
                },
                value: smoothed.map_or_else(|| at(raw), |s| at(&s.curve)),
                raw: if smooth { at(raw) } else { None },
            });
        }
    }
    desk.cuts = cuts;
    drawn
}

/// How all curves of a chart are cut and placed.
pub(super) struct Look {
    pub cut: Cut,
    pub log_y: bool,
}

impl Look {
    fn of(&self, points: Vec<(u64, usize)>) -> Making {
        Making { cut: self.cut, log_y: self.log_y, points }
    }
}

/// Runs that differ only in their seed, drawn as mean and spread; the others as they are.
pub(super) fn together(
    desk: &mut Desk,
    metrics: &[String],
    groups: &[Vec<std::path::PathBuf>],
    how: &Look,
    visuals: &egui::Visuals,
) -> Vec<Drawn> {
    let mut cuts: Cuts = std::mem::take(&mut desk.cuts);
    let mut drawn = Vec::new();
    for members in groups {
        let runs: Vec<&OpenRun> = members.iter().filter_map(|path| desk.run(path)).collect();
        for (i, metric) in metrics.iter().enumerate() {
            let smoothed = runs.iter().find_map(|run| run.smoothed.get(metric));
            let source =
                Source { runs: members.clone(), metric: metric.clone(), smoothing: smoothed.map(|s| s.weight().to_bits()) };
            let points = |run: &&OpenRun| (run.files.reading, run.files.history.curves.get(metric).map_or(0, Curve::len));
            let shape = cuts.get(source, how.of(runs.iter().map(points).collect()), |how| {
                Shape::of_spread(seeds::spread(&runs, metric, how.cut.axis, how.cut.from, how.cut.to), how)
            });
            let spread = &shape.spread;
            let nearest = |x: f64| spread.iter().min_by(|a, b| (a.x - x).abs().total_cmp(&(b.x - x).abs()));
            let Some(value) = desk.cursor.map_or(spread.last(), nearest).map(|s| s.mean) else { continue };
            drawn.push(Drawn {
                run: if runs.len() > 1 { format!("mean of {} seeds", runs.len()) } else { runs[0].name() },
                name: label(metric),
                color: theme::readable(runs[0].color, visuals),
                style: STYLES[i % STYLES.len()],
                value: Some(value),
                raw: None,
                pale: None,
                shape,
            });
        }
    }
    desk.cuts = cuts;
    drawn
}

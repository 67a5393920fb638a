//! The curves of the runs, as lines to draw.

use super::Frame;
use crate::app::curve_cache::{CurveCache, CurveShape, CurveSource, Making};
use crate::app::state::{AppState, OpenRun};
use crate::app::{seeds, theme};
use crate::history::chart_spec::{ChartSpec, label, smoothing};
use crate::history::{Axis, Curve, CurveView};
use eframe::egui::{self, Color32};
use egui_plot::{FilledArea, Line, LineStyle, PlotPoint, PlotPoints, PlotUi, Points};
use std::rc::Rc;

/// A curve of a chart and its style.
pub(super) struct DrawnCurve {
    /// The run's name, if several are drawn.
    pub run: String,
    pub name: String,
    pub color: Color32,
    pub style: LineStyle,
    pub shape: Rc<CurveShape>,
    /// The measured curve, drawn behind a smoothed line.
    pub pale: Option<Rc<CurveShape>>,
    /// The displayed value, and the measured one where that differs: at the cross-hair, or at the end, where a smoothed line has the mean
    /// of the last tenth instead of a single batch. None if the curve has no point there.
    pub value: Option<f64>,
    pub raw: Option<f64>,
    /// Whether the displayed value, if it is not a measured one, is the mean of the last tenth.
    pub is_mean: bool,
    /// Whether it may be other than a measured one, here or elsewhere.
    pub is_noisy: bool,
    /// Where that was measured, if not at the cross-hair: held-out results are far apart.
    pub measured_at: Option<f64>,
    /// Whether it belongs to the selected run of several, which is drawn above the others.
    pub selected: bool,
}

/// Curves of at most this many points have dots where something was measured; a line of a single point would be invisible.
const SPARSE: usize = 24;

/// Line styles that distinguish metrics when colours distinguish runs.
const STYLES: [LineStyle; 4] =
    [LineStyle::Solid, LineStyle::Dashed { length: 8.0 }, LineStyle::Dotted { spacing: 5.0 }, LineStyle::Dashed { length: 3.0 }];

impl DrawnCurve {
    /// Minimum and maximum on the vertical axis.
    pub fn spans(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.shape.span.into_iter().chain(self.pale.as_ref().and_then(|pale| pale.span))
    }

    /// Draw the spread, the raw curve (pale), and the line itself.
    pub fn draw<'a>(&'a self, plot: &mut PlotUi<'a>, visuals: &egui::Visuals) {
        let [x, low, high] = &self.shape.band;
        if x.len() > 1 {
            let area = FilledArea::new(&self.name, x, low, high);
            plot.add(area.fill_color(self.color.gamma_multiply(0.2)).allow_hover(false));
        }
        let curve = |line: &'a Vec<PlotPoint>| Line::new(self.name.as_str(), PlotPoints::Borrowed(line)).allow_hover(false);
        let pale = theme::lighten(self.color, visuals);
        for line in self.pale.iter().flat_map(|pale| &pale.lines) {
            plot.line(curve(line).color(pale).width(1.0));
            if line.len() == 1 {
                plot.points(
                    Points::new(self.name.as_str(), PlotPoints::Borrowed(line)).color(pale).radius(1.5).allow_hover(false),
                );
            }
        }
        for line in &self.shape.lines {
            // The width of a dotted line is the radius of its dots.
            let dotted = matches!(self.style, LineStyle::Dotted { .. });
            let width = if self.selected { 2.6 } else { 1.8 } * if dotted { 0.55 } else { 1.0 };
            plot.line(curve(line).color(self.color).style(self.style).width(width));
        }
        let is_sparse = self.pale.is_none() && self.shape.lines.iter().map(Vec::len).sum::<usize>() <= SPARSE;
        for line in self.shape.lines.iter().filter(|line| is_sparse || line.len() == 1) {
            plot.points(
                Points::new(self.name.as_str(), PlotPoints::Borrowed(line)).color(self.color).radius(2.8).allow_hover(false),
            );
        }
    }
}

/// The metrics that a chart draws of these runs, in order.
pub fn metrics_of(spec: &ChartSpec, state: &AppState, runs: &[std::path::PathBuf]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for run in runs.iter().filter_map(|path| state.run(path)) {
        for metric in spec.of(&run.files.history) {
            // Parts of several runs in one chart would be unreadable.
            let is_part = !spec.metrics.contains(&metric) && !metric.starts_with("merge/") && runs.len() > 1;
            if !is_part && !found.iter().any(|m| m == metric) {
                found.push(metric.to_owned());
            }
        }
    }
    found
}

/// The curves of the runs as lines, with their values at the cross-hair.
pub(super) fn collect(
    state: &mut AppState,
    spec: &ChartSpec,
    metrics: &[String],
    frame: &Frame<'_>,
    how: &CurveTransform,
    visuals: &egui::Visuals,
) -> Vec<DrawnCurve> {
    let (cursor, share) = (position(state), frame.share(state));
    let mut curve_cache = std::mem::take(&mut state.curve_cache);
    let (many, colors) = (frame.runs.len() > 1, spec.colors(metrics));
    // As in the report: of a metric without noise, which is measured seldom, every other step is named.
    let in_steps = matches!(how.cut.axis, Axis::Steps | Axis::RelativeSteps);
    let near = |is_noisy: bool| if in_steps && !is_noisy { 0.5 } else { 0.01 * (how.cut.to - how.cut.from) };
    let mut drawn = Vec::new();
    for run in frame.runs.iter().filter_map(|path| state.run(path)) {
        let (clock, own) = (&run.files.history.clock, spec.of(&run.files.history));
        for (i, metric) in metrics.iter().enumerate() {
            // Under this name another run may draw a different quantity.
            let Some(raw) = run.files.history.curves.get(metric).filter(|_| own.contains(&metric.as_str())) else { continue };
            let reach = raw.reach(smoothing(metric, share));
            let mut shape = |reach: usize| {
                let source = CurveSource { runs: vec![run.files.path.clone()], metric: metric.clone(), smooth: reach > 0 };
                let lines =
                    |cut: &CurveView| if reach == 0 { raw.lines(clock, cut) } else { raw.smoothed_lines(clock, cut, reach) };
                curve_cache.get(source, how.of(reach, vec![(run.files.reading, raw.len())]), |how| {
                    CurveShape::of_lines(lines(&how.cut), how)
                })
            };
            // No single batch is quoted, also where a run is too short for a smoothed line.
            let is_noisy = smoothing(metric, share) > 0.0;
            let mean = || run.files.history.newest_mean(metric).filter(|(_, n)| is_noisy && *n > 1).map(|(mean, _)| mean);
            let at = cursor.map_or(raw.len().checked_sub(1), |x| raw.index_at(clock, how.cut.axis, x));
            let (color, style) = match many {
                true => (run.color, STYLES[i % STYLES.len()]),
                false => (theme::series(colors[i]), LineStyle::Solid),
            };
            drawn.push(DrawnCurve {
                run: if many { run.name() } else { String::new() },
                name: label(metric),
                color: theme::readable(color, visuals),
                style,
                pale: (reach > 0).then(|| shape(0)),
                shape: shape(reach),
                value: at.map(|i| if cursor.is_none() { mean().unwrap_or(raw.values()[i]) } else { raw.smoothed_at(i, reach) }),
                is_mean: cursor.is_none(),
                is_noisy,
                raw: at.filter(|_| reach > 0 || (is_noisy && cursor.is_none())).map(|i| raw.values()[i]),
                measured_at: at
                    .zip(cursor)
                    .map(|(i, x)| (clock.at(how.cut.axis, raw.rows()[i]), x))
                    .filter(|(at, x)| (at - x).abs() > near(is_noisy))
                    .map(|(at, _)| at),
                selected: many && state.focus.as_ref() == Some(&run.files.path),
            });
        }
    }
    state.curve_cache = curve_cache;
    drawn
}

/// Position of the cross-hair: updates and tokens are integers.
pub(super) fn position(state: &AppState) -> Option<f64> {
    state.cursor.map(|x| match state.look.axis {
        Axis::Steps | Axis::Tokens | Axis::RelativeSteps => x.round(),
        Axis::Wall | Axis::Relative => x,
    })
}

/// View and transformation of all curves of a chart.
pub(super) struct CurveTransform {
    pub cut: CurveView,
    pub log_y: bool,
}

impl CurveTransform {
    fn of(&self, reach: usize, points: Vec<(u64, usize)>) -> Making {
        Making { cut: self.cut, log_y: self.log_y, reach, points }
    }
}

/// Runs that differ only in their seed, drawn as mean and spread; the others individually.
pub(super) fn grouped_by_seed(
    state: &mut AppState,
    (spec, metrics): (&ChartSpec, &[String]),
    (groups, share): (&[Vec<std::path::PathBuf>], f64),
    how: &CurveTransform,
    visuals: &egui::Visuals,
) -> Vec<DrawnCurve> {
    let mut curve_cache: CurveCache = std::mem::take(&mut state.curve_cache);
    let mut drawn = Vec::new();
    for members in groups {
        let runs: Vec<&OpenRun> = members.iter().filter_map(|path| state.run(path)).collect();
        let Some(first) = runs.first() else { continue };
        for (i, metric) in metrics.iter().enumerate() {
            let has = |run: &&OpenRun| spec.of(&run.files.history).contains(&metric.as_str());
            let runs: Vec<&OpenRun> = runs.iter().copied().filter(has).collect();
            let length = |run: &&OpenRun| run.files.history.curves.get(metric).map_or(0, Curve::len);
            let share = smoothing(metric, share);
            // All use the window of the longest, and change with it.
            let reach = (0.5 * share * runs.iter().map(length).max().unwrap_or(0) as f64) as usize;
            let source = CurveSource { runs: members.clone(), metric: metric.clone(), smooth: reach > 0 };
            let points = runs.iter().map(|run| (run.files.reading, length(run))).collect();
            let shape = curve_cache.get(source, how.of(reach, points), |how| {
                CurveShape::of_spread(seeds::spread(&runs, metric, share, &how.cut), how)
            });
            if shape.spread.is_empty() {
                continue;
            }
            let (from, to) = (shape.spread[0].x, shape.spread[shape.spread.len() - 1].x);
            let nearest = |x: f64| shape.spread.iter().min_by(|a, b| (a.x - x).abs().total_cmp(&(b.x - x).abs()));
            let value = match position(state) {
                None => shape.spread.last(),
                Some(x) => nearest(x).filter(|_| from <= x && x <= to),
            };
            drawn.push(DrawnCurve {
                run: if members.len() > 1 { format!("mean of {} seeds", members.len()) } else { first.name() },
                name: label(metric),
                color: theme::readable(first.color, visuals),
                style: STYLES[i % STYLES.len()],
                value: value.map(|s| s.mean),
                raw: None,
                is_mean: false,
                is_noisy: false,
                measured_at: None,
                pale: None,
                selected: members.iter().any(|path| state.focus.as_ref() == Some(path)),
                shape,
            });
        }
    }
    state.curve_cache = curve_cache;
    drawn
}

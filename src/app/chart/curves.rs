//! The curves of the runs, as lines to draw.

use super::Frame;
use crate::app::desk::{Desk, OpenRun};
use crate::app::{seeds, theme};
use crate::history::Curve;
use crate::history::spec::{Spec, is_noisy, label};
use eframe::egui::{self, Color32};
use egui_plot::{FilledArea, Line, LineStyle, PlotPoints, PlotUi};

/// A curve of a chart, with how it is drawn.
pub(super) struct Drawn {
    /// The run's name, where several are drawn.
    pub run: String,
    pub name: String,
    pub color: Color32,
    pub style: LineStyle,
    pub lines: Vec<Vec<[f64; 2]>>,
    pub pale: Vec<Vec<[f64; 2]>>,
    /// Of several seeds: (x, lower, upper).
    pub band: Vec<[f64; 3]>,
    /// At the cross-hair: smoothed or only value, and the raw one where that is another.
    pub value: Option<f64>,
    pub raw: Option<f64>,
}

/// Kinds of lines, for the metrics of a run when colours stand for runs.
const STYLES: [LineStyle; 4] =
    [LineStyle::Solid, LineStyle::Dashed { length: 8.0 }, LineStyle::Dotted { spacing: 5.0 }, LineStyle::Dashed { length: 3.0 }];

impl Drawn {
    /// From values to places on the plot: their logarithms, where an axis is logarithmic.
    pub fn place(&mut self, frame: &Frame<'_>, log_y: bool) {
        let up = |y: f64| if log_y { y.log10() } else { y };
        for line in self.lines.iter_mut().chain(&mut self.pale) {
            line.retain(|p| !log_y || p[1] > 0.0);
            line.iter_mut().for_each(|p| *p = [frame.place(p[0]), up(p[1])]);
        }
        self.band.retain(|b| !log_y || b[1] > 0.0);
        self.band.iter_mut().for_each(|b| *b = [frame.place(b[0]), up(b[1]), up(b[2])]);
    }

    /// Draw: the spread, the raw curve pale, the line itself.
    pub fn draw(self, plot: &mut PlotUi<'_>, dark: bool) {
        if self.band.len() > 1 {
            let column = |i: usize| self.band.iter().map(|b| b[i]).collect::<Vec<f64>>();
            let area = FilledArea::new(&self.name, &column(0), &column(1), &column(2));
            plot.add(area.fill_color(self.color.gamma_multiply(0.2)).allow_hover(false));
        }
        let curve = |line| Line::new(self.name.clone(), PlotPoints::from(line)).allow_hover(false);
        let pale = self.color.gamma_multiply(if dark { 0.40 } else { 0.30 });
        for line in self.pale {
            plot.line(curve(line).color(pale).width(1.0));
        }
        for line in self.lines {
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

/// The curves of the runs as lines between the ends of the axis, with their values at the cross-hair.
pub(super) fn collect(
    desk: &mut Desk,
    metrics: &[String],
    frame: &Frame<'_>,
    columns: usize,
    visuals: &egui::Visuals,
) -> Vec<Drawn> {
    let (axis, smoothing, cursor) = (desk.look.axis, desk.look.smoothing, desk.cursor);
    let (from, to) = frame.ends();
    let many = frame.runs.len() > 1;
    let mut drawn = Vec::new();
    for path in frame.runs {
        let Some(run): Option<&mut OpenRun> = desk.run_mut(path) else { continue };
        for (i, metric) in metrics.iter().enumerate() {
            let smooth = is_noisy(metric) && smoothing > 0.0 && run.smooth(metric, smoothing).is_some();
            let Some(raw) = run.files.history.curves.get(metric) else { continue };
            let clock = &run.files.history.clock;
            let lines = |curve: &Curve| curve.lines(clock, axis, from, to, columns);
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
                pale: if smooth { lines(raw) } else { Vec::new() },
                band: Vec::new(),
                lines: smoothed.map_or_else(|| lines(raw), |s| lines(&s.curve)),
                value: smoothed.map_or_else(|| at(raw), |s| at(&s.curve)),
                raw: if smooth { at(raw) } else { None },
            });
        }
    }
    drawn
}

/// Runs that differ only in their seed, drawn as mean and spread; the others as they are.
pub(super) fn together(
    desk: &Desk,
    metrics: &[String],
    frame: &Frame<'_>,
    alone: Vec<Drawn>,
    visuals: &egui::Visuals,
) -> Vec<Drawn> {
    let groups = seeds::groups(desk, frame.runs);
    if groups.iter().all(|members| members.len() < 2) {
        return alone;
    }
    let (from, to) = frame.ends();
    let mut drawn = Vec::new();
    for members in &groups {
        let runs: Vec<&OpenRun> = members.iter().filter_map(|path| desk.run(path)).collect();
        for (i, metric) in metrics.iter().enumerate() {
            let spread = seeds::spread(&runs, metric, desk.look.axis, from, to);
            let Some(at) =
                desk.cursor.map_or(spread.last(), |x| spread.iter().min_by(|a, b| (a.x - x).abs().total_cmp(&(b.x - x).abs())))
            else {
                continue;
            };
            let of = if runs.len() > 1 { format!("mean of {} seeds", runs.len()) } else { runs[0].name() };
            drawn.push(Drawn {
                run: of,
                name: label(metric),
                color: theme::readable(runs[0].color, visuals),
                style: STYLES[i % STYLES.len()],
                value: Some(at.mean),
                raw: None,
                pale: Vec::new(),
                lines: vec![spread.iter().map(|s| [s.x, s.mean]).collect()],
                band: spread.iter().map(|s| [s.x, s.mean - s.std, s.mean + s.std]).collect(),
            });
        }
    }
    drawn
}

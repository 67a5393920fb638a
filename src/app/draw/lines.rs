//! Lines over the steps of a run.

use super::{figure, tooltip};
use crate::app::format::number;
use crate::history::{Axis, CurveView, History};
use crate::number_format::count;
use crate::plot::{Chart, Ink, Series, Values};
use eframe::egui::{Stroke, Ui};

/// A metric.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Its name in the run's curves.
    pub metric: &'a str,
    /// Legend label.
    pub name: String,
    /// Its colour.
    pub color: Ink,
    /// Whether points are marked, for metrics measured rarely.
    pub dots: bool,
}

/// A line chart.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    /// Its name for screen readers.
    pub name: &'a str,
    /// Metrics.
    pub lines: Vec<Line<'a>>,
    /// Label of the vertical axis.
    pub y_label: &'a str,
    /// Whether the vertical axis is logarithmic.
    pub log: bool,
    /// A step to mark.
    pub at: Option<u64>,
    /// First step to show.
    pub from: f64,
    /// Height in points.
    pub height: f32,
}

/// Draw lines.
pub fn lines(ui: &mut Ui, run: &History, it: &Lines<'_>) {
    let clock = &run.clock;
    let shown: Vec<_> = it.lines.iter().filter_map(|line| Some((line, run.curves.get(line.metric)?))).collect();
    // An empty chart would show an axis of its own making.
    if shown.is_empty() {
        return;
    }
    let step = |row: Option<&u32>| row.map(|row| clock.at(Axis::Steps, *row));
    let first = shown.iter().filter_map(|(_, curve)| step(curve.rows().first())).fold(f64::INFINITY, f64::min);
    let from = if first.is_finite() { it.from.max(first) } else { it.from };
    let to = shown.iter().filter_map(|(_, curve)| step(curve.rows().last())).fold(from + 1.0, f64::max);
    let read_out = |x: f64| -> Vec<String> {
        let near = shown.iter().filter_map(|(line, curve)| {
            let i = curve.index_at(clock, Axis::Steps, x)?;
            let (at, value) = (clock.at(Axis::Steps, curve.rows()[i]), curve.values()[i]);
            Some(format!("{}: {} (step {})", line.name, number(value), count(at as u64)))
        });
        near.collect()
    };
    let said = format!("{}: {}", it.name, read_out(to).join("; "));
    let painted = figure(ui, &said, it.height, |width, height| {
        let cut = CurveView { axis: Axis::Steps, from, to, columns: width as usize, log: false };
        let mut chart = Chart::new(it.name).untitled().size(width, height);
        chart = chart.x("step").x_values(Values::Whole).x_range(from, to).y(it.y_label);
        if it.log && shown.iter().any(|(_, curve)| curve.values().iter().any(|v| *v > 0.0)) {
            chart = chart.log_y();
        }
        for (line, curve) in &shown {
            let series = Series::line(&line.name, &points(curve.lines(clock, &cut))).ink(line.color);
            // A line of a single point would be invisible.
            let is_marked = (line.dots && curve.len() < 200) || curve.len() == 1;
            chart = chart.add(if is_marked { series.marked() } else { series });
        }
        if let Some(step) = it.at {
            chart = chart.vline(step as f64, "");
        }
        chart.into()
    });
    if let (Some((x, y)), Some(axes)) = (painted.pointer(), painted.scene.axes)
        && axes.area.contains(x, y)
    {
        let place = painted.at((x, axes.area.y)).x;
        let across = painted.at((x, axes.area.y)).y..=painted.at((x, axes.area.bottom())).y;
        painted.painter.vline(place, across, Stroke::new(1.0, ui.visuals().weak_text_color().gamma_multiply(0.6)));
        tooltip(&painted.response, read_out(axes.x.invert(x)));
    }
}

/// Lines as points of one series, separated by gaps.
pub fn points(lines: Vec<Vec<[f64; 2]>>) -> Vec<(f64, f64)> {
    lines.into_iter().flat_map(|line| line.into_iter().map(|[x, y]| (x, y)).chain([(f64::NAN, f64::NAN)])).collect()
}

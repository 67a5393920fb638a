//! Lines over the steps of a run.

use super::canvas::{Axes, tooltip};
use super::legend;
use super::scale::{Scale, short};
use crate::app::theme::readable;
use crate::history::{Axis, Cut, History};
use eframe::egui::{Color32, Stroke, Ui};

/// One metric.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Its name in the run's curves.
    pub metric: &'a str,
    /// What the legend says.
    pub name: String,
    /// Its colour.
    pub color: Color32,
    /// Every point is marked: for what is measured now and then.
    pub dots: bool,
}

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    /// What it is, for those who do not see it.
    pub name: &'a str,
    /// Metrics.
    pub lines: Vec<Line<'a>>,
    /// What is counted up.
    pub y_label: &'a str,
    /// Logarithmic upwards.
    pub log: bool,
    /// A step to be marked.
    pub at: Option<u64>,
    /// Only from this step on.
    pub from: f64,
    /// Height in points.
    pub height: f32,
}

/// Draw lines.
pub fn lines(ui: &mut Ui, run: &History, it: &Lines<'_>) {
    let clock = &run.clock;
    let shown: Vec<_> = it
        .lines
        .iter()
        .filter_map(|line| Some((line, run.curves.get(line.metric)?, readable(line.color, ui.visuals()))))
        .collect();
    legend(ui, shown.iter().map(|(line, _, color)| (line.name.as_str(), *color)));
    let ends = shown.iter().filter_map(|(_, curve, _)| curve.rows().last()).map(|row| clock.at(Axis::Steps, *row));
    let x = Scale::linear(it.from, ends.fold(it.from + 1.0, f64::max));
    let cut = Cut { axis: Axis::Steps, from: x.from(), to: x.to(), columns: ui.available_width() as usize, log: false };
    let drawn: Vec<_> = shown.iter().map(|(_, curve, _)| curve.lines(clock, &cut)).collect();
    let values = drawn.iter().flatten().flatten().filter(|p| p[0] >= x.from()).map(|p| p[1]);
    let axes = Axes { height: it.height, ..Axes::new(x, "step", Scale::around(values, it.log), it.y_label) };
    let told = |x: f64| -> Vec<String> {
        let near = shown.iter().filter_map(|(line, curve, _)| {
            let i = curve.index_at(clock, Axis::Steps, x)?;
            let (at, value) = (clock.at(Axis::Steps, curve.rows()[i]), curve.values()[i]);
            Some(format!("{}: {} (step {at})", line.name, short(value)))
        });
        near.collect()
    };
    let canvas = axes.show(ui, || format!("{}: {}", it.name, told(f64::MAX).join("; ")));
    let inside = canvas.painter.with_clip_rect(canvas.area.expand(2.0).intersect(canvas.painter.clip_rect()));
    for ((line, curve, color), pieces) in shown.iter().zip(&drawn) {
        for piece in pieces {
            let points: Vec<_> = piece.iter().filter(|p| !axes.y.is_log() || p[1] > 0.0).map(|p| canvas.at(p[0], p[1])).collect();
            // A point by itself would not be seen as a line.
            if points.len() == 1 || (line.dots && curve.len() < 200) {
                points.iter().for_each(|p| {
                    inside.circle_filled(*p, 2.5, *color);
                });
            }
            inside.line(points, Stroke::new(1.6, *color));
        }
    }
    if let Some(step) = it.at {
        canvas.painter.vline(canvas.x_at(step as f64), canvas.area.y_range(), Stroke::new(1.0, canvas.ink));
    }
    if let Some((x, _)) = canvas.pointer() {
        canvas.painter.vline(canvas.x_at(x), canvas.area.y_range(), Stroke::new(1.0, canvas.ink.gamma_multiply(0.6)));
        tooltip(&canvas.response, told(x));
    }
}

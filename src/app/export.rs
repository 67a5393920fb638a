//! Charts as files.

use super::chart::values;
use super::draw::points;
use super::state::{Action, AppState};
use crate::history::chart_spec::{ChartSpec, label, smoothing};
use crate::history::{Axis, CurveView};
use crate::plot::{Chart, Series};
use std::path::{Path, PathBuf};

/// Points of a curve in a picture.
const COLUMNS: usize = 900;

/// `RUN/exports/TITLE.EXTENSION`.
pub fn export_path(run: &Path, title: &str, extension: &str) -> PathBuf {
    run.join("exports").join(format!("{}.{extension}", title.to_lowercase().replace(' ', "-")))
}

/// Ask for a chart as PNG, beside the first of its runs: drawn as the report draws it, not as the screen shows it.
pub fn export_png(state: &mut AppState, spec: &ChartSpec, runs: &[PathBuf], metrics: &[String]) {
    if let Some(first) = runs.first() {
        let svg = svg(state, spec, runs, metrics);
        state.request(Action::Picture(export_path(first, spec.title, "png"), svg));
    }
}

/// Ask for a chart's metrics as CSV, beside each of its runs.
pub fn tables(state: &mut AppState, spec: &ChartSpec, runs: &[PathBuf], metrics: &[String]) {
    for run in runs {
        let to = export_path(run, spec.title, "csv");
        state.request(Action::Csv { run: run.clone(), metrics: metrics.to_vec(), to });
    }
}

fn svg(state: &AppState, spec: &ChartSpec, runs: &[PathBuf], metrics: &[String]) -> String {
    let axis = state.look.axis;
    let x_label = if axis == Axis::Wall { "time" } else { axis.label() };
    let mut chart = Chart::new(spec.title).x(x_label).x_values(values(axis)).y(spec.y).size(900.0, 480.0);
    if spec.log_y {
        chart = chart.log_y();
    }
    let (many, colors) = (runs.len() > 1, spec.colors(metrics));
    for run in runs.iter().filter_map(|path| state.run(path)) {
        let clock = &run.files.history.clock;
        let (from, to) = clock.extent(axis).unwrap_or((0.0, 1.0));
        let cut = CurveView { axis, from, to, columns: COLUMNS, log: false };
        for (i, (metric, own)) in metrics.iter().zip(&colors).enumerate() {
            let Some(raw) =
                run.files.history.curves.get(metric).filter(|_| spec.of(&run.files.history).contains(&metric.as_str()))
            else {
                continue;
            };
            let name = if many { format!("{}: {}", run.name(), label(metric)) } else { label(metric) };
            let (color, dash) = if many { (run.hue, i) } else { (*own, 0) };
            let series = |name: &str, lines| Series::line(name, &points(lines)).color(color).dashes(dash);
            let reach = raw.reach(smoothing(metric, state.look.smooth));
            chart = match reach {
                0 => chart.add(series(&name, raw.lines(clock, &cut))),
                _ => chart
                    .add(series("", raw.lines(clock, &cut)).pale())
                    .add(series(&name, raw.smoothed_lines(clock, &cut, reach))),
            };
        }
    }
    chart.svg()
}

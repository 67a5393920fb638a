//! A chart: curves of runs over a shared axis, values at the shared cross-hair, marks of events.

mod axis;
mod curves;
mod legend;
mod pins;
mod touch;

pub use curves::metrics_of;
pub use pins::pin_color;

use super::curve_cache::plot_coordinate;
use super::state::AppState;
use super::{seeds, theme};
use crate::history::chart_spec::ChartSpec;
use crate::history::{Axis, CurveView};
use crate::plot::Values;
pub(crate) use axis::values;
use axis::{Marks, span_of};
use curves::{CurveTransform, collect, grouped_by_seed, position};
use eframe::egui::{self, Color32, RichText, Ui};
use egui_plot::{Plot, PlotBounds, Span, VLine};
use legend::legend_ui;
use pins::{feet_ui, pins_of};
use touch::{chart_interaction, forget_hidden, point, selection};

/// The range of the axis that all charts show; None shows everything.
pub type View = Option<(f64, f64)>;

/// Settings shared by all charts of a page.
pub struct Frame<'a> {
    /// The range that is shown, in the axis' units.
    pub view: View,
    /// The runs to draw.
    pub runs: &'a [std::path::PathBuf],
    /// Whether the axis is logarithmic.
    pub log_x: bool,
    /// Metrics of a chart to show; all if empty.
    pub only: &'a [String],
    /// Show measured curves without smoothing.
    pub raw: bool,
}

impl Frame<'_> {
    /// The ends of the shown range, the full one being `extent`; a logarithmic axis starts at 1 or above.
    fn ends(&self, extent: (f64, f64)) -> (f64, f64) {
        let (from, to) = self.view.unwrap_or(extent);
        let from = if self.log_x { from.max(extent.0.max(1.0)) } else { from };
        if to > from { (from, to) } else { (from, from + 1.0) }
    }

    /// Share of a curve's points in the window of its smoothed line.
    fn share(&self, state: &AppState) -> f64 {
        if self.raw { 0.0 } else { state.look.smooth }
    }

    fn place(&self, x: f64) -> f64 {
        plot_coordinate(x, self.log_x)
    }

    fn inverse(&self, x: f64) -> f64 {
        if self.log_x { 10f64.powf(x) } else { x }
    }
}

/// Space to the right of a plot for half of the last tick label, in points.
const BESIDE: f32 = 24.0;

/// Least width of the vertical axis with its name, in points: wide enough for nearly all labels, so that plots stand below each other.
const UPRIGHT: f32 = 54.0;
/// Approximate width of the vertical axis with its name.
const SIDE: f32 = UPRIGHT + 16.0;

/// Draw a chart with this height; `log_y` makes its vertical axis logarithmic. The range to show from now on, if it was changed.
pub fn chart_ui(
    ui: &mut Ui,
    state: &mut AppState,
    spec: &ChartSpec,
    frame: &Frame<'_>,
    log_y: bool,
    height: f32,
) -> Option<View> {
    forget_hidden(ui.ctx(), state);
    let mut metrics = metrics_of(spec, state, frame.runs);
    metrics.retain(|metric| frame.only.is_empty() || frame.only.contains(metric));
    let columns = (ui.available_width().max(50.0) as usize).min(4000);
    let (from, to) = frame.ends(own_extent(spec, state, frame));
    let how = CurveTransform { cut: CurveView { axis: state.look.axis, from, to, columns, log: frame.log_x }, log_y };
    let groups = if state.look.group_seeds { seeds::groups(state, frame.runs) } else { Vec::new() };
    let drawn = match groups.iter().any(|members| members.len() > 1) {
        true => grouped_by_seed(state, (spec, &metrics), (&groups, frame.share(state)), &how, ui.visuals()),
        false => collect(state, spec, &metrics, frame, &how, ui.visuals()),
    };
    let (low, high) = span_of(&drawn, spec, log_y);
    let bounds = PlotBounds::from_min_max([frame.place(from), low], [frame.place(to), high]);
    let cursor = state.cursor.map(|x| frame.place(x));
    let pins = if state.look.pins { pins_of(state, spec, frame) } else { Vec::new() };
    let lines: Vec<_> = pins.iter().filter(|pin| pin.line).map(|pin| (pin.x, pin.color)).collect();
    let visuals = ui.visuals().clone();
    let size = egui::vec2((ui.available_width() - BESIDE).max(40.0), (height - 20.0).max(40.0));
    let ground = empty_plot(spec, state.look.axis, (frame.log_x, log_y), size).grid_color(theme::grid(&visuals));
    let response = ground.show(ui, |plot| {
        plot.set_plot_bounds(bounds);
        for (x, color) in lines {
            plot.vline(VLine::new("", x).color(color).width(1.0).allow_hover(false));
        }
        // The selected run lies above the others.
        for is_above in [false, true] {
            drawn.iter().filter(|d| d.selected == is_above).for_each(|d| d.draw(plot, &visuals));
        }
        if let Some(x) = cursor {
            let color = if visuals.dark_mode { Color32::GRAY } else { Color32::DARK_GRAY };
            plot.vline(VLine::new("", x).color(color).width(1.0).allow_hover(false));
        }
        if let Some((a, b)) = selection(plot.response(), plot) {
            plot.span(Span::new("", a.min(b)..=a.max(b)).fill(Color32::from_rgba_unmultiplied(120, 150, 200, 50)));
        }
        plot.pointer_coordinate()
    });
    feet_ui(ui, &pins, &response.transform, response.response.rect);
    // Below the plot, so that plots beside each other stand at one height.
    ui.push_id(spec.title, |ui| legend_ui(ui, &drawn, state.look.axis, position(state)));
    let touched = chart_interaction(&response.response, response.inner, &response.transform, (frame, from, to), &pins);
    point(ui.ctx(), state, response.response.id, touched.hover);
    touched.view
}

/// From the first to the last moment of these runs.
pub fn extent<'a>(state: &'a AppState, runs: impl IntoIterator<Item = &'a std::path::PathBuf>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    let of = |path: &std::path::PathBuf| state.run(path)?.files.history.clock.extent(state.look.axis);
    for (from, to) in runs.into_iter().filter_map(of) {
        (low, high) = (low.min(from), high.max(to));
    }
    if low > high { (0.0, 1.0) } else { (low, high) }
}

/// The range of the runs that have a curve in this chart: a short run is not squeezed by a long one of another stage.
fn own_extent(spec: &ChartSpec, state: &AppState, frame: &Frame<'_>) -> (f64, f64) {
    let has_curve = |path: &&std::path::PathBuf| state.run(path).is_some_and(|run| !spec.of(&run.files.history).is_empty());
    extent(state, frame.runs.iter().filter(has_curve))
}

/// An empty plot with its axes. All charts share one view, so the plot itself handles no gestures.
fn empty_plot<'a>(spec: &ChartSpec, axis: Axis, (log_x, log_y): (bool, bool), size: egui::Vec2) -> Plot<'a> {
    let up = Marks { log: log_y, values: Values::Numbers, length: f64::from(size.y), upright: true };
    let across = Marks { log: log_x, values: values(axis), length: f64::from((size.x - SIDE).max(40.0)), upright: false };
    Plot::new(("chart", spec.title))
        .width(size.x)
        .height(size.y)
        .show_crosshair(false)
        .allow_drag(false)
        .allow_zoom(false)
        .allow_scroll(false)
        .allow_boxed_zoom(false)
        .allow_axis_zoom_drag(false)
        .allow_double_click_reset(false)
        .set_margin_fraction(egui::Vec2::ZERO)
        .x_grid_spacer(move |input| across.grid(input))
        .y_grid_spacer(move |input| up.grid(input))
        .x_axis_formatter(move |mark, range| across.label(mark, range))
        .y_axis_formatter(move |mark, range| up.label(mark, range))
        .y_axis_min_width(UPRIGHT)
        .y_axis_label(RichText::new(spec.y).small())
        .label_formatter(|_| None)
}

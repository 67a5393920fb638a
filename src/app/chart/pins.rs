//! Marks of events, at the bottom of every chart.

use super::Frame;
use crate::app::state::{AppState, OpenRun};
use crate::history::PinKind;
use crate::history::chart_spec::ChartSpec;
use eframe::egui::{self, Color32};
use egui_plot::PlotTransform;

/// A mark on the axis.
#[derive(Clone)]
pub(super) struct Pinned {
    pub x: f64,
    pub color: Color32,
    pub text: String,
    /// Whether it has a line over the whole height.
    pub line: bool,
}

/// Marks of the events of the runs that are drawn: position, colour, text.
pub(super) fn pins_of(state: &AppState, spec: &ChartSpec, frame: &Frame<'_>) -> Vec<Pinned> {
    let mut marks = Vec::new();
    let drawn = |run: &&OpenRun| !spec.of(&run.files.history).is_empty();
    for run in frame.runs.iter().filter_map(|path| state.run(path)).filter(drawn) {
        let of = if frame.runs.len() > 1 { format!("{}: ", run.name()) } else { String::new() };
        let history = &run.files.history;
        let kinds = |kind| !matches!(kind, PinKind::Start | PinKind::End | PinKind::Warning | PinKind::Pause);
        let newest = history.pins.iter().rev().filter(|pin| kinds(pin.kind)).take(300);
        marks.extend(newest.map(|pin| {
            let x = frame.place(history.clock.at(state.look.axis, pin.row));
            let text = format!("{of}step {}: {}", crate::app::format::count(pin.step), pin.text);
            Pinned { x, color: pin_color(pin.kind), text, line: pin.kind != PinKind::Save }
        }));
    }
    marks
}

/// The colour of a mark.
pub fn pin_color(kind: PinKind) -> Color32 {
    match kind {
        PinKind::Save => Color32::from_rgba_unmultiplied(130, 130, 130, 160),
        PinKind::Merge => Color32::from_rgba_unmultiplied(0, 158, 115, 200),
        PinKind::Rescue => Color32::from_rgba_unmultiplied(213, 94, 0, 230),
        PinKind::LiveSettings => Color32::from_rgba_unmultiplied(204, 121, 167, 230),
        _ => Color32::from_rgba_unmultiplied(120, 120, 120, 120),
    }
}

/// Width of a mark on the axis, in points.
const FOOT: f32 = 7.0;

/// A mark on the axis for each event; saves have no line, since many lines would hide the curves, and none where they would overlap.
pub(super) fn feet_ui(ui: &egui::Ui, pins: &[Pinned], transform: &PlotTransform, plot: egui::Rect) {
    let mut saves: Vec<f32> = Vec::new();
    for pin in pins {
        let foot = egui::pos2(transform.position_from_point_x(pin.x), plot.bottom());
        let is_hidden = !pin.line && saves.iter().any(|x| (x - foot.x).abs() < FOOT + 2.0);
        if plot.x_range().contains(foot.x) && !is_hidden {
            if !pin.line {
                saves.push(foot.x);
            }
            let points =
                vec![foot + egui::vec2(-FOOT / 2.0, 0.0), foot + egui::vec2(FOOT / 2.0, 0.0), foot + egui::vec2(0.0, -6.0)];
            ui.painter().add(egui::Shape::convex_polygon(points, pin.color, egui::Stroke::NONE));
        }
    }
}

//! Interaction with a chart: the cross-hair, zoom by dragging or with the wheel, pan, reset, select a mark.

use super::pins::Pinned;
use super::{Frame, View};
use crate::app::state::AppState;
use eframe::egui;
use egui_plot::PlotPoint;

/// Result of an interaction with a chart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ChartResponse {
    /// The range to show from now on.
    pub view: Option<View>,
    /// Position of the pointer on the axis.
    pub hover: Option<f64>,
}

/// The chart under the pointer, and the pass in which it was drawn.
#[derive(Clone, Copy)]
struct Pointed {
    chart: egui::Id,
    pass: u64,
}

fn key() -> egui::Id {
    egui::Id::unique("cross-hair")
}

/// Before a chart is drawn: the cross-hair of a chart that is not drawn any more is gone.
pub(super) fn forget_hidden(ctx: &egui::Context, state: &mut AppState) {
    let pointed: Option<Pointed> = ctx.data(|d| d.get_temp(key()));
    if pointed.is_some_and(|p| p.pass + 1 < ctx.cumulative_pass_nr()) {
        ctx.data_mut(|d| d.remove::<Pointed>(key()));
        state.cursor = None;
    }
}

/// After a chart was drawn: the cross-hair of all charts is where the pointer is, and nowhere when it has left.
pub(super) fn point(ctx: &egui::Context, state: &mut AppState, chart: egui::Id, hover: Option<f64>) {
    let pointed: Option<Pointed> = ctx.data(|d| d.get_temp(key()));
    if hover.is_none() && pointed.is_none_or(|p| p.chart != chart) {
        return;
    }
    match hover {
        Some(_) => {
            let pass = ctx.cumulative_pass_nr();
            ctx.data_mut(|d| d.insert_temp(key(), Pointed { chart, pass }));
        }
        None => ctx.data_mut(|d| d.remove::<Pointed>(key())),
    }
    // Charts above this one showed the previous position, which also changes below a still pointer when a run grows.
    if std::mem::replace(&mut state.cursor, hover) != hover {
        ctx.request_repaint();
    }
}

/// Start of a selection on the plot's axis, stored because egui forgets the pointer's origin when the button is released.
fn origin(response: &egui::Response, here: Option<f64>) -> Option<f64> {
    let id = response.id.with("selection");
    if response.drag_started_by(egui::PointerButton::Primary) {
        response.ctx.data_mut(|d| d.insert_temp(id, here));
    }
    response.ctx.data(|d| d.get_temp::<Option<f64>>(id)).flatten()
}

/// Both ends of a selection by dragging.
pub(super) fn selection(response: &egui::Response, plot: &egui_plot::PlotUi<'_>) -> Option<(f64, f64)> {
    let here = plot.pointer_coordinate().map(|p| p.x);
    let pressed = response.ctx.input(|i| i.pointer.press_origin()).map(|p| plot.plot_from_screen(p).x);
    let origin = origin(response, pressed.or(here))?;
    response.dragged_by(egui::PointerButton::Primary).then_some((origin, here?))
}

/// The interaction with a drawn chart.
pub(super) fn chart_interaction(
    response: &egui::Response,
    pointer: Option<PlotPoint>,
    transform: &egui_plot::PlotTransform,
    (frame, from, to): (&Frame<'_>, f64, f64),
    pins: &[Pinned],
) -> ChartResponse {
    let mut out = ChartResponse::default();
    let inside = |x: f64| frame.inverse(x);
    if let (Some(at), true) = (pointer, response.hovered()) {
        out.hover = Some(inside(at.x));
        let near = (transform.dvalue_dpos()[0] * 4.0).abs();
        let texts: Vec<&str> = pins.iter().filter(|p| (p.x - at.x).abs() <= near).map(|p| p.text.as_str()).take(6).collect();
        if !texts.is_empty() {
            response.clone().on_hover_text_at_pointer(texts.join("\n"));
        }
        let (scroll, zoom) = response.ctx.input(|i| (i.smooth_scroll_delta.x, i.zoom_delta()));
        if zoom != 1.0 {
            let part = f64::from(1.0 / zoom);
            let (a, b) = (frame.place(from), frame.place(to));
            out.view = Some(Some((inside(at.x + (a - at.x) * part), inside(at.x + (b - at.x) * part))));
        } else if scroll != 0.0 && frame.view.is_some() {
            let by = -f64::from(scroll) * transform.dvalue_dpos()[0];
            out.view = Some(Some((inside(frame.place(from) + by), inside(frame.place(to) + by))));
        }
    }
    if response.drag_stopped_by(egui::PointerButton::Primary)
        && let (Some(a), Some(end)) = (origin(response, None), response.ctx.input(|i| i.pointer.latest_pos()))
    {
        let b = transform.value_from_position(end).x;
        let few_pixels = (a - b).abs() < 5.0 * transform.dvalue_dpos()[0].abs();
        if !few_pixels {
            out.view = Some(Some((inside(a.min(b)), inside(a.max(b)))));
        }
    }
    if response.double_clicked() {
        out.view = Some(None);
    }
    out
}

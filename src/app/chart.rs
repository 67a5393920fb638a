//! One chart: curves of runs over a shared axis, their read-out at the shared cross-hair, marks of what happened.

use super::desk::{Desk, OpenRun};
use super::{format, seeds, theme};
use crate::history::spec::{Spec, is_noisy, label};
use crate::history::{Axis, Curve, PinKind};
use eframe::egui::{self, Color32, RichText, Ui};
use egui_plot::{FilledArea, GridInput, GridMark, Line, LineStyle, Plot, PlotBounds, PlotPoint, PlotPoints, Span, VLine};

/// The part of the axis that all charts show; None shows everything.
pub type View = Option<(f64, f64)>;

/// What somebody did to a chart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Touched {
    /// The part to show from now on.
    pub view: Option<View>,
    /// Where the pointer is on the axis.
    pub hover: Option<f64>,
}

/// A curve of a chart, with how it is drawn.
struct Drawn {
    /// The run's name, where several are drawn.
    run: String,
    name: String,
    color: Color32,
    style: LineStyle,
    lines: Vec<Vec<[f64; 2]>>,
    pale: Vec<Vec<[f64; 2]>>,
    /// Of several seeds: (x, lower, upper).
    band: Vec<[f64; 3]>,
    /// At the cross-hair: smoothed or only value, and the raw one where that is another.
    value: Option<f64>,
    raw: Option<f64>,
}

/// Kinds of lines, for the metrics of a run when colours stand for runs.
const STYLES: [LineStyle; 4] =
    [LineStyle::Solid, LineStyle::Dashed { length: 8.0 }, LineStyle::Dotted { spacing: 5.0 }, LineStyle::Dashed { length: 3.0 }];

/// What all charts of a page have in common.
pub struct Frame<'a> {
    /// The part of the axis that is shown, in the axis' units.
    pub view: View,
    /// The whole of it.
    pub extent: (f64, f64),
    /// The runs that are drawn.
    pub runs: &'a [std::path::PathBuf],
    /// The axis is logarithmic.
    pub log_x: bool,
    /// Only these metrics of a chart; all when empty.
    pub only: &'a [String],
}

impl Frame<'_> {
    /// The ends of what is shown; a logarithmic axis begins at 1 at least.
    fn ends(&self) -> (f64, f64) {
        let (from, to) = self.view.unwrap_or(self.extent);
        let from = if self.log_x { from.max(self.extent.0.max(1.0)) } else { from };
        if to > from { (from, to) } else { (from, from + 1.0) }
    }

    fn place(&self, x: f64) -> f64 {
        if self.log_x { x.max(1e-9).log10() } else { x }
    }

    fn back(&self, x: f64) -> f64 {
        if self.log_x { 10f64.powf(x) } else { x }
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

/// Draw a chart of this height; `log_y` switches its axis.
pub fn chart_ui(ui: &mut Ui, desk: &mut Desk, spec: &Spec, frame: &Frame<'_>, log_y: bool, height: f32) -> Touched {
    let mut metrics = metrics_of(spec, desk, frame.runs);
    metrics.retain(|metric| frame.only.is_empty() || frame.only.contains(metric));
    let columns = (ui.available_width().max(50.0) as usize).min(4000);
    let mut drawn = collect(desk, &metrics, frame, columns, ui.visuals());
    if desk.look.group_seeds {
        drawn = together(desk, &metrics, frame, drawn, ui.visuals());
    }
    legend_ui(ui, &drawn);
    let transform = |y: f64| if log_y { y.log10() } else { y };
    for line in drawn.iter_mut().flat_map(|d| d.lines.iter_mut().chain(&mut d.pale)) {
        line.retain(|p| !log_y || p[1] > 0.0);
        line.iter_mut().for_each(|p| *p = [frame.place(p[0]), transform(p[1])]);
    }
    for d in &mut drawn {
        d.band.retain(|b| !log_y || b[1] > 0.0);
        d.band.iter_mut().for_each(|b| *b = [frame.place(b[0]), transform(b[1]), transform(b[2])]);
    }
    let (low, high) = span_of(&drawn, spec, log_y);
    let (from, to) = frame.ends();
    let axis = desk.look.axis;
    let log_x = frame.log_x;
    let plot = Plot::new(("chart", spec.title))
        // Half of the last number at the axis lies beyond the plot.
        .width((ui.available_width() - 24.0).max(40.0))
        .height((height - 20.0).max(40.0))
        .show_crosshair(false)
        .allow_drag(false)
        .allow_zoom(false)
        .allow_scroll(false)
        .allow_boxed_zoom(false)
        .allow_axis_zoom_drag(false)
        .allow_double_click_reset(false)
        .set_margin_fraction(egui::Vec2::ZERO)
        .x_grid_spacer(move |input| marks(input, log_x))
        .y_grid_spacer(move |input| marks(input, log_y))
        .x_axis_formatter(move |mark, _| tick(mark.value, log_x, axis))
        .y_axis_formatter(move |mark, _| if log_y { format::tick(10f64.powf(mark.value)) } else { format::tick(mark.value) })
        .y_axis_min_width(44.0)
        .y_axis_label(RichText::new(spec.y).small())
        .label_formatter(|_| None);
    let bounds = PlotBounds::from_min_max([frame.place(from), low], [frame.place(to), high]);
    let cursor = desk.cursor.map(|x| frame.place(x));
    let pins = if desk.look.pins { pins_of(desk, frame) } else { Vec::new() };
    let pins_drawn = pins.clone();
    let dark = ui.visuals().dark_mode;
    let response = plot.show(ui, |plot| {
        plot.set_plot_bounds(bounds);
        for pin in pins_drawn.iter().filter(|pin| pin.line) {
            plot.vline(VLine::new("", pin.x).color(pin.color).width(1.0).allow_hover(false));
        }
        for d in drawn {
            let pale = if dark { 0.40 } else { 0.30 };
            if d.band.len() > 1 {
                let column = |i: usize| d.band.iter().map(|b| b[i]).collect::<Vec<f64>>();
                let area = FilledArea::new(&d.name, &column(0), &column(1), &column(2));
                plot.add(area.fill_color(d.color.gamma_multiply(0.2)).allow_hover(false));
            }
            for line in d.pale {
                plot.line(curve(&d.name, line).color(d.color.gamma_multiply(pale)).width(1.0).allow_hover(false));
            }
            for line in d.lines {
                plot.line(curve(&d.name, line).color(d.color).style(d.style).width(1.8).allow_hover(false));
            }
        }
        if let Some(x) = cursor {
            plot.vline(
                VLine::new("", x).color(if dark { Color32::GRAY } else { Color32::DARK_GRAY }).width(1.0).allow_hover(false),
            );
        }
        if let Some((a, b)) = selection(plot.response(), plot) {
            plot.span(Span::new("", a.min(b)..=a.max(b)).fill(Color32::from_rgba_unmultiplied(120, 150, 200, 50)));
        }
        plot.pointer_coordinate()
    });
    for pin in &pins {
        // A foot on the axis; saves have nothing else, or they would bury the curves.
        let foot = egui::pos2(response.transform.position_from_point_x(pin.x), response.response.rect.bottom());
        if response.response.rect.x_range().contains(foot.x) {
            let points = vec![foot + egui::vec2(-3.5, 0.0), foot + egui::vec2(3.5, 0.0), foot + egui::vec2(0.0, -6.0)];
            ui.painter().add(egui::Shape::convex_polygon(points, pin.color, egui::Stroke::NONE));
        }
    }
    touched(&response.response, response.inner, &response.transform, frame, &pins)
}

/// A mark on the axis.
#[derive(Clone)]
struct Pinned {
    x: f64,
    color: Color32,
    text: String,
    /// Drawn over the whole height.
    line: bool,
}

fn curve(name: &str, line: Vec<[f64; 2]>) -> Line<'static> {
    Line::new(name.to_owned(), PlotPoints::from(line))
}

/// Where a selection began, on the plot's axis: the pointer's origin is forgotten by the time that the button is let go.
fn origin(response: &egui::Response, here: Option<f64>) -> Option<f64> {
    let id = response.id.with("selection");
    if response.drag_started_by(egui::PointerButton::Primary) {
        response.ctx.data_mut(|d| d.insert_temp(id, here));
    }
    response.ctx.data(|d| d.get_temp::<Option<f64>>(id)).flatten()
}

/// Both ends of what is being selected by dragging.
fn selection(response: &egui::Response, plot: &egui_plot::PlotUi<'_>) -> Option<(f64, f64)> {
    let here = plot.pointer_coordinate().map(|p| p.x);
    let pressed = response.ctx.input(|i| i.pointer.press_origin()).map(|p| plot.plot_from_screen(p).x);
    let origin = origin(response, pressed.or(here))?;
    response.dragged_by(egui::PointerButton::Primary).then_some((origin, here?))
}

fn touched(
    response: &egui::Response,
    pointer: Option<PlotPoint>,
    transform: &egui_plot::PlotTransform,
    frame: &Frame<'_>,
    pins: &[Pinned],
) -> Touched {
    let mut out = Touched::default();
    let inside = |x: f64| frame.back(x);
    if let (Some(at), true) = (pointer, response.hovered()) {
        out.hover = Some(inside(at.x));
        let near = (transform.dvalue_dpos()[0] * 4.0).abs();
        let texts: Vec<&str> = pins.iter().filter(|p| (p.x - at.x).abs() <= near).map(|p| p.text.as_str()).take(6).collect();
        if !texts.is_empty() {
            response.clone().on_hover_text_at_pointer(texts.join("\n"));
        }
        let (scroll, zoom) = response.ctx.input(|i| (i.smooth_scroll_delta.x, i.zoom_delta()));
        let (from, to) = frame.ends();
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

/// The curves of the runs as lines between the ends of the axis, with their values at the cross-hair.
fn collect(desk: &mut Desk, metrics: &[String], frame: &Frame<'_>, columns: usize, visuals: &egui::Visuals) -> Vec<Drawn> {
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
                true => (readable(run.color, visuals), STYLES[i % STYLES.len()]),
                false => (readable(theme::series(i), visuals), LineStyle::Solid),
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
fn together(desk: &Desk, metrics: &[String], frame: &Frame<'_>, alone: Vec<Drawn>, visuals: &egui::Visuals) -> Vec<Drawn> {
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
                color: readable(runs[0].color, visuals),
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

/// A series colour that can be seen on the background.
pub fn readable(color: Color32, visuals: &egui::Visuals) -> Color32 {
    let [r, g, b, _] = color.to_array();
    let light = 0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b);
    match visuals.dark_mode {
        true if light < 110.0 => {
            let lift = |c: u8| (f32::from(c) * 0.55 + 110.0) as u8;
            Color32::from_rgb(lift(r), lift(g), lift(b))
        }
        false if light > 170.0 => color.gamma_multiply(0.8),
        _ => color,
    }
}

/// Names, colours and values: what a legend says, with the read-out of the cross-hair. Of several runs the names of lines are said once,
/// and each run tells its values in their order.
fn legend_ui(ui: &mut Ui, drawn: &[Drawn]) {
    let value = |d: &Drawn| d.value.map_or_else(|| "none".to_owned(), format::number);
    let many = drawn.iter().any(|d| !d.run.is_empty());
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing = egui::vec2(4.0, 1.0);
        if !many {
            for d in drawn.iter().take(SAID) {
                sample_ui(ui, d.color, LineStyle::Solid);
                let text = ui.label(RichText::new(format!("{} {}", d.name, value(d))).small());
                if let Some(raw) = d.raw {
                    text.on_hover_text(format!("{}\nsmoothed {}\nraw {}", d.name, value(d), format::number(raw)));
                }
                ui.add_space(6.0);
            }
            if drawn.len() > SAID {
                let rest: Vec<String> = drawn[SAID..].iter().map(|d| format!("{} {}", d.name, value(d))).collect();
                ui.label(RichText::new(format!("and {} more", rest.len())).small().weak()).on_hover_text(rest.join("\n"));
            }
            return;
        }
        let mut names: Vec<&str> = Vec::new();
        for d in drawn.iter().filter(|d| !d.name.is_empty()) {
            if !names.contains(&d.name.as_str()) {
                names.push(&d.name);
                sample_ui(ui, ui.visuals().weak_text_color(), d.style);
                ui.label(RichText::new(&d.name).small().weak());
                ui.add_space(4.0);
            }
        }
    });
    if many {
        ui.horizontal_wrapped(|ui| {
            ui.spacing_mut().item_spacing = egui::vec2(4.0, 1.0);
            for of in drawn.chunk_by(|a, b| a.run == b.run).take(SAID) {
                let values: Vec<String> = of.iter().map(value).collect();
                let exact: Vec<String> = of.iter().map(|d| format!("{} {}", d.name, value(d))).collect();
                let text = RichText::new(format!("{} {}", of[0].run, values.join(" / "))).small().color(of[0].color);
                ui.label(text).on_hover_text(exact.join("\n"));
                ui.add_space(6.0);
            }
        });
    }
}

/// Entries of a legend that are said; the others are in its hover.
const SAID: usize = 8;

fn sample_ui(ui: &mut Ui, color: Color32, style: LineStyle) {
    let (rect, _) = ui.allocate_exact_size(egui::vec2(18.0, 10.0), egui::Sense::hover());
    let ends = [rect.left_center(), rect.right_center()];
    let stroke = egui::Stroke::new(2.0, color);
    match style {
        LineStyle::Dashed { length } => ui.painter().extend(egui::Shape::dashed_line(&ends, stroke, length.min(5.0), 3.0)),
        LineStyle::Dotted { .. } => ui.painter().extend(egui::Shape::dotted_line(&ends, color, 4.0, 1.2)),
        _ => {
            ui.painter().line_segment(ends, stroke);
        }
    }
}

/// Ends of the vertical axis: of everything drawn, with some air; as wide as the chart asks for.
fn span_of(drawn: &[Drawn], spec: &Spec, log_y: bool) -> (f64, f64) {
    let lines = drawn.iter().flat_map(|d| d.lines.iter().chain(&d.pale)).flatten().map(|p| (p[1], p[1]));
    let bands = drawn.iter().flat_map(|d| &d.band).map(|b| (b[1], b[2]));
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (least, most) in lines.chain(bands) {
        (low, high) = (low.min(least), high.max(most));
    }
    if low > high {
        (low, high) = if log_y { (-1.0, 1.0) } else { (0.0, 1.0) };
    }
    if let (Some((least, most)), false) = (spec.range, log_y) {
        (low, high) = (low.min(least), high.max(most));
        let air = 0.02 * (high - low);
        return (low - air, high + air);
    }
    if high - low <= 1e-9 * high.abs() {
        // A single value lies in the middle, over a base of zero where that has a meaning.
        return match (log_y, low) {
            (true, _) => (low - 0.5, high + 0.5),
            (_, 0.0) => (-1.0, 1.0),
            _ => (low.min(0.0) * 2.0, high.max(0.0) * 2.0),
        };
    }
    let air = 0.06 * (high - low);
    (low - air, high + air)
}

/// Marks of an axis: round numbers, or decades and their parts.
fn marks(input: GridInput, log: bool) -> Vec<GridMark> {
    let (from, to) = input.bounds;
    if !log {
        return round(from, to).into_iter().map(|(value, step_size)| GridMark { value, step_size }).collect();
    }
    if to - from < 0.7 {
        // Less than a decade: numbers that are round themselves, not their logarithms.
        let found = round(10f64.powf(from), 10f64.powf(to)).into_iter().filter(|(value, _)| *value > 0.0);
        return found.map(|(value, _)| GridMark { value: value.log10(), step_size: (to - from) / 6.0 }).collect();
    }
    let decades = (from.floor() as i64)..=(to.ceil() as i64).min(from.floor() as i64 + 60);
    let parts: &[f64] = if to - from > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = decades.flat_map(|d| parts.iter().map(move |p| d as f64 + p.log10()));
    let step = if parts.len() == 1 { 1.0 } else { 0.5 };
    all.filter(|v| (from..=to).contains(v)).map(|value| GridMark { value, step_size: step }).collect()
}

/// Some six round numbers between two others, with their distance.
fn round(from: f64, to: f64) -> Vec<(f64, f64)> {
    let raw = (to - from) / 6.0;
    if !raw.is_finite() || raw <= 0.0 {
        return Vec::new();
    }
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= raw).unwrap_or(10.0) * power;
    let (first, last) = ((from / step).ceil() as i64, (to / step).floor() as i64);
    (first..=last.min(first.saturating_add(100))).map(|i| (i as f64 * step, step)).collect()
}

fn tick(value: f64, log: bool, axis: Axis) -> String {
    let value = if log { 10f64.powf(value) } else { value };
    match axis {
        Axis::Wall => format::clock(value),
        Axis::Relative if value >= 120.0 => format!("{} min", format::number(value / 60.0)),
        Axis::Relative => format!("{} s", format::number(value)),
        _ => format::tick(value),
    }
}

/// Marks of what happened to the runs: position, colour, words.
fn pins_of(desk: &Desk, frame: &Frame<'_>) -> Vec<Pinned> {
    let mut marks = Vec::new();
    for run in frame.runs.iter().filter_map(|path| desk.run(path)) {
        let of = if frame.runs.len() > 1 { format!("{}: ", run.name()) } else { String::new() };
        let history = &run.files.history;
        let kinds = |kind| !matches!(kind, PinKind::Start | PinKind::End | PinKind::Warning | PinKind::Pause);
        let newest = history.pins.iter().rev().filter(|pin| kinds(pin.kind)).take(300);
        marks.extend(newest.map(|pin| {
            let x = frame.place(history.clock.at(desk.look.axis, pin.row));
            let text = format!("{of}step {}: {}", pin.step, pin.text);
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
        PinKind::Hyper => Color32::from_rgba_unmultiplied(204, 121, 167, 230),
        _ => Color32::from_rgba_unmultiplied(120, 120, 120, 120),
    }
}

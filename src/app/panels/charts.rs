//! The curves of the ticked runs, over one axis with one cross-hair.

use crate::app::chart::{self, Frame, View, chart_ui};
use crate::app::export;
use crate::app::panels::shared;
use crate::app::state::{Action, AppState};
use crate::history::Axis;
use crate::history::chart_spec::{CHARTS, ChartSpec};
use eframe::egui::{self, RichText, Ui};
use std::path::PathBuf;

/// See the module.
#[derive(Debug, Default)]
pub struct Charts {
    /// The part of the axis that is shown.
    view: View,
    /// A chart that fills the page.
    alone: Option<&'static str>,
}

impl Charts {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        if state.runs.is_empty() {
            let mut actions = Vec::new();
            shared::no_run(ui, &mut actions);
            actions.into_iter().for_each(|order| state.request(order));
            return;
        }
        self.toolbar_ui(ui, state);
        let runs: Vec<PathBuf> = state.runs.iter().filter(|run| run.visible).map(|run| run.files.path.clone()).collect();
        let specs: Vec<&ChartSpec> = CHARTS
            .iter()
            .filter(|spec| {
                self.alone.map_or(!state.look.hidden_charts.iter().any(|t| t == spec.title), |alone| alone == spec.title)
            })
            .filter(|spec| !chart::metrics_of(spec, state, &runs).is_empty())
            .collect();
        if specs.is_empty() {
            let reading = state.runs.iter().any(|run| run.visible && run.loading);
            let (heading, what) = match (runs.is_empty(), reading) {
                (true, _) => ("No run is ticked", "Tick one on the page Runs to see its curves."),
                (_, true) => ("Reading", "The log is being read."),
                _ => ("Nothing to draw yet", "Curves appear with the first step. A run compiles its kernels first."),
            };
            let mut asked = Vec::new();
            shared::empty_with(ui, heading, what, |ui| {
                if let Some(path) = state.focus.clone().filter(|_| runs.is_empty()) {
                    let words = format!("Draw {}", crate::history::short_name(&path));
                    shared::action_buttons(ui, [(words.as_str(), Action::Focus(path))], &mut asked);
                }
            });
            asked.into_iter().for_each(|order| state.request(order));
            return;
        }
        let extent = chart::extent(state, &runs);
        let view = self.view.or_else(|| newest_part(state, extent));
        let frame = Frame { view, runs: &runs, log_x: state.look.log_x && state.look.axis != Axis::Wall, only: &[], raw: false };
        egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| self.grid_ui(ui, state, &specs, &frame));
    }

    fn grid_ui(&mut self, ui: &mut Ui, state: &mut AppState, specs: &[&'static ChartSpec], frame: &Frame<'_>) {
        // The bar that scrolls lies over the right edge.
        ui.set_max_width(ui.available_width() - 8.0);
        let width = ui.available_width();
        let fitting = ((width / 360.0) as usize).clamp(1, 4);
        let columns = if state.look.columns == 0 { fitting } else { state.look.columns }.min(specs.len());
        let height = if self.alone.is_some() { (ui.available_height() - 60.0).max(200.0) } else { 210.0 };
        for row in specs.chunks(columns) {
            ui.columns(columns, |cells| {
                for (ui, spec) in cells.iter_mut().zip(row) {
                    self.cell_ui(ui, state, spec, frame, height);
                }
            });
            ui.add_space(6.0);
        }
    }

    fn cell_ui(&mut self, ui: &mut Ui, state: &mut AppState, spec: &'static ChartSpec, frame: &Frame<'_>, height: f32) {
        let flipped = state.look.log_y_flipped.iter().any(|t| t == spec.title);
        let log_y = spec.log_y != flipped;
        ui.horizontal(|ui| {
            ui.label(RichText::new(spec.title).strong()).on_hover_text(spec.hint);
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                self.menu_ui(ui, state, spec, frame);
                if ui.selectable_label(log_y, RichText::new("log").small()).on_hover_text("Logarithmic vertical axis").clicked() {
                    match flipped {
                        true => state.look.log_y_flipped.retain(|t| t != spec.title),
                        false => state.look.log_y_flipped.push(spec.title.to_owned()),
                    }
                }
            });
        });
        if let Some(view) = chart_ui(ui, state, spec, frame, log_y, height) {
            self.view = view;
        }
    }

    fn menu_ui(&mut self, ui: &mut Ui, state: &mut AppState, spec: &'static ChartSpec, frame: &Frame<'_>) {
        let metrics = chart::metrics_of(spec, state, frame.runs);
        ui.menu_button("…", |ui| {
            let alone = self.alone == Some(spec.title);
            if ui.button(if alone { "Show all charts" } else { "Fill the page" }).clicked() {
                self.alone = (!alone).then_some(spec.title);
                ui.close();
            }
            if ui.button("Save as PNG").clicked() {
                export::export_png(state, spec, frame.runs, &metrics);
                ui.close();
            }
            if ui.button("Save as CSV").clicked() {
                export::tables(state, spec, frame.runs, &metrics);
                ui.close();
            }
            if ui.button("Hide this chart").clicked() {
                state.look.hidden_charts.push(spec.title.to_owned());
                self.alone = None;
                ui.close();
            }
        })
        .response
        .on_hover_text("Fill the page, save as PNG or CSV, hide");
    }

    fn toolbar_ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        ui.horizontal_wrapped(|ui| {
            let label = ui.label("x");
            let combo = egui::ComboBox::from_id_salt("axis").selected_text(axis_name(state.look.axis)).show_ui(ui, |ui| {
                for axis in Axis::ALL {
                    if ui.selectable_value(&mut state.look.axis, axis, axis_name(axis)).clicked() {
                        self.view = None;
                    }
                }
            });
            combo.response.labelled_by(label.id).on_hover_text("The unit of the horizontal axis");
            if ui.toggle_value(&mut state.look.log_x, "log x").on_hover_text("Logarithmic horizontal axis").clicked() {
                self.view = None;
            }
            // A slider is made of parts that would not wrap.
            if ui.available_size_before_wrap().x < 240.0 {
                ui.end_row();
            }
            let label = ui.label("smoothing");
            let slider = egui::Slider::new(&mut state.look.smooth, 0.0..=0.3).custom_formatter(|share, _| format!("{:.1} %", 100.0 * share));
            ui.add(slider.custom_parser(|text| Some(text.trim().trim_end_matches('%').trim().parse::<f64>().ok()? / 100.0)))
                .labelled_by(label.id)
                .on_hover_text("Each point of the strong line is the mean of this share of the curve's points, as many before it as behind it. \
                                The measured values stay behind it, pale. Short curves are not smoothed.");
            ui.toggle_value(&mut state.look.pins, "marks")
                .on_hover_text("Saves, merges, rescues and changed settings as vertical lines");
            if state.runs.iter().filter(|run| run.visible).count() > 1 {
                ui.toggle_value(&mut state.look.group_seeds, "seeds together").on_hover_text(
                    "Runs that differ only in their seed as their mean, with one standard deviation to both sides",
                );
            }
            let ticked = state.runs.iter().filter(|run| run.visible).count();
            if let Some(path) = state.focus.clone().filter(|_| ticked > 1)
                && ui.button("Only this run").on_hover_text(format!("Draw {} and no other", crate::history::short_name(&path))).clicked()
            {
                state.show_only(&path);
            }
            if self.view.is_some() && ui.button("Show all").on_hover_text("Back to the whole run (double click)").clicked() {
                self.view = None;
            }
            ui.menu_button("Options", |ui| self.view_menu_ui(ui, state));
            // Not in two lines.
            if ui.available_size_before_wrap().x > 200.0 {
                ui.label(RichText::new("drag to zoom, double click to reset").small().weak());
            }
        });
        ui.add_space(2.0);
    }

    fn view_menu_ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        ui.label("newest steps (0: all)");
        ui.add(egui::DragValue::new(&mut state.look.last_steps).speed(10.0));
        ui.label("charts side by side (0: as fit)");
        ui.add(egui::DragValue::new(&mut state.look.columns).range(0..=4));
        ui.separator();
        for spec in CHARTS {
            let mut shown = !state.look.hidden_charts.iter().any(|t| t == spec.title);
            if ui.checkbox(&mut shown, spec.title).on_hover_text(spec.hint).changed() {
                match shown {
                    true => state.look.hidden_charts.retain(|t| t != spec.title),
                    false => state.look.hidden_charts.push(spec.title.to_owned()),
                }
            }
        }
    }
}

fn axis_name(axis: Axis) -> &'static str {
    match axis {
        Axis::Steps => "steps",
        Axis::Tokens => "tokens",
        Axis::Wall => "time of day",
        Axis::Relative => "training time",
        Axis::RelativeSteps => "steps since start",
    }
}

fn newest_part(state: &AppState, extent: (f64, f64)) -> View {
    let counts_steps = matches!(state.look.axis, Axis::Steps | Axis::RelativeSteps);
    (state.look.last_steps > 0 && counts_steps).then(|| (extent.0.max(extent.1 - state.look.last_steps as f64), extent.1))
}

//! Legend of a chart, with values at the cross-hair.

use super::curves::DrawnCurve;
use crate::app::format;
use eframe::egui::{self, Color32, RichText, Ui};
use egui_plot::LineStyle;

/// Names, colours and values at the cross-hair, after its position. With several runs there is a row per run and a column per metric.
pub(super) fn legend_ui(ui: &mut Ui, drawn: &[DrawnCurve], position: &str) {
    if drawn.iter().any(|d| !d.run.is_empty()) {
        return table_ui(ui, drawn, position);
    }
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing = egui::vec2(4.0, 1.0);
        ui.label(RichText::new(position).small().strong());
        ui.add_space(6.0);
        for d in drawn.iter().take(SAID) {
            let words = format!("{} {}", d.name, value(d));
            // A line and its name are not divided between rows.
            if ui.available_size_before_wrap().x < SAMPLE.x + 12.0 + small_width(ui, &words) {
                ui.end_row();
            }
            sample_ui(ui, d.color, LineStyle::Solid);
            ui.add(egui::Label::new(RichText::new(words).small()).extend()).on_hover_text(exact(d));
            ui.add_space(6.0);
        }
        if drawn.len() > SAID {
            let rest: Vec<String> = drawn[SAID..].iter().map(|d| format!("{} {}", d.name, value(d))).collect();
            ui.label(RichText::new(format!("and {} more", rest.len())).small().weak()).on_hover_text(rest.join("\n"));
        }
    });
}

/// The value at the cross-hair; a dash if the curve has none.
fn value(d: &DrawnCurve) -> String {
    d.value.map_or_else(|| "–".to_owned(), format::number)
}

/// The value with all details.
fn exact(d: &DrawnCurve) -> String {
    match d.raw {
        Some(raw) => format!("{}\nsmoothed {}\nmeasured {}", d.name, value(d), format::number(raw)),
        None => format!("{}\n{}", d.name, value(d)),
    }
}

/// Width of a text in small type.
fn small_width(ui: &Ui, text: &str) -> f32 {
    let font = egui::TextStyle::Small.resolve(ui.style());
    ui.painter().layout_no_wrap(text.to_owned(), font, Color32::WHITE).size().x
}

/// A name in two lines.
fn in_two_lines(name: &str) -> String {
    let middle = name.len() / 2;
    let space = name.match_indices(' ').map(|(at, _)| at).min_by_key(|at| at.abs_diff(middle));
    space.map_or(name.to_owned(), |at| format!("{}\n{}", &name[..at], &name[at + 1..]))
}

fn table_ui(ui: &mut Ui, drawn: &[DrawnCurve], position: &str) {
    let mut names: Vec<(&str, LineStyle)> = Vec::new();
    for d in drawn {
        if !names.iter().any(|(name, _)| *name == d.name) {
            names.push((&d.name, d.style));
        }
    }
    let runs_width = drawn.iter().map(|d| small_width(ui, &d.run)).fold(small_width(ui, position), f32::max);
    let one_line: f32 = names.iter().map(|(name, _)| small_width(ui, name) + SAMPLE.x + 14.0).sum();
    let is_narrow = runs_width + one_line > ui.available_width();
    egui::ScrollArea::horizontal().id_salt("legend").show(ui, |ui| {
        egui::Grid::new("legend").spacing([10.0, 1.0]).min_row_height(0.0).min_col_width(0.0).show(ui, |ui| {
            ui.label(RichText::new(position).small().strong());
            for (name, style) in &names {
                // Where columns are narrow, the line stands above the name.
                let head = |ui: &mut Ui| {
                    ui.spacing_mut().item_spacing = egui::vec2(4.0, 0.0);
                    sample_ui(ui, ui.visuals().weak_text_color(), *style);
                    let words = if is_narrow { in_two_lines(name) } else { (*name).to_owned() };
                    // A column is as wide as its name: the table scrolls.
                    ui.add(egui::Label::new(RichText::new(words).small().weak()).extend());
                };
                if is_narrow {
                    ui.vertical(head)
                } else {
                    ui.horizontal(head)
                };
            }
            ui.end_row();
            for of in drawn.chunk_by(|a, b| a.run == b.run).take(SAID) {
                let name = RichText::new(&of[0].run).small().color(of[0].color);
                ui.label(if of[0].selected { name.strong() } else { name });
                for (name, _) in &names {
                    match of.iter().find(|d| d.name == *name) {
                        Some(d) => ui.label(RichText::new(value(d)).small()).on_hover_text(exact(d)),
                        None => ui.label(""),
                    };
                }
                ui.end_row();
            }
        });
    });
    let runs = drawn.chunk_by(|a, b| a.run == b.run).count();
    if runs > SAID {
        ui.label(RichText::new(format!("and {} more runs", runs - SAID)).small().weak());
    }
}

/// Maximum number of legend entries shown: lines of a run, or runs.
const SAID: usize = 10;

/// Size of a piece of line in the legend.
const SAMPLE: egui::Vec2 = egui::vec2(18.0, 10.0);

fn sample_ui(ui: &mut Ui, color: Color32, style: LineStyle) {
    let (rect, _) = ui.allocate_exact_size(SAMPLE, egui::Sense::hover());
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

//! Legend of a chart, with values at the cross-hair.

use super::curves::Drawn;
use crate::app::format;
use eframe::egui::{self, Color32, RichText, Ui};
use egui_plot::LineStyle;

/// Names, colours and values at the cross-hair, below its position. With several runs there is a row per run and a column per metric.
pub(super) fn legend_ui(ui: &mut Ui, drawn: &[Drawn], position: &str) {
    if drawn.iter().any(|d| !d.run.is_empty()) {
        return table_ui(ui, drawn, position);
    }
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing = egui::vec2(4.0, 1.0);
        ui.label(RichText::new(position).small().strong());
        ui.add_space(6.0);
        for d in drawn.iter().take(SAID) {
            sample_ui(ui, d.color, LineStyle::Solid);
            let text = ui.label(RichText::new(format!("{} {}", d.name, value(d))).small());
            text.on_hover_text(exact(d));
            ui.add_space(6.0);
        }
        if drawn.len() > SAID {
            let rest: Vec<String> = drawn[SAID..].iter().map(|d| format!("{} {}", d.name, value(d))).collect();
            ui.label(RichText::new(format!("and {} more", rest.len())).small().weak()).on_hover_text(rest.join("\n"));
        }
    });
}

/// The value at the cross-hair; a dash if the curve has none.
fn value(d: &Drawn) -> String {
    d.value.map_or_else(|| "–".to_owned(), format::number)
}

/// The value with all details.
fn exact(d: &Drawn) -> String {
    match d.raw {
        Some(raw) => format!("{}\nsmoothed {}\nmeasured {}", d.name, value(d), format::number(raw)),
        None => format!("{}\n{}", d.name, value(d)),
    }
}

fn table_ui(ui: &mut Ui, drawn: &[Drawn], position: &str) {
    let mut names: Vec<(&str, LineStyle)> = Vec::new();
    for d in drawn {
        if !names.iter().any(|(name, _)| *name == d.name) {
            names.push((&d.name, d.style));
        }
    }
    egui::ScrollArea::horizontal().id_salt("legend").show(ui, |ui| {
        egui::Grid::new("legend").spacing([10.0, 1.0]).min_row_height(0.0).show(ui, |ui| {
            ui.label(RichText::new(position).small().strong());
            for (name, style) in &names {
                ui.horizontal(|ui| {
                    ui.spacing_mut().item_spacing.x = 4.0;
                    sample_ui(ui, ui.visuals().weak_text_color(), *style);
                    ui.label(RichText::new(*name).small().weak());
                });
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

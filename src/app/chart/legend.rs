//! What a chart's lines are called, and their values at the cross-hair.

use super::curves::Drawn;
use crate::app::format;
use eframe::egui::{self, Color32, RichText, Ui};
use egui_plot::LineStyle;

/// Names, colours and values: what a legend says, with the read-out of the cross-hair. Of several runs the names of lines are said once,
/// and each run tells its values in their order.
pub(super) fn legend_ui(ui: &mut Ui, drawn: &[Drawn]) {
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

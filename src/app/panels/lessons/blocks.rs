//! The parts of a lesson's page.

use crate::app::loader::Loaded;
use crate::app::theme;
use crate::story::{GuessReply, StoryQuestion, TextBlock, blocks};
use eframe::egui::{self, RichText, Ui};
use std::path::{Path, PathBuf};

/// Paragraphs, and preformatted lines.
pub(super) fn blocks_ui(ui: &mut Ui, blocks: &[TextBlock]) {
    for block in blocks {
        ui.add_space(6.0);
        match block {
            TextBlock::Paragraph(words) => {
                ui.add(egui::Label::new(with_code(ui, &crate::app::format::keep_percent_signs(words))).wrap());
            }
            TextBlock::Lines(lines) => {
                egui::Frame::new().fill(ui.visuals().code_bg_color).inner_margin(8).corner_radius(4.0).show(ui, |ui| {
                    ui.set_width(ui.available_width());
                    for line in lines {
                        ui.add(egui::Label::new(RichText::new(line).monospace()).wrap());
                    }
                });
            }
        }
    }
}

/// A paragraph, in which what stands between two backticks is code.
fn with_code(ui: &Ui, words: &str) -> egui::text::LayoutJob {
    let mut job = egui::text::LayoutJob::default();
    for (i, part) in words.split('`').enumerate() {
        let text = RichText::new(part).size(15.0).color(ui.visuals().text_color());
        let text = if i % 2 == 1 { text.code() } else { text };
        text.append_to(&mut job, ui.style(), egui::FontSelection::Default, egui::Align::Center);
    }
    job
}

/// The question; `open` until the scene runs.
pub(super) fn question_ui(ui: &mut Ui, question: &StoryQuestion, open: bool, predicted: &mut Option<usize>) {
    ui.add_space(10.0);
    let accent = ui.visuals().selection.bg_fill;
    egui::Frame::new().stroke(egui::Stroke::new(1.5, accent)).inner_margin(12).corner_radius(6.0).show(ui, |ui| {
        ui.set_width(ui.available_width());
        ui.label(RichText::new("Before it runs, what do you think?").strong());
        blocks_ui(ui, &blocks(&question.ask));
        ui.add_space(4.0);
        ui.add_enabled_ui(open, |ui| {
            for ((i, choice), letter) in question.choices.iter().enumerate().zip('a'..) {
                let words = RichText::new(format!("{letter}) {choice}")).size(15.0);
                if ui.radio(*predicted == Some(i), words).clicked() {
                    *predicted = Some(i);
                }
            }
        });
    });
}

/// The answer, with the prediction.
pub(super) fn answer_ui(
    ui: &mut Ui,
    question: Option<&StoryQuestion>,
    predicted: Option<usize>,
    checked: Option<&GuessReply>,
    answer: &[TextBlock],
) {
    ui.add_space(10.0);
    let accent = theme::success_color(ui.visuals());
    egui::Frame::new().stroke(egui::Stroke::new(1.5, accent)).inner_margin(12).corner_radius(6.0).show(ui, |ui| {
        ui.set_width(ui.available_width());
        ui.label(RichText::new("The answer").strong().color(accent));
        if let Some(choice) = question.zip(predicted).and_then(|(q, i)| q.choices.get(i)) {
            ui.label(RichText::new(format!("You thought: {choice}")).weak());
        }
        if let Some(checked) = checked {
            ui.add(egui::Label::new(RichText::new(&checked.text).size(15.0).strong()).wrap());
        }
        blocks_ui(ui, answer);
    });
}

/// The commands that will run.
pub(super) fn commands_ui(ui: &mut Ui, commands: &[String]) {
    if commands.is_empty() {
        return;
    }
    egui::CollapsingHeader::new("The commands that will run").show(ui, |ui| {
        for line in commands {
            ui.add(egui::Label::new(RichText::new(line).font(theme::small_mono())).wrap());
        }
    });
}

/// Numbers side by side.
pub(super) fn table_ui(ui: &mut Ui, head: &[String], rows: &[Vec<String>]) {
    ui.add_space(8.0);
    egui::Grid::new(("table", head.len(), rows.len())).striped(true).spacing([18.0, 5.0]).show(ui, |ui| {
        head.iter().for_each(|cell| {
            ui.label(RichText::new(cell).strong());
        });
        ui.end_row();
        for row in rows {
            row.iter().for_each(|cell| {
                ui.label(cell);
            });
            ui.end_row();
        }
    });
}

/// A picture on its way from a file to the screen; none of one that cannot be shown.
pub(super) type Picture = Loaded<PathBuf, Option<egui::TextureHandle>>;

/// A picture that a step has made.
pub(super) fn picture_ui(ui: &mut Ui, picture: &mut Picture, path: &Path) {
    let ctx = ui.ctx().clone();
    let draw = move |path: &PathBuf| {
        let svg = std::fs::read_to_string(path).ok()?;
        let drawn = crate::report::pixels(&svg, 1.5).ok()?;
        let image = egui::ColorImage::from_rgba_premultiplied(drawn.size, &drawn.rgba);
        Some(ctx.load_texture(path.display().to_string(), image, egui::TextureOptions::LINEAR))
    };
    match picture.get(ui.ctx(), &path.to_owned(), draw) {
        None => {
            ui.spinner();
        }
        Some((_, Some(texture))) => {
            let image = egui::Image::from_texture(texture).max_width(ui.available_width());
            ui.add(image.alt_text(crate::history::short_name(path)));
        }
        Some((_, None)) => {
            ui.label(RichText::new(format!("{} cannot be shown", crate::vfs::display_path(path))).weak());
        }
    }
}

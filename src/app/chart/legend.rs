//! Legend of a chart, with values at the cross-hair.

use super::axis::{place_words, short_place};
use super::curves::DrawnCurve;
use crate::app::draw::{DOT, named_ui, small_ui};
use crate::app::format;
use crate::history::Axis;
use eframe::egui::{self, Color32, RichText, Ui};
use egui_plot::LineStyle;

/// Names, colours and values at the cross-hair (None: the newest values), after its position. With several runs there is a row per run and a
/// column per metric.
pub(super) fn legend_ui(ui: &mut Ui, drawn: &[DrawnCurve], axis: Axis, cursor: Option<f64>) {
    let position = &cursor.map_or("newest".to_owned(), |x| place_words(x, axis));
    if drawn.iter().any(|d| !d.run.is_empty()) {
        return table_ui(ui, drawn, axis, position);
    }
    let texts = texts(drawn);
    let rows = rows(ui, &drawn[..drawn.len().min(SAID)], axis, position);
    let count = rows.len();
    // Rows as near to each other as lines of text.
    (ui.spacing_mut().interact_size.y, ui.spacing_mut().item_spacing.y) = (12.0, 1.0);
    for (i, row) in rows.into_iter().enumerate() {
        ui.horizontal(|ui| {
            ui.spacing_mut().item_spacing = egui::vec2(4.0, 1.0);
            if i == 0 {
                ui.label(RichText::new(position).small().strong());
                ui.add_space(6.0);
            }
            for at in row {
                let d = &drawn[at];
                let words = format!("{} {}", name(d), value_with_place(d, &texts[at], axis));
                sample_ui(ui, d.color, LineStyle::Solid);
                // A row that is too long would widen the page for good.
                ui.add(egui::Label::new(RichText::new(words).small()).truncate()).on_hover_text(exact(d, axis));
                ui.add_space(6.0);
            }
            if i + 1 == count && drawn.len() > SAID {
                let rest = drawn
                    .iter()
                    .zip(&texts)
                    .skip(SAID)
                    .map(|(d, text)| format!("{} {}", name(d), value_with_place(d, text, axis)));
                let rest: Vec<String> = rest.collect();
                ui.label(RichText::new(format!("and {} more", rest.len())).small().weak()).on_hover_text(rest.join("\n"));
            }
        });
    }
}

/// Indices of lines in rows with space for their longest texts: a chart must not move when the pointer comes.
fn rows(ui: &Ui, drawn: &[DrawnCurve], axis: Axis, position: &str) -> Vec<Vec<usize>> {
    let space = ui.available_width();
    let elsewhere = if matches!(axis, Axis::Relative | Axis::Wall) { " at 00 min 00 s" } else { " at 0,000" };
    let mut used = small_width(ui, position).max(small_width(ui, "step 000,000")) + 10.0;
    let mut rows: Vec<Vec<usize>> = vec![Vec::new()];
    for (at, d) in drawn.iter().enumerate() {
        // A smoothed value is marked so; others may have been measured at another place.
        let longest = format!("{} 0.00000{}", d.name, if d.is_noisy { SMOOTHED } else { elsewhere });
        let width = SAMPLE.x + 14.0 + small_width(ui, &longest);
        if used + width > space && used > 0.0 {
            rows.push(Vec::new());
            used = 0.0;
        }
        used += width;
        if let Some(row) = rows.last_mut() {
            row.push(at);
        }
    }
    rows
}

/// The name of a line, and whether its value is a mean of several points.
fn name(d: &DrawnCurve) -> String {
    let mark = match d.raw.is_some() && d.raw != d.value {
        true if d.is_mean => MEAN,
        true => SMOOTHED,
        false => "",
    };
    format!("{}{mark}", d.name)
}

const SMOOTHED: &str = " (smoothed)";
const MEAN: &str = " (mean)";

/// Values of the lines of a chart, which have one unit, with the same decimals; a dash if a curve has none there.
fn texts(drawn: &[DrawnCurve]) -> Vec<String> {
    let values: Vec<f64> = drawn.iter().filter_map(|d| d.value).collect();
    let mut texts = format::column(&values).into_iter();
    drawn.iter().map(|d| d.value.and_then(|_| texts.next()).unwrap_or_else(|| "–".to_owned())).collect()
}

/// A value, with its own place if it was not measured at the cross-hair.
fn value_with_place(d: &DrawnCurve, value: &str, axis: Axis) -> String {
    match d.measured_at.filter(|_| d.value.is_some()) {
        Some(x) => format!("{value} at {}", short_place(x, axis)),
        None => value.to_owned(),
    }
}

/// The value with all details.
fn exact(d: &DrawnCurve, axis: Axis) -> String {
    let value = value_with_place(d, &d.value.map_or_else(|| "–".to_owned(), format::number), axis);
    match d.raw {
        Some(raw) => {
            let kind = if d.is_mean { "mean of the last tenth" } else { "smoothed" };
            format!("{}\n{kind} {value}\nmeasured {}", d.name, format::number(raw))
        }
        None => format!("{}\n{value}", d.name),
    }
}

/// Width of a text in small type.
fn small_width(ui: &Ui, text: &str) -> f32 {
    let font = egui::TextStyle::Small.resolve(ui.style());
    ui.painter().layout_no_wrap(text.to_owned(), font, Color32::WHITE).size().x
}

/// Of a longer run's name only the beginning is shown: it would leave no space for the values.
const LONGEST_NAME: usize = 24;
/// So much of it is shown even if the values do not fit then.
const SHORTEST_NAME: usize = 10;

/// A name in two lines.
fn in_two_lines(name: &str) -> String {
    let middle = name.len() / 2;
    let space = name.match_indices(' ').map(|(at, _)| at).min_by_key(|at| at.abs_diff(middle));
    space.map_or(name.to_owned(), |at| format!("{}\n{}", &name[..at], &name[at + 1..]))
}

/// A metric of several runs.
struct Column<'a> {
    name: &'a str,
    style: LineStyle,
    /// Places in the list of lines, with their values.
    cells: Vec<(usize, String)>,
    /// Width of the widest value.
    width: f32,
}

fn columns<'a>(ui: &Ui, drawn: &'a [DrawnCurve]) -> Vec<Column<'a>> {
    let texts = texts(drawn);
    let mut out: Vec<Column<'a>> = Vec::new();
    for (at, (d, text)) in drawn.iter().zip(texts).enumerate() {
        let width = small_width(ui, &text);
        match out.iter_mut().find(|column| column.name == d.name) {
            Some(column) => {
                column.width = column.width.max(width);
                column.cells.push((at, text));
            }
            None => out.push(Column { name: &d.name, style: d.style, cells: vec![(at, text)], width }),
        }
    }
    out
}

fn table_ui(ui: &mut Ui, drawn: &[DrawnCurve], axis: Axis, position: &str) {
    let head_of = |metric: &str| drawn.iter().filter(|d| d.name == metric).map(name).max_by_key(String::len).unwrap_or_default();
    let columns = columns(ui, drawn);
    let runs_width = |most: usize| {
        let names = drawn.iter().map(|d| small_width(ui, &format::excerpt(&d.run, most)) + DOT);
        names.fold(small_width(ui, position), f32::max)
    };
    // With space for the longest texts, as in a single run's legend.
    let is_smoothed = |metric: &str| drawn.iter().any(|d| d.name == metric && d.is_noisy);
    let longest = |name: &str| format!("{name}{}", if is_smoothed(name) { SMOOTHED } else { "" });
    let one_line: f32 = columns.iter().map(|column| small_width(ui, &longest(column.name)) + SAMPLE.x + 14.0).sum();
    let space = ui.available_width();
    let is_narrow = runs_width(LONGEST_NAME) + one_line > space;
    let two_lines = |column: &Column| {
        let head = in_two_lines(&longest(column.name));
        head.lines().map(|line| small_width(ui, line)).fold(column.width, f32::max) + SPACING
    };
    let fits = |most: &usize| !is_narrow || runs_width(*most) + columns.iter().map(two_lines).sum::<f32>() <= space;
    let most = (SHORTEST_NAME..=LONGEST_NAME).rev().find(fits).unwrap_or(SHORTEST_NAME);
    egui::ScrollArea::horizontal().id_salt("legend").show(ui, |ui| {
        egui::Grid::new("legend").spacing([SPACING, 1.0]).min_row_height(0.0).min_col_width(0.0).show(ui, |ui| {
            ui.label(RichText::new(position).small().strong());
            columns.iter().for_each(|column| head_ui(ui, column.style, head_of(column.name), is_narrow));
            ui.end_row();
            for of in drawn.chunk_by(|a, b| a.run == b.run).take(SAID) {
                named_ui(ui, of[0].color, &format::excerpt(&of[0].run, most), of[0].selected).on_hover_text(&of[0].run);
                for column in &columns {
                    match column.cells.iter().find(|(at, _)| drawn[*at].run == of[0].run) {
                        Some((at, text)) => {
                            let (d, ink) = (&drawn[*at], ui.visuals().text_color());
                            // Last digits stand below each other.
                            let space = column.width - small_width(ui, text);
                            small_ui(ui, &value_with_place(d, text, axis), ink, space).on_hover_text(exact(d, axis))
                        }
                        None => small_ui(ui, "", egui::Color32::TRANSPARENT, 0.0),
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

/// The head of a column: a piece of line, and beside it the name; where columns are narrow, below it in two lines.
fn head_ui(ui: &mut Ui, style: LineStyle, name: String, is_narrow: bool) {
    let words = if is_narrow { in_two_lines(&name) } else { name };
    let head = |ui: &mut Ui| {
        ui.spacing_mut().item_spacing = egui::vec2(4.0, 0.0);
        sample_ui(ui, ui.visuals().weak_text_color(), style);
        // A column is as wide as its name: the table scrolls.
        ui.add(egui::Label::new(RichText::new(words).small().weak()).extend());
    };
    if is_narrow {
        ui.vertical(head)
    } else {
        ui.horizontal(head)
    };
}

/// Maximum number of legend entries shown: lines of a run, or runs.
const SAID: usize = 10;

/// Between two columns.
const SPACING: f32 = 10.0;

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

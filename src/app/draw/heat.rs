//! A grid of coloured cells: one texture, recreated only when its numbers change.

use super::tooltip;
use eframe::egui::epaint::TextShape;
use eframe::egui::{
    Align2, Color32, ColorImage, Rect, Response, Role, Sense, Stroke, StrokeKind, TextStyle, TextureHandle, TextureOptions, Ui,
    Vec2, WidgetInfo, pos2, vec2,
};

/// Maximum number of cells per side.
const MOST: usize = 2048;
/// Maximum characters of a label.
const LABEL: usize = 16;

/// Labels and size of a grid.
pub struct HeatLabels<'a> {
    /// Its name for screen readers.
    pub name: &'a str,
    /// Label of the rows.
    pub y_label: &'a str,
    /// Label of the columns.
    pub x_label: &'a str,
    /// Name of a row.
    pub row: &'a dyn Fn(usize) -> String,
    /// Name of a column.
    pub column: &'a dyn Fn(usize) -> String,
    /// Tooltip of a cell.
    pub cell: &'a dyn Fn(usize, usize) -> String,
    /// Text in a cell, if it fits.
    pub inside: Option<&'a dyn Fn(usize, usize) -> String>,
    /// Whether row 0 is the lowest.
    pub upward: bool,
    /// Whether colours are interpolated.
    pub smooth: bool,
    /// Minimum and maximum height of a row, in points.
    pub row_height: (f32, f32),
    /// Maximum width of a column, in points.
    pub column_width: f32,
}

/// A grid's texture.
#[derive(Default)]
pub struct Heat {
    texture: Option<(u64, TextureHandle)>,
}

impl std::fmt::Debug for Heat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Heat({:?})", self.texture.as_ref().map(|t| t.0))
    }
}

/// A drawn grid.
#[derive(Debug)]
pub struct DrawnGrid {
    /// All cells.
    pub area: Rect,
    /// Its response to the pointer.
    pub response: Response,
    /// Rows, columns.
    pub size: (usize, usize),
    upward: bool,
}

impl DrawnGrid {
    /// The area of a cell.
    pub fn cell(&self, row: usize, column: usize) -> Rect {
        let size = self.area.size() / vec2(self.size.1 as f32, self.size.0 as f32);
        let row = if self.upward { self.size.0 - 1 - row } else { row };
        Rect::from_min_size(self.area.min + vec2(column as f32, row as f32) * size, size)
    }

    /// The cell under a point.
    fn cell_at(&self, at: eframe::egui::Pos2) -> Option<(usize, usize)> {
        if !self.area.contains(at) {
            return None;
        }
        let part = (at - self.area.min) / self.area.size();
        let index = |part: f32, count: usize| ((part * count as f32) as usize).min(count - 1);
        let row = index(part.y, self.size.0);
        Some((if self.upward { self.size.0 - 1 - row } else { row }, index(part.x, self.size.1)))
    }

    /// The cell under the pointer.
    pub fn hovered(&self) -> Option<(usize, usize)> {
        self.cell_at(self.response.hover_pos()?)
    }
}

impl Heat {
    /// Draw rows by columns; `key` changes with the colours.
    pub fn ui(
        &mut self,
        ui: &mut Ui,
        key: u64,
        size: (usize, usize),
        color: impl Fn(usize, usize) -> Color32,
        it: &HeatLabels<'_>,
    ) -> Option<DrawnGrid> {
        let (rows, columns) = size;
        if rows == 0 || columns == 0 {
            return None;
        }
        if rows > MOST || columns > MOST {
            ui.weak(format!("{rows} x {columns} cells: too many to draw."));
            return None;
        }
        if self.texture.as_ref().is_none_or(|t| t.0 != key) {
            let place = |i: usize| (if it.upward { rows - 1 - i / columns } else { i / columns }, i % columns);
            let pixels = (0..rows * columns).map(place).map(|(r, c)| color(r, c)).collect();
            let how = if it.smooth { TextureOptions::LINEAR } else { TextureOptions::NEAREST };
            self.texture = Some((key, ui.ctx().load_texture(it.name, ColorImage::new([columns, rows], pixels), how)));
        }
        let drawn = self.draw_labels(ui, size, it);
        let painter = ui.painter().clone();
        if let Some((_, texture)) = &self.texture {
            painter.image(texture.id(), drawn.area, Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0)), Color32::WHITE);
        }
        painter.rect_stroke(
            drawn.area,
            0.0,
            Stroke::new(1.0, ui.visuals().weak_text_color().gamma_multiply(0.5)),
            StrokeKind::Outside,
        );
        self.inside(ui, &drawn, color, it);
        if let Some((row, column)) = drawn.hovered() {
            if !it.smooth {
                painter.rect_stroke(
                    drawn.cell(row, column),
                    0.0,
                    Stroke::new(2.0, ui.visuals().strong_text_color()),
                    StrokeKind::Middle,
                );
            }
            tooltip(&drawn.response, [(it.cell)(row, column)]);
        }
        Some(drawn)
    }

    fn inside(&self, ui: &Ui, drawn: &DrawnGrid, color: impl Fn(usize, usize) -> Color32, it: &HeatLabels<'_>) {
        let Some(inside) = it.inside else { return };
        let font = TextStyle::Small.resolve(ui.style());
        let cell = drawn.cell(0, 0).size();
        if cell.y < font.size || cell.x < 2.0 * font.size {
            return;
        }
        for (row, column) in (0..drawn.size.0).flat_map(|r| (0..drawn.size.1).map(move |c| (r, c))) {
            let place = drawn.cell(row, column);
            if ui.is_rect_visible(place) {
                let text = cut(&inside(row, column), (cell.x / (0.62 * font.size)) as usize);
                ui.painter().text(
                    place.center(),
                    Align2::CENTER_CENTER,
                    text,
                    font.clone(),
                    crate::app::theme::ink_on(color(row, column)),
                );
            }
        }
    }

    fn draw_labels(&self, ui: &mut Ui, (rows, columns): (usize, usize), it: &HeatLabels<'_>) -> DrawnGrid {
        let font = TextStyle::Small.resolve(ui.style());
        let ink = ui.visuals().weak_text_color();
        let lay = |ui: &Ui, text: String| ui.fonts_mut(|f| f.layout_no_wrap(text, font.clone(), ink));
        let line = font.size + 4.0;
        // Labels are laid out for the maximum number of rows and columns that can be labelled.
        let every_row = (rows * 14).div_ceil(400).max(1);
        let row_names: Vec<_> = (0..rows).step_by(every_row).map(|r| (r, lay(ui, cut(&(it.row)(r), LABEL)))).collect();
        let left = row_names.iter().map(|(_, g)| g.size().x).fold(0.0, f32::max) + 6.0;
        let width = (ui.available_width() - left - 4.0).max(40.0).min(it.column_width * columns as f32);
        let height = (width / columns as f32).clamp(it.row_height.0, it.row_height.1) * rows as f32;
        let cell = vec2(width / columns as f32, height / rows as f32);
        let names: Vec<String> = (0..columns).map(|c| cut(&(it.column)(c), LABEL)).collect();
        let widest = lay(ui, names.iter().max_by_key(|n| n.chars().count()).cloned().unwrap_or_default()).size().x;
        let upright =
            widest + 4.0 > cell.x && columns < 80 && cell.x >= font.size * 0.8 && names.iter().any(|n| n.parse::<f64>().is_err());
        let below = if upright { widest + 6.0 } else { line };
        let whole = Vec2::new(left + width + 4.0, line + height + below + line);
        let (rect, response) = ui.allocate_exact_size(whole, Sense::click());
        response.widget_info(|| {
            let cells = (0..rows.min(12)).flat_map(|r| (0..columns.min(12)).map(move |c| (r, c)));
            let read_out: Vec<String> = cells.map(|(r, c)| (it.cell)(r, c).replace('\n', ", ")).collect();
            WidgetInfo::labeled(Role::Image, true, format!("{}: {}", it.name, read_out.join("; ")))
        });
        let area = Rect::from_min_size(rect.min + vec2(left, line), vec2(width, height));
        let drawn = DrawnGrid { area, response, size: (rows, columns), upward: it.upward };
        let painter = ui.painter();
        painter.text(rect.min, Align2::LEFT_TOP, it.y_label, font.clone(), ink);
        let corner = pos2(area.right(), rect.bottom());
        painter.text(corner, Align2::RIGHT_BOTTOM, it.x_label, font.clone(), ink);
        let mut free = f32::INFINITY;
        let from_below: Vec<_> = if it.upward { row_names } else { row_names.into_iter().rev().collect() };
        for (row, galley) in from_below {
            let at = drawn.cell(row, 0).left_center() - vec2(galley.size().x + 5.0, galley.size().y / 2.0);
            if at.y + galley.size().y <= free + 4.0 {
                free = at.y;
                painter.galley(at, galley, ink);
            }
        }
        let below = |column: usize| drawn.cell(if it.upward { 0 } else { rows - 1 }, column).center_bottom();
        let galleys: Vec<_> = names.into_iter().map(|name| lay(ui, name)).collect();
        // The same distance from each label to the next.
        let taken = if upright { font.size * 0.9 } else { galleys.iter().map(|g| g.size().x + 4.0).fold(0.0, f32::max) };
        let every = (taken / cell.x - 0.01).ceil().max(1.0) as usize;
        for (column, galley) in galleys.into_iter().enumerate().step_by(every) {
            let under = below(column);
            let at = under + vec2(-galley.size().x / 2.0, 3.0);
            let shape = match upright {
                // Rotated text, read from below, that ends at the column.
                true => TextShape::new(under + vec2(-font.size / 2.0 - 1.0, 4.0 + galley.size().x), galley, ink)
                    .with_angle(-std::f32::consts::FRAC_PI_2),
                false => TextShape::new(at, galley, ink),
            };
            painter.add(shape);
        }
        drawn
    }
}

/// A label, shortened.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

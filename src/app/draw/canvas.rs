//! A plot's ground: axes, ticks, and what is under the pointer.

use super::scale::Scale;
use eframe::egui::{
    Align2, Color32, FontId, Painter, Pos2, Rect, Response, Role, Sense, Stroke, TextStyle, Ui, WidgetInfo, pos2, vec2,
};

/// What a plot's axes count.
#[derive(Clone, Debug)]
pub struct Axes<'a> {
    /// Across.
    pub x: Scale,
    /// Up.
    pub y: Scale,
    /// What is counted across, with its unit.
    pub x_label: &'a str,
    /// What is counted up, with its unit.
    pub y_label: &'a str,
    /// Marks across that are not round numbers.
    pub x_ticks: Option<Vec<(f64, String)>>,
    /// Marks up are shares.
    pub percent: bool,
    /// Height of the whole, in points.
    pub height: f32,
}

impl<'a> Axes<'a> {
    /// Axes of the usual height.
    pub fn new(x: Scale, x_label: &'a str, y: Scale, y_label: &'a str) -> Self {
        Self { x, y, x_label, y_label, x_ticks: None, percent: false, height: 190.0 }
    }

    /// Draw the ground; `said` describes the picture for those who do not see it.
    pub fn show(&self, ui: &mut Ui, said: impl Fn() -> String) -> Canvas {
        let width = ui.available_width().max(120.0);
        let (whole, response) = ui.allocate_exact_size(vec2(width, self.height), Sense::hover());
        response.widget_info(|| WidgetInfo::labeled(Role::Image, true, said()));
        let font = TextStyle::Small.resolve(ui.style());
        let (ink, faint) = (ui.visuals().weak_text_color(), ui.visuals().widgets.noninteractive.bg_stroke.color);
        let painter = ui.painter().with_clip_rect(ui.clip_rect().intersect(whole));
        let row = font.size + 4.0;
        let y_ticks: Vec<(f64, String)> =
            self.y.ticks((self.height / 36.0) as usize).into_iter().map(|t| self.in_words(t)).collect();
        let room = |text: &str| ui.fonts_mut(|f| f.layout_no_wrap(text.to_owned(), font.clone(), ink).size().x);
        let left = y_ticks.iter().map(|t| room(&t.1)).fold(18.0, f32::max) + 6.0;
        let area = Rect::from_min_max(whole.min + vec2(left, row + 7.0), whole.max - vec2(10.0, 2.0 * row));
        let canvas = Canvas { area, painter, response, x: self.x, y: self.y, font, ink };
        canvas.ground(self, &y_ticks, faint, whole);
        canvas
    }

    fn in_words(&self, (value, word): (f64, String)) -> (f64, String) {
        let digits = if (self.y.to() - self.y.from()) < 0.05 { 1 } else { 0 };
        (value, if self.percent { format!("{:.digits$} %", 100.0 * value).replace('-', "−") } else { word })
    }
}

/// A plot's ground, to be drawn on.
pub struct Canvas {
    /// Inside of the axes.
    pub area: Rect,
    /// Draws; clipped to the whole plot.
    pub painter: Painter,
    /// The whole plot.
    pub response: Response,
    /// Of small text.
    pub font: FontId,
    /// Of small text.
    pub ink: Color32,
    x: Scale,
    y: Scale,
}

impl Canvas {
    fn ground(&self, axes: &Axes<'_>, y_ticks: &[(f64, String)], faint: Color32, whole: Rect) {
        let (area, line) = (self.area, Stroke::new(1.0, faint));
        for (value, word) in y_ticks {
            let y = self.y_at(*value);
            self.painter.hline(area.x_range(), y, line);
            self.painter.text(pos2(area.left() - 5.0, y), Align2::RIGHT_CENTER, word, self.font.clone(), self.ink);
        }
        let ticks = axes.x_ticks.clone().unwrap_or_else(|| axes.x.ticks((area.width() / 70.0) as usize));
        let mut free = f32::NEG_INFINITY;
        for (value, word) in ticks {
            let x = self.x_at(value);
            if x < area.left() - 1.0 || x > area.right() + 1.0 {
                continue;
            }
            self.painter.vline(x, area.bottom()..=area.bottom() + 3.0, line);
            let galley = self.painter.layout_no_wrap(word, self.font.clone(), self.ink);
            let left = (x - galley.size().x / 2.0).min(whole.right() - galley.size().x);
            // A number that would touch its neighbour is left out.
            if left > free {
                free = left + galley.size().x + 4.0;
                self.painter.galley(pos2(left, area.bottom() + 4.0), galley, self.ink);
            }
        }
        self.painter.hline(area.x_range(), area.bottom(), Stroke::new(1.0, self.ink));
        let log = |scale: Scale| if scale.is_log() { ", log scale" } else { "" };
        let words = [
            (whole.left_top(), Align2::LEFT_TOP, format!("{}{}", axes.y_label, log(axes.y))),
            (pos2(area.right(), whole.bottom()), Align2::RIGHT_BOTTOM, format!("{}{}", axes.x_label, log(axes.x))),
        ];
        for (at, align, text) in words {
            self.painter.text(at, align, text, self.font.clone(), self.ink);
        }
    }

    /// Across, in points.
    pub fn x_at(&self, x: f64) -> f32 {
        self.area.left() + self.area.width() * self.x.part(x).clamp(-9.0, 9.0)
    }

    /// Up, in points.
    pub fn y_at(&self, y: f64) -> f32 {
        self.area.bottom() - self.area.height() * self.y.part(y).clamp(-9.0, 9.0)
    }

    /// A point of the plot.
    pub fn at(&self, x: f64, y: f64) -> Pos2 {
        pos2(self.x_at(x), self.y_at(y))
    }

    /// The numbers under the pointer.
    pub fn pointer(&self) -> Option<(f64, f64)> {
        let at = self.response.hover_pos().filter(|p| self.area.expand(2.0).contains(*p))?;
        let part = (at - self.area.left_bottom()) / self.area.size();
        Some((self.x.at(part.x), self.y.at(-part.y)))
    }

    /// A line across with its name.
    pub fn hline(&self, y: f64, name: &str, color: Color32) {
        let at = self.y_at(y);
        if !y.is_finite() || at < self.area.top() || at > self.area.bottom() {
            return;
        }
        let dashes = eframe::egui::Shape::dashed_line(
            &[pos2(self.area.left(), at), pos2(self.area.right(), at)],
            Stroke::new(1.2, color),
            5.0,
            3.0,
        );
        self.painter.extend(dashes);
        self.painter.text(pos2(self.area.right() - 2.0, at - 1.0), Align2::RIGHT_BOTTOM, name, self.font.clone(), color);
    }
}

/// Lines of text beside the pointer.
pub fn tooltip(response: &Response, lines: impl IntoIterator<Item = String>) {
    let text = lines.into_iter().collect::<Vec<_>>().join("\n");
    response.clone().on_hover_ui_at_pointer(|ui| {
        ui.label(text);
    });
}

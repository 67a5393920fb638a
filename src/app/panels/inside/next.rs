//! The distribution of the next token.

use super::piece;
use crate::app::draw::card;
use crate::app::format::{number, percent};
use crate::app::theme;
use crate::model::inspect::Inspection;
use eframe::egui::{Align2, Rect, Role, Sense, TextStyle, Ui, WidgetInfo, pos2, vec2};

/// Draw.
pub fn ui(ui: &mut Ui, it: &Inspection, picked: usize) {
    let hint = "The most probable next tokens after the picked one. The green one is what really comes next in the text. Bars begin at 0; a \
                full bar is a probability of 1.";
    card(ui, "Next token", hint, |ui| {
        let Some(token) = it.tokens.get(picked) else { return };
        let actual = it.tokens.get(picked + 1);
        let place = if actual.is_some() { format!("(token {picked})") } else { "(the end of the text)".into() };
        ui.label(format!("after '{}' {place}; entropy {} nats", piece(&token.piece), number(f64::from(token.entropy))));
        let font = TextStyle::Monospace.resolve(ui.style());
        let row = font.size + 8.0;
        let sum: f64 = token.next.iter().map(|g| f64::from(g.probability)).filter(|p| p.is_finite()).sum();
        for guess in token.next.iter().take(16) {
            let p = f64::from(guess.probability);
            let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), row), Sense::hover());
            let name = piece(&guess.piece);
            response.widget_info(|| WidgetInfo::labeled(Role::Label, true, format!("{name} {}", percent(p))));
            let from = rect.left() + (rect.width() * 0.34).min(150.0);
            let full = rect.right() - 62.0 - from;
            let is_actual = actual.is_some_and(|t| t.id == guess.id);
            let color =
                if is_actual { theme::success_color(ui.visuals()) } else { theme::readable(theme::series(0), ui.visuals()) };
            let length = full.max(1.0) * if p.is_finite() { p.clamp(0.0, 1.0) as f32 } else { 0.0 };
            let bar = Rect::from_min_size(pos2(from, rect.top() + 2.0), vec2(length, row - 4.0));
            let painter = ui.painter_at(rect);
            painter.rect_filled(Rect::from_min_size(bar.min, vec2(full.max(1.0), row - 4.0)), 2.0, ui.visuals().code_bg_color);
            painter.rect_filled(bar, 2.0, color);
            let shown: String = name.chars().take(((from - rect.left()) / (0.62 * font.size)) as usize).collect();
            painter.text(pos2(from - 6.0, rect.center().y), Align2::RIGHT_CENTER, shown, font.clone(), ui.visuals().text_color());
            painter.text(rect.right_center(), Align2::RIGHT_CENTER, percent(p), font.clone(), ui.visuals().text_color());
            response.on_hover_text(format!("'{name}', id {}\nprobability {}", guess.id, number(p)));
        }
        ui.weak(format!("all others together: {}", percent((1.0 - sum).max(0.0))));
    });
}

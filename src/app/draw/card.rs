//! Frames with a title and a hint, columns, legends, single numbers.

use eframe::egui::{self, Response, RichText, Role, Sense, Ui, WidgetInfo, vec2};

/// A framed section, as wide as the available space; the hint is a tooltip.
pub fn card<R>(ui: &mut Ui, title: &str, hint: &str, add: impl FnOnce(&mut Ui) -> R) -> R {
    let frame = egui::Frame::group(ui.style()).inner_margin(10.0).fill(ui.visuals().faint_bg_color);
    let inner = frame.show(ui, |ui| {
        ui.set_width(ui.available_width().max(1.0));
        ui.horizontal_wrapped(|ui| {
            ui.label(RichText::new(title).strong());
            if !hint.is_empty() {
                ui.add(
                    egui::Label::new(RichText::new(" ? ").small().weak().background_color(ui.visuals().code_bg_color))
                        .sense(Sense::hover()),
                )
                .on_hover_text(hint);
            }
        });
        add(ui)
    });
    inner.inner
}

/// A section of a page.
pub type Part<'a> = Box<dyn FnOnce(&mut Ui) + 'a>;

/// Sections side by side, as many as fit.
pub fn tiles(ui: &mut Ui, min_width: f32, parts: Vec<Part<'_>>) {
    let fitting = (ui.available_width() / min_width) as usize;
    let columns = fitting.clamp(1, parts.len().clamp(1, 4));
    ui.columns(columns, |uis| {
        for (i, part) in parts.into_iter().enumerate() {
            // Columns would spread the words of a text over their width.
            uis[i % columns].with_layout(egui::Layout::top_down(egui::Align::Min), part);
            uis[i % columns].add_space(2.0);
        }
    });
}

/// Width of a run's dot before its name.
pub const DOT: f32 = 13.0;

/// A run's name after a dot in its colour: some of the colours are too light for small type.
pub fn named_ui(ui: &mut Ui, color: egui::Color32, name: &str, is_strong: bool) -> Response {
    let ink = if is_strong { ui.visuals().strong_text_color() } else { ui.visuals().text_color() };
    let response = small_ui(ui, name, ink, DOT);
    ui.painter().circle_filled(response.rect.left_center() + vec2(4.5, 0.0), 4.0, color);
    response
}

/// Small type behind some space. One widget, so that a grid lines it up with others.
pub fn small_ui(ui: &mut Ui, text: &str, ink: egui::Color32, space: f32) -> Response {
    let galley = ui.painter().layout_no_wrap(text.to_owned(), egui::TextStyle::Small.resolve(ui.style()), ink);
    let (rect, response) = ui.allocate_exact_size(galley.size() + vec2(space, 0.0), Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(Role::Label, true, text));
    ui.painter().galley(rect.min + vec2(space, 0.0), galley, ink);
    response
}

/// A tooltip at the pointer.
pub fn tooltip(response: &egui::Response, lines: impl IntoIterator<Item = String>) {
    let text = lines.into_iter().collect::<Vec<_>>().join("\n");
    response.clone().on_hover_ui_at_pointer(|ui| {
        ui.label(text);
    });
}

/// A number below its name. One widget, so that a row of them wraps.
pub fn stat(ui: &mut Ui, name: &str, value: &str) {
    let small = egui::TextStyle::Small.resolve(ui.style());
    let body = egui::TextStyle::Body.resolve(ui.style());
    let (weak, strong) = (ui.visuals().weak_text_color(), ui.visuals().strong_text_color());
    let most = ui.max_rect().width().max(40.0);
    let (head, number) =
        ui.fonts_mut(|f| (f.layout(name.to_owned(), small, weak, most), f.layout(value.to_owned(), body, strong, most)));
    let size = vec2(head.size().x.max(number.size().x) + 6.0, head.size().y + number.size().y);
    let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(Role::Label, true, format!("{name}: {value}")));
    let below = rect.min + vec2(0.0, head.size().y);
    ui.painter().galley(rect.min, head, weak);
    ui.painter().galley(below, number, strong);
}

//! Selection of a measured step.

use eframe::egui::{self, Ui};

/// A slider over measurements, oldest first. It follows the newest one until it is moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepPick {
    at: Option<usize>,
}

impl StepPick {
    /// The selected entry, of `count`.
    pub fn entry(&self, count: usize) -> usize {
        let last = count.saturating_sub(1);
        self.at.unwrap_or(last).min(last)
    }

    /// Draw for `count` entries, at least one; `step` gives the step of each. Returns the entry to show.
    pub fn ui(&mut self, ui: &mut Ui, count: usize, step: impl Fn(usize) -> u64) -> usize {
        let last = count.saturating_sub(1);
        let mut at = self.entry(count);
        let before = at;
        ui.horizontal(|ui| {
            let label = ui.label("step");
            if arrow(ui, "<", "The step before", at > 0) {
                at -= 1;
            }
            ui.spacing_mut().slider_width = (ui.available_width() - 210.0).clamp(40.0, 420.0);
            let slider = egui::Slider::new(&mut at, 0..=last).show_value(false);
            ui.add_enabled(last > 0, slider).labelled_by(label.id);
            if arrow(ui, ">", "The next step", at < last) {
                at += 1;
            }
            let word = |i: f64| step((i.max(0.0) as usize).min(last)).to_string();
            let number = egui::DragValue::new(&mut at).range(0..=last).speed(0.1).custom_formatter(|i, _| word(i));
            let number = number.update_while_editing(false).custom_parser(|text| {
                let wanted: u64 = text.trim().parse().ok()?;
                (0..count).min_by_key(|i| step(*i).abs_diff(wanted)).map(|i| i as f64)
            });
            ui.add_enabled(last > 0, number).labelled_by(label.id);
            let mut follow = self.at.is_none() && at == before;
            if ui.checkbox(&mut follow, "newest").on_hover_text("Follow the run while it trains").changed() {
                (self.at, at) = if follow { (None, last) } else { (Some(at), at) };
            }
        });
        if at != before {
            self.at = (at < last).then_some(at);
        }
        at.min(last)
    }
}

/// A small button with a symbol; `words` is its description.
pub fn arrow(ui: &mut Ui, sign: &str, words: &str, enabled: bool) -> bool {
    ui.add_enabled(enabled, egui::Button::new(sign).small()).accessible_name(words).on_hover_text(words).clicked()
}

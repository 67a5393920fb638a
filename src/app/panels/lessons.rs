//! Lessons.

use crate::app::desk::Desk;
use eframe::egui;

/// See the module.
#[derive(Debug, Default)]
pub struct Lessons {}

impl Lessons {
    /// Begin with this lesson.
    pub fn choose(&mut self, _name: &str) {}

    /// Draw.
    pub fn ui(&mut self, ui: &mut egui::Ui, desk: &mut Desk) {
        if super::focused_name(ui, desk).is_none() {
            return;
        }
    }
}

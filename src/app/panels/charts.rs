//! Charts.

use crate::app::desk::Desk;
use eframe::egui;

/// See the module.
#[derive(Debug, Default)]
pub struct Charts {}

impl Charts {
    /// Draw.
    pub fn ui(&mut self, _ui: &mut egui::Ui, _desk: &mut Desk) {}
}

//! The logit lens: what the model would predict if it ended after each block.

use super::piece;
use crate::app::draw::{Heat, HeatLabels};
use crate::app::format::{number, percent};
use crate::app::theme;
use crate::model::inspect::{Inspection, LensPrediction};
use eframe::egui::{self, Ui};

/// Explanation of the picture.
pub const HINT: &str = "The final norm and the head, put to what each block leaves: what the model would say next if that block were its last. \
                        From bottom to top you see a guess form. Colours are the probability of the best guess.";

/// See the module.
#[derive(Debug, Default)]
pub struct LensPart {
    heat: Heat,
}

impl LensPart {
    /// Draw; returns the token that was clicked.
    pub fn ui(&mut self, ui: &mut Ui, it: &Inspection, count: u64) -> Option<usize> {
        let columns = it.tokens.len();
        if it.lens.is_empty() {
            ui.weak("This inspection has no logit lens.");
            return None;
        }
        let at = |row: usize, column: usize| it.lens.get(row).and_then(|l| l.positions.get(column));
        let best = |row: usize, column: usize| at(row, column).and_then(|g| g.next.first());
        let behind = ui.visuals().extreme_bg_color;
        let color =
            |row: usize, column: usize| best(row, column).map_or(behind, |g| theme::probability(f64::from(g.probability)));
        let words = HeatLabels {
            name: "Logit lens",
            y_label: "after",
            x_label: "token of the text; cells say what is expected after it",
            row: &|row| it.lens[row].part.clone(),
            column: &|column| it.tokens.get(column).map_or(String::new(), |t| piece(&t.piece)),
            cell: &|row, column| description(it, row, column, at(row, column)),
            inside: Some(&|row, column| best(row, column).map_or(String::new(), |g| piece(&g.piece))),
            upward: true,
            smooth: false,
            row_height: (22.0, 26.0),
            column_width: 84.0,
        };
        // Cells must hold a word: long texts are scrolled.
        let wanted = 64.0 * columns as f32 + 70.0;
        let mut clicked = None;
        egui::ScrollArea::horizontal().id_salt("lens").show(ui, |ui| {
            ui.set_min_width(wanted.min(60_000.0).max(ui.available_width()));
            let key = count << 1 | u64::from(ui.visuals().dark_mode);
            let drawn = self.heat.ui(ui, key, (it.lens.len(), columns), color, &words);
            clicked = drawn.filter(|d| d.response.clicked()).and_then(|d| d.hovered()).map(|cell| cell.1);
        });
        clicked
    }
}

fn description(it: &Inspection, row: usize, column: usize, glimpse: Option<&LensPrediction>) -> String {
    let Some(glimpse) = glimpse else { return "not measured".into() };
    let after = it.tokens.get(column).map_or(String::new(), |t| piece(&t.piece));
    let mut lines = vec![format!("after {} and '{after}' ({column})", crate::vfs::clean(&it.lens[row].part))];
    lines.extend(glimpse.next.iter().take(5).map(|g| format!("'{}'  {}", piece(&g.piece), percent(f64::from(g.probability)))));
    lines.push(format!("entropy {} nats", number(f64::from(glimpse.entropy))));
    if let (Some(p), Some(rank), Some(next)) = (glimpse.actual, glimpse.rank, it.tokens.get(column + 1)) {
        lines.push(format!("what comes, '{}': {}, rank {rank}", piece(&next.piece), percent(f64::from(p))));
    }
    lines.join("\n")
}

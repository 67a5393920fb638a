//! Small charts on egui's painter: bars start at 0, axes have labels with units, and exact numbers are shown in tooltips. Nothing here
//! requests a repaint.

mod bars;
mod card;
mod figure;
mod heat;
mod lines;
mod step_picker;
mod token_text;

pub use bars::{BarChart, ViolinChart, bars, violins};
pub use card::{DOT, Part, card, named_ui, small_ui, stat, tiles, tooltip};
pub use figure::{Painted, figure, paint};
pub use heat::{DrawnGrid, Heat, HeatLabels};
pub use lines::{Line, Lines, lines, points};
pub use step_picker::{StepPick, arrow};
pub use token_text::{ScoredTokens, TokenColor, TokenText, key_to, printable};

//! Small charts on egui's painter: bars begin at 0, axes have labels with units, and exact numbers are read out under the pointer. Nothing
//! here asks for a repaint.

mod bars;
mod boxes;
mod canvas;
mod card;
mod heat;
mod lines;
mod pick;
mod scale;
mod token_text;

pub use bars::{Bars, bars};
pub use boxes::{BoxSeries, Boxes, Five, boxes};
pub use canvas::{Axes, Canvas, tooltip};
pub use card::{Part, card, legend, stat, tiles};
pub use heat::{Drawn, Heat, HeatLabels};
pub use lines::{Line, Lines, lines};
pub use pick::{StepPick, arrow};
pub use scale::{Scale, percent, short};
pub use token_text::{ScoredTokens, TokenColor, TokenText, key_to, printable};

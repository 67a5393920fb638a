//! Layer 5: a run as read from its files: curves, pins, token statistics, texts, settings, lineage. Window, report and lessons read runs
//! only through this module, so that a run looks the same live, finished, or truncated.

mod clock;
mod curve;
mod differences;
mod family;
mod hues;
mod moved;
mod opening;
mod pins;
mod record;
mod run;
mod samples;
pub mod spec;
mod summary;
mod table;

pub use clock::{Axis, Clock};
pub use curve::{Curve, Cut};
pub use differences::{SettingDifference, differences};
pub use family::{Family, FamilyMember, family};
pub use hues::hues;
pub use moved::spreads;
pub use opening::opening_text;
pub use pins::{Pin, PinKind};
pub use record::{History, RunState};
pub use run::{RunFiles, Update, bytes_on_disk, find_runs, short_name};
pub use samples::{SampleLog, SampleStep};
pub use summary::{FigureBasis, SummaryFigure};
pub use table::csv;

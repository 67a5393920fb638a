//! Layer 5: a run as read from its files: curves, pins, token statistics, texts, settings, lineage. Window, report and lessons read runs
//! only through this module, so that a run looks the same live, finished, or truncated.

pub mod chart_spec;
mod clock;
mod curve;
mod data_opening;
mod differences;
mod family;
mod pins;
mod probability_change;
mod record;
mod run;
mod run_colors;
mod run_names;
mod samples;
mod summary;
mod table;

pub use clock::{Axis, Clock};
pub use curve::{Curve, CurveView};
pub use data_opening::opening_text;
pub use differences::{SettingDifference, differences};
pub use family::{Family, FamilyMember, family};
pub use pins::{Pin, PinKind};
pub use probability_change::spreads;
pub use record::{History, RunState};
pub use run::{RunFiles, Update, bytes_on_disk, find_runs, short_name};
pub use run_colors::run_colors;
pub use run_names::distinct_names;
pub use samples::{SampleLog, SampleStep};
pub use summary::{FigureBasis, SummaryFigure};
pub use table::csv;

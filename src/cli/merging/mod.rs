//! Commands that average checkpoints, look at what lies between them, and write models for other programs.

pub(super) mod export;
pub(super) mod landscape;
pub(super) mod merge;
pub(super) mod sweep;

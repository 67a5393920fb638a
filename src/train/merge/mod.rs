//! Merging checkpoints of one run along its trajectory: PMA (arXiv 2505.12082) and WSM (arXiv 2507.17634).

mod live;
pub mod ring;
mod rule;

pub use live::{LiveMerge, MergedWindow};
pub use rule::MergeRule;

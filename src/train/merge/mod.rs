//! Merging checkpoints of one run along its trajectory: PMA (arXiv 2505.12082) and WSM (arXiv 2507.17634).

mod rule;

pub use rule::MergeRule;

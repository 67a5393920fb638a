//! Commands that train a model, and those that prepare rows for them.

pub(super) mod data;
pub(super) mod data_rows;
pub(super) mod grpo;
pub(super) mod pretrain;
pub(super) mod sft;

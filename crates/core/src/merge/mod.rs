//! Layer 4: merging checkpoints of one run along its trajectory: PMA (arXiv 2505.12082) and WSM (arXiv 2507.17634).

mod fold;
mod folder;
mod inputs;
mod numbers;
mod parallel;
pub mod ring;
mod rule;
mod stream;
pub mod sweep;
mod uri;
mod window;

pub use fold::AdapterFold;
pub use folder::{COPIED, METADATA_KEY, MergeRecipe, MergeSource, MergeTarget, RECIPE};
pub use inputs::{InputFolder, MergeInputs, MergedTensor, TensorTreatment, Verification};
pub use rule::MergeRule;
pub use stream::WeightedFolders;
pub use uri::MergeSpec;
pub use window::{Interval, MAX_CHECKPOINTS, MergeWindow, WindowSpec, choose, choose_at_most, ranges, tokens_per_step};

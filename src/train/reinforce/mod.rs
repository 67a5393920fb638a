//! Reinforcement learning on verifiable rewards: GRPO and REINFORCE++, Advantage Reweighting and Lopti (arXiv 2505.12929).

pub mod probe;
mod rollout;
pub mod tokens;
pub mod warnings;

pub use rollout::Rollout;

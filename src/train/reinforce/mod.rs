//! Reinforcement learning on verifiable rewards: GRPO and REINFORCE++, Advantage Reweighting and Lopti (arXiv 2505.12929).

mod rollout;

pub use rollout::Rollout;

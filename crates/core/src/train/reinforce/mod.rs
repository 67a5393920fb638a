//! Reinforcement learning on verifiable rewards: GRPO and REINFORCE++, Advantage Reweighting and Lopti (arXiv 2505.12929).
//!
//! A step ([`Reinforce`]): completions are sampled and graded; [`Policy::score`] computes the log-probability of each token;
//! [`advantage::fill`] computes advantages from rewards; [`passes`] selects the tokens that are updated together; each mini-batch of each
//! pass is one [`Policy::update`]. Old log-probabilities and advantages stay fixed through all passes of the step.

pub mod advantage;
mod groups;
mod metrics;
mod pack;
mod policy;
pub mod probe;
mod rollout;
mod sampling;
mod step;
mod step_report;
pub mod task_eval;
pub mod tokens;
mod update;
pub mod warnings;

pub use groups::{UpdatePass, counts, passes};
pub use policy::{Policy, PolicyModel, memory_parts};
pub use rollout::Rollout;
pub use sampling::{GradedCompletion, SampledStep, Sampler};
pub use step::{FinishedUpdate, PendingStep, Reinforce, TaskContext, slots};
pub use step_report::Seconds;
pub use update::{Loss, UpdateStats};

//! Floor 4: how a model learns. A stage fills one number per token; the rest is shared.

mod across;
mod evaluate;
mod follow;
mod gradient;
pub mod landscape;
pub mod merge;
mod norms;
mod optimizer;
mod plan;
pub mod predictions;
pub mod reinforce;
pub mod rescue;
mod schedule;
pub mod spike;
mod supervised;
mod trainer;
mod weight_evaluator;

pub use evaluate::{Evaluation, Scorer};
pub use gradient::GradientPass;
pub use norms::PartNorms;
pub use optimizer::{Moments, Optimizer};
pub use plan::{MemoryPlan, micro_batch, most_rows, rows_at_once};
pub use schedule::learning_rate;
pub use trainer::{StepResult, Trainer, TrainerState};
pub use weight_evaluator::WeightEvaluator;

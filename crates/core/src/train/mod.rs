//! Layer 5: training. Stages differ in the loss per token; the rest is shared.

mod all_reduce;
pub mod bins;
mod evaluate;
mod gradient;
mod live_merge;
mod norms;
mod optimizer;
mod plan;
pub mod predictions;
pub mod reinforce;
pub mod rescue;
mod schedule;
pub mod spike;
mod stage;
mod supervised;
mod trainer;
mod training_loop;
mod weight_evaluator;
mod worker;

pub use all_reduce::CHUNK as ALL_REDUCE_CHUNK;
pub use evaluate::{Evaluation, Scorer};
pub use gradient::GradientPass;
pub use live_merge::{LiveMerge, MergedWindow};
pub use norms::PartNorms;
pub use optimizer::{MomentPair, Optimizer};
pub use plan::{MemoryPlan, micro_batch, most_rows, rows_at_once, within_memory};
pub use schedule::learning_rate;
pub use trainer::{StepResult, Trainer, TrainerState};
pub use training_loop::{TrainingLoop, train};
pub use weight_evaluator::WeightEvaluator;

//! Floor 4: how a model learns. A stage fills one number per token; the rest is shared.

mod evaluate;
mod gradient;
mod optimizer;
mod plan;
mod pretrain;
mod schedule;

pub use evaluate::{Evaluation, Scorer};
pub use gradient::GradientPass;
pub use optimizer::Optimizer;
pub use plan::{MemoryPlan, micro_batch};
pub use pretrain::{Pretrain, StepResult, TrainerState};
pub use schedule::learning_rate;

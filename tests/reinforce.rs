//! Reinforcement as a whole: `lehr grpo` and the trainer behind it.

mod common;
#[cfg(unix)]
#[path = "reinforce/graders.rs"]
mod graders;
#[path = "reinforce/laws.rs"]
mod laws;
#[path = "reinforce/runs.rs"]
mod runs;

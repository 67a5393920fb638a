//! Reinforcement as a whole: `lehr grpo` and the trainer behind it.

#[cfg(unix)]
mod graders;
mod laws;
mod runs;

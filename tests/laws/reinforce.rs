//! GRPO as a whole: `lehr grpo` and its trainer.

#[cfg(unix)]
mod graders;
mod laws;
mod runs;

//! Reinforcement as a whole: `lehr grpo` and the trainer behind it.

use crate::common;
#[cfg(unix)]
mod graders;
mod laws;
mod runs;

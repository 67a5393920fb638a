//! Verifiable tasks: puzzles, sums, graders, `lehr data`. What the code says is compared with brute force written here in another way.

mod common;

#[path = "tasks/command.rs"]
mod command;
#[path = "tasks/graders.rs"]
mod graders;
#[path = "tasks/math.rs"]
mod math;
#[path = "tasks/notation.rs"]
mod notation;
#[path = "tasks/puzzles.rs"]
mod puzzles;
#[path = "tasks/reading.rs"]
mod reading;
#[path = "tasks/reward.rs"]
mod reward;
#[path = "tasks/sources.rs"]
mod sources;
#[path = "tasks/tree.rs"]
mod tree;
#[path = "tasks/words.rs"]
mod words;

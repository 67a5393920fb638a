//! Verifiable tasks: puzzles, sums, graders, `lehr data`. What the code says is compared with brute force written here in another way.

mod common;

#[path = "tasks/command.rs"]
mod command;
#[path = "tasks/notation.rs"]
mod notation;
#[path = "tasks/puzzles.rs"]
mod puzzles;
#[path = "tasks/reward.rs"]
mod reward;
#[path = "tasks/tree.rs"]
mod tree;
#[path = "tasks/words.rs"]
mod words;

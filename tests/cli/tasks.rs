//! Verifiable tasks: puzzles, sums, graders, `lehr data`. What the code says is compared with brute force written here in another way.

use crate::common;

mod command;
mod graders;
mod math;
mod notation;
mod puzzles;
mod reading;
mod reward;
mod sources;
mod tree;
mod words;

//! Verifiable tasks: puzzles, sums, graders, `lehr data`. Results are compared with independent brute force.

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

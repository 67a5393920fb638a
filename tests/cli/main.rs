//! The commands as processes, and the tasks and graders behind them.

mod commands;
#[path = "../common/mod.rs"]
mod common;
mod reproduce;
mod sweep;
mod tasks;

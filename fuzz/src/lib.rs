//! The targets, which the tests of lehr run as well.

#[path = "../../tests/fuzz/targets.rs"]
pub mod targets;

//! Commands about devices: checks and benchmarks.

pub(super) mod bench;
pub(super) mod bench_rollouts;
pub(super) mod bench_tune;
pub(super) mod doctor;
pub(super) mod doctor_ranks;

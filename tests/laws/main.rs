//! What must hold whatever the numbers are: equal steps however a batch is cut, exact resumption, rewards and rescues.

#[path = "../common/mod.rs"]
mod common;
mod inside;
#[cfg(unix)]
mod lineage;
mod reinforce;
#[cfg(unix)]
mod rescue;
#[cfg(unix)]
mod resume;
mod steps;
mod storage;

//! Foreign and damaged files, and disks that fail: read correctly or refused by name, and nothing saved is lost.

#[path = "../common/mod.rs"]
mod common;
mod data;
mod folders;
mod hostile;
mod loaders;

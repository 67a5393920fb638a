//! Floor 5: one run: its folder, its lock, its events, its checkpoints to keep.

pub mod event_log;
pub mod folder;
pub mod lock;
pub mod retention;
pub mod tensorboard;

//! The on-disk format of a run: folder layout, lock, events and their reader, checkpoints, retention, TensorBoard. Sessions write it;
//! history, window, report and stories read it.

pub mod checkpoints;
mod events;
mod folder;
mod lock;
mod retention;
#[cfg(not(target_arch = "wasm32"))]
mod tensorboard;

pub use events::{EventLog, EventReader, Poll, read_all};
pub use folder::{RunFolder, config, events, is_run, samples, settings};
pub use lock::{LockOwner, RunLock, host_name, utc};
pub use retention::{PurgeResult, Retention, RetentionPolicy};
#[cfg(not(target_arch = "wasm32"))]
pub use tensorboard::TensorBoard;

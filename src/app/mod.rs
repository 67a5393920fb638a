//! Floor 8: the window. It trains nothing: it starts trainers as child processes, reads what they log, and sends them commands, so that
//! a crash of a trainer or its driver leaves the window as it is.

pub mod child;
pub mod desk;
pub mod panels;
pub mod theme;
mod watcher;

//! The core of lehr: everything between a text and a trained model, without commands or a window.
//!
//! [`session::train`] is a run with its folder, events, checkpoints and resume; the model is written out in [`model::transformer`]; what computes is
//! the crate `lehr_compute`. The crate `lehr` has the commands, the window, the report and the lessons, and exports these modules as its own.

pub use lehr_compute::{device, ops, rng};

pub mod config;
pub mod data;
pub mod event;
#[cfg(not(target_arch = "wasm32"))]
pub mod history;
pub mod landscape;
pub mod merge;
pub mod model;
pub mod model_files;
pub mod number_format;
pub mod plot;
pub mod progress;
pub mod run_folder;
#[cfg(not(target_arch = "wasm32"))]
pub mod session;
pub mod stats;
pub mod train;
pub mod vfs;
pub mod world;

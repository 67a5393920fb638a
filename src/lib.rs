//! lehr trains small language models on any GPU, or on the CPU, and lets people watch, merge and understand them while they train.
//!
//! The binary `lehr` is this library's [`cli`]. As a library, from a text to a trained model (`examples/train.rs`):
//!
//! ```
#![doc = include_str!("../examples/train.rs")]
//! ```
//!
//! A run with folder, events, checkpoints and resume is [`session::train`]; the model is written out in [`model::transformer`]; an op with its
//! kernels and its reference is a file of [`ops`]. `ARCHITECTURE.md` in the repository says how they work together.
//!
//! # Layers
//!
//! Lowest first; a module imports from its own layer and from those above it in this list. Layers 2 to 6 are the crate `lehr_core`:
//!
//! | layer | modules | hold |
//! |---|---|---|
//! | 0 | [`device`] [`ops`] [`rng`] | the crate `lehr_compute`: what computes, a GPU (wgpu) or the CPU; one file per shader; random numbers |
//! | 2 | [`config`] [`event`] [`number_format`] [`plot`] [`progress`] [`stats`] [`vfs`] [`world`] | settings, events and commands, charts as SVG text, intervals, files that can be made to fail, ranks and collectives |
//! | 3 | [`model_files`] | Hugging Face folders, adapters, GGUF, checkpoints: formats without a device |
//! | 3 | [`data`] | tokenizers, corpora, batches, tasks |
//! | 3 | [`model`] | weights, transformer, generation |
//! | 4 | [`run_folder`] [`merge`] [`landscape`] | a run's format on disk; averages of checkpoints; the loss between checkpoints |
//! | 5 | [`train`] [`history`] | trainer, optimizer, schedule, metrics, reinforcement learning; a run as its files describe it |
//! | 6 | [`session`] | one run: events out, commands in, signals, saving |
//! | 7 | [`report`] [`story`] [`backend`] | the HTML report; the demo and the lessons; commands as processes |
//! | 8 | `app` | the window |
//! | 9 | [`papers`] | claims of papers as experiments |
//! | 10 | [`cli`] | the commands |

#[cfg(feature = "app")]
pub mod app;
pub mod backend;
pub mod cli;
pub mod papers;
pub mod report;
pub mod story;

pub use lehr_compute::{device, ops, rng};
pub use lehr_core::{
    config, data, event, history, landscape, merge, model, model_files, number_format, plot, progress, run_folder, session,
    stats, train, vfs, world,
};

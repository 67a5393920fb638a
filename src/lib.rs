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
//! Lowest first; a module imports from its own layer and from those above it in this list:
//!
//! | layer | modules | hold |
//! |---|---|---|
//! | 0 | [`config`] [`event`] [`plot`] [`rng`] [`stats`] [`vfs`] [`words`] | settings, events and commands, charts as SVG text, random numbers, intervals, files that can be made to fail, numbers in words |
//! | 1 | [`device`] | what computes: a GPU (wgpu) or the CPU; arenas, kernels, recordings |
//! | 2 | [`ops`] [`world`] | one file per shader: record functions, host function, f64 reference implementation (twin), check; ranks that compute one run together |
//! | 3 | [`model`] [`data`] | weights, transformer, checkpoints; tokenizers, corpora, batches, tasks |
//! | 4 | [`train`] | trainer, optimizer, schedule, metrics, merging, reinforcement learning |
//! | 5 | [`session`] | one run: folder, lock, events out, commands in, signals |
//! | 6 | [`reproduce`] [`history`] | claims of papers as experiments; a run as its files describe it |
//! | 7 | [`report`] [`story`] | the HTML report; the demo and the lessons |
//! | 8 | `app` | the window |
//! | 9 | [`cli`] | the commands |

#[cfg(all(feature = "app", not(target_arch = "wasm32")))]
pub mod app;
#[cfg(not(target_arch = "wasm32"))]
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod event;
#[cfg(not(target_arch = "wasm32"))]
pub mod history;
pub mod model;
pub mod number_format;
pub mod ops;
pub mod plot;
#[cfg(not(target_arch = "wasm32"))]
pub mod report;
#[cfg(not(target_arch = "wasm32"))]
pub mod reproduce;
pub mod rng;
#[cfg(not(target_arch = "wasm32"))]
pub mod session;
pub mod stats;
#[cfg(not(target_arch = "wasm32"))]
pub mod story;
pub mod train;
pub mod vfs;
pub mod world;

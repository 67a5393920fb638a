//! lehr trains small language models on any GPU and lets people watch, merge and understand them while they train.
//!
//! The map, lowest floor first (a module may use its own floor and those above this line in the list, never one below):
//!
//! | floor | modules | hold |
//! |---|---|---|
//! | 0 | [`config`] [`event`] [`plot`] [`rng`] [`vfs`] [`words`] | plain data, settings, the contract, pictures, random numbers, files that can be made to fail, numbers in words |
//! | 1 | [`device`] | who computes: a GPU (wgpu) or the CPU; arenas, kernels, recordings |
//! | 2 | [`ops`] | one file per shader: record functions, f64 twin, check |
//! | 3 | [`model`] [`data`] | weights, transformer, checkpoints; tokenizers, corpora, batches |
//! | 4 | [`train`] | the loop: pretrain, optimizer, schedule, metrics |
//! | 5 | [`session`] | one run: folder, lock, events out, commands in, signals |
//! | 6 | [`reproduce`] [`history`] | claims of papers as experiments; a run as its files tell it |
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
pub mod ops;
pub mod plot;
#[cfg(not(target_arch = "wasm32"))]
pub mod report;
#[cfg(not(target_arch = "wasm32"))]
pub mod reproduce;
pub mod rng;
#[cfg(not(target_arch = "wasm32"))]
pub mod session;
#[cfg(not(target_arch = "wasm32"))]
pub mod story;
pub mod train;
pub mod vfs;
pub mod words;

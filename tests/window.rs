//! The window: its pages over recorded histories, and the whole of it over real trainers. No display is needed; what is drawn is drawn by
//! a software adapter, as on any screen.
#![cfg(feature = "app")]

mod common;
#[path = "window/live.rs"]
mod live;
#[path = "window/made.rs"]
mod made;
#[path = "window/pages.rs"]
mod pages;
#[path = "window/painted.rs"]
mod painted;
#[path = "window/pictures.rs"]
mod pictures;

//! The window: its pages over recorded histories, and the whole of it over real trainers. No display is needed; what is drawn is drawn by
//! a software adapter, as on any screen.
#![cfg(feature = "app")]

use crate::common;
mod documents;
mod fixtures;
mod live;
mod pages;
mod painted_shapes;
mod pictures;
mod tooltips;

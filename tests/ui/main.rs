//! What people see: the window, the report, the demo and the lessons.

#[cfg(feature = "app")]
mod app;
#[cfg(feature = "app")]
mod app_pages;
#[path = "../common/mod.rs"]
mod common;
mod report;
#[cfg(feature = "app")]
#[path = "../common/settle.rs"]
mod settle;
mod story;
#[cfg(feature = "app")]
mod window;

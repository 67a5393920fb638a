//! Layer 8: the window. It trains nothing: it starts trainers through a [`Backend`](crate::backend::Backend), reads what they log, and sends
//! them commands, so that a crash of a trainer or its driver leaves the window as it is.
//!
//! A frame: `window` takes what `watcher` has read, draws the pages (`panels`) from the `state`, and carries out the orders that they put
//! there (`actions`). Whatever waits for a disk or a dialog is done by a `loader`.

mod actions;
pub mod chart;
pub mod chat_process;
pub mod child;
pub mod curve_cache;
mod display;
pub mod draw;
mod export;
pub mod format;
mod layout;
pub mod loader;
mod memory;
mod options;
pub mod panels;
pub mod paths;
mod seeds;
pub mod state;
pub mod theme;
mod top_bar;
mod watcher;
pub mod window;

pub use display::{check_display, has_display};
pub use options::{Options, PlayStory};
pub use window::Window;

use crate::backend::Native;
use anyhow::Result;
use eframe::egui;
use std::sync::Arc;

/// Open the window; returns when it is closed.
///
/// # Errors
/// There is no display, or nothing that can draw on it.
pub fn open(options: Options) -> Result<()> {
    let backend = Arc::new(Native::this_program()?);
    let memory = memory::file();
    let size = memory::read(memory.as_deref()).size.unwrap_or([1360.0, 860.0]);
    let viewport = egui::ViewportBuilder::default()
        .with_title("lehr")
        .with_app_id("lehr")
        .with_icon(icon()?)
        .with_inner_size(size)
        .with_min_inner_size([1.0, 1.0]);
    let native = eframe::NativeOptions { viewport, ..eframe::NativeOptions::default() };
    let opened = eframe::run_native(
        "lehr",
        native,
        Box::new(move |creation| {
            let mut window = Window::new(&creation.egui_ctx, backend, options.home.clone(), memory)?;
            // Names of wgpu belong to device/gpu.
            let adapter = creation.wgpu_render_state.as_ref().map(|state| state.adapter.get_info());
            window.set_software_rendered(adapter.is_some_and(|info| format!("{:?}", info.device_type) == "Cpu"));
            window.open(options);
            Ok(Box::new(window))
        }),
    );
    opened
        .map_err(|error| anyhow::anyhow!("the window cannot be opened: {error}; every command works without it, see lehr --help"))
}

fn icon() -> Result<egui::IconData> {
    let png = crate::report::png(include_str!("../../assets/icon.svg"), 1.0)?;
    eframe::icon_data::from_png_bytes(&png).map_err(|error| anyhow::anyhow!("the window's icon: {error}"))
}

//! Floor 8: the window. It trains nothing: it starts trainers as child processes, reads what they log, and sends them commands, so that
//! a crash of a trainer or its driver leaves the window as it is.
//!
//! A frame: `window` takes what `watcher` saw, draws the pages (`panels`) from the `desk`, and carries out the orders that they put
//! there (`actions`). Nothing else changes the world.

mod actions;
pub mod chart;
pub mod chat_process;
pub mod child;
mod display;
pub mod draw;
mod errands;
mod export;
pub mod format;
mod layout;
mod memory;
pub mod panels;
mod seeds;
pub mod state;
pub mod theme;
mod top_bar;
mod watcher;
pub mod window;

pub use display::{check_display, has_display};
pub use window::Window;

use crate::story::Story;
use anyhow::{Context as _, Result};
use eframe::egui;
use std::path::PathBuf;

/// What the window opens with.
#[derive(Debug, Default)]
pub struct Options {
    /// Run folders, or folders of runs, to look at.
    pub runs: Vec<PathBuf>,
    /// A command line of a trainer to start, without the program, and its run folder.
    pub start: Option<(Vec<String>, PathBuf)>,
    /// A story to begin with.
    pub story: Option<StoryView>,
    /// Where new runs go.
    pub home: PathBuf,
}

/// A story that is told in the window.
#[derive(Debug)]
pub struct StoryView {
    /// The story.
    pub story: Story,
    /// How it is played.
    pub options: crate::story::Options,
    /// It goes on by itself from scene to scene.
    pub by_itself: bool,
}

/// Open the window; returns when it is closed.
///
/// # Errors
/// There is no display, or nothing that can draw on it.
pub fn open(options: Options) -> Result<()> {
    let program = std::env::current_exe().context("this program's own file")?;
    let memory = memory::file();
    let size = memory::read(memory.as_deref()).size.unwrap_or([1360.0, 860.0]);
    let viewport = egui::ViewportBuilder::default()
        .with_title("lehr")
        .with_app_id("lehr")
        .with_icon(icon()?)
        .with_inner_size(size)
        .with_min_inner_size([1.0, 1.0]);
    let native = eframe::NativeOptions { viewport, ..eframe::NativeOptions::default() };
    let begun = eframe::run_native(
        "lehr",
        native,
        Box::new(move |creation| {
            let mut window = Window::new(&creation.egui_ctx, program, options.home.clone(), memory)?;
            // The names of wgpu stay in gpu/.
            let adapter = creation.wgpu_render_state.as_ref().map(|state| state.adapter.get_info());
            window.on_software(adapter.is_some_and(|info| format!("{:?}", info.device_type) == "Cpu"));
            window.begin(options);
            Ok(Box::new(window))
        }),
    );
    begun
        .map_err(|error| anyhow::anyhow!("the window cannot be opened: {error}; every command works without it, see lehr --help"))
}

fn icon() -> Result<egui::IconData> {
    let png = crate::report::png(include_str!("../../assets/icon.svg"), 1.0)?;
    eframe::icon_data::from_png_bytes(&png).map_err(|error| anyhow::anyhow!("the window's icon: {error}"))
}

/// One line on standard error: there is no window to say it in any more.
fn complain(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "note: {text}");
}

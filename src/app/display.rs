//! Whether a window can be opened at all.

use anyhow::{Result, ensure};

/// Whether there is a display to open a window on.
pub fn has_display() -> bool {
    cfg!(any(target_os = "windows", target_os = "macos")) || on_wayland() || is_set("DISPLAY")
}

/// Refuse where no window can be opened.
///
/// # Errors
/// There is no display, or a library that windows need is missing: with its package.
pub fn check_display() -> Result<()> {
    ensure!(
        has_display(),
        "there is no display to open a window on (DISPLAY and WAYLAND_DISPLAY are not set): run this at a desktop, or run it without the window"
    );
    match missing_library() {
        None => Ok(()),
        Some((library, package)) => anyhow::bail!(
            "{library} is not installed, and a window needs it for the keyboard: install it (Debian, Ubuntu: apt install {package}; \
             elsewhere the package is named like the library), or run it without the window"
        ),
    }
}

fn on_wayland() -> bool {
    is_set("WAYLAND_DISPLAY") || is_set("WAYLAND_SOCKET")
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// A library that winit loads when a window is opened, and panics without: its name and its package. The others it reports by itself.
#[cfg(all(unix, not(target_vendor = "apple")))]
fn missing_library() -> Option<(&'static str, &'static str)> {
    if xkbcommon_dl::xkbcommon_option().is_none() {
        return Some(("libxkbcommon", "libxkbcommon0"));
    }
    let x11 = on_wayland() || xkbcommon_dl::x11::xkbcommon_x11_option().is_some();
    (!x11).then_some(("libxkbcommon-x11", "libxkbcommon-x11-0"))
}

#[cfg(not(all(unix, not(target_vendor = "apple"))))]
fn missing_library() -> Option<(&'static str, &'static str)> {
    None
}

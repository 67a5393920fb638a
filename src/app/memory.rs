//! The state of the window that is kept when it is closed: look, layout, size. A file that cannot be read is ignored.

use super::state::{Look, Page};
use anyhow::{Context as _, Result};
use etcetera::BaseStrategy as _;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Look of the pages.
    pub look: Look,
    /// The arrangement of the pages.
    pub tree: Option<egui_tiles::Tree<Page>>,
    /// Width and height of the window, in points.
    pub size: Option<[f32; 2]>,
}

/// The file: `$LEHR_CONFIG`, or the user's folder for settings.
pub fn file() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("LEHR_CONFIG").filter(|d| !d.is_empty()) {
        return Some(PathBuf::from(dir).join("window.json"));
    }
    Some(etcetera::choose_base_strategy().ok()?.config_dir().join("lehr").join("window.json"))
}

/// Read it; the defaults where it cannot be read.
pub fn read(path: Option<&Path>) -> Memory {
    let text = path.and_then(|p| std::fs::read_to_string(p).ok());
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Write it as a whole.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn write(path: &Path, memory: &Memory) -> Result<()> {
    write_whole(path, serde_json::to_string_pretty(memory)?.as_bytes())
}

/// Write a file as a whole; folders above it are created.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot be written", crate::vfs::display_path(path)))?;
    crate::vfs::write_whole(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_comes_back_and_nonsense_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep").join("window.json");
        let mut memory = Memory::default();
        memory.look.smooth = 0.5;
        memory.size = Some([800.0, 600.0]);
        write(&path, &memory).unwrap();
        let back = read(Some(&path));
        assert_eq!((back.look, back.size), (memory.look, memory.size));
        std::fs::write(&path, "{\"look\": 7}").unwrap();
        assert_eq!(read(Some(&path)).look, Look::default());
        std::fs::write(&path, "{\"look\": {\"smooth\": 0.25}, \"of_later\": 1}").unwrap();
        assert_eq!(read(Some(&path)).look, Look { smooth: 0.25, ..Look::default() });
    }
}

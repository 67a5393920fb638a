//! The cache folder of `huggingface_hub`: `snapshots/COMMIT`, and in `refs/main` the commit of the main branch.

use crate::vfs::shown;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// The folder itself, or for the top folder of a Hugging Face cache its snapshot.
///
/// # Errors
/// A cache without a snapshot, or with several of which none is the main one.
pub fn snapshot(path: &Path) -> Result<PathBuf> {
    let snapshots = path.join("snapshots");
    if !snapshots.is_dir() || !(path.join("refs").is_dir() || path.join("blobs").is_dir()) {
        return Ok(path.to_owned());
    }
    let name = shown(path);
    if let Ok(main) = fs::read_to_string(path.join("refs/main")) {
        let found = snapshots.join(main.trim());
        let plain = !main.trim().is_empty() && main.trim().bytes().all(|b| b.is_ascii_alphanumeric());
        ensure!(plain && found.is_dir(), "{name}: its snapshot {} is not there; download it again", main.trim().escape_debug());
        return Ok(found);
    }
    let entries = fs::read_dir(&snapshots).with_context(|| format!("{name}: cannot be listed"))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => bail!("{name}: a cache that holds no snapshot; download it again"),
        (Some(_), false) => bail!("{name}: holds several snapshots; name one of the folders in {}", shown(&snapshots)),
    }
}

//! The cache folder of `huggingface_hub`: `snapshots/COMMIT`, and in `refs/main` the commit of the main branch.

use crate::vfs::{Vfs, display_path};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// The folder itself, or for the top folder of a Hugging Face cache its snapshot.
///
/// # Errors
/// A cache without a snapshot, or with several of which none is the main one.
pub fn snapshot(vfs: &dyn Vfs, path: &Path) -> Result<PathBuf> {
    let snapshots = path.join("snapshots");
    if !vfs.is_dir(&snapshots).with_context(|| format!("{}: cannot be read", display_path(path)))?
        || !(vfs.is_dir(&path.join("refs"))? || vfs.is_dir(&path.join("blobs"))?)
    {
        return Ok(path.to_owned());
    }
    let name = display_path(path);
    let main = path.join("refs/main");
    if vfs.is_file(&main)? {
        let main = String::from_utf8_lossy(&vfs.read(&main, 1 << 10).with_context(|| display_path(&main))?).into_owned();
        let found = snapshots.join(main.trim());
        let plain = !main.trim().is_empty() && main.trim().bytes().all(|b| b.is_ascii_alphanumeric());
        ensure!(
            plain && vfs.is_dir(&found)?,
            "{name}: its snapshot {} is not there; download it again",
            main.trim().escape_debug()
        );
        return Ok(found);
    }
    let entries = vfs.list(&snapshots).with_context(|| format!("{name}: cannot be listed"))?;
    let mut found = Vec::new();
    for path in entries.into_iter().map(|entry| snapshots.join(entry.name)) {
        if vfs.is_dir(&path)? {
            found.push(path);
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => bail!("{name}: a cache that holds no snapshot; download it again"),
        (Some(_), false) => bail!("{name}: holds several snapshots; name one of the folders in {}", display_path(&snapshots)),
    }
}

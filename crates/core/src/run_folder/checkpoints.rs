//! The checkpoints of a run: their location, their list, and the newest valid one.

use crate::model_files::checkpoint::{Checkpoint, step_of};
use crate::vfs::{FileKind, Vfs, display_path};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};

/// The checkpoint folder of a run.
pub fn folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// Split `path@step`; an @ without a number after it belongs to the path.
pub fn split_step(spec: &str) -> (&Path, Option<u64>) {
    match spec.rsplit_once('@').map(|(path, step)| (path, step.parse())) {
        Some((path, Ok(step))) if !path.is_empty() => (Path::new(path), Some(step)),
        _ => (Path::new(spec), None),
    }
}

/// The checkpoint folders of a run, newest first, not verified. Symbolic links are skipped.
///
/// # Errors
/// The folder cannot be listed; a missing folder counts as empty.
pub fn list(vfs: &dyn Vfs, run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let dir = folder(run);
    if vfs.kind(&dir).with_context(|| display_path(&dir))?.is_none() {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for entry in vfs.list(&dir).with_context(|| display_path(&dir))? {
        if let Some(step) = entry.name.to_str().and_then(step_of).filter(|_| entry.kind == FileKind::Dir) {
            out.push((step, dir.join(&entry.name)));
        }
    }
    out.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(out)
}

/// The newest valid checkpoint, and newer ones that were skipped.
#[derive(Debug)]
pub struct Newest {
    /// `None` if there is no valid checkpoint.
    pub found: Option<Checkpoint>,
    /// One line for each newer folder that is not valid, with the reason.
    pub skipped: Vec<String>,
}

/// Find the newest valid checkpoint of a run.
///
/// # Errors
/// The folder cannot be listed.
pub fn newest_valid(vfs: &dyn Vfs, run: &Path) -> Result<Newest> {
    let mut skipped = Vec::new();
    for (_, path) in list(vfs, run)? {
        match Checkpoint::open(vfs, &path) {
            Ok(found) => return Ok(Newest { found: Some(found), skipped }),
            Err(e) => skipped.push(format!("{e:#}")),
        }
    }
    Ok(Newest { found: None, skipped })
}

/// The newest checkpoint of a run, for a command that was given the run alone: an older one is never used in its place.
///
/// # Errors
/// No checkpoint, or the newest is not valid; the message names the newest valid one.
pub fn newest_of(vfs: &dyn Vfs, run: &Path) -> Result<Checkpoint> {
    let at = display_path(run);
    let Newest { found, skipped } = newest_valid(vfs, run)?;
    match (found, skipped.first()) {
        (Some(found), None) => Ok(found),
        (Some(found), Some(why)) => {
            bail!("{at}: the newest checkpoint is not valid: {why}. To use an older one: {at}@{}", found.step())
        }
        (None, Some(why)) => bail!("{at}: this run holds no valid checkpoint: {why}"),
        (None, None) => bail!("{at}: this run holds no valid checkpoint yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_paths_are_distinguished() {
        assert_eq!(split_step("runs/a@120"), (Path::new("runs/a"), Some(120)));
        assert_eq!(split_step("runs/me@home"), (Path::new("runs/me@home"), None));
        assert_eq!(split_step("@5"), (Path::new("@5"), None));
        assert_eq!(split_step("a@1@2"), (Path::new("a@1"), Some(2)));
    }
}

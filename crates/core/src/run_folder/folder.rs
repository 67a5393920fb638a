//! A run folder: created once, locked by one trainer, reopened to resume.

use super::checkpoints;
use super::lock::RunLock;
use crate::config::Settings;
use crate::model_files::checkpoint;
use crate::vfs::{FileKind, Vfs, display_path};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// A run folder locked by this process.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    lock: RunLock,
}

impl RunFolder {
    /// Create a run folder and its parents, lock it, and write `config.toml`.
    ///
    /// # Errors
    /// A folder that is not empty or is locked by another process, or a location that cannot be written.
    pub fn create(vfs: &dyn Vfs, path: &Path, config_toml: &str) -> Result<Self> {
        if vfs.kind(path).with_context(|| display_path(path))?.is_none() {
            make_folders(vfs, path)?;
        }
        Self::refuse_used(vfs, path)?;
        let lock = RunLock::acquire(vfs, path)?;
        // Another trainer may have used the folder between the check and the lock.
        Self::refuse_used(vfs, path)?;
        let folder = RunFolder { path: path.to_owned(), lock };
        let checkpoints = folder.checkpoints();
        if vfs.kind(&checkpoints)?.is_none() {
            vfs.create_dir(&checkpoints).with_context(|| display_path(&checkpoints))?;
        }
        vfs.write_new(&folder.config(), config_toml.as_bytes()).with_context(|| display_path(&folder.config()))?;
        vfs.fsync_dir(path).with_context(|| display_path(path))?;
        Ok(folder)
    }

    /// Refuse a location where no new run can be created. Writes nothing.
    ///
    /// A folder counts as unused if it is empty, or holds only the files of a trainer that was killed before `config.toml` was written.
    ///
    /// # Errors
    /// A file, or a folder that is in use.
    pub fn refuse_used(vfs: &dyn Vfs, path: &Path) -> Result<()> {
        if vfs.kind(path).with_context(|| display_path(path))?.is_none() {
            return Ok(());
        }
        ensure!(vfs.is_dir(path)?, "{}: is a file: choose another --run", display_path(path));
        for entry in vfs.list(path).with_context(|| display_path(path))? {
            let empty_folder =
                || entry.kind == FileKind::Dir && vfs.list(&path.join(&entry.name)).is_ok_and(|inner| inner.is_empty());
            let leftover =
                (entry.name == "lock" && entry.kind == FileKind::File) || (entry.name == "checkpoints" && empty_folder());
            if leftover {
                continue;
            }
            if vfs.exists(&config(path))? {
                let at = display_path(path);
                bail!("{at}: holds a run already: continue it with `--resume {at}`, or choose another --run");
            }
            let name = display_path(Path::new(&entry.name));
            bail!("{}: is not empty (it holds '{name}'): choose another --run", display_path(path));
        }
        Ok(())
    }

    /// Lock an existing run folder to resume it, and clean up after a trainer that was killed. Returns what was cleaned up.
    ///
    /// # Errors
    /// No run, or a run that is locked by another process.
    pub fn open_for_resume(vfs: &dyn Vfs, path: &Path) -> Result<(Self, Vec<String>)> {
        if vfs.exists(&path.join(checkpoint::MANIFEST))? {
            let run = path.parent().and_then(Path::parent).map(display_path).unwrap_or_default();
            bail!("{}: is a checkpoint: --resume takes the run folder ({run}), --init a checkpoint", display_path(path));
        }
        ensure!(vfs.is_dir(path)?, "{}: there is no such run folder to resume", display_path(path));
        ensure!(vfs.is_file(&config(path))?, "{}: holds no config.toml: not a run folder", display_path(path));
        let folder = RunFolder { path: path.to_owned(), lock: RunLock::acquire(vfs, path)? };
        let checkpoints = folder.checkpoints();
        if vfs.kind(&checkpoints)?.is_none() {
            vfs.create_dir(&checkpoints).with_context(|| display_path(&checkpoints))?;
        }
        let tidied = checkpoint::clean_stale(vfs, &checkpoints)?;
        Ok((folder, tidied))
    }

    /// Check before a save that the folder is still this run's; creates the checkpoint folder if missing.
    ///
    /// # Errors
    /// The folder was removed or replaced.
    pub fn check(&self, vfs: &dyn Vfs) -> Result<()> {
        // A temporary disk error is not evidence that the folder is gone.
        let gone = [&self.path, &self.config()].into_iter().any(|path| matches!(vfs.kind(path), Ok(None)));
        ensure!(
            !gone && !self.lock.is_replaced(&self.path),
            "{}: the run's folder was removed or replaced while it trained: nothing can be saved, and the run ends",
            display_path(&self.path)
        );
        if matches!(vfs.kind(&self.checkpoints()), Ok(None)) {
            // If this fails, the save fails too and reports it.
            let _ = vfs.create_dir(&self.checkpoints());
        }
        Ok(())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The frozen settings.
    pub fn config(&self) -> PathBuf {
        config(&self.path)
    }

    /// The event log.
    pub fn events(&self) -> PathBuf {
        events(&self.path)
    }

    /// Generated text.
    pub fn samples(&self) -> PathBuf {
        samples(&self.path)
    }

    /// Folder for merges of `MergeNow`.
    pub fn merged(&self) -> PathBuf {
        self.path.join("merged")
    }

    /// The checkpoint folder.
    pub fn checkpoints(&self) -> PathBuf {
        checkpoints::folder(&self.path)
    }
}

/// The frozen settings of a run.
pub fn config(run: &Path) -> PathBuf {
    run.join("config.toml")
}

/// The event log of a run.
pub fn events(run: &Path) -> PathBuf {
    run.join("events.jsonl")
}

/// The generated text of a run, and the completions of reinforcement learning.
pub fn samples(run: &Path) -> PathBuf {
    run.join("samples.jsonl")
}

/// Whether a folder is a run folder: it has a run's settings and is not a model folder.
///
/// # Errors
/// A path that cannot be looked up.
pub fn is_run(vfs: &dyn Vfs, path: &Path) -> std::io::Result<bool> {
    Ok(vfs.is_file(&config(path))? && !vfs.is_file(&path.join("config.json"))?)
}

/// The settings of a run.
///
/// # Errors
/// They cannot be read.
pub fn settings(vfs: &dyn Vfs, run: &Path) -> Result<Settings> {
    Settings::read(vfs, &config(run))
}

/// Create a folder and its parents; the error names the first that cannot be created.
fn make_folders(vfs: &dyn Vfs, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        match vfs.kind(parent).with_context(|| display_path(parent))? {
            None => make_folders(vfs, parent)?,
            Some(_) => ensure!(vfs.is_dir(parent)?, "{}: is not a folder", display_path(parent)),
        }
    }
    match vfs.create_dir(path) {
        // Two trainers may start at the same time; the lock decides.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && vfs.is_dir(path)? => Ok(()),
        other => other.with_context(|| format!("{}: cannot be made", display_path(path))),
    }
}

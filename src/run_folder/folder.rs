//! A run's folder: made once, held by one trainer, opened again to resume.

use super::checkpoints;
use super::lock::RunLock;
use crate::config::Settings;
use crate::model::checkpoint;
use crate::vfs::{Kind, Vfs, shown};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// A run folder that this process holds.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    lock: RunLock,
}

impl RunFolder {
    /// Make a new run folder (and the folders above it), take its lock, write `config.toml`.
    ///
    /// # Errors
    /// A folder that already holds something, one that another process holds, or a place that cannot be written.
    pub fn create(vfs: &dyn Vfs, path: &Path, config_toml: &str) -> Result<Self> {
        if vfs.kind(path).with_context(|| shown(path))?.is_none() {
            make_folders(vfs, path)?;
        }
        Self::refuse_used(vfs, path)?;
        let lock = RunLock::acquire(path)?;
        // Another trainer may have come and gone between the look and the lock.
        Self::refuse_used(vfs, path)?;
        let folder = RunFolder { path: path.to_owned(), lock };
        let checkpoints = folder.checkpoints();
        if vfs.kind(&checkpoints)?.is_none() {
            vfs.create_dir(&checkpoints).with_context(|| shown(&checkpoints))?;
        }
        vfs.write_new(&folder.config(), config_toml.as_bytes()).with_context(|| shown(&folder.config()))?;
        vfs.fsync_dir(path).with_context(|| shown(path))?;
        Ok(folder)
    }

    /// Refuse a place where no new run can be made. Writes nothing.
    ///
    /// A folder counts as unused when it holds nothing, or only what a trainer leaves that was killed before `config.toml`.
    ///
    /// # Errors
    /// A file, or a folder that holds something.
    pub fn refuse_used(vfs: &dyn Vfs, path: &Path) -> Result<()> {
        if vfs.kind(path).with_context(|| shown(path))?.is_none() {
            return Ok(());
        }
        ensure!(path.is_dir(), "{}: is a file: choose another --run", shown(path));
        for entry in vfs.list(path).with_context(|| shown(path))? {
            let empty_folder =
                || entry.kind == Kind::Dir && vfs.list(&path.join(&entry.name)).is_ok_and(|inner| inner.is_empty());
            let leftover = (entry.name == "lock" && entry.kind == Kind::File) || (entry.name == "checkpoints" && empty_folder());
            if leftover {
                continue;
            }
            if config(path).exists() {
                let at = shown(path);
                bail!("{at}: holds a run already: continue it with `--resume {at}`, or choose another --run");
            }
            let name = shown(Path::new(&entry.name));
            bail!("{}: is not empty (it holds '{name}'): choose another --run", shown(path));
        }
        Ok(())
    }

    /// Take an existing run folder to go on with it, and tidy up after a trainer that was killed. Returns also what was tidied.
    ///
    /// # Errors
    /// No run there, or another process holds it.
    pub fn open_for_resume(vfs: &dyn Vfs, path: &Path) -> Result<(Self, Vec<String>)> {
        if path.join(checkpoint::MANIFEST).exists() {
            let run = path.parent().and_then(Path::parent).map(shown).unwrap_or_default();
            bail!("{}: is a checkpoint: --resume takes the run folder ({run}), --init a checkpoint", shown(path));
        }
        ensure!(path.is_dir(), "{}: there is no such run folder to resume", shown(path));
        ensure!(config(path).is_file(), "{}: holds no config.toml: not a run folder", shown(path));
        let folder = RunFolder { path: path.to_owned(), lock: RunLock::acquire(path)? };
        let checkpoints = folder.checkpoints();
        if vfs.kind(&checkpoints)?.is_none() {
            vfs.create_dir(&checkpoints).with_context(|| shown(&checkpoints))?;
        }
        let tidied = checkpoint::clean_stale(vfs, &checkpoints)?;
        Ok((folder, tidied))
    }

    /// Before a save: the folder is still this run's, and has a place for checkpoints.
    ///
    /// # Errors
    /// It was removed, or another stands in its place.
    pub fn check(&self, vfs: &dyn Vfs) -> Result<()> {
        // A disk that fails just now says nothing.
        let gone = [&self.path, &self.config()].into_iter().any(|path| matches!(vfs.kind(path), Ok(None)));
        ensure!(
            !gone && !self.lock.is_replaced(&self.path),
            "{}: the run's folder was removed or replaced while it trained: there is no place to save to, and the run ends",
            shown(&self.path)
        );
        if matches!(vfs.kind(&self.checkpoints()), Ok(None)) {
            // What went wrong here goes wrong again in the save, which tells it.
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

    /// Every event.
    pub fn events(&self) -> PathBuf {
        events(&self.path)
    }

    /// Generated text.
    pub fn samples(&self) -> PathBuf {
        samples(&self.path)
    }

    /// Where `MergeNow` writes merges.
    pub fn merged(&self) -> PathBuf {
        self.path.join("merged")
    }

    /// The checkpoints' folder.
    pub fn checkpoints(&self) -> PathBuf {
        checkpoints::folder(&self.path)
    }
}

/// The frozen settings of a run.
pub fn config(run: &Path) -> PathBuf {
    run.join("config.toml")
}

/// The events of a run.
pub fn events(run: &Path) -> PathBuf {
    run.join("events.jsonl")
}

/// The generated text of a run, and the completions of reinforcement.
pub fn samples(run: &Path) -> PathBuf {
    run.join("samples.jsonl")
}

/// Whether a folder is a run's: it has a run's settings and is no model folder.
pub fn is_run(path: &Path) -> bool {
    config(path).is_file() && !path.join("config.json").is_file()
}

/// The settings of a run.
///
/// # Errors
/// They cannot be read.
pub fn settings(run: &Path) -> Result<Settings> {
    Settings::read(&config(run))
}

/// Make a folder and those above it; the error names the first that cannot be made.
fn make_folders(vfs: &dyn Vfs, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        match vfs.kind(parent).with_context(|| shown(parent))? {
            None => make_folders(vfs, parent)?,
            Some(_) => ensure!(parent.is_dir(), "{}: is not a folder", shown(parent)),
        }
    }
    match vfs.create_dir(path) {
        // Two trainers may start at once; the lock decides.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.with_context(|| format!("{}: cannot be made", shown(path))),
    }
}

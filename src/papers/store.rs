//! Storage of results: one folder per training job, one file per evaluation. Every write is atomic.

use super::jobs::AttemptResult;
use crate::vfs::{display_path, write_whole};
use crate::world::World;
use anyhow::Context as _;
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// A work folder, which several processes may share.
pub struct WorkFolder {
    root: PathBuf,
}

impl WorkFolder {
    /// Open or create a work folder.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        for part in ["arms", "evals"] {
            let path = root.join(part);
            std::fs::create_dir_all(&path).with_context(|| format!("--work {}: cannot be made", display_path(&path)))?;
        }
        Ok(Self { root: root.to_path_buf() })
    }

    /// Folder of a training job.
    pub fn folder(&self, name: &str, key: &str) -> PathBuf {
        arm_folder(&self.root, name, key)
    }

    /// Whether a training job is finished.
    pub fn is_done(&self, name: &str, key: &str) -> bool {
        self.folder(name, key).join(RECORD).is_file()
    }

    /// Lock a training job; `None` while another process holds it.
    ///
    /// # Errors
    /// The folder cannot be created or locked.
    pub fn lock(&self, name: &str, key: &str) -> anyhow::Result<Option<File>> {
        let folder = self.folder(name, key);
        std::fs::create_dir_all(&folder).with_context(|| display_path(&folder))?;
        let path = folder.join("lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("{}: cannot be opened", display_path(&path)))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("{}: cannot be locked", display_path(&path))),
        }
    }

    /// Do a training job unless it is done or another process holds it.
    ///
    /// # Errors
    /// The folder cannot be created or locked, or an error of `work`.
    pub fn once(&self, name: &str, key: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<AttemptResult> {
        if self.is_done(name, key) {
            return Ok(AttemptResult::Done);
        }
        let Some(_lock) = self.lock(name, key)? else { return Ok(AttemptResult::Busy) };
        // Another process may have done it between the check and the lock.
        if !self.is_done(name, key) {
            work()?;
        }
        Ok(AttemptResult::Done)
    }

    /// The record of a finished training job.
    ///
    /// # Errors
    /// The file is missing or damaged.
    pub fn record<T: serde::de::DeserializeOwned>(&self, name: &str, key: &str) -> anyhow::Result<T> {
        let path = self.folder(name, key).join(RECORD);
        let text = std::fs::read(&path).with_context(|| display_path(&path))?;
        serde_json::from_slice(&text).with_context(|| format!("{}: damaged; remove its folder", display_path(&path)))
    }

    /// Write the record and description of a training job, which marks it as finished.
    ///
    /// # Errors
    /// A disk error.
    pub fn finish(
        &self,
        name: &str,
        key: &str,
        what: &impl serde::Serialize,
        record: &impl serde::Serialize,
    ) -> anyhow::Result<()> {
        let folder = self.folder(name, key);
        write_whole(&folder.join("arm.json"), &serde_json::to_vec_pretty(what)?)?;
        write_whole(&folder.join(RECORD), &serde_json::to_vec(record)?)
    }

    /// Read a cached result, or `compute` and store it.
    ///
    /// # Errors
    /// An error of `compute`, or a file that cannot be written.
    pub fn cached<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        key: &[&str],
        compute: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let path = self.root.join("evals").join(format!("{}.json", digest(key)));
        // A damaged file is recomputed.
        if let Some(known) = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            return Ok(known);
        }
        let value = compute()?;
        write_whole(&path, &serde_json::to_vec(&value)?)?;
        // Return the value as written, so that a second run gives the same bits.
        serde_json::from_slice(&serde_json::to_vec(&value)?).context("an evaluation does not survive JSON")
    }
}

/// Check that the work folder is the same on all ranks. Collective.
///
/// # Errors
/// A rank that does not see rank 0's folder.
pub fn check_shared(root: &Path, world: &World) -> anyhow::Result<()> {
    if world.is_solo() {
        return Ok(());
    }
    let path = root.join("ranks");
    let text = world.broadcast(format!("{} {:?}", std::process::id(), std::time::SystemTime::now()).into_bytes())?;
    world.check_all(if world.is_root() { write_whole(&path, &text) } else { Ok(()) })?;
    let read = std::fs::read(&path).ok().filter(|found| *found == text);
    world.check_all(read.with_context(|| {
        format!("--work {}: is not the folder of rank 0; choose one on a file system that all hosts share", display_path(root))
    }))?;
    if world.is_root() {
        std::fs::remove_file(&path).with_context(|| display_path(&path))?;
    }
    Ok(())
}

/// Exists once a training job is finished.
const RECORD: &str = "record.json";

/// Folder of a training job in a work folder.
pub fn arm_folder(root: &Path, name: &str, key: &str) -> PathBuf {
    root.join("arms").join(format!("{}-{key}", name.replace('/', "-")))
}

/// Whether a work folder has the finished job; creates nothing.
pub fn has(root: &Path, name: &str, key: &str) -> bool {
    arm_folder(root, name, key).join(RECORD).is_file()
}

/// Sixteen hexadecimal digits: a hash of texts.
pub fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

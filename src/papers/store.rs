//! What was computed already, on disk: a folder a piece of training, a file an evaluation. Nothing is ever half there.

use super::attempts::Ended;
use crate::vfs::{shown, write_whole};
use anyhow::Context as _;
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// A work folder, which several processes may share.
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Open or make a work folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        for part in ["arms", "evals"] {
            let path = root.join(part);
            std::fs::create_dir_all(&path).with_context(|| format!("--work {}: cannot be made", shown(&path)))?;
        }
        Ok(Self { root: root.to_path_buf() })
    }

    /// Folder of a piece of training.
    pub fn folder(&self, name: &str, key: &str) -> PathBuf {
        arm_folder(&self.root, name, key)
    }

    /// Whether a piece of training came to its end.
    pub fn is_done(&self, name: &str, key: &str) -> bool {
        self.folder(name, key).join(RECORD).is_file()
    }

    /// The right to train; `None` while another process has it.
    ///
    /// # Errors
    /// The folder cannot be made or locked.
    pub fn lock(&self, name: &str, key: &str) -> anyhow::Result<Option<File>> {
        let folder = self.folder(name, key);
        std::fs::create_dir_all(&folder).with_context(|| shown(&folder))?;
        let path = folder.join("lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("{}: cannot be opened", shown(&path)))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("{}: cannot be locked", shown(&path))),
        }
    }

    /// Do a piece of training unless it is there or another process is at it.
    ///
    /// # Errors
    /// The folder cannot be made or locked, or what `work` reports.
    pub fn once(&self, name: &str, key: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Ended> {
        if self.is_done(name, key) {
            return Ok(Ended::Done);
        }
        let Some(_lock) = self.lock(name, key)? else { return Ok(Ended::Busy) };
        // Another process may have done it between the look and the lock.
        if !self.is_done(name, key) {
            work()?;
        }
        Ok(Ended::Done)
    }

    /// What a finished piece of training left of its numbers.
    ///
    /// # Errors
    /// The file is gone or damaged.
    pub fn record<T: serde::de::DeserializeOwned>(&self, name: &str, key: &str) -> anyhow::Result<T> {
        let path = self.folder(name, key).join(RECORD);
        let text = std::fs::read(&path).with_context(|| shown(&path))?;
        serde_json::from_slice(&text).with_context(|| format!("{}: damaged; remove its folder", shown(&path)))
    }

    /// Leave the numbers of a piece of training, and what it was: with this it is done.
    ///
    /// # Errors
    /// The disk refuses.
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

    /// A result that was computed before, or `compute` and keep it.
    ///
    /// # Errors
    /// What `compute` reports, or a file that cannot be written.
    pub fn remember<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        key: &[&str],
        compute: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let path = self.root.join("evals").join(format!("{}.json", digest(key)));
        // A damaged file is computed anew.
        if let Some(known) = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            return Ok(known);
        }
        let value = compute()?;
        write_whole(&path, &serde_json::to_vec(&value)?)?;
        // What was written is what is used, so that a second run gives the same bits.
        serde_json::from_slice(&serde_json::to_vec(&value)?).context("an evaluation does not survive JSON")
    }
}

/// There once a piece of training is done.
const RECORD: &str = "record.json";

/// Where a work folder has a piece of training.
pub fn arm_folder(root: &Path, name: &str, key: &str) -> PathBuf {
    root.join("arms").join(format!("{}-{key}", name.replace('/', "-")))
}

/// Whether a work folder has it whole; nothing is made.
pub fn has(root: &Path, name: &str, key: &str) -> bool {
    arm_folder(root, name, key).join(RECORD).is_file()
}

/// Sixteen hexadecimal digits of some texts.
pub fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

//! Finding, verifying and opening checkpoints.

use super::{MANIFEST, Manifest, hex, step_of};
use crate::model_files::hf_config::{self, HfConfig};
use crate::model_files::safetensors_file::SafetensorsFile;
use crate::model_files::weight_files::WeightFiles;
use crate::vfs::{FileCursor, Vfs, clean, display_path};
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

const OPTIMIZER: &str = "optimizer.safetensors";

/// A valid checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
}

impl Checkpoint {
    /// Verify and open a folder.
    ///
    /// # Errors
    /// As [`verify`].
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        Ok(Checkpoint { path: path.to_owned(), manifest: verify(vfs, path)? })
    }

    /// Updates made.
    pub fn step(&self) -> u64 {
        self.manifest.origin.step
    }

    /// The weights.
    ///
    /// # Errors
    /// As [`WeightFiles::open`].
    pub fn weights(&self, vfs: &dyn Vfs) -> Result<WeightFiles> {
        WeightFiles::open(vfs, &self.path)
    }

    /// The optimizer's tensors.
    ///
    /// # Errors
    /// No optimizer in it (an export), or as [`SafetensorsFile::open`].
    pub fn optimizer(&self, vfs: &dyn Vfs) -> Result<SafetensorsFile> {
        let path = self.path.join(OPTIMIZER);
        ensure!(
            vfs.exists(&path)?,
            "{}: holds no optimizer.safetensors: it can start a run (--init) but not resume one",
            display_path(&self.path)
        );
        SafetensorsFile::open(vfs, &path)
    }

    /// The model's shape.
    ///
    /// # Errors
    /// As [`hf_config::read`].
    pub fn config(&self, vfs: &dyn Vfs) -> Result<HfConfig> {
        hf_config::read(vfs, &self.path.join("config.json"))
    }

    /// The trainer's state, `trainer.json`.
    ///
    /// # Errors
    /// Missing, or of another type.
    pub fn trainer<T: serde::de::DeserializeOwned>(&self, vfs: &dyn Vfs) -> Result<T> {
        let path = self.path.join("trainer.json");
        let bytes = vfs.read(&path, 64 << 20).with_context(|| display_path(&path))?;
        serde_json::from_slice(&bytes).map_err(|e| anyhow::anyhow!("{}: {}", display_path(&path), clean(&e.to_string())))
    }
}

/// Check a checkpoint folder: the manifest, and every file's size and hash.
///
/// # Errors
/// One line with folder and file.
pub fn verify(vfs: &dyn Vfs, dir: &Path) -> Result<Manifest> {
    check(vfs, dir, &|_| true)
}

/// As [`verify`], but only the size of the optimizer's file, which merges and evaluations do not read.
///
/// # Errors
/// As [`verify`].
pub fn verify_model(vfs: &dyn Vfs, dir: &Path) -> Result<Manifest> {
    check(vfs, dir, &|name| name != OPTIMIZER)
}

/// As [`verify`] with sizes only: for a folder whose hashes this process has already checked.
///
/// # Errors
/// As [`verify`].
pub fn verify_sizes(vfs: &dyn Vfs, dir: &Path) -> Result<Manifest> {
    check(vfs, dir, &|_| false)
}

/// `hashed` selects the files whose hash is checked too.
fn check(vfs: &dyn Vfs, dir: &Path, hashed: &dyn Fn(&str) -> bool) -> Result<Manifest> {
    let at = || display_path(dir);
    let bytes = vfs.read(&dir.join(MANIFEST), 4 << 20).with_context(|| format!("{}: {MANIFEST}", at()))?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{}: {MANIFEST}", at()))?;
    let manifest = Manifest::parse(text).with_context(at)?;
    if let Some(step) = dir.file_name().and_then(|name| step_of(name.to_str()?)) {
        let says = manifest.origin.step;
        ensure!(says == step, "{}: {MANIFEST}: step = {says}: the folder's name says {step}: copied under a wrong name?", at());
    }
    for file in &manifest.files {
        let at = || format!("{}: {}", display_path(dir), clean(&file.name));
        let opened = vfs.open(&dir.join(&file.name)).with_context(at)?;
        let bytes = opened.bytes();
        ensure!(bytes == file.bytes, "{}: has {bytes} bytes, the manifest says {}: truncated or replaced", at(), file.bytes);
        if hashed(&file.name) {
            let found = hash(FileCursor::new(opened, 0)).with_context(at)?;
            ensure!(found == file.sha256, "{}: its SHA-256 is not the manifest's: damaged or of another checkpoint", at());
        }
    }
    Ok(manifest)
}

fn hash(mut reader: impl Read) -> std::io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

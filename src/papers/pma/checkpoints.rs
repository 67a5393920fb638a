//! Arms on disk: stored weights and moments, and the measurements of every update.

use super::arm::{PmaArm, PmaRecord};
use crate::papers::jobs::AttemptResult;
use crate::papers::store::WorkFolder;
use crate::vfs::display_path;
use anyhow::Context as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// A work folder.
pub struct CheckpointStore {
    store: WorkFolder,
    /// Identifies the corpora in keys.
    texts: String,
}

/// Weights and moments of a step.
pub struct SavedState {
    /// Weights, first and second moments.
    pub parts: [Vec<f32>; 3],
}

impl CheckpointStore {
    /// Open or create a work folder.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn open(root: &Path, texts: &str) -> anyhow::Result<Self> {
        Ok(Self { store: WorkFolder::open(root)?, texts: texts.to_string() })
    }

    /// Key of an arm.
    pub fn key(&self, arm: &PmaArm) -> String {
        arm.key(&self.texts)
    }

    /// Folder of an arm.
    pub fn folder(&self, arm: &PmaArm) -> PathBuf {
        self.store.folder(&arm.name, &self.key(arm))
    }

    /// Whether an arm is fully trained.
    pub fn is_done(&self, arm: &PmaArm) -> bool {
        self.store.is_done(&arm.name, &self.key(arm))
    }

    /// Lock an arm for training; `None` while another process holds it.
    ///
    /// # Errors
    /// The folder cannot be created or locked.
    pub fn lock(&self, arm: &PmaArm) -> anyhow::Result<Option<File>> {
        self.store.lock(&arm.name, &self.key(arm))
    }

    /// [`WorkFolder::once`].
    ///
    /// # Errors
    /// As [`WorkFolder::once`].
    pub fn once(&self, arm: &PmaArm, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<AttemptResult> {
        self.store.once(&arm.name, &self.key(arm), work)
    }

    /// The measurements of every update of a finished arm.
    ///
    /// # Errors
    /// The file is missing or damaged.
    pub fn record(&self, arm: &PmaArm) -> anyhow::Result<PmaRecord> {
        self.store.record(&arm.name, &self.key(arm))
    }

    /// Record that an arm is finished.
    ///
    /// # Errors
    /// A disk error.
    pub fn finish(&self, arm: &PmaArm, record: &PmaRecord) -> anyhow::Result<()> {
        self.store.finish(&arm.name, &self.key(arm), arm, record)
    }

    /// [`WorkFolder::cached`].
    ///
    /// # Errors
    /// As [`WorkFolder::cached`].
    pub fn cached<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        key: &[&str],
        compute: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.store.cached(key, compute)
    }

    /// Weights of a finished arm at a step where they were stored.
    ///
    /// # Errors
    /// They were not stored, or the file is damaged.
    pub fn weights(&self, arm: &PmaArm, step: u64) -> anyhow::Result<Vec<f32>> {
        let folder = self.folder(arm);
        if arm.states.contains(&step) {
            let [weights, ..] = self.state(arm, step)?.parts;
            return Ok(weights);
        }
        let since = step.checked_sub(arm.from_step).filter(|s| *s > 0 && arm.snapshot_every > 0);
        let index = since.filter(|s| s.is_multiple_of(arm.snapshot_every) && step <= arm.to_step);
        let index = index.with_context(|| format!("{}: no weights of step {step} were kept", arm.name))?;
        let path = folder.join("weights.f32");
        let mut file = File::open(&path).with_context(|| display_path(&path))?;
        let each = file.metadata()?.len() / (arm.updates() / arm.snapshot_every).max(1);
        let mut bytes = vec![0u8; each as usize];
        file.seek(SeekFrom::Start((index / arm.snapshot_every - 1) * each))?;
        file.read_exact(&mut bytes).with_context(|| format!("{}: too short; remove its folder", display_path(&path)))?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// Weights and moments of a finished arm at a step where both were stored.
    ///
    /// # Errors
    /// They were not stored, or the file is damaged.
    pub fn state(&self, arm: &PmaArm, step: u64) -> anyhow::Result<SavedState> {
        let path = self.folder(arm).join(state_name(step));
        let bytes = std::fs::read(&path).with_context(|| display_path(&path))?;
        anyhow::ensure!(bytes.len().is_multiple_of(12), "{}: damaged; remove its folder", display_path(&path));
        let third = bytes.len() / 3;
        Ok(SavedState { parts: [0, 1, 2].map(|i| bytemuck::pod_collect_to_vec(&bytes[i * third..(i + 1) * third])) })
    }

    /// The weighted sum of checkpoints of an arm, summed in f64.
    ///
    /// # Errors
    /// As [`CheckpointStore::weights`].
    pub fn merged(&self, arm: &PmaArm, mix: &[(u64, f64)]) -> anyhow::Result<Vec<f32>> {
        if let [(step, 1.0)] = mix {
            return self.weights(arm, *step);
        }
        let mut sum: Vec<f64> = Vec::new();
        for (step, weight) in mix {
            let values = self.weights(arm, *step)?;
            sum.resize(values.len(), 0.0);
            sum.iter_mut().zip(&values).for_each(|(s, v)| *s += weight * f64::from(*v));
        }
        Ok(sum.into_iter().map(|s| s as f32).collect())
    }
}

/// File of a state.
pub fn state_name(step: u64) -> String {
    format!("state-{step}.f32")
}

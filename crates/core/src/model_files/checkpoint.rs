//! Checkpoints that survive a kill, a full disk and a power cut.
//!
//! Protocol: a temp folder, every file synced, `MANIFEST.json` with sizes and hashes last, rename, sync the parent. A folder without a
//! valid manifest is ignored; the reader uses the newest valid one. A failed fsync is never repeated on the same file: the save starts
//! again in a new folder. The same code writes export folders, with other files.

mod read;
mod write;

pub use read::{Checkpoint, verify, verify_model, verify_sizes};
pub use write::{CheckpointTarget, CheckpointWriter, IfExists, SaveFailed, clean_stale, save};

use crate::vfs::clean;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// Version of the folder's format; a reader rejects newer ones.
pub const FORMAT: u32 = 1;
/// The file that marks a folder as a checkpoint.
pub const MANIFEST: &str = "MANIFEST.json";

/// Origin and contents of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// Origin.
    #[serde(flatten)]
    pub origin: CheckpointOrigin,
    /// lehr's version.
    pub lehr: String,
    /// All files except the manifest.
    pub files: Vec<FileEntry>,
}

/// Origin of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointOrigin {
    /// Updates made.
    pub step: u64,
    /// The run's id.
    pub run_id: String,
    /// Hash of the settings that determine tensors and arithmetic.
    pub config_hash: String,
    /// Adapter and driver that computed it.
    pub adapter: String,
    /// The run's starting point, `RUN@STEP` or a merge, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
}

/// The end of a manifest's text: the hash of everything before it, which detects any change.
const CHECKSUM_KEY: &str = ",\n  \"checksum\": \"";
const CHECKSUM_END: &str = "\"\n}\n";

impl Manifest {
    /// Total bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).fold(0, u64::saturating_add)
    }

    fn render(&self) -> Result<String> {
        let json = serde_json::to_string_pretty(self)?;
        let body = json.trim_end_matches(['}', '\n']);
        Ok(format!("{body}{CHECKSUM_KEY}{}{CHECKSUM_END}", hex(&Sha256::digest(body))))
    }

    fn parse(text: &str) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let broken = |e: serde_json::Error| anyhow::anyhow!("{MANIFEST}: {}", clean(&e.to_string()));
        let Format { format } = serde_json::from_str(text).map_err(broken)?;
        ensure!(format <= FORMAT, "{MANIFEST}: written in format {format}, this lehr reads up to {FORMAT}: update lehr");
        ensure!(format >= 1, "{MANIFEST}: format = {format}: must be at least 1");
        let (body, checksum) = text.rsplit_once(CHECKSUM_KEY).unwrap_or((text, ""));
        let valid = checksum.strip_suffix(CHECKSUM_END).is_some_and(|c| c == hex(&Sha256::digest(body)));
        ensure!(valid, "{MANIFEST}: its checksum does not fit: damaged or edited");
        let manifest: Manifest = serde_json::from_str(text).map_err(broken)?;
        let mut names = BTreeSet::new();
        for FileEntry { name, .. } in &manifest.files {
            check_file_name(name)?;
            ensure!(names.insert(name), "{MANIFEST}: '{}' is listed twice", clean(name));
        }
        Ok(manifest)
    }
}

/// Only plain names, which cannot leave the folder.
fn check_file_name(name: &str) -> Result<()> {
    let plain = Path::new(name).file_name().is_some_and(|f| f == name) && !name.contains(['/', '\\', ':', '\0']);
    ensure!(plain && name != MANIFEST, "{MANIFEST}: file name '{}' is not a plain name", clean(name));
    Ok(())
}

/// The folder name of a step.
pub fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step of a folder name, if [`step_name`] makes such names.
pub fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

/// Bytes as hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

//! Notices about a driver or processor, shown once each, since they apply to every run on it.

use crate::device::{Device, cache_folder};
use crate::vfs::Vfs;
use std::collections::BTreeSet;
use std::path::Path;

const FILE: &str = "remarks.json";
/// A longer file was not written by lehr.
const MOST_BYTES: u64 = 1 << 20;

/// Whether this notice is new for this device and driver version; records it. Without a cache folder every notice is new.
pub fn is_new(vfs: &dyn Vfs, device: &Device, text: &str) -> bool {
    cache_folder().is_none_or(|folder| note(vfs, &folder, &format!("{}: {text}", device.summary().title())))
}

/// Add a notice to the file; false if it is already present.
fn note(vfs: &dyn Vfs, folder: &Path, text: &str) -> bool {
    let path = folder.join(FILE);
    let bytes = vfs.read(&path, MOST_BYTES).unwrap_or_default();
    let mut made: BTreeSet<String> = serde_json::from_slice(&bytes).unwrap_or_default();
    if !made.insert(text.to_owned()) {
        return false;
    }
    // If the folder cannot be written, the notice is repeated; the run is not affected.
    if vfs.create_dir_all(folder).is_ok()
        && let Ok(json) = serde_json::to_string_pretty(&made)
    {
        let _ = vfs.replace(&path, json.as_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::RealFs;

    #[test]
    fn driver_notes_appear_once_per_version() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cache");
        let note = |folder: &Path, text: &str| note(&RealFs, folder, text);
        assert!(note(&folder, "driver 1: slow") && note(&folder, "driver 2: slow") && note(&folder, "driver 1: wrong"));
        assert!(!note(&folder, "driver 1: slow") && !note(&folder, "driver 2: slow"));
        std::fs::write(folder.join(FILE), "torn [").unwrap();
        assert!(note(&folder, "driver 1: slow") && !note(&folder, "driver 1: slow"));
        // Below a file nothing can be stored.
        assert!(note(&folder.join(FILE), "x") && note(&folder.join(FILE), "x"));
    }
}

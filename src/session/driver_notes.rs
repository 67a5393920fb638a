//! Remarks about a driver or processor, each made once: they are true of every run on it, and say nothing new the second time.

use crate::device::{Device, cache_folder};
use crate::vfs::write_whole;
use std::collections::BTreeSet;
use std::path::Path;

const FILE: &str = "remarks.json";
/// A longer file is not ours.
const MOST_BYTES: u64 = 1 << 20;

/// Whether this remark has not been made yet on this device with this version of its driver; from now on it has. Where there is no
/// cache folder it is made each time.
pub fn is_new(device: &Device, text: &str) -> bool {
    cache_folder().is_none_or(|folder| note(&folder, &format!("{}: {text}", device.summary().title())))
}

/// Add it to the file; false if it is there already.
fn note(folder: &Path, remark: &str) -> bool {
    let path = folder.join(FILE);
    let is_small = std::fs::metadata(&path).is_ok_and(|about| about.is_file() && about.len() <= MOST_BYTES);
    let bytes = if is_small { std::fs::read(&path).unwrap_or_default() } else { Vec::new() };
    let mut made: BTreeSet<String> = serde_json::from_slice(&bytes).unwrap_or_default();
    if !made.insert(remark.to_owned()) {
        return false;
    }
    // A folder that cannot be written costs a repeated remark, no run.
    if std::fs::create_dir_all(folder).is_ok()
        && let Ok(text) = serde_json::to_string_pretty(&made)
    {
        let _ = write_whole(&path, text.as_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_is_made_once_for_each_version_of_a_driver() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cache");
        assert!(note(&folder, "driver 1: slow") && note(&folder, "driver 2: slow") && note(&folder, "driver 1: wrong"));
        assert!(!note(&folder, "driver 1: slow") && !note(&folder, "driver 2: slow"));
        std::fs::write(folder.join(FILE), "torn [").unwrap();
        assert!(note(&folder, "driver 1: slow") && !note(&folder, "driver 1: slow"));
        // Below a file nothing can be kept.
        assert!(note(&folder.join(FILE), "x") && note(&folder.join(FILE), "x"));
    }
}

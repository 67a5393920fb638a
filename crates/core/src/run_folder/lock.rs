//! One trainer per run: an advisory lock on the file `lock`, which the system releases when its holder exits.

use crate::number_format::{clock, date};
use crate::vfs::{FileKind, Vfs, VfsLock, clean, display_path, is_locked, unix_time};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the lock file.
const NAME: &str = "lock";

/// The holder of a run, as written into its lock file. Only the lock itself decides; this is for messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockOwner {
    /// Process id.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// Unix time of the start, in seconds.
    pub since: u64,
}

/// The held lock of a run folder; released when dropped.
#[derive(Debug)]
pub struct RunLock {
    file: Box<dyn VfsLock>,
}

impl RunLock {
    /// Lock a run folder.
    ///
    /// # Errors
    /// Another process holds it (the message names host and start), or the file cannot be written.
    pub fn acquire(vfs: &dyn Vfs, run: &Path) -> Result<Self> {
        let path = run.join(NAME);
        let found = vfs.kind(&path).with_context(|| display_path(&path))?;
        ensure!(matches!(found, None | Some(FileKind::File)), "{}: is not a plain file: remove it", display_path(&path));
        let file = vfs.lock_file(&path).with_context(|| format!("{}: cannot be opened", display_path(&path)))?;
        let locked = file.try_lock();
        let locked =
            locked.with_context(|| format!("{}: cannot be locked (a network folder?): use a local disk", display_path(&path)))?;
        ensure!(locked, "{}: {}", display_path(run), in_use(&file.text()));
        let owner = LockOwner { pid: std::process::id(), host: host_name(), since: unix_time() as u64 };
        let text = format!("{}\n", serde_json::json!(owner));
        file.write(text.as_bytes()).with_context(|| format!("{}: cannot be written", display_path(&path)))?;
        Ok(RunLock { file })
    }

    /// Whether the lock file was replaced: the folder was removed and created again.
    pub fn is_replaced(&self, run: &Path) -> bool {
        self.file.is_replaced(&run.join(NAME))
    }

    /// Whether a process currently holds the run. Does not take the lock.
    pub fn is_held(run: &Path) -> bool {
        is_locked(&run.join(NAME))
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The file is kept: removing it would let two processes lock different files of the same name.
        let _ = self.file.write(b"").and_then(|()| self.file.unlock());
    }
}

fn in_use(text: &str) -> String {
    match serde_json::from_str::<LockOwner>(text) {
        Ok(o) => format!(
            "is in use by process {} on {} since {}: stop that one first, or use another --run",
            o.pid,
            clean(&o.host),
            utc(o.since)
        ),
        Err(_) => "is in use by another process: stop that one first, or use another --run".into(),
    }
}

/// The host's name, or `unknown`.
pub fn host_name() -> String {
    let from_file = |path| std::fs::read_to_string(path).ok();
    let name = from_file("/proc/sys/kernel/hostname")
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| from_file("/etc/hostname"))
        .unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).take(64).collect();
    if name.is_empty() { "unknown".into() } else { name }
}

/// `2026-01-31 23:59:59 UTC`.
pub fn utc(unix: u64) -> String {
    format!("{} {} UTC", date(unix as f64), clock(unix as f64))
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_right_at_boundaries() {
        for (unix, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(super::utc(unix), text);
        }
    }
}

//! One trainer per run: an advisory lock on the file `lock`, which the system releases when its holder exits.

use crate::vfs::{clean, shown, unix_time};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The holder of a run, as written into its lock file. Only the lock itself decides; this is for messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
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
    file: File,
}

impl RunLock {
    /// Lock a run folder.
    ///
    /// # Errors
    /// Another process holds it (the message names host and start), or the file cannot be written.
    pub fn acquire(run: &Path) -> Result<Self> {
        let path = run.join("lock");
        if let Ok(found) = std::fs::symlink_metadata(&path) {
            ensure!(found.is_file(), "{}: is not a plain file: remove it", shown(&path));
        }
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.with_context(|| format!("{}: cannot be opened", shown(&path)))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{}: {}", shown(run), in_use(&mut file)),
            Err(TryLockError::Error(e)) => {
                return Err(e)
                    .with_context(|| format!("{}: cannot be locked (a network folder?): use a local disk", shown(&path)));
            }
        }
        let owner = Owner { pid: std::process::id(), host: host_name(), since: unix_time() as u64 };
        file.set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", serde_json::json!(owner)).as_bytes()))
            .with_context(|| format!("{}: cannot be written", shown(&path)))?;
        Ok(RunLock { file })
    }

    /// Whether the lock file was replaced: the folder was removed and created again.
    pub fn is_replaced(&self, run: &Path) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let there = std::fs::metadata(run.join("lock"));
            if let (Ok(held), Ok(there)) = (self.file.metadata(), there) {
                return (held.dev(), held.ino()) != (there.dev(), there.ino());
            }
        }
        // On other systems an open file cannot be removed.
        let _ = run;
        false
    }

    /// Whether a process currently holds the run. Does not take the lock.
    pub fn is_held(run: &Path) -> bool {
        File::open(run.join("lock")).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The file is kept: removing it would let two processes lock different files of the same name.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

fn in_use(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(4096).read_to_string(&mut text));
    match serde_json::from_str::<Owner>(&text) {
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
    // Days to civil date, after Howard Hinnant's chrono algorithms; 400-year eras begin on 1 March.
    let (days, second) = (unix / 86400 + 719_468, unix % 86400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (d, m) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let y = year + era * 400 + u64::from(m <= 2);
    format!("{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
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

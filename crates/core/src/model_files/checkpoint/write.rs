//! Writing a checkpoint, and cleaning up after an interrupted one.

use super::{CheckpointOrigin, FORMAT, FileEntry, MANIFEST, Manifest, check_file_name, hex, verify};
use crate::vfs::{FileKind, Vfs, VfsFile, display_path, human_bytes, unique_suffix};
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Disk space kept free for the logs, which are written meanwhile.
const RESERVE: u64 = 1 << 20;

/// The treatment of an existing target folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    /// Reject it, unless it is empty: for exports.
    Refuse,
    /// Replace it, and remove the old one once the new one is durable: for a run that went back and reaches the step again.
    Replace,
}

/// Target and size of a folder to write.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointTarget<'a> {
    /// The existing parent folder.
    pub parent: &'a Path,
    /// The new folder's name: [`super::step_name`], or the name of an export.
    pub name: &'a str,
    /// Bytes to write, as far as known.
    pub bytes: u64,
    /// The treatment of an existing one.
    pub existing: IfExists,
}

/// A failed save; nothing of it is left on disk and older checkpoints are untouched.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be saved: {why} (needs {}, free {})", display_path(.path), human_bytes(*.needed), .free.map_or("unknown".into(), human_bytes))]
pub struct SaveFailed {
    /// The folder to be written.
    pub path: PathBuf,
    /// Bytes needed.
    pub needed: u64,
    /// Bytes free, if known.
    pub free: Option<u64>,
    /// The reason and its causes, in one line.
    pub why: String,
    /// Whether the disk is full: freeing space helps, retrying at once does not.
    pub disk_full: bool,
}

impl SaveFailed {
    /// Bytes that are missing on the disk: all, if the free space is unknown.
    pub fn missing(&self) -> u64 {
        self.needed.saturating_sub(self.free.unwrap_or(0))
    }
}

/// A checkpoint being written. Dropped without [`Self::finish`], it removes its temp folder.
pub struct CheckpointWriter<'a> {
    vfs: &'a dyn Vfs,
    temp: PathBuf,
    target: PathBuf,
    existing: IfExists,
    files: Vec<FileEntry>,
    done: bool,
}

/// Counts and hashes the bytes written.
struct Hashing<'a> {
    out: Box<dyn VfsFile + 'a>,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A name beside `name` that no other process takes; [`clean_stale`] finds `name` in it.
fn temporary(prefix: &str, name: &str) -> String {
    format!("{prefix}{name}-{}", unique_suffix())
}

impl<'a> CheckpointWriter<'a> {
    /// Check the free space and create the temp folder.
    ///
    /// # Errors
    /// Too little space, a target that must not be replaced, or a disk error.
    pub fn begin(vfs: &'a dyn Vfs, place: CheckpointTarget) -> Result<Self> {
        let target = place.parent.join(place.name);
        match vfs.kind(&target).context("looking for an older one")? {
            Some(FileKind::Dir) if place.existing == IfExists::Refuse && !vfs.list(&target)?.is_empty() => {
                bail!("the folder exists and is not empty: choose another name or remove it");
            }
            Some(FileKind::Dir) | None => {}
            Some(_) => bail!("a file or link of that name is in the way: remove it"),
        }
        if let Ok(free) = vfs.free_space(place.parent) {
            let needed = required_space(place.bytes);
            if free < needed {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "too little free space on this disk: free some").into());
            }
        }
        let temp = place.parent.join(temporary(".tmp-", place.name));
        vfs.create_dir(&temp).with_context(|| format!("making {}", display_path(&temp)))?;
        Ok(CheckpointWriter { vfs, temp, target, existing: place.existing, files: Vec::new(), done: false })
    }

    /// Write one file with a closure, and make it durable.
    ///
    /// # Errors
    /// A duplicate name, an error of the closure, or a disk error.
    pub fn file(&mut self, name: &str, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        check_file_name(name)?;
        ensure!(self.files.iter().all(|f| f.name != name), "'{name}' is written twice");
        let out = self.vfs.create_new(&self.temp.join(name)).with_context(|| format!("creating {name}"))?;
        let mut out = Hashing { out, hash: Sha256::new(), bytes: 0 };
        write(&mut out).with_context(|| format!("writing {name}"))?;
        out.flush().with_context(|| format!("writing {name}"))?;
        out.out.fsync().with_context(|| format!("syncing {name}"))?;
        self.files.push(FileEntry { name: name.to_owned(), bytes: out.bytes, sha256: hex(&out.hash.finalize()) });
        Ok(())
    }

    /// Write one JSON file.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn json(&mut self, name: &str, value: &impl serde::Serialize) -> Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.file(name, |out| Ok(out.write_all(text.as_bytes())?))
    }

    /// Write the manifest, move the folder into place and make that durable. Only then is the checkpoint saved.
    ///
    /// # Errors
    /// A disk error.
    pub fn finish(mut self, origin: CheckpointOrigin) -> Result<Manifest> {
        let files = std::mem::take(&mut self.files);
        let manifest = Manifest { format: FORMAT, origin, lehr: env!("CARGO_PKG_VERSION").into(), files };
        let text = manifest.render()?;
        self.vfs.write_new(&self.temp.join(MANIFEST), text.as_bytes()).context("writing MANIFEST.json")?;
        self.vfs.fsync_dir(&self.temp).context("syncing the temp folder")?;
        let old = self.set_aside()?;
        let parent = self.target.parent().unwrap_or(Path::new(".")).to_owned();
        if let Err(e) = self.vfs.rename(&self.temp, &self.target) {
            if let Some(old) = &old {
                // If this fails as well, `clean_stale` puts it back at the next start.
                let _ = self.vfs.rename(old, &self.target);
            }
            return Err(e).context("moving the temp folder into place");
        }
        self.done = true;
        self.vfs.fsync_dir(&parent).context("it is written, but a power cut may still take it: syncing its parent folder")?;
        if let Some(old) = old {
            let trash = parent.join(temporary(".trash-", &self.target.file_name().unwrap_or_default().to_string_lossy()));
            // Leftovers are removed at the next start.
            let _ = self.vfs.rename(&old, &trash).and_then(|()| self.vfs.remove_dir_all(&trash));
        }
        Ok(manifest)
    }

    /// Move an older folder of the same name aside; it stays complete until the new one is durable.
    fn set_aside(&self) -> Result<Option<PathBuf>> {
        if self.vfs.kind(&self.target)?.is_none() {
            return Ok(None);
        }
        if self.existing == IfExists::Refuse {
            self.vfs.remove_dir(&self.target).context("the folder appeared meanwhile and is not empty")?;
            return Ok(None);
        }
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        let old = self.target.with_file_name(temporary(".old-", &name));
        self.vfs.rename(&self.target, &old).context("moving the older one aside")?;
        Ok(Some(old))
    }
}

impl Drop for CheckpointWriter<'_> {
    fn drop(&mut self) {
        if !self.done {
            // Leftovers are removed at the next start.
            let _ = self.vfs.remove_dir_all(&self.temp);
        }
    }
}

/// Required free space: disks do not use the last blocks completely.
fn required_space(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 100).saturating_add(RESERVE)
}

/// Save: `write` fills the folder through the writer. After an error other than a full disk it is retried once, with new files.
///
/// # Errors
/// [`SaveFailed`], with path, needed and free bytes; the temp folder is removed.
pub fn save(
    vfs: &dyn Vfs,
    place: CheckpointTarget,
    origin: &CheckpointOrigin,
    mut write: impl FnMut(&mut CheckpointWriter) -> Result<()>,
) -> Result<(PathBuf, Manifest), SaveFailed> {
    let mut attempt = || -> Result<Manifest> {
        let mut writer = CheckpointWriter::begin(vfs, place)?;
        write(&mut writer)?;
        writer.finish(origin.clone())
    };
    let io_kind = |e: &anyhow::Error| e.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    let full = |e: &anyhow::Error| matches!(io_kind(e), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
    let mut result = attempt();
    if result.as_ref().is_err_and(|e| io_kind(e).is_some() && !full(e)) {
        result = attempt();
    }
    let path = place.parent.join(place.name);
    match result {
        Ok(manifest) => Ok((path, manifest)),
        Err(e) => Err(SaveFailed {
            path,
            needed: required_space(place.bytes),
            free: vfs.free_space(place.parent).ok(),
            why: format!("{e:#}"),
            disk_full: full(&e),
        }),
    }
}

/// Remove leftovers of interrupted saves and deletions from a run's checkpoint folder, and restore a checkpoint that was set aside if its
/// replacement was never saved. Call it with the run's lock held: then every temp folder is an orphan. Returns what was done, in words.
/// # Errors
/// The folder cannot be listed; leftovers that cannot be removed are only reported.
pub fn clean_stale(vfs: &dyn Vfs, checkpoints: &Path) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for entry in vfs.list(checkpoints).with_context(|| display_path(checkpoints))? {
        let Some(name) = entry.name.to_str().filter(|_| entry.kind == FileKind::Dir) else { continue };
        let Some((prefix, rest)) = [".tmp-", ".trash-", ".old-"].iter().find_map(|p| Some((*p, name.strip_prefix(p)?))) else {
            continue;
        };
        // step-00000500-SUFFIX
        let name_of_step = rest.match_indices('-').nth(1).map(|(at, _)| &rest[..at]);
        let Some(step) = name_of_step.filter(|step| super::step_of(step).is_some()) else { continue };
        let (path, target) = (checkpoints.join(name), checkpoints.join(step));
        if prefix == ".old-" && vfs.kind(&target)?.is_none() {
            let back = vfs.rename(&path, &target).and_then(|()| vfs.fsync_dir(checkpoints));
            let valid = back.is_ok() && verify(vfs, &target).is_ok();
            done.push(format!("{}: put back ({})", display_path(&target), if valid { "valid" } else { "not valid" }));
            continue;
        }
        match vfs.remove_dir_all(&path) {
            Ok(()) => done.push(format!("{}: left by a cut-off save or deletion, removed", display_path(&path))),
            Err(e) => done.push(format!("{}: left by a cut-off save or deletion, cannot be removed: {e}", display_path(&path))),
        }
    }
    Ok(done)
}

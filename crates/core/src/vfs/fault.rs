//! Fault injection: the n-th operation fails, the process "dies" there, or a power cut loses all unsynced data.

use super::{Entry, FileKind, FileMetadata, RealFs, Vfs, VfsFile, VfsLock, VfsReader};
use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Disk full.
    NoSpace,
    /// I/O error.
    Io,
    /// File system became read-only.
    ReadOnly,
    /// Permission denied.
    Denied,
    /// The process is killed: this operation is half done and no later one happens, clean-up included.
    Killed,
    /// A read returns fewer bytes than asked for, as it may.
    Short,
    /// From here on the file has lost its second half.
    Shrunk,
}

impl FaultKind {
    /// All faults that the process survives.
    pub const ERRORS: [FaultKind; 4] = [FaultKind::NoSpace, FaultKind::Io, FaultKind::ReadOnly, FaultKind::Denied];

    fn error(self) -> io::Error {
        let (kind, text) = match self {
            FaultKind::NoSpace => (io::ErrorKind::StorageFull, "no space left on device (injected)"),
            FaultKind::Io => (io::ErrorKind::Other, "input/output error (injected)"),
            FaultKind::ReadOnly => (io::ErrorKind::ReadOnlyFilesystem, "read-only file system (injected)"),
            FaultKind::Denied => (io::ErrorKind::PermissionDenied, "permission denied (injected)"),
            FaultKind::Killed => (io::ErrorKind::Interrupted, "killed (injected)"),
            FaultKind::Short | FaultKind::Shrunk => (io::ErrorKind::Other, "not an error (injected)"),
        };
        // `write_all` retries on Interrupted, so a killed process must not return that.
        let kind = if kind == io::ErrorKind::Interrupted { io::ErrorKind::BrokenPipe } else { kind };
        io::Error::new(kind, text)
    }
}

/// Effect of a power cut on data that was written but not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerCut {
    /// Unsynced data: true keeps the first half of each file, false keeps nothing.
    pub half_written: bool,
    /// Unsynced renames: true if they had reached the disk.
    pub renames_kept: bool,
    /// Unsynced names of new files: true if they had reached the disk.
    pub names_kept: bool,
}

#[derive(Debug, Default)]
struct State {
    operations: usize,
    dead: bool,
    unsynced_files: Vec<PathBuf>,
    unsynced_names: Vec<PathBuf>,
    unsynced_renames: Vec<(PathBuf, PathBuf)>,
    shrunk: Option<PathBuf>,
    log: Vec<String>,
}

/// [`RealFs`] with one planned fault. Operations are counted from 0. Clones share the count.
#[derive(Clone, Debug)]
pub struct FaultFs {
    at: usize,
    trouble: FaultKind,
    lasting: bool,
    /// Whether look-ups and the reads of an open file count too.
    every_read: bool,
    disk: Option<(PathBuf, u64)>,
    state: Arc<Mutex<State>>,
}

impl FaultFs {
    /// The fault `trouble` at operation `at`.
    pub fn new(at: usize, trouble: FaultKind) -> Self {
        FaultFs { at, trouble, lasting: false, every_read: false, disk: None, state: Arc::default() }
    }

    /// No fault, but a disk of this many bytes, which holds only the files under `root`.
    pub fn small(root: &Path, bytes: u64) -> Self {
        FaultFs { disk: Some((root.to_owned(), bytes)), ..Self::counting() }
    }

    /// From operation `at` on, nothing can be created or written; removing and reading still work: a disk that stays full.
    pub fn lasting(at: usize, trouble: FaultKind) -> Self {
        FaultFs { lasting: true, ..Self::new(at, trouble) }
    }

    /// As [`Self::new`]; look-ups and the reads of an open file are operations too.
    pub fn reading(at: usize, trouble: FaultKind) -> Self {
        FaultFs { every_read: true, ..Self::new(at, trouble) }
    }

    /// No fault; operations are only counted.
    pub fn counting() -> Self {
        Self::new(usize::MAX, FaultKind::Io)
    }

    /// Number of operations so far.
    pub fn operations(&self) -> usize {
        self.state().operations
    }

    /// The names of the operations so far, for a failing test to print.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts one operation; the planned one fails.
    fn operation(&self, what: &str, path: &Path) -> io::Result<()> {
        let mut s = self.state();
        let n = s.operations;
        s.operations += 1;
        s.log.push(format!("{n} {what} {}", super::display_path(path)));
        if s.dead {
            return Err(FaultKind::Killed.error());
        }
        let again =
            self.lasting && n > self.at && matches!(what, "create" | "append" | "lock" | "create_dir" | "write" | "fsync");
        if n == self.at && matches!(self.trouble, FaultKind::Short | FaultKind::Shrunk) {
            s.shrunk = (self.trouble == FaultKind::Shrunk).then(|| path.to_owned());
            return Ok(());
        }
        if n == self.at || again {
            s.dead = self.trouble == FaultKind::Killed;
            return Err(self.trouble.error());
        }
        Ok(())
    }

    /// As [`Self::operation`], of one that is counted only with [`Self::reading`].
    fn read_operation(&self, what: &str, path: &Path) -> io::Result<()> {
        if self.every_read { self.operation(what, path) } else { Ok(()) }
    }

    /// The size of a file of `bytes` bytes, as the planned fault leaves it.
    fn left_of(&self, path: &Path, bytes: u64) -> u64 {
        if self.state().shrunk.as_deref() == Some(path) { bytes / 2 } else { bytes }
    }

    /// Simulates a power cut: undoes, on the real disk, all that was not synced.
    ///
    /// # Errors
    /// The real disk fails.
    pub fn power_cut(&self, how: PowerCut) -> io::Result<()> {
        let mut s = self.state();
        s.dead = true;
        for path in &s.unsynced_files {
            if let Ok(file) = OpenOptions::new().write(true).open(path) {
                let bytes = file.metadata()?.len();
                file.set_len(if how.half_written { bytes / 2 } else { 0 })?;
            }
        }
        if !how.names_kept {
            for path in &s.unsynced_names {
                if path.is_file() {
                    std::fs::remove_file(path)?;
                }
            }
        }
        if !how.renames_kept {
            for (from, to) in s.unsynced_renames.iter().rev() {
                if to.exists() && !from.exists() {
                    std::fs::rename(to, from)?;
                }
            }
        }
        Ok(())
    }
}

/// Bytes of all files under this folder.
fn bytes_under(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let (path, meta) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        bytes += if meta.is_dir() { bytes_under(&path)? } else { meta.len() };
    }
    Ok(bytes)
}

struct FaultFile<'a> {
    fs: &'a FaultFs,
    path: PathBuf,
    inner: Box<dyn VfsFile + 'a>,
}

impl Write for FaultFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(e) = self.fs.operation("write", &self.path) {
            // A failed write may have written a part.
            if self.fs.state().operations == self.fs.at + 1 {
                self.inner.write_all(&bytes[..bytes.len() / 2])?;
            }
            return Err(e);
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Seek for FaultFile<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

impl VfsFile for FaultFile<'_> {
    fn fsync(&mut self) -> io::Result<()> {
        self.fs.operation("fsync", &self.path)?;
        self.inner.fsync()?;
        self.fs.state().unsynced_files.retain(|p| *p != self.path);
        Ok(())
    }
}

#[derive(Debug)]
struct FaultReader {
    fs: FaultFs,
    path: PathBuf,
    inner: Arc<dyn VfsReader>,
    bytes: u64,
}

impl VfsReader for FaultReader {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.fs.read_operation("read", &self.path)?;
        let is_short = self.fs.trouble == FaultKind::Short && self.fs.operations() == self.fs.at.wrapping_add(1);
        let left = self.fs.left_of(&self.path, self.inner.bytes()).saturating_sub(offset).min(out.len() as u64) as usize;
        let most = if is_short { left.div_ceil(2) } else { left };
        self.inner.read_at(&mut out[..most], offset)
    }
}

impl Vfs for FaultFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>> {
        self.operation("create", path)?;
        let inner = RealFs.create_new(path)?;
        let mut s = self.state();
        s.unsynced_files.push(path.to_owned());
        s.unsynced_names.push(path.to_owned());
        Ok(Box::new(FaultFile { fs: self, path: path.to_owned(), inner }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsReader>> {
        self.operation("open", path)?;
        let inner = RealFs.open(path)?;
        let bytes = self.left_of(path, inner.bytes());
        Ok(Arc::new(FaultReader { fs: self.clone(), path: path.to_owned(), inner, bytes }))
    }

    fn metadata(&self, path: &Path) -> io::Result<Option<FileMetadata>> {
        self.read_operation("metadata", path)?;
        let found = RealFs.metadata(path)?;
        Ok(found.map(|found| FileMetadata { bytes: self.left_of(path, found.bytes), ..found }))
    }

    fn standard_input(&self) -> io::Result<Arc<dyn VfsReader>> {
        self.operation("standard input", Path::new("-"))?;
        RealFs.standard_input()
    }

    fn append(&self, path: &Path, most: u64) -> io::Result<(Box<dyn VfsFile + '_>, u64)> {
        self.operation("append", path)?;
        let (inner, bytes) = RealFs.append(path, most)?;
        Ok((Box::new(FaultFile { fs: self, path: path.to_owned(), inner }), bytes))
    }

    fn lock_file(&self, path: &Path) -> io::Result<Box<dyn VfsLock>> {
        self.operation("lock", path)?;
        RealFs.lock_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.operation("create_dir", path)?;
        RealFs.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation("rename", from)?;
        RealFs.rename(from, to)?;
        let mut s = self.state();
        s.unsynced_renames.push((from.to_owned(), to.to_owned()));
        let State { unsynced_files, unsynced_names, .. } = &mut *s;
        for path in unsynced_files.iter_mut().chain(unsynced_names) {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.operation("remove_file", path)?;
        RealFs.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.operation("remove_dir", path)?;
        RealFs.remove_dir(path)
    }

    fn fsync_dir(&self, path: &Path) -> io::Result<()> {
        self.operation("fsync_dir", path)?;
        RealFs.fsync_dir(path)?;
        let mut s = self.state();
        s.unsynced_names.retain(|p| p.parent() != Some(path));
        s.unsynced_renames.retain(|(_, to)| to.parent() != Some(path));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.operation("list", path)?;
        RealFs.list(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        self.operation("kind", path)?;
        RealFs.kind(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.operation("free_space", path)?;
        match &self.disk {
            Some((root, bytes)) => Ok(bytes.saturating_sub(bytes_under(root)?)),
            None => RealFs.free_space(path),
        }
    }
}

//! Files and standard input behind one trait, so that a test can make the n-th operation fail, stop half-way, or lose unsynced data, and
//! so that another host (a browser) can have files of its own.
//!
//! Sessions and loaders are passed a [`Vfs`]; [`RealFs`] is the real disk, [`fault::FaultFs`] injects faults. `tests/layering` lists the few
//! other places that use `std::fs`, with their reasons.

#[cfg(not(target_arch = "wasm32"))]
mod atomic_write;
mod early_sync;
pub mod fault;

#[cfg(not(target_arch = "wasm32"))]
pub use atomic_write::{write_whole, write_whole_by};

pub use lehr_compute::device::human_bytes;

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Type of a path, without following symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link, device, pipe or socket: never written through, never entered.
    Other,
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// File name.
    pub name: OsString,
    /// File type.
    pub kind: FileKind,
}

/// The metadata of a path, links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMetadata {
    /// File type.
    pub kind: FileKind,
    /// Size in bytes.
    pub bytes: u64,
    /// Time of the last change, since 1970.
    pub modified: Option<Duration>,
}

/// A regular file open for reading. Threads may share it.
pub trait VfsReader: Debug + Send + Sync {
    /// Its size when it was opened.
    fn bytes(&self) -> u64;
    /// Reads some of the bytes at `offset`; returns their number, 0 only at the end of the file or of `out`.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;

    /// All bytes, aligned for numbers: mapped where the host can do that, else read.
    fn map(&self) -> io::Result<Box<dyn AsRef<[u8]> + Send + Sync>> {
        let bytes = usize::try_from(self.bytes()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut words = vec![0u64; bytes.div_ceil(8)];
        self.read_exact_at(&mut bytemuck::cast_slice_mut(&mut words)[..bytes], 0)?;
        Ok(Box::new(AlignedBytes(words, bytes)))
    }

    /// Fills `out` with the bytes at `offset`.
    fn read_exact_at(&self, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !out.is_empty() {
            match self.read_at(out, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => (out, offset) = (&mut out[n..], offset + n as u64),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

struct AlignedBytes(Vec<u64>, usize);

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.0)[..self.1]
    }
}

/// Reads a file in order, from any position on.
#[derive(Clone, Debug)]
pub struct FileCursor {
    file: Arc<dyn VfsReader>,
    position: u64,
}

impl FileCursor {
    /// From byte `position` on.
    pub fn new(file: Arc<dyn VfsReader>, position: u64) -> Self {
        Self { file, position }
    }
}

impl Read for FileCursor {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(out, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for FileCursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.bytes().checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// Text in memory as a file.
#[derive(Debug)]
pub struct MemoryFile(pub Arc<str>);

impl VfsReader for MemoryFile {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.as_bytes().get(at..)).unwrap_or_default();
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// A file open for writing.
pub trait VfsFile: Write + Seek + Send {
    /// Makes the content durable. After an error the file must be discarded, not synced again: the kernel may have dropped the pages.
    fn fsync(&mut self) -> io::Result<()>;
}

/// An open lock file. The lock is advisory; the system releases it when its holder drops it or exits.
pub trait VfsLock: std::fmt::Debug + Send + Sync {
    /// Takes the lock; false if another process holds it.
    fn try_lock(&self) -> io::Result<bool>;
    /// Releases the lock at once, also where a child process inherited the file.
    fn unlock(&self) -> io::Result<()>;
    /// The first 4 KiB of the file.
    fn text(&self) -> String;
    /// Replaces the content.
    fn write(&self, content: &[u8]) -> io::Result<()>;
    /// Whether another file is at `path` now.
    fn is_replaced(&self, path: &Path) -> bool;
}

/// The host's files and standard input.
pub trait Vfs: Send + Sync {
    /// Creates a new, empty file; fails if it exists, and does not follow a link.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>>;
    /// Opens a regular file for reading. Pipes, devices and folders are refused without being opened (a pipe would block).
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsReader>>;
    /// The metadata of a path, links followed; `None` if there is nothing.
    fn metadata(&self, path: &Path) -> io::Result<Option<FileMetadata>>;
    /// All of standard input, which the caller may read more than once.
    fn standard_input(&self) -> io::Result<Arc<dyn VfsReader>>;
    /// Opens a regular file for appending, created if absent and truncated to at most `most` bytes; returns it with its length.
    fn append(&self, path: &Path, most: u64) -> io::Result<(Box<dyn VfsFile + '_>, u64)>;
    /// Opens a lock file, created if absent; its content is kept.
    fn lock_file(&self, path: &Path) -> io::Result<Box<dyn VfsLock>>;
    /// Creates a folder; fails if it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Moves within one file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or a link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a folder durable (no operation on Windows).
    fn fsync_dir(&self, path: &Path) -> io::Result<()>;
    /// The entries of a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Type of a path; `None` if it does not exist.
    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>>;
    /// Bytes available to this user on the disk of `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;

    /// Whether a path is a regular file; the error names it.
    fn is_file(&self, path: &Path) -> io::Result<bool> {
        Ok(look_up(self, path)?.is_some_and(|found| found.kind == FileKind::File))
    }

    /// Whether a path is a folder; the error names it.
    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        Ok(look_up(self, path)?.is_some_and(|found| found.kind == FileKind::Dir))
    }

    /// Whether a path leads to anything; the error names it.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(look_up(self, path)?.is_some())
    }

    /// Reads up to `most` bytes of a regular file from `offset`; returns them with the file's length.
    fn read_at(&self, path: &Path, offset: u64, most: u64) -> io::Result<(Vec<u8>, u64)> {
        let file = self.open(path)?;
        let bytes = file.bytes();
        let mut out = Vec::new();
        FileCursor::new(file, offset).take(most).read_to_end(&mut out)?;
        Ok((out, bytes))
    }

    /// Reads a whole file of at most `cap` bytes.
    fn read(&self, path: &Path, cap: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let bytes = file.bytes();
        let mut out = Vec::new();
        if bytes <= cap {
            FileCursor::new(file, 0).take(cap + 1).read_to_end(&mut out)?;
            if (out.len() as u64) < bytes {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "shrank while it was read"));
            }
        }
        if bytes > cap || out.len() as u64 > cap {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {}", human_bytes(cap))));
        }
        Ok(out)
    }

    /// Writes a new file with this content, durably.
    fn write_new(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = self.create_new(path)?;
        file.write_all(content)?;
        file.fsync()
    }

    /// Writes a file durably; after a fault it has the old content or the new one.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}", unique_suffix()));
        let written = self.write_new(&temporary, content).and_then(|()| self.rename(&temporary, path));
        if written.is_err() {
            let _ = self.remove_file(&temporary);
        }
        written?;
        self.fsync_dir(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// Creates a folder and those above it, where they are missing.
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || self.is_dir(path)? {
            return Ok(());
        }
        path.parent().map_or(Ok(()), |above| self.create_dir_all(above))?;
        match self.create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.is_dir(path)? => Ok(()),
            made => made,
        }
    }

    /// Removes a folder and its content; links are removed, not followed.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        for entry in self.list(path)? {
            let inner = path.join(&entry.name);
            if entry.kind == FileKind::Dir { self.remove_dir_all(&inner)? } else { self.remove_file(&inner)? }
        }
        self.remove_dir(path)
    }
}

fn look_up(vfs: &(impl Vfs + ?Sized), path: &Path) -> io::Result<Option<FileMetadata>> {
    vfs.metadata(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", display_path(path))))
}

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl VfsFile for File {
    fn fsync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl VfsLock for File {
    fn try_lock(&self) -> io::Result<bool> {
        match File::try_lock(self) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        File::unlock(self)
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let mut file = self;
        let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(4096).read_to_string(&mut out));
        out
    }

    fn write(&self, content: &[u8]) -> io::Result<()> {
        let mut file = self;
        self.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(content)
    }

    fn is_replaced(&self, path: &Path) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            if let (Ok(held), Ok(there)) = (self.metadata(), fs::metadata(path)) {
                return (held.dev(), held.ino()) != (there.dev(), there.ino());
            }
        }
        // On other systems an open file cannot be removed.
        let _ = path;
        false
    }
}

/// Whether a process holds the lock of a file. Does not take it.
pub fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Whether an error says that there is nothing at a path; a name that no file can have is such a case.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidFilename | InvalidInput)
}

fn kind_of(t: fs::FileType) -> FileKind {
    if t.is_file() {
        FileKind::File
    } else if t.is_dir() {
        FileKind::Dir
    } else {
        FileKind::Other
    }
}

/// A file of the real disk.
#[derive(Debug)]
struct RealFile {
    file: File,
    bytes: u64,
}

impl RealFile {
    fn open(file: File) -> io::Result<Arc<dyn VfsReader>> {
        Ok(Arc::new(Self { bytes: file.metadata()?.len(), file }))
    }
}

impl VfsReader for RealFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(&self.file, out, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(&self.file, out, offset);
        // Single-threaded platform.
        #[cfg(not(any(unix, windows)))]
        {
            let mut file = &self.file;
            file.seek(SeekFrom::Start(offset))?;
            file.read(out)
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn map(&self) -> io::Result<Box<dyn AsRef<[u8]> + Send + Sync>> {
        // SAFETY: only files of the token cache are mapped. They are complete before they get their name and are replaced by renaming,
        // never written in place, so the mapped bytes do not change. Editing the cache by hand during a run breaks that, as with any
        // mapped file.
        Ok(Box::new(unsafe { memmap2::Mmap::map(&self.file) }?))
    }
}

impl Vfs for RealFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>> {
        Ok(Box::new(early_sync::EarlyFile::new(OpenOptions::new().write(true).create_new(true).open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsReader>> {
        let found = fs::metadata(path)?;
        if !found.is_file() {
            let what = if found.is_dir() { "a folder" } else { "a pipe, device or socket" };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is {what}, not a regular file")));
        }
        RealFile::open(File::open(path)?)
    }

    fn metadata(&self, path: &Path) -> io::Result<Option<FileMetadata>> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        let modified = found.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        Ok(Some(FileMetadata { kind: kind_of(found.file_type()), bytes: found.len(), modified }))
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn standard_input(&self) -> io::Result<Arc<dyn VfsReader>> {
        // Unnamed, so that nothing is left behind.
        let mut copy = tempfile::tempfile()?;
        io::copy(&mut io::stdin().lock(), &mut copy)?;
        RealFile::open(copy)
    }

    #[cfg(target_arch = "wasm32")]
    fn standard_input(&self) -> io::Result<Arc<dyn VfsReader>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn append(&self, path: &Path, most: u64) -> io::Result<(Box<dyn VfsFile + '_>, u64)> {
        // Truncation needs a separate handle: on Windows a file opened for appending cannot be shortened.
        let cut = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let bytes = cut.metadata()?.len().min(most);
        cut.set_len(bytes)?;
        Ok((Box::new(OpenOptions::new().append(true).open(path)?), bytes))
    }

    fn lock_file(&self, path: &Path) -> io::Result<Box<dyn VfsLock>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        // Windows: a virus scanner or a viewer may lock a file for a moment.
        let tries = if cfg!(windows) { 10 } else { 1 };
        for _ in 1..tries {
            match fs::rename(from, to) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    std::thread::sleep(std::time::Duration::from_millis(200));
                }
                done => return done,
            }
        }
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn fsync_dir(&self, path: &Path) -> io::Result<()> {
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            out.push(Entry { name: entry.file_name(), kind: kind_of(entry.file_type()?) });
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(Some(kind_of(found.file_type()))),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        fs4::available_space(path)
    }

    #[cfg(target_arch = "wasm32")]
    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Seconds since 1970; 0 if the clock is earlier.
pub fn unix_time() -> f64 {
    web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A suffix for names of temporary files that no other process has, also where containers share a folder and number their processes alike.
pub fn unique_suffix() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let nanoseconds = web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("{}-{nanoseconds:x}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A path for messages: control characters and other invisible ones escaped.
pub fn display_path(path: &Path) -> String {
    clean(&path.display().to_string())
}

/// Text from a file for messages: control characters and other invisible ones escaped, quotes kept, at most 160 characters.
pub fn clean(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == 160 {
            out.push_str("...");
            break;
        }
        if matches!(c, '\'' | '"' | '\\') { out.push(c) } else { out.extend(c.escape_debug()) }
    }
    out
}

//! File operations of a run behind one trait, so that a test can make the n-th operation fail, stop half-way, or lose unsynced data.
//!
//! All code that writes into a run folder or reads a checkpoint uses [`Vfs`]; [`RealFs`] is the real disk, [`fault::FaultFs`] injects
//! faults.

mod early;
pub mod fault;
#[cfg(not(target_arch = "wasm32"))]
mod whole;

#[cfg(not(target_arch = "wasm32"))]
pub use whole::{write_whole, write_whole_by};

pub use lehr_compute::device::human_bytes;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::Path;

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

/// A file open for writing.
pub trait VfsFile: Write + Send {
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

/// File operations of a run.
pub trait Vfs: Send + Sync {
    /// Creates a new, empty file; fails if it exists, and does not follow a link.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>>;
    /// Opens a regular file for reading; returns it with its length. Pipes, devices and folders are refused without being opened.
    fn open(&self, path: &Path) -> io::Result<(Box<dyn Read + Send>, u64)>;
    /// Opens a regular file for appending, created if absent and truncated to at most `most` bytes; returns it with its length.
    fn append(&self, path: &Path, most: u64) -> io::Result<(Box<dyn VfsFile + '_>, u64)>;
    /// Reads up to `most` bytes of a regular file from `offset`; returns them with the file's length.
    fn read_at(&self, path: &Path, offset: u64, most: u64) -> io::Result<(Vec<u8>, u64)>;
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

    /// Reads a whole file of at most `cap` bytes.
    fn read(&self, path: &Path, cap: u64) -> io::Result<Vec<u8>> {
        let (reader, bytes) = self.open(path)?;
        let mut out = Vec::new();
        if bytes <= cap {
            reader.take(cap + 1).read_to_end(&mut out)?;
        }
        if bytes > cap || out.len() as u64 > cap {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {cap} bytes")));
        }
        Ok(out)
    }

    /// Writes a new file with this content, durably.
    fn write_new(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = self.create_new(path)?;
        file.write_all(content)?;
        file.fsync()
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

fn kind_of(t: fs::FileType) -> FileKind {
    if t.is_file() {
        FileKind::File
    } else if t.is_dir() {
        FileKind::Dir
    } else {
        FileKind::Other
    }
}

/// Opens a regular file for reading; returns it with its length. Anything else is refused without being opened (a pipe would block).
pub fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        let what = if found.is_dir() { "a folder" } else { "a pipe, device or socket" };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is {what}, not a file")));
    }
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// Fills `out` with the bytes at `offset` of a file. The file's own position is not used, so threads may share it.
///
/// # Errors
/// A disk error, or a file that ends too early.
pub fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, out, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < out.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut out[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        return Ok(());
    }
    // Single-threaded platform.
    #[cfg(not(any(unix, windows)))]
    {
        let mut file = file;
        file.seek(SeekFrom::Start(offset))?;
        return file.read_exact(out);
    }
}

impl Vfs for RealFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>> {
        Ok(Box::new(early::EarlyFile::new(OpenOptions::new().write(true).create_new(true).open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let (file, bytes) = open_regular(path)?;
        Ok((Box::new(file), bytes))
    }

    fn append(&self, path: &Path, most: u64) -> io::Result<(Box<dyn VfsFile + '_>, u64)> {
        // Truncation needs a separate handle: on Windows a file opened for appending cannot be shortened.
        let cut = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let bytes = cut.metadata()?.len().min(most);
        cut.set_len(bytes)?;
        Ok((Box::new(OpenOptions::new().append(true).open(path)?), bytes))
    }

    fn read_at(&self, path: &Path, offset: u64, most: u64) -> io::Result<(Vec<u8>, u64)> {
        let (mut file, bytes) = open_regular(path)?;
        let mut out = Vec::new();
        file.seek(SeekFrom::Start(offset))?;
        file.take(most).read_to_end(&mut out)?;
        Ok((out, bytes))
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
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
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

/// A path for messages: control characters and other invisible ones escaped.
pub fn shown(path: &Path) -> String {
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

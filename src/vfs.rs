//! The file operations of a run behind one trait, so that a test can make the n-th of them fail, die half-way, or lose what was not synced.
//!
//! Everything that writes into a run folder or reads a checkpoint goes through [`Vfs`]; [`RealFs`] is the disk, [`fault::FaultFs`] the
//! disk on a bad day.

mod early;
pub mod fault;
#[cfg(not(target_arch = "wasm32"))]
mod whole;

#[cfg(not(target_arch = "wasm32"))]
pub use whole::{write_whole, write_whole_by};

pub use lehr_compute::device::human_bytes;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::Path;

/// What a path is, symbolic links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link, device, pipe or socket: never written through, never walked into.
    Other,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its last component.
    pub name: OsString,
    /// What it is.
    pub kind: Kind,
}

/// A file being written.
pub trait VfsFile: Write + Send {
    /// Make the content durable. After an error the file must be thrown away, not synced again: the kernel may have dropped the pages.
    fn fsync(&mut self) -> io::Result<()>;
}

/// The file operations that a run needs.
pub trait Vfs: Send + Sync {
    /// A new, empty file; an existing one is an error, a link is not followed.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>>;
    /// A regular file for reading, and its length. Pipes, devices and folders are refused unopened.
    fn open(&self, path: &Path) -> io::Result<(Box<dyn Read + Send>, u64)>;
    /// A regular file to add to, made when absent and cut to at most `most` bytes; and its length.
    fn append(&self, path: &Path, most: u64) -> io::Result<(Box<dyn VfsFile + '_>, u64)>;
    /// Up to `most` bytes of a regular file from `offset` on, and its length.
    fn read_at(&self, path: &Path, offset: u64, most: u64) -> io::Result<(Vec<u8>, u64)>;
    /// A new folder; an existing one is an error.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Move within one file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Remove a file or a link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Remove an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Make the names in a folder durable (nothing to do on Windows).
    fn fsync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// What is there; `None` for nothing.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>>;
    /// Bytes that this user can still write on the disk of `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;

    /// A whole file of at most `cap` bytes.
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

    /// A new file with this content, durable.
    fn write_new(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = self.create_new(path)?;
        file.write_all(content)?;
        file.fsync()
    }

    /// A folder and all in it; links are removed, not followed.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        for entry in self.list(path)? {
            let inner = path.join(&entry.name);
            if entry.kind == Kind::Dir { self.remove_dir_all(&inner)? } else { self.remove_file(&inner)? }
        }
        self.remove_dir(path)
    }
}

/// The disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl VfsFile for File {
    fn fsync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

fn kind_of(t: fs::FileType) -> Kind {
    if t.is_file() {
        Kind::File
    } else if t.is_dir() {
        Kind::Dir
    } else {
        Kind::Other
    }
}

/// Open a regular file for reading and tell its length; anything else is refused without being opened (a pipe would wait for ever).
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

/// Fill `out` with what stands at `offset` of a file, whose own position is not used: threads may share it.
///
/// # Errors
/// A disk that fails, or a file that ends before.
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
    // One thread only.
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
        // Cutting needs a handle of its own: on Windows an appending one may not shorten the file.
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

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        // Windows: a virus scanner or a viewer may hold a file for a moment.
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

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
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

/// Seconds since 1970; 0 for a clock before that.
pub fn unix_time() -> f64 {
    web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A path fit for a message: control characters and other invisible ones escaped.
pub fn shown(path: &Path) -> String {
    clean(&path.display().to_string())
}

/// Text from a file fit for a message: control characters and other invisible ones escaped, quotes kept, at most 160 characters.
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

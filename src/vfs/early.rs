//! A large file whose content goes to the disk while it is still being written, so that the sync at its end does not wait for all of it.

use super::VfsFile;
use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes between two early syncs. Smaller files have none.
const EVERY: u64 = 32 << 20;

/// A thread that syncs when it is told to, and ends with the first error.
struct Syncer {
    tell: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Syncer {
    /// `None` where there are no threads or no second handle: then the sync at the end does all the work.
    fn start(file: &File) -> Option<Self> {
        let file = file.try_clone().ok()?;
        // One request can wait: what is written meanwhile belongs to it.
        let (tell, told) = sync_channel(1);
        let work = move || told.iter().try_for_each(|()| file.sync_data());
        let thread = std::thread::Builder::new().name("sync".into()).spawn(work).ok()?;
        Some(Self { tell, thread })
    }

    fn end(self) -> io::Result<()> {
        drop(self.tell);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the syncing thread panicked")))
    }
}

/// See the module.
pub(super) struct EarlyFile {
    file: File,
    /// Written since the last early sync was asked for.
    since: u64,
    syncer: Option<Syncer>,
}

impl EarlyFile {
    pub(super) fn new(file: File) -> Self {
        Self { file, since: 0, syncer: None }
    }
}

impl Write for EarlyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.since += n as u64;
        if self.since >= EVERY {
            self.since = 0;
            if self.syncer.is_none() {
                self.syncer = Syncer::start(&self.file);
            }
            // A full channel means that one is about to begin; a closed one, that it failed, which `fsync` will tell.
            let _ = self.syncer.as_ref().map(|syncer| syncer.tell.try_send(()));
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl VfsFile for EarlyFile {
    /// An error of an early sync counts as one of this: the kernel tells it only once.
    fn fsync(&mut self) -> io::Result<()> {
        self.syncer.take().map_or(Ok(()), Syncer::end)?;
        self.file.sync_all()
    }
}

impl Drop for EarlyFile {
    /// Thrown away unsynced: the other handle must not outlive this, or the file could not be removed on Windows.
    fn drop(&mut self) {
        let _ = self.syncer.take().map(Syncer::end);
    }
}

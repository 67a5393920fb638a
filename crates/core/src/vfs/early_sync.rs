//! Large files that are synced while they are still being written, so that the final sync does not have to write everything.

use super::VfsFile;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes between two early syncs; smaller files have none.
const EVERY: u64 = 32 << 20;

/// A thread that syncs on request, and ends at the first error.
struct SyncThread {
    requests: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl SyncThread {
    /// `None` without threads or without a second handle: then the final sync does all the work.
    fn start(file: &File) -> Option<Self> {
        let file = file.try_clone().ok()?;
        // At most one request is queued: it covers everything written meanwhile.
        let (requests, received) = sync_channel(1);
        let work = move || received.iter().try_for_each(|()| file.sync_data());
        let thread = std::thread::Builder::new().name("sync".into()).spawn(work).ok()?;
        Some(Self { requests, thread })
    }

    fn end(self) -> io::Result<()> {
        drop(self.requests);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the syncing thread panicked")))
    }
}

/// A file with early syncs.
pub(super) struct EarlyFile {
    file: File,
    /// Bytes written since the last request for an early sync.
    since: u64,
    syncer: Option<SyncThread>,
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
                self.syncer = SyncThread::start(&self.file);
            }
            // A full channel means that a sync is about to start; a closed one that it failed, which `fsync` reports.
            let _ = self.syncer.as_ref().map(|syncer| syncer.requests.try_send(()));
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for EarlyFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl VfsFile for EarlyFile {
    /// Includes errors of early syncs: the kernel reports an error only once.
    fn fsync(&mut self) -> io::Result<()> {
        self.syncer.take().map_or(Ok(()), SyncThread::end)?;
        self.file.sync_all()
    }
}

impl Drop for EarlyFile {
    /// Discarded without a sync: the other handle must be closed first, or Windows could not remove the file.
    fn drop(&mut self) {
        let _ = self.syncer.take().map(SyncThread::end);
    }
}

//! `events.jsonl` (and `samples.jsonl`): written line by line, read while growing.

use crate::event::Event;
use crate::vfs::{FileKind, Vfs, VfsFile, display_path};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Writer of a log. Each event is one `write` of a whole line, so that a kill truncates at most the last one.
pub struct EventLog<'a> {
    vfs: &'a dyn Vfs,
    path: PathBuf,
    file: Box<dyn VfsFile + 'a>,
    offset: u64,
    torn: bool,
}

impl<'a> EventLog<'a> {
    /// Create an empty log; an existing file is an error.
    ///
    /// # Errors
    /// The file exists or cannot be created.
    pub fn create(vfs: &'a dyn Vfs, path: &Path) -> Result<Self> {
        let made = vfs.create_new(path).and_then(|_| vfs.append(path, 0));
        let (file, offset) = made.with_context(|| format!("{}: cannot be made", display_path(path)))?;
        Ok(EventLog { vfs, path: path.to_owned(), file, offset, torn: false })
    }

    /// Continue a log from `offset`, its length when the checkpoint was saved. Later lines are cut off, because those steps are repeated.
    /// A log that is shorter or missing is continued as it is.
    ///
    /// # Errors
    /// The file is not a regular file or cannot be written.
    pub fn resume(vfs: &'a dyn Vfs, path: &Path, offset: u64) -> Result<Self> {
        ensure!(
            !matches!(vfs.kind(path), Ok(Some(FileKind::Dir | FileKind::Other))),
            "{}: is not a plain file",
            display_path(path)
        );
        let at = || format!("{}: cannot be opened", display_path(path));
        let (file, offset) = vfs.append(path, offset).with_context(at)?;
        let torn = offset > 0 && vfs.read_at(path, offset - 1, 1).with_context(at)?.0 != b"\n";
        Ok(EventLog { vfs, path: path.to_owned(), file, offset, torn })
    }

    /// Append an event (or another record).
    ///
    /// # Errors
    /// A disk error; the next event then starts on a new line.
    pub fn append(&mut self, event: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(event)?;
        if self.torn {
            line.insert(0, '\n');
        }
        line.push('\n');
        if let Err(e) = self.file.write_all(line.as_bytes()) {
            self.torn = true;
            self.offset = self.vfs.read_at(&self.path, 0, 0).map_or(self.offset, |(_, bytes)| bytes);
            return Err(e).with_context(|| format!("{}: cannot be written", display_path(&self.path)));
        }
        self.torn = false;
        self.offset += line.len() as u64;
        Ok(())
    }

    /// Length in bytes: saved in a checkpoint for [`Self::resume`].
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Make written lines durable; call it before a checkpoint saves the offset.
    ///
    /// # Errors
    /// A disk error.
    pub fn sync(&mut self) -> Result<()> {
        self.file.fsync().with_context(|| format!("{}: cannot be synced", display_path(&self.path)))
    }
}

/// Result of polling the log.
#[derive(Debug, Default, PartialEq)]
pub struct Poll {
    /// True if the log was truncated (a resume): discard all events; they are read again from the first.
    pub reset: bool,
    /// New events, in order.
    pub events: Vec<Event>,
    /// Skipped lines that are not events (truncated, edited, or of a newer lehr).
    pub bad_lines: usize,
    /// More can be read immediately.
    pub more: bool,
}

/// Reader that follows a log while another process writes it.
#[derive(Debug)]
pub struct EventReader {
    path: PathBuf,
    offset: u64,
    before: Vec<u8>,
    skipping: bool,
}

/// Bytes read at a time, which also limits the length of a line.
const PIECE: u64 = 4 << 20;
/// Bytes before the offset used to detect a log that was truncated and has grown again.
const TAIL: usize = 96;

impl EventReader {
    /// A reader at the start of the log, which may not exist yet.
    pub fn new(path: &Path) -> Self {
        EventReader { path: path.to_owned(), offset: 0, before: Vec::new(), skipping: false }
    }

    /// Read new complete lines. An incomplete last line is left for the next call.
    ///
    /// # Errors
    /// The file exists but cannot be read.
    pub fn poll(&mut self, vfs: &dyn Vfs) -> Result<Poll> {
        let mut out = Poll::default();
        let at = || format!("{}: cannot be read", display_path(&self.path));
        let before = self.before.len() as u64;
        let mut piece = match vfs.read_at(&self.path, self.offset - before, before + PIECE) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                out.reset = std::mem::take(&mut self.offset) > 0;
                self.before.clear();
                return Ok(out);
            }
            read => read.with_context(at)?.0,
        };
        if piece.starts_with(&self.before) {
            piece.drain(..self.before.len());
        } else {
            (out.reset, self.offset, self.skipping) = (true, 0, false);
            self.before.clear();
            piece = vfs.read_at(&self.path, 0, PIECE).with_context(at)?.0;
        }
        let full = piece.len() as u64 == PIECE;
        let whole = match piece.iter().rposition(|b| *b == b'\n') {
            Some(end) => end + 1,
            // A line longer than a piece is skipped.
            None if full => piece.len(),
            None => 0,
        };
        self.take(&piece[..whole], &mut out);
        out.more = full;
        Ok(out)
    }

    fn take(&mut self, lines: &[u8], out: &mut Poll) {
        for line in lines.split_inclusive(|b| *b == b'\n') {
            let ended = line.ends_with(b"\n");
            if std::mem::replace(&mut self.skipping, !ended) || !ended {
                out.bad_lines += usize::from(ended);
                continue;
            }
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(event) => out.events.push(event),
                Err(_) => out.bad_lines += 1,
            }
        }
        self.offset += lines.len() as u64;
        self.before.extend(&lines[lines.len().saturating_sub(TAIL)..]);
        self.before.drain(..self.before.len().saturating_sub(TAIL));
    }
}

/// All events of a log, and the number of lines that are not events.
///
/// # Errors
/// The file cannot be read.
pub fn read_all(vfs: &dyn Vfs, path: &Path) -> Result<(Vec<Event>, usize)> {
    let (mut reader, mut events, mut bad) = (EventReader::new(path), Vec::new(), 0);
    loop {
        let poll = reader.poll(vfs)?;
        if poll.reset {
            (events, bad) = (Vec::new(), 0);
        }
        events.extend(poll.events);
        bad += poll.bad_lines;
        if !poll.more {
            return Ok((events, bad));
        }
    }
}

//! `events.jsonl` (and `samples.jsonl`): written a line at a time, read while it grows.

use crate::event::Event;
use crate::vfs::{Kind, RealFs, Vfs, VfsFile, shown};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The writing end. Each event is one `write` of a whole line, so that a kill tears at most the last.
pub struct EventLog<'a> {
    vfs: &'a dyn Vfs,
    path: PathBuf,
    file: Box<dyn VfsFile + 'a>,
    offset: u64,
    torn: bool,
}

impl<'a> EventLog<'a> {
    /// A new, empty log; an existing file is an error.
    ///
    /// # Errors
    /// The file exists or cannot be made.
    pub fn create(vfs: &'a dyn Vfs, path: &Path) -> Result<Self> {
        let made = vfs.create_new(path).and_then(|_| vfs.append(path, 0));
        let (file, offset) = made.with_context(|| format!("{}: cannot be made", shown(path)))?;
        Ok(EventLog { vfs, path: path.to_owned(), file, offset, torn: false })
    }

    /// Go on with a log from `offset`, where it stood when the checkpoint was saved; what came later is cut off, because those steps
    /// are taken again. A log that has become shorter (or is gone) is gone on with as it is.
    ///
    /// # Errors
    /// The file is no plain file or cannot be written.
    pub fn resume(vfs: &'a dyn Vfs, path: &Path, offset: u64) -> Result<Self> {
        ensure!(!matches!(vfs.kind(path), Ok(Some(Kind::Dir | Kind::Other))), "{}: is not a plain file", shown(path));
        let at = || format!("{}: cannot be opened", shown(path));
        let (file, offset) = vfs.append(path, offset).with_context(at)?;
        let torn = offset > 0 && vfs.read_at(path, offset - 1, 1).with_context(at)?.0 != b"\n";
        Ok(EventLog { vfs, path: path.to_owned(), file, offset, torn })
    }

    /// Add one event (or whatever the log holds).
    ///
    /// # Errors
    /// The disk fails; the next event then starts on a line of its own.
    pub fn append(&mut self, event: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(event)?;
        if self.torn {
            line.insert(0, '\n');
        }
        line.push('\n');
        if let Err(e) = self.file.write_all(line.as_bytes()) {
            self.torn = true;
            self.offset = self.vfs.read_at(&self.path, 0, 0).map_or(self.offset, |(_, bytes)| bytes);
            return Err(e).with_context(|| format!("{}: cannot be written", shown(&self.path)));
        }
        self.torn = false;
        self.offset += line.len() as u64;
        Ok(())
    }

    /// Bytes so far: keep this in a checkpoint for [`Self::resume`].
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Make what was written durable; call it before a checkpoint keeps the offset.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync(&mut self) -> Result<()> {
        self.file.fsync().with_context(|| format!("{}: cannot be synced", shown(&self.path)))
    }
}

/// What one look at the log brought.
#[derive(Debug, Default, PartialEq)]
pub struct Poll {
    /// True when the log was cut (a resume): forget everything; the events begin again from the first.
    pub reset: bool,
    /// New events, in order.
    pub events: Vec<Event>,
    /// Lines that are no event (torn, edited, of a newer lehr), passed over.
    pub bad_lines: usize,
    /// There is more to read at once.
    pub more: bool,
}

/// The reading end; follows a log that another process writes.
#[derive(Debug)]
pub struct EventReader {
    path: PathBuf,
    offset: u64,
    before: Vec<u8>,
    skipping: bool,
}

/// Read at most so much at a time, which also bounds a line.
const PIECE: u64 = 4 << 20;
/// Bytes before the offset by which a cut and regrown log is recognised.
const TAIL: usize = 96;

impl EventReader {
    /// A reader at the start of the log, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        EventReader { path: path.to_owned(), offset: 0, before: Vec::new(), skipping: false }
    }

    /// Read the whole lines that are new. A last line without its end waits for the next call.
    ///
    /// # Errors
    /// The file exists but cannot be read.
    pub fn poll(&mut self) -> Result<Poll> {
        let mut out = Poll::default();
        let at = || format!("{}: cannot be read", shown(&self.path));
        let before = self.before.len() as u64;
        let mut piece = match RealFs.read_at(&self.path, self.offset - before, before + PIECE) {
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
            piece = RealFs.read_at(&self.path, 0, PIECE).with_context(at)?.0;
        }
        let full = piece.len() as u64 == PIECE;
        let whole = match piece.iter().rposition(|b| *b == b'\n') {
            Some(end) => end + 1,
            // A line longer than a piece is passed over.
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

/// Every event of a log, and the number of lines that are none.
///
/// # Errors
/// The file cannot be read.
pub fn read_all(path: &Path) -> Result<(Vec<Event>, usize)> {
    let (mut reader, mut events, mut bad) = (EventReader::new(path), Vec::new(), 0);
    loop {
        let poll = reader.poll()?;
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

//! Commands and signals, handled between two steps.
//!
//! Ctrl-C and SIGTERM mean `Stop`: save, then exit. A second signal exits immediately; earlier saves remain. Before training there is
//! nothing to save, and the first signal exits.
//!
//! Standard input is untrusted: no line ends the listener, delays a step or fills memory or log. Invalid lines are counted and reported at
//! a limited rate; commands beyond `WAITING` are dropped and reported too, except `Stop`.

use crate::event::Command;
use crate::number_format::counted;
use std::io::{BufRead, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use web_time::Instant;

/// Number of signals received.
static SIGNALS: AtomicU32 = AtomicU32::new(0);
/// True while a run is training, which saves before it stops.
static TRAINING: AtomicBool = AtomicBool::new(false);

/// Maximum number of queued commands.
const WAITING: usize = 256;
/// Maximum bytes of a line: a command may contain a prompt.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Notices of invalid lines: this number at once, then one per this number of seconds.
const NOTES: f64 = 10.0;
const NOTE_SECONDS: f64 = 10.0;

/// A request to the run.
#[derive(Clone, Debug, PartialEq)]
pub enum RunRequest {
    /// A signal arrived.
    Stop,
    /// A command arrived.
    Command(Command),
    /// Invalid lines; the text gives the reason and their number.
    Invalid(String),
}

/// Where commands are read from, line by line.
pub type CommandReader = Box<dyn BufRead + Send>;

/// Receives commands and signals.
pub struct Control {
    commands: Option<Receiver<Command>>,
    received: Arc<ListenerNotes>,
    /// Number of notices allowed, and the time of that count.
    notes: (f64, Instant),
    /// Read but not yet taken.
    next: Option<RunRequest>,
}

/// Information from the listener besides commands.
#[derive(Default)]
struct ListenerNotes {
    refused: Mutex<RefusedLines>,
    /// A `Stop` found the queue full.
    stop: AtomicBool,
}

/// Refused lines since the last notice.
#[derive(Default)]
struct RefusedLines {
    count: u64,
    first: String,
}

/// Exit code of a process that was interrupted.
pub const INTERRUPTED: i32 = 130;

impl Control {
    /// From now on a signal ends the process with [`INTERRUPTED`], immediately until training begins.
    pub fn catch_signals() {
        // A second call (tests run several runs in one process) keeps the first handler.
        let _ = ctrlc::set_handler(|| {
            if SIGNALS.fetch_add(1, Ordering::SeqCst) >= 1 || !TRAINING.load(Ordering::SeqCst) {
                std::process::exit(INTERRUPTED);
            }
        });
    }

    /// Start of training: listen for signals, and for commands on `input` if there is one (standard input with `--control`).
    ///
    /// # Errors
    /// The thread cannot be created.
    pub fn listen(input: Option<CommandReader>) -> anyhow::Result<Self> {
        TRAINING.store(true, Ordering::SeqCst);
        Self::catch_signals();
        let mut control = Self::none();
        if let Some(mut input) = input {
            let (send, receive) = sync_channel(WAITING);
            let received = Arc::clone(&control.received);
            let listen = move || read_commands(&mut input, &send, &received);
            std::thread::Builder::new().name("commands".into()).spawn(listen)?;
            control.commands = Some(receive);
        }
        Ok(control)
    }

    /// Without commands; signals only.
    pub fn none() -> Self {
        Self { commands: None, received: Arc::default(), notes: (NOTES, Instant::now()), next: None }
    }

    /// Request a stop, as a signal does.
    pub fn interrupt() {
        SIGNALS.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether a signal requested a stop.
    pub fn interrupted() -> bool {
        SIGNALS.load(Ordering::SeqCst) > 0
    }

    /// The next request, if any.
    pub fn poll(&mut self) -> Option<RunRequest> {
        if Self::interrupted() || self.received.stop.load(Ordering::SeqCst) {
            return Some(RunRequest::Stop);
        }
        self.next.take().or_else(|| self.note(Instant::now())).or_else(|| match self.commands.as_ref()?.try_recv() {
            Ok(command) => Some(RunRequest::Command(command)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.commands = None;
                None
            }
        })
    }

    /// A notice of refused lines, if one is due.
    fn note(&mut self, now: Instant) -> Option<RunRequest> {
        let (left, since) = self.notes;
        let left = NOTES.min(left + now.duration_since(since).as_secs_f64() / NOTE_SECONDS);
        self.notes = (left, now);
        if left < 1.0 {
            return None;
        }
        let refused = std::mem::take(&mut *self.received.refused.lock().unwrap_or_else(PoisonError::into_inner));
        if refused.count == 0 {
            return None;
        }
        self.notes.0 -= 1.0;
        let more = refused.count - 1;
        let more = if more > 0 { format!(" (and {})", counted(more, "more refused line")) } else { String::new() };
        Some(RunRequest::Invalid(format!("{}{more}", refused.first)))
    }

    /// Whether the next request must be handled before the step ends. Does not take it.
    pub fn is_urgent(&mut self) -> bool {
        self.next = self.poll();
        matches!(self.next, Some(RunRequest::Stop | RunRequest::Command(Command::Stop | Command::Pause)))
    }

    /// Wait for the next request. When no more can arrive, resumes a paused run.
    pub fn wait(&mut self) -> Option<RunRequest> {
        loop {
            if let Some(request) = self.poll() {
                return Some(request);
            }
            if self.commands.is_none() {
                return Some(RunRequest::Command(Command::Resume));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Read lines to the end of the input.
fn read_commands(input: &mut impl BufRead, commands: &SyncSender<Command>, received: &ListenerNotes) {
    let mut line = Vec::new();
    while let Some(whole) = read_line(input, &mut line) {
        let command = match (whole, line.trim_ascii()) {
            (true, []) => continue,
            (true, line) => parse(line),
            (false, _) => Err(format!("a line of more than {} MiB", MAX_LINE_BYTES >> 20)),
        };
        let refused = match command.map(|command| (command == Command::Stop, commands.try_send(command))) {
            Ok((_, Ok(()))) => continue,
            Ok((_, Err(TrySendError::Disconnected(_)))) => return,
            Ok((true, Err(TrySendError::Full(_)))) => {
                received.stop.store(true, Ordering::SeqCst);
                continue;
            }
            Ok((false, Err(TrySendError::Full(_)))) => format!("more than {WAITING} commands wait; this one was dropped"),
            Err(why) => format!("not a command: {why}"),
        };
        let mut lines = received.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.count == 0 {
            lines.first = refused;
        }
        lines.count += 1;
    }
}

/// Read the next line, cut at the limit (then `false`); `None` at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> Option<bool> {
    line.clear();
    let (mut whole, mut any) = (true, false);
    loop {
        let chunk = match input.fill_buf() {
            Ok([]) => return any.then_some(whole),
            Ok(chunk) => chunk,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return any.then_some(whole),
        };
        any = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        whole &= line.len() + part.len() <= MAX_LINE_BYTES;
        if whole {
            line.extend_from_slice(part);
        }
        let consumed = part.len() + usize::from(end.is_some());
        input.consume(consumed);
        if end.is_some() {
            return Some(whole);
        }
    }
}

/// Parse a line as a command, or return why it is not one.
pub fn parse(line: &[u8]) -> Result<Command, String> {
    let text = String::from_utf8_lossy(line);
    let shown = || text.chars().take(80).flat_map(char::escape_default).collect::<String>();
    if std::str::from_utf8(line).is_err() {
        return Err(format!("{}: not UTF-8", shown()));
    }
    serde_json::from_slice(line).map_err(|error| {
        let error: String = error.to_string().chars().take(160).flat_map(char::escape_debug).collect();
        format!("{}: {error}", shown())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control after a finished input.
    fn received(input: &[u8]) -> Control {
        let mut control = Control::none();
        let (send, receive) = sync_channel(WAITING);
        // A small buffer, so that lines cross its end.
        read_commands(&mut std::io::BufReader::with_capacity(7, input), &send, &control.received);
        control.commands = Some(receive);
        control
    }

    fn requests(input: &[u8]) -> Vec<RunRequest> {
        let mut control = received(input);
        std::iter::from_fn(|| control.poll()).take(1000).collect()
    }

    #[test]
    fn lines_become_requests() {
        let save = RunRequest::Command(Command::SaveNow);
        assert_eq!(requests(b"{\"command\":\"SaveNow\"}\n\n \n{\"command\":\"SaveNow\"}"), [save.clone(), save.clone()]);
        let bad = b"\xff\xfe\n{\"command\":\"Fly\"}\x1b[2J\n{\"command\":\"SaveNow\"}\n\x00\n";
        let received = requests(bad);
        let RunRequest::Invalid(text) = &received[0] else { panic!("{received:?}") };
        assert!(
            text.contains("not UTF-8") && text.contains("and 2 more refused lines") && !text.contains(char::is_control),
            "{text}"
        );
        assert_eq!(received[1..], [save]);
        let Err(text) = parse("{\"command\":\"Fly\\u001b\"}\u{1b}[2J".as_bytes()) else { panic!("it flies") };
        assert!(text.contains("u{1b}") && !text.contains(char::is_control), "{text}");
    }

    #[test]
    fn commands_are_read_from_the_given_input_to_its_end() {
        let mut control = Control::listen(Some(Box::new(&b"{\"command\":\"Pause\"}\n"[..]))).unwrap();
        // A paused run resumes when no more commands can arrive.
        assert_eq!([control.wait(), control.wait()], [Command::Pause, Command::Resume].map(|c| Some(RunRequest::Command(c))));
    }

    #[test]
    fn listener_notes_are_rate_limited() {
        fn notices(control: &mut Control, now: Instant) -> usize {
            let one = |_: &i32| {
                control.received.refused.lock().unwrap().count += 1;
                control.note(now).is_some()
            };
            (0..100).filter(one).count()
        }
        let mut control = Control::none();
        let start = control.notes.1;
        assert_eq!(notices(&mut control, start), NOTES as usize);
        assert_eq!(notices(&mut control, start + Duration::from_secs(25)), 2);
    }

    #[test]
    fn a_flood_of_commands_is_bounded() {
        let mut flood = b"{\"command\":\"SaveNow\"\n".repeat(100_000);
        flood.extend(vec![b'x'; MAX_LINE_BYTES + 1]);
        flood.extend(b"\n{\"command\":\"Pause\"}\n");
        let received = requests(&flood);
        assert!(
            matches!(&received[0], RunRequest::Invalid(text) if text.contains("and 100,000 more refused lines") && text.len() < 400),
            "{received:?}"
        );
        assert_eq!(received[1..], [RunRequest::Command(Command::Pause)]);

        let mut flood = b"{\"command\":\"SaveNow\"}\n".repeat(100_000);
        flood.extend(b"{\"command\":\"Stop\"}\n");
        let mut control = self::received(&flood);
        assert_eq!(control.poll(), Some(RunRequest::Stop), "the queue was full");
        control.received.stop.store(false, Ordering::SeqCst);
        assert!(
            matches!(control.poll(), Some(RunRequest::Invalid(text)) if text.contains("dropped") && text.contains("and 99,743 more"))
        );
        assert_eq!(std::iter::from_fn(|| control.poll()).count(), WAITING);
        let orderly = requests(b"{\"command\":\"SaveNow\"}\n{\"command\":\"Stop\"}\n");
        assert_eq!(orderly, [Command::SaveNow, Command::Stop].map(RunRequest::Command));
    }
}

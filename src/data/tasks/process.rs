//! A judge of one's own: a program that reads a JSON object a line and writes one a line.
//!
//! To the program: `{"id": 0, "prompt": "...", "answer": "...", "completion": "..."}`. Back, in any order:
//! `{"id": 0, "reward": 1.0}`, with `correct`, `parts` and `reason` if it likes. It is started at the first batch, keeps running, and gets
//! the next batch when all of the last has been judged. What it writes to standard error is shown when it fails.

use super::{Grade, Question};
use crate::data::shown;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use web_time::Instant;

/// A longer line is no verdict.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Of what the program complains about, this much of the end is kept.
const KEPT_BYTES: usize = 2048;

/// A line that came back.
#[derive(Deserialize)]
struct Verdict {
    id: usize,
    reward: f64,
    correct: Option<bool>,
    #[serde(default)]
    parts: BTreeMap<String, f64>,
    #[serde(default)]
    reason: String,
}

/// See the module.
pub struct Process {
    command: String,
    words: Vec<String>,
    timeout: Duration,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// Lines to the program go through a thread: a program that does not read must not block us.
    to: std::sync::mpsc::Sender<String>,
    from: Receiver<std::io::Result<String>>,
    complaints: Arc<Mutex<Vec<u8>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// `command` is a program and its arguments; quotes keep blanks together. No shell reads it.
    ///
    /// # Errors
    /// No program, an open quote, a time-out that is no time.
    pub fn new(command: &str, timeout_seconds: f64) -> Result<Self> {
        ensure!(
            timeout_seconds > 0.0 && timeout_seconds <= 86_400.0,
            "--grader-timeout {timeout_seconds}: must be above 0 and at most 86400 seconds"
        );
        let words = split(command).with_context(|| format!("--grader-command {}: a quote is not closed", shown(command)))?;
        ensure!(!words.is_empty(), "--grader-command: empty. Name a program, such as \"python3 grader.py\"");
        Ok(Self { command: shown(command), words, timeout: Duration::from_secs_f64(timeout_seconds), running: None })
    }

    /// Verdicts in the order of the answers.
    ///
    /// # Errors
    /// A program that cannot be started, ends, says something else than verdicts, or takes too long; with its command and what it said.
    pub fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
        if answers.is_empty() {
            return Ok(Vec::new());
        }
        let mut running = match self.running.take() {
            Some(running) => running,
            None => self.start()?,
        };
        let grades = self.batch(&mut running, answers);
        match grades {
            Ok(grades) => {
                self.running = Some(running);
                Ok(grades)
            }
            // A program that is out of step is of no further use.
            Err(error) => Err(error),
        }
    }

    fn batch(&self, running: &mut Running, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
        let deadline = Instant::now() + self.timeout;
        for (id, (question, completion)) in answers.iter().enumerate() {
            let line =
                json!({"id": id, "prompt": question.prompt, "answer": question.answer, "completion": completion}).to_string();
            // Where the program has ended, its end is told below.
            let _ = running.to.send(line);
        }
        let mut grades: Vec<Option<Grade>> = vec![None; answers.len()];
        let mut left = answers.len();
        while left > 0 {
            let line = match running.from.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line.map_err(|e| self.fault(running, &format!("cannot be read: {e}")))?,
                Err(RecvTimeoutError::Timeout) => {
                    let (done, all) = (answers.len() - left, answers.len());
                    let seconds = self.timeout.as_secs_f64();
                    return Err(self.fault(
                        running,
                        &format!("{done} of {all} answers judged after {seconds} s. Raise --grader-timeout, or is it waiting?"),
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(running, answers.len() - left, answers.len())),
            };
            if line.trim().is_empty() {
                continue;
            }
            let verdict: Verdict = serde_json::from_str(&line).map_err(|e| {
                self.fault(
                    running,
                    &format!(
                        "said \"{}\", which is no {{\"id\": 0, \"reward\": 1.0}}: {}",
                        shown(line.trim()),
                        shown(&e.to_string())
                    ),
                )
            })?;
            let Some(place) = grades.get_mut(verdict.id) else {
                return Err(self.fault(running, &format!("said id {}, but was asked 0 to {}", verdict.id, answers.len() - 1)));
            };
            if !verdict.reward.is_finite() || place.is_some() {
                let what = if place.is_some() { "two verdicts" } else { "no finite reward" };
                return Err(self.fault(running, &format!("gave {what} for id {}", verdict.id)));
            }
            *place = Some(Grade {
                reward: verdict.reward,
                correct: verdict.correct.unwrap_or(verdict.reward >= 1.0),
                parts: verdict.parts,
                reason: verdict.reason,
            });
            left -= 1;
        }
        Ok(grades.into_iter().flatten().collect())
    }

    fn start(&self) -> Result<Running> {
        let mut child = Command::new(&self.words[0])
            .args(&self.words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("--grader-command {}: cannot be started", self.command))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else { bail!("--grader-command {}: no pipes", self.command) };
        let (to, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || write_lines(stdin, &lines));
        let (send, from) = sync_channel(1024);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            loop {
                let mut line = Vec::new();
                let read = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
                let line = match read {
                    Ok(0) => return,
                    read => read.map(|_| String::from_utf8_lossy(&line).into_owned()),
                };
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let kept = complaints.clone();
        std::thread::spawn(move || keep_end(stderr, &kept));
        Ok(Running { child, to, from, complaints })
    }

    /// The error of a program that has ended.
    fn ended(&self, running: &mut Running, done: usize, all: usize) -> anyhow::Error {
        // It has closed its output; a moment later it is gone.
        let deadline = Instant::now() + Duration::from_secs(2);
        let status = loop {
            match running.child.try_wait() {
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Ok(Some(status)) => break status.to_string(),
                _ => break "closed its output".into(),
            }
        };
        // What it said last may still be on its way.
        std::thread::sleep(Duration::from_millis(50));
        self.fault(running, &format!("ended ({status}) with {done} of {all} answers judged"))
    }

    fn fault(&self, running: &Running, what: &str) -> anyhow::Error {
        let said = running.complaints.lock().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default();
        let last =
            said.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!("; it said: {}", shown(line.trim())));
        anyhow!("--grader-command {}: {what}{}", self.command, last.unwrap_or_default())
    }
}

fn write_lines(mut stdin: ChildStdin, lines: &Receiver<String>) {
    while let Ok(line) = lines.recv() {
        if stdin.write_all(line.as_bytes()).and_then(|()| stdin.write_all(b"\n")).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

/// Keeps the end of what a program complains about.
fn keep_end(mut stderr: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 1024];
    while let Ok(n @ 1..) = stderr.read(&mut chunk) {
        let Ok(mut kept) = kept.lock() else { return };
        kept.extend_from_slice(&chunk[..n]);
        let surplus = kept.len().saturating_sub(KEPT_BYTES);
        kept.drain(..surplus);
    }
}

/// Words between blanks; quotes of either kind keep blanks together. `None` for a quote that is not closed.
fn split(command: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote): (Vec<String>, Option<String>, Option<char>) = (Vec::new(), None, None);
    for c in command.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

//! A judge of one's own: a program that reads a JSON object a line and writes one a line.
//!
//! To the program: `{"id": 0, "prompt": "...", "answer": "...", "completion": "..."}`. Back, in any order:
//! `{"id": 0, "reward": 1.0}`, with `correct`, `parts` and `reason` if it likes; a reward of `null` or `NaN` is no verdict. It is started at
//! the first batch, keeps running, and gets the next batch when all of the last has been judged. Each line has an id of its own.
//!
//! A program that ends, talks nonsense or takes too long is started anew and gets what it has not judged once more, at last one completion
//! at a time; a completion without a verdict then is ungraded. It is gone, and that is an error, when it cannot be started, when it has
//! judged nothing of the first batch, and when it has judged nothing of three batches in a row. What it writes to standard error is shown.

use super::{Grade, GraderGone, Question};
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

/// Batches in a row of which nothing was judged, until a program is gone.
const MOST_BARREN: u32 = 3;
/// Attempts to start it, and the pause between them.
const STARTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);
/// Time-outs that judging one at a time may take in all.
const MOST_TIMEOUTS: u32 = 4;

/// A line that came back.
#[derive(Deserialize)]
struct Verdict {
    id: u64,
    /// Present, and perhaps null.
    #[serde(deserialize_with = "Option::deserialize")]
    reward: Option<f64>,
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
    /// The id of the next line.
    next: u64,
    /// It has judged something.
    proven: bool,
    /// Batches in a row of which it has judged nothing.
    barren: u32,
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
        Ok(Self {
            command: shown(command),
            words,
            timeout: Duration::from_secs_f64(timeout_seconds),
            running: None,
            next: 0,
            proven: false,
            barren: 0,
        })
    }

    /// Verdicts in the order of the answers; see the module.
    ///
    /// # Errors
    /// [`GraderGone`], with the command and what it said.
    pub fn grade(&mut self, answers: &[(&Question, &str)]) -> Result<Vec<Grade>> {
        let mut grades: Vec<Option<Grade>> = vec![None; answers.len()];
        let open = |grades: &[Option<Grade>]| (0..grades.len()).filter(|i| grades[*i].is_none()).collect::<Vec<_>>();
        let (mut first, mut last) = (None, "the grader gave no reward".to_owned());
        let mut note = |result: Result<()>| -> Result<()> {
            match result {
                Err(error) if error.is::<GraderGone>() => Err(error),
                Err(error) => {
                    last = format!("{error:#}");
                    first.get_or_insert_with(|| last.clone());
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        };
        for _ in 0..2 {
            let left = open(&grades);
            if !left.is_empty() {
                note(self.round(&left, answers, &mut grades))?;
            }
        }
        let deadline = Instant::now() + self.timeout * MOST_TIMEOUTS;
        for i in open(&grades) {
            if answers.len() > 1 && Instant::now() < deadline {
                note(self.round(&[i], answers, &mut grades))?;
            }
        }
        let judged = grades.iter().any(Option::is_some);
        self.proven |= judged;
        self.barren = if judged || answers.is_empty() { 0 } else { self.barren + 1 };
        if self.barren > 0 && (!self.proven || self.barren >= MOST_BARREN) {
            let why = first.unwrap_or_else(|| format!("--grader-command {}: gave no reward for any answer", self.command));
            return Err(GraderGone(why).into());
        }
        Ok(grades.into_iter().map(|grade| grade.unwrap_or_else(|| Grade::none(last.clone()))).collect())
    }

    /// Asks for the verdicts of some answers. Those that came before something went wrong are kept; the program is then started anew by
    /// the next round, since it is out of step.
    fn round(&mut self, asked: &[usize], answers: &[(&Question, &str)], grades: &mut [Option<Grade>]) -> Result<()> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => self.started()?,
        };
        let first = self.next;
        self.next += asked.len() as u64;
        let result = self.batch(&mut running, first, asked, answers, grades);
        if result.is_ok() {
            self.running = Some(running);
        }
        result
    }

    fn started(&self) -> Result<Running> {
        let mut tries = 1;
        loop {
            match self.start() {
                Ok(running) => return Ok(running),
                Err(error) if tries == STARTS || !self.proven => return Err(GraderGone(format!("{error:#}")).into()),
                Err(_) => std::thread::sleep(PAUSE * tries),
            }
            tries += 1;
        }
    }

    fn batch(
        &self,
        running: &mut Running,
        first: u64,
        asked: &[usize],
        answers: &[(&Question, &str)],
        grades: &mut [Option<Grade>],
    ) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        for (id, i) in (first..).zip(asked) {
            let (question, completion) = answers[*i];
            let line =
                json!({"id": id, "prompt": question.prompt, "answer": question.answer, "completion": completion}).to_string();
            // Where the program has ended, its end is told below.
            let _ = running.to.send(line);
        }
        let (all, mut seen) = (asked.len(), vec![false; asked.len()]);
        while let done = seen.iter().filter(|seen| **seen).count()
            && done < all
        {
            let line = match running.from.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line.map_err(|e| self.fault(running, &format!("cannot be read: {e}")))?,
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = self.timeout.as_secs_f64();
                    let what =
                        format!("{done} of {all} answers judged after {seconds} s. Raise --grader-timeout, or is it waiting?");
                    return Err(self.fault(running, &what));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(running, done, all)),
            };
            if line.trim().is_empty() {
                continue;
            }
            let verdict = self.verdict(running, &line)?;
            let place = verdict.id.checked_sub(first).and_then(|place| usize::try_from(place).ok()).filter(|place| *place < all);
            let Some(place) = place else {
                let last = first + all as u64 - 1;
                return Err(self.fault(running, &format!("said id {}, but was asked {first} to {last}", verdict.id)));
            };
            if std::mem::replace(&mut seen[place], true) {
                return Err(self.fault(running, &format!("gave two verdicts for id {}", verdict.id)));
            }
            grades[asked[place]] = verdict.reward.filter(|reward| reward.is_finite()).map(|reward| Grade {
                reward,
                correct: verdict.correct.unwrap_or(reward >= 1.0),
                parts: verdict.parts,
                reason: verdict.reason,
                ungraded: false,
            });
        }
        Ok(())
    }

    fn verdict(&self, running: &mut Running, line: &str) -> Result<Verdict> {
        // Python writes NaN and Infinity, which are no JSON, for rewards that are no numbers.
        let plain = || line.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
        serde_json::from_str(line).or_else(|e| serde_json::from_str(&plain()).map_err(|_| e)).map_err(|e| {
            let said = shown(line.trim());
            self.fault(
                running,
                &format!("said \"{said}\", which is no {{\"id\": 0, \"reward\": 1.0}}: {}", shown(&e.to_string())),
            )
        })
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
        let last = said
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .map(|line| format!("; it said: {}", crate::vfs::clean(line.trim())));
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

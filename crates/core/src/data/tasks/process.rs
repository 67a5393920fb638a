//! External grader: a program that reads one JSON object per line and writes one per line.
//!
//! Input: `{"id": 0, "prompt": "...", "answer": "...", "completion": "..."}`. Output, in any order: `{"id": 0, "reward": 1.0}`, optionally
//! with `correct`, `parts` and `reason`; a reward of `null` or `NaN` leaves the completion ungraded. The program is started at the first
//! batch, keeps running, and gets the next batch when the previous one is graded. Each line has a unique id.
//!
//! A program that exits, writes invalid output or takes too long is restarted and gets the ungraded completions once more, then one at a
//! time; a completion without a reward after that is ungraded. It is an error if the program cannot be started, grades nothing of the first
//! batch, or grades nothing of three batches in a row. Its standard error is included in the message.

use super::{Grade, GraderGone, Question};
use crate::data::display_text;
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

/// Longer lines are invalid output.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Number of bytes kept from the end of standard error.
const KEPT_BYTES: usize = 2048;

/// Greatest magnitude of a reward: sums and squares of a batch stay finite in single precision.
const MOST_REWARD: f64 = 1e12;

/// Consecutive batches without any grade before the program is given up.
const MOST_BARREN: u32 = 3;
/// Attempts to start the program, and the pause between them.
const STARTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);
/// Maximum time for grading one at a time, in multiples of the time-out.
const MOST_TIMEOUTS: u32 = 4;

/// A line of output.
#[derive(Deserialize)]
struct GraderReply {
    id: u64,
    /// Required, but may be null.
    #[serde(deserialize_with = "Option::deserialize")]
    reward: Option<f64>,
    correct: Option<bool>,
    #[serde(default)]
    parts: BTreeMap<String, f64>,
    #[serde(default)]
    reason: String,
}

/// A running grader program and its state.
pub struct GraderProcess {
    command: String,
    words: Vec<String>,
    timeout: Duration,
    running: Option<RunningGrader>,
    /// The id of the next input line.
    next: u64,
    /// Whether it has graded anything.
    proven: bool,
    /// Consecutive batches of which it has graded nothing.
    barren: u32,
}

struct RunningGrader {
    child: Child,
    /// Input lines are written by a thread, since a program that does not read must not block the caller.
    to: std::sync::mpsc::Sender<String>,
    from: Receiver<std::io::Result<String>>,
    complaints: Arc<Mutex<Vec<u8>>>,
}

impl Drop for RunningGrader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl GraderProcess {
    /// `command` is a program and its arguments; quotes group words. It is not run by a shell.
    ///
    /// # Errors
    /// No program, an unclosed quote, an invalid time-out.
    pub fn new(command: &str, timeout_seconds: f64) -> Result<Self> {
        ensure!(
            timeout_seconds > 0.0 && timeout_seconds <= 86_400.0,
            "--grader-timeout {timeout_seconds}: must be above 0 and at most 86400 seconds"
        );
        let words =
            split(command).with_context(|| format!("--grader-command {}: a quote is not closed", display_text(command)))?;
        ensure!(!words.is_empty(), "--grader-command: empty. Name a program, such as \"python3 grader.py\"");
        Ok(Self {
            command: display_text(command),
            words,
            timeout: Duration::from_secs_f64(timeout_seconds),
            running: None,
            next: 0,
            proven: false,
            barren: 0,
        })
    }

    /// Grades completions, in order; the module's documentation describes retries.
    ///
    /// # Errors
    /// [`GraderGone`], with the command and its standard error.
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
        let graded = grades.iter().any(Option::is_some);
        self.proven |= graded;
        self.barren = if graded || answers.is_empty() { 0 } else { self.barren + 1 };
        if self.barren > 0 && (!self.proven || self.barren >= MOST_BARREN) {
            let why = first.unwrap_or_else(|| format!("--grader-command {}: gave no reward for any answer", self.command));
            return Err(GraderGone(why).into());
        }
        Ok(grades.into_iter().map(|grade| grade.unwrap_or_else(|| Grade::none(last.clone()))).collect())
    }

    /// Requests grades of some completions. Those received before an error are kept; the next round then restarts the program, since input
    /// and output no longer correspond.
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

    fn started(&self) -> Result<RunningGrader> {
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
        running: &mut RunningGrader,
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
            // If the program has exited, that is reported below.
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
                        format!("{done} of {all} answers graded after {seconds} s. Raise --grader-timeout, or is it waiting?");
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
                return Err(self.fault(running, &format!("answered id {}, expected {first} to {last}", verdict.id)));
            };
            if std::mem::replace(&mut seen[place], true) {
                return Err(self.fault(running, &format!("gave two verdicts for id {}", verdict.id)));
            }
            let reward = verdict.reward.filter(|reward| reward.is_finite());
            if let Some(reward) = reward.filter(|reward| reward.abs() > MOST_REWARD) {
                let what =
                    format!("gave the reward {reward:e}; a reward must lie between {:e} and {MOST_REWARD:e}", -MOST_REWARD);
                return Err(self.fault(running, &what));
            }
            grades[asked[place]] = reward.map(|reward| Grade {
                reward,
                correct: verdict.correct.unwrap_or(reward >= 1.0),
                parts: verdict.parts,
                reason: verdict.reason,
                ungraded: false,
            });
        }
        Ok(())
    }

    fn verdict(&self, running: &mut RunningGrader, line: &str) -> Result<GraderReply> {
        // Python writes NaN and Infinity, which are not valid JSON, for rewards that are not finite.
        let plain = || line.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
        serde_json::from_str(line).or_else(|e| serde_json::from_str(&plain()).map_err(|_| e)).map_err(|e| {
            let line = display_text(line.trim());
            self.fault(
                running,
                &format!("wrote \"{line}\", expected {{\"id\": 0, \"reward\": 1.0}}: {}", display_text(&e.to_string())),
            )
        })
    }

    fn start(&self) -> Result<RunningGrader> {
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
        Ok(RunningGrader { child, to, from, complaints })
    }

    /// The error of a program that has exited.
    fn ended(&self, running: &mut RunningGrader, done: usize, all: usize) -> anyhow::Error {
        // It has closed its output and is about to exit.
        let deadline = Instant::now() + Duration::from_secs(2);
        let status = loop {
            match running.child.try_wait() {
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Ok(Some(status)) => break status.to_string(),
                _ => break "closed its output".into(),
            }
        };
        // The last of its standard error may not have been read yet.
        std::thread::sleep(Duration::from_millis(50));
        self.fault(running, &format!("ended ({status}) with {done} of {all} answers graded"))
    }

    fn fault(&self, running: &RunningGrader, what: &str) -> anyhow::Error {
        let text = running.complaints.lock().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default();
        let last = text
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .map(|line| format!("; standard error: {}", crate::vfs::clean(line.trim())));
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

/// Keeps the end of a program's standard error.
fn keep_end(mut stderr: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 1024];
    while let Ok(n @ 1..) = stderr.read(&mut chunk) {
        let Ok(mut kept) = kept.lock() else { return };
        kept.extend_from_slice(&chunk[..n]);
        let surplus = kept.len().saturating_sub(KEPT_BYTES);
        kept.drain(..surplus);
    }
}

/// Words separated by spaces; quotes of either kind group words. `None` for an unclosed quote.
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

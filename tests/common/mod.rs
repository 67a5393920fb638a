//! A real `lehr` in a child process, in a folder of its own, and its output.
#![allow(dead_code, reason = "each test file uses a part of this")]

use lehr::model_files::checkpoint;
use lehr::run_folder::checkpoints;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Long enough for a machine that is busy with other things; a child that takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The smallest model that has every part; two micro-batches an update.
pub const TINY: &[&str] = &[
    "--hidden-size=16",
    "--intermediate-size=32",
    "--num-hidden-layers=1",
    "--num-attention-heads=2",
    "--batch-size=4",
    "--micro-batch-size=2",
    "--seq-len=16",
    "--learning-rate=1e-2",
    "--warmup-steps=3",
    "--eval-tokens=128",
];

/// A file or folder of `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A folder with a text in it, and nothing else.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("text.txt"), text(6000)).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `lehr` with these arguments, in this folder.
    pub fn lehr<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        lehr_in(self.dir.path(), args)
    }

    /// `lehr pretrain` of the tiny model on the text, into the run `run`.
    pub fn pretrain(&self, run: &str, more: &[&str]) -> Command {
        let mut command = self.lehr(["pretrain", "--data=text.txt", "--json", "--run", run]);
        command.args(TINY).args(more);
        command
    }

    pub fn resume(&self, run: &str, more: &[&str]) -> Command {
        let mut command = self.lehr(["pretrain", "--json", "--resume", run]);
        command.args(more);
        command
    }

    /// One file of a checkpoint.
    pub fn checkpoint(&self, run: &str, step: u64, file: &str) -> Vec<u8> {
        let path = checkpoints::folder(&self.path(run)).join(checkpoint::step_name(step)).join(file);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The run's events, as they are on disk; every line must be one.
    pub fn events(&self, run: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(run).join("events.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
    }
}

/// `lehr`, without the user's cache and without measuring kernels.
pub fn lehr_in<S: AsRef<std::ffi::OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lehr"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command.env("LEHR_TUNE", "off").env("LEHR_CACHE", dir.join("cache"));
    command
}

/// Made-up words with some structure, always the same.
pub fn text(bytes: usize) -> String {
    const WORDS: [&str; 12] = ["glass", "kiln", "the", "slow", "heat", "and", "a", "lehr", "cools", "sand", "into", "windows"];
    let mut state = 12345u64;
    let mut out = String::new();
    while out.len() < bytes {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let draw = (state >> 33) as usize;
        out.push_str(WORDS[draw % WORDS.len()]);
        out.push_str(if draw.is_multiple_of(11) { ".\n" } else { " " });
    }
    out
}

/// A number from the clock, to cut runs where no test has cut before; printed where a test fails.
pub fn random() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    lehr::rng::Rng::new(now.as_nanos() as u64, "test").below(0, u64::from(std::process::id()), 1 << 40)
}

/// Exit code and output of a finished command.
pub struct CommandOutput {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub seconds: f64,
}

pub fn run(command: &mut Command) -> CommandOutput {
    let begin = Instant::now();
    let output = command.output().unwrap();
    CommandOutput {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
        err: String::from_utf8(output.stderr).expect("UTF-8 on standard error"),
        seconds: begin.elapsed().as_secs_f64(),
    }
}

/// Run a command that must succeed; returns its standard output as JSON lines.
pub fn json_lines(command: &mut Command) -> Vec<Value> {
    let output = run(command);
    assert_eq!(output.code, Some(0), "{command:?}\n{}", output.err);
    output.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// A trainer that runs, read line by line.
pub struct Trainer {
    child: Child,
    lines: Receiver<Value>,
    pub received: Vec<Value>,
    stderr: tempfile::NamedTempFile,
}

impl Trainer {
    /// Start it; with `--control` among its arguments it also reads commands.
    pub fn start(command: &mut Command) -> Self {
        let stderr = tempfile::NamedTempFile::new().unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(stderr.path()).unwrap());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // A kill may tear the last line.
                let Ok(value) = serde_json::from_str(&line) else { continue };
                if send.send(value).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, received: Vec::new(), stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.stderr.path()).unwrap_or_default()
    }

    /// Wait for an event that fits; `None` when the trainer ends first.
    pub fn try_wait_for(&mut self, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    self.received.push(event.clone());
                    if fits(&event) {
                        return Some(event);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("no such event\n{}", self.diagnostics()),
            }
        }
    }

    pub fn wait_for(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.try_wait_for(fits).unwrap_or_else(|| panic!("ended without {what}\n{}", self.diagnostics()))
    }

    pub fn wait_for_kind(&mut self, kind: &str) -> Value {
        self.wait_for(kind, |e| e["event"] == kind)
    }

    pub fn wait_for_step(&mut self, step: u64) -> Value {
        self.wait_for(&format!("step {step}"), |e| e["event"] == "Step" && e["step"].as_u64() >= Some(step))
    }

    pub fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().unwrap();
        let done = stdin.write_all(bytes).and_then(|()| stdin.flush());
        done.unwrap_or_else(|e| panic!("{e}\n{}", self.diagnostics()));
    }

    /// Close its standard input.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Send a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success(), "kill -{name}");
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Wait for its end; its events are in `received`.
    pub fn end(&mut self) -> ExitStatus {
        while self.try_wait_for(|_| false).is_some() {}
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "no more output, but it does not end\n{}", self.diagnostics());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn diagnostics(&self) -> String {
        let received: Vec<String> = self.received.iter().rev().take(5).map(Value::to_string).collect();
        format!("last events (newest first): {received:#?}\nstandard error:\n{}", self.stderr())
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The events of one kind.
pub fn kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["event"] == kind).collect()
}

/// The step numbers of the Step events, in order.
pub fn step_numbers(events: &[Value]) -> Vec<u64> {
    kind(events, "Step").iter().map(|e| e["step"].as_u64().unwrap()).collect()
}

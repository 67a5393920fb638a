//! Commands as child processes.

use super::{Backend, CommandOutput, End, RunningCommand, Wake};
use crate::session::control::INTERRUPTED;
use crate::vfs::{clean, display_path};
use anyhow::{Context as _, Result, anyhow};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Polling interval for a process that has closed its output but has not ended.
const PAUSE: Duration = Duration::from_millis(5);

/// Starts commands of a program file.
#[derive(Clone, Debug)]
pub struct Native {
    program: PathBuf,
}

impl Native {
    /// For the program in this file.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// For the current executable.
    ///
    /// # Errors
    /// The system does not report its path.
    pub fn this_program() -> Result<Self> {
        Ok(Self::new(std::env::current_exe().context("this program's own file")?))
    }
}

impl Backend for Native {
    fn start(&self, argv: &[String], env: &[(&str, &str)], wake: Wake) -> Result<Box<dyn RunningCommand>> {
        let mut command = Command::new(&self.program);
        command.args(argv).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(env.iter().filter(|(name, _)| std::env::var_os(name).is_none()).copied());
        let child = command.spawn().with_context(|| format!("{}: cannot be started", display_path(&self.program)))?;
        let process = ChildProcess { child: Arc::new(Mutex::new(child)) };
        let followed = process.follow(wake);
        if followed.is_err() {
            process.kill();
        }
        let (input, output) = followed?;
        Ok(Box::new(RunningChild { process, input, output }))
    }
}

/// A child process, shared with the thread that waits for it.
#[derive(Clone, Debug)]
struct ChildProcess {
    child: Arc<Mutex<Child>>,
}

/// A child process whose input and output are handled by threads: a full pipe must not block the caller.
#[derive(Debug)]
struct RunningChild {
    process: ChildProcess,
    input: Sender<String>,
    output: Receiver<CommandOutput>,
}

impl ChildProcess {
    fn with<R>(&self, use_it: impl FnOnce(&mut Child) -> R) -> R {
        use_it(&mut self.child.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn kill(&self) {
        // A process that has already ended cannot be killed.
        let _ = self.with(Child::kill);
    }

    /// Start the threads that write its input and read its output.
    fn follow(&self, wake: Wake) -> Result<(Sender<String>, Receiver<CommandOutput>)> {
        let (stdin, stdout, stderr) = self.with(|child| (child.stdin.take(), child.stdout.take(), child.stderr.take()));
        let (input, lines) = channel();
        let (send, output) = channel();
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        thread("input").spawn(move || write_lines(stdin, &lines))?;
        let (messages, wake_for_messages) = (send.clone(), wake.clone());
        let read_messages = move || {
            let mut last_message = LastMessage::default();
            each_line(stderr, |line| {
                let line = clean(line.trim_end());
                last_message.take(&line);
                // Without a receiver the pipe is still drained, or the process would block on it.
                let _ = messages.send(CommandOutput::Message(line));
                wake_for_messages();
            });
            last_message
        };
        let messages = thread("messages").spawn(read_messages)?;
        let process = self.clone();
        let read_output = move || {
            each_line(stdout, |line| {
                let _ = send.send(CommandOutput::Line(line.to_owned()));
                wake();
            });
            let last_message = messages.join().unwrap_or_default();
            let _ = send.send(CommandOutput::Ended(process.wait(&last_message)));
            wake();
        };
        thread("output").spawn(read_output)?;
        Ok((input, output))
    }

    /// Wait for the process to end. The lock is released in between, so that it can be killed.
    fn wait(&self, last_message: &LastMessage) -> End {
        loop {
            match self.with(Child::try_wait) {
                Ok(Some(status)) => return end_of(status, last_message),
                Ok(None) => std::thread::sleep(PAUSE),
                Err(error) => return End::Failed(error.to_string()),
            }
        }
    }
}

impl RunningCommand for RunningChild {
    fn send(&mut self, line: String) -> Result<()> {
        self.input.send(line).map_err(|_| anyhow!("it takes no more commands"))
    }

    fn poll(&mut self) -> Vec<CommandOutput> {
        self.output.try_iter().collect()
    }

    fn kill(&mut self) {
        self.process.kill();
    }

    fn id(&self) -> Option<u32> {
        Some(self.process.with(|child| child.id()))
    }
}

fn write_lines(stdin: Option<ChildStdin>, lines: &Receiver<String>) {
    let Some(mut stdin) = stdin else { return };
    for line in lines {
        if stdin.write_all((line + "\n").as_bytes()).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

/// Read all lines; the last one may lack a line end.
fn each_line(from: Option<impl Read>, mut take: impl FnMut(&str)) {
    let Some(from) = from else { return };
    let (mut reader, mut line) = (BufReader::new(from), Vec::new());
    while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
        take(String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).as_ref());
        line.clear();
    }
}

/// Explanation of an end: the newest error, otherwise the newest line.
#[derive(Debug, Default)]
struct LastMessage {
    error: Option<String>,
    line: String,
}

impl LastMessage {
    fn take(&mut self, line: &str) {
        if let Some(error) = line.strip_prefix("error: ") {
            self.error = Some(error.to_owned());
        }
        if !line.is_empty() {
            line.clone_into(&mut self.line);
        }
    }
}

fn end_of(status: ExitStatus, last_message: &LastMessage) -> End {
    match status.code() {
        Some(0) => End::Done,
        Some(INTERRUPTED) => End::Interrupted,
        code => End::Failed(reason(status, code, last_message)),
    }
}

fn reason(status: ExitStatus, code: Option<i32>, last_message: &LastMessage) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let cause = match signal {
            6 => " (aborted, perhaps by the driver)",
            9 => " (killed, perhaps because memory was short)",
            11 => " (crashed, perhaps in the driver)",
            _ => "",
        };
        return format!("the process ended by signal {signal}{cause}");
    }
    #[cfg(not(unix))]
    let _ = status;
    match (last_message.error.as_ref().unwrap_or(&last_message.line).as_str(), code) {
        ("", Some(code)) => format!("the process ended with code {code} and no message"),
        ("", None) => "the process ended without a message".into(),
        (last_message, _) => last_message.to_owned(),
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn start(script: &str) -> (Box<dyn RunningCommand>, Receiver<()>) {
        let (send, woken) = channel();
        let wake: Wake = Arc::new(move || send.send(()).unwrap_or_default());
        let argv = ["-c".to_owned(), script.to_owned()];
        (Native::new("/bin/sh".into()).start(&argv, &[("LEHR_TEST_BACKEND", "set")], wake).unwrap(), woken)
    }

    /// All output up to the end; polls only when woken.
    fn finish((mut task, woken): (Box<dyn RunningCommand>, Receiver<()>)) -> Vec<CommandOutput> {
        let (mut all, begin) = (Vec::new(), Instant::now());
        while !matches!(all.last(), Some(CommandOutput::Ended(_))) {
            assert!(begin.elapsed() < Duration::from_secs(60), "{all:?}");
            woken.recv_timeout(Duration::from_secs(60)).expect("a wake");
            all.extend(task.poll());
        }
        all
    }

    #[test]
    fn lines_arrive_in_order_before_the_exit() {
        let outputs = finish(start("echo one; echo $LEHR_TEST_BACKEND; printf three"));
        let line = |text: &str| CommandOutput::Line(text.into());
        assert_eq!(outputs, [line("one"), line("set"), line("three"), CommandOutput::Ended(End::Done)]);
    }

    #[test]
    fn input_is_delivered_and_a_stop_is_not_a_failure() {
        let (mut task, woken) = start("read word; echo got $word; exit 130");
        task.send("it".into()).unwrap();
        let outputs = finish((task, woken));
        assert_eq!(outputs, [CommandOutput::Line("got it".into()), CommandOutput::Ended(End::Interrupted)]);
    }

    #[test]
    fn failures_report_error_last_line_exit_code_or_signal() {
        let end = |script: &str| match finish(start(script)).pop() {
            Some(CommandOutput::Ended(End::Failed(why))) => why,
            other => panic!("{script}: {other:?}"),
        };
        assert_eq!(end("echo error: no data >&2; echo bye >&2; exit 1"), "no data");
        assert_eq!(end("echo thread panicked >&2; exit 101"), "thread panicked");
        assert!(end("exit 3").contains("code 3"));
        assert!(end("kill -9 $$").contains("signal 9"));
    }

    #[test]
    fn kill_ends_a_process() {
        let (mut task, woken) = start("exec sleep 600");
        assert!(task.id().is_some());
        task.kill();
        assert!(matches!(finish((task, woken)).pop(), Some(CommandOutput::Ended(End::Failed(why))) if why.contains("signal 9")));
    }
}

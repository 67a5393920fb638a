//! Terminal output: the progress line, JSON lines, the error line.

use crate::config::Stage;
use crate::event::{Event, Finished, Merged, Rescue, Started, Step, TaskEval};
use crate::number_format::counted;
pub use crate::number_format::{duration, visible};
use crate::session::emitter::{Listener, Notification};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use web_time::Instant;

/// Seconds between two plain lines without a terminal.
pub const PLAIN_LINE_SECONDS: f64 = 10.0;
/// As above, for long repetitive work.
pub const LONG_LINE_SECONDS: f64 = 15.0;

/// One line on standard error, control characters escaped.
pub fn error_line(error: &anyhow::Error) {
    note(&format!("error: {}", one_line(&format!("{error:#}"))));
}

/// Whether the reader of standard output has closed it.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

/// Write one line to standard output; a closed pipe is an error that ends the command quietly.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// A value as one JSON line on standard output.
pub fn json_line(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Write a note to standard error, which may be closed.
pub fn note(text: &str) {
    // One write, so that lines of several processes do not mix.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Listener of a run: `json` prints every event on standard output; otherwise one updating progress line, or occasional plain lines.
pub fn console_listener(json: bool) -> Listener {
    let mut console = ConsoleOutput::new();
    Box::new(move |notification| {
        if let (true, Notification::Event(event)) = (json, &notification) {
            // A closed pipe must not stop a run.
            let _ = json_line(event);
        }
        console.handle(&notification);
    })
}

/// Progress on standard error: one updating line on a terminal, otherwise occasional lines.
pub struct ProgressLine {
    /// On a terminal.
    bar: Option<ProgressBar>,
    seconds: f64,
    shown: Option<Instant>,
}

impl ProgressLine {
    /// Without a terminal, at most one line per `seconds`, the first at once.
    pub fn with_interval(seconds: f64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        Self { bar, seconds, shown: None }
    }

    /// As [`ProgressLine::with_interval`], the first after `seconds`.
    pub fn after(seconds: f64) -> Self {
        Self { shown: Some(Instant::now()), ..Self::with_interval(seconds) }
    }

    /// Whether it is on a terminal.
    pub fn on_terminal(&self) -> bool {
        self.bar.is_some()
    }

    /// Show a new text, if a line is due.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(text());
                bar.tick();
            }
            None if self.shown.is_none_or(|shown| shown.elapsed().as_secs_f64() >= self.seconds) => {
                self.shown = Some(Instant::now());
                note(&text());
            }
            None => {}
        }
    }

    /// Make the next text due at once.
    pub fn make_due(&mut self) {
        self.shown = None;
    }

    /// Print a permanent line.
    pub fn print_line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    /// Remove the progress line.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

struct ConsoleOutput {
    line: ProgressLine,
    max_steps: u64,
    fine_tuning: bool,
    reinforcing: bool,
    last_eval: Option<f64>,
    /// 95 % interval of the newest greedy accuracy.
    greedy_interval: Option<[f64; 2]>,
    skip_rate: Option<(u64, f64)>,
}

impl ConsoleOutput {
    fn new() -> Self {
        Self {
            line: ProgressLine::with_interval(PLAIN_LINE_SECONDS),
            max_steps: 0,
            fine_tuning: false,
            reinforcing: false,
            last_eval: None,
            greedy_interval: None,
            skip_rate: None,
        }
    }

    fn handle(&mut self, notification: &Notification<'_>) {
        match notification {
            Notification::Progress(what, done, all) => {
                if self.line.on_terminal() && *all > 0 {
                    self.line.show(|| format!("{what} {} %", 100 * done / all));
                }
            }
            Notification::Event(event) => self.event(event),
        }
    }

    fn started(&mut self, s: &Started) {
        self.max_steps = s.max_steps;
        self.fine_tuning = s.stage == Stage::Sft.name();
        self.reinforcing = s.stage == Stage::Grpo.name();
        let material = match self.reinforcing {
            true => {
                format!("{} per step, {} held out", counted(s.tokens_per_step, "completion"), counted(s.val_tokens, "question"))
            }
            false => format!(
                "{} training and {} validation tokens, {} tokens per step",
                count(s.train_tokens),
                count(s.val_tokens),
                s.tokens_per_step
            ),
        };
        let (run, parameters) = (s.run.display(), count(s.parameters));
        let ready = s.startup_seconds;
        self.print_line(&format!("{run} on {}: {parameters} parameters, ready after {ready:.1} s", s.adapter));
        self.print_line(&material);
        match &s.parent {
            Some(parent) if s.step == 0 => self.print_line(&format!("starting point: {parent}")),
            Some(parent) if parent.ends_with(&format!("@{}", s.step)) => self.print_line(&format!("forked from {parent}")),
            _ if s.step > 0 => self.print_line(&format!("resumed at step {}", s.step)),
            _ => {}
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Started(s) => self.started(s),
            Event::Step(s) => {
                if self.reinforcing {
                    let text = self.reinforced(s);
                    return self.line.show(|| text);
                }
                let text = self.supervised(s);
                self.line.show(|| text);
            }
            Event::Eval(e) => {
                let change = self.last_eval.map_or(String::new(), |before| format!(" ({:+.4})", e.eval_loss - before));
                self.last_eval = Some(e.eval_loss);
                let parts = vec![
                    (0, format!("step {}: validation loss {:.4}{change}", e.step, e.eval_loss)),
                    (0, format!("perplexity {:.2}", e.perplexity)),
                    (1, format!("{} tokens", count(e.eval_tokens))),
                    (2, format!("{:.1} s", e.eval_seconds)),
                ];
                self.print_line(&fitted(parts, ", "));
            }
            Event::TaskEval(e) => {
                if e.temperature == 0.0 {
                    self.greedy_interval = (e.all.count > 0).then_some(e.all.interval);
                }
                graded_questions(e).iter().for_each(|line| self.print_line(line));
            }
            // Only for the log: tables do not fit in the progress line.
            Event::Tokens(_) | Event::Predictions(_) | Event::Norms(_) => {}
            Event::Merged(m) => self.print_line(&merged(m)),
            Event::Rescue(r) => self.print_line(&rescued(r)),
            Event::Sample(s) => self.print_line(&format!("step {}: {}{}", s.step, visible(&s.prompt), visible(&s.text))),
            Event::Checkpoint(c) => {
                self.print_line(&format!("step {}: saved {} in {:.1} s", c.step, c.path.display(), c.save_seconds));
            }
            Event::Paused { step } => self.print_line(&format!("paused at step {step}")),
            Event::Resumed { step } => self.print_line(&format!("resumed at step {step}")),
            Event::HyperChanged { step, name, before, after } => {
                self.print_line(&format!("step {step}: {name} changed from {before} to {after}"));
            }
            Event::Warning { text } => self.print_line(&format!("note: {}", one_line(text))),
            Event::Finished(f) => {
                self.line.end();
                finished(f, self.greedy_interval);
            }
            Event::Failed { .. } => self.line.end(),
        }
    }

    /// `step 12/100`, the number padded to the width of the last.
    fn step_of(&self, step: u64) -> String {
        let width = self.max_steps.to_string().len();
        format!("step {step:>width$}/{}", self.max_steps)
    }

    /// Progress of a supervised step.
    fn supervised(&mut self, s: &Step) -> String {
        let (first, _) = *self.skip_rate.get_or_insert((s.step, s.seconds));
        let is_known = s.step > first && s.step > 0 && s.tokens_per_second > 0.0;
        let per_step = s.num_tokens as f64 / s.step.max(1) as f64 / s.tokens_per_second;
        let seconds = is_known.then(|| per_step * self.max_steps.saturating_sub(s.step) as f64);
        let mut parts = vec![(0, self.step_of(s.step)), (0, format!("loss {:<7.4}", s.loss))];
        if self.fine_tuning {
            parts.push((1, format!("accuracy {:>5.1} %", 100.0 * s.mean_token_accuracy)));
        }
        parts.extend([
            (2, format!("grad {:<6.3}", s.grad_norm)),
            (4, format!("lr {:.2e}", s.learning_rate)),
            (3, format!("{:>7} tok/s", count(s.tokens_per_second as u64))),
            (0, eta(seconds)),
        ]);
        fitted(parts, "  ")
    }

    /// Progress of a GRPO step: reward, accuracy, change of the policy, time.
    fn reinforced(&mut self, s: &Step) -> String {
        let get = |name: &str| s.metrics.get(name).map_or(f64::NAN, |number| number.0);
        let (first, seconds) = *self.skip_rate.get_or_insert((s.step, s.seconds));
        let left = self.max_steps.saturating_sub(s.step) as f64;
        let left = (s.step > first).then(|| left * (s.seconds - seconds) / (s.step - first) as f64);
        let sampling = 100.0 * get("timing_s/gen") / get("step_time");
        let parts = vec![
            (0, self.step_of(s.step)),
            (0, format!("reward {:>6.3}", get("reward"))),
            (1, format!("accuracy {:>4.1} %", 100.0 * get("accuracy"))),
            (3, format!("length {:>3.0}", get("completions/mean_length"))),
            (2, format!("entropy {:.2}", s.entropy)),
            (5, format!("grad {:<6.3}", s.grad_norm)),
            (6, format!("lr {:.1e}", s.learning_rate)),
            (4, format!("{:.1} s/step", get("step_time"))),
            (7, format!("sampling {sampling:.0} %")),
            (0, eta(left)),
        ];
        fitted(parts, "  ")
    }

    fn print_line(&self, text: &str) {
        self.line.print_line(text);
    }
}

/// Terminal width that lines are formatted for.
pub const COLUMNS: usize = 80;

/// The parts of a line that fit: those with the highest rank are dropped first, those of rank 0 never.
fn fitted(mut parts: Vec<(u8, String)>, between: &str) -> String {
    loop {
        let line = parts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(between);
        let least = parts.iter().enumerate().max_by_key(|(_, (rank, _))| *rank);
        match least.filter(|(_, (rank, _))| *rank > 0 && line.chars().count() > COLUMNS).map(|(at, _)| at) {
            Some(at) => drop(parts.remove(at)),
            None => return line,
        }
    }
}

/// Time left as m:ss or h:mm:ss; `...` until it can be estimated.
fn eta(seconds: Option<f64>) -> String {
    match seconds.filter(|s| s.is_finite() && *s >= 0.0).map(|s| s.round() as u64) {
        None => "eta ...".into(),
        Some(s) if s < 3600 => format!("eta {}:{:02}", s / 60, s % 60),
        Some(s) => format!("eta {}:{:02}:{:02}", s / 3600, s % 3600 / 60, s % 60),
    }
}

/// A share of correct answers with its 95 % interval, if known: `38.0 % [31.6, 44.9]`.
fn accuracy(share: f64, interval: Option<[f64; 2]>) -> String {
    let interval = interval.map(|ends| ends.map(|x| 100.0 * x));
    let interval = interval.map_or(String::new(), |[low, high]| format!(" [{low:.1}, {high:.1}]"));
    format!("{:.1} %{interval}", 100.0 * share)
}

/// An evaluation's lines: accuracy with its interval, and by level.
fn graded_questions(e: &TaskEval) -> Vec<String> {
    let how = if e.temperature == 0.0 { "greedy".to_owned() } else { format!("at temperature {}", e.temperature) };
    if e.all.count == 0 {
        return vec![format!("step {}: no answer {how} to a held-out question could be graded", e.step)];
    }
    let levels: Vec<String> = e.levels.iter().map(|(level, s)| format!("{level}: {:.1} %", 100.0 * s.accuracy)).collect();
    let levels = (levels.len() > 1).then(|| format!("step {}: by level: {}", e.step, levels.join(", ")));
    let right = (e.all.accuracy * e.all.count as f64).round();
    let share = accuracy(e.all.accuracy, Some(e.all.interval));
    let parts = vec![
        (0, format!("step {}: {right} of {} held-out questions right {how}: {share}", e.step, e.all.count)),
        (1, format!("reward {:.3}", e.all.reward)),
        (2, format!("in {:.1} s", e.eval_seconds)),
    ];
    std::iter::once(fitted(parts, ", ")).chain(levels).collect()
}

/// A merge's line: its loss and the run's own.
fn merged(m: &Merged) -> String {
    let losses: Vec<String> = m.metrics.values().map(|loss| format!("{:.4}", loss.0)).collect();
    let gain = m.metrics.values().next().zip(m.eval_loss).map_or(String::new(), |(merge, raw)| {
        let difference = merge.0 - raw;
        let word = if difference < 0.0 { "below" } else { "above" };
        format!(", {:.4} {word} the run's own", difference.abs())
    });
    let gains = m.anneal_estimate.zip(m.eval_loss).is_some_and(|(estimate, raw)| estimate < raw);
    let annealed = m.anneal_estimate.filter(|_| gains).map_or(String::new(), |e| format!("; annealing: about {e:.2}"));
    let written = m.path.as_ref().map_or(String::new(), |path| format!("; written to {}", path.display()));
    format!("step {}: {} of {} snapshots: {}{gain}{annealed}{written}", m.step, m.method, m.steps.len(), losses.join(", "))
}

/// A rescue's line: the cause, the step it continues from, and the changes.
fn rescued(r: &Rescue) -> String {
    let steps: Vec<String> = r.from_steps.iter().map(u64::to_string).collect();
    let weights = if steps.len() > 1 { format!(", the mean of steps {}", steps.join(", ")) } else { String::new() };
    let loss = r.eval_loss.map_or(String::new(), |l| format!(" (validation loss {l:.4})"));
    let moments = if r.optimizer == "reset" { "moments at zero" } else { "moments kept" };
    let data = match r.skipped_batches {
        0 => "the same batches once more".to_string(),
        n => format!("{n} batches skipped"),
    };
    let note = if r.note.is_empty() { String::new() } else { format!("; {}", r.note) };
    format!(
        "step {}: {}; rescue {}: back to step {} ({} discarded){weights}{loss}, {moments}, {data}, learning rate x {}{note}",
        r.step,
        r.cause,
        r.count,
        r.to_step,
        counted(r.step.saturating_sub(r.to_step), "step"),
        r.learning_rate_scale
    )
}

/// Summary of the gradient norm and the number of spikes.
fn stability_summary(f: &Finished) -> Option<String> {
    let [mean, std, p99, over] = ["mean", "std", "p99", "spikes"].map(|key| f.grad_norm.get(key).copied());
    let over =
        over.filter(|over| *over > 0.0).map_or(String::new(), |over| format!("\ngrad_norm: {over} times above 2 x the median"));
    let ends = format!("{}, {}", counted(f.spikes, "loss spike"), counted(f.rescues, "rescue"));
    Some(format!("grad_norm: mean {:.3}, std {:.3}, p99 {:.3}; {ends}{over}", mean?, std?, p99?))
}

fn finished(f: &Finished, greedy_interval: Option<[f64; 2]>) {
    // A stopped run was evaluated before.
    let last = if f.reason == "completed" { "" } else { "last " };
    let loss = f.eval_loss.map_or(String::new(), |l| format!(", {last}validation loss {l:.4}"));
    let loss = f.accuracy.map_or(loss, |a| format!(", {} of held-out questions right (greedy)", accuracy(a, greedy_interval)));
    // For a fork, only its own tokens.
    let tokens = count((f.tokens_per_second * f.seconds).round() as u64);
    let parts = vec![
        (0, format!("{} at step {}{loss}", f.reason, f.step)),
        (0, format!("{tokens} tokens in {}", duration(f.seconds))),
        (1, format!("{} tok/s", count(f.tokens_per_second as u64))),
    ];
    note(&fitted(parts, ", "));
    stability_summary(f).iter().flat_map(|text| text.lines()).for_each(note);
    if let Some(path) = &f.checkpoint {
        note(&format!("checkpoint: {}", path.display()));
    }
}

/// Text wrapped into lines of at most `width` characters. A number is not parted from its percent sign.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match words.last_mut().filter(|last| word.starts_with('%') && last.ends_with(|c: char| c.is_ascii_digit())) {
            Some(number) => number.extend([" ", word]),
            None => words.push(word.to_owned()),
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for word in &words {
        match lines.last_mut().filter(|l| l.chars().count() + 1 + word.chars().count() <= width) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.clone()),
        }
    }
    lines
}

/// A line wrapped to the terminal's width; its indentation is kept, and continuation lines are indented further.
pub fn folded(line: &str) -> Vec<String> {
    let text = line.trim_start();
    let indent = line.len() - text.len();
    if line.chars().count() <= COLUMNS {
        return vec![line.to_owned()];
    }
    let parts = wrapped(text, COLUMNS - indent - 2).into_iter().enumerate();
    parts.map(|(i, part)| format!("{}{part}", " ".repeat(indent + if i == 0 { 0 } else { 2 }))).collect()
}

/// A line on standard output, wrapped to the terminal's width.
pub fn folded_line(text: &str) -> anyhow::Result<()> {
    folded(text).iter().try_for_each(|part| line(part))
}

/// Rows with aligned columns: the first to the left, the others to the right if `is_right` returns true.
pub fn aligned(rows: &[Vec<String>], is_right: impl Fn(usize) -> bool) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let columns: Vec<(usize, bool)> = (0..columns).map(|c| (width(c), c > 0 && is_right(c))).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&columns);
        let cells = cells.map(|(cell, (w, right))| if *right { format!("{cell:>w$}") } else { format!("{cell:<w$}") });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

/// Generated text and prompts, safe for standard output: control characters are escaped on a terminal (`\u{1b}`); files and pipes get them
/// unchanged.
pub fn generated(text: &str) -> std::borrow::Cow<'_, str> {
    if std::io::stdout().is_terminal() { visible(text).into() } else { text.into() }
}

/// The text of a token, with newlines and tabs escaped.
pub fn piece(text: &str) -> String {
    visible(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// Text on one line, control characters escaped.
fn one_line(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}

/// 12,345,678 as 12.3 M.
pub fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines_fit_80_columns_and_estimate_nothing_before_it_is_measured() {
        let mut console = ConsoleOutput { max_steps: 200_000, ..ConsoleOutput::new() };
        let step = |step: u64, seconds: f64| Step {
            step,
            loss: 10.8264,
            grad_norm: 123.456,
            learning_rate: 1e-3,
            tokens_per_second: 123_456.0,
            num_tokens: step * 768,
            seconds,
            ..Step::default()
        };
        for stage in [Stage::Pretrain, Stage::Sft] {
            console.fine_tuning = stage == Stage::Sft;
            console.skip_rate = None;
            let first = console.supervised(&step(100_000, 1.0));
            let later = console.supervised(&step(100_010, 2.0));
            assert!(first.ends_with("eta ...") && later.ends_with("eta 10:22"), "{first}\n{later}");
            assert!(first.chars().count() <= COLUMNS && first.contains("loss 10.8264"), "{first}");
            assert_eq!(console.supervised(&step(7, 9.0)).find("loss"), later.find("loss"), "columns line up");
        }
        console.skip_rate = None;
        let first = console.reinforced(&step(1, 3.0));
        assert!(first.ends_with("eta ...") && first.chars().count() <= COLUMNS, "{first}");
        assert_eq!([None, Some(59.6), Some(7505.0), Some(f64::NAN)].map(eta), ["eta ...", "eta 1:00", "eta 2:05:05", "eta ..."]);
    }

    #[test]
    fn text_is_wrapped_and_lines_folded() {
        assert_eq!(wrapped("one two  three", 8), ["one two", "three"]);
        assert_eq!(wrapped("", 8), [""; 0]);
        assert_eq!(folded("  short"), ["  short"]);
        let long = folded(&format!("  {}", "word ".repeat(40)));
        assert!(long.len() > 2 && long.iter().all(|line| line.chars().count() <= COLUMNS), "{long:?}");
        assert!(long[0].starts_with("  word") && long[1].starts_with("    word"), "{long:?}");
    }

    #[test]
    fn table_columns_are_aligned() {
        let rows =
            [["", "loss", "what"], ["raw", "1.5", "x"], ["merged", "11.5", "yy"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(aligned(&rows, |c| c == 1), ["        loss  what", "raw      1.5  x", "merged  11.5  yy"]);
        assert_eq!(aligned(&rows, |_| true), ["        loss  what", "raw      1.5     x", "merged  11.5    yy"]);
    }

    #[test]
    fn generated_text_cannot_move_the_cursor() {
        assert_eq!(
            visible("a\u{1b}[2Jb\u{9b}1m\r\u{7}\u{8}\u{7f}\u{202e}x\u{2069}"),
            "a\\u{1b}[2Jb\\u{9b}1m\\r\\u{7}\\u{8}\\u{7f}\\u{202e}x\\u{2069}"
        );
        assert_eq!(visible("\tÄ 漢字 😀\u{200d}\n"), "\tÄ 漢字 😀\u{200d}\n");
        assert_eq!(piece("\ta\n\r"), "\\ta\\n\\r");
        // Depends on whether the test runs in a terminal.
        assert_eq!(generated("\u{1b}[2J"), if std::io::stdout().is_terminal() { "\\u{1b}[2J" } else { "\u{1b}[2J" });
    }
}

//! A story on a terminal: texts and results on standard output, progress on standard error.

use crate::cli::output::{self, wrapped};
use crate::history::{RunFiles, chart_spec};
use crate::session::control::{Control, INTERRUPTED};
use crate::story::{Player, StepKind, StoryPhase, TextBlock, WatchItem};
use std::io::IsTerminal as _;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// Width of the text.
const WIDTH: usize = output::COLUMNS;
/// Width of a sparkline.
const CHART: usize = 30;
/// Width of the value before it.
const VALUE: usize = 8;
/// Interval of polling a child process.
const POLL: Duration = Duration::from_millis(40);

/// Text on standard output, each line wrapped to the width.
fn line(text: &str) -> anyhow::Result<()> {
    text.split('\n').try_for_each(output::folded_line)
}

/// Run a story from its current scene to its end; returns the exit code.
///
/// # Errors
/// A command that failed, a closed pipe.
pub fn play(player: &mut Player, with_commands: bool) -> anyhow::Result<i32> {
    // From now on a signal stops the child cleanly.
    let _control = Control::listen(None)?;
    let mut bar = StoryProgressLine::new();
    while *player.phase() != StoryPhase::Done {
        before(player, with_commands)?;
        let guess = guess(player)?;
        player.run_scene();
        run(player, &mut bar);
        match player.phase() {
            StoryPhase::Stopped => {
                output::note(&format!(
                    "stopped; what was done is kept in {}, and the same command continues from there",
                    crate::vfs::display_path(player.dir())
                ));
                return Ok(INTERRUPTED);
            }
            StoryPhase::Failed(text) => anyhow::bail!("{text}"),
            _ => show_results(player, guess)?,
        }
        player.next();
    }
    Ok(0)
}

/// Run the scene's commands to their end.
fn run(player: &mut Player, bar: &mut StoryProgressLine) {
    let mut asked = false;
    while *player.phase() == StoryPhase::Running {
        if Control::interrupted() && !asked {
            asked = true;
            player.stop();
        }
        if !player.poll() {
            std::thread::sleep(POLL);
        }
        bar.show(player);
    }
    bar.hide();
}

fn before(player: &Player, with_commands: bool) -> anyhow::Result<()> {
    let scenes = player.story().scenes.len();
    let number = if scenes > 1 { format!("{}/{scenes}  ", player.scene_number() + 1) } else { String::new() };
    line(&format!("\n{number}{}\n", player.scene().title.to_uppercase()))?;
    show(&player.text(), "")?;
    if let Some(question) = player.question() {
        line("\n  ? Before it runs, what do you think?\n")?;
        show(&crate::story::blocks(&question.ask), "    ")?;
        for (letter, choice) in ('a'..).zip(&question.choices) {
            let lines = wrapped(choice, WIDTH - 7);
            output::line(&format!("    {letter}) {}", lines.join("\n       ")))?;
        }
    }
    if let Some(seconds) = player.preparation() {
        let about = output::duration((seconds / 5.0).ceil() * 5.0);
        let text = format!(
            "Once, before this lesson: a model that several lessons share is trained. On two processor cores that takes about {about}; \
             it is kept."
        );
        line("")?;
        line(&text)?;
    }
    let words = || player.scene().steps.iter().flat_map(|step| &step.run);
    let is_used = |name: &str| words().any(|word| word.contains(&format!("{{{name}}}")));
    for (name, parameter) in player.story().parameters.iter().filter(|(name, _)| is_used(name)) {
        let choices = parameter.choices.join(", ");
        line(&format!("\n  {}: {} (--set {name}=...: {choices})", parameter.label, parameter.value))?;
    }
    if with_commands {
        line("")?;
        for step in &player.scene().steps {
            command(&player.command_line(step)?).iter().try_for_each(|part| output::line(part))?;
        }
    }
    Ok(())
}

/// The reader's choice, from 0, if the terminal is interactive.
fn guess(player: &Player) -> anyhow::Result<Option<usize>> {
    let choices = player.question().map_or(0, |q| q.choices.len());
    if choices == 0 || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Ok(None);
    }
    let last = ('a'..='z').nth(choices - 1).unwrap_or('z');
    line(&format!("\n  Your guess, a to {last} and Enter, or Enter alone:"))?;
    // Read in a thread, so that Ctrl-C is handled meanwhile.
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = std::io::stdin().read_line(&mut line).map(|_| send.send(line));
    });
    while !Control::interrupted() {
        match receive.recv_timeout(POLL) {
            Ok(line) => return Ok(('a'..='z').take(choices).position(|c| line.trim().eq_ignore_ascii_case(&c.to_string()))),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    Ok(None)
}

fn show_results(player: &Player, guess: Option<usize>) -> anyhow::Result<()> {
    for watch in &player.scene().watch {
        show_charts(player, watch)?;
    }
    let seen = player.results()?;
    if !seen.is_empty() {
        line("")?;
        show(&seen, "")?;
    }
    if let Some((head, rows)) = player.table()? {
        line("")?;
        table(&head, &rows).iter().try_for_each(|row| output::line(&format!("  {row}")))?;
    }
    let answer = player.answer()?;
    if !answer.is_empty() {
        line("\n  ! The answer\n")?;
        if let Some(checked) = guess.map(|guess| player.check_prediction(guess)).transpose()?.flatten() {
            wrapped(&checked.text, WIDTH - 4).iter().try_for_each(|part| line(&format!("    {part}")))?;
            line("")?;
        }
        show(&answer, "    ")?;
    }
    let closing = player.closing()?;
    if !closing.is_empty() {
        line("")?;
        show(&closing, "")?;
    }
    Ok(())
}

/// The charts of a scene, as far as a terminal can show them.
fn show_charts(player: &Player, watch: &WatchItem) -> anyhow::Result<()> {
    if let Some(picture) = &watch.picture {
        let (step, file) = picture.split_once('/').unwrap_or((picture, ""));
        let path = player.product(step).unwrap_or_default().join(file);
        return line(&format!("\n  picture: {}", crate::vfs::display_path(&path)));
    }
    let Some(chart) = watch.spec() else { return Ok(()) };
    line(&format!("\n  {} ({})", chart.title, chart.y))?;
    let own = player.scene().steps.iter().filter(|s| s.kind() == StepKind::Trainer && !s.shared).map(|s| s.name.as_str());
    let names: Vec<&str> = if watch.runs.is_empty() { own.collect() } else { watch.runs.iter().map(String::as_str).collect() };
    let mut curves = Vec::new();
    for name in &names {
        let Some(run) = player.run(name) else { continue };
        for metric in chart.of(&run.history) {
            if watch.metrics.is_empty() || watch.metrics.iter().any(|m| m == metric) {
                let whose = if names.len() > 1 { format!("{name}: ") } else { String::new() };
                curves.push((run, metric, whose + &chart_spec::label(metric)));
            }
        }
    }
    let widest = curves.iter().map(|(.., name)| name.chars().count()).max().unwrap_or(0);
    let columns = WIDTH.saturating_sub(widest + 2 * VALUE + 9).clamp(8, CHART);
    let of = |(run, metric, name)| Sparkline::of(run, metric, chart.log_y, columns, name);
    let lines: Vec<Sparkline> = curves.into_iter().filter_map(of).collect();
    // A common scale, so that they can be compared.
    let heights = || lines.iter().flat_map(|l| &l.heights).copied().filter(|v| v.is_finite());
    let (low, high) = (heights().fold(f64::INFINITY, f64::min), heights().fold(f64::NEG_INFINITY, f64::max));
    for l in &lines {
        output::line(&format!("    {:<widest$} {:>VALUE$}  {}  {}", l.name, l.first, l.drawn(low, high), l.last))?;
    }
    Ok(())
}

/// A sparkline.
struct Sparkline {
    name: String,
    first: String,
    last: String,
    heights: Vec<f64>,
}

impl Sparkline {
    fn of(run: &RunFiles, metric: &str, log: bool, columns: usize, name: String) -> Option<Self> {
        let values = run.history.curves.get(metric)?.values();
        let columns = columns.min(values.len());
        let mean = |i: usize| {
            let part = &values[i * values.len() / columns..(i + 1) * values.len() / columns];
            let mean = part.iter().sum::<f64>() / part.len() as f64;
            if log { mean.max(f64::MIN_POSITIVE).ln() } else { mean }
        };
        let heights = (0..columns).map(mean).collect();
        Some(Self { name, first: number(*values.first()?), last: number(*values.last()?), heights })
    }

    /// The bars, in eighths of a line.
    fn drawn(&self, low: f64, high: f64) -> String {
        const EIGHTHS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let height = |v: &f64| match v.is_finite() {
            true if high > low => EIGHTHS[(((v - low) / (high - low)) * 7.0).round() as usize],
            true => EIGHTHS[0],
            false => '?',
        };
        self.heights.iter().map(height).collect()
    }
}

/// About four digits.
fn number(v: f64) -> String {
    match v.abs() {
        0.0 => "0".into(),
        a if !(1e-3..1e5).contains(&a) => format!("{v:.1e}"),
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 1.0 => format!("{v:.2}"),
        _ => format!("{v:.4}"),
    }
}

/// A command line, continued on further lines by backslashes where it is long.
fn command(words: &str) -> Vec<String> {
    let parts = wrapped(words, WIDTH - 10);
    let last = parts.len() - 1;
    let part = |(i, part): (usize, &String)| {
        format!("{}{part}{}", if i == 0 { "    $ " } else { "        " }, if i < last { " \\" } else { "" })
    };
    parts.iter().enumerate().map(part).collect()
}

fn show(blocks: &[TextBlock], indent: &str) -> anyhow::Result<()> {
    for (i, block) in blocks.iter().enumerate() {
        if i > 0 {
            line("")?;
        }
        match block {
            TextBlock::Paragraph(words) => {
                let mut parts = words.lines().flat_map(|l| wrapped(l, WIDTH - indent.len()));
                parts.try_for_each(|part| line(&format!("{indent}{part}")))?;
            }
            TextBlock::Lines(lines) => {
                lines.iter().flat_map(|l| l.lines()).try_for_each(|part| line(&format!("{indent}    {part}")))?;
            }
        }
    }
    Ok(())
}

/// A table: the first column to the left, the others to the right if they are numbers. A head that makes it too wide is wrapped.
fn table(head: &[String], rows: &[Vec<String>]) -> Vec<String> {
    let is_number = |text: &String| text.trim_start_matches(['+', '−']).starts_with(|c: char| c.is_ascii_digit());
    let aligned = |most: usize| {
        let heads: Vec<Vec<String>> = head.iter().map(|text| wrapped(text, most)).collect();
        let tallest = heads.iter().map(Vec::len).max().unwrap_or(0);
        // A shorter head stands on the last of its lines.
        let cell =
            |parts: &Vec<String>, i: usize| (i + parts.len()).checked_sub(tallest).map_or(String::new(), |i| parts[i].clone());
        let above = (0..tallest).map(|i| heads.iter().map(|parts| cell(parts, i)).collect());
        let all: Vec<Vec<String>> = above.chain(rows.iter().cloned()).collect();
        output::aligned(&all, |c| rows.iter().all(|row| is_number(&row[c])))
    };
    let fits = |lines: &Vec<String>| lines.iter().all(|line| line.chars().count() + 2 <= WIDTH);
    [WIDTH, 20, 14].into_iter().map(aligned).find(fits).unwrap_or_else(|| aligned(10))
}

/// The current command, its progress, and the remaining story: one updating line on a terminal, else occasional lines.
struct StoryProgressLine {
    line: output::ProgressLine,
    doing: String,
}

impl StoryProgressLine {
    fn new() -> Self {
        Self { line: output::ProgressLine::with_interval(output::LONG_LINE_SECONDS), doing: String::new() }
    }

    fn show(&mut self, player: &Player) {
        let progress = player.progress();
        let Some(doing) = progress.doing else { return };
        if self.doing != doing {
            self.doing.clone_from(&doing);
            self.line.make_due();
        }
        self.line.show(|| {
            let left = progress.seconds_left.map_or("...".to_owned(), |s| output::duration((s / 5.0).ceil() * 5.0));
            format!("{doing}: {:.0} %; {left} left", 100.0 * progress.share)
        });
    }

    fn hide(&mut self) {
        if self.line.on_terminal() {
            self.line.end();
            self.line = output::ProgressLine::with_interval(output::LONG_LINE_SECONDS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right_aligned() {
        let words = |row: &[&str]| row.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let lines = table(&words(&["", "loss", "what"]), &[words(&["raw", "1.5", "x"]), words(&["merged", "11.5", "yy"])]);
        assert_eq!(lines, ["        loss  what", "raw      1.5  x", "merged  11.5  yy"]);
        assert_eq!([number(0.0), number(12.345), number(0.012345), number(1e-5)], ["0", "12.35", "0.0123", "1.0e-5"]);
    }
}

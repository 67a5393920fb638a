//! `lehr lesson`: short lessons, each with its own runs.

use super::story_output;
use crate::backend::Native;
use crate::cli::output;
use crate::config::{DeviceSettings, UsageError};
use crate::story::{Player, PlayerOptions, StoryLocation, is_complete, lesson, lesson_names, next_lesson};
use std::path::PathBuf;
use std::sync::Arc;

/// Flags of `lehr lesson`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name or number of a lesson, or your own .toml file; lists the lessons when absent.
    name: Option<String>,
    /// Run the lesson in the terminal instead of in the window.
    #[arg(long)]
    no_window: bool,
    /// Train again, in a new folder, what was trained before; otherwise its results are shown.
    #[arg(long)]
    again: bool,
    /// Also print the commands.
    #[arg(long)]
    commands: bool,
    /// NAME=VALUE of a parameter of the lesson; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Folder of the lessons' runs.
    #[arg(long, value_name = "DIR", default_value = "runs/lessons")]
    out: PathBuf,
    /// Random seed; the texts report the results of the runs, whatever they are.
    #[arg(long, default_value_t = 1337, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: u64,
    #[command(flatten)]
    device: DeviceSettings,
    /// List the lessons as JSON.
    #[arg(long, conflicts_with = "name")]
    json: bool,
}

/// List the lessons, or run one.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    let Some(name) = &args.name else { return list(args) };
    let mut story = lesson(name)?;
    for set in &args.set {
        let Some((name, value)) = set.split_once('=') else {
            anyhow::bail!(UsageError(format!("--set {}: write NAME=VALUE", crate::vfs::clean(set))))
        };
        story.set(name, value)?;
    }
    let options = PlayerOptions {
        place: if args.again { StoryLocation::In(args.out.clone()) } else { StoryLocation::Kept(args.out.clone()) },
        seed: args.seed,
        device: args.device.clone(),
        backend: Arc::new(Native::this_program()?),
    };
    #[cfg(feature = "app")]
    if !args.no_window && crate::app::has_display() {
        return crate::cli::app::play(crate::app::PlayStory { story, options, automatic: false });
    }
    output::line(&story.title)?;
    output::wrapped(&story.about, output::COLUMNS).iter().try_for_each(|line| output::line(line))?;
    let mut player = Player::open(story, options)?;
    if player.is_complete() {
        output::folded_line("This lesson was run before: its results are shown. --again trains once more.")?;
    }
    let code = story_output::play(&mut player, args.commands)?;
    if code == 0 {
        output::line("")?;
        output::folded_line(&format!("The runs are in {}.", crate::vfs::display_path(player.dir())))?;
        if let Some(next) = next_lesson(&args.out, &player.story().name)? {
            output::folded_line(&format!("Next: lehr lesson {} ({})", next.name, next.title))?;
        }
    }
    Ok(code)
}

/// Rounded to tenths; the sum of no numbers is 0, not -0.
fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0 + 0.0
}

fn list(args: &Args) -> anyhow::Result<i32> {
    let mut open = None;
    for (i, name) in lesson_names().enumerate() {
        let story = lesson(name)?;
        let done = is_complete(&args.out, &story);
        open = open.or((!done).then_some(name));
        if args.json {
            output::json_line(&serde_json::json!({
                "name": name, "title": story.title, "about": story.about, "seconds": tenths(story.seconds()),
                "preparation_seconds": tenths(story.preparation_seconds()), "done": done,
            }))?;
        } else {
            let (mark, seconds) = (if done { "done" } else { "" }, story.seconds());
            output::line(&format!("{:>2}  {name:<16} {seconds:>3.0} s {mark:<4}  {}", i + 1, story.title))?;
        }
    }
    if !args.json {
        let next = open.map_or(String::new(), |name| format!("; next: `lehr lesson {name}`"));
        output::note(&format!("seconds are those of two processor cores without a GPU{next}"));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::{StepKind, Story, StoryStep};

    /// The command line of a step, with the player's additions.
    fn accepted(story: &Story, step: &StoryStep) -> Result<clap::ArgMatches, clap::Error> {
        let mut words = vec!["lehr".to_owned()];
        let value = |word: &String| {
            let values = story.parameters.iter().map(|(name, p)| (format!("{{{name}}}"), p.value.clone()));
            let values = values.chain([("{seed}".to_owned(), "7".to_owned())]);
            values.fold(word.clone(), |word, (name, value)| word.replace(&name, &value)).replace(['{', '}'], "")
        };
        words.extend(step.run.iter().map(value));
        let more: &[&str] = match step.kind() {
            StepKind::Trainer => &["--run", "x", "--control", "--adapter", "0"],
            StepKind::Rows => &[],
            StepKind::Folder if step.run[0] == "merge" => &["--json", "--out", "x"],
            StepKind::Folder => &["--json", "--out", "x", "--adapter", "0"],
            StepKind::Json => &["--json", "--adapter", "0"],
        };
        words.extend(more.iter().map(|w| (*w).to_owned()));
        crate::cli::command().try_get_matches_from(words)
    }

    fn check(story: &Story) {
        for step in story.steps() {
            accepted(story, step).unwrap_or_else(|e| panic!("{}: step {}: {e}", story.name, step.name));
        }
        assert!(story.scenes.iter().any(|s| s.question.is_some()) || story.name == "demo", "{}: asks nothing", story.name);
        assert!(story.scenes.iter().any(|s| !s.watch.is_empty()) || story.name == "demo", "{}: nothing to look at", story.name);
        assert!(story.seconds() <= 20.0, "{}: {} seconds", story.name, story.seconds());
    }

    #[test]
    fn every_lesson_is_valid_and_its_command_lines_parse() {
        assert!(lesson_names().count() >= 2);
        for name in lesson_names() {
            check(&lesson(name).unwrap_or_else(|e| panic!("{e:#}")));
        }
    }
}

//! `lehr lesson`: short lessons, each with a run of its own.

use super::{output, telling};
use crate::config::DeviceSettings;
use crate::story::{Options, Player, Where, lesson, lesson_names};
use std::path::PathBuf;

/// Flags of `lehr lesson`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name or number of a lesson, or a file of one's own that ends in .toml; without it they are listed.
    name: Option<String>,
    /// Tell the lesson on the terminal instead of in the window.
    #[arg(long)]
    no_window: bool,
    /// Also show the commands that are run.
    #[arg(long)]
    commands: bool,
    /// Folder in which the lessons' runs are kept.
    #[arg(long, value_name = "DIR", default_value = "runs/lessons")]
    out: PathBuf,
    /// Seed of all that is random. The words were written for the default; other seeds tell what they find.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    #[command(flatten)]
    device: DeviceSettings,
    /// List the lessons as JSON.
    #[arg(long, conflicts_with = "name")]
    json: bool,
}

/// List the lessons, or tell one.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    let Some(name) = &args.name else { return list(args.json) };
    let story = lesson(name)?;
    let options = Options {
        place: Where::In(args.out.clone()),
        seed: args.seed,
        device: args.device.clone(),
        lehr: std::env::current_exe()?,
    };
    #[cfg(feature = "app")]
    if !args.no_window && crate::app::has_display() {
        return super::app::tell(crate::app::Told { story, options, by_itself: false });
    }
    output::line(&story.title)?;
    output::line(&story.about)?;
    let mut player = Player::open(story, options)?;
    let code = telling::tell(&mut player, args.commands)?;
    if code == 0 {
        output::line(&format!("\nThe runs are in {}.", crate::vfs::shown(player.dir())))?;
    }
    Ok(code)
}

fn list(json: bool) -> anyhow::Result<i32> {
    for (i, name) in lesson_names().enumerate() {
        let story = lesson(name)?;
        if json {
            output::json_line(&serde_json::json!({
                "name": name, "title": story.title, "about": story.about, "minutes": story.minutes(),
            }))?;
        } else {
            output::line(&format!("{:>2}  {name:<20}  {:>4.1} min  {}", i + 1, story.minutes(), story.title))?;
        }
    }
    if !json {
        output::note("`lehr lesson NAME` begins one; minutes are those of two processor cores without a GPU");
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::{Step, StepKind, Story};

    /// The command line of a step, with what the player adds.
    fn accepted(step: &Step) -> Result<clap::ArgMatches, clap::Error> {
        let mut words = vec!["lehr".to_owned()];
        words.extend(step.run.iter().map(|w| w.replace("{seed}", "7").replace(['{', '}'], "")));
        let more: &[&str] = match step.kind() {
            StepKind::Trainer => &["--run", "x", "--control", "--adapter", "0"],
            StepKind::Rows => &[],
            StepKind::Folder if step.run[0] == "merge" => &["--json", "--out", "x"],
            StepKind::Folder => &["--json", "--out", "x", "--adapter", "0"],
            StepKind::Json => &["--json", "--adapter", "0"],
        };
        words.extend(more.iter().map(|w| (*w).to_owned()));
        super::super::command().try_get_matches_from(words)
    }

    fn check(story: &Story) {
        for step in story.steps() {
            accepted(step).unwrap_or_else(|e| panic!("{}: step {}: {e}", story.name, step.name));
        }
        assert!(story.scenes.iter().any(|s| s.question.is_some()) || story.name == "demo", "{}: asks nothing", story.name);
        assert!(story.scenes.iter().any(|s| !s.watch.is_empty()) || story.name == "demo", "{}: nothing to look at", story.name);
        assert!(story.minutes() <= 3.0 || story.name == "demo", "{}: {} minutes", story.name, story.minutes());
    }

    #[test]
    fn every_lesson_is_sound_and_every_command_line_is_accepted() {
        assert!(lesson_names().count() >= 2);
        for name in lesson_names() {
            check(&lesson(name).unwrap_or_else(|e| panic!("{e:#}")));
        }
    }
}

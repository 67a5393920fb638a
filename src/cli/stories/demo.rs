//! `lehr demo`: all stages of a model on generated data, explained while they run.

use super::story_output;
use crate::backend::Native;
use crate::cli::output;
use crate::config::DeviceSettings;
use crate::report;
use crate::story::{Player, PlayerOptions, StepKind, StoryLocation, TextBlock, demo};
use crate::vfs::display_path;
use std::path::PathBuf;
use std::sync::Arc;
use web_time::Instant;

/// Flags of `lehr demo`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Output folder; runs/demo, or the next free number, when absent.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Random seed.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// Run every stage in seconds, too short for meaningful numbers.
    #[arg(long)]
    quick: bool,
    /// Run in the window.
    #[cfg(feature = "app")]
    #[arg(long)]
    window: bool,
    /// Also print the commands.
    #[arg(long)]
    commands: bool,
    #[command(flatten)]
    device: DeviceSettings,
}

/// Run the demo and write the report.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    let begin = Instant::now();
    let story = if args.quick { demo()?.quick() } else { demo()? };
    let options = PlayerOptions {
        place: args.out.clone().map_or(StoryLocation::In("runs".into()), StoryLocation::At),
        seed: args.seed,
        device: args.device.clone(),
        backend: Arc::new(Native::this_program()?),
    };
    #[cfg(feature = "app")]
    if args.window {
        return crate::cli::app::play(crate::app::PlayStory { story, options, automatic: true });
    }
    output::line(&story.title)?;
    output::wrapped(&story.about, output::COLUMNS).iter().try_for_each(|line| output::line(line))?;
    if args.quick {
        output::line("A trial run: the stages are too short for meaningful numbers.")?;
    }
    let mut player = Player::open(story, options)?;
    let code = story_output::play(&mut player, args.commands)?;
    if code != 0 {
        return Ok(code);
    }
    let trained = player.story().steps().filter(|s| s.kind() == StepKind::Trainer).map(|s| s.name.clone());
    let runs: Vec<PathBuf> = trained.filter_map(|name| player.product(&name)).collect();
    let page = player.dir().join("report.html");
    let options =
        report::ReportOptions { title: Some(player.story().title.clone()), findings: findings(&player)?, ..Default::default() };
    report::write(&runs, &page, &options)?;
    output::line(&format!("\nAll charts, texts and settings on one page: {}", display_path(&page)))?;
    output::line(&format!(
        "Everything is in {}; it took {}.",
        display_path(player.dir()),
        output::duration(begin.elapsed().as_secs_f64())
    ))?;
    Ok(0)
}

/// The story's final paragraphs, without those that only introduce commands to copy.
fn findings(player: &Player) -> anyhow::Result<Vec<String>> {
    let blocks = player.closing()?;
    let introduces = |at: usize| matches!(blocks.get(at + 1), Some(TextBlock::Lines(_)));
    let paragraph = |(at, block): (usize, &TextBlock)| match block {
        TextBlock::Paragraph(text) if !introduces(at) => Some(text.clone()),
        _ => None,
    };
    Ok(blocks.iter().enumerate().filter_map(paragraph).collect())
}

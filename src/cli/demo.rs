//! `lehr demo`: the whole life of a model on generated data, told while it happens.

use super::{output, story_output};
use crate::backend::Native;
use crate::config::DeviceSettings;
use crate::report;
use crate::story::{Block, Options, Player, StepKind, Where, demo};
use crate::vfs::shown;
use std::path::PathBuf;
use std::sync::Arc;
use web_time::Instant;

/// Flags of `lehr demo`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder of everything that is made; runs/demo, or the next free number, when absent.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of all that is random.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// A rehearsal in seconds: every stage, but so short that its numbers mean nothing.
    #[arg(long)]
    quick: bool,
    /// Show it live in the window.
    #[cfg(feature = "app")]
    #[arg(long)]
    window: bool,
    /// Also show the commands that are run.
    #[arg(long)]
    commands: bool,
    #[command(flatten)]
    device: DeviceSettings,
}

/// Tell the demo, write the report.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    let begin = Instant::now();
    let story = if args.quick { demo()?.quick() } else { demo()? };
    let options = Options {
        place: args.out.clone().map_or(Where::In("runs".into()), Where::At),
        seed: args.seed,
        device: args.device.clone(),
        backend: Arc::new(Native::this_program()?),
    };
    #[cfg(feature = "app")]
    if args.window {
        return super::app::play(crate::app::PlayStory { story, options, automatic: true });
    }
    output::line(&story.title)?;
    output::line(&story.about)?;
    if args.quick {
        output::line("A rehearsal: the stages are so short that the numbers mean nothing.")?;
    }
    let mut player = Player::open(story, options)?;
    let code = story_output::tell(&mut player, args.commands)?;
    if code != 0 {
        return Ok(code);
    }
    let trained = player.story().steps().filter(|s| s.kind() == StepKind::Trainer).map(|s| s.name.clone());
    let runs: Vec<PathBuf> = trained.filter_map(|name| player.product(&name)).collect();
    let page = player.dir().join("report.html");
    let options =
        report::Options { title: Some(player.story().title.clone()), findings: findings(&player)?, ..Default::default() };
    report::write(&runs, &page, &options)?;
    output::line(&format!("\nAll charts, texts and settings on one page: {}", shown(&page)))?;
    output::line(&format!(
        "Everything is in {}; it took {}.",
        shown(player.dir()),
        output::duration(begin.elapsed().as_secs_f64())
    ))?;
    Ok(0)
}

/// What the story says at its end: paragraphs, but for those that only introduce lines to be copied.
fn findings(player: &Player) -> anyhow::Result<Vec<String>> {
    let blocks = player.closing()?;
    let introduces = |at: usize| matches!(blocks.get(at + 1), Some(Block::Lines(_)));
    let paragraph = |(at, block): (usize, &Block)| match block {
        Block::Paragraph(text) if !introduces(at) => Some(text.clone()),
        _ => None,
    };
    Ok(blocks.iter().enumerate().filter_map(paragraph).collect())
}

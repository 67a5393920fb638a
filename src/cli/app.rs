//! `lehr app`, `lehr` by itself, and `--window` of the training commands.

use crate::app;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Flags of `lehr app`.
#[derive(clap::Args, Debug, Default)]
pub struct Args {
    /// Run folders, or folders of runs; the folder runs when absent.
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
}

/// Folder of new runs.
const HOME: &str = "runs";

/// Open the window on these runs.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    args.runs.iter().try_for_each(|path| super::open::folder_exists(path))?;
    app::check_display()?;
    app::open(app::Options { runs: args.runs.clone(), home: HOME.into(), ..app::Options::default() })?;
    Ok(0)
}

/// Open the window on a trainer that is started with this process's command line, without `--window`.
pub fn train_in_window(stage: &str, run: Option<&Path>, resume: Option<&Path>) -> anyhow::Result<i32> {
    app::check_display()?;
    let given: Vec<OsString> = std::env::args_os().skip(1).filter(|a| a != "--window").collect();
    let mut args: Vec<String> = given.into_iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let free = || (1..).map(|i| PathBuf::from(format!("{HOME}/{stage}-{i:03}"))).find(|p| !p.exists()).unwrap_or_default();
    let path = resume.or(run).map_or_else(free, Path::to_owned);
    if run.is_none() && resume.is_none() {
        args.extend(["--run".to_owned(), path.display().to_string()]);
    }
    args.retain(|a| a != "--control" && a != "--json");
    app::open(app::Options { start: Some((args, path)), home: HOME.into(), ..app::Options::default() })?;
    Ok(0)
}

/// Open the window with a story.
pub fn play(story: app::PlayStory) -> anyhow::Result<i32> {
    app::check_display()?;
    app::open(app::Options { story: Some(story), home: HOME.into(), ..app::Options::default() })?;
    Ok(0)
}

//! `lehr report`

use crate::cli::output;
use crate::number_format::counted;
use crate::report::{self, ReportOptions};
use crate::vfs::{display_path, human_bytes};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  A page about one run, for any browser, to mail or to print:
    lehr report runs/stories
  Three runs in the same charts, with pictures for a paper:
    lehr report runs/grpo runs/ar runs/lopti --title 'Three ways' -o three.html --png pictures
  All runs of a folder; the names of the written files as JSON:
    lehr report runs --json

A run may still be training: the page shows its current state.";

/// Flags of `lehr report`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Run folders, or folders of runs.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Output page; an existing report is replaced.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Also write each chart as a PNG file into this folder.
    #[arg(long, value_name = "DIR")]
    png: Option<PathBuf>,
    /// Title of the page; made from the runs' names when absent.
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Write the report.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    args.runs.iter().try_for_each(|path| crate::cli::open::folder_exists(path))?;
    let options = ReportOptions { title: args.title.clone(), png: args.png.clone(), ..ReportOptions::default() };
    let summary = report::write(&args.runs, &args.out, &options)?;
    summary.notes.iter().for_each(|note| output::note(&format!("note: {note}")));
    if args.json {
        output::json_line(&summary)?;
        return Ok(0);
    }
    output::line(&format!(
        "{}: {}, {}, {}",
        display_path(&summary.report),
        counted(summary.runs.len() as u64, "run"),
        counted(summary.charts.len() as u64, "chart"),
        human_bytes(summary.bytes)
    ))?;
    if let Some(dir) = &args.png {
        output::line(&format!("{}: {}", display_path(dir), counted(summary.pictures.len() as u64, "picture")))?;
    }
    Ok(0)
}

//! Floor 7: one HTML file that shows runs to people who have no lehr: no network, no fonts, nothing beside it.
//!
//! Charts are SVG text of ours ([`crate::plot`]) that is there without scripts and in print; `assets/report/report.js` draws them anew
//! with a cross-hair, zoom and axes to choose from the same numbers. Everything that comes out of a run is escaped.

mod picture;

pub use picture::{Pixels, pixels, png};

use crate::history::{RunFiles, find_runs};
use crate::vfs::shown;
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How to report.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The page's title; made from the runs' names when absent.
    pub title: Option<String>,
    /// Also write each chart as a PNG file into this folder.
    pub png: Option<PathBuf>,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The page.
    pub report: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Runs, by name.
    pub runs: Vec<String>,
    /// Charts, by title.
    pub charts: Vec<String>,
    /// Pictures.
    pub pictures: Vec<PathBuf>,
    /// What the user should know: a torn log, a run without events, pictures that were replaced.
    pub notes: Vec<String>,
}

/// Read runs (folders of runs count as all runs in them) and write a page about them.
///
/// # Errors
/// No run is found, a log cannot be read, `out` exists and is no report of lehr, or the disk refuses.
pub fn write(runs: &[PathBuf], out: &Path, _options: &Options) -> Result<Summary> {
    let runs = read(runs)?;
    std::fs::write(out, "<!doctype html>\n").with_context(|| format!("{}: cannot be written", shown(out)))?;
    Ok(Summary { report: out.to_owned(), runs: runs.iter().map(RunFiles::name).collect(), ..Summary::default() })
}

/// All runs that are named, each once, in the order in which they are named.
fn read(paths: &[PathBuf]) -> Result<Vec<RunFiles>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        anyhow::ensure!(path.is_dir(), "{}: there is no such folder", shown(path));
        let runs = find_runs(path);
        anyhow::ensure!(!runs.is_empty(), "{}: holds no run (a folder with config.toml or events.jsonl)", shown(path));
        found.extend(runs);
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|path| seen.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
    found.iter().map(|path| RunFiles::read(path)).collect()
}

//! Layer 7: a self-contained HTML report about runs, readable without lehr: no network, no fonts, no other files.
//!
//! Charts are SVG of [`crate::plot`], for use without scripts and with screen readers; `assets/report/report.js` redraws them from the
//! same numbers, with a cross-hair, zoom and selectable axes. All text from a run is escaped. The same files give the same page.

mod charts;
mod data;
mod findings;
mod html;
mod page;
mod picture;
mod run;
mod run_facts;
mod samples;
mod section;
mod tables;
mod tokens;
mod trace;

pub use picture::{Pixels, pixels, png};

use crate::vfs::display_path;
use crate::vfs::write_whole;
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Options of a report.
#[derive(Clone, Debug, Default)]
pub struct ReportOptions {
    /// The page's title; by default from the runs' stages and names.
    pub title: Option<String>,
    /// Sentences at the start of the findings.
    pub findings: Vec<String>,
    /// Folder for a PNG file of each chart.
    pub png: Option<PathBuf>,
}

/// Summary of the written files.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The page.
    pub report: PathBuf,
    /// Size of the page in bytes.
    pub bytes: u64,
    /// Names of the runs.
    pub runs: Vec<String>,
    /// Titles of the charts.
    pub charts: Vec<String>,
    /// Image files.
    pub pictures: Vec<PathBuf>,
    /// Notices: a truncated log, a run without events, replaced images.
    pub notes: Vec<String>,
}

/// Read runs (a folder of runs stands for all runs in it) and write a page about them.
///
/// # Errors
/// No run is found, a log cannot be read, `out` exists and is not a report of lehr, or a disk error.
pub fn write(runs: &[PathBuf], out: &Path, options: &ReportOptions) -> Result<Summary> {
    anyhow::ensure!(!runs.is_empty(), "a report needs at least one run");
    refuse_others(out)?;
    let runs = run::read(runs)?;
    let plots = charts::plots(&runs);
    let pictures = tokens::figures(&runs);
    let title = options.title.clone().unwrap_or_else(|| title(&runs));
    let page = page::page(&title, &options.findings, &runs, &plots, &pictures)?;
    write_whole(out, page.as_bytes())?;
    let mut summary = Summary {
        report: out.to_owned(),
        bytes: page.len() as u64,
        runs: runs.iter().map(|run| run.name.clone()).collect(),
        charts: plots.iter().map(|p| p.spec.title.to_owned()).collect(),
        notes: notes(&runs),
        ..Summary::default()
    };
    summary.charts.extend(pictures.iter().flat_map(|(_, named)| named).map(|p| p.title.clone()));
    if let Some(dir) = &options.png {
        let mut all: Vec<(String, String)> = plots.iter().map(|p| (p.id(), p.chart(&runs, true).svg())).collect();
        all.extend(pictures.iter().flat_map(|(_, named)| named).map(|p| (p.id.clone(), p.alone.svg())));
        draw(dir, &all, &mut summary)?;
    }
    Ok(summary)
}

/// Refuse to replace an existing file that is not a report of lehr.
fn refuse_others(out: &Path) -> Result<()> {
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(folder) = folder {
        anyhow::ensure!(
            folder.is_dir(),
            "{}: there is no such folder to write a report into; make it first",
            display_path(folder)
        );
    }
    anyhow::ensure!(
        !out.is_dir(),
        "{}: is a folder; name a file, such as {}",
        display_path(out),
        display_path(&out.join("report.html"))
    );
    if !out.exists() {
        return Ok(());
    }
    let mut head = vec![0; page::MARK.len()];
    let ours = std::fs::File::open(out).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head)).is_ok();
    anyhow::ensure!(
        ours && head == page::MARK.as_bytes(),
        "{}: exists and is not a report of lehr; choose another name, or remove it first",
        display_path(out)
    );
    Ok(())
}

/// Default title: stages and names of the runs.
fn title(runs: &[run::ReportRun]) -> String {
    let mut stages: Vec<String> = Vec::new();
    for run in runs {
        let stage = run_facts::stage(run.history().stage());
        if !stage.is_empty() && !stages.contains(&stage) {
            stages.push(stage);
        }
    }
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    let names = if names.len() > 4 { format!("{} runs", names.len()) } else { html::list(&names) };
    let done = html::capital(&html::list(&stages));
    if done.is_empty() { names } else { format!("{done}: {names}") }
}

fn notes(runs: &[run::ReportRun]) -> Vec<String> {
    let mut out = Vec::new();
    for run in runs {
        let name = crate::vfs::clean(&run.name);
        match run.history().bad_lines {
            0 => {}
            n => out.push(format!(
                "{name}: {} of its log cannot be read and {} left out",
                html::plural(n as u64, "line"),
                was_or_were(n)
            )),
        }
        if run.history().started.is_none() {
            out.push(format!("{name}: its log holds no start of a run"));
        }
        if run.files.settings.is_none() {
            out.push(format!("{name}: config.toml is missing or cannot be read; its settings are left out"));
        }
    }
    out
}

fn was_or_were(n: usize) -> &'static str {
    if n == 1 { "was" } else { "were" }
}

/// Write images with twice the pixels of the page's, for print and slides.
fn draw(dir: &Path, pictures: &[(String, String)], summary: &mut Summary) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("--png {}: cannot be made", display_path(dir)))?;
    let mut replaced = 0;
    for (name, svg) in pictures {
        let path = dir.join(format!("{name}.png"));
        let pixels = png(svg, 2.0).with_context(|| format!("{name}.png"))?;
        replaced += usize::from(path.exists());
        write_whole(&path, &pixels)?;
        summary.pictures.push(path);
    }
    if replaced > 0 {
        summary.notes.push(format!(
            "{}: {} of the same name replaced",
            display_path(dir),
            html::plural(replaced as u64, "picture")
        ));
    }
    Ok(())
}

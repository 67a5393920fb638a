//! Layer 9: the claims of papers as experiments: training arms on disk, comparisons, verdicts.
//!
//! `pma` is arXiv 2505.12082, `lopti` arXiv 2505.12929. They share storage ([`store`]) and execution of jobs ([`jobs`]), confidence
//! intervals ([`stats`]) and verdicts ([`verdict`]), and reporting ([`finding`], [`report`]).

pub mod finding;
pub mod jobs;
pub mod lopti;
pub mod pma;
pub mod report;
pub mod stats;
pub mod store;
pub mod verdict;

use crate::config::{DeviceSettings, UsageError};
use crate::world::World;
use report::Report;
use std::path::PathBuf;

/// A paper whose claims are reproduced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paper {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its display name.
    pub title: &'static str,
    /// Its address.
    pub source: &'static str,
    /// Its claims, in order.
    pub claims: &'static [&'static str],
}

/// All papers.
pub const PAPERS: [&Paper; 2] = [&pma::PAPER, &lopti::PAPER];

/// Options of a reproduction.
#[derive(Clone, Debug)]
pub struct ReproduceOptions {
    /// Claims to test; all if empty.
    pub claims: Vec<String>,
    /// Name of a scale.
    pub scale: String,
    /// Number of seeds.
    pub seeds: u64,
    /// The first seed.
    pub first_seed: u64,
    /// Base corpus of pma; the included stories if absent.
    pub data: Option<PathBuf>,
    /// Folder for results.
    pub out: PathBuf,
    /// Folder for arms and evaluations.
    pub work: PathBuf,
    /// Only train the arms that are known in advance.
    pub arms_only: bool,
    /// Adapter by name or index.
    pub device: DeviceSettings,
    /// The command line, for the report.
    pub command: String,
    /// The source commit, if known.
    pub commit: Option<String>,
    /// Speed for estimates of time.
    pub flops_per_second: f64,
}

/// The claims with these names.
///
/// # Errors
/// An unknown name; the message lists the valid ones.
pub fn chosen(paper: &Paper, names: &[String]) -> anyhow::Result<Vec<&'static str>> {
    let mut asked = Vec::new();
    for name in names {
        let known = paper.claims.iter().find(|c| c.eq_ignore_ascii_case(name));
        match known {
            Some(claim) => asked.push(*claim),
            None => {
                let text = format!("{}: no such claim; choose some of {}", crate::vfs::clean(name), paper.claims.join(", "));
                anyhow::bail!(UsageError(text))
            }
        }
    }
    Ok(paper.claims.iter().filter(|c| asked.is_empty() || asked.contains(c)).copied().collect())
}

/// The seeds of the paired arms.
pub fn seeds(options: &ReproduceOptions) -> Vec<u64> {
    (0..options.seeds).map(|i| options.first_seed + i).collect()
}

/// The selected adapter and its driver.
fn device(device: &DeviceSettings) -> anyhow::Result<String> {
    let device = crate::device::Device::open(device)?;
    let s = device.summary();
    Ok(format!("{} ({}, {})", s.name, s.backend, s.driver))
}

/// Description of a run: (lines for display, the same as JSON).
pub type PlannedArms = (Vec<String>, serde_json::Value);

/// Refuse invalid options before any work.
///
/// # Errors
/// An unknown claim or scale.
pub fn check(paper: &str, options: &ReproduceOptions) -> anyhow::Result<()> {
    if paper == lopti::PAPER.name { lopti::arms(options).map(drop) } else { pma::arms(options).map(drop) }
}

/// Describe a run without starting it.
///
/// # Errors
/// An unknown paper, claim or scale.
pub fn dry_run(paper: &str, options: &ReproduceOptions) -> anyhow::Result<PlannedArms> {
    if paper == lopti::PAPER.name { lopti::dry_run(options) } else { pma::dry_run(options) }
}

/// Train and compare. Several ranks share the arms that are known in advance; rank 0 compares. `None` with [`ReproduceOptions::arms_only`], and on
/// ranks other than 0.
///
/// # Errors
/// Invalid settings, a device error, a full disk, a lost rank, or [`crate::progress::Interrupted`].
pub fn run(paper: &str, options: &ReproduceOptions, world: &World, notify: &dyn Fn(&str)) -> anyhow::Result<Option<Report>> {
    if paper == lopti::PAPER.name { lopti::run(options, world, notify) } else { pma::run(options, world, notify) }
}

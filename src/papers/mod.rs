//! Layer 9: the claims of papers as experiments: arms of training on disk, comparisons, verdicts.
//!
//! `pma` is arXiv 2505.12082, `lopti` arXiv 2505.12929. They share how work is kept ([`store`]) and done ([`pace`]), how numbers get their
//! intervals ([`stats`]) and a verdict ([`verdict`]), and how all of it is told ([`finding`], [`report`]).

pub mod attempts;
pub mod finding;
pub mod lopti;
pub mod pma;
pub mod report;
pub mod stats;
pub mod store;
pub mod verdict;

use crate::config::DeviceSettings;
use report::Report;
use std::path::PathBuf;

/// A paper whose claims are experiments here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paper {
    /// As typed.
    pub name: &'static str,
    /// What pages call it.
    pub title: &'static str,
    /// Where it is found.
    pub source: &'static str,
    /// Its claims, in order.
    pub claims: &'static [&'static str],
}

/// All papers.
pub const PAPERS: [&Paper; 2] = [&pma::PAPER, &lopti::PAPER];

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Some of the paper's claims; none: all.
    pub claims: Vec<String>,
    /// Name of a scale.
    pub scale: String,
    /// Number of seeds.
    pub seeds: u64,
    /// The first of them.
    pub first_seed: u64,
    /// Base corpus of pma; the stories that ship when absent.
    pub data: Option<PathBuf>,
    /// Folder of the results.
    pub out: PathBuf,
    /// Folder of arms and evaluations.
    pub work: PathBuf,
    /// Train the arms that can be told beforehand, and stop.
    pub arms_only: bool,
    /// Adapter by name or index.
    pub device: DeviceSettings,
    /// The command line, for the report.
    pub command: String,
    /// The commit of the source, where it is known.
    pub commit: Option<String>,
    /// Speed that times are estimated by.
    pub flops_per_second: f64,
}

/// The claims that these names stand for.
///
/// # Errors
/// A name that is none; the message lists them.
pub fn chosen(paper: &Paper, names: &[String]) -> anyhow::Result<Vec<&'static str>> {
    let mut asked = Vec::new();
    for name in names {
        let known = paper.claims.iter().find(|c| c.eq_ignore_ascii_case(name));
        match known {
            Some(claim) => asked.push(*claim),
            None => anyhow::bail!("{}: no such claim; choose some of {}", crate::vfs::clean(name), paper.claims.join(", ")),
        }
    }
    Ok(paper.claims.iter().filter(|c| asked.is_empty() || asked.contains(c)).copied().collect())
}

/// The seeds of the paired arms.
pub fn seeds(options: &Options) -> Vec<u64> {
    (0..options.seeds).map(|i| options.first_seed + i).collect()
}

/// The adapter that would be used, and its driver.
fn device(device: &DeviceSettings) -> anyhow::Result<String> {
    let device = crate::device::Device::open(device)?;
    let s = device.summary();
    Ok(format!("{} ({}, {})", s.name, s.backend, s.driver))
}

/// What a run would do: (lines for people, the same for machines).
pub type Plan = (Vec<String>, serde_json::Value);

/// Refuse before any work what cannot be done.
///
/// # Errors
/// An unknown claim or scale.
pub fn check(paper: &str, options: &Options) -> anyhow::Result<()> {
    if paper == lopti::PAPER.name { lopti::arms(options).map(drop) } else { pma::arms(options).map(drop) }
}

/// What a run would do.
///
/// # Errors
/// An unknown paper, claim or scale.
pub fn dry_run(paper: &str, options: &Options) -> anyhow::Result<Plan> {
    if paper == lopti::PAPER.name { lopti::dry_run(options) } else { pma::dry_run(options) }
}

/// Train and compare. `None` with [`Options::arms_only`].
///
/// # Errors
/// Settings that cannot work, a device fault, a full disk, or [`attempts::Interrupted`].
pub fn run(paper: &str, options: &Options, tell: &dyn Fn(&str)) -> anyhow::Result<Option<Report>> {
    if paper == lopti::PAPER.name { lopti::run(options, tell) } else { pma::run(options, tell) }
}

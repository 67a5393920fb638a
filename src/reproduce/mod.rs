//! Floor 5.5: the claims of papers as experiments: arms of training in a bank on disk, comparisons, verdicts.
//!
//! `pma` is arXiv 2505.12082. An arm ([`arm`]) is a stretch of training; its key is a hash of all its settings; the bank keeps what was
//! trained and evaluated, so that the analysis may be run again at will and several processes may share the work.

pub mod arm;
pub mod bank;
pub mod context;
pub mod plan;
pub mod scale;
pub mod task;
pub mod texts;
pub mod trajectory;

use arm::Arm;
use bank::Bank;
use context::Context;
use plan::Plan;
use scale::Scale;
use std::path::PathBuf;
use texts::Texts;

/// The claims, in order.
pub const CLAIMS: [&str; 12] = ["P1", "P2", "P3", "P4", "P5", "P6", "P5/6+", "P7", "P8", "P9", "P10", "P11"];

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Some of [`CLAIMS`]; none: all.
    pub claims: Vec<String>,
    /// Name of a scale.
    pub scale: String,
    /// Number of seeds.
    pub seeds: u64,
    /// The first of them.
    pub first_seed: u64,
    /// Base corpus; the stories that ship when absent.
    pub data: Option<PathBuf>,
    /// Folder of the results.
    pub out: PathBuf,
    /// Folder of arms and evaluations.
    pub work: PathBuf,
    /// Train the arms that can be told beforehand, and stop.
    pub arms_only: bool,
    /// Adapter by name or index.
    pub adapter: Option<String>,
}

/// The claims that these names stand for.
///
/// # Errors
/// A name that is none; the message lists them.
pub fn claims(names: &[String]) -> anyhow::Result<Vec<&'static str>> {
    let mut asked = Vec::new();
    for name in names {
        let known = CLAIMS.iter().find(|c| c.eq_ignore_ascii_case(name));
        match known {
            Some(claim) => asked.push(*claim),
            None => anyhow::bail!("{}: no such claim; choose some of {}", crate::vfs::clean(name), CLAIMS.join(", ")),
        }
    }
    Ok(CLAIMS.iter().filter(|c| asked.is_empty() || asked.contains(c)).copied().collect())
}

/// The seeds of the paired arms.
pub fn seeds(options: &Options) -> Vec<u64> {
    (0..options.seeds).map(|i| options.first_seed + i).collect()
}

/// The arms that can be told beforehand.
///
/// # Errors
/// An unknown claim or scale.
pub fn arms(options: &Options) -> anyhow::Result<Vec<Arm>> {
    let scale = Scale::named(&options.scale)?;
    Plan { scale: &scale }.all(&claims(&options.claims)?, &seeds(options))
}

/// Train and compare.
///
/// # Errors
/// Settings that cannot work, a device fault, a full disk, or [`context::Interrupted`].
pub fn run(options: &Options, tell: &dyn Fn(&str)) -> anyhow::Result<()> {
    let scale = Scale::named(&options.scale)?;
    let arms = arms(options)?;
    let texts = Texts::open(options.data.as_deref())?;
    let bank = Bank::open(&options.work, &texts.digest)?;
    let context = Context {
        scale: &scale,
        seeds: seeds(options),
        texts,
        bank,
        adapter: options.adapter.clone(),
        tell: Box::new(tell),
    };
    context.ensure(&arms)
}

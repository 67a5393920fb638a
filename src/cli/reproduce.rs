//! `lehr reproduce`: the claims of a paper as experiments.

use super::output;
use crate::reproduce::{self, Options, context::Interrupted};
use crate::session::control::{Control, INTERRUPTED};
use std::path::PathBuf;

/// Flags of `lehr reproduce`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The paper: pma (arXiv 2505.12082).
    #[arg(value_parser = ["pma"])]
    paper: String,
    /// Claims, such as P1 P4; all when none is named.
    claims: Vec<String>,
    /// Models and tokens: tiny (an hour on two cores), small or gpu.
    #[arg(long, default_value = "tiny")]
    scale: String,
    /// Seeds, each with weights and a data order of its own, shared by the arms that are compared.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// The first seed; the others follow.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Text to train on; the stories that ship when absent.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Folder of the results; reproduce-pma-SCALE when absent.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder of trained arms and evaluations, to go on from; runs/reproduce-pma-SCALE when absent.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Print what would be trained, and stop.
    #[arg(long)]
    dry_run: bool,
    /// Train, and leave the comparison to another process that shares --work.
    #[arg(long)]
    arms_only: bool,
    /// Print the results as one JSON object.
    #[arg(long)]
    json: bool,
    /// Adapter by index or by part of its name.
    #[arg(long)]
    adapter: Option<String>,
}

/// Reproduce.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    anyhow::ensure!((1..=1000).contains(&args.seeds), "--seeds {}: must lie between 1 and 1000", args.seeds);
    let options = Options {
        claims: args.claims.clone(),
        scale: args.scale.clone(),
        seeds: args.seeds,
        first_seed: args.first_seed,
        data: args.data.clone(),
        out: args.out.clone().unwrap_or_else(|| PathBuf::from(format!("reproduce-pma-{}", args.scale))),
        work: args.work.clone().unwrap_or_else(|| PathBuf::from(format!("runs/reproduce-pma-{}", args.scale))),
        arms_only: args.arms_only,
        adapter: args.adapter.clone(),
    };
    // Refused before any work: an unknown claim or scale.
    reproduce::arms(&options)?;
    Control::listen(false)?;
    match reproduce::run(&options, &output::note) {
        Err(error) if error.downcast_ref::<Interrupted>().is_some() => {
            output::note(&format!("{error}"));
            Ok(INTERRUPTED)
        }
        done => done.map(|()| 0),
    }
}

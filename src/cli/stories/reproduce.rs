//! `lehr reproduce`: the claims of a paper as experiments.

use crate::cli::{open, output};
use crate::config::DeviceSettings;
use crate::papers::report::Report;
use crate::papers::{self, ReproduceOptions};
use crate::progress::Interrupted;
use crate::session::control::{Control, INTERRUPTED};
use crate::world::World;
use std::path::PathBuf;

/// Flags of `lehr reproduce`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Paper: pma (arXiv 2505.12082) or lopti (arXiv 2505.12929).
    #[arg(value_parser = papers::PAPERS.map(|p| p.name))]
    paper: String,
    /// Claims, such as P1 P4 or L2 L5; all when absent.
    claims: Vec<String>,
    /// Scale of models and data: tiny (an hour or two on two cores), small or gpu.
    #[arg(long, default_value = "tiny")]
    scale: String,
    /// Number of seeds, each with its own weights and data order, shared by the arms that are compared.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// The first seed; the others follow.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// pma: training text; the built-in stories when absent.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Output folder; reproduce-PAPER-SCALE when absent.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder of trained arms and evaluations, from which the work continues; runs/reproduce-PAPER-SCALE when absent.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Print what would be trained, and exit.
    #[arg(long)]
    dry_run: bool,
    /// Only train; another process with the same --work compares.
    #[arg(long)]
    arms_only: bool,
    /// Print the results as one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceSettings,
}

/// Run the experiments.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    if args.dry_run {
        return dry_run(args, &options(args, &World::solo())?);
    }
    let world = World::open()?;
    let options = world.check_all(options(args, &world))?;
    let o = &options;
    let flags = (&args.paper, &o.claims, &o.scale, o.seeds, o.first_seed, &o.data, &o.out, &o.work, o.arms_only);
    world.ensure_equal(&[("flags", format!("{flags:?}"))])?;
    Control::listen(None)?;
    world.watch_signals(Control::interrupted, Control::interrupt);
    // The other ranks wait until rank 0 has written the results.
    let result = papers::run(&args.paper, &options, &world, &|text| note(&world, text));
    match result.and_then(|report| world.wait_for_all().map(|()| report)) {
        Ok(report) => {
            world.finish();
            report.map_or(Ok(()), |report| print(args, &options, &report))?;
            Ok(0)
        }
        Err(error) if error.downcast_ref::<Interrupted>().is_some() => {
            note(&world, "interrupted; the same command continues from here");
            Ok(INTERRUPTED)
        }
        Err(error) => Err(error),
    }
}

/// A line of progress, with the rank if there are several.
fn note(world: &World, text: &str) {
    match world.is_solo() {
        true => output::note(text),
        false => output::note(&format!("{}: {text}", world.name(world.rank()))),
    }
}

/// The options of valid flags.
fn options(args: &Args, world: &World) -> anyhow::Result<ReproduceOptions> {
    args.data.iter().try_for_each(|path| open::data_exists("--data", path))?;
    anyhow::ensure!((1..=1000).contains(&args.seeds), "--seeds {}: must lie between 1 and 1000", args.seeds);
    let options = ReproduceOptions {
        claims: args.claims.clone(),
        scale: args.scale.clone(),
        seeds: args.seeds,
        first_seed: args.first_seed,
        data: args.data.clone(),
        out: args.out.clone().unwrap_or_else(|| PathBuf::from(format!("reproduce-{}-{}", args.paper, args.scale))),
        work: args.work.clone().unwrap_or_else(|| PathBuf::from(format!("runs/reproduce-{}-{}", args.paper, args.scale))),
        arms_only: args.arms_only,
        device: world.device(&args.device)?,
        command: command(),
        commit: std::env::var("LEHR_COMMIT").ok(),
        flops_per_second: if args.scale == "gpu" { GPU_RATE } else { CPU_RATE },
    };
    // Unknown claims or scales are rejected before any work.
    papers::check(&args.paper, &options)?;
    Ok(options)
}

fn dry_run(args: &Args, options: &ReproduceOptions) -> anyhow::Result<i32> {
    let (lines, json) = papers::dry_run(&args.paper, options)?;
    if args.json {
        output::json_line(&json)?;
    } else {
        lines.iter().try_for_each(|l| output::line(l))?;
    }
    Ok(0)
}

fn print(args: &Args, options: &ReproduceOptions, report: &Report) -> anyhow::Result<()> {
    if args.json {
        return output::json_line(report);
    }
    report.lines().iter().try_for_each(|l| output::line(l))?;
    output::line(&format!("tables and pictures: {}", options.out.join("README.md").display()))
}

/// Typical FLOP/s of small models on two cores, and on a GPU: for estimates before measurements.
const CPU_RATE: f64 = 1e10;
const GPU_RATE: f64 = 3e12;

/// The command line as typed, without its folders.
fn command() -> String {
    let mut words = vec!["lehr".to_string()];
    let mut arguments = std::env::args().skip(1);
    while let Some(word) = arguments.next() {
        if word == "--work" || word == "--out" {
            arguments.next();
        } else if !word.starts_with("--work=") && !word.starts_with("--out=") {
            words.push(crate::vfs::clean(&word));
        }
    }
    words.join(" ")
}

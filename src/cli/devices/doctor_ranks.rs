//! `lehr doctor` under a launcher: ranks, hosts, devices, kernel checks, and all-reduce rates.

use super::doctor::{Args, selected_checks, worst};
use crate::cli::output;
use crate::device::Device;
use crate::train::ALL_REDUCE_CHUNK;
use crate::world::World;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use web_time::Instant;

/// Elements of the measured all-reduces.
const SIZES: [usize; 4] = [1_000, 100_000, 1_000_000, 10_000_000];
/// Seconds of measurement per size.
const SECONDS: f64 = 1.0;

/// Report of a rank.
#[derive(Serialize, Deserialize)]
struct Rank {
    device: String,
    limits: String,
    local_rank: usize,
    /// Failed kernels, with the reason.
    wrong: Vec<(String, String)>,
}

/// Check kernels and measure all-reduces; rank 0 prints.
pub(super) fn run(args: &Args, world: &World) -> Result<i32> {
    let device = world.check_all(world.device(&args.device).and_then(|own| Device::open(&own)))?;
    let errors = selected_checks(args).map(|check| (check.name.to_owned(), worst(&check, args.seeds, &device)));
    let wrong = errors.filter(|(_, (error, _))| error.is_nan() || *error > 1.0).map(|(name, (_, detail))| (name, detail));
    let own = Rank {
        device: device.summary().title(),
        limits: device.limits(),
        local_rank: world.local_rank(),
        wrong: wrong.collect(),
    };
    let ranks = world.all_gather_values(&own)?;
    let rates = SIZES.iter().map(|len| seconds(world, *len)).collect::<Result<Vec<_>>>()?;
    world.finish();
    let failed: usize = ranks.iter().map(|rank| rank.wrong.len()).sum();
    if world.is_root() {
        for (i, rank) in ranks.iter().enumerate() {
            print_rank(args, world, i, rank)?;
        }
        for (len, seconds) in SIZES.into_iter().zip(rates) {
            print_rate(args, world, len, seconds)?;
        }
        if !args.json {
            let kernels = selected_checks(args).count();
            let verdict = if failed == 0 { "pass on every rank" } else { "checked, SOME FAILED" };
            output::line(&format!("\n{kernels} kernels {verdict}"))?;
        }
    }
    Ok(i32::from(failed > 0))
}

/// The shortest time of an all-reduce of `len` elements, whose sums are checked.
fn seconds(world: &World, len: usize) -> Result<f64> {
    let (mut best, mut spent, mut rounds) = (f64::INFINITY, 0.0, 0);
    // Small integers, so that sums are exact.
    let value = |rank: usize, i: usize| (i % 1000 + rank) as f32;
    let sum = |i: usize| (0..world.size()).map(|rank| value(rank, i)).sum::<f32>();
    // The mean time, so that every rank stops after the same round.
    while spent < SECONDS && rounds < 30 {
        let starts = (0..len).step_by(ALL_REDUCE_CHUNK);
        let chunks: Vec<Vec<f32>> =
            starts.map(|start| (start..len.min(start + ALL_REDUCE_CHUNK)).map(|i| value(world.rank(), i)).collect()).collect();
        world.barrier()?;
        let begin = Instant::now();
        let in_flight: Vec<_> = chunks.into_iter().map(|values| world.all_reduce(values)).collect();
        let sums = in_flight.into_iter().map(crate::world::Pending::wait).collect::<Result<Vec<_>>>()?;
        let own = begin.elapsed().as_secs_f64();
        best = best.min(own);
        let wrong = sums.iter().flatten().enumerate().find(|(i, got)| **got != sum(*i));
        if let Some((i, got)) = wrong {
            bail!(
                "all-reduce of {len} elements: element {i} is {got}, not {}: a fault of the MPI library or the network",
                sum(i)
            );
        }
        let mut took = [own];
        world.all_reduce_f64(&mut took)?;
        spent += took[0] / world.size() as f64;
        rounds += 1;
    }
    Ok(best)
}

fn print_rank(args: &Args, world: &World, i: usize, rank: &Rank) -> Result<()> {
    if args.json {
        return output::json_line(&serde_json::json!({
            "rank": i, "place": world.name(i), "local_rank": rank.local_rank, "device": rank.device, "limits": rank.limits,
            "wrong_kernels": rank.wrong, "library": world.library(),
        }));
    }
    if i == 0 {
        output::line(&format!("{} ranks ({})", world.size(), world.library()))?;
    }
    output::line(&format!("  {}: {}; {}", world.name(i), rank.device, rank.limits))?;
    rank.wrong.iter().try_for_each(|(name, detail)| output::line(&format!("    {name}: FAILED: {detail}")))
}

fn print_rate(args: &Args, world: &World, len: usize, seconds: f64) -> Result<()> {
    let gigabytes = 4.0 * len as f64 / seconds / 1e9;
    if args.json {
        return output::json_line(&serde_json::json!({
            "all_reduce": len, "ranks": world.size(), "seconds": seconds, "gigabytes_per_second": gigabytes,
        }));
    }
    output::line(&format!("  all-reduce of {len:>10} gradients: {:>8.3} ms, {gigabytes:.2} GB/s", 1e3 * seconds))
}

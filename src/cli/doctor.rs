//! `lehr doctor`: what is there, and does it compute what it should.

use super::{doctor_ranks, output};
use crate::config::DeviceSettings;
use crate::device::{AdapterSummary, Device, adapters};
use crate::ops::check::{Case, Check};
use crate::ops::{checks, self_test};
use crate::world::World;
use web_time::Instant;

/// Flags of `lehr doctor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Random shapes per kernel.
    #[arg(long, default_value_t = 4)]
    pub(super) seeds: u64,
    /// Only kernels whose name holds this.
    #[arg(long)]
    only: Option<String>,
    /// Print JSON lines.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) device: DeviceSettings,
}

/// List and check.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    // A check of nothing would be passed.
    anyhow::ensure!(args.seeds > 0, "--seeds 0: must be at least 1");
    if let Some(only) = &args.only {
        let names: Vec<_> = checks().iter().map(|check| check.name).collect();
        anyhow::ensure!(
            names.iter().any(|name| name.contains(only.as_str())),
            "--only {only}: no kernel's name holds this; there are: {}",
            names.join(", ")
        );
    }
    let world = World::open()?;
    if !world.is_solo() {
        return doctor_ranks::run(args, &world);
    }
    let list = adapters();
    let device = Device::open(&args.device)?;
    // By name: the CPU is opened by its name without making the list.
    let used = device.summary();
    let is_used = |a: &AdapterSummary| (&a.name, &a.backend) == (&used.name, &used.backend);
    for a in &list {
        let class = a.kind.name();
        if args.json {
            output::json_line(&serde_json::json!({
                "adapter": a.name, "index": a.index, "backend": a.backend, "driver": a.driver, "class": class, "used": is_used(a),
            }))?;
        } else {
            let mark = if is_used(a) { "*" } else { " " };
            output::line(&format!("{mark} {} {} ({}, {class}; {})", a.index, a.name, a.backend, a.driver))?;
        }
    }
    if !args.json {
        output::line(&format!("  {}", device.limits()))?;
    }
    if let Some(text) = self_test::long_loops(&device)? {
        output::note(&format!("note: {text}"));
    }
    let failed = check_kernels(args, &device)?;
    if !args.json {
        let verdict = if failed == 0 { "every kernel computes what it should on this device" } else { "SOME KERNELS ARE WRONG" };
        output::line(&format!("\n{verdict}"))?;
    }
    Ok(i32::from(failed > 0))
}

/// The checks that were asked for.
pub(super) fn wanted(args: &Args) -> impl Iterator<Item = Check> + '_ {
    checks().into_iter().filter(|check| args.only.as_ref().is_none_or(|only| check.name.contains(only.as_str())))
}

/// The greatest error of a kernel over random shapes, as a share of what is allowed, and where.
pub(super) fn worst(check: &Check, seeds: u64, device: &Device) -> (f64, String) {
    let (mut worst, mut detail) = (0.0f64, String::new());
    for seed in 0..seeds {
        let mut case = Case::new(check.name, seed);
        let result = (check.run)(device, &mut case);
        if let Err(error) = result {
            (worst, detail) = (f64::INFINITY, format!("{} ({error:#})", case.shape));
        } else if case.worst > worst || case.worst.is_nan() {
            (worst, detail) = (case.worst, format!("{} ({})", case.detail, case.shape));
        }
    }
    (worst, detail)
}

/// Print a line a kernel; returns how many failed.
fn check_kernels(args: &Args, device: &Device) -> anyhow::Result<usize> {
    let mut failed = 0;
    if !args.json {
        output::line(&format!("\n{:<44} {:>10}  {:>9}  result", "kernel (against its f64 twin)", "error", "time"))?;
    }
    for check in wanted(args) {
        let begin = Instant::now();
        let (worst, detail) = worst(&check, args.seeds, device);
        let passed = worst <= 1.0;
        failed += usize::from(!passed);
        let seconds = begin.elapsed().as_secs_f64();
        if args.json {
            output::json_line(&serde_json::json!({
                "kernel": check.name, "passed": passed, "error_over_allowed": if worst.is_finite() { Some(worst) } else { None },
                "seconds": seconds, "detail": detail,
            }))?;
        } else {
            let verdict = if passed { "ok".to_string() } else { format!("WRONG: {detail}") };
            output::line(&format!("{:<44} {:>8.1} %  {:>7.0} ms  {verdict}", check.name, 100.0 * worst, 1e3 * seconds))?;
        }
    }
    Ok(failed)
}

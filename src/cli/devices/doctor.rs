//! `lehr doctor`: list devices, and check every kernel.

use super::doctor_ranks;
use crate::cli::output;
use crate::config::DeviceSettings;
use crate::device::{AdapterSummary, Device, MatmulPrecision, Vendor, adapters};
use crate::ops::check::{Case, Check};
use crate::ops::{checks, float16_checks, self_test, sources};
use crate::world::World;
use anyhow::Context as _;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use web_time::Instant;

/// Flags of `lehr doctor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Random shapes per kernel.
    #[arg(long, default_value_t = 4)]
    pub(super) seeds: u64,
    /// Only kernels whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Print JSON lines.
    #[arg(long)]
    pub(super) json: bool,
    /// Write all WGSL texts that a GPU may get into this folder, with a list per vendor, and exit.
    #[arg(long, hide = true, value_name = "FOLDER")]
    write_shaders: Option<PathBuf>,
    #[command(flatten)]
    pub(super) device: DeviceSettings,
}

/// List devices and check kernels.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    // With no seeds nothing would be checked.
    anyhow::ensure!(args.seeds > 0, "--seeds 0: must be at least 1");
    if let Some(folder) = &args.write_shaders {
        write_shaders(folder)?;
        return Ok(0);
    }
    if let Some(only) = &args.only {
        let names: Vec<_> = all_checks(args).iter().map(|check| check.name).collect();
        if !names.iter().any(|name| name.contains(only.as_str())) {
            // Several checks of one kernel differ in what follows in brackets.
            let mut kernels: Vec<_> = names.iter().map(|name| name.split(" (").next().unwrap_or(name)).collect();
            kernels.sort_unstable();
            kernels.dedup();
            anyhow::bail!("--only {only}: no kernel has this in its name; there are: {}", kernels.join(", "));
        }
    }
    let world = World::open()?;
    if !world.is_solo() {
        return doctor_ranks::run(args, &world);
    }
    let list = adapters();
    let device = Device::open(&args.device)?;
    // By name: the CPU is opened by name without listing devices.
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
            output::folded_line(&format!("{mark} {} {} ({}, {class}; {})", a.index, a.name, a.backend, a.driver))?;
        }
    }
    if !args.json {
        output::folded_line(&format!("  {}", device.limits()))?;
    }
    if let Some(text) = self_test::long_loops(&device)? {
        output::note(&format!("note: {text}"));
    }
    let failed = check_kernels(args, &device)?;
    if !args.json {
        let verdict = if failed == 0 { "every kernel matches its reference on this device" } else { "SOME KERNELS ARE WRONG" };
        output::line(&format!("\n{verdict}"))?;
    }
    Ok(i32::from(failed > 0))
}

/// Compiling all kernels takes a GPU driver a few seconds. After this time, each remaining kernel is checked with one shape.
const COMPILE_SECONDS: f64 = 20.0;

/// Check results of one kernel.
#[derive(Default)]
struct CheckResult {
    /// Largest error, as a multiple of the tolerance.
    worst: f64,
    /// Where it occurred.
    detail: String,
    /// Time of the first runs beyond that of the second: mostly shader compilation.
    compile_seconds: f64,
    /// Time of the second runs.
    run_seconds: f64,
}

impl CheckResult {
    fn note(&mut self, worst: f64, detail: String) {
        if worst > self.worst || worst.is_nan() {
            (self.worst, self.detail) = (worst, detail);
        }
    }

    /// Run one random shape twice: the second time nothing is compiled, and the bits must be equal.
    fn run(&mut self, check: &Check, device: &Device, seed: u64) {
        let [(first_bits, first_seconds), (second_bits, second_seconds)] = [(); 2].map(|()| {
            let begin = Instant::now();
            let mut case = Case::new(check.name, seed);
            match (check.run)(device, &mut case) {
                Err(error) => self.note(f64::INFINITY, format!("{} ({error:#})", case.shape)),
                Ok(()) => self.note(case.worst, format!("{} ({})", case.detail, case.shape)),
            }
            (case.bits, begin.elapsed().as_secs_f64())
        });
        if first_bits != second_bits {
            self.note(f64::INFINITY, format!("two runs differ (seed {seed})"));
        }
        self.run_seconds += second_seconds;
        self.compile_seconds += (first_seconds - second_seconds).max(0.0);
    }
}

/// The selected checks.
pub(super) fn selected_checks(args: &Args) -> impl Iterator<Item = Check> + '_ {
    all_checks(args).into_iter().filter(|check| args.only.as_ref().is_none_or(|only| check.name.contains(only.as_str())))
}

/// The checks of every device, and those of the precision that is asked for.
fn all_checks(args: &Args) -> Vec<Check> {
    match args.device.matmul_precision {
        Some(MatmulPrecision::Float16) => [checks(), float16_checks().to_vec()].concat(),
        _ => checks(),
    }
}

/// The largest error of a kernel over random shapes, relative to the bound, and its place.
pub(super) fn worst(check: &Check, seeds: u64, device: &Device) -> (f64, String) {
    let mut found = CheckResult::default();
    (0..seeds).for_each(|seed| found.run(check, device, seed));
    (found.worst, found.detail)
}

/// Print one line per kernel; returns the number of failures.
fn check_kernels(args: &Args, device: &Device) -> anyhow::Result<usize> {
    let (mut failed, mut compiling, mut left_out) = (0, 0.0, 0);
    if !args.json {
        output::line(&format!(
            "\n{:<36} {:>10}  {:>10}  {:>9}  result",
            "kernel (against its f64 twin)", "error", "compile", "run"
        ))?;
    }
    for check in selected_checks(args) {
        let mut found = CheckResult::default();
        let seeds = if compiling > COMPILE_SECONDS { 1 } else { args.seeds };
        left_out += args.seeds - seeds;
        (0..seeds).for_each(|seed| found.run(&check, device, seed));
        let CheckResult { worst, detail, compile_seconds, run_seconds } = found;
        compiling += compile_seconds;
        let passed = worst <= 1.0;
        failed += usize::from(!passed);
        if args.json {
            output::json_line(&serde_json::json!({
                "kernel": check.name, "passed": passed, "error_over_allowed": if worst.is_finite() { Some(worst) } else { None },
                "seconds": run_seconds, "compile_seconds": compile_seconds, "detail": detail,
            }))?;
        } else {
            let verdict = if passed { "ok" } else { "WRONG" };
            let (compile, run) = (1e3 * compile_seconds, 1e3 * run_seconds);
            output::line(&format!("{:<36} {:>8.1} %  {compile:>7.0} ms  {run:>6.0} ms  {verdict}", check.name, 100.0 * worst))?;
            if !passed {
                output::folded_line(&format!("  {detail}"))?;
            }
        }
    }
    if left_out > 0 {
        output::note(&format!(
            "note: this driver took {compiling:.0} s to compile, so {left_out} of the random shapes were left out; --only NAME checks one kernel in full"
        ));
    }
    Ok(failed)
}

/// Write `STEM.wgsl` for every text, and for each vendor `VENDOR.list` with one line per kernel: `STEM.wgsl:ENTRY:NAME=VALUE,...`.
fn write_shaders(folder: &Path) -> anyhow::Result<()> {
    let place = |path: &Path| path.display().to_string();
    std::fs::create_dir_all(folder).with_context(|| place(folder))?;
    for vendor in Vendor::ALL {
        let mut list = String::new();
        for kernel in sources::for_gpu(vendor)? {
            // Names of products already contain their entry point: one text each.
            let path = folder.join(format!("{}.wgsl", kernel.stem));
            std::fs::write(&path, &kernel.text).with_context(|| place(&path))?;
            let constants: Vec<_> = kernel.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let _ = writeln!(list, "{}.wgsl:{}:{}", kernel.stem, kernel.entry, constants.join(","));
        }
        let path = folder.join(format!("{vendor:?}.list").to_lowercase());
        std::fs::write(&path, list).with_context(|| place(&path))?;
    }
    Ok(())
}

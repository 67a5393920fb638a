//! vkstat [--dump FOLDER] [--unchecked] FOLDER LIST: compile WGSL as wgpu 30 does, with the Vulkan driver that the loader finds, and print
//! what its compiler says of each kernel: one line a kernel, tab-separated, the same columns for every driver.
//!
//! A line of LIST is `FILE.wgsl:ENTRY:NAME=VALUE,...` (`lehr doctor --write-shaders` writes them), a line of the output
//! `kernel registers spills lds occupancy cycles instructions wave milliseconds`. What a driver does not say is `-`.

mod device;
mod translate;

use device::Device;
use std::{collections::BTreeMap, error::Error, fmt::Write as _, fs, path::PathBuf};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a driver says of one kernel: name, value.
type Statistics = BTreeMap<String, String>;

struct Options {
    dump: Option<PathBuf>,
    unchecked: bool,
    folder: PathBuf,
    list: PathBuf,
}

fn options() -> Result<Options> {
    let (mut dump, mut unchecked, mut places) = (None, false, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--dump" => dump = Some(args.next().ok_or("--dump: a folder must follow")?.into()),
            "--unchecked" => unchecked = true,
            other if other.starts_with('-') => return Err(format!("{other}: no such option").into()),
            place => places.push(PathBuf::from(place)),
        }
    }
    match <[PathBuf; 2]>::try_from(places) {
        Ok([folder, list]) => Ok(Options { dump, unchecked, folder, list }),
        Err(_) => Err("usage: vkstat [--dump FOLDER] [--unchecked] FOLDER LIST".into()),
    }
}

/// A column of the output, and the statistics of drivers whose sum it is. The first group that a driver has counts.
const COLUMNS: &[(&str, &[&[&str]])] = &[
    ("registers", &[&["VGPRs"], &["Number of GPRs"], &["GPRs"], &["Max live registers"], &["Registers used"]]),
    ("spills", &[&["Spilled VGPRs", "Spilled SGPRs", "Scratch size"], &["Spills to memory"], &["Spills"], &["STP Count"]]),
    ("lds", &[&["LDS size"], &["Workgroup Memory Size"]]),
    ("occupancy", &[&["Subgroups per SIMD"], &["Max warps/SM"], &["Threads"], &["Max Waves Per Core"]]),
    ("cycles", &[&["Inverse Throughput"], &["Static cycle count"], &["Cycles"]]),
    ("instructions", &[&["Instructions"], &["Instruction count"], &["Instruction Count"]]),
    ("wave", &[&["wave"]]),
    ("milliseconds", &[&["milliseconds"]]),
];

fn column(groups: &[&[&str]], found: &Statistics) -> String {
    for group in groups {
        let values: Vec<f64> = group.iter().filter_map(|name| found.get(*name)?.parse().ok()).collect();
        if !values.is_empty() {
            return format!("{:.0}", values.iter().sum::<f64>());
        }
    }
    "-".into()
}

fn main() -> Result<()> {
    let options = options()?;
    let device = Device::open()?;
    println!("# {}", device.description);
    let names: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
    println!("kernel\t{}", names.join("\t"));
    let list = fs::read_to_string(&options.list).map_err(|e| format!("{}: {e}", options.list.display()))?;
    let mut failed = 0;
    for line in list.lines() {
        if let Err(error) = compile(&options, &device, line) {
            eprintln!("{line}: {error}");
            failed += 1;
        }
    }
    if failed > 0 { Err(format!("{failed} kernels were refused").into()) } else { Ok(()) }
}

fn compile(options: &Options, device: &Device, line: &str) -> Result<()> {
    let mut parts = line.splitn(3, ':');
    let (file, entry, constants) =
        (parts.next().unwrap_or(""), parts.next().ok_or("no entry point")?, parts.next().unwrap_or(""));
    let text = fs::read_to_string(options.folder.join(file))?;
    let module = translate::translate(&text, entry, constants, options.unchecked)?;
    if !device.lists(&module) {
        return Ok(());
    }
    // Names of products hold their entry point already.
    let stem = file.trim_end_matches(".wgsl").trim_end_matches(&format!(".{entry}")).to_string();
    let mut name = format!("{stem}.{entry}");
    for constant in constants.split(',').filter(|c| !c.is_empty()) {
        let _ = write!(name, ".{}", constant.replace('=', ""));
    }
    for (found, representations) in device.compile(&module, options.dump.is_some())? {
        let values: Vec<_> = COLUMNS.iter().map(|(_, groups)| column(groups, &found)).collect();
        println!("{name}\t{}", values.join("\t"));
        if let Some(folder) = &options.dump {
            fs::create_dir_all(folder)?;
            let statistics: Vec<_> = found.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            fs::write(folder.join(format!("{name}.statistics.txt")), statistics.concat())?;
            for (kind, text) in representations {
                fs::write(folder.join(format!("{name}.{kind}.txt")), text)?;
            }
        }
    }
    Ok(())
}

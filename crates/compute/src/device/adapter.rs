//! The devices of a machine, and the selection of one.

use super::gpu;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// Kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A GPU.
    Gpu,
    /// Native code on the CPU.
    Cpu,
    /// Shaders compiled for the CPU (lavapipe, SwiftShader, WARP): for checking WGSL without a GPU.
    SoftwareGpu,
}

impl Kind {
    /// Label in lists: `hardware`, `native`, `software`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpu => "hardware",
            Self::Cpu => "native",
            Self::SoftwareGpu => "software",
        }
    }
}

/// One device as listed by `lehr doctor`.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// Index in the list, for `--adapter`.
    pub index: usize,
    /// Name from the driver or the processor.
    pub name: String,
    /// Vulkan, Metal, Dx12 or Cpu.
    pub backend: String,
    /// Driver name and version; for the CPU its instruction set.
    pub driver: String,
    /// Kind of device.
    pub kind: Kind,
    /// Precision that its matrix products may have; float32 in lists.
    pub matmul_precision: MatmulPrecision,
}

impl AdapterSummary {
    /// Name and driver, and the precision of matrix products if it is not float32, as recorded in checkpoints.
    pub fn title(&self) -> String {
        match self.matmul_precision {
            MatmulPrecision::Float32 => format!("{} ({})", self.name, self.driver),
            MatmulPrecision::Float16 => format!("{} ({}, float16 products)", self.name, self.driver),
        }
    }
}

/// Lowest precision that large matrix products may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatmulPrecision {
    /// Inputs and sums in f32.
    #[default]
    Float32,
    /// Inputs rounded to f16, sums in f32, on cooperative matrices.
    Float16,
}

impl MatmulPrecision {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Float32, Self::Float16];

    /// `float32` or `float16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
        }
    }
}

/// A device that can be opened.
pub(super) enum DeviceChoice {
    Gpu(gpu::FoundAdapter),
    Cpu,
}

/// All devices in order of preference: GPUs, then the CPU, then software Vulkan, which is used only when named.
pub fn adapters() -> Vec<AdapterSummary> {
    found().into_iter().map(|(summary, _)| summary).collect()
}

fn found() -> Vec<(AdapterSummary, DeviceChoice)> {
    let mut list: Vec<(AdapterSummary, DeviceChoice)> =
        gpu::enumerate().into_iter().map(|found| (found.summary(), DeviceChoice::Gpu(found))).collect();
    let cpu_at = list.iter().position(|(summary, _)| summary.kind == Kind::SoftwareGpu).unwrap_or(list.len());
    list.insert(cpu_at, (super::cpu::summary(), DeviceChoice::Cpu));
    for (index, (summary, _)) in list.iter_mut().enumerate() {
        summary.index = index;
    }
    list
}

/// Device selection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Index, part of the name, backend, or `cpu`; when absent `LEHR_ADAPTER`, else the first of [`adapters`].
    pub adapter: Option<String>,
    /// Threads of the CPU executor; when absent `LEHR_THREADS`, else one per physical core.
    pub threads: Option<usize>,
    /// Precision that matrix products may have. A device without cooperative matrices is not opened with less than float32.
    pub matmul_precision: MatmulPrecision,
}

/// The device of the selection, else of the variable `LEHR_ADAPTER`, by index, part of its name or backend (`vulkan`), else the first in
/// [`adapters`] order.
pub(super) fn choose(selection: &Selection) -> anyhow::Result<(AdapterSummary, DeviceChoice)> {
    let variable = std::env::var("LEHR_ADAPTER").ok().filter(|v| !v.is_empty());
    let (source, wanted) = match (&selection.adapter, &variable) {
        (Some(wanted), _) => ("--adapter", Some(wanted.as_str())),
        (None, Some(wanted)) => ("LEHR_ADAPTER", Some(wanted.as_str())),
        (None, None) => ("", None),
    };
    // For an exact `cpu` no driver is queried, which takes a while.
    if wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case("cpu")) {
        return Ok((super::cpu::summary(), DeviceChoice::Cpu));
    }
    let mut list = found();
    let Some(wanted) = wanted else { return Ok(list.swap_remove(0)) };
    let Some(at) = position(&list, wanted) else {
        let names: Vec<_> = list.iter().map(|(a, _)| format!("{} = {} ({})", a.index, a.name, a.backend)).collect();
        bail!("{source} {}: no such adapter; there are: {}", wanted.escape_debug(), names.join(", "));
    };
    Ok(list.swap_remove(at))
}

fn position(list: &[(AdapterSummary, DeviceChoice)], wanted: &str) -> Option<usize> {
    match wanted.parse::<usize>() {
        Ok(index) => (index < list.len()).then_some(index),
        Err(_) => {
            let wanted = wanted.to_lowercase();
            let named = |a: &AdapterSummary| a.name.to_lowercase().contains(&wanted) || a.backend.to_lowercase() == wanted;
            list.iter().position(|(a, _)| named(a))
        }
    }
}

/// Threads of the CPU executor: as set, else `LEHR_THREADS`, else one per physical core.
pub(super) fn threads(selection: &Selection) -> anyhow::Result<usize> {
    let variable = match std::env::var("LEHR_THREADS").ok().filter(|v| !v.is_empty()) {
        Some(text) => Some(text.parse().with_context(|| format!("LEHR_THREADS {text}: must be a number of threads"))?),
        None => None,
    };
    let threads = selection.threads.or(variable).unwrap_or_else(num_cpus::get_physical);
    anyhow::ensure!((1..=1024).contains(&threads), "--threads {threads}: must be at least 1 and at most 1024");
    Ok(threads)
}

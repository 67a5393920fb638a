//! The adapter: which ones there are, which one is taken, what it was asked for.

use super::fault::Faults;
use super::kernel::lock;
use super::{Kernel, ledger::Ledger, status::Status};
use anyhow::{Context as _, bail};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Hardware and software adapters want different kernels (`reference` figures in LOG.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterClass {
    /// A GPU: many lanes, workgroup memory is fast, launches are cheap.
    Hardware,
    /// Shaders compiled for the CPU (lavapipe, SwiftShader, WARP): 4 to 16 lanes, workgroup memory is plain memory, launches are dear.
    Software,
}

/// One adapter as `lehr doctor` lists it.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// Position in the list; `--adapter` takes it.
    pub index: usize,
    /// Name as the driver gives it.
    pub name: String,
    /// Vulkan, Metal or Dx12.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// Hardware or software.
    pub class: AdapterClass,
}

/// A device, its queue and its compiled kernels. One thread owns it.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) kernels: Mutex<HashMap<String, Arc<Kernel>>>,
    pub(super) ledger: Ledger,
    pub(super) faults: Arc<Faults>,
    pub(super) status: Status,
    pub(super) rates: Mutex<Rates>,
    pub(super) tuner: Mutex<super::tune::Tuner>,
    summary: AdapterSummary,
    limits: wgpu::Limits,
    subgroup_size: Option<u32>,
    backend: wgpu::Backend,
}

/// How fast a device is thought to be; the tuner replaces the first guess by what it measured.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Of a large matmul.
    pub flops_per_second: f64,
    /// Of a streaming kernel.
    pub bytes_per_second: f64,
    /// Of an empty dispatch.
    pub launch_seconds: f64,
}

impl Rates {
    fn guess(class: AdapterClass) -> Self {
        match class {
            AdapterClass::Software => Self { flops_per_second: 2e10, bytes_per_second: 5e9, launch_seconds: 4e-5 },
            AdapterClass::Hardware => Self { flops_per_second: 5e11, bytes_per_second: 5e10, launch_seconds: 5e-6 },
        }
    }
}

const NO_ADAPTER: &str = "no Vulkan, Metal or DX12 adapter was found; install your GPU's driver, or a software one: \
    on Debian and Ubuntu `apt-get install libvulkan1 mesa-vulkan-drivers`, on Fedora `dnf install mesa-vulkan-drivers`";

/// Every adapter, hardware before software, in a stable order.
pub async fn adapters() -> Vec<AdapterSummary> {
    enumerate().await.iter().enumerate().map(|(index, a)| summarise(index, &a.get_info())).collect()
}

async fn enumerate() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    if cfg!(debug_assertions) {
        descriptor.flags |= wgpu::InstanceFlags::DEBUG;
    }
    let instance = wgpu::Instance::new(descriptor);
    let mut found = instance.enumerate_adapters(wgpu::Backends::all()).await;
    // Discrete GPUs first, then integrated and virtual ones, software last.
    found.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => 2,
        wgpu::DeviceType::Cpu => 3,
    });
    found
}

fn summarise(index: usize, info: &wgpu::AdapterInfo) -> AdapterSummary {
    let class = if info.device_type == wgpu::DeviceType::Cpu { AdapterClass::Software } else { AdapterClass::Hardware };
    AdapterSummary {
        index,
        name: info.name.clone(),
        backend: format!("{:?}", info.backend),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        class,
    }
}

impl Gpu {
    /// Open an adapter: by index, by part of its name, or the first in [`adapters`] order.
    ///
    /// # Errors
    /// When there is none (naming the package to install), none matches, or the driver refuses a device.
    pub async fn open(wanted: Option<&str>) -> anyhow::Result<Self> {
        Self::open_with(wanted, false).await
    }

    /// Open for tests with no more than WebGPU's default limits, as some machines have no more.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub async fn open_with_default_limits(wanted: Option<&str>) -> anyhow::Result<Self> {
        Self::open_with(wanted, true).await
    }

    async fn open_with(wanted: Option<&str>, default_limits: bool) -> anyhow::Result<Self> {
        let found = enumerate().await;
        let summaries: Vec<_> = found.iter().enumerate().map(|(i, a)| summarise(i, &a.get_info())).collect();
        let index = pick(&summaries, wanted)?;
        let adapter = &found[index];
        let info = adapter.get_info();
        let limits = if default_limits { wgpu::Limits::default() } else { capped(adapter.limits()) };
        let features = adapter.features() & (wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY);
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("lehr"),
                required_features: features,
                required_limits: limits.clone(),
                experimental_features: wgpu::ExperimentalFeatures::disabled(),
                memory_hints: wgpu::MemoryHints::Performance,
                trace: wgpu::Trace::Off,
            })
            .await
            .with_context(|| format!("adapter {} ({}) refuses a device", info.name, info.driver))?;
        let faults = Faults::install(&device);
        let status = Status::new(&device);
        let fixed_subgroup = features.contains(wgpu::Features::SUBGROUP) && info.subgroup_min_size == info.subgroup_max_size;
        Ok(Self {
            device,
            queue,
            kernels: Mutex::new(HashMap::new()),
            ledger: Ledger::default(),
            faults,
            status,
            rates: Mutex::new(Rates::guess(summaries[index].class)),
            tuner: Mutex::default(),
            summary: summaries[index].clone(),
            limits,
            subgroup_size: fixed_subgroup.then_some(info.subgroup_min_size),
            backend: info.backend,
        })
    }

    /// Name, driver, class.
    pub fn summary(&self) -> &AdapterSummary {
        &self.summary
    }

    /// Hardware or software.
    pub fn class(&self) -> AdapterClass {
        self.summary.class
    }

    /// Take the kernels of the other class: tests check the GPU's kernels on a software adapter this way.
    pub fn pretend(&mut self, class: AdapterClass) {
        self.summary.class = class;
    }

    /// The subgroup size where the adapter has exactly one; None where it has none or several.
    pub fn subgroup_size(&self) -> Option<u32> {
        self.subgroup_size
    }

    /// Most bytes that one binding may span.
    pub fn max_binding_bytes(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// Limits that were granted.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.limits
    }

    /// `adapter + driver`, the part of a cache key that names this machine's compiler.
    pub fn fingerprint(&self) -> String {
        format!("{:?}|{}|{}", self.backend, self.summary.name, self.summary.driver)
    }

    /// How fast this device is thought to be, for splitting submissions and long dispatches.
    pub fn rates(&self) -> Rates {
        *lock(&self.rates)
    }

    /// Replace the guess by what was measured.
    pub fn set_flops_per_second(&self, flops_per_second: f64) {
        lock(&self.rates).flops_per_second = flops_per_second;
    }

    /// What is allocated on the device, by purpose.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// Ask for what the adapter has, but never more than is safe: bindings past 2^31 - 4 bytes miscompute on some drivers
/// (wgpu issues 2361, 10305).
fn capped(mut limits: wgpu::Limits) -> wgpu::Limits {
    const SAFE: u64 = (1 << 31) - 256;
    limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(SAFE);
    limits.max_buffer_size = limits.max_buffer_size.min(SAFE);
    limits
}

fn pick(list: &[AdapterSummary], wanted: Option<&str>) -> anyhow::Result<usize> {
    if list.is_empty() {
        bail!("{NO_ADAPTER}");
    }
    let Some(wanted) = wanted else { return Ok(0) };
    let hit = match wanted.parse::<usize>() {
        Ok(index) => list.iter().position(|a| a.index == index),
        Err(_) => list.iter().position(|a| a.name.to_lowercase().contains(&wanted.to_lowercase())),
    };
    hit.with_context(|| {
        let names: Vec<_> = list.iter().map(|a| format!("{} = {} ({})", a.index, a.name, a.backend)).collect();
        format!("--adapter {}: no such adapter; there are: {}", wanted.escape_debug(), names.join(", "))
    })
}

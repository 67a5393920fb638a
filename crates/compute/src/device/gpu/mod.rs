//! The GPU executor: adapters, kernels, dispatches, submissions, read-backs through wgpu. wgpu types appear only in this folder.

mod cooperative;
mod counting;
mod dispatch;
mod faults;
mod kernel;
pub mod reflect;
mod ring;
mod status;
mod submit;
mod transfer;

pub use cooperative::CooperativeMatrix;
pub(super) use counting::{IterationCounter, SLOTS};
pub use dispatch::{Dispatcher, Extent, grid};
pub(super) use dispatch::{GpuCommand, UniformPool};
pub use kernel::{Kernel, LIBRARY, Shader, Uniform, resolve};
pub(super) use ring::GpuReadRing;
pub(super) use transfer::GpuBuffer;

use super::adapter::{AdapterSummary, Kind, MatmulPrecision};
use super::fault::Faults;
use super::ledger::human_bytes;
use super::sizes::SAFE_BINDING;
use anyhow::Context as _;
use status::Status;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

/// Hardware and software adapters need different kernels (figures in LOG.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuClass {
    /// A GPU: many lanes, workgroup memory is fast, launches are cheap.
    Hardware,
    /// Shaders compiled for the CPU (lavapipe, WARP): 4 to 16 lanes, workgroup memory is plain memory, launches are expensive.
    Software,
}

impl GpuClass {
    fn of(info: &wgpu::AdapterInfo) -> Self {
        match info.device_type {
            // SwiftShader's compiler takes minutes and 17 GB for the tiles of the others, which are long straight texts.
            wgpu::DeviceType::Cpu if info.name.contains("SwiftShader") => Self::Hardware,
            wgpu::DeviceType::Cpu => Self::Software,
            _ => Self::Hardware,
        }
    }
}

/// GPU vendor, whose compiler limits the registers of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// AMD.
    Amd,
    /// Apple.
    Apple,
    /// Intel.
    Intel,
    /// NVIDIA.
    Nvidia,
    /// Qualcomm.
    Qualcomm,
    /// Any other, and software.
    Other,
}

impl Vendor {
    /// All vendors.
    pub const ALL: [Self; 6] = [Self::Amd, Self::Apple, Self::Intel, Self::Nvidia, Self::Qualcomm, Self::Other];

    /// From the PCI vendor id, or from the adapter's name if the backend has none.
    fn of(info: &wgpu::AdapterInfo) -> Self {
        match info.vendor {
            0x1002 => Self::Amd,
            0x8086 => Self::Intel,
            0x10DE => Self::Nvidia,
            0x5143 => Self::Qualcomm,
            0x106B => Self::Apple,
            _ if info.name.to_lowercase().contains("apple") => Self::Apple,
            _ => Self::Other,
        }
    }
}

/// A wgpu device, its queue and its compiled kernels.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    kernels: Mutex<HashMap<String, Arc<Kernel>>>,
    status: Status,
    class: GpuClass,
    is_software: bool,
    vendor: Vendor,
    cooperative: Option<CooperativeMatrix>,
    pub(super) counter: Option<IterationCounter>,
    limits: wgpu::Limits,
    subgroup_lanes: usize,
    /// Of them, neighbours that kernels may exchange values with: tested when first needed.
    pub(crate) shuffled_lanes: OnceLock<usize>,
}

/// An adapter that can be opened.
pub(super) struct FoundAdapter(wgpu::Adapter);

/// Every adapter, hardware before software, in a stable order.
pub(super) fn enumerate() -> Vec<FoundAdapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    if cfg!(debug_assertions) {
        descriptor.flags |= wgpu::InstanceFlags::DEBUG;
    }
    let instance = wgpu::Instance::new(descriptor);
    let mut found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    // Discrete GPUs first, then integrated and virtual ones, software last.
    found.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => 2,
        wgpu::DeviceType::Cpu => 3,
    });
    found.into_iter().map(FoundAdapter).collect()
}

impl FoundAdapter {
    /// Its entry in the list of devices; the list sets the index.
    pub(super) fn summary(&self) -> AdapterSummary {
        let info = self.0.get_info();
        AdapterSummary {
            index: 0,
            name: info.name.clone(),
            backend: format!("{:?}", info.backend),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            kind: if info.device_type == wgpu::DeviceType::Cpu { Kind::SoftwareGpu } else { Kind::Gpu },
            matmul_precision: MatmulPrecision::Float32,
        }
    }
}

impl Gpu {
    /// Open an adapter with all of its limits, or with only WebGPU's default limits; with cooperative matrices if products may have less
    /// than float32 precision.
    pub(super) fn open(
        found: &FoundAdapter,
        faults: &Arc<Faults>,
        default_limits: bool,
        precision: MatmulPrecision,
    ) -> anyhow::Result<Self> {
        let adapter = &found.0;
        let info = adapter.get_info();
        let limits = if default_limits { wgpu::Limits::default() } else { capped(adapter.limits()) };
        let cooperative = match precision {
            MatmulPrecision::Float32 => None,
            MatmulPrecision::Float16 => Some(CooperativeMatrix::of(adapter)?),
        };
        let mut features = adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
        if !default_limits {
            features |= adapter.features() & wgpu::Features::SUBGROUP;
        }
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if cooperative.is_some() {
            features |= cooperative::FEATURES;
            // SAFETY: experimental features may have undefined behaviour where a text is not valid for the device. The only texts that use
            // this one are generated for a shape that the adapter lists, with full subgroups.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("lehr"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .with_context(|| format!("adapter {} ({}) refuses a device", info.name, info.driver))?;
        faults::listen(&device, faults);
        let status = Status::new(&device);
        let is_software = info.device_type == wgpu::DeviceType::Cpu;
        let vendor = if is_software { Vendor::Other } else { Vendor::of(&info) };
        let subgroup_lanes = match vendor {
            _ if !features.contains(wgpu::Features::SUBGROUP) => 1,
            // Metal does not tell; all of Apple's have as many.
            Vendor::Apple => 32,
            _ => 1 << info.subgroup_min_size.max(1).ilog2(),
        };
        Ok(Self {
            device,
            queue,
            kernels: Mutex::new(HashMap::new()),
            status,
            class: GpuClass::of(&info),
            is_software,
            vendor,
            cooperative,
            counter: None,
            limits,
            subgroup_lanes,
            shuffled_lanes: OnceLock::new(),
        })
    }

    /// Hardware or software.
    pub fn class(&self) -> GpuClass {
        self.class
    }

    /// Use the kernels of this class from now on.
    pub(super) fn set_class(&mut self, class: GpuClass) {
        self.class = class;
    }

    /// GPU vendor.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// The shape of cooperative matrices that products may use; none where their precision is float32.
    pub fn cooperative(&self) -> Option<CooperativeMatrix> {
        self.cooperative
    }

    /// Whether shaders are compiled for the CPU, independent of the selected class of kernels.
    pub fn is_software(&self) -> bool {
        self.is_software
    }

    /// Loop iterations that one invocation may execute, over all its loops. Mesa's llvmpipe ends every loop of an invocation after 65,535
    /// iterations in total, without an error (`LP_MAX_TGSI_LOOP_ITERATIONS`; measured with 22.3.6).
    pub fn max_iterations(&self) -> usize {
        if self.is_software { 60_000 } else { usize::MAX }
    }

    /// Invocations of the smallest subgroup; 1 if this device has no subgroup operations.
    pub fn subgroup_lanes(&self) -> usize {
        self.subgroup_lanes
    }

    /// Maximum bytes of one binding.
    pub(super) fn max_binding_bytes(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// The granted limits, as text.
    pub(super) fn limits_line(&self) -> String {
        let l = &self.limits;
        format!(
            "binding {}, buffer {}, {} storage buffers, {} invocations, workgroup memory {}; kernels for {}{}",
            human_bytes(l.max_storage_buffer_binding_size),
            human_bytes(l.max_buffer_size),
            l.max_storage_buffers_per_shader_stage,
            l.max_compute_invocations_per_workgroup,
            human_bytes(u64::from(l.max_compute_workgroup_storage_size)),
            match self.class {
                GpuClass::Hardware => "hardware",
                GpuClass::Software => "software",
            },
            self.cooperative.map_or(String::new(), |m| format!(", cooperative matrices {0}x{0}x{0}", m.edge)),
        )
    }
}

/// The adapter's limits, capped to safe values.
fn capped(mut limits: wgpu::Limits) -> wgpu::Limits {
    limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(SAFE_BINDING);
    limits.max_buffer_size = limits.max_buffer_size.min(SAFE_BINDING);
    limits
}

//! An open device: a GPU or the CPU, with what both have in common.

use super::adapter::{self, AdapterSummary, DeviceChoice, Kind, MatmulPrecision, Selection};
use super::fault::Faults;
use super::gpu::{FoundAdapter, IterationCounter, SLOTS};
use super::tune::Tuner;
use super::{Cpu, DeviceFault, Gpu, GpuClass, Ledger, Sizes, Tensor, lock};
use std::sync::{Arc, Mutex, OnceLock};

/// A device that runs recordings. Used by one thread.
pub struct Device {
    pub(super) engine: Engine,
    pub(super) faults: Arc<Faults>,
    pub(super) rates: Mutex<Rates>,
    pub(super) tuner: Mutex<Tuner>,
    pub(super) ledger: Ledger,
    summary: AdapterSummary,
    sizes: Sizes,
    scratch: OnceLock<Tensor>,
    maxima: OnceLock<Tensor>,
}

/// The two kinds of device.
pub(super) enum Engine {
    Gpu(Box<Gpu>),
    Cpu(Cpu),
}

/// Estimated speed of a device; the initial estimate is replaced by a measurement.
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
    fn guess(kind: Kind) -> Self {
        match kind {
            Kind::Cpu => Self { flops_per_second: 1e11, bytes_per_second: 1e10, launch_seconds: 2e-6 },
            Kind::SoftwareGpu => Self { flops_per_second: 2e10, bytes_per_second: 5e9, launch_seconds: 4e-5 },
            Kind::Gpu => Self { flops_per_second: 5e11, bytes_per_second: 5e10, launch_seconds: 5e-6 },
        }
    }
}

impl Device {
    /// Open the device of the selection, else of `LEHR_ADAPTER`, else the first of [`super::adapters`].
    ///
    /// # Errors
    /// When none matches, or the driver refuses a device.
    pub fn open(selection: impl Into<Selection>) -> anyhow::Result<Self> {
        let selection = selection.into();
        let (mut summary, found) = adapter::choose(&selection)?;
        summary.matmul_precision = selection.matmul_precision;
        match found {
            DeviceChoice::Cpu => {
                anyhow::ensure!(
                    selection.matmul_precision == MatmulPrecision::Float32,
                    "--matmul-precision float16: the CPU computes products in float32 only; name a GPU with --adapter, or use float32"
                );
                let cpu = Cpu::new(adapter::threads(&selection)?)?;
                Ok(Self::new(Engine::Cpu(cpu), summary, Sizes::CPU, Arc::new(Faults::default())))
            }
            DeviceChoice::Gpu(found) => Self::open_gpu(&found, summary, default_limits_requested()?),
        }
    }

    fn open_gpu(found: &FoundAdapter, summary: AdapterSummary, default_limits: bool) -> anyhow::Result<Self> {
        let faults = Arc::new(Faults::default());
        let mut gpu = Gpu::open(found, &faults, default_limits, summary.matmul_precision)?;
        if let Some(class) = requested_class()? {
            gpu.set_class(class);
        }
        let sizes = Sizes { max_tensor_bytes: gpu.max_binding_bytes(), ..Sizes::of_class(gpu.class()) };
        let device = Self::new(Engine::Gpu(Box::new(gpu)), summary, sizes, faults);
        device.reserve_scratch();
        Ok(device)
    }

    /// Open a device by index or part of its name.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn open_named(adapter: Option<&str>) -> anyhow::Result<Self> {
        Self::open(Selection { adapter: adapter.map(str::to_owned), ..Selection::default() })
    }

    /// The CPU with a given instruction set, for tests; see [`super::cpu::levels`].
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn cpu_with_level(level: fearless_simd::Level, threads: usize) -> anyhow::Result<Self> {
        let cpu = Cpu::with_level(level, threads)?;
        Ok(Self::new(Engine::Cpu(cpu), super::cpu::summary(), Sizes::CPU, Arc::new(Faults::default())))
    }

    /// As [`Device::open_named`], for tests: a GPU gets only WebGPU's default limits, like the smallest devices.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn with_default_limits(adapter: Option<&str>) -> anyhow::Result<Self> {
        let selection = Selection { adapter: adapter.map(str::to_owned), ..Selection::default() };
        let (summary, DeviceChoice::Gpu(found)) = adapter::choose(&selection)? else { return Self::open(selection) };
        Self::open_gpu(&found, summary, true)
    }

    fn new(engine: Engine, summary: AdapterSummary, sizes: Sizes, faults: Arc<Faults>) -> Self {
        let (rates, tuner) = (Mutex::new(Rates::guess(summary.kind)), Mutex::default());
        Self {
            engine,
            faults,
            rates,
            tuner,
            ledger: Ledger::default(),
            summary,
            sizes,
            scratch: OnceLock::new(),
            maxima: OnceLock::new(),
        }
    }

    /// Name, driver, kind.
    pub fn summary(&self) -> &AdapterSummary {
        &self.summary
    }

    /// Kind of device.
    pub fn kind(&self) -> Kind {
        self.summary.kind
    }

    /// Sizes that suit the device.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Change its sizes, such as for a memory limit.
    pub fn set_sizes(&mut self, sizes: Sizes) {
        self.sizes = sizes;
    }

    /// The GPU, if it is one, for WGSL-specific operations.
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.engine {
            Engine::Gpu(gpu) => Some(gpu),
            Engine::Cpu(_) => None,
        }
    }

    /// The CPU, if it is one, for native operations.
    pub fn cpu(&self) -> Option<&Cpu> {
        match &self.engine {
            Engine::Cpu(cpu) => Some(cpu),
            Engine::Gpu(_) => None,
        }
    }

    /// Switch to the kernels and sizes of the other class of GPUs, for tests; no effect on the CPU.
    pub fn switch_gpu_class(&mut self) {
        if let Engine::Gpu(gpu) = &mut self.engine {
            let class = match gpu.class() {
                GpuClass::Software => GpuClass::Hardware,
                GpuClass::Hardware => GpuClass::Software,
            };
            gpu.set_class(class);
            self.sizes = Sizes { max_tensor_bytes: self.sizes.max_tensor_bytes, ..Sizes::of_class(class) };
            self.reserve_scratch();
        }
    }

    /// Make kernels count the loop iterations of their invocations, for tests; no effect on the CPU. Call it before any op is recorded.
    pub fn count_iterations(&mut self) {
        let counted = Tensor::new(self, "check", "iterations counted", &[SLOTS]);
        self.write(&counted, &[0u32; SLOTS]);
        if let Engine::Gpu(gpu) = &mut self.engine {
            gpu.counter = Some(IterationCounter::new(counted));
        }
    }

    /// (kernel, maximum of stated iterations ([`super::Extent::iterations`]), maximum counted).
    ///
    /// # Errors
    /// A device fault.
    pub fn iterations(&self) -> Result<Vec<(String, usize, usize)>, DeviceFault> {
        let Some(counter) = self.gpu().and_then(|gpu| gpu.counter.as_ref()) else { return Ok(Vec::new()) };
        Ok(counter.compared(&self.read::<u32>(&counter.counted)?))
    }

    /// One line for `doctor`: the limits of a GPU, the threads of the CPU.
    pub fn limits(&self) -> String {
        match &self.engine {
            Engine::Gpu(gpu) => gpu.limits_line(),
            Engine::Cpu(cpu) => cpu.description(),
        }
    }

    /// `device + driver`: identifies this machine's compiler in cache keys.
    pub fn fingerprint(&self) -> String {
        format!("{}|{}|{}", self.summary.backend, self.summary.name, self.summary.driver)
    }

    /// Estimated speed, for splitting submissions and long dispatches.
    pub fn rates(&self) -> Rates {
        *lock(&self.rates)
    }

    /// Replace the estimate by a measurement.
    pub fn set_flops_per_second(&self, flops_per_second: f64) {
        lock(&self.rates).flops_per_second = flops_per_second;
    }

    /// Temporary memory between the dispatches of an op: one buffer for all ops, because they run one after another.
    ///
    /// # Panics
    /// When more is asked for than [`Sizes::scratch_bytes`] (a defect of the caller).
    pub fn scratch(&self, numbers: usize) -> Tensor {
        let all = || Tensor::new(self, "scratch", "scratch", &[self.sizes.scratch_bytes as usize / 4]);
        self.scratch.get_or_init(all).slice(0..numbers)
    }

    /// As [`Device::scratch`], for the few numbers from which an op derives the scale of an operand.
    pub fn maxima(&self, numbers: usize) -> Tensor {
        self.maxima.get_or_init(|| Tensor::new(self, "scratch", "maxima", &[numbers])).slice(0..numbers)
    }

    /// Allocate it at once, as the plan of a run's memory counts it.
    fn reserve_scratch(&self) {
        if self.sizes.scratch_bytes > 0 {
            self.scratch(0);
        }
    }

    /// Memory allocated on the device, by purpose.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The first fault that the device reported, if any.
    ///
    /// # Errors
    /// That fault.
    pub fn check(&self) -> Result<(), DeviceFault> {
        self.faults.check()
    }

    /// Wait until everything submitted has run, and verify that it did.
    ///
    /// # Errors
    /// A lost device, a timeout, or lost submissions.
    pub fn wait(&self) -> Result<(), DeviceFault> {
        if let Engine::Gpu(gpu) = &self.engine {
            gpu.poll(None)?;
        }
        self.check()
    }
}

impl Sizes {
    fn of_class(class: GpuClass) -> Self {
        match class {
            GpuClass::Hardware => Self::GPU,
            GpuClass::Software => Self::SOFTWARE_GPU,
        }
    }
}

/// `LEHR_CLASS`: use the kernels of GPUs on software Vulkan, or those of software Vulkan on a GPU, for checks.
fn requested_class() -> anyhow::Result<Option<GpuClass>> {
    match std::env::var("LEHR_CLASS").as_deref() {
        Ok("hardware") => Ok(Some(GpuClass::Hardware)),
        Ok("software") => Ok(Some(GpuClass::Software)),
        Ok(other) if !other.is_empty() => anyhow::bail!("LEHR_CLASS {}: must be hardware or software", other.escape_debug()),
        _ => Ok(None),
    }
}

/// `LEHR_LIMITS=default`: only WebGPU's default limits, like the smallest devices.
fn default_limits_requested() -> anyhow::Result<bool> {
    match std::env::var("LEHR_LIMITS").as_deref() {
        Ok("default") => Ok(true),
        Ok(other) if !other.is_empty() => anyhow::bail!("LEHR_LIMITS {}: must be default", other.escape_debug()),
        _ => Ok(false),
    }
}

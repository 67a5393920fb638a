//! The WGSL side of an op: kernel, constants, workgroups.

use super::counting;
use super::reflect::Access;
use super::{Gpu, GpuClass, Kernel, Shader, Uniform};
use crate::device::{Cost, Device, Tensor};
use std::sync::Arc;

/// Maximum workgroups in one dimension of a dispatch.
const MAX_GROUPS: u64 = 65_535;

/// Workgroups for `n` items of one-dimensional work, folded into two dimensions; `shaders/lib/grid.wgsl` unfolds them.
pub fn grid(groups: u64) -> [u32; 3] {
    let groups = groups.max(1);
    let y = groups.div_ceil(MAX_GROUPS);
    let x = groups.div_ceil(y);
    [x as u32, y as u32, 1]
}

/// Size of one dispatch.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Workgroups.
    pub groups: [u32; 3],
    /// Maximum loop iterations of one invocation: over all its loops, nested ones multiplied.
    pub iterations: usize,
}

impl Extent {
    /// For a kernel without loops.
    pub fn without_loops(groups: [u32; 3]) -> Self {
        Self { groups, iterations: 0 }
    }
}

/// One command of a recording.
pub(in crate::device) enum GpuCommand {
    Dispatch { kernel: Arc<Kernel>, bind_group: wgpu::BindGroup, groups: [u32; 3], cost: Cost },
    Clear(Tensor),
    Copy { from: Tensor, to: Tensor },
}

/// Records the dispatches of one op on a GPU; passed to the op's WGSL function.
pub struct Dispatcher<'a> {
    /// The device, for its rates and its tuner.
    pub device: &'a Device,
    pub(in crate::device) gpu: &'a Gpu,
    pub(in crate::device) commands: &'a mut Vec<GpuCommand>,
    pub(in crate::device) uniforms: &'a mut UniformPool,
    pub(in crate::device) reads: &'a [(&'static str, &'a Tensor)],
    pub(in crate::device) writes: &'a [(&'static str, &'a Tensor)],
    pub(in crate::device) cost: Cost,
    pub(in crate::device) used: Vec<&'static str>,
}

impl Dispatcher<'_> {
    /// Hardware or software.
    pub fn class(&self) -> GpuClass {
        self.gpu.class()
    }

    /// The target GPU.
    pub fn gpu(&self) -> &Gpu {
        self.gpu
    }

    /// Dispatch `shader.entry` with these override constants; compiled at first use.
    ///
    /// # Errors
    /// When the driver rejects the kernel, or as [`Dispatcher::dispatch`].
    ///
    /// # Panics
    /// As [`Dispatcher::dispatch`].
    pub fn run<U: Uniform>(
        &mut self,
        shader: &Shader,
        entry: &str,
        constants: &[(&str, f64)],
        params: U,
        extent: Extent,
    ) -> anyhow::Result<()> {
        self.run_part(shader, entry, constants, params, extent, 1.0)
    }

    /// As [`Dispatcher::run`], for one of several dispatches of an op, which does `share` of its work.
    ///
    /// # Errors
    /// As [`Dispatcher::run`].
    ///
    /// # Panics
    /// As [`Dispatcher::dispatch`].
    pub fn run_part<U: Uniform>(
        &mut self,
        shader: &Shader,
        entry: &str,
        constants: &[(&str, f64)],
        params: U,
        extent: Extent,
        share: f64,
    ) -> anyhow::Result<()> {
        let kernel = self.gpu.kernel(shader, entry, constants)?;
        self.dispatch(&kernel, params, extent, share)
    }

    /// Dispatch an entry point of a generated text with a unique `stem`; see [`Gpu::kernel_from_text`].
    ///
    /// # Errors
    /// As [`Dispatcher::run`].
    ///
    /// # Panics
    /// As [`Dispatcher::dispatch`].
    pub fn run_text<U: Uniform>(
        &mut self,
        (stem, text): (&str, &str),
        entry: &str,
        params: U,
        extent: Extent,
    ) -> anyhow::Result<()> {
        let kernel = self.gpu.kernel_from_text(stem, text, entry, &[])?;
        self.dispatch(&kernel, params, extent, 1.0)
    }

    /// Append a dispatch that does `share` of the op's work. WGSL variables are matched with the op's bindings by name; the dispatches of
    /// an op may use different bindings.
    ///
    /// # Errors
    /// When an invocation has more loop iterations than this class of devices executes ([`Gpu::max_iterations`]).
    ///
    /// # Panics
    /// When names, access, uniform fields or the number of groups do not match the kernel: defects of the caller, found by the first test
    /// that records the op.
    pub fn dispatch<U: Uniform>(&mut self, kernel: &Arc<Kernel>, params: U, extent: Extent, share: f64) -> anyhow::Result<()> {
        self.check_names::<U>(kernel);
        if let Some(counter) = &self.gpu.counter {
            counter.state(&kernel.name, extent.iterations);
        }
        let Extent { groups, iterations } = extent;
        let most = self.gpu.max_iterations();
        anyhow::ensure!(
            iterations <= most,
            "{}: {iterations} loop iterations in one invocation; software Vulkan executes {most} at most, and ends longer loops \
             without an error: use --adapter cpu, or smaller sizes",
            kernel.name
        );
        assert!(groups.iter().all(|&g| u64::from(g) <= MAX_GROUPS), "{}: {groups:?} workgroups", kernel.name);
        if groups.contains(&0) {
            return Ok(());
        }
        let uniform = self.uniforms.place(self.device, self.gpu, bytemuck::bytes_of(&params));
        let entries: Vec<_> = kernel
            .entry
            .bindings
            .iter()
            .map(|b| wgpu::BindGroupEntry {
                binding: b.slot,
                resource: if b.access == Access::Uniform {
                    wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &uniform.0,
                        offset: uniform.1,
                        size: std::num::NonZeroU64::new(uniform.2),
                    })
                } else {
                    binding(self.named(&b.name))
                },
            })
            .collect();
        let bind_group = self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&kernel.name),
            layout: &kernel.pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let cost = Cost { flops: share * self.cost.flops, bytes: share * self.cost.bytes };
        self.commands.push(GpuCommand::Dispatch { kernel: kernel.clone(), bind_group, groups, cost });
        Ok(())
    }

    fn named(&self, name: &str) -> &Tensor {
        if let (Some(counter), counting::BINDING) = (&self.gpu.counter, name) {
            return &counter.counted;
        }
        match self.reads.iter().chain(self.writes).find(|(n, _)| *n == name) {
            Some((_, tensor)) => tensor,
            None => unreachable!("check_names compared them"),
        }
    }

    fn check_names<U: Uniform>(&mut self, kernel: &Kernel) {
        for b in kernel.entry.bindings.iter().filter(|b| b.access != Access::Uniform && b.name != counting::BINDING) {
            let bound = |list: &[(&'static str, &Tensor)]| list.iter().map(|(name, _)| *name).find(|name| *name == b.name);
            let (read, written) = (bound(self.reads), bound(self.writes));
            let name = read.or(written);
            assert!(name.is_some(), "{}: WGSL binds `{}`, Rust does not", kernel.name, b.name);
            assert!(!b.is_written || written.is_some(), "{}: WGSL writes `{}`, Rust reads it", kernel.name, b.name);
            self.used.extend(name);
        }
        let uniforms = kernel.entry.bindings.iter().filter(|b| b.access == Access::Uniform);
        let wgsl: Vec<(String, usize)> = uniforms.flat_map(|b| b.fields.iter().map(|(n, o)| (n.clone(), *o as usize))).collect();
        let rust: Vec<(String, usize)> = U::FIELDS.iter().map(|(n, o)| (n.to_string(), *o)).collect();
        assert_eq!(wgsl, rust, "{}: uniform fields, WGSL left, Rust right", kernel.name);
    }

    /// Every binding of the op must be used by one of its dispatches.
    ///
    /// # Panics
    /// When one is not (a defect of the caller).
    pub(in crate::device) fn check_used(&self, op: &str) {
        for (name, _) in self.reads.iter().chain(self.writes) {
            assert!(self.used.is_empty() || self.used.contains(name), "{op}: Rust binds `{name}`, WGSL does not");
        }
    }
}

/// Rounded up so that a binding can always be read as vec4.
fn binding(tensor: &Tensor) -> wgpu::BindingResource<'_> {
    let (memory, offset) = tensor.on_gpu();
    let size = tensor.bytes().next_multiple_of(16);
    let ((buffer, offset), size) = (memory.single(offset, size), std::num::NonZeroU64::new(size));
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
}

/// Uniform blocks, packed into large buffers when recorded; not written during steps.
#[derive(Default)]
pub(in crate::device) struct UniformPool {
    chunk: Option<wgpu::Buffer>,
    used: u64,
}

const UNIFORM_CHUNK: u64 = 64 * 1024;
const UNIFORM_ALIGN: u64 = 256;

impl UniformPool {
    /// (buffer, offset, size) of a slot that holds `bytes`.
    fn place(&mut self, device: &Device, gpu: &Gpu, bytes: &[u8]) -> (wgpu::Buffer, u64, u64) {
        let size = (bytes.len() as u64).next_multiple_of(16).max(16);
        let chunk = match &self.chunk {
            Some(chunk) if self.used + size <= UNIFORM_CHUNK => chunk.clone(),
            _ => {
                self.used = 0;
                device.ledger.add("uniforms", UNIFORM_CHUNK);
                let chunk = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("uniforms"),
                    size: UNIFORM_CHUNK,
                    usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                self.chunk = Some(chunk.clone());
                chunk
            }
        };
        let offset = self.used;
        let mut padded = bytes.to_vec();
        padded.resize(size as usize, 0);
        gpu.queue.write_buffer(&chunk, offset, &padded);
        self.used = (offset + size).next_multiple_of(UNIFORM_ALIGN);
        (chunk, offset, size)
    }
}

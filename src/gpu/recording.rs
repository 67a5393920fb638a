//! A recording is a list of dispatches, made once and replayed every step: nothing is allocated, compiled or bound in between.

use super::reflect::Access;
use super::{Gpu, GpuFault, Kernel, Rates, Shader, Tensor, Uniform};
use std::sync::Arc;
use std::time::Duration;

/// Most workgroups in one dimension of a dispatch.
const MAX_GROUPS: u64 = 65_535;
/// Work that one submission may hold, in seconds of estimated time: watchdogs start at a few hundred milliseconds.
const SUBMISSION_SECONDS: f64 = 0.1;

/// Workgroups for `n` items of one-dimensional work, folded into two dimensions; `shaders/lib/grid.wgsl` unfolds them.
pub fn grid(groups: u64) -> [u32; 3] {
    let groups = groups.max(1);
    let y = groups.div_ceil(MAX_GROUPS);
    let x = groups.div_ceil(y);
    [x as u32, y as u32, 1]
}

/// What a dispatch costs, for splitting submissions and for profiles.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Multiply-adds times two.
    pub flops: f64,
    /// Bytes read and written, each tensor once.
    pub bytes: f64,
}

enum Command {
    Dispatch { kernel: Arc<Kernel>, bind_group: wgpu::BindGroup, groups: [u32; 3], cost: Cost },
    Clear(Tensor),
    Copy { from: Tensor, to: Tensor },
}

impl Command {
    /// What it is thought to take.
    fn seconds(&self, rates: &Rates) -> f64 {
        match self {
            Self::Dispatch { cost, .. } => {
                cost.flops / rates.flops_per_second + cost.bytes / rates.bytes_per_second + rates.launch_seconds
            }
            Self::Clear(_) | Self::Copy { .. } => 0.0,
        }
    }
}

/// See the module.
pub struct Recording {
    name: String,
    commands: Vec<Command>,
    uniforms: UniformPool,
    /// The first mistake made while recording; reported when the recording is finished.
    error: Option<String>,
}

#[derive(Default)]
struct UniformPool {
    chunk: Option<wgpu::Buffer>,
    used: u64,
}

const UNIFORM_CHUNK: u64 = 64 * 1024;
const UNIFORM_ALIGN: u64 = 256;

/// One line of a profile: all dispatches of one kernel.
#[derive(Clone, Debug)]
pub struct ProfileRow {
    /// `stem.entry`.
    pub kernel: String,
    /// Dispatches.
    pub calls: usize,
    /// Their time.
    pub seconds: f64,
    /// Their work.
    pub cost: Cost,
}

impl Recording {
    /// An empty list.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_string(), commands: Vec::new(), uniforms: UniformPool::default(), error: None }
    }

    /// Number of dispatches.
    pub fn dispatches(&self) -> usize {
        self.commands.iter().filter(|c| matches!(c, Command::Dispatch { .. })).count()
    }

    /// Multiply-adds times two of all dispatches that declare them.
    pub fn flops(&self) -> f64 {
        self.commands.iter().map(|c| if let Command::Dispatch { cost, .. } = c { cost.flops } else { 0.0 }).sum()
    }

    /// Append a dispatch. `bindings` are matched with the WGSL variables by name (see [`bind!`](crate::bind)).
    ///
    /// # Panics
    /// When names, uniform fields or the number of groups do not fit the kernel, or a buffer is bound both for reading and for writing:
    /// defects of the caller, found by the first test that records the op.
    pub fn dispatch<U: Uniform>(
        &mut self,
        gpu: &Gpu,
        kernel: &Arc<Kernel>,
        params: U,
        bindings: &[(&str, &Tensor)],
        groups: [u32; 3],
        cost: Cost,
    ) {
        check_names::<U>(kernel, bindings);
        assert!(groups.iter().all(|&g| u64::from(g) <= MAX_GROUPS), "{}: {groups:?} workgroups", kernel.name);
        if groups.contains(&0) {
            return;
        }
        let uniform = self.uniforms.place(gpu, bytemuck::bytes_of(&params));
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
                    tensor_named(bindings, &b.name).binding()
                },
            })
            .collect();
        let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&kernel.name),
            layout: &kernel.pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        self.commands.push(Command::Dispatch { kernel: kernel.clone(), bind_group, groups, cost });
    }

    /// Append a dispatch of `shader.entry`, compiling it if it is new; an error is kept for [`Recording::finish`].
    ///
    /// # Panics
    /// As [`Recording::dispatch`].
    pub fn run<U: Uniform>(
        &mut self,
        gpu: &Gpu,
        shader: &Shader,
        entry: &str,
        constants: &[(&str, f64)],
        params: U,
        bindings: &[(&str, &Tensor)],
        groups: [u32; 3],
        cost: Cost,
    ) {
        match gpu.kernel(shader, entry, constants) {
            Ok(kernel) => self.dispatch(gpu, &kernel, params, bindings, groups, cost),
            Err(error) => self.fail(&error),
        }
    }

    /// Append: set a tensor to zero.
    pub fn clear(&mut self, tensor: &Tensor) {
        self.commands.push(Command::Clear(tensor.clone()));
    }

    /// Append: copy a tensor onto another of the same size in another buffer.
    ///
    /// # Panics
    /// When sizes differ (a defect of the caller).
    pub fn copy(&mut self, from: &Tensor, to: &Tensor) {
        assert_eq!(from.len(), to.len(), "copy {} to {}", from.name(), to.name());
        self.commands.push(Command::Copy { from: from.clone(), to: to.clone() });
    }

    /// Keep an error that arose while recording; [`Recording::finish`] returns it.
    pub fn fail(&mut self, error: &anyhow::Error) {
        self.error.get_or_insert_with(|| format!("{error:#}"));
    }

    /// The recording, or the first error that arose while recording.
    ///
    /// # Errors
    /// A kernel that the driver refused, or a validation error.
    pub fn finish(self, gpu: &Gpu) -> anyhow::Result<Self> {
        if let Some(error) = self.error {
            anyhow::bail!("{}: {error}", self.name);
        }
        gpu.check()?;
        Ok(self)
    }
}

fn tensor_named<'a>(bindings: &[(&str, &'a Tensor)], name: &str) -> &'a Tensor {
    match bindings.iter().find(|(n, _)| *n == name) {
        Some((_, tensor)) => tensor,
        None => unreachable!("check_names compared them"),
    }
}

fn check_names<U: Uniform>(kernel: &Kernel, bindings: &[(&str, &Tensor)]) {
    let storage: Vec<_> = kernel.entry.bindings.iter().filter(|b| b.access != Access::Uniform).collect();
    for b in &storage {
        assert!(bindings.iter().any(|(n, _)| *n == b.name), "{}: WGSL binds `{}`, Rust does not", kernel.name, b.name);
    }
    for (name, tensor) in bindings {
        let Some(b) = storage.iter().find(|b| b.name == *name) else {
            panic!("{}: Rust binds `{name}`, WGSL does not", kernel.name)
        };
        if b.access == Access::ReadWrite {
            let clash = bindings.iter().find(|(n, t)| n != name && t.shares_buffer(tensor));
            assert!(
                clash.is_none(),
                "{}: `{name}` is written and shares a buffer with `{}`",
                kernel.name,
                clash.map_or("", |c| c.0)
            );
        }
    }
    let wgsl: Vec<(String, usize)> = kernel
        .entry
        .bindings
        .iter()
        .filter(|b| b.access == Access::Uniform)
        .flat_map(|b| b.fields.iter().map(|(n, o)| (n.clone(), *o as usize)))
        .collect();
    let rust: Vec<(String, usize)> = U::FIELDS.iter().map(|(n, o)| (n.to_string(), *o)).collect();
    assert_eq!(wgsl, rust, "{}: uniform fields, WGSL left, Rust right", kernel.name);
}

impl UniformPool {
    /// (buffer, offset, size) of a slot that holds `bytes`.
    fn place(&mut self, gpu: &Gpu, bytes: &[u8]) -> (wgpu::Buffer, u64, u64) {
        let size = (bytes.len() as u64).next_multiple_of(16).max(16);
        let chunk = match &self.chunk {
            Some(chunk) if self.used + size <= UNIFORM_CHUNK => chunk.clone(),
            _ => {
                self.used = 0;
                gpu.ledger.add("uniforms", UNIFORM_CHUNK);
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

impl Gpu {
    /// Submit a recording, in several submissions when it holds more than ~100 ms of estimated work. Does not wait.
    ///
    /// # Errors
    /// A fault that the device reported since the last call.
    pub fn replay(&self, recording: &Recording) -> Result<(), GpuFault> {
        let rates = self.rates();
        let mut start = 0;
        let mut seconds = 0.0;
        for (i, command) in recording.commands.iter().enumerate() {
            let estimate = command.seconds(&rates);
            if i > start && seconds + estimate > SUBMISSION_SECONDS {
                self.submit(&recording.name, &recording.commands[start..i]);
                start = i;
                seconds = 0.0;
            }
            seconds += estimate;
        }
        self.submit(&recording.name, &recording.commands[start..]);
        self.check()
    }

    /// Replay several times, as many of them in a submission as ~100 ms of estimated work allow. Does not wait.
    ///
    /// # Errors
    /// As [`Gpu::replay`].
    pub fn replay_times(&self, recording: &Recording, times: usize) -> Result<(), GpuFault> {
        let rates = self.rates();
        let seconds: f64 = recording.commands.iter().map(|c| c.seconds(&rates)).sum();
        let at_once = ((SUBMISSION_SECONDS / seconds.max(1e-9)) as usize).clamp(1, times.max(1));
        for first in (0..times).step_by(at_once) {
            match at_once.min(times - first) {
                1 => self.replay(recording)?,
                several => self.submit_times(&recording.name, &recording.commands, several),
            }
        }
        self.check()
    }

    fn submit(&self, name: &str, commands: &[Command]) {
        self.submit_times(name, commands, 1);
    }

    fn submit_times(&self, name: &str, commands: &[Command], times: usize) {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(name) });
        (0..times).for_each(|_| encode(&mut encoder, commands));
        self.status.append(&mut encoder);
        self.queue.submit([encoder.finish()]);
    }

    /// Replay with a wait after every dispatch: slow, but says where the time goes.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn profile(&self, recording: &Recording) -> Result<Vec<ProfileRow>, GpuFault> {
        let mut rows: Vec<ProfileRow> = Vec::new();
        self.wait()?;
        for command in &recording.commands {
            let begin = web_time::Instant::now();
            self.submit(&recording.name, std::slice::from_ref(command));
            self.wait()?;
            let seconds = begin.elapsed().as_secs_f64();
            let (kernel, cost) = match command {
                Command::Dispatch { kernel, cost, .. } => (kernel.name.as_str(), *cost),
                Command::Clear(_) => ("clear", Cost::default()),
                Command::Copy { .. } => ("copy", Cost::default()),
            };
            let at = rows.iter().position(|r| r.kernel == kernel).unwrap_or(rows.len());
            if at == rows.len() {
                rows.push(ProfileRow { kernel: kernel.to_string(), calls: 0, seconds: 0.0, cost: Cost::default() });
            }
            let row = &mut rows[at];
            row.calls += 1;
            row.seconds += seconds;
            row.cost.flops += cost.flops;
            row.cost.bytes += cost.bytes;
        }
        Ok(rows)
    }

    /// Wait until everything submitted has run, and prove that it did.
    ///
    /// # Errors
    /// A lost device, a timeout, or submissions that vanished.
    pub fn wait(&self) -> Result<(), GpuFault> {
        self.poll(None)?;
        self.check()
    }

    pub(super) fn poll(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), GpuFault> {
        const TIMEOUT_SECONDS: u64 = 120;
        let poll = || {
            self.device.poll(wgpu::PollType::Wait {
                submission_index: submission.clone(),
                timeout: Some(Duration::from_secs(TIMEOUT_SECONDS)),
            })
        };
        // wgpu 30 panics inside poll when the device is lost (reference/reliability.md 1.1).
        let mut outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&poll));
        if matches!(outcome, Ok(Err(wgpu::PollError::Timeout))) {
            // The process may have been stopped meanwhile (Ctrl-Z, a laptop asleep): the clock ran on, the device did not.
            outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&poll));
        }
        match outcome {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(wgpu::PollError::Timeout)) => Err(GpuFault::Timeout(TIMEOUT_SECONDS)),
            Ok(Err(other)) => Err(GpuFault::Lost(other.to_string())),
            Err(_) => Err(GpuFault::Lost("the driver reported a lost device while waiting".into())),
        }
    }

    /// The first fault that the device reported, if any.
    ///
    /// # Errors
    /// That fault.
    pub fn check(&self) -> Result<(), GpuFault> {
        self.faults.check()
    }
}

fn encode(encoder: &mut wgpu::CommandEncoder, commands: &[Command]) {
    let mut pass: Option<wgpu::ComputePass<'_>> = None;
    let mut rest = commands;
    while let Some((command, tail)) = rest.split_first() {
        rest = tail;
        match command {
            Command::Dispatch { kernel, bind_group, groups, .. } => {
                let pass = pass.get_or_insert_with(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime());
                pass.set_pipeline(&kernel.pipeline);
                pass.set_bind_group(0, bind_group, &[]);
                pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
            }
            Command::Clear(tensor) => {
                pass = None;
                encoder.clear_buffer(&tensor.buffer, tensor.offset, Some(tensor.bytes()));
            }
            Command::Copy { from, to } => {
                pass = None;
                encoder.copy_buffer_to_buffer(&from.buffer, from.offset, &to.buffer, to.offset, from.bytes());
            }
        }
    }
}

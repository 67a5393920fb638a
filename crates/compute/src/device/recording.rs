//! A recording is a list of ops, created once and replayed every step: nothing is allocated, compiled or bound in between.
//!
//! An op is recorded with two functions: one records its WGSL dispatches for a GPU, the other computes it on the CPU. Both have the same
//! bindings under the same names, and a buffer bound for writing must not be bound a second time.

use super::gpu::{self, Dispatcher, Gpu};
use super::open::Engine;
use super::{Cpu, Device, DeviceFault, Tensor};
use std::ops::Range;
use std::panic::AssertUnwindSafe;

/// Cost of an op, for splitting submissions and for profiles.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Floating-point operations: multiply-adds times two.
    pub flops: f64,
    /// Bytes read and written, each tensor once.
    pub bytes: f64,
}

/// `bind!(x, gain)` = `[("x", &x), ("gain", &gain)]`: the Rust variable's name is the WGSL variable's name.
#[macro_export]
macro_rules! bind {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), &$name)),*] };
}

/// Name, cost and bindings of an op, for any device.
pub struct Op<'a, const R: usize, const W: usize> {
    /// `stem.entry`, for messages and profiles.
    pub name: &'static str,
    /// Its cost.
    pub cost: Cost,
    /// Tensors that are only read, by their WGSL variable names.
    pub reads: [(&'static str, &'a Tensor); R],
    /// Tensors that are written; elements that the op does not write are unchanged.
    pub writes: [(&'static str, &'a Tensor); W],
}

/// A finished recording.
pub struct Recording {
    name: String,
    body: Body,
    /// Every tensor that is written, with the number of commands after which it is.
    writes: Vec<(Tensor, usize)>,
}

enum Body {
    Gpu(Vec<gpu::GpuCommand>),
    Cpu(Vec<HostCommand>),
}

struct HostCommand {
    name: &'static str,
    cost: Cost,
    run: Box<dyn Fn(&Cpu) + Send + Sync>,
}

/// One line of a profile: all calls of one op.
#[derive(Clone, Debug)]
pub struct ProfileRow {
    /// `stem.entry`.
    pub kernel: String,
    /// Number of calls.
    pub calls: usize,
    /// Their total time.
    pub seconds: f64,
    /// Their total cost.
    pub cost: Cost,
}

/// A recording under construction.
pub struct Recorder<'d> {
    device: &'d Device,
    recording: Recording,
    uniforms: gpu::UniformPool,
    /// The first error while recording; returned when the recording is finished.
    error: Option<String>,
}

impl<'d> Recorder<'d> {
    /// An empty recording for this device.
    pub fn new(device: &'d Device, name: &str) -> Self {
        let body = match device.engine {
            Engine::Gpu(_) => Body::Gpu(Vec::new()),
            Engine::Cpu(_) => Body::Cpu(Vec::new()),
        };
        let recording = Recording { name: name.to_string(), body, writes: Vec::new() };
        Self { device, recording, uniforms: gpu::UniformPool::default(), error: None }
    }

    /// The target device.
    pub fn device(&self) -> &'d Device {
        self.device
    }

    /// Append an op. `wgsl` records its dispatches on a GPU; `host` computes it on the CPU, with the words of the bound tensors in the order of `op`.
    /// Errors are kept for [`Recorder::finish`].
    ///
    /// # Panics
    /// When a buffer bound for writing is bound twice, or names, access or uniform fields do not match the WGSL: defects of the caller,
    /// found by the first test that records the op.
    pub fn op<const R: usize, const W: usize>(
        &mut self,
        op: Op<'_, R, W>,
        wgsl: impl FnOnce(&mut Dispatcher<'_>) -> anyhow::Result<()>,
        host: impl Fn(&Cpu, [&[f32]; R], [&mut [f32]; W]) + Send + Sync + 'static,
    ) {
        let Op { name, cost, reads, writes } = op;
        check_bindings(name, &reads, &writes);
        let written = writes.map(|(_, tensor)| tensor.clone());
        match (&self.device.engine, &mut self.recording.body) {
            (Engine::Gpu(gpu), Body::Gpu(commands)) => {
                let (device, uniforms) = (self.device, &mut self.uniforms);
                let used = Vec::new();
                let mut dispatcher = Dispatcher { device, gpu, commands, uniforms, reads: &reads, writes: &writes, cost, used };
                match wgsl(&mut dispatcher) {
                    Ok(()) => dispatcher.check_used(name),
                    Err(error) => self.fail(&error),
                }
            }
            (Engine::Cpu(_), Body::Cpu(commands)) => {
                let (reads, writes) = (reads.map(|(_, t)| t.clone()), writes.map(|(_, t)| t.clone()));
                let run = move |cpu: &Cpu| {
                    let read = reads.each_ref().map(Tensor::lock_for_reading);
                    let mut written = writes.each_ref().map(Tensor::lock_for_writing);
                    host(cpu, read.each_ref().map(|t| t.values()), written.each_mut().map(|t| t.values()));
                };
                commands.push(HostCommand { name, cost, run: Box::new(run) });
            }
            _ => unreachable!("made by `new` for the same device"),
        }
        written.into_iter().for_each(|tensor| self.note_write(tensor));
    }

    /// The last command writes this tensor.
    fn note_write(&mut self, tensor: Tensor) {
        let after = self.recording.len();
        self.recording.writes.push((tensor, after));
    }

    /// Append: zero a tensor.
    pub fn clear(&mut self, tensor: &Tensor) {
        let (tensor, written) = (tensor.clone(), tensor.clone());
        match &mut self.recording.body {
            Body::Gpu(commands) => commands.push(gpu::GpuCommand::Clear(tensor)),
            Body::Cpu(commands) => {
                let cost = Cost { flops: 0.0, bytes: tensor.bytes() as f64 };
                let run = move |cpu: &Cpu| cpu.fill_zero(tensor.lock_for_writing().values());
                commands.push(HostCommand { name: "clear", cost, run: Box::new(run) });
            }
        }
        self.note_write(written);
    }

    /// Append: copy a tensor to another of the same size in another buffer.
    ///
    /// # Panics
    /// When sizes differ or both are in one buffer (a defect of the caller).
    pub fn copy(&mut self, from: &Tensor, to: &Tensor) {
        assert_eq!((from.len(), from.element()), (to.len(), to.element()), "copy {} to {}", from.name(), to.name());
        assert!(!from.shares_buffer(to), "copy {} to {} in one buffer", from.name(), to.name());
        let (from, to, written) = (from.clone(), to.clone(), to.clone());
        match &mut self.recording.body {
            Body::Gpu(commands) => commands.push(gpu::GpuCommand::Copy { from, to }),
            Body::Cpu(commands) => {
                let cost = Cost { flops: 0.0, bytes: 2.0 * from.bytes() as f64 };
                let run = move |cpu: &Cpu| cpu.copy(from.lock_for_reading().values(), to.lock_for_writing().values());
                commands.push(HostCommand { name: "copy", cost, run: Box::new(run) });
            }
        }
        self.note_write(written);
    }

    /// Store an error that occurred while recording; [`Recorder::finish`] returns it.
    pub fn fail(&mut self, error: &anyhow::Error) {
        self.error.get_or_insert_with(|| format!("{error:#}"));
    }

    /// The recording, or the first error that occurred while recording.
    ///
    /// # Errors
    /// A kernel that the driver refused, or a validation error.
    pub fn finish(self) -> anyhow::Result<Recording> {
        if let Some(error) = self.error {
            anyhow::bail!("{}: {error}", self.recording.name);
        }
        self.device.check()?;
        Ok(self.recording)
    }
}

fn check_bindings(op: &str, reads: &[(&'static str, &Tensor)], writes: &[(&'static str, &Tensor)]) {
    for (name, written) in writes {
        let clash = reads.iter().chain(writes).find(|(other, t)| other != name && t.shares_buffer(written));
        assert!(clash.is_none(), "{op}: `{name}` is written and shares a buffer with `{}`", clash.map_or("", |c| c.0));
    }
}

impl Recording {
    /// Number of commands, for [`Device::replay_part`].
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Gpu(commands) => commands.len(),
            Body::Cpu(commands) => commands.len(),
        }
    }

    /// True without commands.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of commands after which no element of the tensor changes any more; 0 if none writes to it.
    pub fn final_after(&self, tensor: &Tensor) -> usize {
        self.writes.iter().rev().find(|(written, _)| written.overlaps(tensor)).map_or(0, |(_, after)| *after)
    }

    /// Number of dispatches of a GPU, or of functions of the CPU.
    pub fn dispatches(&self) -> usize {
        self.costs().filter(|(name, _)| !matches!(*name, "clear" | "copy")).count()
    }

    /// Total floating-point operations of the ops.
    pub fn flops(&self) -> f64 {
        self.costs().map(|(_, cost)| cost.flops).sum()
    }

    fn costs(&self) -> Box<dyn Iterator<Item = (&str, Cost)> + '_> {
        match &self.body {
            Body::Gpu(commands) => Box::new(commands.iter().map(gpu::GpuCommand::name_and_cost)),
            Body::Cpu(commands) => Box::new(commands.iter().map(|c| (c.name, c.cost))),
        }
    }
}

impl Device {
    /// Run a recording. A GPU gets it in submissions of at most ~100 ms of estimated work, without waiting; the CPU has finished when this
    /// returns.
    ///
    /// # Errors
    /// A fault that the device reported since the last call.
    ///
    /// # Panics
    /// When the recording was made for another kind of device (a defect of the caller).
    pub fn replay(&self, recording: &Recording) -> Result<(), DeviceFault> {
        self.replay_times(recording, 1)
    }

    /// Run a recording several times; see [`Device::replay`].
    ///
    /// # Errors
    /// As [`Device::replay`].
    ///
    /// # Panics
    /// As [`Device::replay`].
    pub fn replay_times(&self, recording: &Recording, times: usize) -> Result<(), DeviceFault> {
        match (&self.engine, &recording.body) {
            (Engine::Gpu(gpu), Body::Gpu(commands)) => gpu.submit_times(&recording.name, commands, times, &self.rates()),
            (Engine::Cpu(cpu), Body::Cpu(commands)) => {
                self.check()?;
                for _ in 0..times {
                    self.run_on_cpu(cpu, commands);
                }
            }
            _ => panic!("{}: recorded for another device", recording.name),
        }
        self.check()
    }

    /// Run a range of the commands of a recording; see [`Device::replay`].
    ///
    /// # Errors
    /// As [`Device::replay`].
    ///
    /// # Panics
    /// As [`Device::replay`], or when the range exceeds the recording.
    pub fn replay_part(&self, recording: &Recording, part: Range<usize>) -> Result<(), DeviceFault> {
        match (&self.engine, &recording.body) {
            (Engine::Gpu(gpu), Body::Gpu(commands)) => gpu.submit_split(&recording.name, &commands[part], &self.rates()),
            (Engine::Cpu(cpu), Body::Cpu(commands)) => {
                self.check()?;
                self.run_on_cpu(cpu, &commands[part]);
            }
            _ => panic!("{}: recorded for another device", recording.name),
        }
        self.check()
    }

    /// Run with a wait after every op, for profiles (slow).
    ///
    /// # Errors
    /// A fault of the device.
    ///
    /// # Panics
    /// As [`Device::replay`].
    pub fn profile(&self, recording: &Recording) -> Result<Vec<ProfileRow>, DeviceFault> {
        let mut rows: Vec<ProfileRow> = Vec::new();
        self.wait()?;
        for (i, (kernel, cost)) in recording.costs().enumerate() {
            let begin = web_time::Instant::now();
            match (&self.engine, &recording.body) {
                (Engine::Gpu(gpu), Body::Gpu(commands)) => gpu.submit(&recording.name, &commands[i..=i], 1),
                (Engine::Cpu(cpu), Body::Cpu(commands)) => self.run_on_cpu(cpu, &commands[i..=i]),
                _ => panic!("{}: recorded for another device", recording.name),
            }
            self.wait()?;
            let seconds = begin.elapsed().as_secs_f64();
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

    /// Run on the thread pool; a panic in a function becomes the device's fault.
    fn run_on_cpu(&self, cpu: &Cpu, commands: &[HostCommand]) {
        let mut current = "";
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            cpu.install(|| {
                for command in commands {
                    current = command.name;
                    (command.run)(cpu);
                }
            });
        }));
        if let Err(payload) = outcome {
            let message = super::cpu::panic_message(payload.as_ref());
            self.faults.raise(DeviceFault::Panicked { op: current.to_string(), message });
        }
    }

    pub(super) fn gpu_of(&self, what: &str) -> &Gpu {
        match &self.engine {
            Engine::Gpu(gpu) => gpu,
            Engine::Cpu(_) => panic!("{what}: made for another device"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Selection;

    fn cpu(threads: usize) -> Device {
        Device::open(Selection { adapter: Some("cpu".into()), threads: Some(threads), ..Selection::default() }).unwrap()
    }

    fn op<'a>(x: &'a Tensor, y: &'a Tensor) -> Op<'a, 1, 1> {
        Op { name: "test.double", cost: Cost::default(), reads: bind!(x), writes: bind!(y) }
    }

    #[test]
    fn ops_run_in_order() {
        let device = cpu(2);
        let [x, y, z] = ["x", "y", "z"].map(|name| Tensor::new(&device, "test", name, &[3]));
        device.write(&x, &[1.0f32, 2.0, 3.0]);
        let mut r = Recorder::new(&device, "test");
        let double = |_: &Cpu, [x]: [&[f32]; 1], [y]: [&mut [f32]; 1]| y.iter_mut().zip(x).for_each(|(y, x)| *y = 2.0 * x);
        r.op(op(&x, &y), |_| Ok(()), double);
        r.op(op(&y, &z), |_| Ok(()), double);
        r.copy(&z, &x);
        r.clear(&y);
        let r = r.finish().unwrap();
        assert_eq!(r.dispatches(), 2);
        device.replay_times(&r, 2).unwrap();
        assert_eq!(device.read::<f32>(&x).unwrap(), [16.0, 32.0, 48.0]);
        assert_eq!(device.read::<f32>(&y).unwrap(), [0.0; 3]);
    }

    /// Parts of a recording give the result of the whole, and a tensor has its last value after [`Recording::final_after`] commands.
    #[test]
    fn parts_are_the_whole() {
        let device = Device::open_named(None).unwrap();
        let all = Tensor::new(&device, "test", "all", &[256]);
        let (low, high) = (all.slice(0..128), all.slice(128..256));
        let [x, never] = ["x", "never"].map(|name| Tensor::new(&device, "test", name, &[128]));
        let mut r = Recorder::new(&device, "test");
        r.copy(&x, &low);
        r.copy(&x, &high);
        r.clear(&all.slice(192..256));
        r.clear(&x);
        let r = r.finish().unwrap();
        let after = [&low, &high, &all.slice(128..192), &all, &x, &never].map(|tensor| r.final_after(tensor));
        assert_eq!((r.len(), after), (4, [1, 3, 2, 3, 4, 0]));
        device.write(&x, &[7.0f32; 128]);
        device.replay_part(&r, 0..1).unwrap();
        assert_eq!(device.read::<f32>(&all).unwrap(), [vec![7.0; 128], vec![0.0; 128]].concat());
        device.replay_part(&r, 1..3).unwrap();
        device.replay_part(&r, 3..3).unwrap();
        device.replay_part(&r, 3..4).unwrap();
        assert_eq!(device.read::<f32>(&all).unwrap(), [vec![7.0; 192], vec![0.0; 64]].concat());
        assert_eq!(device.read::<f32>(&x).unwrap(), [0.0; 128]);
    }

    /// A panic in a CPU function becomes the device's fault, with the op's name and the message; the process continues.
    #[test]
    fn a_panic_becomes_a_fault() {
        let device = cpu(2);
        let [x, y] = ["x", "y"].map(|name| Tensor::new(&device, "test", name, &[3]));
        let mut r = Recorder::new(&device, "test");
        r.op(
            op(&x, &y),
            |_| Ok(()),
            |cpu, [x], _| {
                cpu.for_each(8, |i| assert!(i < 7 && x.len() == 3, "index {i} is out of reach"));
            },
        );
        let r = r.finish().unwrap();
        let fault = device.replay(&r).unwrap_err();
        let DeviceFault::Panicked { op, message } = &fault else { panic!("{fault}") };
        assert!(op == "test.double" && message.contains("index 7 is out of reach"), "{fault}");
        assert_eq!(device.replay(&r).unwrap_err(), fault);
        assert!(device.wait().is_err());
    }

    #[test]
    #[should_panic(expected = "`y` is written and shares a buffer with `x`")]
    fn a_written_buffer_is_bound_once() {
        let device = cpu(1);
        let whole = Tensor::new(&device, "test", "whole", &[128]);
        let (x, y) = (whole.slice(0..64), whole.slice(64..128));
        Recorder::new(&device, "test").op(op(&x, &y), |_| Ok(()), |_, _, _| {});
    }
}

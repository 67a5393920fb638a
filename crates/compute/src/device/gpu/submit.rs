//! Submission of recordings, in parts short enough for watchdogs, and waiting for them.

use super::{Gpu, GpuCommand};
use crate::device::{Cost, DeviceFault, Rates};
use std::time::Duration;

/// Maximum estimated seconds of one submission: watchdogs start at a few hundred milliseconds.
const SUBMISSION_SECONDS: f64 = 0.1;

impl GpuCommand {
    /// Name in profiles, and cost.
    pub(in crate::device) fn name_and_cost(&self) -> (&str, Cost) {
        match self {
            Self::Dispatch { kernel, cost, .. } => (kernel.name.as_str(), *cost),
            Self::Clear(_) => ("clear", Cost::default()),
            Self::Copy { .. } => ("copy", Cost::default()),
        }
    }

    /// Estimated time.
    fn seconds(&self, rates: &Rates) -> f64 {
        match self {
            Self::Dispatch { cost, .. } => {
                cost.flops / rates.flops_per_second + cost.bytes / rates.bytes_per_second + rates.launch_seconds
            }
            Self::Clear(_) | Self::Copy { .. } => 0.0,
        }
    }
}

impl Gpu {
    /// Submit, in several submissions when it is more than ~100 ms of estimated work. Does not wait.
    pub(in crate::device) fn submit_split(&self, name: &str, commands: &[GpuCommand], rates: &Rates) {
        let mut start = 0;
        let mut seconds = 0.0;
        for (i, command) in commands.iter().enumerate() {
            let estimate = command.seconds(rates);
            if i > start && seconds + estimate > SUBMISSION_SECONDS {
                self.submit(name, &commands[start..i], 1);
                start = i;
                seconds = 0.0;
            }
            seconds += estimate;
        }
        self.submit(name, &commands[start..], 1);
    }

    /// Submit several times, as many of them in a submission as ~100 ms of estimated work allow. Does not wait.
    pub(in crate::device) fn submit_times(&self, name: &str, commands: &[GpuCommand], times: usize, rates: &Rates) {
        let seconds: f64 = commands.iter().map(|c| c.seconds(rates)).sum();
        let at_once = ((SUBMISSION_SECONDS / seconds.max(1e-9)) as usize).clamp(1, times.max(1));
        for first in (0..times).step_by(at_once) {
            match at_once.min(times - first) {
                1 => self.submit_split(name, commands, rates),
                several => self.submit(name, commands, several),
            }
        }
    }

    /// One submission. Does not wait.
    pub(in crate::device) fn submit(&self, name: &str, commands: &[GpuCommand], times: usize) {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(name) });
        (0..times).for_each(|_| encode(&mut encoder, commands));
        self.status.append(&mut encoder);
        self.queue.submit([encoder.finish()]);
    }

    /// Wait for a submission, or for all of them.
    pub(in crate::device) fn poll(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), DeviceFault> {
        const TIMEOUT_SECONDS: u64 = 120;
        let poll = || {
            self.device.poll(wgpu::PollType::Wait {
                submission_index: submission.clone(),
                timeout: Some(Duration::from_secs(TIMEOUT_SECONDS)),
            })
        };
        // wgpu 30 panics inside poll when the device is lost.
        let mut outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&poll));
        if matches!(outcome, Ok(Err(wgpu::PollError::Timeout))) {
            // The process may have been suspended (Ctrl-Z, a sleeping laptop): the clock continued, the device did not.
            outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&poll));
        }
        match outcome {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(wgpu::PollError::Timeout)) => Err(DeviceFault::Timeout(TIMEOUT_SECONDS)),
            Ok(Err(other)) => Err(DeviceFault::Lost(other.to_string())),
            Err(_) => Err(DeviceFault::Lost("the driver reported a lost device while waiting".into())),
        }
    }
}

fn encode(encoder: &mut wgpu::CommandEncoder, commands: &[GpuCommand]) {
    let mut pass: Option<wgpu::ComputePass<'_>> = None;
    let mut rest = commands;
    while let Some((command, tail)) = rest.split_first() {
        rest = tail;
        match command {
            GpuCommand::Dispatch { kernel, bind_group, groups, .. } => {
                let pass = pass.get_or_insert_with(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime());
                pass.set_pipeline(&kernel.pipeline);
                pass.set_bind_group(0, bind_group, &[]);
                pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
            }
            GpuCommand::Clear(tensor) => {
                pass = None;
                let (memory, offset) = tensor.on_gpu();
                for (buffer, at, piece) in memory.pieces(offset, tensor.bytes(), u64::MAX) {
                    encoder.clear_buffer(buffer, at, Some(piece.end - piece.start));
                }
            }
            GpuCommand::Copy { from, to } => {
                pass = None;
                let ((source, source_offset), (target, target_offset)) = (from.on_gpu(), to.on_gpu());
                for (read, from_at, piece) in source.pieces(source_offset, from.bytes(), u64::MAX) {
                    for (written, to_at, part) in target.pieces(target_offset + piece.start, piece.end - piece.start, u64::MAX) {
                        encoder.copy_buffer_to_buffer(read, from_at + part.start, written, to_at, part.end - part.start);
                    }
                }
            }
        }
    }
}

//! Asynchronous reads of a small tensor, with the device's count of submissions appended.

use super::Gpu;
use crate::device::{DeviceFault, Tensor};
use std::collections::VecDeque;
use std::sync::mpsc;

/// The GPU side of a ring of reads.
pub(in crate::device) struct GpuReadRing {
    free: Vec<wgpu::Buffer>,
    pending: VecDeque<(wgpu::Buffer, wgpu::SubmissionIndex, mpsc::Receiver<bool>, u32)>,
    bytes: u64,
}

impl GpuReadRing {
    pub(in crate::device) fn new(gpu: &Gpu, bytes: u64, depth: usize) -> Self {
        Self { free: (0..depth).map(|_| gpu.staging(bytes + 16)).collect(), pending: VecDeque::new(), bytes }
    }

    pub(in crate::device) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(in crate::device) fn request(&mut self, gpu: &Gpu, tensor: &Tensor) {
        let Some(staging) = self.free.pop() else { panic!("the read ring is full") };
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let (memory, offset) = tensor.on_gpu();
        let (buffer, offset) = memory.single(offset, tensor.bytes());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, tensor.bytes());
        gpu.status.append(&mut encoder);
        let expected = gpu.status.copy_to(&mut encoder, &staging, self.bytes);
        let submission = gpu.queue.submit([encoder.finish()]);
        let (done, ready) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, 0..self.bytes + 16, move |r| {
            let _ = done.send(r.is_ok());
        });
        self.pending.push_back((staging, submission, ready, expected));
    }

    /// Wait for the oldest read; `read` gets its bytes.
    pub(in crate::device) fn take<R>(
        &mut self,
        gpu: &Gpu,
        check: impl Fn() -> Result<(), DeviceFault>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, DeviceFault> {
        let Some((staging, submission, ready, sent)) = self.pending.pop_front() else { panic!("nothing was asked for") };
        gpu.poll(Some(submission))?;
        check()?;
        if ready.recv() != Ok(true) {
            return Err(DeviceFault::Lost("a read-back buffer could not be mapped".into()));
        }
        let (out, ran) = {
            let view = staging.get_mapped_range(0..self.bytes + 16).map_err(|e| DeviceFault::Validation(e.to_string()))?;
            let (values, count) = view.split_at(self.bytes as usize);
            (read(values), u32::from_le_bytes([count[0], count[1], count[2], count[3]]))
        };
        staging.unmap();
        self.free.push(staging);
        if ran != sent {
            return Err(DeviceFault::Silent { ran, sent });
        }
        Ok(out)
    }
}

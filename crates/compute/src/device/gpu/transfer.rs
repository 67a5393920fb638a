//! Bytes to and from a GPU.

use super::Gpu;
use crate::device::{DeviceFault, Tensor};
use std::sync::mpsc;

/// A buffer in a GPU's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::device) struct GpuBuffer(pub(super) wgpu::Buffer);

/// wgpu stages a copy of each write and read; large ones are split to keep the staging small.
const PIECE: usize = 32 << 20;

impl Gpu {
    pub(in crate::device) fn new_buffer(&self, name: &str, bytes: u64) -> GpuBuffer {
        GpuBuffer(self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(name),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        }))
    }

    pub(in crate::device) fn write(&self, tensor: &Tensor, bytes: &[u8]) {
        let (GpuBuffer(buffer), offset) = tensor.on_gpu();
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            self.queue.write_buffer(buffer, offset + (i * PIECE) as u64, piece);
            if bytes.len() > PIECE {
                self.queue.submit([]);
            }
        }
    }

    /// Fill `bytes` from the tensor; waits.
    pub(in crate::device) fn read(
        &self,
        tensor: &Tensor,
        bytes: &mut [u8],
        check: impl Fn() -> Result<(), DeviceFault>,
    ) -> Result<(), DeviceFault> {
        let (GpuBuffer(buffer), offset) = tensor.on_gpu();
        let staging = self.staging(PIECE.min(bytes.len().max(4)) as u64);
        for (i, piece) in bytes.chunks_mut(PIECE).enumerate() {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, offset + (i * PIECE) as u64, &staging, 0, piece.len() as u64);
            self.status.append(&mut encoder);
            let submission = self.queue.submit([encoder.finish()]);
            let (done, ready) = mpsc::channel();
            staging.map_async(wgpu::MapMode::Read, 0..piece.len() as u64, move |r| {
                let _ = done.send(r.is_ok());
            });
            self.poll(Some(submission))?;
            check()?;
            if ready.recv() != Ok(true) {
                return Err(DeviceFault::Lost("a read-back buffer could not be mapped".into()));
            }
            {
                let view = staging.get_mapped_range(0..piece.len() as u64).map_err(|e| DeviceFault::Validation(e.to_string()))?;
                piece.copy_from_slice(&view);
            }
            staging.unmap();
        }
        Ok(())
    }

    pub(super) fn staging(&self, size: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }
}

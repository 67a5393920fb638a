//! Bytes to and from a GPU.

use super::Gpu;
use crate::device::{DeviceFault, Tensor};
use std::ops::Range;
use std::sync::{Arc, mpsc};

/// Memory of a GPU: one buffer, or several where one would be larger than a device allocates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::device) struct GpuBuffer {
    parts: Arc<[wgpu::Buffer]>,
    /// Of each part but the last.
    part_bytes: u64,
}

impl GpuBuffer {
    /// The buffer that holds these bytes, and where in it.
    ///
    /// # Panics
    /// When they are in two buffers (a defect of the caller).
    pub(in crate::device) fn single(&self, offset: u64, bytes: u64) -> (&wgpu::Buffer, u64) {
        let (part, start) = (offset / self.part_bytes, offset % self.part_bytes);
        assert!(start + bytes <= self.part_bytes, "{bytes} bytes from {offset} are in several buffers");
        (&self.parts[part as usize], start)
    }

    /// These bytes in pieces of at most `most`, each in one buffer: (buffer, offset in it, which of the bytes).
    pub(in crate::device) fn pieces(
        &self,
        offset: u64,
        bytes: u64,
        most: u64,
    ) -> impl Iterator<Item = (&wgpu::Buffer, u64, Range<u64>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let (part, start) = ((offset + done) / self.part_bytes, (offset + done) % self.part_bytes);
            let piece = done..done + most.min(self.part_bytes - start).min(bytes - done);
            done = piece.end;
            (!piece.is_empty()).then(|| (&self.parts[part as usize], start, piece))
        })
    }
}

/// wgpu stages a copy of each write and read; large ones are split to keep the staging small.
const PIECE: u64 = 32 << 20;

impl Gpu {
    /// Memory in buffers of at most `part_bytes` each.
    pub(in crate::device) fn new_buffer(&self, name: &str, bytes: u64, part_bytes: u64) -> GpuBuffer {
        let part_bytes = part_bytes.min(bytes);
        let part = |start| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(name),
                size: part_bytes.min(bytes - start),
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        GpuBuffer { parts: (0..bytes).step_by(part_bytes as usize).map(part).collect(), part_bytes }
    }

    pub(in crate::device) fn write(&self, tensor: &Tensor, bytes: &[u8]) {
        let (memory, offset) = tensor.on_gpu();
        for (buffer, at, piece) in memory.pieces(offset, bytes.len() as u64, PIECE) {
            self.queue.write_buffer(buffer, at, &bytes[piece.start as usize..piece.end as usize]);
            if bytes.len() as u64 > PIECE {
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
        let (memory, offset) = tensor.on_gpu();
        let staging = self.staging(PIECE.min(bytes.len().max(4) as u64));
        for (buffer, at, piece) in memory.pieces(offset, bytes.len() as u64, PIECE) {
            let piece = &mut bytes[piece.start as usize..piece.end as usize];
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, at, &staging, 0, piece.len() as u64);
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

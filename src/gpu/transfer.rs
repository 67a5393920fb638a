//! Bytes to and from the device.

use super::{Gpu, GpuFault, Tensor};
use std::collections::VecDeque;
use std::sync::mpsc;

impl Gpu {
    pub(super) fn new_buffer(&self, purpose: &str, name: &str, elements: usize) -> wgpu::Buffer {
        // Rounded so that a binding may always be read as vec4.
        let size = (4 * elements as u64).next_multiple_of(16).max(16);
        self.ledger.add(purpose, size);
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(name),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// Write the first elements of a tensor. Takes effect before the next replay.
    ///
    /// # Panics
    /// When there are more elements than the tensor holds (a defect of the caller).
    pub fn write<T: bytemuck::Pod>(&self, tensor: &Tensor, data: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        assert!(bytes.len() as u64 <= tensor.bytes(), "{}: {} bytes into {}", tensor.name(), bytes.len(), tensor.bytes());
        // wgpu stages a copy of each write; large ones go in pieces so that the staging stays small.
        const PIECE: usize = 32 << 20;
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            self.queue.write_buffer(&tensor.buffer, tensor.offset + (i * PIECE) as u64, piece);
            if bytes.len() > PIECE {
                self.queue.submit([]);
            }
        }
    }

    /// Read a whole tensor; waits for the device. Large tensors come in pieces.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn read<T: bytemuck::Pod>(&self, tensor: &Tensor) -> Result<Vec<T>, GpuFault> {
        const PIECE: u64 = 32 << 20;
        let mut out = vec![T::zeroed(); tensor.bytes() as usize / std::mem::size_of::<T>()];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut out);
        let size = PIECE.min(tensor.bytes().max(4));
        let staging = self.staging(size);
        for (i, piece) in bytes.chunks_mut(PIECE as usize).enumerate() {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            let from = tensor.offset + i as u64 * PIECE;
            encoder.copy_buffer_to_buffer(&tensor.buffer, from, &staging, 0, piece.len() as u64);
            self.status.append(&mut encoder);
            let submission = self.queue.submit([encoder.finish()]);
            let (done, ready) = mpsc::channel();
            staging.map_async(wgpu::MapMode::Read, 0..piece.len() as u64, move |r| {
                let _ = done.send(r.is_ok());
            });
            self.poll(Some(submission))?;
            self.check()?;
            if ready.recv() != Ok(true) {
                return Err(GpuFault::Lost("a read-back buffer could not be mapped".into()));
            }
            {
                let view = staging.get_mapped_range(0..piece.len() as u64).map_err(|e| GpuFault::Validation(e.to_string()))?;
                piece.copy_from_slice(&view);
            }
            staging.unmap();
        }
        Ok(out)
    }

    fn staging(&self, size: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }
}

/// Reads a small tensor once a step without stalling: results come in order, a step late.
pub struct ReadRing {
    free: Vec<wgpu::Buffer>,
    pending: VecDeque<(wgpu::Buffer, wgpu::SubmissionIndex, mpsc::Receiver<bool>, u32)>,
    bytes: u64,
}

impl ReadRing {
    /// A ring for tensors of `len` elements, with `depth` reads under way at most. The device's count of submissions comes along.
    pub fn new(gpu: &Gpu, len: usize, depth: usize) -> Self {
        let bytes = 4 * len as u64;
        Self { free: (0..depth).map(|_| gpu.staging(bytes + 16)).collect(), pending: VecDeque::new(), bytes }
    }

    /// Reads that were asked for and not yet taken.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Ask for the tensor's value as of now (after everything replayed so far).
    ///
    /// # Panics
    /// When more reads are asked for than the ring is deep (a defect of the caller).
    pub fn ask(&mut self, gpu: &Gpu, tensor: &Tensor) {
        assert!(tensor.bytes() <= self.bytes, "{}: larger than the ring", tensor.name());
        let Some(staging) = self.free.pop() else { panic!("the read ring is full") };
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&tensor.buffer, tensor.offset, &staging, 0, tensor.bytes());
        gpu.status.append(&mut encoder);
        let expected = gpu.status.copy_to(&mut encoder, &staging, self.bytes);
        let submission = gpu.queue.submit([encoder.finish()]);
        let (done, ready) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, 0..self.bytes + 16, move |r| {
            let _ = done.send(r.is_ok());
        });
        self.pending.push_back((staging, submission, ready, expected));
    }

    /// The oldest value asked for; waits only if the device has not come that far.
    ///
    /// # Errors
    /// A fault of the device, submissions that vanished among them.
    ///
    /// # Panics
    /// When nothing was asked for (a defect of the caller).
    pub fn take<T: bytemuck::Pod>(&mut self, gpu: &Gpu) -> Result<Vec<T>, GpuFault> {
        let Some((staging, submission, ready, sent)) = self.pending.pop_front() else { panic!("nothing was asked for") };
        gpu.poll(Some(submission))?;
        gpu.check()?;
        if ready.recv() != Ok(true) {
            return Err(GpuFault::Lost("a read-back buffer could not be mapped".into()));
        }
        let (out, ran) = {
            let view = staging.get_mapped_range(0..self.bytes + 16).map_err(|e| GpuFault::Validation(e.to_string()))?;
            let out = bytemuck::pod_collect_to_vec(&view[..self.bytes as usize]);
            (
                out,
                u32::from_le_bytes([
                    view[self.bytes as usize],
                    view[self.bytes as usize + 1],
                    view[self.bytes as usize + 2],
                    view[self.bytes as usize + 3],
                ]),
            )
        };
        staging.unmap();
        self.free.push(staging);
        if ran != sent {
            return Err(GpuFault::Silent { ran, sent });
        }
        Ok(out)
    }
}

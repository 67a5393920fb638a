//! Transfer of numbers to and from a device.

use super::gpu::GpuReadRing;
use super::open::Engine;
use super::{Bf16, Device, DeviceFault, ElementType, F16, StoredNumber, Tensor};
use std::any::TypeId;
use std::collections::VecDeque;

impl Device {
    /// Write the first elements of a tensor as they are stored. Takes effect before the next replay.
    ///
    /// # Panics
    /// When there are more elements than in the tensor, or of another type (a defect of the caller).
    pub fn write<T: bytemuck::Pod>(&self, tensor: &Tensor, data: &[T]) {
        check_type::<T>(tensor);
        let bytes: &[u8] = bytemuck::cast_slice(data);
        assert!(bytes.len() as u64 <= tensor.bytes(), "{}: {} bytes into {}", tensor.name(), bytes.len(), tensor.bytes());
        match &self.engine {
            Engine::Gpu(gpu) => gpu.write(tensor, bytes),
            Engine::Cpu(_) => {
                let mut whole = tensor.lock_for_writing();
                bytemuck::cast_slice_mut(whole.values())[..bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    /// Write the first elements of a tensor, each as the nearest number of its type (ties to even).
    ///
    /// # Panics
    /// As [`Device::write`], or for an odd number of 16-bit elements before others.
    pub fn write_numbers(&self, tensor: &Tensor, numbers: &[f32]) {
        match tensor.element() {
            ElementType::F32 => self.write(tensor, numbers),
            ElementType::Bf16 => self.write_rounded::<Bf16>(tensor, numbers),
            ElementType::F16 => self.write_rounded::<F16>(tensor, numbers),
        }
    }

    fn write_rounded<T: StoredNumber>(&self, tensor: &Tensor, numbers: &[f32]) {
        // Whole words: an odd number gets a zero behind it, in the tensor's padding.
        assert!(numbers.len().is_multiple_of(2) || numbers.len() == tensor.len(), "{}: half a word", tensor.name());
        let padding = std::iter::repeat_n(T::zeroed(), numbers.len() % 2);
        let stored: Vec<T> = numbers.iter().map(|x| T::nearest(*x)).chain(padding).collect();
        self.write(tensor, &stored);
    }

    /// Read a whole tensor as f32, whatever its type; waits for the device.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn read_numbers(&self, tensor: &Tensor) -> Result<Vec<f32>, DeviceFault> {
        fn numbers<T: StoredNumber>(stored: Vec<T>, len: usize) -> Vec<f32> {
            stored.into_iter().take(len).map(T::value).collect()
        }
        match tensor.element() {
            ElementType::F32 => self.read(tensor),
            ElementType::Bf16 => Ok(numbers(self.read::<Bf16>(tensor)?, tensor.len())),
            ElementType::F16 => Ok(numbers(self.read::<F16>(tensor)?, tensor.len())),
        }
    }

    /// Read a whole tensor as it is stored, in whole words; waits for the device.
    ///
    /// # Errors
    /// A fault of the device.
    ///
    /// # Panics
    /// When its elements are of another type (a defect of the caller).
    pub fn read<T: bytemuck::Pod>(&self, tensor: &Tensor) -> Result<Vec<T>, DeviceFault> {
        check_type::<T>(tensor);
        let mut out = vec![T::zeroed(); tensor.bytes() as usize / std::mem::size_of::<T>()];
        match &self.engine {
            Engine::Gpu(gpu) => gpu.read(tensor, bytemuck::cast_slice_mut(&mut out), || self.check())?,
            Engine::Cpu(_) => {
                self.check()?;
                bytemuck::cast_slice_mut(&mut out)
                    .copy_from_slice(bytemuck::cast_slice::<f32, u8>(tensor.lock_for_reading().values()));
            }
        }
        Ok(out)
    }
}

/// 16-bit numbers must not be taken for f32; other types are bits.
fn check_type<T: 'static>(tensor: &Tensor) {
    let mistaken = tensor.element() != ElementType::F32 && TypeId::of::<T>() == TypeId::of::<f32>();
    assert!(!mistaken, "{}: is stored as {:?}", tensor.name(), tensor.element());
}

/// Asynchronous reads of a small tensor every step: results arrive in order, one step late.
pub struct ReadRing {
    body: Body,
    len: usize,
}

enum Body {
    Gpu(GpuReadRing),
    Cpu { free: Vec<Vec<f32>>, pending: VecDeque<Vec<f32>> },
}

impl ReadRing {
    /// A ring for tensors of up to `len` elements, with at most `depth` reads in flight.
    pub fn new(device: &Device, len: usize, depth: usize) -> Self {
        let body = match &device.engine {
            Engine::Gpu(gpu) => Body::Gpu(GpuReadRing::new(gpu, 4 * len as u64, depth)),
            Engine::Cpu(_) => {
                Body::Cpu { free: (0..depth).map(|_| vec![0.0; len]).collect(), pending: VecDeque::with_capacity(depth) }
            }
        };
        Self { body, len }
    }

    /// Number of reads requested and not yet taken.
    pub fn pending(&self) -> usize {
        match &self.body {
            Body::Gpu(ring) => ring.pending(),
            Body::Cpu { pending, .. } => pending.len(),
        }
    }

    /// Whether requested values can be taken without waiting for the device: on the CPU.
    pub fn is_immediate(&self) -> bool {
        matches!(self.body, Body::Cpu { .. })
    }

    /// Request the tensor's current value (after everything replayed so far).
    ///
    /// # Panics
    /// When more than `depth` reads are in flight (a defect of the caller).
    pub fn request(&mut self, device: &Device, tensor: &Tensor) {
        assert!(tensor.len() <= self.len, "{}: larger than the ring", tensor.name());
        match &mut self.body {
            Body::Gpu(ring) => ring.request(device.gpu_of("read ring"), tensor),
            Body::Cpu { free, pending } => {
                let Some(mut values) = free.pop() else { panic!("the read ring is full") };
                values[..tensor.len()].copy_from_slice(tensor.lock_for_reading().values());
                pending.push_back(values);
            }
        }
    }

    /// The oldest requested value; waits only if it has not arrived.
    ///
    /// # Errors
    /// A fault of the device, including lost submissions.
    ///
    /// # Panics
    /// When nothing was requested (a defect of the caller).
    pub fn take<T: bytemuck::Pod>(&mut self, device: &Device) -> Result<Vec<T>, DeviceFault> {
        match &mut self.body {
            Body::Gpu(ring) => ring.take(device.gpu_of("read ring"), || device.check(), bytemuck::pod_collect_to_vec),
            Body::Cpu { free, pending } => {
                device.check()?;
                let Some(values) = pending.pop_front() else { panic!("nothing was asked for") };
                let out = bytemuck::pod_collect_to_vec(&values);
                free.push(values);
                Ok(out)
            }
        }
    }

    /// As [`ReadRing::take`], into a vector whose memory is used again; its length becomes that of the ring.
    ///
    /// # Errors
    /// As [`ReadRing::take`].
    ///
    /// # Panics
    /// As [`ReadRing::take`].
    pub fn take_into(&mut self, device: &Device, out: &mut Vec<f32>) -> Result<(), DeviceFault> {
        let len = self.len;
        match &mut self.body {
            Body::Gpu(ring) => ring.take(
                device.gpu_of("read ring"),
                || device.check(),
                |bytes| {
                    out.resize(len, 0.0);
                    bytemuck::cast_slice_mut(out).copy_from_slice(bytes);
                },
            ),
            Body::Cpu { free, pending } => {
                device.check()?;
                let Some(mut values) = pending.pop_front() else { panic!("nothing was asked for") };
                std::mem::swap(out, &mut values);
                values.resize(len, 0.0);
                free.push(values);
                Ok(())
            }
        }
    }
}

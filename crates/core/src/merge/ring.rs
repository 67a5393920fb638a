//! A ring buffer of the newest N snapshots of the weights: on the device, in host memory, or in temporary files.

use crate::config::RingPlace;
use crate::device::{Arena, Device, Recorder, Recording, Tensor};
use crate::model::Model;
use crate::ops::average;
use anyhow::{Context as _, Result};
use std::collections::VecDeque;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

/// Host memory that a ring may use by default, in bytes.
const HOST_BYTES: u64 = 4 << 30;
/// Numbers of a file merged at once.
const PIECE: usize = 1 << 18;

/// Location for a ring of `bytes`: as set, otherwise the first that is large enough. On the device a ring uses at most `on_device` bytes by
/// default (`Sizes::merge_ring_bytes`).
pub fn choose_place(set: RingPlace, on_device: u64, bytes: u64) -> RingPlace {
    match set {
        RingPlace::Auto if bytes <= on_device => RingPlace::Device,
        RingPlace::Auto if bytes <= HOST_BYTES => RingPlace::Host,
        RingPlace::Auto => RingPlace::Disk,
        set => set,
    }
}

/// A ring buffer of snapshots, counted oldest first.
pub struct Ring {
    /// (step, slot), oldest first.
    held: VecDeque<(u64, usize)>,
    capacity: usize,
    slots: RingSlots,
    segments: Vec<Tensor>,
}

enum RingSlots {
    Device(Box<DeviceSlots>),
    Host(Vec<Vec<Vec<f32>>>),
    Disk(Vec<std::fs::File>),
}

struct DeviceSlots {
    arenas: Vec<Arena>,
    weights: Tensor,
    /// Copies the weights into a slot.
    keep: Vec<Recording>,
    /// Adds a slot to the sum.
    add: Vec<Recording>,
    begin: Recording,
    finish: Recording,
}

impl Ring {
    /// A ring for `capacity` snapshots; merges are computed in `scratch`.
    ///
    /// # Errors
    /// A kernel that does not compile, or temporary files that cannot be created.
    pub fn new(device: &Device, model: &Model, scratch: &Arena, place: RingPlace, capacity: usize) -> Result<Self> {
        let slots = match place {
            RingPlace::Device | RingPlace::Auto => {
                RingSlots::Device(Box::new(DeviceSlots::new(device, model, scratch, capacity)?))
            }
            RingPlace::Host => RingSlots::Host(vec![Vec::new(); capacity]),
            RingPlace::Disk => RingSlots::Disk((0..capacity).map(|_| temporary_file()).collect::<Result<_>>()?),
        };
        let segments = scratch.segments().map(|(t, _)| t.clone()).collect();
        Ok(Self { held: VecDeque::new(), capacity, slots, segments })
    }

    /// Steps of the snapshots, oldest first.
    pub fn steps(&self) -> Vec<u64> {
        self.held.iter().map(|(step, _)| *step).collect()
    }

    /// The slot of the next snapshot: a free one, otherwise the oldest.
    fn next_slot(&mut self) -> usize {
        if self.held.len() == self.capacity
            && let Some((_, slot)) = self.held.pop_front()
        {
            return slot;
        }
        (0..self.capacity).find(|slot| self.held.iter().all(|(_, s)| s != slot)).unwrap_or(0)
    }

    /// Store a snapshot of the model's weights, after everything submitted so far.
    ///
    /// # Errors
    /// A device or disk error.
    pub fn push(&mut self, device: &Device, model: &Model, step: u64) -> Result<()> {
        let slot = self.next_slot();
        match &mut self.slots {
            RingSlots::Device(d) => device.replay(&d.keep[slot])?,
            RingSlots::Host(slots) => slots[slot] = read_segments(device, &model.values)?,
            RingSlots::Disk(files) => write_file(&mut files[slot], &read_segments(device, &model.values)?)?,
        }
        self.held.push_back((step, slot));
        Ok(())
    }

    /// Remove all snapshots.
    pub fn clear(&mut self) {
        self.held.clear();
    }

    /// Write the sum of weight x snapshot to the scratch arena; `weights` are in the order of [`Ring::steps`] and sum to 1.
    ///
    /// On the device in f32, as differences from the current weights; otherwise in f64, rounded once.
    ///
    /// # Errors
    /// A device or disk error.
    pub fn merge(&self, device: &Device, weights: &[f64]) -> Result<()> {
        match &self.slots {
            RingSlots::Device(d) => {
                let mut by_slot = vec![0.0f32; self.capacity];
                self.held.iter().zip(weights).for_each(|((_, slot), w)| by_slot[*slot] = *w as f32);
                device.write(&d.weights, &by_slot);
                device.replay(&d.begin)?;
                // Oldest first, wherever they are stored, so that a resumed run adds in the same order.
                self.held.iter().try_for_each(|(_, slot)| device.replay(&d.add[*slot]))?;
                Ok(device.replay(&d.finish)?)
            }
            RingSlots::Host(slots) => {
                for (i, segment) in self.segments.iter().enumerate() {
                    let parts: Vec<&[f32]> = self.held.iter().map(|(_, slot)| slots[*slot][i].as_slice()).collect();
                    device.write(segment, &average_in_f64(&parts, weights));
                }
                Ok(())
            }
            RingSlots::Disk(files) => self.merge_files(device, files, weights),
        }
    }

    fn merge_files(&self, device: &Device, files: &[std::fs::File], weights: &[f64]) -> Result<()> {
        let mut start = 0u64;
        for segment in &self.segments {
            let mut merged = Vec::with_capacity(segment.len());
            while merged.len() < segment.len() {
                let n = PIECE.min(segment.len() - merged.len());
                let at = start + 4 * merged.len() as u64;
                let pieces: Vec<Vec<f32>> =
                    self.held.iter().map(|(_, slot)| read_piece(&files[*slot], at, n)).collect::<Result<_>>()?;
                merged.extend(average_in_f64(&pieces.iter().map(Vec::as_slice).collect::<Vec<_>>(), weights));
            }
            device.write(segment, &merged);
            start += segment.bytes();
        }
        Ok(())
    }

    /// Copy the i-th snapshot (oldest first) to an arena with the parameters' layout, for writing files; returns its step.
    ///
    /// # Errors
    /// A device or disk error.
    pub fn copy_to_scratch(&self, device: &Device, i: usize) -> Result<u64> {
        let (step, slot) = self.held[i];
        match &self.slots {
            RingSlots::Device(d) => {
                let mut copy = Recorder::new(device, "snapshot");
                d.arenas[slot].segments().zip(&self.segments).for_each(|((from, _), to)| copy.copy(from, to));
                device.replay(&copy.finish()?)?;
            }
            RingSlots::Host(slots) => self.segments.iter().zip(&slots[slot]).for_each(|(t, numbers)| device.write(t, numbers)),
            RingSlots::Disk(files) => {
                let mut start = 0;
                for segment in &self.segments {
                    device.write(segment, &read_piece(&files[slot], start, segment.len())?);
                    start += segment.bytes();
                }
            }
        }
        Ok(step)
    }
}

impl DeviceSlots {
    fn new(device: &Device, model: &Model, scratch: &Arena, capacity: usize) -> Result<Self> {
        let weights = Tensor::new(device, "merge ring", "weights", &[capacity]);
        let arenas: Vec<Arena> = (0..capacity).map(|_| model.parameters.arena(device, "merge ring")).collect();
        let (mut keep, mut add) = (Vec::new(), Vec::new());
        for (i, arena) in arenas.iter().enumerate() {
            let (mut k, mut a) = (Recorder::new(device, "keep a snapshot"), Recorder::new(device, "merge"));
            for (((slot, _), (base, _)), (merged, _)) in arena.segments().zip(model.values.segments()).zip(scratch.segments()) {
                k.copy(base, slot);
                average::accumulate(&mut a, slot, base, &weights, i, merged);
            }
            keep.push(k.finish()?);
            add.push(a.finish()?);
        }
        let (mut begin, mut finish) = (Recorder::new(device, "begin a merge"), Recorder::new(device, "finish a merge"));
        for ((merged, _), (base, _)) in scratch.segments().zip(model.values.segments()) {
            begin.clear(merged);
            average::finish(&mut finish, base, merged);
        }
        Ok(Self { arenas, weights, keep, add, begin: begin.finish()?, finish: finish.finish()? })
    }
}

fn read_segments(device: &Device, arena: &Arena) -> Result<Vec<Vec<f32>>> {
    arena.segments().map(|(t, _)| Ok(device.read(t)?)).collect()
}

/// Sum of weight x part, in f64 and in this order, rounded once.
pub fn average_in_f64(parts: &[&[f32]], weights: &[f64]) -> Vec<f32> {
    let n = parts.first().map_or(0, |p| p.len());
    let mut sum = vec![0.0f64; n];
    for (part, w) in parts.iter().zip(weights) {
        sum.iter_mut().zip(*part).for_each(|(s, x)| *s += w * f64::from(*x));
    }
    sum.iter().map(|s| *s as f32).collect()
}

/// An unnamed file that is deleted when the process ends.
#[cfg(not(target_arch = "wasm32"))]
fn temporary_file() -> Result<std::fs::File> {
    tempfile::tempfile().context("--merge-ring disk: no temporary file can be made; choose host or device")
}

#[cfg(target_arch = "wasm32")]
fn temporary_file() -> Result<std::fs::File> {
    anyhow::bail!("--merge-ring disk: a browser has no disk; choose host or device")
}

fn write_file(file: &mut std::fs::File, segments: &[Vec<f32>]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = &*file;
        file.seek(SeekFrom::Start(0))?;
        segments.iter().try_for_each(|s| file.write_all(bytemuck::cast_slice(s)))
    };
    write().context("a snapshot of --merge-ring disk cannot be written to the folder of temporary files")
}

fn read_piece(mut file: &std::fs::File, at: u64, n: usize) -> Result<Vec<f32>> {
    let mut out = vec![0.0f32; n];
    let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(bytemuck::cast_slice_mut(&mut out)));
    read.context("a snapshot of --merge-ring disk cannot be read")?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Sizes;

    #[test]
    fn a_ring_is_placed_where_it_fits() {
        let place = |set, bytes| choose_place(set, Sizes::GPU.merge_ring_bytes, bytes);
        assert_eq!(place(RingPlace::Auto, 1 << 30), RingPlace::Device);
        assert_eq!(place(RingPlace::Auto, 3 << 30), RingPlace::Host);
        assert_eq!(place(RingPlace::Auto, 9 << 30), RingPlace::Disk);
        assert_eq!(place(RingPlace::Disk, 1), RingPlace::Disk);
        assert_eq!(choose_place(RingPlace::Auto, Sizes::CPU.merge_ring_bytes, 3 << 30), RingPlace::Device);
    }
}

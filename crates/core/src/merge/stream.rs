//! The merge computation: sum(w x) / sum(w) in f64, by tensor and piece, on several threads.
//!
//! Memory is a few pieces per thread, independent of the model's size. The bits do not depend on the number of threads, since one thread
//! computes a piece, nor on the order in which folders are given: the order of addition follows from their content and weight.

use super::inputs::{MergeInputs, MergedTensor, TensorTreatment};
use super::numbers::{accumulate, divide, encode, first_not_finite};
use super::parallel::{default_threads, in_order};
use super::rule::MergeRule;
use crate::device::Device;
use crate::model::Model;
use crate::model_files::safetensors_file::{Dtype, SafetensorsFile, TensorInfo};
use crate::vfs::{clean, display_path};
use anyhow::{Result, anyhow, bail, ensure};

/// Numbers in a piece, the unit of work of a thread.
const PIECE: usize = 1 << 20;
/// Numbers of a piece that are read and added at once; sums and inputs fit into the cache.
const SLICE: usize = 1 << 15;

/// Folders with weights.
#[derive(Debug)]
pub struct WeightedFolders<'a> {
    inputs: &'a MergeInputs,
    /// Oldest first.
    weights: Vec<f64>,
    /// The order in which folders are added.
    order: Vec<usize>,
    total: f64,
    /// Number of threads.
    pub threads: usize,
}

/// A part of a tensor.
struct TensorPiece {
    tensor: usize,
    start: usize,
    len: usize,
}

/// Reused buffers of a thread.
struct PieceBuffers {
    acc: Vec<f64>,
    bytes: Vec<u8>,
    numbers: Vec<f32>,
}

impl PieceBuffers {
    fn new() -> Self {
        Self { acc: vec![0.0; SLICE], bytes: vec![0; 4 * SLICE], numbers: vec![0.0; SLICE] }
    }
}

impl MergeInputs {
    /// Merge these folders with the weights of a rule.
    ///
    /// # Errors
    /// Weights that do not match the number of folders.
    pub fn merge(&self, rule: &MergeRule) -> Result<WeightedFolders<'_>> {
        WeightedFolders::new(self, &rule.raw_weights(self.folders.len())?)
    }
}

impl<'a> WeightedFolders<'a> {
    /// A merge of folders, oldest first; the weights are divided by their sum.
    ///
    /// # Errors
    /// A number of weights that differs from the number of folders, or weights that cannot be divided by their sum.
    pub fn new(inputs: &'a MergeInputs, weights: &[f64]) -> Result<Self> {
        let n = inputs.folders.len();
        ensure!(weights.len() == n, "{} weights for {n} checkpoints", weights.len());
        let mut order: Vec<usize> = (0..n).collect();
        let folder = |i: usize| &inputs.folders[i];
        order.sort_by(|a, b| {
            let content = folder(*a).fingerprint.cmp(&folder(*b).fingerprint);
            content.then(weights[*a].total_cmp(&weights[*b])).then_with(|| folder(*a).dir.cmp(&folder(*b).dir))
        });
        let total: f64 = order.iter().map(|i| weights[*i]).sum();
        ensure!(total.is_finite() && total != 0.0, "weights {weights:?}: their sum is {total}");
        Ok(Self { inputs, weights: weights.to_vec(), order, total, threads: default_threads() })
    }

    /// The input folders.
    pub fn inputs(&self) -> &MergeInputs {
        self.inputs
    }

    /// The weight of each folder, oldest first; they sum to 1.
    pub fn weights(&self) -> Vec<f64> {
        self.weights.iter().map(|w| w / self.total).collect()
    }

    /// All tensors one after another in file format, in the order and types of [`MergeInputs::tensors`]. `sink` receives the bytes in order.
    ///
    /// # Errors
    /// A folder that cannot be read, a number that is not finite, or an error from `sink`.
    pub fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let pieces = (0..self.inputs.tensors.len()).flat_map(|tensor| pieces(tensor, &self.inputs.tensors[tensor])).collect();
        self.run(pieces, None, sink)
    }

    /// A merged tensor as f32, rounded from f64.
    ///
    /// # Errors
    /// A missing tensor, another shape, an integer tensor, or as [`Self::stream`].
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let found = self.inputs.tensors.iter().position(|t| t.name == name);
        let at = || format!("{}: tensor '{}'", display_path(&self.inputs.newest().dir), clean(name));
        let Some(tensor) = found else { bail!("{}: is not there", at()) };
        let info = &self.inputs.tensors[tensor];
        ensure!(info.shape == shape, "{}: has shape {:?}, the model needs {shape:?}", at(), info.shape);
        ensure!(info.treatment == TensorTreatment::Average, "{}: is not a weight", at());
        let mut out = Vec::with_capacity(info.len());
        self.run(pieces(tensor, info).collect(), Some(Dtype::F32), &mut |bytes| {
            out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
            Ok(())
        })?;
        Ok(out)
    }

    /// Merge into a model on the device.
    ///
    /// # Errors
    /// Weights of another model, or as [`Self::stream`].
    pub fn load(&self, device: &Device, model: &Model) -> Result<()> {
        let newest = &self.inputs.newest().weights;
        model.check(newest)?;
        model.fill(device, &model.values, &mut |name, shape| self.read_f32(model.stored(newest, name), shape))
    }

    fn run(&self, pieces: Vec<TensorPiece>, dtype: Option<Dtype>, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let fill = |scratch: &mut PieceBuffers, job: usize, out: &mut Vec<u8>| {
            let piece = &pieces[job];
            let tensor = &self.inputs.tensors[piece.tensor];
            match tensor.treatment {
                TensorTreatment::Average => self.average(tensor, piece, dtype.unwrap_or(tensor.dtype), scratch, out),
                TensorTreatment::Same | TensorTreatment::Newest => self.copy(tensor, piece, scratch, out),
            }
        };
        in_order(pieces.len(), self.threads, PieceBuffers::new, fill, &mut |_, bytes| sink(bytes))
    }

    fn average(
        &self,
        tensor: &MergedTensor,
        piece: &TensorPiece,
        dtype: Dtype,
        scratch: &mut PieceBuffers,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let end = piece.start + piece.len;
        for start in (piece.start..end).step_by(SLICE) {
            let n = SLICE.min(end - start);
            let (acc, mut first) = (&mut scratch.acc[..n], true);
            for i in &self.order {
                let info = &tensor.places[*i].1;
                let bytes = &mut scratch.bytes[..n * info.dtype.bytes() as usize];
                self.read(*i, tensor, start, bytes)?;
                // Adding 0 x would change a -0 to 0; but 0 times a non-finite number must still be detected.
                if self.weights[*i] != 0.0 {
                    accumulate(info.dtype, bytes, self.weights[*i], first, acc);
                    first = false;
                } else if let Some(bad) = first_not_finite(info.dtype, bytes) {
                    return Err(self.not_finite(*i, tensor, start, bad));
                }
            }
            let numbers = &mut scratch.numbers[..n];
            divide(acc, self.total, numbers);
            if !encode(dtype, numbers, out) {
                return Err(self.non_finite_error(tensor, start, n, dtype, &mut scratch.bytes));
            }
        }
        Ok(())
    }

    /// Bytes of the newest folder; for [`TensorTreatment::Same`] those of the others must be equal.
    fn copy(&self, tensor: &MergedTensor, piece: &TensorPiece, scratch: &mut PieceBuffers, out: &mut Vec<u8>) -> Result<()> {
        let last = tensor.places.len() - 1;
        let newest = self.inputs.folders.len() - 1;
        let width = tensor.places[last].1.dtype.bytes() as usize;
        out.resize(piece.len * width, 0);
        self.read(newest, tensor, piece.start, out)?;
        for i in 0..last {
            scratch.bytes.resize(scratch.bytes.len().max(out.len()), 0);
            let bytes = &mut scratch.bytes[..out.len()];
            self.read(i, tensor, piece.start, bytes)?;
            ensure!(
                bytes == out.as_slice(),
                "{}: differs from that of {}, and {} cannot be averaged",
                self.at(i, tensor),
                display_path(&self.inputs.newest().dir),
                tensor.places[last].1.dtype.name()
            );
        }
        Ok(())
    }

    /// Read numbers of folder `i`, starting at number `start` of the tensor.
    fn read(&self, i: usize, tensor: &MergedTensor, start: usize, bytes: &mut [u8]) -> Result<()> {
        let (file, info) = self.place(i, tensor);
        // As text: an unreadable input is not an error of the output disk, and retrying does not help.
        file.read_at(info, start as u64 * info.dtype.bytes(), bytes).map_err(|e| anyhow!("{}: {e:#}", self.at(i, tensor)))
    }

    fn place<'t>(&self, i: usize, tensor: &'t MergedTensor) -> (&SafetensorsFile, &'t TensorInfo) {
        // A tensor of the newest folder has only one location.
        let (file, info) = &tensor.places[i.min(tensor.places.len() - 1)];
        (&self.inputs.folders[i].weights.files()[*file], info)
    }

    fn at(&self, i: usize, tensor: &MergedTensor) -> String {
        format!("{}: tensor '{}'", display_path(self.place(i, tensor).0.path()), clean(&tensor.name))
    }

    fn not_finite(&self, i: usize, tensor: &MergedTensor, start: usize, (index, value): (usize, f32)) -> anyhow::Error {
        anyhow!("{}: the number at index {} is {value}: use another checkpoint", self.at(i, tensor), start + index)
    }

    /// Find the folder that a non-finite sum comes from.
    fn non_finite_error(&self, tensor: &MergedTensor, start: usize, n: usize, dtype: Dtype, bytes: &mut [u8]) -> anyhow::Error {
        for i in 0..self.inputs.folders.len() {
            let info = &tensor.places[i].1;
            let bytes = &mut bytes[..n * info.dtype.bytes() as usize];
            if let Err(e) = self.read(i, tensor, start, bytes) {
                return e;
            }
            if let Some(bad) = first_not_finite(info.dtype, bytes) {
                return self.not_finite(i, tensor, start, bad);
            }
        }
        anyhow!("tensor '{}': the weighted sum is too large for {}", clean(&tensor.name), dtype.name())
    }
}

fn pieces(tensor: usize, info: &MergedTensor) -> impl Iterator<Item = TensorPiece> + use<> {
    let len = info.len();
    (0..len).step_by(PIECE).map(move |start| TensorPiece { tensor, start, len: PIECE.min(len - start) })
}

//! One safetensors file, validated on reading and written tensor by tensor.
//!
//! The `safetensors` crate accepts duplicate keys, spends seconds and gigabytes on hostile headers, and its errors name neither file nor
//! tensor, so the header is checked here. Data is read, never mapped: a file that shrinks meanwhile is an error, not a SIGBUS.

mod header;
mod write;

pub use write::{TensorSink, header_bytes, serialized_bytes, write_safetensors};

use crate::vfs::{FileCursor, Vfs, VfsReader, clean, display_path};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Maximum size of a header.
pub const MAX_HEADER: u64 = 16 << 20;
/// Maximum number of tensors in one file.
pub const MAX_TENSORS: usize = 200_000;
/// Maximum length of a tensor name.
pub const MAX_NAME: usize = 1024;

/// Data type of a tensor. Only the first three can be read as f32; a file may contain the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    F32,
    F16,
    BF16,
    F64,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl Dtype {
    const ALL: [(&'static str, Dtype, u64); 15] = [
        ("F32", Dtype::F32, 4),
        ("F16", Dtype::F16, 2),
        ("BF16", Dtype::BF16, 2),
        ("F64", Dtype::F64, 8),
        ("F8_E4M3", Dtype::F8E4M3, 1),
        ("F8_E5M2", Dtype::F8E5M2, 1),
        ("I64", Dtype::I64, 8),
        ("I32", Dtype::I32, 4),
        ("I16", Dtype::I16, 2),
        ("I8", Dtype::I8, 1),
        ("U64", Dtype::U64, 8),
        ("U32", Dtype::U32, 4),
        ("U16", Dtype::U16, 2),
        ("U8", Dtype::U8, 1),
        ("BOOL", Dtype::Bool, 1),
    ];

    fn parse(name: &str) -> Option<Dtype> {
        Self::ALL.iter().find(|row| row.0 == name).map(|row| row.1)
    }

    /// The name in the file.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|row| row.1 == self).map_or("?", |row| row.0)
    }

    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        Self::ALL.iter().find(|row| row.1 == self).map_or(1, |row| row.2)
    }
}

/// Location of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its data type.
    pub dtype: Dtype,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
    /// First and one-past-last byte, counted from the end of the header.
    pub range: (u64, u64),
}

impl TensorInfo {
    /// Number of elements (checked against the file when it was opened).
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True for a tensor with a size of 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An open file whose header has been checked.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    file: Arc<dyn VfsReader>,
    data_start: u64,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
    warnings: Vec<String>,
}

impl SafetensorsFile {
    /// Open a file and check its header: sizes, names, types, and that the tensors fill the file without gap or overlap.
    ///
    /// # Errors
    /// An invalid safetensors file, in one line with the file and, where applicable, the tensor.
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        let file = vfs.open(path).with_context(|| format!("{}: cannot be opened", display_path(path)))?;
        let checked = header::read(&mut FileCursor::new(file.clone(), 0), file.bytes()).with_context(|| display_path(path))?;
        let header::SafetensorsHeader { data_start, tensors, metadata, warnings } = checked;
        let warnings = warnings.into_iter().map(|w| format!("{}: {w}", display_path(path))).collect();
        Ok(SafetensorsFile { path: path.to_owned(), file, data_start, tensors, metadata, warnings })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The `__metadata__` strings.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Harmless irregularities in the header.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every tensor by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// One tensor as f32 (from F32, F16 or BF16).
    ///
    /// # Errors
    /// A missing tensor, another shape, a type that is not a float, a number that is not finite, or a file that cannot be read.
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        collect_pieces(|sink| self.stream_f32(name, shape, sink))
    }

    /// One tensor as f32, in order and in pieces of at most 256 Ki numbers, without a second copy in memory.
    ///
    /// # Errors
    /// As [`Self::read_f32`]; a number that is not finite is reported after the last piece.
    pub fn stream_f32(&self, name: &str, shape: &[usize], sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let at = || format!("{}: tensor '{}'", display_path(&self.path), clean(name));
        let Some(info) = self.tensors.get(name) else { bail!("{}: is not in the file", at()) };
        if info.shape != shape {
            let reversed: Vec<usize> = shape.iter().rev().copied().collect();
            let hint = if shape.len() == 2 && info.shape == reversed { " (transposed?)" } else { "" };
            bail!("{}: has shape {:?}, the model needs {shape:?}{hint}", at(), info.shape);
        }
        let decode: fn(&[u8], &mut Vec<f32>) = match info.dtype {
            Dtype::F32 => |b, out| out.extend(b.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x))),
            Dtype::F16 => |b, out| out.extend(b.as_chunks().0.iter().map(|x| half::f16::from_le_bytes(*x).to_f32())),
            Dtype::BF16 => |b, out| out.extend(b.as_chunks().0.iter().map(|x| half::bf16::from_le_bytes(*x).to_f32())),
            other => bail!("{}: dtype {}: only F32, F16 and BF16 can be read as weights", at(), other.name()),
        };
        let mut bad = NonFinite::default();
        let mut numbers = Vec::new();
        self.stream_bytes(info, &mut |bytes| {
            numbers.clear();
            decode(bytes, &mut numbers);
            bad.observe(&numbers);
            sink(&numbers)
        })
        .with_context(at)?;
        bad.refuse(&at())
    }

    fn stream_bytes(&self, info: &TensorInfo, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = info.range.1 - info.range.0;
        // A multiple of every dtype's size.
        let mut buffer = vec![0u8; left.min(1 << 20) as usize];
        while left > 0 {
            let piece = &mut buffer[..left.min(1 << 20) as usize];
            self.read_at(info, info.range.1 - info.range.0 - left, piece)?;
            left -= piece.len() as u64;
            sink(piece)?;
        }
        Ok(())
    }

    /// Fill `out` with bytes of a tensor of this file, from byte `offset` of the tensor on. Threads may share the file.
    ///
    /// # Errors
    /// A file that cannot be read or that shrank.
    pub fn read_at(&self, info: &TensorInfo, offset: u64, out: &mut [u8]) -> Result<()> {
        let left = (info.range.1 - info.range.0).saturating_sub(offset);
        ensure!(out.len() as u64 <= left, "{} bytes asked for, {left} are left of the tensor", out.len());
        self.file
            .read_exact_at(out, self.data_start + info.range.0 + offset)
            .with_context(|| format!("{left} bytes before its end (did the file shrink?)"))
    }

    /// Reject a file without exactly the expected tensors and shapes.
    ///
    /// # Errors
    /// Lists up to five missing, unexpected and differently shaped tensors each.
    pub fn expect(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        let found: BTreeMap<&str, &[usize]> =
            self.tensors.iter().map(|(name, info)| (name.as_str(), info.shape.as_slice())).collect();
        super::weight_files::compare(
            &format!("{}: these tensors do not belong to this model", display_path(&self.path)),
            &found,
            expected,
            &|_| false,
        )?;
        ensure!(self.tensors.len() == expected.len(), "{}: a tensor is expected twice", display_path(&self.path));
        Ok(())
    }
}

/// Receives the pieces of a tensor.
pub(super) type PieceReceiver<'a> = dyn FnMut(&[f32]) -> Result<()> + 'a;

/// Concatenate all pieces of `stream`.
pub(super) fn collect_pieces(stream: impl FnOnce(&mut PieceReceiver<'_>) -> Result<()>) -> Result<Vec<f32>> {
    let mut out = Vec::new();
    stream(&mut |piece| {
        out.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(out)
}

/// Detects numbers that are not finite in a stream.
#[derive(Default)]
pub(super) struct NonFinite {
    seen: usize,
    count: usize,
    first: Option<(usize, f32)>,
}

impl NonFinite {
    /// Check the next numbers.
    pub(super) fn observe(&mut self, numbers: &[f32]) {
        for (i, x) in numbers.iter().enumerate() {
            if !x.is_finite() {
                self.count += 1;
                self.first.get_or_insert((self.seen + i, *x));
            }
        }
        self.seen += numbers.len();
    }
    /// An error if there was one; `at` names file and tensor.
    pub(super) fn refuse(&self, at: &str) -> Result<()> {
        let Some((index, value)) = self.first else { return Ok(()) };
        let (n, total) = (self.count, self.seen);
        bail!("{at}: {n} of {total} numbers are not finite, the first is {value} at index {index}; use another checkpoint")
    }
}

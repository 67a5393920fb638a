//! Writing a safetensors file tensor by tensor: the header first, then each tensor's numbers as they are downloaded.

use super::Dtype;
use crate::vfs::clean;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// Receives the numbers of one tensor, in one piece or many.
pub struct TensorSink<'a> {
    out: &'a mut dyn Write,
    buffer: &'a mut Vec<u8>,
    left: usize,
}

impl TensorSink<'_> {
    /// Write the next numbers of the tensor.
    ///
    /// # Errors
    /// More numbers than the shape holds, or a write that fails.
    pub fn write(&mut self, numbers: &[f32]) -> Result<()> {
        ensure!(numbers.len() <= self.left, "{} numbers more than the shape holds", numbers.len() - self.left);
        self.left -= numbers.len();
        for piece in numbers.chunks(1 << 18) {
            self.buffer.clear();
            self.buffer.extend(piece.iter().flat_map(|x| x.to_le_bytes()));
            self.out.write_all(self.buffer)?;
        }
        Ok(())
    }
}

/// The header of a file with these tensors (name, dtype, shape) in this order: its length, JSON, and spaces up to a multiple of 8, so that
/// tensor data is aligned; and the number of data bytes after it. `{"format": "pt"}` is added to the metadata, because `transformers`
/// requires it.
///
/// # Errors
/// Names or shapes that cannot be written.
pub fn header_bytes(metadata: &BTreeMap<String, String>, tensors: &[(&str, Dtype, &[usize])]) -> Result<(Vec<u8>, u64)> {
    let mut json = serde_json::Map::new();
    let mut texts = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    texts.extend(metadata.clone());
    json.insert("__metadata__".into(), serde_json::to_value(texts)?);
    let (mut seen, mut end) = (BTreeSet::new(), 0u64);
    for (name, dtype, shape) in tensors {
        ensure!(*name != "__metadata__" && !name.is_empty(), "a tensor cannot be called '{}'", clean(name));
        ensure!(seen.insert(name), "tensor '{}' is written twice", clean(name));
        let bytes = shape.iter().try_fold(dtype.bytes(), |product, n| product.checked_mul(*n as u64));
        let bytes = bytes.with_context(|| format!("tensor '{}': shape {shape:?} overflows", clean(name)))?;
        let start = end;
        end = start.checked_add(bytes).context("the tensors together overflow")?;
        json.insert((*name).into(), serde_json::json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [start, end]}));
    }
    let mut text = serde_json::to_string(&json)?;
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    Ok((out, end))
}

fn header(metadata: &BTreeMap<String, String>, tensors: &[(String, Vec<usize>)]) -> Result<(Vec<u8>, u64)> {
    let tensors: Vec<_> = tensors.iter().map(|(name, shape)| (name.as_str(), Dtype::F32, shape.as_slice())).collect();
    header_bytes(metadata, &tensors)
}

/// Bytes that [`write_safetensors`] will write, for the free-space check.
///
/// # Errors
/// Names or shapes that cannot be written.
pub fn serialized_bytes(metadata: &BTreeMap<String, String>, tensors: &[(String, Vec<usize>)]) -> Result<u64> {
    let (header, data) = header(metadata, tensors)?;
    Ok(header.len() as u64 + data)
}

/// Write a file of F32 tensors. `fill` is called for each tensor in turn and writes its numbers to the sink. `{"format": "pt"}` is added to
/// the metadata, because `transformers` requires it.
///
/// # Errors
/// Names or shapes that cannot be written, a tensor with too few or too many numbers, or a write that fails.
pub fn write_safetensors(
    out: &mut dyn Write,
    metadata: &BTreeMap<String, String>,
    tensors: &[(String, Vec<usize>)],
    mut fill: impl FnMut(&str, &mut TensorSink) -> Result<()>,
) -> Result<()> {
    out.write_all(&header(metadata, tensors)?.0)?;
    let mut buffer = Vec::new();
    for (name, shape) in tensors {
        let mut sink = TensorSink { out, buffer: &mut buffer, left: shape.iter().product() };
        fill(name, &mut sink).with_context(|| format!("tensor '{}'", clean(name)))?;
        ensure!(sink.left == 0, "tensor '{}': {} of {shape:?} numbers are missing", clean(name), sink.left);
    }
    Ok(())
}

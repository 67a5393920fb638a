//! Writing a GGUF file: the header first, then each tensor.

use super::blocks::BlockType;
use super::config;
use super::names;
use super::value::{Metadata, MetadataValue};
use super::{ALIGNMENT, MAGIC};
use crate::config::{ModelConfig, RopeScaling};
use crate::model_files::weight_files::{WeightFiles, check, stored};
use crate::progress::{Progress, report};
use crate::vfs::clean;
use anyhow::{Context, Result};
use std::io::Write;

/// A tokenizer in llama.cpp's format.
#[derive(Clone, Debug)]
pub struct GgufTokenizer {
    /// The metadata.
    pub metadata: Metadata,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// One tensor to write.
#[derive(Debug)]
struct OutputTensor {
    name: String,
    /// Its Hugging Face name in the weights.
    hf: String,
    shape: Vec<usize>,
    kind: BlockType,
    bytes: u64,
    /// Numbers that are computed, not read.
    given: Option<Vec<f32>>,
}

/// A GGUF file to write; everything but the numbers has been checked.
#[derive(Debug)]
pub struct GgufPlan<'a> {
    model: &'a ModelConfig,
    weights: &'a WeightFiles,
    head: Vec<u8>,
    parts: Vec<OutputTensor>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

impl<'a> GgufPlan<'a> {
    /// Plan a file: `name` is the model's name, `declared` its tensors by Hugging Face name, `kind` the data type of matrices; norms and
    /// biases stay F32.
    ///
    /// # Errors
    /// Weights that do not match this model, or a shape that llama.cpp does not support.
    pub fn new(
        name: &str,
        model: &'a ModelConfig,
        declared: Vec<(String, Vec<usize>)>,
        weights: &'a WeightFiles,
        spelled: GgufTokenizer,
        kind: BlockType,
    ) -> Result<Self> {
        check(model, &declared, weights)?;
        let mut notes = spelled.notes;
        let mut parts = Vec::new();
        if let Some(RopeScaling::Llama3(scaling)) = &model.rope_scaling {
            let factors = config::llama3_factors(scaling, model.rope_theta, model.head_dim);
            let (name, shape) = (names::ROPE_FREQS.to_owned(), vec![factors.len()]);
            parts.push(OutputTensor {
                name,
                hf: String::new(),
                bytes: 4 * shape[0] as u64,
                shape,
                kind: BlockType::F32,
                given: Some(factors),
            });
        }
        let mut coarser = 0;
        for (hf, shape) in declared {
            let own = match (shape.len(), shape[shape.len() - 1].is_multiple_of(kind.block())) {
                (2, true) => kind,
                (2, false) => {
                    coarser += 1;
                    BlockType::F16
                }
                _ => BlockType::F32,
            };
            let name = names::to_gguf(&hf).with_context(|| format!("tensor '{}': llama.cpp has no such part", clean(&hf)))?;
            let numbers = shape.iter().map(|n| *n as u64).product();
            let bytes = own.bytes(numbers).with_context(|| format!("tensor '{}': too large", clean(&hf)))?;
            parts.push(OutputTensor { name, hf, shape, kind: own, bytes, given: None });
        }
        if coarser > 0 {
            notes.push(format!("{coarser} matrices have rows that are not a multiple of {}: F16", kind.block()));
        }
        let mut metadata = Metadata::default();
        metadata.set("general.architecture", MetadataValue::Text(names::architecture(model.architecture).to_owned()));
        metadata.set("general.type", MetadataValue::Text("model".into()));
        metadata.set("general.name", MetadataValue::Text(name.to_owned()));
        metadata.set("general.file_type", MetadataValue::U32(file_type(kind)));
        metadata.set("general.quantization_version", MetadataValue::U32(2));
        for (name, value) in config::settings(model)?.iter().chain(spelled.metadata.iter()) {
            metadata.set(name, value.clone());
        }
        let head = head(&metadata, &parts)?;
        Ok(Self { model, weights, head, parts, notes })
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.head.len() as u64 + self.parts.iter().map(|part| part.bytes.next_multiple_of(ALIGNMENT)).sum::<u64>()
    }
}

/// llama.cpp's number of the most common data type (`llama_ftype`).
fn file_type(kind: BlockType) -> u32 {
    match kind {
        BlockType::F16 => 1,
        BlockType::BF16 => 32,
        BlockType::Q8_0 => 7,
        _ => 0,
    }
}

fn head(metadata: &Metadata, parts: &[OutputTensor]) -> Result<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((parts.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (name, value) in metadata.iter() {
        text(&mut out, name);
        setting(&mut out, value).with_context(|| clean(name))?;
    }
    let mut offset = 0u64;
    for part in parts {
        text(&mut out, &part.name);
        out.extend((part.shape.len() as u32).to_le_bytes());
        part.shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
        out.extend(part.kind.code().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += part.bytes.next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    Ok(out)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn setting(out: &mut Vec<u8>, value: &MetadataValue) -> Result<()> {
    let list = |out: &mut Vec<u8>, kind: u32, count: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        MetadataValue::U32(x) => {
            out.extend(4u32.to_le_bytes());
            out.extend(x.to_le_bytes());
        }
        MetadataValue::F32(x) => {
            out.extend(6u32.to_le_bytes());
            out.extend(x.to_le_bytes());
        }
        MetadataValue::Bool(x) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*x));
        }
        MetadataValue::Text(x) => {
            out.extend(8u32.to_le_bytes());
            text(out, x);
        }
        MetadataValue::Texts(x) => {
            list(out, 8, x.len());
            x.iter().for_each(|x| text(out, x));
        }
        MetadataValue::I32s(x) => {
            list(out, 5, x.len());
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        MetadataValue::F32s(x) => {
            list(out, 6, x.len());
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        other => anyhow::bail!("{other:?} is not written"),
    }
    Ok(())
}

/// Write the file. `progress` gets (bytes done, total bytes) after each tensor.
///
/// # Errors
/// Numbers that the type cannot hold, weights that cannot be read, or a write that fails.
pub fn write(plan: &GgufPlan<'_>, out: &mut dyn Write, progress: &mut Progress<'_>) -> Result<()> {
    let (mut done, all) = (plan.head.len() as u64, plan.bytes());
    out.write_all(&plan.head)?;
    let model = plan.model;
    let arch = names::architecture(model.architecture);
    for part in &plan.parts {
        let at = || format!("tensor '{}'", clean(&part.hf));
        let mut bytes = Vec::new();
        let mut put = |numbers: &[f32]| -> Result<()> {
            bytes.clear();
            part.kind.encode(numbers, &mut bytes)?;
            Ok(out.write_all(&bytes)?)
        };
        let heads = names::reordered_heads(&part.hf, arch, model.num_attention_heads, model.num_key_value_heads);
        match (&part.given, heads) {
            (Some(numbers), _) => put(numbers)?,
            (None, Some(heads)) => {
                let whole = plan.weights.read_f32(&part.hf, &part.shape)?;
                put(&names::reorder(&whole, heads, part.shape[0], true)).with_context(at)?;
            }
            (None, None) => in_blocks(plan, part, &mut put).with_context(at)?,
        }
        let padding = part.bytes.next_multiple_of(ALIGNMENT) - part.bytes;
        out.write_all(&vec![0; padding as usize])?;
        done += part.bytes + padding;
        report(progress, "writing", done, all)?;
    }
    Ok(())
}

/// A tensor in pieces of whole blocks.
fn in_blocks(plan: &GgufPlan<'_>, part: &OutputTensor, put: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let mut rest: Vec<f32> = Vec::new();
    plan.weights.stream_f32(stored(plan.model, plan.weights, &part.hf), &part.shape, &mut |piece| {
        rest.extend_from_slice(piece);
        let whole = rest.len() / part.kind.block() * part.kind.block();
        put(&rest[..whole])?;
        rest.drain(..whole);
        Ok(())
    })?;
    put(&rest)
}

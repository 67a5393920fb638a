//! The header of a GGUF file: every length, count and offset is checked before use.

use super::blocks::BlockType;
use super::value::{Metadata, MetadataValue};
use super::{ALIGNMENT, MAGIC};
use crate::model_files::safetensors_file::{MAX_NAME, MAX_TENSORS};
use crate::vfs::clean;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Maximum header size: a vocabulary of 256,000 tokens with its merges takes 20 MiB.
const MAX_HEAD: u64 = 256 << 20;
const MAX_SETTINGS: u64 = 10_000;

/// Location of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorLocation {
    pub kind: BlockType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub start: u64,
    pub bytes: u64,
}

/// Everything before the tensors.
#[derive(Debug)]
pub(super) struct GgufHeader {
    pub metadata: Metadata,
    pub tensors: BTreeMap<String, TensorLocation>,
}

/// Read the header of a file of `bytes` bytes.
///
/// # Errors
/// An invalid GGUF file, in one line.
pub(super) fn read(file: impl Read, bytes: u64) -> Result<GgufHeader> {
    let mut source = HeaderReader { input: std::io::BufReader::with_capacity(1 << 16, file), position: 0, end: bytes };
    ensure!(source.array::<4>()? == MAGIC, "does not begin with GGUF: not a GGUF file");
    let version = source.u32()?;
    let swapped = version.swap_bytes();
    ensure!(!(1..=3).contains(&swapped), "big-endian GGUF (version {swapped}): lehr reads little-endian files only");
    ensure!((2..=3).contains(&version), "GGUF version {version}: lehr reads versions 2 and 3");
    let (tensors, settings) = (source.u64()?, source.u64()?);
    ensure!(tensors <= MAX_TENSORS as u64, "{tensors} tensors: more than {MAX_TENSORS}");
    ensure!(settings <= MAX_SETTINGS, "{settings} settings: more than {MAX_SETTINGS}");
    let metadata = metadata(&mut source, settings)?;
    let alignment = metadata.integer("general.alignment")?.unwrap_or(ALIGNMENT);
    ensure!(
        alignment.is_power_of_two() && (8..=1 << 20).contains(&alignment),
        "general.alignment = {alignment}: must be a power of two between 8 and 1048576"
    );
    let listed = (0..tensors).map(|_| tensor(&mut source)).collect::<Result<Vec<_>>>()?;
    let data = source.position.next_multiple_of(alignment);
    let mut out = BTreeMap::new();
    for (name, mut place) in listed {
        let shown = clean(&name);
        ensure!(
            place.start.is_multiple_of(alignment),
            "tensor '{shown}': offset {} is not a multiple of {alignment}",
            place.start
        );
        let start = place.start.checked_add(data);
        let end = start.and_then(|start| start.checked_add(place.bytes)).filter(|end| *end <= bytes);
        ensure!(
            end.is_some(),
            "tensor '{shown}': {} bytes at offset {} lie beyond the end of the file ({bytes} bytes): truncated?",
            place.bytes,
            place.start
        );
        place.start = start.unwrap_or_default();
        ensure!(out.insert(name, place).is_none(), "tensor '{shown}' occurs twice in the file");
    }
    no_overlap(&out)?;
    Ok(GgufHeader { metadata, tensors: out })
}

fn metadata(source: &mut HeaderReader<impl Read>, count: u64) -> Result<Metadata> {
    let (mut out, mut names) = (Metadata::default(), BTreeSet::new());
    for _ in 0..count {
        let name = source.text(MAX_NAME as u64).context("the name of a setting")?;
        ensure!(names.insert(name.clone()), "the setting '{}' occurs twice in the file", clean(&name));
        let kind = source.u32()?;
        let value = value(source, kind).with_context(|| clean(&name))?;
        out.push(name, value);
    }
    Ok(out)
}

fn value(source: &mut HeaderReader<impl Read>, kind: u32) -> Result<MetadataValue> {
    Ok(match kind {
        4 => MetadataValue::U32(source.u32()?),
        6 => MetadataValue::F32(f32::from_le_bytes(source.array()?)),
        7 => match source.array::<1>()? {
            [0] => MetadataValue::Bool(false),
            [1] => MetadataValue::Bool(true),
            [other] => bail!("{other} is neither true nor false"),
        },
        8 => MetadataValue::Text(source.text(MAX_HEAD)?),
        9 => list(source)?,
        12 => MetadataValue::F64(f64::from_le_bytes(source.array()?)),
        _ => MetadataValue::Int(source.integer(kind)?),
    })
}

/// Bytes per number of a type.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn list(source: &mut HeaderReader<impl Read>) -> Result<MetadataValue> {
    let (kind, count) = (source.u32()?, source.u64()?);
    // A string takes at least its length field.
    let least = if kind == 8 { Some(8) } else { width(kind) };
    let Some(least) = least else { bail!("an array of type {kind}: lehr reads arrays of strings and numbers") };
    let needed = count.checked_mul(least).filter(|bytes| *bytes <= source.remaining());
    ensure!(needed.is_some(), "an array of {count} entries does not fit into the file: damaged or truncated");
    Ok(match kind {
        5 => MetadataValue::I32s((0..count).map(|_| Ok(i32::from_le_bytes(source.array()?))).collect::<Result<_>>()?),
        6 => MetadataValue::F32s((0..count).map(|_| Ok(f32::from_le_bytes(source.array()?))).collect::<Result<_>>()?),
        8 => MetadataValue::Texts((0..count).map(|_| source.text(MAX_HEAD)).collect::<Result<_>>()?),
        12 => MetadataValue::Numbers((0..count).map(|_| Ok(f64::from_le_bytes(source.array()?))).collect::<Result<_>>()?),
        // Bytes and flags, which lehr does not use.
        0 | 1 | 7 => {
            source.skip(count)?;
            MetadataValue::Other(count)
        }
        _ => MetadataValue::Numbers((0..count).map(|_| Ok(source.integer(kind)? as f64)).collect::<Result<_>>()?),
    })
}

/// The name of a tensor, and its location relative to the first tensor.
fn tensor(source: &mut HeaderReader<impl Read>) -> Result<(String, TensorLocation)> {
    let name = source.text(MAX_NAME as u64).context("the name of a tensor")?;
    let at = || format!("tensor '{}'", clean(&name));
    let dimensions = source.u32()?;
    ensure!((1..=4).contains(&dimensions), "{}: {dimensions} dimensions, must be 1 to 4", at());
    let mut sizes = (0..dimensions).map(|_| source.u64()).collect::<Result<Vec<_>>>()?;
    let (code, start) = (source.u32()?, source.u64()?);
    let kind = BlockType::parse(code).with_context(at)?;
    let numbers = sizes.iter().try_fold(1u64, |product, n| product.checked_mul(*n)).filter(|n| *n > 0);
    let bytes = numbers.and_then(|n| kind.bytes(n));
    let (Some(_), Some(bytes)) = (numbers, bytes) else { bail!("{}: shape {sizes:?} is empty or overflows", at()) };
    ensure!(
        sizes[0].is_multiple_of(kind.block() as u64),
        "{}: rows of {} numbers are not whole blocks of {} ({})",
        at(),
        sizes[0],
        kind.block(),
        kind.name()
    );
    sizes.reverse();
    let shape =
        sizes.iter().map(|n| usize::try_from(*n)).collect::<Result<_, _>>().map_err(|_| anyhow!("{}: too large", at()))?;
    Ok((name, TensorLocation { kind, shape, start, bytes }))
}

/// llama.cpp never writes tensors that share bytes; they would let a small file expand to a large model.
fn no_overlap(tensors: &BTreeMap<String, TensorLocation>) -> Result<()> {
    let mut places: Vec<(&String, &TensorLocation)> = tensors.iter().collect();
    places.sort_by_key(|(_, place)| place.start);
    for pair in places.windows(2) {
        let [(first, a), (second, b)] = pair else { continue };
        ensure!(a.start + a.bytes <= b.start, "the tensors '{}' and '{}' overlap", clean(first), clean(second));
    }
    Ok(())
}

/// A sequential reader that tracks the remaining bytes.
struct HeaderReader<R> {
    input: R,
    position: u64,
    end: u64,
}

impl<R: Read> HeaderReader<R> {
    fn remaining(&self) -> u64 {
        self.end.min(MAX_HEAD).saturating_sub(self.position)
    }

    fn take(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.remaining() {
            ensure!(
                self.end <= MAX_HEAD || self.position.saturating_add(bytes) > self.end,
                "settings of more than {} MiB: is it the right file?",
                MAX_HEAD >> 20
            );
            bail!("{bytes} bytes at {} lie beyond the end of the file ({} bytes): damaged or truncated", self.position, self.end);
        }
        self.position += bytes;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N as u64)?;
        let mut out = [0; N];
        self.input.read_exact(&mut out)?;
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn integer(&mut self, kind: u32) -> Result<i128> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => u32::from_le_bytes(self.array()?).into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            10 => u64::from_le_bytes(self.array()?).into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            _ => bail!("a value of type {kind}: the file is damaged, or of a newer version"),
        })
    }

    fn text(&mut self, most: u64) -> Result<String> {
        let bytes = self.u64()?;
        ensure!(bytes <= most, "a text of {bytes} bytes is longer than {most}: damaged?");
        self.take(bytes)?;
        let mut out = vec![0; bytes as usize];
        self.input.read_exact(&mut out)?;
        String::from_utf8(out)
            .map_err(|e| anyhow!("a text that is not UTF-8: {:?}", clean(&String::from_utf8_lossy(e.as_bytes()))))
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        self.take(bytes)?;
        std::io::copy(&mut (&mut self.input).take(bytes), &mut std::io::sink())?;
        Ok(())
    }
}

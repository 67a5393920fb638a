//! Validation of a safetensors file's header.

use super::{Dtype, MAX_HEADER, MAX_NAME, MAX_TENSORS, TensorInfo};
use crate::vfs::{clean, human_bytes};
use anyhow::{Context, Result, bail, ensure};
use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read;

/// A valid header.
pub(super) struct SafetensorsHeader {
    pub data_start: u64,
    pub tensors: BTreeMap<String, TensorInfo>,
    pub metadata: BTreeMap<String, String>,
    pub warnings: Vec<String>,
}

/// Read and check the header at the start of `file`, which has `file_bytes` bytes.
pub(super) fn read(file: &mut impl Read, file_bytes: u64) -> Result<SafetensorsHeader> {
    ensure!(file_bytes >= 8, "{file_bytes} bytes, a safetensors file has at least 8: it is empty or cut off");
    let mut start = Vec::new();
    file.take(512).read_to_end(&mut start).context("cannot be read")?;
    ensure!(start.len() >= 8, "shrank while it was read");
    let length = u64::from_le_bytes(start[..8].try_into()?);
    let believable = (1..=MAX_HEADER).contains(&length) && length <= file_bytes - 8;
    let ours = believable && start.get(8) == Some(&b'{');
    if let Some(what) = other_format(&start).filter(|_| !ours) {
        bail!("is {what}");
    }
    ensure!(length > 0, "header length 0: not a safetensors file");
    let most = human_bytes(MAX_HEADER);
    ensure!(
        length <= MAX_HEADER,
        "the header says it is {length} bytes long (the file has {file_bytes}); at most {most} are read: not a safetensors file, or damaged"
    );
    ensure!(
        length <= file_bytes - 8,
        "the header says {length} bytes, the file has {} after it: truncated, copy or download it again",
        file_bytes - 8
    );
    let mut header = start.split_off(8);
    if (header.len() as u64) < length {
        file.take(length - header.len() as u64).read_to_end(&mut header).context("cannot be read")?;
    }
    header.truncate(length as usize);
    ensure!(header.len() as u64 == length, "shrank while it was read");
    let text = std::str::from_utf8(&header)
        .map_err(|e| anyhow::anyhow!("the header is not UTF-8 at byte {}: damaged", 8 + e.valid_up_to()))?;
    check(text, length, file_bytes)
}

/// The actual format of a file that is not a safetensors file, from its first bytes, and the remedy.
fn other_format(start: &[u8]) -> Option<&'static str> {
    let lower: Vec<u8> = start.iter().take(64).map(u8::to_ascii_lowercase).collect();
    let text = lower.trim_ascii_start();
    Some(match start {
        s if s.starts_with(b"PK\x03\x04") => {
            "a PyTorch (zip) file, not safetensors: load it with transformers and save_pretrained(..., safe_serialization=True)"
        }
        s if s[0] == 0x80 && (2..=5).contains(&s[1]) => {
            "a Python pickle (old PyTorch file), not safetensors: convert it with transformers where you trust it"
        }
        s if s.starts_with(b"GGUF") => "a GGUF file (llama.cpp), not safetensors: use the original Hugging Face folder",
        s if s.starts_with(b"version https://git-lfs") => "a git-LFS pointer, not the file itself: run `git lfs pull`",
        [0x1f, 0x8b, ..] => "gzip-compressed: unpack it first",
        s if s.starts_with(b"\x89HDF") => "an HDF5 file, not safetensors",
        s if s.starts_with(b"\x93NUMPY") => "a NumPy file, not safetensors",
        _ if text.starts_with(b"<!doctype") || text.starts_with(b"<html") => {
            "an HTML page, not safetensors: the download failed (a login or error page was saved)"
        }
        _ if text.starts_with(b"{") => "a JSON text, not safetensors: name the weights, not their index or configuration",
        _ => return None,
    })
}

/// A string key of at most [`MAX_NAME`] bytes, rejected before it is copied.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a tensor has the empty name".into());
    }
    if name.len() > MAX_NAME {
        return Err(format!(
            "a tensor name is {} bytes long, at most {MAX_NAME}: '{}'",
            name.len(),
            clean(&name[..name.floor_char_boundary(40)])
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("tensor name '{}' holds control characters", clean(name)));
    }
    Ok(())
}

/// `{"name": {"dtype":..., "shape":..., "data_offsets":...}, ..., "__metadata__": {...}}`, without duplicate keys.
struct RawHeader {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
    warnings: Vec<String>,
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut out = RawHeader { tensors: BTreeMap::new(), metadata: BTreeMap::new(), warnings: Vec::new() };
        let mut metadata_seen = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut metadata_seen, true) {
                    return Err(A::Error::custom("duplicate key '__metadata__'"));
                }
                out.metadata = map.next_value().map_err(|e| {
                    A::Error::custom(format!("'__metadata__' must hold only texts, no tensor can be called so: {e}"))
                })?;
                continue;
            }
            check_name(&name).map_err(A::Error::custom)?;
            let info = map
                .next_value_seed(EntrySeed { name: &name, warnings: &mut out.warnings })
                .map_err(|e| A::Error::custom(format!("tensor '{}': {e}", clean(&name))))?;
            match out.tensors.entry(name) {
                Entry::Vacant(free) => free.insert(info),
                Entry::Occupied(taken) => {
                    return Err(A::Error::custom(format!("duplicate key: tensor '{}' is described twice", clean(taken.key()))));
                }
            };
            if out.tensors.len() > MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors in one file")));
            }
        }
        Ok(out)
    }
}

/// One tensor's entry.
struct EntrySeed<'a> {
    name: &'a str,
    warnings: &'a mut Vec<String>,
}

impl<'de> serde::de::DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = TensorInfo;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<TensorInfo, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = TensorInfo;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TensorInfo, A::Error> {
        let (mut dtype, mut shape, mut range) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let in_field = |e: A::Error| A::Error::custom(format!("{}: {e}", clean(&key)));
            let twice = match key.as_str() {
                "dtype" => dtype.replace(map.next_value::<String>().map_err(in_field)?).is_some(),
                "shape" => shape.replace(map.next_value::<Vec<u64>>().map_err(in_field)?).is_some(),
                "data_offsets" => range.replace(map.next_value::<(u64, u64)>().map_err(in_field)?).is_some(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    if self.warnings.len() < 5 {
                        self.warnings.push(format!("tensor '{}': unknown field '{}' is ignored", clean(self.name), clean(&key)));
                    }
                    false
                }
            };
            if twice {
                return Err(A::Error::custom(format!("{key} is given twice")));
            }
        }
        let absent = |field| A::Error::custom(format!("{field} is missing"));
        let dtype = dtype.ok_or_else(|| absent("dtype"))?;
        let (shape, range) = (shape.ok_or_else(|| absent("shape"))?, range.ok_or_else(|| absent("data_offsets"))?);
        entry(&dtype, &shape, range).map_err(A::Error::custom)
    }
}

/// Check one entry: known type, no overflow, and the number of bytes that the shape needs.
fn entry(dtype: &str, shape: &[u64], range: (u64, u64)) -> Result<TensorInfo, String> {
    let Some(kind) = Dtype::parse(dtype) else {
        return Err(format!("dtype '{}' is not known; weights can be F32, F16 or BF16", clean(dtype)));
    };
    let (start, end) = range;
    if start > end {
        return Err(format!("data_offsets [{start}, {end}] run backwards"));
    }
    if shape.len() > 8 {
        return Err(format!("shape has {} sizes, at most 8", shape.len()));
    }
    // An overflow must not be hidden by a later size of 0.
    let largest = shape.iter().try_fold(kind.bytes(), |product, n| product.checked_mul((*n).max(1)));
    if largest.is_none_or(|bytes| bytes > i64::MAX as u64 || usize::try_from(bytes).is_err()) {
        return Err(format!("shape {shape:?} overflows: its size cannot be right"));
    }
    let need = shape.iter().fold(kind.bytes(), |product, n| product * n);
    if end - start != need {
        let have = end - start;
        return Err(format!("shape {shape:?} of {dtype} needs {need} bytes, data_offsets [{start}, {end}] hold {have}"));
    }
    Ok(TensorInfo { dtype: kind, shape: shape.iter().map(|n| *n as usize).collect(), range })
}

/// Parse the header and check that the tensors fill the rest of the file.
fn check(text: &str, length: u64, file_bytes: u64) -> Result<SafetensorsHeader> {
    ensure!(text.starts_with('{'), "the header starts with '{}', not '{{': damaged", clean(text.get(..1).unwrap_or("?")));
    let mut json = serde_json::Deserializer::from_str(text);
    let header = json
        .deserialize_map(HeaderVisitor)
        .and_then(|header| json.end().map(|()| header))
        .map_err(|e| anyhow::anyhow!("header: {}", clean(&e.to_string())))?;
    let data_bytes = file_bytes - 8 - length;
    let mut order: Vec<(&String, (u64, u64))> = header.tensors.iter().map(|(name, info)| (name, info.range)).collect();
    order.sort_by_key(|(_, range)| *range);
    let (mut end, mut before) = (0, "");
    for (name, range) in order {
        let (a, b) = (clean(before), clean(name));
        ensure!(range.0 >= end, "tensors '{a}' and '{b}' overlap: the one ends at byte {end}, the other starts at {}", range.0);
        if range.0 > end {
            let where_ = if before.is_empty() { "before the first".into() } else { format!("between '{a}' and") };
            bail!("{} bytes {where_} tensor '{b}' belong to no tensor: damaged", range.0 - end);
        }
        (end, before) = (range.1, name);
    }
    if end > data_bytes {
        bail!(
            "truncated: the tensors need {end} bytes (the last is '{}'), the file has {data_bytes}: copy or download it again",
            clean(before)
        );
    }
    ensure!(end == data_bytes, "{} extra bytes follow the last tensor '{}': damaged", data_bytes - end, clean(before));
    let RawHeader { tensors, metadata, warnings } = header;
    Ok(SafetensorsHeader { data_start: 8 + length, tensors, metadata, warnings })
}

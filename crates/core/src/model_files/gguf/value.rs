//! GGUF metadata: typed values by name.

use crate::vfs::clean;
use anyhow::{Context, Result, anyhow, ensure};

/// A metadata value. Of arrays, only those of strings and of numbers.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum MetadataValue {
    U32(u32),
    /// Any other integer type.
    Int(i128),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// An array of any other numeric type.
    Numbers(Vec<f64>),
    /// An unused array: its length.
    Other(u64),
}

/// Metadata in file order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Vec<(String, MetadataValue)>);

impl Metadata {
    /// Append a value; an existing one of that name is removed.
    pub fn set(&mut self, name: impl Into<String>, value: MetadataValue) {
        let name = name.into();
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    /// All values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &MetadataValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Append a value whose name is new.
    pub(super) fn push(&mut self, name: String, value: MetadataValue) {
        self.0.push((name, value));
    }

    /// A value.
    pub fn get(&self, name: &str) -> Option<&MetadataValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// A string.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value {
            MetadataValue::Text(text) => Ok(Some(text)),
            other => Err(type_error(name, other, "a string")),
        }
    }

    /// An integer. An array counts if all of its entries are equal (one for each block).
    pub(super) fn integer(&self, name: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let whole = |x: f64| (x >= 0.0 && x.fract() == 0.0 && x < 2f64.powi(53)).then_some(x as u64);
        let same = |list: &[f64]| list.first().copied().filter(|first| list.iter().all(|x| x == first)).and_then(whole);
        let number = match value {
            MetadataValue::U32(number) => Some(u64::from(*number)),
            MetadataValue::Int(number) => u64::try_from(*number).ok(),
            MetadataValue::Numbers(list) => same(list),
            MetadataValue::I32s(list) => same(&list.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()),
            _ => None,
        };
        Ok(Some(number.with_context(|| type_error(name, value, "a whole number"))?))
    }

    /// A number. f32 values are read as the shortest decimal fraction that rounds to them.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = match value {
            MetadataValue::F32(x) => x.to_string().parse().unwrap_or(f64::from(*x)),
            MetadataValue::F64(x) => *x,
            MetadataValue::U32(x) => f64::from(*x),
            MetadataValue::Int(x) => *x as f64,
            other => return Err(type_error(name, other, "a number")),
        };
        ensure!(number.is_finite(), "{name} = {number}: must be a finite number");
        Ok(Some(number))
    }

    /// A boolean.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some(MetadataValue::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(type_error(name, other, "true or false")),
        }
    }

    /// A list of strings.
    pub(super) fn texts(&self, name: &str) -> Result<Option<&[String]>> {
        match self.get(name) {
            None => Ok(None),
            Some(MetadataValue::Texts(list)) => Ok(Some(list)),
            Some(other) => Err(type_error(name, other, "a list of strings")),
        }
    }
}

impl MetadataValue {
    /// For messages: a list by its length.
    pub(super) fn display(&self) -> String {
        match self {
            Self::Text(text) => format!("\"{}\"", clean(text)),
            Self::Texts(list) => format!("a list of {} strings", list.len()),
            Self::I32s(list) => format!("a list of {} numbers", list.len()),
            Self::F32s(list) => format!("a list of {} numbers", list.len()),
            Self::Numbers(list) => format!("a list of {} numbers", list.len()),
            Self::Other(count) => format!("a list of {count}"),
            Self::U32(x) => x.to_string(),
            Self::Int(x) => x.to_string(),
            Self::F32(x) => x.to_string(),
            Self::F64(x) => x.to_string(),
            Self::Bool(x) => x.to_string(),
        }
    }
}

fn type_error(name: &str, value: &MetadataValue, wanted: &str) -> anyhow::Error {
    anyhow!("{} = {}: must be {wanted}", clean(name), value.display())
}

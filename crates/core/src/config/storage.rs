//! Storage of weights that are not trained.

use crate::device::ElementType;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// Data type in which weights that are not trained are kept in device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WeightsDtype {
    /// bfloat16 if the files store every matrix in bfloat16, which changes no bit of a result; else float32.
    #[default]
    Auto,
    /// 4 bytes per parameter.
    #[value(alias = "f32")]
    Float32,
    /// 2 bytes per parameter: matrices are rounded to bfloat16 unless they are so already. Sums are in float32.
    #[value(alias = "bf16")]
    Bfloat16,
}

impl WeightsDtype {
    /// The same without `Auto`; `exact` as in [`WeightsDtype::resolve`].
    #[must_use]
    pub fn fixed(self, exact: ElementType) -> Self {
        match self.resolve(exact) {
            ElementType::Bf16 => Self::Bfloat16,
            _ => Self::Float32,
        }
    }

    /// The type of matrices; `exact` is the smallest that holds all of them unchanged.
    pub fn resolve(self, exact: ElementType) -> ElementType {
        match self {
            Self::Auto => exact,
            Self::Float32 => ElementType::F32,
            Self::Bfloat16 => ElementType::Bf16,
        }
    }
}

/// Data type of the key/value cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CacheDtype {
    /// 4 bytes per number.
    #[default]
    #[value(alias = "f32")]
    Float32,
    /// 2 bytes per number: keys and values are rounded to half precision. Sums are in float32.
    #[value(alias = "f16")]
    Float16,
}

impl CacheDtype {
    /// As the device stores it.
    pub fn element(self) -> ElementType {
        match self {
            Self::Float32 => ElementType::F32,
            Self::Float16 => ElementType::F16,
        }
    }
}

/// Storage of the key/value cache of generation.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Memory")]
pub struct CacheSettings {
    /// Data type of the key/value cache; sums are in float32.
    #[arg(long, value_enum, default_value = "float32")]
    pub kv_cache_dtype: CacheDtype,
}

/// Storage of a model that is not trained.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Memory")]
pub struct StorageSettings {
    /// Data type of the weights in memory; sums are in float32.
    #[arg(long, value_enum, default_value = "auto")]
    pub dtype: WeightsDtype,
}

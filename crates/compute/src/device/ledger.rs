//! Accounting of device memory, because drivers do not report it (Metal and lavapipe never, Vulkan only with an extension).

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Bytes allocated, by purpose.
#[derive(Default)]
pub struct Ledger {
    by_purpose: Mutex<BTreeMap<String, u64>>,
}

impl Ledger {
    pub(super) fn add(&self, purpose: &str, bytes: u64) {
        let mut map = self.by_purpose.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *map.entry(purpose.to_string()).or_default() += bytes;
    }

    pub(super) fn remove(&self, purpose: &str) {
        self.by_purpose.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(purpose);
    }

    /// Bytes by purpose, such as `values` or `activations`.
    pub fn entries(&self) -> BTreeMap<String, u64> {
        self.by_purpose.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Total bytes.
    pub fn total(&self) -> u64 {
        self.entries().values().sum()
    }
}

/// Human-readable bytes: `512 bytes`, `1.5 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

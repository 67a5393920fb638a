//! Fine-tuning: templates against transformers, tokens and labels and one whole step against TRL, masks by hand, rows that are refused,
//! runs that are killed. The references are made by tests/golden/chat.py and tests/golden/sft.py.

use crate::common;

mod hostile;
mod masks;
mod parity;
mod rows;
mod runs;
mod templates;

use std::path::{Path, PathBuf};

/// A file beside the references.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

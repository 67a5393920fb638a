//! GGUF, the file format of llama.cpp: one file with metadata, tokenizer, chat template and tensors, often quantised.
//!
//! Layout (version 2 and 3, little endian): `GGUF`, version, number of tensors, number of metadata entries; the metadata; for each tensor
//! name, shape (innermost first), type and offset; padding; the tensors. Lengths and offsets are checked against the file before anything
//! is allocated or read.
//!
//! Reading: [`GgufFile`] has the tensors by their Hugging Face names as f32, [`GgufFile::config_json`] the `config.json`, and
//! [`GgufFile::tokenizer_files`] the tokenizer's files. Writing: [`GgufPlan`] and [`write()`].

mod blocks;
mod config;
mod file;
mod header;
mod names;
mod pre_tokenizer;
mod value;
mod vocabulary;
mod write;

pub use blocks::BlockType;
pub use file::GgufFile;
pub use value::{Metadata, MetadataValue};
pub use vocabulary::TokenizerFiles;
pub use write::{GgufPlan, GgufTokenizer, write};

pub(crate) use pre_tokenizer::PreTokenizer;
pub(crate) use vocabulary::{MAX_TOKEN, TokenType, bytes_of, escape, fillers, tokenizer_files};

use crate::vfs::{Vfs, display_path};
use anyhow::{Context, Result};
use std::path::Path;

/// The first bytes of a file.
const MAGIC: [u8; 4] = *b"GGUF";
/// Default alignment of tensors.
const ALIGNMENT: u64 = 32;

/// Whether a path is a GGUF file: it ends in `.gguf` or begins with the magic bytes.
///
/// # Errors
/// A file that cannot be read.
pub fn is_gguf(vfs: &dyn Vfs, path: &Path) -> Result<bool> {
    if !vfs.is_file(path)? {
        return Ok(false);
    }
    let is_named = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    Ok(is_named || vfs.read_at(path, 0, 4).with_context(|| display_path(path))?.0 == MAGIC)
}

//! The tokenizer of a GGUF file.

use super::Tokenizer;
use super::companions::Companions;
use super::ends::Generation;
use crate::data::shown_path;
use crate::model_files::gguf::{GgufFile, TokenizerFiles};
use crate::vfs::Vfs;
use anyhow::Result;
use serde_json::Map;
use std::path::Path;

impl Tokenizer {
    /// Reads the tokenizer of a GGUF file, including its chat template. Of the generation settings a GGUF file has only the end tokens.
    ///
    /// # Errors
    /// An invalid file, or a tokenizer type that is not supported, by name.
    pub(super) fn from_gguf(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        let file = GgufFile::open(vfs, path)?;
        let (files, model) = (file.tokenizer_files()?, file.config_json()?);
        let model = model.as_object().cloned().unwrap_or_default();
        let most = model.get("vocab_size").and_then(|size| usize::try_from(size.as_u64()?).ok());
        let generation = Generation::new(Map::new(), &model)?;
        let companions = Companions { most, generation, ..Companions::default() };
        Self::from_files(&shown_path(path), files, companions)
    }

    /// The tokenizer that the settings of a GGUF file describe, to compare it with the original.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`].
    pub(crate) fn from_gguf_settings(files: TokenizerFiles) -> Result<Self> {
        Self::from_files("GGUF", files, Companions::default())
    }

    fn from_files(name: &str, files: TokenizerFiles, rest: Companions) -> Result<Self> {
        Self::from_bytes(name, serde_json::to_vec_pretty(&files.tokenizer)?, Companions { config: files.config, ..rest })
    }
}

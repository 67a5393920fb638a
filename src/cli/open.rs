//! A model folder, opened for use.

use crate::data::Tokenizer;
use crate::gpu::Gpu;
use crate::model::hf_config::{self, HfConfig};
use crate::model::weight_files::WeightFiles;
use crate::model::{Model, checkpoint};
use crate::vfs::RealFs;
use std::path::{Path, PathBuf};

/// The folder of a model that a user named: a model folder, or a run folder, which stands for its newest sound checkpoint.
pub fn model_folder(path: &Path) -> anyhow::Result<PathBuf> {
    if path.join("config.json").is_file() || !path.join("config.toml").is_file() {
        return Ok(path.to_path_buf());
    }
    match checkpoint::newest_valid(&RealFs, path)?.found {
        Some(found) => Ok(found.path),
        None => anyhow::bail!("{}: this run holds no sound checkpoint yet", path.display()),
    }
}

/// Shape and special tokens of a model folder.
pub fn config(dir: &Path) -> anyhow::Result<HfConfig> {
    let config = hf_config::read(&dir.join("config.json"))?;
    for notice in &config.notices {
        super::output::note(&format!("note: {notice}"));
    }
    Ok(config)
}

/// Weights onto a device, with rotations for `context` tokens.
pub fn model(gpu: &Gpu, dir: &Path, config: &HfConfig, context: usize) -> anyhow::Result<Model> {
    let model = Model::new(gpu, &config.model, context)?;
    model.load(gpu, &WeightFiles::open(dir)?)?;
    Ok(model)
}

/// The tokenizer of a model folder.
pub fn tokenizer(dir: &Path) -> anyhow::Result<Tokenizer> {
    Tokenizer::from_folder(dir)
}

/// The adapter, by name or index or the first.
pub fn gpu(adapter: Option<&str>) -> anyhow::Result<Gpu> {
    let gpu = pollster::block_on(Gpu::open(adapter))?;
    gpu.enable_tuning();
    Ok(gpu)
}

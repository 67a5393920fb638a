//! A model folder or a GGUF file, opened for use.

use crate::config::{DeviceSettings, ModelConfig};
use crate::data::Tokenizer;
use crate::device::Device;
use crate::model::Model;
use crate::model::adapter::is_adapter;
use crate::model::gguf::is_gguf;
use crate::model::hf_config::{self, HfConfig};
use crate::model::weight_files::WeightFiles;
use crate::number_format::nearest;
use crate::run_folder;
use crate::run_folder::checkpoints::{self, split_step};
use crate::session::begin::model_dir;
use crate::vfs::{RealFs, shown};
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// The place of a model that a user named: a model folder, an adapter (LoRA) beside its base model, a GGUF file, a run folder, which stands for its newest sound checkpoint, or
/// `RUN@STEP`.
pub fn model_folder(path: &Path) -> anyhow::Result<PathBuf> {
    if let Some(spec) = path.to_str().filter(|spec| !path.exists() && split_step(spec).1.is_some()) {
        return super::held_out_text::folder_of(spec).context("--model");
    }
    let dir = model_dir(path).context("--model")?;
    if dir.join("config.json").is_file() || is_gguf(path) || is_adapter(&dir) {
        return Ok(dir);
    }
    anyhow::ensure!(path.is_dir(), "--model {}: no such folder or GGUF file{}", shown(path), near(path));
    anyhow::ensure!(
        run_folder::config(path).is_file(),
        "--model {}: holds no config.json; name a model folder, a GGUF file or a run folder",
        path.display()
    );
    match checkpoints::newest_valid(&RealFs, path)?.found {
        Some(found) => Ok(found.path),
        None => anyhow::bail!("{}: this run holds no sound checkpoint yet", path.display()),
    }
}

/// Refuse a run folder that is not there, with the name of a near one.
///
/// # Errors
/// There is no such folder.
pub fn run_exists(flag: &str, run: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(run.is_dir(), "{flag} {}: there is no such run folder{}", shown(run), near(run));
    Ok(())
}

/// The same without a flag.
///
/// # Errors
/// There is no such folder.
pub fn folder_exists(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(path.is_dir(), "{}: there is no such folder{}", shown(path), near(path));
    Ok(())
}

/// The same for what a run begins from: `DIR`, `RUN@STEP` or `merge:RUN?...`.
///
/// # Errors
/// There is no such folder or file.
pub fn start_exists(flag: &str, spec: &str) -> anyhow::Result<()> {
    let (path, what) = match spec.strip_prefix("merge:") {
        Some(rest) => (Path::new(rest.split_once('?').map_or(rest, |(run, _)| run)), "run folder"),
        None if Path::new(spec).exists() => return Ok(()),
        None => match split_step(spec) {
            (path, Some(_)) => (path, "run folder"),
            (path, None) => (path, "folder or GGUF file"),
        },
    };
    anyhow::ensure!(path.exists(), "{flag} {}: there is no such {what}{}", shown(path), near(path));
    Ok(())
}

/// "; did you mean runs/a?" when a folder beside this path, or of its name below `runs`, is near to it.
pub fn near(path: &Path) -> String {
    let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { return String::new() };
    let own = path.parent().unwrap_or(Path::new(""));
    let found = [own, Path::new("runs")].into_iter().find_map(|parent| {
        let listed = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let folders = std::fs::read_dir(listed).ok()?.flatten().filter(|entry| entry.path().is_dir()).take(MOST_NEIGHBOURS);
        let names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        nearest(&name, names.iter().map(String::as_str)).map(|name| parent.join(name))
    });
    found.map_or(String::new(), |path| format!("; did you mean {}?", shown(&path)))
}

/// Folders that are looked at for a near name.
const MOST_NEIGHBOURS: usize = 5000;

/// Shape and special tokens of a model folder.
pub fn config(dir: &Path) -> anyhow::Result<HfConfig> {
    let config = hf_config::of_model(dir)?;
    for notice in &config.notices {
        super::output::note(&format!("note: {notice}"));
    }
    Ok(config)
}

/// Weights onto a device, with rotations for `context` tokens.
pub fn model(device: &Device, dir: &Path, config: &HfConfig, context: usize) -> anyhow::Result<Model> {
    let model = Model::new(device, &config.model, context)?;
    model.load(device, &WeightFiles::open(dir)?)?;
    Ok(model)
}

/// More tokens at once gain nothing on any adapter.
const MAX_TOKENS: usize = 32_768;

/// Rows of `seq_len` tokens that an evaluation computes at once, at most `wanted`: the widest activation must fit into a binding. The
/// result does not depend on the number of rows.
pub fn fitting_rows(device: &Device, config: &ModelConfig, seq_len: usize, wanted: usize) -> usize {
    let widest = 4 * seq_len * (2 * config.intermediate_size).max(config.qkv_dim());
    wanted.min((device.sizes().max_tensor_bytes as usize / widest).min(MAX_TOKENS / seq_len).max(1))
}

/// The tokenizer of a model folder; refused when it has tokens that the model does not know.
pub fn tokenizer(dir: &Path, config: &HfConfig) -> anyhow::Result<Tokenizer> {
    let tokenizer = Tokenizer::from_folder(dir)?;
    anyhow::ensure!(
        tokenizer.vocab_size() <= config.model.vocab_size,
        "{}: the tokenizer has {} tokens, but config.json says vocab_size = {}; they belong to different models",
        dir.display(),
        tokenizer.vocab_size(),
        config.model.vocab_size
    );
    Ok(tokenizer)
}

/// The device that the settings name, else the first.
pub fn device(settings: &DeviceSettings) -> anyhow::Result<Device> {
    let device = Device::open(settings)?;
    device.enable_tuning();
    Ok(device)
}

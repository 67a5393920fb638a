//! Opening of model folders and GGUF files.

use crate::config::{DeviceSettings, ModelConfig, UsageError, WeightsDtype};
use crate::data::Tokenizer;
use crate::device::Device;
use crate::model::Model;
use crate::model_files::adapter::is_adapter;
use crate::model_files::gguf::is_gguf;
use crate::model_files::hf_config::{self, HfConfig};
use crate::model_files::snapshot;
use crate::model_files::weight_files::WeightFiles;
use crate::number_format::nearest;
use crate::run_folder;
use crate::run_folder::checkpoints::{self, split_step};
use crate::vfs::{RealFs, display_path};
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// The model folder of a user's path: a model folder, an adapter (LoRA) with its base model, a GGUF file, a run folder (its newest valid
/// checkpoint), or `RUN@STEP`. Errors begin with `argument`, the path's flag or its name in the help.
pub fn model_folder(argument: &'static str, path: &Path) -> anyhow::Result<PathBuf> {
    if let Some(spec) = path.to_str().filter(|spec| !path.exists() && split_step(spec).1.is_some()) {
        return super::held_out_text::folder_of(spec).context(argument);
    }
    let dir = snapshot(&RealFs, path).context(argument)?;
    if dir.join("config.json").is_file() || is_gguf(&RealFs, path)? || is_adapter(&RealFs, &dir)? {
        return Ok(dir);
    }
    ensure_exists(path.is_dir(), || {
        format!("{argument} {}: no such folder or GGUF file{}", display_path(path), similar_name_hint(path))
    })?;
    anyhow::ensure!(
        run_folder::config(path).is_file(),
        "{argument} {}: holds no config.json; name a model folder, a GGUF file or a run folder",
        display_path(path)
    );
    Ok(checkpoints::newest_of(&RealFs, path)?.path)
}

/// Reject a missing run folder, with a similar name as hint.
///
/// # Errors
/// The folder does not exist.
pub fn run_exists(flag: &str, run: &Path) -> anyhow::Result<()> {
    ensure_exists(run.is_dir(), || format!("{flag} {}: there is no such run folder{}", display_path(run), similar_name_hint(run)))
}

/// As [`run_exists`], without a flag.
///
/// # Errors
/// The folder does not exist.
pub fn folder_exists(path: &Path) -> anyhow::Result<()> {
    ensure_exists(path.is_dir(), || match path.exists() {
        true => format!("{}: is a file; this command takes a folder", display_path(path)),
        false => format!("{}: there is no such folder{}", display_path(path), similar_name_hint(path)),
    })
}

/// As [`run_exists`], for a starting point: `DIR`, `RUN@STEP` or `merge:RUN?...`.
///
/// # Errors
/// The folder or file does not exist.
pub fn start_exists(flag: &str, spec: &str) -> anyhow::Result<()> {
    let (path, what) = match spec.strip_prefix("merge:") {
        Some(rest) => (Path::new(rest.split_once('?').map_or(rest, |(run, _)| run)), "run folder"),
        None if Path::new(spec).exists() => return Ok(()),
        None => match split_step(spec) {
            (path, Some(_)) => (path, "run folder"),
            (path, None) => (path, "folder or GGUF file"),
        },
    };
    ensure_exists(path.exists(), || format!("{flag} {}: there is no such {what}{}", display_path(path), similar_name_hint(path)))
}

/// Reject a data path that does not exist, with a similar name as hint. `-` is standard input; `PATH:WEIGHT` is checked where it is parsed.
///
/// # Errors
/// The file or folder does not exist.
pub fn data_exists(flag: &str, path: &Path) -> anyhow::Result<()> {
    let is_weighted = path.to_str().is_some_and(|path| path.contains(':'));
    ensure_exists(is_weighted || path.as_os_str() == "-" || path.exists(), || {
        format!("{flag} {}: there is no such file or folder{}", display_path(path), similar(path, |_| true))
    })
}

/// A name of something that does not exist is a usage error.
pub fn ensure_exists(it_does: bool, error: impl FnOnce() -> String) -> anyhow::Result<()> {
    if it_does { Ok(()) } else { Err(UsageError(error()).into()) }
}

/// "; did you mean runs/a?" if a similarly named folder exists next to this path or in `runs`.
pub fn similar_name_hint(path: &Path) -> String {
    similar(path, Path::is_dir)
}

fn similar(path: &Path, is_wanted: impl Fn(&Path) -> bool) -> String {
    let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { return String::new() };
    let own = path.parent().unwrap_or(Path::new(""));
    let found = [own, Path::new("runs")].into_iter().find_map(|parent| {
        let listed = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let folders = std::fs::read_dir(listed).ok()?.flatten().filter(|entry| is_wanted(&entry.path())).take(MOST_NEIGHBOURS);
        let names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        nearest(&name, names.iter().map(String::as_str)).map(|name| parent.join(name))
    });
    found.map_or(String::new(), |path| format!("; did you mean {}?", display_path(&path)))
}

/// Maximum number of entries searched for similar names.
const MOST_NEIGHBOURS: usize = 5000;

/// Shape and special tokens of a model folder.
pub fn config(dir: &Path) -> anyhow::Result<HfConfig> {
    let config = hf_config::of_model(&RealFs, dir)?;
    for notice in &config.notices {
        super::output::note(&format!("note: {notice}"));
    }
    Ok(config)
}

/// Load weights onto a device for training, with a rotation table for `context` tokens.
pub fn model(device: &Device, dir: &Path, config: &HfConfig, context: usize) -> anyhow::Result<Model> {
    frozen_model(device, dir, config, context, WeightsDtype::Float32)
}

/// As [`model`], for a model that is not trained.
pub fn frozen_model(
    device: &Device,
    dir: &Path,
    config: &HfConfig,
    context: usize,
    dtype: WeightsDtype,
) -> anyhow::Result<Model> {
    let files = WeightFiles::open(&RealFs, dir)?;
    let model = Model::frozen(device, &config.model, context, dtype.resolve(files.storage_element()))?;
    model.load(device, &files)?;
    Ok(model)
}

/// No adapter is faster with more tokens at once.
const MAX_TOKENS: usize = 32_768;

/// Rows of `seq_len` tokens that an evaluation computes at once, at most `wanted`: the widest activation must fit in one binding. The
/// result does not depend on it.
pub fn fitting_rows(device: &Device, config: &ModelConfig, seq_len: usize, wanted: usize) -> usize {
    let widest = 4 * seq_len * (2 * config.intermediate_size).max(config.qkv_dim());
    wanted.min((device.sizes().max_tensor_bytes as usize / widest).min(MAX_TOKENS / seq_len).max(1))
}

/// The tokenizer of a model folder; rejected when it has tokens beyond the model's vocabulary.
pub fn tokenizer(dir: &Path, config: &HfConfig) -> anyhow::Result<Tokenizer> {
    let tokenizer = Tokenizer::from_folder(&RealFs, dir)?;
    tokenizer.check_model(config.model.vocab_size).with_context(|| display_path(dir))?;
    if let Some(text) = tokenizer.class_note() {
        super::output::note(&format!("note: {text}"));
    }
    Ok(tokenizer)
}

/// The device of the settings, else the first.
pub fn device(settings: &DeviceSettings) -> anyhow::Result<Device> {
    let device = Device::open(settings)?;
    device.enable_tuning();
    Ok(device)
}

//! Low-rank adapters in PEFT's format: a folder with `adapter_config.json`, which names the base model, and `adapter_model.safetensors`.

use super::safetensors_file::{SafetensorsFile, TensorInfo};
use super::snapshot;
use super::weight_files::{INDEX, SINGLE, WeightFiles, compare};
use crate::config::{Lora, ModelConfig};
use crate::vfs::{Vfs, clean, display_path};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file that marks a folder as an adapter.
pub const CONFIG: &str = "adapter_config.json";
/// The file with its tensors.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Maximum depth of adapters of adapters: a folder may name itself as its base.
const MOST_BASES: usize = 8;
/// PEFT's prefix of the base model's tensor names.
const PREFIX: &str = "base_model.model.";

/// Whether a folder is an adapter: it has an adapter configuration, and no model weights.
///
/// # Errors
/// A path that cannot be looked up.
pub fn is_adapter(vfs: &dyn Vfs, dir: &Path) -> Result<bool> {
    Ok(vfs.is_file(&dir.join(CONFIG))? && !vfs.exists(&dir.join(SINGLE))? && !vfs.exists(&dir.join(INDEX))?)
}

/// The folder with the file `name`: this one, or, for an adapter without that file, its base model's (a folder or a GGUF file).
///
/// # Errors
/// An adapter whose base model is missing.
pub fn folder_containing(vfs: &dyn Vfs, dir: &Path, name: &str) -> Result<PathBuf> {
    let mut found = dir.to_owned();
    for _ in 0..MOST_BASES {
        if !is_adapter(vfs, &found)? || vfs.exists(&found.join(name))? {
            return Ok(found);
        }
        found = Config::read(vfs, &found)?.base(vfs, &found)?;
    }
    bail!("{}: {}", display_path(dir), too_deep())
}

fn too_deep() -> String {
    format!(
        "its base is an adapter, whose base is an adapter, and so on, more than {MOST_BASES} times: fold them with lehr merge --lora"
    )
}

/// The fields of `adapter_config.json` that lehr uses.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    peft_type: String,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    use_rslora: bool,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

impl Default for Config {
    fn default() -> Self {
        // PEFT's defaults.
        let others = BTreeMap::new();
        Self { peft_type: String::new(), base_model_name_or_path: None, r: 8, lora_alpha: 8.0, use_rslora: false, others }
    }
}

/// Fields that change what an adapter computes, which lehr does not support.
const UNSUPPORTED: &[&str] = &[
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "arrow_config",
    "monteclora_config",
    "alora_invocation_tokens",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
];

impl Config {
    fn read(vfs: &dyn Vfs, dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let at = || display_path(&path);
        let bytes = vfs.read(&path, 1 << 20).with_context(at)?;
        let config: Self = serde_json::from_slice(&bytes).map_err(|e| anyhow::anyhow!("{}: {}", at(), clean(&e.to_string())))?;
        ensure!(config.peft_type == "LORA", "{}: peft_type = {}: only LORA is supported", at(), clean(&config.peft_type));
        ensure!(config.r > 0, "{}: r = 0: must be at least 1", at());
        ensure!(config.lora_alpha.is_finite(), "{}: lora_alpha = {}: must be a number", at(), config.lora_alpha);
        for name in UNSUPPORTED {
            let Some(value) = config.others.get(*name) else { continue };
            let is_off = value.is_null()
                || value == &Value::Bool(false)
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty);
            ensure!(
                is_off,
                "{}: {name} = {}: not supported; fold the adapter with peft (merge_and_unload)",
                at(),
                clean(&value.to_string())
            );
        }
        // Other initialisations of A and B change the base model's weights too.
        let init = config.others.get("init_lora_weights").and_then(Value::as_str).unwrap_or("gaussian");
        ensure!(
            ["gaussian", "eva", "orthogonal"].contains(&init),
            "{}: init_lora_weights = {}: such adapters belong to changed base weights; convert them with peft (path_initial_model_for_weight_conversion)",
            at(),
            clean(init)
        );
        let bias = config.others.get("bias").and_then(Value::as_str).unwrap_or("none");
        ensure!(bias == "none", "{}: bias = {}: only none is supported", at(), clean(bias));
        Ok(config)
    }

    fn scale(&self) -> f64 {
        let r = self.r as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }

    /// The base model's folder or GGUF file: a path relative to the working directory, or to the adapter's folder.
    fn base(&self, vfs: &dyn Vfs, dir: &Path) -> Result<PathBuf> {
        let at = display_path(&dir.join(CONFIG));
        let Some(name) = self.base_model_name_or_path.as_deref().filter(|name| !name.is_empty()) else {
            bail!("{at}: base_model_name_or_path is missing; put the path of the base model's folder there")
        };
        for path in [PathBuf::from(name), dir.join(name)] {
            if vfs.exists(&path).with_context(|| at.clone())? {
                return snapshot(vfs, &path);
            }
        }
        bail!(
            "{at}: base_model_name_or_path = {}: there is no such folder; download the base model and put its path there, or fold the \
             adapter into it with lehr merge --lora {} --base DIR --out NEW",
            clean(name),
            display_path(dir)
        )
    }
}

/// An adapter that has been opened and validated; its base model has not been read.
#[derive(Debug)]
pub struct AdapterFolder {
    dir: PathBuf,
    /// The base model's folder or GGUF file, or an error.
    base: std::result::Result<PathBuf, String>,
    rank: usize,
    scale: f64,
    file: SafetensorsFile,
}

impl AdapterFolder {
    /// Open a folder.
    ///
    /// # Errors
    /// Not an adapter, an unsupported kind, or a damaged file.
    pub fn open(vfs: &dyn Vfs, dir: &Path) -> Result<Self> {
        ensure!(
            vfs.is_file(&dir.join(CONFIG))?,
            "{}: holds no {CONFIG}: it is not an adapter (LoRA); --init begins new adapters beside a model",
            display_path(dir)
        );
        let config = Config::read(vfs, dir)?;
        let file = SafetensorsFile::open(vfs, &dir.join(WEIGHTS))?;
        let base = config.base(vfs, dir).map_err(|error| format!("{error:#}"));
        let folder = Self { dir: dir.to_owned(), base, rank: config.r, scale: config.scale(), file };
        folder.check_names()?;
        Ok(folder)
    }

    /// As [`AdapterFolder::open`], with the base model at another place than the folder names.
    ///
    /// # Errors
    /// As [`AdapterFolder::open`].
    pub fn open_beside(vfs: &dyn Vfs, dir: &Path, base: &Path) -> Result<Self> {
        Ok(Self { base: Ok(snapshot(vfs, base)?), ..Self::open(vfs, dir)? })
    }

    /// Path of the base model.
    ///
    /// # Errors
    /// The base model is missing.
    pub fn base(&self) -> Result<&Path> {
        self.base.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// The base model's weights.
    ///
    /// # Errors
    /// As [`WeightFiles::open`].
    pub fn open_base(&self, vfs: &dyn Vfs) -> Result<WeightFiles> {
        WeightFiles::open(vfs, self.base()?)
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every tensor must be one of a pair, A (r, in) and B (out, r).
    fn check_names(&self) -> Result<()> {
        let at = || display_path(self.file.path());
        ensure!(!self.file.tensors().is_empty(), "{}: holds no tensor", at());
        for (name, info) in self.file.tensors() {
            let sides = name.strip_prefix(PREFIX).and_then(|rest| {
                let module = rest.strip_suffix(".lora_A.weight").map(|module| (module, 'B', 0));
                module.or_else(|| rest.strip_suffix(".lora_B.weight").map(|module| (module, 'A', 1)))
            });
            let Some((module, other, ranked)) = sides else {
                bail!("{}: tensor '{}' is not of a LoRA adapter of a linear layer", at(), clean(name))
            };
            let other = format!("{PREFIX}{module}.lora_{other}.weight");
            ensure!(self.file.tensors().contains_key(&other), "{}: tensor '{}' is missing", at(), clean(&other));
            let fits = info.shape.len() == 2 && info.shape[ranked] == self.rank;
            ensure!(fits, "{}: tensor '{}' has {:?}, but {CONFIG} says r = {}", at(), clean(name), info.shape, self.rank);
        }
        Ok(())
    }

    /// Reject adapters that do not match a model of this shape, with these tensor names and shapes.
    ///
    /// # Errors
    /// The first difference.
    pub fn expect(&self, config: &ModelConfig, names: &[(String, Vec<usize>)]) -> Result<()> {
        let Some(lora) = &config.lora else { bail!("{}: is an adapter, but the model has none", display_path(&self.dir)) };
        let (own, wanted) = ((self.rank, self.scale), (lora.rank, lora.scale()));
        ensure!(
            own == wanted,
            "{}: rank {} and factor {}, but the run has --lora-rank {} and a factor (alpha / rank) of {}",
            display_path(&self.dir),
            own.0,
            own.1,
            wanted.0,
            wanted.1
        );
        let found = self.file.tensors().iter().map(|(name, info)| (name.as_str(), info.shape.as_slice())).collect();
        compare(&format!("{}: these are not the run's adapters", display_path(self.file.path())), &found, names, &|_| false)
    }

    /// One of its tensors as f32.
    ///
    /// # Errors
    /// As [`SafetensorsFile::read_f32`].
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.file.read_f32(name, shape)
    }

    /// Reject adapters of layers that the base model does not have, or of other sizes.
    ///
    /// # Errors
    /// The first that does not match.
    pub fn check_base(&self, base: &WeightFiles) -> Result<()> {
        for (name, info) in self.file.tensors() {
            let Some(module) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(".lora_A.weight")) else { continue };
            let weight = format!("{module}.weight");
            let b = self.pair(&weight).map(|[_, b]| b.shape[0]);
            let own = [b.unwrap_or(0), info.shape[1]];
            match base.shape(&weight) {
                Some(shape) if shape == own => {}
                Some(shape) => bail!(
                    "{}: the adapter of '{}' is for {own:?}, but it has {shape:?} in {}: another base model?",
                    display_path(&self.dir),
                    clean(&weight),
                    display_path(base.dir())
                ),
                None => bail!(
                    "{}: has an adapter of '{}', which {} does not hold: another base model?",
                    display_path(&self.dir),
                    clean(&weight),
                    display_path(base.dir())
                ),
            }
        }
        Ok(())
    }

    fn pair(&self, weight: &str) -> Option<[&TensorInfo; 2]> {
        let module = weight.strip_suffix(".weight")?;
        let side = |side: &str| self.file.tensors().get(&format!("{PREFIX}{module}.lora_{side}.weight"));
        Some([side("A")?, side("B")?])
    }

    /// The fold for a base model's weight: `None` if it has no adapter.
    ///
    /// # Errors
    /// As [`SafetensorsFile::read_f32`].
    pub fn fold(&self, weight: &str) -> Result<Option<WeightFold>> {
        let (Some([a, b]), Some(module)) = (self.pair(weight), weight.strip_suffix(".weight")) else { return Ok(None) };
        let read =
            |side: &str, info: &TensorInfo| self.file.read_f32(&format!("{PREFIX}{module}.lora_{side}.weight"), &info.shape);
        Ok(Some(WeightFold { a: read("A", a)?, b: read("B", b)?, rank: self.rank, cols: a.shape[1], scale: self.scale, at: 0 }))
    }
}

/// Adds scale B A to a weight (out, in) that is streamed in pieces.
pub struct WeightFold {
    /// (r, in)
    a: Vec<f32>,
    /// (out, r)
    b: Vec<f32>,
    rank: usize,
    cols: usize,
    scale: f64,
    /// Numbers processed so far.
    at: usize,
}

impl WeightFold {
    /// Add to the next piece. Sums are in f64 and rounded once.
    pub fn add(&mut self, piece: &mut [f32]) {
        let mut sums = vec![0.0f64; self.cols];
        let mut rest = piece;
        while !rest.is_empty() {
            let (row, first) = (self.at / self.cols, self.at % self.cols);
            let (now, later) = rest.split_at_mut((self.cols - first).min(rest.len()));
            let sums = &mut sums[..now.len()];
            sums.fill(0.0);
            for k in 0..self.rank {
                let factor = self.scale * f64::from(self.b[row * self.rank + k]);
                let a = &self.a[k * self.cols + first..][..sums.len()];
                sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * f64::from(*a));
            }
            now.iter_mut().zip(&*sums).for_each(|(w, sum)| *w = (f64::from(*w) + sum) as f32);
            self.at += now.len();
            rest = later;
        }
    }
}

/// The `adapter_config.json` of a model's adapters, as PEFT writes it.
pub fn config_json(lora: &Lora, base: Option<&Path>) -> Value {
    let alpha = if lora.alpha.fract() == 0.0 && lora.alpha < 1e9 { json!(lora.alpha as u64) } else { json!(lora.alpha) };
    let targets: Vec<&str> = lora.targets.iter().map(|target| target.name()).collect();
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base.map(|base| base.display().to_string()),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of any length give the result of the whole; compared with explicit sums.
    #[test]
    fn folding_in_pieces_matches_folding_at_once() {
        let (rows, cols, rank) = (5, 7, 2);
        let numbers = |n: usize, by: usize| -> Vec<f32> { (0..n).map(|i| ((i * by) % 11) as f32 / 7.0 - 0.5).collect() };
        let (weight, a, b) = (numbers(rows * cols, 3), numbers(rank * cols, 5), numbers(rows * rank, 4));
        let fold = || WeightFold { a: a.clone(), b: b.clone(), rank, cols, scale: 1.5, at: 0 };
        for size in [1, 3, 7, 10, rows * cols] {
            let (mut fold, mut folded) = (fold(), weight.clone());
            folded.chunks_mut(size).for_each(|piece| fold.add(piece));
            for (i, found) in folded.iter().enumerate() {
                let (row, col) = (i / cols, i % cols);
                let sum: f64 = (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * cols + col])).sum();
                assert!((f64::from(*found) - (f64::from(weight[i]) + 1.5 * sum)).abs() < 1e-6, "pieces of {size}: {i}");
            }
        }
    }
}

//! The merge result as a Hugging Face folder: weights with the recipe in their metadata, configuration and tokenizer of the newest folder,
//! `merge.json`, and a model card.

use super::stream::WeightedFolders;
use super::{MergeInputs, MergeRule, MergeWindow, TensorTreatment};
use crate::model_files::checkpoint::{CheckpointOrigin, CheckpointTarget, IfExists, Manifest, save};
use crate::model_files::safetensors_file::{Dtype, header_bytes};
use crate::progress::{Progress, report};
use crate::vfs::{FileKind, Vfs, clean, display_path};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of the recipe file.
pub const RECIPE: &str = "merge.json";
/// Key of the recipe in the weights' metadata.
pub const METADATA_KEY: &str = "lehr.merge";
/// Tokenizer and generation files of a model folder: copied unchanged from the newest folder where they exist.
pub const COPIED: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];
/// Maximum size of a copied file, in bytes.
pub(super) const MAX_COPIED: u64 = 64 << 20;

/// A merged checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeSource {
    /// Its folder, as given.
    pub folder: String,
    /// Number of updates, if known.
    pub step: Option<u64>,
    /// Its weight; weights sum to 1.
    pub weight: f64,
    /// SHA-256 of its `model.safetensors`, if it has a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Inputs and method of a merge; enough to reproduce it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeRecipe {
    /// `sma`, `ema`, ...
    pub method: String,
    /// For `ema` and `ema-normalized`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// For `wsm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<String>,
    /// The run, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Updates between checkpoints, if a run was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    /// Training tokens of one update, if a run was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_step: Option<u64>,
    /// Mean lag of the merged weights behind the newest checkpoint, in updates, if steps are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_age_steps: Option<f64>,
    /// The same in training tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_age_tokens: Option<f64>,
    /// 1 / sum of squared weights.
    pub effective_count: f64,
    /// Ordered by step, then by folder.
    pub checkpoints: Vec<MergeSource>,
    /// lehr's version.
    pub lehr: String,
}

impl MergeRecipe {
    /// The recipe of a merge, before it is made.
    pub fn new(merge: &WeightedFolders, rule: &MergeRule, window: Option<&MergeWindow>) -> Self {
        let weights = merge.weights();
        let part = |(folder, weight): (&super::InputFolder, &f64)| MergeSource {
            folder: folder.dir.display().to_string(),
            step: folder.step(),
            weight: *weight,
            sha256: folder
                .manifest
                .as_ref()
                .and_then(|m| m.files.iter().find(|f| f.name == "model.safetensors").map(|f| f.sha256.clone())),
        };
        let mut checkpoints: Vec<MergeSource> = merge.inputs().folders.iter().zip(&weights).map(part).collect();
        checkpoints.sort_by(|a, b| (a.step, &a.folder).cmp(&(b.step, &b.folder)).then(a.weight.total_cmp(&b.weight)));
        let newest = checkpoints.iter().map(|p| p.step).max().flatten();
        let ages: Option<Vec<f64>> = checkpoints.iter().map(|p| Some((newest? - p.step?) as f64 * p.weight)).collect();
        let mean_age_steps = ages.map(|ages| ages.iter().sum());
        Self {
            method: rule.method().name().into(),
            alpha: match rule {
                MergeRule::Ema { alpha } | MergeRule::EmaNormalized { alpha } => Some(*alpha),
                _ => None,
            },
            decay: match rule {
                MergeRule::Wsm { decay } => Some(decay.name().into()),
                _ => None,
            },
            run: window.map(|w| w.run.display().to_string()),
            every_steps: window.map(|w| w.every_steps),
            tokens_per_step: window.map(|w| w.tokens_per_step),
            mean_age_steps,
            mean_age_tokens: mean_age_steps.zip(window).map(|(age, w)| age * w.tokens_per_step as f64),
            effective_count: 1.0 / checkpoints.iter().map(|p| p.weight * p.weight).sum::<f64>(),
            checkpoints,
            lehr: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// The method with its parameter, such as `ema 0.2`.
    pub fn rule(&self) -> String {
        let parameter = self.alpha.map(|a| format!(" {a}")).or(self.decay.as_ref().map(|d| format!(" {d}")));
        format!("{}{}", self.method, parameter.unwrap_or_default())
    }

    /// The lag and the effective count as text.
    pub fn figures(&self) -> String {
        let age = match (self.mean_age_steps, self.mean_age_tokens) {
            (Some(steps), Some(tokens)) => format!("mean age {} steps ({} tokens), ", figure(steps), figure(tokens)),
            (Some(steps), None) => format!("mean age {} steps, ", figure(steps)),
            _ => String::new(),
        };
        format!("{age}effective number of checkpoints {:.2}", self.effective_count)
    }
}

/// At most one digit after the decimal point.
fn figure(x: f64) -> String {
    let x = (x * 10.0).round() / 10.0;
    format!("{x}")
}

/// Where the result is written.
#[derive(Debug)]
pub struct MergeTarget {
    parent: PathBuf,
    name: String,
}

impl MergeTarget {
    /// Refuse an unusable destination before any work. Writes nothing.
    ///
    /// # Errors
    /// A path without a name, a file, or a folder that is not empty.
    pub fn new(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        let at = || format!("--out {}", display_path(path));
        let name = path.file_name().and_then(|name| name.to_str()).filter(|_| !path.ends_with(".."));
        let Some(name) = name else { bail!("{}: name a new folder", at()) };
        match vfs.kind(path).with_context(at)? {
            None => {}
            Some(FileKind::Dir) if vfs.list(path).with_context(at)?.is_empty() => {}
            Some(FileKind::Dir) => bail!("{}: the folder exists and is not empty: choose another name or remove it", at()),
            Some(_) => bail!("{}: is a file or a link: choose another name", at()),
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for above in parent.ancestors().filter(|p| !p.as_os_str().is_empty()) {
            if vfs.kind(above).with_context(at)?.is_some() {
                ensure!(vfs.is_dir(above)?, "{}: {} is not a folder", at(), display_path(above));
                break;
            }
        }
        Ok(Self { parent: parent.to_owned(), name: name.to_owned() })
    }

    /// (parent folder, name of the new folder)
    pub(super) fn parent_and_name(&self) -> (&Path, &str) {
        (&self.parent, &self.name)
    }
}

impl MergeInputs {
    /// Write averaged tensors as `dtype`, whatever type the folders store.
    pub fn write_as(&mut self, dtype: Dtype) {
        for tensor in self.tensors.iter_mut().filter(|t| t.treatment == TensorTreatment::Average) {
            tensor.dtype = dtype;
        }
        self.tensors.sort_by_key(|t| std::cmp::Reverse(t.dtype.bytes()));
    }
}

impl WeightedFolders<'_> {
    /// Write the result as a Hugging Face folder with a manifest. `progress` receives the bytes of weights written so far; an error that it
    /// returns aborts the write. After an error no files are left.
    ///
    /// # Errors
    /// A folder that cannot be read or holds a number that is not finite, a disk error, or an error from `progress`.
    pub fn save(
        &self,
        vfs: &dyn Vfs,
        target: &MergeTarget,
        recipe: &MergeRecipe,
        progress: &mut Progress<'_>,
    ) -> Result<Manifest> {
        let tensors: Vec<(&str, Dtype, &[usize])> =
            self.inputs().tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice())).collect();
        let metadata = BTreeMap::from([(METADATA_KEY.to_owned(), serde_json::to_string(recipe)?)]);
        let (header, bytes_of_tensors) = header_bytes(&metadata, &tensors)?;
        let files = self.small_files(vfs, target, recipe)?;
        let mut made = Vec::new();
        if let Err(e) = make_parents(vfs, &target.parent, &mut made) {
            remove_written(vfs, &made);
            return Err(e);
        }
        let place = CheckpointTarget {
            parent: &target.parent,
            name: &target.name,
            bytes: bytes_of_tensors + header.len() as u64 + files.iter().map(|(_, content)| content.len() as u64).sum::<u64>(),
            existing: IfExists::Refuse,
        };
        // An unusable input is not an error of the output disk and is reported as it is.
        let mut refused = None;
        let saved = save(vfs, place, &self.origin(), |out| {
            out.file("model.safetensors", |file| {
                file.write_all(&header)?;
                let mut written = 0;
                let mut disk = Ok(());
                let streamed = self.stream(&mut |bytes| {
                    disk = file.write_all(bytes);
                    ensure!(disk.is_ok(), "the disk failed");
                    written += bytes.len() as u64;
                    report(progress, "merging", written, bytes_of_tensors)
                });
                disk?;
                streamed.map_err(|e| {
                    let text = anyhow!("{e:#}");
                    refused = Some(e);
                    text
                })
            })?;
            files.iter().try_for_each(|(name, content)| out.file(name, |file| Ok(file.write_all(content)?)))
        });
        match (saved, refused) {
            (Ok((_, manifest)), _) => Ok(manifest),
            (Err(failed), refused) => {
                remove_written(vfs, &made);
                Err(refused.unwrap_or_else(|| failed.into()))
            }
        }
    }

    fn origin(&self) -> CheckpointOrigin {
        let newest = self.inputs().newest();
        let base = newest.manifest.as_ref().map(|m| m.origin.clone()).unwrap_or_default();
        let step = self.inputs().folders.iter().filter_map(super::InputFolder::step).max().unwrap_or(0);
        CheckpointOrigin { step, adapter: "lehr merge".into(), ..base }
    }

    /// Everything but the weights: (name, content).
    fn small_files(&self, vfs: &dyn Vfs, target: &MergeTarget, recipe: &MergeRecipe) -> Result<Vec<(String, Vec<u8>)>> {
        let dir = &self.inputs().newest().dir;
        let read = |name: &str| vfs.read(&dir.join(name), MAX_COPIED).with_context(|| display_path(&dir.join(name)));
        let mut files = vec![("config.json".to_owned(), self.config(&read("config.json")?)?)];
        for name in COPIED {
            if vfs.exists(&dir.join(name))? {
                files.push(((*name).to_owned(), read(name)?));
            }
        }
        let mut json = serde_json::to_string_pretty(recipe)?;
        json.push('\n');
        files.push((RECIPE.to_owned(), json.into_bytes()));
        files.push(("README.md".to_owned(), self.card(target, recipe).into_bytes()));
        Ok(files)
    }

    /// The common type of all averaged tensors, if there is one.
    fn dtype(&self) -> Option<Dtype> {
        let mut averaged = self.inputs().tensors.iter().filter(|t| t.treatment == TensorTreatment::Average).map(|t| t.dtype);
        let first = averaged.next()?;
        averaged.all(|d| d == first).then_some(first)
    }

    /// The newest `config.json`, with `dtype` corrected where the result has another type.
    fn config(&self, text: &[u8]) -> Result<Vec<u8>> {
        set_dtype(text, self.dtype().and_then(dtype_name))
    }

    fn card(&self, target: &MergeTarget, recipe: &MergeRecipe) -> String {
        let n = recipe.checkpoints.len();
        let of = recipe.run.as_ref().map_or(String::new(), |run| format!(" of `{}`", clean(run)));
        let mut rows = String::new();
        for part in &recipe.checkpoints {
            let step = part.step.map_or("?".to_owned(), |s| s.to_string());
            rows += &format!("| `{}` | {step} | {:.6} |\n", clean(&part.folder), part.weight);
        }
        let dtype = self.dtype().map_or("as in the checkpoints".into(), |d| format!("{} throughout", d.name()));
        let name = clean(&target.name);
        format!(
            "---\nlibrary_name: transformers\ntags:\n- merge\n- lehr\n---\n\n# {name}\n\nThe weighted average of {n} checkpoints{of}, \
             method {}, made by lehr {}.\n\n| checkpoint | step | weight |\n|---|---|---|\n{rows}\nLag and spread: {}. Sums are in \
             float64, rounded once at the end; stored numbers: {dtype}. Configuration and tokenizer are those of the newest checkpoint. \
             `{RECIPE}` holds all this for machines.\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\nmodel = \
             AutoModelForCausalLM.from_pretrained(\"{name}\")\ntokenizer = AutoTokenizer.from_pretrained(\"{name}\")\n```\n\n```\nlehr \
             generate --model {name} --prompt \"Once \"\nlehr pretrain --init {name} --data TEXT\n```\n",
            recipe.rule(),
            recipe.lehr,
            recipe.figures(),
        )
    }
}

/// PyTorch's name for a type of weights.
pub(super) fn dtype_name(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::F32 => Some("float32"),
        Dtype::F16 => Some("float16"),
        Dtype::BF16 => Some("bfloat16"),
        _ => None,
    }
}

/// The text of a `config.json` with its type of weights replaced where it names one.
pub(super) fn set_dtype(text: &[u8], name: Option<&str>) -> Result<Vec<u8>> {
    let Some(name) = name else { return Ok(text.to_vec()) };
    let mut config: Value = serde_json::from_slice(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text))?;
    let wrong: Vec<&str> =
        ["dtype", "torch_dtype"].into_iter().filter(|key| config[*key].is_string() && config[*key] != name).collect();
    if wrong.is_empty() {
        return Ok(text.to_vec());
    }
    for key in wrong {
        config[key] = name.into();
    }
    let mut text = serde_json::to_vec_pretty(&config)?;
    text.push(b'\n');
    Ok(text)
}

/// Create a folder and its parents; created folders are added to `made`, outermost first.
pub(super) fn make_parents(vfs: &dyn Vfs, folder: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    if folder.as_os_str().is_empty() || vfs.kind(folder).with_context(|| display_path(folder))?.is_some() {
        return Ok(());
    }
    folder.parent().map_or(Ok(()), |above| make_parents(vfs, above, made))?;
    vfs.create_dir(folder).with_context(|| format!("{}: cannot be made", display_path(folder)))?;
    made.push(folder.to_owned());
    Ok(())
}

/// Remove created folders; those that are no longer empty stay.
pub(super) fn remove_written(vfs: &dyn Vfs, made: &[PathBuf]) {
    for folder in made.iter().rev() {
        let _ = vfs.remove_dir(folder);
    }
}

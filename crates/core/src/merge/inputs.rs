//! The input folders of a merge, checked when opened: valid, of one model, with one vocabulary.

use super::numbers::{mergeable, widest};
use super::parallel::parallel;
use crate::data::Tokenizer;
use crate::model_files::adapter::is_adapter;
use crate::model_files::checkpoint::{MANIFEST, Manifest, step_of, verify_model, verify_sizes};
use crate::model_files::gguf::is_gguf;
use crate::model_files::hf_config;
use crate::model_files::safetensors_file::{Dtype, TensorInfo};
use crate::model_files::weight_files::WeightFiles;
use crate::vfs::{Vfs, clean, display_path};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Maximum size of `tokenizer.json`, in bytes.
const MAX_TOKENIZER: u64 = 64 << 20;
/// Bytes at the start of each tensor that enter the fingerprint of a folder.
const FINGERPRINT_BYTES: u64 = 4096;
/// Fields of `config.json` that do not affect the model's arithmetic.
const FREE_FIELDS: &[&str] =
    &["_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "initializer_range", "auto_map"];

/// Verification of a checkpoint with a manifest before it is read. Folders without a manifest are not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The hash of every file except the optimizer's.
    Hashes,
    /// File sizes only: for folders whose hashes this process has already verified.
    Sizes,
}

/// An input folder.
#[derive(Debug)]
pub struct InputFolder {
    /// Its path.
    pub dir: PathBuf,
    /// Its manifest, if lehr wrote it.
    pub manifest: Option<Manifest>,
    /// Its weights.
    pub weights: WeightFiles,
    /// A hash of its content, used for ordering where names do not decide.
    pub(super) fingerprint: [u8; 32],
}

impl InputFolder {
    /// Number of updates: from the manifest, otherwise from a name such as `step-00000500` or `checkpoint-500`.
    pub fn step(&self) -> Option<u64> {
        let by_name = || {
            let name = self.dir.file_name()?.to_str()?;
            step_of(name).or_else(|| name.strip_prefix("checkpoint-")?.parse().ok())
        };
        self.manifest.as_ref().map(|m| m.origin.step).or_else(by_name)
    }
}

/// The treatment of a tensor in a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorTreatment {
    /// Floating-point numbers: averaged.
    Average,
    /// Integers or booleans: copied, and refused if the folders differ.
    Same,
    /// A table that follows from the configuration (`rotary_emb.inv_freq`): copied from the newest folder.
    Newest,
}

/// A tensor of the result.
#[derive(Clone, Debug)]
pub struct MergedTensor {
    /// Its Hugging Face name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Type in which it is written: the folders' type, or F32 where they differ.
    pub dtype: Dtype,
    /// Its treatment.
    pub treatment: TensorTreatment,
    /// File and location in each folder; only the newest folder's for [`TensorTreatment::Newest`].
    pub(super) places: Vec<(usize, TensorInfo)>,
}

impl MergedTensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Folders that can be merged, oldest first.
#[derive(Debug)]
pub struct MergeInputs {
    /// Oldest first.
    pub folders: Vec<InputFolder>,
    /// In the order in which they are written: as in the newest folder's files, wider types first.
    pub tensors: Vec<MergedTensor>,
    /// Harmless irregularities, one line each.
    pub notes: Vec<String>,
}

impl MergeInputs {
    /// Open the folders, oldest first, and check that they are valid and hold the same model.
    ///
    /// # Errors
    /// One line that names the folder, and file, tensor or field: a damaged or truncated file, another shape, vocabulary or configuration,
    /// a type that cannot be averaged.
    pub fn open(vfs: &dyn Vfs, dirs: &[PathBuf], check: Verification) -> Result<Self> {
        ensure!(!dirs.is_empty(), "a merge needs at least one checkpoint folder");
        let folders = parallel(dirs.len(), |i| open(vfs, &dirs[i], check))?;
        let mut inputs = Self { folders, tensors: Vec::new(), notes: Vec::new() };
        let tied = agree_on_model(vfs, &inputs.folders)?;
        agree_on_vocabulary(vfs, &inputs.folders)?;
        inputs.lay_out(tied)?;
        for folder in &inputs.folders {
            inputs.notes.extend(folder.weights.warnings().map(str::to_owned));
        }
        Ok(inputs)
    }

    /// The newest folder, whose configuration and tokenizer the result gets.
    pub fn newest(&self) -> &InputFolder {
        &self.folders[self.folders.len() - 1]
    }

    /// Bytes of weights that a merge reads.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().flat_map(|t| &t.places).map(|(_, info)| info.range.1 - info.range.0).sum()
    }

    /// Decide how each tensor is merged.
    fn lay_out(&mut self, tied: bool) -> Result<()> {
        let newest = self.newest();
        let mut dropped = Vec::new();
        // With tied embeddings the head is a second copy, which some versions of transformers write and others omit.
        let head_in_some = self.folders.iter().any(|f| f.weights.locate(HEAD).is_none());
        let ignorable = |name: &str| is_table(name) || (tied && head_in_some && name == HEAD);
        for folder in &self.folders {
            folder.weights.expect_like(&newest.weights, &ignorable)?;
        }
        let mut tensors = Vec::new();
        let mut names: Vec<&str> = newest.weights.names().collect();
        names.sort_by_key(|name| newest.weights.locate(name).map(|(file, info)| (file, info.range)));
        for name in names {
            if tied && head_in_some && name == HEAD {
                dropped.push(format!("{HEAD}: left out, it is the embedding (tie_word_embeddings) and not in every folder"));
                continue;
            }
            tensors.push(self.tensor(name)?);
        }
        // Widest first, so that every tensor is aligned.
        tensors.sort_by_key(|t: &MergedTensor| std::cmp::Reverse(t.dtype.bytes()));
        if let Some(t) = tensors.iter().find(|t| t.places.iter().any(|(_, info)| info.dtype != t.dtype)) {
            dropped.push(format!(
                "'{}': the folders store it in different types; it is written as {}",
                clean(&t.name),
                t.dtype.name()
            ));
        }
        self.tensors = tensors;
        self.notes.extend(dropped);
        Ok(())
    }

    fn tensor(&self, name: &str) -> Result<MergedTensor> {
        let from = if is_table(name) { &self.folders[self.folders.len() - 1..] } else { &self.folders };
        let places: Vec<(usize, TensorInfo)> =
            from.iter().filter_map(|f| f.weights.locate(name).map(|(file, info)| (file, info.clone()))).collect();
        let first = places[0].1.clone();
        let mut dtype = first.dtype;
        let floats = places.iter().all(|(_, info)| mergeable(info.dtype));
        for (folder, (_, info)) in from.iter().zip(&places) {
            let at = || format!("{}: tensor '{}'", display_path(&folder.dir), clean(name));
            if !is_table(name) && matches!(info.dtype, Dtype::F64 | Dtype::F8E4M3 | Dtype::F8E5M2) {
                bail!("{}: dtype {}: only F32, F16 and BF16 can be merged", at(), info.dtype.name());
            }
            ensure!(
                floats || info.dtype == first.dtype,
                "{}: dtype {}, but {} in {}",
                at(),
                info.dtype.name(),
                first.dtype.name(),
                display_path(&from[0].dir)
            );
            dtype = widest(dtype, info.dtype);
        }
        let treatment = match floats {
            _ if is_table(name) => TensorTreatment::Newest,
            true => TensorTreatment::Average,
            false => TensorTreatment::Same,
        };
        Ok(MergedTensor { name: name.to_owned(), shape: first.shape, dtype, treatment, places })
    }
}

const HEAD: &str = "lm_head.weight";

fn is_table(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

fn open(vfs: &dyn Vfs, dir: &Path, check: Verification) -> Result<InputFolder> {
    ensure!(!is_gguf(vfs, dir)?, "{}: a GGUF file; only folders with safetensors files are merged", display_path(dir));
    ensure!(vfs.is_dir(dir)?, "{}: there is no such folder", display_path(dir));
    ensure!(
        !is_adapter(vfs, dir)?,
        "{}: is an adapter (LoRA), and the mean of adapters is not the adapter of a mean; fold it into its base model first: lehr merge --lora {} --out NEW",
        display_path(dir),
        display_path(dir)
    );
    let manifest = match (vfs.exists(&dir.join(MANIFEST))?, check) {
        (false, _) => None,
        (true, Verification::Hashes) => Some(verify_model(vfs, dir)?),
        (true, Verification::Sizes) => Some(verify_sizes(vfs, dir)?),
    };
    let weights = WeightFiles::open(vfs, dir)?;
    let mut hash = Sha256::new();
    for name in weights.names() {
        let Some((file, info)) = weights.locate(name) else { continue };
        let mut start = vec![0; (info.range.1 - info.range.0).min(FINGERPRINT_BYTES) as usize];
        let file = &weights.files()[file];
        file.read_at(info, 0, &mut start).with_context(|| format!("{}: tensor '{}'", display_path(file.path()), clean(name)))?;
        hash.update(&start);
    }
    Ok(InputFolder { dir: dir.to_owned(), manifest, weights, fingerprint: hash.finalize().into() })
}

/// Refuse configurations that differ; returns whether embeddings are tied.
fn agree_on_model(vfs: &dyn Vfs, folders: &[InputFolder]) -> Result<bool> {
    let read = |folder: &InputFolder| -> Result<Vec<u8>> {
        let path = folder.dir.join("config.json");
        vfs.read(&path, 1 << 20).with_context(|| display_path(&path))
    };
    let newest = &folders[folders.len() - 1];
    let text = read(newest)?;
    let wanted = fields(&newest.dir, &text)?;
    let shape = hf_config::parse(&text).ok();
    for folder in &folders[..folders.len() - 1] {
        let text = read(folder)?;
        let found = fields(&folder.dir, &text)?;
        let difference = match (&shape, hf_config::parse(&text).ok()) {
            // Versions of transformers write the same shape differently.
            (Some(a), Some(b)) => {
                difference(&object(&serde_json::to_value(&a.model)?), &object(&serde_json::to_value(&b.model)?))
            }
            _ => difference(&wanted, &found),
        };
        if let Some((field, want, have)) = difference {
            bail!(
                "{}: config.json: {} = {}, but {} in {}: not of the same model",
                display_path(&folder.dir),
                clean(&field),
                clean(&have.to_string()),
                clean(&want.to_string()),
                display_path(&newest.dir)
            );
        }
    }
    Ok(wanted.get("tie_word_embeddings") == Some(&Value::Bool(true)))
}

fn fields(dir: &Path, text: &[u8]) -> Result<Map<String, Value>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let map: Map<String, Value> = serde_json::from_slice(text)
        .map_err(|e| anyhow::anyhow!("{}: config.json: {}", display_path(dir), clean(&e.to_string())))?;
    Ok(map)
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// The first field that differs: its name, the expected value and the value found. A missing field counts as null.
fn difference(wanted: &Map<String, Value>, found: &Map<String, Value>) -> Option<(String, Value, Value)> {
    let mut names: Vec<&String> = wanted.keys().chain(found.keys()).collect();
    names.sort();
    let get = |map: &Map<String, Value>, name: &str| map.get(name).cloned().unwrap_or(Value::Null);
    let names = names.into_iter().filter(|name| !FREE_FIELDS.contains(&name.as_str()));
    names.map(|name| (name.clone(), get(wanted, name), get(found, name))).find(|(_, want, have)| want != have)
}

/// Refuse tokenizers that differ, where they exist.
fn agree_on_vocabulary(vfs: &dyn Vfs, folders: &[InputFolder]) -> Result<()> {
    let read = |folder: &InputFolder, name: &str| -> Result<Option<Vec<u8>>> {
        let path = folder.dir.join(name);
        if !vfs.exists(&path)? {
            return Ok(None);
        }
        vfs.read(&path, MAX_TOKENIZER).with_context(|| display_path(&path)).map(Some)
    };
    let newest = &folders[folders.len() - 1];
    for name in ["tokenizer.json", "tokenizer.model"] {
        let Some(wanted) = read(newest, name)? else { continue };
        for folder in &folders[..folders.len() - 1] {
            let Some(found) = read(folder, name)? else { continue };
            if found == wanted {
                continue;
            }
            // Two notations of the same rules: merges as strings or as pairs, defaults omitted.
            let why = match (rules(&wanted), rules(&found)) {
                (Some(a), Some(b)) if a == b => continue,
                (Some(a), Some(b)) => first_token(&a, &b),
                _ => "its content differs".into(),
            };
            bail!(
                "{}: {name} is not that of {}: {why}; their vocabularies do not match",
                display_path(&folder.dir),
                display_path(&newest.dir)
            );
        }
    }
    Ok(())
}

/// The rules of a `tokenizer.json`, without leftovers of batched calls; `None` if the library cannot parse it.
fn rules(text: &[u8]) -> Option<Map<String, Value>> {
    let as_written = || serde_json::from_slice(text).ok();
    let mut rules = Tokenizer::rules_of(text).ok().map(|rules| object(&rules)).or_else(as_written)?;
    rules.retain(|key, _| key != "padding" && key != "truncation");
    Some(rules)
}

/// The first token whose id differs, as text.
fn first_token(wanted: &Map<String, Value>, found: &Map<String, Value>) -> String {
    let vocabulary = |rules: &Map<String, Value>| rules.get("model").map(|m| object(&m["vocab"])).unwrap_or_default();
    match difference(&vocabulary(wanted), &vocabulary(found)) {
        Some((token, want, have)) => format!("token '{}' is {have}, there {want}", clean(&token)),
        None => match difference(wanted, found) {
            Some((field, ..)) => format!("{} differs", clean(&field)),
            None => "its content differs".into(),
        },
    }
}

//! The weights of a model: a Hugging Face folder with one `model.safetensors`, or shards with an index; a GGUF file; or an adapter (LoRA),
//! folded into its base model on reading.

use super::adapter::{self, AdapterFolder};
use super::gguf::{BlockType, GgufFile, is_gguf};
use super::hf_config;
use super::safetensors_file::{Dtype, NonFinite, SafetensorsFile, TensorInfo, collect_pieces};
use crate::config::ModelConfig;
use crate::device::ElementType;
use crate::vfs::{Vfs, clean, display_path};
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// The embedding; with tied embeddings, one tensor has two names.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The head.
pub(crate) const HEAD: &str = "lm_head.weight";

/// The tensors of a model, in one or more files.
#[derive(Debug)]
pub struct WeightFiles {
    dir: PathBuf,
    source: WeightSource,
}

#[derive(Debug)]
enum WeightSource {
    /// The files, and the file index of each tensor.
    Safetensors(Vec<SafetensorsFile>, BTreeMap<String, usize>),
    Gguf(Box<GgufFile>),
    /// The base model and its adapter.
    Adapter(Box<WeightFiles>, Box<AdapterFolder>),
}

#[derive(serde::Deserialize)]
struct TensorIndex {
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    /// Open the weights in a folder or a GGUF file. As in `transformers`, a single file takes precedence over an index. An adapter's folder
    /// is read as its base model with the adapter folded in.
    ///
    /// # Errors
    /// No weights, a damaged file, an index that does not match its shards, or an adapter whose base model is missing.
    pub fn open(vfs: &dyn Vfs, dir: &Path) -> Result<Self> {
        if adapter::is_adapter(vfs, dir)? {
            adapter::folder_containing(vfs, dir, SINGLE)?; // ends where adapters name one another as their bases
            return Self::folded(vfs, AdapterFolder::open(vfs, dir)?);
        }
        if is_gguf(vfs, dir)? {
            return Ok(WeightFiles { dir: dir.to_owned(), source: WeightSource::Gguf(Box::new(GgufFile::open(vfs, dir)?)) });
        }
        let single = dir.join(SINGLE);
        if vfs.exists(&single)? {
            return Self::from_files(dir, vec![SafetensorsFile::open(vfs, &single)?]);
        }
        let index_path = dir.join(INDEX);
        if !vfs.exists(&index_path)? {
            bail!("{}: {}", display_path(dir), missing_weights(vfs, dir)?);
        }
        let at = || display_path(&index_path);
        let bytes = vfs.read(&index_path, 64 << 20).with_context(at)?;
        let index: TensorIndex =
            serde_json::from_slice(&bytes).map_err(|e| anyhow::anyhow!("{}: {}", at(), clean(&e.to_string())))?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        ensure!(!names.is_empty() && names.len() <= 10_000, "{}: names {} files, must be 1 to 10000", at(), names.len());
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        for name in names {
            let plain = Path::new(name).file_name().is_some_and(|f| f == name.as_str()) && !name.contains(['/', '\\', ':']);
            ensure!(plain, "{}: file '{}' is not a plain file name", at(), clean(name));
            places.insert(name, files.len());
            files.push(SafetensorsFile::open(vfs, &dir.join(name)).with_context(|| format!("shard named in {INDEX}"))?);
        }
        for (tensor, name) in &index.weight_map {
            let found = files[places[name]].tensors().contains_key(tensor);
            ensure!(found, "{}: tensor '{}' should be in '{}' but is not", at(), clean(tensor), clean(name));
        }
        Self::from_files(dir, files)
    }

    /// An adapter and its base model.
    ///
    /// # Errors
    /// As [`WeightFiles::open`], or an adapter that does not fit its base model.
    pub fn folded(vfs: &dyn Vfs, adapter: AdapterFolder) -> Result<Self> {
        let base = adapter.open_base(vfs)?;
        adapter.check_base(&base)?;
        Ok(WeightFiles { dir: adapter.dir().to_owned(), source: WeightSource::Adapter(Box::new(base), Box::new(adapter)) })
    }

    fn from_files(dir: &Path, files: Vec<SafetensorsFile>) -> Result<Self> {
        let mut index = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.tensors().keys() {
                if let Some(other) = index.insert(name.clone(), i) {
                    let (a, b) = (display_path(files[other].path()), display_path(file.path()));
                    bail!("tensor '{}' is in two files: {a} and {b}", clean(name));
                }
            }
        }
        Ok(WeightFiles { dir: dir.to_owned(), source: WeightSource::Safetensors(files, index) })
    }

    /// The folder, or the GGUF file.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (index, gguf) = match self.model_source() {
            WeightSource::Safetensors(_, index) => (Some(index.keys()), None),
            WeightSource::Gguf(file) => (None, Some(file.tensors())),
            WeightSource::Adapter(..) => (None, None),
        };
        let of_gguf = gguf.into_iter().flatten().map(|(name, _)| name);
        index.into_iter().flatten().map(String::as_str).chain(of_gguf)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match &self.source {
            WeightSource::Gguf(file) => file.shape(name),
            WeightSource::Safetensors(..) => self.locate(name).map(|(_, info)| info.shape.as_slice()),
            WeightSource::Adapter(base, _) => base.shape(name),
        }
    }

    /// The files of the model itself: for an adapter, its base model's.
    fn model_source(&self) -> &WeightSource {
        match &self.source {
            WeightSource::Adapter(base, _) => base.model_source(),
            own => own,
        }
    }

    /// The safetensors files; empty for a GGUF file or an adapter.
    pub fn files(&self) -> &[SafetensorsFile] {
        match &self.source {
            WeightSource::Safetensors(files, _) => files,
            WeightSource::Gguf(_) | WeightSource::Adapter(..) => &[],
        }
    }

    /// The stored data type of a tensor, for an adapter that of its base model; `None` for a GGUF file, or a missing tensor.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        match &self.source {
            WeightSource::Adapter(base, _) => base.dtype(name),
            _ => self.locate(name).map(|(_, info)| info.dtype),
        }
    }

    /// The smallest type that stores every matrix unchanged: bfloat16 if all of them are in bfloat16, else f32, as for adapters that are folded
    /// in.
    pub fn storage_element(&self) -> ElementType {
        let is_matrix = |shape: &[usize]| shape.len() >= 2;
        let are_bf16 = match &self.source {
            WeightSource::Safetensors(files, _) => {
                let mut all = files.iter().flat_map(|file| file.tensors().values());
                all.all(|info| !is_matrix(&info.shape) || info.dtype == Dtype::BF16)
            }
            WeightSource::Gguf(file) => {
                file.tensors().all(|(name, shape)| !is_matrix(shape) || file.kind(name) == Some(BlockType::BF16))
            }
            WeightSource::Adapter(..) => false,
        };
        if are_bf16 { ElementType::Bf16 } else { ElementType::F32 }
    }

    /// Location of a tensor: index in [`Self::files`], and place in the file.
    pub fn locate(&self, name: &str) -> Option<(usize, &TensorInfo)> {
        let WeightSource::Safetensors(files, index) = &self.source else { return None };
        let file = *index.get(name)?;
        Some((file, files[file].tensors().get(name)?))
    }

    /// Harmless irregularities.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.files().iter().flat_map(|f| f.warnings()).map(String::as_str)
    }

    /// One tensor as f32; see [`SafetensorsFile::read_f32`].
    ///
    /// # Errors
    /// As [`SafetensorsFile::read_f32`].
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        collect_pieces(|sink| self.stream_f32(name, shape, sink))
    }

    /// One tensor as f32 in pieces; see [`SafetensorsFile::stream_f32`].
    ///
    /// # Errors
    /// As [`SafetensorsFile::stream_f32`].
    pub fn stream_f32(&self, name: &str, shape: &[usize], sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let missing =
            || format!("{}: tensor '{}' is missing{}", display_path(&self.dir), clean(name), nearest(name, self.names()));
        match &self.source {
            WeightSource::Safetensors(files, index) => {
                files[*index.get(name).with_context(missing)?].stream_f32(name, shape, sink)
            }
            WeightSource::Adapter(base, adapter) => match adapter.fold(name)? {
                None => base.stream_f32(name, shape, sink),
                Some(mut fold) => base.stream_f32(name, shape, &mut |piece| {
                    let mut piece = piece.to_vec();
                    fold.add(&mut piece);
                    sink(&piece)
                }),
            },
            WeightSource::Gguf(file) => {
                let at = || format!("{}: tensor '{}'", display_path(&self.dir), clean(name));
                let own = file.shape(name).with_context(missing)?;
                ensure!(own == shape, "{}: has shape {own:?}, the model needs {shape:?}", at());
                let mut bad = NonFinite::default();
                file.stream_f32(name, &mut |piece| {
                    bad.observe(piece);
                    sink(piece)
                })
                .with_context(at)?;
                bad.refuse(&at())
            }
        }
    }

    /// Reject unexpected or missing weights. Unexpected tensors for which `ignorable` is true are skipped (`lm_head.weight` with tied
    /// embeddings, `rotary_emb.inv_freq` of old Llamas).
    ///
    /// # Errors
    /// Lists up to five missing, unexpected and differently shaped tensors each.
    pub fn expect(&self, expected: &[(String, Vec<usize>)], ignorable: &dyn Fn(&str) -> bool) -> Result<()> {
        compare(
            &format!("{}: these weights do not belong to {}", display_path(&self.dir), self.expectation_source()),
            &self.shapes(),
            expected,
            ignorable,
        )
    }

    /// Reject weights whose names or shapes differ from those of another folder. Tensors for which `ignorable` is true may be in only one
    /// of them.
    ///
    /// # Errors
    /// As [`Self::expect`].
    pub fn expect_like(&self, other: &WeightFiles, ignorable: &dyn Fn(&str) -> bool) -> Result<()> {
        let expected = other.shapes().into_iter().filter(|(name, _)| !ignorable(name));
        let expected: Vec<_> = expected.map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
        let what = format!("{}: these are not the weights of the model in {}", display_path(&self.dir), display_path(&other.dir));
        compare(&what, &self.shapes(), &expected, ignorable)
    }

    /// Whose tensors are expected, for messages.
    fn expectation_source(&self) -> &'static str {
        match self.source {
            WeightSource::Gguf(_) => "the file's settings",
            WeightSource::Safetensors(..) | WeightSource::Adapter(..) => "this config.json",
        }
    }

    fn shapes(&self) -> BTreeMap<&str, &[usize]> {
        self.names().filter_map(|name| Some((name, self.shape(name)?))).collect()
    }
}

/// [`WeightFiles::storage_element`] of a model's folder or file; for a folder without weights, as in a dry run, by what its `config.json`
/// declares.
///
/// # Errors
/// As [`WeightFiles::open`].
pub fn storage_element(vfs: &dyn Vfs, dir: &Path) -> Result<ElementType> {
    let has_files = vfs.exists(&dir.join(SINGLE))? || vfs.exists(&dir.join(INDEX))?;
    match has_files || adapter::is_adapter(vfs, dir)? || is_gguf(vfs, dir)? {
        true => Ok(WeightFiles::open(vfs, dir)?.storage_element()),
        false if hf_config::declares_bfloat16(vfs, dir)? => Ok(ElementType::Bf16),
        false => Ok(ElementType::F32),
    }
}

/// Compare the actual with the expected tensors; all differences in one message that begins with `what`.
pub(super) fn compare(
    what: &str,
    found: &BTreeMap<&str, &[usize]>,
    expected: &[(String, Vec<usize>)],
    ignorable: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let wanted: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let extra: Vec<&str> = found.keys().copied().filter(|name| !wanted.contains(name) && !ignorable(name)).collect();
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !found.contains_key(name)).collect();
    let mut shapes = Vec::new();
    for (name, shape) in expected {
        if let Some(own) = found.get(name.as_str()).filter(|own| **own != shape.as_slice()) {
            let reversed = shape.len() == 2 && own.iter().rev().eq(shape.iter());
            let hint = if reversed { " (transposed?)" } else { "" };
            shapes.push(format!("'{}' has {own:?}, needs {shape:?}{hint}", clean(name)));
        }
    }
    let mut parts = Vec::new();
    if !missing.is_empty() {
        let lines = missing.iter().map(|name| format!("'{}'{}", clean(name), nearest(name, extra.iter().copied())));
        parts.push(format!("{} missing: {}", missing.len(), first_five(lines)));
    }
    if !extra.is_empty() {
        let lines = extra.iter().map(|name| format!("'{}'", clean(name)));
        parts.push(format!("{} unexpected: {}", extra.len(), first_five(lines)));
    }
    if !shapes.is_empty() {
        parts.push(format!("{} of another shape: {}", shapes.len(), first_five(shapes.iter().cloned())));
    }
    ensure!(parts.is_empty(), "{what}: {}", parts.join("; "));
    Ok(())
}

fn first_five(mut lines: impl Iterator<Item = String>) -> String {
    let mut out: Vec<String> = lines.by_ref().take(5).collect();
    if lines.next().is_some() {
        out.push("...".into());
    }
    out.join(", ")
}

/// ` (nearest: 'x')`, if a name is similar; at most 2000 names are compared, and none that are too long.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let scored =
        names.take(2000).filter(|other| other.len() < 256).map(|other| (strsim::normalized_levenshtein(name, other), other));
    match scored.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, other)) if score > 0.7 => format!(" (nearest: '{}')", clean(other)),
        _ => String::new(),
    }
}

/// The error for a folder without safetensors files.
fn missing_weights(vfs: &dyn Vfs, dir: &Path) -> Result<String> {
    if !vfs.is_dir(dir)? {
        return Ok("is not a folder, and not a GGUF file".into());
    }
    let names = vfs.list(dir).with_context(|| display_path(dir))?.into_iter().map(|entry| entry.name);
    if let Some(name) = names.filter(|name| name.to_string_lossy().ends_with(".gguf")).min() {
        return Ok(format!("holds {}: name that file instead of its folder", clean(&name.to_string_lossy())));
    }
    for (name, what) in
        [("pytorch_model.bin", "PyTorch"), ("pytorch_model.bin.index.json", "PyTorch"), ("tf_model.h5", "TensorFlow")]
    {
        if vfs.exists(&dir.join(name))? {
            return Ok(format!("has only {what} weights ({name}); save it with safe_serialization=True in transformers first"));
        }
    }
    Ok(format!("has neither {SINGLE} nor {INDEX}: not a model folder"))
}

/// The name under which a file stores a parameter: tied embeddings may be stored only as the head.
pub fn stored<'a>(config: &ModelConfig, files: &WeightFiles, name: &'a str) -> &'a str {
    let as_head = config.tie_word_embeddings && name == EMBEDDING && files.shape(EMBEDDING).is_none();
    if as_head && files.shape(HEAD).is_some() { HEAD } else { name }
}

/// Reject files without the parameters `names` of a model of this shape.
///
/// # Errors
/// Missing, unexpected or differently shaped tensors; tied embeddings that differ.
pub fn check(config: &ModelConfig, names: &[(String, Vec<usize>)], files: &WeightFiles) -> Result<()> {
    let tied = config.tie_word_embeddings;
    let ignorable = |name: &str| (tied && name == HEAD) || name.ends_with("rotary_emb.inv_freq");
    let names: Vec<_> = names.iter().map(|(name, shape)| (stored(config, files, name).to_owned(), shape.clone())).collect();
    files.expect(&names, &ignorable)?;
    if tied && [HEAD, EMBEDDING].iter().all(|name| files.shape(name).is_some()) {
        let shape = [config.vocab_size, config.hidden_size];
        ensure!(
            files.read_f32(HEAD, &shape)? == files.read_f32(EMBEDDING, &shape)?,
            "{}: config.json says tie_word_embeddings, but lm_head.weight differs from the embedding; set it to false",
            display_path(files.dir())
        );
    }
    Ok(())
}

//! Fold an adapter (LoRA) into its base model; the result is an ordinary model folder.

use super::folder::{COPIED, MAX_COPIED, MergeTarget, dtype_name, make_parents, remove_written, set_dtype};
use super::numbers::encode;
use crate::model_files::adapter::{self, AdapterFolder};
use crate::model_files::checkpoint::{CheckpointOrigin, CheckpointTarget, IfExists, Manifest, save};
use crate::model_files::gguf::is_gguf;
use crate::model_files::safetensors_file::{Dtype, header_bytes};
use crate::model_files::weight_files::WeightFiles;
use crate::progress::{Progress, report};
use crate::vfs::{Vfs, clean, display_path};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An adapter and its base model, opened and checked.
pub struct AdapterFold {
    files: WeightFiles,
    /// The adapter's folder and the base model's folder.
    folders: [PathBuf; 2],
    /// (name, type, shape), ordered by name.
    tensors: Vec<(String, Dtype, Vec<usize>)>,
}

impl AdapterFold {
    /// Open an adapter together with the base model that it names, or with `base`. Weights keep the base model's types, or are written as
    /// `dtype`.
    ///
    /// # Errors
    /// No adapter, no base model, or an adapter that does not match the base model.
    pub fn open(vfs: &dyn Vfs, adapter: &Path, base: Option<&Path>, dtype: Option<Dtype>) -> Result<Self> {
        let adapter = match base {
            Some(base) => AdapterFolder::open_beside(vfs, adapter, base)?,
            None => AdapterFolder::open(vfs, adapter)?,
        };
        let folders = [adapter.dir().to_owned(), adapter.base()?.to_owned()];
        let is_file = is_gguf(vfs, &folders[1])?;
        ensure!(!is_file, "{}: the base model is a GGUF file; name its folder with --base DIR", display_path(&folders[0]));
        let files = WeightFiles::folded(vfs, adapter)?;
        let mut tensors = Vec::new();
        for name in files.names() {
            let (Some(own), Some(shape)) = (files.dtype(name), files.shape(name)) else { continue };
            let is_float = matches!(own, Dtype::F32 | Dtype::F16 | Dtype::BF16);
            ensure!(
                is_float,
                "{}: tensor '{}' is {}; only F32, F16 and BF16 can be read",
                display_path(&folders[1]),
                clean(name),
                own.name()
            );
            tensors.push((name.to_owned(), dtype.unwrap_or(own), shape.to_vec()));
        }
        // Widest first, so that every tensor is aligned.
        tensors.sort_by_key(|(_, dtype, _)| std::cmp::Reverse(dtype.bytes()));
        Ok(Self { files, folders, tensors })
    }

    /// The base model's folder.
    pub fn base(&self) -> &Path {
        &self.folders[1]
    }

    /// Bytes of weights to write.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(_, dtype, shape)| dtype.bytes() * shape.iter().product::<usize>() as u64).sum()
    }

    /// Write the folder. `progress` receives the bytes of weights written so far, and of all. After an error no files are left.
    ///
    /// # Errors
    /// Unreadable files, a number that the type cannot represent, a disk error, or an end of the work by `progress`.
    pub fn save(&self, vfs: &dyn Vfs, target: &MergeTarget, progress: &mut Progress<'_>) -> Result<Manifest> {
        let (parent, name) = target.parent_and_name();
        let metadata = BTreeMap::from([("lehr.folded".to_owned(), self.folders[0].display().to_string())]);
        let tensors: Vec<_> = self.tensors.iter().map(|(name, dtype, shape)| (name.as_str(), *dtype, shape.as_slice())).collect();
        let (header, bytes) = header_bytes(&metadata, &tensors)?;
        let small = self.small_files(vfs)?;
        let mut made = Vec::new();
        let place = CheckpointTarget {
            parent,
            name,
            bytes: bytes + header.len() as u64 + small.iter().map(|(_, content)| content.len() as u64).sum::<u64>(),
            existing: IfExists::Refuse,
        };
        let origin = CheckpointOrigin { adapter: "lehr merge --lora".into(), ..CheckpointOrigin::default() };
        let saved = make_parents(vfs, parent, &mut made).and_then(|()| {
            let saved = save(vfs, place, &origin, |out| {
                out.file("model.safetensors", |file| {
                    file.write_all(&header)?;
                    self.stream(file, progress)
                })?;
                small.iter().try_for_each(|(name, content)| out.file(name, |file| Ok(file.write_all(content)?)))
            });
            Ok(saved?.1)
        });
        if saved.is_err() {
            remove_written(vfs, &made);
        }
        saved
    }

    fn stream(&self, file: &mut dyn std::io::Write, progress: &mut Progress<'_>) -> Result<()> {
        let (mut written, mut bytes) = (0, Vec::new());
        for (name, dtype, shape) in &self.tensors {
            self.files.stream_f32(name, shape, &mut |piece| {
                bytes.clear();
                ensure!(
                    encode(*dtype, piece, &mut bytes),
                    "tensor '{}': a number is too large for {}",
                    clean(name),
                    dtype.name()
                );
                file.write_all(&bytes)?;
                written += bytes.len() as u64;
                report(progress, "folding", written, self.bytes())
            })?;
        }
        Ok(())
    }

    /// Configuration and tokenizer files: the adapter's where present, otherwise the base model's.
    fn small_files(&self, vfs: &dyn Vfs) -> Result<Vec<(String, Vec<u8>)>> {
        let find = |name: &str| -> Result<Option<Vec<u8>>> {
            let from = adapter::folder_containing(vfs, &self.folders[1], name)?;
            for path in [self.folders[0].as_path(), &from].map(|dir| dir.join(name)) {
                if vfs.is_file(&path)? {
                    return vfs.read(&path, MAX_COPIED).with_context(|| display_path(&path)).map(Some);
                }
            }
            Ok(None)
        };
        let config = adapter::folder_containing(vfs, &self.folders[1], "config.json")?.join("config.json");
        let text = vfs.read(&config, MAX_COPIED).with_context(|| display_path(&config))?;
        let first = self.tensors.first().map(|(_, dtype, _)| *dtype);
        let dtype = first.filter(|first| self.tensors.iter().all(|(_, dtype, _)| dtype == first));
        let mut files = vec![("config.json".to_owned(), set_dtype(&text, dtype.and_then(dtype_name))?)];
        for name in COPIED {
            files.extend(find(name)?.map(|content| ((*name).to_owned(), content)));
        }
        Ok(files)
    }
}

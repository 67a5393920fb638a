//! An open GGUF file: tensors by their Hugging Face names, as f32.

use super::blocks::BlockType;
use super::header::{self, TensorLocation};
use super::names;
use super::value::Metadata;
use crate::model_files::safetensors_file::collect_pieces;
use crate::vfs::{FileCursor, Vfs, VfsReader, clean, display_path};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Minimum bytes per read.
const PIECE: usize = 1 << 20;

/// An open file with a checked header.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: Arc<dyn VfsReader>,
    pub(super) metadata: Metadata,
    pub(super) arch: String,
    pub(super) heads: (usize, usize),
    /// By Hugging Face name.
    tensors: BTreeMap<String, TensorLocation>,
    /// The factors of rotary frequencies, if the file has them.
    pub(super) rope_freqs: Option<Vec<f32>>,
}

impl GgufFile {
    /// Open a file and check its header: counts, lengths, types, offsets, and that its architecture is supported.
    ///
    /// # Errors
    /// An invalid GGUF file or unsupported model, in one line with the file and, where applicable, the tensor.
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        let file = vfs.open(path).with_context(|| format!("{}: cannot be opened", display_path(path)))?;
        let head = header::read(FileCursor::new(file.clone(), 0), file.bytes()).with_context(|| display_path(path))?;
        Self::from_head(path, file, head).with_context(|| display_path(path))
    }

    fn from_head(path: &Path, file: Arc<dyn VfsReader>, head: header::GgufHeader) -> Result<Self> {
        let header::GgufHeader { metadata, tensors } = head;
        let arch = metadata.text("general.architecture")?.context("general.architecture is missing")?.to_owned();
        ensure!(
            ["llama", "qwen2", "qwen3"].contains(&arch.as_str()),
            "general.architecture = \"{}\": lehr reads llama, qwen2 and qwen3",
            clean(&arch)
        );
        let parts = metadata.integer("split.count")?.unwrap_or(1);
        ensure!(parts <= 1, "split.count = {parts}: one of several parts; join them with llama.cpp's llama-gguf-split --merge");
        let count = |name: &str| -> Result<Option<usize>> {
            let name = format!("{arch}.attention.{name}");
            let number = metadata.integer(&name)?.map(usize::try_from).transpose()?;
            ensure!(number.is_none_or(|n| (1..1 << 20).contains(&n)), "{name} = {}: must be above 0", number.unwrap_or_default());
            Ok(number)
        };
        let heads = count("head_count")?.with_context(|| format!("{arch}.attention.head_count is missing"))?;
        let heads = (heads, count("head_count_kv")?.unwrap_or(heads));
        let (mut known, mut rope) = (BTreeMap::new(), None);
        for (name, place) in tensors {
            if name == names::ROPE_FREQS {
                rope = Some(place);
                continue;
            }
            let hf = names::to_hf(&name);
            let hf = hf.with_context(|| format!("tensor '{}': lehr has no such part: not a plain {arch} model", clean(&name)))?;
            if let Some(heads) = names::reordered_heads(&hf, &arch, heads.0, heads.1) {
                let rows = place.shape[0];
                ensure!(rows.is_multiple_of(2 * heads), "tensor '{}': {rows} rows are not pairs in {heads} heads", clean(&name));
            }
            ensure!(known.insert(hf, place).is_none(), "tensor '{}' occurs twice in the file", clean(&name));
        }
        let mut open = Self { path: path.to_owned(), file, metadata, arch, heads, tensors: known, rope_freqs: None };
        if let Some(place) = rope {
            ensure!(place.bytes <= 1 << 16, "tensor '{}' has {:?} numbers", names::ROPE_FREQS, place.shape);
            open.rope_freqs = Some(collect_pieces(|sink| open.stream_place(&place, sink))?);
        }
        Ok(open)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Every tensor: Hugging Face's name and shape.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, place)| (name.as_str(), place.shape.as_slice()))
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|place| place.shape.as_slice())
    }

    /// The data type of a tensor.
    pub fn kind(&self, name: &str) -> Option<BlockType> {
        self.tensors.get(name).map(|place| place.kind)
    }

    /// One tensor as f32, in order and in pieces, with rows in Hugging Face's order.
    ///
    /// # Errors
    /// A missing tensor, or a file that cannot be read.
    pub fn stream_f32(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let place = self.tensors.get(name).context("is not in the file")?;
        let Some(heads) = names::reordered_heads(name, &self.arch, self.heads.0, self.heads.1) else {
            return self.stream_place(place, sink);
        };
        sink(&names::reorder(&collect_pieces(|sink| self.stream_place(place, sink))?, heads, place.shape[0], false))
    }

    fn stream_place(&self, place: &TensorLocation, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let piece = PIECE.next_multiple_of(place.kind.block_bytes()) as u64;
        let mut buffer = vec![0; place.bytes.min(piece) as usize];
        let (mut done, mut numbers) = (0, Vec::new());
        while done < place.bytes {
            let now = (place.bytes - done).min(piece) as usize;
            let read = self.file.read_exact_at(&mut buffer[..now], place.start + done);
            read.context("cannot be read (did the file shrink?)")?;
            numbers.clear();
            place.kind.decode(&buffer[..now], &mut numbers);
            sink(&numbers)?;
            done += now as u64;
        }
        Ok(())
    }
}

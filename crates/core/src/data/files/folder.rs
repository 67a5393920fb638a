//! Data folders: which files are data, by extension, and which are for training, by the words in their names, as in `datasets`. A folder
//! downloaded by huggingface_hub also contains a dataset card and a license; its cache contains snapshots.

use super::{FileFormat, extension, format_of_rows};
use crate::data::{Notices, shown_path};
use crate::model_files::snapshot;
use crate::vfs::{Entry, FileKind, Vfs};
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Maximum depth of nested folders.
const MAX_DEPTH: usize = 32;
/// Bytes of a dataset card that are read; its header names the subsets.
const MAX_CARD: u64 = 1 << 20;
/// Names listed in a message; further ones are only counted.
const NAMED: usize = 6;

const OF_ROWS: &[&str] = &["jsonl", "ndjson", "json", "parquet", "arrow"];
const OF_TEXT: &[&str] = &["txt", "md", "text"];
/// Files with metadata or documentation.
const ABOUT: &[&str] = &["readme", "license", "licence", "dataset_info", "dataset_infos", "dataset_dict", "state"];

/// Split names of `datasets`.
const TRAIN: &[&str] = &["train", "training"];
const VALIDATION: &[&str] = &["validation", "valid", "dev", "val"];
const TEST: &[&str] = &["test", "testing", "eval", "evaluation"];

/// The files of a folder, each list sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataFolder {
    /// Training files.
    pub train: Vec<PathBuf>,
    /// Validation files.
    pub validation: Vec<PathBuf>,
}

/// The data files of a folder, with one notice that lists what is read and what is skipped. Without `with_text` only files of rows count.
///
/// # Errors
/// The folder has no data, or several datasets, of which one must be named.
pub fn data_folder(vfs: &dyn Vfs, path: &Path, with_text: bool, notices: &mut Notices) -> Result<DataFolder> {
    let folder = snapshot(vfs, path)?;
    let mut listing = Listing { vfs, with_text, data: Vec::new(), skipped: Vec::new() };
    listing.walk(&folder, Path::new(""), 0, notices)?;
    listing.data.sort();
    let shown = shown_path(path);
    let what = if with_text {
        "no .txt, .md, .text, .jsonl, .json, .parquet or .arrow file"
    } else {
        "no .jsonl, .json, .parquet or .arrow file"
    };
    ensure!(
        !listing.data.is_empty(),
        "{shown}: {what} in this folder. Name a file, or a folder that holds some{}",
        listing.skipped_words()
    );
    listing.refuse_subsets(&folder, &shown)?;
    let mut out = listing.split(&shown)?;
    refuse_twins(&out.train, &shown)?;
    let read = |files: &[PathBuf]| files.iter().map(|file| shown_path(file)).collect::<Vec<_>>();
    let mut line = format!("{shown}: reads {}", first_names(&read(&out.train)));
    if !out.validation.is_empty() {
        line.push_str(&format!("; used for validation: {}", first_names(&read(&out.validation))));
    }
    line.push_str(&listing.skipped_words());
    notices.push(line);
    for file in out.train.iter_mut().chain(&mut out.validation) {
        *file = folder.join(&file);
    }
    Ok(out)
}

struct Listing<'a> {
    vfs: &'a dyn Vfs,
    with_text: bool,
    data: Vec<PathBuf>,
    skipped: Vec<String>,
}

impl Listing<'_> {
    /// Hidden files are skipped silently; links to folders are not followed, so loops of links end.
    fn walk(&mut self, root: &Path, inside: &Path, depth: usize, notices: &mut Notices) -> Result<()> {
        let folder = root.join(inside);
        if depth > MAX_DEPTH {
            notices.push(format!("{}: more than {MAX_DEPTH} folders deep, not entered", shown_path(&folder)));
            return Ok(());
        }
        let entries = self.vfs.list(&folder).with_context(|| format!("{}: cannot be listed", shown_path(&folder)))?;
        for Entry { name, kind } in entries {
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            let below = inside.join(&name);
            if kind == FileKind::Dir {
                // A cache inside the folder counts with one snapshot.
                let below = snapshot(self.vfs, &root.join(&below))?.strip_prefix(root)?.to_owned();
                self.walk(root, &below, depth + 1, notices)?;
            } else {
                self.file(root, below, notices)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, root: &Path, file: PathBuf, notices: &mut Notices) -> Result<()> {
        let path = root.join(&file);
        let cannot = || format!("{}: cannot be opened", shown_path(&path));
        let meta = self.vfs.metadata(&path).with_context(cannot)?;
        let meta = meta.with_context(|| format!("{}: a link to a file that does not exist", shown_path(&path)))?;
        if meta.kind != FileKind::File {
            notices.push(format!("{}: not a regular file, left out", shown_path(&path)));
        } else if !self.is_data(&path)? {
            self.skipped.push(shown_path(&file));
        } else if meta.bytes == 0 {
            notices.push(format!("{}: 0 bytes, left out", shown_path(&path)));
        } else {
            self.data.push(file);
        }
        Ok(())
    }

    fn is_data(&self, path: &Path) -> Result<bool> {
        let (stem, extension) = (stem(path), extension(path));
        let stem = stem.to_ascii_lowercase();
        // Caches of `Dataset.map` next to an Arrow file are not part of the dataset.
        let about =
            ABOUT.contains(&stem.as_str()) || (extension == "arrow" && (stem.starts_with("cache-") || stem.starts_with("tmp")));
        let of_rows = OF_ROWS.contains(&extension.as_str()) && (extension != "json" || about || is_rows_of_json(self.vfs, path)?);
        Ok(!about && (of_rows || (self.with_text && OF_TEXT.contains(&extension.as_str()))))
    }

    /// Training and validation files by the words in their names, if there are such words; test files are skipped.
    fn split(&mut self, shown: &str) -> Result<DataFolder> {
        let mut out = DataFolder::default();
        let has = |file: &Path, words: &[&str]| words.iter().any(|word| has_word(file, word));
        let named = self.data.iter().any(|file| has(file, TRAIN));
        // Next to a plain `train.jsonl`, files without a split name are not training data.
        let alone = self.data.iter().any(|file| TRAIN.contains(&stem(file).as_str()) && file.components().count() == 1);
        for file in &self.data {
            let train = has(file, TRAIN);
            if !named || train || !(alone || has(file, VALIDATION) || has(file, TEST)) {
                out.train.push(file.clone());
            } else if has(file, VALIDATION) {
                out.validation.push(file.clone());
            } else {
                self.skipped.push(shown_path(file));
            }
        }
        let splits: BTreeSet<String> = out.train.iter().filter_map(|file| sharded(file)).collect();
        ensure!(
            splits.len() < 2,
            "{shown}: holds several data sets for training: {}. Name the files of one of them, each by its own --data",
            first_names(&splits.into_iter().collect::<Vec<_>>())
        );
        Ok(out)
    }

    /// Subsets ("configurations") of a dataset often contain the same rows.
    fn refuse_subsets(&self, root: &Path, shown: &str) -> Result<()> {
        let path = root.join("README.md");
        let card = match self.vfs.is_file(&path)? {
            true => self.vfs.read_at(&path, 0, MAX_CARD).with_context(|| format!("{}: cannot be read", shown_path(&path)))?.0,
            false => Vec::new(),
        };
        let card = String::from_utf8_lossy(&card);
        let names = card.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("config_name:"));
        let names: BTreeSet<&str> = names.map(|name| name.trim().trim_matches(['"', '\''])).collect();
        let top = |file: &PathBuf| file.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
        let held: BTreeSet<String> = self.data.iter().filter_map(top).filter(|top| names.contains(top.as_str())).collect();
        let first = held.first().cloned().unwrap_or_default();
        ensure!(
            held.len() < 2,
            "{shown}: holds several subsets: {}. Name one of them, such as {}",
            first_names(&held.into_iter().collect::<Vec<_>>()),
            Path::new(shown).join(first).display()
        );
        Ok(())
    }

    fn skipped_words(&self) -> String {
        let mut skipped = self.skipped.clone();
        skipped.sort();
        if skipped.is_empty() { String::new() } else { format!("; skips {}", first_names(&skipped)) }
    }
}

/// Whether a `.json` file of a folder is a list of rows or has one row per line; there are many other kinds.
fn is_rows_of_json(vfs: &dyn Vfs, path: &Path) -> Result<bool> {
    match FileFormat::of(vfs, path) {
        Ok(format) => Ok(matches!(format, FileFormat::JsonList | FileFormat::JsonLines)),
        // Not text, as opposed to a file that cannot be read.
        Err(error) if error.downcast_ref::<std::io::Error>().is_none() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Two files that differ only in extension contain the same rows twice.
fn refuse_twins(files: &[PathBuf], shown: &str) -> Result<()> {
    let mut seen = BTreeMap::new();
    for file in files {
        let formats = OF_ROWS.contains(&extension(file).as_str());
        if let Some(other) = seen.insert(file.with_file_name(stem(file)), file).filter(|_| formats) {
            bail!("{shown}: {} and {} look like the same rows twice. Name one of them", shown_path(other), shown_path(file));
        }
    }
    Ok(())
}

/// A file name without the extensions for format and compression.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    let packed = path.extension().is_some_and(|e| ["gz", "zst"].contains(&e.to_string_lossy().to_ascii_lowercase().as_str()));
    let stem = if packed { Path::new(stem).file_stem().unwrap_or_default() } else { stem };
    stem.to_string_lossy().into_owned()
}

/// Whether a path contains a word, with no letter on either side.
fn has_word(path: &Path, word: &str) -> bool {
    let path = path.to_string_lossy().to_ascii_lowercase();
    path.match_indices(word).any(|(at, _)| {
        let letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
        !letter(path[..at].chars().next_back()) && !letter(path[at + word.len()..].chars().next())
    })
}

/// `SPLIT` of `SPLIT-00000-of-00012.parquet`.
fn sharded(file: &Path) -> Option<String> {
    let stem = stem(file);
    let mut parts = stem.rsplitn(4, '-');
    let (all, of, number, split) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (digits(all) && of == "of" && digits(number)).then(|| file.with_file_name(split).display().to_string())
}

fn first_names(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// The format of a file of rows, after checking that it is a regular file.
///
/// # Errors
/// A pipe, device or folder; a file that is not data.
pub(in crate::data) fn regular_rows(vfs: &dyn Vfs, path: &Path) -> Result<FileFormat> {
    let name = shown_path(path);
    // Checked before opening: opening a pipe waits for a writer, and reading a device may never end.
    let found = vfs.metadata(path).with_context(|| format!("{name}: cannot be opened"))?;
    let kind = found.with_context(|| format!("{name}: no such file"))?.kind;
    ensure!(kind == FileKind::File, "{name}: not a regular file. Name a file of rows (JSONL, JSON, Parquet)");
    format_of_rows(vfs, path)
}

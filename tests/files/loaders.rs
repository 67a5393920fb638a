//! Every read of every loader fails, is short, or finds a file that has lost its second half, one after the other: what comes out is right,
//! or an error that names the file.

use crate::common::golden;
use lehr::data::chat::{ChatRow, read_rows, read_template};
use lehr::data::{Corpus, Notices, TokenCache, Tokenizer, TokenizerKind, read_objects, tokenize};
use lehr::model_files::gguf::GgufFile;
use lehr::model_files::hf_config;
use lehr::model_files::weight_files::WeightFiles;
use lehr::progress::silent;
use lehr::vfs::fault::{FaultFs, FaultKind};
use lehr::vfs::{RealFs, Vfs};
use std::fmt::Debug;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// A load: the place to load from (a file or a folder), by these files.
type Load<'a, T> = &'a dyn Fn(&dyn Vfs, &Path) -> anyhow::Result<T>;

/// The files at a path, and in its folders.
fn files_of(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    fs::read_dir(path).unwrap().flat_map(|entry| files_of(&entry.unwrap().path())).collect()
}

/// What is loaded where a file had lost its second half before: for text and rows that is right too.
fn halved<T>(path: &Path, load: Load<'_, T>) -> Vec<T> {
    let halve = |file: &PathBuf| {
        let dir = tempfile::tempdir().unwrap();
        let above = path.parent().unwrap();
        for other in files_of(path) {
            let copy = dir.path().join(other.strip_prefix(above).unwrap());
            let bytes = fs::read(&other).unwrap();
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::write(copy, &bytes[..if other == *file { bytes.len() / 2 } else { bytes.len() }]).unwrap();
        }
        load(&RealFs, &dir.path().join(path.strip_prefix(above).unwrap())).ok()
    };
    files_of(path).iter().filter_map(halve).collect()
}

/// Loads under each fault at each operation.
fn under_faults<T: PartialEq + Debug>(path: &Path, load: Load<'_, T>) {
    let count = FaultFs::reading(usize::MAX, FaultKind::Io);
    let right = load(&count, path).unwrap();
    let other = halved(path, load);
    let (mut errors, mut operations) = (0, 0);
    for kind in [FaultKind::Io, FaultKind::Denied, FaultKind::Short, FaultKind::Shrunk] {
        for n in 0..count.operations() {
            let fs = FaultFs::reading(n, kind);
            let loaded = catch_unwind(AssertUnwindSafe(|| load(&fs, path)));
            let context = format!("{}: {kind:?} at {:?}", path.display(), fs.log().get(n));
            operations += 1;
            match loaded.unwrap_or_else(|_| panic!("{context}: panicked")) {
                Ok(found) => {
                    let may_differ = kind == FaultKind::Shrunk && other.contains(&found);
                    assert!(found == right || may_differ, "{context}: other data");
                }
                Err(error) => {
                    errors += 1;
                    let text = format!("{error:#}");
                    assert!(kind != FaultKind::Short, "{context}: a short read is no error: {text}");
                    let name = path.file_name().unwrap().to_str().unwrap();
                    assert!(text.contains(name) && !text.contains('\n'), "{context}: {text}");
                }
            }
        }
    }
    assert!(errors > operations / 8, "{}: {errors} errors in {operations} operations", path.display());
}

fn documents(vfs: &dyn Vfs, path: &Path) -> anyhow::Result<Vec<String>> {
    let mut notices = Notices::new();
    let corpus = Corpus::open(vfs, &[path.to_owned()], &mut notices)?;
    let (mut pieces, mut all) = (corpus.pieces(), vec![String::new()]);
    while let Some(piece) = pieces.next_piece(&mut notices)? {
        all.last_mut().unwrap().push_str(&piece.text);
        if piece.ends_document {
            all.push(String::new());
        }
    }
    Ok(all)
}

fn rows(vfs: &dyn Vfs, path: &Path) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    read_objects(vfs, path, "{}", &mut silent, |_, object| {
        all.push(serde_json::to_string(&object)?);
        Ok(())
    })?;
    Ok(all)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, bytes).unwrap();
    packed.finish().unwrap()
}

/// Lines of JSON, enough for several reads, packed too.
fn lines() -> Vec<u8> {
    // Numbers that do not compress well.
    let line = |i: u64| format!("{{\"text\": \"row {i} says {}\"}}\n", i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    (0..20_000).map(line).collect::<String>().into_bytes()
}

#[test]
fn text_and_rows() {
    let dir = tempfile::tempdir().unwrap();
    let lines = lines();
    let list = format!("[{}]", String::from_utf8_lossy(&lines).trim_end().replace('\n', ",")).into_bytes();
    let files = [
        ("plain.txt", lines.repeat(3)),
        ("packed.txt.gz", gzip(&lines)),
        ("rows.jsonl", lines.clone()),
        ("rows.jsonl.gz", gzip(&lines)),
        ("rows.jsonl.zst", zstd::encode_all(&lines[..], 1).unwrap()),
        ("list.json", list),
    ];
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        under_faults(&path, &documents);
        if name.contains("json") {
            under_faults(&path, &rows);
        }
    }
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.txt"), "one text\n".repeat(99)).unwrap();
    fs::write(folder.join("b.json"), &lines[..lines.len() / 8]).unwrap();
    fs::write(folder.join("README.md"), "---\nconfig_name: x\n---\n").unwrap();
    under_faults(&folder, &documents);
}

#[test]
fn columns() {
    for name in ["none", "snappy", "gzip", "lz4", "zstd", "text"] {
        let path = golden("rows").join(format!("{name}.parquet"));
        under_faults(&path, &rows);
    }
    under_faults(&golden("rows/text.parquet"), &documents);
    under_faults(&golden("rows/saved/train/data-00000-of-00001.arrow"), &rows);
    let dir = tempfile::tempdir().unwrap();
    let conversations = dir.path().join("chat.jsonl");
    fs::write(&conversations, "{\"prompt\": \"2 + 2\", \"completion\": \"4\"}\n".repeat(3000)).unwrap();
    under_faults(&conversations, &|vfs, path| {
        let mut all: Vec<ChatRow> = Vec::new();
        read_rows(vfs, path, &mut silent, |_, row| {
            all.push(row);
            Ok(())
        })?;
        Ok(all)
    });
}

type Tensors = Vec<(String, Vec<f32>)>;

/// Every tensor of a model, with its configuration.
fn model(vfs: &dyn Vfs, path: &Path) -> anyhow::Result<(String, Tensors)> {
    let files = WeightFiles::open(vfs, path)?;
    let read = |name: &str| Ok((name.to_owned(), files.read_f32(name, files.shape(name).unwrap_or_default())?));
    let tensors = files.names().map(read).collect::<anyhow::Result<Tensors>>()?;
    Ok((format!("{:?}", hf_config::of_model(vfs, path)?), tensors))
}

#[test]
fn weights() {
    under_faults(&golden("qwen2"), &model);
    under_faults(&golden("gguf/qwen2.gguf"), &model);
    under_faults(&golden("gguf/llama.gguf"), &|vfs, path| {
        let file = GgufFile::open(vfs, path)?;
        Ok((file.config_json()?, file.tokenizer_files()?))
    });
    // An adapter and its base model, whose path is relative.
    let dir = tempfile::tempdir().unwrap();
    let pair = dir.path().join("pair");
    for (from, to) in [("lora/qwen2", "adapter"), ("qwen2", "adapter/base")] {
        fs::create_dir_all(pair.join(to)).unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"] {
            if golden(from).join(name).is_file() {
                fs::copy(golden(from).join(name), pair.join(to).join(name)).unwrap();
            }
        }
    }
    let config = pair.join("adapter/adapter_config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["base_model_name_or_path"] = "base".into();
    fs::write(&config, json.to_string()).unwrap();
    under_faults(&pair, &|vfs, path| model(vfs, &path.join("adapter")));
}

#[test]
fn tokenizers() {
    let load = |vfs: &dyn Vfs, path: &Path| {
        let tokenizer = Tokenizer::from_folder(vfs, path)?;
        let ids = tokenizer.encode("Two plus two: 2 + 2 = 4 é")?;
        Ok((ids, tokenizer.json().to_vec(), tokenizer.chat_template()?, tokenizer.end_tokens().ids().to_vec()))
    };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    fs::create_dir(&folder).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json", "generation_config.json"] {
        fs::copy(golden("sft/model").join(name), folder.join(name)).unwrap();
    }
    under_faults(&folder, &load);
    under_faults(&golden("gguf/qwen2.gguf"), &load);
    under_faults(&folder.join("chat_template.jinja"), &read_template);
}

#[test]
fn the_token_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("corpus.jsonl");
    fs::write(&path, &lines()[..100_000]).unwrap();
    let cache = dir.path().join("cache");
    let tokenizer = {
        let corpus = Corpus::open(&RealFs, std::slice::from_ref(&path), &mut Notices::new()).unwrap();
        Tokenizer::build(&RealFs, &TokenizerKind::Bytes, &corpus, None, &mut Notices::new()).unwrap()
    };
    let load = |vfs: &dyn Vfs| {
        let corpus = Corpus::open(&RealFs, std::slice::from_ref(&path), &mut Notices::new())?;
        let file = tokenize(vfs, &corpus, &tokenizer, &TokenCache::Folder(cache.clone()), &mut Notices::new(), &mut silent)?;
        let mut ids = vec![0; file.len() as usize];
        file.read(0, &mut ids);
        Ok((ids, file.document_ends().to_vec()))
    };
    let right: anyhow::Result<_> = load(&RealFs);
    let right = right.unwrap();
    for warm in [false, true] {
        let prepare = || {
            let _ = fs::remove_dir_all(&cache);
            if warm {
                load(&RealFs).unwrap();
            }
        };
        prepare();
        let count = FaultFs::reading(usize::MAX, FaultKind::Io);
        assert_eq!(load(&count).unwrap(), right);
        assert!(count.operations() > if warm { 2 } else { 8 }, "{:?}", count.log());
        for kind in [FaultKind::NoSpace, FaultKind::Io, FaultKind::Denied, FaultKind::Short, FaultKind::Shrunk, FaultKind::Killed]
        {
            for n in 0..count.operations() {
                prepare();
                let fs = FaultFs::reading(n, kind);
                let context = format!("warm {warm}, {kind:?} at {:?}", count.log()[n]);
                // The tokens stay in memory where the cache fails.
                assert_eq!(load(&fs).unwrap_or_else(|e: anyhow::Error| panic!("{context}: {e:#}")), right, "{context}");
                assert!(kind == FaultKind::Killed || !has_temporary(&cache), "{context}: a half-made file is left");
                // What another run finds is right too.
                assert_eq!(load(&RealFs).unwrap(), right, "{context}: afterwards");
            }
        }
    }
}

fn has_temporary(cache: &Path) -> bool {
    fs::read_dir(cache).into_iter().flatten().flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(".making-"))
}

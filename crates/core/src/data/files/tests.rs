use super::*;
use crate::data::Notices;
use crate::model_files::snapshot;
use crate::vfs::RealFs;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn gzip(text: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

fn open(path: &Path) -> Result<OpenedText> {
    unpack(&shown_path(path), RealFs.open(path)?)
}

#[test]
fn compressed_files_are_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{FEFF}some text\n".repeat(9000);
    // Several concatenated members, as from `cat a.gz b.gz`.
    let twice = [gzip(&text), gzip("and more")].concat();
    for (name, bytes, wanted) in
        [("a.txt.gz", twice, format!("{text}and more")), ("a.zst", zstd::encode_all(text.as_bytes(), 1).unwrap(), text.clone())]
    {
        let path = dir.path().join(name);
        write(&path, &bytes);
        let mut opened = open(&path).unwrap();
        let mut read = String::new();
        opened.reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, wanted["\u{FEFF}".len()..]);
        assert!(opened.compressed && opened.done.load(Ordering::Relaxed) == bytes.len() as u64);
        // Truncated.
        write(&path, &bytes[..bytes.len() - 9]);
        assert!(open(&path).and_then(|mut opened| Ok(opened.reader.read_to_string(&mut read)?)).is_err());
    }
    write(&dir.path().join("x.gz"), &gzip("PK\x03\x04"));
    assert!(open(&dir.path().join("x.gz")).err().unwrap().to_string().contains("zip archive"));
}

#[test]
fn a_hub_dataset_folder_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let list = |with_text: bool| {
        let mut notices = Notices::new();
        let found = data_folder(&RealFs, dir.path(), with_text, &mut notices);
        found.map(|found| {
            let names = |files: Vec<PathBuf>| -> Vec<String> {
                files.iter().map(|file| file.strip_prefix(dir.path()).unwrap().display().to_string()).collect()
            };
            (names(found.train).join(" "), names(found.validation).join(" "), notices.take().join("\n"))
        })
    };
    assert!(list(true).unwrap_err().to_string().contains("no .txt, .md"));
    for name in ["README.md", "LICENSE.txt", "dataset_infos.json", ".gitattributes", "logo.png"] {
        write(&at(name), b"{}");
    }
    assert!(list(false).unwrap_err().to_string().contains("skips LICENSE.txt"), "{:?}", list(false));
    for name in ["data/more.jsonl.gz", "data/train-00000.parquet", "data/config.json"] {
        write(&at(name), b"x");
    }
    write(&at("data/rows.json"), b" [{}]");
    let (train, validation, notices) = list(true).unwrap();
    assert_eq!((train.as_str(), validation.as_str()), ("data/more.jsonl.gz data/rows.json data/train-00000.parquet", ""));
    assert!(notices.contains("reads data/more.jsonl.gz, data/rows.json, ") && notices.contains("; skips "), "{notices}");
    for word in ["README.md", "LICENSE.txt", "logo.png", "data/config.json"] {
        assert!(notices.contains(word), "{notices}");
    }
    assert!(!notices.contains('\n') && !notices.contains("gitattributes"));
    // Splits by the words in the file names.
    write(&at("data/test-00000.parquet"), b"x");
    write(&at("data/my_validation.jsonl"), b"x");
    let (train, validation, notices) = list(false).unwrap();
    assert_eq!((train.split(' ').count(), validation.as_str()), (3, "data/my_validation.jsonl"), "{notices}");
    assert!(notices.contains("data/test-00000.parquet"));
    // The same rows twice, in two formats.
    write(&at("data/rows.parquet"), b"x");
    assert!(list(false).unwrap_err().to_string().contains("data/rows.json and data/rows.parquet look like the same rows twice"));
}

#[test]
fn several_data_sets_in_a_folder_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["train_sft", "train_gen"] {
        write(&dir.path().join(format!("data/{name}-00000-of-00002.parquet")), b"x");
    }
    let error = data_folder(&RealFs, dir.path(), false, &mut Notices::new()).unwrap_err().to_string();
    assert!(error.contains("data/train_gen, data/train_sft"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    write(
        &dir.path().join("README.md"),
        b"---\nconfigs:\n- config_name: main\n  data_files: x\n- config_name: \"socratic\"\n---\n",
    );
    for name in ["main", "socratic"] {
        write(&dir.path().join(name).join("train-00000-of-00001.parquet"), b"x");
    }
    let error = data_folder(&RealFs, dir.path(), false, &mut Notices::new()).unwrap_err().to_string();
    assert!(error.contains("several subsets: main, socratic") && error.contains("such as"), "{error}");
    assert_eq!(data_folder(&RealFs, &dir.path().join("main"), false, &mut Notices::new()).unwrap().train.len(), 1);
}

#[test]
fn a_hub_cache_folder_opens() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("datasets--x--y");
    assert_eq!(snapshot(&RealFs, dir.path()).unwrap(), dir.path());
    write(&top.join("blobs/0"), b"{\"text\": \"x\"}\n");
    write(&top.join("snapshots/abc/data/a.jsonl"), b"{\"text\": \"x\"}\n");
    assert_eq!(snapshot(&RealFs, &top).unwrap(), top.join("snapshots/abc"));
    assert_eq!(data_folder(&RealFs, &top, true, &mut Notices::new()).unwrap().train, [top.join("snapshots/abc/data/a.jsonl")]);
    write(&top.join("snapshots/def/x"), b"");
    assert!(snapshot(&RealFs, &top).unwrap_err().to_string().contains("several snapshots"));
    assert!(data_folder(&RealFs, dir.path(), true, &mut Notices::new()).unwrap_err().to_string().contains("several snapshots"));
    write(&top.join("refs/main"), b"def\n");
    assert_eq!(snapshot(&RealFs, &top).unwrap(), top.join("snapshots/def"));
    write(&top.join("refs/main"), b"../..");
    assert!(snapshot(&RealFs, &top).is_err());
}

//! From settings to batches through real files, as a run does it; on the corpus that nanoGPT made famous where it is at hand.

use lehr::config::Architecture;
use lehr::config::DataSettings;
use lehr::data::{Corpus, IGNORE, Notices, TokenCache, Tokenizer, TrainOrder, load};
use lehr::progress::silent;
use lehr::vfs::RealFs;
use std::fs;
use std::path::Path;
use std::time::Instant;

fn settings(data: &Path, tokenizer: &str) -> DataSettings {
    DataSettings { data: vec![data.into()], tokenizer: tokenizer.into(), ..DataSettings::default() }
}

fn run(settings: &DataSettings, cache: &TokenCache) -> anyhow::Result<(Tokenizer, lehr::data::Dataset, Vec<String>)> {
    let mut notices = Notices::new();
    let (tokenizer, dataset) = load(&RealFs, settings, None, cache, &mut notices, &mut silent)?;
    Ok((tokenizer, dataset, notices.take()))
}

#[test]
fn text_becomes_batches() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..500).map(|i| format!("Line number {i} says: é 東京!\n")).collect();
    let path = folder.path().join("corpus.txt");
    fs::write(&path, &text).unwrap();
    let cache = TokenCache::Folder(folder.path().join("cache"));
    for kind in ["bytes", "chars", "bpe:300"] {
        let (tokenizer, dataset, notices) = run(&settings(&path, kind), &cache).unwrap();
        assert!(notices.is_empty(), "{notices:?}");
        let ids = tokenizer.encode(&text).unwrap();
        let cut = (ids.len() as f64 * 0.9) as u64;
        let val = dataset.val.unwrap();
        assert_eq!((dataset.train.range(), val.range()), (0..cut, cut..ids.len() as u64));
        let order = TrainOrder::new(dataset.train, 32, 1).unwrap();
        let batch = order.batch(0, 4);
        let (_, start) = order.locate(2);
        assert_eq!(batch.tokens[64..96], ids[start as usize..][..32]);
        assert_eq!(batch.targets[64..96], ids[start as usize + 1..][..32]);
        let scored: Vec<u32> = val.val_batches(3, 32, u64::MAX).flat_map(|b| b.targets).filter(|t| *t != IGNORE).collect();
        assert_eq!(scored, ids[cut as usize + 1..], "all of the held-out text, in order");
    }
}

#[test]
fn a_models_own_tokenizer_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corpus.jsonl");
    fs::write(&path, "{\"text\":\"one\"}\n{\"text\":\"two three\"}\n".repeat(20)).unwrap();
    let (first, dataset, _) = run(&settings(&path, "chars"), &TokenCache::Off).unwrap();
    assert_eq!(first.vocab_size(), "one twhr".chars().count() + 1, "and the end of a document");
    // Each ends in a token that also stands in front of the first one.
    assert_eq!(dataset.train.len() + dataset.val.unwrap().len(), 1 + 20 * ("one".len() + "two three".len() + 2) as u64);
    for (name, content) in first.files(64, Architecture::Llama).unwrap() {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let by_path = settings(&path, folder.path().to_str().unwrap());
    let (second, ..) = run(&by_path, &TokenCache::Off).unwrap();
    assert_eq!(second.json(), first.json());
    let mut notices = Notices::new();
    let (third, _) = load(&RealFs, &settings(&path, "bytes"), Some(first), &TokenCache::Off, &mut notices, &mut silent).unwrap();
    assert_eq!(third.json(), second.json(), "the setting gives way");
}

#[test]
fn a_separate_validation_text_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (train, val) = (folder.path().join("train.txt"), folder.path().join("val.txt"));
    fs::write(&train, "abc".repeat(50)).unwrap();
    fs::write(&val, "abd").unwrap();
    let settings = DataSettings { val_data: Some(val), ..settings(&train, "chars") };
    let (tokenizer, dataset, _) = run(&settings, &TokenCache::Off).unwrap();
    assert_eq!(tokenizer.vocab_size(), 4, "characters of both");
    assert_eq!((dataset.train.len(), dataset.val.unwrap().len()), (150, 3));
}

#[test]
fn refusals_are_one_line_and_name_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corpus.txt");
    fs::write(&path, "some text").unwrap();
    let error = |settings: &DataSettings| {
        let text = format!("{:#}", run(settings, &TokenCache::Off).err().unwrap());
        assert!(!text.contains('\n'), "{text:?}");
        text
    };
    assert!(error(&DataSettings::default()).contains("--data"));
    assert!(error(&settings(&folder.path().join("none.txt"), "chars")).contains("none.txt: no such file"));
    assert!(error(&settings(&path, "bep:300")).contains("tokenizer = bep:300: no such file"));
    assert!(error(&settings(&path, "bpe:30")).contains("257"));
    assert!(error(&DataSettings { val_fraction: 2.0, ..settings(&path, "chars") }).contains("val_fraction = 2"));
}

/// A folder as huggingface_hub downloads it, in every format; the card and the licence are no text.
#[test]
fn a_dataset_folder_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("data")).unwrap();
    fs::write(at("README.md"), "---\nlicense: mit\n---\n# A card\n".repeat(9)).unwrap();
    fs::write(at("LICENSE.txt"), "All rights").unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rows/text.parquet");
    fs::copy(golden, at("data/train-00000.parquet")).unwrap();
    fs::write(at("data/rows.json"), r#"[{"text": "three"}, {"text": 4}, {"text": ""}]"#).unwrap();
    let mut packed =
        flate2::write::GzEncoder::new(fs::File::create(at("data/more.jsonl.gz")).unwrap(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, b"{\"text\": \"four\"}\n").unwrap();
    packed.finish().unwrap();
    fs::write(at("data/plain.txt.zst"), zstd::encode_all(&b"five"[..], 1).unwrap()).unwrap();
    let mut notices = Notices::new();
    let corpus = Corpus::open(&RealFs, &[folder.path().into()], &mut notices).unwrap();
    let output = notices.take().join("\n");
    assert!(
        output.contains("reads data/more.jsonl.gz, data/plain.txt.zst, data/rows.json, data/train-00000.parquet; skips "),
        "{output}"
    );
    let (mut pieces, mut documents) = (corpus.pieces(), Vec::new());
    while let Some(piece) = pieces.next_piece(&mut notices).unwrap() {
        documents.push(piece.text);
    }
    assert_eq!(documents, ["four", "five", "three", "one é\n", " two"]);
    assert_eq!(pieces.bytes_done(), corpus.total_bytes());
    let output = notices.take().join("\n");
    assert!(
        output.contains("rows.json:1: skipped: ") && output.contains("train-00000.parquet: 2 of 4 documents left out: empty"),
        "{output}"
    );
    // Validation by name; a file that has no text.
    fs::write(at("data/validation.jsonl"), "{\"text\": \"val\"}\n").unwrap();
    let (_, dataset, notices) = run(&settings(folder.path(), "bytes"), &TokenCache::Off).unwrap();
    assert!(dataset.val.unwrap().len() < 8 && notices[0].contains("used for validation: data/validation.jsonl"), "{notices:?}");
    let chats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rows/zstd.parquet");
    let error = format!("{:#}", run(&settings(&chats, "bytes"), &TokenCache::Off).err().unwrap());
    assert!(error.contains("zstd.parquet: has no column text; its columns are id, score, messages, tools"), "{error}");
}

/// Speeds and the famous numbers; run by hand with `LEHR_TEXT=FILE cargo test --test files data -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement; needs a text file"]
fn speed() {
    let path = std::env::var_os("LEHR_TEXT").expect("LEHR_TEXT names a text file");
    let text = fs::read_to_string(&path).unwrap();
    let big = text.repeat((64 << 20) / text.len().max(1) + 1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big.txt");
    fs::write(&file, &big).unwrap();
    let corpus = Corpus::open(&RealFs, &[file], &mut Notices::new()).unwrap();
    let mib = corpus.total_bytes() as f64 / f64::from(1 << 20);
    let cache = TokenCache::Folder(folder.path().join("cache"));
    for kind in ["bytes", "chars", "bpe:1024", "bpe:8192"] {
        let start = Instant::now();
        let small = Corpus::from_text("text", text.clone());
        let tokenizer = Tokenizer::build(&RealFs, &kind.parse().unwrap(), &small, None, &mut Notices::new()).unwrap();
        let built = start.elapsed().as_secs_f64();
        for what in ["made", "found"] {
            let start = Instant::now();
            let tokens = lehr::data::tokenize(&RealFs, &corpus, &tokenizer, &cache, &mut Notices::new(), &mut silent).unwrap();
            let secs = start.elapsed().as_secs_f64();
            println!("{kind}: built in {built:.2} s; {} tokens {what}, {:.1} MiB/s", tokens.len(), mib / secs);
        }
    }
}

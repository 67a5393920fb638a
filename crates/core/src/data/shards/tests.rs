use super::*;
use crate::data::TokenizerKind;
use crate::progress::silent;
use crate::vfs::RealFs;
use std::fs;
use std::path::Path;

fn ids_of(file: &TokenFile) -> Vec<u32> {
    let mut ids = vec![0; file.len() as usize];
    file.read(0, &mut ids);
    ids
}

fn run(corpus: &Corpus, tokenizer: &Tokenizer, cache: &TokenCache) -> (TokenFile, Vec<String>) {
    let (mut notices, mut seen) = (Notices::new(), Vec::new());
    let mut progress = |_: &str, done, total| {
        seen.push((done, total));
        Ok(true)
    };
    let file = tokenize(&RealFs, corpus, tokenizer, cache, &mut notices, &mut progress).unwrap();
    if !file.is_from_cache() {
        assert!(seen.windows(2).all(|w| w[0] <= w[1]) && seen.last() == Some(&(corpus.total_bytes(), corpus.total_bytes())));
    }
    (file, notices.take())
}

fn documents(folder: &Path, texts: &[&str]) -> Corpus<'static> {
    let lines: String = texts.iter().map(|t| serde_json::json!({"text": t}).to_string() + "\n").collect();
    let path = folder.join("documents.jsonl");
    fs::write(&path, lines).unwrap();
    Corpus::open(&RealFs, &[path], &mut Notices::new()).unwrap()
}

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn documents_end_with_end_of_text() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = Tokenizer::bytes(true).unwrap();
    let tokens = |texts: &[&str]| {
        let (file, _) = run(&documents(folder.path(), texts), &bytes, &TokenCache::Off);
        (ids_of(&file), file.document_ends().to_vec())
    };
    let (a, b, eos) = (u32::from(b'a'), u32::from(b'b'), 256);
    assert_eq!(tokens(&["a"]), (vec![eos, a], vec![2]), "one document needs no end");
    assert_eq!(tokens(&["a", "bb", "a"]), (vec![eos, a, eos, b, b, eos, a, eos], vec![3, 6, 8]));
    assert_eq!(tokens(&["a<|endoftext|>", "b"]), (vec![eos, a, eos, b, eos], vec![3, 5]), "not ended twice");
    assert_eq!(tokens(&["<|endoftext|><|endoftext|>b"]), (vec![eos, eos, b, eos], vec![1, 2, 4]));
    let plain = Tokenizer::bytes(false).unwrap();
    let (file, _) = run(&documents(folder.path(), &["a", "bb"]), &plain, &TokenCache::Off);
    assert_eq!((ids_of(&file), file.document_ends()), (vec![a, b, b], [1, 3].as_slice()), "no such token, still two documents");
}

#[test]
fn cached_and_uncached_tokens_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let cache = TokenCache::Folder(folder.path().join("made/on/demand"));
    let text: String = (0..40_000).map(|i| format!("line {i} of 東京 text\n")).collect();
    let corpus = Corpus::from_text("memory", text.clone());
    let bpe = Tokenizer::build(&RealFs, &TokenizerKind::Bpe(400), &corpus, None, &mut Notices::new()).unwrap();
    let chars = Tokenizer::build(&RealFs, &TokenizerKind::Chars, &corpus, None, &mut Notices::new()).unwrap();
    for tokenizer in [Tokenizer::bytes(false).unwrap(), chars, bpe] {
        let (memory, _) = run(&corpus, &tokenizer, &TokenCache::Off);
        let (made, notices) = run(&corpus, &tokenizer, &cache);
        let (found, _) = run(&corpus, &tokenizer, &cache);
        assert!(notices.is_empty() && !made.is_from_cache() && found.is_from_cache());
        let whole = tokenizer.encode(&text).unwrap();
        for file in [memory, made, found] {
            assert!(ids_of(&file) == whole, "cut into pieces or not, the tokens are the same");
            assert_eq!((file.document_ends(), file.vocab_size()), ([whole.len() as u64].as_slice(), tokenizer.vocab_size()));
        }
    }
}

#[test]
fn large_vocabularies_use_four_bytes_per_token() {
    let folder = tempfile::tempdir().unwrap();
    let many: Vec<char> = ('\u{1000}'..='\u{15000}').collect();
    let tokenizer = Tokenizer::chars(many.iter().copied(), true).unwrap();
    assert!(tokenizer.vocab_size() > 1 << 16);
    let text: String = many.iter().rev().step_by(3).collect();
    let corpus = documents(folder.path(), &[&text, "\u{14FFF}"]);
    let (memory, _) = run(&corpus, &tokenizer, &TokenCache::Off);
    let (made, _) = run(&corpus, &tokenizer, &TokenCache::Folder(folder.path().join("cache")));
    assert_eq!(ids_of(&memory), ids_of(&made));
    assert_eq!((memory.document_ends(), memory.len()), (made.document_ends(), text.chars().count() as u64 + 4));
    assert!(ids_of(&made).iter().any(|id| *id > 1 << 16));
}

#[test]
fn a_truncated_cache_file_is_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let cached = folder.path().join("cache");
    let cache = TokenCache::Folder(cached.clone());
    let corpus = documents(folder.path(), &["one document", "another"]);
    let tokenizer = Tokenizer::bytes(true).unwrap();
    let (expected, _) = run(&corpus, &tokenizer, &TokenCache::Off);
    run(&corpus, &tokenizer, &cache);
    let path = only_file(&cached);
    let whole = fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = [0, 1, 79, 80, whole.len() - 1].map(|n| whole[..n].to_vec()).into();
    damaged.push([whole.as_slice(), b"x"].concat());
    damaged.push(vec![0; whole.len()]);
    // A flipped bit anywhere must be detected: header, tokens, padding and ends.
    damaged.extend((0..whole.len()).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    }));
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        let (file, notices) = run(&corpus, &tokenizer, &cache);
        assert!(!file.is_from_cache() && notices.len() == 1 && notices[0].ends_with("made again"), "{notices:?}");
        assert_eq!((ids_of(&file), file.document_ends()), (ids_of(&expected), expected.document_ends()));
        assert!(fs::read(only_file(&cached)).unwrap() == whole, "repaired, and nothing else left behind");
    }
}

#[test]
fn the_cache_key_depends_on_content() {
    let folder = tempfile::tempdir().unwrap();
    let cache = TokenCache::Folder(folder.path().join("cache"));
    let from_cache = |text: &str, tokenizer: &Tokenizer| run(&Corpus::from_text(text, text), tokenizer, &cache).0.is_from_cache();
    let (bytes, with_end) = (Tokenizer::bytes(false).unwrap(), Tokenizer::bytes(true).unwrap());
    assert!(!from_cache("some text", &bytes));
    assert!(from_cache("some text", &bytes));
    assert!(!from_cache("same size", &bytes));
    assert!(!from_cache("some text", &with_end));
    let lines = documents(folder.path(), &["x"]);
    assert!(!run(&lines, &bytes, &cache).0.is_from_cache());
    let as_text = folder.path().join("documents.txt");
    fs::copy(folder.path().join("documents.jsonl"), &as_text).unwrap();
    let as_text = Corpus::open(&RealFs, &[as_text], &mut Notices::new()).unwrap();
    assert!(!run(&as_text, &bytes, &cache).0.is_from_cache(), "the same bytes read in another way");
}

#[test]
fn without_a_cache_the_tokens_stay_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file_in_the_way = folder.path().join("file");
    fs::write(&file_in_the_way, "x").unwrap();
    let (file, notices) =
        run(&Corpus::from_text("t", "text"), &Tokenizer::bytes(false).unwrap(), &TokenCache::Folder(file_in_the_way));
    assert_eq!(file.len(), 4);
    assert!(notices.len() == 1 && notices[0].contains("stay in memory"), "{notices:?}");
}

#[test]
fn read_errors_are_not_cache_errors() {
    let folder = tempfile::tempdir().unwrap();
    let chars = Tokenizer::chars("abc".chars(), false).unwrap();
    for cache in [TokenCache::Off, TokenCache::Folder(folder.path().into())] {
        let result = tokenize(&RealFs, &Corpus::from_text("t", "abcd"), &chars, &cache, &mut Notices::new(), &mut silent);
        assert!(result.err().unwrap().to_string().contains("'d'"));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no half-made file stays");
}

#[test]
fn threads_keep_the_order_and_report_errors() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..3000).map(|i| format!("document {i} ").repeat(i % 50 + 1)).collect();
    let corpus = documents(folder.path(), &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let bpe = Tokenizer::build(&RealFs, &TokenizerKind::Bpe(300), &corpus, None, &mut Notices::new()).unwrap();
    let (file, _) = run(&corpus, &bpe, &TokenCache::Off);
    let (ids, mut start) = (ids_of(&file), 0);
    assert_eq!(file.document_ends().len(), texts.len());
    for (end, text) in file.document_ends().iter().zip(&texts) {
        assert_eq!(&bpe.decode(&ids[start..*end as usize]).unwrap(), text);
        start = *end as usize;
    }
    // A tokenizer without a token for most characters, on the multi-threaded path.
    let json = r#"{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"?"}}"#;
    fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    let word = Tokenizer::from_folder(&RealFs, folder.path()).unwrap();
    let error = tokenize(&RealFs, &corpus, &word, &TokenCache::Off, &mut Notices::new(), &mut silent).err().unwrap().to_string();
    assert!(error.contains("cannot encode"), "{error}");
}

#[test]
fn ids_outside_the_vocabulary_are_refused() {
    assert!(TokenFile::from_tokens(&[0, 5], &[2], 5).is_err());
    assert!(TokenFile::from_tokens(&[0, 4], &[2], 5).is_ok());
    assert!(TokenFile::from_tokens(&[0, 4], &[3], 5).is_err());
    assert!(TokenFile::from_tokens(&[0, 4], &[2, 1], 5).is_err());
}

/// A Llama-like tokenizer, which begins texts with `<s>` and words with a mark; with `</s>` at the end if requested.
fn framed(folder: &Path, end: bool) -> Tokenizer {
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    };
    let mut vocab: serde_json::Map<String, serde_json::Value> = serde_json::Map::new();
    for (id, token) in ["<unk>", "<s>", "</s>", "▁", "a", "b", "\n", "▁a", "▁b"].iter().enumerate() {
        vocab.insert((*token).into(), id.into());
    }
    let mut single = vec![
        serde_json::json!({"SpecialToken": {"id": "<s>", "type_id": 0}}),
        serde_json::json!({"Sequence": {"id": "A", "type_id": 0}}),
    ];
    if end {
        single.push(serde_json::json!({"SpecialToken": {"id": "</s>", "type_id": 0}}));
    }
    let json = serde_json::json!({"version": "1.0", "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false},
        "post_processor": {"type": "TemplateProcessing", "single": single,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": ["▁ a", "▁ b"]}});
    fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
    fs::write(folder.join("tokenizer_config.json"), r#"{"bos_token":"<s>","eos_token":"</s>"}"#).unwrap();
    Tokenizer::from_folder(&RealFs, folder).unwrap()
}

#[test]
fn documents_start_with_bos_as_in_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for (end, want) in [(false, vec![1, 7, 2, 1, 8, 5, 2]), (true, vec![1, 7, 2, 1, 8, 5, 2])] {
        let tokenizer = framed(folder.path(), end);
        let (file, _) = run(&documents(folder.path(), &["a", "bb"]), &tokenizer, &TokenCache::Off);
        assert_eq!((ids_of(&file), file.document_ends(), file.separator()), (want, [3, 7].as_slice(), None));
        let (file, _) = run(&Corpus::from_text("t", "a</s>b"), &tokenizer, &TokenCache::Off);
        assert_eq!(
            (ids_of(&file), file.document_ends().len()),
            (vec![1, 7, 2, 1, 5, 2], 2),
            "a document that another ends in the text itself"
        );
    }
    let bytes = Tokenizer::bytes(true).unwrap();
    assert_eq!(run(&documents(folder.path(), &["a", "b"]), &bytes, &TokenCache::Off).0.separator(), Some(256));
}

/// A tokenizer that puts a mark before every text adds none where a long text was cut.
#[test]
fn a_text_read_in_pieces_is_encoded_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = framed(folder.path(), false);
    for text in ["a b\n".repeat(700_000), "ab ".repeat(800_000), "ab".repeat(1_000_000)] {
        let corpus = Corpus::from_text("t", text.clone());
        let pieces = std::iter::from_fn({
            let mut pieces = corpus.pieces();
            move || pieces.next_piece(&mut Notices::new()).unwrap()
        });
        assert!(pieces.count() > 1);
        let (file, _) = run(&corpus, &tokenizer, &TokenCache::Off);
        assert!(ids_of(&file) == tokenizer.encode_text(&text).unwrap());
    }
}

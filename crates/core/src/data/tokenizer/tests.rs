use super::*;
use crate::config::Architecture;
use crate::data::{Corpus, Notices};
use crate::model_files::byte_of;
use crate::vfs::RealFs;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::LazyLock;

const SAMPLE: &str =
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak. It's naïve — 東京 🙂 e\u{301}\n";

static BPE: LazyLock<Tokenizer> = LazyLock::new(|| {
    let corpus = Corpus::from_text("sample", SAMPLE.repeat(4));
    Tokenizer::build(&RealFs, &TokenizerKind::Bpe(300), &corpus, None, &mut Notices::new()).expect("BPE trains")
});
static BYTES: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::bytes(false).expect("bytes build"));
static BYTES_EOS: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::bytes(true).expect("bytes build"));

fn save(tokenizer: &Tokenizer, folder: &Path) {
    for (name, content) in tokenizer.files(128, Architecture::Llama).expect("files") {
        std::fs::write(folder.join(name), content).expect("write");
    }
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> (String, Vec<String>) {
    let mut stream = tokenizer.decode_stream(&[]);
    let parts: Vec<String> = ids.iter().map(|id| stream.push(*id).expect("push")).collect();
    (parts.concat() + &stream.finish().expect("finish"), parts)
}

/// The error, which must be one line.
fn error_of<T>(result: Result<T>) -> String {
    let text = result.err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(!text.is_empty() && !text.contains('\n'), "one line wanted: {text:?}");
    text
}

#[test]
fn tokenizer_kinds_are_parsed() {
    assert_eq!("bytes".parse::<TokenizerKind>().unwrap(), TokenizerKind::Bytes);
    assert_eq!("bpe:257".parse::<TokenizerKind>().unwrap(), TokenizerKind::Bpe(257));
    assert_eq!("models/x".parse::<TokenizerKind>().unwrap(), TokenizerKind::Path("models/x".into()));
    for bad in ["", "bpe", "bpe:", "bpe:256", "bpe:-1", "bpe:1e9", "bpe:99999999999999999999"] {
        assert!(error_of(bad.parse::<TokenizerKind>()).contains("tokenizer = "));
    }
}

#[test]
fn a_hub_cache_folder_holds_a_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshots/abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir(dir.path().join("refs")).unwrap();
    save(&BYTES, &snapshot);
    let found = Tokenizer::from_folder(&RealFs, dir.path()).unwrap();
    assert_eq!(found.encode("é").unwrap(), BYTES.encode("é").unwrap());
}

#[test]
fn the_byte_alphabet_matches_gpt2() {
    let alphabet: HashSet<char> = (0..=255).map(char_of).collect();
    assert_eq!(alphabet, tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect());
    for byte in 0..=255 {
        assert_eq!(byte_of(char_of(byte)), Some(byte));
        assert_eq!(BYTES.decode(&BYTES.encode("é").unwrap()).unwrap(), "é");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn bytes_round_trip(text in any::<String>()) {
        for tokenizer in [&*BYTES, &*BYTES_EOS] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(&ids, &text.bytes().map(u32::from).collect::<Vec<_>>());
            prop_assert_eq!(&ids, &tokenizer.encode_by_crate(&text, false).unwrap().get_ids().to_vec());
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.clone());
            prop_assert_eq!(streamed(tokenizer, &ids).0, text.clone());
        }
    }

    #[test]
    fn chars_round_trip(text in ".{1,60}|\\PC{1,60}|[ \\n\\r\\t\u{301}\u{0}a]{1,60}", with_eos in any::<bool>()) {
        let tokenizer = Tokenizer::chars(text.chars(), with_eos).unwrap();
        prop_assert!(tokenizer.is_table());
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(ids.len(), text.chars().count());
        prop_assert_eq!(&ids, &tokenizer.encode_by_crate(&text, false).unwrap().get_ids().to_vec());
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.clone());
        prop_assert_eq!(streamed(&tokenizer, &ids).0, text);
    }

    #[test]
    fn bpe_round_trip(text in any::<String>(), sample in "[ a-zA-Z',.\\n\u{e9}\u{6771}\u{1f642}]{0,80}") {
        for text in [text, sample] {
            let ids = BPE.encode(&text).unwrap();
            prop_assert_eq!(&ids, &BPE.encode_by_crate(&text, false).unwrap().get_ids().to_vec());
            prop_assert!(ids.iter().all(|id| (*id as usize) < BPE.vocab_size()));
            prop_assert_eq!(BPE.decode(&ids).unwrap(), text.clone());
            prop_assert_eq!(streamed(&BPE, &ids).0, text);
        }
    }

    #[test]
    fn word_splitting_matches_gpt2(text in "([ \\n\\t\u{a0}\u{3000}'.<|srtvemld1\u{b2}\u{4e5}a\u{301}\u{e9}\u{6771}\u{1f642}]|'re|'ll|'ve){0,40}|\\PC{0,40}") {
        use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, pre_tokenizers::byte_level::ByteLevel};
        let mut split = PreTokenizedString::from(text.as_str());
        ByteLevel::new(false, false, true).pre_tokenize(&mut split).unwrap();
        let theirs: Vec<_> = split.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter().map(|s| s.1).collect();
        let (mut mine, mut at) = (Vec::new(), 0);
        for word in word_splitter::split(&text) {
            mine.push((at, at + word.len()));
            at += word.len();
        }
        prop_assert_eq!(mine, theirs);
        // With a memory, encoding a second time gives the same ids.
        let (mut memory, mut once, mut twice) = (WordMemory::default(), Vec::new(), Vec::new());
        BPE.encode_into(&text, &mut once, &mut memory).unwrap();
        BPE.encode_into(&text, &mut twice, &mut memory).unwrap();
        prop_assert_eq!(&once, &twice);
        prop_assert_eq!(&once, &BPE.encode_by_crate(&text, false).unwrap().get_ids().to_vec());
    }

    /// A model may sample any ids: the stream equals decoding all at once, and never returns half a character.
    #[test]
    fn streaming_equals_decoding_for_random_ids(ids in prop::collection::vec(0u32..310, 0..60)) {
        for tokenizer in [&*BYTES, &*BYTES_EOS, &*BPE] {
            prop_assert_eq!(streamed(tokenizer, &ids).0, tokenizer.decode(&ids).unwrap());
        }
    }
}

#[test]
fn streaming_emits_complete_characters() {
    let ids = BYTES.encode("a🙂b").unwrap();
    let (_, parts) = streamed(&BYTES, &ids);
    assert_eq!(parts, ["a", "", "", "", "🙂", "b"]);
    assert_eq!(streamed(&BYTES, &ids[..3]).0, "a\u{FFFD}", "cut off by the end");
}

#[test]
fn other_decoders_stream_too() {
    let vocab = json!({"<unk>": 0, "▁the": 1, "▁cat": 2, "s": 3, "<0xF0>": 4, "<0x9F>": 5, "<0x99>": 6, "<0x82>": 7});
    let json = json!({"version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab, "merges": []}});
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(&RealFs, folder.path()).unwrap();
    let ids = [1, 2, 3, 4, 5, 6, 7, 2, 1];
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the cats🙂 cat the");
    // The bytes are held back until their run ends: one more that is invalid would change them all.
    let (text, parts) = streamed(&tokenizer, &ids);
    assert_eq!((text.as_str(), parts[6].as_str(), parts[7].as_str()), ("the cats🙂 cat the", "", "🙂 cat"));
}

/// A tokenizer of 25 tokens with this decoder: byte tokens (complete, invalid, ASCII), marked words, spaces, suffixes.
fn with_decoder(decoder: Value) -> Tokenizer {
    let mut tokens: Vec<String> = ["<unk>", "▁the", "▁", "s", " x ", "a</w>", "##b", "▁▁", "\u{fffd}", "é", "Ġa", "Ã", "©", "ab"]
        .map(String::from)
        .to_vec();
    tokens.extend([0x41, 0x20, 0x16, 0xad, 0xf0, 0x9f, 0x99, 0x82, 0xc3, 0xa9, 0xff].map(|byte: u8| format!("<0x{byte:02X}>")));
    let vocab: serde_json::Map<String, Value> = tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let json = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": decoder, "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab, "merges": []}});
    Tokenizer::from_bytes("decoder", serde_json::to_vec(&json).unwrap(), companions::Companions::default()).unwrap()
}

/// Decoders of published tokenizers, and others that rewrite earlier text.
static DECODERS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let strip = |start: u32, stop: u32| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
    let (bytes, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
    let meta = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let sequence = |steps: &[&Value]| json!({"type": "Sequence", "decoders": steps});
    let spaces = replace("▁", " ");
    let decoders = [
        Value::Null,
        sequence(&[&spaces, &bytes, &fuse, &strip(1, 0)]),
        sequence(&[&spaces, &bytes, &fuse, &strip(3, 0)]),
        sequence(&[&spaces, &bytes, &fuse]),
        sequence(&[&bytes, &meta("always")]),
        sequence(&[&bytes, &fuse, &strip(0, 2)]),
        sequence(&[&fuse, &bytes]),
        sequence(&[&fuse, &replace("ab", "c")]),
        sequence(&[&spaces, &json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})]),
        meta("first"),
        meta("never"),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        json!({"type": "CTC", "pad_token": "<unk>", "word_delimiter_token": "▁", "cleanup": true}),
    ];
    decoders.into_iter().map(with_decoder).collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a decoder makes of later tokens, the pieces are the whole text; before a long text, too, of which only the end is kept.
    #[test]
    fn streaming_equals_decoding_for_every_decoder(ids in prop::collection::vec(0u32..26, 0..90)) {
        for (n, tokenizer) in DECODERS.iter().enumerate() {
            // A decoder may fail on some tokens (Strip at the end of an empty one); so does the stream.
            let Ok(whole) = tokenizer.decode(&ids) else { continue };
            prop_assert_eq!(streamed(tokenizer, &ids).0, whole, "decoder {}", n);
        }
    }

    /// A continuation says what the whole says behind its beginning, wherever it is cut.
    #[test]
    fn streaming_continues_a_text(ids in prop::collection::vec(0u32..26, 1..60), at in 0usize..60) {
        let at = at.min(ids.len());
        for tokenizer in &DECODERS[1..5] {
            let (before, whole) = (tokenizer.decode(&ids[..at]).unwrap(), tokenizer.decode(&ids).unwrap());
            // Bytes after bytes alter what precedes them.
            let Some(wanted) = whole.strip_prefix(&before) else { continue };
            let mut stream = tokenizer.decode_stream(&ids[..at]);
            let text: String = ids[at..].iter().map(|id| stream.push(*id).unwrap()).collect();
            prop_assert_eq!(text + &stream.finish().unwrap(), wanted);
        }
    }
}

/// Text comes as soon as no later token can change it.
#[test]
fn streaming_holds_back_no_more_than_necessary() {
    let llama = &DECODERS[1];
    let token = |text: &str| llama.token_id(text).unwrap();
    let (_, parts) = streamed(llama, &["▁the", "s", "<0x41>", "<0xAD>", "▁the"].map(token));
    assert_eq!(parts, ["the", "s", "", "", "\u{fffd}\u{fffd} the"]);
}

#[test]
fn a_panic_of_the_crate_is_an_error() {
    let mut file: Value = serde_json::from_slice(BPE.json()).unwrap();
    file["normalizer"] = json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"});
    let tokenizer = Tokenizer::from_bytes("x", serde_json::to_vec(&file).unwrap(), companions::Companions::default());
    assert!(error_of(tokenizer.unwrap().encode("hi")).contains("the tokenizers library panicked"));
}

#[test]
fn a_post_processor_adds_only_tokens() {
    let mut file: Value = serde_json::from_slice(BYTES_EOS.json()).unwrap();
    let mut load = |id: u32| {
        file["post_processor"] = json!({"type": "TemplateProcessing", "pair": [], "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [id], "tokens": ["<s>"]}}});
        Tokenizer::from_bytes("x", serde_json::to_vec(&file).unwrap(), companions::Companions::default())
    };
    assert_eq!(load(256).unwrap().encode_text("a").unwrap(), [256, 97]);
    let error = error_of(load(99_999));
    assert!(error.contains("post_processor: adds the token id 99999"), "{error}");
    let error = error_of(BYTES_EOS.check_model(256));
    assert!(error.contains("257 tokens") && error.contains("is 256"), "{error}");
    assert!(BYTES_EOS.check_model(257).is_ok());
}

#[test]
fn an_unknown_character_is_named() {
    let tokenizer = Tokenizer::chars("abc".chars(), false).unwrap();
    assert!(error_of(tokenizer.encode("abé")).contains("'é' (U+00E9)"));
    assert_eq!(tokenizer.vocab_size(), 3);
    assert_eq!((tokenizer.eos_id(), tokenizer.token_text(1).as_deref(), tokenizer.token_text(9)), (None, Some("b"), None));
    assert!(Tokenizer::chars("".chars(), false).is_err());
}

#[test]
fn the_end_of_text_token_is_special() {
    let chars = Tokenizer::chars("<|endoftxabc>".chars(), true).unwrap();
    for tokenizer in [&*BYTES_EOS, &chars, &*BPE] {
        let eos = tokenizer.eos_id().unwrap();
        let ids = tokenizer.encode(&format!("ab{END_OF_TEXT}c{END_OF_TEXT}")).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == eos).count(), 2);
        assert_eq!(ids, tokenizer.encode_by_crate(&format!("ab{END_OF_TEXT}c{END_OF_TEXT}"), false).unwrap().get_ids());
        assert_eq!((tokenizer.decode(&ids).unwrap(), streamed(tokenizer, &ids).0), ("abc".into(), "abc".into()));
        assert_eq!((tokenizer.token_text(eos).as_deref(), tokenizer.bos_id()), (Some(END_OF_TEXT), Some(eos)));
    }
    let plain = BYTES.encode(END_OF_TEXT).unwrap();
    assert_eq!((BYTES.vocab_size(), plain.len(), BYTES.eos_id()), (256, END_OF_TEXT.len(), None));
    assert_eq!((BYTES_EOS.vocab_size(), BYTES_EOS.eos_id()), (257, Some(256)));
}

#[test]
fn bpe_training_is_repeatable_and_complete() {
    let corpus = Corpus::from_text("sample", SAMPLE.repeat(4));
    let again = Tokenizer::build(&RealFs, &TokenizerKind::Bpe(300), &corpus, None, &mut Notices::new()).unwrap();
    assert_eq!(again.json(), BPE.json());
    assert_eq!(BPE.vocab_size(), 300);
    assert!(BPE.encode(SAMPLE).unwrap().len() < SAMPLE.len() * 3 / 4);
    let mut notices = Notices::new();
    let small = Tokenizer::build(&RealFs, &TokenizerKind::Bpe(5000), &corpus, None, &mut notices).unwrap();
    assert!(small.vocab_size() < 5000 && notices.lines()[0].contains("patterns for"));
    let exact = Tokenizer::build(&RealFs, &TokenizerKind::Bpe(257), &corpus, None, &mut notices).unwrap();
    assert_eq!(exact.decode(&exact.encode(SAMPLE).unwrap()).unwrap(), SAMPLE);
    assert_eq!(BPE.token_text(BPE.encode("\u{1}").unwrap()[0]).as_deref(), Some("\u{1}"));
    assert_eq!(BPE.token_text(BYTES_EOS.vocab_size() as u32 + 9000), None);
    assert_eq!(BYTES.token_text(0xE2).as_deref(), Some("\\xE2"));
}

#[test]
fn the_end_of_text_marker_is_one_token_for_all_kinds() {
    let text = format!("ab cd{END_OF_TEXT}ef gh\n");
    for (kind, characters) in [("bytes", 256), ("chars", 10), ("words", 5), ("bpe:300", 0)] {
        let corpus = Corpus::from_text("text", text.clone());
        let tokenizer = Tokenizer::build(&RealFs, &kind.parse().unwrap(), &corpus, None, &mut Notices::new()).unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        let eos = tokenizer.eos_id().expect("a token that ends documents");
        assert_eq!(ids.iter().filter(|id| **id == eos).count(), 1, "{kind}");
        assert!(characters == 0 || tokenizer.vocab_size() == characters + 1, "{kind}: no character of the marker is learnt");
        let plain =
            Tokenizer::build(&RealFs, &kind.parse().unwrap(), &Corpus::from_text("text", "ab cd"), None, &mut Notices::new())
                .unwrap();
        let mut notices = Notices::new();
        plain.check_marker([&corpus], &mut notices).unwrap();
        assert_eq!(notices.is_empty(), plain.eos_id().is_some(), "{kind}: {notices:?}");
    }
}

#[test]
fn word_tokenizers_need_spaces() {
    let corpus = Corpus::from_text("text", "東京の空は高い".repeat(20));
    assert!(
        error_of(Tokenizer::build(&RealFs, &TokenizerKind::Words, &corpus, None, &mut Notices::new()))
            .contains("not written in words")
    );
}

#[test]
fn saved_tokenizers_load() {
    let chars = Tokenizer::chars(SAMPLE.chars(), false).unwrap();
    let chars_eos = Tokenizer::chars(SAMPLE.chars(), true).unwrap();
    for (tokenizer, direct) in [(&*BYTES, true), (&*BYTES_EOS, true), (&*BPE, false), (&chars, true), (&chars_eos, true)] {
        let folder = tempfile::tempdir().unwrap();
        save(tokenizer, folder.path());
        for path in [folder.path().to_owned(), folder.path().join("tokenizer.json")] {
            let loaded = Tokenizer::from_folder(&RealFs, &path).unwrap();
            assert_eq!(loaded.is_table(), direct);
            assert_eq!(loaded.encode(SAMPLE).unwrap(), tokenizer.encode(SAMPLE).unwrap());
            assert_eq!((loaded.eos_id(), loaded.bos_id()), (tokenizer.eos_id(), tokenizer.bos_id()));
            assert_eq!((loaded.json(), loaded.vocab_size()), (tokenizer.json(), tokenizer.vocab_size()));
            assert_eq!(loaded.files(128, Architecture::Llama).unwrap(), tokenizer.files(128, Architecture::Llama).unwrap());
        }
    }
}

#[test]
fn special_tokens_are_read_from_companion_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    save(&BPE, folder.path());
    let eos = BPE.eos_id();
    let load = || Tokenizer::from_folder(&RealFs, folder.path());
    std::fs::write(at("tokenizer_config.json"), json!({"eos_token": {"content": END_OF_TEXT}, "chat_template": "x"}).to_string())
        .unwrap();
    assert_eq!((load().unwrap().eos_id(), load().unwrap().bos_id()), (eos, None));
    let kept = load().unwrap().files(7, Architecture::Llama).unwrap();
    let config: Value = serde_json::from_slice(&kept[1].1).unwrap();
    assert_eq!((&config["chat_template"], &config["model_max_length"]), (&json!("x"), &json!(7)));
    std::fs::remove_file(at("tokenizer_config.json")).unwrap();
    assert_eq!(load().unwrap().eos_id(), None);
    std::fs::write(at("config.json"), json!({"eos_token_id": [5, 6], "bos_token_id": 1}).to_string()).unwrap();
    assert_eq!((load().unwrap().eos_id(), load().unwrap().bos_id()), (Some(5), Some(1)));
    std::fs::write(at("generation_config.json"), json!({"eos_token_id": 7}).to_string()).unwrap();
    assert_eq!((load().unwrap().eos_id(), load().unwrap().bos_id()), (Some(7), Some(1)));
    std::fs::write(at("tokenizer_config.json"), json!({"eos_token": "</s>"}).to_string()).unwrap();
    assert_eq!((load().unwrap().eos_id(), load().unwrap().vocab_size()), (Some(300), 301), "added, as in transformers");
    std::fs::write(at("config.json"), json!({"vocab_size": 300}).to_string()).unwrap();
    assert!(error_of(load()).contains("eos_token = \"</s>\" is not in tokenizer.json"));
    std::fs::write(at("tokenizer_config.json"), json!({"pad_token": "[PAD]"}).to_string()).unwrap();
    assert_eq!(load().unwrap().vocab_size(), 300, "a token that the model has no row for, and that no text needs");
    std::fs::write(at("tokenizer_config.json"), json!({"eos_token": 5}).to_string()).unwrap();
    assert!(error_of(load()).contains("eos_token is neither"));
    std::fs::write(at("tokenizer_config.json"), "[").unwrap();
    assert!(error_of(load()).contains("tokenizer_config.json"));
}

/// A word-level `tokenizer.json` with this vocabulary, written by hand because some of these are invalid.
fn word_level(vocab: &str, added: &str) -> String {
    format!(r#"{{"version":"1.0","added_tokens":{added},"model":{{"type":"WordLevel","vocab":{vocab},"unk_token":"a"}}}}"#)
}

#[test]
fn hostile_tokenizer_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    assert!(error_of(Tokenizer::from_folder(&RealFs, folder.path())).contains("no such file"));
    let added = |id: i64| {
        format!(
            r#"[{{"id":{id},"content":"x","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}]"#
        )
    };
    let bad_merges = r#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}"#;
    let bad_regex = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(["},"behavior":"Isolated","invert":false},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;
    let cases = [
        (String::new(), "EOF"),
        ("<html>".into(), "expected value"),
        ("[".repeat(100_000), "line 1"),
        ("null".into(), "invalid type"),
        (r#"{"version":"1.0"}"#.into(), "model"),
        (word_level("{}", "[]"), "empty"),
        (word_level(r#"{"a":0,"a":1}"#, "[]"), "\"a\" twice"),
        (word_level(r#"{"a":0,"b":0}"#, "[]"), "id 0, which another"),
        (word_level(r#"{"a":0,"b":4000000000}"#, "[]"), "id 4000000000, but there are 2"),
        (word_level(r#"{"a":0,"b":-1}"#, "[]"), "id -1"),
        (word_level(r#"{"a":0,"b":1.5}"#, "[]"), "\"b\""),
        (word_level(r#"{"a":0,"b":99999999999999999999}"#, "[]"), "\"b\""),
        (word_level(r#"{"a":0}"#, &added(3_000_000)), "id 3000000"),
        (word_level(r#"{"a":0}"#, &added(7)), "added token \"x\" has id 7, but 1"),
        (bad_merges.into(), "out of vocabulary"),
        (bad_regex.into(), "cannot be used"),
    ];
    for (content, expected) in cases {
        std::fs::write(&path, &content).unwrap();
        let error = error_of(Tokenizer::from_folder(&RealFs, &path));
        assert!(error.contains(expected) && error.contains("tokenizer.json"), "{error:?} lacks {expected:?}");
    }
    std::fs::File::create(&path).unwrap().set_len(65 << 20).unwrap();
    assert!(error_of(Tokenizer::from_folder(&RealFs, &path)).contains("64 MiB"));
}

#[test]
fn slow_regexes_are_stopped() {
    let json = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a+)+(?!a)b"},"behavior":"Isolated","invert":false},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    let start = std::time::Instant::now();
    Tokenizer::from_folder(&RealFs, folder.path()).unwrap().encode(&"a".repeat(10_000)).ok();
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn padding_and_truncation_settings_are_ignored() {
    let mut json: Value = serde_json::from_slice(BYTES.json()).unwrap();
    json["truncation"] = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "!"});
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(&RealFs, folder.path()).unwrap();
    assert_eq!((tokenizer.encode("ab").unwrap().len(), tokenizer.encode("abcdefgh").unwrap().len()), (2, 8));
}

#[test]
fn very_long_words_encode_in_linear_time() {
    let start = std::time::Instant::now();
    let word = "ab".repeat(500_000);
    let marks = "\u{301}".repeat(1_000_000);
    let spaces = " ".repeat(100_000);
    for text in [&word, &marks, &spaces] {
        for tokenizer in [&*BYTES, &*BPE, &Tokenizer::chars(text.chars(), false).unwrap()] {
            assert_eq!(&tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
        }
    }
    let corpus = Corpus::from_text("word", word);
    assert!(Tokenizer::build(&RealFs, &TokenizerKind::Bpe(300), &corpus, None, &mut Notices::new()).unwrap().vocab_size() > 257);
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

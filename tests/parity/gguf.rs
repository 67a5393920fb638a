//! GGUF files: read as transformers reads them, refused by name where they are malformed, written so that they are read again; and `lehr chat`.
//! The references are made by tests/parity/gguf/make.py; `scripts/check-gguf` compares what is written with llama.cpp itself.

use crate::common;
use lehr::vfs::RealFs;

use common::{Place, json_lines, run};
use lehr::data::{Batch, IGNORE, Tokenizer};
use lehr::device::Device;
use lehr::model::{Generator, Model};
use lehr::model_files::gguf::GgufFile;
use lehr::model_files::hf_config;
use lehr::model_files::weight_files::WeightFiles;
use lehr::ops::sample::Sampling;
use lehr::train::Scorer;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf").join(name)
}

fn device() -> Device {
    Device::open_named(None).expect("an adapter")
}

fn open(device: &Device, path: &Path, context: usize) -> Model {
    let config = hf_config::of_model(&RealFs, path).unwrap().model;
    let model = Model::new(device, &config, context).unwrap();
    model.load(device, &WeightFiles::open(&RealFs, path).unwrap()).unwrap();
    model
}

fn logits(device: &Device, model: &Model, ids: &[u32]) -> Vec<Vec<f32>> {
    let targets = ids.iter().skip(1).copied().chain([IGNORE]).collect();
    let row = Batch {
        batch_size: 1,
        seq_len: ids.len(),
        tokens: ids.to_vec(),
        targets,
        doc_start: vec![0; ids.len()],
        num_tokens: ids.len(),
    };
    let scorer = Scorer::new(device, model, 1, ids.len()).unwrap();
    scorer.score(device, &row).unwrap();
    let [_, stride] = scorer.acts.logits.matrix();
    let all: Vec<f32> = device.read(&scorer.acts.logits).unwrap();
    all.chunks(stride).map(|row| row[..model.config.vocab_size].to_vec()).collect()
}

#[test]
fn logits_and_token_ids_match_transformers() {
    let wanted: Value = serde_json::from_slice(&std::fs::read(golden("golden.json")).unwrap()).unwrap();
    let device = device();
    for (case, wanted) in wanted.as_object().unwrap() {
        let path = golden(&format!("{case}.gguf"));
        let tokenizer = Tokenizer::from_folder(&RealFs, &path).unwrap();
        for pair in wanted["ids"].as_array().unwrap() {
            let text = pair[0].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(pair[1].clone()).unwrap();
            assert_eq!(tokenizer.encode_text(text).unwrap(), ids, "{case}: {text:?}");
        }
        let ids: Vec<u32> = serde_json::from_value(wanted["input"].clone()).unwrap();
        let found = logits(&device, &open(&device, &path, ids.len()), &ids);
        for (wanted, found) in wanted["logits"].as_array().unwrap().iter().zip([&found[0], &found[ids.len() - 1]]) {
            let wanted: Vec<f32> = serde_json::from_value(wanted.clone()).unwrap();
            assert_eq!(wanted.len(), found.len());
            let worst = wanted.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{case}: logits differ by {worst}");
        }
    }
}

/// `lehr score` encodes with the tokenizer of the file.
#[test]
fn texts_are_scored_with_the_tokenizer_of_the_file() {
    let wanted: Value = serde_json::from_slice(&std::fs::read(golden("golden.json")).unwrap()).unwrap();
    let place = Place::new();
    for case in ["qwen2", "sentencepiece"] {
        let pair = &wanted[case]["ids"][0];
        let mut command = place.lehr(["score", "--json", "--text", pair[0].as_str().unwrap(), "--model"]);
        let scored = json_lines(command.arg(golden(&format!("{case}.gguf"))));
        assert_eq!(scored[0]["tokens"], pair[1], "{case}");
    }
}

#[test]
fn template_and_special_tokens_come_with_the_file() {
    let tokenizer = Tokenizer::from_folder(&RealFs, &golden("qwen2.gguf")).unwrap();
    assert!(tokenizer.chat_template().unwrap().unwrap().contains("<|user|>"));
    let end = tokenizer.token_id("<|end|>").unwrap();
    assert_eq!((tokenizer.eos_id(), tokenizer.end_tokens().ids()), (Some(end), &[end][..]));
    assert!(tokenizer.is_special(end) && !tokenizer.is_special(tokenizer.token_id("<think>").unwrap()));
}

/// The bytes of a valid file with some of them changed.
fn damaged(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = std::fs::read(golden("qwen2.gguf")).unwrap();
    change(&mut bytes);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    std::fs::write(&path, bytes).unwrap();
    let opened = GgufFile::open(&RealFs, &path).and_then(|file| Ok((file.config_json()?, file.tokenizer_files()?)));
    let error = format!("{:#}", opened.err().unwrap_or_else(|| panic!("it opened")));
    assert!(!error.contains('\n') && error.len() < 600, "{error}");
    error
}

fn find(bytes: &[u8], what: &str) -> usize {
    bytes.windows(what.len()).position(|w| w == what.as_bytes()).unwrap()
}

#[test]
// Length: one table.
fn hostile_files_get_one_line() {
    let put = |at: usize, value: u64| move |bytes: &mut Vec<u8>| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    assert!(damaged(|b| b[0] = b'X').contains("not a GGUF file"));
    assert!(damaged(|b| b[4] = 9).contains("version 9"));
    assert!(damaged(|b| b[4..8].copy_from_slice(&[0, 0, 0, 3])).contains("big-endian"));
    assert!(damaged(put(8, u64::MAX)).contains("tensors"));
    assert!(damaged(put(16, 1 << 40)).contains("settings"));
    assert!(damaged(put(24, u64::MAX)).contains("longer than"));
    assert!(damaged(|b| b.truncate(20)).contains("beyond the end"));
    assert!(damaged(|b| b.truncate(b.len() - 1000)).contains("beyond the end of the file"));
    // The list of tokens: its length follows name, type of list, type of entry.
    let list = "tokenizer.ggml.tokens";
    assert!(
        damaged(|b| {
            let at = find(b, list) + list.len() + 8;
            put(at, u64::MAX / 2)(b)
        })
        .contains("does not fit")
    );
    assert!(
        damaged(|b| {
            let at = find(b, list) + list.len() + 4;
            b[at] = 9
        })
        .contains("array of type 9")
    );
    // A tensor: name, number of sizes, sizes, type, offset.
    let name = "blk.0.attn_q.weight";
    let at = |b: &[u8]| find(b, name) + name.len();
    assert!(
        damaged(|b| {
            let at = at(b);
            b[at] = 200
        })
        .contains("200 dimensions")
    );
    assert!(
        damaged(|b| {
            let at = at(b) + 4;
            put(at, 1 << 62)(b)
        })
        .contains("overflows")
    );
    assert!(
        damaged(|b| {
            let at = at(b) + 4 + 16;
            b[at] = 10
        })
        .contains("Q2_K: lehr reads F32")
    );
    assert!(
        damaged(|b| {
            let at = at(b) + 4 + 16;
            b[at] = 77
        })
        .contains("type 77")
    );
    assert!(
        damaged(|b| {
            let at = at(b) + 4 + 16 + 4;
            put(at, u64::MAX - 31)(b)
        })
        .contains("beyond the end")
    );
    assert!(
        damaged(|b| {
            let at = at(b) + 4 + 16 + 4;
            put(at, 0)(b)
        })
        .contains("overlap")
    );
    assert!(
        damaged(|b| {
            let at = at(b) - 3;
            b[at] = b'X'
        })
        .contains("no such part")
    );
    assert!(
        damaged(|b| {
            let at = find(b, "qwen2");
            b[at] = b'g'
        })
        .contains("general.architecture")
    );
    assert!(
        damaged(|b| {
            let at = find(b, "qwen2.block_count") + 8;
            b[at] = b'X'
        })
        .contains("does not build that")
    );
}

#[test]
fn truncated_and_corrupted_headers_do_not_crash() {
    let whole = std::fs::read(golden("qwen2.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    let head = find(&whole, "blk.2.ffn_down") + 64;
    let mut state = 1u64;
    for round in 0..400 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut bytes = whole.clone();
        let at = (state >> 33) as usize % head;
        match round % 4 {
            0 => bytes.truncate(at),
            kind => bytes[at] ^= [0xff, 0x80, 0x01][kind - 1],
        }
        std::fs::write(&path, bytes).unwrap();
        let _ = GgufFile::open(&RealFs, &path).and_then(|file| Ok((file.config_json()?, file.tokenizer_files()?)));
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A setting: name, type, value.
fn setting(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(name)[..], &kind.to_le_bytes(), value].concat()
}

/// A list of entries of a type.
fn list(name: &str, kind: u32, entries: &[Vec<u8>]) -> Vec<u8> {
    setting(name, 9, &[&kind.to_le_bytes()[..], &(entries.len() as u64).to_le_bytes(), &entries.concat()].concat())
}

/// A small llama with these additional settings, whose f32 tensors (sizes innermost first) hold twos; the error.
fn made(more: &[Vec<u8>], tensors: &[(&str, &[u64])]) -> anyhow::Result<()> {
    let mut settings = vec![setting("general.architecture", 8, &text("llama"))];
    for (name, value) in [
        ("attention.head_count", 2u32),
        ("embedding_length", 16),
        ("feed_forward_length", 32),
        ("block_count", 1),
        ("context_length", 64),
    ] {
        settings.push(setting(&format!("llama.{name}"), 4, &value.to_le_bytes()));
    }
    settings.push(setting("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes()));
    settings.extend_from_slice(more);
    let (mut infos, mut data) = (Vec::new(), Vec::<u8>::new());
    for (name, sizes) in tensors {
        infos.extend(text(name));
        infos.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|size| infos.extend(size.to_le_bytes()));
        infos.extend(0u32.to_le_bytes());
        infos.extend((data.len() as u64).to_le_bytes());
        (0..sizes.iter().product::<u64>()).for_each(|_| data.extend(2f32.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    let mut file = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((settings.len() as u64).to_le_bytes());
    file.extend(settings.concat());
    file.extend(infos);
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("made.gguf");
    std::fs::write(&path, file)?;
    let file = GgufFile::open(&RealFs, &path)?;
    hf_config::parse(file.config_json()?.to_string().as_bytes())?;
    file.tokenizer_files().map(drop)
}

const EMBEDDING: (&str, &[u64]) = ("token_embd.weight", &[16, 8]);

/// A vocabulary of SentencePiece's kind.
fn pieces(tokens: &[String]) -> [Vec<u8>; 3] {
    [
        setting("tokenizer.ggml.model", 8, &text("llama")),
        list("tokenizer.ggml.tokens", 8, &tokens.iter().map(|token| text(token)).collect::<Vec<_>>()),
        list("tokenizer.ggml.scores", 6, &vec![0f32.to_le_bytes().to_vec(); tokens.len()]),
    ]
}

/// Small files that claim much: each was an allocation that ended the process, or hours of work.
#[test]
fn headers_claiming_huge_sizes_are_refused() {
    let tokens = |list: &[&str]| pieces(&list.iter().map(|token| (*token).to_owned()).collect::<Vec<_>>());
    made(&tokens(&["a", "b", "ab"]), &[EMBEDDING]).unwrap();
    let refused = |more: &[Vec<u8>], tensors: &[(&str, &[u64])], says: &str| {
        let error = format!("{:#}", made(more, tensors).unwrap_err());
        assert!(error.contains(says) && error.len() < 600, "{error}");
    };
    // Heads of 2^40 numbers, as rotary factors ask for.
    let wide = ["attention.key_length", "attention.value_length", "rope.dimension_count"]
        .map(|name| setting(&format!("llama.{name}"), 10, &(1u64 << 40).to_le_bytes()));
    refused(
        &wide,
        &[EMBEDDING, ("rope_freqs.weight", &[4])],
        "tensor 'rope_freqs.weight' has 4 factors, a head has 549755813888",
    );
    refused(&wide, &[EMBEDDING], "head_dim = 1099511627776: must be between 1 and");
    // Tokens are cut at each character to find what they are merged from.
    let long = "a".repeat(100_000);
    refused(&tokens(&["a", &long]), &[EMBEDDING], "token 1 has 100000 bytes, more than 1024");
    let squares = (0..140).flat_map(|i| (0..140).map(move |j| "a".repeat(i) + &"b".repeat(j))).filter(|token| !token.is_empty());
    refused(&pieces(&squares.collect::<Vec<_>>()), &[EMBEDDING], "more than 2097152 pairs of tokens make a token");
    // A list that is named in a message is not written out.
    let texts = list("llama.unheard_of", 8, &vec![text("text"); 10_000]);
    refused(&[texts], &[EMBEDDING], "llama.unheard_of = a list of 10000 strings: lehr does not build that");
}

/// Training begins from such a file, and what is saved is a folder like any other.
#[test]
fn a_run_starts_from_a_gguf_file() {
    let place = Place::new();
    let init = golden("qwen3.gguf");
    let mut command =
        place.lehr(["pretrain", "--data=text.txt", "--json", "--run=run", "--max-steps=2", "--batch-size=2", "--seq-len=16"]);
    json_lines(command.arg("--init").arg(&init).arg("--warmup-steps=0").arg("--eval-tokens=32"));
    for model in [Path::new("run"), init.as_path()] {
        let result = json_lines(
            place.lehr(["generate", "--json", "--prompt=The cat", "--max-new-tokens=4", "--temperature=0", "--model"]).arg(model),
        );
        assert!(result[0]["tokens"].as_array().unwrap().len() <= 4);
    }
    let merge = run(place.lehr(["merge", "--out=merged"]).args([&init, &init]));
    assert!(merge.code == Some(1) && merge.err.contains("GGUF"), "{}", merge.err);
}

fn exported(place: &Place, model: &str, kind: &str) -> PathBuf {
    let out = place.path(&format!("{kind}.gguf"));
    let result = run(place.lehr(["export", model, "--type", kind, "--gguf"]).arg(&out));
    assert_eq!(result.code, Some(0), "{}", result.err);
    out
}

fn greedy(place: &Place, model: &Path) -> Value {
    let mut command =
        place.lehr(["generate", "--json", "--prompt=the kiln ", "--max-new-tokens=12", "--temperature=0", "--model"]);
    json_lines(command.arg(model)).remove(0)
}

#[test]
fn exported_files_are_read() {
    for (tokenizer, architecture) in [("chars", "llama"), ("bytes", "qwen2"), ("bpe:280", "qwen3"), ("bpe:300", "llama")] {
        let place = Place::new();
        let shape = ["--architecture", architecture, "--tokenizer", tokenizer, "--max-steps=4"];
        assert_eq!(run(&mut place.pretrain("run", &shape)).code, Some(0));
        let wanted = greedy(&place, Path::new("run"));
        for kind in ["f32", "bf16", "f16", "q8_0"] {
            let file = exported(&place, "run", kind);
            let found = greedy(&place, &file);
            assert_eq!(found["prompt_tokens"], wanted["prompt_tokens"], "{tokenizer} {kind}");
            if kind == "f32" {
                assert_eq!(found["tokens"], wanted["tokens"], "{tokenizer}");
            }
        }
        let modelfile = std::fs::read_to_string(place.path("f32.gguf.Modelfile")).unwrap();
        assert!(modelfile.starts_with("FROM ./f32.gguf\n"), "{modelfile}");
        // A file as the source, and its own name as the target.
        let result = run(place.lehr(["export", "f32.gguf", "--gguf", "f32.gguf"]).stdin(Stdio::null()));
        assert!(result.code == Some(2) && result.err.contains("is the model itself"), "{}", result.err);
    }
}

#[test]
fn word_tokenizers_cannot_be_exported() {
    let place = Place::new();
    assert_eq!(run(&mut place.pretrain("run", &["--tokenizer=words", "--max-steps=4"])).code, Some(0));
    let result = run(&mut place.lehr(["export", "run", "--gguf", "x.gguf"]));
    assert!(result.code == Some(1) && result.err.contains("word tokenizer"), "{}", result.err);
    assert!(!place.path("x.gguf").exists());
}

/// A conversation through a pipe; returns standard output and error.
fn talk(model: &Path, more: &[&str], lines: &str) -> (String, String) {
    let place = Place::new();
    let mut command = place.lehr(["chat", "--max-tokens=8", "--temperature=0", "--model"]);
    let mut child =
        command.arg(model).args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{err}");
    (String::from_utf8(output.stdout).unwrap(), err)
}

#[test]
fn a_conversation_keeps_its_history_and_can_be_reset() {
    let model = golden("qwen2.gguf");
    let (out, _) = talk(&model, &[], "the cat\n/reset\nthe cat\n/exit\nnever said\n");
    let half = out.len() / 2;
    assert_eq!(out[..half], out[half..], "the same question after /reset");
    let (one, _) = talk(&model, &[], "the cat\n");
    assert_eq!(one, out[..half], "the end of input ends it");
    let (system, err) = talk(&model, &[], "/system say mat\n/system\nthe cat\n/nonsense\n");
    assert!(err.contains("system message: say mat") && err.contains("no such command: /nonsense"), "{err}");
    assert_eq!(talk(&model, &["--system=say mat"], "the cat\n").0, system);
    // 64 tokens of context: the oldest turns are left out, then a line is too long.
    let (_, err) = talk(&model, &[], &format!("{}{}\nagain\n", "the dog\n".repeat(12), "mat sat ".repeat(60)));
    assert!(err.contains("left out from its beginning: 2 messages") && err.contains("the message is too long"), "{err}");
}

/// A line whose end cannot be found ends the conversation: one line says so, and the exit status.
#[test]
fn an_overlong_line_is_a_conversation_error() {
    let place = Place::new();
    let mut command = place.lehr(["chat", "--json", "--model"]);
    command.arg(golden("qwen2.gguf")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may stop to read before the end.
    let _ = child.stdin.take().unwrap().write_all(&vec![b'x'; (16 << 20) + 10]);
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let result: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((output.status.code(), result.len()), (Some(1), 2), "{out}");
    assert_eq!(result[1]["event"], "Refused", "{out}");
    assert!(result[1]["text"].as_str().unwrap().contains("more than 16 MiB"), "{out}");
}

/// A program that speaks in JSON lines holds the same conversation.
#[test]
fn json_and_interactive_chat_agree() {
    let model = golden("qwen2.gguf");
    let (wanted, _) = talk(&model, &[], "the cat\n");
    let lines = [
        r#"{"command":"Say","text":"the cat"}"#,
        r#"{"command":"Reset"}"#,
        r#"{"command":"Say","text":"the cat","temperature":0}"#,
        "nonsense",
        r#"{"command":"Say","text":"the cat","temperature":-1}"#,
    ];
    let (out, _) = talk(&model, &["--json"], &(lines.join("\n") + "\n"));
    let result: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(result[0]["event"], "Ready", "{out}");
    assert_eq!(result[0]["context"], 64);
    let mut replies = vec![String::new()];
    let mut others = Vec::new();
    for line in &result[1..] {
        match line["event"].as_str().unwrap() {
            "Piece" => replies.last_mut().unwrap().push_str(line["text"].as_str().unwrap()),
            "Replied" => replies.push(String::new()),
            other => others.push((other, line["text"].as_str().unwrap_or_default().to_owned())),
        }
    }
    assert_eq!(replies, [wanted.trim_end_matches('\n'), wanted.trim_end_matches('\n'), ""]);
    assert_eq!(others.iter().map(|o| o.0).collect::<Vec<_>>(), ["Fresh", "Refused", "Refused"], "{others:?}");
    assert!(others[1].1.contains("not a request") && others[2].1.contains("temperature -1"), "{others:?}");
}

/// A prefix that is in the KV cache is not computed again.
#[test]
fn a_cached_prefix_changes_nothing() {
    let device = device();
    let model = open(&device, &golden("llama.gguf"), 48);
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let prompt: Vec<u32> = (5..25).collect();
    let generate = |generator: &Generator, cached: usize| {
        let mut tokens = Vec::new();
        let take = |_: usize, new: &[u32]| {
            tokens.push(new[0]);
            Ok(true)
        };
        generator.run_from(&device, std::slice::from_ref(&prompt), cached, 16, &sampling, take).unwrap();
        tokens
    };
    let generator = Generator::new(&device, &model, 1, 48).unwrap();
    let wanted = generate(&generator, 0);
    assert_eq!(wanted.len(), 16);
    for cached in [1, 10, 19] {
        assert_eq!(generate(&generator, cached), wanted, "{cached} tokens from the cache");
    }
}

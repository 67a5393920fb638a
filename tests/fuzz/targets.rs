//! Readers of untrusted files, as functions of bytes: for cargo-fuzz (`fuzz/`) and for the mutations of `tests/fuzz.rs`. Each returns
//! whether the bytes were accepted; a refusal must be one short line, and no input may panic, hang or end the process.

use lehr::data::Tokenizer;
use lehr::data::chat::{Chat, ChatTemplate, read_rows};
use lehr::model_files::gguf::GgufFile;
use lehr::model_files::hf_config;
use lehr::model_files::safetensors_file::SafetensorsFile;
use lehr::progress::silent;
use lehr::session::control;
use lehr::vfs::RealFs;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};

/// A target: its name, and its function, which returns whether an input is accepted.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: &[Target] = &[
    ("safetensors", safetensors),
    ("config", config),
    ("tokenizer", tokenizer),
    ("template", template),
    ("rows", rows),
    ("gguf", gguf),
    ("control", commands),
];

/// A temporary folder for the current input, removed with the thread. In memory where the system has a memory file system.
struct Folder(tempfile::TempDir);

impl Folder {
    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("a file of the input");
        path
    }
}

fn with_folder<T>(act: impl FnOnce(&Folder) -> T) -> T {
    thread_local! {
        static FOLDER: Folder = Folder({
            let memory = Path::new("/dev/shm");
            let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            made.expect("a folder")
        });
    }
    FOLDER.with(act)
}

/// Whether the input was accepted; checks the message of a refusal.
fn accepted<T>(result: anyhow::Result<T>) -> bool {
    let Err(error) = result else { return true };
    let text = format!("{error:#}");
    assert!(!text.is_empty() && text.len() < 4000, "a refusal of {} bytes", text.len());
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "a refusal with control characters: {text:?}");
    false
}

/// Maximum number of elements of a tensor that is read.
const MOST: usize = 1 << 20;

/// A safetensors file: its header, and its numbers.
pub fn safetensors(bytes: &[u8]) -> bool {
    with_folder(|folder| {
        let file = SafetensorsFile::open(&RealFs, &folder.put("model.safetensors", bytes));
        accepted(file.and_then(|file| {
            for (name, info) in file.tensors().iter().take(4) {
                if info.shape.iter().product::<usize>() <= MOST {
                    file.read_f32(name, &info.shape)?;
                }
            }
            Ok(())
        }))
    })
}

/// A config.json.
pub fn config(bytes: &[u8]) -> bool {
    accepted(hf_config::parse(bytes))
}

/// tokenizer.json, optionally followed by NUL and tokenizer_config.json.
pub fn tokenizer(bytes: &[u8]) -> bool {
    let (tokenizer, config) = match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &b"{}"[..]),
    };
    with_folder(|folder| {
        folder.put("tokenizer_config.json", config);
        folder.put("tokenizer.json", tokenizer);
        accepted(Tokenizer::from_folder(&RealFs, folder.0.path()).and_then(|tokenizer| {
            let ids = tokenizer.encode("Hello wörld\n 123")?;
            tokenizer.decode(&ids)?;
            let _ = tokenizer.decode(&[0, 1, u32::MAX]);
            tokenizer.chat_template()
        }))
    })
}

/// A chat template.
pub fn template(bytes: &[u8]) -> bool {
    let source = String::from_utf8_lossy(bytes);
    let specials = Map::from_iter([("bos_token".to_owned(), json!("<s>")), ("eos_token".to_owned(), json!("</s>"))]);
    let messages = vec![
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "Hi ü"}),
        json!({"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, 2.5, null]}}}]}),
        json!({"role": "user", "content": [{"type": "text", "text": "Why?"}]}),
    ];
    let chat = Chat { messages, extra: Map::from_iter([("tools".to_owned(), json!([{"name": "f"}]))]), ..Chat::default() };
    accepted(ChatTemplate::new(&source, specials, 0).and_then(|template| template.render(&chat, true)))
}

/// Rows of fine-tuning data.
pub fn rows(bytes: &[u8]) -> bool {
    with_folder(|folder| {
        let mut count = 0;
        let done = read_rows(&RealFs, &folder.put("rows.jsonl", bytes), &mut silent, |_, _| {
            count += 1;
            Ok(())
        });
        accepted(done) && count > 0
    })
}

/// A GGUF file: its head, its configuration, its tokenizer, its numbers.
pub fn gguf(bytes: &[u8]) -> bool {
    with_folder(|folder| {
        let path = folder.put("model.gguf", bytes);
        let opened = accepted(GgufFile::open(&RealFs, &path).and_then(|file| {
            let names: Vec<String> = file.tensors().map(|(name, _)| name.to_owned()).take(4).collect();
            for name in names {
                if file.shape(&name).is_some_and(|shape| shape.iter().product::<usize>() <= MOST) {
                    file.stream_f32(&name, &mut |_| Ok(()))?;
                }
            }
            Ok(())
        }));
        accepted(hf_config::of_model(&RealFs, &path)) && accepted(Tokenizer::from_folder(&RealFs, &path)) && opened
    })
}

/// Lines on the standard input of a run with `--control`.
pub fn commands(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').all(|line| accepted(control::parse(line).map_err(anyhow::Error::msg)))
}

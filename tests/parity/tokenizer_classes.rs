//! Folders by their `tokenizer_class`, `legacy` and `split_special_tokens`, as transformers reads them (tests/golden/classes.py).

use lehr::config::Architecture;
use lehr::data::Tokenizer;
use lehr::vfs::RealFs;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The folder of a case.
fn folder(case: &Value) -> tempfile::TempDir {
    let (base, folder) = (golden("vocabularies").join(case["base"].as_str().unwrap()), tempfile::tempdir().unwrap());
    for (file, changes) in [("tokenizer.json", &case["parts"]), ("tokenizer_config.json", &case["tokenizer_config"])] {
        let mut content = read(&base.join(file));
        let fields = content.as_object_mut().unwrap();
        if file == "tokenizer_config.json" {
            fields.remove("tokenizer_class");
        }
        fields.extend(changes.as_object().unwrap().clone());
        std::fs::write(folder.path().join(file), content.to_string()).unwrap();
    }
    std::fs::write(folder.path().join("config.json"), case["config"].to_string()).unwrap();
    folder
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A class with rules of its own loses the added tokens that `added_tokens_decoder` does not list (<think>, from id 320); lehr keeps them.
fn loses(case: &Value) -> bool {
    case["base"] == "listed" && case["class"] != "TokenizersBackend"
}

fn check(tokenizer: &Tokenizer, case: &Value, what: &str) {
    for text in case["texts"].as_array().unwrap() {
        let (text, wanted) = (text["text"].as_str().unwrap(), ids(&text["ids"]));
        if loses(case) && text.contains("<think>") {
            continue;
        }
        assert_eq!(tokenizer.encode_text(text).unwrap(), wanted, "{what}: {text:?}");
    }
    for text in case["decoded"].as_array().unwrap() {
        let (wanted, ids) = (text["text"].as_str().unwrap(), ids(&text["ids"]));
        if loses(case) && ids.iter().any(|id| *id >= 320) {
            continue;
        }
        assert_eq!(tokenizer.decode(&ids).unwrap(), wanted, "{what}");
        let mut stream = tokenizer.decode_stream(&[]);
        let pieces: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(pieces + &stream.finish().unwrap(), wanted, "{what}: streamed");
    }
}

#[test]
fn a_folder_is_read_by_the_rules_of_its_class() {
    let cases = read(&golden("classes.json"))["cases"].as_array().unwrap().clone();
    let mut notes = 0;
    for case in &cases {
        let what = format!("{} {} {}", case["base"], case["config"], case["tokenizer_config"]);
        let folder = folder(case);
        let tokenizer = Tokenizer::from_folder(&RealFs, folder.path()).unwrap_or_else(|e| panic!("{what}: {e:#}"));
        check(&tokenizer, case, &what);
        let drops = tokenizer.class_note().is_some_and(|note| note.contains("drops the added token"));
        assert_eq!(drops, loses(case), "{what}: {:?}", tokenizer.class_note());
        // Only a class of its own differs from the file.
        notes += usize::from(tokenizer.class_note().is_some());
        assert!(tokenizer.class_note().is_none() || case["class"] != "TokenizersBackend", "{what}");
    }
    assert!(notes >= 10, "{notes}");
}

/// Saved as a model of any architecture, it is read as before.
#[test]
fn a_saved_tokenizer_keeps_the_rules_of_its_class() {
    for case in read(&golden("classes.json"))["cases"].as_array().unwrap() {
        let folder = folder(case);
        let tokenizer = Tokenizer::from_folder(&RealFs, folder.path()).unwrap();
        for (architecture, kind) in [
            (Architecture::Llama, "llama"),
            (Architecture::Mistral, "mistral"),
            (Architecture::Qwen2, "qwen2"),
            (Architecture::Qwen3, "qwen3"),
        ] {
            let saved = tempfile::tempdir().unwrap();
            for (name, content) in tokenizer.files(128, architecture).unwrap() {
                std::fs::write(saved.path().join(name), content).unwrap();
            }
            std::fs::write(saved.path().join("config.json"), format!("{{\"model_type\": \"{kind}\"}}")).unwrap();
            let again = Tokenizer::from_folder(&RealFs, saved.path()).unwrap();
            assert_eq!(again.class_note(), None);
            check(&again, case, &format!("{} as {kind}", case["tokenizer_config"]));
        }
    }
}

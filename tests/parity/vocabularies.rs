//! Tokenizer folders as transformers reads them (tests/golden/vocabularies.py), and what lehr makes of their end tokens.

use lehr::config::Architecture;
use lehr::data::Tokenizer;
use lehr::data::chat::{Chat, template_of};
use lehr::vfs::RealFs;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FOLDERS: [&str; 5] = ["listed", "llama", "mapped", "unigram", "words"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vocabularies").join(name)
}

fn golden(name: &str) -> Value {
    let text = std::fs::read_to_string(folder("golden.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[name].clone()
}

fn open(name: &str) -> Tokenizer {
    Tokenizer::from_folder(&RealFs, &folder(name)).unwrap_or_else(|e| panic!("{name}: {e:#}"))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A copy of a folder with other files next to its tokenizer.
fn with(name: &str, files: &[(&str, Value)]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    for (file, content) in files {
        std::fs::write(copy.path().join(file), content.to_string()).unwrap();
    }
    copy
}

#[test]
fn encoding_matches_transformers() {
    for name in FOLDERS {
        let (tokenizer, golden) = (open(name), golden(name));
        assert_eq!(tokenizer.vocab_size() as u64, golden["size"].as_u64().unwrap(), "{name}");
        for case in golden["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode_text(text).unwrap(), ids(&case["ids"]), "{name}: {text:?}");
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["plain"]), "{name}: {text:?} without special tokens");
        }
        let roles = json!({"bos": tokenizer.bos_id(), "eos": tokenizer.eos_id()});
        assert_eq!((&roles["bos"], &roles["eos"]), (&golden["roles"]["bos"], &golden["roles"]["eos"]), "{name}");
        let special: BTreeSet<u32> = ids(&golden["special"]).into_iter().collect();
        let mine: BTreeSet<u32> = (0..tokenizer.vocab_size() as u32).filter(|id| tokenizer.is_special(*id)).collect();
        assert_eq!(mine, special, "{name}");
    }
}

#[test]
fn a_chat_template_writes_the_begin_token_once() {
    for name in FOLDERS {
        let (tokenizer, golden) = (open(name), golden(name));
        if golden["chat"].is_null() {
            continue;
        }
        let messages = golden["chat"]["messages"].as_array().unwrap().clone();
        let (tokenizer, template) = template_of(&tokenizer, None, 0).unwrap();
        let text = template.render(&Chat { messages, ..Chat::default() }, true).unwrap().text;
        assert_eq!(tokenizer.encode_prompt(&text, true).unwrap(), ids(&golden["chat"]["ids"]), "{name}");
    }
}

#[test]
fn continuations_keep_their_leading_space() {
    for name in FOLDERS {
        let (tokenizer, golden) = (open(name), golden(name));
        for case in golden["streams"].as_array().unwrap() {
            let mut stream = tokenizer.decode_stream(&ids(&case["before"]));
            let mut text: String = ids(&case["ids"]).iter().map(|id| stream.push(*id).unwrap()).collect();
            text += &stream.finish().unwrap();
            assert_eq!(text, case["text"].as_str().unwrap(), "{name}");
        }
    }
}

#[test]
fn the_first_word_has_no_leading_space() {
    let tokenizer = open("llama");
    let ids = tokenizer.encode_text("Once there").unwrap();
    let mut stream = tokenizer.decode_stream(&ids[..1]);
    assert_eq!(ids[1..].iter().map(|id| stream.push(*id).unwrap()).collect::<String>(), "Once there");
}

#[test]
fn only_end_and_padding_tokens_are_hidden() {
    let tokenizer = open("listed");
    let text = "<|im_start|><think>cat</think><tool>glass<|endoftext|><|im_end|>";
    let ids = tokenizer.encode(text).unwrap();
    let seen = "<|im_start|><think>cat</think><tool>glass";
    assert_eq!(tokenizer.decode(&ids).unwrap(), seen);
    let mut stream = tokenizer.decode_stream(&[]);
    assert_eq!(ids.iter().map(|id| stream.push(*id).unwrap()).collect::<String>(), seen);
}

#[test]
fn an_empty_prompt_starts_a_text() {
    let begun = |name: &str| open(name).encode_prompt("", false).unwrap();
    assert_eq!([begun("llama"), begun("unigram")], [vec![1], vec![1, 2]], "what transformers puts around nothing");
    assert_eq!(begun("words"), [41], "the token that ends the text before");
    assert_eq!(open("llama").encode_prompt("", true).unwrap(), [1]);
}

/// What a fine-tuned ChatML model needs: its configuration names one end, its tokenizer another, its template a third.
#[test]
fn one_list_of_end_tokens() {
    let id = |tokenizer: &Tokenizer, token: &str| tokenizer.token_id(token).unwrap();
    let tokenizer = open("listed");
    let (im_end, endoftext) = (id(&tokenizer, "<|im_end|>"), id(&tokenizer, "<|endoftext|>"));
    assert_eq!(
        (tokenizer.end_tokens().ids(), tokenizer.end_tokens().text()),
        (&[im_end][..], None),
        "the tokenizer's is the template's"
    );
    let generation =
        json!({"eos_token_id": [endoftext, 7], "pad_token_id": 5, "temperature": 0.6, "top_p": 0.95, "do_sample": true});
    let mut config: Value = serde_json::from_slice(&std::fs::read(folder("listed/tokenizer_config.json")).unwrap()).unwrap();
    config["eos_token"] = json!("<|endoftext|>");
    let copy = with(
        "listed",
        &[
            ("generation_config.json", generation),
            ("config.json", json!({"eos_token_id": 9, "bos_token_id": 4, "vocab_size": 400})),
            ("tokenizer_config.json", config),
        ],
    );
    let tokenizer = Tokenizer::from_folder(&RealFs, copy.path()).unwrap();
    let all = [endoftext, 7, 9, im_end];
    assert_eq!(tokenizer.end_tokens().ids(), all);
    assert_eq!((tokenizer.eos_id(), tokenizer.bos_id(), tokenizer.pad_id()), (Some(endoftext), Some(4), Some(5)));
    let kept =
        json!({"eos_token_id": all, "pad_token_id": 5, "temperature": 0.6, "top_p": 0.95, "do_sample": true, "bos_token_id": 4});
    assert_eq!(tokenizer.generation_config(), kept, "what the folder said survives");
    // Another template, another end; a text that is not a token ends conversations only.
    let other = tokenizer.with_chat_template("{% for m in messages %}{{ m.content + '</think>' }}{% endfor %}");
    assert_eq!(other.end_tokens().ids().last(), Some(&id(&tokenizer, "</think>")));
    let text = tokenizer.with_chat_template("{% for m in messages %}{{ m.content + '\\n\\n' }}{% endfor %}");
    assert_eq!((text.end_tokens().ids(), text.end_tokens().text()), (&all[..3], Some("\n\n")));
    // A template that cannot be used ends nothing, and says so where it is used.
    assert_eq!(tokenizer.with_chat_template("{% if %}").end_tokens().ids(), &all[..3]);
}

/// What transformers does not know, templates must not know either.
#[test]
fn roles_of_config_files_are_not_template_roles() {
    let ids = json!({"eos_token_id": 0, "bos_token_id": 1, "vocab_size": 400});
    let own =
        with("listed", &[("config.json", ids.clone()), ("tokenizer_config.json", json!({"chat_template": "{{ bos_token }}x"}))]);
    let own = Tokenizer::from_folder(&RealFs, own.path()).unwrap();
    assert_eq!((own.bos_id(), own.special_tokens().get("bos_token")), (Some(1), None));
    let (_, template) = template_of(&own, None, 0).unwrap();
    assert_eq!(template.render(&Chat::default(), true).unwrap().text, "x");
    let none = with("words", &[("config.json", ids), ("tokenizer_config.json", json!({}))]);
    let none = Tokenizer::from_folder(&RealFs, none.path()).unwrap();
    assert_eq!(none.special_tokens()["eos_token"], none.token_text(0).unwrap(), "the plain template ends turns by it");
}

#[test]
fn saved_tokenizers_are_equivalent() {
    for name in FOLDERS {
        let (tokenizer, copy) = (open(name), tempfile::tempdir().unwrap());
        for (file, content) in tokenizer.files(64, Architecture::Llama).unwrap() {
            std::fs::write(copy.path().join(file), content).unwrap();
        }
        let again = Tokenizer::from_folder(&RealFs, copy.path()).unwrap();
        for case in golden(name)["texts"].as_array().unwrap() {
            assert_eq!(again.encode_text(case["text"].as_str().unwrap()).unwrap(), ids(&case["ids"]), "{name}");
        }
        assert_eq!(
            (again.eos_id(), again.bos_id(), again.end_tokens()),
            (tokenizer.eos_id(), tokenizer.bos_id(), tokenizer.end_tokens())
        );
    }
}

#[test]
fn tokens_with_mismatched_ids_are_refused() {
    let token = json!({"content": "<new>", "special": false});
    let copy = with("mapped", &[("tokenizer_config.json", json!({"added_tokens_decoder": {"399": token}}))]);
    let error = Tokenizer::from_folder(&RealFs, copy.path()).err().unwrap().to_string();
    assert!(error.contains("token \"<new>\" has id 399, but 320 by its place"), "{error}");
    for (config, says) in [
        (json!({"added_tokens_decoder": {"x": {"content": "a"}}}), "\"x\" is not a token id"),
        (json!({"added_tokens_decoder": {"320": {}}}), "320 has no content"),
        (json!({"added_tokens_decoder": []}), "is not a map"),
        (json!({"eos_token": 5}), "eos_token is neither"),
    ] {
        let copy = with("words", &[("tokenizer_config.json", config)]);
        let error = Tokenizer::from_folder(&RealFs, copy.path()).err().unwrap().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
}

/// Steps that make much of little would end the process while a text is encoded.
/// transformers applies the dropout of a tokenizer.json too: the tokens of a text would differ from one time to the next.
#[test]
fn random_merges_are_refused() {
    for name in ["llama", "mapped"] {
        let text = std::fs::read(folder(name).join("tokenizer.json")).unwrap();
        let mut json: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["model"]["type"], "BPE");
        json["model"]["dropout"] = json!(0.25);
        let error =
            Tokenizer::from_folder(&RealFs, with(name, &[("tokenizer.json", json.clone())]).path()).err().unwrap().to_string();
        assert!(error.contains("tokenizer.json: model.dropout = 0.25: leaves out merges at random; set it to null"), "{error}");
        json["model"]["dropout"] = json!(0.0);
        assert!(Tokenizer::from_folder(&RealFs, with(name, &[("tokenizer.json", json)]).path()).is_ok());
    }
}

#[test]
fn tokenizers_with_unbounded_growth_are_refused() {
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(folder(name).join("tokenizer.json")).unwrap()).unwrap() };
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let other = json!({"Sequence": {"id": "B", "type_id": 1}});
    let twice = json!({"type": "TemplateProcessing", "single": [text, text], "pair": [text, other], "special_tokens": {}});
    for (part, value, says) in [
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": vec![&double; 60]}),
            "normalizer and pre_tokenizer: could make a text",
        ),
        ("decoder", json!({"type": "Sequence", "decoders": vec![&double; 60]}), "decoder: could make a text"),
        (
            "pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}); 40]}),
            "normalizer and pre_tokenizer: could make a text",
        ),
        ("post_processor", twice, "puts 0 tokens around 2 copies of a text"),
    ] {
        let mut json = read("llama");
        json[part] = value;
        let copy = with("llama", &[("tokenizer.json", json)]);
        let error =
            format!("{:#}", Tokenizer::from_folder(&RealFs, copy.path()).err().unwrap_or_else(|| panic!("{part}: it opened")));
        assert!(error.contains(says) && error.contains("tokenizer.json: ") && !error.contains('\n'), "{part}: {error}");
    }
    let ids: Vec<u32> = (0..2000).collect();
    for file in ["generation_config.json", "config.json"] {
        let copy = with("llama", &[(file, json!({"eos_token_id": ids}))]);
        let error = format!("{:#}", Tokenizer::from_folder(&RealFs, copy.path()).err().unwrap());
        assert!(error.contains(&format!("{file}: eos_token_id lists 2000 tokens, more than 1024")), "{error}");
    }
}

#[test]
fn two_spellings_are_the_same_tokenizer() {
    let text = std::fs::read(folder("llama/tokenizer.json")).unwrap();
    let mut spelled: Value = serde_json::from_slice(&text).unwrap();
    for merge in spelled["model"]["merges"].as_array_mut().unwrap() {
        *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
    }
    for part in ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"] {
        spelled["model"].as_object_mut().unwrap().remove(part);
    }
    for part in ["truncation", "padding", "normalizer"] {
        spelled.as_object_mut().unwrap().remove(part);
    }
    let (one, other) = (Tokenizer::rules_of(&text).unwrap(), Tokenizer::rules_of(spelled.to_string().as_bytes()).unwrap());
    assert_eq!(one, other);
    spelled["model"]["merges"].as_array_mut().unwrap().pop();
    assert_ne!(one, Tokenizer::rules_of(spelled.to_string().as_bytes()).unwrap());
}

#[test]
fn a_folder_without_tokenizer_json_says_how_to_make_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("vocab.json"), "{}").unwrap();
    std::fs::write(folder.path().join("merges.txt"), "").unwrap();
    let error = Tokenizer::from_folder(&RealFs, folder.path()).err().unwrap().to_string();
    assert!(
        error.contains("holds vocab.json and merges.txt, but no tokenizer.json") && error.contains("save_pretrained"),
        "{error}"
    );
}

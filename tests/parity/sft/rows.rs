//! Rows and mixtures: accepted formats, refusals and their messages.

use lehr::config::{SettingsLayers, Stage};
use lehr::data::chat::{self, ChatRow, ChatTemplate, MixturePart, PLAIN, load, read_rows};
use lehr::data::{IGNORE, Notices, Source, Tokenizer};
use lehr::progress::silent;
use lehr::vfs::RealFs;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<ChatRow>> {
    let mut rows = Vec::new();
    read_rows(&RealFs, path, &mut silent, |_, row| {
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

#[test]
// Length: one table.
fn every_bad_row_is_refused_by_line_and_field() {
    let place = Place::new();
    let good = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
    for (row, wanted) in [
        ("nonsense", "not JSON"),
        (r#"{"messages": [}"#, "not JSON"),
        ("[1]", "not a JSON object"),
        ("3", "not a JSON object"),
        (
            r#"{"question": "x", "b": 1}"#,
            "nor prompt and completion, nor instruction and output, nor text; its fields are question, b",
        ),
        (r#"{"messages": [], "text": "x"}"#, "messages: empty"),
        (r#"{"messages": [], "prompt": "x", "completion": "y"}"#, "holds messages beside prompt and completion"),
        (r#"{"instruction": "x", "output": ""}"#, "output: empty"),
        (r#"{"instruction": "x", "output": 3}"#, "output: must be a string"),
        (r#"{"instruction": "", "output": "x"}"#, "instruction: empty"),
        (r#"{"instruction": "x", "output": "x", "history": [["a"]]}"#, "history[0]: must be a pair"),
        (r#"{"conversations": [{"from": "narrator", "value": "x"}]}"#, "conversations[0].from: \"narrator\" is not known"),
        (r#"{"conversations": [{"from": "human"}]}"#, "conversations[0].value: missing"),
        (
            r#"{"messages": [{"role": "human", "content": "x"}]}"#,
            "messages[0].role: \"human\" is unknown to chat templates. Write user",
        ),
        (r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}]}"#, "messages[0].content[0]: is of type \"image\""),
        (r#"{"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}"#, "messages[0].weight: 0.5 is not known"),
        (r#"{"messages": [{"role": "user", "content": "a"}], "score": NaN}"#, "not JSON: NaN at byte 59"),
        (r#"{"messages": "hello"}"#, "messages: must be a list"),
        (r#"{"messages": []}"#, "messages: empty"),
        (r#"{"messages": ["hello"]}"#, "messages[0]: must be an object"),
        (r#"{"messages": [{"content": "x"}]}"#, "messages[0].role: missing"),
        (r#"{"messages": [{"role": 1, "content": "x"}]}"#, "messages[0].role: must be a string"),
        (r#"{"messages": [{"role": "", "content": "x"}]}"#, "messages[0].role: must be a string"),
        (r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]}"#, "messages[1].content: missing"),
        (r#"{"messages": [{"role": "user", "content": null}]}"#, "messages[0].content: missing"),
        (r#"{"messages": [{"role": "user", "content": 3}]}"#, "messages[0].content: must be a string"),
        (r#"{"prompt": "x"}"#, "prompt without completion"),
        (r#"{"prompt": "x", "chosen": "y", "rejected": "z"}"#, "does not learn preferences"),
        (r#"{"completion": "x"}"#, "completion without prompt"),
        (r#"{"prompt": "x", "completion": ""}"#, "completion: empty"),
        (r#"{"prompt": "x", "completion": [{"role": "assistant", "content": "y"}]}"#, "must be both strings or both lists"),
        (r#"{"prompt": 1, "completion": "x"}"#, "prompt: must be a string or a list"),
        (r#"{"prompt": "x", "completion": 1}"#, "completion: must be a string or a list"),
        (r#"{"prompt": [], "completion": [{"role": "assistant", "content": "y"}]}"#, "prompt: empty"),
        (r#"{"prompt": [{"role": "user", "content": "y"}], "completion": []}"#, "completion: empty"),
        (r#"{"text": 1}"#, "text: must be a string"),
        (r#"{"text": ""}"#, "text: empty"),
        (r#"{"messages": [{"role": "user", "content": "x"}], "tools": 3}"#, "tools: must be a list"),
        (r#"{"messages": [{"role": "user", "content": "x"}], "tools": "{"}"#, "tools: "),
        (
            r#"{"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": 1}"#,
            "chat_template_kwargs: must be an object",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"messages": []}}"#,
            "chat_template_kwargs.messages: is set by lehr",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"tools": []}}"#,
            "chat_template_kwargs.tools: is set by lehr; remove it, and give the column tools",
        ),
    ] {
        let path = place.file("rows.jsonl", format!("{good}\n\n{row}\n"));
        let error = read(&path).expect_err(row).to_string();
        assert!(error.contains("rows.jsonl:3: ") && error.contains(wanted), "{row}\n{error}\nwanted: {wanted}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    let path = place.file("rows.jsonl", [good.as_bytes(), b"\n{\"text\": \"\xff\"}\n"].concat());
    assert!(read(&path).unwrap_err().to_string().contains("rows.jsonl:2: not UTF-8 at byte 11"));
    let path = place.file("rows.jsonl", vec![b' '; (16 << 20) + 1]);
    assert!(read(&path).unwrap_err().to_string().contains("rows.jsonl:1: row longer than 16 MiB"));
    // A byte order mark, empty lines and a last line without an end are no mistakes.
    let path = place.file("rows.jsonl", format!("\u{feff}{good}\n  \n{good}"));
    assert_eq!(read(&path).unwrap().len(), 2);
    // Fields that are null are as good as absent.
    let path = place.file("rows.jsonl", r#"{"messages":[{"role":"user","content":"a","name":null}],"tools":null}"#);
    let ChatRow::Messages(chat) = &read(&path).unwrap()[0] else { panic!("messages") };
    assert!(chat.messages[0].get("name").is_none() && chat.extra.is_empty());
}

#[test]
fn a_path_may_have_a_weight() {
    let place = Place::new();
    let file = place.file("a.jsonl", "");
    let odd = place.file("b:2", "");
    let with = |suffix: &str| PathBuf::from(format!("{}{suffix}", file.display()));
    let parse = |spec: &Path| MixturePart::parse(&RealFs, spec, &mut Notices::new());
    assert_eq!(parse(&file).unwrap().weight, 1.0);
    let part = parse(&with(":0.5")).unwrap();
    assert_eq!((part.weight, part.files), (0.5, vec![file.clone()]));
    assert_eq!(parse(&odd).unwrap().path, odd, "a file of that very name goes first");
    for (spec, wanted) in [
        (with(":0"), "\"0\" is not a weight"),
        (with(":-1"), "is not a weight"),
        (with(":nan"), "is not a weight"),
        (with(":x"), "\"x\" is not a weight"),
        (with(":1e9"), "at most 1000"),
        (with("x"), "there is no such file"),
        (PathBuf::from("-"), "put them into a file"),
    ] {
        let error = parse(&spec).expect_err(wanted).to_string();
        assert!(error.starts_with("--data ") && error.contains(wanted), "{error}");
    }
    let error = MixturePart::parse(&RealFs, Place::new().dir.path(), &mut Notices::new()).unwrap_err().to_string();
    assert!(error.starts_with("--data ") && error.contains("no .jsonl, .json, .parquet or .arrow file"), "{error}");
    let (train, valid) = (place.file("train.jsonl", "{}"), place.file("valid.jsonl", "{}"));
    let part = parse(&PathBuf::from(format!("{}:3", place.dir.path().display()))).unwrap();
    assert_eq!((part.files, part.validation, part.weight), (vec![train], vec![valid], 3.0));
}

/// Rows `name-0` .. as texts, one token a byte.
fn texts(name: &str, n: usize) -> String {
    (0..n).map(|i| format!("{{\"text\": \"{name}{i:03}\"}}\n")).collect()
}

fn source(data: Vec<PathBuf>, fraction: f64, seed: u64, notices: &mut Notices) -> anyhow::Result<chat::ChatSource> {
    let mut settings = SettingsLayers::of(Stage::Sft)?.settings()?;
    (settings.data.data, settings.data.val_fraction) = (data, fraction);
    let tokenizer = Tokenizer::bytes(true)?;
    let template = ChatTemplate::new(PLAIN, tokenizer.special_tokens(), 0)?;
    let from = chat::ChatInput { vfs: &RealFs, tokenizer: &tokenizer, template: &template, seq_len: 16, seed };
    load(&settings.data, &settings.sft.clone().unwrap_or_default(), &from, notices, &mut silent)
}

/// The rows in `n` batches, by their text.
fn seen(source: &chat::ChatSource, rows: u64) -> HashMap<String, u32> {
    let mut seen = HashMap::new();
    for row in 0..rows {
        let batch = source.batch(row, 1);
        let text: String = batch.tokens.iter().map(|t| if *t < 256 { char::from(*t as u8) } else { '|' }).collect();
        for part in text.split('|').filter(|p| p.starts_with(['a', 'b'])) {
            *seen.entry(part.to_owned()).or_insert(0) += 1;
        }
    }
    seen
}

#[test]
fn weights_set_how_often_a_row_is_drawn() {
    let place = Place::new();
    let (a, b) = (place.file("a.jsonl", texts("a", 20)), place.file("b.jsonl", texts("b", 30)));
    let spec = |path: &Path, weight: &str| PathBuf::from(format!("{}:{weight}", path.display()));
    let mut mixed = source(vec![spec(&a, "2"), spec(&b, "0.5")], 0.0, 7, &mut Notices::new()).unwrap();
    mixed.end_after(4.0, 1);
    let mut rows = 0;
    while mixed.batch(rows, 1).num_tokens > 0 {
        rows += 1;
    }
    let seen = seen(&mixed, rows);
    assert_eq!(seen.len(), 50);
    for (row, times) in seen {
        assert_eq!(times, if row.starts_with('a') { 8 } else { 2 }, "{row} in four epochs");
    }
}

#[test]
fn the_validation_split_is_by_rows_and_independent_of_the_seed() {
    let place = Place::new();
    let a = place.file("a.jsonl", texts("a", 20));
    let held = |seed: u64| {
        let source = source(vec![a.clone()], 0.25, seed, &mut Notices::new()).unwrap();
        let train = seen(&source, source.rows_per_epoch());
        let val: usize =
            source.val_batches(4, 16, u64::MAX).unwrap().map(|b| b.tokens.iter().filter(|t| **t == 256).count()).sum();
        assert_eq!((train.len(), val), (15, 5));
        let mut names: Vec<_> = train.into_keys().collect();
        names.sort();
        names
    };
    assert_eq!(held(1), held(2));
    // A folder brings its own.
    place.file("train.jsonl", texts("a", 9));
    place.file("valid.jsonl", texts("b", 4));
    let source = source(vec![place.dir.path().into()], 0.5, 1, &mut Notices::new()).unwrap();
    assert_eq!(seen(&source, source.rows_per_epoch()).len(), 9);
    let walk: usize = source.val_batches(1, 16, u64::MAX).unwrap().map(|b| b.tokens.iter().filter(|t| **t == 256).count()).sum();
    assert_eq!(walk, 4);
}

#[test]
fn truncated_and_dropped_rows_are_counted() {
    let place = Place::new();
    let long = "x".repeat(40);
    let rows = [
        r#"{"text": "short"}"#.to_owned(),
        format!(r#"{{"text": "{long}"}}"#),
        format!(r#"{{"prompt": "{long}", "completion": "y"}}"#),
        r#"{"messages": [{"role": "user", "content": "x"}]}"#.to_owned(),
    ];
    let path = place.file("a.jsonl", rows.join("\n"));
    let mut notices = Notices::new();
    let found = source(vec![path], 0.0, 1, &mut notices).unwrap();
    let result = notices.lines().join("\n");
    assert!(result.contains("2 of 4 rows cut: longer than --seq-len 16"), "{result}");
    assert!(result.contains("1 of 4 rows dropped, the first at") && result.contains("a.jsonl:3: no token to learn"), "{result}");
    assert!(result.contains("a.jsonl:4 (roles: user): nothing to learn: no message of the assistant counts"), "{result}");
    assert_eq!(found.tokens().0, 6 + 16);
    let batch = found.batch(0, 2);
    assert_eq!(batch.targets.iter().filter(|t| **t != IGNORE).count(), 5 + 15);
    let path = place.file("b.jsonl", rows[2..].join("\n"));
    let error = source(vec![path], 0.0, 1, &mut notices).err().unwrap().to_string();
    assert!(error.contains("b.jsonl: no row is left to learn from"), "{error}");
    let error = source(vec![place.file("e.jsonl", "\n\n")], 0.0, 1, &mut notices).err().unwrap().to_string();
    assert!(error.contains("e.jsonl: holds no row. A row is"), "{error}");
}

#[test]
fn an_unencodable_template_is_refused_at_start() {
    let place = Place::new();
    let path = place.file("a.jsonl", r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#);
    let mut settings = SettingsLayers::of(Stage::Sft).unwrap().settings().unwrap();
    settings.data.data = vec![path.clone()];
    let sft = settings.sft.clone().unwrap();
    let try_with = |chars: &str| {
        let tokenizer = Tokenizer::chars(chars.chars(), false).unwrap();
        let (tokenizer, template) = chat::template_of(&tokenizer, None, 0).unwrap();
        let from = chat::ChatInput { vfs: &RealFs, tokenizer: &tokenizer, template: &template, seq_len: 64, seed: 1 };
        load(&settings.data, &sft, &from, &mut Notices::new(), &mut silent).map(|_| ()).map_err(|e| format!("{e:#}"))
    };
    let error = try_with("abcdefghijklmnopqrstuvwxyz\n").unwrap_err();
    assert!(
        error.contains("--chat-template: the chat template contains characters that this tokenizer cannot encode")
            && error.contains("':'"),
        "{error}"
    );
    assert!(try_with("aeimnrstuyb:\n").is_ok());
    let error = try_with("aeimnrstuy:\n").unwrap_err();
    assert!(error.contains("a.jsonl:1: ") && error.contains("'b'"), "a letter of the row itself: {error}");
    // What the template itself refuses is a matter of the row.
    let path = place.file("c.jsonl", r#"{"messages":[{"role":"tool","content":"a"},{"role":"assistant","content":"b"}]}"#);
    settings.data.data = vec![path];
    let tokenizer = Tokenizer::bytes(false).unwrap();
    let (tokenizer, template) = chat::template_of(&tokenizer, None, 0).unwrap();
    let from = chat::ChatInput { vfs: &RealFs, tokenizer: &tokenizer, template: &template, seq_len: 64, seed: 1 };
    let error = load(&settings.data, &sft, &from, &mut Notices::new(), &mut silent).err().unwrap();
    let error = format!("{error:#}");
    assert!(error.contains("c.jsonl:1: ") && error.contains("not tool"), "{error}");
}

/// The rows of public data sets: what a row says does not depend on how it says it.
#[test]
fn row_formats_are_equivalent() {
    let place = Place::new();
    let wanted = r#"{"messages":[{"role":"user","content":"Hi\nthere"},{"role":"assistant","content":"Yo"}]}"#;
    let wanted = read(&place.file("wanted.jsonl", wanted)).unwrap();
    for row in [
        r#"{"prompt":"Hi","prompt_id":"ab","text":"user: Hi","messages":[{"role":"user","content":"Hi\nthere","name":null},{"content":"Yo","role":"assistant"}]}"#,
        r#"{"conversations":[{"from":"human","value":"Hi\nthere"},{"from":"gpt","value":"Yo"}],"messages":null,"system":"","tools":""}"#,
        r#"{"conversations":[{"role":"user","content":"Hi\nthere"},{"from":"assistant","value":"Yo","weight":1}]}"#,
        r#"{"instruction":"Hi","input":"there","output":"Yo","text":"Below is an instruction"}"#,
        r#"{"instruction":"Hi\nthere","input":"","output":"Yo"}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"Hi\n"},{"type":"text","text":"there"}]},{"role":"assistant","content":[{"type":"text","text":"Yo"}]}]}"#,
    ] {
        assert_eq!(read(&place.file("rows.jsonl", row)).unwrap(), wanted, "{row}");
        assert_eq!(read(&place.file("rows.json", format!("[\n{row}\n]\n"))).unwrap(), wanted, "{row}");
        let error = read(&place.file("rows.json", format!("[\n{row}"))).unwrap_err().to_string();
        assert!(error.contains("rows.json:2: not JSON") && error.contains("it is cut off"), "{error}");
    }
    let row = r#"{"conversations":[{"from":"system","value":"s"},{"from":"human","value":"a"},{"from":"gpt","value":"b","weight":0},{"from":"tool","value":"c"}],"system":"t"}"#;
    let ChatRow::Messages(chat) = read(&place.file("rows.jsonl", row)).unwrap().remove(0) else { panic!("messages") };
    let roles: Vec<_> = chat.messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!((roles, chat.masked), (vec!["system", "user", "assistant", "tool"], vec![2]));
    let row = r#"{"system":"t","conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b","weight":0}]}"#;
    let ChatRow::Messages(chat) = read(&place.file("rows.jsonl", row)).unwrap().remove(0) else { panic!("messages") };
    assert_eq!((chat.messages[0]["content"].as_str(), chat.masked), (Some("t"), vec![2]));
    let row = r#"{"instruction":"c","output":"d","history":[["a","b"]],"system":"s"}"#;
    let ChatRow::Messages(chat) = read(&place.file("rows.jsonl", row)).unwrap().remove(0) else { panic!("messages") };
    let result: Vec<_> = chat.messages.iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(result, ["s", "a", "b", "c", "d"]);
    let row = r#"{"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b","trainable":false},{"role":"assistant","content":"c"}]}"#;
    let ChatRow::Turn(_, whole) = read(&place.file("rows.jsonl", row)).unwrap().remove(0) else { panic!("a turn") };
    assert_eq!(whole.masked, [1]);
}

/// As pyarrow and datasets write them (tests/golden/rows.py).
#[test]
fn parquet_and_arrow_rows_are_read() {
    let place = Place::new();
    let rows = [
        r#"{"messages":[{"role":"user","content":"What cools glass?"},{"role":"assistant","content":"A lehr."}]}"#,
        r#"{"messages":[{"role":"user","content":"Wie heißt er?\n"},{"role":"assistant","content":"Kühlofen. 🔥","weight":0},{"role":"user","content":""},{"role":"assistant","content":"Ja."}],"tools":[{"type":"function","function":{"name":"add"}}]}"#,
        r#"{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]}"#,
    ];
    let wanted = read(&place.file("wanted.jsonl", rows.join("\n"))).unwrap();
    let golden = |name: &str| crate::common::golden("rows").join(name);
    for name in ["none", "snappy", "gzip", "zstd", "lz4"] {
        let path = golden(&format!("{name}.parquet"));
        assert_eq!(read(&path).unwrap(), wanted, "{name}");
        let bare = place.file("bare", std::fs::read(&path).unwrap());
        assert_eq!(read(&bare).unwrap(), wanted, "its bytes say what it is");
    }
    let mut notices = Notices::new();
    let saved = chat::row_files(&RealFs, &golden("saved"), &mut notices).unwrap();
    assert_eq!((saved.train.len(), saved.validation.len()), (1, 0), "{notices:?}");
    assert!(notices.lines()[0].contains("reads train/data-00000-of-00001.arrow; skips "), "{notices:?}");
    assert_eq!(read(&saved.train[0]).unwrap(), wanted);
    // Damaged files are refused, each with its name; none hangs or brings the process down.
    for name in ["snappy.parquet", "zstd.parquet", "saved/train/data-00000-of-00001.arrow"] {
        let bytes = std::fs::read(golden(name)).unwrap();
        let file = name.rsplit('/').next().unwrap();
        for i in 0..200usize {
            let mut bytes = bytes.clone();
            let at = (i * 7919) % bytes.len();
            match i % 4 {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 0xFF,
                2 => bytes[at] = bytes[at].wrapping_add(1),
                _ => bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = 0x7F),
            }
            if let Err(error) = read(&place.file(file, bytes)) {
                assert!(format!("{error:#}").contains(file), "{error:#}");
            }
        }
    }
}

#[test]
fn grpo_prompts_are_read_alike() {
    let chat = |row: &str| chat::prompt_chat(&serde_json::from_str(row).unwrap()).map_err(|e| e.to_string());
    let asked = chat(r#"{"prompt":[{"role":"user","content":[{"type":"text","text":"q"}],"name":null}],"tools":"[{}]","chat_template_kwargs":{"a":1}}"#).unwrap();
    assert_eq!(asked.messages, [serde_json::json!({"role": "user", "content": "q"})]);
    assert_eq!(serde_json::Value::Object(asked.extra), serde_json::json!({"a": 1, "tools": [{}]}));
    assert_eq!(chat(r#"{"prompt":"q"}"#).unwrap().messages, [serde_json::json!({"role": "user", "content": "q"})]);
    for (row, wanted) in [
        (r#"{"prompt":[{"role":"user","content":null}]}"#, "prompt[0].content: missing"),
        (
            r#"{"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
            "prompt: ends in a message of the assistant",
        ),
        (r#"{"prompt":null}"#, "prompt: missing"),
        (r#"{"prompt":[]}"#, "prompt: empty"),
        (r#"{"prompt":3}"#, "prompt: must be a string"),
    ] {
        let error = chat(row).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
}

/// The same rows in another order are other data; the same in another format are not.
#[test]
fn the_content_hash_ignores_the_file_format() {
    let place = Place::new();
    let rows = texts("a", 6);
    let hash = |path: PathBuf| source(vec![path], 0.25, 1, &mut Notices::new()).unwrap().content_hash().unwrap();
    let first = hash(place.file("a.jsonl", &rows));
    let list = format!("[{}]", rows.trim().replace('\n', ","));
    assert_eq!(hash(place.file("a.json", list)), first);
    let mut lines: Vec<&str> = rows.lines().collect();
    lines.swap(0, 1);
    assert_ne!(hash(place.file("b.jsonl", lines.join("\n"))), first);
    assert_ne!(hash(place.file("c.jsonl", rows.replace("a000", "b000"))), first);
}

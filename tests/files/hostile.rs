//! A run among foes: bytes on its standard input that are no text, a folder that is taken away, a signal too early; and what a save needs.

use crate::common;

use common::{Place, Trainer, kind};
use lehr::data::Tokenizer;
use lehr::device::Device;
use lehr::model::Model;
use lehr::model_files::checkpoint::{self, CheckpointOrigin, IfExists};
use lehr::model_files::hf_config;
use lehr::run_folder::{RunFolder, checkpoints};
use lehr::session::save::ModelFolder;
use lehr::vfs::RealFs;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const LONG: &[&str] = &["--max-steps=1000000", "--eval-every=0", "--lr-scheduler=constant", "--sample-tokens=0"];

fn texts<'a>(events: &'a [Value], event: &str) -> Vec<&'a str> {
    kind(events, event).iter().map(|e| e["text"].as_str().unwrap()).collect()
}

/// Bytes that are no UTF-8, a line without end, a flood: the run stays paused, hears what follows, and its log stays short.
#[test]
fn no_command_line_ends_the_listener() {
    let place = Place::new();
    let mut t = Trainer::start(place.pretrain("run", LONG).args(["--save-every=0", "--control"]));
    t.send(r#"{"command":"Pause"}"#);
    t.wait_for_kind("Paused");
    t.send_bytes(b"\xff\xfe\n");
    assert!(t.wait_for_kind("Warning")["text"].as_str().unwrap().contains("not UTF-8"));
    t.send_bytes(&vec![b'x'; (1 << 20) + 10]);
    t.send("");
    assert!(t.wait_for_kind("Warning")["text"].as_str().unwrap().contains("more than 1 MiB"));
    for _ in 0..100 {
        t.send_bytes(&b"{\"command\":\"Fly\"}\n".repeat(1000));
    }
    t.send(r#"{"command":"SaveNow"}"#);
    t.wait_for_kind("Checkpoint");
    assert!(kind(&t.received, "Resumed").is_empty(), "{}", t.diagnostics());
    t.send(r#"{"command":"Stop"}"#);
    assert_eq!(t.wait_for_kind("Finished")["reason"], "stopped");
    assert_eq!(t.end().code(), Some(130), "{}", t.diagnostics());
    let bytes = std::fs::metadata(place.path("run/events.jsonl")).unwrap().len();
    assert!(texts(&t.received, "Warning").len() < 30 && bytes < 100_000, "{bytes} bytes of events");
}

#[test]
fn a_deleted_folder_ends_the_run() {
    let place = Place::new();
    for replaced in [false, true] {
        let mut t = Trainer::start(place.pretrain("run", LONG).args(["--save-every=0", "--control"]));
        t.wait_for_step(1);
        // On Windows an open file cannot be removed.
        if std::fs::remove_dir_all(place.path("run")).is_err() {
            return;
        }
        if replaced {
            drop(RunFolder::create(&RealFs, &place.path("run"), "").unwrap());
        }
        t.send(r#"{"command":"SaveNow"}"#);
        assert_eq!(t.end().code(), Some(1), "{}", t.diagnostics());
        assert!(t.stderr().contains("removed or replaced while it trained"), "{}", t.stderr());
        let _ = std::fs::remove_dir_all(place.path("run"));
    }
}

/// A run that cannot save reports it once, continues, and reports the next successful save; a failure of the last save is an error.
#[test]
fn a_run_that_cannot_save_reports_it_once() {
    let place = Place::new();
    let checkpoints = place.path("run/checkpoints");
    // A file in its place: no folder can be made in it.
    let block = |aside: &str| {
        std::fs::rename(&checkpoints, place.path(aside)).unwrap();
        std::fs::write(&checkpoints, "").unwrap();
    };
    let output = |t: &Trainer, word: &str| texts(&t.received, "Warning").iter().filter(|text| text.contains(word)).count();
    let mut t = Trainer::start(place.pretrain("run", LONG).args(["--save-every=1", "--control"]));
    t.wait_for_kind("Checkpoint");
    t.send(r#"{"command":"Pause"}"#);
    let paused = t.wait_for_kind("Paused")["step"].as_u64().unwrap();
    block("first");
    t.send(r#"{"command":"Resume"}"#);
    // Each of these steps tries to save.
    t.wait_for_step(paused + 30);
    assert_eq!(output(&t, "NOT SAVED: "), 1, "{}", t.diagnostics());
    std::fs::remove_file(&checkpoints).unwrap();
    t.wait_for("a save that succeeds", |e| e["text"].as_str().is_some_and(|text| text.starts_with("saved again, after ")));
    assert_eq!(output(&t, "NOT SAVED: "), 1, "{}", t.diagnostics());

    t.send(r#"{"command":"Pause"}"#);
    let paused = t.wait_for_kind("Paused")["step"].as_u64().unwrap();
    block("second");
    t.send(r#"{"command":"Step"}"#);
    t.wait_for_step(paused + 1);
    t.send(r#"{"command":"Stop"}"#);
    assert_eq!(t.end().code(), Some(1), "{}", t.diagnostics());
    assert_eq!(output(&t, "NOT SAVED: "), 2, "{}", t.diagnostics());
    let errors: Vec<String> = t.stderr().lines().filter(|line| line.starts_with("error: ")).map(str::to_owned).collect();
    assert!(errors.len() == 1 && errors[0].contains(&checkpoint::step_name(paused + 1)), "{}", t.stderr());
    // What was saved before is valid.
    std::fs::remove_file(&checkpoints).unwrap();
    std::fs::rename(place.path("second"), &checkpoints).unwrap();
    let newest = checkpoints::newest_valid(&RealFs, &place.path("run")).unwrap();
    assert_eq!(newest.found.map(|found| found.step()), Some(paused));
}

#[test]
fn a_missing_checkpoints_folder_is_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let folder = RunFolder::create(&RealFs, &path, "").unwrap();
    folder.check(&RealFs).unwrap();
    std::fs::remove_dir(folder.checkpoints()).unwrap();
    folder.check(&RealFs).unwrap();
    assert!(folder.checkpoints().is_dir());
}

/// A signal while files are still being read ends the process as one during training does.
#[cfg(unix)]
#[test]
fn a_signal_before_training_exits_with_130() {
    use std::io::Write as _;
    let place = Place::new();
    for name in ["TERM", "INT"] {
        // Text from standard input that does not end: the run waits for it.
        let mut child = place.lehr(["pretrain", "--data=-", "--run=early"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"some text\n").unwrap();
        std::thread::sleep(Duration::from_millis(700));
        assert!(
            std::process::Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success()
        );
        let begin = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{name}");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(code, Some(130), "{name}");
        assert!(!place.path("early").exists());
    }
}

/// The space that a save is reported to need is what it writes.
#[test]
fn the_estimate_of_a_save_is_right() {
    let device = Device::open_named(None).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama-tied/config.json");
    let model = Model::new(&device, &hf_config::read(&RealFs, &file).unwrap().model, 16).unwrap();
    let tokenizer = Tokenizer::bytes(true).unwrap();
    let folder = ModelFolder { device: &device, model: &model, values: &model.values, tokenizer: &tokenizer };
    let dir = tempfile::tempdir().unwrap();
    let place =
        checkpoint::CheckpointTarget { parent: dir.path(), name: "model", bytes: folder.bytes(1), existing: IfExists::Refuse };
    let (_, manifest) =
        checkpoint::save(&RealFs, place, &CheckpointOrigin::default(), |out| folder.write(out, &BTreeMap::new())).unwrap();
    let (output, written) = (folder.bytes(1), manifest.bytes());
    assert!(written <= output && output < written + (64 << 10), "said {output}, written {written}");
}

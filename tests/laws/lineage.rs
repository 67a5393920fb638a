//! Runs that start from other runs: forks, starts from a checkpoint, live merges. A live merge does not change the run.
#![cfg(unix)]

use crate::common;
use lehr::vfs::RealFs;

use common::{Place, Trainer, json_lines, kind, run, step_numbers};
use lehr::model_files::safetensors_file::SafetensorsFile;
use serde_json::{Value, json};
use std::path::Path;

const RECIPE: &[&str] = &["--max-steps=24", "--eval-every=8", "--save-every=8", "--lr-scheduler=constant", "--keep-every=1"];
const MERGE: &[&str] = &["--merge-every=2", "--merge-last=3"];
const TENSORS: [&str; 2] = ["model.safetensors", "optimizer.safetensors"];

fn train(place: &Place, name: &str, more: &[&str]) -> Vec<Value> {
    json_lines(place.pretrain(name, RECIPE).args(more))
}

fn same_tensors(place: &Place, a: &str, b: &str, step: u64) {
    for file in TENSORS {
        assert!(
            place.checkpoint(a, step, file) == place.checkpoint(b, step, file),
            "{a} and {b} differ in {file} at step {step}"
        );
    }
}

/// A tensor of a model folder.
fn numbers(folder: &Path, name: &str) -> Vec<f32> {
    let file = SafetensorsFile::open(&RealFs, &folder.join("model.safetensors")).unwrap();
    file.read_f32(name, &file.tensors()[name].shape.clone()).unwrap()
}

fn losses(events: &[Value]) -> Vec<Value> {
    kind(events, "Step").iter().map(|e| json!([e["step"], e["loss"], e["grad_norm"]])).collect()
}

#[test]
fn live_merging_changes_no_bit_of_the_run() {
    let place = Place::new();
    let plain = train(&place, "plain", &[]);
    assert!(kind(&plain, "Merged").is_empty());
    for ring in ["device", "host", "disk"] {
        let merged = train(&place, ring, &[MERGE, &["--merge-ring", ring]].concat());
        assert_eq!(losses(&merged), losses(&plain), "{ring}");
        same_tensors(&place, "plain", ring, 24);
        let reported = kind(&merged, "Merged");
        let steps: Vec<&Value> = reported.iter().map(|e| &e["step"]).collect();
        assert_eq!(steps, [8, 16, 24], "{ring}: after each evaluation that has two snapshots");
        assert_eq!(reported[1]["steps"], json!([12, 14, 16]), "{ring}");
        for (event, eval) in reported.iter().zip(&kind(&merged, "Eval")[1..]) {
            assert_eq!(event["eval_loss"], eval["eval_loss"], "{ring}: the raw loss beside it");
            assert_eq!(event["eval_tokens"], eval["eval_tokens"], "{ring}: the same tokens");
        }
    }
}

#[test]
fn a_live_merge_equals_the_merge_of_its_checkpoints() {
    let place = Place::new();
    // A checkpoint at every snapshot, so that the merge can be made again from files.
    let recipe = ["--save-every=2", "--merge-every=2", "--merge-last=4", "--merge-method=wma"];
    let command = &mut place.pretrain("run", &["--max-steps=12", "--eval-every=6", "--lr-scheduler=constant"]);
    let events = json_lines(command.args(recipe).arg("--keep-every=1"));
    let reported = kind(&events, "Merged")[1];
    assert_eq!((&reported["step"], &reported["steps"]), (&json!(12), &json!([6, 8, 10, 12])));
    // Ages 6, 4, 2 and 0 updates of 64 tokens, weighed 1 : 2 : 3 : 4.
    assert!((reported["mean_age_tokens"].as_f64().unwrap() - 64.0 * (6.0 + 8.0 + 6.0) / 10.0).abs() < 1e-9, "{reported}");
    // Brute force: the weighted mean in f64 of the four files, as a model folder of its own.
    let folder = |step: u64| place.path(&format!("run/checkpoints/step-{step:08}"));
    let (out, names) = (place.path("by-hand"), SafetensorsFile::open(&RealFs, &folder(12).join("model.safetensors")).unwrap());
    std::fs::create_dir(&out).unwrap();
    for entry in std::fs::read_dir(folder(12)).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), out.join(entry.file_name())).unwrap();
    }
    let mut tensors = Vec::new();
    for (name, info) in names.tensors() {
        let mut sum = vec![0.0f64; info.len()];
        for (i, step) in [6, 8, 10, 12].into_iter().enumerate() {
            let weight = (i + 1) as f64 / 10.0;
            sum.iter_mut().zip(numbers(&folder(step), name)).for_each(|(s, x)| *s += weight * f64::from(x));
        }
        let bytes: Vec<u8> = sum.iter().flat_map(|s| (*s as f32).to_le_bytes()).collect();
        tensors.push((name.clone(), info.shape.clone(), bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.clone(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), &out.join("model.safetensors")).unwrap();
    let model = out.to_str().unwrap().to_owned();
    let eval = json_lines(&mut place.lehr(["eval", "--model", &model, "--data=text.txt", "--val-fraction=0.1", "--json"]));
    let (by_hand, live) = (eval[0]["eval_loss"].as_f64().unwrap(), reported["merge/wma/eval_loss"].as_f64().unwrap());
    assert!((by_hand - live).abs() < 2e-6, "by hand {by_hand}, live {live}");
    let raw = reported["eval_loss"].as_f64().unwrap();
    assert!((raw - live).abs() > 1e-4, "the merge differs from the run's own weights");
}

#[test]
fn a_killed_run_resumes_with_its_snapshots() {
    let place = Place::new();
    let straight = train(&place, "straight", MERGE);
    for (name, ring) in [("device", "device"), ("host", "host"), ("disk", "disk")] {
        let mut trainer = Trainer::start(&mut place.pretrain(name, &[RECIPE, MERGE, &["--merge-ring", ring]].concat()));
        trainer.wait_for("the first save", |e| e["event"] == "Checkpoint");
        trainer.wait_for_step(10);
        trainer.kill();
        trainer.end();
        let mut trainer = Trainer::start(&mut place.resume(name, &[]));
        assert_eq!(trainer.end().code(), Some(0), "{}", trainer.diagnostics());
        same_tensors(&place, "straight", name, 24);
        let reported =
            |events: &[Value]| -> Vec<Value> { kind(events, "Merged").iter().map(|e| json!([e["step"], e["steps"]])).collect() };
        let log = place.events(name);
        assert_eq!(reported(&log), reported(&straight), "{name}");
        for (a, b) in kind(&log, "Merged").iter().zip(kind(&straight, "Merged")) {
            let (a, b) = (a["merge/sma/eval_loss"].as_f64().unwrap(), b["merge/sma/eval_loss"].as_f64().unwrap());
            // The device adds in f32, host and disk in f64; within one place it is the same bits.
            assert!(if ring == "device" { a == b } else { (a - b).abs() < 2e-6 }, "{name}: {a} {b}");
        }
    }
}

#[test]
fn merge_now_writes_a_model_folder() {
    let place = Place::new();
    let mut trainer = Trainer::start(&mut place.pretrain("run", &[&["--max-steps=400", "--control"], MERGE].concat()));
    trainer.wait_for_step(1);
    trainer.send(r#"{"command":"Pause"}"#);
    let step = trainer.wait_for_kind("Paused")["step"].as_u64().unwrap();
    for _ in step..6 {
        trainer.send(r#"{"command":"Step"}"#);
    }
    trainer.send(r#"{"command":"MergeNow"}"#);
    let reported = trainer.wait_for_kind("Merged");
    let path = place.path(reported["path"].as_str().unwrap());
    trainer.send(r#"{"command":"Stop"}"#);
    assert_eq!(trainer.end().code(), Some(130), "{}", trainer.diagnostics());
    let generated = run(&mut place.lehr(["generate", "--model", path.to_str().unwrap(), "--prompt=the ", "--max-new-tokens=4"]));
    assert_eq!(generated.code, Some(0), "{}", generated.err);
    let file = SafetensorsFile::open(&RealFs, &path.join("model.safetensors")).unwrap();
    assert_eq!(file.metadata()["merge_method"], "sma");
    let steps: Vec<String> = reported["steps"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(file.metadata()["merge_steps"], steps.join(","));

    let mut trainer = Trainer::start(&mut place.pretrain("none", &["--max-steps=400", "--control"]));
    trainer.wait_for_step(1);
    trainer.send(r#"{"command":"MergeNow"}"#);
    let warning =
        trainer.wait_for("an answer", |e| e["event"] == "Warning" && e["text"].as_str().unwrap().starts_with("MergeNow"));
    assert!(warning["text"].as_str().unwrap().contains("--merge-every"), "{warning}");
}

#[test]
fn an_unchanged_fork_equals_its_parent() {
    let place = Place::new();
    let parent = train(&place, "parent", MERGE);
    let events = json_lines(&mut place.lehr(["pretrain", "--json", "--fork=parent@8", "--run=child"]));
    let started = kind(&events, "Started")[0];
    assert_eq!((&started["step"], &started["parent"]), (&json!(8), &json!("parent@8")));
    assert_eq!(step_numbers(&events), (9..=24).collect::<Vec<_>>());
    assert_eq!(losses(&events), losses(&parent)[8..]);
    same_tensors(&place, "parent", "child", 24);
    let merges = |events: &[Value], from: usize| -> Vec<Value> {
        kind(events, "Merged")[from..].iter().map(|e| json!([e["steps"], e["merge/sma/eval_loss"]])).collect()
    };
    // The child also evaluates its starting point.
    assert_eq!(merges(&events, 0), merges(&parent, 0));
    let manifest: Value = serde_json::from_slice(&place.checkpoint("child", 24, "MANIFEST.json")).unwrap();
    assert_eq!(manifest["parent"], "parent@8");
    let config = std::fs::read_to_string(place.path("child/config.toml")).unwrap();
    assert!(config.contains("parent = \"parent@8\"") && config.contains("fork = \"/"), "{config}");

    // The same after a stop and a resume.
    let mut trainer = Trainer::start(&mut place.lehr(["pretrain", "--json", "--fork=parent@8", "--run=again"]));
    trainer.wait_for("a save", |e| e["event"] == "Checkpoint");
    trainer.signal("TERM");
    trainer.end();
    json_lines(&mut place.resume("again", &[]));
    same_tensors(&place, "parent", "again", 24);
}

#[test]
fn a_fork_accepts_other_settings() {
    let place = Place::new();
    train(&place, "parent", &[]);
    let fork =
        |name: &str, more: &[&str]| json_lines(place.lehr(["pretrain", "--json", "--fork=parent@16", "--run", name]).args(more));
    let decay = fork(
        "decay",
        &["--lr-scheduler=wsd", "--max-steps=20", "--decay-steps=4", "--min-learning-rate=0", "--decay-shape=linear"],
    );
    let rates: Vec<f64> = kind(&decay, "Step").iter().map(|e| e["learning_rate"].as_f64().unwrap()).collect();
    for (rate, wanted) in rates.iter().zip([0.75e-2, 0.5e-2, 0.25e-2, 0.0]) {
        assert!((rate - wanted).abs() < 1e-12, "{rates:?}");
    }
    // The first update comes from the same weights and the same data, whatever the rate.
    assert_eq!(
        kind(&decay, "Step")[0]["loss"],
        kind(&fork("slow", &["--learning-rate=1e-4", "--min-learning-rate=0"]), "Step")[0]["loss"]
    );
    let fresh = fork("fresh", &["--init-optimizer=fresh"]);
    assert_eq!(kind(&fresh, "Step")[0]["loss"], kind(&decay, "Step")[0]["loss"]);
    assert_ne!(kind(&fresh, "Step")[1]["loss"], kind(&fork("kept", &[]), "Step")[1]["loss"], "other moments");
}

#[test]
fn starting_points_report_what_they_keep() {
    let place = Place::new();
    train(&place, "parent", &[]);
    let init =
        |name: &str, more: &[&str]| json_lines(place.pretrain(name, &["--max-steps=6", "--lr-scheduler=constant"]).args(more));
    let folder = "--init=parent/checkpoints/step-00000016";
    let [by_step, by_folder, kept] =
        [("a", vec!["--init=parent@16"]), ("b", vec![folder]), ("c", vec![folder, "--init-optimizer=keep"])]
            .map(|(n, a)| init(n, &a));
    assert_eq!(losses(&by_step), losses(&by_folder));
    assert_eq!(kind(&by_step, "Started")[0]["parent"], "parent@16");
    assert_eq!(kind(&by_step, "Started")[0]["step"], 0);
    assert_eq!(losses(&by_step)[0], losses(&kept)[0]);
    assert_ne!(losses(&by_step)[1], losses(&kept)[1]);
}

/// PMA-init: a run that begins from `merge:...` is the run that begins from what `lehr merge` writes.
#[test]
fn starting_from_a_merge_equals_merge_then_start() {
    let place = Place::new();
    train(&place, "parent", &["--merge-every=0"]);
    let init =
        |name: &str, more: &[&str]| json_lines(place.pretrain(name, &["--max-steps=6", "--lr-scheduler=constant"]).args(more));
    let output = run(&mut place.lehr(["merge", "parent", "--last=2", "--every=8", "--at=16", "--method=wma", "--out=merged"]));
    assert_eq!(output.code, Some(0), "{}", output.err);
    let direct = init("direct", &["--init=merge:parent?last=2&every=8&at=16&method=wma"]);
    let by_file = init("by-file", &["--init=merged"]);
    assert_eq!(losses(&direct), losses(&by_file));
    same_tensors(&place, "direct", "by-file", 6);
    assert_eq!(kind(&direct, "Started")[0]["parent"], "wma of parent@8,16");
    let config = std::fs::read_to_string(place.path("direct/config.toml")).unwrap();
    assert!(config.contains("init = \"merge:/"), "{config}");
    let kept = init("kept", &["--init=merge:parent?last=2&every=8&at=16&method=wma", "--init-optimizer=keep"]);
    assert_eq!(losses(&kept)[0], losses(&direct)[0]);
    assert_ne!(losses(&kept)[1], losses(&direct)[1]);
}

#[test]
fn invalid_starting_points_are_refused() {
    let place = Place::new();
    train(&place, "parent", &[]);
    std::fs::create_dir(place.path("empty")).unwrap();
    for (args, words) in [
        (&["--init=parent@7"][..], "--init parent@7: this run has no checkpoint at step 7; there are: 8, 16, 24"),
        (&["--init=nothing@7"], "--init nothing: there is no such run folder"),
        (&["--init=nothing"], "--init nothing: there is no such folder"),
        (&["--init=empty@3"], "--init empty: is not a run folder"),
        (&["--init=merge:parent?last=7"], "--init: "),
        (&["--init=merge:nothing?last=2"], "nothing"),
        (&["--init-optimizer=keep"], "--init-optimizer: says what happens to the moments after --init or --fork"),
        (&["--fork=parent@9"], "--fork parent@9: this run has no checkpoint at step 9"),
        (&["--fork=empty"], "--fork empty: is not a run folder"),
        (&["--fork=parent@24"], "--max-steps 24: the fork begins after 24 steps"),
        (&["--fork=parent@8", "--init=parent@8"], "cannot be used with"),
        (&["--merge-every=5", "--merge-last=0"], "--merge-last 0: must lie between 1 and 1000"),
        (&["--merge-every=5", "--merge-method=ema", "--merge-alpha=0"], "--merge-alpha 0: must be above 0"),
        (&["--merge-every=5", "--merge-method=weights"], "--merge-method weights: a live merge starts with fewer"),
    ] {
        let output =
            run(place.lehr(["pretrain", "--data=text.txt", "--run=never", "--max-steps=24"]).args(common::TINY).args(args));
        assert!(output.code == Some(1) || output.code == Some(2), "{args:?}: {:?}", output.code);
        assert!(output.err.contains(words), "{args:?}: {}", output.err);
        assert!(output.code == Some(2) || output.err.lines().count() <= 2, "{args:?}: one line: {}", output.err);
        assert!(!place.path("never").exists(), "{args:?}");
    }
}

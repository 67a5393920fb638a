//! `lehr merge sweep` and `lehr landscape`: what they say is what merging and evaluating one by one says.

use crate::common;

use common::{CommandOutput, Place, json_lines, run};
use serde_json::Value;
use std::path::Path;

/// A run of 40 updates with a checkpoint every 5.
fn trained(place: &Place) {
    let more = ["--max-steps=40", "--save-every=5", "--keep-every=5", "--lr-scheduler=constant", "--eval-every=0"];
    assert_eq!(run(&mut place.pretrain("run", &more)).code, Some(0));
}

fn checkpoint(step: u64) -> String {
    format!("run/checkpoints/step-{step:08}")
}

/// Loss by `lehr eval`, on the tokens that the run evaluates on.
fn eval(place: &Place, model: &str) -> f64 {
    let args = ["eval", "--json", "--data=text.txt", "--val-fraction=0.1", "--seq-len=16", "--max-tokens=128", "--model", model];
    json_lines(&mut place.lehr(args))[0]["eval_loss"].as_f64().unwrap()
}

fn one(place: &Place, args: &[&str]) -> Value {
    let mut lines = json_lines(&mut place.lehr(args));
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

fn fails(place: &Place, args: &[&str], says: &[&str]) {
    let CommandOutput { code, out, err, .. } = run(&mut place.lehr(args));
    let last = err.lines().last().unwrap_or_default();
    // A message that begins with a flag is about the command line.
    let wanted = if last.starts_with("error: --") || says[0].contains("no such folder") { 2 } else { 1 };
    assert!(code == Some(wanted) && out.is_empty(), "{args:?}: {code:?}\n{out}{err}");
    assert!(last.starts_with("error: ") && says.iter().all(|s| last.contains(s)), "{args:?} should say {says:?}: {err}");
}

#[test]
fn a_sweep_matches_single_merges_and_evaluations() {
    let place = Place::new();
    trained(&place);
    let args =
        ["merge", "sweep", "run", "--every=5,10,15", "--last=2,4", "--methods=sma,ema,ema-normalized,wma,wsm", "--alpha=0.3"];
    let more = ["--annealed", "run@10", "--out=out", "--json"];
    let found = one(&place, &[&args[..], &more].concat());
    assert_eq!(found["eval_tokens"], 128);
    let raw = found["raw"][0]["loss"].as_f64().unwrap();
    assert!((raw - eval(&place, &checkpoint(40))).abs() < 1e-9);
    let annealed = found["annealed"]["loss"].as_f64().unwrap();
    assert!((annealed - eval(&place, &checkpoint(10))).abs() < 1e-9);
    let cells = found["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 3 * 2 * 5);
    assert_eq!(found["checkpoints_read"], 6, "10, 20, 25, 30, 35 and 40, each once");
    let mut losses = Vec::new();
    for (i, cell) in cells.iter().enumerate() {
        if (cell["every"].as_u64(), cell["last"].as_u64()) == (Some(15), Some(4)) {
            assert_eq!(cell["missing"], "begins before the run");
            assert!(cell["loss"].is_null() && cell["gain"].is_null());
            continue;
        }
        let loss = cell["loss"].as_f64().unwrap();
        losses.push(loss);
        assert!((cell["gain"].as_f64().unwrap() - (raw - loss)).abs() < 1e-12);
        let out = format!("merged-{i}");
        let [every, last] = ["every", "last"].map(|key| format!("--{key}={}", cell[key]));
        let method = format!("--method={}", cell["method"].as_str().unwrap());
        let alpha = format!("--alpha={}", cell["alpha"]);
        let mut merge = vec!["merge", "run", "--at=40", &every, &last, &method, "--out", &out];
        if !cell["alpha"].is_null() {
            merge.push(&alpha);
        }
        let output = run(&mut place.lehr(&merge));
        assert_eq!(output.code, Some(0), "{}", output.err);
        // Sums in another order: a weight may be rounded to its neighbour.
        assert!((loss - eval(&place, &out)).abs() < 1e-5, "{cell}");
    }
    let best = found["best"][0]["loss"].as_f64().unwrap();
    assert_eq!(best, losses.iter().copied().fold(f64::INFINITY, f64::min));
    let file: Value = serde_json::from_slice(&std::fs::read(place.path("out/sweep.json")).unwrap()).unwrap();
    assert_eq!(file, found);
    let picture = std::fs::read_to_string(place.path("out/sweep.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("ema-normalized 0.3") && picture.contains(">none<"));
}

#[test]
fn the_table_marks_missing_and_best_cells() {
    let place = Place::new();
    trained(&place);
    std::fs::remove_dir_all(place.path(&checkpoint(20))).unwrap();
    std::fs::write(place.path(&checkpoint(35)).join("model.safetensors"), "no").unwrap();
    let args = ["merge", "sweep", "run", "--every=5,10", "--last=2,4", "--methods=sma", "--at=30,40", "--annealed=run@5"];
    let CommandOutput { code, out, err, .. } = run(&mut place.lehr(args));
    assert_eq!(code, Some(0), "{err}");
    for line in [
        "missing: V 5 N 4, V 10 N 2: no checkpoint of step 20",
        "missing: V 10 N 4: no checkpoint of step 0, 20",
        "missing: V 5 N 2, V 5 N 4: ",
        "run at step 30: raw ",
        "run at step 40: raw ",
        "best: sma V 5 N 2: ",
        "best: sma V 10 N 2: ",
        "model.safetensors: has 2 bytes",
        "annealed ",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(err.contains("evaluations of 128 tokens each"), "{err}");
}

#[test]
fn invalid_sweeps_are_refused() {
    let place = Place::new();
    trained(&place);
    let sweep = |more: &[&str], says: &[&str]| fails(&place, &[&["merge", "sweep"], more].concat(), says);
    sweep(&["nowhere", "--every=5"], &["nowhere: there is no such folder"]);
    sweep(&[&checkpoint(5), "--every=5"], &["holds no config.toml"]);
    sweep(&["run", "--every=5", "--at=7"], &["--at 7", "5, 10, ..., 40"]);
    sweep(&["run", "--every=7", "--last=3"], &["no checkpoint of step 26, 33"]);
    sweep(&["run", "--every=5", "--last=0"], &["--last 0"]);
    sweep(&["run", "--every=5", "--methods=weights"], &["--methods weights"]);
    sweep(&["run", "--every=5", "--methods=ema", "--alpha=0"], &["--alpha 0"]);
    sweep(&["run", "--every=5", "--data=missing.txt"], &["missing.txt"]);
    sweep(&["run", "--every=5", "--annealed=run@6"], &["no checkpoint of step 6"]);
    sweep(&["run", "--every=5", "--seq-len=4000"], &["--seq-len 4000"]);
    sweep(&["run", "--every=5", "--batch-size=0"], &["--batch-size 0"]);
    for usage in [
        &["run"][..],
        &["run", "--every=5M"],
        &["run", "--every=5", "--methods=slerp"],
        &["run", "--every=5", "--val-fraction=0.5"],
    ] {
        let output = run(&mut place.lehr([&["merge", "sweep"], usage].concat()));
        assert_eq!(output.code, Some(2), "{usage:?}: {}", output.err);
    }
    std::fs::write(place.path("short.txt"), "a").unwrap();
    sweep(&["run", "--every=5", "--data=short.txt"], &["too little text"]);
    other_model(&place);
    sweep(&["run", "--every=5", "--annealed=other"], &["not of the same model"]);
}

/// A run of another shape.
fn other_model(place: &Place) {
    let more = ["--max-steps=1", "--warmup-steps=0", "--hidden-size=24", "--intermediate-size=16"];
    let mut command =
        place.lehr(["pretrain", "--data=text.txt", "--run=other", "--num-hidden-layers=1", "--num-attention-heads=2"]);
    command.args(["--batch-size=4", "--seq-len=16", "--eval-tokens=128"]).args(more);
    let output = run(&mut command);
    assert_eq!(output.code, Some(0), "{}", output.err);
}

#[test]
fn a_landscape_contains_its_checkpoints() {
    let place = Place::new();
    trained(&place);
    let merge = ["merge", &checkpoint(20), &checkpoint(30), &checkpoint(40), "--out=mean"];
    assert_eq!(run(&mut place.lehr(merge)).code, Some(0));
    let args = ["landscape", "run@20", &checkpoint(30), "run", "--merged=mean", "--grid=5", "--out=out", "--json"];
    let found = one(&place, &args);
    let losses: Vec<f64> = found["checkpoints"].as_array().unwrap().iter().map(|p| p["loss"].as_f64().unwrap()).collect();
    for (loss, step) in losses.iter().zip([20, 30, 40]) {
        assert!((loss - eval(&place, &checkpoint(step))).abs() < 1e-9, "step {step}");
    }
    // The merge's file and the mean are the same weights.
    let (mean, merged) = (&found["mean"], &found["merged"]);
    let number = |v: &Value, key: &str| v[key].as_f64().unwrap();
    assert!((number(mean, "loss") - number(merged, "loss")).abs() < 1e-6);
    assert!((number(merged, "loss") - eval(&place, "mean")).abs() < 1e-9);
    assert!(number(merged, "distance") < 1e-5 && (number(mean, "x") - number(merged, "x")).abs() < 1e-5);
    let test = &found["test"];
    let average = losses.iter().sum::<f64>() / 3.0;
    assert!((number(test, "noise_reduction") - (average - number(mean, "loss"))).abs() < 1e-12);
    assert!((number(test, "lag") - (average - losses[2])).abs() < 1e-12);
    assert_eq!(test["merge_beats_latest"], number(mean, "loss") < losses[2]);
    let csv = std::fs::read_to_string(place.path("out/landscape.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 25 + 3 + 1 + 1);
    let picture = std::fs::read_to_string(place.path("out/landscape.svg")).unwrap();
    for text in [format!("A {:.4}", losses[0]), format!("C {:.4}", losses[2]), format!("mean {:.4}", number(mean, "loss"))] {
        assert!(picture.contains(&text), "{text}");
    }
    let file: Value = serde_json::from_slice(&std::fs::read(place.path("out/landscape.json")).unwrap()).unwrap();
    assert_eq!(file, found);
}

/// With no margin the grid's corners are the frame of the checkpoints; two of them lie on its lower corners.
#[test]
fn grid_losses_match_their_weights_and_extra_checkpoints_are_projected() {
    let place = Place::new();
    trained(&place);
    let args = ["landscape", "run@5", "run@10", "run@20", "run@30", "run@40", "--grid=3", "--margin=0", "--json"];
    let found = one(&place, &args);
    let points = found["checkpoints"].as_array().unwrap();
    assert_eq!(points.len(), 5);
    let off: Vec<bool> = points.iter().map(|p| p["distance"].as_f64().unwrap() > 1e-3).collect();
    assert_eq!(off, [false, true, false, true, false], "the plane goes through the first, the middle and the last");
    let grid = &found["grid"];
    assert_eq!((grid["x"].as_array().unwrap().len(), grid["loss"].as_array().unwrap().len()), (3, 3));
    if grid["x"][0] == points[0]["x"] && grid["y"][0] == points[0]["y"] {
        let near = (grid["loss"][0][0].as_f64().unwrap() - points[0]["loss"].as_f64().unwrap()).abs();
        assert!(near < 1e-6, "{near}");
    }
    let text = run(&mut place.lehr(["landscape", "run@5", "run@20", "run@40", "--grid=3"]));
    assert_eq!(text.code, Some(0), "{}", text.err);
    for words in ["noise reduction", "lag", "condition (15)", "R²", "latest checkpoint", "lowest of the grid"] {
        assert!(text.out.contains(words), "{words}: {}", text.out);
    }
}

#[test]
fn collinear_landscapes_are_refused() {
    let place = Place::new();
    trained(&place);
    other_model(&place);
    let landscape = |more: &[&str], says: &[&str]| fails(&place, &[&["landscape", "--grid=3"], more].concat(), says);
    landscape(&["run@5", "run@5", "run@5"], &["the same weights"]);
    landscape(&["run@5", "run@20", "run@5"], &["the same weights"]);
    landscape(&["run@5", "run@5", "run@20"], &["one line"]);
    landscape(&["run@5", "run@20", "other"], &["not of the same model"]);
    landscape(&["run@5", "run@6", "run@20"], &["no checkpoint of step 6", "5, 10"]);
    landscape(&["run@5", "nowhere", "run@20"], &["nowhere: there is no such folder"]);
    landscape(&["run@5", "run@20", "run@40", "--merged=other"], &["not of the same model"]);
    landscape(&["run@5", "run@20", "run@40", "--margin=-1"], &["--margin -1"]);
    landscape(&["run@5", "run@20", "run@40", "--data=missing.txt"], &["missing.txt"]);
    landscape(&["run@5", "run@20", "run@40", "--out=text.txt"], &["text.txt"]);
    fails(&place, &["landscape", "--grid=1", "run@5", "run@20", "run@40"], &["--grid 1"]);
    assert_eq!(run(&mut place.lehr(["landscape", "run@5", "run@20"])).code, Some(2));
    // Outside of a run there is no text to evaluate on.
    for step in [5, 20, 40] {
        copy(&place.path(&checkpoint(step)), &place.path(&format!("m{step}")));
    }
    landscape(&["m5", "m20", "m40"], &["--data", "not in a run folder"]);
    let output = run(&mut place.lehr(["landscape", "--grid=2", "m5", "m20", "m40", "--data=text.txt", "--max-tokens=64"]));
    assert_eq!(output.code, Some(0), "{}", output.err);
    let damaged = place.path("m20/model.safetensors");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(damaged, bytes).unwrap();
    landscape(&["m5", "m20", "m40", "--data=text.txt"], &["m20", "SHA-256"]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

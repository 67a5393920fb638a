//! A run that was stopped, killed, damaged or sent commands continues bit for bit as if it had not been.
#![cfg(unix)]

use crate::common;

use common::{Place, Trainer, kind, random, run, step_numbers};
use lehr::device::{self, Kind};
use lehr::model_files::checkpoint;
use lehr::run_folder::checkpoints;
use lehr::vfs::RealFs;
use serde_json::{Value, json};
use std::time::Duration;

const STEPS: u64 = 30;
const RECIPE: &[&str] = &["--max-steps=30", "--eval-every=10", "--save-every=6"];
const TENSORS: [&str; 2] = ["model.safetensors", "optimizer.safetensors"];

/// A run that was never stopped: what every other must come to.
fn straight(place: &Place) {
    let mut trainer = Trainer::start(&mut place.pretrain("straight", RECIPE));
    let status = trainer.end();
    assert_eq!(status.code(), Some(0), "{}", trainer.diagnostics());
    assert_eq!(step_numbers(&place.events("straight")), (1..=STEPS).collect::<Vec<_>>());
}

/// The same tensors, and the same numbers in one continuous log.
fn same_as_straight(place: &Place, name: &str) {
    for file in TENSORS {
        assert!(place.checkpoint(name, STEPS, file) == place.checkpoint("straight", STEPS, file), "{name}: {file} differs");
    }
    let (log, wanted) = (place.events(name), place.events("straight"));
    for (what, keys) in
        [("Step", &["step", "loss", "grad_norm", "entropy", "num_tokens", "learning_rate"][..]), ("Eval", &["step", "eval_loss"])]
    {
        let numbers = |events: &[Value]| -> Vec<Vec<Value>> {
            kind(events, what).iter().map(|e| keys.iter().map(|k| e[*k].clone()).collect()).collect()
        };
        assert_eq!(numbers(&log), numbers(&wanted), "{name}: {what} events");
    }
    let last = log.last().unwrap();
    assert_eq!((&last["event"], &last["reason"]), (&json!("Finished"), &json!("completed")), "{name}");
    for key in ["eval_loss", "tokens", "step", "grad_norm"] {
        assert_eq!(last[key], wanted.last().unwrap()[key], "{name}: {key}");
    }
    let reported: Vec<_> = kind(&log, "Checkpoint").iter().filter_map(|e| e["step"].as_u64()).collect();
    for (step, path) in checkpoints::list(&RealFs, &place.path(name)).unwrap() {
        let valid = checkpoint::verify(&RealFs, &path).is_ok();
        assert!(!valid || reported.contains(&step), "{name}: the log says nothing of the checkpoint at {step}: {reported:?}");
    }
    let seconds: Vec<f64> = kind(&log, "Step").iter().map(|e| e["seconds"].as_f64().unwrap()).collect();
    assert!(seconds.is_sorted(), "{name}: time runs on over a resume: {seconds:?}");
}

fn finish(place: &Place, name: &str) -> Trainer {
    let mut trainer = Trainer::start(&mut place.resume(name, &[]));
    assert_eq!(trainer.end().code(), Some(0), "{}", trainer.diagnostics());
    trainer
}

#[test]
fn stopping_or_killing_and_resuming_is_bit_identical() {
    let place = Place::new();
    straight(&place);
    let seed = random();
    for (i, signal) in ["INT", "TERM", "KILL"].into_iter().enumerate() {
        let at = match signal {
            // From the first checkpoint event on, the run can be resumed.
            "KILL" => 8 + (seed >> (8 * i)) % 20,
            // Early: without a GPU the whole run takes some 20 ms.
            _ => 1 + (seed >> (8 * i)) % 8,
        };
        let name = format!("{}-at-{at}", signal.to_lowercase());
        let mut trainer = Trainer::start(&mut place.pretrain(&name, RECIPE));
        trainer.wait_for_step(at);
        trainer.signal(signal);
        let status = trainer.end();
        if signal == "KILL" {
            assert_eq!(status.code(), None, "{name}: {}", trainer.diagnostics());
        } else {
            assert_eq!(status.code(), Some(130), "{name}: {}", trainer.diagnostics());
            let last = trainer.received.last().unwrap();
            assert_eq!((&last["event"], &last["reason"]), (&json!("Finished"), &json!("stopped")), "{name}");
            let step = last["step"].as_u64().unwrap();
            assert!(step >= at && step < STEPS, "{name}: stopped at {step}");
            // Saved before it ended.
            let newest = checkpoints::newest_valid(&RealFs, &place.path(&name)).unwrap();
            assert_eq!(newest.found.unwrap().step(), step, "{name}");
        }
        let resumed = finish(&place, &name);
        let started = &kind(&resumed.received, "Started")[0];
        assert!(started["step"].as_u64() > Some(0), "{name}: {started}");
        same_as_straight(&place, &name);
        assert_eq!(kind(&place.events(&name), "Started").len(), 2, "{name}");
    }
    // Resumed after its end: there is nothing to do, and no file changes.
    finish(&place, "straight");
    assert_eq!(step_numbers(&place.events("straight")), (1..=STEPS).collect::<Vec<_>>());
    // And the folder is taken.
    let again = run(&mut place.pretrain("straight", RECIPE));
    assert_eq!(again.code, Some(1), "{}", again.err);
    assert!(again.err.contains("straight") && again.err.contains("--resume"), "{}", again.err);
}

#[test]
fn a_second_signal_exits_at_once_without_loss() {
    let place = Place::new();
    let mut trainer = Trainer::start(&mut place.pretrain("run", &["--max-steps=100000", "--save-every=2", "--eval-every=0"]));
    trainer.wait_for_kind("Checkpoint");
    trainer.signal("INT");
    trainer.signal("INT");
    assert_eq!(trainer.end().code(), Some(130), "{}", trainer.diagnostics());
    let newest = checkpoints::newest_valid(&RealFs, &place.path("run")).unwrap();
    assert!(newest.found.is_some() && newest.skipped.is_empty(), "{:?}", newest.skipped);
}

#[test]
fn an_active_run_is_locked() {
    let place = Place::new();
    let mut first = Trainer::start(&mut place.pretrain("run", &["--max-steps=100000", "--save-every=5", "--control"]));
    first.wait_for_kind("Checkpoint");
    first.send(r#"{"command":"Pause"}"#);
    first.wait_for_kind("Paused");
    let before = place.events("run");
    for mut other in [place.resume("run", &[]), place.pretrain("run", RECIPE)] {
        let output = run(&mut other);
        assert_eq!(output.code, Some(1), "{}", output.err);
        eprintln!("refused after {:.2} s: {}", output.seconds, output.err.trim());
        if other.get_args().any(|a| a == "--resume") {
            assert!(output.err.contains(&format!("process {}", first.pid())), "names the process: {}", output.err);
        }
        assert_eq!(output.err.lines().filter(|l| l.starts_with("error:")).count(), 1, "{}", output.err);
    }
    assert_eq!(before, place.events("run"), "the log was left alone");
    // A kill frees it.
    first.kill();
    first.end();
    let mut second = Trainer::start(&mut place.resume("run", &[]));
    second.wait_for_kind("Step");
    second.signal("INT");
    assert_eq!(second.end().code(), Some(130), "{}", second.diagnostics());
}

/// Kill it wherever it is, again and again: what `lehr` accepts is valid, no announced save is lost, and the numbers stay the same.
#[test]
fn repeated_kills_lose_nothing() {
    let kills: u64 = std::env::var("LEHR_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let place = Place::new();
    let recipe = ["--max-steps=100000", "--lr-scheduler=constant", "--eval-every=0", "--keep-last=2"];
    let seed = random();
    let rng = lehr::rng::Rng::new(seed, "kills");
    let mut first = Trainer::start(place.pretrain("storm", &recipe).arg("--save-every=1"));
    first.wait_for_kind("Checkpoint");
    let (mut trainer, mut announced, mut reached) = (first, 1, 1);
    for kill in 0..kills {
        // Every third while it starts, reads, tidies up; the others while it trains, saves, purges.
        let wait = if kill % 3 == 2 { rng.below(kill, 0, 700) } else { rng.below(kill, 0, 250) };
        if kill % 3 != 2 {
            trainer.wait_for_kind("Checkpoint");
        }
        std::thread::sleep(Duration::from_millis(wait));
        trainer.kill();
        assert_eq!(trainer.end().code(), None, "seed {seed}, kill {kill}: {}", trainer.diagnostics());
        announced = kind(&trainer.received, "Checkpoint").iter().filter_map(|e| e["step"].as_u64()).max().unwrap_or(announced);
        let newest = checkpoints::newest_valid(&RealFs, &place.path("storm")).unwrap();
        assert!(
            newest.skipped.is_empty(),
            "seed {seed}, kill {kill}: a folder under a checkpoint's name is bad: {:?}",
            newest.skipped
        );
        reached = newest.found.as_ref().map_or(0, checkpoint::Checkpoint::step);
        assert!(reached >= announced, "seed {seed}, kill {kill}: step {announced} was announced, {reached} is there");
        for (step, path) in checkpoints::list(&RealFs, &place.path("storm")).unwrap() {
            checkpoint::verify(&RealFs, &path).unwrap_or_else(|e| panic!("seed {seed}, kill {kill}, step {step}: {e:#}"));
        }
        trainer = Trainer::start(&mut place.resume("storm", &[]));
        let started = trainer.wait_for_kind("Started");
        assert_eq!(started["step"].as_u64(), Some(reached), "seed {seed}, kill {kill}");
    }
    trainer.wait_for_kind("Checkpoint");
    trainer.signal("INT");
    assert_eq!(trainer.end().code(), Some(130), "{}", trainer.diagnostics());
    let last = trainer.received.last().unwrap()["step"].as_u64().unwrap();
    assert!(last > reached);
    let log = place.events("storm");
    assert_eq!(step_numbers(&log), (1..=last).collect::<Vec<_>>(), "seed {seed}");
    let left: Vec<_> =
        std::fs::read_dir(checkpoints::folder(&place.path("storm"))).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| n.to_str().is_some_and(|n| n.starts_with("step-"))), "orphans: {left:?}");
    eprintln!("{kills} kills, {last} steps");
    // The same steps without a kill: only when it saves is different.
    let mut calm = Trainer::start(place.pretrain("calm", &recipe).arg(format!("--save-every={last}")));
    calm.wait_for_kind("Checkpoint");
    calm.kill();
    calm.end();
    for file in TENSORS {
        assert!(place.checkpoint("storm", last, file) == place.checkpoint("calm", last, file), "seed {seed}: {file} differs");
    }
}

/// Where there is a second device: the run continues on it, and reports that bits may differ.
#[test]
fn a_run_resumes_on_another_device_with_a_warning() {
    let Some(other) = device::adapters().into_iter().find(|a| a.kind != Kind::Cpu) else { return };
    let place = Place::new();
    let mut trainer = Trainer::start(place.pretrain("run", RECIPE).args(["--adapter", "cpu"]));
    trainer.wait_for_step(8);
    trainer.signal("INT");
    assert_eq!(trainer.end().code(), Some(130), "{}", trainer.diagnostics());
    let mut resumed = Trainer::start(&mut place.resume("run", &["--adapter", &other.index.to_string()]));
    assert_eq!(resumed.end().code(), Some(0), "{}", resumed.diagnostics());
    let warnings = kind(&resumed.received, "Warning");
    let says = |text: &str| warnings.iter().any(|w| w["text"].as_str().is_some_and(|t| t.contains(text)));
    assert!(says("continues on") && says(&other.name), "{warnings:?}");
    assert_eq!(step_numbers(&place.events("run")), (1..=STEPS).collect::<Vec<_>>());
}

#[test]
fn a_flipped_bit_falls_back_to_the_previous_checkpoint() {
    let place = Place::new();
    straight(&place);
    let seed = random();
    let mut trainer = Trainer::start(&mut place.pretrain("run", RECIPE));
    trainer.wait_for_step(20);
    trainer.signal("INT");
    assert_eq!(trainer.end().code(), Some(130), "{}", trainer.diagnostics());
    let newest = checkpoints::newest_valid(&RealFs, &place.path("run")).unwrap().found.unwrap();
    let names = ["model.safetensors", "optimizer.safetensors", "trainer.json", "config.json", "MANIFEST.json"];
    let file = newest.path.join(names[(seed % names.len() as u64) as usize]);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = (seed / 7) as usize % bytes.len();
    bytes[at] ^= 1 << (seed % 8);
    std::fs::write(&file, bytes).unwrap();
    let what = format!("seed {seed}: bit {} of byte {at} of {}", seed % 8, file.display());
    let resumed = finish(&place, "run");
    let before = resumed.received.iter().find(|e| e["event"] == "Started").unwrap()["step"].as_u64().unwrap();
    assert!(before < newest.step() && before >= 12, "{what}: went on from {before}");
    let warned = kind(&resumed.received, "Warning")
        .iter()
        .filter(|w| w["text"].as_str().unwrap().contains(&checkpoint::step_name(newest.step())))
        .count();
    assert!(warned > 0, "{what}: {:?}", resumed.received);
    same_as_straight(&place, "run");
}

// Length: one conversation.
#[test]
fn every_command_is_answered() {
    let place = Place::new();
    let recipe =
        ["--max-steps=40", "--eval-every=0", "--save-every=0", "--control", "--lr-scheduler=constant", "--sample-tokens=0"];
    let mut t = Trainer::start(&mut place.pretrain("run", &recipe));
    t.send(r#"{"command":"Pause"}"#);
    let at = t.wait_for_kind("Paused")["step"].as_u64().unwrap();
    t.send(r#"{"command":"Step"}"#);
    assert_eq!(t.wait_for_kind("Step")["step"], at + 1);
    t.send(r#"{"command":"SetHyper","learning_rate_scale":0.5,"max_grad_norm":0.25}"#);
    let changed = t.wait_for_kind("HyperChanged");
    assert_eq!(
        (&changed["name"], &changed["before"], &changed["after"]),
        (&json!("learning_rate_scale"), &json!(1.0), &json!(0.5))
    );
    let changed = t.wait_for_kind("HyperChanged");
    assert_eq!((&changed["name"], &changed["before"], &changed["after"]), (&json!("max_grad_norm"), &json!(1.0), &json!(0.25)));
    loop {
        t.send(r#"{"command":"Step"}"#);
        if t.wait_for_kind("Step")["step"].as_u64() >= Some(5) {
            break;
        }
    }
    assert_eq!(t.received.last().unwrap()["learning_rate"], json!(0.005), "half of the rate after the warm-up");
    t.send(r#"{"command":"SaveNow"}"#);
    let saved = t.wait_for_kind("Checkpoint");
    assert!(place.path(saved["path"].as_str().unwrap()).join("MANIFEST.json").is_file(), "{saved}");
    t.send(r#"{"command":"EvalNow"}"#);
    assert!(t.wait_for_kind("Eval")["eval_loss"].is_f64());
    t.send(r#"{"command":"SampleNow","prompt":"the "}"#);
    let sample = t.wait_for_kind("Sample");
    assert!(sample["prompt"] == "the " && !sample["text"].as_str().unwrap().is_empty(), "{sample}");
    for wrong in [
        "not JSON",
        r#"{"command":"Fly"}"#,
        r#"{"command":"SetHyper","learning_rat":1}"#,
        r#"{"command":"SetHyper","learning_rate_scale":-1}"#,
        r#"{"command":"SampleNow"}"#,
        r##"{"command":"SampleNow","prompt":"#$%&"}"##,
        "\u{1b}[2J",
        "[]",
    ] {
        t.send(wrong);
        let warning = t.wait_for_kind("Warning");
        assert!(!warning["text"].as_str().unwrap().chars().any(char::is_control), "{warning}");
    }
    // A long prompt or an empty one is no reason to fall over either.
    for prompt in ["the ".repeat(100), String::new()] {
        t.send(&json!({"command": "SampleNow", "prompt": prompt}).to_string());
        t.wait_for("an answer", |e| e["event"] == "Warning" || e["event"] == "Sample");
    }
    t.send(r#"{"command":"Resume"}"#);
    assert!(t.wait_for_kind("Resumed")["step"].as_u64() >= Some(5));
    let next = t.wait_for_kind("Step");
    assert_eq!(next["learning_rate"], json!(0.005), "{next}");
    t.send(r#"{"command":"Stop"}"#);
    let finished = t.wait_for_kind("Finished");
    t.end();
    if finished["reason"] == "stopped" {
        // What was changed while it ran is part of the run.
        let mut resumed = Trainer::start(&mut place.resume("run", &[]));
        assert_eq!(resumed.end().code(), Some(0), "{}", resumed.diagnostics());
        assert!(kind(&resumed.received, "Step").iter().all(|s| s["learning_rate"] == json!(0.005)));
    }
    let log = place.events("run");
    assert_eq!(step_numbers(&log), (1..=40).collect::<Vec<_>>());
    for answer in ["Paused", "Resumed", "HyperChanged", "Checkpoint", "Eval", "Sample", "Warning"] {
        assert!(!kind(&log, answer).is_empty(), "{answer} is in the log");
    }
}

/// Step by step to the end: the exact number of updates, with evaluations and saves at their scheduled steps.
#[test]
fn single_steps_equal_a_continuous_run() {
    let place = Place::new();
    straight(&place);
    let mut t = Trainer::start(place.pretrain("run", RECIPE).arg("--control"));
    t.send(r#"{"command":"Pause"}"#);
    let at = t.wait_for_kind("Paused")["step"].as_u64().unwrap();
    for step in at + 1..=STEPS {
        t.send(r#"{"command":"Step"}"#);
        assert_eq!(t.wait_for_kind("Step")["step"], step);
    }
    t.send(r#"{"command":"Step"}"#);
    t.wait_for_kind("Warning");
    t.send(r#"{"command":"Resume"}"#);
    assert_eq!(t.wait_for_kind("Finished")["step"], STEPS);
    assert_eq!(t.end().code(), Some(0), "{}", t.diagnostics());
    same_as_straight(&place, "run");
}

#[test]
fn a_changed_text_is_detected() {
    let place = Place::new();
    let mut t = Trainer::start(&mut place.pretrain("run", &["--max-steps=100000", "--save-every=2", "--eval-every=0"]));
    t.wait_for_kind("Checkpoint");
    t.signal("INT");
    assert_eq!(t.end().code(), Some(130), "{}", t.diagnostics());
    let before = place.events("run");
    std::fs::write(place.path("text.txt"), common::text(7000)).unwrap();
    let output = run(&mut place.resume("run", &[]));
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert!(output.err.contains("error: the text of --data has changed"), "{}", output.err);
    // Refused before anything is touched, so that putting the text back is all it takes.
    assert_eq!(before, place.events("run"));
    std::fs::write(place.path("text.txt"), common::text(6000)).unwrap();
    let mut t = Trainer::start(&mut place.resume("run", &[]));
    t.wait_for_kind("Step");
}

/// Different characters, but as many as before: the number of tokens is the same.
#[test]
fn a_changed_text_of_the_same_length_is_detected() {
    let place = Place::new();
    let text = common::text(6000);
    let finished = run(&mut place.pretrain("run", &["--max-steps=4", "--eval-every=0"]));
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    let halves = text.split_at(text.char_indices().nth(3000).map_or(0, |(at, _)| at));
    for (changed, wanted) in [
        (
            format!("{}{}", halves.1, halves.0),
            "the text of --data has changed: as much as before, but another, or in another order",
        ),
        (text.replacen(|c: char| c.is_alphabetic(), "\u{2603}", 1), "the data of this run differs from the data at its start"),
    ] {
        std::fs::write(place.path("text.txt"), changed).unwrap();
        let output = run(&mut place.resume("run", &["--max-steps=8"]));
        assert!(output.code == Some(1) && output.err.contains(wanted), "{}", output.err);
    }
    std::fs::write(place.path("text.txt"), text).unwrap();
    let output = run(&mut place.resume("run", &["--max-steps=8"]));
    assert_eq!(output.code, Some(0), "{}", output.err);
}

/// A finished run continues with its moments: under a constant rate it comes to the bits of a run that was that long from the start.
#[test]
fn a_finished_run_is_extended() {
    let place = Place::new();
    let recipe = |steps: &'static str| {
        [&["--lr-scheduler=constant", "--eval-every=0", "--save-every=4", "--tensorboard"], &[steps][..]].concat()
    };
    for (name, steps) in [("long", "--max-steps=12"), ("short", "--max-steps=8")] {
        let output = run(&mut place.pretrain(name, &recipe(steps)));
        assert_eq!(output.code, Some(0), "{}", output.err);
    }
    let output = run(&mut place.resume("short", &[]));
    assert!(output.code == Some(0), "{}", output.err);
    let warned =
        |events: &[Value], words: &str| kind(events, "Warning").iter().any(|w| w["text"].as_str().unwrap().contains(words));
    assert!(
        output.out.contains("the run has made all of its 8 steps; --max-steps N lets it make more"),
        "{}{}",
        output.out,
        output.err
    );
    // Its final evaluation is not repeated.
    let events = place.events("short");
    assert_eq!(kind(&events, "Eval").iter().filter(|eval| eval["step"] == 8).count(), 1);
    assert_eq!(events.last().unwrap()["eval_loss"], kind(&events, "Eval").last().unwrap()["eval_loss"]);
    let output = run(&mut place.resume("short", &["--max-steps=8"]));
    assert!(
        output.code == Some(2) && output.err.contains("--max-steps 8: the run has made 8 steps; name a number above that"),
        "{}",
        output.err
    );
    let output = run(&mut place.resume("short", &["--max-steps=12"]));
    assert_eq!(output.code, Some(0), "{}", output.err);
    for file in TENSORS {
        assert!(place.checkpoint("short", 12, file) == place.checkpoint("long", 12, file), "{file} differs");
    }
    assert_eq!(step_numbers(&place.events("short")), (1..=12).collect::<Vec<_>>());
    assert!(!warned(&place.events("short"), "made all"));
    // The number is written down: it is resumed without it, and cannot be taken for finished.
    let config = std::fs::read_to_string(place.path("short/config.toml")).unwrap();
    assert!(config.contains("max_steps = 12"), "{config}");
    // TensorBoard drops everything after the resumed step, and keeps that step.
    let boards: Vec<_> = std::fs::read_dir(place.path("short")).unwrap().flatten().collect();
    let boards =
        boards.iter().filter(|e| e.file_name().to_string_lossy().contains("tfevents")).map(|e| std::fs::read(e.path()).unwrap());
    // Event { step: 9, session_log: { status: START } }
    assert!(boards.filter(|bytes| bytes.windows(6).any(|w| w == [2 << 3, 9, (7 << 3) | 2, 2, 1 << 3, 1])).count() >= 1);
}

#[test]
fn end_of_input_is_not_a_command() {
    let place = Place::new();
    let mut t = Trainer::start(place.pretrain("run", &["--max-steps=6", "--eval-every=0"]).arg("--control"));
    t.send(r#"{"command":"Pause"}"#);
    t.wait_for_kind("Paused");
    t.close_stdin();
    assert_eq!(t.wait_for_kind("Finished")["step"], 6, "a paused run without commands continues");
    assert_eq!(t.end().code(), Some(0), "{}", t.diagnostics());
}

//! Training that diverges: reported, rescued, given up; and all of it the same when the run is killed on the way.
#![cfg(unix)]

use crate::common;

use common::{Place, Trainer, kind, random, run, step_numbers};
use lehr::model_files::checkpoint::{self, Checkpoint};
use lehr::run_folder::checkpoints;
use lehr::vfs::RealFs;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

/// A warm-up to rates at which every model diverges: at some step the loss jumps by more than a nat and stays there. Nothing is random
/// about it, so that every start of the run meets the same spike.
const STEEP: &[&str] = &[
    "--hidden-size=16",
    "--intermediate-size=32",
    "--num-hidden-layers=1",
    "--num-attention-heads=2",
    "--batch-size=8",
    "--seq-len=32",
    "--eval-tokens=128",
    "--eval-every=60",
    "--lr-scheduler=constant",
    "--learning-rate=1.0",
    "--warmup-steps=300",
    "--max-grad-norm=0",
    "--save-every=20",
    "--keep-last=2",
];

fn steep(place: &Place, name: &str, more: &[&str]) -> Command {
    let mut command = place.lehr(["pretrain", "--data=text.txt", "--json", "--run", name]);
    command.args(STEEP).args(more);
    if !more.iter().any(|flag| flag.starts_with("--rescue-patience")) {
        command.arg("--rescue-patience=20");
    }
    if !more.iter().any(|flag| flag.starts_with("--max-steps")) {
        command.arg("--max-steps=300");
    }
    command
}

fn number(event: &Value, key: &str) -> u64 {
    event[key].as_u64().unwrap_or_else(|| panic!("{key}: {event}"))
}

fn warnings(events: &[Value]) -> Vec<&str> {
    kind(events, "Warning").iter().filter_map(|w| w["text"].as_str()).collect()
}

/// Median loss of the last 20 updates.
fn last_losses(events: &[Value]) -> f64 {
    let steps = kind(events, "Step");
    let mut losses: Vec<f64> = steps[steps.len() - 20..].iter().map(|s| s["loss"].as_f64().unwrap()).collect();
    losses.sort_by(f64::total_cmp);
    losses[10]
}

/// What every rescue must fulfil, in itself and against the log around it.
fn check_rescues(events: &[Value], method: &str) -> Vec<Value> {
    let mut rescues = Vec::new();
    for (at, r) in events.iter().enumerate().filter(|(_, e)| e["event"] == "Rescue") {
        let (step, to, onset) = (number(r, "step"), number(r, "to_step"), number(r, "onset"));
        assert!(to < onset && onset <= step, "{r}");
        assert_eq!((&r["method"], number(r, "count")), (&json!(method), rescues.len() as u64 + 1));
        let from: Vec<u64> = r["from_steps"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap()).collect();
        assert!(from.is_sorted() && from.last() == Some(&to) && from.iter().all(|s| s % 20 == 0), "{r}");
        let (before, peak) = (r["loss_before"].as_f64().unwrap(), r["loss_at_spike"].as_f64().unwrap());
        assert!(peak > before + 0.3 && r["eval_loss"].as_f64().unwrap() < peak, "{r}");
        // The log keeps what happened: up to the decision, and then on from where it went back to.
        let before: Vec<u64> = step_numbers(&events[..at]);
        assert_eq!(before.last(), Some(&step), "{r}");
        if let Some(next) = step_numbers(&events[at..]).first() {
            assert_eq!(*next, to + 1, "{r}");
        }
        rescues.push(r.clone());
    }
    rescues
}

/// The steps whose checkpoints are there, all valid.
fn kept(place: &Place, name: &str) -> BTreeSet<u64> {
    let found = checkpoints::list(&RealFs, &place.path(name)).unwrap();
    found.iter().for_each(|(_, path)| drop(Checkpoint::open(&RealFs, path).unwrap()));
    found.into_iter().map(|(step, _)| step).collect()
}

#[test]
fn rescue_off_reports_and_does_nothing() {
    let place = Place::new();
    let mut t = Trainer::start(&mut steep(&place, "run", &[]));
    assert_eq!(t.end().code(), Some(0), "{}", t.diagnostics());
    assert_eq!(step_numbers(&t.received), (1..=300).collect::<Vec<_>>());
    let reported = warnings(&t.received);
    assert!(reported.iter().any(|w| w.contains("the loss has risen to")), "{reported:?}");
    let diverged: Vec<_> = reported.iter().filter(|w| w.contains("has diverged")).collect();
    assert!(diverged.len() == 1 && diverged[0].contains("--rescue"), "{reported:?}");
    let last = t.received.last().unwrap();
    assert!(number(last, "spikes") >= 1 && number(last, "rescues") == 0, "{last}");
    assert!(t.stderr().contains("loss spike"), "{}", t.stderr());
    assert!(kind(&t.received, "Rescue").is_empty());
    assert_eq!(kept(&place, "run"), BTreeSet::from([280, 300]), "nothing is pinned");
}

#[test]
fn a_run_that_ends_in_a_spike_reports_it() {
    let place = Place::new();
    let mut t = Trainer::start(&mut steep(&place, "run", &["--rescue=pma", "--rescue-patience=200"]));
    assert_eq!(t.end().code(), Some(0), "{}", t.diagnostics());
    assert_eq!(number(t.received.last().unwrap(), "rescues"), 0);
    let reported = warnings(&t.received);
    let end = reported.iter().find(|w| w.contains("ends in a spike")).unwrap_or_else(|| panic!("{reported:?}"));
    let good: u64 = end.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(kept(&place, "run").contains(&good), "{end}");
}

/// Back with the same rate meets the same wall; with half of it, or a quarter, the run gets through, far below where it had been stuck.
#[test]
fn rollback_and_merge_rescue_the_run() {
    let place = Place::new();
    let mut off = Trainer::start(&mut steep(&place, "off", &[]));
    assert_eq!(off.end().code(), Some(0), "{}", off.diagnostics());
    let stuck = last_losses(&off.received);
    for (method, more) in [
        ("rollback", &["--rescue=rollback"][..]),
        ("rollback", &["--rescue=rollback", "--rescue-optimizer=reset", "--rescue-data=replay"]),
        ("pma", &["--rescue=pma"]),
        ("pma", &["--rescue=pma", "--rescue-optimizer=reset", "--rescue-data=skip"]),
    ] {
        let name = more.join("").replace("--", "-").trim_start_matches('-').to_string();
        let mut t = Trainer::start(&mut steep(&place, &name, more));
        assert_eq!(t.end().code(), Some(0), "{}", t.diagnostics());
        let output = t.received.iter().position(|e| e["event"] == "Started").unwrap();
        assert!(t.received[output..] == place.events(&name), "{name}: the log is what was said");
        let rescues = check_rescues(&t.received, method);
        assert!(!rescues.is_empty(), "{name}");
        let optimizer = if name.contains("reset") { "reset" } else { "keep" };
        let first = &rescues[0];
        assert_eq!((&first["optimizer"], &first["learning_rate_scale"]), (&json!(optimizer), &json!(1.0)));
        let skipped = number(first, "step") - number(first, "to_step");
        let skips = name.contains("skip") || (method == "rollback" && !name.contains("replay"));
        assert_eq!(number(first, "skipped_batches"), if skips { skipped } else { 0 }, "{first}");
        assert_eq!(first["from_steps"].as_array().unwrap().len(), if method == "pma" { 3 } else { 1 }, "{first}");
        // The same until it was seen, step by step.
        let at = number(first, "step") as usize;
        let losses = |events: &[Value]| kind(events, "Step").iter().take(at).map(|s| s["loss"].clone()).collect::<Vec<_>>();
        assert_eq!(losses(&t.received), losses(&off.received), "{name}");
        let through = last_losses(&t.received);
        eprintln!("{name}: {} rescues, {through:.2} instead of {stuck:.2}", rescues.len());
        assert!(through < stuck - 0.5, "{name}: {through} instead of {stuck}");
        let last = t.received.last().unwrap();
        assert_eq!((&last["reason"], number(last, "rescues")), (&json!("completed"), rescues.len() as u64));
        assert!(t.stderr().contains("rescue 1: back to step"), "{}", t.stderr());
        // Rates after the last rescue are what it says.
        let scale = rescues.last().unwrap()["learning_rate_scale"].as_f64().unwrap();
        let rate = kind(&t.received, "Step").last().unwrap()["learning_rate"].as_f64().unwrap();
        assert!((rate - scale).abs() < 1e-6, "{name}: {rate}");
    }
}

/// The merge from which a rescue continues, against plain loops over the files: their mean, as a model folder, has the same validation loss.
#[test]
fn a_merge_is_the_mean_of_its_checkpoints() {
    let place = Place::new();
    let mut t = Trainer::start(steep(&place, "run", &["--rescue=pma", "--rescue-limit=1"]).arg("--control"));
    let rescue = t.wait_for_kind("Rescue");
    t.kill();
    t.end();
    let checkpoints: Vec<Checkpoint> = rescue["from_steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| checkpoints::folder(&place.path("run")).join(checkpoint::step_name(s.as_u64().unwrap())))
        .map(|path| Checkpoint::open(&RealFs, &path).unwrap())
        .collect();
    assert_eq!(checkpoints.len(), 3);
    // The mean as a model folder of its own, evaluated by another command.
    let newest = &checkpoints[2];
    let merged = place.path("mean");
    std::fs::create_dir(&merged).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let _ = std::fs::copy(newest.path.join(file), merged.join(file));
    }
    let files: Vec<_> = checkpoints.iter().map(|c| c.weights(&RealFs).unwrap()).collect();
    let names: Vec<(String, Vec<usize>)> =
        files[0].names().map(|n| (n.to_string(), files[0].shape(n).unwrap().to_vec())).collect();
    let mut out = std::fs::File::create(merged.join("model.safetensors")).unwrap();
    lehr::model_files::safetensors_file::write_safetensors(&mut out, &Default::default(), &names, |name, sink| {
        let shape = &names.iter().find(|(n, _)| n == name).unwrap().1;
        let parts: Vec<Vec<f32>> = files.iter().map(|f| f.read_f32(name, shape).unwrap()).collect();
        let mean = |i: usize| (parts.iter().map(|p| f64::from(p[i])).sum::<f64>() / 3.0) as f32;
        sink.write(&(0..parts[0].len()).map(mean).collect::<Vec<_>>())
    })
    .unwrap();
    let begin = ["--max-steps=1", "--learning-rate=1e-9", "--min-learning-rate=0", "--warmup-steps=0", "--lr-scheduler=constant"];
    let mut judge = place.lehr(["pretrain", "--data=text.txt", "--json", "--run=judge", "--init=mean", "--batch-size=8"]);
    judge.args(["--seq-len=32", "--eval-tokens=128"]).args(begin);
    let mut judge = Trainer::start(&mut judge);
    let eval = judge.wait_for_kind("Eval");
    assert_eq!(judge.end().code(), Some(0), "{}", judge.diagnostics());
    let (own, other) = (rescue["eval_loss"].as_f64().unwrap(), eval["eval_loss"].as_f64().unwrap());
    // The same bits, except for weights whose mean lies between two f32.
    assert!((own - other).abs() < 1e-5, "{own} {other}");
}

#[test]
fn a_hopeless_run_ends_with_a_summary() {
    let place = Place::new();
    let output = run(&mut steep(&place, "run", &["--rescue=rollback", "--rescue-limit=1"]));
    assert_eq!(output.code, Some(1), "{}", output.err);
    let errors: Vec<_> = output.err.lines().filter(|l| l.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{}", output.err);
    for part in ["training diverged", "the loss rose from", "1 rescues within 2000", "back to", "--learning-rate", "--fork run@"]
    {
        assert!(errors[0].contains(part), "'{part}' is missing: {}", errors[0]);
    }
    let log = place.events("run");
    let rescues = check_rescues(&log, "rollback");
    assert_eq!(rescues.len(), 1);
    let last = log.last().unwrap();
    assert_eq!(last["event"], "Failed");
    assert!(errors[0].ends_with(last["text"].as_str().unwrap()), "{last} {}", errors[0]);
    // The named checkpoint can be resumed.
    let fork = errors[0].split("--fork ").nth(1).unwrap().split(' ').next().unwrap();
    let step: u64 = fork.strip_prefix("run@").unwrap().parse().unwrap();
    assert!(kept(&place, "run").contains(&step), "{fork}");
    let mut child =
        Trainer::start(&mut place.lehr(["pretrain", "--json", "--fork", fork, "--run=child", "--learning-rate=0.01"]));
    let first = child.wait_for_kind("Step");
    assert_eq!(number(&first, "step"), step + 1);
    child.kill();
}

/// The good ones stay whatever --keep-last says, also through a storm of saves.
#[test]
fn good_checkpoints_are_kept() {
    let place = Place::new();
    let mut t = Trainer::start(&mut steep(&place, "run", &["--rescue=pma", "--rescue-patience=60", "--max-steps=1000"]));
    let rescue = t.wait_for_kind("Rescue");
    t.kill();
    t.end();
    let from: BTreeSet<u64> = rescue["from_steps"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap()).collect();
    assert_eq!(from.len(), 3);
    let there = kept(&place, "run");
    assert!(from.is_subset(&there), "{from:?} {there:?}");
    // Nothing of the discarded steps is left, whether or not the run continued before the kill.
    let reported: Vec<u64> = kind(&place.events("run"), "Checkpoint").iter().map(|c| number(c, "step")).collect();
    let newest_before = reported.iter().filter(|s| **s < number(&rescue, "step")).max().unwrap();
    assert!(*newest_before > number(&rescue, "to_step"), "saves went on during the spike: {reported:?}");
}

/// Killed and stopped at any point, before the spike, in it, after the rescue: the same bits and the same events.
#[test]
fn resuming_across_a_rescue_is_bit_identical() {
    let place = Place::new();
    for (method, seed) in [("rollback", random()), ("pma", random())] {
        let rescue = format!("--rescue={method}");
        let straight = format!("straight-{method}");
        let mut t = Trainer::start(&mut steep(&place, &straight, &[&rescue]));
        assert_eq!(t.end().code(), Some(0), "{}", t.diagnostics());
        let all = kind(&t.received, "Step").len() as u64;
        for (i, signal) in ["KILL", "INT", "KILL"].into_iter().enumerate() {
            let name = format!("{method}-{i}");
            let mut next = Trainer::start(&mut steep(&place, &name, &[&rescue]));
            let mut received = 0;
            let mut cuts = Vec::new();
            for cut in 0..3 {
                // A number of updates later, counted across rescues.
                let more = 25 + seed.rotate_right(8 * (3 * i + cut) as u32) % (all / 2);
                let mut left = more;
                let ended = loop {
                    match next.try_wait_for(|e| e["event"] == "Step") {
                        None => break true,
                        Some(_) if left == 0 => break false,
                        Some(_) => left -= 1,
                    }
                };
                received += more;
                if ended {
                    break;
                }
                cuts.push(received);
                next.signal(signal);
                next.end();
                next = Trainer::start(&mut place.resume(&name, &[]));
            }
            let what = format!("{name}: {signal} after {cuts:?} updates, seed {seed}");
            assert_eq!(next.end().code(), Some(0), "{what}\n{}", next.diagnostics());
            for file in ["model.safetensors", "optimizer.safetensors"] {
                assert!(place.checkpoint(&name, 300, file) == place.checkpoint(&straight, 300, file), "{what}: {file} differs");
            }
            let story = |run: &str| -> Vec<Value> {
                let keys = ["event", "step", "loss", "grad_norm", "learning_rate", "to_step", "from_steps", "eval_loss", "count"];
                let reported = place.events(run);
                let reported = reported.iter().filter(|e| ["Step", "Rescue", "Eval"].contains(&e["event"].as_str().unwrap()));
                reported.map(|e| keys.iter().map(|k| e[*k].clone()).collect()).collect()
            };
            assert_eq!(story(&name), story(&straight), "{what}");
            let (ours, theirs) = (place.events(&name), place.events(&straight));
            for key in ["spikes", "rescues", "grad_norm", "eval_loss", "step"] {
                assert_eq!(ours.last().unwrap()[key], theirs.last().unwrap()[key], "{what}: {key}");
            }
        }
    }
}

/// A live setting that breaks a run is taken back with it.
#[test]
fn a_live_setting_that_caused_the_spike_is_reverted() {
    let place = Place::new();
    let calm = ["--max-steps=100", "--save-every=20", "--rescue=rollback", "--rescue-patience=10", "--eval-every=0", "--control"];
    let mut t = Trainer::start(&mut place.pretrain("run", &calm));
    t.send(r#"{"command":"Pause"}"#);
    let mut at = number(&t.wait_for_kind("Paused"), "step");
    while at < 70 {
        t.send(r#"{"command":"Step"}"#);
        at = number(&t.wait_for_kind("Step"), "step");
    }
    t.send(r#"{"command":"SetHyper","learning_rate_scale":3000}"#);
    t.wait_for_kind("HyperChanged");
    t.send(r#"{"command":"Resume"}"#);
    let rescue = t.wait_for_kind("Rescue");
    assert!(number(&rescue, "onset") > 70 && number(&rescue, "to_step") == 40, "{rescue}");
    let back = t.wait_for_kind("HyperChanged");
    assert_eq!((&back["before"], &back["after"]), (&json!(3000.0), &json!(1.0)));
    assert_eq!(t.end().code(), Some(0), "{}", t.diagnostics());
    let last = kind(&t.received, "Step").last().unwrap()["loss"].as_f64().unwrap();
    assert!(last < rescue["loss_at_spike"].as_f64().unwrap() / 2.0, "{last} {rescue}");
}

#[test]
fn invalid_settings_are_refused_in_one_line() {
    let place = Place::new();
    for (args, parts) in [
        (&["--rescue=pma", "--save-every=0"][..], &["--rescue pma", "--save-every 0"][..]),
        (&["--rescue=rollback", "--rescue-data=replay"], &["--rescue-data replay", "same spike", "--rescue-data skip"]),
        (&["--rescue=rollback", "--rescue-limit=0"], &["--rescue-limit 0", "between 1"]),
        (&["--rescue-patience=0"], &["--rescue-patience 0", "between 1"]),
    ] {
        let output = run(&mut place.pretrain("run", args));
        assert_eq!(output.code, Some(2), "{args:?}: {}", output.err);
        let errors: Vec<_> = output.err.lines().collect();
        assert!(errors.len() == 1 && parts.iter().all(|p| errors[0].contains(p)), "{args:?}: {}", output.err);
        assert!(!place.path("run").exists(), "nothing was written");
    }
}

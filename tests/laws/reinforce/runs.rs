//! `lehr grpo` as a command: events, samples, signals, commands, refusals.

use crate::common::{Place, Trainer, json_lines, kind, run, step_numbers};
use serde_json::Value;
use std::path::Path;

/// A model that knows the words of compact puzzles and nothing else.
pub fn base(place: &Place) {
    let rows = ["data", "kk", "--form=compact", "--people=2-3", "--count=200", "--seed=1", "--out=rows.jsonl"];
    assert_eq!(run(&mut place.lehr(rows)).code, Some(0));
    let model = ["--hidden-size=16", "--intermediate-size=32", "--num-hidden-layers=1", "--num-attention-heads=2"];
    let mut pretrain =
        place.lehr(["pretrain", "--data=rows.jsonl", "--tokenizer=words", "--run=base", "--max-steps=40", "--json"]);
    pretrain.args(model).args(["--batch-size=8", "--seq-len=96", "--learning-rate=1e-2", "--warmup-steps=3", "--eval-tokens=96"]);
    json_lines(&mut pretrain);
}

const STEP: &[&str] = &[
    "grpo",
    "--init=base",
    "--task=kk",
    "--form=compact",
    "--people=2-3",
    "--batch-size=8",
    "--num-generations=4",
    "--max-completion-length=24",
    "--max-prompt-length=60",
    "--learning-rate=1e-3",
    "--eval-questions=6",
    "--json",
];

fn grpo(place: &Place, name: &str, more: &[&str]) -> std::process::Command {
    let mut command = place.lehr(STEP);
    command.args(["--run", name]).args(more);
    command
}

pub fn weights(place: &Place, name: &str, step: u64) -> Vec<u8> {
    place.checkpoint(name, step, "model.safetensors")
}

fn samples(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path.join("samples.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Completions are packed into rows: the plan speaks of both.
#[test]
fn a_dry_run_plans_completion_rows() {
    let place = Place::new();
    base(&place);
    let output = run(place.lehr(STEP.iter().filter(|arg| **arg != "--json")).args(["--micro-batch-size=4", "--dry-run"]));
    assert_eq!(output.code, Some(0), "{}", output.err);
    // A prompt and its completion have 60 + 24 tokens at most.
    let words = "micro-batch  4 rows of 84 tokens, into which the 8 completions of a step are packed";
    assert!(output.out.contains(words) && !output.out.contains("sequences"), "{}", output.out);
}

#[test]
fn a_run_logs_every_documented_metric() {
    let place = Place::new();
    base(&place);
    let more =
        ["--max-steps=4", "--eval-every=2", "--log-completions=2", "--probe-every=2", "--lopti-eta=0.3", "--reweight-alpha=0.2"];
    let events = json_lines(&mut grpo(&place, "run", &more));
    assert_eq!(step_numbers(&events), [1, 2, 3, 4]);
    assert_eq!(kind(&events, "Started")[0]["stage"], "grpo");
    let step = kind(&events, "Step")[1].clone();
    for name in [
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/format/mean",
        "accuracy",
        "accuracy/2",
        "completions/mean_length",
        "completions/clipped_ratio",
        "clip_ratio/low_mean",
        "clip_ratio/high_mean",
        "mismatch/logprob_max_abs",
        "timing_s/gen",
        "timing_s/old_log_prob",
        "timing_s/update_actor",
        "step_time",
        "lopti/low/grad_norm",
        "lopti/high/grad_norm",
    ] {
        assert!(step[name].is_number(), "{name} in {step}");
    }
    // Sampler and trainer compute the same in another order.
    assert!(step["mismatch/logprob_max_abs"].as_f64().unwrap() < 1e-3, "{step}");
    let tokens = kind(&events, "Tokens");
    assert_eq!(tokens.len(), 4);
    assert!(tokens[0].get("probe").is_none() && tokens[1]["probe"].is_object() && tokens[1]["gradient"].is_object());
    let count: u64 = tokens[1]["quartiles"]["all"]["count"].as_array().unwrap().iter().filter_map(Value::as_u64).sum();
    // Before, during and after training, greedy and sampled each time.
    let exams = kind(&events, "TaskEval");
    assert_eq!(exams.len(), 6, "{exams:?}");
    assert!(exams.iter().all(|e| e["count"] == 6));
    let kept = samples(&place.path("run"));
    assert_eq!(kept.len(), 16);
    let lengths: u64 = kept[..8].iter().map(|s| s["tokens"].as_array().unwrap().len() as u64).sum();
    assert_eq!(lengths, count, "samples and statistics are of the same step");
    for sample in &kept {
        let n = sample["tokens"].as_array().unwrap().len();
        for per_token in ["pieces", "logprobs", "entropy", "advantages"] {
            assert_eq!(sample[per_token].as_array().unwrap().len(), n, "{per_token}");
        }
        assert!(sample["prompt"].as_str().unwrap().ends_with("<think>"), "{sample}");
    }
    let finished = &kind(&events, "Finished")[0];
    assert!(finished["accuracy"].is_number() && finished["reason"] == "completed", "{finished}");
}

#[test]
fn interrupted_and_resumed_is_uninterrupted() {
    let place = Place::new();
    base(&place);
    let more = ["--max-steps=5", "--mini-batch-size=4", "--lopti-eta=0.3", "--beta=0.01", "--log-completions=1"];
    json_lines(&mut grpo(&place, "straight", &more));
    for cut in 1..4u64 {
        let name = format!("cut-{cut}");
        let mut child = Trainer::start(&mut grpo(&place, &name, &more));
        child.wait_for_step(cut);
        // At some point of the next step: while it samples, or between two of its updates.
        std::thread::sleep(std::time::Duration::from_millis(7 * cut * cut));
        child.signal("TERM");
        let code = child.end().code();
        if code == Some(0) {
            continue; // it had come to its end
        }
        assert_eq!(code, Some(130), "{}", child.diagnostics());
        let mut resume = place.lehr(["grpo", "--json", "--resume", &name]);
        json_lines(&mut resume);
        assert!(weights(&place, &name, 5) == weights(&place, "straight", 5), "cut after step {cut}: other weights");
        assert_eq!(step_numbers(&place.events(&name)), [1, 2, 3, 4, 5]);
        let [a, b] = [&name, "straight"].map(|n| samples(&place.path(n)));
        assert!(a == b, "cut after step {cut}: other samples");
    }
}

#[test]
fn live_settings_are_reported() {
    let place = Place::new();
    base(&place);
    let mut child = Trainer::start(&mut grpo(&place, "run", &["--max-steps=300", "--control"]));
    child.wait_for_step(1);
    child.send(r#"{"command":"SetHyper","reweight_alpha":0.3,"lopti_eta":0.5,"temperature":0.9}"#);
    for (name, after) in [("temperature", 0.9), ("reweight_alpha", 0.3), ("lopti_eta", 0.5)] {
        let event = child.wait_for_kind("HyperChanged");
        assert_eq!((event["name"].as_str(), event["after"].as_f64()), (Some(name), Some(after)));
    }
    child.send(r#"{"command":"SetHyper","temperature":0.0}"#);
    let warning =
        child.wait_for("a refusal", |e| e["event"] == "Warning" && e["text"].as_str().is_some_and(|t| t.contains("temperature")));
    assert!(warning["text"].as_str().unwrap().contains("above 0"), "{warning}");
    child.wait_for("a step by Lopti", |e| e["event"] == "Step" && e["lopti/low/grad_norm"].is_number());
    child.send(r#"{"command":"Pause"}"#);
    let paused = child.wait_for_kind("Paused")["step"].as_u64().unwrap();
    child.send(r#"{"command":"Step"}"#);
    let step = child.wait_for_kind("Step");
    assert_eq!(step["step"].as_u64(), Some(paused + 1));
    child.send(r#"{"command":"Stop"}"#);
    assert_eq!(child.end().code(), Some(130));
}

#[test]
fn a_reference_model_is_kept_with_the_run() {
    let place = Place::new();
    base(&place);
    let mut child = Trainer::start(&mut grpo(&place, "run", &["--max-steps=200", "--beta=0.1"]));
    let step = child.wait_for_step(2);
    assert!(step["kl"].is_number(), "{step}");
    child.signal("TERM");
    assert_eq!(child.end().code(), Some(130));
    assert!(place.path("run/reference/model.safetensors").is_file());
    std::fs::rename(place.path("run/reference"), place.path("elsewhere")).unwrap();
    let output = run(&mut place.lehr(["grpo", "--resume", "run"]));
    assert_eq!((output.code, output.err.lines().filter(|l| l.starts_with("error: ")).count()), (Some(1), 1), "{}", output.err);
    assert!(output.err.contains("reference") && output.err.contains("--beta 0.1"), "{}", output.err);
}

#[test]
fn invalid_settings_are_refused_in_one_line() {
    let place = Place::new();
    base(&place);
    for (more, says) in [
        (&["--batch-size=10"][..], "--batch-size 10"),
        (&["--mini-batch-size=3"], "--mini-batch-size 3"),
        (&["--temperature=0"], "--temperature 0"),
        (&["--people=1"], "--people 1"),
        (&["--people=9"], "--people 9"),
        (&["--lopti-eta=1.5"], "--lopti-eta 1.5"),
        (&["--reweight-alpha=-0.1"], "--reweight-alpha"),
        (&["--mask-bins=5"], "--mask-bins 5"),
        (&["--delta=1.0"], "--delta 1"),
        (&["--max-completion-length=4000"], "--max-completion-length 4000"),
        (&["--merge-every=5"], "--merge-every"),
        (&["--hidden-size=32"], "--hidden-size"),
        (&["--task=custom"], "--data"),
        (&["--num-generations=0"], "--num-generations 0"),
        (&["--epsilon=2"], "--epsilon 2"),
    ] {
        let output = run(&mut grpo(&place, "no", more));
        let errors: Vec<&str> = output.err.lines().filter(|l| l.starts_with("error: ")).collect();
        assert!(output.code == Some(1) || output.code == Some(2), "{more:?}: {:?}\n{}", output.code, output.err);
        assert!(output.code == Some(2) || (errors.len() == 1 && errors[0].contains(says)), "{more:?}\n{}", output.err);
        assert!(!place.path("no").exists(), "{more:?} left something behind");
    }
    let output = run(&mut place.lehr(["grpo", "--task=kk"]));
    assert!(output.code == Some(2) && output.err.contains("--init"), "{}", output.err);
}

//! Every loss, clip fraction, KL, entropy, norm, every gradient of every pass, and every weight after the step, against PyTorch.

use crate::common::golden;
use crate::grpo::{Replay, tensors, worst};
use serde_json::Value;

/// Relative to |want| + rms(want): f32 against the reference's f64.
const GRADIENT: f64 = 5e-5;

fn matches(case: &str) {
    let text = std::fs::read_to_string(golden(&format!("grpo/{case}.json"))).unwrap();
    let want: Value = serde_json::from_str(&text).unwrap();
    let flags: Vec<&str> = want["flags"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    let model = want["model"].as_str().unwrap();
    let rows = want["rows"].as_array().unwrap();
    let got = Replay::of(model, rows, &flags);
    numbers(case, &got, &want);
    let reference = tensors(&golden(&format!("grpo/{case}.safetensors")));
    let several = want["passes"].as_array().unwrap().len() > 1;
    let before = tensors(&golden(&format!("{model}/model.safetensors")));
    let (mut seen, mut moved, mut off) = (0, 0.0, 0.0);
    for (name, values) in &reference {
        let (pass, parameter) = name.split_once('/').unwrap();
        seen += 1;
        if pass == "moved" {
            // Adam's first steps are signs of gradients: where a gradient is rounding, so is its step. Together they must fit.
            let after = &got.after[parameter];
            let steps = after.iter().zip(&before[parameter]).map(|(a, b)| a - b);
            off += steps.zip(values).map(|(got, want)| (got - want).powi(2)).sum::<f64>();
            moved += values.iter().map(|want| want.powi(2)).sum::<f64>();
            continue;
        }
        let key = if several { name.as_str() } else { parameter };
        let error = worst(&got.grads[key], values);
        assert!(error < GRADIENT, "{case}: gradient of {name} is off by {error:e}");
    }
    assert!(seen >= got.after.len(), "{case}: {seen} tensors");
    if moved > 0.0 {
        let error = (off / moved).sqrt();
        assert!(error < 2e-4, "{case}: weights moved otherwise by {error:e}");
    }
}

fn numbers(case: &str, got: &Replay, want: &Value) {
    let list = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    for (i, row) in got.rows.iter().enumerate() {
        for (name, of) in [("advantages", "advantages"), ("new_logprobs", "after")] {
            let error = worst(&list(&row[name]), &list(&want[of][i]));
            assert!(error < 1e-4, "{case}: {name} of row {i} are off by {error:e}");
        }
    }
    let names: Vec<&str> = want["passes"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(got.passes(), names, "{case}");
    for (pass, wanted) in want["passes"].as_array().unwrap().iter().enumerate() {
        let updates = wanted["updates"].as_array().unwrap();
        let report = got.report["passes"][pass]["updates"].as_array().unwrap();
        assert_eq!(report.len(), updates.len(), "{case}: updates of {}", names[pass]);
        for (i, (update, wanted)) in report.iter().zip(updates).enumerate() {
            for (name, want) in wanted.as_object().unwrap() {
                let (got, want) = (update[name].as_f64().unwrap(), want.as_f64().unwrap());
                let place = format!("{case}: {name} of update {i} of {}", names[pass]);
                assert!((got - want).abs() < 5e-5 * (1.0 + want.abs()), "{place} is {got}, not {want}");
            }
        }
    }
}

/// KL, entropy bonus, lower, upper and dual clip, temperature: llama, grouped queries, untied.
#[test]
fn the_full_loss_matches() {
    matches("plain");
}

/// Two passes of two mini-batches each, Advantage Reweighting, KL, AdamW: qwen2.
#[test]
fn lopti_with_reweighting_matches() {
    matches("lopti");
}

/// REINFORCE++, plain gradient descent, two quartiles only, masked truncated completions: qwen3.
#[test]
fn reinforce_plus_plus_with_sgd_matches() {
    matches("sgd");
}

/// Two iterations of high-first passes by share with moments of their own: tied llama.
#[test]
fn iterations_with_separate_moments_match() {
    matches("iterations");
}

//! The internals in a run's log, for each stage, and samples on request.

use crate::common::{Place, TINY, Trainer, json_lines, kind, run};
use serde_json::{Value, json};

fn steps(events: &[Value], of: &str) -> Vec<u64> {
    kind(events, of).iter().map(|e| e["step"].as_u64().unwrap()).collect()
}

fn list(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn the_log_contains_norms_and_predictions() {
    let place = Place::new();
    let recipe = ["--max-steps=9", "--eval-every=4", "--norms-every=3", "--save-every=0"];
    let events = json_lines(&mut place.pretrain("run", &recipe));
    assert_eq!(steps(&events, "Norms"), [1, 3, 6, 9]);
    assert_eq!(steps(&events, "Predictions"), steps(&events, "Eval"));
    for norms in kind(&events, "Norms") {
        assert_eq!(norms["parts"], json!(["embed", "layers.0", "norm"]));
        let at = events.iter().position(|e| e == norms).unwrap();
        assert_eq!((&events[at - 1]["event"], &events[at - 1]["step"]), (&json!("Step"), &norms["step"]));
        let whole = list(&norms["gradients"]).iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!((whole / events[at - 1]["grad_norm"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    }
    for predictions in kind(&events, "Predictions") {
        let count: u64 = predictions["deciles"]["count"].as_array().unwrap().iter().filter_map(Value::as_u64).sum();
        assert_eq!(predictions["tokens"], count);
        let at = events.iter().position(|e| e == predictions).unwrap();
        assert_eq!(events[at - 1]["event"], "Eval");
        assert!(count == events[at - 1]["eval_tokens"].as_u64().unwrap().min(4096));
    }
    // And one that does not want norms has the same weights.
    let events =
        json_lines(&mut place.pretrain("bare", &["--max-steps=9", "--eval-every=4", "--norms-every=0", "--save-every=0"]));
    assert!(kind(&events, "Norms").is_empty());
    assert_eq!(place.checkpoint("run", 9, "model.safetensors"), place.checkpoint("bare", 9, "model.safetensors"));
}

fn ask(t: &mut Trainer, command: Value) -> Value {
    t.send(&command.to_string());
    t.wait_for("an answer", |e| e["event"] == "Sample" || e["event"] == "Warning")
}

/// The fields of every sample.
fn check(sample: &Value) -> (String, Vec<f64>) {
    assert_eq!(sample["event"], "Sample", "{sample}");
    let pieces: Vec<&str> = sample["pieces"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(pieces.concat(), sample["text"].as_str().unwrap());
    let logprobs = list(&sample["logprobs"]);
    assert!(logprobs.len() == pieces.len() && logprobs.iter().all(|l| *l <= 0.0), "{sample}");
    (pieces.concat(), logprobs)
}

#[test]
fn samples_use_the_requested_temperature_and_length() {
    let place = Place::new();
    let recipe = ["--max-steps=100000", "--eval-every=0", "--save-every=0", "--control"];
    let mut t = Trainer::start(&mut place.pretrain("run", &recipe));
    t.wait_for_step(5);
    t.send(r#"{"command":"Pause"}"#);
    let at = t.wait_for_kind("Paused")["step"].clone();
    let greedy = json!({"command": "SampleNow", "prompt": "the ", "temperature": 0, "tokens": 9});
    let sample = ask(&mut t, greedy.clone());
    let (text, logprobs) = check(&sample);
    assert_eq!((&sample["step"], &sample["temperature"], logprobs.len()), (&at, &json!(0.0), 9));
    assert_eq!(check(&ask(&mut t, greedy)).0, text, "greedy is greedy");
    let by_chance = json!({"command": "SampleNow", "prompt": "the ", "temperature": 3.5, "tokens": 40});
    let draws: Vec<String> = (0..3).map(|_| check(&ask(&mut t, by_chance.clone())).0).collect();
    assert!(draws[0] != draws[1] && draws[1] != draws[2], "asked again, other draws come: {draws:?}");
    let old = ask(&mut t, json!({"command": "SampleNow", "prompt": "the "}));
    assert_eq!((check(&old).1.len(), &old["temperature"]), (200, &json!(0.8)), "a line of earlier versions");
    // Longer than the context of 16 tokens: it continues from its last half.
    assert_eq!(check(&ask(&mut t, json!({"command": "SampleNow", "prompt": "the ".repeat(9), "tokens": 50}))).1.len(), 50);
    for (field, value, words) in [
        ("temperature", json!(-0.5), "temperature -0.5: must be 0"),
        ("temperature", json!(1e9), "temperature 1000000000: must be 0"),
        ("temperature", json!("hot"), "not a command"),
        ("tokens", json!(0), "tokens 0: must lie between 1 and 4096"),
        ("tokens", json!(5000), "tokens 5000"),
        ("tokens", json!(-3), "not a command"),
        ("prompt", json!(""), "no sample"),
        ("prompt", json!("#"), "no sample"),
    ] {
        let mut line = json!({"command": "SampleNow", "prompt": "the "});
        line[field] = value;
        let warning = ask(&mut t, line);
        let output = warning["text"].as_str().unwrap_or_default();
        assert!(warning["event"] == "Warning" && output.contains(words) && !output.contains('\n'), "{words}: {warning}");
    }
    t.send(r#"{"command":"Stop"}"#);
    t.wait_for_kind("Finished");
    t.end();
    // The numbers of the greedy sample are those that the saved model gives that text.
    let mut score = place.lehr(["score", "--model=run", "--json", "--text"]);
    let scored = json_lines(score.arg(format!("the {text}"))).remove(0);
    for (got, want) in logprobs.iter().zip(&scored["logprobs"].as_array().unwrap()[4..]) {
        assert!((got - want.as_f64().unwrap()).abs() < 1e-3, "{got}, not {want}");
    }
}

/// A fine-tuned model gets the text as a user message, or verbatim; a policy too.
#[test]
fn fine_tuned_models_and_policies_generate_samples() {
    let place = Place::new();
    std::fs::write(place.path("base.txt"), crate::common::text(4000) + "system:\nuser:\nassistant:\n0123456789+-=?<>/|").unwrap();
    let mut base = place.lehr(["pretrain", "--data=base.txt", "--json", "--run=base", "--tokenizer=bytes"]);
    let shape = TINY.iter().filter(|a| !a.starts_with("--seq-len"));
    json_lines(base.args(shape).args(["--seq-len=96", "--max-steps=4", "--eval-every=0"]));
    let row = json!({"messages": [{"role": "user", "content": "kiln"}, {"role": "assistant", "content": "heat"}]});
    std::fs::write(place.path("rows.jsonl"), format!("{row}\n").repeat(20)).unwrap();
    let sft = ["sft", "--init=base", "--data=rows.jsonl", "--json", "--run=sft", "--control", "--batch-size=4"];
    let mut t =
        Trainer::start(place.lehr(sft).args(["--max-steps=100000", "--save-every=0", "--norms-every=2", "--learning-rate=2e-2"]));
    t.wait_for_step(80);
    t.send(r#"{"command":"Pause"}"#);
    t.wait_for_kind("Paused");
    assert!(!kind(&t.received, "Predictions").is_empty() && steps(&t.received, "Norms").starts_with(&[1, 2, 4]));
    let asked = ask(&mut t, json!({"command": "SampleNow", "prompt": "kiln", "chat": true, "temperature": 0, "tokens": 30}));
    assert_eq!((&asked["prompt"], &asked["chat"], check(&asked).0), (&json!("kiln"), &json!(true), "heat".to_owned()));
    let plain = ask(&mut t, json!({"command": "SampleNow", "prompt": "kiln", "temperature": 0, "tokens": 5}));
    assert!(check(&plain).1.len() <= 5 && plain.get("chat").is_none(), "{plain}");
    t.send(r#"{"command":"Stop"}"#);
    t.wait_for_kind("Finished");
    t.end();
    let grpo =
        ["grpo", "--init=base", "--task=math", "--json", "--run=grpo", "--control", "--batch-size=8", "--num-generations=4"];
    let more = ["--max-completion-length=8", "--max-prompt-length=80", "--eval-questions=2", "--save-every=0", "--norms-every=2"];
    let mut t = Trainer::start(place.lehr(grpo).args(more).args(["--lopti-eta=0.5", "--max-steps=100000"]));
    t.wait_for_step(4);
    t.send(r#"{"command":"Pause"}"#);
    t.wait_for_kind("Paused");
    assert!(steps(&t.received, "Norms").starts_with(&[1, 2, 4]), "{}", t.diagnostics());
    assert!(list(&kind(&t.received, "Norms")[0]["weights"]).iter().all(|n| *n > 0.0));
    let sample = ask(&mut t, json!({"command": "SampleNow", "prompt": "3+4", "temperature": 1.0, "tokens": 6}));
    assert_eq!((check(&sample).1.len() <= 6, &sample["temperature"]), (true, &json!(1.0)));
    t.send(r#"{"command":"Stop"}"#);
    t.wait_for_kind("Finished");
    t.end();
    assert_eq!(run(&mut place.lehr(["inspect", "--model=grpo", "--text=3+4", "--json"])).code, Some(0));
}

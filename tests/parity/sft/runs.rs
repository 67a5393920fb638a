//! `lehr sft` as a command: a run, a kill, a resume, refusals.

use crate::common::{Place, TINY, Trainer, json_lines, kind, random, run};
use lehr::data::Tokenizer;
use lehr::vfs::RealFs;
use serde_json::{Value, json};
use std::sync::OnceLock;

const STEPS: u64 = 14;
const RECIPE: &[&str] = &[
    "--max-steps=14",
    "--batch-size=4",
    "--micro-batch-size=2",
    "--learning-rate=1e-2",
    "--warmup-steps=2",
    "--eval-every=7",
    "--save-every=4",
    "--keep-last=9",
    "--adam-beta2=0.99",
];

/// A base model of characters and rows for it; tests only read it, and train into runs of their own.
fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::new();
        let text = lehr_text();
        std::fs::write(place.path("base.txt"), &text).unwrap();
        let mut base = place.lehr(["pretrain", "--data=base.txt", "--json", "--run", "base"]);
        base.args(TINY.iter().filter(|a| !a.starts_with("--seq-len"))).args(["--seq-len=64", "--max-steps=8", "--eval-every=0"]);
        json_lines(&mut base);
        let words = ["glass", "kiln", "sand", "heat", "slow"];
        let rows: String = (0..40)
            .map(|i| {
                let (a, b) = (words[i % 5], words[i / 5 % 5]);
                let mut messages = vec![json!({"role": "user", "content": a}), json!({"role": "assistant", "content": b})];
                if i % 3 == 0 {
                    messages
                        .extend([json!({"role": "user", "content": b}), json!({"role": "assistant", "content": "and so on"})]);
                }
                json!({ "messages": messages }).to_string() + "\n"
            })
            .collect();
        std::fs::write(place.path("rows.jsonl"), rows).unwrap();
        std::fs::write(place.path("pairs.jsonl"), "{\"prompt\": \"the \", \"completion\": \"kiln\"}\n".repeat(6)).unwrap();
        let mut straight = sft("straight", RECIPE);
        let output = run(&mut straight_in(&place, &mut straight));
        assert_eq!(output.code, Some(0), "{}", output.err);
        place
    })
}

fn lehr_text() -> String {
    let text = crate::common::text(4000);
    format!("{text}system:\nuser:\nassistant:\n")
}

fn sft(name: &str, more: &[&str]) -> Vec<String> {
    let start = ["sft", "--init", "base", "--data", "rows.jsonl", "--data", "pairs.jsonl:0.5", "--json", "--run", name];
    start.iter().chain(more).map(ToString::to_string).collect()
}

fn straight_in(place: &Place, args: &mut [String]) -> std::process::Command {
    place.lehr(args.iter())
}

#[test]
fn metrics_match_trl() {
    let place = place();
    let events = place.events("straight");
    let started = kind(&events, "Started")[0];
    assert_eq!((&started["stage"], &started["max_steps"]), (&json!("sft"), &json!(STEPS)));
    let steps = kind(&events, "Step");
    assert_eq!(steps.len() as u64, STEPS);
    for name in ["loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "num_tokens", "epoch"] {
        assert!(steps.iter().all(|s| s[name].is_number()), "{name}");
    }
    let number = |s: &Value, name: &str| s[name].as_f64().unwrap();
    assert!(steps.windows(2).all(|s| number(s[0], "num_tokens") < number(s[1], "num_tokens")));
    assert!(steps.iter().all(|s| (0.0..=1.0).contains(&number(s, "mean_token_accuracy"))));
    assert!(number(steps[13], "num_tokens") < 14.0 * 4.0 * 64.0, "padding is not counted");
    assert!(number(steps[13], "epoch") > 1.0);
    let evals = kind(&events, "Eval");
    let losses: Vec<f64> = evals.iter().map(|e| number(e, "eval_loss")).collect();
    assert!(losses[2] < losses[0], "it learns: {losses:?}");
    assert!(evals.len() == 3 && evals.iter().all(|e| e["eval_mean_token_accuracy"].is_number()));
    let warnings: String = kind(&events, "Warning").iter().map(|w| w["text"].as_str().unwrap()).collect();
    assert!(!warnings.contains("dropped"), "{warnings}");
}

#[test]
fn every_checkpoint_contains_the_template() {
    let place = place();
    for step in [4, 14] {
        let config: Value = serde_json::from_slice(&place.checkpoint("straight", step, "tokenizer_config.json")).unwrap();
        assert_eq!(config["chat_template"], lehr::data::chat::PLAIN);
    }
    let config = std::fs::read_to_string(place.path("straight/config.toml")).unwrap();
    assert!(config.contains("[sft]") && config.contains("packing = true") && config.contains("date = \"20"), "{config}");
    // The template of a file replaces the model's.
    std::fs::write(place.path("own.jinja"), "{% for m in messages %}{{ m.content + '\\n' }}{% endfor %}").unwrap();
    json_lines(&mut place.lehr(sft("own", &["--chat-template=own.jinja", "--num-train-epochs=1", "--eval-every=0"]).iter()));
    let folder = lehr::run_folder::checkpoints::newest_valid(&lehr::vfs::RealFs, &place.path("own")).unwrap().found.unwrap().path;
    let template = Tokenizer::from_folder(&RealFs, &folder).unwrap().chat_template().unwrap().unwrap();
    assert!(template.starts_with("{% for m in messages %}"), "{template}");
    let started = &kind(&place.events("own"), "Started")[0].clone();
    let last = kind(&place.events("own"), "Step").last().unwrap().to_owned().clone();
    assert_eq!(started["max_steps"], last["step"]);
    assert!((last["epoch"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{last}");
    // By default a run continues from it.
    json_lines(&mut place.lehr([
        "sft",
        "--init",
        "own",
        "--data",
        "rows.jsonl",
        "--json",
        "--run",
        "child",
        "--max-steps=1",
        "--eval-every=0",
    ]));
    let config: Value = serde_json::from_slice(&place.checkpoint("child", 1, "tokenizer_config.json")).unwrap();
    assert_eq!(config["chat_template"], template.as_str());
}

#[test]
fn killing_and_resuming_is_bit_identical() {
    let place = place();
    for (i, signal) in ["KILL", "TERM"].into_iter().enumerate() {
        let at = 5 + (random() >> i) % 7;
        let name = format!("{signal}-{at}");
        let mut trainer = Trainer::start(&mut place.lehr(sft(&name, RECIPE).iter()));
        trainer.wait_for_step(at);
        trainer.signal(signal);
        trainer.end();
        let mut resumed = Trainer::start(&mut place.lehr(["sft", "--json", "--resume", &name]));
        assert_eq!(resumed.end().code(), Some(0), "{}", resumed.diagnostics());
        for file in ["model.safetensors", "optimizer.safetensors", "tokenizer_config.json"] {
            assert!(place.checkpoint(&name, STEPS, file) == place.checkpoint("straight", STEPS, file), "{name}: {file} differs");
        }
        let figures = |run: &str| -> Vec<Value> {
            let events = place.events(run);
            let names = ["step", "loss", "grad_norm", "entropy", "mean_token_accuracy", "num_tokens", "epoch", "learning_rate"];
            kind(&events, "Step").iter().map(|s| names.iter().map(|n| s[*n].clone()).collect()).collect()
        };
        assert_eq!(figures(&name), figures("straight"), "{name}");
    }
}

#[test]
fn stages_refuse_each_others_runs_and_flags() {
    let place = place();
    let sft_args = |more: &[&str]| sft("never", more);
    let row = r#"{"messages":[{"role":"user","content":"3"},{"role":"assistant","content":"kiln"}]}"#;
    std::fs::write(place.path("digit.jsonl"), format!("{row}\n")).unwrap();
    let owned = |args: &[&str]| args.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (args, code, wanted) in [
        (owned(&["pretrain", "--resume", "straight"]), 2, "is a run of lehr sft; continue it with `lehr sft --resume straight`"),
        (owned(&["sft", "--resume", "base"]), 2, "is a run of lehr pretrain; continue it with `lehr pretrain --resume base`"),
        (owned(&["pretrain", "--data=base.txt", "--packing=false"]), 2, "--packing"),
        (owned(&["pretrain", "--data=base.txt", "--config=straight/config.toml"]), 2, "has a section [sft]"),
        (owned(&["pretrain", "--fork=straight@8"]), 2, "has a section [sft]"),
        (
            owned(&["sft", "--fork=base@8"]),
            2,
            "is a run of lehr pretrain, which has other data; start from its weights with --init",
        ),
        (owned(&["sft", "--data=rows.jsonl"]), 2, "--init: fine-tuning starts from a model"),
        (owned(&["sft", "--init=base"]), 2, "--data: no rows named"),
        (owned(&["sft", "--init=base", "--data=none.jsonl"]), 2, "--data none.jsonl: there is no such file"),
        (owned(&["sft", "--init=base", "--data=digit.jsonl"]), 1, "digit.jsonl:1: tokenizer: the character '3'"),
        (owned(&["sft", "--resume=straight", "--packing=false"]), 2, "--packing: a resumed run keeps the settings"),
        (sft_args(&["--max-steps=3", "--num-train-epochs=2"]), 2, "--max-steps: conflicts with --num-train-epochs"),
        (sft_args(&["--num-train-epochs=-1"]), 2, "--num-train-epochs -1: must be above 0"),
        (sft_args(&["--hidden-size=8"]), 2, "--hidden-size: fine-tuning takes shape and tokenizer from the model"),
        (sft_args(&["--preset=nano"]), 2, "--preset: fine-tuning takes"),
        (sft_args(&["--seq-len=4096"]), 2, "--seq-len 4096: this model takes at most"),
        (sft_args(&["--chat-template=none.jinja"]), 2, "--chat-template none.jinja"),
        (sft_args(&["--date=yesterday"]), 2, "--date yesterday: must be a day"),
    ] {
        let output = run(&mut place.lehr(args.iter()));
        assert_eq!(output.code, Some(code), "{args:?}: {}", output.err);
        assert!(output.err.contains(wanted), "{args:?}: {}\nwanted: {wanted}", output.err);
        let lines = output.err.lines().filter(|l| l.starts_with("error")).count();
        assert_eq!(lines, 1, "{args:?}: {}", output.err);
    }
    assert!(!place.path("never").exists());
}

#[test]
fn help_lists_only_flags_of_the_stage() {
    let place = place();
    let output = run(&mut place.lehr(["sft", "--help"]));
    let words: Vec<&str> = output.out.split_whitespace().map(|w| w.trim_end_matches([',', ';', '.'])).collect();
    for flag in [
        "--init",
        "--data",
        "--packing",
        "--assistant-only-loss",
        "--completion-only-loss",
        "--chat-template",
        "--num-train-epochs",
    ] {
        assert!(words.contains(&flag), "{flag}");
    }
    assert!(!words.contains(&"--hidden-size") && !words.contains(&"--preset") && !words.contains(&"--date"));
    assert!(output.out.contains("[default: 1e-4]") && output.out.contains("runs/sft-NNN"), "{}", output.out);
    let output = run(&mut place.lehr(["pretrain", "--help"]));
    assert!(!output.out.contains("--packing") && output.out.contains("runs/pretrain-NNN"));
    // The plan needs no more than a model and rows.
    let plan = json_lines(&mut place.lehr(["sft", "--init=base", "--data=rows.jsonl", "--dry-run", "--json"]));
    assert!(plan[0]["total_bytes"].as_u64() > Some(0));
}

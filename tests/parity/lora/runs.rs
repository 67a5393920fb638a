//! `lehr sft` and `lehr grpo` with adapters as users run them: PEFT folders, a kill, a resume, folding, refusals.

use crate::common::{Place, TINY, json_lines, kind, run};
use lehr::model_files::checkpoint::step_name;
use lehr::model_files::safetensors_file::SafetensorsFile;
use lehr::model_files::weight_files::WeightFiles;
use lehr::run_folder::checkpoints;
use lehr::vfs::RealFs;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A base model of characters and rows for it.
fn place() -> Place {
    let place = Place::new();
    std::fs::write(place.path("base.txt"), format!("{}system:\nuser:\nassistant:\n", crate::common::text(4000))).unwrap();
    let mut base = place.lehr(["pretrain", "--data=base.txt", "--json", "--run", "base"]);
    base.args(TINY.iter().filter(|a| !a.starts_with("--seq-len"))).args(["--seq-len=64", "--max-steps=8", "--eval-every=0"]);
    json_lines(&mut base);
    let row = |i: usize| {
        let (a, b) = (["glass", "kiln", "sand"][i % 3], ["heat", "slow"][i % 2]);
        json!({"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}).to_string() + "\n"
    };
    std::fs::write(place.path("rows.jsonl"), (0..30).map(row).collect::<String>()).unwrap();
    place
}

const RECIPE: &[&str] = &[
    "--lora-rank=3",
    "--lora-alpha=6",
    "--batch-size=4",
    "--micro-batch-size=2",
    "--learning-rate=2e-2",
    "--warmup-steps=1",
    "--eval-every=0",
    "--save-every=3",
    "--keep-last=9",
];

fn sft(place: &Place, name: &str, more: &[&str]) -> std::process::Command {
    let mut command = place.lehr(["sft", "--init", "base", "--data", "rows.jsonl", "--json", "--run", name]);
    command.args(RECIPE).args(more);
    command
}

fn step(place: &Place, name: &str, step: u64) -> PathBuf {
    checkpoints::folder(&place.path(name)).join(step_name(step))
}

fn losses(place: &Place, run: &str) -> Vec<(u64, String)> {
    let events = place.events(run);
    kind(&events, "Step").iter().map(|s| (s["step"].as_u64().unwrap(), s["loss"].to_string())).collect()
}

#[test]
fn a_run_saves_peft_folders_and_resumes_to_the_same_bits() {
    let place = place();
    json_lines(&mut sft(&place, "straight", &["--max-steps=9"]));
    let dir = step(&place, "straight", 9);
    assert!(!dir.join("model.safetensors").exists(), "the base model is not saved again");
    let config: Value = serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["peft_type"], &config["r"], &config["lora_alpha"]), (&json!("LORA"), &json!(3), &json!(6)));
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 7);
    let base = PathBuf::from(config["base_model_name_or_path"].as_str().unwrap());
    assert!(base.is_absolute() && base.join("model.safetensors").is_file(), "{}", base.display());
    let file = SafetensorsFile::open(&RealFs, &dir.join("adapter_model.safetensors")).unwrap();
    assert_eq!(file.tensors().len(), 14, "A and B of seven projections of one block");
    assert_eq!(file.tensors()["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"].shape, [3, 32]);
    assert_eq!(file.tensors()["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"].shape, [16, 3]);
    let moments = SafetensorsFile::open(&RealFs, &dir.join("optimizer.safetensors")).unwrap();
    assert_eq!(moments.tensors().len(), 28);
    // Cut short, then continued.
    json_lines(&mut sft(&place, "cut", &["--max-steps=6", "--lr-scheduler=constant"]));
    json_lines(&mut place.lehr(["sft", "--json", "--resume", "cut", "--max-steps=9"]));
    json_lines(&mut sft(&place, "whole", &["--max-steps=9", "--lr-scheduler=constant"]));
    for name in ["adapter_model.safetensors", "optimizer.safetensors"] {
        assert!(place.checkpoint("cut", 9, name) == place.checkpoint("whole", 9, name), "{name}: resumed is not uninterrupted");
    }
    let reported = losses(&place, "whole");
    assert!(reported.len() == 9 && losses(&place, "cut")[6..] == reported[6..]);
    // It learns, and checkpointing computes the same.
    let number = |text: &str| text.parse::<f64>().unwrap();
    assert!(number(&reported[8].1) < number(&reported[0].1), "{reported:?}");
    json_lines(&mut sft(&place, "again", &["--max-steps=9", "--lr-scheduler=constant", "--activation-checkpointing"]));
    let weights = |run| place.checkpoint(run, 9, "adapter_model.safetensors");
    assert!(weights("again") == weights("whole"), "activation checkpointing changed a bit");
    // A fork takes the adapters along.
    json_lines(&mut place.lehr(["sft", "--json", "--fork=cut@6", "--run=fork", "--max-steps=9"]));
    assert!(weights("fork") == weights("whole"), "a fork with the same settings is the same run");
}

#[test]
fn an_adapter_is_a_model_and_folds_into_one() {
    let place = place();
    json_lines(&mut sft(&place, "run", &["--max-steps=6"]));
    let eval = |model: &str| {
        let found = json_lines(&mut place.lehr(["eval", "--model", model, "--data=base.txt", "--seq-len=32", "--json"]));
        found[0]["eval_loss"].as_f64().unwrap_or_else(|| panic!("{found:?}"))
    };
    assert_eq!(run(&mut place.lehr(["merge", "--lora", "run", "--out", "folded"])).code, Some(0));
    let (adapter, folded, base) = (eval("run"), eval("folded"), eval("base"));
    assert!((adapter - folded).abs() < 1e-6 && (adapter - base).abs() > 1e-3, "{adapter} {folded} {base}");
    let files = WeightFiles::open(&RealFs, &place.path("folded")).unwrap();
    let (from, name) = (WeightFiles::open(&RealFs, &step(&place, "run", 6)).unwrap(), "model.layers.0.self_attn.v_proj.weight");
    assert_eq!(files.read_f32(name, &[16, 16]).unwrap(), from.read_f32(name, &[16, 16]).unwrap());
    assert!(files.names().eq(from.names()));
    // As PEFT alone writes it, without configuration and tokenizer: those of the base model are taken.
    let bare = place.path("bare");
    std::fs::create_dir(&bare).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(step(&place, "run", 6).join(name), bare.join(name)).unwrap();
    }
    assert!((eval("bare") - adapter).abs() < 1e-9);
    // A run of all weights, and one of new adapters, begin from it.
    for (name, more) in [("full", &["--max-steps=1"][..]), ("more", &["--max-steps=1", "--lora-rank=2"])] {
        let mut command = place.lehr(["sft", "--init=bare", "--data=rows.jsonl", "--json", "--batch-size=4", "--run", name]);
        let events = json_lines(command.args(more));
        assert_eq!(kind(&events, "Step").len(), 1, "{name}");
    }
    assert_eq!(run(&mut place.lehr(["merge", "--lora", "more", "--out", "twice", "--dtype=bf16"])).code, Some(0));
    assert!((eval("twice") - eval("more")).abs() < 2e-2);
    // At another place than the adapter says.
    let mut config: Value = serde_json::from_slice(&std::fs::read(bare.join("adapter_config.json")).unwrap()).unwrap();
    let base_dir = config["base_model_name_or_path"].as_str().unwrap().to_owned();
    config["base_model_name_or_path"] = json!("example/a-model");
    std::fs::write(bare.join("adapter_config.json"), config.to_string()).unwrap();
    let output = run(&mut place.lehr(["merge", "--lora=bare", "--out=no"]));
    assert!(output.code == Some(1) && output.err.contains("example/a-model") && output.err.contains("--base"), "{}", output.err);
    assert_eq!(run(&mut place.lehr(["merge", "--lora=bare", "--base", &base_dir, "--out=yes"])).code, Some(0));
    assert!((eval("yes") - folded).abs() < 1e-9);
}

#[test]
fn invalid_settings_are_refused_in_one_line() {
    let place = place();
    let refused = |args: &[&str], words: &[&str]| {
        let output = run(&mut place.lehr(args));
        assert_ne!(output.code, Some(0), "{args:?}");
        let lines = output.err.lines().filter(|line| line.contains("error")).count();
        assert!(lines <= 1 && words.iter().all(|word| output.err.contains(word)), "{args:?}: {}", output.err);
    };
    let sft = ["sft", "--init=base", "--data=rows.jsonl", "--run=no"];
    let with = |more: &[&'static str]| [&sft[..], more].concat();
    refused(&with(&["--lora-rank=0"]), &["--lora-rank 0"]);
    refused(&with(&["--lora-alpha=2"]), &["--lora-alpha", "--lora-rank"]);
    refused(&with(&["--lora-rank=2", "--lora-targets=q_proj,v_poj"]), &["v_poj", "v_proj"]);
    refused(&with(&["--lora-rank=2", "--merge-every=2"]), &["--merge-every 2"]);
    refused(&with(&["--lora-rank=2", "--rescue=pma"]), &["--rescue pma", "rollback"]);
    refused(&["pretrain", "--data=base.txt", "--lora-rank=2"], &["--lora-rank", "--init"]);
    refused(&["merge", "--lora=base", "--out=no"], &["adapter_config.json"]);
    refused(&["merge", "base", "--base=base", "--out=no"], &["--lora"]);
    json_lines(&mut place.lehr(with(&["--lora-rank=2", "--max-steps=1", "--batch-size=4", "--json"]).iter()));
    refused(&["merge", "no", "--last=1", "--out=other"], &["is an adapter (LoRA)", "lehr merge --lora"]);
    // An adapter of another model, a kind that is not computed, an adapter of itself.
    let bad = place.path("bad");
    std::fs::create_dir(&bad).unwrap();
    std::fs::copy(step(&place, "no", 1).join("adapter_model.safetensors"), bad.join("adapter_model.safetensors")).unwrap();
    let config = |base: &str, more: Value| {
        let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": base});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(bad.join("adapter_config.json"), config.to_string()).unwrap();
    };
    let (golden, itself) = (crate::common::golden("qwen3").display().to_string(), bad.display().to_string());
    let merge = ["merge", "--lora=bad", "--out=no2"];
    for (base, more, word) in [
        (golden.as_str(), json!({}), "another base model?"),
        (&golden, json!({"use_dora": true}), "use_dora"),
        (&golden, json!({"bias": "all"}), "bias = all"),
        (&golden, json!({"peft_type": "IA3"}), "IA3"),
        (&golden, json!({"r": 3}), "r = 3"),
        (&itself, json!({}), "more than 8 times"),
    ] {
        config(base, more);
        refused(&merge, &[word]);
    }
}

/// A base model of the words of compact puzzles, and rows for it.
fn puzzles() -> Place {
    let place = Place::new();
    let rows = ["data", "kk", "--form=compact", "--people=2-3", "--count=200", "--seed=1", "--out=rows.jsonl"];
    assert_eq!(run(&mut place.lehr(rows)).code, Some(0));
    let mut base = place.lehr(["pretrain", "--data=rows.jsonl", "--tokenizer=words", "--run=base", "--max-steps=40", "--json"]);
    base.args(["--hidden-size=16", "--intermediate-size=32", "--num-hidden-layers=2", "--num-attention-heads=2"]);
    base.args(["--batch-size=8", "--seq-len=96", "--learning-rate=1e-2", "--warmup-steps=3", "--eval-tokens=96"]);
    json_lines(&mut base);
    place
}

/// A step of GRPO with adapters and a KL term, whose reference takes no folder of its own.
#[test]
fn grpo_trains_adapters() {
    let place = puzzles();
    let grpo = |name: &str, more: &[&str]| {
        let mut command = place.lehr(["grpo", "--init=base", "--task=kk", "--form=compact", "--people=2-3", "--batch-size=8"]);
        command.args([
            "--num-generations=4",
            "--max-completion-length=24",
            "--max-prompt-length=60",
            "--eval-questions=6",
            "--json",
        ]);
        command.args(["--learning-rate=1e-2", "--beta=0.1", "--num-iterations=2", "--save-every=2"]);
        command.args(["--lora-rank=4", "--lora-targets=q_proj,v_proj,down_proj", "--run", name]).args(more);
        json_lines(&mut command)
    };
    let events = grpo("run", &["--max-steps=4"]);
    let steps = kind(&events, "Step");
    assert_eq!(steps.len(), 4);
    assert!(!place.path("run/reference").exists());
    let kl = |i: usize| steps[i]["kl"].as_f64().unwrap();
    // The policy is equal to its reference at first, and differs from it once two rewards differ.
    assert!(kl(0).abs() < 1e-4, "{}", kl(0));
    assert!(steps.iter().all(|s| s["kl"].is_number()));
    grpo("cut", &["--max-steps=2"]);
    json_lines(&mut place.lehr(["grpo", "--json", "--resume=cut", "--max-steps=4"]));
    let adapters = |run: &str| place.checkpoint(run, 4, "adapter_model.safetensors");
    assert!(adapters("cut") == adapters("run"), "resumed is not uninterrupted");
    grpo("checkpointed", &["--max-steps=4", "--activation-checkpointing"]);
    assert!(adapters("checkpointed") == adapters("run"), "activation checkpointing changed a bit");
}

/// The plan of a dry run of a published model's shape; a folder without weights is enough.
// Length: mostly the table of shapes.
#[test]
fn published_models_fit_8_and_16_gib() {
    let place = puzzles();
    let tokenizer = checkpoints::newest_valid(&lehr::vfs::RealFs, &place.path("base")).unwrap().found.unwrap().path;
    let common =
        json!({"hidden_act": "silu", "tie_word_embeddings": true, "max_position_embeddings": 32768, "vocab_size": 151_936});
    let models = [
        (
            "qwen2.5-0.5b",
            json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896,
            "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6}),
            494_032_768u64,
        ),
        (
            "qwen3-0.6b",
            json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024,
            "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6}),
            596_049_920,
        ),
        (
            "llama3.2-1b",
            json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
            "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "rms_norm_eps": 1e-5, "rope_theta": 5e5, "vocab_size": 128_256}),
            1_235_814_400,
        ),
    ];
    for (name, config, parameters) in models {
        let dir = place.path(name);
        std::fs::create_dir(&dir).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(tokenizer.join(file), dir.join(file)).unwrap();
        }
        let mut whole = common.clone();
        whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        std::fs::write(dir.join("config.json"), whole.to_string()).unwrap();
        let sft = ["sft", "--data=rows.jsonl", "--seq-len=1024", "--init", name];
        let grpo = ["grpo", "--task=kk", "--form=compact", "--beta=0.04", "--max-completion-length=512", "--init", name];
        let save = ["--lora-rank=16", "--activation-checkpointing", "--adapter=cpu", "--dry-run", "--json"];
        for (gib, flag) in [(8u64, "--max-memory-gib=8"), (16, "--max-memory-gib=16")] {
            for stage in [&sft[..], &grpo] {
                let found = json_lines(&mut place.lehr([stage, &save, &[flag]].concat()));
                let (plan, what) = (&found[0], format!("{name}, {}, {gib} GiB: {found:?}", stage[0]));
                assert_eq!(plan["parameters"], parameters, "{what}");
                let (total, values) = (plan["total_bytes"].as_u64().unwrap(), plan["bytes"]["values"].as_u64().unwrap());
                assert!(total <= gib << 30 && values >= 4 * parameters && total > values, "{what}");
                // Gradients and moments of adapters alone, and no reference model.
                let trained = plan["trained_parameters"].as_u64().unwrap();
                assert!(trained < parameters / 40 && plan["bytes"]["grads"].as_u64().unwrap() < 5 * trained, "{what}");
                assert!(plan["bytes"]["reference values"].is_null(), "{what}");
            }
        }
        // All weights with gradients and moments take 16 bytes each.
        let full = run(&mut place.lehr([&sft[..], &["--adapter=cpu", "--dry-run", "--max-memory-gib=7"]].concat()));
        assert!(full.code == Some(2) && full.err.contains("--max-memory-gib 7") && full.err.contains("adam_v"), "{}", full.err);
    }
}

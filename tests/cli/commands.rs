//! The command line of users and scripts: help, JSON, refusals, closed pipes.
//!
//! Length: one table of bad inputs and one test a command.

use crate::common;
use lehr::vfs::RealFs;

use common::{PATIENCE, Place, TINY, Trainer, json_lines, kind, lehr_in, run, step_numbers};
use lehr::model_files::safetensors_file::SafetensorsFile;
use lehr::model_files::weight_files::WeightFiles;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;

const RECIPE: &[&str] = &["--max-steps=12", "--eval-every=6", "--save-every=6", "--sample-tokens=8"];

/// One trained run that the tests share; they only read it.
struct Trained {
    place: Place,
    events: Vec<Value>,
}

impl Trained {
    fn get() -> &'static Self {
        static TRAINED: OnceLock<Trained> = OnceLock::new();
        TRAINED.get_or_init(|| {
            let place = Place::new();
            let events = json_lines(&mut place.pretrain("run", RECIPE));
            Self { place, events }
        })
    }

    fn model(&self) -> PathBuf {
        self.place.path("run/checkpoints/step-00000012")
    }
}

#[test]
fn help_lists_every_flag() {
    let place = Place::new();
    let settings = "--architecture --hidden-size --intermediate-size --num-hidden-layers --num-attention-heads --num-key-value-heads \
        --head-dim --rms-norm-eps --rope-theta --tie-word-embeddings --max-position-embeddings --initializer-range --data --val-fraction \
        --val-data --tokenizer --max-steps --batch-size --seq-len --micro-batch-size --learning-rate --min-learning-rate --lr-scheduler \
        --warmup-steps --decay-steps --decay-shape --adam-beta1 --adam-beta2 --adam-epsilon --weight-decay --max-grad-norm --seed \
        --eval-every --eval-tokens --sample-tokens --sample-prompt --save-every --keep-last --keep-every --tensorboard --adapter";
    let pretrain = format!("{settings} --preset --config --run --resume --init --dry-run --json --control");
    for (command, flags) in [
        ("pretrain", pretrain.as_str()),
        ("eval", "--model --data --val-fraction --seq-len --batch-size --max-tokens --json --adapter"),
        (
            "generate",
            "--model --prompt --chat --system --max-new-tokens --temperature --top-k --top-p --min-p --seed --json --adapter",
        ),
        ("score", "--model --text --tokens --grads --json --adapter"),
        ("doctor", "--seeds --only --json --adapter"),
        ("bench", "--preset --batch --seq --vocab --steps --profile --json --adapter"),
        ("demo", "--out --seed --quick --commands --adapter"),
        ("lesson", "--no-window --commands --out --seed --adapter --json"),
    ] {
        let output = run(&mut place.lehr([command, "--help"]));
        assert_eq!((output.code, output.err.as_str()), (Some(0), ""), "{command}");
        let words: Vec<&str> = output.out.split_whitespace().map(|w| w.trim_end_matches([',', ';', '.'])).collect();
        for flag in flags.split_whitespace() {
            assert!(words.contains(&flag), "{command} --help does not name {flag}\n{}", output.out);
        }
        assert!(run(&mut place.lehr(["--help"])).out.contains(command), "lehr --help does not name {command}");
    }
    let version = run(&mut place.lehr(["--version"]));
    assert_eq!(version.out.trim(), format!("lehr {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn pretrain_prints_json_lines() {
    let t = Trained::get();
    let events = &t.events;
    // What was printed is what was written.
    assert_eq!(kind(&t.place.events("run"), "Step"), kind(events, "Step"));
    assert_eq!(step_numbers(events), (1..=12).collect::<Vec<_>>());
    let started = kind(events, "Started")[0];
    assert!(started["parameters"].as_u64() > Some(1000) && started["startup_seconds"].is_f64(), "{started}");
    let step = kind(events, "Step")[11];
    for key in ["loss", "grad_norm", "learning_rate", "entropy", "tokens_per_second", "mfu", "seconds"] {
        assert!(step[key].is_f64(), "{key}: {step}");
    }
    assert_eq!(step["num_tokens"], 12 * 4 * 16);
    assert_eq!(kind(events, "Eval").iter().map(|e| e["step"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(6), Some(12)]);
    assert_eq!(kind(events, "Sample").len(), 3);
    assert_eq!(kind(events, "Checkpoint").iter().map(|e| e["step"].as_u64()).collect::<Vec<_>>(), [Some(6), Some(12)]);
    let finished = events.last().unwrap();
    assert_eq!((&finished["event"], &finished["reason"]), (&json!("Finished"), &json!("completed")));
    assert_eq!((&finished["step"], &finished["tokens"]), (&json!(12), &json!(12 * 4 * 16)));
    for key in ["eval_loss", "seconds", "tokens_per_second"] {
        assert!(finished[key].as_f64().is_some_and(|x| x > 0.0), "{key}: {finished}");
    }
    for key in ["mean", "std", "p99", "spikes"] {
        assert!(finished["grad_norm"][key].is_f64(), "grad_norm.{key}: {finished}");
    }
    assert!(t.place.path(finished["checkpoint"].as_str().unwrap()).join("model.safetensors").is_file(), "{finished}");
    // It learned something.
    let losses: Vec<f64> = kind(events, "Eval").iter().map(|e| e["eval_loss"].as_f64().unwrap()).collect();
    assert!(losses[2] < losses[0] - 0.2, "{losses:?}");
}

#[test]
fn eval_agrees_with_the_end_of_training() {
    let t = Trained::get();
    // A run folder stands for its newest checkpoint; the same tenth of the text is held out.
    let output =
        json_lines(&mut t.place.lehr(["eval", "--model=run", "--data=text.txt", "--val-fraction=0.1", "--seq-len=16", "--json"]));
    assert_eq!(output.len(), 1);
    let (got, want) = (output[0]["eval_loss"].as_f64().unwrap(), t.events.last().unwrap()["eval_loss"].as_f64().unwrap());
    assert!((got / want - 1.0).abs() < 1e-6, "{got}, the trainer said {want}");
    // However many windows at once.
    let mut many =
        t.place.lehr(["eval", "--model=run", "--data=text.txt", "--val-fraction=0.1", "--json", "--batch-size=1000000000000"]);
    let many = json_lines(&mut many)[0]["eval_loss"].as_f64().unwrap();
    assert!((many / want - 1.0).abs() < 1e-5, "{many}, the trainer said {want}");
    let perplexity = output[0]["perplexity"].as_f64().unwrap();
    assert!((perplexity / got.exp() - 1.0).abs() < 1e-9 && output[0]["eval_tokens"].as_u64() > Some(500), "{}", output[0]);
}

#[test]
fn score_output_keeps_its_format() {
    let t = Trained::get();
    let lines = "{\"tokens\":[1,2,3,4,5]}\n\n{\"text\":\"the kiln\"}\n{\"tokens\":[7]}\n";
    std::fs::write(t.place.path("rows.jsonl"), lines).unwrap();
    let grads = t.place.path("grads.safetensors");
    let model = t.model();
    let mut command = t.place.lehr(["score", "--json", "--tokens=rows.jsonl"]);
    let rows = json_lines(command.arg("--model").arg(&model).arg("--grads").arg(&grads));
    assert_eq!(rows.len(), 3);
    let keys: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["tokens", "logprobs", "entropy", "loss"]);
    assert_eq!(rows[0]["tokens"], json!([1, 2, 3, 4, 5]));
    let (mut sum, mut count) = (0.0, 0);
    for row in &rows {
        let n = row["tokens"].as_array().unwrap().len();
        let (logprobs, entropy) = (row["logprobs"].as_array().unwrap(), row["entropy"].as_array().unwrap());
        assert!(logprobs.len() == n && entropy.len() == n && logprobs[0].is_null() && entropy[0].is_null(), "{row}");
        let given: Vec<f64> = logprobs[1..].iter().map(|l| l.as_f64().unwrap()).collect();
        assert!(given.iter().all(|l| *l < 0.0) && entropy[1..].iter().all(|e| e.as_f64().unwrap() > 0.0), "{row}");
        if n > 1 {
            let loss = -given.iter().sum::<f64>() / (n - 1) as f64;
            assert!((row["loss"].as_f64().unwrap() / loss - 1.0).abs() < 1e-6, "{row}");
            (sum, count) = (sum + loss * (n - 1) as f64, count + n - 1);
        } else {
            assert!(row["loss"].is_null(), "{row}");
        }
    }
    assert!(sum / (count as f64) > 1.0, "a tiny model after a dozen steps");
    // The gradient has the names and shapes of the model, and is one.
    let (found, wanted) = (SafetensorsFile::open(&RealFs, &grads).unwrap(), WeightFiles::open(&RealFs, &model).unwrap());
    let mut names: Vec<&str> = wanted.names().collect();
    names.sort_unstable();
    let mut got: Vec<&str> = found.tensors().keys().map(String::as_str).collect();
    got.sort_unstable();
    assert_eq!(got, names);
    for name in names {
        let shape = wanted.shape(name).unwrap();
        let values = found.read_f32(name, shape).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert!(values.iter().all(|x| x.is_finite()) && values.iter().any(|x| *x != 0.0), "{name}");
    }
    // Text through the tokenizer is the same as its ids; a row alone scores as among others, to the last bits.
    let ids = rows[1]["tokens"].clone();
    let mut command = t.place.lehr(["score", "--json", "--text=the kiln"]);
    assert_eq!(json_lines(command.arg("--model").arg(&model)), [rows[1].clone()]);
    std::fs::write(t.place.path("ids.jsonl"), json!({ "tokens": ids }).to_string()).unwrap();
    let mut command = t.place.lehr(["score", "--json", "--tokens=ids.jsonl"]);
    assert_eq!(json_lines(command.arg("--model").arg(&model)), [rows[1].clone()]);
    // For people.
    let output = run(t.place.lehr(["score", "--text=the kiln"]).arg("--model").arg(&model));
    assert!(output.code == Some(0) && output.out.contains("loss "), "{}", output.err);
}

#[test]
fn generate_is_reproducible() {
    let t = Trained::get();
    let generate = |more: &[&str]| {
        let mut command = t.place.lehr(["generate", "--model=run", "--prompt=the ", "--max-new-tokens=10", "--json"]);
        json_lines(command.args(more)).remove(0)
    };
    let greedy = generate(&["--temperature=0"]);
    assert_eq!(greedy, generate(&["--temperature=0", "--seed=9"]), "greedy is greedy");
    assert_eq!(greedy["prompt"], "the ");
    assert_eq!(greedy["prompt_tokens"].as_array().unwrap().len(), 4);
    assert_eq!(greedy["tokens"].as_array().unwrap().len(), 10);
    let sampled = generate(&["--temperature=1.5", "--seed=1"]);
    assert_eq!(sampled, generate(&["--temperature=1.5", "--seed=1"]));
    assert_ne!(sampled, generate(&["--temperature=1.5", "--seed=2"]));
    // Plain output is prompt and text; a prompt may come through standard input.
    let plain = run(&mut t.place.lehr(["generate", "--model=run", "--prompt=the ", "--max-new-tokens=10", "--temperature=0"]));
    assert_eq!(plain.out, format!("the {}\n", greedy["text"].as_str().unwrap()));
    let mut command = t.place.lehr(["generate", "--model=run", "--max-new-tokens=10", "--temperature=0"]);
    std::fs::write(t.place.path("prompt.txt"), "the ").unwrap();
    assert_eq!(run(command.stdin(std::fs::File::open(t.place.path("prompt.txt")).unwrap())).out, plain.out);
    // More than the context holds is cut short, with a word.
    let long = run(&mut t.place.lehr(["generate", "--model=run", "--prompt=the ", "--max-new-tokens=99", "--temperature=0"]));
    assert!(long.code == Some(0) && long.err.starts_with("note: ") && long.err.contains("16"), "{}", long.err);
}

/// Every command has a page and is completed.
#[test]
fn manual_pages_and_completions_know_every_command() {
    let place = Place::new();
    let output = run(&mut place.lehr(["man", "pages"]));
    assert_eq!((output.code, output.out.as_str()), (Some(0), ""), "{}", output.err);
    let page = |name: &str| std::fs::read_to_string(place.path("pages").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(
        page("lehr-pretrain.1").replace("\\-", "-").contains("--learning-rate") && page("lehr-merge-sweep.1").contains(".TH")
    );
    let script = run(&mut place.lehr(["completions", "bash"]));
    assert_eq!(script.code, Some(0), "{}", script.err);
    let mut tree = lehr::cli::command();
    tree.build();
    for command in tree.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name();
        assert!(page(&format!("lehr-{name}.1")).contains(name) && script.out.contains(name), "{name}");
    }
    assert!(script.out.contains("--learning-rate"));
    let unknown = run(&mut place.lehr(["completions", "tcl"]));
    assert_eq!((unknown.code, unknown.err.lines().count()), (Some(2), 1), "{}", unknown.err);
}

#[test]
fn bench_and_doctor_report() {
    let place = Place::new();
    let lines =
        json_lines(&mut place.lehr(["bench", "--preset=nano", "--batch=1", "--seq=16", "--steps=2", "--profile", "--json"]));
    let keys = "preset adapter driver parameters batch_size seq_len tokens_per_second step_ms gflop_per_step matmul_gflops \
        measured_peak_gflops mfu first_step_seconds device_bytes dispatches_per_step";
    for key in keys.split_whitespace() {
        assert!(!lines[0][key].is_null(), "bench: {key}: {}", lines[0]);
    }
    assert!(lines[0]["tokens_per_second"].as_f64() > Some(0.0) && lines[0]["batch_size"] == 1 && lines[0]["seq_len"] == 16);
    assert!(lines.len() > 10 && lines[1..].iter().all(|l| l["kernel"].is_string() && l["ms"].as_f64() > Some(0.0)));
    let share: f64 = lines[1..].iter().map(|l| l["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-9, "{share}");

    let tune = run(&mut place.lehr(["bench", "--preset=nano", "--tune", "--adapter=cpu"]));
    assert_eq!(tune.err, "error: --tune: the CPU has one kernel for each product; name a GPU with --adapter\n");

    let lines = json_lines(&mut place.lehr(["doctor", "--seeds=1", "--only=swiglu", "--json"]));
    assert!(lines[0]["adapter"].is_string() && lines[0]["used"].is_boolean(), "{}", lines[0]);
    let checks: Vec<_> = lines.iter().filter(|l| l["kernel"].is_string()).collect();
    assert!(!checks.is_empty() && checks.iter().all(|c| c["passed"] == true && c["error_over_allowed"].is_f64()), "{lines:?}");
    let output = run(&mut place.lehr(["doctor", "--seeds=1", "--only=rmsnorm"]));
    assert!(output.code == Some(0) && output.out.contains("rmsnorm"), "{}{}", output.out, output.err);
    assert!(output.out.lines().all(|line| line.chars().count() <= 80), "{}", output.out);
}

#[test]
fn a_dry_run_writes_nothing() {
    let place = Place::new();
    let lines = json_lines(place.pretrain("run", RECIPE).arg("--dry-run"));
    assert_eq!(lines[0]["micro_batch"], 2);
    let parts: u64 = lines[0]["bytes"].as_object().unwrap().values().map(|b| b.as_u64().unwrap()).sum();
    assert_eq!(lines[0]["total_bytes"], parts);
    assert!(!place.path("run").exists());
}

#[test]
fn a_dry_run_of_a_resumed_run_shows_its_plan() {
    let t = Trained::get();
    let before = t.place.events("run");
    let new = json_lines(t.place.pretrain("other", RECIPE).arg("--dry-run")).remove(0);
    let same = json_lines(&mut t.place.resume("run", &["--dry-run", "--max-steps=20"])).remove(0);
    assert_eq!((&new["resumed_at_step"], &same["resumed_at_step"]), (&Value::Null, &json!(12)));
    for part in ["parameters", "micro_batch", "bytes", "total_bytes"] {
        assert_eq!(new[part], same[part], "{part}");
    }
    let output = run(&mut t.place.lehr(["pretrain", "--resume=run", "--dry-run", "--max-steps=20"]));
    assert!(
        output.out.starts_with("resumed      after 12 of 20 steps\n") && output.out.contains(" for 8 steps\n"),
        "{}",
        output.out
    );
    let late = run(&mut t.place.lehr(["pretrain", "--resume=run", "--dry-run", "--max-steps=12"]));
    assert!(late.code == Some(2) && late.err.contains("--max-steps 12: the run has made 12 steps"), "{}", late.err);
    assert_eq!(t.place.events("run"), before, "the folder is only read");
}

/// What does not fit is refused before anything is computed, with the flag that sets it.
#[test]
fn too_long_for_the_model_names_the_flag() {
    let (t, place) = (Trained::get(), Place::new());
    for name in ["windowed", "plain"] {
        copy_model(t, &place.path(name));
        // The text has not all characters of lehr's own template.
        let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
        std::fs::write(place.path(name).join("chat_template.jinja"), template).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(t.model().join("config.json")).unwrap()).unwrap();
    let context = config["max_position_embeddings"].as_u64().unwrap() as usize;
    for (field, value) in
        [("model_type", json!("mistral")), ("architectures", json!(["MistralForCausalLM"])), ("sliding_window", json!(12))]
    {
        config[field] = value;
    }
    std::fs::write(place.path("windowed/config.json"), config.to_string()).unwrap();
    let text = std::fs::read_to_string(place.path("text.txt")).unwrap();
    let row = json!({"prompt": text[..4], "completion": text[4..8]});
    std::fs::write(place.path("rows.jsonl"), format!("{row}\n")).unwrap();
    let (short, long) = (format!("--prompt={}", &text[..2]), format!("--prompt={}", &text[..4 * context]));
    for (args, wanted) in [
        (
            vec!["eval", "--model=windowed", "--data=text.txt", "--seq-len=16"],
            "--seq-len 16: this model takes 1 to 12 tokens at once",
        ),
        (
            vec!["sft", "--init=windowed", "--data=rows.jsonl", "--seq-len=16"],
            "--seq-len 16: this model takes at most 12 tokens at once",
        ),
        (
            vec!["grpo", "--init=windowed", "--task=kk", "--max-completion-length=12"],
            "--max-completion-length 12: this model takes at most 12",
        ),
        (vec!["generate", "--model=windowed", &short, "--max-new-tokens=20"], "--max-new-tokens 20: 2"),
        (vec!["generate", "--model=plain", "--chat", &long], "--prompt: the conversation has"),
    ] {
        let output = run(&mut place.lehr(&args));
        assert!(output.code != Some(0) && output.err.contains(wanted), "{args:?}: {}\nwanted: {wanted}", output.err);
    }
    // The defaults fit.
    let output = run(&mut place.lehr(["sft", "--init=windowed", "--data=rows.jsonl", "--dry-run"]));
    assert_eq!(output.code, Some(0), "{}", output.err);
    let output = run(&mut place.lehr(["eval", "--model=windowed", "--data=text.txt", "--max-tokens=100"]));
    assert_eq!(output.code, Some(0), "{}", output.err);
    // A continuation of a text may go beyond the context, as in transformers.
    let output = run(&mut place.lehr(["generate", "--model=plain", &long, "--max-new-tokens=2"]));
    assert!(output.code == Some(0) && output.err.contains("text beyond them may be incoherent"), "{}", output.err);
}

/// A fault of the tokenizers library is one line, without the text of its panic.
#[test]
fn a_faulty_tokenizer_gives_one_line() {
    let (t, place) = (Trained::get(), Place::new());
    copy_model(t, &place.path("model"));
    let file = place.path("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    tokenizer["normalizer"] = json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"});
    tokenizer["pre_tokenizer"] =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    std::fs::write(file, tokenizer.to_string()).unwrap();
    let output = run(&mut place.lehr(["generate", "--model=model", "--prompt=hi", "--max-new-tokens=1"]));
    assert!(output.code == Some(1) && output.err.starts_with("error: ") && output.err.lines().count() == 1, "{}", output.err);
}

fn copy_model(t: &Trained, folder: &std::path::Path) {
    std::fs::create_dir(folder).unwrap();
    for entry in std::fs::read_dir(t.model()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
}

/// A model that has seen some puzzles answers held-out ones: shares, intervals and parts, all together and by number of people.
#[test]
fn eval_of_a_task_reports_shares_with_intervals() {
    let place = Place::new();
    let kk = ["--form=compact", "--people=2-3"];
    let rows = run(place.lehr(["data", "kk", "--count=400", "--seed=1", "--out=rows.jsonl"]).args(kk));
    assert_eq!(rows.code, Some(0), "{}", rows.err);
    let shape = ["--hidden-size=32", "--intermediate-size=64", "--num-hidden-layers=1", "--num-attention-heads=2"];
    let recipe = ["--max-steps=150", "--batch-size=8", "--seq-len=128", "--learning-rate=1e-2", "--warmup-steps=3"];
    let mut pretrain = place.lehr(["pretrain", "--data=rows.jsonl", "--tokenizer=words", "--run=base", "--json"]);
    json_lines(pretrain.args(shape).args(recipe).arg("--eval-tokens=96"));

    let eval = ["eval", "--model=base", "--task=kk", "--count=30", "--samples=3", "--max-completion-length=64"];
    let output = json_lines(place.lehr(eval).args(kk).arg("--json"));
    assert_eq!(output.len(), 1);
    let output = &output[0];
    assert_eq!((&output["task"], &output["questions"], &output["max_completion_length"]), (&json!("kk"), &json!(30), &json!(64)));
    for (way, samples, temperature) in [("greedy", 1, 0.0), ("sampled", 3, 1.0)] {
        let all = &output[way];
        assert_eq!((all["samples"].as_u64(), all["temperature"].as_f64()), (Some(samples), Some(temperature)), "{way}");
        assert!(all["eval_seconds"].as_f64() > Some(0.0) && all["tokens_per_second"].as_f64() > Some(0.0), "{way}: {all}");
        let levels = all["levels"].as_object().unwrap();
        assert_eq!(levels.keys().collect::<Vec<_>>(), ["2", "3"], "{way}: by number of people");
        for report in levels.values().chain([all]) {
            report_holds(report, samples);
        }
        // Both numbers of people are asked for equally often.
        for field in ["accuracy", "reward", "mean_length", "clipped_ratio", "format"] {
            let mean = levels.values().map(|l| l[field].as_f64().unwrap()).sum::<f64>() / 2.0;
            assert!((all[field].as_f64().unwrap() - mean).abs() < 1e-9, "{way} {field}: {all}");
        }
    }
    // It learned to answer in the form, if not always rightly.
    assert!(output["greedy"]["format"].as_f64() > Some(0.5), "{output}");

    let output = run(place.lehr(eval).args(kk));
    assert_eq!(output.code, Some(0), "{}", output.err);
    for words in ["kk: 30 held-out questions", "people", "95 % interval", "greedy", "temperature 1", "pass@k"] {
        assert!(output.out.contains(words), "{words}\n{}", output.out);
    }
}

/// The laws of one share of right answers; of 15 questions or of both levels' 30.
fn report_holds(report: &Value, samples: u64) {
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
    let (count, p) = (number("count"), number("accuracy"));
    assert!([15.0, 30.0].contains(&number("questions")) && count == number("questions") * samples as f64, "{report}");
    let right = p * count;
    assert!((right - right.round()).abs() < 1e-6 && (0.0..=1.0).contains(&p), "{report}");
    // An end x of Wilson's interval is a share from which p is z standard deviations away: n (p - x)^2 = z^2 x (1 - x). That says how many
    // independent answers stand behind it: all of them where each question has one answer, else at most all.
    let [low, high] = [0, 1].map(|i| report["interval"][i].as_f64().unwrap());
    assert!(0.0 <= low && low <= p + 1e-12 && p <= high + 1e-12 && high <= 1.0, "{report}");
    let behind = |x: f64| 1.959_964f64.powi(2) * x * (1.0 - x) / (p - x).powi(2);
    let ends: Vec<f64> = [low, high].into_iter().filter(|x| *x > 1e-9 && *x < 1.0 - 1e-9).map(behind).collect();
    assert!(
        !ends.is_empty() && ends.iter().all(|n| (n / ends[0] - 1.0).abs() < 1e-5 && *n < count * 1.00001),
        "{ends:?}: {report}"
    );
    assert!(samples > 1 || (ends[0] / count - 1.0).abs() < 1e-5, "{ends:?}: {report}");
    let pass: Vec<f64> = report["pass@"].as_object().unwrap().values().map(|share| share.as_f64().unwrap()).collect();
    assert!((pass[0] - p).abs() < 1e-9 && pass.is_sorted() && pass.len() == samples as usize, "{report}");
    assert!(report["rewards"]["answer"].is_f64() && report["rewards"]["format"].is_f64(), "{report}");
    assert!(number("mean_length") <= 64.0 && (0.0..=1.0).contains(&number("clipped_ratio")), "{report}");
}

/// Every mistake: one line that names it, exit code 1 (2 for a message that begins with a flag, and for the name of something that does not exist), and no
/// trace on disk.
// Length: a table, a row an input.
#[test]
fn bad_input_is_refused_in_one_line() {
    let t = Trained::get();
    let place = Place::new();
    for (name, content) in [
        ("empty.txt", &b""[..]),
        ("blank.txt", b" \n\n  \n"),
        ("short.txt", b"too short"),
        ("binary.txt", b"\xff\xfe\x00\x01\x80\x81\xff\xff"),
        ("page.html", b"<html></html>"),
        ("unknown.toml", b"[train]\nlearing_rate = 0.1\n"),
        ("section.toml", b"[trian]\nlearning_rate = 0.1\n"),
        ("loose.toml", b"learning_rate = 0.1\n"),
        ("type.toml", b"[train]\nlearning_rate = \"fast\"\n"),
        ("twice.toml", b"[train]\nseed = 1\nseed = 2\n"),
        ("torn.toml", b"[train\nseed = 1\n"),
        ("range.toml", b"[train]\nlearning_rate = nan\n"),
        ("vocabulary.jsonl", b"{\"tokens\":[1,99999]}\n"),
        ("torn.jsonl", b"{\"tokens\":[1,2\n"),
        ("neither.jsonl", b"{\"ids\":[1]}\n"),
        ("nothing.jsonl", b"\n"),
        ("long.jsonl", b"{\"tokens\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}\n"),
    ] {
        std::fs::write(place.path(name), content).unwrap();
    }
    std::fs::create_dir(place.path("no-model")).unwrap();
    std::fs::create_dir(place.path("full")).unwrap();
    std::fs::write(place.path("full/precious.txt"), "mine").unwrap();
    for (folder, file, change) in [
        ("truncated", "model.safetensors", &(|b: &mut Vec<u8>| b.truncate(b.len() - 10)) as &dyn Fn(&mut Vec<u8>)),
        ("headless", "model.safetensors", &|b| b.truncate(5)),
        ("torn-config", "config.json", &|b| b.truncate(b.len() / 2)),
        ("torn-tokenizer", "tokenizer.json", &|b| b.truncate(b.len() / 2)),
        ("nan", "model.safetensors", &|b| {
            let at = b.len() - 4;
            b[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
    ] {
        let to = place.path(folder);
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(t.model()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        let mut bytes = std::fs::read(to.join(file)).unwrap();
        change(&mut bytes);
        std::fs::write(to.join(file), bytes).unwrap();
    }
    let good = t.model().display().to_string();
    let trained = t.place.path("run").display().to_string();

    // (exit code, what the line must hold, arguments); `pretrain` stands for a run that would work but for the arguments.
    let cases: &[(i32, &str, &[&str])] = &[
        // the command line itself
        (2, "--no-such-flag", &["pretrain", "--no-such-flag"]),
        (2, "train-it", &["train-it"]),
        (2, "--model", &["generate", "--prompt=a"]),
        (2, "--data or --task", &["eval", "--model=no-model"]),
        (2, "--data: no text named", &["pretrain!"]),
        (2, "--batch-size", &["pretrain", "--batch-size=many"]),
        (2, "--learning-rate", &["pretrain", "--learning-rate=0,001"]),
        (2, "--max-steps", &["pretrain", "--max-steps=1e3"]),
        (2, "--seed", &["pretrain", "--seed=-1"]),
        (2, "--seed", &["pretrain", "--seed", "-1"]),
        (2, "--learning-rate -1", &["pretrain", "--learning-rate", "-1"]),
        (2, "--seed", &["pretrain", "--seed=18446744073709551616"]),
        (2, "--lr-scheduler", &["pretrain", "--lr-scheduler=cosin"]),
        (2, "--resume", &["pretrain", "--resume=x"]), // conflicts with the --run of this table
        // settings out of range
        (2, "--learning-rate NaN", &["pretrain", "--learning-rate=nan"]),
        (2, "--learning-rate -0.1", &["pretrain", "--learning-rate=-0.1"]),
        (2, "--learning-rate 0", &["pretrain", "--learning-rate=0"]),
        (2, "--learning-rate inf", &["pretrain", "--learning-rate=inf"]),
        (2, "--min-learning-rate 1", &["pretrain", "--min-learning-rate=1"]),
        (2, "--adam-beta1 1", &["pretrain", "--adam-beta1=1"]),
        (2, "--adam-beta2 -0.1", &["pretrain", "--adam-beta2=-0.1"]),
        (2, "--adam-beta2 NaN", &["pretrain", "--adam-beta2=nan"]),
        (2, "--adam-epsilon 0", &["pretrain", "--adam-epsilon=0"]),
        (2, "--weight-decay 2", &["pretrain", "--weight-decay=2"]),
        (2, "--max-grad-norm NaN", &["pretrain", "--max-grad-norm=nan"]),
        (2, "--batch-size 0", &["pretrain", "--batch-size=0"]),
        (2, "--batch-size 1099511627776", &["pretrain", "--batch-size=1099511627776"]),
        (2, "--micro-batch-size 3", &["pretrain", "--micro-batch-size=3"]),
        (2, "--micro-batch-size 0", &["pretrain", "--micro-batch-size=0"]),
        (2, "--seq-len 0", &["pretrain", "--seq-len=0"]),
        (1, "--seq-len", &["pretrain", "--seq-len=1000000"]),
        (2, "--max-steps 0", &["pretrain", "--max-steps=0"]),
        (2, "--warmup-steps 12", &["pretrain", "--warmup-steps=12"]),
        (2, "--decay-steps 11", &["pretrain", "--lr-scheduler=wsd", "--decay-steps=11"]),
        (2, "--save-every 18446744073709551615", &["pretrain", "--save-every=18446744073709551615"]),
        (2, "--seed 9223372036854775808", &["pretrain", "--seed=9223372036854775808"]),
        (2, "--keep-last 1", &["pretrain", "--keep-last=1"]),
        (2, "--val-fraction 1", &["pretrain", "--val-fraction=1"]),
        (2, "--val-fraction NaN", &["pretrain", "--val-fraction=nan"]),
        // shapes
        (1, "num_attention_heads = 3", &["pretrain", "--num-attention-heads=3"]),
        (1, "head_dim = 5", &["pretrain", "--head-dim=5"]),
        (1, "num_hidden_layers = 1000000", &["pretrain", "--num-hidden-layers=1000000"]),
        (1, "num_attention_heads = 0", &["pretrain", "--num-attention-heads=0"]),
        (1, "num_key_value_heads = 3", &["pretrain", "--num-key-value-heads=3"]),
        (1, "hidden_size = 0", &["pretrain", "--hidden-size=0"]),
        (1, "num_hidden_layers = 0", &["pretrain", "--num-hidden-layers=0"]),
        (1, "rms_norm_eps = NaN", &["pretrain", "--rms-norm-eps=nan"]),
        (2, "max_position_embeddings", &["pretrain", "--max-position-embeddings=8"]),
        // presets and config files
        (2, "--preset nanoo: no such preset; did you mean nano?", &["pretrain", "--preset=nanoo"]),
        (2, "missing.toml", &["pretrain", "--config=missing.toml"]),
        (2, "no-model", &["pretrain", "--config=no-model"]),
        (1, "learing_rate = 0.1: unknown setting; did you mean learning_rate?", &["pretrain", "--config=unknown.toml"]),
        (1, "[trian]: no such section; did you mean train?", &["pretrain", "--config=section.toml"]),
        (1, "learning_rate belongs to [train]", &["pretrain", "--config=loose.toml"]),
        (1, "type.toml: [train] learning_rate = \"fast\"", &["pretrain", "--config=type.toml"]),
        (1, "twice.toml", &["pretrain", "--config=twice.toml"]),
        (1, "torn.toml", &["pretrain", "--config=torn.toml"]),
        // data
        (2, "missing.txt", &["pretrain", "--data=missing.txt"]),
        (1, "empty.txt", &["pretrain", "--data=empty.txt"]),
        (1, "blank.txt", &["pretrain", "--data=blank.txt"]),
        (1, "--seq-len", &["pretrain", "--data=short.txt"]),
        (1, "binary.txt", &["pretrain", "--data=binary.txt"]),
        (2, "missing.txt", &["pretrain", "--data=text.txt", "--val-data=missing.txt"]),
        (1, "no-model", &["pretrain", "--data=no-model"]),
        (2, "bpe:3", &["pretrain", "--tokenizer=bpe:3"]),
        (2, "wordpiece", &["pretrain", "--tokenizer=wordpiece"]),
        (2, "did you mean words?", &["pretrain", "--tokenizer=wrods"]),
        (2, "--data", &["pretrain", "--data="]),
        (2, r"\u{1b}[2J", &["pretrain", "--data=\u{1b}[2Jx"]),
        // folders
        (1, "full", &["pretrain", "--run=full"]),
        (1, "text.txt", &["pretrain", "--run=text.txt"]),
        (1, "text.txt", &["pretrain", "--run=text.txt/below"]),
        // models
        (1, "no-model", &["pretrain", "--init=no-model"]),
        (1, "truncated", &["pretrain", "--init=truncated"]),
        (1, "model.safetensors", &["generate", "--model=truncated", "--prompt=a"]),
        (1, "model.safetensors", &["generate", "--model=headless", "--prompt=a"]),
        (1, "config.json", &["generate", "--model=torn-config", "--prompt=a"]),
        (1, "tokenizer.json", &["generate", "--model=torn-tokenizer", "--prompt=a"]),
        (1, "model.safetensors", &["score", "--model=nan", "--text=a"]),
        (2, "no-model", &["generate", "--model=no-model", "--prompt=a"]),
        (2, "nowhere", &["eval", "--model=nowhere", "--data=text.txt"]),
        (
            2,
            "--model no-modle: no such folder or GGUF file; did you mean no-model?",
            &["eval", "--model=no-modle", "--data=text.txt"],
        ),
        (2, "page.html", &["score", "--model=page.html", "--text=a"]),
        // generation
        (2, "--prompt", &["generate", "--model", &good, "--prompt="]),
        (1, "#", &["generate", "--model", &good, "--prompt=#"]),
        (2, "--temperature NaN", &["generate", "--model", &good, "--prompt=a", "--temperature=nan"]),
        (2, "--top-p 0", &["generate", "--model", &good, "--prompt=a", "--top-p=0"]),
        (2, "--min-p 2", &["generate", "--model", &good, "--prompt=a", "--min-p=2"]),
        (
            2,
            "--max-new-tokens 18446744073709551615",
            &["generate", "--model", &good, "--prompt=a", "--max-new-tokens=18446744073709551615"],
        ),
        (2, "--max-new-tokens 0", &["generate", "--model", &good, "--prompt=a", "--max-new-tokens=0"]),
        // scoring and evaluating
        (1, "missing.jsonl", &["score", "--model", &good, "--tokens=missing.jsonl"]),
        (1, "vocabulary.jsonl:1: token 99999", &["score", "--model", &good, "--tokens=vocabulary.jsonl"]),
        (1, "torn.jsonl:1", &["score", "--model", &good, "--tokens=torn.jsonl"]),
        (1, "neither.jsonl:1", &["score", "--model", &good, "--tokens=neither.jsonl"]),
        (1, "nothing.jsonl", &["score", "--model", &good, "--tokens=nothing.jsonl"]),
        (1, "long.jsonl:1: 18 tokens", &["score", "--model", &good, "--tokens=long.jsonl"]),
        (2, "--text", &["score", "--model", &good, "--text="]),
        (2, "--seq-len 99", &["eval", "--model", &good, "--data=text.txt", "--seq-len=99"]),
        (2, "--batch-size 0", &["eval", "--model", &good, "--data=text.txt", "--batch-size=0"]),
        (1, "empty.txt", &["eval", "--model", &good, "--data=empty.txt"]),
        // answers to a task
        (2, "--task", &["eval", "--model", &good, "--task=chess"]),
        (2, "--count", &["eval", "--model", &good, "--task=kk", "--count=many"]),
        (2, "--count 0", &["eval", "--model", &good, "--task=kk", "--count=0"]),
        (2, "--temperature -1", &["eval", "--model", &good, "--task=kk", "--temperature=-1"]),
        (2, "--max-completion-length 0", &["eval", "--model", &good, "--task=kk", "--max-completion-length=0"]),
        (2, "--people 9: must be", &["eval", "--model", &good, "--task=kk", "--people=9"]),
        (2, "--seq-len: means nothing with --task", &["eval", "--model", &good, "--task=kk", "--seq-len=8"]),
        (2, "--people: goes with --task", &["eval", "--model", &good, "--data=text.txt", "--people=3"]),
        (2, "missing.jsonl", &["eval", "--model", &good, "--task=kk", "--data=missing.jsonl"]),
        // adapters
        (2, "--adapter voodoo", &["pretrain", "--adapter=voodoo"]),
        (2, "--adapter 99", &["generate", "--model", &good, "--prompt=a", "--adapter=99"]),
        (2, "--adapter voodoo", &["doctor", "--adapter=voodoo"]),
        (2, "--adapter voodoo", &["bench", "--adapter=voodoo"]),
        (2, "--only nosuch", &["doctor", "--only=nosuch"]),
        (2, "--seeds 0", &["doctor", "--seeds=0"]),
        (2, "--preset nanoo", &["bench", "--preset=nanoo"]),
        (2, "--seq-len 100000", &["bench", "--batch=1", "--seq=100000"]),
        (1, "vocab_size = 1000000000000", &["bench", "--vocab=1000000000000"]),
        (2, "--steps", &["bench", "--steps=0"]),
        (2, "--batch-size 0", &["bench", "--batch=0"]),
        // resuming
        (2, "nowhere", &["pretrain!", "--resume=nowhere"]),
        (2, "did you mean no-model?", &["pretrain!", "--resume=nomodel"]),
        (2, "--fork nomodel: there is no such run folder; did you mean no-model?", &["pretrain!", "--fork=nomodel@3"]),
        (2, "did you mean no-model?", &["pretrain", "--init=nomodel"]),
        (2, "did you mean no-model?", &["pretrain", "--init=merge:nomodel?last=2"]),
        (2, "did you mean no-model?", &["grpo", "--task=kk", "--init=nomodel"]),
        (2, "did you mean no-model?", &["report", "nomodel"]),
        (2, "did you mean no-model?", &["merge", "nomodel", "--last=2", "--out=merged"]),
        (2, "did you mean no-model?", &["merge", "sweep", "nomodel", "--every=10", "--last=2"]),
        (2, "did you mean no-model?", &["landscape", "nomodel@1", "nomodel@2", "nomodel@3"]),
        (2, "did you mean no-model?", &["inspect", "--model=nomodel", "--text=a"]),
        (2, "did you mean no-model?", &["chat", "--model=nomodel"]),
        (2, "did you mean no-model?", &["export", "nomodel", "--gguf=model.gguf"]),
        (1, "no-model", &["pretrain!", "--resume=no-model"]),
        (1, "is a checkpoint", &["pretrain!", "--resume", &good]),
        (2, "--learning-rate", &["pretrain!", "--resume", &trained, "--learning-rate=0.5"]),
        (2, "--batch-size", &["pretrain!", "--resume", &trained, "--batch-size=99"]),
        (2, "--data", &["pretrain!", "--resume", &trained, "--data=text.txt"]),
        (2, "--preset", &["pretrain!", "--resume", &trained, "--preset=nano"]),
    ];
    let before = everything(&place);
    let mut failures = Vec::new();
    let mut slowest = (0.0, String::new());
    for (code, needle, args) in cases {
        let mut line: Vec<&str> = args.to_vec();
        match line[0] {
            "pretrain" => {
                let has = |flag: &str| args.iter().any(|a| a.starts_with(flag));
                if !has("--data") {
                    line.push("--data=text.txt");
                }
                if !has("--run") {
                    line.push("--run=run");
                }
                let name = |flag: &str| flag.split('=').next().unwrap().to_string();
                line.extend(TINY.iter().chain(RECIPE).filter(|flag| !has(&name(flag))));
            }
            "pretrain!" => line[0] = "pretrain",
            _ => {}
        }
        let output = run(&mut place.lehr(&line));
        if output.seconds > slowest.0 {
            slowest = (output.seconds, args.join(" "));
        }
        let errors: Vec<&str> = output.err.lines().filter(|l| l.starts_with("error:")).collect();
        let others = output.err.lines().filter(|l| !l.starts_with("error:") && !l.starts_with("note:")).count();
        let control = output.err.chars().any(|c| c.is_control() && c != '\n');
        let ok = output.code == Some(*code)
            && errors.len() == 1
            && (if *code == 2 { &output.err } else { errors[0] }).contains(needle)
            && errors[0].len() < 700
            && others == 0
            && !control
            && output.out.is_empty();
        if !ok {
            failures.push(format!(
                "{}\n   wanted exit {code} and {needle:?}\n   got exit {:?}: {}{}",
                args.join(" "),
                output.code,
                output.err,
                output.out
            ));
        }
        let after = everything(&place);
        if after != before {
            failures.push(format!("{}: left something behind: {after:?}", args.join(" ")));
            let _ = std::fs::remove_dir_all(place.path("run"));
        }
    }
    eprintln!("{} refusals; the slowest took {:.2} s: {}", cases.len(), slowest.0, slowest.1);
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Every path below the place but the cache.
fn everything(place: &Place) -> Vec<PathBuf> {
    let (mut todo, mut out) = (vec![place.path("")], Vec::new());
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path == place.path("cache") {
                continue;
            }
            if path.is_dir() {
                todo.push(path.clone());
            }
            out.push(path);
        }
    }
    out.sort();
    out
}

/// A short run needs no other flag than its length: warm-up, evaluation and saving are fitted to it, and what was typed is kept.
#[test]
fn a_short_run_needs_no_other_flags() {
    let place = Place::new();
    let shape: Vec<&str> = TINY.iter().copied().filter(|flag| !flag.starts_with("--warmup")).collect();
    for steps in [1, 5, 40] {
        let name = format!("run-{steps}");
        let mut command =
            place.lehr(["pretrain", "--data=text.txt", "--json", "--run", &name, "--max-steps", &steps.to_string()]);
        let events = json_lines(command.args(&shape));
        assert_eq!(step_numbers(&events), (1..=steps).collect::<Vec<_>>());
        let evals: Vec<u64> = kind(&events, "Eval").iter().filter_map(|e| e["step"].as_u64()).collect();
        let every = (steps / 4).max(1) as usize;
        let mut wanted: Vec<u64> = (0..=steps).step_by(every).collect();
        wanted.extend((wanted.last() != Some(&steps)).then_some(steps));
        assert_eq!(evals, wanted, "{steps} steps");
    }
    let refused = run(place.lehr(["pretrain", "--data=text.txt", "--max-steps=40", "--warmup-steps=40"]).args(&shape));
    assert!(
        refused.code == Some(2) && refused.err.contains("--warmup-steps 40: must be below --max-steps 40"),
        "{}",
        refused.err
    );
}

#[test]
fn closed_or_full_outputs_do_not_stop_a_run() {
    let place = Place::new();
    // The reader closes the pipe after the first line.
    let mut child = place.pretrain("head", RECIPE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    drop(child.stderr.take());
    assert!(line.starts_with("{\"event\":"), "{line}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(step_numbers(&place.events("head")), (1..=12).collect::<Vec<_>>());
    assert_eq!(place.events("head").last().unwrap()["event"], "Finished");
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        let mut command = place.pretrain("full", RECIPE);
        command.stdout(full.try_clone().unwrap()).stderr(full);
        assert_eq!(command.status().unwrap().code(), Some(0));
        assert_eq!(place.events("full").last().unwrap()["event"], "Finished");
    }
    // Commands that only print end quietly.
    let mut child =
        lehr_in(&place.path(""), ["pretrain", "--help"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
}

/// Not a promise, a figure: how long a user waits for the first number, the token cache warm.
#[test]
fn the_first_step_starts_soon() {
    let place = Place::new();
    for (name, more) in [("cold", &["--max-steps=4"][..]), ("warm", &["--max-steps=4"])] {
        let begin = std::time::Instant::now();
        let mut trainer = Trainer::start(&mut place.pretrain(name, &[more, &["--eval-every=0"]].concat()));
        let started = trainer.wait_for_kind("Started");
        let ready = begin.elapsed().as_secs_f64();
        trainer.wait_for_kind("Step");
        let first = begin.elapsed().as_secs_f64();
        eprintln!(
            "{name}: ready after {ready:.2} s (it says {:.2}), first step after {first:.2} s",
            started["startup_seconds"].as_f64().unwrap()
        );
        assert!(begin.elapsed() < PATIENCE);
        assert_eq!(trainer.end().code(), Some(0), "{}", trainer.diagnostics());
    }
}

/// Under a launcher a binary without MPI would train as many copies as there are ranks.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_launcher_is_refused_without_mpi() {
    let place = Place::new();
    for (variable, value) in [("OMPI_COMM_WORLD_SIZE", "2"), ("PMI_SIZE", "4"), ("PMIX_RANK", "0")] {
        let output = run(place.pretrain("run", &["--max-steps=1"]).env(variable, value));
        assert_eq!((output.code, output.err.lines().count()), (Some(1), 1), "{}", output.err);
        assert!(output.err.contains(variable) && output.err.contains("--features mpi"), "{}", output.err);
        assert!(!place.path("run").exists());
    }
    let output = run(place.pretrain("run", &["--max-steps=1"]).env("OMPI_COMM_WORLD_SIZE", "2").env("LEHR_WORLD", "solo"));
    assert_eq!(output.code, Some(0), "{}", output.err);
}

/// Commands that run in one process are refused once, by rank 0, also without MPI; a dry run is made once.
#[test]
fn one_process_commands_are_refused_under_a_launcher() {
    let place = Place::new();
    let under = |rank: &str, mut command: std::process::Command| {
        run(command.env("OMPI_COMM_WORLD_SIZE", "2").env("OMPI_COMM_WORLD_RANK", rank))
    };
    let eval = || place.lehr(["eval", "--model=m", "--data=text.txt"]);
    let [first, second] = ["0", "1"].map(|rank| under(rank, eval()));
    assert_eq!((first.code, first.err.lines().count()), (Some(1), 1), "{}", first.err);
    assert!(first.err.contains("`lehr eval` runs in one process") && first.err.contains("-n 1"), "{}", first.err);
    assert_eq!((second.code, second.out.as_str(), second.err.as_str()), (Some(0), "", ""));
    let [first, second] = ["0", "1"].map(|rank| under(rank, place.pretrain("run", &["--dry-run"])));
    assert_eq!((first.code, first.out.lines().count()), (Some(0), 1), "{}", first.err);
    assert_eq!((second.code, second.out.as_str(), second.err.as_str()), (Some(0), "", ""));
    assert!(!place.path("run").exists());
}

/// Every line of a lesson fits 80 columns, its commands included; a second start shows the same results without training, and `--again` trains.
#[test]
fn a_lesson_fits_the_terminal_and_is_trained_once() {
    let place = Place::new();
    let lesson = |more: &[&str]| {
        let output = run(place.lehr(["lesson", "one-batch", "--no-window", "--commands", "--out=l"]).args(more));
        assert_eq!(output.code, Some(0), "{}", output.err);
        let long: Vec<&str> = output.out.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{long:?}");
        output.out
    };
    let folders = || std::fs::read_dir(place.path("l")).unwrap().count();
    let first = lesson(&[]);
    let log = std::fs::read(place.path("l/one-batch/page/events.jsonl")).unwrap();
    let second = lesson(&[]);
    assert!(second.contains("was run before") && second.contains("--again"), "{second}");
    let results = |text: &str| text.split("The answer\n").nth(1).unwrap().to_owned();
    assert_eq!(results(&first), results(&second));
    assert_eq!((folders(), std::fs::read(place.path("l/one-batch/page/events.jsonl")).unwrap()), (1, log));
    lesson(&["--again"]);
    assert_eq!(folders(), 2);
}

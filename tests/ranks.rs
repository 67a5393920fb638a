//! Several ranks under mpirun: the run of one process, failures of ranks, commands that distribute their work.
//!
//! Needs feature `mpi`. Without mpirun, the tests print a line and pass. `LEHR_MPIRUN` sets another launcher, such as mpirun.mpich.
//!
//! Length: one test a rule.
#![cfg(all(unix, feature = "mpi"))]

mod common;

use common::{CommandOutput, Place, Trainer, json_lines, kind, run, step_numbers};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// One thread each, on the CPU.
const DEVICE: [&str; 2] = ["--adapter=cpu", "--threads=1"];
/// Bound for relative differences of the first step.
const ONE_STEP: f64 = 1e-6;
/// Bound for relative differences within 50 updates: training amplifies rounding.
const FIFTY_STEPS: f64 = 1e-3;

/// Flags of the launcher, or `None` without one.
fn launcher() -> Option<&'static [&'static str]> {
    static FOUND: OnceLock<Option<&'static [&'static str]>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let Ok(output) = mpirun().arg("--version").output() else {
            eprintln!("no mpirun: tests of several ranks are skipped");
            return None;
        };
        let is_open_mpi = String::from_utf8_lossy(&output.stdout).to_lowercase().contains("open");
        Some(if is_open_mpi { &["--allow-run-as-root", "--oversubscribe"] } else { &[] })
    })
}

/// One test at a time: several ranks take all cores, and their deadlines are short. `None` without a launcher.
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    launcher().map(|_| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn mpirun() -> Command {
    Command::new(std::env::var("LEHR_MPIRUN").unwrap_or_else(|_| "mpirun".into()))
}

/// The command on `ranks` ranks; one rank is a process without a launcher.
fn on_ranks(ranks: usize, command: &Command) -> Command {
    let flags = launcher().expect("checked before");
    let mut out = match ranks {
        1 => Command::new(command.get_program()),
        _ => {
            let mut mpirun = mpirun();
            mpirun.args(flags).arg("-n").arg(ranks.to_string()).arg(command.get_program());
            mpirun
        }
    };
    out.args(command.get_args()).args(DEVICE).current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        out.env(name, value.unwrap_or_default());
    }
    out
}

fn number(event: &Value, name: &str) -> f64 {
    event[name].as_f64().unwrap_or_else(|| panic!("{name} of {event}"))
}

fn close(name: &str, got: f64, want: f64, bound: f64) {
    let error = (got - want).abs() / want.abs().max(1e-6);
    assert!(error <= bound, "{name}: {got}, with one process {want}: {error:e} apart");
}

/// The same steps: step 1 within `ONE_STEP`, all others within `FIFTY_STEPS`.
fn same_curve(name: &str, got: &[Value], want: &[Value]) {
    let (got, want) = (kind(got, "Step"), kind(want, "Step"));
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        for exact in ["step", "num_tokens", "learning_rate", "epoch"] {
            assert_eq!(g[exact], w[exact], "{name}, update {}: {exact}", i + 1);
        }
        let bound = if i == 0 { ONE_STEP } else { FIFTY_STEPS };
        for number_of in ["loss", "entropy", "grad_norm", "mean_token_accuracy"] {
            // Rounding can exchange two tokens with almost equal probabilities.
            let bound = if number_of == "mean_token_accuracy" { 0.02 } else { bound };
            close(&format!("{name}, update {}: {number_of}", i + 1), number(g, number_of), number(w, number_of), bound);
        }
    }
}

/// Norms of weights and gradients at the first update, part by part.
fn same_norms(name: &str, got: &Value, want: &Value) {
    assert_eq!((&got["step"], &got["parts"]), (&json!(1), &want["parts"]), "{name}");
    for of in ["weights", "gradients"] {
        let norms = |event: &Value| event[of].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
        let (got, want) = (norms(got), norms(want));
        assert_eq!(got.len(), want.len(), "{name}");
        for (i, (g, w)) in got.into_iter().zip(want).enumerate() {
            close(&format!("{name}: norm of {of}, part {i}"), g, w, 10.0 * ONE_STEP);
        }
    }
}

/// Six sequences: three ranks have one micro-batch each; two ranks have two, the second half empty.
const PRETRAIN: &[&str] = &["--batch-size=6", "--micro-batch-size=2", "--max-steps=50", "--eval-every=25", "--save-every=20"];

fn pretrain(place: &Place, run: &str, more: &[&str]) -> Command {
    let mut command = place.lehr(["pretrain", "--data=text.txt", "--json", "--run", run]);
    let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
    let is_own = |flag: &&&str| !flag.contains("batch-size") && !more.iter().any(|other| name(other) == name(flag));
    command.args(common::TINY.iter().filter(is_own)).args(more);
    command
}

#[test]
fn pretraining_does_not_depend_on_the_number_of_ranks() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let of = |name: &str, ranks: usize| json_lines(&mut on_ranks(ranks, &pretrain(&place, name, PRETRAIN)));
    let alone = of("alone", 1);
    for ranks in [2, 3, 5] {
        let name = format!("of-{ranks}");
        let events = of(&name, ranks);
        same_curve(&name, &events, &alone);
        for (g, w) in kind(&events, "Eval").iter().zip(kind(&alone, "Eval")) {
            assert_eq!((&g["step"], &g["eval_tokens"]), (&w["step"], &w["eval_tokens"]), "{name}");
            close(&name, number(g, "eval_loss"), number(w, "eval_loss"), FIFTY_STEPS);
        }
        same_norms(&name, kind(&events, "Norms")[0], kind(&alone, "Norms")[0]);
        // Before the first update, only the order of an f64 sum differs.
        close(&name, number(kind(&events, "Eval")[0], "eval_loss"), number(kind(&alone, "Eval")[0], "eval_loss"), 1e-6);
        assert_eq!(kind(&events, "Checkpoint").len(), kind(&alone, "Checkpoint").len(), "saved once");
    }
}

/// The same bits with and without overlap of all-reduce and backward pass; `LEHR_OVERLAP` may differ between ranks.
#[test]
fn overlap_changes_no_bit() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    // Three million parameters: several chunks.
    let flags =
        ["--hidden-size=256", "--intermediate-size=768", "--num-hidden-layers=4", "--batch-size=4", "--micro-batch-size=1"];
    let flags = [&flags[..], &["--max-steps=6", "--eval-every=0"]].concat();
    for overlap in ["on", "off"] {
        let mut command = on_ranks(2, &pretrain(&place, overlap, &flags));
        json_lines(command.env("LEHR_OVERLAP", overlap));
    }
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(place.checkpoint("on", 6, file) == place.checkpoint("off", 6, file), "{file}");
    }
    let alone = json_lines(&mut on_ranks(1, &pretrain(&place, "alone", &flags)));
    same_curve("with overlap", &place.events("on"), &alone);
}

/// Two hosts joined by a slow link (`scripts/slow-network`): the run of one process, and no deadline misfires.
#[test]
fn a_slow_network_changes_no_result() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    // Gradients of 3 MB: a quarter of a second at 100 Mbit/s.
    let flags = ["--hidden-size=128", "--intermediate-size=352", "--num-hidden-layers=4", "--batch-size=6", "--max-steps=12"];
    let alone = json_lines(&mut on_ranks(1, &pretrain(&place, "alone", &flags)));
    for (ranks, hosts) in [("2", "a:1,b:1"), ("3", "a:1,b:2")] {
        let name = format!("of-{ranks}");
        let command = pretrain(&place, &name, &flags);
        let mut slow = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/slow-network"));
        slow.args(["--delay=20", "--rate=100"]).arg(mpirun().get_program()).args(launcher().unwrap());
        let flag = if launcher().unwrap().is_empty() { "-hosts" } else { "--host" };
        slow.args([flag, hosts, "-n", ranks]).arg(command.get_program()).args(command.get_args()).args(DEVICE);
        slow.current_dir(command.get_current_dir().unwrap()).env("LEHR_TUNE", "off").env("LEHR_CACHE", place.path("cache"));
        let output = run(slow.env("LEHR_RANK_TIMEOUT", "6"));
        if output.code == Some(77) {
            eprintln!("a slow network is not tested here: {}", output.err.trim());
            return;
        }
        assert_eq!(output.code, Some(0), "{slow:?}\n{}", output.err);
        same_curve(&name, &place.events(&name), &alone);
    }
}

#[test]
fn the_same_number_of_ranks_gives_the_same_bits() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    for name in ["first", "second"] {
        json_lines(&mut on_ranks(3, &pretrain(&place, name, PRETRAIN)));
    }
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(place.checkpoint("first", 50, file) == place.checkpoint("second", 50, file), "{file}");
    }
}

/// Unequal shares of a batch change no result, but are reported.
#[test]
fn uneven_batches_are_balanced_and_reported() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let flags = ["--batch-size=7", "--max-steps=20"];
    let alone = json_lines(&mut on_ranks(1, &pretrain(&place, "alone", &flags)));
    let events = json_lines(&mut on_ranks(3, &pretrain(&place, "of-3", &flags)));
    same_curve("7 sequences", &events, &alone);
    let warnings: Vec<&str> = kind(&events, "Warning").iter().filter_map(|w| w["text"].as_str()).collect();
    assert!(warnings.iter().any(|text| text.contains("--batch-size 7 on 3 ranks")), "{warnings:?}");
    let output = run(&mut on_ranks(3, &pretrain(&place, "too-few", &["--batch-size=2"])));
    assert_ne!(output.code, Some(0));
    assert_eq!(errors(&output.err).len(), 1, "{}", output.err);
    assert!(output.err.contains("--batch-size 2: fewer sequences than ranks (3)"), "{}", output.err);
}

/// Error lines of lehr, without those of mpirun.
fn errors(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("error: ")).collect()
}

/// Rows with 1 to 50 targets: a mean of means over ranks would differ. Packed rows too.
#[test]
fn fine_tuning_weights_every_target_equally() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let mut base =
        pretrain(&place, "base", &["--batch-size=4", "--max-steps=5", "--eval-every=0", "--seq-len=64", "--tokenizer=bytes"]);
    json_lines(&mut base);
    let word = common::text(400);
    let row = |i: usize| {
        let (prompt, completion) = if i.is_multiple_of(3) { (40, 1) } else { (2, 50 - i % 7) };
        json!({"prompt": &word[i..i + prompt], "completion": &word[i + prompt..i + prompt + completion]}).to_string() + "\n"
    };
    std::fs::write(place.path("rows.jsonl"), (0..48).map(row).collect::<String>()).unwrap();
    let flags = ["--batch-size=6", "--micro-batch-size=1", "--max-steps=50", "--warmup-steps=3"];
    let of = |name: &str, packing: &str, ranks: usize| {
        let mut sft = place.lehr(["sft", "--init=base", "--data=rows.jsonl", "--json", "--learning-rate=3e-3", "--run", name]);
        sft.args(flags).arg(packing);
        json_lines(&mut on_ranks(ranks, &sft))
    };
    for (name, packing) in [("rows", "--packing=false"), ("packed", "--packing=true")] {
        let alone = of(&format!("{name}-alone"), packing, 1);
        for ranks in [2, 3] {
            let name = format!("{name}-on-{ranks}");
            same_curve(&name, &of(&name, packing, ranks), &alone);
        }
    }
}

/// Completions of a step: (group, text).
fn texts(place: &Place, run: &str, step: u64) -> Vec<(u64, String)> {
    let text = std::fs::read_to_string(place.path(run).join("samples.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_step = lines.filter(|line| line["step"] == step);
    of_step.map(|line| (line["group"].as_u64().unwrap(), line["text"].as_str().unwrap().to_owned())).collect()
}

/// GRPO with Lopti: the same questions, completions and updates.
#[test]
fn grpo_makes_the_same_step() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let rows = ["data", "kk", "--form=compact", "--people=2-3", "--count=200", "--seed=1", "--out=rows.jsonl"];
    assert_eq!(run(&mut place.lehr(rows)).code, Some(0));
    let model = ["--hidden-size=16", "--intermediate-size=32", "--num-hidden-layers=1", "--num-attention-heads=2"];
    let mut base = place.lehr(["pretrain", "--data=rows.jsonl", "--tokenizer=words", "--run=base", "--max-steps=40", "--json"]);
    base.args(model).args(["--batch-size=8", "--seq-len=96", "--learning-rate=1e-2", "--warmup-steps=3"]).args(DEVICE);
    json_lines(&mut base);
    let of = |name: &str, ranks: usize| {
        let mut grpo =
            place.lehr(["grpo", "--init=base", "--task=kk", "--form=compact", "--people=2-3", "--json", "--run", name]);
        grpo.args(["--batch-size=12", "--num-generations=4", "--max-completion-length=24", "--max-prompt-length=60"]);
        grpo.args(["--learning-rate=1e-3", "--eval-questions=6", "--log-completions=1", "--max-steps=4", "--lopti-eta=0.3"]);
        grpo.args(["--beta=0.01", "--probe-every=2"]);
        json_lines(&mut on_ranks(ranks, &grpo))
    };
    let alone = of("alone", 1);
    for ranks in [2, 3] {
        let name = format!("of-{ranks}");
        let events = of(&name, ranks);
        assert_eq!(texts(&place, &name, 1), texts(&place, "alone", 1), "{name}: the completions of step 1");
        let (got, want) = (kind(&events, "Step")[0], kind(&alone, "Step")[0]);
        assert_eq!(got["num_tokens"], want["num_tokens"], "{name}");
        close(&format!("{name}: grad_norm"), number(got, "grad_norm"), number(want, "grad_norm"), 1e-5);
        close(&format!("{name}: entropy"), number(got, "entropy"), number(want, "entropy"), ONE_STEP);
        assert!((number(got, "loss") - number(want, "loss")).abs() < 1e-5, "{name}: loss");
        for metric in ["lopti/low/grad_norm", "lopti/high/grad_norm", "clip_ratio/region_mean", "reward", "num_updates"] {
            let of = |step: &Value| number(step, metric);
            assert!((of(got) - of(want)).abs() <= 1e-5 * (1.0 + of(want).abs()), "{name}: {metric}: {} {}", of(got), of(want));
        }
        assert_eq!(step_numbers(&events), [1, 2, 3, 4]);
        for (g, w) in kind(&events, "TaskEval").iter().zip(kind(&alone, "TaskEval")).take(2) {
            assert_eq!(g["all"]["accuracy"], w["all"]["accuracy"], "{name}: evaluation before the first step");
        }
    }
}

/// Process id of a rank, by its environment.
fn pid_of(rank: usize, place: &Path) -> u32 {
    let until = Instant::now() + common::PATIENCE;
    let wanted = [format!("OMPI_COMM_WORLD_RANK={rank}"), format!("PMI_RANK={rank}")];
    let cache = format!("LEHR_CACHE={}", place.join("cache").display());
    while Instant::now() < until {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
            let has = |text: &String| environment.split(|b| *b == 0).any(|word| word == text.as_bytes());
            if has(&cache) && wanted.iter().any(has) {
                return pid;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no process of rank {rank}");
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success(), "kill -{name} {pid}");
}

/// MPICH's launcher kills a stopped process and does not wait for its end.
fn wait_for_end(pid: u32) {
    let until = Instant::now() + common::PATIENCE;
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < until, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A run on three ranks without an end, after its first checkpoint.
fn long_run(place: &Place, name: &str, timeout: &str) -> Trainer {
    let flags = ["--batch-size=6", "--max-steps=1000000", "--eval-every=0", "--save-every=10"];
    let mut command = on_ranks(3, &pretrain(place, name, &flags));
    command.env("LEHR_RANK_TIMEOUT", timeout);
    let mut trainer = Trainer::start(&mut command);
    trainer.wait_for_kind("Checkpoint");
    trainer
}

/// Resume from the newest checkpoint.
fn resume(place: &Place, name: &str, ranks: usize) {
    let saved = lehr::run_folder::checkpoints::list(&lehr::vfs::RealFs, &place.path(name)).unwrap();
    let newest = saved.iter().map(|(step, _)| *step).max().unwrap();
    let more = format!("--max-steps={}", newest + 5);
    let events = json_lines(&mut on_ranks(ranks, &place.resume(name, &[&more])));
    assert_eq!(step_numbers(&events), (newest + 1..=newest + 5).collect::<Vec<_>>(), "{name}");
}

#[test]
fn a_rank_that_dies_ends_the_run() {
    let Some(_turn) = turn() else { return };
    for rank in 0..3 {
        let place = Place::new();
        let mut trainer = long_run(&place, "run", "20");
        signal(pid_of(rank, &place.path("")), "KILL");
        assert!(!trainer.end().success(), "rank {rank}: {}", trainer.diagnostics());
        resume(&place, "run", [2, 3, 1][rank]);
    }
}

#[test]
fn a_rank_that_hangs_ends_the_run_within_the_deadline() {
    let Some(_turn) = turn() else { return };
    for rank in 0..3 {
        let place = Place::new();
        let mut trainer = long_run(&place, "run", "3");
        let stopped = pid_of(rank, &place.path(""));
        signal(stopped, "STOP");
        assert!(!trainer.end().success(), "rank {rank}: {}", trainer.diagnostics());
        let text = trainer.stderr();
        let lines = errors(&text);
        assert_eq!(lines.len(), 1, "rank {rank}: {}", trainer.diagnostics());
        assert!(lines[0].contains(&format!("no heartbeat from rank {rank} ")), "{}", trainer.diagnostics());
        assert!(lines[0].contains("saved checkpoints are valid"), "{}", lines[0]);
        wait_for_end(stopped);
        resume(&place, "run", 1);
    }
}

/// A process that was stopped for less than the timeout of the others, and one whose ranks were all stopped for longer, continue.
#[test]
fn a_suspended_job_continues() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let mut command =
        on_ranks(2, &pretrain(&place, "run", &["--batch-size=6", "--max-steps=1000000", "--eval-every=0", "--control"]));
    let mut trainer = Trainer::start(command.env("LEHR_RANK_TIMEOUT", "3"));
    let step = trainer.wait_for_step(3)["step"].as_u64().unwrap();
    let pids = [0, 1].map(|rank| pid_of(rank, &place.path("")));
    pids.iter().for_each(|pid| signal(*pid, "STOP"));
    std::thread::sleep(Duration::from_secs(6));
    pids.iter().for_each(|pid| signal(*pid, "CONT"));
    trainer.wait_for_step(step + 200);
    trainer.send(r#"{"command":"Stop"}"#);
    trainer.end();
    assert!(!trainer.stderr().contains("error:"), "{}", trainer.diagnostics());
    assert_eq!(trainer.received.last().unwrap()["reason"], "stopped", "{}", trainer.diagnostics());
}

/// The shell command on each of `ranks` ranks, in which `$rank` is the rank, then lehr.
fn in_shell(place: &Place, ranks: usize, script: &str, lehr: &[&str]) -> CommandOutput {
    let script = format!("rank=${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}}; {script}; exec \"$@\"");
    let mut command = mpirun();
    command.args(launcher().unwrap()).args(["-n", &ranks.to_string(), "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_lehr")]);
    command.args(lehr).args(DEVICE).current_dir(place.path("")).env("LEHR_TUNE", "off").env("LEHR_CACHE", place.path("cache"));
    run(&mut command)
}

/// A short run.
const SHORT: [&str; 7] =
    ["pretrain", "--run=run", "--data=text.txt", "--preset=nano", "--batch-size=4", "--seq-len=16", "--max-steps=5"];

/// A rank that hangs before it has started lehr.
#[test]
fn a_rank_that_does_not_start_ends_the_others() {
    let Some(_turn) = turn() else { return };
    for (ranks, stopped) in [(2, 1), (3, 0)] {
        let place = Place::new();
        let output =
            in_shell(&place, ranks, &format!("export LEHR_RANK_TIMEOUT=4; [ $rank != {stopped} ] || kill -STOP $$"), &SHORT);
        assert!(output.code != Some(0) && errors(&output.err).len() == 1, "rank {stopped}: {}", output.err);
        assert!(errors(&output.err)[0].contains("no connection to all ranks within 20 s"), "{}", output.err);
        assert!(!place.path("run").exists(), "no run folder");
    }
}

/// Errors before training on one rank name it; those of all ranks are reported once.
#[test]
fn errors_of_flags_and_files_are_reported_once() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    std::fs::write(place.path("c.toml"), "[train]\nseed = 3\n").unwrap();
    json_lines(&mut on_ranks(1, &pretrain(&place, "old", &["--batch-size=4", "--max-steps=4"])));
    let elsewhere = "[ $rank != 1 ] || cd /";
    let data = format!("--data={}", place.path("text.txt").display());
    let here = ["pretrain", data.as_str(), "--run=run", "--preset=nano"];
    let with = |flag: &'static str| [&here[..], &[flag]].concat();
    let (config, again, doctor) = (with("--config=c.toml"), with("--run=other"), ["doctor", "--only=nosuch"]);
    let timeout = "export LEHR_RANK_TIMEOUT=abc";
    let timeout_of_2 = "[ $rank != 2 ] || export LEHR_RANK_TIMEOUT=abc";
    for (script, args, of_rank, words) in [
        (elsewhere, &config[..], Some(1), "--config c.toml"),
        (elsewhere, &["pretrain", "--resume=old"], Some(1), "--resume old"),
        (timeout_of_2, &here, Some(2), "LEHR_RANK_TIMEOUT=abc"),
        (timeout, &here, None, "LEHR_RANK_TIMEOUT=abc"),
        (":", &again, None, "--run"),
        (":", &with("--nosuch"), None, "--nosuch"),
        (":", &with("--config=none.toml"), None, "--config none.toml"),
        (":", &["pretrain", "--resume=nosuch"], None, "--resume nosuch"),
        (":", &["sft", "--init=nosuch", "--data=text.txt"], None, "--init nosuch"),
        (":", &doctor, None, "--only nosuch"),
    ] {
        let output = in_shell(&place, 3, script, args);
        assert!(output.code != Some(0) && errors(&output.err).len() == 1, "{args:?}: {}", output.err);
        let line = errors(&output.err)[0];
        let named = of_rank.is_none_or(|rank| line.starts_with(&format!("error: rank {rank} on ")));
        assert!(named && line.contains(words), "{args:?}: {}", output.err);
        assert!(!place.path("run").exists(), "no run folder");
    }
    // The exit code of an invalid command line, also from other ranks.
    let output = in_shell(&place, 3, ":", &with("--nosuch"));
    assert_eq!(output.code, Some(2), "{}", output.err);
}

/// Without a launcher that sets the number of ranks, a rank above 0 shows that there are more.
#[test]
fn a_rank_that_finds_itself_alone_is_refused() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let output = run(place.lehr(SHORT).args(DEVICE).env("PMIX_RANK", "3"));
    assert!(output.code == Some(1) && errors(&output.err).len() == 1, "{}", output.err);
    assert!(errors(&output.err)[0].contains("PMIX_RANK=3"), "{}", output.err);
    assert!(!place.path("run").exists(), "no run folder");
}

/// Commands without checkpoints: the line names the rank that reports, and claims nothing of checkpoints.
#[test]
fn a_hang_in_other_commands_is_reported_once() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let args = ["reproduce", "pma", "P11", "--scale=test", "--seeds=40", "--first-seed=7", "--work=work", "--out=out"];
    let mut command = on_ranks(3, &place.lehr(args));
    let child = command.env("LEHR_RANK_TIMEOUT", "3").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + common::PATIENCE;
    while !place.path("work/arms").exists() {
        assert!(Instant::now() < until, "no arm has begun");
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(pid_of(0, &place.path("")), "STOP");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = errors(&text);
    assert!(!output.status.success() && lines.len() == 1, "{text}");
    assert!(lines[0].contains("error: rank ") && lines[0].contains("no heartbeat from rank 0 "), "{text}");
    assert!(!lines[0].contains("checkpoint"), "{text}");
}

/// Flip a bit of every copy of these bytes in a process's memory; returns the number of copies.
fn flip_in_memory(pid: u32, bytes: &[u8]) -> usize {
    use std::os::unix::fs::FileExt as _;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = 0;
    for line in maps.lines() {
        let mut words = line.split(' ');
        let (start, end) = words.next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        if !words.next().unwrap().starts_with("rw") {
            continue;
        }
        let mut content = vec![0; (end - start) as usize];
        if memory.read_exact_at(&mut content, start).is_err() {
            continue;
        }
        for at in (0..content.len().saturating_sub(bytes.len())).filter(|at| content[*at..].starts_with(bytes)) {
            memory.write_all_at(&[bytes[8] ^ 1], start + at as u64 + 8).unwrap();
            found += 1;
        }
    }
    found
}

/// A bit of a weight that changes on one rank is found before the next save: no checkpoint has it.
#[test]
fn no_checkpoint_has_weights_of_a_faulty_rank() {
    let Some(_turn) = turn() else { return };
    for rank in [0, 1] {
        let place = Place::new();
        let flags = ["--batch-size=6", "--max-steps=1000000", "--eval-every=0", "--save-every=7", "--control"];
        let mut trainer = Trainer::start(&mut on_ranks(2, &pretrain(&place, "run", &flags)));
        trainer.wait_for_step(103);
        trainer.send(r#"{"command":"Pause"}"#);
        let step = trainer.wait_for_kind("Paused")["step"].as_u64().unwrap();
        trainer.send(r#"{"command":"SaveNow"}"#);
        trainer.wait_for("a save", |e| e["event"] == "Checkpoint" && e["step"] == step);
        let file = place.checkpoint("run", step, "model.safetensors");
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        // Within the embeddings or the first block.
        let bytes = file[8 + header..][..64].to_vec();
        assert!(flip_in_memory(pid_of(rank, &place.path("")), &bytes) > 0, "rank {rank}: no weights found");
        trainer.send(r#"{"command":"Resume"}"#);
        assert!(!trainer.end().success(), "{}", trainer.diagnostics());
        assert!(
            trainer.stderr().contains("on rank 1 on") && trainer.stderr().contains("differ from"),
            "{}",
            trainer.diagnostics()
        );
        let saved = lehr::run_folder::checkpoints::list(&lehr::vfs::RealFs, &place.path("run")).unwrap();
        assert_eq!(saved.iter().map(|(step, _)| *step).max(), Some(step), "rank {rank}");
        resume(&place, "run", 2);
    }
}

/// A signal to any rank, or to all (as Slurm sends it), stops all ranks after the same update, with one save.
#[test]
fn a_signal_to_some_ranks_stops_all() {
    let Some(_turn) = turn() else { return };
    for (ranks, name) in [(&[0][..], "TERM"), (&[2], "TERM"), (&[0], "USR1"), (&[1], "USR1"), (&[0, 1, 2], "TERM")] {
        let place = Place::new();
        let mut trainer = long_run(&place, "run", "60");
        let pids: Vec<u32> = ranks.iter().map(|rank| pid_of(*rank, &place.path(""))).collect();
        pids.into_iter().for_each(|pid| signal(pid, name));
        let status = trainer.end();
        assert!(!status.success(), "{name} to ranks {ranks:?}: {}", trainer.diagnostics());
        let last = trainer.received.last().unwrap();
        assert_eq!((&last["event"], &last["reason"]), (&json!("Finished"), &json!("stopped")), "{}", trainer.diagnostics());
        let saved = kind(&trainer.received, "Checkpoint").last().unwrap()["step"].clone();
        assert_eq!(saved, last["step"], "{name} to ranks {ranks:?}");
        assert!(!trainer.stderr().contains("error:"), "{}", trainer.diagnostics());
        resume(&place, "run", 2);
    }
}

/// A pause longer than the timeout.
#[test]
fn a_pause_is_no_lost_rank() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let flags = ["--batch-size=6", "--max-steps=1000000", "--eval-every=0", "--control"];
    let mut command = on_ranks(2, &pretrain(&place, "run", &flags));
    command.env("LEHR_RANK_TIMEOUT", "2");
    let mut trainer = Trainer::start(&mut command);
    trainer.wait_for_step(3);
    trainer.send(r#"{"command":"Pause"}"#);
    let step = trainer.wait_for_kind("Paused")["step"].as_u64().unwrap();
    std::thread::sleep(Duration::from_secs(5));
    trainer.send(r#"{"command":"SetHyper","learning_rate_scale":0.5}"#);
    trainer.wait_for_kind("HyperChanged");
    trainer.send(r#"{"command":"Resume"}"#);
    trainer.wait_for_step(step + 3);
    trainer.send(r#"{"command":"Stop"}"#);
    trainer.end();
    let last = trainer.received.last().unwrap();
    assert_eq!((&last["event"], &last["reason"]), (&json!("Finished"), &json!("stopped")), "{}", trainer.diagnostics());
}

/// A run on 2, then 3 ranks, then one process has the curve of a run of one process, also of live merging.
#[test]
fn a_run_is_resumed_with_any_number_of_ranks() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let flags = ["--batch-size=6", "--lr-scheduler=constant", "--eval-every=5", "--merge-every=5", "--merge-last=3"];
    let with = |steps: &'static str| [&flags[..], &[steps]].concat();
    let mut events = json_lines(&mut on_ranks(2, &pretrain(&place, "run", &with("--max-steps=15"))));
    events.extend(json_lines(&mut on_ranks(3, &place.resume("run", &["--max-steps=30"]))));
    events.extend(json_lines(&mut on_ranks(1, &place.resume("run", &["--max-steps=50"]))));
    let alone = json_lines(&mut on_ranks(1, &pretrain(&place, "alone", &with("--max-steps=50"))));
    same_curve("2, 3, 1", &events, &alone);
    let merged = |events: &[Value]| -> BTreeMap<u64, Value> {
        kind(events, "Merged").into_iter().map(|e| (e["step"].as_u64().unwrap(), e.clone())).collect()
    };
    let (got, want) = (merged(&events), merged(&alone));
    assert!(want.len() >= 8 && got.keys().eq(want.keys()), "{:?} {:?}", got.keys(), want.keys());
    for (g, w) in got.values().zip(want.values()) {
        assert_eq!(g["steps"], w["steps"]);
        // The last evaluation before a stop is on the whole validation split.
        if g["eval_tokens"] != w["eval_tokens"] {
            continue;
        }
        close("merged loss", number(g, "merge/sma/eval_loss"), number(w, "merge/sma/eval_loss"), FIFTY_STEPS);
    }
}

/// A fork continues with the moments of its parent on all ranks.
#[test]
fn a_fork_on_ranks_is_the_fork_of_one_process() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let flags = ["--batch-size=6", "--lr-scheduler=constant", "--eval-every=0", "--max-steps=30", "--save-every=10"];
    json_lines(&mut on_ranks(1, &pretrain(&place, "parent", &flags)));
    let of = |name: &str, ranks: usize| {
        json_lines(&mut on_ranks(ranks, &place.lehr(["pretrain", "--json", "--fork=parent@10", "--run", name])))
    };
    let alone = of("alone", 1);
    for ranks in [2, 3] {
        let name = format!("of-{ranks}");
        let events = of(&name, ranks);
        assert_eq!(step_numbers(&events), (11..=30).collect::<Vec<_>>());
        same_curve(&name, &events, &alone);
    }
}

/// A rescue restores the same weights on all ranks.
#[test]
fn a_rescue_restores_all_ranks() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let flags = [
        "--batch-size=6",
        "--max-steps=400",
        "--eval-every=0",
        "--save-every=20",
        "--rescue=rollback",
        "--rescue-patience=5",
        "--control",
    ];
    let mut command = on_ranks(2, &pretrain(&place, "run", &flags));
    let mut trainer = Trainer::start(&mut command);
    trainer.wait_for_step(120);
    trainer.send(r#"{"command":"SetHyper","learning_rate_scale":3000.0}"#);
    trainer.wait_for_kind("Rescue");
    // Beyond the next comparison of the ranks' weights.
    assert!(trainer.end().success(), "{}", trainer.diagnostics());
    assert_eq!(trainer.received.last().unwrap()["reason"], "completed", "{}", trainer.diagnostics());
}

/// One rank per command line under one launcher.
fn two(place: &Place, first: &[&str], second: &[&str]) -> CommandOutput {
    let mut command = mpirun();
    command.args(launcher().unwrap()).current_dir(place.path("")).env("LEHR_TUNE", "off").env("LEHR_CACHE", place.path("cache"));
    for (i, args) in [first, second].into_iter().enumerate() {
        if i > 0 {
            command.arg(":");
        }
        command.args(["-n", "1", env!("CARGO_BIN_EXE_lehr")]).args(args).args(DEVICE);
    }
    run(&mut command)
}

#[test]
fn ranks_that_disagree_are_refused_in_one_line() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let flags = |seed: &'static str, data: &'static str| {
        ["pretrain", "--run=run", "--preset=nano", "--batch-size=4", "--seq-len=16", "--max-steps=5", seed, data]
    };
    let output = two(&place, &flags("--seed=1", "--data=text.txt"), &flags("--seed=2", "--data=text.txt"));
    assert!(output.code != Some(0) && errors(&output.err).len() == 1, "{}", output.err);
    assert!(output.err.contains("error: --seed: 2 on rank 1 on") && output.err.contains(", 1 on rank 0 on"), "{}", output.err);
    assert!(!place.path("run").exists(), "no run folder");

    // The same file name, another text.
    std::fs::create_dir(place.path("other")).unwrap();
    std::fs::write(place.path("other/text.txt"), common::text(7000)).unwrap();
    let lehr = env!("CARGO_BIN_EXE_lehr");
    let mut command = mpirun();
    command.args(launcher().unwrap()).current_dir(place.path("")).env("LEHR_TUNE", "off").env("LEHR_CACHE", place.path("cache"));
    let args = flags("--seed=1", "--data=text.txt");
    command.args(["-n", "1", lehr]).args(args).args(DEVICE);
    command.args([":", "-n", "1", "-wdir"]).arg(place.path("other")).arg(lehr).args(args).args(DEVICE);
    let output = run(&mut command);
    assert!(output.code != Some(0) && errors(&output.err).len() == 1, "{}", output.err);
    assert!(output.err.contains("tokens of --data") && output.err.contains("rank 1 on"), "{}", output.err);

    // Other commands, also one that runs in one process.
    for other in [&["generate", "--model=m", "--prompt=a"][..], &["doctor"]] {
        let output = two(&place, &flags("--seed=1", "--data=text.txt"), other);
        assert!(output.code != Some(0) && errors(&output.err).len() == 1, "{}", output.err);
        assert!(output.err.contains(&format!("error: command: lehr {} on rank 1 on", other[0])), "{}", output.err);
        assert!(output.err.contains("lehr pretrain on rank 0 on"), "{}", output.err);
    }
    let dry = [&flags("--seed=1", "--data=text.txt")[..], &["--dry-run"]].concat();
    let output = two(&place, &flags("--seed=1", "--data=text.txt"), &dry);
    assert!(output.code != Some(0) && errors(&output.err).len() == 1, "{}", output.err);
    assert!(output.err.contains("error: command: lehr pretrain --dry-run on rank 1 on"), "{}", output.err);

    // An error on all ranks is reported once.
    let output = two(&place, &flags("--seed=1", "--data=none.txt"), &flags("--seed=1", "--data=none.txt"));
    assert!(output.code != Some(0) && errors(&output.err).len() == 1 && output.err.contains("none.txt"), "{}", output.err);
    assert!(!place.path("run").exists(), "no run folder");
}

#[test]
fn doctor_lists_ranks_and_rates() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let lines = json_lines(&mut on_ranks(3, &place.lehr(["doctor", "--json", "--only=rmsnorm"])));
    let ranks: Vec<_> = lines.iter().filter(|line| line["rank"].is_number()).collect();
    assert_eq!(ranks.iter().map(|rank| rank["rank"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(ranks.iter().all(|rank| rank["wrong_kernels"] == json!([]) && rank["place"].as_str().unwrap().contains(" on ")));
    let rates: Vec<_> = lines.iter().filter(|line| line["all_reduce"].is_number()).collect();
    assert!(rates.len() == 4 && rates.iter().all(|rate| number(rate, "gigabytes_per_second") > 0.0), "{lines:?}");
}

/// A device that does not exist on one rank is an error of the setup, which names the rank.
#[test]
fn a_rank_without_its_device_ends_the_setup() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let args = ["pretrain", "--run=run", "--data=text.txt", "--preset=nano", "--batch-size=4", "--seq-len=16", "--max-steps=5"];
    let mut command = mpirun();
    command.args(launcher().unwrap()).current_dir(place.path("")).env("LEHR_TUNE", "off").env("LEHR_CACHE", place.path("cache"));
    for (i, adapter) in ["--adapter=cpu", "--adapter=no such GPU"].into_iter().enumerate() {
        if i > 0 {
            command.arg(":");
        }
        command.args(["-n", "1", env!("CARGO_BIN_EXE_lehr")]).args(args).args(["--threads=1", adapter]);
    }
    let output = run(&mut command);
    assert!(output.code != Some(0) && errors(&output.err).len() == 1, "{}", output.err);
    assert!(output.err.contains("error: rank 1 on") && output.err.contains("no such GPU"), "{}", output.err);
    assert!(!place.path("run").exists(), "no run folder");
}

/// `lehr reproduce` of a claim with two seeds.
fn reproduce(place: &Place, ranks: usize, work: &str, out: &str) -> CommandOutput {
    let args = ["reproduce", "pma", "P11", "--scale=test", "--seeds=2", "--first-seed=7", "--work", work, "--out", out];
    run(&mut on_ranks(ranks, &place.lehr(args)))
}

/// Ranks share the arms; results are those of one process, and a second command finds all arms done, on any number of ranks.
#[test]
fn reproduce_shares_its_arms() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let results = |out: &str| std::fs::read(place.path(out).join("results.json")).unwrap();
    let alone = reproduce(&place, 1, "one", "a");
    assert_eq!(alone.code, Some(0), "{}", alone.err);
    for (ranks, work, out) in [(2, "two", "b"), (3, "three", "c"), (3, "two", "d"), (1, "three", "e")] {
        let output = reproduce(&place, ranks, work, out);
        assert_eq!(output.code, Some(0), "{}", output.err);
        assert_eq!(results(out), results("a"), "{ranks} ranks, work folder {work}");
        assert_eq!(output.out.lines().count(), alone.out.lines().count(), "rank 0 prints: {}", output.out);
        let is_new = ["b", "c"].contains(&out);
        for rank in (0..ranks).filter(|_| ranks > 1) {
            let done = output.err.lines().filter(|l| l.starts_with(&format!("rank {rank} on")) && l.contains(": done in"));
            assert_eq!(done.count() > 0, is_new, "arms of rank {rank}: {}", output.err);
        }
    }
}

/// A rank that is killed ends all; the finished arms remain.
#[test]
fn reproduce_ends_with_a_killed_rank_and_continues() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let args = ["reproduce", "pma", "P11", "--scale=test", "--seeds=6", "--first-seed=7", "--work=work", "--out=out"];
    let mut child = on_ranks(2, &place.lehr(args)).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + common::PATIENCE;
    let arms = || {
        let folders = std::fs::read_dir(place.path("work/arms")).map_or_else(|_| Vec::new(), |dir| dir.flatten().collect());
        folders.into_iter().filter(|folder| folder.path().join("record.json").is_file()).count()
    };
    while arms() == 0 {
        assert!(Instant::now() < until, "no arm is done");
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(pid_of(1, &place.path("")), "KILL");
    assert!(!child.wait().unwrap().success());
    let before = arms();
    let output = run(&mut on_ranks(3, &place.lehr(args)));
    assert_eq!(output.code, Some(0), "{}", output.err);
    // `rank 1 on host: ARM: done in 3 s`
    let name = |line: &str| line.split_once(": done in")?.0.rsplit(": ").next().map(str::to_owned);
    let trained: BTreeSet<String> = output.err.lines().filter_map(name).collect();
    assert_eq!(trained.len(), arms() - before, "finished arms are not trained again: {}", output.err);
}

#[test]
fn a_sweep_shares_its_merges() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    let flags = ["--batch-size=4", "--max-steps=40", "--save-every=5", "--keep-every=5", "--eval-every=0"];
    json_lines(&mut on_ranks(1, &pretrain(&place, "run", &flags)));
    let of = |ranks: usize, out: &str| {
        let args = ["merge", "sweep", "run", "--every=5,10,15", "--last=2,4", "--annealed=run@10", "--json", "--out", out];
        let mut lines = json_lines(&mut on_ranks(ranks, &place.lehr(args)));
        assert_eq!(lines.len(), 1, "rank 0 prints");
        let mut found = lines.remove(0);
        // Each rank reads the checkpoints of its merges.
        assert!(found["checkpoints_read"].take().as_u64().unwrap() >= 6);
        found
    };
    let alone = of(1, "a");
    for (ranks, out) in [(2, "b"), (3, "c")] {
        assert_eq!(of(ranks, out), alone, "{ranks} ranks");
        assert!(place.path(out).join("sweep.svg").is_file());
    }
}

/// Commands that run in one process are refused in one line; a dry run is made by rank 0 alone.
#[test]
fn other_commands_are_refused_by_name() {
    let Some(_turn) = turn() else { return };
    let place = Place::new();
    for args in [&["generate", "--model=m", "--prompt=a"][..], &["eval", "--model=m", "--data=text.txt"], &["bench"]] {
        let mut command = mpirun();
        command.args(launcher().unwrap()).args(["-n", "2", env!("CARGO_BIN_EXE_lehr")]).args(args).current_dir(place.path(""));
        let output = run(&mut command);
        assert!(output.code != Some(0) && errors(&output.err).len() == 1, "{args:?}: {}", output.err);
        assert!(errors(&output.err)[0].contains(&format!("`lehr {}` runs in one process", args[0])), "{}", output.err);
    }
    if cfg!(feature = "app") {
        let output = run(&mut on_ranks(2, &pretrain(&place, "run", &["--batch-size=4", "--window"])));
        assert!(output.code != Some(0) && errors(&output.err).len() == 1, "{}", output.err);
        assert!(errors(&output.err)[0].starts_with("error: --window: ") && !output.err.contains("one process"), "{}", output.err);
    }
    let output = run(&mut on_ranks(2, &pretrain(&place, "run", &["--batch-size=4", "--dry-run"])));
    assert!(output.code == Some(0) && output.out.lines().count() == 1, "{}{}", output.out, output.err);
    assert!(!place.path("run").exists());
}

//! Every mistake: one line that names it, exit code 1 (2 for an invalid command line or an unknown folder), and no trace on disk.

use super::*;
use lehr::model_files::checkpoint::step_name;
use lehr::vfs::RealFs;
use lehr::vfs::fault::{FaultFs, FaultKind};

/// Everything below a folder, with sizes.
fn listing(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            out.extend(listing(&entry.path()));
            out.push((entry.path(), 0));
        } else {
            out.push((entry.path(), entry.metadata().unwrap().len()));
        }
    }
    out.sort();
    out
}

/// Folders that are like `a` but for one thing.
// Length: one statement a folder.
fn damaged_folders(place: &Place) {
    let tensors = || {
        BTreeMap::from([
            ("embed".to_owned(), Stored::new(Dtype::F32, &[3, 2], &random(1, 6))),
            ("norm".to_owned(), Stored::new(Dtype::F32, &[3], &random(2, 3))),
            ("ids".to_owned(), Stored::new(Dtype::I64, &[2], &[1.0, 2.0])),
        ])
    };
    let make = |name: &str, change: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors();
        change(&mut tensors);
        let dir = folder(&place.path(name), &tensors);
        std::fs::write(dir.join("tokenizer.json"), r#"{"model":{"vocab":{"a":0,"b":1}}}"#).unwrap();
    };
    let change = |name: &str, file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        make(name, &|_| ());
        let path = place.path(name).join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    };
    make("a", &|_| ());
    make("b", &|t| drop(t.insert("norm".into(), Stored::new(Dtype::F32, &[3], &random(3, 3)))));
    make("nan", &|t| drop(t.insert("norm".into(), Stored::new(Dtype::F32, &[3], &[0.0, 1.0, f32::NAN]))));
    make("infinite", &|t| drop(t.insert("norm".into(), Stored::new(Dtype::F32, &[3], &[f32::NEG_INFINITY, 1.0, 0.0]))));
    make("half-nan", &|t| drop(t.insert("norm".into(), Stored::new(Dtype::BF16, &[3], &[0.0, f32::NAN, 1.0]))));
    make("large", &|t| drop(t.insert("norm".into(), Stored::new(Dtype::F32, &[3], &[65521.0, 0.0, 1.0]))));
    make("huge", &|t| drop(t.insert("norm".into(), Stored::new(Dtype::F32, &[3], &[3e38, 0.0, 1.0]))));
    make("minus", &|t| drop(t.insert("norm".into(), Stored::new(Dtype::F32, &[3], &[-3e38, 0.0, 1.0]))));
    make("missing", &|t| drop(t.remove("norm")));
    make("extra", &|t| drop(t.insert("more".into(), Stored::new(Dtype::F32, &[1], &[0.0]))));
    make("shape", &|t| drop(t.insert("embed".into(), Stored::new(Dtype::F32, &[2, 3], &random(1, 6)))));
    make("wide", &|t| drop(t.insert("norm".into(), Stored::new(Dtype::F64, &[3], &random(2, 3)))));
    make("ids", &|t| drop(t.insert("ids".into(), Stored::new(Dtype::I64, &[2], &[1.0, 3.0]))));
    make("ids-float", &|t| drop(t.insert("ids".into(), Stored::new(Dtype::F32, &[2], &[1.0, 2.0]))));
    change("truncated", "model.safetensors", &|b| b.truncate(b.len() - 3));
    change("headless", "model.safetensors", &|b| b.truncate(5));
    change("vocab-size", "config.json", &|b| *b = CONFIG.replace("\"vocab_size\":5", "\"vocab_size\":6").into());
    change("torn-config", "config.json", &|b| b.truncate(b.len() / 2));
    change("tokenizer", "tokenizer.json", &|b| *b = br#"{"model":{"vocab":{"a":1,"b":0}}}"#.to_vec());
    change("token-rules", "tokenizer.json", &|b| *b = br#"{"normalizer":{},"model":{"vocab":{"a":0,"b":1}}}"#.to_vec());
    make("no-config", &|_| ());
    std::fs::remove_file(place.path("no-config/config.json")).unwrap();
    std::fs::create_dir(place.path("nothing")).unwrap();
    std::fs::create_dir(place.path("full")).unwrap();
    std::fs::write(place.path("full/precious.txt"), "mine").unwrap();
    std::fs::create_dir(place.path("torch")).unwrap();
    std::fs::write(place.path("torch/pytorch_model.bin"), "PK").unwrap();
    make("edited", &|_| ());
    std::fs::write(place.path("edited/MANIFEST.json"), "{}").unwrap();
    windows::fake_run(&place.path("run"), &[100, 200, 300]);
    windows::fake_run(&place.path("other-run"), &[100, 200, 300]);
    let inside = checkpoints::folder(&place.path("other-run")).join(step_name(200)).join("model.safetensors");
    let mut bytes = std::fs::read(&inside).unwrap();
    let end = bytes.len() - 1;
    bytes[end] ^= 64;
    std::fs::write(inside, bytes).unwrap();
}

// Length: a table, a row an input.
#[test]
fn bad_input_is_refused_in_one_line() {
    let place = Place::new();
    damaged_folders(&place);
    // (exit code, what the line must hold, arguments behind `merge`); `--out=out` is added.
    let cases: &[(i32, &[&str], &[&str])] = &[
        // what is merged
        (1, &["nan/model.safetensors", "'norm'", "index 2", "NaN"], &["a", "nan"]),
        (1, &["nan/model.safetensors", "'norm'", "index 2", "NaN"], &["nan", "a", "--weights=0,1"]),
        (1, &["infinite/model.safetensors", "'norm'", "index 0", "-inf"], &["infinite", "a", "b"]),
        (1, &["half-nan/model.safetensors", "'norm'", "index 1"], &["half-nan", "a"]),
        (1, &["'norm'", "too large for F16"], &["large", "large", "--dtype=f16"]),
        (1, &["'norm'", "too large for F32"], &["huge", "minus", "--weights=2,-1"]),
        (1, &["missing", "1 missing: 'norm'"], &["missing", "a"]),
        (1, &["a: ", "1 unexpected: 'norm'"], &["a", "missing"]),
        (1, &["extra", "1 unexpected: 'more'"], &["extra", "a"]),
        (1, &["shape", "'embed' has [2, 3], needs [3, 2]"], &["shape", "a"]),
        (1, &["wide", "'norm'", "F64"], &["wide", "a"]),
        (1, &["ids", "'ids'", "I64 cannot be averaged"], &["ids", "a"]),
        (1, &["ids-float", "'ids'", "F32", "I64"], &["a", "ids-float"]),
        (1, &["truncated/model.safetensors", "truncated"], &["truncated", "a"]),
        (1, &["headless/model.safetensors", "cut off"], &["a", "headless"]),
        (1, &["vocab-size: config.json: vocab_size = 6, but 5 in a"], &["vocab-size", "a"]),
        (1, &["torn-config: config.json"], &["a", "torn-config"]),
        (1, &["tokenizer: tokenizer.json", "token 'a' is 1, there 0"], &["tokenizer", "a"]),
        (1, &["token-rules: tokenizer.json", "normalizer"], &["token-rules", "a"]),
        (1, &["no-config/config.json"], &["no-config", "a"]),
        (1, &["nothing", "not a model folder"], &["nothing", "a"]),
        (1, &["torch", "safe_serialization"], &["torch", "a"]),
        (1, &["edited: MANIFEST.json"], &["edited", "a"]),
        (2, &["nowhere: there is no such folder"], &["a", "nowhere"]),
        (2, &["a/config.json: is a file; this command takes a folder"], &["a", "a/config.json"]),
        // runs
        (1, &["run: is a run; name one run alone"], &["run", "a"]),
        (1, &["use --last 3"], &["run", "--last=4"]),
        (1, &["no checkpoint of step 150", "100, 200, 300"], &["run", "--last=2", "--every=150"]),
        (1, &["--at 250", "100, 200, 300"], &["run", "--at=250"]),
        (1, &["step-00000200: model.safetensors: its SHA-256"], &["other-run", "--last=3"]),
        (1, &["full", "not a model folder"], &["full"]),
        (2, &["4M", "4Mtok"], &["run", "--every=4M"]),
        (2, &["--last"], &["run", "--last=many"]),
        // how
        (2, &["--weights: 2 numbers for 3 checkpoints"], &["a", "b", "a", "--weights=1,2"]),
        (2, &["--weights", "sum is not 0"], &["a", "b", "--weights=1,-1"]),
        (2, &["--weights", "finite"], &["a", "b", "--weights=1,nan"]),
        (2, &["--weights", "one number for each"], &["a", "b", "--method=weights"]),
        (2, &["--weights: sma"], &["a", "b", "--method=sma", "--weights=1,2"]),
        (2, &["--alpha 0: must be above 0"], &["a", "b", "--method=ema", "--alpha=0"]),
        (2, &["--alpha: wma has none"], &["a", "b", "--method=wma", "--alpha=0.1"]),
        (2, &["--decay: sma has none"], &["a", "b", "--decay=linear"]),
        (2, &["--last: chooses checkpoints of a run"], &["a", "b", "--last=2"]),
        (2, &["--every: chooses"], &["a", "b", "--every=2"]),
        (2, &["--at: chooses"], &["a", "b", "--at=2"]),
        (2, &["--threads"], &["a", "b", "--threads=0"]),
        (2, &["slerp", "ema-normalized"], &["a", "b", "--method=slerp"]),
        (2, &["--weights"], &["a", "b", "--weights=one,two"]),
        (2, &["RUN | DIR"], &[]),
        // where to
        (2, &["--out full: the folder exists and is not empty"], &["a", "b", "--out=full"]),
        (2, &["--out a/config.json: is a file"], &["a", "b", "--out=a/config.json"]),
        (2, &["--out a/config.json/x", "is not a folder"], &["a", "b", "--out=a/config.json/x"]),
        (2, &["--out ..: name a new folder"], &["a", "b", "--out=.."]),
        (1, &["nan/model.safetensors"], &["nan", "a", "--out=new/folder/out"]),
    ];
    let before = listing(&place.path(""));
    for (code, parts, args) in cases {
        let mut command = place.lehr(["merge"]);
        command.args(*args);
        if !args.iter().any(|a| a.starts_with("--out")) {
            command.arg("--out=out");
        }
        let output = run(&mut command);
        assert_eq!(output.code, Some(*code), "{args:?}\n{}{}", output.out, output.err);
        let errors: Vec<&str> = output.err.lines().filter(|l| l.starts_with("error")).collect();
        assert_eq!(errors.len(), 1, "{args:?}\n{}", output.err);
        if *code == 1 {
            let stray: Vec<&str> = output.err.lines().filter(|l| !l.starts_with("error: ") && !l.starts_with("note: ")).collect();
            assert!(stray.is_empty(), "{args:?}\n{}", output.err);
        }
        for part in *parts {
            let text = if *code == 1 { errors[0] } else { output.err.as_str() };
            assert!(text.contains(part), "{args:?}: no '{part}' in\n{text}");
        }
        assert_eq!(listing(&place.path("")), before, "{args:?} left something behind");
    }
    let output = run(&mut place.lehr(["merge", "a", "b"]));
    assert!(output.code == Some(2) && output.err.contains("--out"), "{}", output.err);
    // And what is right works in the same place, on an empty folder too.
    std::fs::create_dir(place.path("out")).unwrap();
    assert_eq!(run(&mut place.lehr(["merge", "a", "b", "--out=out"])).code, Some(0));
    assert_eq!(run(&mut place.lehr(["merge", "run", "--out=from-run"])).code, Some(0));
    assert_eq!(run(&mut place.lehr(["merge", "a", "--out", "copy"])).code, Some(0));
}

/// Whatever fails on the disk: a whole folder, or nothing of it and of the folders above it.
#[test]
fn a_disk_error_leaves_all_or_nothing() {
    let place = Place::new();
    let small = |seed| BTreeMap::from([("w".to_owned(), Stored::new(Dtype::F32, &[5], &random(seed, 5)))]);
    let dirs = [folder(&place.path("a"), &small(1)), folder(&place.path("b"), &small(2))];
    let inputs = MergeInputs::open(&RealFs, &dirs, Verification::Hashes).unwrap();
    let merge = inputs.merge(&MergeRule::Sma).unwrap();
    let recipe = MergeRecipe::new(&merge, &MergeRule::Sma, None);
    let save = |fs: &FaultFs, top: &str| {
        let target = MergeTarget::new(&RealFs, &place.path(top).join("deep/out")).unwrap();
        merge.save(fs, &target, &recipe, &mut silent)
    };
    let count = FaultFs::counting();
    save(&count, "whole").unwrap();
    assert!(count.operations() > 20, "{:?}", count.log());
    for n in 0..count.operations() {
        for trouble in FaultKind::ERRORS {
            let (fs, top) = (FaultFs::lasting(n, trouble), format!("{n}-{trouble:?}"));
            let saved = save(&fs, &top);
            let out = place.path(&top).join("deep/out");
            let context = || format!("{trouble:?} at {:?}", fs.log()[n]);
            match saved {
                Err(e) if !out.exists() => {
                    let text = format!("{e:#}");
                    assert!(text.contains("(injected)") && !text.contains('\n'), "{}: {text}", context());
                    assert!(!place.path(&top).exists(), "{}: {:?}", context(), listing(&place.path(&top)));
                }
                // Or only the last sync of the folder around it failed.
                _ => drop(verify(&RealFs, &out).unwrap_or_else(|e| panic!("{}: {e:#}", context()))),
            }
        }
    }
}

#[test]
fn help_explains_every_rule() {
    let place = Place::new();
    let output = run(&mut place.lehr(["merge", "--help"]));
    assert_eq!((output.code, output.err.as_str()), (Some(0), ""));
    for part in
        "--out --method --alpha --decay --weights --last --every --at --dtype --dry-run --json --threads Examples: 400ktok --keep-every"
            .split_whitespace()
    {
        assert!(output.out.contains(part), "{part}\n{}", output.out);
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let place = Place::new();
    let n = 24 << 20;
    for i in 0..2u64 {
        let numbers = vec![i as f32; n];
        folder(&place.path(&i.to_string()), &BTreeMap::from([("big".into(), Stored::new(Dtype::F32, &[n], &numbers))]));
    }
    let before = listing(&place.path(""));
    let mut child = place.lehr(["merge", "0", "1", "--threads=1", "--out=out"]).spawn().unwrap();
    // As soon as something is written.
    while listing(&place.path("")).len() == before.len() && child.try_wait().unwrap().is_none() {}
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    // It may have been quicker than the signal.
    if sent.success() && !place.path("out").exists() {
        assert_eq!(status.code(), Some(130));
        assert_eq!(listing(&place.path("")), before);
    }
}

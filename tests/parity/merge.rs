//! `lehr merge` against PyTorch's goldens (tests/golden/merge.py), against a merge by brute force, and against the laws it must keep.

use crate::common;

use common::{Place, json_lines, run};
use lehr::config::{DecayShape, MergeMethod};
use lehr::merge::{METADATA_KEY, MergeInputs, MergeRecipe, MergeRule, MergeTarget, Verification, WeightedFolders};
use lehr::model_files::checkpoint::{self, verify};
use lehr::progress::silent;
use lehr::run_folder::checkpoints;
use lehr::vfs::RealFs;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

mod refusals;
mod windows;

/// A tensor as it is stored.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(dtype: Dtype, shape: &[usize], numbers: &[f32]) -> Self {
        assert_eq!(numbers.len(), shape.iter().product::<usize>());
        let bytes = match dtype {
            Dtype::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::F16 => numbers.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::BF16 => numbers.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::I64 => numbers.iter().flat_map(|x| (*x as i64).to_le_bytes()).collect(),
            Dtype::F64 => numbers.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect(),
            other => panic!("{other:?}"),
        };
        Self { dtype, shape: shape.to_vec(), bytes }
    }

    fn numbers(&self) -> Vec<f64> {
        match self.dtype {
            Dtype::F32 => self.bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Dtype::F16 => self.bytes.as_chunks().0.iter().map(|b| f64::from(half::f16::from_le_bytes(*b))).collect(),
            Dtype::BF16 => self.bytes.as_chunks().0.iter().map(|b| f64::from(half::bf16::from_le_bytes(*b))).collect(),
            other => panic!("{other:?}"),
        }
    }
}

type Tensors = BTreeMap<String, Stored>;

/// The tensors of a file, read by the safetensors crate.
fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    tensors.map(|(n, t)| (n, Stored { dtype: t.dtype(), shape: t.shape().to_vec(), bytes: t.data().to_vec() })).collect()
}

fn weights(dir: &Path) -> Tensors {
    read(&dir.join("model.safetensors"))
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(n, t)| (n.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

const CONFIG: &str = r#"{"architectures":["TestForCausalLM"],"vocab_size":5,"dtype":"float32","tie_word_embeddings":false}"#;

/// A model folder with these tensors.
fn folder(dir: &Path, tensors: &Tensors) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    write(&dir.join("model.safetensors"), tensors);
    std::fs::write(dir.join("config.json"), CONFIG).unwrap();
    dir.to_path_buf()
}

/// Numbers of a normal kind, keyed by `seed`.
fn random(seed: u64, n: usize) -> Vec<f32> {
    let rng = lehr::rng::Rng::new(seed, "merge test");
    (0..n.div_ceil(2) as u64).flat_map(|i| rng.normal_pair(0, i)).map(|x| x as f32).take(n).collect()
}

/// One tensor longer than a piece, others of odd sizes.
fn model(seed: u64, dtype: Dtype) -> Tensors {
    let tensor = |i: u64, shape: &[usize]| Stored::new(dtype, shape, &random(100 * seed + i, shape.iter().product()));
    BTreeMap::from([
        ("a.weight".into(), tensor(1, &[1031, 1037])),
        ("b.norm".into(), tensor(2, &[7])),
        ("c.weight".into(), tensor(3, &[3, 1, 5])),
        ("d.empty".into(), tensor(4, &[0, 4])),
        ("e.scalar".into(), tensor(5, &[])),
    ])
}

fn rule(method: MergeMethod) -> MergeRule {
    MergeRule::new(method, 0.2, DecayShape::OneMinusSqrt, &[0.5, -1.0, 0.25, 3.0], "").unwrap()
}

/// Merge in this process.
fn merged(dirs: &[PathBuf], rule: &MergeRule, threads: usize, out: &Path) -> Tensors {
    let inputs = MergeInputs::open(&RealFs, dirs, Verification::Hashes).unwrap();
    let mut merge = inputs.merge(rule).unwrap();
    merge.threads = threads;
    let recipe = MergeRecipe::new(&merge, rule, None);
    merge.save(&RealFs, &MergeTarget::new(&RealFs, out).unwrap(), &recipe, &mut silent).unwrap();
    verify(&RealFs, out).unwrap();
    weights(out)
}

const METHODS: [MergeMethod; 6] =
    [MergeMethod::Sma, MergeMethod::Ema, MergeMethod::EmaNormalized, MergeMethod::Wma, MergeMethod::Wsm, MergeMethod::Weights];

#[test]
fn merges_match_pytorch() {
    let place = Place::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/merge");
    for kind in ["f32", "bf16", "f16"] {
        let dirs: Vec<PathBuf> = (1..=4).map(|i| golden.join(kind).join(i.to_string())).collect();
        let expected = read(&golden.join(kind).join("expected.safetensors"));
        for method in METHODS {
            let got = merged(&dirs, &rule(method), 2, &place.path(&format!("{kind}-{}", method.name())));
            assert_eq!(got.len(), 6);
            for (name, tensor) in &got {
                let want = &expected[&format!("{}/{name}", method.name())];
                assert_eq!((tensor.dtype, &tensor.shape), (want.dtype, &want.shape), "{kind} {name}");
                // PyTorch's mean of four -0 is 0, so zeros are compared as numbers.
                assert_eq!(tensor.numbers(), want.numbers(), "{kind} {} {name}", method.name());
            }
        }
    }
}

#[test]
fn a_merge_is_the_weighted_sum_in_f64() {
    let place = Place::new();
    let models: Vec<Tensors> = (0..4).map(|i| model(i, Dtype::F32)).collect();
    let dirs: Vec<PathBuf> = models.iter().enumerate().map(|(i, m)| folder(&place.path(&i.to_string()), m)).collect();
    for method in METHODS {
        let w = rule(method).weights(4).unwrap();
        let got = merged(&dirs, &rule(method), 3, &place.path(method.name()));
        for (name, tensor) in &got {
            let columns: Vec<Vec<f64>> = models.iter().map(|m| m[name].numbers()).collect();
            for (i, x) in tensor.numbers().into_iter().enumerate() {
                let want: f64 = columns.iter().zip(&w).map(|(c, w)| w * c[i]).sum();
                // Half a step of f32, and what another order of summing may change.
                let step = f64::from((want as f32).next_up() - want as f32);
                assert!((x - want).abs() <= 0.5 * step.max(f64::from(f32::MIN_POSITIVE)) * (1.0 + 1e-6), "{method:?} {name} {i}");
            }
        }
        // The same numbers one tensor at a time, as a model is filled.
        let inputs = MergeInputs::open(&RealFs, &dirs, Verification::Sizes).unwrap();
        let merge = inputs.merge(&rule(method)).unwrap();
        for (name, tensor) in &got {
            let alone = merge.read_f32(name, &tensor.shape).unwrap();
            assert_eq!(Stored::new(Dtype::F32, &tensor.shape, &alone), *tensor, "{name}");
        }
    }
}

#[test]
fn merging_copies_is_the_identity_and_alpha_one_is_the_last() {
    let place = Place::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let mut tensors = model(7, dtype);
        // Every half there is, the edges of f32 among them.
        let all: Vec<u8> = (0..=u16::MAX).filter(|b| half::f16::from_bits(*b).is_finite()).flat_map(u16::to_le_bytes).collect();
        let edges: Vec<u8> = [0, 1, 2, 0x7f_ffff, 0x80_0000, 0x7f7f_ffff]
            .iter()
            .flat_map(|b: &u32| [*b, *b | 1 << 31])
            .flat_map(u32::to_le_bytes)
            .collect();
        let bytes = if dtype == Dtype::F32 { edges } else { all };
        if dtype != Dtype::BF16 {
            let n = bytes.len() / if dtype == Dtype::F32 { 4 } else { 2 };
            tensors.insert("f.edges".into(), Stored { dtype, shape: vec![n], bytes });
        }
        let one = folder(&place.path(&format!("{dtype:?}")), &tensors);
        let other = folder(&place.path(&format!("{dtype:?}-other")), &model(8, dtype));
        write(&other.join("model.safetensors"), &{
            let mut other = model(8, dtype);
            other.extend(
                tensors.get("f.edges").map(|t| ("f.edges".to_owned(), Stored { bytes: vec![0; t.bytes.len()], ..t.clone() })),
            );
            other
        });
        for (n, method) in [
            (1, MergeMethod::Sma),
            (2, MergeMethod::Sma),
            (3, MergeMethod::Sma),
            (10, MergeMethod::Sma),
            (7, MergeMethod::Wma),
            (4, MergeMethod::Ema),
            (5, MergeMethod::Wsm),
            (6, MergeMethod::EmaNormalized),
        ] {
            let out = place.path(&format!("{dtype:?}-{n}"));
            assert!(merged(&vec![one.clone(); n], &rule(method), 2, &out) == tensors, "{dtype:?} {n} {method:?}");
        }
        for (k, rule) in [MergeRule::Ema { alpha: 1.0 }, MergeRule::Weights(vec![0.0, 0.0, 2.5])].iter().enumerate() {
            let dirs = [other.clone(), other.clone(), one.clone()];
            assert!(merged(&dirs, rule, 2, &place.path(&format!("{dtype:?}-last{k}"))) == tensors, "{dtype:?} {rule}");
        }
    }
}

/// Weights travel with their folder; neither the order of folders, nor their names, nor threads change a bit.
#[test]
fn order_names_and_threads_change_no_bit() {
    let place = Place::new();
    let dirs: Vec<PathBuf> = (0..4).map(|i| folder(&place.path(&format!("{i}")), &model(i, Dtype::F32))).collect();
    let inner = |weights: &[f64], dirs: &[PathBuf], threads: usize| {
        let inputs = MergeInputs::open(&RealFs, dirs, Verification::Sizes).unwrap();
        let mut merge = WeightedFolders::new(&inputs, weights).unwrap();
        merge.threads = threads;
        let mut out = Vec::new();
        merge
            .stream(&mut |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        out
    };
    let w = [0.3, 0.1, 0.7, -0.2];
    let first = inner(&w, &dirs, 1);
    for threads in [2, 3, 8] {
        assert!(inner(&w, &dirs, threads) == first, "{threads} threads");
    }
    // Other names, so that an order by name is another one.
    let renamed: Vec<PathBuf> = (0..4).map(|i| folder(&place.path(&format!("{}", 9 - i)), &model(i, Dtype::F32))).collect();
    assert!(inner(&w, &renamed, 2) == first, "other names");
    for order in [[1, 0, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let (w, dirs): (Vec<f64>, Vec<PathBuf>) = order.iter().map(|i| (w[*i], dirs[*i].clone())).unzip();
        assert!(inner(&w, &dirs, 2) == first, "{order:?}");
    }
    // The whole file too: its metadata name folders in an order of their own.
    let file = |dirs: &[PathBuf], out: &str| {
        merged(dirs, &MergeRule::Sma, 2, &place.path(out));
        std::fs::read(place.path(out).join("model.safetensors")).unwrap()
    };
    let backwards: Vec<PathBuf> = dirs.iter().rev().cloned().collect();
    assert!(file(&dirs, "forth") == file(&backwards, "back"));
}

#[test]
fn mixed_types_become_f32_unless_a_type_is_requested() {
    let place = Place::new();
    let (a, b) = (model(1, Dtype::BF16), model(2, Dtype::F32));
    folder(&place.path("a"), &a);
    folder(&place.path("b"), &b);
    let output = run(&mut place.lehr(["merge", "a", "b", "--out=mixed"]));
    assert!(output.code == Some(0) && output.err.contains("different types"), "{}", output.err);
    let mixed = weights(&place.path("mixed"));
    let want = |name: &str| -> Vec<f32> {
        a[name].numbers().iter().zip(b[name].numbers()).map(|(a, b)| ((a + b) / 2.0) as f32).collect()
    };
    for (name, tensor) in &mixed {
        assert!(*tensor == Stored::new(Dtype::F32, &tensor.shape, &want(name)), "{name}");
    }
    let output = run(&mut place.lehr(["merge", "a", "b", "--dtype=bf16", "--out=small"]));
    assert_eq!(output.code, Some(0), "{}", output.err);
    for (name, tensor) in &weights(&place.path("small")) {
        assert!(*tensor == Stored::new(Dtype::BF16, &tensor.shape, &want(name)), "{name}");
    }
    let config: Value = serde_json::from_slice(&std::fs::read(place.path("small/config.json")).unwrap()).unwrap();
    assert_eq!(config["dtype"], "bfloat16");
    // Nothing to correct: the file as it was.
    assert_eq!(std::fs::read_to_string(place.path("mixed/config.json")).unwrap(), CONFIG);
}

#[test]
fn buffers_are_copied_and_a_tied_head_is_optional() {
    let place = Place::new();
    let mut tensors = model(1, Dtype::F32);
    tensors.insert("position_ids".into(), Stored::new(Dtype::I64, &[3], &[0.0, 1.0, 2.0]));
    folder(&place.path("a"), &tensors);
    tensors.insert("layers.0.rotary_emb.inv_freq".into(), Stored::new(Dtype::F32, &[2], &[1.0, 0.5]));
    tensors.insert("lm_head.weight".into(), Stored::new(Dtype::F32, &[2], &[1.0, 0.5]));
    folder(&place.path("b"), &tensors);
    let tied = CONFIG.replace("false", "true");
    for dir in ["a", "b"] {
        std::fs::write(place.path(dir).join("config.json"), &tied).unwrap();
    }
    let output = run(&mut place.lehr(["merge", "a", "b", "--out=ab"]));
    assert!(output.code == Some(0) && output.err.contains("lm_head.weight"), "{}", output.err);
    tensors.remove("lm_head.weight");
    let got = weights(&place.path("ab"));
    assert!(got == tensors, "{:?}", got.keys());
    // The newest has no table: then there is none.
    let output = run(&mut place.lehr(["merge", "b", "a", "--out=ba"]));
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert!(!weights(&place.path("ba")).contains_key("layers.0.rotary_emb.inv_freq"));
    // A head of its own is a weight.
    for dir in ["a", "b"] {
        std::fs::write(place.path(dir).join("config.json"), CONFIG).unwrap();
    }
    let output = run(&mut place.lehr(["merge", "a", "b", "--out=no"]));
    assert!(output.code == Some(1) && output.err.contains("lm_head.weight") && !place.path("no").exists(), "{}", output.err);
}

#[test]
fn the_recipe_is_in_the_folder() {
    let place = Place::new();
    for (i, name) in ["checkpoint-100", "checkpoint-200", "checkpoint-400"].iter().enumerate() {
        let dir = folder(&place.path(name), &model(i as u64, Dtype::F16));
        std::fs::write(dir.join("tokenizer.json"), r#"{"model":{"vocab":{"a":0}}}"#).unwrap();
        std::fs::write(dir.join("chat_template.jinja"), format!("template {i}")).unwrap();
        std::fs::write(dir.join("generation_config.json"), "{}").unwrap();
        std::fs::write(dir.join("pytorch_model.bin"), "not mine").unwrap();
    }
    let names = ["checkpoint-100", "checkpoint-200", "checkpoint-400"];
    let mut command = place.lehr(["merge", "--method=wma", "--out=deep/er/out", "--json"]);
    let output = json_lines(command.args(names));
    let recipe = &output[0]["recipe"];
    assert_eq!((&recipe["method"], &recipe["checkpoints"][1]["step"]), (&json!("wma"), &json!(200)));
    let weights: Vec<f64> = (0..3).map(|i| recipe["checkpoints"][i]["weight"].as_f64().unwrap()).collect();
    assert_eq!(weights, [1.0 / 6.0, 2.0 / 6.0, 0.5]);
    assert!((recipe["mean_age_steps"].as_f64().unwrap() - (300.0 / 6.0 + 200.0 / 3.0)).abs() < 1e-9, "{recipe}");
    let out = place.path("deep/er/out");
    let file: Value = serde_json::from_slice(&std::fs::read(out.join("merge.json")).unwrap()).unwrap();
    assert_eq!(&file, recipe);
    let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let texts = metadata.metadata().as_ref().unwrap();
    assert_eq!((texts["format"].as_str(), serde_json::from_str::<Value>(&texts[METADATA_KEY]).unwrap()), ("pt", file));
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    for part in [
        "---\nlibrary_name: transformers",
        "wma",
        "| `checkpoint-200` | 200 | 0.333333 |",
        "116.7 steps",
        "from_pretrained(\"out\")",
    ] {
        assert!(card.contains(part), "{part}\n{card}");
    }
    assert_eq!(std::fs::read_to_string(out.join("chat_template.jinja")).unwrap(), "template 2");
    assert!(out.join("generation_config.json").exists() && !out.join("pytorch_model.bin").exists());
    assert_eq!(checkpoint::verify(&RealFs, &out).unwrap().origin.step, 400);
    // A dry run first.
    let output = run(place.lehr(["merge", "--dry-run"]).args(names));
    assert!(
        output.code == Some(0) && output.out.contains("sma of 3 checkpoints") && output.out.contains("mean age 166.7 steps"),
        "{}",
        output.out
    );
}

/// A merge of N folders holds neither a tensor nor a folder in memory: one thread's pieces only.
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_below_one_tensor() {
    let place = Place::new();
    let n = 24 << 20;
    for i in 0..3u64 {
        let numbers: Vec<f32> = (0..n as u64).map(|k| ((k * (i + 3)) % 1013) as f32).collect();
        folder(&place.path(&i.to_string()), &BTreeMap::from([("big".into(), Stored::new(Dtype::F32, &[n], &numbers))]));
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_lehr"))
        .current_dir(place.path(""))
        .args(["merge", "0", "1", "2", "--threads=1", "--out=out"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        most = most.max(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(std::fs::metadata(place.path("out/model.safetensors")).unwrap().len() >> 20, 96);
    assert!(most > 4000 && most < 64 << 10, "{most} KiB at most, a tensor has {} KiB", 96 << 10);
}

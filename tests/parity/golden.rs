//! One whole step against PyTorch: log-probabilities, entropy, loss, every gradient, ten AdamW losses, packed documents.
//! The references are made by tests/golden/make.py in float64.

use crate::reference;
use lehr::vfs::RealFs;

use lehr::device::{Device, Recorder, Recording, Tensor};
use lehr::model::{Activations, Model, PassKind, RolloutBatch, RolloutEngine, RolloutRequest, transformer};
use lehr::model_files::hf_config;
use lehr::model_files::weight_files::WeightFiles;
use lehr::ops::embedding::Spans;
use lehr::ops::objective::stats;
use lehr::ops::rope::Rotation;
use lehr::ops::sample::Sampling;
use lehr::progress::silent;
use lehr::train::Optimizer;
use reference::{Golden, update_params, worst};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

const CASES: [&str; 8] = ["llama-gqa", "llama-tied", "qwen2", "qwen3", "llama-bias", "mistral", "qwen2-yarn", "qwen3-yarn"];

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn golden(case: &str) -> Golden {
    Golden::open(&folder(case).join("golden.safetensors"))
}

fn open(device: &Device, case: &str, config: &str, time: usize) -> Model {
    let dir = folder(case);
    let config = hf_config::read(&RealFs, &dir.join(config)).unwrap().model;
    let model = Model::new(device, &config, time).unwrap();
    model.load(device, &WeightFiles::open(&RealFs, &dir).unwrap()).unwrap();
    model
}

struct Setup {
    acts: Activations<Tensor>,
    optimizer: Optimizer,
    pass: Recording,
    batch: usize,
    time: usize,
}

fn set_up(device: &Device, model: &Model, batch: usize, time: usize, tokens: &[u32]) -> Setup {
    let acts = Activations::new(device, &model.config, batch, time, PassKind::Training);
    let optimizer = Optimizer::new(device, &model.parameters, &model.values, &acts.stats).unwrap();
    let mut pass = Recorder::new(device, "golden");
    let context = model.context(device);
    transformer::record_forward(&mut pass, context, &acts);
    transformer::record_head_and_loss(&mut pass, context, &acts, &optimizer.grad_weights);
    transformer::record_backward(&mut pass, context, &acts, &optimizer.grad_weights);
    let (mut targets, mut weights, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..tokens.len() {
        let last = (i + 1) % time == 0;
        targets.push(if last { u32::MAX } else { tokens[i + 1] });
        weights.push(if last { 0.0 } else { 1.0 / (batch * (time - 1)) as f32 });
        positions.push((i % time) as u32);
    }
    let spans = Spans::of(tokens);
    device.write(&acts.inputs.tokens, tokens);
    device.write(&acts.inputs.targets, &targets);
    device.write(&acts.inputs.positions, &positions);
    device.write(&acts.inputs.weights, &weights);
    device.write(&acts.inputs.order, &spans.order);
    device.write(&acts.inputs.spans, &spans.spans);
    Setup { pass: pass.finish().unwrap(), acts, optimizer, batch, time }
}

/// All but the last position of each row.
fn scored(values: &[f32], batch: usize, time: usize) -> Vec<f64> {
    (0..batch).flat_map(|b| values[b * time..(b + 1) * time - 1].iter().map(|v| f64::from(*v))).collect()
}

fn one_step_matches(device: &Device, case: &str) {
    let golden = golden(case);
    let shape = golden.shape("tokens");
    let (batch, time) = (shape[0], shape[1]);
    let model = open(device, case, "config.json", time);
    let s = set_up(device, &model, batch, time, &golden.integers("tokens"));
    s.optimizer.clear(device).unwrap();
    device.replay(&s.pass).unwrap();
    let logp = scored(&device.read(&s.acts.logp).unwrap(), s.batch, s.time);
    let entropy = scored(&device.read(&s.acts.entropy).unwrap(), s.batch, s.time);
    let numbers: Vec<f32> = device.read(&s.acts.stats).unwrap();
    let mut report = vec![
        ("logprobs".to_string(), worst(logp, &golden.floats("logprobs"))),
        ("entropy".to_string(), worst(entropy, &golden.floats("entropy"))),
        ("loss".to_string(), worst([f64::from(numbers[stats::LOSS])], &golden.floats("loss"))),
    ];
    for (spec, tensor) in model.parameters.tensors(&s.optimizer.grads) {
        let values: Vec<f32> = device.read(&tensor).unwrap();
        for (name, _, range) in spec.ranges() {
            let got = values[range].iter().map(|v| f64::from(*v));
            report.push((name.to_string(), worst(got, &golden.floats(&format!("grad.{name}")))));
        }
    }
    let bad: Vec<_> = report.iter().filter(|(_, e)| *e > 5e-5).collect();
    assert!(bad.is_empty(), "{case}: {bad:?}");
}

fn ten_losses_match(device: &Device, case: &str) {
    let golden = golden(case);
    let shape = golden.shape("tokens");
    let (batch, time) = (shape[0], shape[1]);
    let model = open(device, case, "config.json", time);
    let s = set_up(device, &model, batch, time, &golden.integers("tokens"));
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 1..=10 {
        s.optimizer.clear(device).unwrap();
        device.replay(&s.pass).unwrap();
        s.optimizer.update(device, &update_params(step)).unwrap();
        let numbers: Vec<f32> = device.read(&s.acts.stats).unwrap();
        losses.push(f64::from(numbers[stats::LOSS]));
        norms.push(f64::from(numbers[stats::GRAD_NORM]));
    }
    let (e_loss, e_norm) = (worst(losses, &golden.floats("losses")), worst(norms, &golden.floats("grad_norms")));
    assert!(e_loss < 2e-5 && e_norm < 2e-4, "{case}: losses off by {e_loss:e}, norms by {e_norm:e}");
}

fn device() -> Device {
    Device::open_named(None).expect("an adapter")
}

#[test]
fn one_step_matches_pytorch() {
    let device = device();
    CASES.iter().for_each(|case| one_step_matches(&device, case));
}

#[test]
fn one_step_of_the_other_kernel_class_matches_pytorch() {
    let mut device = device();
    device.switch_gpu_class();
    CASES.iter().for_each(|case| one_step_matches(&device, case));
}

/// `hit` against a search of the logits, and the mean of an update against both.
#[test]
fn token_accuracy_is_the_share_of_arg_maxes() {
    let device = device();
    let case = "llama-gqa";
    let golden = golden(case);
    let (shape, tokens) = (golden.shape("tokens"), golden.integers("tokens"));
    let (batch, time) = (shape[0], shape[1]);
    let model = open(&device, case, "config.json", time);
    let s = set_up(&device, &model, batch, time, &tokens);
    // Every other target is the most probable token, so that both answers occur.
    let mut forward = Recorder::new(&device, "golden");
    transformer::record_forward(&mut forward, model.context(&device), &s.acts);
    transformer::record_head(&mut forward, model.context(&device), &s.acts);
    let forward = forward.finish().unwrap();
    device.write(&s.acts.hit, &vec![f32::NAN; batch * time]);
    device.replay(&forward).unwrap();
    let logits: Vec<f32> = device.read(&s.acts.logits).unwrap();
    let stride = logits.len() / (batch * time);
    let best: Vec<u32> = logits
        .chunks(stride)
        .map(|row| (1..model.config.vocab_size).fold(0, |best, v| if row[v] > row[best] { v } else { best }) as u32)
        .collect();
    let mut targets: Vec<u32> = (0..batch * time).map(|i| tokens[(i + 1) % tokens.len()]).collect();
    targets.iter_mut().zip(&best).step_by(2).for_each(|(target, best)| *target = *best);
    device.write(&s.acts.inputs.targets, &targets);
    s.optimizer.clear(&device).unwrap();
    device.replay(&s.pass).unwrap();
    let want: Vec<f32> = targets.iter().zip(&best).map(|(target, best)| f32::from(u8::from(target == best))).collect();
    assert_eq!(device.read::<f32>(&s.acts.hit).unwrap(), want);
    let weights: Vec<f32> = device.read(&s.acts.inputs.weights).unwrap();
    let mean: f64 = want.iter().zip(&weights).map(|(h, w)| f64::from(h * w)).sum();
    let numbers: Vec<f32> = device.read(&s.acts.stats).unwrap();
    assert!(mean > 0.3 && mean < 0.9 && (f64::from(numbers[stats::ACCURACY]) - mean).abs() < 1e-6, "{mean}");
}

#[test]
fn ten_adamw_losses_match_pytorch() {
    let device = device();
    CASES.iter().for_each(|case| ten_losses_match(&device, case));
}

/// Prompts into the cache at once, then token by token: rotations, biases and norms of the decoding path.
#[test]
fn greedy_continuations_match_pytorch() {
    let device = device();
    for case in CASES {
        let golden = golden(case);
        let (tokens, want) = (golden.integers("tokens"), golden.integers("greedy"));
        let model = open(&device, case, "config.json", golden.shape("tokens")[1]);
        let request = RolloutRequest { prompt: tokens[..5].to_vec(), key: [0, 0], max_new: want.len() };
        let mut rollouts = RolloutEngine::new(&device, &model, 1, model.max_context()).unwrap();
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let batch = RolloutBatch { requests: &[request], sampling: &sampling, stops: &[] };
        let done = rollouts.run(&device, &model, batch, &mut silent).unwrap().unwrap();
        assert_eq!(done[0].tokens, want, "{case}");
    }
}

#[test]
fn configs_of_transformers_4_and_5_are_equivalent() {
    for case in ["llama-tied", "qwen2-yarn"] {
        let read = |name: &str| hf_config::read(&RealFs, &folder(case).join(name)).unwrap().model;
        assert_eq!(read("config.json"), read("config.v4.json"), "{case}");
    }
}

/// Frequencies and scales of many configs; what is written of each reads back.
#[test]
fn rotations_match_transformers() {
    let text = std::fs::read_to_string(folder("rope.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    for case in &cases {
        let read =
            |json: &serde_json::Value| hf_config::parse(json.to_string().as_bytes()).unwrap_or_else(|e| panic!("{json}: {e:#}"));
        let model = read(&case["config"]).model;
        let rotation = Rotation::new(model.head_dim, model.rope_theta, model.rope_scaling.as_ref());
        let want: Vec<f64> = case["frequencies"].as_array().unwrap().iter().map(|f| f.as_f64().unwrap()).collect();
        assert_eq!(rotation.frequencies.len(), want.len());
        for (got, want) in rotation.frequencies.iter().zip(&want).chain([(&rotation.scale, &case["scale"].as_f64().unwrap())]) {
            assert!((got / want - 1.0).abs() < 1e-12, "{}: {got} is not {want}", case["config"]);
        }
        assert_eq!(read(&hf_config::config_json(&model, &hf_config::SpecialTokens::default())).model, model);
    }
}

/// Some tools write tied weights under the head's name alone.
#[test]
fn a_tied_model_may_store_only_the_head() {
    let device = Device::open_named(None).unwrap();
    let (from, dir) = (folder("llama-tied"), tempfile::tempdir().unwrap());
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let renamed = tensors.tensors().into_iter().map(|(name, tensor)| (name.replace("model.embed_tokens", "lm_head"), tensor));
    std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize(renamed, None).unwrap()).unwrap();
    let config = hf_config::read(&RealFs, &from.join("config.json")).unwrap().model;
    assert!(config.tie_word_embeddings);
    let model = Model::new(&device, &config, 8).unwrap();
    let whole = model.read(&WeightFiles::open(&RealFs, &from).unwrap()).unwrap();
    let head_alone = WeightFiles::open(&RealFs, dir.path()).unwrap();
    assert!(head_alone.shape("model.embed_tokens.weight").is_none() && model.read(&head_alone).unwrap() == whole);
    model.load(&device, &head_alone).unwrap();
    assert!(model.get(&device).unwrap() == whole);
}

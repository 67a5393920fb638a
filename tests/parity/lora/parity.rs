//! One step and ten losses of adapters against PEFT; the same model with its adapters folded in.

use crate::common::golden;
use crate::lora::{adapted, shape};
use crate::reference::{Golden, update_params, worst};
use lehr::config::ModelConfig;
use lehr::data::Batch;
use lehr::device::Device;
use lehr::model::{Activations, Model, PassKind, RolloutBatch, RolloutEngine, RolloutRequest};
use lehr::model_files::weight_files::WeightFiles;
use lehr::ops::objective::stats;
use lehr::ops::sample::Sampling;
use lehr::train::{GradientPass, Optimizer, Scorer};
use lehr::vfs::RealFs;
use std::collections::BTreeSet;

const CASES: [&str; 3] = ["llama-gqa", "qwen2", "qwen3"];

/// The tokens of a golden model as a batch: every token but the last of a row predicts the next.
fn batch(case: &str) -> Batch {
    let golden = Golden::open(&golden(case).join("golden.safetensors"));
    let shape = golden.shape("tokens");
    let tokens = golden.integers("tokens");
    let (batch_size, seq_len) = (shape[0], shape[1]);
    let target = |i: usize| if (i + 1).is_multiple_of(seq_len) { lehr::data::IGNORE } else { tokens[i + 1] };
    let targets = (0..tokens.len()).map(target).collect();
    Batch { batch_size, seq_len, targets, doc_start: vec![0; tokens.len()], num_tokens: tokens.len(), tokens }
}

fn device() -> Device {
    Device::open_named(None).expect("an adapter")
}

struct Setup {
    model: Model,
    optimizer: Optimizer,
    pass: GradientPass,
    batch: Batch,
}

impl Setup {
    fn new(device: &Device, case: &str, pass: PassKind) -> Self {
        let batch = batch(case);
        let model = adapted(device, case, batch.seq_len);
        let acts = Activations::new(device, &model.config, batch.batch_size, batch.seq_len, pass);
        let optimizer = Optimizer::new(device, &model.parameters, &model.values, &acts.stats).unwrap();
        let pass = GradientPass::new(device, &model, acts, &optimizer.grad_weights).unwrap();
        Self { model, optimizer, pass, batch }
    }

    fn gradient(&self, device: &Device) -> Vec<f32> {
        self.optimizer.clear(device).unwrap();
        self.pass.run(device, &self.batch, 1.0 / self.batch.target_count() as f32).unwrap();
        device.read(&self.pass.acts.stats).unwrap()
    }

    /// Of every position that predicts something.
    fn logprobs(&self, values: &[f32]) -> Vec<f64> {
        let scored = self.batch.targets.iter().zip(values).filter(|(target, _)| **target != lehr::data::IGNORE);
        scored.map(|(_, value)| f64::from(*value)).collect()
    }
}

fn one_step_matches(device: &Device, case: &str, pass: PassKind) {
    let golden = Golden::open(&golden("lora").join(case).join("golden.safetensors"));
    let s = Setup::new(device, case, pass);
    let numbers = s.gradient(device);
    let logp: Vec<f32> = device.read(&s.pass.acts.logp).unwrap();
    let mut report = vec![
        ("logprobs".to_string(), worst(s.logprobs(&logp), &golden.floats("logprobs"))),
        ("loss".to_string(), worst([f64::from(numbers[stats::LOSS])], &golden.floats("loss"))),
    ];
    let mut seen = BTreeSet::new();
    for (spec, tensor) in s.model.parameters.tensors(&s.optimizer.grads) {
        let values: Vec<f32> = device.read(&tensor).unwrap();
        for (name, _, range) in spec.ranges() {
            let name = format!("grad.{name}");
            report.push((name.clone(), worst(values[range].iter().map(|v| f64::from(*v)), &golden.floats(&name))));
            seen.insert(name);
        }
    }
    let bad: Vec<_> = report.iter().filter(|(_, e)| *e > 5e-5).collect();
    assert!(bad.is_empty(), "{case}, {pass:?}: {bad:?}");
    let wanted: BTreeSet<String> = golden.names().into_iter().filter(|name| name.starts_with("grad.")).collect();
    assert_eq!(seen, wanted, "{case}: exactly PEFT's tensors are trained");
}

#[test]
fn one_step_matches_peft() {
    for pass in [PassKind::Training, PassKind::Checkpointed] {
        CASES.iter().for_each(|case| one_step_matches(&device(), case, pass));
    }
}

#[test]
fn one_step_of_the_other_kernel_class_matches_peft() {
    let mut device = device();
    device.switch_gpu_class();
    CASES.iter().for_each(|case| one_step_matches(&device, case, PassKind::Training));
}

#[test]
fn ten_adamw_losses_match_peft() {
    let device = device();
    for case in CASES {
        let golden = Golden::open(&golden("lora").join(case).join("golden.safetensors"));
        let s = Setup::new(&device, case, PassKind::Training);
        let frozen = base_bits(&device, &s.model);
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        for step in 1..=10 {
            s.gradient(&device);
            s.optimizer.update(&device, &update_params(step)).unwrap();
            let numbers: Vec<f32> = device.read(&s.pass.acts.stats).unwrap();
            losses.push(f64::from(numbers[stats::LOSS]));
            norms.push(f64::from(numbers[stats::GRAD_NORM]));
        }
        let (e_loss, e_norm) = (worst(losses, &golden.floats("losses")), worst(norms, &golden.floats("grad_norms")));
        assert!(e_loss < 2e-5 && e_norm < 2e-4, "{case}: losses off by {e_loss:e}, norms by {e_norm:e}");
        assert!(base_bits(&device, &s.model) == frozen, "{case}: a frozen weight has changed");
    }
}

fn base_bits(device: &Device, model: &Model) -> Vec<u32> {
    model.base().1.segments().flat_map(|(t, _)| device.read::<u32>(t).unwrap()).collect()
}

/// Gradients and moments of adapters only: what is saved.
#[test]
fn frozen_weights_have_no_gradients() {
    let device = device();
    let s = Setup::new(&device, "qwen2", PassKind::Training);
    let ledger = device.ledger().entries();
    let trained = s.model.parameters.arena_bytes();
    for part in ["adapters", "grads", "adam_m", "adam_v"] {
        assert_eq!(ledger[part], trained, "{part}: {ledger:?}");
    }
    assert_eq!(ledger["values"], s.model.base().0.value_bytes());
    assert_eq!(s.model.count(), s.model.base().0.count() + s.model.parameters.count());
}

#[test]
fn folded_weights_match_merge_and_unload() {
    for case in CASES {
        let golden_file = Golden::open(&golden("lora").join(case).join("golden.safetensors"));
        let files = WeightFiles::open(&RealFs, &golden("lora").join(case)).unwrap();
        let base = WeightFiles::open(&RealFs, &golden(case)).unwrap();
        assert_eq!(files.names().collect::<Vec<_>>(), base.names().collect::<Vec<_>>());
        let mut compared = 0;
        for name in golden_file.names() {
            let Some(weight) = name.strip_prefix("merged.") else { continue };
            let shape = golden_file.shape(&name);
            let (got, before) = (files.read_f32(weight, &shape).unwrap(), base.read_f32(weight, &shape).unwrap());
            // One rounding to f32 apart at most.
            let want = golden_file.floats(&name);
            let off = got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
            assert!(off < 1e-6, "{case}: {weight} is off by {off:e}");
            assert_ne!(got, before, "{case}: {weight} has an adapter");
            compared += 1;
        }
        let targets = shape(case).lora.unwrap().targets.len();
        assert_eq!(compared, targets, "{case}");
        let untouched = "model.norm.weight";
        let width = [shape(case).hidden_size];
        assert_eq!(files.read_f32(untouched, &width).unwrap(), base.read_f32(untouched, &width).unwrap());
    }
}

fn folded(device: &Device, case: &str, context: usize) -> Model {
    let model = Model::new(device, &ModelConfig { lora: None, ..shape(case) }, context).unwrap();
    model.load(device, &WeightFiles::open(&RealFs, &golden("lora").join(case)).unwrap()).unwrap();
    model
}

/// Scoring, prompts in the cache and decoding, with adapters and with folded weights.
#[test]
fn a_folded_model_matches_the_adapted_one() {
    for other in [false, true] {
        let mut device = device();
        if other {
            device.switch_gpu_class();
        }
        for case in CASES {
            let batch = batch(case);
            let models = [adapted(&device, case, batch.seq_len), folded(&device, case, batch.seq_len)];
            let scores = models.each_ref().map(|model| {
                let scorer = Scorer::new(&device, model, batch.batch_size, batch.seq_len).unwrap();
                scorer.score(&device, &batch).unwrap().0
            });
            let want: Vec<f64> = scores[1].iter().map(|l| f64::from(*l)).collect();
            let off = worst(scores[0].iter().map(|l| f64::from(*l)), &want);
            assert!(off < 2e-5, "{case}: scores differ by {off:e}");
            let request = RolloutRequest { prompt: batch.tokens[..5].to_vec(), key: [0, 0], max_new: 10 };
            let [a, b] = models.each_ref().map(|model| {
                let mut rollouts = RolloutEngine::new(&device, model, 1, model.max_context()).unwrap();
                let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
                let batch = RolloutBatch { requests: std::slice::from_ref(&request), sampling: &sampling, stops: &[] };
                let done = rollouts.run(&device, model, batch, &mut |_, _, _| Ok(true));
                done.unwrap().unwrap().remove(0)
            });
            assert_eq!(a.tokens, b.tokens, "{case}");
            let want: Vec<f64> = b.logprobs.iter().map(|l| f64::from(*l)).collect();
            let off = worst(a.logprobs.iter().map(|l| f64::from(*l)), &want);
            assert!(off < 5e-5, "{case}: completions differ by {off:e}");
        }
    }
}

/// New adapters leave the model as it is, to the bit: B is zero, A is drawn as PEFT draws it.
#[test]
fn new_adapters_change_nothing() {
    let device = device();
    let case = "qwen3";
    let batch = batch(case);
    let model = Model::new(&device, &shape(case), batch.seq_len).unwrap();
    model.initialise(&device, 7);
    model.load(&device, &WeightFiles::open(&RealFs, &golden(case)).unwrap()).unwrap();
    let plain = Model::new(&device, &ModelConfig { lora: None, ..shape(case) }, batch.seq_len).unwrap();
    plain.load(&device, &WeightFiles::open(&RealFs, &golden(case)).unwrap()).unwrap();
    let score = |model: &Model| {
        let scorer = Scorer::new(&device, model, batch.batch_size, batch.seq_len).unwrap();
        scorer.score(&device, &batch).unwrap().0.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(score(&model), score(&plain));
    for (spec, tensor) in model.parameters.tensors(&model.values) {
        let values: Vec<f32> = device.read(&tensor).unwrap();
        if spec.parts[0].0.ends_with("lora_B.weight") {
            assert!(values.iter().all(|b| *b == 0.0));
            continue;
        }
        // Kaiming's uniform distribution with a = sqrt(5): within 1 / sqrt(in features), of variance 1 / (3 in features).
        let bound = 1.0 / (spec.shape[1] as f64).sqrt();
        let variance = values.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(values.iter().all(|a| f64::from(a.abs()) <= bound));
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.35, "{}: variance {variance}", spec.parts[0].0);
    }
}

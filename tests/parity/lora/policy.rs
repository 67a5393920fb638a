//! GRPO with adapters: the reference of the KL term is the model without them.

use crate::common::golden;
use crate::lora::{adapted, shape};
use lehr::config::{ModelConfig, Settings, SettingsLayers, Stage};
use lehr::device::Device;
use lehr::model::Model;
use lehr::model_files::weight_files::WeightFiles;
use lehr::rng::Rng;
use lehr::train::MemoryPlan;
use lehr::train::reinforce::{Policy, Rollout};
use lehr::vfs::RealFs;

const CASE: &str = "qwen2";
const TIME: usize = 19;

fn settings() -> Settings {
    let mut settings = SettingsLayers::of(Stage::Grpo).unwrap().settings().unwrap();
    (settings.train.seq_len, settings.train.batch_size, settings.train.micro_batch_size) = (TIME, 6, Some(2));
    if let (Some(grpo), Some(rollout)) = (&mut settings.grpo, &mut settings.rollout) {
        (grpo.beta, rollout.max_prompt_length, rollout.max_completion_length) = (0.1, 4, 8);
    }
    settings
}

fn rollouts() -> Vec<Rollout> {
    let rng = Rng::new(3, "rollouts");
    let token = |row: u64, i: u64| rng.below(row, i, 59) as u32;
    let of = |row: u64| Rollout {
        group: row as u32 / 3,
        prompt: (0..1 + row % 3).map(|i| token(50 + row, i)).collect(),
        completion: (0..2 + row).map(|i| token(row, i)).collect(),
        ..Rollout::default()
    };
    (0..6).map(of).collect()
}

#[test]
fn the_reference_model_is_the_base_without_adapters() {
    let device = Device::open_named(None).expect("an adapter");
    let model = adapted(&device, CASE, TIME);
    let plain = Model::new(&device, &ModelConfig { lora: None, ..shape(CASE) }, TIME).unwrap();
    plain.load(&device, &WeightFiles::open(&RealFs, &golden(CASE)).unwrap()).unwrap();
    let (mut own, mut other) = (rollouts(), rollouts());
    let mut policy = Policy::new(&device, &model, &settings()).unwrap();
    policy.score(&device, &model, &mut own, 1.0).unwrap();
    policy.score_reference(&device, &model, &mut own, 1.0).unwrap();
    let mut of_plain = Policy::new(&device, &plain, &settings()).unwrap();
    of_plain.score(&device, &plain, &mut other, 1.0).unwrap();
    for (own, other) in own.iter().zip(&other) {
        assert_eq!(own.ref_logprobs, other.old_logprobs, "the reference is the base model, to the bit");
        assert_ne!(own.old_logprobs, own.ref_logprobs, "the policy is another");
    }
}

#[test]
fn no_second_model_is_allocated() {
    let sizes = lehr::device::Sizes::CPU;
    let with = |lora: bool| {
        let c = shape(CASE);
        let c = ModelConfig { lora: c.lora.filter(|_| lora), ..c };
        MemoryPlan::reinforcement(&c, &settings(), sizes).unwrap().parts
    };
    let names = |parts: &[(&'static str, u64)]| parts.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    assert!(names(&with(false)).contains(&"reference values"));
    let parts = with(true);
    assert!(!names(&parts).contains(&"reference values") && names(&parts).contains(&"adapters"), "{parts:?}");
    let bytes = |name: &str| parts.iter().find(|(part, _)| *part == name).unwrap().1;
    assert!(bytes("grads") == bytes("adapters") && bytes("grads") < bytes("values"));
}

//! The policy by its own interface: idle completions, moments of the second pass, repetition, both classes of kernels.

use crate::common::golden;
use crate::grpo::worst;
use lehr::config::{GrpoSettings, LoptiMoments, OptimizerKind, Settings, SettingsLayers, Stage};
use lehr::device::{Arena, Device};
use lehr::model::Model;
use lehr::model_files::hf_config;
use lehr::model_files::weight_files::WeightFiles;
use lehr::ops::adamw::UpdateParams;
use lehr::rng::Rng;
use lehr::train::Optimizer;
use lehr::train::reinforce::{Loss, Policy, PolicyModel, Rollout, advantage, passes};
use lehr::vfs::RealFs;

struct Bench {
    device: Device,
    model: Model,
    optimizer: Optimizer,
    policy: Policy,
    settings: Settings,
}

impl Bench {
    fn new(device: Device, change: impl FnOnce(&mut GrpoSettings)) -> Self {
        let mut settings = SettingsLayers::of(Stage::Grpo).unwrap().settings().unwrap();
        (settings.train.seq_len, settings.train.batch_size, settings.train.micro_batch_size) = (20, 12, Some(3));
        if let Some(grpo) = &mut settings.grpo {
            change(grpo);
        }
        let config = hf_config::read(&RealFs, &golden("qwen2/config.json")).unwrap().model;
        let model = Model::new(&device, &config, 20).unwrap();
        model.load(&device, &WeightFiles::open(&RealFs, &golden("qwen2")).unwrap()).unwrap();
        let policy = Policy::new(&device, &model, &settings).unwrap();
        let optimizer = policy.optimizer(&device, &model, &settings).unwrap();
        Self { device, model, optimizer, policy, settings }
    }

    fn grpo(&self) -> &GrpoSettings {
        self.settings.grpo.as_ref().unwrap()
    }

    fn loss(&self) -> Loss {
        Loss::of(self.settings.rollout.as_ref().unwrap(), self.grpo())
    }

    /// Three groups of four; the rewards of the second are all equal.
    fn rollouts(&mut self) -> Vec<Rollout> {
        let rng = Rng::new(9, "rollouts");
        let mut rollouts: Vec<Rollout> = (0..12u64)
            .map(|i| Rollout {
                group: i as u32 / 4,
                prompt: (0..1 + i / 4).map(|t| rng.below(i / 4, t, 59) as u32).collect(),
                completion: (0..1 + rng.below(i, 99, 10)).map(|t| rng.below(100 + i, t, 59) as u32).collect(),
                reward: if i / 4 == 1 { 0.5 } else { (i % 3) as f64 },
                ..Rollout::default()
            })
            .collect();
        self.policy.score(&self.device, &self.model, &mut rollouts, 1.0).unwrap();
        advantage::fill(&mut rollouts, self.settings.grpo.as_ref().unwrap()).unwrap();
        rollouts
    }

    /// All updates of a step.
    fn step(&mut self, rollouts: &[Rollout], loss: &Loss) {
        let hyper = UpdateParams { learning_rate: 1e-3, max_grad_norm: 1.0, ..UpdateParams::default() };
        let on = PolicyModel { device: &self.device, model: &self.model, optimizer: &self.optimizer };
        for pass in passes(rollouts, self.settings.grpo.as_ref().unwrap(), 1, 1).unwrap() {
            for range in self.policy.mini_batches(rollouts.len()) {
                let stats = self.policy.update(on, rollouts, range, &pass, loss, &hyper).unwrap();
                assert!(!stats.skipped);
            }
        }
    }

    fn numbers(&self, arena: &Arena) -> Vec<f64> {
        arena.segments().flat_map(|(t, _)| self.device.read::<f32>(t).unwrap()).map(f64::from).collect()
    }
}

fn device() -> Device {
    Device::open_named(None).expect("an adapter")
}

#[test]
fn completions_without_advantage_are_skipped() {
    for other in [false, true] {
        let mut device = device();
        if other {
            device.switch_gpu_class();
        }
        let mut b = Bench::new(device, |_| {});
        let rollouts = b.rollouts();
        let pass = passes(&rollouts, b.grpo(), 1, 1).unwrap().remove(0);
        let mut of = |loss: &Loss| {
            let on = PolicyModel { device: &b.device, model: &b.model, optimizer: &b.optimizer };
            let stats = b.policy.gradient(on, &rollouts, 0..12, &pass, loss).unwrap();
            (
                stats,
                b.optimizer
                    .grads
                    .segments()
                    .flat_map(|(t, _)| b.device.read::<f32>(t).unwrap())
                    .map(f64::from)
                    .collect::<Vec<_>>(),
            )
        };
        let loss = Loss { skip_idle: false, ..Loss::of(b.settings.rollout.as_ref().unwrap(), b.settings.grpo.as_ref().unwrap()) };
        let (all, want) = of(&loss);
        let (some, got) = of(&Loss { skip_idle: true, ..loss });
        // Other rows are packed together, so that sums are taken in another order.
        assert!(worst(&got, &want) < 5e-5, "{:e}", worst(&got, &want));
        assert_eq!((all.tokens, all.clip_high), (some.tokens, some.clip_high));
        assert!((all.loss - some.loss).abs() < 1e-6 && all.grad_norm > 0.01);
        assert_ne!(all.entropy, some.entropy, "four completions fewer");
        // With an entropy bonus none is idle.
        let mut bonus = loss;
        bonus.terms.entropy_coef = 0.1;
        let (all, some) = (of(&bonus).0, of(&Loss { skip_idle: true, ..bonus }).0);
        assert_eq!(all, some);
    }
}

#[test]
fn the_second_pass_may_have_its_own_moments() {
    let run = |moments: LoptiMoments| {
        let mut b = Bench::new(device(), |grpo| {
            (grpo.lopti_eta, grpo.lopti_moments, grpo.mini_batch_size) = (Some(0.05), moments, Some(6));
        });
        let rollouts = b.rollouts();
        let loss = b.loss();
        b.step(&rollouts, &loss);
        b
    };
    let (shared, separate) = (run(LoptiMoments::Shared), run(LoptiMoments::Separate));
    assert!(shared.optimizer.second.is_none());
    assert_eq!((shared.policy.optimizer_steps, separate.policy.optimizer_steps), ([4, 0], [2, 2]));
    let second = separate.optimizer.second.as_ref().unwrap();
    assert!(separate.numbers(&second.m).iter().any(|m| *m != 0.0));
    assert_ne!(separate.numbers(&separate.optimizer.m), separate.numbers(&second.m));
    assert_ne!(separate.numbers(&separate.model.values), shared.numbers(&shared.model.values));
}

#[test]
fn a_step_is_reproducible_to_the_bit() {
    let run = |kind: OptimizerKind| {
        let mut b =
            Bench::new(device(), |grpo| (grpo.optimizer, grpo.lopti_eta, grpo.mini_batch_size) = (kind, Some(0.05), Some(4)));
        let rollouts = b.rollouts();
        let loss = b.loss();
        b.step(&rollouts, &loss);
        // An evaluation in between changes nothing.
        let pass = passes(&rollouts, b.grpo(), 1, 1).unwrap().remove(0);
        let on = PolicyModel { device: &b.device, model: &b.model, optimizer: &b.optimizer };
        b.policy.gradient(on, &rollouts, 0..12, &pass, &loss).unwrap();
        b.step(&rollouts, &loss);
        (b.numbers(&b.model.values), b.numbers(&b.optimizer.m))
    };
    let first = run(OptimizerKind::Adamw);
    assert!(first == run(OptimizerKind::Adamw));
    let sgd = run(OptimizerKind::Sgd);
    assert!(sgd.0 != first.0 && sgd.1.iter().all(|m| *m == 0.0), "plain descent has no moments");
}

#[test]
fn unscored_completions_are_refused() {
    let mut b = Bench::new(device(), |_| {});
    let mut rollouts = b.rollouts();
    let pass = passes(&rollouts, b.grpo(), 1, 1).unwrap().remove(0);
    let loss = b.loss();
    let mut beta = loss;
    beta.terms.beta = 0.1;
    let mut gradient = |rollouts: &[Rollout], loss: &Loss| {
        let on = PolicyModel { device: &b.device, model: &b.model, optimizer: &b.optimizer };
        b.policy.gradient(on, rollouts, 0..12, &pass, loss).map_err(|e| e.to_string())
    };
    assert!(gradient(&rollouts, &loss).is_ok());
    assert!(gradient(&rollouts, &beta).unwrap_err().contains("reference model"));
    rollouts[3].advantages.clear();
    assert!(gradient(&rollouts, &loss).unwrap_err().contains("scored completions with advantages"));
    rollouts[3].completion = vec![1; 40];
    assert!(gradient(&rollouts, &loss).unwrap_err().contains("larger --seq-len"));
    rollouts[3].completion.clear();
    assert!(gradient(&rollouts, &loss).unwrap_err().contains("need one"));
}

//! The GRPO trainer, in this process, on a task that a random model can learn in seconds: write letters of the half of the
//! alphabet that was asked for.

use lehr::config::{
    Architecture, GrpoSettings, LoptiMoments, Lora, ModelConfig, ModelSettings, Projection, RolloutSettings, Settings,
    TaskSettings,
};
use lehr::data::Tokenizer;
use lehr::data::tasks::{Grade, Question, Split, Task};
use lehr::device::{Device, ElementType};
use lehr::event::Event;
use lehr::model_files::checkpoint::{Checkpoint, CheckpointOrigin};
use lehr::progress::silent;
use lehr::session::save::{self, TrainerFile};
use lehr::train::reinforce::TaskContext;
use lehr::train::{MemoryPlan, StepResult, Trainer, within_memory};
use lehr::vfs::RealFs;
use lehr::world::World;
use std::collections::BTreeMap;

/// The reward is the share of the answer's bytes that are letters of the half asked for; right is half of them.
struct Letters {
    /// Every answer gets this instead.
    flat: Option<f64>,
}

impl Task for Letters {
    fn name(&self) -> &'static str {
        "letters"
    }

    fn question(&self, split: Split, n: u64) -> anyhow::Result<Question> {
        let letter = ["a", "b"][(n % 2) as usize];
        let prompt = if split == Split::Train { format!("{letter}:") } else { format!("{letter} :") };
        Ok(Question { prompt, answer: letter.into(), level: (n % 2) as u32 })
    }

    fn eval_questions(&self) -> u64 {
        6
    }

    fn grade(&mut self, answers: &[(&Question, &str)]) -> anyhow::Result<Vec<Grade>> {
        let grade = |(question, text): &(&Question, &str)| {
            let half = if question.answer == "a" { b'a'..=b'm' } else { b'n'..=b'z' };
            let hits = text.bytes().filter(|b| half.contains(b)).count();
            // Every byte counts a little, so that answers of one group differ.
            let shade: usize = text.bytes().map(|b| usize::from(b % 7)).sum();
            let share = (hits as f64 + 1e-3 * shade as f64) / text.len().max(1) as f64;
            Grade { reward: self.flat.unwrap_or(share), correct: share >= 0.5, ..Grade::default() }
        };
        Ok(answers.iter().map(grade).collect())
    }
}

fn settings() -> Settings {
    let mut s = Settings {
        task: Some(TaskSettings::default()),
        rollout: Some(RolloutSettings {
            num_generations: 4,
            max_completion_length: 6,
            max_prompt_length: 4,
            log_completions: 1,
            ..RolloutSettings::default()
        }),
        grpo: Some(GrpoSettings { mini_batch_size: Some(4), ..GrpoSettings::default() }),
        ..Settings::default()
    };
    let t = &mut s.train;
    (t.batch_size, t.seq_len, t.max_steps, t.learning_rate, t.min_learning_rate) = (8, 10, 100, 3e-3, 3e-3);
    (t.lr_scheduler, t.warmup_steps, t.weight_decay) = (lehr::config::Scheduler::Constant, 0, 0.0);
    s
}

fn lopti(mut s: Settings) -> Settings {
    if let Some(grpo) = &mut s.grpo {
        // At first a byte is one of 257, about 0.004.
        (grpo.lopti_eta, grpo.reweight_alpha, grpo.lopti_moments) = (Some(0.0039), 0.3, LoptiMoments::Separate);
    }
    s
}

fn shape() -> ModelConfig {
    let model = ModelSettings {
        architecture: Architecture::Llama,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        initializer_range: 0.1,
        ..ModelSettings::default()
    };
    model.config(257, 16)
}

fn device() -> Device {
    Device::open_named(None).expect("these tests need an adapter; scripts/setup installs one")
}

fn trainer_of(settings: &Settings, flat: Option<f64>) -> Trainer {
    trainer_for(settings, &shape(), flat)
}

fn trainer_for(settings: &Settings, config: &ModelConfig, flat: Option<f64>) -> Trainer {
    let tokenizer = Tokenizer::bytes(true).unwrap();
    let stops = tokenizer.eos_id().into_iter().collect();
    Trainer::reinforce(
        device(),
        settings,
        config,
        TaskContext { task: Box::new(Letters { flat }), tokenizer, stops, chat: false },
    )
    .unwrap()
}

fn trainer(settings: &Settings) -> Trainer {
    trainer_of(settings, None)
}

/// Runs this number of further steps.
fn steps(t: &mut Trainer, n: usize) -> Vec<StepResult> {
    let mut out = Vec::new();
    while out.len() < n {
        out.extend(t.step().unwrap());
    }
    out
}

fn weights(t: &Trainer) -> Vec<u32> {
    t.model.get(&t.device).unwrap().into_iter().map(f32::to_bits).collect()
}

/// A step's numbers, those of the clock left out.
fn numbers(result: &StepResult) -> (u64, u64, BTreeMap<String, u64>, String) {
    let timed = |name: &str| name.starts_with("timing_s/") || name == "step_time" || name == "rollout_tokens_per_second";
    let metrics = result.metrics.iter().filter(|(name, _)| !timed(name)).map(|(k, v)| (k.clone(), v.0.to_bits())).collect();
    let reported: Vec<&Event> = result.events.iter().filter(|e| matches!(e, Event::Tokens(_))).collect();
    let rest = format!("{reported:?} {:?} {:?}", result.samples, result.entropy);
    (result.step, result.loss.to_bits(), metrics, rest)
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    for settings in [settings(), lopti(settings())] {
        let run = |seed: u64| {
            let mut s = settings.clone();
            s.train.seed = seed;
            let mut t = trainer(&s);
            let all: Vec<_> = steps(&mut t, 3).iter().map(numbers).collect();
            (all, weights(&t))
        };
        let first = run(7);
        assert!(first == run(7), "the same seed gave another run");
        assert!(first.1 != run(8).1, "another seed gave the same weights");
    }
}

#[test]
fn rewarded_completions_become_more_likely() {
    for settings in [settings(), lopti(settings())] {
        let mut settings = settings;
        settings.train.learning_rate = 1e-2;
        settings.train.min_learning_rate = 1e-2;
        let mut t = trainer(&settings);
        let all = steps(&mut t, 60);
        let reward = |of: &[StepResult]| of.iter().map(|r| r.metrics["reward"].0).sum::<f64>() / of.len() as f64;
        let (first, last) = (reward(&all[..5]), reward(&all[55..]));
        assert!(last > first + 0.2, "{first} at first, {last} after 60 steps");
    }
}

#[test]
fn equal_rewards_change_nothing() {
    let mut t = trainer_of(&settings(), Some(1.5));
    let before = weights(&t);
    let all = steps(&mut t, 2);
    assert!(weights(&t) == before, "weights moved");
    assert_eq!(all[1].metrics["frac_reward_zero_std"].0, 1.0);
    assert_eq!((all[1].grad_norm, all[1].metrics["reward"].0), (0.0, 1.5));
}

/// Save between two updates of a step and continue in a new trainer: the same bits as without an interruption.
#[test]
fn a_pending_step_resumes_where_it_stopped() {
    let settings = lopti(settings());
    let mut straight = trainer(&settings);
    let want: Vec<_> = steps(&mut straight, 3).iter().map(numbers).collect();
    // Two passes of two mini-batches.
    assert_eq!(f64::from_bits(want[1].2["num_updates"]), 4.0, "the test is of several updates a step");
    for cut in 0..4 {
        let mut first = trainer(&settings);
        steps(&mut first, 1);
        for _ in 0..cut {
            assert!(first.step().unwrap().is_none());
        }
        assert_eq!(first.pending_step().is_some(), cut > 0);
        let dir = tempfile::tempdir().unwrap();
        let file = TrainerFile { state: first.state.clone(), ..TrainerFile::default() };
        let tokenizer = Tokenizer::bytes(true).unwrap();
        let origin = CheckpointOrigin { step: first.state.step, ..CheckpointOrigin::default() };
        let (path, _) = save::save(&RealFs, dir.path(), &first, &tokenizer, &file, &origin).unwrap();
        drop(first);
        let mut second = trainer(&settings);
        save::restore(&RealFs, &Checkpoint::open(&RealFs, &path).unwrap(), &mut second).unwrap();
        let got: Vec<_> = steps(&mut second, 2).iter().map(numbers).collect();
        assert!(got == want[1..], "left after {cut} updates: other numbers\n{got:#?}\n{:#?}", &want[1..]);
        assert!(weights(&second) == weights(&straight), "left after {cut} updates: other weights");
    }
}

#[test]
fn an_interrupted_rollout_is_repeated_identically() {
    let mut straight = trainer(&settings());
    let want: Vec<_> = steps(&mut straight, 2).iter().map(numbers).collect();
    let mut t = trainer(&settings());
    let mut got = vec![numbers(&steps(&mut t, 1)[0])];
    assert!(t.step_watched(&mut |what, done, _| Ok(!(what == "sampling" && done > 0))).unwrap().is_none());
    assert!(t.pending_step().is_none() && t.state.step == 1);
    got.extend(steps(&mut t, 1).iter().map(numbers));
    assert!(got == want, "{got:#?}\n{want:#?}");
}

#[test]
fn live_settings_wait_for_the_next_step() {
    let mut changed = trainer(&settings());
    let mut plain = trainer(&settings());
    for t in [&mut changed, &mut plain] {
        assert!(t.step().unwrap().is_none(), "one of two updates");
    }
    changed.state.hyper.reweight_alpha = Some(0.5);
    let [a, b] = [&mut changed, &mut plain].map(|t| steps(t, 1).remove(0));
    assert!(numbers(&a) == numbers(&b), "the pending step was changed");
    let [a, b] = [&mut changed, &mut plain].map(|t| steps(t, 1).remove(0));
    let size = |r: &StepResult| r.samples.iter().flat_map(|c| &c.advantages).map(|a| f64::from(a.abs())).sum::<f64>();
    // Probabilities are near 0, so that advantages are about halved.
    assert!((size(&a) / size(&b) - 0.5).abs() < 0.05, "{} and {}", size(&a), size(&b));
}

#[test]
fn groups_without_variance_are_replaced() {
    let mut s = settings();
    if let Some(rollout) = &mut s.rollout {
        rollout.dynamic_sampling = 2;
    }
    let mut t = trainer_of(&s, Some(1.0));
    let result = steps(&mut t, 1).remove(0);
    // Two rounds of two groups are given up, the last is kept as it is.
    assert_eq!(result.metrics["dynamic_sampling/dropped_groups"].0, 4.0);
    assert_eq!((t.state.questions, result.samples.len()), (6, 8));
}

#[test]
fn evaluation_changes_no_bit_of_training() {
    let mut straight = trainer(&settings());
    steps(&mut straight, 2);
    let mut t = trainer(&settings());
    steps(&mut t, 1);
    let first = t.evaluate_task(1.0, &mut silent).unwrap().unwrap();
    let again = t.evaluate_task(1.0, &mut silent).unwrap().unwrap();
    assert_eq!((first.all.count, first.levels.len()), (6, 2));
    assert_eq!(first.all, again.all);
    steps(&mut t, 1);
    assert!(weights(&t) == weights(&straight));
}

/// What a step allocates is what the plan says, to within a tenth: whole models and adapters, with a KL term, with activation checkpointing.
#[test]
fn the_memory_plan_matches_the_allocations() {
    let lora = Lora { rank: 4, alpha: 8.0, targets: Projection::ALL.to_vec(), base: ElementType::F32 };
    for (lora, checkpointing) in [(None, false), (None, true), (Some(lora), true)] {
        let (mut s, what) = (settings(), format!("adapters: {}, checkpointing: {checkpointing}", lora.is_some()));
        let config = ModelConfig { hidden_size: 96, intermediate_size: 256, num_hidden_layers: 3, head_dim: 48, lora, ..shape() };
        (s.train.activation_checkpointing, s.train.micro_batch_size) = (Some(checkpointing), Some(4));
        (s.train.seq_len, s.train.batch_size) = (64, 8);
        if let (Some(grpo), Some(rollout)) = (&mut s.grpo, &mut s.rollout) {
            (grpo.beta, rollout.max_prompt_length, rollout.max_completion_length) = (0.1, 32, 32);
        }
        let config = ModelConfig { max_position_embeddings: 64, ..config };
        let mut t = trainer_for(&s, &config, None);
        t.keep_reference(None).unwrap();
        steps(&mut t, 1);
        let plan = MemoryPlan::reinforcement(&config, &s, t.device.sizes()).unwrap();
        let (real, planned) = (t.device.ledger().total() as f64, plan.total() as f64);
        let ledger = t.device.ledger().entries();
        for (part, bytes) in plan.parts.iter().filter(|(part, _)| ["adapters", "grads", "adam_m", "adam_v"].contains(part)) {
            assert_eq!(ledger.get(*part), Some(bytes), "{what}: {part}");
        }
        assert!((real / planned - 1.0).abs() < 0.1, "{what}: {real} bytes, planned {planned}: {:?}, {ledger:?}", plan.parts);
        // Under a memory limit, less is computed at once.
        s.train.micro_batch_size = None;
        let free = MemoryPlan::reinforcement(&config, &s, t.device.sizes()).unwrap().total();
        let limit = free - (1 << 20);
        s.train.max_memory_gib = Some(limit as f64 / f64::from(1 << 30));
        let sizes = within_memory(&config, &s, t.device.sizes()).unwrap();
        let limited = MemoryPlan::reinforcement(&config, &s, sizes).unwrap().total();
        assert!(limited <= limit, "{what}: {limited} of {free}");
        s.train.max_memory_gib = Some(1e-4);
        let refused = within_memory(&config, &s, t.device.sizes()).unwrap_err().to_string();
        assert!(refused.contains("--max-memory-gib 0.0001") && refused.contains("values"), "{refused}");
    }
}

/// Steps on `ranks` threads: the results of rank 0, and the weights of each.
fn on_ranks(ranks: usize, settings: &Settings, config: &ModelConfig) -> (Vec<StepResult>, Vec<Vec<u32>>) {
    let rank = |world: World| {
        let tokenizer = Tokenizer::bytes(true).unwrap();
        let stops = tokenizer.eos_id().into_iter().collect();
        let task_context = TaskContext { task: Box::new(Letters { flat: None }), tokenizer, stops, chat: false };
        let mut t = Trainer::reinforce_in_world(world.clone(), device(), settings, config, task_context).unwrap();
        t.initialise();
        t.keep_reference(None).unwrap();
        world.start_following();
        if !world.is_root() {
            assert_eq!(t.run_worker().unwrap(), "done");
            return (Vec::new(), weights(&t));
        }
        t.broadcast_state().unwrap();
        let results = steps(&mut t, 3);
        world.end("done");
        (results, weights(&t))
    };
    let all = World::on_threads(ranks, rank).unwrap();
    let results = all[0].0.clone();
    (results, all.into_iter().map(|rank| rank.1).collect())
}

/// Any number of ranks samples the same completions and makes the same updates within rounding; all ranks have the same weights.
#[test]
fn ranks_make_the_steps_of_one_process() {
    let mut with_kl = lopti(settings());
    with_kl.grpo.as_mut().unwrap().beta = 0.1;
    let adapters = ModelConfig {
        lora: Some(Lora { rank: 4, alpha: 8.0, targets: Projection::ALL.to_vec(), base: ElementType::F32 }),
        ..shape()
    };
    for (settings, config) in
        [(settings(), shape()), (lopti(settings()), shape()), (with_kl.clone(), shape()), (with_kl, adapters)]
    {
        let (alone, _) = on_ranks(1, &settings, &config);
        for ranks in [2, 3, 4] {
            let (results, weights) = on_ranks(ranks, &settings, &config);
            assert!(weights.iter().all(|w| w == &weights[0]), "{ranks} ranks hold different weights");
            let (got, want) = (&results[0], &alone[0]);
            assert_eq!(got.num_tokens, want.num_tokens);
            let texts = |r: &StepResult| r.samples.iter().map(|s| (s.group, s.text.clone())).collect::<Vec<_>>();
            assert_eq!(texts(got), texts(want), "{ranks} ranks sampled other completions");
            for (name, g) in numbers(got).2 {
                let (g, w) = (f64::from_bits(g), want.metrics[&name].0);
                assert!(
                    (g - w).abs() <= 1e-4 * (0.01 + w.abs()) || (g.is_nan() && w.is_nan()),
                    "{ranks} ranks: {name}: {g}, not {w}"
                );
            }
            assert!((got.grad_norm - want.grad_norm).abs() <= 1e-5 * want.grad_norm, "{} {}", got.grad_norm, want.grad_norm);
            assert!((got.loss - want.loss).abs() < 1e-5);
        }
    }
}

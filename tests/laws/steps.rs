//! Laws that hold for every model, whatever its numbers: causality, packing, accumulation, repetition, the gate, generation, memory.
//! They run on whatever adapter is there; those that depend on the choice of kernels run on both classes.
//!
//! Length: one test a law.

use lehr::config::{Architecture, Lora, ModelConfig, Projection, Scheduler, Settings};
use lehr::data::{Batch, Dataset, IGNORE, TextSource, TokenFile};
use lehr::device::{Arena, Cost, Device, ElementType, Op, Recorder, Sizes, Tensor};
use lehr::model::{Generator, Model};
use lehr::model_files::hf_config;
use lehr::model_files::weight_files::WeightFiles;
use lehr::ops::adamw::UpdateParams;
use lehr::ops::objective::stats;
use lehr::ops::sample::Sampling;
use lehr::progress::silent;
use lehr::rng::Rng;
use lehr::train::{Evaluation, GradientPass, MemoryPlan, Optimizer, Scorer, StepResult, Trainer};
use lehr::vfs::RealFs;
use lehr::world::World;
use std::path::Path;
use std::sync::Arc;

const TIME: usize = 16;
const VOCAB: usize = 37;
const FAMILIES: [Architecture; 3] = [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3];

fn device() -> Device {
    Device::open_named(None).expect("an adapter")
}

/// The adapter with its own kernels, and with those of the other class.
fn both_classes() -> [Device; 2] {
    let mut other = device();
    other.switch_gpu_class();
    [device(), other]
}

/// Two layers, grouped queries; weights wide enough that predictions are far from even.
fn shape(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        architecture,
        vocab_size: VOCAB,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        rope_scaling: None,
        attention_bias: false,
        sliding_window: None,
        tie_word_embeddings: architecture == Architecture::Qwen2,
        initializer_range: 0.2,
        lora: None,
    }
}

fn tokens(purpose: &str, n: usize) -> Vec<u32> {
    let rng = Rng::new(7, purpose);
    (0..n as u64).map(|i| rng.below(0, i, VOCAB as u64) as u32).collect()
}

fn model(device: &Device, config: &ModelConfig, context: usize) -> Model {
    let model = Model::new(device, config, context).unwrap();
    model.initialise(device, 3);
    model
}

/// Rows of one document each, `seq_len` + 1 tokens long.
fn batch(rows: &[Vec<u32>]) -> Batch {
    let seq_len = rows[0].len() - 1;
    Batch {
        batch_size: rows.len(),
        seq_len,
        tokens: rows.iter().flat_map(|r| r[..seq_len].to_vec()).collect(),
        targets: rows.iter().flat_map(|r| r[1..].to_vec()).collect(),
        doc_start: vec![0; rows.len() * seq_len],
        num_tokens: rows.len() * seq_len,
    }
}

/// One row that holds documents one after another, padded to `seq_len`; the last token of each predicts nothing.
fn packed(documents: &[&[u32]], seq_len: usize) -> Batch {
    let mut b = Batch { batch_size: 1, seq_len, tokens: vec![], targets: vec![], doc_start: vec![], num_tokens: 0 };
    for document in documents {
        let start = b.tokens.len() as u32;
        b.tokens.extend(*document);
        b.targets.extend(document.iter().skip(1).copied().chain([IGNORE]));
        b.doc_start.resize(b.tokens.len(), start);
    }
    let end = b.tokens.len() as u32;
    b.num_tokens = b.tokens.len();
    b.tokens.resize(seq_len, 0);
    b.targets.resize(seq_len, IGNORE);
    b.doc_start.resize(seq_len, end);
    b
}

fn stack(rows: &[Batch]) -> Batch {
    Batch {
        batch_size: rows.len(),
        seq_len: rows[0].seq_len,
        tokens: rows.iter().flat_map(|r| r.tokens.clone()).collect(),
        targets: rows.iter().flat_map(|r| r.targets.clone()).collect(),
        doc_start: rows.iter().flat_map(|r| r.doc_start.clone()).collect(),
        num_tokens: rows.iter().map(|r| r.num_tokens).sum(),
    }
}

/// A model, its optimizer and a pass, without data or settings.
struct PolicyModel {
    model: Model,
    optimizer: Optimizer,
    pass: GradientPass,
}

impl PolicyModel {
    fn new(device: &Device, config: &ModelConfig, batch: usize, time: usize) -> Self {
        let model = model(device, config, time);
        let acts = GradientPass::activations(device, &model, batch, time);
        let optimizer = Optimizer::new(device, &model.parameters, &model.values, &acts.stats).unwrap();
        let pass = GradientPass::new(device, &model, acts, &optimizer.grad_weights).unwrap();
        Self { model, optimizer, pass }
    }

    /// Leaves the gradient of the mean loss in the arena; returns the loss.
    fn gradient(&self, device: &Device, batch: &Batch) -> f64 {
        self.optimizer.clear(device).unwrap();
        self.pass.run(device, batch, 1.0 / batch.target_count() as f32).unwrap();
        f64::from(device.read::<f32>(&self.pass.acts.stats).unwrap()[stats::LOSS])
    }

    fn state(&self, device: &Device) -> [Vec<u32>; 3] {
        [&self.model.values, &self.optimizer.m, &self.optimizer.v].map(|arena| bits(device, arena))
    }
}

fn bits(device: &Device, arena: &Arena) -> Vec<u32> {
    arena.segments().flat_map(|(t, _)| device.read::<u32>(t).unwrap()).collect()
}

fn numbers(device: &Device, arena: &Arena) -> Vec<f32> {
    bits(device, arena).into_iter().map(f32::from_bits).collect()
}

fn to_bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Largest difference relative to |want| + rms(want).
fn worst(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let rms = (want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / want.len() as f64).sqrt();
    let pairs = got.iter().zip(want).map(|(g, w)| (f64::from(*g), f64::from(*w)));
    pairs.map(|(g, w)| if g.is_finite() { (g - w).abs() / (w.abs() + rms) } else { f64::INFINITY }).fold(0.0, f64::max)
}

fn settings(batch_size: usize, micro: usize, seed: u64) -> Settings {
    let mut s = Settings::default();
    let t = &mut s.train;
    (t.batch_size, t.micro_batch_size, t.seq_len, t.seed) = (batch_size, Some(micro), TIME, seed);
    (t.max_steps, t.warmup_steps, t.learning_rate, t.lr_scheduler) = (100, 0, 1e-2, Scheduler::Constant);
    s
}

/// 900 tokens in documents of uneven length, so that rows have different numbers of targets.
fn dataset() -> Dataset {
    let text = tokens("text", 900);
    let ends = [11, 40, 41, 300, 317, 500, 560, 900];
    let file = TokenFile::from_tokens(&text, &ends, VOCAB).unwrap();
    Dataset::split(Arc::new(file), 0.2).unwrap()
}

fn pretrain(device: Device, config: &ModelConfig, settings: &Settings) -> Trainer {
    let source = TextSource::new(dataset(), settings.train.seq_len, settings.train.seed).unwrap();
    Trainer::new(device, settings, config, Box::new(source)).unwrap()
}

fn steps(p: &mut Trainer, n: usize) -> Vec<StepResult> {
    let mut out = Vec::new();
    for _ in 0..n {
        out.extend(p.step().unwrap());
    }
    out.extend(p.flush().unwrap());
    out
}

fn trainer_state(p: &Trainer) -> [Vec<u32>; 3] {
    [&p.model.values, &p.optimizer.m, &p.optimizer.v].map(|arena| bits(&p.device, arena))
}

#[test]
fn one_batch_can_be_memorised() {
    let device = device();
    let learner = PolicyModel::new(&device, &ModelConfig { initializer_range: 0.05, ..shape(Architecture::Llama) }, 4, TIME);
    // The first tokens differ, so that every target can be known.
    let rows: Vec<_> = (0..4u32).map(|i| [vec![i], tokens(&format!("row {i}"), TIME)].concat()).collect();
    let b = batch(&rows);
    let mut losses = Vec::new();
    for step in 1..=200 {
        losses.push(learner.gradient(&device, &b));
        let hyper = UpdateParams { learning_rate: 1e-2, beta2: 0.99, max_grad_norm: 1.0, step, ..UpdateParams::default() };
        learner.optimizer.update(&device, &hyper).unwrap();
    }
    let last = losses[losses.len() - 1];
    assert!(losses[0] > 3.0 && last < 0.01, "from {} to {last}", losses[0]);
}

#[test]
fn later_tokens_change_nothing() {
    for device in both_classes() {
        for family in FAMILIES {
            causal(&device, family, TIME, &[0, 7, 14]);
        }
        // Across the tiles of attention.
        causal(&device, Architecture::Llama, 72, &[31, 32, 63, 64]);
    }
}

fn causal(device: &Device, family: Architecture, time: usize, cuts: &[usize]) {
    let model = model(device, &shape(family), time);
    let scorer = Scorer::new(device, &model, 2, time).unwrap();
    let base = batch(&[tokens("a", time + 1), tokens("b", time + 1)]);
    let (logp, entropy) = scorer.score(device, &base).unwrap();
    for &cut in cuts {
        let mut changed = base.clone();
        for (i, token) in changed.tokens[cut + 1..time].iter_mut().enumerate() {
            *token = (*token + 1 + i as u32 % 5) % VOCAB as u32;
        }
        let (logp2, entropy2) = scorer.score(device, &changed).unwrap();
        for (name, before, after) in [("logp", &logp, &logp2), ("entropy", &entropy, &entropy2)] {
            assert_eq!(to_bits(&before[..=cut]), to_bits(&after[..=cut]), "{family:?} {time} {name}: the past at {cut}");
            assert_eq!(to_bits(&before[time..]), to_bits(&after[time..]), "{family:?} {time} {name}: another row at {cut}");
            assert!(
                before[cut + 1..time].iter().zip(&after[cut + 1..time]).all(|(a, b)| a != b),
                "{name}: the future must change"
            );
        }
    }
}

#[test]
fn gradients_accumulate_over_micro_batches() {
    for family in FAMILIES {
        let mut whole: Option<(Vec<f32>, StepResult)> = None;
        for micro in [4, 2, 1] {
            let mut p = pretrain(device(), &shape(family), &settings(4, micro, 1));
            let result = steps(&mut p, 1).remove(0);
            let grads = numbers(&p.device, &p.optimizer.grads);
            let (want, wanted) = whole.get_or_insert_with(|| (grads.clone(), result.clone()));
            let error = worst(&grads, want);
            assert!(error < 3e-5, "{family:?}: gradients of micro-batches of {micro} are off by {error:e}");
            for (name, a, b) in [
                ("loss", result.loss, wanted.loss),
                ("entropy", result.entropy, wanted.entropy),
                ("grad_norm", result.grad_norm, wanted.grad_norm),
            ] {
                assert!((a / b - 1.0).abs() < 2e-6, "{family:?}: {name} of micro-batches of {micro}: {a}, not {b}");
            }
            assert!(result.grad_norm > 0.1, "a gradient to speak of: {}", result.grad_norm);
        }
    }
}

#[test]
fn packed_documents_are_independent() {
    for device in both_classes() {
        for family in FAMILIES {
            packing(&device, family, TIME, 7, 9);
        }
        packing(&device, Architecture::Llama, 72, 33, 30);
    }
}

fn packing(device: &Device, family: Architecture, time: usize, a: usize, b: usize) {
    let (a, b) = (tokens("first", a), tokens("second", b));
    let together = packed(&[&a, &b], time);
    let apart = stack(&[packed(&[&a], time), packed(&[&b], time)]);
    let config = shape(family);
    let (one, two) = (PolicyModel::new(device, &config, 1, time), PolicyModel::new(device, &config, 2, time));
    let (loss, wanted) = (one.gradient(device, &together), two.gradient(device, &apart));
    assert!((loss / wanted - 1.0).abs() < 1e-6, "{family:?}: loss {loss}, apart {wanted}");
    let row: Vec<f32> = device.read(&one.pass.acts.logp).unwrap();
    let rows: Vec<f32> = device.read(&two.pass.acts.logp).unwrap();
    let (got, want) = (
        [&row[..a.len() - 1], &row[a.len()..a.len() + b.len() - 1]].concat(),
        [&rows[..a.len() - 1], &rows[time..time + b.len() - 1]].concat(),
    );
    let error = worst(&got, &want);
    assert!(error < 2e-6, "{family:?}: log-probabilities differ by {error:e}");
    let error = worst(&numbers(device, &one.optimizer.grads), &numbers(device, &two.optimizer.grads));
    assert!(error < 1e-5, "{family:?}: gradients differ by {error:e}");
    // The law can fail: as one document the second half scores otherwise.
    let fused = Batch { doc_start: vec![0; time], ..together };
    one.gradient(device, &fused);
    let row: Vec<f32> = device.read(&one.pass.acts.logp).unwrap();
    let fused: Vec<f32> = [&row[..a.len() - 1], &row[a.len()..a.len() + b.len() - 1]].concat();
    assert!(worst(&fused, &want) > 1e-2, "{family:?}: the boundary made no difference");
}

#[test]
fn same_seed_same_bits() {
    let config = shape(Architecture::Qwen3);
    let run = |seed, disturbed: bool| {
        let mut p = pretrain(device(), &config, &settings(4, 2, seed));
        let mut results = Vec::new();
        for _ in 0..5 {
            results.extend(p.step().unwrap());
            if disturbed {
                results.extend(p.flush().unwrap());
                let first = p.evaluate(0, &mut silent).unwrap().unwrap();
                assert_eq!(p.evaluate(0, &mut silent).unwrap().unwrap(), first, "an evaluation repeats");
            }
        }
        results.extend(p.flush().unwrap());
        assert_eq!(results.iter().map(|r| r.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert!(results.iter().all(|r| !r.skipped));
        (trainer_state(&p), results)
    };
    let first = run(1, false);
    assert!(first == run(1, false), "a run repeats bit for bit");
    assert!(first == run(1, true), "reading and evaluating in between leave no trace");
    let other = run(2, false);
    assert!(first.0 != other.0 && first.1 != other.1, "another seed is another run");
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let device = device();
    let learner = PolicyModel::new(&device, &shape(Architecture::Llama), 2, TIME);
    let b = batch(&[tokens("a", TIME + 1), tokens("b", TIME + 1)]);
    let hyper = |step| UpdateParams { weight_decay: 0.1, max_grad_norm: 1.0, step, ..UpdateParams::default() };
    learner.gradient(&device, &b);
    learner.optimizer.update(&device, &hyper(1)).unwrap();
    let before = learner.state(&device);
    assert!(before[1].iter().any(|m| *m != 0) && before[2].iter().any(|v| *v != 0));
    let (segment, _) = learner.optimizer.grads.segments().next().unwrap();
    // The last overflows in the norm only.
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e30] {
        for at in [0, segment.len() / 2, segment.len() - 1] {
            learner.gradient(&device, &b);
            let mut grads: Vec<f32> = device.read(segment).unwrap();
            grads[at] = poison;
            device.write(segment, &grads);
            learner.optimizer.update(&device, &hyper(2)).unwrap();
            assert!(learner.state(&device) == before, "{poison} at {at} of {} got through", segment.len());
        }
    }
    // A loss that is not finite behind a gradient that is: overflowing logits and clamps can do that.
    for poison in [f32::NAN, f32::INFINITY] {
        learner.gradient(&device, &b);
        let mut numbers: Vec<f32> = device.read(&learner.pass.acts.stats).unwrap();
        numbers[stats::LOSS] = poison;
        device.write(&learner.pass.acts.stats, &numbers);
        learner.optimizer.update(&device, &hyper(2)).unwrap();
        assert!(learner.state(&device) == before, "a loss of {poison} got through");
    }
    learner.gradient(&device, &b);
    learner.optimizer.update(&device, &hyper(2)).unwrap();
    let after = learner.state(&device);
    assert!((0..3).all(|i| after[i] != before[i]), "a finite gradient is applied again");
}

/// NaN in any weight must reach the gate, whatever `max`, `exp` and clamps lie between; larger troubles must not leave a wrong update.
#[test]
fn a_nan_weight_is_detected() {
    for family in FAMILIES {
        let mut p = pretrain(device(), &shape(family), &settings(4, 2, 1));
        steps(&mut p, 2);
        let specs: Vec<_> = p.model.parameters.tensors(&p.model.values).map(|(s, t)| (s.clone(), t)).collect();
        for (spec, tensor) in specs {
            for (name, shape, range) in spec.ranges() {
                // A whole column of a table, so that some token of the batch is hit.
                let table = name.contains("embed") || name.contains("lm_head");
                let hit: Vec<usize> = if table { range.step_by(shape[1]).collect() } else { vec![range.start] };
                for poison in [f32::NAN, f32::INFINITY, 3e38] {
                    let values: Vec<f32> = p.device.read(&tensor).unwrap();
                    let mut poisoned = values.clone();
                    hit.iter().for_each(|i| poisoned[*i] = poison);
                    p.device.write(&tensor, &poisoned);
                    let before = trainer_state(&p);
                    let result = steps(&mut p, 1).remove(0);
                    let after = trainer_state(&p);
                    let what = format!("{family:?} {name} = {poison}: {result:?}");
                    if result.skipped {
                        assert!(before == after, "{what}: skipped, but something was changed");
                        assert!(result.grad_norm.is_nan(), "{what}");
                    } else {
                        assert!(poison == 3e38, "{what}: got through");
                        assert!(result.loss.is_finite() && result.grad_norm.is_finite(), "{what}: a wrong update was made");
                        restore(&p, &before);
                    }
                    p.device.write(&tensor, &values);
                }
            }
        }
        let before = trainer_state(&p);
        let result = steps(&mut p, 1).remove(0);
        assert!(!result.skipped && result.loss.is_finite(), "{family:?}: healed, training continues");
        assert!(before != trainer_state(&p));
    }
}

fn restore(p: &Trainer, state: &[Vec<u32>; 3]) {
    for (arena, words) in [&p.model.values, &p.optimizer.m, &p.optimizer.v].into_iter().zip(state) {
        let mut start = 0;
        for (segment, _) in arena.segments() {
            p.device.write(segment, &words[start..start + segment.len()]);
            start += segment.len();
        }
    }
}

#[test]
fn zero_learning_rate_changes_nothing_and_only_matrices_decay() {
    let device = device();
    let learner = PolicyModel::new(&device, &shape(Architecture::Qwen2), 2, TIME);
    let b = batch(&[tokens("a", TIME + 1), tokens("b", TIME + 1)]);
    let hyper = UpdateParams { learning_rate: 0.0, weight_decay: 0.5, step: 1, ..UpdateParams::default() };
    let before = learner.state(&device);
    learner.gradient(&device, &b);
    learner.optimizer.update(&device, &hyper).unwrap();
    let after = learner.state(&device);
    assert!(before[0] == after[0], "values moved");
    assert!(before[1] != after[1] && before[2] != after[2], "moments are kept all the same");
    // No gradient at all: decay alone, and only on matrices.
    let learner = PolicyModel::new(&device, &shape(Architecture::Qwen2), 2, TIME);
    learner.optimizer.clear(&device).unwrap();
    let hyper = UpdateParams { learning_rate: 0.125, weight_decay: 0.5, step: 1, ..UpdateParams::default() };
    let read = |l: &PolicyModel| -> Vec<(String, usize, Vec<f32>)> {
        let all = l.model.parameters.tensors(&l.model.values);
        all.map(|(s, t)| (s.parts[0].0.clone(), s.shape.len(), device.read(&t).unwrap())).collect()
    };
    let before = read(&learner);
    learner.optimizer.update(&device, &hyper).unwrap();
    for ((name, rank, old), (_, _, new)) in before.iter().zip(read(&learner)) {
        // 1 - 0.125 * 0.5 is exact in f32.
        let want: Vec<f32> = old.iter().map(|x| if *rank >= 2 { x * 0.9375 } else { *x }).collect();
        assert_eq!(to_bits(&want), to_bits(&new), "{name}");
    }
    assert!(numbers(&device, &learner.optimizer.m).iter().chain(&numbers(&device, &learner.optimizer.v)).all(|x| *x == 0.0));
}

#[test]
fn an_untrained_model_is_nearly_uniform() {
    let even = (VOCAB as f64).ln();
    for family in FAMILIES {
        let mut p = pretrain(device(), &ModelConfig { initializer_range: 0.02, ..shape(family) }, &settings(8, 4, 5));
        let found = p.evaluate(0, &mut silent).unwrap().unwrap();
        let first = steps(&mut p, 1).remove(0);
        for (name, loss) in [("validation", found.loss), ("training", first.loss)] {
            assert!((loss - even).abs() < 0.05, "{family:?}: {name} loss {loss}, ln V = {even}");
        }
        assert!(first.entropy <= even + 1e-5 && first.entropy > even - 0.05, "{family:?}: entropy {}", first.entropy);
        // Every token of the held-out fifth with a predecessor in its document.
        assert_eq!(found.tokens, 180 - 1);
    }
}

#[test]
fn a_step_allocates_nothing_and_the_plan_is_right() {
    let adapters = Some(Lora { rank: 8, alpha: 8.0, targets: Projection::ALL.to_vec(), base: ElementType::F32 });
    for (family, micro, checkpointing, lora) in [
        (Architecture::Llama, 4, false, None),
        (Architecture::Qwen3, 2, false, None),
        (Architecture::Qwen3, 2, true, None),
        (Architecture::Qwen2, 4, true, adapters.clone()),
        (Architecture::Llama, 4, false, adapters),
    ] {
        let config = ModelConfig { hidden_size: 64, intermediate_size: 192, lora, ..shape(family) };
        let mut settings = settings(4, micro, 1);
        (settings.train.seq_len, settings.train.activation_checkpointing) = (64, Some(checkpointing));
        let mut p = pretrain(device(), &config, &settings);
        let plan = MemoryPlan::training(&config, &settings.train, &Default::default(), p.device.sizes()).unwrap();
        let ledger = p.device.ledger().entries();
        for (part, bytes) in &plan.parts {
            assert_eq!(ledger.get(*part), Some(bytes), "{family:?}: {part}");
        }
        // A GPU has a few slabs of uniforms, whatever the model.
        let uniforms = ledger.get("uniforms").copied().unwrap_or(0);
        let (real, planned) = (p.device.ledger().total() - uniforms, plan.total());
        let off = (real as f64 / planned as f64 - 1.0).abs();
        assert!(off < 0.15, "{family:?}: planned {planned}, took {real}: {ledger:?}");
        steps(&mut p, 3);
        p.evaluate(0, &mut silent).unwrap();
        assert_eq!(p.device.ledger().entries(), ledger);
    }
}

/// What is computed a second time is what was computed before: weights and moments after several updates, of whole models and of adapters.
#[test]
fn activation_checkpointing_changes_no_bit() {
    let lora = Lora {
        rank: 3,
        alpha: 5.0,
        targets: vec![Projection::Q, Projection::V, Projection::O, Projection::Up, Projection::Down],
        base: ElementType::F32,
    };
    for device in [device, other_class] {
        for family in [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3, Architecture::Mistral] {
            for lora in [None, Some(lora.clone())] {
                let config =
                    ModelConfig { num_hidden_layers: 3, lora, attention_bias: family == Architecture::Qwen3, ..shape(family) };
                let run = |checkpointing| {
                    let mut settings = settings(4, 2, 1);
                    settings.train.activation_checkpointing = Some(checkpointing);
                    let mut p = pretrain(device(), &config, &settings);
                    let results = steps(&mut p, 4);
                    assert!(results.iter().all(|r| !r.skipped));
                    let activations = p.device.ledger().entries()["activations"];
                    (trainer_state(&p), results, p.evaluate(0, &mut lehr::progress::silent).unwrap(), activations)
                };
                let (kept, again) = (run(false), run(true));
                let what = format!("{family:?}, adapters: {}", config.lora.is_some());
                assert!(kept.0 == again.0 && kept.1 == again.1 && kept.2 == again.2, "{what}: the numbers differ");
                assert!(again.3 < kept.3, "{what}: {} bytes of activations, {} when they are kept", again.3, kept.3);
                let first = pretrain(device(), &config, &settings(4, 2, 1));
                assert!(trainer_state(&first)[0] != kept.0[0], "{what}: something was learned");
            }
        }
    }
}

/// Embedding and head may be larger than what a device binds at once: they are read, and their gradients added to, part by part.
#[test]
fn a_table_larger_than_a_binding_changes_nothing() {
    let in_parts = || {
        let mut device = device();
        device.set_sizes(Sizes { max_tensor_bytes: 16 << 10, ..device.sizes() });
        device
    };
    for family in [Architecture::Llama, Architecture::Qwen2] {
        let config = ModelConfig { vocab_size: 200, ..shape(family) };
        let rng = Rng::new(7, "rows");
        let rows: Vec<Vec<u32>> = (0..3).map(|row| (0..=TIME as u64).map(|i| rng.below(row, i, 200) as u32).collect()).collect();
        let b = batch(&rows);
        let found = [device(), in_parts()].map(|device| {
            let learner = PolicyModel::new(&device, &config, 3, TIME);
            let loss = learner.gradient(&device, &b);
            let read = |arena: &Arena| -> Vec<(String, Vec<f32>)> {
                let tensors = learner.model.parameters.tensors(arena);
                tensors.map(|(spec, tensor)| (spec.parts[0].0.clone(), device.read(&tensor).unwrap())).collect()
            };
            let grads = read(&learner.optimizer.grads);
            let hyper = UpdateParams { weight_decay: 0.1, max_grad_norm: 1.0, step: 1, ..UpdateParams::default() };
            learner.optimizer.update(&device, &hyper).unwrap();
            let norm = device.read::<f32>(&learner.pass.acts.stats).unwrap()[stats::GRAD_NORM];
            let parts = learner.model.values.segments().count();
            let logp: Vec<f32> = device.read(&learner.pass.acts.logp).unwrap();
            let before = model(&device, &config, 40);
            let moved = read(&learner.model.values).into_iter().zip(before.parameters.tensors(&before.values));
            for ((name, now), (_, tensor)) in moved {
                let was: Vec<f32> = device.read(&tensor).unwrap();
                assert!(now.chunks(32).zip(was.chunks(32)).all(|(now, was)| now != was), "{name}: a row was not updated");
            }
            let generator = Generator::new(&device, &before, 1, 40).unwrap();
            let output = generate(
                &device,
                &generator,
                &[rows[0][..5].to_vec()],
                20,
                &Sampling { temperature: 0.0, ..Sampling::default() },
            );
            (parts, loss, to_bits(&logp), grads, read(&learner.optimizer.m), norm, output)
        });
        let [whole, parts] = &found;
        assert!(parts.0 > whole.0 + 3, "{family:?}: {} parts, {} otherwise", parts.0, whole.0);
        assert!(whole.1 == parts.1 && whole.2 == parts.2 && whole.6 == parts.6, "{family:?}: forward passes differ");
        for (want, got) in [(&whole.3, &parts.3), (&whole.4, &parts.4)] {
            for ((name, want), (_, got)) in want.iter().zip(got) {
                let off = worst(got, want);
                assert!(off < 1e-5, "{family:?}: {name} differs by {off:e}");
            }
        }
        assert!((whole.5 / parts.5 - 1.0).abs() < 1e-5);
    }
}

/// The adapter with the kernels of the other class.
fn other_class() -> Device {
    let mut other = device();
    other.switch_gpu_class();
    other
}

fn golden(device: &Device, case: &str, context: usize) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    let config = hf_config::read(&RealFs, &dir.join("config.json")).unwrap().model;
    let model = Model::new(device, &config, context).unwrap();
    model.load(device, &WeightFiles::open(&RealFs, &dir).unwrap()).unwrap();
    model
}

/// Every row whole, prompts included.
fn generate(device: &Device, generator: &Generator, prompts: &[Vec<u32>], new: usize, sampling: &Sampling) -> Vec<Vec<u32>> {
    let shortest = prompts.iter().map(Vec::len).min().unwrap();
    let mut rows: Vec<Vec<u32>> = prompts.iter().map(|p| p[..shortest].to_vec()).collect();
    generator
        .run(device, prompts, new, sampling, |index, tokens| {
            assert_eq!(index, rows[0].len(), "in order, none missing");
            rows.iter_mut().zip(tokens).for_each(|(row, t)| row.push(*t));
            Ok(true)
        })
        .unwrap();
    for (row, prompt) in rows.iter().zip(prompts) {
        assert_eq!(row[..prompt.len()], prompt[..], "a prompt is kept");
    }
    rows
}

/// The logits of every position of a row, by the whole forward.
fn logits(device: &Device, model: &Model, row: &[u32]) -> Vec<Vec<f32>> {
    let scorer = Scorer::new(device, model, 1, row.len()).unwrap();
    scorer.score(device, &packed(&[row], row.len())).unwrap();
    let [rows, stride] = scorer.acts.logits.matrix();
    assert_eq!(rows, row.len(), "one chunk");
    let all: Vec<f32> = device.read(&scorer.acts.logits).unwrap();
    all.chunks(stride).map(|r| r[..model.config.vocab_size].to_vec()).collect()
}

#[test]
fn greedy_with_the_cache_is_the_argmax_of_the_whole_forward() {
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    for device in both_classes() {
        for case in ["llama-gqa", "llama-tied", "qwen2", "qwen3"] {
            let model = golden(&device, case, 40);
            let generator = Generator::new(&device, &model, 2, 40).unwrap();
            let prompts: Vec<Vec<u32>> = [tokens("long prompt", 9), tokens("short prompt", 4)].to_vec();
            let rows = generate(&device, &generator, &prompts, 20, &greedy);
            for (row, prompt) in rows.iter().zip(&prompts) {
                assert_eq!(row.len(), 29, "the longest prompt and twenty");
                let seen = logits(&device, &model, row);
                for at in prompt.len()..row.len() {
                    let best = seen[at - 1].iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let taken = seen[at - 1][row[at] as usize];
                    assert!(best - taken < 1e-4, "{case}: at {at} took {} with {taken}, the best has {best}", row[at]);
                }
            }
            // Alone, in a generator of another shape, a row continues the same way.
            let alone = Generator::new(&device, &model, 1, 30).unwrap();
            let row = generate(&device, &alone, &prompts[1..], 25, &greedy).remove(0);
            assert_eq!(row, rows[1], "{case}: a row does not depend on its neighbours");
            // The end of the room ends the text.
            assert_eq!(generate(&device, &alone, &prompts[1..], 1000, &greedy)[0].len(), 30);
        }
    }
}

#[test]
fn sampling_repeats_with_its_seed() {
    let device = device();
    let model = golden(&device, "qwen3", 48);
    let generator = Generator::new(&device, &model, 2, 48).unwrap();
    let prompts = vec![tokens("prompt", 3); 2];
    let sampled = |seed| generate(&device, &generator, &prompts, 40, &Sampling { seed, top_p: 0.95, ..Sampling::default() });
    let first = sampled(1);
    assert_eq!(first, sampled(1), "the same seed");
    assert_ne!(first, sampled(2), "another seed");
    assert_ne!(first[0], first[1], "each row draws for itself");
    assert!(first.iter().flatten().all(|t| (*t as usize) < model.config.vocab_size));
}

/// Two updates by WGSL and by native code: losses, gradients and weights agree within rounding, whatever the architecture. With the CPU as the
/// device under test there is nothing to compare with.
#[test]
fn executors_agree_over_training_steps() {
    let (shaders, cpu) = (device(), Device::open_named(Some("cpu")).unwrap());
    if shaders.gpu().is_none() {
        return;
    }
    let rows: Vec<Vec<u32>> = (0..3).map(|i| tokens(&format!("executors {i}"), TIME + 1)).collect();
    for family in FAMILIES {
        let [a, b] = [&shaders, &cpu].map(|device| {
            let learner = PolicyModel::new(device, &shape(family), 3, TIME);
            let mut losses = Vec::new();
            let mut gradients = Vec::new();
            for step in 1..=2 {
                losses.push(learner.gradient(device, &batch(&rows)) as f32);
                gradients.extend(numbers(device, &learner.optimizer.grads));
                learner.optimizer.update(device, &UpdateParams { step, ..UpdateParams::default() }).unwrap();
            }
            (losses, gradients, numbers(device, &learner.model.values))
        });
        let differences = [worst(&b.0, &a.0), worst(&b.1, &a.1), worst(&b.2, &a.2)];
        assert!(differences.iter().all(|d| *d < 1e-4), "{family:?}: losses, gradients, weights differ by {differences:?}");
    }
}

/// Results of a rank: numbers of the updates (rank 0), weights and moments, held-out loss (rank 0).
type OfRank = (Vec<StepResult>, [Vec<u32>; 3], Option<Evaluation>);

fn trainer_in(world: &World, device: Device, settings: &Settings) -> Trainer {
    let source = Box::new(TextSource::new(dataset(), TIME, settings.train.seed).unwrap());
    let trainer = Trainer::in_world(world.clone(), device, settings, &shape(Architecture::Qwen3), source).unwrap();
    trainer.initialise();
    trainer
}

/// A run of twelve updates on `ranks` threads.
fn on_ranks(ranks: usize, settings: &Settings) -> Vec<OfRank> {
    let rank = |world: World| {
        let mut trainer = trainer_in(&world, device(), settings);
        world.start_following();
        if !world.is_root() {
            assert_eq!(trainer.run_worker().unwrap(), "done");
            return (Vec::new(), trainer_state(&trainer), None);
        }
        trainer.broadcast_state().unwrap();
        let results = steps(&mut trainer, 12);
        let evaluation = trainer.evaluate(0, &mut silent).unwrap();
        world.end("done");
        (results, trainer_state(&trainer), evaluation)
    };
    World::on_threads(ranks, rank).unwrap()
}

/// Weights that differ on one rank end the run at the next comparison, which names the rank.
#[test]
fn different_weights_end_the_run() {
    let results = World::on_threads(3, |world| {
        // Without a broadcast of the initial weights, those of rank 2 come from another seed.
        let seed = if world.rank() == 2 { 2 } else { 1 };
        let mut trainer = trainer_in(&world, device(), &settings(6, 2, 1));
        trainer.model.initialise(&trainer.device, seed);
        world.start_following();
        if !world.is_root() {
            return trainer.run_worker().map_err(|e| format!("{e:#}"));
        }
        let first_error = (0..150).find_map(|i| trainer.step().err().map(|e| (i + 1, format!("{e:#}"))));
        world.end("failed");
        let (update, error) = first_error.ok_or("no comparison")?;
        assert_eq!(update, 100, "{error}");
        Err(error)
    })
    .unwrap();
    let error = results[0].as_ref().unwrap_err();
    assert!(error.starts_with("step 100: the weights on rank 2 on threads differ"), "{error}");
    assert_eq!(results[1..], [Ok("failed".to_owned()), Ok("failed".to_owned())]);
}

/// A device fault on one rank is an error on all.
#[test]
fn a_device_fault_on_one_rank_ends_the_run() {
    let results = World::on_threads(3, |world| {
        let mut trainer = trainer_in(&world, Device::open_named(Some("cpu")).unwrap(), &settings(6, 2, 1));
        world.start_following();
        if world.is_root() {
            trainer.broadcast_state().unwrap();
            return (0..5).find_map(|_| trainer.step().err()).map(|e| format!("{e:#}"));
        }
        if world.rank() == 1 {
            let [x, y] = ["x", "y"].map(|name| Tensor::new(&trainer.device, "test", name, &[3]));
            let mut recorder = Recorder::new(&trainer.device, "test");
            let op = Op { name: "test.lost", cost: Cost::default(), reads: [("x", &x)], writes: [("y", &y)] };
            recorder.op(op, |_| Ok(()), |_, [_], _| panic!("the device is lost"));
            trainer.device.replay(&recorder.finish().unwrap()).unwrap_err();
        }
        trainer.run_worker().err().map(|e| format!("{e:#}"))
    })
    .unwrap();
    let errors: Vec<String> = results.into_iter().map(|error| error.expect("an error on every rank")).collect();
    assert!(errors[1].contains("test.lost") && errors[1].contains("the device is lost"), "{errors:?}");
    assert!(errors[0].contains("rank 1") || errors[0].contains("has ended"), "{errors:?}");
}

/// Any number of ranks gives the run of one process within rounding, and all ranks have the same bits.
#[test]
fn ranks_make_the_run_of_one_process() {
    let close = |got: f64, want: f64, bound: f64, what: &str| {
        assert!((got - want).abs() <= bound * want.abs(), "{what}: {got}, with one process {want}");
    };
    for (batch_size, micro) in [(6, 2), (7, 7)] {
        let settings = settings(batch_size, micro, 5);
        let alone = on_ranks(1, &settings).remove(0);
        for ranks in [2, 3, 5] {
            let all = on_ranks(ranks, &settings);
            assert!(all.iter().all(|rank| rank.1 == all[0].1), "{ranks} ranks hold different weights or moments");
            assert!(all[0].1 != alone.1 || ranks == 1, "not one bit differs from one process, although sums have another order");
            for (i, (got, want)) in all[0].0.iter().zip(&alone.0).enumerate() {
                let bound = if i == 0 { 1e-6 } else { 1e-3 };
                let what = format!("{batch_size} sequences on {ranks} ranks, update {}", i + 1);
                close(got.loss, want.loss, bound, &what);
                close(got.grad_norm, want.grad_norm, bound, &what);
                close(got.entropy, want.entropy, bound, &what);
                assert_eq!((got.num_tokens, got.epoch), (want.num_tokens, want.epoch), "{what}");
            }
            let [got, want] = [&all[0].2, &alone.2].map(|e| e.unwrap());
            assert_eq!(got.tokens, want.tokens);
            close(got.loss, want.loss, 1e-3, "held-out loss");
            assert!(on_ranks(ranks, &settings).iter().all(|rank| rank.1 == all[0].1), "{ranks} ranks again: other bits");
        }
    }
}

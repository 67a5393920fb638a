//! Weights that are not trained, stored in bfloat16: results are those of the same numbers in float32, bit for bit, in half of the memory.

use crate::common;
use lehr::vfs::RealFs;

use common::{Place, TINY, golden, json_lines, kind, run};
use half::bf16;
use lehr::config::{LoraSettings, ModelConfig, Settings, WeightsDtype};
use lehr::data::{Batch, IGNORE};
use lehr::device::{Device, ElementType, GpuClass, Sizes, Vendor};
use lehr::model::rollout::default_slots;
use lehr::model::{Activations, Model, PassKind, RolloutBatch, RolloutEngine, RolloutRequest};
use lehr::model_files::adapter::AdapterFolder;
use lehr::model_files::hf_config;
use lehr::model_files::weight_files::{WeightFiles, storage_element};
use lehr::ops::sample::Sampling;
use lehr::ops::sources::{GpuKernel, for_gpu};
use lehr::progress::silent;
use lehr::rng::Rng;
use lehr::train::{GradientPass, Optimizer, Scorer};
use lehr::world::World;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

const CASES: [&str; 4] = ["llama-gqa", "llama-tied", "qwen2", "qwen3"];
const TIME: usize = 24;

/// A golden model rounded to bfloat16 by the `half` crate and written by `safetensors`. `skip` keeps one matrix in float32.
fn rounded(case: &str, skip: Option<&str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = WeightFiles::open(&RealFs, &golden(case)).unwrap();
    let mut bytes: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for name in files.names().map(str::to_owned).collect::<Vec<_>>() {
        let shape = files.shape(&name).unwrap().to_vec();
        let values = files.read_f32(&name, &shape).unwrap();
        let stored = match skip == Some(name.as_str()) {
            true => (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            false => (Dtype::BF16, values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()),
        };
        bytes.insert(name, (stored.0, shape, stored.1));
    }
    let mut views: Vec<(&String, TensorView<'_>)> = Vec::new();
    for (name, (dtype, shape, bytes)) in &bytes {
        views.push((name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    }
    safetensors::serialize_to_file(views.iter().map(|(name, view)| (*name, view)), None, &dir.path().join("model.safetensors"))
        .unwrap();
    std::fs::copy(golden(case).join("config.json"), dir.path().join("config.json")).unwrap();
    dir
}

fn devices() -> Vec<Device> {
    let device = || Device::open_named(None).expect("an adapter");
    let mut other = device();
    other.switch_gpu_class();
    if device().gpu().is_some() { vec![device(), other] } else { vec![device()] }
}

fn config(dir: &Path) -> ModelConfig {
    hf_config::read(&RealFs, &dir.join("config.json")).unwrap().model
}

fn open(device: &Device, dir: &Path, element: ElementType) -> Model {
    let model = Model::frozen(device, &config(dir), TIME, element).unwrap();
    model.load(device, &WeightFiles::open(&RealFs, dir).unwrap()).unwrap();
    model
}

fn batch(vocab: usize) -> Batch {
    let (rng, rows) = (Rng::new(5, "storage"), 3);
    let tokens: Vec<u32> = (0..rows * TIME).map(|i| rng.below(0, i as u64, vocab as u64) as u32).collect();
    let target = |i: usize| if (i + 1).is_multiple_of(TIME) { IGNORE } else { tokens[i + 1] };
    let targets: Vec<u32> = (0..tokens.len()).map(target).collect();
    Batch { batch_size: rows, seq_len: TIME, targets, doc_start: vec![0; tokens.len()], num_tokens: tokens.len(), tokens }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn scores_and_completions_have_the_same_bits() {
    for device in devices() {
        for case in CASES {
            let dir = rounded(case, None);
            assert_eq!(WeightFiles::open(&RealFs, dir.path()).unwrap().storage_element(), ElementType::Bf16);
            let found = [ElementType::F32, ElementType::Bf16].map(|element| {
                let before = device.ledger().entries().get("values").copied().unwrap_or(0);
                let model = open(&device, dir.path(), element);
                let bytes = device.ledger().entries()["values"] - before;
                assert_eq!(bytes, model.parameters.value_bytes());
                let batch = batch(model.config.vocab_size);
                let scorer = Scorer::new(&device, &model, batch.batch_size, TIME).unwrap();
                let (logp, entropy) = scorer.score(&device, &batch).unwrap();
                let request =
                    |i: u32| RolloutRequest { prompt: batch.tokens[..1 + i as usize % 7].to_vec(), key: [1, i], max_new: 12 };
                let requests: Vec<RolloutRequest> = (0..11).map(request).collect();
                let mut engine = RolloutEngine::new(&device, &model, 4, TIME).unwrap();
                let sampling = Sampling { seed: 3, ..Sampling::default() };
                let completions = engine
                    .run(&device, &model, RolloutBatch { requests: &requests, sampling: &sampling, stops: &[] }, &mut silent)
                    .unwrap()
                    .unwrap();
                let drawn: Vec<_> = completions.into_iter().map(|c| (c.tokens, bits(&c.logprobs))).collect();
                (bytes, bits(&logp), bits(&entropy), drawn, bits(&model.get(&device).unwrap()))
            });
            let [full, half] = &found;
            assert!(full.1 == half.1 && full.2 == half.2, "{case}: scores differ");
            assert!(full.3 == half.3, "{case}: completions differ");
            assert!(full.4 == half.4, "{case}: the weights are read back as they were stored");
            assert!((half.0 as f64) < 0.6 * full.0 as f64, "{case}: {} bytes, {} in float32", half.0, full.0);
        }
    }
}

/// Gradients and one update of adapters on a base model in 16 bits.
#[test]
fn adapters_are_trained_to_the_same_bits() {
    for device in devices() {
        for case in ["llama-gqa", "qwen2", "qwen3"] {
            let dir = rounded(case, None);
            let settings = LoraSettings { lora_rank: Some(3), ..LoraSettings::default() };
            let found = [ElementType::F32, ElementType::Bf16].map(|base| {
                let lora = settings.adapters().unwrap().map(|lora| lehr::config::Lora { base, ..lora });
                let model = Model::new(&device, &ModelConfig { lora, ..config(dir.path()) }, TIME).unwrap();
                model.initialise(&device, 7);
                model.load(&device, &WeightFiles::open(&RealFs, dir.path()).unwrap()).unwrap();
                // B is zero at first, so that A has no gradient.
                let values: Vec<f32> = model.get(&device).unwrap().iter().map(|x| x + 0.01).collect();
                model.set(&device, &values);
                let batch = batch(model.config.vocab_size);
                let acts = Activations::new(&device, &model.config, batch.batch_size, TIME, PassKind::Training);
                let optimizer = Optimizer::new(&device, &model.parameters, &model.values, &acts.stats).unwrap();
                let pass = GradientPass::new(&device, &model, acts, &optimizer.grad_weights).unwrap();
                optimizer.clear(&device).unwrap();
                pass.run(&device, &batch, 1.0 / batch.target_count() as f32).unwrap();
                let grads = model.parameters.tensors(&optimizer.grads).map(|(_, t)| bits(&device.read::<f32>(&t).unwrap()));
                let grads: Vec<_> = grads.collect();
                let weights = model.base().0.tensors(model.base().1).map(|(_, t)| bits(&device.read_numbers(&t).unwrap()));
                (grads, weights.collect::<Vec<_>>())
            });
            assert!(found[0].1 == found[1].1, "{case}: the base weights are the same");
            assert!(found[0].0.iter().flatten().any(|bits| *bits != 0), "{case}: there are gradients");
            assert!(found[0].0 == found[1].0, "{case}: gradients differ");
        }
    }
}

/// `scripts/check-gpus` compiles what a GPU really gets: the kernels of training, of adapters, of scoring and of generating, with weights and
/// caches of each type, are in its lists.
#[test]
fn what_models_compile_on_a_gpu_is_listed() {
    let mut device = Device::open_named(None).expect("an adapter");
    if device.gpu().is_some_and(|gpu| gpu.class() == GpuClass::Software) {
        device.switch_gpu_class();
    }
    let Some(gpu) = device.gpu() else { return };
    for case in CASES {
        let dir = rounded(case, None);
        for element in [ElementType::F32, ElementType::Bf16] {
            let model = open(&device, dir.path(), element);
            Scorer::new(&device, &model, 3, TIME).unwrap();
            let requests: Vec<RolloutRequest> =
                (0..12).map(|i| RolloutRequest { prompt: vec![1 + i, 2, 3], key: [1, i], max_new: 2 }).collect();
            for (cache, rows) in [(ElementType::F32, 4), (ElementType::F16, 12)] {
                let mut engine = RolloutEngine::in_world(&device, &model, rows, TIME, cache, World::solo()).unwrap();
                let all = RolloutBatch { requests: &requests, sampling: &Sampling::default(), stops: &[] };
                engine.run(&device, &model, all, &mut silent).unwrap();
            }
            let settings = LoraSettings { lora_rank: Some(3), ..LoraSettings::default() };
            let adapters = settings.adapters().unwrap().map(|lora| lehr::config::Lora { base: element, ..lora });
            for lora in [None, adapters] {
                let model = Model::new(&device, &ModelConfig { lora, ..config(dir.path()) }, TIME).unwrap();
                let acts = Activations::new(&device, &model.config, 3, TIME, PassKind::Training);
                let optimizer = Optimizer::new(&device, &model.parameters, &model.values, &acts.stats).unwrap();
                GradientPass::new(&device, &model, acts, &optimizer.grad_weights).unwrap();
            }
        }
    }
    let listed: Vec<GpuKernel> = Vendor::ALL.into_iter().flat_map(|vendor| for_gpu(vendor).unwrap()).collect();
    let compiled = gpu.compiled();
    let missing: Vec<_> = compiled
        .iter()
        .filter(|kernel| !listed.iter().any(|known| known.covers(&kernel.name, &kernel.constants)))
        .map(|kernel| format!("{} {:?}", kernel.name, kernel.constants))
        .collect();
    assert!(missing.is_empty(), "of {} kernels compiled these are in no list:\n{}", compiled.len(), missing.join("\n"));
    for name in ["embedding_bf16.forward", "attention_f16.append", "matmul_shared4x4_y1.forward"] {
        assert!(compiled.iter().any(|kernel| kernel.name == name), "{name} is not used");
    }
}

/// 16 bits are chosen only where no number changes.
#[test]
fn the_automatic_type_is_exact() {
    assert_eq!(storage_element(&RealFs, &golden("qwen3")).unwrap(), ElementType::F32);
    let dir = rounded("qwen3", Some("model.layers.0.mlp.up_proj.weight"));
    assert_eq!(storage_element(&RealFs, dir.path()).unwrap(), ElementType::F32, "one matrix is in float32");
    // A vector is kept in float32, whatever the files have.
    let dir = rounded("qwen3", Some("model.norm.weight"));
    assert_eq!(storage_element(&RealFs, dir.path()).unwrap(), ElementType::Bf16);
    // An adapter that is folded in gives numbers of its own.
    let dir = tempfile::tempdir().unwrap();
    let base = rounded("qwen3", None);
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("lora/qwen3/adapter_config.json")).unwrap()).unwrap();
    config["base_model_name_or_path"] = base.path().display().to_string().into();
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::copy(golden("lora/qwen3/adapter_model.safetensors"), dir.path().join("adapter_model.safetensors")).unwrap();
    assert_eq!(storage_element(&RealFs, dir.path()).unwrap(), ElementType::F32);
    assert_eq!(
        storage_element(&RealFs, AdapterFolder::open(&RealFs, dir.path()).unwrap().base().unwrap()).unwrap(),
        ElementType::Bf16
    );
    // Without weights, as in a dry run, by what the configuration declares.
    let dir = tempfile::tempdir().unwrap();
    for (declared, want) in [("bfloat16", ElementType::Bf16), ("float16", ElementType::F32)] {
        std::fs::write(dir.path().join("config.json"), format!("{{\"torch_dtype\": \"{declared}\"}}")).unwrap();
        assert_eq!(storage_element(&RealFs, dir.path()).unwrap(), want);
    }
    let all = Settings::default().train.frozen_element();
    assert_eq!((all, WeightsDtype::Auto.resolve(ElementType::Bf16)), (ElementType::F32, ElementType::Bf16));
}

/// Completions from a cache in half precision: probabilities as the model scores them, half of the memory, and twice as many rows.
#[test]
fn a_cache_in_half_precision_takes_half_of_the_memory() {
    for device in devices() {
        for case in ["llama-gqa", "qwen3"] {
            let model = open(&device, &golden(case), ElementType::F32);
            let vocab = model.config.vocab_size;
            let prompt = |i: u32| batch(vocab).tokens[i as usize..2 + 2 * i as usize].to_vec();
            let requests: Vec<RolloutRequest> =
                (0..6).map(|i| RolloutRequest { prompt: prompt(i), key: [1, i], max_new: 10 }).collect();
            let sampling = Sampling { seed: 3, ..Sampling::default() };
            let run = |element: ElementType| {
                let before = device.ledger().entries().get("kv cache").copied().unwrap_or(0);
                let mut engine = RolloutEngine::in_world(&device, &model, 4, TIME, element, World::solo()).unwrap();
                let bytes = device.ledger().entries()["kv cache"] - before;
                (
                    engine
                        .run(&device, &model, RolloutBatch { requests: &requests, sampling: &sampling, stops: &[] }, &mut silent)
                        .unwrap()
                        .unwrap(),
                    bytes,
                )
            };
            let ((half, half_bytes), (again, _), (_, bytes)) =
                (run(ElementType::F16), run(ElementType::F16), run(ElementType::F32));
            assert_eq!(half, again, "{case}: the same twice");
            assert!(half_bytes < bytes, "{case}: {half_bytes} of {bytes} bytes");
            for (request, done) in requests.iter().zip(&half) {
                let (tokens, time) = ([&request.prompt[..], &done.tokens].concat(), request.prompt.len() + done.tokens.len());
                let targets: Vec<u32> = tokens[1..].iter().copied().chain([IGNORE]).collect();
                let row = Batch { batch_size: 1, seq_len: time, targets, doc_start: vec![0; time], num_tokens: time, tokens };
                let (logp, _) = Scorer::new(&device, &model, 1, time).unwrap().score(&device, &row).unwrap();
                for (got, want) in done.logprobs.iter().zip(&logp[request.prompt.len() - 1..]) {
                    // Keys and values are off by 2^-11 of themselves; scores of these models reach tens.
                    assert!((got - want).abs() < 2e-2, "{case}: log pi {got}, scored {want}");
                }
            }
            let slots =
                |element| default_slots(&model.config, 4096, element, Sizes { rollout_cache_bytes: 1 << 24, ..device.sizes() });
            let (narrow, wide) = (slots(ElementType::F16), slots(ElementType::F32));
            assert!((2 * wide..=2 * wide + 1).contains(&narrow), "{narrow} rows instead of {wide}");
        }
    }
}

/// A base model in bfloat16, written by `lehr merge`, and rows for it.
fn place() -> Place {
    let place = Place::new();
    std::fs::write(place.path("base.txt"), format!("{}system:\nuser:\nassistant:\n", common::text(4000))).unwrap();
    let mut base = place.lehr(["pretrain", "--data=base.txt", "--json", "--run", "base"]);
    base.args(TINY.iter().filter(|a| !a.starts_with("--seq-len"))).args(["--seq-len=64", "--max-steps=8", "--eval-every=0"]);
    json_lines(&mut base);
    assert_eq!(run(&mut place.lehr(["merge", "base", "--last=1", "--out=half", "--dtype=bf16"])).code, Some(0));
    let row = |i: usize| {
        let (a, b) = (["glass", "kiln", "sand"][i % 3], ["heat", "slow"][i % 2]);
        serde_json::json!({"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}).to_string() + "\n"
    };
    std::fs::write(place.path("rows.jsonl"), (0..30).map(row).collect::<String>()).unwrap();
    place
}

#[test]
fn runs_choose_bfloat16_and_count_it() {
    let place = place();
    let sft = |name: &str, more: &[&str]| {
        let mut command = place.lehr(["sft", "--init=half", "--data=rows.jsonl", "--json", "--lora-rank=2", "--batch-size=4"]);
        command.args(["--max-steps=3", "--eval-every=0", "--save-every=2", "--run", name]).args(more);
        json_lines(&mut command)
    };
    let losses = |events: &[serde_json::Value]| -> Vec<String> {
        kind(events, "Step").iter().map(|step| step["loss"].to_string()).collect()
    };
    let (auto, full) = (sft("auto", &[]), sft("full", &["--dtype=float32"]));
    assert!(losses(&auto) == losses(&full) && losses(&auto).len() == 3);
    let adapters = |run: &str| place.checkpoint(run, 3, "adapter_model.safetensors");
    assert!(adapters("auto") == adapters("full"), "the storage of the base model changed a bit");
    let frozen = |run: &str| std::fs::read_to_string(place.path(run).join("config.toml")).unwrap();
    assert!(frozen("auto").contains("dtype = \"bfloat16\"") && frozen("full").contains("dtype = \"float32\""));
    // What is resumed has the type that it began with.
    json_lines(&mut place.lehr(["sft", "--json", "--resume=auto", "--max-steps=4"]));
    json_lines(&mut place.lehr(["sft", "--json", "--resume=full", "--max-steps=4"]));
    assert!(place.checkpoint("auto", 4, "adapter_model.safetensors") == place.checkpoint("full", 4, "adapter_model.safetensors"));
    let values = |more: &[&str]| sft("no", &[&["--dry-run"], more].concat())[0]["bytes"]["values"].as_u64().unwrap();
    let (half, whole) = (values(&[]), values(&["--dtype=float32"]));
    assert!((half as f64) < 0.65 * whole as f64, "{half} of {whole} bytes");
    // Inference.
    let eval = |more: &[&str]| {
        let args = ["eval", "--model=half", "--data=base.txt", "--seq-len=32", "--json"];
        json_lines(&mut place.lehr([&args[..], more].concat()))[0]["eval_loss"].to_string()
    };
    assert_eq!(eval(&[]), eval(&["--dtype=float32"]));
    assert_eq!(eval(&[]), eval(&["--dtype=bf16"]));
    let generated = |model: &str, more: &[&str]| {
        let args = ["generate", "--model", model, "--prompt=glass", "--max-new-tokens=12", "--json"];
        json_lines(&mut place.lehr([&args[..], more].concat()))[0]["tokens"].to_string()
    };
    assert_eq!(generated("half", &[]), generated("half", &["--dtype=float32"]));
    assert_eq!(generated("base", &["--dtype=bfloat16"]), generated("half", &[]), "rounded as it is loaded, or before");
}

/// The reference model of GRPO is the starting point, in its own type; the policy is trained in float32.
#[test]
fn the_reference_model_is_stored_in_its_own_type() {
    let place = Place::new();
    let rows = ["data", "kk", "--form=compact", "--people=2-3", "--count=100", "--seed=1", "--out=rows.jsonl"];
    assert_eq!(run(&mut place.lehr(rows)).code, Some(0));
    let mut base = place.lehr(["pretrain", "--data=rows.jsonl", "--tokenizer=words", "--run=base", "--max-steps=6", "--json"]);
    base.args(["--hidden-size=16", "--intermediate-size=32", "--num-hidden-layers=2", "--num-attention-heads=2"]);
    base.args(["--batch-size=8", "--seq-len=96", "--learning-rate=1e-2", "--warmup-steps=3", "--eval-tokens=96"]);
    json_lines(&mut base);
    assert_eq!(run(&mut place.lehr(["merge", "base", "--last=1", "--out=half", "--dtype=bf16"])).code, Some(0));
    let grpo = |name: &str, more: &[&str]| {
        let mut command = place.lehr(["grpo", "--init=half", "--task=kk", "--form=compact", "--people=2-3", "--batch-size=8"]);
        command.args(["--num-generations=4", "--max-completion-length=16", "--max-prompt-length=60", "--eval-questions=4"]);
        command.args(["--learning-rate=1e-2", "--beta=0.1", "--max-steps=2", "--save-every=1", "--json", "--run", name]);
        json_lines(command.args(more))
    };
    let (auto, full) = (grpo("auto", &[]), grpo("full", &["--dtype=float32"]));
    let steps = |events: &[serde_json::Value]| -> Vec<[String; 2]> {
        kind(events, "Step").iter().map(|step| [step["loss"].to_string(), step["kl"].to_string()]).collect()
    };
    assert!(steps(&auto) == steps(&full) && steps(&auto).len() == 2, "{:?}, {:?}", steps(&auto), steps(&full));
    assert!(place.checkpoint("auto", 2, "model.safetensors") == place.checkpoint("full", 2, "model.safetensors"));
    json_lines(&mut place.lehr(["grpo", "--json", "--resume=auto", "--max-steps=3"]));
    json_lines(&mut place.lehr(["grpo", "--json", "--resume=full", "--max-steps=3"]));
    assert!(place.checkpoint("auto", 3, "model.safetensors") == place.checkpoint("full", 3, "model.safetensors"));
    // Rollouts with a KV cache in half precision, which the memory plan counts.
    let events = grpo("half-cache", &["--kv-cache-dtype=float16"]);
    assert_eq!(kind(&events, "Step").len(), 2);
    let rollouts = |more: &[&str]| grpo("no", &[&["--dry-run"], more].concat())[0]["bytes"]["rollouts"].as_u64().unwrap();
    assert!(rollouts(&["--kv-cache-dtype=float16"]) < rollouts(&[]));
    let reference =
        |more: &[&str]| grpo("no", &[&["--dry-run"], more].concat())[0]["bytes"]["reference values"].as_u64().unwrap();
    let (half, whole) = (reference(&[]), reference(&["--dtype=float32"]));
    assert!((half as f64) < 0.65 * whole as f64, "{half} of {whole} bytes");
}

#[test]
fn a_type_without_untrained_weights_is_refused() {
    let place = Place::new();
    let output = run(&mut place.pretrain("no", &["--dtype=bfloat16"]));
    assert!(output.code == Some(2) && output.err.contains("--dtype") && output.err.contains("--lora-rank"), "{}", output.err);
    json_lines(&mut place.pretrain("model", &["--max-steps=4"]));
    let output = run(&mut place.lehr(["eval", "--model=model", "--data=text.txt", "--kv-cache-dtype=float16"]));
    assert!(output.code == Some(2) && output.err.contains("--kv-cache-dtype"), "{}", output.err);
    let generated = |more: &str| {
        let args = ["generate", "--model=model", "--prompt=glass", "--max-new-tokens=8", "--json", more];
        json_lines(&mut place.lehr(args))[0]["tokens"].as_array().unwrap().len()
    };
    assert_eq!(generated("--kv-cache-dtype=float16"), generated("--kv-cache-dtype=float32"));
}

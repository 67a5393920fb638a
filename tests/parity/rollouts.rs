//! Rollouts against transformers (greedily, numbers from tests/golden/generate.py), against themselves one by one, against the trainer's
//! own log-probabilities, and the draws against the distribution.

mod chance;

use lehr::data::{Batch, IGNORE};
use lehr::device::{Device, Tensor};
use lehr::model::{Activations, Model, PassKind, RolloutBatch, RolloutEngine, RolloutRequest, SampledCompletion};
use lehr::model_files::hf_config;
use lehr::model_files::weight_files::WeightFiles;
use lehr::ops::sample::Sampling;
use lehr::progress::silent;
use lehr::rng::Rng;
use lehr::train::Scorer;
use lehr::vfs::RealFs;
use serde_json::Value;
use std::path::Path;

const CASES: [&str; 4] = ["llama-gqa", "llama-tied", "qwen2", "qwen3"];
/// Tokens of a row: the longest context of the golden models.
const ROOM: usize = 64;

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/generate.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn device() -> Device {
    Device::open_named(None).expect("an adapter")
}

fn open(device: &Device, case: &str) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    let config = hf_config::read(&RealFs, &dir.join("config.json")).unwrap().model;
    let model = Model::new(device, &config, ROOM).unwrap();
    model.load(device, &WeightFiles::open(&RealFs, &dir).unwrap()).unwrap();
    model
}

fn go(
    device: &Device,
    model: &Model,
    engine: &mut RolloutEngine,
    requests: &[RolloutRequest],
    sampling: &Sampling,
    stops: &[u32],
) -> Vec<SampledCompletion> {
    engine.run(device, model, RolloutBatch { requests, sampling, stops }, &mut silent).unwrap().unwrap()
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

/// Requests of all sorts: lengths from one token to all the room there is, limits from one token to more than fit.
fn mixed(rng: Rng, count: usize, vocab: usize) -> Vec<RolloutRequest> {
    let draw = |i: usize, what: u64, n: usize| rng.below(what, i as u64, n as u64) as usize;
    let of = |i: usize| {
        let length = match draw(i, 0, 8) {
            0 => 1,
            1 => ROOM - 1,
            _ => 1 + draw(i, 1, 20),
        };
        // Some share a prompt, next to each other and not.
        let own = if draw(i, 2, 3) == 0 { i / 4 } else { i };
        let length = if own == i { length } else { 1 + draw(own, 1, 20) };
        let prompt = (0..length).map(|t| draw(own * 100 + t, 3, vocab) as u32).collect();
        let max_new = match draw(i, 4, 6) {
            0 => 1,
            1 => 2 * ROOM,
            _ => 1 + draw(i, 5, 30),
        };
        RolloutRequest { prompt, key: [7, i as u32], max_new }
    };
    (0..count).map(of).collect()
}

fn greedily_as_transformers(device: &Device) {
    let golden = golden();
    for case in CASES {
        let model = open(device, case);
        let rows = golden[case].as_array().unwrap();
        for slots in [1, 3, 8, 16] {
            let mut engine = RolloutEngine::new(device, &model, slots, ROOM).unwrap();
            let request = |row: &Value| RolloutRequest { prompt: ids(&row["prompt"]), key: [0; 2], max_new: 24 };
            let requests: Vec<RolloutRequest> = rows.iter().map(request).collect();
            let found = go(device, &model, &mut engine, &requests, &greedy(), &[]);
            for (row, got) in rows.iter().zip(&found) {
                assert_eq!(got.tokens, ids(&row["completion"]), "{case}, {slots} slots, prompt {}", row["prompt"]);
                assert!(got.truncated);
                for (got, want) in got.logprobs.iter().zip(floats(&row["logprobs"]["1.0"])) {
                    assert!((f64::from(*got) - want).abs() < 5e-5, "{case}, {slots} slots: log pi {got} instead of {want}");
                }
            }
        }
    }
}

#[test]
fn greedy_completions_match_transformers() {
    let mut device = device();
    greedily_as_transformers(&device);
    device.switch_gpu_class();
    greedily_as_transformers(&device);
}

/// The same completions, and log-probabilities but for rounding.
fn assert_same(got: &[SampledCompletion], want: &[SampledCompletion], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!((&got.tokens, got.truncated), (&want.tokens, want.truncated), "{what}, request {i}");
        let worst = got.logprobs.iter().zip(&want.logprobs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-4, "{what}, request {i}: log pi differs by {worst}");
    }
}

#[test]
fn completions_do_not_depend_on_slot_order_or_neighbours() {
    let device = device();
    for (case, seed) in [("qwen3", 1), ("llama-gqa", 2), ("qwen2", 3)] {
        let model = open(&device, case);
        let vocab = model.config.vocab_size;
        let requests = mixed(Rng::new(seed, "rollouts test"), 41, vocab);
        let sampling = Sampling { temperature: 1.3, top_k: 20, top_p: 0.95, min_p: 0.01, seed };
        let stops = [3, 11];
        // One by one: a new engine each, one row, nothing else in it.
        let alone: Vec<SampledCompletion> = requests
            .iter()
            .flat_map(|request| {
                let mut engine = RolloutEngine::new(&device, &model, 1, ROOM).unwrap();
                go(&device, &model, &mut engine, std::slice::from_ref(request), &sampling, &stops)
            })
            .collect();
        let ended = alone.iter().filter(|c| !c.truncated).count();
        assert!(ended > 2 && ended < 40, "{case}: {ended} of 41 ended by a stop; the test shows little");
        for slots in [1, 3, 8, 41, 64] {
            let mut engine = RolloutEngine::new(&device, &model, slots, ROOM).unwrap();
            assert_eq!(engine.slots(), slots);
            let what = format!("{case}, {slots} slots");
            let first = go(&device, &model, &mut engine, &requests, &sampling, &stops);
            assert_same(&first, &alone, &what);
            // Fewer requests, then others, then the same again: nothing is left over.
            let fewer = go(&device, &model, &mut engine, &requests[..2], &sampling, &stops);
            assert_same(&fewer, &alone[..2], &format!("{what}, fewer"));
            let mut order: Vec<usize> = (0..requests.len()).rev().collect();
            order.swap(0, 17);
            let turned: Vec<RolloutRequest> = order.iter().map(|&i| requests[i].clone()).collect();
            let found = go(&device, &model, &mut engine, &turned, &sampling, &stops);
            let want: Vec<SampledCompletion> = order.iter().map(|&i| alone[i].clone()).collect();
            assert_same(&found, &want, &format!("{what}, another order"));
            let again = go(&device, &model, &mut engine, &requests, &sampling, &stops);
            assert_eq!(again, first, "{what}: the same work twice, to the bit");
        }
    }
}

#[test]
fn completions_end_at_stop_tokens_and_limits() {
    let device = device();
    let golden = golden();
    let case = "qwen3";
    let model = open(&device, case);
    let rows = golden[case].as_array().unwrap();
    let mut engine = RolloutEngine::new(&device, &model, 3, ROOM).unwrap();
    let whole: Vec<(Vec<u32>, Vec<u32>)> = rows.iter().map(|row| (ids(&row["prompt"]), ids(&row["completion"]))).collect();
    // Stops: the completion goes up to the first of them, which is part of it. They also stand in prompts, where they stop nothing.
    let stops = [whole[4].1[5], whole[5].1[3], whole[0].0[0]];
    let requests: Vec<RolloutRequest> = whole
        .iter()
        .enumerate()
        .map(|(i, (prompt, _))| RolloutRequest { prompt: prompt.clone(), key: [0; 2], max_new: 1 + 4 * i })
        .collect();
    let found = go(&device, &model, &mut engine, &requests, &greedy(), &stops);
    let mut stopped = 0;
    for ((got, (_, want)), request) in found.iter().zip(&whole).zip(&requests) {
        let limit = request.max_new.min(ROOM - request.prompt.len());
        let end = want.iter().position(|token| stops.contains(token)).map_or(usize::MAX, |at| at + 1);
        let known = end.min(limit).min(want.len());
        assert_eq!(got.tokens[..known], want[..known]);
        if known < want.len() {
            assert_eq!((got.tokens.len(), got.truncated), (end.min(limit), end > limit), "limit {limit}, stop at {end}");
        }
        assert_eq!(got.logprobs.len(), got.tokens.len());
        stopped += usize::from(!got.truncated);
    }
    assert!(stopped >= 2, "{stopped} stopped");
    // A prompt one token shorter than the maximum; a limit of one token.
    let long = RolloutRequest { prompt: (0..ROOM as u32 - 1).map(|i| i % 50).collect(), key: [1, 2], max_new: 30 };
    let short = RolloutRequest { prompt: vec![5], key: [1, 3], max_new: 1 };
    let found = go(&device, &model, &mut engine, &[long.clone(), short, long], &greedy(), &[]);
    assert_eq!(found.iter().map(|c| (c.tokens.len(), c.truncated)).collect::<Vec<_>>(), [(1, true); 3]);
    assert_eq!(found[0], found[2]);
    // What ends at its limit with a stop is not cut off.
    let one = RolloutRequest { prompt: whole[4].0.clone(), key: [0; 2], max_new: 6 };
    let found = go(&device, &model, &mut engine, &[one], &greedy(), &[whole[4].1[5]]);
    let first = whole[4].1.iter().position(|t| *t == whole[4].1[5]).unwrap();
    assert_eq!((found[0].tokens.len(), found[0].truncated), (first + 1, false));
}

#[test]
fn sampler_log_probabilities_match_the_trainer() {
    let device = device();
    for (case, temperature) in [("qwen3", 1.0), ("llama-gqa", 0.7), ("llama-tied", 1.6), ("qwen2", 1.0)] {
        let model = open(&device, case);
        let requests = mixed(Rng::new(9, "rollouts test"), 24, model.config.vocab_size);
        let mut engine = RolloutEngine::new(&device, &model, 7, ROOM).unwrap();
        // Filters change what is sampled, not the reported log-probability: that of the whole distribution.
        let sampling = Sampling { temperature, top_k: 10, top_p: 0.9, min_p: 0.02, seed: 4 };
        let found = go(&device, &model, &mut engine, &requests, &sampling, &[3]);
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for (request, completion) in requests.iter().zip(&found) {
            let whole = [request.prompt.as_slice(), &completion.tokens].concat();
            assert!(whole.len() <= ROOM);
            for t in 0..ROOM {
                tokens.push(whole.get(t).copied().unwrap_or(0));
                let drawn = t + 1 >= request.prompt.len();
                targets.push(whole.get(t + 1).copied().filter(|_| drawn).unwrap_or(IGNORE));
            }
        }
        let batch =
            Batch { batch_size: 24, seq_len: ROOM, doc_start: vec![0; tokens.len()], num_tokens: 24 * ROOM, tokens, targets };
        let inverse = Tensor::new(&device, "test", "inv_temperature", &[1]);
        device.write(&inverse, &[(1.0 / temperature) as f32]);
        let acts = Activations::new(&device, &model.config, 24, ROOM, PassKind::Forward);
        let (scored, _) = Scorer::at(&device, &model, acts, &inverse).unwrap().score(&device, &batch).unwrap();
        let scored = scored.iter().zip(&batch.targets).filter(|(_, target)| **target != IGNORE).map(|(logp, _)| *logp);
        let reported: Vec<f32> = found.iter().flat_map(|c| c.logprobs.clone()).collect();
        let (mut worst, mut count) = (0.0f32, 0);
        for (want, got) in scored.zip(&reported) {
            worst = worst.max((want - got).abs());
            count += 1;
        }
        assert_eq!(count, reported.len());
        assert!(worst < 1e-4, "{case} at temperature {temperature}: log pi differs by {worst} on {count} tokens");
    }
}

#[test]
fn rollouts_report_progress_and_can_be_stopped() {
    let device = device();
    let model = open(&device, "llama-tied");
    let mut engine = RolloutEngine::new(&device, &model, 4, ROOM).unwrap();
    let requests = mixed(Rng::new(5, "rollouts test"), 30, model.config.vocab_size);
    let sampling = Sampling { seed: 8, ..Sampling::default() };
    let want = go(&device, &model, &mut engine, &requests, &sampling, &[3]);
    let mut reported = Vec::new();
    let mut stop_at = |_: &str, done: u64, all: u64| {
        assert_eq!(all, 30);
        reported.push(done);
        Ok(done < 10)
    };
    let batch = RolloutBatch { requests: &requests, sampling: &sampling, stops: &[3] };
    assert_eq!(engine.run(&device, &model, batch, &mut stop_at).unwrap(), None);
    assert!(reported.is_sorted() && (10..30).contains(reported.last().unwrap()), "{reported:?}");
    // Neither stopping nor an error changes the state.
    let failed = engine.run(&device, &model, batch, &mut |_, _, _| anyhow::bail!("enough"));
    assert_eq!(failed.unwrap_err().to_string(), "enough");
    assert_eq!(go(&device, &model, &mut engine, &requests, &sampling, &[3]), want);
    assert_eq!(go(&device, &model, &mut engine, &[], &sampling, &[3]), []);
    let of = |prompt: Vec<u32>, max_new| [RolloutRequest { prompt, key: [0; 2], max_new }];
    for (request, word) in [(of(vec![], 1), "no token"), (of(vec![1; ROOM], 1), "64 tokens"), (of(vec![1], 0), "0 tokens")] {
        let batch = RolloutBatch { requests: &request, sampling: &sampling, stops: &[] };
        let error = engine.run(&device, &model, batch, &mut silent).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{error}");
    }
    assert!(RolloutEngine::new(&device, &model, 4, model.max_context() + 1).is_err());
    assert!(RolloutEngine::new(&device, &model, 0, ROOM).is_err());
}

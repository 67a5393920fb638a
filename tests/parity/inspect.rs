//! `model::inspect` against transformers (numbers from tests/golden/inside.py), against the model's own scores, and against the law of
//! causality; `lehr inspect` as a command.

use crate::common;
use lehr::vfs::RealFs;

use common::{Place, run};
use lehr::config::{ModelConfig, Settings};
use lehr::data::{Batch, IGNORE};
use lehr::device::Device;
use lehr::model::Model;
use lehr::model::inspect::{self, InspectRequest, Inspection};
use lehr::model_files::hf_config;
use lehr::model_files::weight_files::WeightFiles;
use lehr::train::Scorer;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

const CASES: [&str; 4] = ["llama-gqa", "llama-tied", "qwen2", "qwen3"];

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn device() -> Device {
    Device::open_named(None).expect("an adapter")
}

fn both_classes() -> [Device; 2] {
    let mut other = device();
    other.switch_gpu_class();
    [device(), other]
}

fn open(device: &Device, case: &str, context: usize) -> Model {
    let config = hf_config::read(&RealFs, &folder(case).join("config.json")).unwrap().model;
    let model = Model::new(device, &config, context).unwrap();
    model.load(device, &WeightFiles::open(&RealFs, &folder(case)).unwrap()).unwrap();
    model
}

fn look(device: &Device, model: &Model, tokens: &[u32], top: usize) -> anyhow::Result<Inspection> {
    inspect::inspect(device, model, InspectRequest { tokens, top, piece: &|id| format!("<{id}>") })
}

/// log pi(target) and entropy of each token but the last by the usual scoring pass.
fn scores(device: &Device, model: &Model, tokens: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let time = tokens.len();
    let targets = (0..time).map(|i| tokens.get(i + 1).copied().unwrap_or(IGNORE)).collect();
    let batch =
        Batch { batch_size: 1, seq_len: time, tokens: tokens.to_vec(), targets, doc_start: vec![0; time], num_tokens: time };
    Scorer::new(device, model, 1, time).unwrap().score(device, &batch).unwrap()
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn attention_and_logit_lens_match_transformers() {
    let bytes = std::fs::read(folder("inside.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: String| -> Vec<f64> {
        let data = file.tensor(&name).unwrap().data().to_vec();
        data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    };
    for device in both_classes() {
        for case in CASES {
            let data = file.tensor(&format!("{case}.tokens")).unwrap().data().to_vec();
            let tokens: Vec<u32> = data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
            let model = open(&device, case, tokens.len());
            let (time, vocab) = (tokens.len(), model.config.vocab_size);
            // All tokens as guesses: the whole distribution.
            let found = look(&device, &model, &tokens, vocab).unwrap();
            let want = floats(format!("{case}.attention"));
            let mut at = want.chunks(time);
            for (layer, heads) in found.attention.iter().enumerate() {
                assert_eq!(heads.len(), model.config.num_attention_heads);
                for (head, row) in heads.iter().enumerate().flat_map(|(head, m)| m.iter().map(move |row| (head, row))) {
                    let want = at.next().unwrap();
                    for (key, want) in want.iter().enumerate() {
                        let got = row.get(key).map_or(0.0, |p| f64::from(*p));
                        assert!((got - want).abs() < 5e-6, "{case} {layer}.{head} {}->{key}: {got}, not {want}", row.len());
                    }
                }
            }
            assert!(at.next().is_none(), "{case}: no head is missing");
            let want = floats(format!("{case}.lens"));
            assert_eq!(found.lens.len(), model.config.num_hidden_layers + 1);
            for (lens, want) in found.lens.iter().zip(want.chunks(time * vocab)) {
                for (i, (seen, logp)) in lens.positions.iter().zip(want.chunks(vocab)).enumerate() {
                    let close = |got: f32, want: f64, what: &str| {
                        let off = (f64::from(got) - want).abs();
                        assert!(off < 3e-5, "{case} {} at {i}: {what} {got}, not {want}", lens.part);
                    };
                    close(seen.entropy, -logp.iter().map(|l| l * l.exp()).sum::<f64>(), "entropy");
                    seen.next.iter().for_each(|guess| close(guess.probability, logp[guess.id as usize].exp(), "probability"));
                    assert_eq!(seen.actual.is_some(), i + 1 < time);
                    if let (Some(actual), Some(next)) = (seen.actual, tokens.get(i + 1)) {
                        close(actual, logp[*next as usize].exp(), "actual");
                        let place = seen.next.iter().position(|g| g.id == *next).map(|at| at as u32 + 1);
                        assert_eq!(seen.rank, place, "{case} {} at {i}: rank", lens.part);
                    }
                }
            }
        }
    }
}

#[test]
fn inspected_predictions_match_scores() {
    for device in both_classes() {
        for case in CASES {
            let model = open(&device, case, 23);
            let vocab = model.config.vocab_size as u32;
            for time in [1usize, 2, 23] {
                let tokens: Vec<u32> = (0..time as u32).map(|i| (i * i + 7 * i + 3) % vocab).collect();
                let found = look(&device, &model, &tokens, 5).unwrap();
                let (logp, entropy) = scores(&device, &model, &tokens);
                assert_eq!(found.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), tokens);
                assert_eq!(bits(found.tokens.iter().map(|t| t.entropy)), bits(entropy), "{case} {time}");
                let output = found.tokens.iter().filter_map(|t| t.logprob);
                assert_eq!(bits(output), bits(logp[..time - 1].iter().copied()), "{case} {time}");
                assert!(found.tokens[0].logprob.is_none() && found.tokens[0].rank.is_none());
                let last = &found.lens.last().unwrap().positions;
                for (i, token) in found.tokens.iter().enumerate() {
                    assert_eq!((&token.next, token.entropy), (&last[i].next, last[i].entropy), "the last lens is the model");
                    assert_eq!(found.tokens.get(i + 1).and_then(|t| t.rank), last[i].rank);
                    assert!(token.next.len() == 5 && token.next.is_sorted_by(|a, b| a.probability >= b.probability));
                    assert_eq!(token.piece, format!("<{}>", token.id));
                }
                for (q, row) in found.attention.iter().flatten().flat_map(|head| head.iter().enumerate()) {
                    let sum: f64 = row.iter().map(|p| f64::from(*p)).sum();
                    assert_eq!(row.len(), q + 1, "a query sees itself and what stands before");
                    assert!((sum - 1.0).abs() < 1e-6 * row.len() as f64 + 1e-6, "{case}: row {q} sums to {sum}");
                }
            }
        }
    }
}

#[test]
fn inspection_is_causal() {
    let device = device();
    let model = open(&device, "llama-gqa", 40);
    let tokens: Vec<u32> = (0..37).map(|i| (11 * i + 5) % 61).collect();
    let before = look(&device, &model, &tokens, 3).unwrap();
    for cut in [0usize, 1, 20, 36] {
        let mut changed = tokens.clone();
        changed[cut..].iter_mut().for_each(|t| *t = (*t + 9) % 61);
        let after = look(&device, &model, &changed, 3).unwrap();
        for (a, b) in before.attention.iter().flatten().zip(after.attention.iter().flatten()) {
            assert_eq!(a[..cut], b[..cut], "attention before {cut}");
            assert!(cut == 0 || a[cut..] != b[cut..], "and it changes from there on");
        }
        for (a, b) in before.lens.iter().zip(&after.lens) {
            for (i, (a, b)) in a.positions.iter().zip(&b.positions).enumerate() {
                assert_eq!(a.next == b.next && a.entropy == b.entropy, i < cut, "{i}, cut at {cut}");
            }
        }
    }
}

/// So large a vocabulary that the logits are made in two parts.
#[test]
fn logits_computed_in_parts_match() {
    let device = device();
    let mut config: ModelConfig = Settings::default().model.config(300_001, 128);
    (config.hidden_size, config.intermediate_size, config.num_hidden_layers) = (16, 16, 1);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.initializer_range) = (2, 1, 8, 0.5);
    let model = Model::new(&device, &config, 100).unwrap();
    model.initialise(&device, 3);
    let tokens: Vec<u32> = (0..100).map(|i| (i * 9973 + 17) % 300_001).collect();
    let found = look(&device, &model, &tokens, 2).unwrap();
    let (logp, entropy) = scores(&device, &model, &tokens);
    assert_eq!(bits(found.tokens.iter().map(|t| t.entropy)), bits(entropy));
    assert_eq!(bits(found.tokens.iter().filter_map(|t| t.logprob)), bits(logp[..99].iter().copied()));
    let ranked: Vec<u32> = found.tokens.iter().filter_map(|t| t.rank).collect();
    assert!(ranked.iter().any(|rank| *rank > 1000), "{ranked:?}");
}

#[test]
fn invalid_inspections_are_refused_in_one_line() {
    let device = device();
    let model = open(&device, "llama-gqa", 64);
    let refused = |tokens: &[u32], top| format!("{:#}", look(&device, &model, tokens, top).unwrap_err());
    assert_eq!(refused(&[], 5), "the text holds no token; give at least one character");
    assert!(refused(&[0; 65], 5).contains("65 tokens; of this model at most 64"));
    assert_eq!(refused(&[3, 61], 5), "token 61: the model's vocabulary ends at 60");
    assert!(refused(&[3], 0).starts_with("--top 0:") && refused(&[3], 1001).starts_with("--top 1001:"));
    // Weights as files may hold them, whose logits are not.
    let head = model.weights.head.as_ref().unwrap();
    device.write(head, &(0..head.len()).map(|i| if i / 48 % 2 == 0 { 3e38f32 } else { -3e38 }).collect::<Vec<_>>());
    let text = refused(&[1, 2, 3], 5);
    assert!(text.contains("not finite") && !text.contains('\n'), "{text}");
    // A larger model allows less: the file would have hundreds of megabytes.
    let shape = |layers, heads| ModelConfig {
        num_hidden_layers: layers,
        num_attention_heads: heads,
        max_position_embeddings: 4096,
        ..Settings::default().model.config(64, 64)
    };
    assert_eq!([shape(4, 4), shape(30, 9), shape(16, 32)].map(|c| inspect::most_tokens(&c)), [512, 352, 255]);
}

#[test]
fn the_command_takes_models_runs_and_steps() {
    let place = Place::new();
    assert_eq!(run(&mut place.pretrain("runs/a", &["--max-steps=6", "--save-every=3"])).code, Some(0));
    let inspect = |model: &str, more: &[&str]| {
        let mut command = place.lehr(["inspect", "--model", model]);
        run(command.args(more))
    };
    let read = |output: &common::CommandOutput| -> Inspection {
        assert_eq!(output.code, Some(0), "{}", output.err);
        serde_json::from_str(&output.out).unwrap_or_else(|e| panic!("{}: {e}", output.out))
    };
    let text = "the kiln cools";
    let newest = read(&inspect("runs/a", &["--text", text, "--top=3", "--json"]));
    assert!(newest.model.ends_with("step-00000006"), "{}", newest.model);
    assert_eq!(newest.tokens.iter().map(|t| t.piece.as_str()).collect::<String>(), text);
    assert_eq!((newest.attention.len(), newest.attention[0].len(), newest.attention[0][0].len()), (1, 2, text.len()));
    assert_eq!(newest.lens.iter().map(|l| l.part.as_str()).collect::<Vec<_>>(), ["embed", "layers.0"]);
    assert_eq!(newest.tokens[3].next.len(), 3);
    assert_eq!(read(&inspect("runs/a@6", &["--text", text, "--top=3", "--json"])), newest);
    let older = read(&inspect("runs/a@3", &["--text", text, "--top=3", "--json"]));
    assert!(older.model.ends_with("step-00000003") && older.tokens[4].logprob != newest.tokens[4].logprob);
    // For people: every token a row in two tables, heads of the last token.
    let output = inspect("runs/a", &["--text", "a\nk"]);
    assert_eq!(output.code, Some(0), "{}", output.err);
    let rows = |start: &str| output.out.lines().filter(|line| line.trim_start().starts_with(start)).count();
    assert_eq!((rows("0  a "), rows("1  \\n "), rows("2  k "), rows("layers.0 ")), (2, 2, 2, 1), "{}", output.out);
    assert!(output.out.lines().all(|line| line.chars().count() <= 80), "{}", output.out);
    for (model, more, words) in [
        ("runs/a@4", &["--text=a"][..], "no checkpoint of step 4"),
        ("runs/none", &["--text=a"], "no such folder"),
        ("runs/a", &["--text="], "holds no token"),
        ("runs/a", &["--text=aaaaaaaaaaaaaaaaa"], "17 tokens; of this model at most 16"),
        ("runs/a", &["--text=a", "--top=0"], "--top 0"),
    ] {
        let output = inspect(model, more);
        // A flag's value, or the name of something that does not exist.
        let code = if words.starts_with("no checkpoint") { 1 } else { 2 };
        assert!(
            output.code == Some(code) && output.err.contains(words) && output.err.lines().count() == 1,
            "{words}: {}",
            output.err
        );
        assert!(output.out.is_empty());
    }
}

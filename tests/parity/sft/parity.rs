//! TRL's SFTTrainer on the same rows: its tokens and labels, and one update.

use crate::common::golden;
use lehr::config::{Settings, SettingsLayers, Stage};
use lehr::data::chat::{self, ChatSource, ChatTemplate, Encoder, LossOn, read_rows};
use lehr::data::{Notices, Source, Tokenizer};
use lehr::device::Device;
use lehr::model_files::hf_config;
use lehr::model_files::weight_files::WeightFiles;
use lehr::progress::silent;
use lehr::train::Trainer;
use lehr::vfs::RealFs;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::HashMap;

struct Golden {
    value: Value,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Golden {
    fn input(&self, settings: &Settings) -> chat::ChatInput<'_> {
        chat::ChatInput {
            vfs: &RealFs,
            tokenizer: &self.tokenizer,
            template: &self.template,
            seq_len: settings.train.seq_len,
            seed: 1,
        }
    }

    fn open() -> Self {
        let value = serde_json::from_str(&std::fs::read_to_string(golden("sft/golden.json")).unwrap()).unwrap();
        let tokenizer = Tokenizer::from_folder(&RealFs, &golden("sft/model")).unwrap();
        let (tokenizer, template) = chat::template_of(&tokenizer, None, 0).unwrap();
        Self { value, tokenizer, template }
    }

    fn max_length(&self) -> usize {
        self.value["settings"]["max_length"].as_u64().unwrap() as usize
    }
}

#[test]
fn tokens_and_labels_match_trl() {
    let g = Golden::open();
    let loss_on = LossOn { assistant_only: true, completion_only: true };
    let encoder = Encoder { tokenizer: &g.tokenizer, template: &g.template, loss_on };
    let most = g.max_length();
    for name in ["messages", "turns", "texts", "plain"] {
        let mut got = Vec::new();
        read_rows(&RealFs, &golden(&format!("sft/{name}.jsonl")), &mut silent, |_, row| {
            let example = encoder.encode(&row)?;
            let n = example.tokens.len().min(most);
            let tokens: Vec<i64> = example.tokens[..n].iter().map(|id| i64::from(*id)).collect();
            let labels: Vec<i64> =
                tokens.iter().zip(&example.scored).map(|(id, scored)| if *scored { *id } else { -100 }).collect();
            // TRL drops what has no label left.
            if labels.iter().any(|label| *label != -100) {
                got.push((tokens, labels));
            }
            Ok(())
        })
        .unwrap();
        let list = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect::<Vec<_>>();
        let want: Vec<_> =
            g.value[name].as_array().unwrap().iter().map(|row| (list(&row["input_ids"]), list(&row["labels"]))).collect();
        assert_eq!(got, want, "{name}");
    }
}

fn settings(g: &Golden, packing: bool) -> Settings {
    let s = &g.value["settings"];
    let mut settings = SettingsLayers::of(Stage::Sft).unwrap().settings().unwrap();
    settings.data.data = vec![golden("sft/messages.jsonl")];
    settings.data.val_fraction = 0.0;
    let t = &mut settings.train;
    let number = |name: &str| s[name].as_f64().unwrap();
    (t.learning_rate, t.min_learning_rate, t.warmup_steps) = (number("learning_rate"), number("learning_rate"), 0);
    t.lr_scheduler = lehr::config::Scheduler::Constant;
    (t.adam_beta1, t.adam_beta2, t.adam_epsilon) = (number("adam_beta1"), number("adam_beta2"), number("adam_epsilon"));
    (t.weight_decay, t.max_grad_norm) = (number("weight_decay"), number("max_grad_norm"));
    (t.seq_len, t.max_steps, t.micro_batch_size) = (g.max_length(), 1, Some(1));
    if let Some(sft) = &mut settings.sft {
        sft.packing = packing;
    }
    settings
}

/// One update on all rows, one a sequence or packed: every figure that TRL logs, and every weight afterwards.
// Length: one figure after another.
fn one_update_matches(device: Device, packing: bool) {
    let g = Golden::open();
    let mut settings = settings(&g, packing);
    let from = g.input(&settings);
    let sft = settings.sft.clone().unwrap();
    let mut notices = Notices::new();
    let mut source: ChatSource = chat::load(&settings.data, &sft, &from, &mut notices, &mut silent).unwrap();
    assert!(notices.lines().iter().any(|l| l.contains("2 of 7 rows cut")), "{:?}", notices.lines());
    settings.train.batch_size = source.rows_per_epoch() as usize;
    assert_eq!(source.end_after(1.0, settings.train.batch_size), 1);
    assert_eq!(packing, settings.train.batch_size < 6, "{} sequences", settings.train.batch_size);
    let config = hf_config::read(&RealFs, &golden("sft/model/config.json")).unwrap().model;
    let files = WeightFiles::open(&RealFs, &golden("sft/model")).unwrap();
    let mut trainer = Trainer::new(device, &settings, &config, Box::new(source)).unwrap();
    trainer.model.load(&trainer.device, &files).unwrap();
    assert!(trainer.step().unwrap().is_none());
    let result = trainer.flush().unwrap().remove(0);
    let step = &g.value["step"];
    for (name, got) in [
        ("loss", result.loss),
        ("entropy", result.entropy),
        ("mean_token_accuracy", result.mean_token_accuracy),
        ("grad_norm", result.grad_norm),
        ("learning_rate", result.learning_rate),
        ("num_tokens", result.num_tokens as f64),
        ("epoch", result.epoch),
    ] {
        let want = step[name].as_f64().unwrap();
        assert!((got - want).abs() <= 2e-5 * (1.0 + want.abs()), "packing {packing}: {name} = {got}, TRL says {want}");
    }
    assert!((0.2..0.9).contains(&result.mean_token_accuracy), "the figure could be told from a constant");
    let bytes = std::fs::read(golden("sft/updated.safetensors")).unwrap();
    let updated = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f64> {
        let tensor = updated.tensor(name).unwrap();
        tensor.data().chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    };
    let mut moved = HashMap::new();
    for (spec, tensor) in trainer.model.parameters.tensors(&trainer.model.values) {
        let values: Vec<f32> = trainer.device.read(&tensor).unwrap();
        for (name, shape, range) in spec.ranges() {
            let (want, before) = (floats(name), files.read_f32(name, shape).unwrap());
            // The change of each weight, against the expected change.
            let (mut worst, mut size) = (0.0f64, 0.0f64);
            for ((got, want), before) in values[range].iter().zip(&want).zip(before) {
                worst = worst.max((f64::from(*got) - want).abs());
                size = size.max((want - f64::from(before)).abs());
            }
            assert!(worst <= 2e-4 * size + 1e-7, "packing {packing}: {name} is off by {worst:e}, it moved by {size:e}");
            moved.insert(name.to_string(), size);
        }
    }
    assert_eq!(moved.len(), updated.len());
    assert!(moved.values().all(|size| *size > 1e-4), "{moved:?}");
}

#[test]
fn one_update_matches_trl() {
    let device = || Device::open_named(None).expect("an adapter");
    one_update_matches(device(), false);
    one_update_matches(device(), true);
}

/// `batch` of a source by way of its trait, so that the test sees what the trainer sees.
#[test]
fn packed_rows_are_independent() {
    let g = Golden::open();
    let settings = settings(&g, true);
    let from = g.input(&settings);
    let source = chat::load(&settings.data, &settings.sft.clone().unwrap(), &from, &mut Notices::new(), &mut silent).unwrap();
    let batch = source.batch(0, source.rows_per_epoch() as usize);
    assert_eq!(batch.num_tokens as u64, g.value["step"]["num_tokens"].as_f64().unwrap() as u64);
    let starts: std::collections::BTreeSet<_> =
        batch.doc_start.iter().enumerate().map(|(i, start)| (i / batch.seq_len, *start)).collect();
    assert!(starts.len() > batch.batch_size, "several documents a sequence");
}

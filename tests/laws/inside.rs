//! What a run tells of its inside: norms part by part, held-out tokens by probability, samples on demand.

mod commands;
mod norms;
mod predictions;

use lehr::config::{Architecture, ModelConfig, Scheduler, Settings};
use lehr::data::{Dataset, TextSource, TokenFile};
use lehr::device::Device;
use lehr::rng::Rng;
use lehr::train::Trainer;
use std::sync::Arc;

const TIME: usize = 16;
const VOCAB: usize = 37;
const FAMILIES: [Architecture; 3] = [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3];

fn device() -> Device {
    Device::open_named(None).expect("an adapter")
}

/// Two layers, grouped queries; sizes that fill no row of the arena; weights wide enough that predictions are far from even.
fn shape(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        architecture,
        vocab_size: VOCAB,
        hidden_size: 36,
        intermediate_size: 44,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 12,
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

fn dataset() -> Dataset {
    let rng = Rng::new(7, "text");
    let text: Vec<u32> = (0..900).map(|i| rng.below(0, i, VOCAB as u64) as u32).collect();
    let file = TokenFile::from_tokens(&text, &[11, 40, 41, 300, 317, 500, 560, 900], VOCAB).unwrap();
    Dataset::split(Arc::new(file), 0.2).unwrap()
}

/// `norms_every` as it says; two micro-batches an update.
fn trainer(config: &ModelConfig, norms_every: u64) -> Trainer {
    let mut s = Settings::default();
    let t = &mut s.train;
    (t.batch_size, t.micro_batch_size, t.seq_len, t.seed) = (4, Some(2), TIME, 5);
    (t.max_steps, t.warmup_steps, t.learning_rate, t.lr_scheduler) = (100, 0, 1e-2, Scheduler::Constant);
    s.eval.norms_every = norms_every;
    let source = TextSource::new(dataset(), TIME, 5).unwrap();
    Trainer::new(device(), &s, config, Box::new(source)).unwrap()
}

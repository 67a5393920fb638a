#![doc = "lehr as a library: train a tiny model on the CPU for ten steps and print the loss. `cargo run --release --example train`"]

use lehr::config::{Scheduler, Settings};
use lehr::data::{Dataset, TextSource, TokenFile};
use lehr::device::Device;
use lehr::train::Trainer;
use std::sync::Arc;

/// Tokens are bytes.
const VOCAB_SIZE: usize = 256;

fn main() -> anyhow::Result<()> {
    // A text as token ids. The second argument says where documents end: here there is one.
    let text = "The cat sat on the mat. The dog sat on the cat. ".repeat(100);
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    let file = TokenFile::from_tokens(&tokens, &[tokens.len() as u64], VOCAB_SIZE)?;

    // The settings of the command line; what is not set here has its default.
    let mut settings = Settings::default();
    settings.model.hidden_size = 32;
    settings.model.intermediate_size = 64;
    settings.model.num_hidden_layers = 2;
    settings.train.max_steps = 10;
    settings.train.batch_size = 4;
    settings.train.seq_len = 32;
    settings.train.learning_rate = 1e-2;
    settings.train.lr_scheduler = Scheduler::Constant;
    settings.train.warmup_steps = 0;

    // Batches, in an order that depends on the seed alone; a tenth of the text is held out.
    let seq_len = settings.train.seq_len;
    let source = TextSource::new(Dataset::split(Arc::new(file), 0.1)?, seq_len, settings.train.seed)?;
    let config = settings.model.config(VOCAB_SIZE, seq_len);
    let device = Device::open_named(Some("cpu"))?;
    let mut trainer = Trainer::new(device, &settings, &config, Box::new(source))?;

    // A step's numbers arrive when the next one has been queued, the last ones by `flush`.
    let mut results = Vec::new();
    for _ in 0..settings.train.max_steps {
        results.extend(trainer.step()?);
    }
    results.extend(trainer.flush()?);

    println!("{} parameters", trainer.model.parameters.count());
    for result in &results {
        println!("step {:>2}  loss {:.4}  grad_norm {:.3}", result.step, result.loss, result.grad_norm);
    }
    let (first, last) = (&results[0], &results[results.len() - 1]);
    anyhow::ensure!(last.step == 10 && last.loss < first.loss, "the loss did not fall");
    Ok(())
}

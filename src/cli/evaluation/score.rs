//! `lehr score`: log-probabilities of given text or token ids; optionally the gradient of their mean loss.

use crate::cli::{open, output};
use crate::config::{DeviceSettings, ModelConfig, StorageSettings};
use crate::data::{Batch, IGNORE, Tokenizer};
use crate::device::{Arena, Device};
use crate::model::Model;
use crate::model_files::gguf::is_gguf;
use crate::model_files::safetensors_file::write_safetensors;
use crate::train::{GradientPass, Scorer};
use crate::vfs::{RealFs, write_whole_by};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// Flags of `lehr score`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model folder (lehr's or Hugging Face's), or a run folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text to score.
    #[arg(long, conflicts_with = "tokens", allow_hyphen_values = true)]
    text: Option<String>,
    /// Score each line of this file ({"tokens": [...]} or {"text": "..."}); - or absent for standard input.
    #[arg(long, value_name = "FILE.jsonl")]
    tokens: Option<PathBuf>,
    /// Write d(mean loss over all scored tokens) / d(parameter), with Hugging Face's tensor names.
    #[arg(long, value_name = "FILE.safetensors")]
    grads: Option<PathBuf>,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    storage: StorageSettings,
    #[command(flatten)]
    device: DeviceSettings,
}

#[derive(Deserialize)]
struct ScoreInput {
    tokens: Option<Vec<u32>>,
    text: Option<String>,
}

#[derive(Serialize)]
struct ScoreOutput {
    tokens: Vec<u32>,
    logprobs: Vec<Option<f32>>,
    entropy: Vec<Option<f32>>,
    loss: Option<f64>,
}

/// Maximum length of a line.
const MAX_LINE: usize = 64 << 20;

/// Score.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    let dir = open::model_folder("--model", &args.model)?;
    let config = open::config(&dir)?;
    let has_tokenizer = is_gguf(&RealFs, &dir)? || dir.join("tokenizer.json").is_file();
    let tokenizer = has_tokenizer.then(|| open::tokenizer(&dir, &config)).transpose()?;
    let rows = read_rows(args, tokenizer.as_ref())?;
    let context = config.model.max_position_embeddings;
    for (place, tokens) in &rows {
        anyhow::ensure!(tokens.len() <= context, "{place}: {} tokens, but the model's context is {context}", tokens.len());
        if let Some(bad) = tokens.iter().find(|t| **t as usize >= config.model.vocab_size) {
            anyhow::bail!("{place}: token {bad}: the model's vocabulary ends at {}", config.model.vocab_size - 1);
        }
    }
    let longest = rows.iter().map(|(_, t)| padded(&config.model, t.len())).max().unwrap_or(1);
    let device = open::device(&args.device)?;
    let model = open::frozen_model(&device, &dir, &config, longest, args.storage.dtype)?;
    let mut scorers: HashMap<usize, Scorer> = HashMap::new();
    for (_, tokens) in &rows {
        let time = padded(&config.model, tokens.len());
        let scorer = match scorers.entry(time) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Scorer::new(&device, &model, 1, time)?),
        };
        let (logp, entropy) = scorer.score(&device, &row_batch(tokens, time))?;
        print(args, &scored(tokens, &logp, &entropy), tokenizer.as_ref())?;
    }
    if let Some(path) = &args.grads {
        write_gradients(&device, &model, &rows, path)?;
    }
    Ok(0)
}

/// (source, tokens) of everything to score.
fn read_rows(args: &Args, tokenizer: Option<&Tokenizer>) -> anyhow::Result<Vec<(String, Vec<u32>)>> {
    let encode = |text: &str| match tokenizer {
        Some(tokenizer) => tokenizer.encode_text(text),
        None => anyhow::bail!("{}: holds no tokenizer.json; give token ids", args.model.display()),
    };
    if let Some(text) = &args.text {
        return Ok(vec![("--text".into(), nonempty("--text", encode(text)?)?)]);
    }
    let file = args.tokens.as_deref().filter(|p| *p != Path::new("-"));
    let name = file.map_or("standard input".into(), |p| p.display().to_string());
    let reader: Box<dyn BufRead> = match file {
        Some(path) => Box::new(std::io::BufReader::new(std::fs::File::open(path).with_context(|| name.clone())?)),
        None => Box::new(std::io::stdin().lock()),
    };
    let mut rows = Vec::new();
    for (i, line) in reader.lines().enumerate() {
        let (line, place) = (line.with_context(|| format!("{name}:{}", i + 1))?, format!("{name}:{}", i + 1));
        if line.trim().is_empty() {
            continue;
        }
        anyhow::ensure!(line.len() <= MAX_LINE, "{place}: a line of {} MiB; split it", line.len() >> 20);
        let parsed: ScoreInput = serde_json::from_str(&line)
            .with_context(|| format!("{place}: needs {{\"tokens\": [...]}} or {{\"text\": \"...\"}}"))?;
        let tokens = match (parsed.tokens, parsed.text) {
            (Some(tokens), _) => tokens,
            (None, Some(text)) => encode(&text).with_context(|| place.clone())?,
            (None, None) => anyhow::bail!("{place}: has neither \"tokens\" nor \"text\""),
        };
        rows.push((place.clone(), nonempty(&place, tokens)?));
    }
    anyhow::ensure!(!rows.is_empty(), "{name}: nothing to score");
    Ok(rows)
}

fn nonempty(place: &str, tokens: Vec<u32>) -> anyhow::Result<Vec<u32>> {
    anyhow::ensure!(!tokens.is_empty(), "{place}: holds no token");
    Ok(tokens)
}

/// Lengths are rounded up, so that a few recordings serve all lines; padding after a token cannot change its score.
fn padded(c: &ModelConfig, len: usize) -> usize {
    let rounded = if len <= 64 { len.next_power_of_two().max(8) } else { len.next_multiple_of(64) };
    c.exact_context().map_or(rounded, |(most, _)| rounded.min(most).max(len))
}

fn row_batch(tokens: &[u32], time: usize) -> Batch {
    let mut row = tokens.to_vec();
    row.resize(time, 0);
    let targets = (0..time).map(|i| tokens.get(i + 1).copied().unwrap_or(IGNORE)).collect();
    Batch { batch_size: 1, seq_len: time, tokens: row, targets, doc_start: vec![0; time], num_tokens: tokens.len() }
}

fn scored(tokens: &[u32], logp: &[f32], entropy: &[f32]) -> ScoreOutput {
    let n = tokens.len() - 1;
    // Position i predicts token i + 1; the first token has no score.
    let shifted = |values: &[f32]| std::iter::once(None).chain(values[..n].iter().copied().map(Some)).collect();
    let loss = (n > 0).then(|| -logp[..n].iter().map(|l| f64::from(*l)).sum::<f64>() / n as f64);
    ScoreOutput { tokens: tokens.to_vec(), logprobs: shifted(logp), entropy: shifted(entropy), loss }
}

fn print(args: &Args, row: &ScoreOutput, tokenizer: Option<&Tokenizer>) -> anyhow::Result<()> {
    if args.json {
        return output::json_line(row);
    }
    for (i, token) in row.tokens.iter().enumerate() {
        let text = tokenizer.and_then(|t| t.token_text(*token)).unwrap_or_default();
        let text = output::piece(&text);
        match (row.logprobs[i], row.entropy[i]) {
            (Some(l), Some(e)) => output::line(&format!("{token:>7}  {l:>9.4}  entropy {e:.4}  {text}"))?,
            _ => output::line(&format!("{token:>7}  {:>9}  {:>14}  {text}", "given", ""))?,
        }
    }
    match row.loss {
        Some(loss) => output::line(&format!("loss {loss:.6}\n")),
        None => output::line("one token: nothing to predict\n"),
    }
}

fn write_gradients(device: &Device, model: &Model, rows: &[(String, Vec<u32>)], path: &Path) -> anyhow::Result<()> {
    let scored: usize = rows.iter().map(|(_, t)| t.len() - 1).sum();
    anyhow::ensure!(scored > 0, "--grads: no token is predicted, so there is no loss; give longer lines");
    let grads: Arena = model.parameters.arena(device, "grads");
    let tree = model.parameters.tree(&grads);
    let mut passes: HashMap<usize, GradientPass> = HashMap::new();
    for (_, tokens) in rows {
        let time = padded(&model.config, tokens.len());
        let pass = match passes.entry(time) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let acts = GradientPass::activations(device, model, 1, time);
                new.insert(GradientPass::new(device, model, acts, &tree)?)
            }
        };
        pass.run(device, &row_batch(tokens, time), 1.0 / scored as f32)?;
    }
    let mut reader = model.reader(device, &grads);
    write_whole_by(path, |out| write_safetensors(out, &BTreeMap::new(), &model.names(), |name, sink| reader.write(name, sink)))
}

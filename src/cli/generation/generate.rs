//! `lehr generate`

use crate::cli::{open, output};
use crate::config::{CacheSettings, DeviceSettings, StorageSettings};
use crate::data::chat::{self, Chat};
use crate::data::{StopStringFilter, Tokenizer};
use crate::model::Generator;
use crate::model_files::hf_config::HfConfig;
use crate::ops::sample::Sampling;
use std::io::{Read, Write};
use std::path::PathBuf;

/// Flags of `lehr generate`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model folder (lehr's or Hugging Face's), or a run folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Prompt; read from standard input when absent.
    #[arg(long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Use the prompt as a user message, with the model's chat template.
    #[arg(long)]
    chat: bool,
    /// With --chat: system prompt.
    #[arg(long, value_name = "TEXT", requires = "chat", allow_hyphen_values = true)]
    system: Option<String>,
    /// With --chat: NAME=VALUE for the chat template, such as enable_thinking=false. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", requires = "chat")]
    chat_template_kwargs: Vec<String>,
    /// Maximum tokens to generate.
    #[arg(long, default_value_t = 200)]
    max_new_tokens: usize,
    /// Sampling temperature; 0 is greedy.
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Sample from the K most probable tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    /// Sample from the smallest set of most probable tokens whose probability reaches this.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Minimum probability of a token, relative to the most probable one.
    #[arg(long, default_value_t = 0.0)]
    min_p: f64,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object: prompt, text, token ids.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    storage: StorageSettings,
    #[command(flatten)]
    cache: CacheSettings,
    #[command(flatten)]
    device: DeviceSettings,
}

/// Maximum tokens in a row.
const MAX_ROOM: usize = 1 << 20;

/// Maximum bytes of a prompt: encoding takes up to 150 bytes of memory for each.
const MAX_PROMPT: usize = 4 << 20;

/// Generate.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    check(args)?;
    let prompt = prompt(args)?;
    let dir = open::model_folder("--model", &args.model)?;
    let config = open::config(&dir)?;
    let tokenizer = open::tokenizer(&dir, &config)?;
    let (tokenizer, text) = if args.chat { conversation(args, &prompt, &tokenizer)? } else { (tokenizer, prompt.clone()) };
    let ids = tokenizer.encode_prompt(&text, args.chat)?;
    anyhow::ensure!(
        !ids.is_empty(),
        "--prompt: holds no token, and this tokenizer has none that begins or ends a text; give at least one character"
    );
    let max_len = check_length(args, &config, ids.len())?;
    let device = open::device(&args.device)?;
    let model = open::frozen_model(&device, &dir, &config, max_len, args.storage.dtype)?;
    let generator = Generator::with_cache(&device, &model, 1, max_len, args.cache.kv_cache_dtype.element())?;
    let sampling = sampling(args);
    let ends = tokenizer.end_tokens();
    let mut until = StopStringFilter::new(ends.text().filter(|_| args.chat));
    // A chat reply is a text of its own, a continuation is part of one.
    let mut stream = tokenizer.decode_stream(if args.chat { &[] } else { &ids });
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let mut out = std::io::stdout();
    if !args.json && !args.chat {
        // The continuation includes the leading space if the prompt's own is in no token.
        let held = tokenizer.decode(&ids)?.ends_with(char::is_whitespace);
        write!(out, "{}", output::generated(if held { &prompt } else { prompt.trim_end() }))?;
        out.flush()?;
    }
    generator.run(&device, std::slice::from_ref(&ids), args.max_new_tokens, &sampling, |_, new| {
        if ends.contains(new[0]) || crate::session::control::Control::interrupted() {
            return Ok(false);
        }
        tokens.push(new[0]);
        let (piece, ended) = until.push(&stream.push(new[0])?);
        if !args.json {
            write!(out, "{}", output::generated(&piece))?;
            out.flush()?;
        }
        text.push_str(&piece);
        Ok(!ended)
    })?;
    let rest = until.finish(&stream.finish()?);
    text.push_str(&rest);
    if args.json {
        output::json_line(&serde_json::json!({ "prompt": prompt, "text": text, "prompt_tokens": ids, "tokens": tokens }))?;
    } else {
        writeln!(out, "{}", output::generated(&rest))?;
    }
    Ok(0)
}

/// The length of prompt and text in tokens, checked against the model's context.
fn check_length(args: &Args, config: &HfConfig, prompt: usize) -> anyhow::Result<usize> {
    let (context, max_len) = (config.model.max_position_embeddings, prompt.saturating_add(args.max_new_tokens));
    anyhow::ensure!(
        max_len <= MAX_ROOM,
        "--max-new-tokens {}: prompt and text are at most {MAX_ROOM} tokens",
        args.max_new_tokens
    );
    anyhow::ensure!(
        !args.chat || prompt < context,
        "--prompt: the conversation has {prompt} tokens, but the model's context holds {context}, reply included; shorten it"
    );
    if let Some((most, why)) = config.model.exact_context() {
        anyhow::ensure!(
            max_len <= most,
            "--max-new-tokens {}: {max_len} tokens with the prompt's {prompt}, but this model takes at most {most} at once ({why}); ask for \
             fewer, or shorten --prompt",
            args.max_new_tokens
        );
    }
    if max_len > context {
        // As in transformers: positions continue beyond those seen in training.
        output::note(&format!("note: the model was trained on contexts of {context} tokens; text beyond them may be incoherent"));
    }
    Ok(max_len)
}

/// The tokenizer with the template in use, and the conversation as text.
fn conversation(args: &Args, prompt: &str, tokenizer: &Tokenizer) -> anyhow::Result<(Tokenizer, String)> {
    let now = crate::vfs::unix_time() as i64;
    let (tokenizer, template) = chat::template_of(tokenizer, None, now)?;
    let say = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
    let system = args.system.iter().map(|text| say("system", text));
    let messages = system.chain([say("user", prompt.trim_end_matches('\n'))]).collect();
    let chat = Chat { messages, extra: chat::template_kwargs(&args.chat_template_kwargs)?, ..Chat::default() };
    Ok((tokenizer, template.render(&chat, true)?.text))
}

/// The prompt from the flag, or from standard input.
fn prompt(args: &Args) -> anyhow::Result<String> {
    let bytes = match &args.prompt {
        Some(prompt) => prompt.clone().into_bytes(),
        None => {
            let mut bytes = Vec::new();
            std::io::stdin().take(MAX_PROMPT as u64 + 1).read_to_end(&mut bytes)?;
            bytes
        }
    };
    anyhow::ensure!(bytes.len() <= MAX_PROMPT, "--prompt: more than {} MiB of text; shorten it", MAX_PROMPT >> 20);
    String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("--prompt: standard input is not UTF-8"))
}

fn sampling(args: &Args) -> Sampling {
    Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, min_p: args.min_p, seed: args.seed }
}

fn check(args: &Args) -> anyhow::Result<()> {
    sampling(args).check("--")?;
    anyhow::ensure!(args.max_new_tokens > 0, "--max-new-tokens 0: must be at least 1");
    Ok(())
}

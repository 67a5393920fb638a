//! `lehr chat`: a conversation in the terminal.

use super::chat_json;
use crate::cli::{open, output};
use crate::config::{CacheSettings, DeviceSettings, StorageSettings};
use crate::data::{Tokenizer, chat};
use crate::model::conversation::{ChatEvent, Conversation, ConversationLimits, ReplyEnd};
use crate::number_format::counted;
use crate::ops::sample::Sampling;
use crate::vfs::display_path;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

/// Flags of `lehr chat`.
#[derive(clap::Args, Debug)]
#[command(after_help = "In the conversation: /system TEXT starts over with a system message, /reset starts over, /exit leaves, \
    /help lists this. Ctrl-C stops a reply. A line that ends in \\ continues in the next.")]
pub struct Args {
    /// Model folder (lehr's or Hugging Face's), GGUF file, run folder, or RUN@STEP.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// System prompt.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Maximum tokens in a reply. When absent 512, or half of the context where that is less.
    #[arg(long, visible_alias = "max-new-tokens", value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// Maximum tokens of context; beyond it the oldest turns are left out. When absent the model's context, at most 4096.
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Sampling temperature; 0 is greedy. When absent that of the model's generation_config.json, or 0.8.
    #[arg(long)]
    temperature: Option<f64>,
    /// Sample from the K most probable tokens; 0 keeps all. When absent that of generation_config.json, or 0.
    #[arg(long)]
    top_k: Option<u32>,
    /// Sample from the smallest set of most probable tokens whose probability reaches this. When absent that of generation_config.json, or
    /// 1.
    #[arg(long)]
    top_p: Option<f64>,
    /// Minimum probability of a token, relative to the most probable one. When absent that of generation_config.json, or 0.
    #[arg(long)]
    min_p: Option<f64>,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// JSON interface for programs: commands as JSON lines on standard input ({"command":"Say","text":"..."}, also with "temperature";
    /// {"command":"Stop"}; {"command":"Reset"}, also with "system"), events as JSON lines on standard output.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    storage: StorageSettings,
    #[command(flatten)]
    cache: CacheSettings,
    #[command(flatten)]
    device: DeviceSettings,
}

/// Maximum length of a line.
pub(super) const MAX_LINE: u64 = 16 << 20;
/// Default context, in tokens.
const USUAL_CONTEXT: usize = 4096;
/// Default reply length, in tokens.
const USUAL_REPLY: usize = 512;

/// State: waiting for input, generating, stopping.
const WAITING: u8 = 0;
const SPEAKING: u8 = 1;
const STOPPING: u8 = 2;
static STATE: AtomicU8 = AtomicU8::new(WAITING);

/// Run a conversation.
///
/// # Errors
/// A model that cannot be opened, or a device fault.
pub fn run(args: &Args) -> Result<i32> {
    let dir = open::model_folder("--model", &args.model)?;
    let config = open::config(&dir)?;
    let tokenizer = open::tokenizer(&dir, &config)?;
    let own = tokenizer.chat_template()?.is_some();
    let (tokenizer, template) = chat::template_of(&tokenizer, None, crate::vfs::unix_time() as i64)?;
    let sampling = sampling(args, &tokenizer)?;
    let most = config.model.exact_context().map_or(config.model.max_position_embeddings, |(most, _)| most);
    let context = args.context.unwrap_or(most.min(USUAL_CONTEXT));
    ensure!(context <= most, "--context {context}: the model's context holds {most} tokens");
    ensure!(context >= 2, "--context {context}: must be at least 2");
    let max_tokens = args.max_tokens.unwrap_or((context / 2).min(USUAL_REPLY));
    ensure!((1..context).contains(&max_tokens), "--max-tokens {max_tokens}: must be between 1 and {}", context - 1);
    let device = open::device(&args.device)?;
    let model = open::frozen_model(&device, &dir, &config, context, args.storage.dtype)?;
    let limits = ConversationLimits { context, reply: max_tokens, cache: args.cache.kv_cache_dtype.element() };
    let mut with = Conversation::new(&device, &model, (&tokenizer, template), limits, sampling)?;
    with.reset(args.system.clone());
    if args.json {
        let ready = ChatEvent::Ready { model: display_path(&dir), template: own, context, temperature: sampling.temperature };
        return chat_json::run(with, &ready);
    }
    if !own {
        output::note("note: the model has no chat template; lehr's plain one is used (user: ..., assistant: ...)");
    }
    chat_loop(ChatSession { with, max_tokens })
}

/// The conversation on standard input and output.
fn chat_loop(mut talk: ChatSession<'_>) -> Result<i32> {
    // A second Ctrl-C, or one while waiting for input, exits.
    let _ = ctrlc::set_handler(|| {
        if STATE.compare_exchange(SPEAKING, STOPPING, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            output::note("");
            std::process::exit(crate::session::control::INTERRUPTED);
        }
    });
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        output::note("/help lists the commands; Ctrl-C stops a reply, /exit leaves.");
    }
    while let Some(line) = read_turn(terminal)? {
        if line.trim().is_empty() {
            continue;
        }
        match line.trim_end().strip_prefix('/') {
            Some(command) => {
                if !talk.handle_command(command) {
                    break;
                }
            }
            None => talk.send_message(&line)?,
        }
    }
    Ok(0)
}

/// The flags, else the model's generation_config.json.
fn sampling(args: &Args, tokenizer: &Tokenizer) -> Result<Sampling> {
    let settings = tokenizer.generation_config();
    let own = |name: &str| settings.get(name).and_then(Value::as_f64);
    let greedy = settings.get("do_sample") == Some(&Value::Bool(false));
    let temperature = args.temperature.unwrap_or(if greedy { 0.0 } else { own("temperature").unwrap_or(0.8) });
    let top_k = args.top_k.unwrap_or(own("top_k").map_or(0, |k| k as u32));
    let (top_p, min_p) = (args.top_p.or(own("top_p")).unwrap_or(1.0), args.min_p.or(own("min_p")).unwrap_or(0.0));
    if let Some(penalty) = own("repetition_penalty").filter(|penalty| *penalty != 1.0) {
        output::note(&format!("note: generation_config.json: repetition_penalty = {penalty}: lehr has none; it is not used"));
    }
    let sampling = Sampling { temperature, top_k, top_p, min_p, seed: args.seed };
    sampling.check("--")?;
    Ok(sampling)
}

/// The user's next message, without the newline; `None` at the end of input.
fn read_turn(terminal: bool) -> Result<Option<String>> {
    let mut turn = String::new();
    loop {
        if terminal {
            let mut out = std::io::stdout();
            write!(out, "{}", if turn.is_empty() { "> " } else { "  " })?;
            out.flush()?;
        }
        let mut line = Vec::new();
        let read = std::io::stdin().lock().take(MAX_LINE + 1).read_until(b'\n', &mut line)?;
        ensure!(read as u64 <= MAX_LINE, "a line of more than {} MiB on standard input", MAX_LINE >> 20);
        if read == 0 {
            return Ok(Some(turn).filter(|turn| !turn.is_empty()));
        }
        while line.last().is_some_and(|end| matches!(end, b'\n' | b'\r')) {
            line.pop();
        }
        let line = String::from_utf8(line).ok().context("standard input: a line that is not UTF-8")?;
        match line.strip_suffix('\\').filter(|_| terminal) {
            Some(part) => {
                turn.push_str(part);
                turn.push('\n');
            }
            None => {
                turn.push_str(&line);
                return Ok(Some(turn));
            }
        }
    }
}

/// A conversation in a terminal.
struct ChatSession<'a> {
    with: Conversation<'a>,
    max_tokens: usize,
}

impl ChatSession<'_> {
    /// Handle a line that begins with /; returns whether the conversation continues.
    fn handle_command(&mut self, line: &str) -> bool {
        let (command, rest) = line.split_once(char::is_whitespace).map_or((line, ""), |(command, rest)| (command, rest.trim()));
        match (command, rest) {
            ("exit" | "quit", "") => return false,
            ("reset", "") => {
                self.with.reset(self.with.system().map(str::to_owned));
                output::note("a new conversation");
            }
            ("system", "") => {
                let system = self.with.system().map_or("none".to_owned(), output::visible);
                output::note(&format!("system message: {system}"));
            }
            ("system", text) => {
                self.with.reset(Some(text.to_owned()));
                output::note("a new conversation with this system message");
            }
            ("help", "") => output::note(
                "/system TEXT  start over with a system message\n/reset        start over\n/exit         leave\n\
                 Ctrl-C stops a reply. A line that ends in \\ continues in the next.",
            ),
            _ => output::note(&format!(
                "no such command: /{}; /help lists them. To say it to the model, put a blank before it",
                output::visible(line)
            )),
        }
        true
    }

    /// Send a message and print the reply as it is generated. A rejected message is reported and not added.
    fn send_message(&mut self, text: &str) -> Result<()> {
        let prompt = match self.with.add_user_message(text) {
            Ok(prompt) => prompt,
            Err(error) => {
                output::error_line(&error);
                return Ok(());
            }
        };
        if prompt.left_out > 0 {
            output::note(&format!(
                "note: the conversation fills --context; left out from its beginning: {}",
                counted(prompt.left_out as u64, "message")
            ));
        }
        STATE.store(SPEAKING, Ordering::SeqCst);
        let replied = self.with.reply(&prompt, &mut |piece| {
            let mut out = std::io::stdout();
            write!(out, "{}", output::generated(piece))?;
            out.flush()?;
            Ok(STATE.load(Ordering::SeqCst) != STOPPING)
        });
        STATE.store(WAITING, Ordering::SeqCst);
        let end = replied?;
        output::line("")?;
        match end {
            ReplyEnd::Stopped => output::note("(stopped)"),
            ReplyEnd::Length => output::note(&format!("(--max-tokens {})", self.max_tokens)),
            ReplyEnd::Turn => {}
        }
        Ok(())
    }
}

//! `lehr chat`: a conversation in the terminal.

use super::generate::Until;
use super::{open, output};
use crate::config::DeviceSettings;
use crate::data::Tokenizer;
use crate::data::chat::{self, Chat, ChatTemplate};
use crate::device::Device;
use crate::model::{Generator, Model};
use crate::ops::sample::Sampling;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

/// Flags of `lehr chat`.
#[derive(clap::Args, Debug)]
#[command(after_help = "In the conversation: /system TEXT begins anew with a system message, /reset begins anew, /exit leaves, \
    /help lists this. Ctrl-C stops a reply. A line that ends in \\ goes on in the next.")]
pub struct Args {
    /// Model folder (ours or Hugging Face's), GGUF file, or run folder.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// A system message to begin with.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Tokens of a reply at most.
    #[arg(long, default_value_t = 512, visible_alias = "max-new-tokens")]
    max_tokens: usize,
    /// Tokens of the conversation that the model sees at most; beyond them the oldest turns are left out. The model's context, and
    /// at most 4096, when absent.
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Divides the logits; 0 always takes the most probable token. That of the model's generation_config.json, or 0.8, when absent.
    #[arg(long)]
    temperature: Option<f64>,
    /// Keep this many most probable tokens; 0 keeps all. That of generation_config.json, or 0, when absent.
    #[arg(long)]
    top_k: Option<u32>,
    /// Keep the smallest set of most probable tokens with this much probability. That of generation_config.json, or 1, when absent.
    #[arg(long)]
    top_p: Option<f64>,
    /// Keep tokens at least this probable relative to the most probable. That of generation_config.json, or 0, when absent.
    #[arg(long)]
    min_p: Option<f64>,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceSettings,
}

/// The longest line that is read.
const MAX_LINE: u64 = 16 << 20;
/// Tokens in view where nobody says how many.
const USUAL_CONTEXT: usize = 4096;

/// Nobody speaks, the model speaks, the model is to stop.
const WAITING: u8 = 0;
const SPEAKING: u8 = 1;
const STOPPING: u8 = 2;
static STATE: AtomicU8 = AtomicU8::new(WAITING);

/// Run a conversation.
///
/// # Errors
/// A model that cannot be opened, or a device fault.
pub fn run(args: &Args) -> Result<i32> {
    let dir = open::model_folder(&args.model)?;
    let config = open::config(&dir)?;
    let tokenizer = open::tokenizer(&dir, &config)?;
    let (tokenizer, template) = chat::template_of(&tokenizer, None, crate::session::unix_time() as i64)?;
    let sampling = sampling(args, &tokenizer)?;
    let most = config.model.exact_context().map_or(config.model.max_position_embeddings, |(most, _)| most);
    let context = args.context.unwrap_or(most.min(USUAL_CONTEXT));
    ensure!(context <= most, "--context {context}: the model's context holds {most} tokens");
    ensure!((1..context).contains(&args.max_tokens), "--max-tokens {}: must be between 1 and {}", args.max_tokens, context - 1);
    let device = open::device(&args.device)?;
    let model = open::model(&device, &dir, &config, context)?;
    let voice = Voice::new(&device, &model, &tokenizer, context, args.max_tokens, sampling)?;
    // A second Ctrl-C, or one while nobody speaks, leaves.
    let _ = ctrlc::set_handler(|| {
        if STATE.compare_exchange(SPEAKING, STOPPING, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            output::note("");
            std::process::exit(crate::session::control::INTERRUPTED);
        }
    });
    let mut talk = Talk { voice, template, chat: Chat::default(), system: args.system.clone() };
    talk.reset();
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
                if !talk.obey(command) {
                    break;
                }
            }
            None => talk.say(&line)?,
        }
    }
    Ok(0)
}

/// What the flags say, else the model's generation_config.json.
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

/// What the user says next, without the end of the line; `None` at the end of input.
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

/// The conversation.
struct Talk<'a> {
    voice: Voice<'a>,
    template: ChatTemplate,
    chat: Chat,
    system: Option<String>,
}

impl Talk<'_> {
    /// Begin anew.
    fn reset(&mut self) {
        self.chat.messages = self.system.iter().map(|text| json!({"role": "system", "content": text})).collect();
    }

    /// A line that began with /; whether the conversation goes on.
    fn obey(&mut self, line: &str) -> bool {
        let (command, rest) = line.split_once(char::is_whitespace).map_or((line, ""), |(command, rest)| (command, rest.trim()));
        match (command, rest) {
            ("exit" | "quit", "") => return false,
            ("reset", "") => {
                self.reset();
                output::note("a new conversation");
            }
            ("system", "") => {
                let system = self.system.as_deref().map_or("none".to_owned(), output::visible);
                output::note(&format!("system message: {system}"));
            }
            ("system", text) => {
                self.system = Some(text.to_owned());
                self.reset();
                output::note("a new conversation with this system message");
            }
            ("help", "") => output::note(
                "/system TEXT  begin anew with a system message\n/reset        begin anew\n/exit         leave\n\
                 Ctrl-C stops a reply. A line that ends in \\ goes on in the next.",
            ),
            _ => output::note(&format!(
                "no such command: /{}; /help lists them. To say it to the model, put a blank before it",
                output::visible(line)
            )),
        }
        true
    }

    /// Say something and print the reply. What the template refuses is told, and unsaid.
    fn say(&mut self, text: &str) -> Result<()> {
        let before = self.chat.messages.len();
        self.chat.messages.push(json!({"role": "user", "content": text}));
        match self.prompt() {
            Ok(ids) => {
                let reply = self.voice.reply(&ids)?;
                self.chat.messages.push(json!({"role": "assistant", "content": reply}));
            }
            Err(error) => {
                self.chat.messages.truncate(before);
                output::error_line(&error);
            }
        }
        Ok(())
    }

    /// The conversation as tokens. Of one that is too long the oldest turns are left out for good.
    fn prompt(&mut self) -> Result<Vec<u32>> {
        let (room, first) = (self.voice.room(), usize::from(self.system.is_some()));
        let mut messages = self.chat.messages.clone();
        let mut left_out = 0;
        loop {
            let chat = Chat { messages, ..self.chat.clone() };
            let ids = self.voice.tokenizer.encode_prompt(&self.template.render(&chat, true)?.text, true)?;
            ensure!(!ids.is_empty(), "the chat template makes no token of it");
            messages = chat.messages;
            if ids.len() <= room {
                if left_out > 0 {
                    output::note(&format!("note: the conversation fills --context; its oldest {left_out} messages are left out"));
                }
                self.chat.messages = messages;
                return Ok(ids);
            }
            ensure!(
                messages.len() > first + 2,
                "{} tokens are too many: --context less --max-tokens leaves {room}; say less",
                ids.len()
            );
            messages.drain(first..first + 2);
            left_out += 2;
        }
    }
}

/// The model, ready to reply.
struct Voice<'a> {
    device: &'a Device,
    generator: Generator,
    tokenizer: &'a Tokenizer,
    sampling: Sampling,
    max_tokens: usize,
    /// Tokens whose keys and values are in the cache: what is asked next begins like it.
    cached: Vec<u32>,
}

impl<'a> Voice<'a> {
    fn new(
        device: &'a Device,
        model: &'a Model,
        tokenizer: &'a Tokenizer,
        context: usize,
        max_tokens: usize,
        sampling: Sampling,
    ) -> Result<Self> {
        let generator = Generator::new(device, model, 1, context)?;
        Ok(Self { device, generator, tokenizer, sampling, max_tokens, cached: Vec::new() })
    }

    /// Tokens of a prompt at most.
    fn room(&self) -> usize {
        self.generator.room() - self.max_tokens
    }

    /// Print the reply as it comes, and return it.
    fn reply(&mut self, ids: &[u32]) -> Result<String> {
        let ends = self.tokenizer.end_tokens();
        let mut until = Until::new(ends.text());
        let mut stream = self.tokenizer.decode_stream(&[]);
        let (mut text, mut new) = (String::new(), Vec::new());
        let shared = self.cached.iter().zip(ids).take_while(|(a, b)| a == b).count().min(ids.len() - 1);
        let show = |piece: &str| -> Result<()> {
            let mut out = std::io::stdout();
            write!(out, "{}", output::generated(piece))?;
            Ok(out.flush()?)
        };
        STATE.store(SPEAKING, Ordering::SeqCst);
        let spoken = self.generator.run_from(self.device, &[ids.to_vec()], shared, self.max_tokens, &self.sampling, |_, next| {
            if ends.contains(next[0]) || STATE.load(Ordering::SeqCst) == STOPPING {
                return Ok(false);
            }
            new.push(next[0]);
            let (piece, ended) = until.push(&stream.push(next[0])?);
            show(&piece)?;
            text.push_str(&piece);
            Ok(!ended)
        });
        let stopped = STATE.swap(WAITING, Ordering::SeqCst) == STOPPING;
        spoken?;
        let rest = until.finish(&stream.finish()?);
        show(&format!("{rest}\n"))?;
        text.push_str(&rest);
        if stopped {
            output::note("(stopped)");
        } else if new.len() == self.max_tokens {
            output::note(&format!("(--max-tokens {})", self.max_tokens));
        }
        // The last token has been drawn, but not read.
        new.pop();
        self.cached = [ids, &new].concat();
        self.sampling.seed = self.sampling.seed.wrapping_add(1);
        Ok(text)
    }
}

//! A conversation with a model: messages, sampling, and end of replies. Shared by the terminal (`lehr chat`) and the window, which uses
//! `lehr chat --json`, with lines of [`ChatRequest`] and [`ChatEvent`].

use super::{Generator, Model};
use crate::data::chat::{Chat, ChatTemplate};
use crate::data::{StopStringFilter, Tokenizer};
use crate::device::{Device, ElementType};
use crate::ops::sample::Sampling;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A request to `lehr chat --json`: one JSON object per line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", deny_unknown_fields)]
pub enum ChatRequest {
    /// A user message, which the model replies to.
    Say {
        /// The user's message.
        text: String,
        /// Sampling temperature from this reply on, 0 is greedy; unchanged when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        temperature: Option<f64>,
    },
    /// Stop the current reply; ignored otherwise.
    Stop,
    /// Start a new conversation with this system prompt.
    Reset {
        /// System prompt; none when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        system: Option<String>,
    },
}

/// An event of `lehr chat --json`: one JSON object per line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum ChatEvent {
    /// The model is loaded.
    Ready {
        /// Its folder or file.
        model: String,
        /// Whether it has its own chat template; else lehr's plain one is used.
        template: bool,
        /// Maximum tokens of context.
        context: usize,
        /// Sampling temperature, unless changed by [`ChatRequest::Say`].
        temperature: f64,
    },
    /// A piece of a reply.
    Piece {
        /// Its text.
        text: String,
    },
    /// A reply has ended.
    Replied {
        /// Why it ended.
        end: ReplyEnd,
        /// Number of messages dropped before it, because the context was full.
        left_out: usize,
    },
    /// A request was rejected; nothing has changed.
    Refused {
        /// The reason, in one line.
        text: String,
    },
    /// [`ChatRequest::Reset`] is done.
    Fresh,
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyEnd {
    /// The model ended its turn.
    Turn,
    /// It was stopped by a request.
    Stopped,
    /// It reached the maximum length.
    Length,
}

/// The prompt of a reply, in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    ids: Vec<u32>,
    /// Number of oldest messages that were dropped to fit the context.
    pub left_out: usize,
}

/// A conversation with one model.
pub struct Conversation<'a> {
    device: &'a Device,
    generator: Generator,
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    /// Sampling parameters; the seed is incremented for each reply.
    pub sampling: Sampling,
    max_tokens: usize,
    chat: Chat,
    system: Option<String>,
    /// Tokens whose keys and values are in the cache: the next prompt reuses the common prefix.
    cached: Vec<u32>,
}

/// Minimum space for a reply to a long message, in tokens.
const LEAST_REPLY: usize = 8;

/// Limits of a conversation, in tokens, and the type of its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationLimits {
    /// Maximum tokens of context, including the reply.
    pub context: usize,
    /// Maximum tokens of a reply; less than `context`.
    pub reply: usize,
    /// Type of keys and values in the cache: f32 or half precision.
    pub cache: ElementType,
}

impl<'a> Conversation<'a> {
    /// An empty conversation. `tokenizer` must match `template`; the model must have been opened for `limits.context`.
    ///
    /// # Errors
    /// As [`Generator::new`].
    pub fn new(
        device: &'a Device,
        model: &Model,
        (tokenizer, template): (&'a Tokenizer, ChatTemplate),
        limits: ConversationLimits,
        sampling: Sampling,
    ) -> Result<Self> {
        let generator = Generator::with_cache(device, model, 1, limits.context, limits.cache)?;
        let (chat, cached) = (Chat::default(), Vec::new());
        Ok(Self { device, generator, tokenizer, template, sampling, max_tokens: limits.reply, chat, system: None, cached })
    }

    /// The system prompt.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Start a new conversation with this system prompt.
    pub fn reset(&mut self, system: Option<String>) {
        self.chat.messages = system.iter().map(|text| json!({"role": "system", "content": text})).collect();
        self.system = system;
    }

    /// Add a user message; [`Self::reply`] must follow. The oldest turns of a conversation that is too long are dropped.
    ///
    /// # Errors
    /// An error of the chat template, or a message longer than the context; the conversation is then unchanged.
    pub fn add_user_message(&mut self, text: &str) -> Result<Prompt> {
        let before = self.chat.messages.len();
        self.chat.messages.push(json!({"role": "user", "content": text}));
        let prompt = self.prompt();
        if prompt.is_err() {
            self.chat.messages.truncate(before);
        }
        prompt
    }

    fn prompt(&mut self) -> Result<Prompt> {
        let context = self.generator.max_len();
        let (max_len, first) = (context - self.max_tokens, usize::from(self.system.is_some()));
        let mut messages = self.chat.messages.clone();
        let mut left_out = 0;
        loop {
            let chat = Chat { messages, ..self.chat.clone() };
            let ids = self.tokenizer.encode_prompt(&self.template.render(&chat, true)?.text, true)?;
            ensure!(!ids.is_empty(), "the chat template turns it into no tokens");
            messages = chat.messages;
            if ids.len() <= max_len {
                self.chat.messages = messages;
                return Ok(Prompt { ids, left_out });
            }
            if messages.len() <= first + 2 {
                // A long message leaves space for a shorter reply.
                let space = context.saturating_sub(ids.len());
                ensure!(
                    space >= LEAST_REPLY.min(self.max_tokens),
                    "the message is too long: {} tokens with the chat template, in a context of {context}; shorten it",
                    ids.len()
                );
                self.chat.messages = messages;
                return Ok(Prompt { ids, left_out });
            }
            messages.drain(first..first + 2);
            left_out += 2;
        }
    }

    /// Generate the reply. `show` gets its text in pieces, one per token and one at the end (a piece may be empty), and returns whether to
    /// continue.
    ///
    /// # Errors
    /// A device fault, or the error of `show`.
    pub fn reply(&mut self, prompt: &Prompt, show: &mut dyn FnMut(&str) -> Result<bool>) -> Result<ReplyEnd> {
        let ids = &prompt.ids;
        let ends = self.tokenizer.end_tokens();
        let mut until = StopStringFilter::new(ends.text());
        let mut stream = self.tokenizer.decode_stream(&[]);
        let (mut text, mut new, mut stopped) = (String::new(), Vec::new(), false);
        let shared = self.cached.iter().zip(ids).take_while(|(a, b)| a == b).count().min(ids.len() - 1);
        // If this fails, the cache's contents are undefined.
        self.cached.clear();
        let prompts = std::slice::from_ref(ids);
        let most = self.max_tokens.min(self.generator.max_len() - ids.len());
        self.generator.run_from(self.device, prompts, shared, most, &self.sampling, |_, next| {
            if ends.contains(next[0]) {
                return Ok(false);
            }
            new.push(next[0]);
            let (piece, ended) = until.push(&stream.push(next[0])?);
            stopped = !show(&piece)?;
            text.push_str(&piece);
            Ok(!ended && !stopped)
        })?;
        let rest = until.finish(&stream.finish()?);
        show(&rest)?;
        text.push_str(&rest);
        self.chat.messages.push(json!({"role": "assistant", "content": text}));
        let end = match (stopped, new.len() == most) {
            (true, _) => ReplyEnd::Stopped,
            (_, true) => ReplyEnd::Length,
            _ => ReplyEnd::Turn,
        };
        // The last token has been sampled, but not fed to the model.
        new.pop();
        self.cached = [ids.as_slice(), &new].concat();
        self.sampling.seed = self.sampling.seed.wrapping_add(1);
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines are a public interface.
    #[test]
    fn chat_json_lines_match_the_documentation() {
        let asks = [
            (r#"{"command":"Say","text":"hi"}"#, ChatRequest::Say { text: "hi".into(), temperature: None }),
            (
                r#"{"command":"Say","text":"hi","temperature":0.5}"#,
                ChatRequest::Say { text: "hi".into(), temperature: Some(0.5) },
            ),
            (r#"{"command":"Stop"}"#, ChatRequest::Stop),
            (r#"{"command":"Reset"}"#, ChatRequest::Reset { system: None }),
        ];
        for (line, ask) in asks {
            assert_eq!(serde_json::from_str::<ChatRequest>(line).unwrap(), ask);
            assert_eq!(serde_json::to_string(&ask).unwrap(), line);
        }
        assert!(serde_json::from_str::<ChatRequest>(r#"{"command":"Say","text":"hi","heat":1}"#).is_err());
        let event = ChatEvent::Replied { end: ReplyEnd::Length, left_out: 2 };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"event":"Replied","end":"Length","left_out":2}"#);
    }
}

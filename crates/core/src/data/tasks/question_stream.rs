//! Prompt format: the question as plain text, or rendered by the model's chat template.

use crate::config::TaskSettings;
use crate::data::Tokenizer;
use crate::data::chat::{Chat, ChatTemplate, template_kwargs, template_of};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// The tag that begins reasoning.
const THINK: &str = "<think>";

/// Formats prompts.
pub struct QuestionStream {
    template: Option<ChatTemplate>,
    /// Default template variables; the row's own take precedence.
    kwargs: Map<String, Value>,
    system: Option<&'static str>,
    opens_think: bool,
}

impl QuestionStream {
    /// Format as set by `--chat`. `system` is the task's system prompt; with `opens_think`, `<think>` follows the generation prompt. The
    /// template uses `date` as the current date.
    ///
    /// # Errors
    /// `--chat` without a tokenizer; a template that is not valid Jinja.
    pub fn new(
        settings: &TaskSettings,
        tokenizer: Option<&Tokenizer>,
        date: i64,
        system: Option<&'static str>,
        opens_think: bool,
    ) -> Result<Self> {
        let template = match settings.chat {
            false => None,
            true => {
                let tokenizer = tokenizer.context("--chat: the chat template is the model's, and there is no model here")?;
                Some(template_of(tokenizer, None, date)?.1)
            }
        };
        Ok(Self { template, kwargs: template_kwargs(&settings.chat_template_kwargs)?, system, opens_think })
    }

    /// Renders a question with the template; `None` without `--chat`.
    ///
    /// # Errors
    /// Errors of the template.
    pub fn chat(&self, question: &str) -> Result<Option<String>> {
        self.conversation(Chat::of_user(question))
    }

    /// As [`Self::chat`], for a conversation.
    ///
    /// # Errors
    /// As [`Self::chat`].
    pub fn conversation(&self, mut chat: Chat) -> Result<Option<String>> {
        let Some(template) = &self.template else { return Ok(None) };
        chat.add_kwargs(&self.kwargs);
        let messages = &chat.messages;
        let mut all = messages.clone();
        let own = all.first().is_some_and(|first| first["role"] == "system");
        if let (Some(system), false) = (self.system, own) {
            all.insert(0, json!({"role": "system", "content": system}));
        }
        let rendered = template.render(&Chat { messages: all, ..chat.clone() }, true).or_else(|error| {
            // Some templates do not support a system message: then the system prompt is prepended to the question.
            let (Some(system), Some(first), false) = (self.system, messages.first(), own) else { return Err(error) };
            let mut first = first.clone();
            first["content"] = json!(format!("{system}\n\n{}", first["content"].as_str().unwrap_or_default()));
            let all = [&[first], &messages[1..]].concat();
            template.render(&Chat { messages: all, ..chat.clone() }, true)
        })?;
        let mut text = rendered.text;
        if self.opens_think && !text.trim_end().ends_with(THINK) {
            text.push_str(THINK);
        }
        Ok(Some(text))
    }
}

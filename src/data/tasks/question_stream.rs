//! How a question is put to a model: as it stands, or through the model's chat template.

use crate::config::TaskSettings;
use crate::data::Tokenizer;
use crate::data::chat::{Chat, ChatTemplate, template_kwargs, template_of};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// The tag that opens reasoning.
const THINK: &str = "<think>";

/// Puts questions.
pub struct QuestionStream {
    template: Option<ChatTemplate>,
    /// For the template, where a row does not say otherwise.
    kwargs: Map<String, Value>,
    system: Option<&'static str>,
    opens_think: bool,
}

impl QuestionStream {
    /// As `--chat` says. `system` is the task's instruction; with `opens_think`, `<think>` stands behind the generation prompt. The
    /// template sees `date` as today.
    ///
    /// # Errors
    /// `--chat` without a tokenizer; a template that is no Jinja.
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

    /// A question through the template; `None` without `--chat`.
    ///
    /// # Errors
    /// What the template refuses.
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
            // Some templates know no system message: then the instruction stands before the question.
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

//! From rows to tokens, with a loss mask.

use super::rows::ChatRow;
use super::spans::AssistantSpan;
use super::template::{Chat, ChatTemplate};
use crate::data::Tokenizer;
use anyhow::{Context, Result, ensure};
use std::ops::Range;

/// The loss mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossOn {
    /// For conversations: assistant tokens only.
    pub assistant_only: bool,
    /// For prompt and completion: completion tokens only.
    pub completion_only: bool,
}

/// A tokenized row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// All tokens.
    pub tokens: Vec<u32>,
    /// Loss mask: whether each token counts as a target.
    pub scored: Vec<bool>,
}

/// Tokenizes rows.
pub struct Encoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Its chat template.
    pub template: &'a ChatTemplate,
    /// The loss mask.
    pub loss_on: LossOn,
}

impl Encoder<'_> {
    /// The tokens of a row. Chats get exactly the text of the template; plain text gets the special tokens of the tokenizer's
    /// post-processor (Llama's begin token), and the end-of-text token after the completion, as in TRL.
    ///
    /// # Errors
    /// Errors of the template, or a character that the tokenizer cannot encode.
    pub fn encode(&self, row: &ChatRow) -> Result<Example> {
        match row {
            ChatRow::Messages(chat) => self.messages(chat),
            ChatRow::Turn(prompt, whole) => self.completion_example(prompt, whole),
            ChatRow::Text(prompt, completion) => {
                let mut whole = format!("{prompt}{completion}");
                if let Some(end) = self.tokenizer.eos_id().and_then(|id| self.tokenizer.token_text(id))
                    && !completion.ends_with(&end)
                {
                    whole.push_str(&end);
                }
                let (tokens, _) = self.encode_with_spans(&whole, true)?;
                // A row with `text` counts completely, including its first token, which has no predecessor.
                let before = if prompt.is_empty() { Vec::new() } else { self.encode_with_spans(prompt, true)?.0 };
                Ok(self.after(&before, tokens))
            }
        }
    }

    /// The completion begins where its tokens first differ from those of the prompt alone.
    fn after(&self, prompt: &[u32], tokens: Vec<u32>) -> Example {
        let same = prompt.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        let scored = (0..tokens.len()).map(|i| i >= same || !self.loss_on.completion_only).collect();
        Example { tokens, scored }
    }

    fn messages(&self, chat: &Chat) -> Result<Example> {
        let whole = self.template.render(chat, false)?;
        let (tokens, places) = self.encode_with_spans(&whole.text, false)?;
        let mut scored = vec![!self.loss_on.assistant_only; tokens.len()];
        if self.loss_on.assistant_only || !chat.masked.is_empty() {
            let spans = self.template.assistant_part(chat, &whole)?;
            for (i, part) in spans.iter().enumerate() {
                let counts = !self.is_masked(chat, i, spans.len())?;
                self.fill(&mut scored, &tokens, &places, part, counts);
            }
        }
        Ok(Example { tokens, scored })
    }

    /// The completion starts at the end of the prompt in the rendered chat. If the template renders the prompt differently once messages
    /// follow, the assistant turns of the completion are located instead.
    fn completion_example(&self, prompt: &Chat, whole: &Chat) -> Result<Example> {
        let (before, rendered) = (self.template.render(prompt, true)?.text, self.template.render(whole, false)?);
        let (tokens, places) = self.encode_with_spans(&rendered.text, false)?;
        let asked = prompt.messages.len();
        let mut example = if rendered.text.starts_with(&before) || !self.loss_on.completion_only {
            self.after(&self.encode_with_spans(&before, false)?.0, tokens)
        } else {
            let spans = self.template.assistant_part(whole, &rendered)?;
            let (turns, first) = (whole.assistant_turns().count(), prompt.assistant_turns().count());
            ensure!(
                spans.len() == turns && whole.messages[asked]["role"] == "assistant",
                "completion: the chat template does not show where it begins. Let it begin with a message of the assistant"
            );
            let start = tokens_of(&places, &spans[first].bytes).start;
            Example { scored: (0..tokens.len()).map(|i| i >= start).collect(), tokens }
        };
        if !whole.masked.is_empty() {
            let spans = self.template.assistant_part(whole, &rendered)?;
            for (i, part) in spans.iter().enumerate() {
                if self.is_masked(whole, i, spans.len())? {
                    self.fill(&mut example.scored, &example.tokens, &places, part, false);
                }
            }
        }
        Ok(example)
    }

    /// Whether the i-th of `parts` assistant spans is a turn that does not count in the loss.
    fn is_masked(&self, chat: &Chat, i: usize, parts: usize) -> Result<bool> {
        if chat.masked.is_empty() {
            return Ok(false);
        }
        let turns: Vec<usize> = chat.assistant_turns().collect();
        ensure!(
            turns.len() == parts,
            "weight: cannot be assigned, since the chat template has {parts} {{% generation %}} blocks for {} turns of the assistant",
            turns.len()
        );
        Ok(chat.masked.contains(&turns[i]))
    }

    fn fill(&self, scored: &mut [bool], tokens: &[u32], places: &[Range<usize>], span: &AssistantSpan, counts: bool) {
        let mut inside = tokens_of(places, &span.bytes);
        if span.and_end && tokens.get(inside.end).is_some_and(|id| self.tokenizer.is_special(*id)) {
            inside.end += 1;
        }
        scored[inside].fill(counts);
    }

    fn encode_with_spans(&self, text: &str, with_special: bool) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        self.tokenizer.encode_with_places(text, with_special)
    }

    /// Checks that the tokenizer can encode the text that the template writes around messages.
    ///
    /// # Errors
    /// The character without a token, and the remedy. A template that refuses the test chat is not reported.
    pub fn check_template(&self) -> Result<()> {
        let say = |role: &str| serde_json::json!({"role": role, "content": ""});
        for roles in [&["user", "assistant"][..], &["system", "user", "assistant", "user", "assistant"]] {
            let chat = Chat { messages: roles.iter().map(|role| say(role)).collect(), ..Chat::default() };
            if let Ok(rendered) = self.template.render(&chat, true) {
                let spelled = self.tokenizer.encode(&rendered.text);
                spelled.context(
                    "--chat-template: the chat template contains characters that this tokenizer cannot encode; give one that it can",
                )?;
            }
        }
        Ok(())
    }
}

/// The tokens that overlap these bytes; the first and the last may extend beyond them, as in `transformers`.
fn tokens_of(places: &[Range<usize>], span: &Range<usize>) -> Range<usize> {
    let first = places.partition_point(|place| place.end <= span.start);
    let end = places.partition_point(|place| place.start < span.end);
    first..end.max(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_map_to_tokens() {
        let places = [0..2, 2..3, 3..3, 3..6, 6..8];
        assert_eq!(tokens_of(&places, &(2..6)), 1..4);
        assert_eq!(tokens_of(&places, &(4..5)), 3..4, "one that reaches beyond on both sides");
        assert_eq!(tokens_of(&places, &(1..7)), 0..5);
        assert_eq!(tokens_of(&places, &(3..3)), 3..3);
        assert_eq!(tokens_of(&[], &(0..5)), 0..0);
    }
}

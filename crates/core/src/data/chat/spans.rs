//! Assistant spans of a rendered chat: each from the end of the generation prompt to the start of the next message.

use super::template::{Chat, ChatTemplate, Rendered, is_mark};
use anyhow::{Result, bail, ensure};
use serde_json::Value;
use std::ops::Range;

/// First character of a mark that identifies a message; three digits follow. Noncharacters, like all marks.
const MARK: char = '\u{FDD2}';
const DIGIT_0: u32 = 0xFDE0;
const DIGITS: usize = 3;
/// Number of messages that marks can distinguish.
const MOST_MESSAGES: usize = 1 << (4 * DIGITS);

/// The byte range of one assistant turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssistantSpan {
    /// In the rendered chat, including the end of the turn.
    pub bytes: Range<usize>,
    /// The range covers only the text: if a special token follows, it ends the turn.
    pub and_end: bool,
}

/// The marks around texts of messages: a template may trim them, or test how they begin.
#[derive(Clone, Copy)]
struct MarkStyle {
    assistant_only: bool,
    trimmed: bool,
}

const WAYS: [MarkStyle; 4] = [
    MarkStyle { assistant_only: false, trimmed: false },
    MarkStyle { assistant_only: false, trimmed: true },
    MarkStyle { assistant_only: true, trimmed: false },
    MarkStyle { assistant_only: true, trimmed: true },
];

impl ChatTemplate {
    /// The assistant spans of a chat, one per turn, including each turn's end.
    ///
    /// Taken from `{% generation %}` if the template has it. Otherwise from renderings of the chat truncated before and after each turn, if
    /// these are prefixes of the whole. For a template that renders earlier turns differently from the last (Qwen3 leaves out their
    /// reasoning), marks in the messages show where their texts are; a turn then begins after the generation prompt that precedes its text.
    ///
    /// # Errors
    /// A template whose output does not show where the texts are.
    pub fn assistant_part(&self, chat: &Chat, whole: &Rendered) -> Result<Vec<AssistantSpan>> {
        let exact = |bytes: Range<usize>| AssistantSpan { bytes, and_end: false };
        if self.marks_generation() {
            return Ok(whole.generated.iter().cloned().map(exact).collect());
        }
        // Each turn takes several renderings.
        let count = chat.messages.len();
        ensure!(
            count <= MOST_MESSAGES,
            "holds {count} messages; the assistant's part of more than {MOST_MESSAGES} is found only where the chat template marks it. \
             Put {{% generation %}} ... {{% endgeneration %}} around it (--chat-template FILE), or divide the conversation"
        );
        if let Some(spans) = self.by_beginnings(chat, &whole.text) {
            return Ok(spans.into_iter().map(exact).collect());
        }
        if let Some(spans) = WAYS.iter().find_map(|way| self.by_marks(chat, &whole.text, *way)) {
            return Ok(spans);
        }
        bail!(
            "the chat template does not show which part is the assistant's. Put {{% generation %}} ... {{% endgeneration %}} around it \
             (--chat-template FILE), or use --assistant-only-loss false"
        )
    }

    fn by_beginnings(&self, chat: &Chat, whole: &str) -> Option<Vec<Range<usize>>> {
        chat.assistant_turns()
            .map(|i| {
                let before = self.render(&chat.cut(i), true).ok()?.text;
                let after = self.render(&chat.cut(i + 1), false).ok()?.text;
                let fits = after.starts_with(&before) && whole.starts_with(&after);
                fits.then_some(before.len()..after.len())
            })
            .collect()
    }

    fn by_marks(&self, chat: &Chat, whole: &str, way: MarkStyle) -> Option<Vec<AssistantSpan>> {
        let marked = Chat {
            messages: chat.messages.iter().enumerate().map(|(i, message)| way.message(i, message)).collect(),
            ..chat.clone()
        };
        let shown = RenderedChat::of(&self.render_raw(&marked, false).ok()?);
        if shown.text != whole {
            return None;
        }
        let mut from = 0;
        let mut spans = Vec::new();
        for i in chat.assistant_turns() {
            // After the texts of earlier messages, a generation prompt can only come from the template.
            from = (0..i).filter_map(|before| shown.texts(before)).map(|texts| texts.end).fold(from, usize::max);
            let start = self.start(chat, i, whole, from, shown.texts(i))?;
            let span = self.end(chat, &marked, i, whole, start, shown.texts(i))?;
            from = span.bytes.end;
            spans.push(span);
        }
        Some(spans)
    }

    /// Start of turn `i`: the end of the generation prompt.
    fn start(&self, chat: &Chat, i: usize, whole: &str, from: usize, texts: Option<Range<usize>>) -> Option<usize> {
        let prompts = self.generation_prompts(chat, i);
        let most = texts.as_ref().map_or(whole.len(), |texts| texts.start);
        let before = self.render(&chat.cut(i), false).ok().map(|before| before.text);
        if let Some(at) = before.filter(|before| whole.starts_with(before.as_str())).map(|before| before.len()) {
            let rest = &whole[at..];
            let full = prompts.iter().find(|prompt| rest.starts_with(prompt.as_str()) && at + prompt.len() <= most);
            // If the prompt opens reasoning and the turn has none, the common prefix counts.
            let agree = full.map(String::len).or_else(|| {
                let longest = prompts.iter().map(|prompt| common(prompt, rest)).max();
                longest.filter(|n| *n > 0 || prompts.iter().all(String::is_empty))
            });
            return agree.map(|n| (at + n).min(most.max(at)));
        }
        let texts = texts?;
        let before = whole.get(from..texts.start)?;
        let behind = prompts.iter().filter(|prompt| !prompt.is_empty()).find_map(|p| Some(before.rfind(p.as_str())? + p.len()));
        match behind {
            Some(n) => Some(from + n),
            // The template has no generation prompt.
            None => prompts.iter().all(String::is_empty).then_some(texts.start),
        }
    }

    /// Generation prompts for turn `i`: with the row's template variables, and without them.
    fn generation_prompts(&self, chat: &Chat, i: usize) -> Vec<String> {
        let of = |chat: &Chat| {
            let before = self.render(chat, false).ok()?.text;
            let after = self.render(chat, true).ok()?.text;
            after.strip_prefix(before.as_str()).map(str::to_owned)
        };
        let asked = chat.cut(i);
        let plain = |chat: &Chat| Chat {
            extra: chat.extra.clone().into_iter().filter(|(key, _)| key == "tools").collect(),
            ..chat.clone()
        };
        // A template may refuse a chat that begins with the assistant.
        let question = Chat { messages: Chat::of_user("?").messages, ..asked.clone() };
        let mut out: Vec<String> = [of(&asked).or_else(|| of(&question)), of(&plain(&asked)).or_else(|| of(&plain(&question)))]
            .into_iter()
            .flatten()
            .collect();
        out.dedup();
        out
    }

    /// Turn `i` with its end: the text written after its last text when the chat ends with this turn.
    fn end(
        &self,
        chat: &Chat,
        marked: &Chat,
        i: usize,
        whole: &str,
        start: usize,
        texts: Option<Range<usize>>,
    ) -> Option<AssistantSpan> {
        let span = |end: usize, and_end: bool| Some(AssistantSpan { bytes: start..end, and_end });
        if i + 1 == chat.messages.len() {
            return span(whole.len(), false);
        }
        let after = self.render(&chat.cut(i + 1), false).ok().map(|after| after.text);
        if let Some(after) = after.filter(|after| after.len() >= start && whole.starts_with(after.as_str())) {
            return span(after.len(), false);
        }
        let Some(texts) = texts else {
            // A turn without text: its end directly follows the generation prompt.
            let before = self.render(&chat.cut(i), true).ok()?.text;
            let after = self.render(&chat.cut(i + 1), false).ok()?.text;
            let tail = after.strip_prefix(before.as_str())?;
            return whole[start..].starts_with(tail).then(|| start + tail.len()).and_then(|end| span(end, false));
        };
        let tail = self.render_raw(&marked.cut(i + 1), false).ok().map(|raw| RenderedChat::of(&raw));
        let tail = tail.as_ref().and_then(|shown| shown.text.get(shown.texts(i)?.end..)).unwrap_or_default();
        match common(tail, &whole[texts.end..]) {
            0 => span(texts.end, true),
            n => span(texts.end + n, false),
        }
    }
}

impl Chat {
    /// Indices of the assistant messages.
    pub(super) fn assistant_turns(&self) -> impl Iterator<Item = usize> {
        (0..self.messages.len()).filter(|i| self.messages[*i]["role"] == "assistant")
    }

    fn cut(&self, n: usize) -> Self {
        Self { messages: self.messages[..n].to_vec(), ..self.clone() }
    }
}

impl MarkStyle {
    fn message(self, number: usize, message: &Value) -> Value {
        let mut message = message.clone();
        if self.assistant_only && message["role"] != "assistant" {
            return message;
        }
        for (key, value) in message.as_object_mut().into_iter().flatten() {
            match key.as_str() {
                "content" | "reasoning_content" | "reasoning" | "thinking" if value.is_string() => self.strings(number, value),
                "tool_calls" => self.strings(number, value),
                _ => {}
            }
        }
        message
    }

    fn strings(self, number: usize, value: &mut Value) {
        match value {
            Value::String(text) => {
                let inner = if self.trimmed { text.trim() } else { text.as_str() };
                if inner.is_empty() {
                    return;
                }
                let start = inner.as_ptr() as usize - text.as_ptr() as usize;
                let (before, after) = (&text[..start], &text[start + inner.len()..]);
                let mark = mark(number);
                *text = format!("{before}{mark}{inner}{mark}{after}");
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.strings(number, value)),
            Value::Object(map) => {
                map.iter_mut()
                    .filter(|(key, _)| !["type", "id"].contains(&key.as_str()))
                    .for_each(|(_, v)| self.strings(number, v));
            }
            _ => {}
        }
    }
}

fn mark(number: usize) -> String {
    let digit = |shift: usize| char::from_u32(DIGIT_0 + (number as u32 >> (4 * shift)) % 16).unwrap_or(MARK);
    std::iter::once(MARK).chain((0..DIGITS).rev().map(digit)).collect()
}

/// A rendered chat without its marks, and their positions.
struct RenderedChat {
    text: String,
    /// (message, byte)
    marks: Vec<(usize, usize)>,
}

impl RenderedChat {
    fn of(raw: &str) -> Self {
        let mut out = Self { text: String::with_capacity(raw.len()), marks: Vec::new() };
        let mut chars = raw.chars().peekable();
        while let Some(c) = chars.next() {
            if !is_mark(c) {
                out.text.push(c);
                continue;
            }
            let mut number = 0;
            while let Some(digit) = chars.next_if(|c| is_mark(*c) && *c as u32 >= DIGIT_0) {
                number = number * 16 + (digit as u32 - DIGIT_0) as usize;
            }
            out.marks.push((number, out.text.len()));
        }
        out
    }

    /// From the first to the last position of this message's texts.
    fn texts(&self, message: usize) -> Option<Range<usize>> {
        let places = self.marks.iter().filter(|(of, _)| *of == message).map(|(_, place)| *place);
        // Sorted by position.
        places.clone().next().zip(places.max()).map(|(first, last)| first..last)
    }
}

/// Length in bytes of the common prefix, in whole characters.
fn common(a: &str, b: &str) -> usize {
    a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b).map_or(a.len().min(b.len()), |((at, _), _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_identify_their_message() {
        let raw = format!("<{}ab{}>{}c{}", mark(7), mark(7), mark(300), mark(300));
        let shown = RenderedChat::of(&raw);
        assert_eq!(
            (shown.text.as_str(), shown.texts(7), shown.texts(300), shown.texts(1)),
            ("<ab>c", Some(1..3), Some(4..5), None)
        );
        assert_eq!((common("äb", "äc"), common("", "x"), common("ab", "abc")), (2, 0, 2));
    }
}

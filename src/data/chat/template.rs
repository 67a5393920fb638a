//! Chat templates: messages to text through a real Jinja engine, set up as `transformers` sets up its own.
//!
//! As in `transformers.utils.chat_template_utils`: blocks trimmed, loop controls, Python's methods on strings and maps, `tojson` that
//! escapes no HTML, `raise_exception`, `strftime_now`, and `{% generation %}` around what the assistant says.

use super::python::{strftime, to_json};
use crate::data::shown;
use anyhow::{Result, anyhow, bail, ensure};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja, ValueKind};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::ops::Range;

/// The template of a tokenizer that brings none: plain text, so that a tokenizer of characters can spell it. Turns of the assistant end
/// in the end-of-text token, or in an empty line where the tokenizer has none.
pub const PLAIN: &str = "\
{%- if bos_token and bos_token != eos_token %}{{ bos_token }}{% endif %}
{%- for message in messages %}
{%- if message.role not in ['system', 'user', 'assistant'] %}
{{- raise_exception('the plain chat template knows the roles system, user and assistant, not ' + message.role) }}
{%- endif %}
{{- message.role + ':\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{ message.content | trim + (eos_token or '\\n\\n') }}{% endgeneration %}
{%- else %}
{{- message.content | trim + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}
";

/// Marks around what the assistant says; taken out again. Noncharacters, which stand in no text.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
/// Steps of the engine for one rendering, and bytes of one template: a file from outside must not hang or fill the machine.
const FUEL: u64 = 20_000_000;
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// What a chat is rendered from, beside the template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// `{role, content, ...}`
    pub messages: Vec<Value>,
    /// What the template calls `tools`, and anything more it may ask for.
    pub extra: Map<String, Value>,
}

/// A chat as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Bytes of it that stood in `{% generation %}` blocks, in order.
    pub generated: Vec<Range<usize>>,
}

/// A template, compiled.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    specials: Map<String, Value>,
    marks_generation: bool,
}

impl ChatTemplate {
    /// Compiles `source`. `specials` are the tokenizer's (`bos_token` and so on); `date` (seconds since 1970) is what `strftime_now` says.
    ///
    /// # Errors
    /// A template that is no Jinja, with the line.
    pub fn new(source: &str, specials: Map<String, Value>, date: i64) -> Result<Self> {
        ensure!(
            source.len() <= MAX_TEMPLATE_BYTES,
            "chat template: {} bytes, more than 1 MiB. Is it the right file?",
            source.len()
        );
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| template_error(&e))?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // MiniJinja goes through nothing as through an empty list, Python does not.
        environment
            .add_test("iterable", |value: &Jinja| !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number));
        environment.add_filter("tojson", tojson);
        environment.add_filter("lehr_generation", |said: String| format!("{OPEN}{said}{CLOSE}"));
        environment.add_function("raise_exception", |text: String| -> Result<Jinja, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_function("strftime_now", move |format: String| strftime(&format, date));
        let (compiled, marks_generation) = without_generation_tags(source);
        environment.add_template_owned("chat", compiled.into_owned()).map_err(|e| template_error(&e))?;
        Ok(Self { environment, source: source.to_owned(), specials, marks_generation })
    }

    /// The text of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it says itself, by `{% generation %}`, what the assistant's part is.
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// The chat as text; with `add_generation_prompt` it ends where the assistant is to speak.
    ///
    /// # Errors
    /// What the template refuses, in its own words.
    pub fn render(&self, chat: &Chat, add_generation_prompt: bool) -> Result<Rendered> {
        let strings = chat.messages.iter().any(holds_mark) || chat.extra.values().any(holds_mark);
        ensure!(!strings, "holds U+FDD0 or U+FDD1, which stand in no text. Take it out");
        self.render_marked(chat, add_generation_prompt)
    }

    /// As [`Self::render`], of contents that may hold marks already.
    fn render_marked(&self, chat: &Chat, add_generation_prompt: bool) -> Result<Rendered> {
        let mut context = self.specials.clone();
        context.insert("tools".into(), Value::Null);
        context.insert("documents".into(), Value::Null);
        context.extend(chat.extra.clone());
        context.insert("messages".into(), Value::Array(chat.messages.clone()));
        context.insert("add_generation_prompt".into(), Value::Bool(add_generation_prompt));
        let template = self.environment.get_template("chat").map_err(|e| template_error(&e))?;
        let text = template.render(Jinja::from(Serde(&context))).map_err(|e| template_error(&e))?;
        take_marks(&text)
    }

    /// What is written behind the assistant's next words, so that generation can stop there; `None` where the template hides it.
    pub fn end_of_turn(&self, chat: &Chat) -> Option<String> {
        const WORDS: &str = "\u{E000}";
        let mut whole = chat.clone();
        whole.messages.push(serde_json::json!({"role": "assistant", "content": WORDS}));
        let text = self.render(&whole, false).ok()?.text;
        let (_, end) = text.rsplit_once(WORDS)?;
        Some(end.to_owned()).filter(|end| !end.is_empty())
    }

    /// The bytes of the whole chat that the assistant wrote, its end-of-turn included, in order.
    ///
    /// From `{% generation %}` where the template has it. Else from renderings of the chat cut before and after each turn of the
    /// assistant, where those are beginnings of the whole; a template that writes earlier turns otherwise than the last (Qwen3) is asked
    /// where it puts the contents, and `true` says that the token which ends the turn comes after them.
    ///
    /// # Errors
    /// What the template refuses; a template that hides where the contents go.
    pub fn assistant_part(&self, chat: &Chat, whole: &Rendered) -> Result<(Vec<Range<usize>>, bool)> {
        if self.marks_generation {
            return Ok((whole.generated.clone(), false));
        }
        if let Some(spans) = self.by_beginnings(chat, &whole.text) {
            return Ok((spans, false));
        }
        for trimmed in [false, true] {
            let marked = Chat { messages: chat.messages.iter().map(|m| marked(m, trimmed)).collect(), extra: chat.extra.clone() };
            let count = marked.messages.iter().filter(|m| holds_mark(m)).count();
            match self.render_marked(&marked, false) {
                Ok(found) if found.text == whole.text && found.generated.len() == count => return Ok((found.generated, true)),
                _ => {}
            }
        }
        bail!(
            "the chat template does not show which part is the assistant's. Put {{% generation %}} ... {{% endgeneration %}} around it \
             (--chat-template FILE), or use --assistant-only-loss false"
        )
    }

    fn by_beginnings(&self, chat: &Chat, whole: &str) -> Option<Vec<Range<usize>>> {
        let cut = |n: usize| Chat { messages: chat.messages[..n].to_vec(), extra: chat.extra.clone() };
        let assistant = (0..chat.messages.len()).filter(|i| chat.messages[*i]["role"] == "assistant");
        assistant
            .map(|i| {
                let before = self.render(&cut(i), true).ok()?.text;
                let after = self.render(&cut(i + 1), false).ok()?.text;
                let fits = after.starts_with(&before) && whole.starts_with(&after);
                fits.then_some(before.len()..after.len())
            })
            .collect()
    }
}

/// A message of the assistant with marks around its content: outside white space that the template may trim, or around all of it.
fn marked(message: &Value, trimmed: bool) -> Value {
    let mut message = message.clone();
    if message["role"] != "assistant" {
        return message;
    }
    if let Some(Value::String(content)) = message.get_mut("content") {
        let inner = if trimmed { content.trim() } else { content.as_str() };
        let start = inner.as_ptr() as usize - content.as_ptr() as usize;
        let (before, after) = (&content[..start], &content[start + inner.len()..]);
        *content = format!("{before}{OPEN}{inner}{CLOSE}{after}");
    }
    message
}

fn holds_mark(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains([OPEN, CLOSE]),
        Value::Array(list) => list.iter().any(holds_mark),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains([OPEN, CLOSE]) || holds_mark(value)),
        _ => false,
    }
}

/// The text without marks, and what stood between them.
fn take_marks(marked: &str) -> Result<Rendered> {
    let mut text = String::with_capacity(marked.len());
    let (mut generated, mut open) = (Vec::new(), None);
    for part in marked.split_inclusive([OPEN, CLOSE]) {
        let bare = part.trim_end_matches([OPEN, CLOSE]);
        text.push_str(bare);
        match (part[bare.len()..].chars().next(), open) {
            (None, _) => {}
            (Some(OPEN), None) => open = Some(text.len()),
            (Some(CLOSE), Some(start)) => {
                generated.push(start..text.len());
                open = None;
            }
            _ => bail!("chat template: {{% generation %}} blocks overlap or are cut. Let each hold a whole turn"),
        }
    }
    ensure!(open.is_none(), "chat template: a {{% generation %}} block is cut. Let each hold a whole turn");
    Ok(Rendered { text, generated })
}

/// `{% generation %}` is a tag of transformers, not of Jinja: here it becomes a filter block, white-space control kept.
fn without_generation_tags(source: &str) -> (Cow<'_, str>, bool) {
    let mut out = String::new();
    let (mut rest, mut found) = (source, false);
    while let Some(at) = rest.find("{%") {
        let inside = &rest[at + 2..];
        let Some(end) = inside.find("%}") else { break };
        let tag = &inside[..end];
        let word = tag.trim_matches(|c: char| c.is_ascii_whitespace() || c == '-' || c == '+');
        out.push_str(&rest[..at + 2]);
        match word {
            "generation" => {
                out.push_str(&tag.replacen(word, "filter lehr_generation", 1));
                found = true;
            }
            "endgeneration" => out.push_str(&tag.replacen(word, "endfilter", 1)),
            _ => {
                // Only the opening is passed over: what looks like a tag may begin inside a comment.
                rest = inside;
                continue;
            }
        }
        rest = &inside[end..];
    }
    if !found {
        return (Cow::Borrowed(source), false);
    }
    out.push_str(rest);
    (Cow::Owned(out), true)
}

fn template_error(error: &Error) -> anyhow::Error {
    let mut detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        detail = inner.to_string();
        cause = inner.source();
    }
    match error.line() {
        Some(line) => anyhow!("the chat template (line {line}) refuses it: {}", shown(&detail)),
        None => anyhow!("the chat template refuses it: {}", shown(&detail)),
    }
}

/// `json.dumps(x, ensure_ascii=False)`, with its options.
fn tojson(value: &Jinja, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let value = serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(to_json(&value, indent, separators.as_deref(), ascii.unwrap_or(false), sort.unwrap_or(false)))
}

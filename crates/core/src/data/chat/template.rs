//! Chat templates, rendered by a Jinja engine that is configured as in `transformers`.
//!
//! As in `transformers.utils.chat_template_utils`: trimmed blocks, loop controls, Python's methods on strings and maps, `tojson` without
//! HTML escapes, `raise_exception`, `strftime_now`, and `{% generation %}` around assistant text.

mod engine;
mod guard;
mod limits;
mod objects;
mod print;
mod pythonic;
mod semantics;
mod value_limits;
mod worker;

use anyhow::{Result, bail, ensure};
use engine::{GENERATION, RenderRequest};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use worker::TemplateWorker;

/// Template for tokenizers without one: plain text, so that a character tokenizer can encode it. Assistant turns end with the end-of-text
/// token, or with an empty line if the tokenizer has none.
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

/// Marks around assistant text, removed after rendering. Noncharacters, which occur in no text.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
/// Input of a template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// `{role, content, ...}`
    pub messages: Vec<Value>,
    /// The template variable `tools` and further template variables.
    pub extra: Map<String, Value>,
    /// Indices of assistant messages that do not count in the loss.
    pub masked: Vec<usize>,
}

/// A rendered chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Byte ranges of the `{% generation %}` blocks, in order.
    pub generated: Vec<Range<usize>>,
}

/// A compiled chat template.
pub struct ChatTemplate {
    source: String,
    /// The source that is compiled: line ends as in Jinja, `{% generation %}` as a filter.
    compiled: String,
    date: i64,
    specials: Map<String, Value>,
    marks_generation: bool,
    /// Idle workers; there are as many workers as there have been concurrent renderings.
    workers: Mutex<Vec<TemplateWorker>>,
    /// A rendering did not finish: no further ones are started.
    abandoned: AtomicBool,
}

impl ChatTemplate {
    /// Compiles `source`. `specials` are the tokenizer's special tokens (`bos_token` and so on); `date` (seconds since 1970) is the date of
    /// `strftime_now`.
    ///
    /// # Errors
    /// A template that is not valid Jinja, with the line; a template that exceeds a limit, which is named.
    pub fn new(source: &str, specials: Map<String, Value>, date: i64) -> Result<Self> {
        ensure!(
            source.len() <= limits::SOURCE,
            "chat template: over a limit: {} bytes, more than 1 MiB. Is it the right file?",
            source.len()
        );
        let unix = source.replace("\r\n", "\n").replace('\r', "\n");
        let (compiled, marks_generation) = without_generation_tags(&unix);
        let compiled = compiled.into_owned();
        let workers = Mutex::new(vec![TemplateWorker::start(&compiled, date)?]);
        let abandoned = AtomicBool::new(false);
        Ok(Self { source: source.to_owned(), compiled, date, specials, marks_generation, workers, abandoned })
    }

    /// The source of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template marks assistant text with `{% generation %}`.
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// Renders a chat; with `add_generation_prompt` it ends with the generation prompt.
    ///
    /// # Errors
    /// The error message of the template.
    pub fn render(&self, chat: &Chat, add_generation_prompt: bool) -> Result<Rendered> {
        let strings = chat.messages.iter().any(holds_mark) || chat.extra.values().any(holds_mark);
        ensure!(!strings, "holds a noncharacter (U+FDD0 to U+FDEF), which stands in no text. Take it out");
        take_marks(&self.render_raw(chat, add_generation_prompt)?)
    }

    /// The engine's output including marks; contents may contain marks already.
    pub(super) fn render_raw(&self, chat: &Chat, add_generation_prompt: bool) -> Result<String> {
        let mut context = self.specials.clone();
        context.insert("tools".into(), Value::Null);
        context.insert("documents".into(), Value::Null);
        context.extend(chat.extra.clone());
        context.insert("messages".into(), chat.messages.iter().map(with_reasoning).collect());
        context.insert("add_generation_prompt".into(), Value::Bool(add_generation_prompt));
        let bytes = chat.messages.iter().chain(chat.extra.values()).map(text_bytes).sum();
        self.run(RenderRequest { context, steps: limits::steps(chat.messages.len(), bytes) })
    }

    /// An idle worker with the template compiled.
    fn idle(&self) -> Result<TemplateWorker> {
        let waiting = self.workers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        waiting.map_or_else(|| TemplateWorker::start(&self.compiled, self.date), Ok)
    }

    fn run(&self, request: RenderRequest) -> Result<String> {
        ensure!(!self.abandoned.load(Ordering::Relaxed), "rendering of the chat template was stopped before");
        let worker = self.idle()?;
        let answer = worker.render(request);
        if answer.as_ref().err().is_some_and(TemplateWorker::is_abandoned) {
            self.abandoned.store(true, Ordering::Relaxed);
        } else {
            self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        }
        answer
    }

    /// The text written after an assistant message, where generation can stop; `None` if the template does not show it.
    pub fn end_of_turn(&self, chat: &Chat) -> Option<String> {
        const WORDS: &str = "\u{E000}";
        let mut whole = chat.clone();
        whole.messages.push(serde_json::json!({"role": "assistant", "content": WORDS}));
        let text = self.render(&whole, false).ok()?.text;
        let (_, end) = text.rsplit_once(WORDS)?;
        Some(end.to_owned()).filter(|end| !end.is_empty())
    }
}

fn holds_mark(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(is_mark),
        Value::Array(list) => list.iter().any(holds_mark),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains(is_mark) || holds_mark(value)),
        _ => false,
    }
}

/// The noncharacters used as marks, here and in `spans`.
pub(super) fn is_mark(c: char) -> bool {
    ('\u{FDD0}'..='\u{FDEF}').contains(&c)
}

/// The text without marks, and the spans between them.
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

/// A message with its reasoning under both field names that templates use, as in `transformers`.
fn with_reasoning(message: &Value) -> Value {
    let given = |name: &&str| message.get(*name).is_some_and(|value| !value.is_null());
    let (Some(name), Value::Object(fields)) = (["reasoning_content", "thinking", "reasoning"].into_iter().find(given), message)
    else {
        return message.clone();
    };
    let mut out = Map::from_iter([("thinking".to_owned(), message[name].clone())]);
    out.extend(fields.clone());
    out.insert("reasoning_content".into(), message[name].clone());
    Value::Object(out)
}

/// Total bytes of the strings in a value.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(text_bytes).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + text_bytes(value)).sum(),
        _ => 8,
    }
}

/// `{% generation %}` is a tag of transformers, not of Jinja: it is replaced with a filter block, with the same white-space control.
fn without_generation_tags(source: &str) -> (Cow<'_, str>, bool) {
    let blank = |c: char| c.is_ascii_whitespace() || c == '-' || c == '+';
    let mut out = String::new();
    let (mut rest, mut found) = (source, false);
    while let Some(at) = rest.find("{%") {
        let (before, inside) = rest.split_at(at + 2);
        out.push_str(before);
        rest = inside;
        let word = inside.trim_start_matches(blank);
        for (tag, begin) in [("generation", true), ("endgeneration", false)] {
            let Some(after) = word.strip_prefix(tag).filter(|after| after.trim_start_matches(blank).starts_with("%}")) else {
                continue;
            };
            out.push_str(&inside[..inside.len() - word.len()]);
            out.push_str(&if begin { format!("filter {GENERATION}") } else { "endfilter".into() });
            found |= begin;
            rest = after;
        }
        // Only the opening is skipped: what looks like a tag may begin inside a comment.
    }
    if !found {
        return (Cow::Borrowed(source), false);
    }
    out.push_str(rest);
    (Cow::Owned(out), true)
}

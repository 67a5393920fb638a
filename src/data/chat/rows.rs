//! Rows of fine-tuning data: JSONL with `messages`, `prompt` and `completion`, or `text`. Hand-made and precious, so that a row which
//! cannot be used is an error that names file, line and field, and not passed over.

use super::template::Chat;
use crate::data::json_rows::{Object, read_objects};
use crate::data::{shown, shown_path};
use anyhow::{Result, anyhow, bail, ensure};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A conversation; the assistant's turns are learnt.
    Messages(Chat),
    /// A conversation, and what is to be said next: (prompt, prompt and completion).
    Turn(Chat, Chat),
    /// Text, and the text that is to follow. A row with `text` has no prompt.
    Text(String, String),
}

/// A file of rows and its weight in the mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The JSONL file.
    pub path: PathBuf,
    /// How often each of its rows is seen in an epoch.
    pub weight: f64,
    /// `valid.jsonl` beside it, when the path was a folder that holds one.
    pub valid: Option<PathBuf>,
}

impl Part {
    /// `PATH` or `PATH:WEIGHT`; a folder stands for its `train.jsonl` (and `valid.jsonl`).
    ///
    /// # Errors
    /// A path that is not there, a weight that is no number above 0.
    pub fn parse(spec: &Path) -> Result<Self> {
        ensure!(spec.as_os_str() != "-", "--data -: rows are read more than once; put them into a file");
        let (path, weight) = match spec.to_str().and_then(|s| s.rsplit_once(':')) {
            Some((path, weight)) if !spec.exists() && !path.is_empty() => {
                let number: Option<f64> = weight.parse().ok().filter(|w: &f64| *w > 0.0 && *w <= 1000.0);
                let Some(weight) = number else {
                    bail!(
                        "--data {}: there is no such file, and {:?} is no weight (above 0, at most 1000). Write PATH or PATH:WEIGHT",
                        shown_path(spec),
                        shown(weight)
                    );
                };
                (PathBuf::from(path), weight)
            }
            _ => (spec.to_owned(), 1.0),
        };
        ensure!(path.exists(), "--data {}: there is no such file or folder", shown_path(&path));
        if !path.is_dir() {
            return Ok(Self { path, weight, valid: None });
        }
        let (train, valid) = (path.join("train.jsonl"), path.join("valid.jsonl"));
        ensure!(train.is_file(), "--data {}: this folder holds no train.jsonl. Name a JSONL file", shown_path(&path));
        Ok(Self { path: train, weight, valid: valid.is_file().then_some(valid) })
    }
}

/// Reads a file and gives each row with its place (`file:line`) to `take`.
///
/// # Errors
/// The first line that is no row, with its place, its field and the cure; what `take` returns.
pub fn read_rows(path: &Path, progress: &mut dyn FnMut(u64, u64), mut take: impl FnMut(&str, Row) -> Result<()>) -> Result<()> {
    read_objects(path, r#"{"messages": [...]}"#, progress, |place, object| {
        let row = parse_row(object).map_err(|e| anyhow!("{place}: {e}"))?;
        take(place, row)
    })
}

/// One line.
fn parse_row(mut row: Object) -> Result<Row> {
    if let (Some(Value::String(prompt)), Some(Value::String(completion)), Some(Value::String(text))) =
        (row.get("prompt"), row.get("completion"), row.get("text"))
        && text.strip_prefix(prompt.as_str()) == Some(completion)
    {
        // The same thing said twice, for pre-training and for this.
        row.remove("text");
    }
    let kinds = ["messages", "prompt", "text"].map(|key| row.contains_key(key));
    if kinds.iter().filter(|there| **there).count() > 1 {
        bail!("holds more than one of messages, prompt and text. Keep one");
    }
    if let Some(list) = row.remove("messages") {
        let messages = messages("messages", list)?;
        ensure!(!messages.is_empty(), "messages: empty. A conversation has at least one message");
        return Ok(Row::Messages(Chat { messages, extra: extra(row)? }));
    }
    if let Some(prompt) = row.remove("prompt") {
        return prompt_and_completion(prompt, row);
    }
    match row.remove("text") {
        Some(Value::String(text)) => {
            ensure!(!text.is_empty(), "text: empty");
            Ok(Row::Text(String::new(), text))
        }
        Some(_) => bail!("text: must be a string"),
        None if row.contains_key("completion") => bail!("completion without prompt. Add prompt, or call it text"),
        None if row.contains_key("conversations") => {
            bail!("conversations: not known here. Call it messages, with role (user, assistant) and content in each")
        }
        None => bail!("holds neither messages, nor prompt and completion, nor text"),
    }
}

fn prompt_and_completion(prompt: Value, mut row: Map<String, Value>) -> Result<Row> {
    let completion =
        row.remove("completion").ok_or_else(|| anyhow!("prompt without completion. Add what is to follow the prompt"))?;
    match (prompt, completion) {
        (Value::String(prompt), Value::String(completion)) => {
            ensure!(!completion.is_empty(), "completion: empty. There is nothing to learn");
            Ok(Row::Text(prompt, completion))
        }
        (prompt @ Value::Array(_), completion @ Value::Array(_)) => {
            let prompt = messages("prompt", prompt)?;
            let completion = messages("completion", completion)?;
            ensure!(!prompt.is_empty(), "prompt: empty. A prompt has at least one message");
            ensure!(!completion.is_empty(), "completion: empty. There is nothing to learn");
            let extra = extra(row)?;
            let whole = Chat { messages: [prompt.clone(), completion].concat(), extra: extra.clone() };
            Ok(Row::Turn(Chat { messages: prompt, extra }, whole))
        }
        (Value::String(_), Value::Array(_)) | (Value::Array(_), Value::String(_)) => {
            bail!("prompt and completion must be both strings or both lists of messages")
        }
        (Value::String(_) | Value::Array(_), _) => bail!("completion: must be a string or a list of messages"),
        _ => bail!("prompt: must be a string or a list of messages"),
    }
}

/// Messages with the fields that a template needs; fields that are null are left out, as `transformers` does.
fn messages(field: &str, list: Value) -> Result<Vec<Value>> {
    let Value::Array(list) = list else { bail!("{field}: must be a list of {{\"role\": ..., \"content\": ...}}") };
    let mut out = Vec::with_capacity(list.len());
    for (i, message) in list.into_iter().enumerate() {
        let Value::Object(mut message) = message else { bail!("{field}[{i}]: must be an object with role and content") };
        message.retain(|_, value| !value.is_null());
        match message.get("role") {
            Some(Value::String(role)) if !role.is_empty() => {}
            Some(_) => bail!("{field}[{i}].role: must be a string, such as user or assistant"),
            None => bail!("{field}[{i}].role: missing. Say user, assistant or system"),
        }
        match message.get("content") {
            Some(Value::String(_) | Value::Array(_)) => {}
            Some(_) => bail!("{field}[{i}].content: must be a string"),
            // A turn that only calls tools says nothing.
            None if message.contains_key("tool_calls") => {}
            None => bail!("{field}[{i}].content: missing. Give the text of the message"),
        }
        out.push(Value::Object(message));
    }
    Ok(out)
}

/// What a row gives to the template beside messages, as in TRL: `tools` (a list, or JSON in a string) and `chat_template_kwargs`.
fn extra(mut row: Map<String, Value>) -> Result<Map<String, Value>> {
    let mut extra = match row.remove("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(map)) => map,
        Some(_) => bail!("chat_template_kwargs: must be an object"),
    };
    let tools = match row.remove("tools") {
        None | Some(Value::Null) => return Ok(extra),
        Some(Value::String(text)) => serde_json::from_str(&text).map_err(|e| anyhow!("tools: {}", shown(&e.to_string())))?,
        Some(tools) => tools,
    };
    ensure!(tools.is_array(), "tools: must be a list");
    extra.insert("tools".into(), tools);
    Ok(extra)
}

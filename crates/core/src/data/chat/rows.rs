//! Rows of fine-tuning data, recognized by their fields: `messages`, ShareGPT's `conversations`, `prompt` and `completion`, Alpaca's
//! `instruction` and `output`, or `text`. The first of these that a row has is used; other columns are ignored. An invalid row is an error
//! that names file, line and field; it is not skipped.

use super::messages::{self, Turns, extra};
use super::template::Chat;
use crate::data::json_rows::{Object, read_objects};
use crate::data::{DataFolder, Notices, data_folder, display_text, shown_path};
use crate::progress::Progress;
use crate::vfs::Vfs;
use anyhow::{Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatRow {
    /// A conversation; the loss is on the assistant's turns.
    Messages(Chat),
    /// A conversation and its completion: (prompt, prompt and completion).
    Turn(Chat, Chat),
    /// A prompt and its completion, as text. A row with `text` has an empty prompt.
    Text(String, String),
}

impl ChatRow {
    /// Adds template variables; the row's own take precedence.
    #[must_use]
    pub fn with_kwargs(mut self, kwargs: &Map<String, Value>) -> Self {
        match &mut self {
            Self::Messages(chat) => chat.add_kwargs(kwargs),
            Self::Turn(prompt, whole) => [prompt, whole].into_iter().for_each(|chat| chat.add_kwargs(kwargs)),
            Self::Text(..) => {}
        }
        self
    }
}

impl ChatRow {
    /// The roles of its messages, for a notice; empty for text.
    pub(super) fn roles(&self) -> String {
        let (Self::Messages(chat) | Self::Turn(_, chat)) = self else { return String::new() };
        let mut roles: Vec<&str> = Vec::new();
        for role in chat.messages.iter().filter_map(|message| message["role"].as_str()) {
            if !roles.contains(&role) && roles.len() < 8 {
                roles.push(role);
            }
        }
        format!(" (roles: {})", display_text(&roles.join(", ")))
    }
}

impl Chat {
    /// A chat with one user message.
    pub fn of_user(text: &str) -> Self {
        Self { messages: vec![json!({"role": "user", "content": text})], ..Self::default() }
    }

    /// Adds template variables; the chat's own take precedence.
    pub fn add_kwargs(&mut self, kwargs: &Map<String, Value>) {
        for (name, value) in kwargs {
            if !self.extra.contains_key(name) {
                self.extra.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Files of rows and their weight in the mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct MixturePart {
    /// The path as given.
    pub path: PathBuf,
    /// The files: the path itself, or those of the folder.
    pub files: Vec<PathBuf>,
    /// Passes over its rows per epoch.
    pub weight: f64,
    /// Validation files of a folder.
    pub validation: Vec<PathBuf>,
}

impl MixturePart {
    /// Parses `PATH` or `PATH:WEIGHT`; a folder stands for its data files.
    ///
    /// # Errors
    /// A path that does not exist, a weight that is not a number above 0, a folder without data.
    pub fn parse(vfs: &dyn Vfs, spec: &Path, notices: &mut Notices) -> Result<Self> {
        ensure!(spec.as_os_str() != "-", "--data -: rows are read more than once; put them into a file");
        let (path, weight) = match spec.to_str().and_then(|s| s.rsplit_once(':')) {
            Some((path, weight)) if !path.is_empty() && !vfs.exists(spec)? => {
                let number: Option<f64> = weight.parse().ok().filter(|w: &f64| *w > 0.0 && *w <= 1000.0);
                let Some(weight) = number else {
                    bail!(
                        "--data {}: there is no such file, and {:?} is not a weight (above 0, at most 1000). Write PATH or PATH:WEIGHT",
                        shown_path(spec),
                        display_text(weight)
                    );
                };
                (PathBuf::from(path), weight)
            }
            _ => (spec.to_owned(), 1.0),
        };
        let DataFolder { train, validation } = row_files(vfs, &path, notices).map_err(|e| anyhow!("--data {e:#}"))?;
        Ok(Self { path, files: train, weight, validation })
    }
}

/// The files of rows of a `--data` path: the path itself, or those of the folder.
///
/// # Errors
/// A path that does not exist, a folder without data.
pub fn row_files(vfs: &dyn Vfs, path: &Path, notices: &mut Notices) -> Result<DataFolder> {
    ensure!(vfs.exists(path)?, "{}: there is no such file or folder", shown_path(path));
    match vfs.is_dir(path)? {
        true => data_folder(vfs, path, false, notices),
        false => Ok(DataFolder { train: vec![path.to_owned()], validation: Vec::new() }),
    }
}

/// Reads a file and passes each row with its place (`file:line`) to `take`.
///
/// # Errors
/// The first invalid row, with its place, its field and the remedy; errors of `take`.
pub fn read_rows(
    vfs: &dyn Vfs,
    path: &Path,
    progress: &mut Progress<'_>,
    mut take: impl FnMut(&str, ChatRow) -> Result<()>,
) -> Result<()> {
    read_objects(vfs, path, r#"{"messages": [...]}"#, progress, |place, object| {
        let row = parse_row(object).map_err(|e| anyhow!("{place}: {e}"))?;
        take(place, row)
    })
}

/// Parses one row. A null field counts as absent.
fn parse_row(mut row: Object) -> Result<ChatRow> {
    row.retain(|_, value| !value.is_null());
    let has = |key: &str| row.contains_key(key);
    if has("messages") {
        ensure!(
            !(has("prompt") && has("completion")),
            "holds messages beside prompt and completion, which may be two different things. Keep one"
        );
        return conversation("messages", row);
    }
    if has("conversations") {
        return conversation("conversations", row);
    }
    ensure!(
        has("completion") || !(has("chosen") && has("rejected")),
        "chosen and rejected: lehr sft does not learn preferences. Give prompt and completion, or messages, of the chosen answers"
    );
    if has("prompt") && (has("completion") || !has("text")) {
        return prompt_and_completion(row);
    }
    if has("instruction") && has("output") {
        return instruction(row);
    }
    match row.remove("text") {
        Some(Value::String(text)) => {
            ensure!(!text.is_empty(), "text: empty");
            Ok(ChatRow::Text(String::new(), text))
        }
        Some(_) => bail!("text: must be a string"),
        None if row.contains_key("completion") => bail!("completion without prompt. Add prompt, or call it text"),
        None if row.is_empty() => {
            bail!("holds no value: it has no fields, or they are null or of a type that lehr does not read")
        }
        None => bail!(
            "holds neither messages, nor conversations, nor prompt and completion, nor instruction and output, nor text; its fields are {}",
            display_text(&row.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
        ),
    }
}

fn conversation(field: &str, mut row: Object) -> Result<ChatRow> {
    let mut turns = Turns::read(field, row.remove(field).unwrap_or_default())?;
    ensure!(!turns.messages.is_empty(), "{field}: empty. A conversation has at least one message");
    // Some ShareGPT-style rows have the system message in a separate field.
    let apart = row.remove("system").filter(|_| field == "conversations" && turns.messages[0]["role"] != "system");
    match apart {
        Some(Value::String(text)) if !text.is_empty() => turns.put_first(json!({"role": "system", "content": text})),
        Some(Value::String(_)) | None => {}
        Some(_) => bail!("system: must be a string"),
    }
    Ok(ChatRow::Messages(Chat { messages: turns.messages, extra: extra(&row)?, masked: turns.masked }))
}

fn prompt_and_completion(mut row: Object) -> Result<ChatRow> {
    let prompt = row.remove("prompt").unwrap_or_default();
    let completion =
        row.remove("completion").ok_or_else(|| anyhow!("prompt without completion. Add what is to follow the prompt"))?;
    match (prompt, completion) {
        (Value::String(prompt), Value::String(completion)) => {
            ensure!(!completion.is_empty(), "completion: empty. There is nothing to learn");
            Ok(ChatRow::Text(prompt, completion))
        }
        (prompt @ Value::Array(_), completion @ Value::Array(_)) => {
            let prompt = Turns::read("prompt", prompt)?;
            let completion = Turns::read("completion", completion)?;
            ensure!(!prompt.messages.is_empty(), "prompt: empty. A prompt has at least one message");
            ensure!(!completion.messages.is_empty(), "completion: empty. There is nothing to learn");
            let extra = extra(&row)?;
            let asked = prompt.messages.len();
            let whole = Chat {
                messages: [prompt.messages.clone(), completion.messages].concat(),
                extra: extra.clone(),
                masked: prompt.masked.iter().copied().chain(completion.masked.iter().map(|i| i + asked)).collect(),
            };
            Ok(ChatRow::Turn(Chat { messages: prompt.messages, extra, masked: prompt.masked }, whole))
        }
        (Value::String(_), Value::Array(_)) | (Value::Array(_), Value::String(_)) => {
            bail!("prompt and completion must be both strings or both lists of messages")
        }
        (Value::String(_) | Value::Array(_), _) => bail!("completion: must be a string or a list of messages"),
        _ => bail!("prompt: must be a string or a list of messages"),
    }
}

/// Alpaca's rows as a conversation, as in LLaMA-Factory: the user message is the instruction and, on a separate line, the input; `system`
/// and `history` (pairs of earlier messages) come first.
fn instruction(mut row: Object) -> Result<ChatRow> {
    let mut text = |field: &str| match row.remove(field) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => bail!("{field}: must be a string"),
    };
    let (instruction, input, output, system) = (text("instruction")?, text("input")?, text("output")?, text("system")?);
    ensure!(!output.is_empty(), "output: empty. There is nothing to learn");
    let asked: Vec<&str> = [instruction.as_str(), input.as_str()].into_iter().filter(|part| !part.is_empty()).collect();
    ensure!(!asked.is_empty(), "instruction: empty. Give the question");
    let mut messages: Vec<(&str, String)> = Vec::new();
    if !system.is_empty() {
        messages.push(("system", system));
    }
    match row.remove("history") {
        None => {}
        Some(Value::Array(pairs)) => {
            for (i, pair) in pairs.iter().enumerate() {
                let [Some(user), Some(assistant)] = [0usize, 1].map(|k| pair.get(k).and_then(Value::as_str)) else {
                    bail!("history[{i}]: must be a pair of strings: a user message and the answer");
                };
                messages.extend([("user", user.to_owned()), ("assistant", assistant.to_owned())]);
            }
        }
        Some(_) => bail!("history: must be a list of pairs"),
    }
    messages.extend([("user", asked.join("\n")), ("assistant", output)]);
    let messages = messages.into_iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    Ok(ChatRow::Messages(Chat { messages, extra: extra(&row)?, ..Chat::default() }))
}

/// The question of a row as a user message for the chat template, with the row's `tools` and `chat_template_kwargs`.
///
/// # Errors
/// A field of the wrong type.
pub fn question_chat(question: &str, row: &Object) -> Result<Chat> {
    Ok(Chat { extra: messages::extra(row)?, ..Chat::of_user(question) })
}

/// The prompt of a row for the chat template: `prompt` as a user message or as messages, with the row's `tools` and `chat_template_kwargs`.
///
/// # Errors
/// A prompt that is missing or invalid, with its field.
pub fn prompt_chat(row: &Object) -> Result<Chat> {
    let messages = match row.get("prompt") {
        Some(Value::String(text)) => return question_chat(text, row),
        Some(list @ Value::Array(_)) => Turns::read("prompt", list.clone())?.messages,
        Some(Value::Null) | None => bail!("prompt: missing. Give the question"),
        Some(_) => bail!("prompt: must be a string or a list of messages"),
    };
    ensure!(!messages.is_empty(), "prompt: empty. A prompt has at least one message");
    ensure!(
        messages.last().is_none_or(|last| last["role"] != "assistant"),
        "prompt: ends in a message of the assistant, whose turn it is. End it with what the user (or a tool) says"
    );
    Ok(Chat { messages, extra: messages::extra(row)?, ..Chat::default() })
}

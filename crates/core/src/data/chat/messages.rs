//! Messages of a row, normalized for a chat template, and the row's other template variables.

use crate::data::display_text;
use crate::data::json_rows::Object;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};

/// The messages of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Turns {
    /// `{role, content, ...}`
    pub messages: Vec<Value>,
    /// Indices of assistant messages that do not count in the loss.
    pub masked: Vec<usize>,
}

/// Fields with the loss weight of a message: of OpenAI and mistral-finetune, of verl, of ms-swift, of axolotl, and of others.
const WEIGHTS: [&str; 5] = ["weight", "trainable", "loss", "train", "loss_mask"];

impl Turns {
    /// Reads a list of messages: `role` and `content`, or ShareGPT's `from` and `value`. Null fields are left out, and a list of content
    /// parts is joined.
    ///
    /// # Errors
    /// The first invalid message, by number and field.
    pub(super) fn read(field: &str, list: Value) -> Result<Self> {
        let Value::Array(list) = list else { bail!("{field}: must be a list of {{\"role\": ..., \"content\": ...}}") };
        let mut out = Self::default();
        for (i, message) in list.into_iter().enumerate() {
            let at = format!("{field}[{i}]");
            let Value::Object(mut message) = message else { bail!("{at}: must be an object with role and content") };
            message.retain(|_, value| !value.is_null());
            share_gpt(&at, &mut message)?;
            role(&at, &message)?;
            tool_calls(&at, &message)?;
            content(&at, &mut message)?;
            let counts = counts(&at, &mut message)?;
            let assistant = message["role"] == "assistant";
            ensure!(
                assistant || counts != Some(true),
                "{at}: is to count in the loss, but only messages of the assistant can be learnt. Leave its weight out"
            );
            if assistant && counts == Some(false) {
                out.masked.push(i);
            }
            out.messages.push(Value::Object(message));
        }
        Ok(out)
    }

    pub(super) fn put_first(&mut self, message: Value) {
        self.messages.insert(0, message);
        self.masked.iter_mut().for_each(|i| *i += 1);
    }
}

/// Converts ShareGPT's `from` and `value` to role and content, including its names for roles.
fn share_gpt(at: &str, message: &mut Object) -> Result<()> {
    let Some(from) = message.remove("from") else { return Ok(()) };
    let (Value::String(from), false) = (from, message.contains_key("role")) else {
        bail!("{at}.from: must be a string, and stand there without role");
    };
    let role = match from.as_str() {
        "human" | "user" => "user",
        "gpt" | "assistant" => "assistant",
        "system" => "system",
        "tool" | "observation" => "tool",
        other => bail!("{at}.from: {:?} is not known. Say human, gpt, system or tool", display_text(other)),
    };
    let value = message.remove("value").with_context(|| format!("{at}.value: missing. Give the text of the message"))?;
    message.insert("role".into(), role.into());
    message.insert("content".into(), value);
    Ok(())
}

/// Roles of public data, as chat templates write them.
const ROLES: [&str; 5] = ["system", "user", "assistant", "tool", "developer"];

/// Checks that calls of tools are a list of objects, as templates read them.
fn tool_calls(at: &str, message: &Object) -> Result<()> {
    const CURE: &str = "must be a list of objects, {\"type\": \"function\", \"function\": {...}}. Decode JSON in strings";
    match message.get("tool_calls") {
        Some(Value::Array(calls)) => match calls.iter().position(|call| !call.is_object()) {
            Some(i) => bail!("{at}.tool_calls[{i}]: {CURE}"),
            None => Ok(()),
        },
        // Columns with a fixed type store "no calls" as an empty string.
        Some(Value::String(text)) if text.is_empty() => Ok(()),
        Some(_) => bail!("{at}.tool_calls: {CURE}"),
        None => Ok(()),
    }
}

fn role(at: &str, message: &Object) -> Result<()> {
    match message.get("role") {
        Some(Value::String(role)) => match role.as_str() {
            "" => bail!("{at}.role: must be a string, such as user or assistant"),
            "human" => bail!("{at}.role: \"human\" is unknown to chat templates. Write user"),
            "gpt" | "model" | "bot" => bail!("{at}.role: {role:?} is unknown to chat templates. Write assistant"),
            _ if ROLES.iter().any(|known| role != *known && role.trim().eq_ignore_ascii_case(known)) => {
                bail!("{at}.role: {role:?} is unknown to chat templates. Write {}", role.trim().to_ascii_lowercase())
            }
            _ => Ok(()),
        },
        Some(_) => bail!("{at}.role: must be a string, such as user or assistant"),
        None => bail!("{at}.role: missing. Say user, assistant or system"),
    }
}

/// Checks the content; a list of parts is joined into one text.
fn content(at: &str, message: &mut Object) -> Result<()> {
    let calls_tools = message.contains_key("tool_calls");
    match message.get_mut("content") {
        Some(Value::String(_)) => Ok(()),
        Some(content @ Value::Array(_)) => {
            let text = content.as_array().into_iter().flatten().enumerate().map(|(i, part)| text_of(at, i, part));
            *content = Value::String(text.collect::<Result<String>>()?);
            Ok(())
        }
        Some(_) => bail!("{at}.content: must be a string, or a list of text parts"),
        // A message that only calls tools has no content.
        None if calls_tools => Ok(()),
        None => bail!("{at}.content: missing. Give the text of the message"),
    }
}

fn text_of(at: &str, i: usize, part: &Value) -> Result<String> {
    if let Value::String(text) = part {
        return Ok(text.clone());
    }
    let kind = part.get("type").and_then(Value::as_str);
    match (kind, part.get("text")) {
        (Some("text") | None, Some(Value::String(text))) => Ok(text.clone()),
        (Some("text") | None, _) => bail!("{at}.content[{i}].text: must be a string"),
        (Some(kind), _) => bail!("{at}.content[{i}]: is of type {:?}; lehr reads text parts only", display_text(kind)),
    }
}

/// Whether the message's weight says that it counts in the loss; the field is removed, because it is not for the template.
fn counts(at: &str, message: &mut Object) -> Result<Option<bool>> {
    let mut found = None;
    for field in WEIGHTS {
        let Some(value) = message.remove(field) else { continue };
        let counts = match (&value, value.as_f64()) {
            (Value::Bool(counts), _) => *counts,
            (_, Some(0.0)) => false,
            (_, Some(1.0)) => true,
            _ => bail!(
                "{at}.{field}: {} is not known. A message counts (1, true) or does not (0, false)",
                display_text(&value.to_string())
            ),
        };
        ensure!(found.is_none_or(|other| other == counts), "{at}.{field}: contradicts what another field of the message says");
        found = Some(counts);
    }
    Ok(found)
}

/// Template variables that `chat_template_kwargs` may not set; transformers refuses them too.
const SET_ELSEWHERE: &[&str] = &["messages", "tools", "add_generation_prompt"];

/// Template variables of a row other than messages, as in TRL: `tools` (a list, or JSON in a string) and `chat_template_kwargs`.
pub(super) fn extra(row: &Object) -> Result<Map<String, Value>> {
    let mut extra = match row.get("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(map)) => map.clone(),
        Some(_) => bail!("chat_template_kwargs: must be an object"),
    };
    if let Some(name) = SET_ELSEWHERE.iter().find(|name| extra.contains_key(**name)) {
        bail!(
            "chat_template_kwargs.{name}: is set by lehr; remove it{}",
            if *name == "tools" { ", and give the column tools" } else { "" }
        );
    }
    let tools = match row.get("tools") {
        None | Some(Value::Null) => return Ok(extra),
        // Columns with a fixed type store "no tools" as an empty string.
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(extra),
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|e| anyhow!("tools: {}", display_text(&e.to_string())))?
        }
        Some(tools) => tools.clone(),
    };
    ensure!(tools.is_array() || tools.is_null(), "tools: must be a list");
    let wrong = tools.as_array().into_iter().flatten().position(|tool| !tool.is_object());
    if let Some(i) = wrong {
        bail!(
            "tools[{i}]: must be an object, {{\"type\": \"function\", ...}}; transformers refuses it too. Decode JSON in strings"
        );
    }
    if !tools.is_null() {
        extra.insert("tools".into(), tools);
    }
    Ok(extra)
}

/// `--chat-template-kwargs NAME=VALUE`: extra template variables; each value is JSON, or else a string.
///
/// # Errors
/// An argument without `=`, or a variable that is set elsewhere.
pub fn template_kwargs(words: &[String]) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    for word in words {
        let (name, value) = word
            .split_once('=')
            .filter(|(name, _)| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_'))
            .with_context(|| {
                format!("--chat-template-kwargs {:?}: write NAME=VALUE, such as enable_thinking=false", display_text(word))
            })?;
        ensure!(!SET_ELSEWHERE.contains(&name), "--chat-template-kwargs {name}: is not for this flag");
        // True and False are Python's spelling.
        let value = match value {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        out.insert(name.to_owned(), value);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn template_kwargs_are_json_or_text() {
        let words = |list: &[&str]| template_kwargs(&list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let found = words(&["enable_thinking=False", "a=false", "n=3", "s=x=y", "d={\"k\": [1]}", "e="]).unwrap();
        assert_eq!(
            Value::Object(found),
            json!({"enable_thinking": false, "a": false, "n": 3, "s": "x=y", "d": {"k": [1]}, "e": ""})
        );
        for bad in ["enable_thinking", "=1", "a b=1", "messages=[]"] {
            assert!(words(&[bad]).unwrap_err().to_string().starts_with("--chat-template-kwargs"), "{bad}");
        }
    }

    /// transformers raises ValueError for a tool that is not a dict.
    #[test]
    fn tools_are_objects() {
        let of = |tools: Value| extra(json!({"tools": tools}).as_object().unwrap()).map_err(|e| e.to_string());
        assert!(of(json!("[{\"type\": \"function\"}]")).is_ok() && of(json!([{}])).is_ok());
        for tools in [json!([{}, "{\"type\": \"function\"}"]), json!("[{}, \"{}\"]"), json!([{}, 1])] {
            assert!(of(tools).unwrap_err().starts_with("tools[1]: must be an object"));
        }
    }

    #[test]
    fn public_message_formats_are_read() {
        let read = |value: Value| Turns::read("messages", value);
        let parts = json!([{"type": "text", "text": "a "}, "b", {"text": "c", "image": null}]);
        let turns = read(json!([{"role": "user", "content": parts}, {"from": "gpt", "value": "x", "weight": 0.0}])).unwrap();
        assert_eq!(turns.messages, [json!({"role": "user", "content": "a bc"}), json!({"role": "assistant", "content": "x"})]);
        assert_eq!(turns.masked, [1]);
        let one = |mut message: Value| {
            message["role"] = message.get("role").cloned().unwrap_or("assistant".into());
            message["content"] = message.get("content").cloned().unwrap_or("x".into());
            read(json!([message])).map(|turns| !turns.masked.is_empty()).map_err(|e| e.to_string())
        };
        for (field, value, masked) in [
            ("weight", json!(0), true),
            ("weight", json!(1), false),
            ("trainable", json!(false), true),
            ("loss_mask", json!(0), true),
            ("loss_mask", json!(true), false),
            ("loss", json!(false), true),
            ("train", json!(true), false),
            ("weight", Value::Null, false),
        ] {
            assert_eq!(one(json!({field: value})), Ok(masked), "{field} {value}");
        }
        assert_eq!(one(json!({"role": "user", "weight": 0})), Ok(false));
        for (message, wanted) in [
            (json!({"weight": 0.5}), "messages[0].weight: 0.5 is not known"),
            (json!({"weight": 1, "trainable": false}), "messages[0].trainable: contradicts"),
            (json!({"role": "user", "weight": 1}), "messages[0]: is to count in the loss, but only"),
            (json!({"role": "human"}), "messages[0].role: \"human\" is unknown to chat templates. Write user"),
            (json!({"role": "gpt"}), "Write assistant"),
            (json!({"role": "Assistant"}), "messages[0].role: \"Assistant\" is unknown to chat templates. Write assistant"),
            (json!({"role": " USER"}), "Write user"),
            (json!({"tool_calls": "[{}]"}), "messages[0].tool_calls: must be a list of objects"),
            (json!({"tool_calls": ["{}"]}), "messages[0].tool_calls[0]: must be a list of objects"),
            (json!({"content": [{"type": "image_url", "image_url": "x"}]}), "messages[0].content[0]: is of type \"image_url\""),
            (json!({"content": [{"type": "text"}]}), "messages[0].content[0].text: must be a string"),
            (json!({"content": [3]}), "messages[0].content[0].text: must be a string"),
            (json!({"content": {"text": "x"}}), "messages[0].content: must be a string, or a list of text parts"),
        ] {
            let error = one(message.clone()).expect_err(&message.to_string());
            assert!(error.contains(wanted), "{error}");
        }
        let error = read(json!([{"from": "narrator", "value": "x"}])).unwrap_err().to_string();
        assert!(error.contains("messages[0].from: \"narrator\" is not known"), "{error}");
    }
}

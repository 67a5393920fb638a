//! Values as text, as Python writes them: `str`, `repr` and `json.dumps`.

use super::limits::{TEXT, limit_error};
use super::objects::{BoundMethod, DictView, PythonRange, refused, type_name};
use crate::data::chat::python::{to_float_text, to_quoted};
use minijinja::value::{ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use std::borrow::Cow;

/// The number, if the value is a float.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    (value.kind() == ValueKind::Number && !value.is_integer()).then(|| f64::try_from(value.clone()).ok())?
}

/// `str` of a value that is within the limits of `bound`.
///
/// # Errors
/// The text would be too long, or no fuel is left.
pub(super) fn to_text(state: &State, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if value.is_undefined() {
        return Ok(String::new());
    }
    let mut out = String::new();
    write_repr(value, &mut out)?;
    state.consume_fuel(out.len() as u64 / 64)?;
    Ok(out)
}

/// The value as text if it is a float or holds values; others are printed alike by MiniJinja and Python.
pub(super) fn as_text(state: &State, value: &Value) -> Result<Value, Error> {
    let differs = value.as_object().is_some() || as_float(value).is_some();
    if differs { to_text(state, value).map(Value::from) } else { Ok(value.clone()) }
}

fn push(out: &mut String, text: &str, what: &str) -> Result<(), Error> {
    if out.len().saturating_add(text.len()) > TEXT {
        return Err(limit_error(&format!("{what} would write more than {} MiB", TEXT >> 20)));
    }
    out.push_str(text);
    Ok(())
}

fn write_repr(value: &Value, out: &mut String) -> Result<(), Error> {
    const WHAT: &str = "a printed value";
    if let Some(text) = value.as_str() {
        return push(out, &to_quoted(text), WHAT);
    }
    if let Some(number) = as_float(value) {
        return push(out, &to_float_text(number), WHAT);
    }
    if value.is_undefined() {
        return push(out, "Undefined", WHAT);
    }
    let Some(object) = value.as_object() else { return push(out, &value.to_string(), WHAT) };
    if let Some(range) = object.downcast_ref::<PythonRange>() {
        return push(out, &range.text(), WHAT);
    }
    if let Some(method) = object.downcast_ref::<BoundMethod>() {
        let (name, of) = (&method.name, method.of);
        return Err(refused(format!("prints {name}, the method of a {of}. For the value of that key write ['{name}']")));
    }
    if let Some(view) = object.downcast_ref::<DictView>() {
        push(out, view.name, WHAT)?;
        push(out, "(", WHAT)?;
        write_repr(&Value::from(view.items.clone()), out)?;
        return push(out, ")", WHAT);
    }
    match object.repr() {
        ObjectRepr::Map if !object.type_name().ends_with("::Loop") => {
            // The engine's own type, which has no public name.
            let namespace = object.type_name().ends_with("::Namespace");
            push(out, if namespace { "<Namespace {" } else { "{" }, WHAT)?;
            for (i, (key, value)) in object.try_iter_pairs().into_iter().flatten().enumerate() {
                push(out, if i > 0 { ", " } else { "" }, WHAT)?;
                write_repr(&key, out)?;
                push(out, ": ", WHAT)?;
                write_repr(&value, out)?;
            }
            push(out, if namespace { "}>" } else { "}" }, WHAT)
        }
        ObjectRepr::Seq | ObjectRepr::Iterable if value.len().is_some() => {
            let (open, close) = match (value.is_tuple(), value.len()) {
                (true, Some(1)) => ("(", ",)"),
                (true, _) => ("(", ")"),
                (false, _) => ("[", "]"),
            };
            push(out, open, WHAT)?;
            for (i, item) in object.try_iter().into_iter().flatten().enumerate() {
                push(out, if i > 0 { ", " } else { "" }, WHAT)?;
                write_repr(&item, out)?;
            }
            push(out, close, WHAT)
        }
        _ => Err(refused(format!("prints a {}, which Python writes with its address. Write | list behind it", type_name(value)))),
    }
}

/// `json.dumps`, with its options; by default ", " and ": " as separators (with `indent`, no space before a line end).
#[derive(Default)]
pub(super) struct JsonDumps {
    /// Spaces, or a text, for each level.
    pub indent: Option<Value>,
    /// Between items, and after a key.
    pub separators: Option<Vec<String>>,
    /// Escape all that is not ASCII.
    pub ascii: bool,
    /// Sort maps by key.
    pub sort: bool,
}

impl JsonDumps {
    /// The value as JSON.
    ///
    /// # Errors
    /// A value that JSON has no notation for, or a text over the limit.
    pub fn text(&self, value: &Value) -> Result<String, Error> {
        let (unit, count) = match &self.indent {
            None => (Cow::Borrowed(""), 0),
            Some(text) if text.as_str().is_some() => (Cow::Owned(text.to_string()), 1),
            Some(number) => (Cow::Borrowed(" "), i64::try_from(number.clone())?.max(0) as usize),
        };
        let (item, key) = match self.separators.as_deref() {
            Some([item, key]) => (item.as_str(), key.as_str()),
            _ if self.indent.is_some() => (",", ": "),
            _ => (", ", ": "),
        };
        let mut writer = JsonWriter { options: self, indent: (&*unit, count), item, key, out: String::new() };
        writer.write(value, 0)?;
        Ok(writer.out)
    }
}

struct JsonWriter<'a> {
    options: &'a JsonDumps,
    /// A text, and how often it is written for each level.
    indent: (&'a str, usize),
    item: &'a str,
    key: &'a str,
    out: String,
}

impl JsonWriter<'_> {
    fn push(&mut self, text: &str) -> Result<(), Error> {
        push(&mut self.out, text, "tojson")
    }

    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            _ if !matches!(type_name(value), "list" | "tuple")
                && matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) =>
            {
                Err(not_json(&format!("Object of type {}", type_name(value))))
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.push("[")?;
                let mut empty = true;
                for item in value.try_iter()? {
                    self.between(empty, depth + 1)?;
                    self.write(&item, depth + 1)?;
                    empty = false;
                }
                self.close(empty, depth)?;
                self.push("]")
            }
            ValueKind::Map => {
                let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
                let mut pairs: Vec<_> = pairs.into_iter().flatten().collect();
                if self.options.sort {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.push("{")?;
                for (i, (name, value)) in pairs.iter().enumerate() {
                    self.between(i == 0, depth + 1)?;
                    match name.as_str() {
                        Some(name) => self.string(name)?,
                        None => self.string(&scalar(name)?)?,
                    }
                    self.push(self.key)?;
                    self.write(value, depth + 1)?;
                }
                self.close(pairs.is_empty(), depth)?;
                self.push("}")
            }
            _ => self.push(&scalar(value)?),
        }
    }

    fn between(&mut self, first: bool, depth: usize) -> Result<(), Error> {
        if !first {
            self.push(self.item)?;
        }
        self.new_line(depth)
    }

    fn close(&mut self, empty: bool, depth: usize) -> Result<(), Error> {
        if empty { Ok(()) } else { self.new_line(depth) }
    }

    fn new_line(&mut self, depth: usize) -> Result<(), Error> {
        if self.options.indent.is_none() {
            return Ok(());
        }
        self.push("\n")?;
        let (unit, count) = self.indent;
        let times = count.saturating_mul(depth);
        if times.saturating_mul(unit.len()) > TEXT {
            return Err(limit_error(&format!("tojson would write more than {} MiB", TEXT >> 20)));
        }
        self.push(&unit.repeat(times))
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.options.ascii {
            return self.push(&quoted);
        }
        let mut units = [0; 2];
        for c in quoted.chars() {
            match c {
                ' '..='~' => self.push(c.encode_utf8(&mut [0; 4]))?,
                _ => c.encode_utf16(&mut units).iter().try_for_each(|unit| self.push(&format!("\\u{unit:04x}")))?,
            }
        }
        Ok(())
    }
}

/// A number, a boolean or none as JSON, as Python writes them: `NaN` and `Infinity` too.
fn scalar(value: &Value) -> Result<String, Error> {
    Ok(match (value.kind(), as_float(value)) {
        (_, Some(number)) if number.is_nan() => "NaN".into(),
        (_, Some(number)) if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        (_, Some(number)) => to_float_text(number),
        (ValueKind::Number, None) => value.to_string(),
        (ValueKind::Bool, _) => if value.is_true() { "true" } else { "false" }.into(),
        (ValueKind::None, _) => "null".into(),
        (ValueKind::Undefined, _) => return Err(not_json("Object of type Undefined")),
        (kind, _) => return Err(not_json(&format!("a value of type {kind}"))),
    })
}

fn not_json(what: &str) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("tojson: {what} is not JSON serializable"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;

    #[test]
    fn json_as_python_writes_it() {
        let json = |value: &serde_json::Value, options: JsonDumps| options.text(&Value::from(Serde(value)));
        let value = serde_json::json!({"b": [1, 2.5, true, null], "a": {"ä": "<\n\"\u{1}\u{10348}>"}, "e": [], "o": {}});
        assert_eq!(
            json(&value, JsonDumps::default()).unwrap(),
            "{\"b\": [1, 2.5, true, null], \"a\": {\"ä\": \"<\\n\\\"\\u0001\u{10348}>\"}, \"e\": [], \"o\": {}}"
        );
        let ascii = JsonDumps { indent: Some(2.into()), ascii: true, ..JsonDumps::default() };
        assert_eq!(json(&value["a"], ascii).unwrap(), "{\n  \"\\u00e4\": \"<\\n\\\"\\u0001\\ud800\\udf48>\"\n}");
        let separators = Some(vec![",".to_owned(), ":".to_owned()]);
        assert!(json(&value, JsonDumps { separators, sort: true, ..JsonDumps::default() }).unwrap().starts_with("{\"a\":{"));
        for indent in [100_000_000, 10_000_000_000, i64::MAX] {
            let error = json(&value, JsonDumps { indent: Some(indent.into()), ..JsonDumps::default() }).unwrap_err();
            assert!(error.to_string().contains("more than 32 MiB"), "{error}");
        }
    }
}

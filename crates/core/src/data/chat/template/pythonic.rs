//! Filters, tests and methods that behave as in Jinja2 and Python where MiniJinja's own differ.
//!
//! `pprint` is unknown: MiniJinja's notation of lists and maps is not Python's.

use super::limits::{ITEMS, TEXT, limit_error};
use super::print::{JsonDumps, as_text, to_text};
use crate::data::chat::python::{is_space, lines, split_whitespace};
use minijinja::filters::capitalize;
use minijinja::value::{Kwargs, StringInput, Value, ValueKind, from_args};
use minijinja::{Environment, Error, State};

/// Registers these filters and tests.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("indent", indent);
    environment.add_filter("join", join);
    environment.add_filter("string", string);
    environment.add_filter("tojson", tojson);
    // Anything with a length and an index or key: strings and maps too.
    environment.add_test("sequence", |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map));
}

fn string(state: &State, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() { Ok(value.clone()) } else { to_text(state, value).map(Value::from) }
}

/// Jinja's `join`: items, or an attribute of them, as text.
fn join(
    state: &mut State,
    value: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let named: Option<Value> = if attribute.is_some() { None } else { options.get("attribute")? };
    let separator: Option<Value> = options.get("d")?;
    options.assert_all_used()?;
    let options: Kwargs = separator.into_iter().map(|d| ("d", d)).collect();
    let items = match attribute.or(named.as_ref()).filter(|attribute| !attribute.is_none()) {
        Some(attribute) => {
            let attribute: Kwargs = [("attribute", attribute.clone())].into_iter().collect();
            state.apply_filter("map", &[value.clone(), attribute.into()])?
        }
        None => value.clone(),
    };
    if items.as_object().is_none() {
        return minijinja::filters::join(state, &items, joiner, None, options);
    }
    let texts: Vec<Value> = items.try_iter()?.map(|item| as_text(state, &item)).collect::<Result<_, _>>()?;
    minijinja::filters::join(state, &texts.into(), joiner, None, options)
}

/// `json.dumps(x, ensure_ascii=False)`, with its options.
fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let indent: Option<Value> = options.get("indent")?;
    let indent = indent.filter(|indent| !indent.is_none());
    let separators = options.get("separators")?;
    options.assert_all_used()?;
    let json = JsonDumps { indent, separators, ascii: ascii.unwrap_or(false), sort: sort.unwrap_or(false) };
    let text = json.text(value)?;
    state.consume_fuel(text.len() as u64 / 64)?;
    Ok(text)
}

/// HTML escapes as in markupsafe.
fn escape(state: &State, value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let mut out = String::new();
    for c in to_text(state, value)?.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(Value::from_safe_string(out))
}

/// Jinja's `indent`: all line ends become `\n`, and the last one is kept.
fn indent(
    text: StringInput<'_>,
    width: Option<&Value>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let named: Option<Value> = if width.is_some() { None } else { options.get("width")? };
    let width = width.or(named.as_ref());
    let first = if first.is_some() { first } else { options.get("first")? }.unwrap_or(false);
    let blank = if blank.is_some() { blank } else { options.get("blank")? }.unwrap_or(false);
    options.assert_all_used()?;
    let (count, last_end) = lines(text.as_str()).fold((0usize, None), |(count, _), (_, end)| (count + 1, Some(end)));
    let too_long = || limit_error(&format!("indent would write more than {} MiB", TEXT >> 20));
    let written = |indentation: usize| indentation.saturating_mul(count + 1).saturating_add(text.as_str().len());
    let indentation = match width.map(|width| (width, width.as_str())) {
        None => "    ".to_owned(),
        Some((_, Some(text))) => text.to_owned(),
        Some((width, None)) => {
            let width = usize::try_from(i64::try_from(width.clone())?.max(0)).map_err(|_| too_long())?;
            if written(width) > TEXT {
                return Err(too_long());
            }
            " ".repeat(width)
        }
    };
    if written(indentation.len()) > TEXT {
        return Err(too_long());
    }
    let mut out = String::new();
    // A line end is appended before splitting into lines: a trailing line end gives an empty last line.
    let ended = last_end.is_none_or(|end| !matches!(end, "" | "\r"));
    for (at, line) in lines(text.as_str()).map(|(line, _)| line).chain(ended.then_some("")).enumerate() {
        if at > 0 {
            out.push('\n');
        }
        let indented = if at == 0 { first } else { blank || !line.is_empty() };
        if indented {
            out.push_str(&indentation);
        }
        out.push_str(line);
    }
    Ok(text.preserve_safety(out))
}

/// Methods of strings; `None` leaves the call to MiniJinja.
pub(super) fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let Some(text) = value.as_str() else { return Ok(None) };
    let blank = args.is_empty() || args.len() == 1 && args[0].is_none();
    Ok(Some(match name {
        "strip" if blank => text.trim_matches(is_space).into(),
        "lstrip" if blank => text.trim_start_matches(is_space).into(),
        "rstrip" if blank => text.trim_end_matches(is_space).into(),
        "split" if args.first().is_none_or(Value::is_none) => {
            let (_, most): (Option<&Value>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            limited_list(split_whitespace(text, most).into_iter().map(Value::from))?
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            let keep = keep.unwrap_or(false);
            let whole = |line: &str, end: &str| if keep { format!("{line}{end}") } else { line.to_owned() };
            limited_list(lines(text).map(|(line, end)| Value::from(whole(line, end))))?
        }
        "title" => {
            let () = from_args(args)?;
            title(state, text)?.into()
        }
        _ => return Ok(None),
    }))
}

/// A list, checked against the limits.
fn limited_list(items: impl Iterator<Item = Value>) -> Result<Value, Error> {
    let items: Vec<Value> = items.take(ITEMS + 1).collect();
    if items.len() > ITEMS { Err(limit_error(&format!("a list of more than {ITEMS} values"))) } else { Ok(items.into()) }
}

/// Python's `str.title`: every run of cased letters starts a word, whatever precedes it.
fn title(state: &State, text: &str) -> Result<String, Error> {
    let is_cased = |c: char| c.to_lowercase().ne([c]) || c.to_uppercase().ne([c]) || c.is_lowercase() || c.is_uppercase();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (between, word) = rest.split_at(rest.find(is_cased).unwrap_or(rest.len()));
        let (word, after) = word.split_at(word.find(|c| !is_cased(c)).unwrap_or(word.len()));
        out.push_str(between);
        let word = Value::from(word);
        out.push_str(capitalize(StringInput::new(state, &word)?).as_str().unwrap_or_default());
        rest = after;
    }
    Ok(out)
}

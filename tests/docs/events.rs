//! `docs/reference/events.md` from the source of the contract: its types, their docstrings, and what serde does to them.

use super::{compare, read, root};
use std::collections::BTreeMap;

/// The sources that define events and commands.
const SOURCES: &[&str] = &["crates/core/src/event.rs", "crates/core/src/event/tokens.rs", "crates/core/src/event/inside.rs"];

/// A field, or a variant of an enum.
#[derive(Debug, Default, PartialEq)]
struct Member {
    name: String,
    /// The Rust type; empty where a variant has none.
    kind: String,
    doc: String,
    attributes: String,
    /// Fields of a variant.
    members: Vec<Member>,
}

/// A `pub struct` or `pub enum`.
#[derive(Debug, Default, PartialEq)]
struct Type {
    doc: String,
    attributes: String,
    members: Vec<Member>,
}

/// The public types of a source that rustfmt has laid out, tests left out.
fn types(source: &str) -> BTreeMap<String, Type> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = BTreeMap::new();
    let (mut doc, mut attributes) = (Vec::new(), String::new());
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let text = line.trim();
        if let Some(words) = text.strip_prefix("///") {
            doc.push(words.trim());
        } else if text.starts_with("#[") {
            attributes.push_str(text);
        } else {
            let head = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
            if let Some(name) = head.and_then(|head| head.strip_suffix(" {")) {
                let members = members(&mut lines, "}");
                found.insert(name.to_owned(), Type { doc: doc.join(" "), attributes: std::mem::take(&mut attributes), members });
            }
            doc.clear();
            attributes.clear();
        }
    }
    found
}

/// Fields or variants up to the line that closes them.
fn members<'a>(lines: &mut impl Iterator<Item = &'a str>, end: &str) -> Vec<Member> {
    let mut found = Vec::new();
    let mut next = Member::default();
    while let Some(line) = lines.next() {
        let text = line.trim();
        if text == end {
            break;
        } else if let Some(words) = text.strip_prefix("///") {
            next.doc = format!("{} {}", next.doc, words.trim()).trim().to_owned();
        } else if text.starts_with("#[") {
            next.attributes.push_str(text);
        } else if let Some(name) = text.strip_suffix(" {") {
            next.name = name.to_owned();
            next.members = members(lines, "},");
            found.push(std::mem::take(&mut next));
        } else if let Some(member) = text.strip_suffix(',') {
            let member = member.trim_start_matches("pub ");
            let (name, kind) = match member.split_once(": ") {
                Some((name, kind)) => (name, kind),
                None => member.trim_end_matches(')').split_once('(').unwrap_or((member, "")),
            };
            (next.name, next.kind) = (name.to_owned(), kind.to_owned());
            found.push(std::mem::take(&mut next));
        }
    }
    found
}

/// What `Outer<T>` holds.
fn inside<'a>(kind: &'a str, outer: &str) -> Option<&'a str> {
    kind.strip_prefix(outer)?.strip_prefix('<')?.strip_suffix('>')
}

/// A Rust type as JSON has it.
fn json(kind: &str) -> String {
    match kind {
        "f64" | "f32" | "Number" => "number".to_owned(),
        "u64" | "u32" | "u8" => "integer".to_owned(),
        "String" => "string".to_owned(),
        "PathBuf" => "path".to_owned(),
        "bool" => "boolean".to_owned(),
        "[f64; 2]" => "two numbers".to_owned(),
        other => {
            if let Some(held) = inside(other, "Option") {
                format!("{} or null", json(held))
            } else if let Some(held) = inside(other, "Vec") {
                format!("list of {}", json(held))
            } else if let Some(held) = inside(other, "Box") {
                json(held)
            } else if let Some((_, value)) = inside(other, "BTreeMap").and_then(|held| held.split_once(", ")) {
                format!("object, name to {}", json(value))
            } else {
                format!("[{other}](#{})", other.to_lowercase())
            }
        }
    }
}

fn table(members: &[Member]) -> String {
    if members.is_empty() {
        return String::new();
    }
    let mut out = String::from("| field | type | meaning |\n|---|---|---|\n");
    for member in members {
        let mut kind = json(&member.kind);
        if member.attributes.contains("skip_serializing_if") {
            kind = format!("{}, may be absent", kind.trim_end_matches(" or null"));
        }
        let name = if member.attributes.contains("flatten") {
            kind = format!("{kind}; its fields stand in this object");
            format!("({})", member.name)
        } else {
            format!("`{}`", member.name)
        };
        out.push_str(&format!("| {name} | {kind} | {} |\n", member.doc.replace('|', "\\|")));
    }
    out + "\n"
}

/// The sections of an enum's variants: a variant's own fields, or those of its type.
fn variants(all: &BTreeMap<String, Type>, of: &str, shown: &mut Vec<String>) -> String {
    let mut out = String::new();
    for variant in &all[of].members {
        let inner = inside(&variant.kind, "Box").unwrap_or(&variant.kind);
        out.push_str(&format!("### {}\n\n", variant.name));
        let held = all.get(inner);
        let said_again = held.is_some_and(|held| held.doc.starts_with(&variant.doc));
        if !said_again {
            out.push_str(&format!("{}\n\n", variant.doc));
        }
        if let Some(held) = held {
            shown.push(inner.to_owned());
            out.push_str(&format!("{}\n\n{}", held.doc, table(&held.members)));
        } else {
            out.push_str(&table(&variant.members));
        }
    }
    out
}

fn page(all: &BTreeMap<String, Type>) -> String {
    let mut shown = vec!["Event".to_owned(), "Command".to_owned(), "Number".to_owned()];
    let mut out = String::from(
        "# Events and commands\n\n\
         Made from the source of the contract (`crates/core/src/event.rs`) by `LEHR_RENEW=1 cargo test --test docs`; do not edit.\n\n\
         A run appends its events to `events.jsonl`, one JSON object a line with the kind in `event`. With `--control` a trainer reads \
         commands from standard input, one JSON object a line with the kind in `command`, and answers each with an event. A number that \
         JSON cannot hold is the string `\"NaN\"`, `\"Infinity\"` or `\"-Infinity\"`.\n\n## Events\n\n",
    );
    out.push_str(&variants(all, "Event", &mut shown));
    out.push_str("## Commands\n\n");
    out.push_str(&variants(all, "Command", &mut shown));
    out.push_str("## Objects inside events, and lines of samples.jsonl\n\n");
    for (name, held) in all.iter().filter(|(name, _)| !shown.contains(name)) {
        out.push_str(&format!("### {name}\n\n{}\n\n{}", held.doc, table(&held.members)));
    }
    out.trim_end().to_owned() + "\n"
}

#[test]
fn the_events_page_is_current() {
    let all: BTreeMap<_, _> = SOURCES.iter().flat_map(|file| types(&read(&root().join(file)))).collect();
    for needed in ["Event", "Command", "Step", "Tokens", "Norms"] {
        assert!(all.get(needed).is_some_and(|held| !held.members.is_empty()), "{needed} was not found in {SOURCES:?}");
    }
    compare("docs/reference/events.md", &page(&all));
}

#[test]
fn a_type_is_read_with_its_docs() {
    let source = "/// A thing\n/// that is.\n#[derive(Debug)]\npub enum Thing {\n    /// None.\n    Empty,\n    /// One.\n    One(Box<Part>),\n    \
                  /// Two.\n    Two {\n        /// Updates.\n        step: u64,\n    },\n}\n\npub fn f() {\n}\n\n/// A part.\n\
                  pub struct Part {\n    /// Width | height.\n    #[serde(flatten)]\n    pub size: Option<Vec<f64>>,\n}\n";
    let all = types(source);
    assert_eq!(all.keys().collect::<Vec<_>>(), ["Part", "Thing"]);
    assert_eq!(all["Thing"].doc, "A thing that is.");
    let names: Vec<_> = all["Thing"].members.iter().map(|m| (m.name.as_str(), m.kind.as_str(), m.doc.as_str())).collect();
    assert_eq!(names, [("Empty", "", "None."), ("One", "Box<Part>", "One."), ("Two", "", "Two.")]);
    assert_eq!(all["Thing"].members[2].members[0].name, "step");
    let rows = table(&all["Part"].members);
    assert!(
        rows.ends_with("| (size) | list of number or null; its fields stand in this object | Width \\| height. |\n\n"),
        "{rows}"
    );
}

//! The documents against the tree and the program: links, paths, names of items, command lines, and the two generated reference pages.
//! `LEHR_RENEW=1 cargo test --test docs` writes those pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of the tree: what a document puts between backticks and begins with one of these has to be there.
const FOLDERS: &[&str] =
    &["src/", "tests/", "scripts/", "shaders/", "assets/", "docs/", "benches/", "examples/", "fuzz/", ".ci/", ".github/"];
/// Capitals that are part of a file's name; any other part of a path in capitals stands for a name (`src/ops/NAME.rs`).
const CAPITALS: &[&str] = &["README", "LOG", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG", "SECURITY", "LICENSE", "SUMMARY"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder of the tree whose names end so, sorted.
fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, suffix: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, suffix, found);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), suffix, &mut found);
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).replace("\r\n", "\n")
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// Every page that people read.
fn pages() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
        .iter()
        .map(|file| root().join(file))
        .collect();
    all.extend(files("docs", ".md"));
    all
}

/// Those that people write: results and reference pages come from programs.
fn written() -> Vec<PathBuf> {
    let made = |path: &PathBuf| ["docs/results/", "docs/reference/", "CHANGELOG.md"].iter().any(|m| name(path).starts_with(m));
    pages().into_iter().filter(|path| !made(path)).collect()
}

fn fail_if_any(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// A stretch of text with the line that it begins on, counted from 1.
#[derive(Debug, PartialEq)]
struct Part {
    line: usize,
    text: String,
}

/// Paragraphs outside of fenced blocks, and the fenced blocks.
fn parts(text: &str) -> (Vec<Part>, Vec<Part>) {
    let (mut paragraphs, mut blocks): (Vec<Part>, Vec<Part>) = (Vec::new(), Vec::new());
    let (mut fenced, mut fresh) = (false, true);
    for (i, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            fresh = true;
            if fenced {
                blocks.push(Part { line: i + 2, text: String::new() });
            }
        } else if fenced {
            let block = blocks.last_mut().expect("a block was opened");
            block.text.push_str(line);
            block.text.push('\n');
        } else if line.trim().is_empty() {
            fresh = true;
        } else {
            if fresh {
                paragraphs.push(Part { line: i + 1, text: String::new() });
                fresh = false;
            }
            let paragraph = paragraphs.last_mut().expect("a paragraph was opened");
            paragraph.text.push_str(line);
            paragraph.text.push('\n');
        }
    }
    (paragraphs, blocks)
}

/// What stands between backticks, with its line.
fn code(paragraphs: &[Part]) -> Vec<Part> {
    let mut found = Vec::new();
    for Part { line, text } in paragraphs {
        let mut at = *line;
        for (i, piece) in text.split('`').enumerate() {
            if i % 2 == 1 {
                found.push(Part { line: at, text: piece.split_whitespace().collect::<Vec<_>>().join(" ") });
            }
            at += piece.matches('\n').count();
        }
    }
    found
}

/// The comments of a source file as text, other lines empty, so that line numbers stay.
fn comments(source: &str) -> String {
    let comment = |line: &str| {
        let at = if line.trim_start().starts_with("//") { line.find("//") } else { line.find(" // ").map(|at| at + 1) };
        at.map(|at| line[at..].trim_start_matches(['/', '!']).trim().to_owned()).unwrap_or_default()
    };
    source.lines().map(comment).collect::<Vec<_>>().join("\n")
}

/// The path of the tree that a piece of code names, if it names one.
fn path_of(code: &str) -> Option<&str> {
    let word = code.split_whitespace().next()?.trim_end_matches(['.', ',', ':', ';', '/']);
    let pattern = word.contains(['*', '<', '{', '$', '|']) || word.contains("...");
    let stands_for_a_name = |part: &str| part.chars().all(|c| c.is_ascii_uppercase()) && !CAPITALS.contains(&part);
    if pattern || word.split(['/', '.']).any(|part| !part.is_empty() && stands_for_a_name(part)) {
        return None;
    }
    let named = FOLDERS.iter().any(|folder| word.starts_with(folder));
    (named || (word.contains('/') && word.ends_with(".rs"))).then_some(word)
}

/// Whether a path is there: from the root, or as `session/open.rs`, from `src`.
fn exists(path: &str) -> bool {
    root().join(path).exists() || root().join("src").join(path).exists()
}

/// As web pages make it from a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Targets of Markdown links and pictures, code left out.
fn links(paragraphs: &[Part]) -> Vec<Part> {
    let mut found = Vec::new();
    for Part { line, text } in paragraphs {
        let plain: String =
            text.split('`').enumerate().map(|(i, s)| if i % 2 == 0 { s.to_owned() } else { s.replace("](", "  ") }).collect();
        for (at, _) in plain.match_indices("](") {
            let target = plain[at + 2..].split([')', ' ', '\n']).next().unwrap_or_default();
            found.push(Part { line: line + plain[..at].matches('\n').count(), text: target.to_owned() });
        }
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let mut failures = Vec::new();
    for page in pages() {
        let (paragraphs, _) = parts(&read(&page));
        for Part { line, text } in links(&paragraphs) {
            if text.contains("://") || text.starts_with("mailto:") {
                continue;
            }
            let (path, fragment) = text.split_once('#').unwrap_or((&text, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().expect("a folder").join(path) };
            if !target.exists() {
                failures.push(format!("{}:{line}: links to {path}, which is not there", name(&page)));
            } else if !fragment.is_empty() && target.extension().is_some_and(|e| e == "md") {
                let headings: BTreeSet<String> =
                    read(&target).lines().filter(|l| l.starts_with('#')).map(|l| anchor(l.trim_start_matches('#'))).collect();
                if !headings.contains(fragment) {
                    failures.push(format!("{}:{line}: {} has no heading #{fragment}", name(&page), name(&target)));
                }
            }
        }
    }
    fail_if_any(&failures);
}

#[test]
fn the_summary_lists_every_page() {
    let (paragraphs, _) = parts(&read(&root().join("docs/SUMMARY.md")));
    let listed: BTreeSet<PathBuf> = links(&paragraphs).iter().map(|link| root().join("docs").join(&link.text)).collect();
    let summary = root().join("docs/SUMMARY.md");
    let missing = files("docs", ".md").into_iter().filter(|page| *page != summary && !listed.contains(page));
    fail_if_any(&missing.map(|page| format!("docs/SUMMARY.md does not list {}", name(&page))).collect::<Vec<_>>());
}

#[test]
fn paths_in_documents_and_comments_are_there() {
    let mut failures = Vec::new();
    let mut check = |file: &Path, text: &str| {
        let (paragraphs, _) = parts(text);
        for Part { line, text } in code(&paragraphs) {
            if let Some(path) = path_of(&text).filter(|path| !exists(path)) {
                failures.push(format!("{}:{line}: {path} is not there", name(file)));
            }
        }
    };
    written().iter().for_each(|page| check(page, &read(page)));
    files("src", ".rs").iter().for_each(|file| check(file, &comments(&read(file))));
    fail_if_any(&failures);
}

/// Pages that a comment cites: words that end in `.md`, and a former design paper by its name.
fn cited(comment: &str) -> Vec<String> {
    let words = comment.split(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '/' | '_' | '-')));
    let words = words.map(|word| word.trim_end_matches('.').to_owned());
    words.filter(|word| (word.ends_with(".md") && word.len() > 3) || word == "DESIGN").collect()
}

#[test]
fn comments_cite_only_pages_of_the_tree() {
    let mut failures = Vec::new();
    for file in [files("src", ".rs"), files("tests", ".rs"), files("shaders", ".wgsl")].concat() {
        if file.ends_with("tests/docs.rs") {
            continue;
        }
        for (i, line) in comments(&read(&file)).lines().enumerate() {
            let absent = cited(line).into_iter().filter(|page| !root().join(page).exists());
            failures.extend(absent.map(|page| format!("{}:{}: cites {page}, which is not there", name(&file), i + 1)));
        }
    }
    fail_if_any(&failures);
}

/// The parts of a name such as `Trainer::step` or `cli::main`; None of anything else.
fn item(code: &str) -> Option<Vec<&str>> {
    let plain = |c: char| c.is_alphanumeric() || c == '_';
    let parts: Vec<&str> = code.trim_end_matches("()").split("::").collect();
    let fine = parts.iter().all(|part| !part.is_empty() && part.chars().all(plain));
    (parts.len() > 1 && fine).then_some(parts)
}

#[test]
fn items_that_documents_name_exist() {
    let sources = [files("src", ".rs"), files("tests", ".rs")].concat();
    let words: BTreeSet<String> = sources
        .iter()
        .flat_map(|file| read(file).split(|c: char| !(c.is_alphanumeric() || c == '_')).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut failures = Vec::new();
    for page in written() {
        let (paragraphs, _) = parts(&read(&page));
        for Part { line, text } in code(&paragraphs) {
            // One capital stands for a name of the reader's.
            let unknown = |part: &&&str| part.len() > 1 && !words.contains(**part);
            for part in item(&text).iter().flatten().filter(unknown) {
                failures.push(format!("{}:{line}: `{text}`: nothing is called {part}", name(&page)));
            }
        }
    }
    fail_if_any(&failures);
}

/// The page as it stands in the tree; with `LEHR_RENEW=1` it is written first.
fn compare(page: &str, wanted: &str) {
    let path = root().join(page);
    if std::env::var_os("LEHR_RENEW").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder of the page");
        fs::write(&path, wanted).unwrap_or_else(|e| panic!("{page}: {e}"));
    }
    let there = if path.exists() { read(&path) } else { String::new() };
    let first =
        there.lines().zip(wanted.lines()).position(|(a, b)| a != b).unwrap_or(there.lines().count().min(wanted.lines().count()));
    let line = |text: &str| text.lines().nth(first).unwrap_or("(the end)").to_owned();
    assert!(
        there == wanted,
        "{page} is stale at line {}:\n  in the page  {}\n  should be    {}\nrenew it with LEHR_RENEW=1 cargo test --test docs",
        first + 1,
        line(&there),
        line(wanted)
    );
}

/// `docs/reference/events.md` from the source of the contract: its types, their docstrings, and what serde does to them.
mod events {
    use super::{compare, read, root};
    use std::collections::BTreeMap;

    /// Where the contract stands.
    const SOURCES: &[&str] = &["src/event.rs", "src/event/tokens.rs", "src/event/inside.rs"];

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
                    found.insert(
                        name.to_owned(),
                        Type { doc: doc.join(" "), attributes: std::mem::take(&mut attributes), members },
                    );
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
             Made from the source of the contract (`src/event.rs`) by `LEHR_RENEW=1 cargo test --test docs`; do not edit.\n\n\
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
    fn the_page_of_events_is_current() {
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
}

/// `docs/reference/flags.md` from clap's tree, and the command lines of the documents put to clap. The window's feature has flags of its own.
#[cfg(feature = "app")]
mod flags {
    use super::{Part, code, compare, fail_if_any, name, parts, read, written};
    use clap::error::ErrorKind;
    use clap::{Arg, Command};
    use std::collections::BTreeSet;

    /// Flags of other programs that the documents name between backticks.
    const OF_OTHERS: &[&str] = &[
        "--release",
        "--no-default-features",
        "--features",
        "--test",
        "--locked",
        "--dry-run",
        "--lib",
        "--ignored",
        "--nocapture",
        "--vulkan",
        "--allow-dirty",
        "--list",
        "--path",
        "--user",
        "--all-targets",
    ];

    /// A value's help or an argument's, on one line; what looks like a tag of HTML is text.
    fn line(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ").replace('<', "\\<")
    }

    fn default_of(arg: &Arg) -> Option<String> {
        if arg.is_hide_default_value_set() || !arg.get_action().takes_values() || arg.get_default_values().is_empty() {
            return None;
        }
        let shown = |value: &clap::builder::OsStr| {
            let text = value.to_string_lossy().into_owned();
            if text.contains(char::is_whitespace) || text.is_empty() { format!("{text:?}") } else { text }
        };
        Some(arg.get_default_values().iter().map(shown).collect::<Vec<_>>().join(" "))
    }

    /// One argument as an item of a list, its values below it.
    fn entry(arg: &Arg) -> String {
        let short = arg.get_short().filter(|_| arg.get_long().is_some()).map(|c| format!("-{c}, ")).unwrap_or_default();
        let help = arg.get_long_help().or(arg.get_help()).map(|help| line(&help.to_string())).unwrap_or_default();
        let mut out = format!("- `{short}{arg}`: {help}");
        if let Some(default) = default_of(arg) {
            out.push_str(&format!(" (default `{default}`)"));
        }
        if let Some(aliases) = arg.get_visible_aliases().filter(|all| !all.is_empty()) {
            out.push_str(&format!(" (also `--{}`)", aliases.join("`, `--")));
        }
        out.push('\n');
        let values: Vec<_> = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set()).collect();
        if values.iter().any(|value| value.get_help().is_some()) {
            for value in &values {
                let help = value.get_help().map(|help| format!(": {}", line(&help.to_string()))).unwrap_or_default();
                out.push_str(&format!("  - `{}`{help}\n", value.get_name()));
            }
        } else if !values.is_empty() {
            let names: Vec<_> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
            out.push_str(&format!("  - {}\n", names.join(", ")));
        }
        out
    }

    /// A command with its arguments by the headings of `--help`, then its subcommands.
    fn section(command: &mut Command, path: &str, out: &mut String) {
        let about = command.get_long_about().or(command.get_about()).map(|about| line(&about.to_string())).unwrap_or_default();
        let usage = command.render_usage().to_string();
        out.push_str(&format!("## {path}\n\n{about}\n\n```text\n{}\n```\n\n", usage.trim()));
        let shown = |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
        let mut headings: Vec<&str> = Vec::new();
        let args: Vec<&Arg> = command.get_arguments().filter(shown).collect();
        let heading = |arg: &Arg| match arg.get_help_heading() {
            Some(heading) => heading.to_owned(),
            None if arg.is_positional() => "Arguments".to_owned(),
            None => "Options".to_owned(),
        };
        let of_args: Vec<String> = args.iter().map(|arg| heading(arg)).collect();
        let first = ["Arguments", "Options"].into_iter().filter(|first| of_args.iter().any(|of| of == first));
        headings.extend(first);
        for of in &of_args {
            if !headings.contains(&of.as_str()) {
                headings.push(of);
            }
        }
        for wanted in headings {
            out.push_str(&format!("**{wanted}**\n\n"));
            args.iter().zip(&of_args).filter(|(_, of)| *of == wanted).for_each(|(arg, _)| out.push_str(&entry(arg)));
            out.push('\n');
        }
        if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
            out.push_str(&format!("```text\n{}\n```\n\n", after.to_string().trim()));
        }
        for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            section(sub, &path, out);
        }
    }

    fn page() -> String {
        let mut out = String::from(
            "# Flags\n\nMade from the program's own command line by `LEHR_RENEW=1 cargo test --test docs`; do not edit. \
             `lehr COMMAND --help` prints the same. Every command also has `--help` and `--version`.\n\n",
        );
        let mut command = lehr::cli::command();
        command.build();
        section(&mut command, "lehr", &mut out);
        out.trim_end().to_owned() + "\n"
    }

    #[test]
    fn the_page_of_flags_is_current() {
        compare("docs/reference/flags.md", &page());
    }

    /// The words of a shell's line up to a comment, a pipe or a redirection; quotes as a shell takes them.
    fn shell(text: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
        for c in text.chars() {
            match (quote, c) {
                (Some(q), _) if c == q => quote = None,
                (None, '"' | '\'') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None, '#') if word.is_none() => break,
                (None, '|' | '>' | '<' | ';' | '&') => break,
                (None, c) if c.is_whitespace() => words.extend(word.take()),
                (_, c) => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }

    /// The command lines of lehr in a block of code, lines that end in a backslash joined.
    fn command_lines(block: &Part) -> Vec<Part> {
        let mut found: Vec<Part> = Vec::new();
        let mut open: Option<Part> = None;
        for (i, text) in block.text.lines().enumerate() {
            let begins = |text: &str| text.starts_with("lehr ") || text.starts_with("target/release/lehr ");
            let text = text.trim().trim_start_matches("$ ");
            let text = text.split(" | ").find(|piece| begins(piece)).unwrap_or(text);
            let (piece, more) = match text.strip_suffix('\\') {
                Some(piece) => (piece, true),
                None => (text, false),
            };
            match &mut open {
                Some(line) => line.text.push_str(piece),
                None if begins(text) => open = Some(Part { line: block.line + i, text: piece.to_owned() }),
                None => continue,
            }
            if !more {
                found.extend(open.take());
            }
        }
        found
    }

    #[test]
    fn command_lines_of_documents_are_understood() {
        let mut failures = Vec::new();
        let mut seen = 0;
        for page in written() {
            let (_, blocks) = parts(&read(&page));
            for Part { line, text } in blocks.iter().flat_map(command_lines) {
                seen += 1;
                let harmless =
                    [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
                if let Err(error) = lehr::cli::command().try_get_matches_from(shell(&text))
                    && !harmless.contains(&error.kind())
                {
                    failures.push(format!(
                        "{}:{line}: {text}\n  {}",
                        name(&page),
                        error.to_string().lines().next().unwrap_or_default()
                    ));
                }
            }
        }
        assert!(seen > 20, "only {seen} command lines were found");
        fail_if_any(&failures);
    }

    fn long_flags(command: &Command, found: &mut BTreeSet<String>) {
        for arg in command.get_arguments() {
            found.extend(arg.get_long().map(|long| format!("--{long}")));
            found.extend(arg.get_visible_aliases().into_iter().flatten().map(|long| format!("--{long}")));
        }
        command.get_subcommands().for_each(|sub| long_flags(sub, found));
    }

    #[test]
    fn flags_that_documents_name_exist() {
        let mut known: BTreeSet<String> = OF_OTHERS.iter().map(|flag| (*flag).to_owned()).collect();
        let mut command = lehr::cli::command();
        command.build();
        long_flags(&command, &mut known);
        let mut failures = Vec::new();
        for page in written() {
            let (paragraphs, _) = parts(&read(&page));
            for Part { line, text } in code(&paragraphs) {
                for word in text.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
                    let flag = word.split('=').next().unwrap_or(word).trim_end_matches([',', '.', ';', ':', ']']);
                    if !known.contains(flag) {
                        failures.push(format!("{}:{line}: `{text}`: no command has {flag}", name(&page)));
                    }
                }
            }
        }
        fail_if_any(&failures);
    }

    #[test]
    fn shell_lines_are_cut_as_a_shell_cuts_them() {
        assert_eq!(shell("lehr a --b \"c d\" 'e' f#g # h"), ["lehr", "a", "--b", "c d", "e", "f#g"]);
        assert_eq!(shell("lehr a \"\" > out"), ["lehr", "a", ""]);
        let block = Part { line: 3, text: "out\n$ echo x | lehr score --json\nlehr a \\\n    --b\nlehrer\n".into() };
        let lines: Vec<_> = command_lines(&block).into_iter().map(|part| (part.line, shell(&part.text))).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], (4, ["lehr", "score", "--json"].map(str::to_owned).to_vec()));
        assert_eq!(lines[1], (5, ["lehr", "a", "--b"].map(str::to_owned).to_vec()));
    }
}

mod checks_can_fail {
    use super::*;

    #[test]
    fn text_is_cut_into_paragraphs_and_blocks() {
        let (paragraphs, blocks) = parts("# A\nb `c\nd`\n\n```sh\nx\n```\ne\n");
        let lines: Vec<_> = paragraphs.iter().map(|p| (p.line, p.text.as_str())).collect();
        assert_eq!(lines, [(1, "# A\nb `c\nd`\n"), (8, "e\n")]);
        assert_eq!(blocks, [Part { line: 6, text: "x\n".into() }]);
        assert_eq!(code(&paragraphs), [Part { line: 2, text: "c d".into() }]);
    }

    #[test]
    fn paths_and_items_are_told_from_other_code() {
        assert_eq!(path_of("src/event.rs"), Some("src/event.rs"));
        assert_eq!(path_of("scripts/test --locked"), Some("scripts/test"));
        assert_eq!(path_of("session/nowhere.rs"), Some("session/nowhere.rs"));
        for other in ["src/ops/NAME.rs", "runs/a/events.jsonl", "ops/*/host.rs", "docs/{a,b}", "a / b"] {
            assert_eq!(path_of(other), None, "{other}");
        }
        assert!(exists("src/event.rs") && !exists("session/nowhere.rs"));
        assert_eq!(item("Trainer::step()"), Some(vec!["Trainer", "step"]));
        assert_eq!(item("a == b"), None);
        assert_eq!(item("reward"), None);
    }

    #[test]
    fn links_and_citations_are_found() {
        let (paragraphs, _) = parts("see [a](b.md#c \"t\") and `[x](y)`\n![p](q.png)\n");
        let found = links(&paragraphs);
        assert_eq!(found, [Part { line: 1, text: "b.md#c".into() }, Part { line: 2, text: "q.png".into() }]);
        assert_eq!(anchor(" Tasks, and `graders` "), "tasks-and-graders");
        assert_eq!(cited("figures (LOG.md), see reference/x.md 2.6."), ["LOG.md", "reference/x.md"]);
        assert_eq!(comments("let a = 1; // why\n/// doc\nlet b;"), "why\ndoc\n");
    }
}

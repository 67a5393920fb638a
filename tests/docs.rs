//! The documents against the tree and the program: links, paths, names of items, messages, command lines and their outputs, and the two
//! generated reference pages. `LEHR_RENEW=1 cargo test --test docs` writes those pages and the outputs.

#[path = "docs/events.rs"]
mod events;
// The window's feature has flags of its own, which the page holds.
#[cfg(feature = "app")]
#[path = "docs/flags.rs"]
mod flags;
#[path = "docs/outputs.rs"]
mod outputs;

use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of the tree: what a document puts between backticks and begins with one of these has to be there.
const FOLDERS: &[&str] = &[
    "src/",
    "crates/",
    "tests/",
    "scripts/",
    "shaders/",
    "assets/",
    "docs/",
    "benches/",
    "examples/",
    "fuzz/",
    ".ci/",
    ".github/",
];
/// Capitals that are part of a file's name; any other part of a path in capitals stands for a name (`crates/compute/src/ops/NAME.rs`).
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

/// Code between backticks, with its line.
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

/// Whether a path is there: from the root, or as `session/open.rs`, from `src` of a crate.
fn exists(path: &str) -> bool {
    ["", "src", "crates/core/src", "crates/compute/src"].iter().any(|from| root().join(from).join(path).exists())
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
fn links_resolve() {
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
fn the_readme_is_short() {
    let bytes = read(&root().join("README.md")).len();
    assert!(bytes <= 6 << 10, "README.md has {bytes} bytes; at most 6 KiB, the rest belongs into docs/");
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
fn paths_in_documents_and_comments_exist() {
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
    [files("src", ".rs"), files("crates", ".rs")].concat().iter().for_each(|file| check(file, &comments(&read(file))));
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
    for file in [files("src", ".rs"), files("crates", ".rs"), files("tests", ".rs"), files("shaders", ".wgsl")].concat() {
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

/// Terms of earlier versions (CONTRIBUTING.md, glossary), as words of code and documents.
const OLD_TERMS: &[&str] = &[
    "UnderWay",
    "Practice",
    "Examinee",
    "Asker",
    "Outlet",
    "look_around",
    "obey",
    "choosy",
    "by lot",
    "practised",
    "took the gradient",
    "rows of other people",
    "is thought to be",
    "what it begins from",
    "sound checkpoint",
    "learnt contexts",
    "settings of reinforcement",
    "look_at_next",
    "unmake",
    "Told",
    "Sink",
    "errand",
    "dear",
    "by chance",
    "of ours",
    "so many",
    "under way",
    "judged",
    "Judged",
    "stranger",
    "strangers",
    "goes on",
    "gone on",
    "going on",
    "somebody",
    "Said",
];

#[test]
fn old_terms_stay_out() {
    let pages: Vec<_> = written().into_iter().filter(|page| !page.ends_with("CONTRIBUTING.md")).collect();
    let mut failures = Vec::new();
    let sources = ["src", "crates", "tests", "benches", "examples", "fuzz"].map(|folder| files(folder, ".rs")).concat();
    for file in [pages, sources, files("shaders", ".wgsl"), files("fuzz", "README.md")].concat() {
        if file.ends_with("tests/docs.rs") {
            continue;
        }
        for (i, line) in read(&file).lines().enumerate() {
            let old = OLD_TERMS.iter().filter(|term| {
                let is_inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                line.match_indices(**term).any(|(at, term)| {
                    !is_inside(line[..at].chars().next_back()) && !is_inside(line[at + term.len()..].chars().next())
                })
            });
            failures.extend(old.map(|term| format!("{}:{}: `{term}`: see the glossary in CONTRIBUTING.md", name(&file), i + 1)));
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

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// What a type has, under its name: the words of its definition, and what its `impl` blocks define. Blocks begin in the first column, as
/// rustfmt lays them out.
fn types_of(source: &str, types: &mut BTreeMap<String, BTreeSet<String>>) {
    let (mut open, mut is_impl): (Vec<String>, bool) = (Vec::new(), false);
    for line in source.lines() {
        let head =
            !line.starts_with([' ', '}', '/', '#']) && words(line).any(|w| ["impl", "struct", "enum", "trait"].contains(&w));
        if head {
            let named = |word: &&str| word.starts_with(|c: char| c.is_ascii_uppercase());
            open = words(line).filter(named).map(str::to_owned).collect();
            is_impl = words(line).next() == Some("impl");
        }
        let all: Vec<&str> = words(line).collect();
        let defined = |i: &usize| !is_impl || (*i > 0 && ["fn", "const", "type"].contains(&all[i - 1]));
        let members: Vec<String> = (0..all.len()).filter(defined).map(|i| all[i].to_owned()).collect();
        for name in &open {
            types.entry(name.clone()).or_default().extend(members.iter().cloned());
        }
        if line.starts_with('}') || (head && line.ends_with([';', '}'])) {
            open.clear();
        }
    }
}

/// Names of ops in a source, such as `swiglu.forward`.
fn ops(source: &str) -> Vec<String> {
    source.split('"').filter(|text| is_op(text)).map(str::to_owned).collect()
}

/// Whether this is the name of an op: a shader and an entry point.
fn is_op(text: &str) -> bool {
    let parts = text.split_once('.').filter(|(_, entry)| words(entry).eq([*entry]));
    parts.is_some_and(|(stem, _)| words(stem).eq([stem]) && root().join(format!("shaders/{stem}.wgsl")).exists())
}

/// A type or an op that ARCHITECTURE.md names alone: `TensorSpec`, `swiglu.forward`.
fn single<'a>(page: &Path, code: &'a str) -> Option<Vec<&'a str>> {
    let is_type = code.starts_with(|c: char| c.is_ascii_uppercase()) && code.contains(|c: char| c.is_ascii_lowercase());
    let is_name = is_op(code) || (is_type && code.chars().all(char::is_alphanumeric));
    (is_name && page.ends_with("ARCHITECTURE.md")).then(|| vec![code])
}

#[test]
fn items_that_documents_name_exist() {
    let mut known = BTreeSet::new();
    let mut types = BTreeMap::new();
    for file in [files("src", ".rs"), files("crates", ".rs"), files("tests", ".rs")].concat() {
        let text = read(&file);
        known.extend(words(&text).map(str::to_owned));
        known.extend(ops(&text));
        types_of(&text, &mut types);
    }
    let mut failures = Vec::new();
    for page in written() {
        let (paragraphs, _) = parts(&read(&page));
        for Part { line, text } in code(&paragraphs) {
            let parts = item(&text).or_else(|| single(&page, &text)).unwrap_or_default();
            // A single capital is a placeholder.
            let unknown = |part: &&&str| part.len() > 1 && !known.contains(**part);
            for part in parts.iter().filter(unknown) {
                failures.push(format!("{}:{line}: `{text}`: nothing is called {part}", name(&page)));
            }
            for pair in parts.windows(2) {
                if types.get(pair[0]).is_some_and(|of| !of.contains(pair[1])) {
                    failures.push(format!("{}:{line}: `{text}`: {} has no {}", name(&page), pair[0], pair[1]));
                }
            }
        }
    }
    fail_if_any(&failures);
}

/// Sources as readers of messages see them: lines of a text joined, `...` for what is filled in, no backticks.
fn as_said(source: &str) -> String {
    let joined = Regex::new(r"\\\n\s*").expect("a pattern").replace_all(source, "").into_owned();
    let filled = Regex::new(r"\{[^{}\n]*\}").expect("a pattern").replace_all(&joined, "...").into_owned();
    filled.replace('`', "").replace("\\\"", "\"")
}

#[test]
fn explained_messages_exist() {
    let sources =
        as_said(&[files("src", ".rs"), files("crates", ".rs")].concat().iter().map(|file| read(file)).collect::<String>());
    let (paragraphs, _) = parts(&read(&root().join("docs/troubleshooting.md")));
    let (mut failures, mut seen) = (Vec::new(), 0);
    for paragraph in paragraphs.into_iter().filter(|paragraph| paragraph.text.starts_with("**`")) {
        let Some(Part { line, text }) = code(&[paragraph]).into_iter().next() else { continue };
        seen += 1;
        let pieces = text.split("...").map(str::trim).filter(|piece| piece.len() >= 8);
        let unknown = pieces.filter(|piece| !sources.contains(piece));
        failures.extend(unknown.map(|piece| format!("docs/troubleshooting.md:{line}: no message says '{piece}'")));
    }
    assert!(seen > 20, "only {seen} messages were found");
    fail_if_any(&failures);
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
    fn paths_and_items_are_recognised() {
        assert_eq!(path_of("crates/core/src/event.rs"), Some("crates/core/src/event.rs"));
        assert_eq!(path_of("scripts/test --locked"), Some("scripts/test"));
        assert_eq!(path_of("session/nowhere.rs"), Some("session/nowhere.rs"));
        for other in ["crates/compute/src/ops/NAME.rs", "runs/a/events.jsonl", "ops/*/host.rs", "docs/{a,b}", "a / b"] {
            assert_eq!(path_of(other), None, "{other}");
        }
        assert!(exists("crates/core/src/event.rs") && !exists("session/nowhere.rs"));
        assert_eq!(item("Trainer::step()"), Some(vec!["Trainer", "step"]));
        assert_eq!(item("a == b"), None);
        assert_eq!(item("reward"), None);
    }

    #[test]
    fn shell_lines_are_split_as_a_shell_does() {
        assert_eq!(shell("lehr a --b \"c d\" 'e' f#g # h"), ["lehr", "a", "--b", "c d", "e", "f#g"]);
        assert_eq!(shell("lehr a \"\" > out"), ["lehr", "a", ""]);
    }

    #[test]
    fn members_belong_to_their_type() {
        let mut types = BTreeMap::new();
        let source = "pub struct Unit;\nenum E {\n    One(Two),\n}\nimpl Show for E {\n    fn show() {\n        called();\n    }\n}\nfn free(e: E) {\n    loose();\n}\n";
        types_of(source, &mut types);
        assert!(types["E"].contains("One") && types["E"].contains("show") && types["Show"].contains("show"));
        assert!(
            !types["E"].contains("loose")
                && !types["E"].contains("called")
                && !types["E"].contains("free")
                && !types["Unit"].contains("One")
        );
    }

    #[test]
    fn messages_are_found_in_sources() {
        let source = "f!(\n    \"{name}: is `no` run; \\\n     use {}\"\n)";
        assert!(as_said(source).contains("...: is no run; use ..."), "{}", as_said(source));
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

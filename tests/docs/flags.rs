//! `docs/reference/flags.md` from clap's tree, and the command lines of the documents put to clap. The window's feature has flags of its own.

use super::{Part, code, compare, fail_if_any, name, parts, read, shell, written};
use clap::error::ErrorKind;
use clap::{Arg, Command};
use std::collections::BTreeSet;

/// Flags of other programs that the documents name between backticks.
const OF_OTHERS: &[&str] = &[
    "--fusions",
    "--kernels",
    "--overlap",
    "--table",
    "--update",
    "--release",
    "--no-default-features",
    "--features",
    "--test",
    "--tests",
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
    "--mca",
    "--mpi",
];

/// The help of a value or an argument, on one line, with HTML escaped.
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
fn the_flags_page_is_current() {
    compare("docs/reference/flags.md", &page());
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
fn command_lines_in_documents_parse() {
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
                    failures.push(format!(
                        "{}:{line}: `{text}`: no command has {flag} (those of other programs: OF_OTHERS in tests/docs/flags.rs)",
                        name(&page)
                    ));
                }
            }
        }
    }
    fail_if_any(&failures);
}

#[test]
fn command_lines_are_found_in_blocks() {
    let block = Part { line: 3, text: "out\n$ echo x | lehr score --json\nlehr a \\\n    --b\nlehrer\n".into() };
    let lines: Vec<_> = command_lines(&block).into_iter().map(|part| (part.line, shell(&part.text))).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], (4, ["lehr", "score", "--json"].map(str::to_owned).to_vec()));
    assert_eq!(lines[1], (5, ["lehr", "a", "--b"].map(str::to_owned).to_vec()));
}

//! Blocks of commands with their outputs. Those whose outputs are the same everywhere are fenced as `console,tested`, run here, and compared line by
//! line; the others are fenced as `console,recorded`, and `scripts/record-docs` writes them. (`trycmd` would take more lines to say where a page's
//! commands run and to renew pages together with the generated ones.)

use super::{compare, fail_if_any, name, read, shell, written};
use std::path::Path;
use std::process::{Command, Stdio};

const FENCE: &str = "```console,tested";

/// What a command line prints: standard output, then standard error.
fn output(line: &str, folder: &Path) -> String {
    let words = shell(line);
    assert_eq!(words.first().map(String::as_str), Some("lehr"), "{line}: only lehr is run");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lehr"));
    command.args(&words[1..]).current_dir(folder).stdin(Stdio::null()).env("LEHR_ADAPTER", "cpu").env("COLUMNS", "100");
    let done = command.output().unwrap_or_else(|e| panic!("{line}: {e}"));
    let text = [done.stdout, done.stderr].concat();
    String::from_utf8_lossy(&text).replace("\r\n", "\n").trim_end().to_owned()
}

/// A page with the outputs of its tested blocks as `run` gives them, and how many commands were run.
fn renewed(page: &str, mut run: impl FnMut(&str) -> String) -> (String, usize) {
    let (mut out, mut count, mut inside) = (String::new(), 0, false);
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == FENCE;
        } else if inside {
            // Lines between the commands are outputs, which are put in below.
            let Some(command) = line.strip_prefix("$ ") else { continue };
            count += 1;
            let result = run(command);
            out.push_str(&format!("{line}\n{result}{}", if result.is_empty() { "" } else { "\n" }));
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    (out, count)
}

#[test]
fn tested_blocks_match_the_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut all = 0;
    for page in written() {
        let (wanted, count) = renewed(&read(&page), |line| output(line, folder.path()));
        if count > 0 {
            compare(&name(&page), &wanted);
        }
        all += count;
    }
    assert!(all > 3, "only {all} commands were found");
}

/// Every block is run here, recorded with this version, or says why it cannot be.
#[test]
fn blocks_are_tested_or_recorded() {
    let mut failures = Vec::new();
    let script = read(&super::root().join("scripts/record-docs"));
    for page in written() {
        let text = read(&page);
        let mut above = "";
        for (i, line) in text.lines().enumerate() {
            let reason = above.strip_prefix("<!-- not recorded: ").and_then(|text| text.strip_suffix(" -->"));
            let is_known = [FENCE, "```console,recorded"].contains(&line.trim_end())
                || line == "```console" && reason.is_some_and(|text| !text.trim().is_empty());
            if line.trim_start().starts_with("```console") && !is_known {
                let at = format!("{}:{}", name(&page), i + 1);
                failures.push(format!(
                    "{at}: fence it as `console,tested` or `console,recorded`, or say above it why it is not recorded"
                ));
            }
            above = if line.is_empty() { above } else { line };
        }
        let stamp = format!("Recorded with lehr {} on ", env!("CARGO_PKG_VERSION"));
        let file = page.file_name().unwrap_or_default().to_string_lossy();
        if text.contains("```console,recorded") && !script.contains(&format!("{file}\"")) {
            failures.push(format!("{}: not in PAGES of scripts/record-docs, which would renew it", name(&page)));
        }
        if text.contains("```console,recorded") && text.lines().filter(|line| line.starts_with(&stamp)).count() != 1 {
            failures.push(format!("{}: not recorded with this version: run scripts/record-docs", name(&page)));
        }
    }
    fail_if_any(&failures);
}

#[test]
fn outputs_are_placed_below_their_commands() {
    let page = "a\n```console,tested\n$ lehr x\nold\nolder\n$ lehr y\n```\n```console\n$ lehr z\nkept\n```\n";
    let (text, count) = renewed(page, |line| if line == "lehr x" { "new".into() } else { String::new() });
    assert_eq!(count, 2);
    assert_eq!(text, "a\n```console,tested\n$ lehr x\nnew\n$ lehr y\n```\n```console\n$ lehr z\nkept\n```\n");
}

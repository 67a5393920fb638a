//! Locates the answer in a completion.

/// A located answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocatedAnswer<'a> {
    /// The text in `\boxed{...}`, `\fbox{...}` or `<answer>...</answer>`: only the answer.
    Marked(&'a str),
    /// The text after `####`, to the end of the line: its first number counts.
    Hashes(&'a str),
    /// Text without a marker: its last number counts.
    Plain(&'a str),
}

impl<'a> LocatedAnswer<'a> {
    /// The text, for any marker.
    pub fn text(self) -> &'a str {
        match self {
            Self::Marked(text) | Self::Hashes(text) | Self::Plain(text) => text,
        }
    }
}

const THINK: [&str; 2] = ["<think>", "</think>"];
const ANSWER: [&str; 2] = ["<answer>", "</answer>"];

/// The text after the reasoning; empty for unfinished reasoning, including reasoning begun by the prompt.
pub fn after_reasoning<'a>(prompt: &str, completion: &'a str) -> &'a str {
    let [open, close] = THINK;
    let text = match completion.rsplit_once(close) {
        Some((_, after)) => after,
        None if prompt.trim_end().ends_with(open) => "",
        None => completion,
    };
    text.split_once(open).map_or(text, |(before, _)| before)
}

/// Locates the answer in a text without reasoning. The last `<answer>...</answer>` is searched, if there is one: the content of the last
/// `\boxed{...}` (with matched braces), else the text after the first `####` that a number follows, else all of it.
///
/// The first `####`, since a model with few-shot prompts continues with questions of its own (lm-evaluation-harness also takes the first).
/// A marker that is left open at the end of the text counts if there is no other.
pub fn find(text: &str) -> LocatedAnswer<'_> {
    let [open, close] = ANSWER;
    let (inside, is_marked) = match text.rsplit_once(close) {
        Some((before, _)) => before.rsplit_once(open).map_or((before, false), |(_, inside)| (inside, true)),
        None => text.rsplit_once(open).map_or((text, false), |(_, inside)| (inside, true)),
    };
    if let Some(boxed) = last_boxed(inside) {
        return LocatedAnswer::Marked(boxed.trim());
    }
    if let Some(line) = hashes(inside) {
        return LocatedAnswer::Hashes(line);
    }
    if is_marked { LocatedAnswer::Marked(inside.trim()) } else { LocatedAnswer::Plain(inside.trim()) }
}

/// The text after `####`: the first with a number directly after it, else the first with a number in its line, else the first.
fn hashes(text: &str) -> Option<&str> {
    const MARK: &str = "####";
    const MOST: usize = 64;
    let lines = || {
        text.match_indices(MARK).take(MOST).map(|(at, _)| {
            let rest = text[at + MARK.len()..].trim_start_matches('#').trim_start();
            rest.lines().next().unwrap_or_default().trim()
        })
    };
    let begins = |line: &&str| super::reading::first_number(line, true).is_some();
    let holds = |line: &&str| line.bytes().any(|byte| byte.is_ascii_digit());
    lines().find(begins).or_else(|| lines().find(holds)).or_else(|| lines().next())
}

/// The content of the last closed `\boxed{...}` or `\fbox{...}`; else of the last unclosed one, to the end; else the text after the last
/// `\boxed` without braces. One pass backwards: the stack holds unmatched closing braces.
fn last_boxed(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let escaped = |at: usize| bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
    let mut closing: Vec<usize> = Vec::new();
    let mut open = None;
    for (at, byte) in bytes.iter().enumerate().rev() {
        match byte {
            b'}' if !escaped(at) => closing.push(at),
            b'{' if !escaped(at) => {
                let end = closing.pop();
                if is_box(text[..at].trim_end_matches(' ')) {
                    match end {
                        Some(end) => return Some(&text[at + 1..end]),
                        None => open = open.or(Some(&text[at + 1..])),
                    }
                }
            }
            _ => {}
        }
    }
    open.or_else(|| {
        let rest = text.rsplit_once("\\boxed")?.1.trim_start_matches(' ');
        let end = rest.find(|c: char| c.is_whitespace() || c == '$').unwrap_or(rest.len());
        (end > 0 && !rest.starts_with('{')).then_some(&rest[..end])
    })
}

fn is_box(text: &str) -> bool {
    text.ends_with("\\boxed") || text.ends_with("\\fbox")
}

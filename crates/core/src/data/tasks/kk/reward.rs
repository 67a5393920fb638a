//! The rule-based reward of Logic-RL, with its totals: 3 for the right answer, -0.5 for a wrong one, -1 for one that cannot be parsed
//! although the tags are right, -3 for invalid tags.
//!
//! All rules take linear time, whatever the text contains.

use super::super::Grade;
use super::compact::role;
use crate::config::PuzzleForm;
use anyhow::{Result, ensure};

/// The tags, in their required order.
pub const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];

/// Maximum people in a solution; rows of a file are not trusted.
const MOST_NAMES: usize = 64;

/// Names and whether each is a knight.
pub type PersonRoles = Vec<(String, bool)>;

/// The people and roles in a solution's text (`(1) Zoey is a knight`, one line per person). The name is the text between the number and
/// `is a knight` (or knave), in any form: José, Jean-Luc, Mary Ann, R2. In a line with another wording the name is the first word, and the
/// role the first `knight` or `knave` after it; lines without either are ignored.
///
/// # Errors
/// A text without names.
pub fn roles(solution: &str) -> Result<PersonRoles> {
    let mut roles = PersonRoles::new();
    for line in solution.split('\n') {
        let Some((name, knight)) = role_in(line) else { continue };
        match roles.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = knight,
            None => roles.push((name.to_owned(), knight)),
        }
        ensure!(roles.len() <= MOST_NAMES, "names more than {MOST_NAMES} people");
    }
    ensure!(!roles.is_empty(), "names no person; write a line such as (1) Zoey is a knight for each person");
    Ok(roles)
}

fn role_in(line: &str) -> Option<(&str, bool)> {
    let line = unnumbered(line.trim());
    if let Some((at, knight)) = said_in(line)
        && let name = line[..at].trim()
        && name.chars().any(char::is_alphanumeric)
    {
        return Some((name, knight));
    }
    let mut words = line.split(|c: char| !is_word(c)).filter(|word| word.chars().any(char::is_alphabetic));
    let name = words.next()?;
    Some((name, words.find_map(role_of)?))
}

/// The line without its number, `(1)`, `1.` or `1)`, or its bullet.
fn unnumbered(line: &str) -> &str {
    let bare = line.strip_prefix(['(', '-', '*', '•']).unwrap_or(line).trim_start();
    let digits = bare.trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered = digits.len() < bare.len() && digits.starts_with([')', '.']);
    if numbered {
        digits[1..].trim_start()
    } else if line.starts_with('(') {
        line
    } else {
        bare
    }
}

/// Position of ` is a knight` or ` is a knave` in a line, and whether it is a knight.
fn said_in(line: &str) -> Option<(usize, bool)> {
    line.char_indices().find_map(|(at, c)| {
        let rest = c.is_whitespace().then(|| skip_spaces(&line[at..])).flatten()?;
        let rest = ["is", "a"].into_iter().try_fold(rest, |rest, word| skip_spaces(after_folded(rest, word)?))?;
        let stated = |knight: bool| after_folded(rest, role(knight)).is_some_and(|after| !after.starts_with(is_word));
        [true, false].into_iter().find(|knight| stated(*knight)).map(|knight| (at, knight))
    })
}

/// Checks that the solution itself, in the required wording, gets the full reward.
///
/// # Errors
/// The reason why it does not.
pub fn check(form: PuzzleForm, solution: &str) -> Result<()> {
    let roles = roles(solution)?;
    let answer: Vec<String> = match form {
        PuzzleForm::Natural => vec![solution.to_owned()],
        PuzzleForm::Compact => roles.iter().map(|(name, knight)| format!("{name} {}", role(*knight))).collect(),
    };
    let grade = grade(form, &roles, TAGS[0], &format!("</think><answer>{}</answer>", answer.join(" ")));
    ensure!(grade.correct, "solution_text_format: is not right by itself: {}", grade.reason);
    Ok(())
}

fn role_of(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "knight" => Some(true),
        "knave" => Some(false),
        _ => None,
    }
}

/// The graded part of prompt and response, in two pieces.
///
/// The public rule grades the text after `Assistant:`, or else `<|im_start|>assistant`, of prompt and response together, so that a
/// `<think>` at the end of the prompt counts. Of a prompt with neither marker only that ending is graded, since its instructions may
/// mention tags too.
pub fn graded_text<'a>(prompt: &'a str, response: &'a str) -> (&'a str, &'a str) {
    for mark in ["Assistant:", "<|im_start|>assistant"] {
        if let Some(at) = prompt.find(mark) {
            return (&prompt[at + mark.len()..], response);
        }
        if let Some(at) = response.find(mark) {
            return ("", &response[at + mark.len()..]);
        }
    }
    if prompt.trim_end().ends_with(TAGS[0]) { (TAGS[0], response) } else { ("", response) }
}

/// Grades a response to a prompt.
pub fn grade(form: PuzzleForm, roles: &PersonRoles, prompt: &str, response: &str) -> Grade {
    let (before, after) = graded_text(prompt, response);
    let broken = broken_format(before, after);
    let format = if broken.is_some() { -1.0 } else { 1.0 };
    let (answer, reason) = match broken {
        Some(why) => (-2.0, why),
        None => match answer_of(after).ok_or_else(|| "no answer".to_owned()).and_then(|answer| compare(form, roles, answer)) {
            Ok(None) => (2.0, "right".to_owned()),
            Ok(Some(name)) => (-1.5, format!("wrong about {name}")),
            Err(why) => (-2.0, why),
        },
    };
    Grade {
        reward: format + answer,
        correct: answer > 0.0,
        parts: [("format".to_owned(), format), ("answer".to_owned(), answer)].into(),
        reason,
        ungraded: false,
    }
}

/// The error in the tags, if any.
fn broken_format(before: &str, after: &str) -> Option<String> {
    let mut last = 0;
    for (i, tag) in TAGS.into_iter().enumerate() {
        match before.matches(tag).count() + after.matches(tag).count() {
            0 => return Some(format!("no {tag}")),
            1 => {}
            n => return Some(format!("{n} times {tag}")),
        }
        let at = before.find(tag).or_else(|| after.find(tag).map(|at| before.len() + at)).unwrap_or(0);
        if i > 0 && at < last {
            return Some(format!("{} behind {tag}", TAGS[i - 1]));
        }
        last = at;
    }
    None
}

/// The content of the last `<answer>...</answer>`.
fn answer_of(text: &str) -> Option<&str> {
    let [_, _, open, close] = TAGS;
    let (mut rest, mut last) = (text, None);
    while let Some(start) = rest.find(open) {
        let inside = &rest[start + open.len()..];
        let Some(end) = inside.find(close) else { break };
        last = Some(inside[..end].trim());
        rest = &inside[end + close.len()..];
    }
    last
}

/// `Ok(None)` if all roles are right, else the first wrong one; an error if the answer cannot be parsed: the words `knight` and `knave`
/// must occur as often as there are people, and each person's role must be stated in the form's wording.
fn compare<'a>(form: PuzzleForm, roles: &'a PersonRoles, answer: &str) -> Result<Option<&'a str>, String> {
    let stated = occurrences(answer, role(true)) + occurrences(answer, role(false));
    if stated != roles.len() {
        return Err(format!("{stated} roles for {} people", roles.len()));
    }
    let mut wrong = None;
    for (name, knight) in roles {
        match stated_role(form, answer, name, roles) {
            None => return Err(format!("no role of {name}")),
            Some(stated) if stated != *knight => wrong = wrong.or(Some(name.as_str())),
            Some(_) => {}
        }
    }
    Ok(wrong)
}

/// Number of case-insensitive occurrences of a lower-case word, including those within other words.
fn occurrences(text: &str, word: &str) -> usize {
    let (mut count, mut skip_to) = (0, 0);
    for (at, _) in text.char_indices() {
        if let Some(rest) = (at >= skip_to).then(|| after(&text[at..], word, lower)).flatten() {
            count += 1;
            skip_to = text.len() - rest.len();
        }
    }
    count
}

/// The rest of the text after `word`, if it begins with that after case folding with `fold`.
fn after<'a>(text: &'a str, word: &str, fold: fn(char) -> char) -> Option<&'a str> {
    let mut rest = text.chars();
    for wanted in word.chars() {
        if rest.next().map(fold) != Some(fold(wanted)) {
            return None;
        }
    }
    Some(rest.as_str())
}

fn after_folded<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    after(text, word, fold)
}

/// Whether a text ends with `word`, ignoring case.
fn ends_folded(text: &str, word: &str) -> bool {
    let mut chars = text.chars().rev();
    word.chars().rev().all(|wanted| chars.next().map(fold) == Some(fold(wanted)))
}

/// Lower case as in Python's `lower`, for results that are ASCII letters: the Kelvin sign is a `k`.
fn lower(c: char) -> char {
    if c == '\u{212A}' { 'k' } else { c.to_ascii_lowercase() }
}

/// Case folding as in Python's regular expressions: a few non-ASCII letters match ASCII letters.
fn fold(c: char) -> char {
    match c {
        '\u{212A}' => 'k',
        '\u{17F}' => 's',
        '\u{130}' | '\u{131}' => 'i',
        c if c.is_ascii() => c.to_ascii_lowercase(),
        c => c.to_lowercase().next().unwrap_or(c),
    }
}

/// The first role stated for `name`: `NAME is a knight`, or `NAME knight` in the compact form. The end of a longer name (Mary Ann) does not
/// count as Ann.
fn stated_role(form: PuzzleForm, answer: &str, name: &str, all: &PersonRoles) -> Option<bool> {
    let longer: Vec<&str> =
        all.iter().filter_map(|(other, _)| other.strip_suffix(name)).filter(|front| !front.is_empty()).collect();
    let between: &[&str] = match form {
        PuzzleForm::Natural => &["is", "a"],
        PuzzleForm::Compact => &[],
    };
    let mut before = None;
    for (at, c) in answer.char_indices() {
        let begins = before.is_none_or(|b| !is_word(b));
        before = Some(c);
        let Some(rest) = after_folded(&answer[at..], name).filter(|_| begins) else { continue };
        if longer.iter().any(|front| ends_folded(&answer[..at], front)) {
            continue;
        }
        let rest = between.iter().try_fold(rest, |rest, word| after_folded(skip_spaces(rest)?, word));
        let Some(rest) = rest.and_then(skip_spaces) else { continue };
        for knight in [true, false] {
            let after = after_folded(rest, role(knight));
            if after.is_some_and(|after| !after.starts_with(is_word)) {
                return Some(knight);
            }
        }
    }
    None
}

/// The rest after one or more spaces.
fn skip_spaces(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
    (rest.len() < text.len()).then_some(rest)
}

/// A letter, digit or underscore.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

//! Parses puzzle text into claims: the wording of the public rows, and the compact one.

use super::claim::{Claim, ClaimNode, MOST_PEOPLE};
use super::compact;
use crate::data::display_text;
use anyhow::{Context, Result, anyhow, bail, ensure};

/// Maximum depth of nested brackets.
const MOST_BRACKETS: usize = 64;

/// The people of a puzzle and their claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedPuzzle {
    /// Names, in the order in which the puzzle introduces them.
    pub names: Vec<String>,
    /// Claims, in the same order.
    pub claims: Vec<Claim>,
}

/// Whether a text is a puzzle in the compact wording: `A says ...`.
pub fn is_compact(quiz: &str) -> bool {
    quiz.trim_start().starts_with("A says ")
}

/// Parses a puzzle. In English every sentence after "You meet n inhabitants: ..." must contain one claim in the public wording, and its
/// speaker's name.
///
/// # Errors
/// The sentence that cannot be parsed.
pub fn read(quiz: &str) -> Result<ParsedPuzzle> {
    let read = if is_compact(quiz) { read_compact(quiz)? } else { read_english(quiz)? };
    for (name, claim) in read.names.iter().zip(&read.claims) {
        let all = claim.last_person().is_none_or(|person| person < read.names.len());
        ensure!(all, "the claim of {} is about a person without a claim", display_text(name));
    }
    Ok(read)
}

fn read_compact(quiz: &str) -> Result<ParsedPuzzle> {
    let names: Vec<String> = (0..MOST_PEOPLE).map(|i| compact::name(i).to_owned()).collect();
    let mut claims = Vec::new();
    let quiz = quiz.trim().trim_end_matches("<think>").trim_end();
    for (i, sentence) in quiz.trim_end_matches('.').split(" . ").enumerate() {
        ensure!(i < MOST_PEOPLE, "more than {MOST_PEOPLE} people");
        let not_understood = || anyhow!("not understood: {:?}; expected {} says ...", display_text(sentence.trim()), names[i]);
        let statement = sentence.trim().strip_prefix(names[i].as_str()).and_then(|rest| rest.strip_prefix(" says "));
        let statement = statement.with_context(not_understood)?;
        let (claim, rest) = Grammar { words: &COMPACT, names: &names }.claim(statement).with_context(not_understood)?;
        ensure!(rest.trim().is_empty(), not_understood());
        claims.push(claim);
    }
    Ok(ParsedPuzzle { names: names[..claims.len()].to_vec(), claims })
}

fn read_english(quiz: &str) -> Result<ParsedPuzzle> {
    let (_, rest) = quiz.split_once("inhabitants: ").context("holds no \"You meet ... inhabitants: ...\"")?;
    let (list, body) = rest.split_once('.').context("the list of inhabitants does not end")?;
    let names: Vec<String> = list
        .split(", ")
        .flat_map(|part| part.strip_prefix("and ").unwrap_or(part).split(" and "))
        .map(|name| name.trim().to_owned())
        .collect();
    ensure!(
        names.len() <= MOST_PEOPLE && !names.iter().any(String::is_empty),
        "a list of 1 to {MOST_PEOPLE} inhabitants is needed"
    );
    let body = body.rsplit_once("So who is").map_or(body, |(body, _)| body);
    let grammar = Grammar { words: &ENGLISH, names: &names };
    let mut claims: Vec<Option<Claim>> = vec![None; names.len()];
    let mut rest = body;
    while !rest.trim().is_empty() {
        let sentence = sentence(&grammar, rest).with_context(|| format!("not understood: {:?}", display_text(rest.trim())))?;
        let Sentence { speaker, claim, after } = sentence;
        ensure!(claims[speaker].is_none(), "{} says two things", display_text(&names[speaker]));
        claims[speaker] = Some(claim);
        rest = after;
    }
    let statement =
        |(i, claim): (usize, Option<Claim>)| claim.with_context(|| format!("{} says nothing", display_text(&names[i])));
    let claims = claims.into_iter().enumerate().map(statement).collect::<Result<_>>()?;
    Ok(ParsedPuzzle { names, claims })
}

struct Sentence<'a> {
    speaker: usize,
    claim: Claim,
    after: &'a str,
}

/// Parses one sentence: text, a claim, text, a full stop. The speaker is the person named in the text around the claim.
fn sentence<'a>(grammar: &Grammar<'_>, text: &'a str) -> Result<Sentence<'a>> {
    let mut begins = true;
    for (at, c) in text.char_indices() {
        if begins && let Some((claim, rest)) = grammar.claim(&text[at..]) {
            // The full stop, and a closing quotation mark after it.
            let (behind, after) = rest.split_once('.').context("the sentence does not end")?;
            let after = after.strip_prefix('"').unwrap_or(after);
            let named: Vec<usize> = (0..grammar.names.len())
                .filter(|i| [&text[..at], behind].iter().any(|words| names_person(words, *i, grammar.names)))
                .collect();
            let [speaker] = named[..] else { bail!("{} people speak in one sentence", named.len()) };
            return Ok(Sentence { speaker, claim, after });
        }
        if c == '.' {
            break;
        }
        begins = !c.is_alphanumeric();
    }
    bail!("no claim")
}

/// Whether a text names a person. A name may have several words; "Mary Ann" does not name Ann if there is a person called Mary Ann.
fn names_person(text: &str, person: usize, names: &[String]) -> bool {
    let name = names[person].as_str();
    let longer = || names.iter().filter(|other| other.len() > name.len() && other.contains(name));
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let apart = !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric);
        let within = |other: &String| {
            let mut places = other.match_indices(name);
            places.any(|(at, _)| before.ends_with(&other[..at]) && after.starts_with(&other[at + name.len()..]))
        };
        apart && !longer().any(within)
    })
}

/// Vocabulary of a wording.
struct Wording {
    if_then: [&'static [&'static str]; 2],
    and: &'static str,
    or: &'static str,
    iff: &'static str,
    not: &'static [&'static str],
    open: &'static str,
    close: &'static str,
    /// Text between name and role, and whether it is affirmative.
    is: &'static [(&'static str, bool)],
}

const ENGLISH: Wording = Wording {
    if_then: [&["If ", "if "], &[" then ", ", then "]],
    and: " and ",
    or: " or ",
    iff: " if and only if ",
    not: &["It is not the case that ", "it is not the case that "],
    open: "(",
    close: ")",
    is: &[(" is a ", true), (" is not a ", false)],
};

const COMPACT: Wording = Wording {
    if_then: [&["if "], &[" then "]],
    and: " and ",
    or: " or ",
    iff: " iff ",
    not: &["not "],
    open: "( ",
    close: " )",
    is: &[(" ", true)],
};

struct Grammar<'a> {
    words: &'a Wording,
    names: &'a [String],
}

/// Nodes, and the rest of the text.
type ParsedNodes<'t> = Option<(Vec<ClaimNode>, &'t str)>;

impl Grammar<'_> {
    /// The longest claim at the start of the text.
    fn claim<'t>(&self, text: &'t str) -> Option<(Claim, &'t str)> {
        let (nodes, rest) = self.parse_statement(text, 0)?;
        Some((Claim::new(nodes)?, rest))
    }

    fn parse_statement<'t>(&self, text: &'t str, depth: usize) -> ParsedNodes<'t> {
        let words = self.words;
        let either = |text: &'t str, list: &[&str]| list.iter().find_map(|word| text.strip_prefix(word));
        if let Some(rest) = either(text, words.if_then[0]) {
            let (premise, rest) = self.parse_part(rest, depth)?;
            let (end, rest) = self.parse_part(either(rest, words.if_then[1])?, depth)?;
            return Some(([vec![ClaimNode::If], premise, end].concat(), rest));
        }
        let (first, rest) = self.parse_part(text, depth)?;
        if let Some((second, rest)) = rest.strip_prefix(words.iff).and_then(|rest| self.parse_part(rest, depth)) {
            return Some(([vec![ClaimNode::Iff], first, second].concat(), rest));
        }
        for (word, node) in [(words.and, ClaimNode::And as fn(u32) -> ClaimNode), (words.or, ClaimNode::Or)] {
            let (mut parts, mut count, mut rest) = (first.clone(), 1, rest);
            while let Some((next, after)) = rest.strip_prefix(word).and_then(|rest| self.parse_part(rest, depth)) {
                parts.extend(next);
                (count, rest) = (count + 1, after);
            }
            if count > 1 {
                return Some(([vec![node(count)], parts].concat(), rest));
            }
        }
        Some((first, rest))
    }

    fn parse_part<'t>(&self, text: &'t str, depth: usize) -> ParsedNodes<'t> {
        if depth > MOST_BRACKETS {
            return None;
        }
        if let Some(rest) = text.strip_prefix(self.words.open) {
            let (nodes, rest) = self.parse_statement(rest, depth + 1)?;
            return Some((nodes, rest.strip_prefix(self.words.close)?));
        }
        if let Some(rest) = self.words.not.iter().find_map(|word| text.strip_prefix(word)) {
            let (nodes, rest) = self.parse_part(rest, depth + 1)?;
            return Some(([vec![ClaimNode::Not], nodes].concat(), rest));
        }
        self.names.iter().enumerate().find_map(|(person, name)| {
            let rest = text.strip_prefix(name.as_str())?;
            self.words.is.iter().find_map(|(is, yes)| {
                let rest = rest.strip_prefix(is)?;
                let node = [("knight", ClaimNode::Knight as fn(u8) -> ClaimNode), ("knave", ClaimNode::Knave)];
                let (node, rest) = node.iter().find_map(|(role, node)| Some((node(person as u8), rest.strip_prefix(role)?)))?;
                if rest.starts_with(char::is_alphanumeric) {
                    return None;
                }
                Some((if *yes { vec![node] } else { vec![ClaimNode::Not, node] }, rest))
            })
        })
    }
}

//! The public rows' notation of claims: Python tuples such as `(('not', ('lying', 1)), ('<=>', ('telling-truth', 1), ('lying', 0)))`.

use super::claim::{Claim, ClaimNode, MOST_PEOPLE};
use crate::data::display_text;
use anyhow::{Result, anyhow, bail, ensure};
use std::fmt::Write;

/// Maximum length in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Parses a tuple of claims, one per person, nested to any depth. Lists instead of tuples, single or double quotes, any spaces and Python's
/// trailing commas are accepted.
///
/// # Errors
/// The first error, with its position in bytes from 1 and what was expected; a claim about a person who does not exist.
pub fn parse(text: &str) -> Result<Vec<Claim>> {
    ensure!(text.len() <= MAX_BYTES, "{} bytes, more than 1 MiB", text.len());
    let mut reader = NotationParser { text, at: 0 };
    reader.expect(&NotationToken::Open, "( before the first claim")?;
    let mut claims = Vec::new();
    while reader.peek()? != NotationToken::Close {
        ensure!(claims.len() < MOST_PEOPLE, "byte {}: more than {MOST_PEOPLE} claims", reader.at + 1);
        claims.push(reader.claim()?);
        reader.comma_or_close()?;
    }
    reader.next()?;
    reader.expect(&NotationToken::End, "nothing after the last bracket")?;
    ensure!(!claims.is_empty(), "no claims");
    for (i, claim) in claims.iter().enumerate() {
        if let Some(person) = claim.last_person().filter(|p| *p >= claims.len()) {
            bail!("claim {}: is about person {person}, but people are counted from 0 to {}", i + 1, claims.len() - 1);
        }
    }
    Ok(claims)
}

/// The claims in the public notation, byte for byte as Python prints such tuples.
pub fn print(claims: &[Claim]) -> String {
    let mut out = String::from("(");
    for (i, claim) in claims.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        print_claim(claim, &mut out);
    }
    // Python's notation for a tuple of one element.
    out.push_str(if claims.len() == 1 { ",)" } else { ")" });
    out
}

fn print_claim(claim: &Claim, out: &mut String) {
    // Number of remaining operands of each open bracket.
    let mut open: Vec<u32> = Vec::new();
    for node in claim.nodes() {
        let (name, person) = name(*node);
        let _ = write!(out, "('{name}'");
        if let Some(person) = person {
            let _ = write!(out, ", {person}");
        }
        open.push(node.parts());
        while let Some(left) = open.pop() {
            if left > 0 {
                out.push_str(", ");
                open.push(left - 1);
                break;
            }
            out.push(')');
        }
    }
}

fn name(node: ClaimNode) -> (&'static str, Option<u8>) {
    match node {
        ClaimNode::Knight(p) => ("telling-truth", Some(p)),
        ClaimNode::Knave(p) => ("lying", Some(p)),
        ClaimNode::Not => ("not", None),
        ClaimNode::And(_) => ("and", None),
        ClaimNode::Or(_) => ("or", None),
        ClaimNode::If => ("->", None),
        ClaimNode::Iff => ("<=>", None),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NotationToken<'a> {
    Open,
    Close,
    Comma,
    Word(&'a str),
    Number(u64),
    End,
}

impl NotationToken<'_> {
    fn to_text(&self) -> String {
        match self {
            Self::Open => "(".into(),
            Self::Close => ")".into(),
            Self::Comma => "a comma".into(),
            Self::Word(word) => format!("'{}'", display_text(word)),
            Self::Number(n) => n.to_string(),
            Self::End => "the end".into(),
        }
    }
}

struct NotationParser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> NotationParser<'a> {
    /// Parses one claim, at any depth: `open` holds the operators whose bracket is not closed yet (node index, operands so far).
    fn claim(&mut self) -> Result<Claim> {
        let mut nodes: Vec<ClaimNode> = Vec::new();
        let mut open: Vec<(usize, u32)> = Vec::new();
        loop {
            self.expect(&NotationToken::Open, "( before a claim")?;
            let start = self.at;
            match self.next()? {
                NotationToken::Word(word @ ("telling-truth" | "lying")) => {
                    self.expect(&NotationToken::Comma, "a comma")?;
                    let person = self.person()?;
                    nodes.push(if word == "lying" { ClaimNode::Knave(person) } else { ClaimNode::Knight(person) });
                    self.comma_or_close()?;
                    self.expect(&NotationToken::Close, ") behind the person")?;
                    if let Some((_, parts)) = open.last_mut() {
                        *parts += 1;
                    }
                }
                NotationToken::Word(word) => {
                    let node = match word {
                        "not" => ClaimNode::Not,
                        "and" => ClaimNode::And(0),
                        "or" => ClaimNode::Or(0),
                        "->" => ClaimNode::If,
                        "<=>" => ClaimNode::Iff,
                        _ => {
                            bail!(
                                "byte {}: '{}' is none of telling-truth, lying, not, and, or, ->, <=>",
                                start + 1,
                                display_text(word)
                            )
                        }
                    };
                    open.push((nodes.len(), 0));
                    nodes.push(node);
                    self.comma_or_close()?;
                }
                other => bail!("byte {}: expected the name of a claim in quotes, found {}", start + 1, other.to_text()),
            }
            self.close_finished(&mut nodes, &mut open)?;
            if open.is_empty() {
                return Claim::new(nodes).ok_or_else(|| anyhow!("byte {}: not one whole claim", self.at));
            }
        }
    }

    /// Consumes closing brackets up to the start of the next operand.
    fn close_finished(&mut self, nodes: &mut [ClaimNode], open: &mut Vec<(usize, u32)>) -> Result<()> {
        while let Some(&(place, parts)) = open.last() {
            if parts > 0 {
                self.comma_or_close()?;
            }
            if self.peek()? != NotationToken::Close {
                return Ok(());
            }
            self.next()?;
            let node = &mut nodes[place];
            if let ClaimNode::And(n) | ClaimNode::Or(n) = node {
                *n = parts;
            }
            let wanted = node.parts().max(1);
            ensure!(parts == wanted, "byte {}: '{}' has {parts} parts, but needs {wanted}", self.at, name(*node).0);
            open.pop();
            if let Some((_, parts)) = open.last_mut() {
                *parts += 1;
            }
        }
        Ok(())
    }

    fn person(&mut self) -> Result<u8> {
        self.peek()?;
        let start = self.at;
        match self.next()? {
            NotationToken::Number(n) if n < MOST_PEOPLE as u64 => Ok(n as u8),
            other => bail!("byte {}: expected a person, 0 to {}, found {}", start + 1, MOST_PEOPLE - 1, other.to_text()),
        }
    }

    /// Consumes a comma; a closing bracket is left in place.
    fn comma_or_close(&mut self) -> Result<()> {
        match self.peek()? {
            NotationToken::Comma => self.next().map(|_| ()),
            NotationToken::Close => Ok(()),
            other => bail!("byte {}: expected a comma or ), found {}", self.at + 1, other.to_text()),
        }
    }

    fn expect(&mut self, token: &NotationToken<'_>, what: &str) -> Result<()> {
        self.peek()?;
        let start = self.at;
        let found = self.next()?;
        ensure!(found == *token, "byte {}: expected {what}, found {}", start + 1, found.to_text());
        Ok(())
    }

    /// The next token, without consuming it; preceding spaces are consumed.
    fn peek(&mut self) -> Result<NotationToken<'a>> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        let start = self.at;
        let token = self.next()?;
        self.at = start;
        Ok(token)
    }

    fn next(&mut self) -> Result<NotationToken<'a>> {
        let rest = &self.text[self.at..];
        let rest = rest.trim_start();
        let start = self.text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            self.at = start;
            return Ok(NotationToken::End);
        };
        let (token, length) = match first {
            '(' | '[' => (NotationToken::Open, 1),
            ')' | ']' => (NotationToken::Close, 1),
            ',' => (NotationToken::Comma, 1),
            '\'' | '"' => {
                let end = rest[1..].find(first).ok_or_else(|| anyhow!("byte {}: this quote is never closed", start + 1))?;
                (NotationToken::Word(&rest[1..=end]), end + 2)
            }
            '0'..='9' => {
                let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let number =
                    rest[..length].parse().map_err(|_| anyhow!("byte {}: a number this long is not a person", start + 1))?;
                (NotationToken::Number(number), length)
            }
            other => bail!("byte {}: {other:?} is not part of the notation", start + 1),
        };
        self.at = start + length;
        Ok(token)
    }
}

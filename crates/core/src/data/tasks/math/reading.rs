//! Parsed answers and their comparison.
//!
//! An answer is a number or an expression ([`Quantity`]), a list of these (a pair, an interval, a set), or a few words. This module also
//! finds the number at the end of a text, and the first after `####`.

use super::expression::{Quantity, leading, single};
use super::tokens::{MathToken, TokenKind, tokens};
use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

/// Maximum length of a row's answer in characters.
const MOST_CHARS: usize = 400;
/// Maximum number of words in an answer that is not a number.
const MOST_WORDS: usize = 8;
/// Maximum tokens on either side of the last number of a text that may belong to it.
const MOST_AROUND: usize = 64;
/// Decimal places to which a decimal number may round a value without a finite decimal expansion.
const PLACES: i32 = 6;

/// A parsed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedAnswer {
    /// A number or an expression.
    Quantity(Quantity),
    /// Several answers, with or without brackets; those of a set in any order.
    List {
        /// The brackets, or spaces.
        brackets: (char, char),
        /// The items between commas.
        items: Vec<ParsedAnswer>,
    },
    /// Words, and anything else, without spaces, formatting and case.
    Words(String),
}

impl ParsedAnswer {
    /// Parses a whole text; `None` if it is too long or empty.
    pub fn of(text: &str) -> Option<Self> {
        if text.chars().count() > MOST_CHARS {
            return None;
        }
        let all = tokens(text);
        let bare: Vec<MathToken> = all.into_iter().filter(|token| token.kind != TokenKind::Line).collect();
        Self::of_tokens(&bare, true)
    }

    fn of_tokens(all: &[MathToken], may_be_list: bool) -> Option<Self> {
        if let Some(quantity) = single(all, false) {
            return Some(Self::Quantity(quantity));
        }
        if let (true, Some(list)) = (may_be_list, Self::list(all)) {
            return Some(list);
        }
        words(all).map(Self::Words)
    }

    /// Parses a text of which only words are compared: `C` alone would be a variable.
    pub fn in_words(text: &str) -> Option<Self> {
        (text.chars().count() <= MOST_CHARS).then(|| words(&tokens(text)).map(Self::Words)).flatten()
    }

    fn list(all: &[MathToken]) -> Option<Self> {
        let all: Vec<MathToken> = all.iter().filter(|token| !token.is('$')).cloned().collect();
        let (first, last) = (all.first()?, all.last()?);
        let sign = |token: &MathToken| match token.kind {
            TokenKind::Sign(sign) => sign,
            _ => ' ',
        };
        let pairs = [('(', ')'), ('[', ']'), ('(', ']'), ('[', ')'), ('⟨', '⟩')];
        let brackets = Some((sign(first), sign(last))).filter(|pair| all.len() > 2 && pairs.contains(pair));
        let inside = if brackets.is_some() { &all[1..all.len() - 1] } else { &all[..] };
        let parts = parts(inside)?;
        let set = brackets == Some(('⟨', '⟩'));
        if parts.len() < 2 && !set {
            return None;
        }
        let items = parts.into_iter().map(|part| Self::of_tokens(part, false)).collect::<Option<_>>()?;
        Some(Self::List { brackets: brackets.unwrap_or((' ', ' ')), items })
    }

    /// Whether both answers are equal.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quantity(a), Self::Quantity(b)) => same_quantity(a, b),
            (Self::Words(a), Self::Words(b)) => a == b,
            (Self::List { brackets, items: a }, Self::List { brackets: others, items: b }) => {
                if a.len() != b.len() {
                    return false;
                }
                let unordered = |brackets: &(char, char)| matches!(brackets, (' ', ' ') | ('⟨', '⟩'));
                if unordered(brackets) && unordered(others) {
                    let mut left: Vec<&Self> = b.iter().collect();
                    return a.iter().all(|item| {
                        let found = left.iter().position(|other| item.same(other));
                        found.map(|at| left.swap_remove(at)).is_some()
                    });
                }
                let sides = brackets == others || *others == (' ', ' ') && *brackets == ('(', ')');
                sides && a.iter().zip(b).all(|(a, b)| a.same(b))
            }
            _ => false,
        }
    }
}

fn words(all: &[MathToken]) -> Option<String> {
    let mut words = String::new();
    for (i, token) in all.iter().enumerate() {
        // `3 5 7` is not 357.
        if i > 0 && token.is_number() && all[i - 1].is_number() {
            words.push(' ');
        }
        words.push_str(&literal(token));
    }
    let words = words.trim_end_matches(['.', ',', ';', ':']);
    let bare = words.strip_prefix('(').and_then(|words| words.strip_suffix(')')).unwrap_or(words);
    let count = all.iter().filter(|token| token.word().is_some()).count();
    (!bare.is_empty() && count <= MOST_WORDS).then(|| bare.to_owned())
}

/// The items between commas (or the words `and`, `or`) outside of brackets; `None` for unmatched brackets.
fn parts(all: &[MathToken]) -> Option<Vec<&[MathToken]>> {
    let (mut depth, mut start, mut out) = (0i32, 0, Vec::new());
    for (at, token) in all.iter().enumerate() {
        let open = ['(', '[', '{', '⟨'].iter().any(|sign| token.is(*sign));
        let close = [')', ']', '}', '⟩'].iter().any(|sign| token.is(*sign));
        depth += i32::from(open) - i32::from(close);
        if depth < 0 {
            return None;
        }
        let parts = token.is(',') || token.is(';') || token.word().is_some_and(|word| matches!(word, "and" | "or"));
        if depth == 0 && parts {
            // In `1, 2, and 3` the comma has already ended the item.
            if at > start {
                out.push(&all[start..at]);
            }
            start = at + 1;
        }
    }
    if start < all.len() {
        out.push(&all[start..]);
    }
    (depth == 0 && out.len() <= 64).then_some(out)
}

/// The text of a token for a literal comparison.
fn literal(token: &MathToken) -> String {
    match &token.kind {
        TokenKind::Number { value, .. } => value.to_string(),
        TokenKind::Word(word) => word.to_lowercase(),
        TokenKind::Command(name) => format!("\\{name}"),
        TokenKind::Sign('$' | '{' | '}') | TokenKind::Line => String::new(),
        TokenKind::Sign(sign) => sign.to_string(),
    }
}

/// Whether values are equal. A percentage equals its number or a hundredth of it, unless both are percentages. A decimal number equals a
/// value without a finite decimal expansion (1/3, pi) if both are the same when rounded to six places, as in math-verify.
pub fn same_quantity(a: &Quantity, b: &Quantity) -> bool {
    let as_they_stand = same_value(a, b, &BigRational::one());
    let hundredth = BigRational::new(1.into(), 100.into());
    as_they_stand
        || match (a.percent, b.percent) {
            (true, false) => same_value(a, b, &hundredth),
            (false, true) => same_value(b, a, &hundredth),
            _ => false,
        }
}

fn same_value(a: &Quantity, b: &Quantity, factor: &BigRational) -> bool {
    let scaled =
        if factor.is_one() { Some(a.value.clone()) } else { a.value.times(&super::value::ExactValue::rational(factor.clone())) };
    let Some(first) = scaled else { return false };
    if first == b.value {
        return true;
    }
    if a.decimal == b.decimal {
        return false;
    }
    let endless = |value: &super::value::ExactValue| !value.as_rational().is_some_and(|value| has_end(&value));
    let other = if a.decimal { &b.value } else { &first };
    let rounded = |value: &super::value::ExactValue| match value.as_rational() {
        Some(value) => {
            Some((value * BigRational::from_integer(BigInt::from(10).pow(PLACES.unsigned_abs()))).round().to_integer())
        }
        None => {
            let shifted = (value.approximate()? * 10f64.powi(PLACES)).round();
            (shifted.abs() < 1e15).then(|| shifted.to_i64().map(BigInt::from)).flatten()
        }
    };
    endless(other) && rounded(&first).is_some_and(|x| !x.is_zero() && rounded(&b.value) == Some(x))
}

/// Whether a number has a finite decimal expansion.
fn has_end(value: &BigRational) -> bool {
    let mut rest = value.denom().abs();
    for prime in [2, 5] {
        let prime = BigInt::from(prime);
        while (&rest % &prime).is_zero() {
            rest /= &prime;
        }
    }
    rest.is_one()
}

/// The numbers in a text.
pub fn numbers_in(text: &str) -> Vec<BigRational> {
    let value = |token: MathToken| match token.kind {
        TokenKind::Number { value, .. } => Some(value),
        _ => None,
    };
    tokens(text).into_iter().filter_map(value).collect()
}

/// Parses a text that is a number or an expression as a whole, or an equation whose right side is one. With `digits_apart`, a number may
/// have spaces between its digits.
pub fn number(text: &str, digits_apart: bool) -> Option<Quantity> {
    single(&short_tokens(text)?, digits_apart)
}

/// The first number of a line after `####`, whatever follows. `directly`: only signs may precede it.
pub fn first_number(line: &str, directly: bool) -> Option<Quantity> {
    let line: String = line.chars().take(MOST_CHARS).collect();
    let all = tokens(&line);
    let is_number = |token: &MathToken| {
        token.is_number() || matches!(&token.kind, TokenKind::Command(name) if matches!(name.as_str(), "frac" | "sqrt" | "pi"))
    };
    let at = all.iter().position(is_number)?;
    let signs = |token: &MathToken| ['-', '+', '$', '(', '{', ':', '*', '='].iter().any(|sign| token.is(*sign));
    let before = all[..at].iter().rev().take_while(|token| signs(token)).count();
    if directly && before < at {
        return None;
    }
    // `a - 5` is a difference, `- 5` a negative number.
    let after_word = before < at && all[at - before..at].first().is_some_and(|token| !token.spaced);
    let begins = |token: &MathToken| !after_word && (token.is('-') || token.is('$') || token.is('('));
    let signed = all[..at].iter().rev().take_while(|token| begins(token)).count();
    (0..=signed).rev().find_map(|signed| leading(&all[at - signed..])).map(|(quantity, _)| quantity)
}

/// The last number of a text, or the expression that contains it; `None` if it is one of several alternatives (`41 or 42`). With
/// `digits_apart`, a text that is a number as a whole may have spaces between its digits.
pub fn last_number(text: &str, digits_apart: bool) -> Option<Quantity> {
    let all = tokens(text);
    if all.len() <= super::expression::MOST_TOKENS
        && let Some(quantity) = single(&all, digits_apart)
    {
        return Some(quantity);
    }
    let mut end = all.len();
    // In `5 m^2` the last number is 5.
    for _ in 0..MOST_AROUND {
        let last = all[..end].iter().rposition(MathToken::is_number)?;
        let start = run_start(&all, last);
        let run = expression_tokens(&all, start, last);
        let quantity = single(run, digits_apart)
            .or_else(|| leading(run).filter(|(_, read)| start + read > last).map(|(quantity, _)| quantity));
        if quantity.is_none() && last > start && all[last - 1].is('^') && unit_before(&all, last - 1) {
            end = last - 1;
            continue;
        }
        return quantity.filter(|_| !is_offered(&all, start));
    }
    None
}

/// Whether the word before a `^` is a separate unit, not a variable in an expression.
fn unit_before(all: &[MathToken], at: usize) -> bool {
    at > 1 && all[at - 1].word().is_some_and(|word| word.len() > 1 || all[at - 1].spaced) && !all[at - 2].is_number()
}

/// Start of the expression that contains the number at `last`.
fn run_start(all: &[MathToken], last: usize) -> usize {
    let mut start = last;
    while start > 0 && last - start < MOST_AROUND {
        let (token, next) = (&all[start - 1], &all[start]);
        let belongs = match &token.kind {
            TokenKind::Number { .. } => true,
            TokenKind::Command(_) => true,
            // A variable of an expression directly adjoins its other parts.
            TokenKind::Word(word) => {
                // The x of `2x + 3`.
                let factor = !token.spaced && start > 1 && all[start - 2].is_number() && word.chars().count() == 1;
                let beside = !next.spaced || next.is('^') || factor;
                beside && word.chars().count() <= 3 && !['$', '(', '-'].iter().any(|sign| next.is(*sign)) && !next.is('/')
            }
            TokenKind::Sign('-' | '+') => true,
            TokenKind::Sign(sign) => "*/^_(){}[]$".contains(*sign),
            TokenKind::Line => false,
        };
        if !belongs {
            break;
        }
        start -= 1;
    }
    // A dash or a bullet before a space, and brackets that do not enclose it, are not part of the expression.
    loop {
        let Some(first) = all.get(start).filter(|_| start < last) else { return start };
        let next = &all[start + 1];
        let attached = start > 0 && !first.spaced && matches!(all[start - 1].kind, TokenKind::Word(_) | TokenKind::Number { .. });
        let dash = (first.is('-') || first.is('+')) && (next.spaced && start > 0 || attached);
        let loose = ['*', '/', '^', '_', ')', '}', ']'].iter().any(|sign| first.is(*sign));
        let bracket = ['(', '[', '{'].iter().any(|sign| first.is(*sign)) && !closes(all, start, last);
        if !(dash || loose || bracket) {
            return start;
        }
        start += 1;
    }
}

/// Whether the bracket at `open` closes soon after `last`.
fn closes(all: &[MathToken], open: usize, last: usize) -> bool {
    let mut depth = 0i32;
    for (at, token) in all.iter().enumerate().skip(open).take(2 * MOST_AROUND) {
        depth += i32::from(['(', '[', '{'].iter().any(|sign| token.is(*sign)));
        depth -= i32::from([')', ']', '}'].iter().any(|sign| token.is(*sign)));
        if depth <= 0 {
            return at > last || at > open;
        }
    }
    false
}

/// The tokens from `start` that belong to the expression of the number at `last`.
fn expression_tokens(all: &[MathToken], start: usize, last: usize) -> &[MathToken] {
    let mut end = last + 1;
    while end < all.len() && end - last < MOST_AROUND {
        let (token, before) = (&all[end], &all[end - 1]);
        let belongs = match &token.kind {
            TokenKind::Command(_) => true,
            TokenKind::Word(word) => {
                let unit = ["percent", "hundred", "thousand", "million", "billion", "trillion"].contains(&word.as_str());
                unit && before.is_number() || !token.spaced && word.chars().count() <= 3
            }
            TokenKind::Sign(sign) => "^_){}]%$°*".contains(*sign),
            TokenKind::Number { .. } | TokenKind::Line => false,
        };
        if !belongs {
            break;
        }
        end += 1;
    }
    // Trailing signs that close or begin something else.
    while end > last + 1 {
        let inside = &all[start..end];
        let count = |signs: &[char]| inside.iter().filter(|token| signs.iter().any(|sign| token.is(*sign))).count();
        let surplus = count(&[')', ']', '}']) > count(&['(', '[', '{']);
        let token = &all[end - 1];
        let loose = token.is('*') || token.is('_') || token.is('^') || token.is('$');
        if !(loose || surplus && [')', ']', '}'].iter().any(|sign| token.is(*sign))) {
            break;
        }
        end -= 1;
    }
    &all[start..end]
}

/// Whether the number that begins at `start` is one of several alternatives: `41 or 42`.
fn is_offered(all: &[MathToken], start: usize) -> bool {
    let mut words = 0;
    let mut or = false;
    for token in all[..start].iter().rev() {
        match &token.kind {
            TokenKind::Number { .. } => return or,
            TokenKind::Word(word) => {
                words += 1;
                or |= word == "or";
            }
            TokenKind::Line | TokenKind::Sign('.' | ';' | '!' | '?') => return false,
            _ => {}
        }
        if words > 5 {
            return false;
        }
    }
    false
}

fn short_tokens(text: &str) -> Option<Vec<MathToken>> {
    (text.len() <= 8 * MOST_CHARS).then(|| tokens(text))
}

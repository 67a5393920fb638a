//! Numbers and expressions in mathematical text: a recursive descent parser with bounded depth and length.
//!
//! ```text
//! quantity = ["-"] [currency] ["-"] sum ["%"] ["million" ...] [unit]
//! sum      = product { ("+" | "-") product }
//! product  = power { ("*" | "/" | ":" | nothing) power }
//! power    = atom ["^" exponent]
//! atom     = number | mixed number | fraction | root | constant or variable | "(" sum ")" | "{" sum "}"
//! ```

use super::tokens::{MathToken, TokenKind};
use super::value::ExactValue;
use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

/// Maximum number of tokens in an expression, and maximum depth of nested brackets.
pub const MOST_TOKENS: usize = 256;
const MOST_DEPTH: usize = 24;
/// Maximum number of words in a unit.
const MOST_UNIT: usize = 10;

/// A parsed number or expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// Its value; for `25 %`, 25.
    pub value: ExactValue,
    /// Followed by a percent sign.
    pub percent: bool,
    /// Written with a decimal point.
    pub decimal: bool,
    /// Not a plain number: it contains a product, a power or a root that has to be computed.
    pub computed: bool,
    /// The numbers in it.
    pub numbers: Vec<BigRational>,
}

/// Commands for constants and variables.
const SYMBOLS: &[&str] = &[
    "pi",
    "infty",
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
    "Delta",
    "Omega",
    "Gamma",
    "Theta",
    "ell",
];
/// Single letters that are units if nothing but a unit follows a number.
const UNIT_LETTERS: &[&str] = &["m", "g", "s", "h", "L", "J", "N", "W", "V", "K", "C", "F", "A"];
/// Short words that are units even without a space before them; others are products of variables.
const SHORT_UNITS: &[&str] = &[
    "cm", "mm", "km", "dm", "nm", "kg", "mg", "ml", "mL", "cl", "in", "ft", "yd", "mi", "lb", "lbs", "oz", "hr", "hrs", "min",
    "sec", "ms", "am", "pm", "AM", "PM", "kW", "MW", "GB", "MB", "KB", "TB", "Hz", "kHz", "rad", "deg", "mph", "kph", "st", "nd",
    "rd", "th", "USD", "EUR", "GBP", "Rs", "sq", "cu",
];
/// Words that are not units: the text after them changes the meaning.
const NO_UNITS: &[&str] =
    &["or", "and", "to", "plus", "minus", "times", "over", "divided", "squared", "cubed", "not", "by", "mod", "x"];
const MAGNITUDES: &[(&str, u64)] = &[
    ("hundred", 100),
    ("thousand", 1000),
    ("million", 1_000_000),
    ("billion", 1_000_000_000),
    ("trillion", 1_000_000_000_000),
    ("lakh", 100_000),
    ("crore", 10_000_000),
];
/// Currencies that precede a number.
const CURRENCIES: &[&str] = &["USD", "EUR", "GBP", "INR", "US", "Rs", "CAD", "AUD"];

/// Parses a text that is one number or expression as a whole; for an equation, its right side. With `digits_apart`, `1 2 3` is a number.
pub fn single(tokens: &[MathToken], digits_apart: bool) -> Option<Quantity> {
    let tokens = right_side(trimmed(tokens))?;
    if let Some(joined) = in_groups(tokens, digits_apart) {
        return Some(joined);
    }
    let mut parser = Parser::new(tokens, true)?;
    let quantity = parser.quantity()?;
    parser.is_done().then_some(quantity)
}

/// The expression at the start of the tokens, whatever follows, and its number of tokens.
pub fn leading(tokens: &[MathToken]) -> Option<(Quantity, usize)> {
    let tokens = &tokens[..tokens.len().min(MOST_TOKENS)];
    let mut parser = Parser::new(tokens, false)?;
    let quantity = parser.quantity()?;
    Some((quantity, parser.at))
}

/// Without surrounding line ends and quoting, and without trailing punctuation.
fn trimmed(mut tokens: &[MathToken]) -> &[MathToken] {
    let drop = |token: &MathToken| token.kind == TokenKind::Line || token.is('*') || token.is('`') || token.is('"');
    while let Some((_, rest)) = tokens.split_first().filter(|(first, _)| drop(first)) {
        tokens = rest;
    }
    while let Some((_, rest)) =
        tokens.split_last().filter(|(last, _)| drop(last) || ['.', ',', ';', ':'].iter().any(|sign| last.is(*sign)))
    {
        tokens = rest;
    }
    tokens
}

/// The tokens after the last `=`, unless there are several items before it.
fn right_side(tokens: &[MathToken]) -> Option<&[MathToken]> {
    let Some(at) = tokens.iter().rposition(|token| token.is('=')) else { return Some(tokens) };
    let several =
        |token: &MathToken| token.is(',') || token.is(';') || token.word().is_some_and(|word| matches!(word, "or" | "and"));
    if tokens[..at].iter().any(several) { None } else { Some(&tokens[at + 1..]) }
}

/// Numbers with spaces: groups as in `1 234 567`, and with `digits_apart` single digits as in `1 2 3`.
fn in_groups(tokens: &[MathToken], digits_apart: bool) -> Option<Quantity> {
    let (negative, rest) = match tokens.split_first() {
        Some((first, rest)) if first.is('-') => (true, rest),
        _ => (false, tokens),
    };
    let groups: Option<Vec<&str>> = rest
        .iter()
        .map(|token| match &token.kind {
            TokenKind::Number { digits: Some(digits), .. } => Some(digits.as_str()),
            _ => None,
        })
        .collect();
    let groups = groups.filter(|groups| groups.len() > 1 && groups.len() <= 64)?;
    let single = digits_apart && groups.iter().all(|group| group.len() == 1);
    let thousands = groups[0].len() <= 3 && groups[1..].iter().all(|group| group.len() == 3);
    let value: BigInt = (single || thousands).then(|| groups.concat().parse().ok())??;
    let value = ExactValue::rational(BigRational::from_integer(if negative { -value } else { value }));
    Some(Quantity { value, percent: false, decimal: false, computed: false, numbers: Vec::new() })
}

struct Parser {
    tokens: Vec<MathToken>,
    at: usize,
    depth: usize,
    /// Whether all tokens must form one expression; else separate words are text that follows.
    whole: bool,
    decimal: bool,
    computed: bool,
    numbers: Vec<BigRational>,
}

impl Parser {
    fn new(tokens: &[MathToken], whole: bool) -> Option<Self> {
        let fits = !tokens.is_empty() && tokens.len() <= MOST_TOKENS;
        fits.then(|| Self {
            tokens: tokens.to_vec(),
            at: 0,
            depth: 0,
            whole,
            decimal: false,
            computed: false,
            numbers: Vec::new(),
        })
    }

    fn peek(&self) -> Option<&MathToken> {
        self.tokens.get(self.at)
    }

    fn is_done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    fn next_is(&self, sign: char) -> bool {
        self.peek().is_some_and(|token| token.is(sign))
    }

    fn take(&mut self, sign: char) -> bool {
        let is = self.next_is(sign);
        self.at += usize::from(is);
        is
    }

    fn currency(&mut self) {
        while self.take('$') {}
        if self.peek().and_then(MathToken::word).is_some_and(|word| CURRENCIES.contains(&word)) {
            self.at += 1;
            self.take('.');
            while self.take('$') {}
        }
    }

    /// Parses a `quantity` of the grammar. Sums and trailing units are only accepted if `whole` is set.
    fn quantity(&mut self) -> Option<Quantity> {
        let sign = |parser: &mut Self| {
            let negative = parser.take('-');
            if !negative {
                parser.take('+');
            }
            negative
        };
        let mut negative = sign(self);
        self.currency();
        if !negative {
            negative = sign(self);
            self.currency();
        }
        let mut value = if self.whole { self.sum(negative)? } else { self.signed_product(negative)? };
        while self.take('$') {}
        let percent = self.percent();
        let magnitude = self.peek().and_then(MathToken::word).and_then(|word| MAGNITUDES.iter().find(|(name, _)| *name == word));
        if let Some((_, factor)) = magnitude {
            value = value.times(&ExactValue::rational(BigRational::from_integer((*factor).into())))?;
            self.at += 1;
        }
        // A unit follows a number, not letters alone ("no solution").
        if self.whole && !self.is_done() && !self.numbers.is_empty() && self.is_unit(self.at) {
            self.at = self.tokens.len();
        }
        let numbers = std::mem::take(&mut self.numbers);
        Some(Quantity { value, percent, decimal: self.decimal, computed: self.computed, numbers })
    }

    fn percent(&mut self) -> bool {
        if self.take('%') {
            return true;
        }
        let word = |at: usize| self.tokens.get(at).and_then(MathToken::word);
        let length = match (word(self.at), word(self.at + 1)) {
            (Some("percent" | "pct"), _) => 1,
            (Some("per"), Some("cent")) => 2,
            _ => 0,
        };
        self.at += length;
        length > 0
    }

    /// Whether all tokens from `at` on form a unit: words, their powers and quotients, degrees, currency.
    fn is_unit(&self, at: usize) -> bool {
        let rest = &self.tokens[at..];
        let Some(first) = rest.first().filter(|_| rest.len() <= MOST_UNIT) else { return false };
        let per = rest.get(1).filter(|_| first.is('/'));
        if let Some(word) = per.and_then(MathToken::word).or(first.word()) {
            let first = per.unwrap_or(first);
            let letters = word.chars().count();
            let known = if letters == 1 { UNIT_LETTERS.contains(&word) } else { SHORT_UNITS.contains(&word) };
            // `5ab` is a product.
            if !known && !first.upright && (letters == 1 || letters <= 3 && !first.spaced) {
                return false;
            }
        }
        let mut raised = false;
        let mut one = |token: &MathToken| {
            let was_raised = raised;
            raised = token.is('^') || was_raised && (token.is('{') || token.is('-'));
            match &token.kind {
                TokenKind::Word(word) => !NO_UNITS.contains(&word.as_str()),
                TokenKind::Number { .. } => was_raised,
                TokenKind::Sign(sign) => "/^{}().°-*$".contains(*sign),
                TokenKind::Line | TokenKind::Command(_) => false,
            }
        };
        let names = first.word().is_some() || ['°', '$', '/'].iter().any(|sign| first.is(*sign));
        (names || first.is('^') && self.is_degree(at)) && rest.iter().all(&mut one)
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth >= MOST_DEPTH {
            return None;
        }
        self.depth += 1;
        let out = read(self);
        self.depth -= 1;
        out
    }

    /// Terms that could be added up are an unfinished calculation, not a number.
    fn sum(&mut self, negative: bool) -> Option<ExactValue> {
        let mut sum = self.signed_product(negative)?;
        loop {
            let minus = match self.peek() {
                Some(token) if token.is('+') => false,
                Some(token) if token.is('-') => true,
                _ => return Some(sum),
            };
            self.at += 1;
            let term = self.signed_product(minus)?;
            if sum.merges_with(&term) {
                return None;
            }
            sum = sum.plus(term)?;
        }
    }

    fn signed_product(&mut self, negative: bool) -> Option<ExactValue> {
        let product = self.product()?;
        Some(if negative { product.negated() } else { product })
    }

    fn product(&mut self) -> Option<ExactValue> {
        let mut product = self.power()?;
        loop {
            let Some(token) = self.peek() else { return Some(product) };
            let quotient = token.is('/') || token.is(':');
            let next = self.tokens.get(self.at + 1);
            let factor_follows = next.is_some_and(|next| begins_factor(next) || next.is('-') || next.is('$'));
            if (quotient || token.is('*') || self.is_cross()) && factor_follows && !(quotient && self.is_unit(self.at)) {
                self.at += 1;
                while self.take('$') {}
                let minus = self.take('-');
                let (start, computed) = (self.at, self.computed);
                let factor = self.power()?;
                let factor = if minus { factor.negated() } else { factor };
                // Scientific notation is not a calculation.
                let scientific = is_power_of_ten(&factor) && self.tokens[start..self.at].iter().any(|token| token.is('^'));
                self.computed = if scientific { computed } else { self.computed || !quotient };
                product = if quotient { product.over(&factor)? } else { product.times(&factor)? };
            } else if begins_factor(token) && !token.is_number() && !self.is_word(self.at) {
                let group = token.is('(') || token.is('{');
                let factor = self.power()?;
                // 2(3) is not plausible as a way to write 6.
                if group && product.as_rational().is_some() && factor.as_rational().is_some() {
                    return None;
                }
                product = product.times(&factor)?;
            } else {
                return Some(product);
            }
        }
    }

    /// `x` between a number and a power of ten.
    fn is_cross(&self) -> bool {
        let ten = |token: &MathToken| matches!(&token.kind, TokenKind::Number { digits: Some(digits), .. } if digits == "10");
        let is_cross = self.peek().and_then(MathToken::word).is_some_and(|word| matches!(word, "x" | "X"));
        is_cross
            && self.tokens.get(self.at + 1).is_some_and(ten)
            && self.tokens.get(self.at + 2).is_some_and(|token| token.is('^'))
    }

    /// Whether the token at `at` is a word or a unit, and not a variable.
    fn is_word(&self, at: usize) -> bool {
        let Some(token) = self.tokens.get(at) else { return false };
        match token.word() {
            Some(word) => {
                let letters = word.chars().count();
                let apart = token.spaced && (letters > 1 || !self.whole);
                token.upright || letters > 3 || apart || SHORT_UNITS.contains(&word) || self.is_unit(at)
            }
            None => false,
        }
    }

    fn power(&mut self) -> Option<ExactValue> {
        let base = self.atom()?;
        if !self.next_is('^') || self.is_degree(self.at) {
            return Some(base);
        }
        self.at += 1;
        let exponent = self.deeper(Self::exponent)?;
        self.computed |= base.as_rational().is_some();
        base.power(&exponent.as_rational()?)
    }

    /// `^\circ`, `^{\circ}`.
    fn is_degree(&self, at: usize) -> bool {
        self.tokens[at + 1..].iter().find(|token| !token.is('{')).is_some_and(|token| token.is('°'))
    }

    fn exponent(&mut self) -> Option<ExactValue> {
        if self.take('-') {
            return self.atom().map(ExactValue::negated);
        }
        self.argument()
    }

    /// A group in braces, or a single token.
    fn argument(&mut self) -> Option<ExactValue> {
        if self.take('{') {
            let negative = self.take('-');
            let value = self.sum(negative)?;
            return self.take('}').then_some(value);
        }
        self.atom()
    }

    /// `\frac12` has two arguments of one digit each.
    fn fraction_argument(&mut self) -> Option<ExactValue> {
        if let Some(MathToken { kind: TokenKind::Number { digits: Some(digits), value, .. }, .. }) = self.tokens.get_mut(self.at)
            && digits.len() > 1
        {
            let rest = digits.split_off(1);
            let first: BigInt = digits.parse().ok()?;
            *value = BigRational::from_integer(rest.parse().ok()?);
            *digits = rest;
            return Some(ExactValue::rational(BigRational::from_integer(first)));
        }
        self.argument()
    }

    fn fraction(&mut self) -> Option<ExactValue> {
        let above = self.deeper(Self::fraction_argument)?;
        let below = self.deeper(Self::fraction_argument)?;
        above.over(&below)
    }

    fn root(&mut self) -> Option<ExactValue> {
        let mut degree = BigRational::from_integer(2.into());
        if self.take('[') {
            degree = self.deeper(|parser| parser.sum(false))?.as_rational().filter(|degree| !degree.is_zero())?;
            if !self.take(']') {
                return None;
            }
        }
        self.computed = true;
        let of = self.deeper(Self::argument)?;
        of.power(&(BigRational::one() / degree))
    }

    fn atom(&mut self) -> Option<ExactValue> {
        let token = self.peek()?.clone();
        self.at += 1;
        match token.kind {
            TokenKind::Number { value, decimal, digits } => {
                self.decimal |= decimal;
                self.numbers.push(value.clone());
                if self.next_is('_') && !self.base_ten() {
                    return None;
                }
                let whole = ExactValue::rational(value);
                match digits.is_some().then(|| self.mixed()) {
                    Some(Some(fraction)) => whole.plus(fraction),
                    _ => Some(whole),
                }
            }
            TokenKind::Sign('(') => self.bracketed(')'),
            TokenKind::Sign('{') => self.bracketed('}'),
            TokenKind::Command(name) if name == "frac" => self.fraction(),
            TokenKind::Command(name) if name == "sqrt" => self.root(),
            TokenKind::Command(name) if SYMBOLS.contains(&name.as_str()) => Some(self.symbol(&name)),
            TokenKind::Word(word) if !token.upright && word.chars().count() <= 3 => {
                let mut letters = word.chars().map(String::from).collect::<Vec<_>>();
                let last = letters.pop()?;
                let last = self.symbol(&last);
                letters.iter().try_fold(last, |product, letter| product.times(&ExactValue::symbol(letter)))
            }
            _ => None,
        }
    }

    fn bracketed(&mut self, close: char) -> Option<ExactValue> {
        let value = self.deeper(|parser| {
            let negative = parser.take('-');
            parser.sum(negative)
        })?;
        self.take(close).then_some(value)
    }

    /// A variable with its index.
    fn symbol(&mut self, name: &str) -> ExactValue {
        let mut name = name.to_owned();
        if self.take('_') {
            let mut braces = 0;
            for token in &self.tokens[self.at..] {
                braces += i32::from(token.is('{')) - i32::from(token.is('}'));
                name.push_str(&format!("_{:?}", token.kind));
                self.at += 1;
                if braces <= 0 {
                    break;
                }
            }
        }
        ExactValue::symbol(&name)
    }

    /// `_{10}` after a number has no effect; another base makes it another number.
    fn base_ten(&mut self) -> bool {
        let ten = |token: &MathToken| matches!(&token.kind, TokenKind::Number { digits: Some(digits), .. } if digits == "10");
        self.at += 1;
        let braces = self.take('{');
        let is = self.peek().is_some_and(ten);
        self.at += 1;
        is && (!braces || self.take('}'))
    }

    /// The fraction of a mixed number: two integers, `\frac{1}{2}` or ` 1/2`.
    fn mixed(&mut self) -> Option<ExactValue> {
        let start = self.at;
        let whole = |token: &MathToken| match &token.kind {
            TokenKind::Number { value, digits: Some(_), .. } => Some(ExactValue::rational(value.clone())),
            _ => None,
        };
        let first = self.peek()?.clone();
        let found = match &first.kind {
            TokenKind::Command(name) if name == "frac" => {
                let (tokens, computed) = (self.tokens.clone(), self.computed);
                self.at += 1;
                let value = self.fraction().filter(|value| value.as_rational().is_some() && self.computed == computed);
                if value.is_none() {
                    (self.tokens, self.computed) = (tokens, computed);
                }
                value
            }
            TokenKind::Number { .. } if first.spaced => {
                let above = whole(&first)?;
                let slash = self.tokens.get(start + 1).is_some_and(|token| token.is('/'));
                let below = self.tokens.get(start + 2).and_then(whole).filter(|_| slash)?;
                self.at += 3;
                above.over(&below)
            }
            _ => return None,
        };
        if found.is_none() {
            self.at = start;
        }
        found
    }
}

/// Whether a factor can begin with this token.
fn begins_factor(token: &MathToken) -> bool {
    match &token.kind {
        TokenKind::Number { .. } => true,
        TokenKind::Word(word) => !token.upright && word.chars().count() <= 3,
        TokenKind::Command(name) => matches!(name.as_str(), "frac" | "sqrt") || SYMBOLS.contains(&name.as_str()),
        TokenKind::Sign(sign) => matches!(sign, '(' | '{'),
        TokenKind::Line => false,
    }
}

/// Whether a factor is a power of ten: 1, 10, 100, ..., or 0.1 and so on.
fn is_power_of_ten(value: &ExactValue) -> bool {
    let Some(value) = value.as_rational() else { return false };
    let one = |n: &BigInt| n.to_string().strip_prefix('1').is_some_and(|rest| rest.bytes().all(|digit| digit == b'0'));
    one(value.numer()) && one(value.denom())
}

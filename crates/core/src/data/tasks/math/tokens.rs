//! Tokenizer for mathematical text: LaTeX, and plain notation of people and models.
//!
//! Formatting is dropped (`\left`, `\,`, `\text` around a word, `**`); equivalent notations become one (`−`, `–` and `-`; `×` and `\times`;
//! `½` and `\frac{1}{2}`; `５` and `5`; `5²` and `5^{2}`).

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::Pow;

/// Maximum digits of a number; longer ones are not parsed.
const MOST_DIGITS: usize = 1000;
/// Maximum exponent of a number.
const MOST_EXPONENT: i32 = 400;

/// Type of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A number without sign.
    Number {
        /// Its value.
        value: BigRational,
        /// Written with a decimal point.
        decimal: bool,
        /// The digits of an integer without separators: `12` for 12, none for 1,200 or 1.2.
        digits: Option<String>,
    },
    /// Letters.
    Word(String),
    /// A command with a meaning: `frac`, `sqrt`, `pi`, and all unknown ones.
    Command(String),
    /// Any other sign. `*` stands for all multiplication signs, `$` for all currencies, `°` for degrees, `=` also for approximate equality,
    /// `⟨` and `⟩` for the braces of a set.
    Sign(char),
    /// The end of a line.
    Line,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MathToken {
    /// Its type.
    pub kind: TokenKind,
    /// Preceded by a space.
    pub spaced: bool,
    /// An upright word (`\text{m}`), which is not a variable.
    pub upright: bool,
}

impl MathToken {
    /// Whether it is this sign.
    pub fn is(&self, sign: char) -> bool {
        self.kind == TokenKind::Sign(sign)
    }

    /// Whether it is a number.
    pub fn is_number(&self) -> bool {
        matches!(self.kind, TokenKind::Number { .. })
    }

    /// The word, if it is one.
    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            TokenKind::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// Formatting commands and spaces.
const DROPPED: &[&str] = &[
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "displaystyle",
    "textstyle",
    "limits",
    "quad",
    "qquad",
    "hspace",
    "rm",
    "bf",
    "it",
];
/// Commands that change the font of their argument, and whether it becomes upright, where a variable would not be.
const WRAPPERS: &[(&str, bool)] = &[
    ("text", true),
    ("textbf", true),
    ("textit", true),
    ("textrm", true),
    ("textsf", true),
    ("texttt", true),
    ("textnormal", true),
    ("mbox", true),
    ("hbox", true),
    ("mathrm", true),
    ("operatorname", true),
    ("mathsf", true),
    ("mathbf", false),
    ("mathit", false),
    ("boldsymbol", false),
    ("bm", false),
    ("emph", true),
    ("underline", false),
    ("boxed", false),
    ("fbox", false),
];
/// Commands for signs.
const SIGNS: &[(&str, char)] = &[
    ("times", '*'),
    ("cdot", '*'),
    ("ast", '*'),
    ("div", '/'),
    ("circ", '°'),
    ("degree", '°'),
    ("approx", '='),
    ("lbrace", '⟨'),
    ("rbrace", '⟩'),
    ("lbrack", '['),
    ("rbrack", ']'),
    ("colon", ':'),
    ("euro", '$'),
    ("pounds", '$'),
];
/// Superscripts and vulgar fractions.
const RAISED: &str = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const VULGAR: &[(char, u32, u32)] = &[
    ('½', 1, 2),
    ('⅓', 1, 3),
    ('⅔', 2, 3),
    ('¼', 1, 4),
    ('¾', 3, 4),
    ('⅕', 1, 5),
    ('⅖', 2, 5),
    ('⅗', 3, 5),
    ('⅘', 4, 5),
    ('⅙', 1, 6),
    ('⅚', 5, 6),
    ('⅐', 1, 7),
    ('⅛', 1, 8),
    ('⅜', 3, 8),
    ('⅝', 5, 8),
    ('⅞', 7, 8),
    ('⅑', 1, 9),
    ('⅒', 1, 10),
];

/// Splits a text into tokens, in one pass.
pub fn tokens(text: &str) -> Vec<MathToken> {
    let chars = plain(text);
    let mut lexer = Lexer { chars: &chars, at: 0, out: Vec::new(), spaced: false, braces: Vec::new() };
    while lexer.at < chars.len() {
        lexer.next_token();
    }
    lexer.out
}

/// Replaces equivalent characters with one, from the character set of LaTeX.
fn plain(text: &str) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    let mut raised = false;
    for c in text.chars() {
        let digit = RAISED.chars().position(|r| r == c).and_then(|d| char::from_digit(d as u32, 10));
        let up = digit.or((c == '⁻').then_some('-'));
        if raised && up.is_none() {
            out.push('}');
        }
        if let Some(up) = up {
            out.extend(if raised { &[][..] } else { &['^', '{'] });
            out.push(up);
            raised = true;
            continue;
        }
        raised = false;
        match c {
            // Full-width forms.
            '\u{FF01}'..='\u{FF5E}' => out.extend(char::from_u32(c as u32 - 0xFEE0)),
            '\u{2212}' | '\u{2013}' | '\u{2010}' | '\u{2011}' | '\u{2012}' | '\u{FE63}' => out.push('-'),
            '×' | '·' | '⋅' | '∙' | '✕' | '✖' => out.push('*'),
            '÷' | '∕' | '⁄' => out.push('/'),
            '≈' | '≃' => out.push('='),
            '€' | '£' | '¥' | '₹' | '￥' | '¢' | '₽' | '₩' => out.push('$'),
            'π' => out.extend("\\pi ".chars()),
            '√' => out.extend("\\sqrt ".chars()),
            '∞' => out.extend("\\infty ".chars()),
            '\u{200B}' | '\u{200C}' | '\u{200D}' | '\u{FEFF}' | '\u{2060}' => {}
            c => match VULGAR.iter().find(|(sign, ..)| *sign == c) {
                Some((_, above, below)) => out.extend(format!("\\frac{{{above}}}{{{below}}}").chars()),
                None => out.push(c),
            },
        }
    }
    if raised {
        out.push('}');
    }
    out
}

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
    out: Vec<MathToken>,
    spaced: bool,
    /// For each open brace: whether it is dropped, and whether words in it are upright.
    braces: Vec<(bool, bool)>,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn push(&mut self, kind: TokenKind) {
        let upright = self.braces.last().is_some_and(|(_, upright)| *upright);
        self.out.push(MathToken { kind, spaced: std::mem::take(&mut self.spaced), upright });
    }

    fn next_token(&mut self) {
        let c = self.chars[self.at];
        match c {
            '0'..='9' => self.number(),
            '.' if self.peek(1).is_some_and(|c| c.is_ascii_digit()) => self.number(),
            '\n' => {
                self.at += 1;
                self.push(TokenKind::Line);
                self.spaced = true;
            }
            '~' => self.space(1),
            c if c.is_whitespace() => self.space(1),
            '\\' => self.command(),
            '{' => {
                let upright = self.braces.last().is_some_and(|(_, upright)| *upright);
                self.open((false, upright));
                self.push(TokenKind::Sign('{'));
            }
            '}' => {
                self.at += 1;
                if !self.braces.pop().is_some_and(|(dropped, _)| dropped) {
                    self.push(TokenKind::Sign('}'));
                }
            }
            '*' if self.peek(1) == Some('*') => self.stars(),
            c if c.is_alphabetic() => self.word(),
            c => {
                self.at += 1;
                self.push(TokenKind::Sign(c));
            }
        }
    }

    fn space(&mut self, length: usize) {
        self.at += length;
        self.spaced = true;
    }

    /// Records an open brace; an unclosed one has no effect on the text.
    fn open(&mut self, brace: (bool, bool)) {
        self.at += 1;
        self.braces.push(brace);
    }

    /// `2**3` is a power; the marks of `**bold**` are dropped.
    fn stars(&mut self) {
        let before = self.at.checked_sub(1).map(|at| self.chars[at]);
        let is_power = before.is_some_and(|c| c.is_alphanumeric() || c == ')')
            && self.peek(2).is_some_and(|c| c.is_ascii_digit() || matches!(c, '(' | '-'));
        self.at += 2;
        if is_power { self.push(TokenKind::Sign('^')) } else { self.spaced = true }
    }

    fn word(&mut self) {
        let start = self.at;
        while self.peek(0).is_some_and(char::is_alphabetic) {
            self.at += 1;
        }
        self.push(TokenKind::Word(self.chars[start..self.at].iter().collect()));
    }

    fn command(&mut self) {
        let letters = self.chars[self.at + 1..].iter().take(32).take_while(|c| c.is_ascii_alphabetic()).count();
        if letters == 0 {
            return self.escaped();
        }
        let name: String = self.chars[self.at + 1..=self.at + letters].iter().collect();
        self.at += 1 + letters;
        let wrapper = WRAPPERS.iter().find(|(known, _)| *known == name);
        match name.as_str() {
            "frac" | "dfrac" | "tfrac" | "cfrac" => self.push(TokenKind::Command("frac".into())),
            name if DROPPED.contains(&name) => self.spaced = true,
            _ if wrapper.is_some() => {
                let upright = wrapper.is_some_and(|(_, upright)| *upright);
                while self.peek(0) == Some(' ') {
                    self.at += 1;
                }
                if self.peek(0) == Some('{') {
                    self.open((true, upright));
                }
            }
            name => match SIGNS.iter().find(|(known, _)| *known == name) {
                Some((_, sign)) => self.push(TokenKind::Sign(*sign)),
                None => self.push(TokenKind::Command(name.to_owned())),
            },
        }
    }

    /// A backslash and a sign.
    fn escaped(&mut self) {
        let sign = self.peek(1);
        self.at += 1 + usize::from(sign.is_some());
        match sign {
            None => {}
            Some('!') => {}
            Some('\\') => {
                self.push(TokenKind::Line);
                self.spaced = true;
            }
            Some(c) if c.is_whitespace() || matches!(c, ',' | ';' | ':' | '>' | '(' | ')' | '[' | ']') => self.spaced = true,
            Some('{') => self.push(TokenKind::Sign('⟨')),
            Some('}') => self.push(TokenKind::Sign('⟩')),
            Some(c) => self.push(TokenKind::Sign(c)),
        }
    }

    fn digits(&self, from: usize) -> usize {
        self.chars[from.min(self.chars.len())..].iter().take_while(|c| c.is_ascii_digit()).count()
    }

    /// Length of a thousands separator.
    fn separator(&self, at: usize) -> usize {
        let rest = &self.chars[at.min(self.chars.len())..];
        let known: [&[char]; 4] = [&['{', ',', '}'], &[',', '\\', '!'], &['\\', ','], &['\u{202F}']];
        let found = known.into_iter().find(|sign| rest.starts_with(sign)).map(<[char]>::len);
        found.or(rest.starts_with(&[',']).then_some(1)).or(rest.starts_with(&['\u{2009}']).then_some(1)).unwrap_or(0)
    }

    /// End of an integer with separators, 1,234,567 and 12,34,567, or without.
    fn grouped(&self) -> (usize, Vec<usize>) {
        let first = self.digits(self.at);
        let (mut end, mut groups) = (self.at + first, Vec::new());
        while groups.len() < 64 {
            let separator = self.separator(end);
            let digits = self.digits(end + separator);
            if separator == 0 || !(2..=3).contains(&digits) {
                break;
            }
            groups.push(digits);
            end += separator + digits;
        }
        let more = self.separator(end) > 0 && self.digits(end + self.separator(end)) > 0;
        let western = groups.iter().all(|digits| *digits == 3) && first <= 3;
        let indian = groups.last() == Some(&3) && groups[..groups.len() - 1].iter().all(|digits| *digits == 2) && first <= 2;
        if groups.is_empty() || more || !(western || indian) {
            return (self.at + first, Vec::new());
        }
        (end, groups)
    }

    fn number(&mut self) {
        let (end, groups) = self.grouped();
        let mut digits: String = self.chars[self.at..end].iter().filter(|c| c.is_ascii_digit()).collect();
        let plain = groups.is_empty().then(|| digits.clone());
        self.at = end;
        let mut decimals = 0;
        let decimal = self.peek(0) == Some('.') && self.digits(self.at + 1) > 0;
        if decimal {
            decimals = self.digits(self.at + 1);
            digits.extend(&self.chars[self.at + 1..=self.at + decimals]);
            self.at += 1 + decimals;
        }
        // In `5.` after digits, the point is punctuation.
        let repeated = self.repeated(decimal);
        let exponent = if repeated.is_some() { None } else { self.exponent() };
        let value = value(&digits, decimals, repeated.as_deref(), exponent.unwrap_or(0));
        let digits = plain.filter(|_| !decimal && exponent.is_none() && repeated.is_none());
        match value {
            Some(value) => self.push(TokenKind::Number { value, decimal: decimal && repeated.is_none(), digits }),
            None => self.push(TokenKind::Command("too long".into())),
        }
    }

    /// The repeating digits of `0.1\overline{6}`.
    fn repeated(&mut self, decimal: bool) -> Option<String> {
        let has_point = decimal || self.peek(0) == Some('.');
        let at = self.at + usize::from(!decimal && has_point);
        let rest = self.chars.get(at..).filter(|_| has_point)?;
        let open = ["\\overline{", "\\bar{"].iter().find(|open| rest.iter().take(open.len()).copied().eq(open.chars()))?;
        let digits = self.digits(at + open.len());
        let start = at + open.len();
        if digits == 0 || digits > 32 || self.chars.get(start + digits) != Some(&'}') {
            return None;
        }
        self.at = start + digits + 1;
        Some(self.chars[start..start + digits].iter().collect())
    }

    /// `e3` of `1e3`.
    fn exponent(&mut self) -> Option<i32> {
        if !matches!(self.peek(0), Some('e' | 'E')) {
            return None;
        }
        let signed = usize::from(matches!(self.peek(1), Some('-' | '+')));
        let digits = self.digits(self.at + 1 + signed);
        let after = self.peek(1 + signed + digits);
        if !(1..=4).contains(&digits) || after.is_some_and(char::is_alphabetic) {
            return None;
        }
        let written: String = self.chars[self.at + 1 + signed..self.at + 1 + signed + digits].iter().collect();
        let value: i32 = written.parse().ok()?;
        let value = if self.peek(1) == Some('-') { -value } else { value };
        self.at += 1 + signed + digits;
        Some(value)
    }
}

/// The number with these digits, the last `decimals` of them after the point, followed by repeating digits.
fn value(digits: &str, decimals: usize, repeated: Option<&str>, exponent: i32) -> Option<BigRational> {
    let digits = if digits.is_empty() { "0" } else { digits };
    if digits.len() > MOST_DIGITS || exponent.abs() > MOST_EXPONENT {
        return None;
    }
    let ten = |power: usize| BigInt::from(10).pow(u32::try_from(power).unwrap_or(0));
    let mut value = BigRational::new(digits.parse::<BigInt>().ok()?, ten(decimals));
    if let Some(repeated) = repeated {
        let nines = ten(repeated.len()) - 1;
        value += BigRational::new(repeated.parse::<BigInt>().ok()?, nines * ten(decimals));
    }
    Some(value * Pow::pow(BigRational::from_integer(BigInt::from(10)), exponent))
}

/// Number of words in a text.
pub fn word_count(text: &str) -> usize {
    tokens(text).iter().filter(|token| token.word().is_some()).count()
}

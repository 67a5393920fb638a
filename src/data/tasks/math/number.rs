//! Numbers in text, compared as numbers: 1,234 = 1234 = 1234.0 = $1,234, and 1/2 = 0.5 = \frac{1}{2}.

/// Digits of numerator and denominator up to which fractions are exact; longer decimals are compared digit by digit.
const MOST_DIGITS: usize = 18;
/// Powers of ten that a number may be written with.
const MOST_EXPONENT: i64 = 400;

/// A number, in a form in which equal ones are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    /// A fraction in lowest terms, the denominator above 0.
    Ratio(i128, i128),
    /// A long decimal: whether it is below 0, its digits without zeros at the ends, and the power of ten of the last.
    Long(bool, String, i64),
}

impl Number {
    /// The last number of a text; `None` if there is none.
    pub fn last_in(text: &str) -> Option<Self> {
        let plain = without_fractions(text);
        let chars: Vec<char> = plain.chars().collect();
        let (mut at, mut last) = (0, None);
        while at < chars.len() {
            match scan(&chars, at) {
                Some((number, end)) => (last, at) = (Some(number), end),
                None => at += 1,
            }
        }
        last
    }

    /// A text that is one number, with a currency sign or a percent sign around it and spaces, at most.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = without_fractions(text);
        let kept: Vec<char> =
            plain.chars().filter(|c| !c.is_whitespace() && !matches!(c, '$' | '%' | '\\' | '€' | '£')).collect();
        let end = kept.len() - usize::from(kept.last() == Some(&'.'));
        let (number, read) = scan(&kept[..end], 0)?;
        (read == end).then_some(number)
    }

    fn from_decimal(negative: bool, digits: &str, exponent: i64) -> Option<Self> {
        let trimmed = digits.trim_start_matches('0');
        let kept = trimmed.trim_end_matches('0');
        if kept.is_empty() {
            return Some(Self::Ratio(0, 1));
        }
        let exponent = exponent + (trimmed.len() - kept.len()) as i64;
        let size = kept.len() as i64 + exponent.abs();
        if size > MOST_DIGITS as i64 {
            return Some(Self::Long(negative, kept.to_owned(), exponent));
        }
        let value: i128 = kept.parse().ok()?;
        let ten = 10i128.checked_pow(exponent.unsigned_abs() as u32)?;
        let value = if negative { -value } else { value };
        Some(if exponent >= 0 { Self::Ratio(value * ten, 1) } else { Self::ratio(value, ten)? })
    }

    /// A fraction in lowest terms.
    pub fn ratio(numerator: i128, denominator: i128) -> Option<Self> {
        let divisor = gcd(numerator.unsigned_abs(), denominator.unsigned_abs());
        if denominator == 0 || divisor == 0 {
            return None;
        }
        let divisor = i128::try_from(divisor).ok()? * denominator.signum();
        Some(Self::Ratio(numerator / divisor, denominator / divisor))
    }

    fn over(self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Ratio(a, b), Self::Ratio(c, d)) => Self::ratio(a.checked_mul(*d)?, b.checked_mul(*c)?),
            _ => None,
        }
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The number that begins at `start`, and where it ends. It may be a fraction of two numbers.
fn scan(chars: &[char], start: usize) -> Option<(Number, usize)> {
    let (number, end) = scan_decimal(chars, start, true)?;
    let slash = skip(chars, end, ' ');
    if chars.get(slash) == Some(&'/')
        && let Some((below, after)) = scan_decimal(chars, skip(chars, slash + 1, ' '), false)
        && let Some(fraction) = number.clone().over(&below)
    {
        return Some((fraction, after));
    }
    Some((number, end))
}

fn skip(chars: &[char], mut at: usize, what: char) -> usize {
    // A few: spaces without end are no part of a number.
    let most = at + 3;
    while at < most && chars.get(at) == Some(&what) {
        at += 1;
    }
    at
}

fn scan_decimal(chars: &[char], start: usize, may_be_negative: bool) -> Option<(Number, usize)> {
    let digit = |at: usize| chars.get(at).is_some_and(char::is_ascii_digit);
    let mut at = start;
    let mut negative = false;
    if may_be_negative && matches!(chars.get(at), Some('-' | '\u{2212}')) {
        // 5-3 is a difference.
        negative = start == 0 || !(chars[start - 1].is_alphanumeric() || chars[start - 1] == ')');
        at = skip(chars, at + 1, ' ');
        if chars.get(at) == Some(&'$') {
            at += 1;
        }
    }
    if !(digit(at) || chars.get(at) == Some(&'.') && digit(at + 1)) {
        return None;
    }
    let (mut digits, mut exponent) = (String::new(), 0i64);
    let first = at;
    while digit(at) || (chars.get(at) == Some(&',') && at > first && (1..4).all(|i| digit(at + i)) && !digit(at + 4)) {
        if chars[at] != ',' {
            digits.push(chars[at]);
        }
        at += 1;
    }
    if chars.get(at) == Some(&'.') && digit(at + 1) {
        at += 1;
        while digit(at) {
            digits.push(chars[at]);
            exponent -= 1;
            at += 1;
        }
    }
    if matches!(chars.get(at), Some('e' | 'E')) {
        let signed = at + 1 + usize::from(matches!(chars.get(at + 1), Some('-' | '+')));
        let written: String = chars[signed.min(chars.len())..].iter().take(4).take_while(|c| c.is_ascii_digit()).collect();
        let more = chars.get(signed + written.len());
        if let (Ok(power), false) = (written.parse::<i64>(), more.is_some_and(|c| c.is_alphanumeric()))
            && power <= MOST_EXPONENT
        {
            exponent += if chars[at + 1] == '-' { -power } else { power };
            at = signed + written.len();
        }
    }
    Some((Number::from_decimal(negative, &digits, exponent)?, at))
}

/// `\frac{1}{2}` as `1/2`; other text as it is.
fn without_fractions(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("frac{") {
        let head = rest[..at].strip_suffix(['d', 't']).unwrap_or(&rest[..at]);
        let inside = &rest[at + "frac{".len()..];
        let parts = head.strip_suffix('\\').and_then(|head| {
            let (above, after) = inside.split_once("}{").filter(|(above, _)| short(above))?;
            let (below, after) = after.split_once('}').filter(|(below, _)| short(below))?;
            Some((head, above, below, after))
        });
        match parts {
            Some((head, above, below, after)) => {
                out.push_str(head);
                out.push_str(&format!("{above}/{below}"));
                rest = after;
            }
            None => {
                out.push_str(&rest[..at + "frac{".len()]);
                rest = inside;
            }
        }
    }
    out + rest
}

fn short(text: &str) -> bool {
    text.len() <= 64 && !text.contains('{')
}

//! Python functions that chat templates rely on: `strftime`, `repr` of a float and of a string, and Unicode white space and line ends.

/// `repr` of a float: the shortest digits that identify it, with an exponent below 1e-4 and from 1e16.
pub(super) fn to_float_text(number: f64) -> String {
    let text = format!("{number:e}");
    let exponent: Option<(&str, i32)> = text.split_once('e').and_then(|(digits, power)| Some((digits, power.parse().ok()?)));
    match exponent {
        Some((digits, power)) if number != 0.0 && !(-4..16).contains(&power) => {
            format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
        }
        Some(_) => format!("{number:?}"),
        None => text.to_lowercase(),
    }
}

/// `repr` of a string: quotes, and escapes for what `str.isprintable` is false for.
pub(super) fn to_quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&match c as u32 {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
    out
}

/// Whether `str.isprintable` holds for this character, except for the backslash and quotes. Rust's `escape_debug` is made from the same
/// categories; combining marks are escaped only at the start of a text, hence the letter in front.
fn is_printable(c: char) -> bool {
    let mut pair = [b'a'; 5];
    let bytes = 1 + c.encode_utf8(&mut pair[1..]).len();
    c.is_ascii_graphic() || c == ' ' || std::str::from_utf8(&pair[..bytes]).is_ok_and(|pair| pair.escape_debug().count() == 2)
}

/// Whether `str.isspace` holds for this character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.split()`: the words between spaces; after `most` words, the rest.
pub(super) fn split_whitespace(text: &str, most: usize) -> Vec<&str> {
    let (mut rest, mut out) = (text.trim_start_matches(is_space), Vec::new());
    while !rest.is_empty() {
        let end = if out.len() == most { rest.len() } else { rest.find(is_space).unwrap_or(rest.len()) };
        let (word, after) = rest.split_at(end);
        out.push(word);
        rest = after.trim_start_matches(is_space);
    }
    out
}

/// `str.splitlines`: each line and its line end, which is empty only if the text ends without one.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (line, from) = rest.split_at(rest.find(is_end).unwrap_or(rest.len()));
        let length = if from.starts_with("\r\n") { 2 } else { from.chars().next().map_or(0, char::len_utf8) };
        let (end, after) = from.split_at(length);
        rest = after;
        Some((line, end))
    })
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `datetime.strftime` for a time in seconds since 1970, in UTC; unknown codes are kept unchanged.
pub(super) fn strftime(format: &str, seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_date(days);
    let (weekday, hour) = (DAYS[(days + 4).rem_euclid(7) as usize], second / 3600);
    let name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&format!("{year:04}")),
            Some('y') => out.push_str(&format!("{:02}", year.rem_euclid(100))),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('B') => out.push_str(name),
            Some('b') => out.push_str(&name[..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('H') => out.push_str(&format!("{hour:02}")),
            Some('I') => out.push_str(&format!("{:02}", (hour + 11) % 12 + 1)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('M') => out.push_str(&format!("{:02}", second / 60 % 60)),
            Some('S') => out.push_str(&format!("{:02}", second % 60)),
            Some('j') => out.push_str(&format!("{:03}", days - days_before(year) + 1)),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// The number of a day since 1970-01-01; proleptic Gregorian calendar.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let before = |y: i64| 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let lengths = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months: i64 = lengths.iter().take((month.clamp(1, 12) - 1) as usize).sum();
    before(year - 1) - before(1969) + months + day - 1
}

fn days_before(year: i64) -> i64 {
    days_of(year, 1, 1)
}

/// (year, month, day) of a day number since 1970-01-01.
fn civil_date(days: i64) -> (i64, i64, i64) {
    // A lower bound of the year, then the exact one.
    let mut year = 1970 + days.div_euclid(365).max(days.div_euclid(366) + 1);
    while days_before(year) > days {
        year -= 1;
    }
    let month = (1..=12).rev().find(|month| days_of(year, *month, 1) <= days).unwrap_or(1);
    (year, month, days - days_of(year, month, 1) + 1)
}

/// Seconds since 1970 of a day written as 2026-11-25.
pub(super) fn parse_date(text: &str) -> Option<i64> {
    let parts: Vec<i64> = text.split('-').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [year, month, day] = parts[..] else { return None };
    let days = days_of(year, month, day);
    ((1..=9999).contains(&year) && civil_date(days) == (year, month, day)).then_some(86_400 * days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // date -u -d @1764028800; date -u -d @951782400; date -u -d @-1
        assert_eq!(strftime("%d %b %Y, %A %j", 1_764_028_800), "25 Nov 2025, Tuesday 329");
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S %p %%", 951_782_400), "2000-02-29 00:00:00 AM %");
        assert_eq!(strftime("%a %B %-d %I", -1), "Wed December %-d 11");
        assert_eq!(parse_date("2000-02-29"), Some(951_782_400));
        for wrong in ["2001-02-29", "2000-13-01", "2000-1", "x", "", "2000-01-00"] {
            assert_eq!(parse_date(wrong), None, "{wrong}");
        }
        for day in (-800_000..800_000).step_by(97) {
            let (year, month, day_of_month) = civil_date(day);
            assert_eq!(days_of(year, month, day_of_month), day);
        }
    }

    #[test]
    fn floats_strings_and_lines_match_python() {
        // python3 -c 'print(0.0001, 0.00001, 1e15, 1e16, 1.2345678901234568e17, 1e22, 5e-324, -0.0, float("inf"), float("nan"))'
        let numbers = [0.0001, 0.00001, 1e15, 1e16, 1.234_567_890_123_456_8e17, 1e22, 5e-324, -0.0, f64::INFINITY, f64::NAN];
        let texts: Vec<String> = numbers.into_iter().map(to_float_text).collect();
        let wanted = "0.0001 1e-05 1000000000000000.0 1e+16 1.2345678901234568e+17 1e+22 5e-324 -0.0 inf nan";
        assert_eq!(texts.join(" "), wanted);
        // print(*map(repr, ["it's", "'\"", "\\\n\r\t\0\x7f", "\xa0\xad\u0301\u200d\u2028\ue000\U000e0001", "a\u0301 é 你 😀"]))
        let strings =
            ["it's", "'\"", "\\\n\r\t\0\x7f", "\u{a0}\u{ad}\u{301}\u{200d}\u{2028}\u{e000}\u{e0001}", "a\u{301} é 你 😀"];
        let wanted = [
            "\"it's\"",
            "'\\'\"'",
            r"'\\\n\r\t\x00\x7f'",
            "'\\xa0\\xad\u{301}\\u200d\\u2028\\ue000\\U000e0001'",
            "'a\u{301} é 你 😀'",
        ];
        assert_eq!(strings.map(to_quoted), wanted);
        // "a\r\nb\rc\x0bd\u2028\ne".splitlines(True)
        let whole: Vec<String> = lines("a\r\nb\rc\x0bd\u{2028}\ne").map(|(line, end)| format!("{line}{end}")).collect();
        assert_eq!(whole, ["a\r\n", "b\r", "c\x0b", "d\u{2028}", "\n", "e"]);
        assert_eq!(lines("a\n").collect::<Vec<_>>(), [("a", "\n")]);
        // "\x1c a  b c ".split(None, 1)
        assert_eq!(split_whitespace("\x1c a  b c ", 1), ["a", "b c "]);
        assert_eq!(split_whitespace(" a\x1fb ", usize::MAX), ["a", "b"]);
    }
}

//! Human-readable numbers and times, the same in the window, the report and the terminal.

/// With thousands separators: 1234567 as 1,234,567.
pub fn count(n: u64) -> String {
    grouped(&n.to_string())
}

/// The same of a number written in decimals, of which only the whole part is divided: -1234.5678 as -1,234.5678.
pub fn grouped(text: &str) -> String {
    let begin = text.find(|c: char| c.is_ascii_digit()).unwrap_or(0);
    let digits = text[begin..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - begin);
    let mut out = String::with_capacity(text.len() + digits / 3);
    for (i, c) in text.chars().enumerate() {
        if i > begin && i < begin + digits && (begin + digits - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A number to about four digits: 0.5561, 1.560, 1,235, 1.235·10⁻⁴. One that is shorter by itself, such as a setting, stays short: 0.5, 30.
pub fn number(v: f64) -> String {
    column(&[v]).pop().unwrap_or_default()
}

/// Numbers that stand below each other, each as [`number`] but with the same decimals, so that their digits line up: 1.560 above 0.987.
/// Where that would take the digits of the small ones, each is written by itself. `assets/report/report.js` has a port.
pub fn column(values: &[f64]) -> Vec<String> {
    // What rounding leaves of a zero is one.
    let zeroed = |v: f64| if v.abs() < 1e-12 { 0.0 } else { v };
    let sizes = || values.iter().map(|v| zeroed(*v).abs()).filter(|size| size.is_finite() && *size > 0.0);
    let (least, most) = sizes().fold((f64::INFINITY, 0.0f64), |(least, most), size| (least.min(size), most.max(size)));
    let is_plain = |size: f64| (1e-3..1e15).contains(&size);
    if values.len() > 1 && most > 0.0 && (most > 100.0 * least || !is_plain(least) || !is_plain(most)) {
        return values.iter().map(|v| number(*v)).collect();
    }
    let as_power = most > 0.0 && !is_plain(most);
    // The exponent after rounding to four digits: 9.9996 is 10.00.
    let exponent: i32 = format!("{most:.3e}").split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let places = if as_power { 3 } else { (3 - exponent).clamp(0, 6) as usize };
    let written = |v: f64, places: usize| if as_power { format!("{v:.places$e}") } else { format!("{v:.places$}") };
    let is_exact = |places: &usize| values.iter().all(|v| !v.is_finite() || written(*v, *places).parse() == Ok(zeroed(*v)));
    let places = (0..places).find(is_exact).unwrap_or(places);
    values.iter().map(|v| with_minus_and_groups(zeroed(*v), |v| written(v, places))).collect()
}

/// [`column()`] of what may be missing: `none` where a value is not finite, which does not count.
pub fn cells(values: impl IntoIterator<Item = f64>, none: &str) -> Vec<String> {
    let values: Vec<f64> = values.into_iter().collect();
    let known: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let mut texts = column(&known).into_iter();
    values.iter().map(|v| if v.is_finite() { texts.next().unwrap_or_default() } else { none.to_owned() }).collect()
}

/// A number written so, with a minus sign, groups of thousands, and a power of ten as one.
fn with_minus_and_groups(v: f64, written: impl Fn(f64) -> String) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    let text = match (v.is_infinite(), v == 0.0) {
        (true, _) => "∞".into(),
        (_, true) => "0".into(),
        _ => match written(v.abs()).split_once('e') {
            Some((mantissa, power)) => format!("{mantissa}·10{}", raised(power)),
            None => grouped(&written(v.abs())),
        },
    };
    if v < 0.0 { format!("−{text}") } else { text }
}

/// An exponent in raised characters.
pub fn raised(exponent: &str) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    exponent.chars().map(|c| c.to_digit(10).map_or('⁻', |digit| DIGITS[digit as usize])).collect()
}

/// A count with its noun: 1 row, 2 rows, 1,000 tries.
pub fn counted(n: u64, noun: &str) -> String {
    match noun.strip_suffix('y').filter(|stem| n != 1 && !stem.ends_with(['a', 'e', 'i', 'o', 'u'])) {
        Some(stem) => format!("{} {stem}ies", count(n)),
        None => format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" }),
    }
}

/// Abbreviated: 812,288 as 812 k, 19,500,000 as 19.5 M.
pub fn approximate_count(n: u64) -> String {
    let v = n as f64;
    for (unit, name) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if v >= unit * 0.9995 {
            let v = v / unit;
            let places = if v < 10.0 { 2 } else { usize::from(v < 100.0) };
            return format!("{v:.places$} {name}");
        }
    }
    n.to_string()
}

/// Seconds as text: 45 s, 3 min 20 s, 2 h 5 min, 3 d 4 h; an invalid duration is "unknown".
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".into();
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A Unix time as the time of day, in UTC.
pub fn clock(unix_seconds: f64) -> String {
    let s = unix_seconds.max(0.0) as u64 % 86_400;
    format!("{:02}:{:02}:{:02}", s / 3600, s % 3600 / 60, s % 60)
}

/// A Unix time as the date in UTC: 2026-11-25.
pub fn date(unix_seconds: f64) -> String {
    // With years that begin in March, the leap day is the last day of the year (Hinnant, "chrono-compatible low-level date algorithms").
    let days = (unix_seconds / 86_400.0).floor() as i64 + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    format!("{:04}-{month:02}-{day:02}", year + 400 * era + i64::from(month <= 2))
}

/// A share in percent with this many decimals: 16.3 %; a dash if it is not a number. What rounds to zero has no sign.
pub fn percent(share: f64, decimals: usize) -> String {
    if !share.is_finite() {
        return "-".into();
    }
    let text = format!("{:.decimals$} %", 100.0 * share);
    if text.contains(|c: char| ('1'..='9').contains(&c)) { text } else { text.replace('-', "") }
}

/// A text in which no line break parts a number from its percent sign.
pub fn keep_percent_signs(text: &str) -> String {
    text.replace(" %", "\u{a0}%")
}

/// Invisible characters that could change how a line reads: control characters, joiners, zero-width characters, and those that change the
/// text direction.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// External text made safe to display: hidden characters become escapes, newlines and tabs are kept.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && c != '\n' && c != '\t' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The lines of a text, trimmed and joined by spaces.
pub fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Escapes text for an XML or HTML element or attribute value.
pub fn escape_markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The known name that is closest to the typed one, if any is close.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(typed, name), name));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.8).map(|(_, name)| name)
}

/// "; did you mean X?" if a name is close, else the list of names.
pub fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(typed, known.iter().copied()) {
        Some(name) => format!("; did you mean {name}?"),
        None => format!("; known: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_match_the_calendar() {
        let days = [0.0, 951_782_399.0, 951_782_400.0, 1_709_164_800.0, 1_795_617_248.8, -1.0].map(date);
        assert_eq!(days, ["1970-01-01", "2000-02-28", "2000-02-29", "2024-02-29", "2026-11-25", "1969-12-31"]);
        assert_eq!([clock(43_200.0), clock(1_795_617_248.8)], ["12:00:00", "14:34:08"]);
        assert_eq!(
            [percent(0.1625, 1), percent(1.0, 0), percent(-1e-9, 1), percent(f64::NAN, 1)],
            ["16.2 %", "100 %", "0.0 %", "-"]
        );
    }

    /// `tests/ui/report/numbers.json` has columns as people write them; `tests/ui/report/check.mjs` holds the report's script to the same.
    #[test]
    fn columns_are_written_as_in_the_list() {
        let cases: Vec<(Vec<f64>, Vec<String>)> =
            serde_json::from_str(include_str!("../../../tests/ui/report/numbers.json")).unwrap();
        assert!(cases.len() > 20);
        for (values, wanted) in cases {
            assert_eq!(column(&values), wanted, "{values:?}");
        }
        assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(number), ["NaN", "∞", "−∞"]);
        assert_eq!(column(&[1.5, f64::NAN, 2.25]), ["1.50", "NaN", "2.25"]);
    }

    /// Any number is read back from what is written to four digits, and the decimal points of a column are below each other.
    #[test]
    fn what_is_written_is_the_number() {
        let mut x = 0.37f64;
        for i in 0..3000 {
            x = (x * 997.13 + 0.713).fract();
            let v = (x - 0.4) * 10f64.powi(i % 24 - 9);
            let text = number(v).replace('−', "-").replace(',', "");
            let plain = text.chars().map(|c| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().position(|r| r == c).map_or(c, |d| char::from(b'0' + d as u8)));
            let read: f64 = plain.collect::<String>().replace("·10", "e").replace('⁻', "-").parse().unwrap();
            assert!((read - v).abs() <= 5.1e-4 * v.abs() + 1e-12, "{v}: {text}");
            let pair = column(&[v, v * (0.05 + x)]);
            let decimals = |text: &str| text.split_once('.').map_or(0, |(_, rest)| rest.len());
            assert!(v.abs() < 0.1 || decimals(&pair[0]) == decimals(&pair[1]) || pair[1].contains('·'), "{v}: {pair:?}");
        }
    }

    #[test]
    fn numbers_and_times_are_formatted_for_reading() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let counts = [counted(0, "row"), counted(1, "try"), counted(1000, "try"), counted(2, "day")];
        assert_eq!(counts, ["0 rows", "1 try", "1,000 tries", "2 days"]);
        let times = [4.4, 59.6, 188.1, 7500.0, 273_600.0, -1.0, f64::NAN, f64::INFINITY].map(duration);
        assert_eq!(times, ["4 s", "1 min 0 s", "3 min 8 s", "2 h 5 min", "3 d 4 h", "unknown", "unknown", "unknown"]);
    }
}

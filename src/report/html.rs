//! Text for a page: untrusted text is escaped; numbers and times are formatted.

pub(super) use crate::number_format::{approximate_count, column, count, counted as plural, number};

/// Text as HTML: markup is escaped, hidden characters are shown as escapes. Line breaks stay.
pub(super) fn escape(text: &str) -> String {
    crate::number_format::escape_markup(&crate::number_format::visible(text).replace('\t', " "))
}

/// Text between two backticks as code; the text is HTML already.
pub(super) fn with_code(html: &str) -> String {
    let parts: Vec<&str> = html.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return html.to_owned();
    }
    let part = |(i, part): (usize, &&str)| if i % 2 == 1 { format!("<code>{part}</code>") } else { (*part).to_owned() };
    parts.iter().enumerate().map(part).collect()
}

/// Plain text on one line of at most `most` characters: hidden characters are shown as escapes.
pub(super) fn visible(text: &str, most: usize) -> String {
    let cut: String = text.chars().take(most).collect();
    let rest = if cut.len() < text.len() { "…" } else { "" };
    crate::number_format::visible(&cut).replace(['\n', '\t'], " ") + rest
}

/// The beginning of a long text, and how much was omitted.
pub(super) fn excerpt(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => escape(text),
        Some((at, _)) => {
            let rest = text[at..].chars().count();
            format!("{} <span class=\"cut\">… {} more characters</span>", escape(&text[..at]), count(rest as u64))
        }
    }
}

/// An untrusted text on one line: a name, a path, a reason.
pub(super) fn line(text: &str) -> String {
    let flat: String = text.chars().map(|c| if c == '\n' { ' ' } else { c }).collect();
    format!("<bdi>{}</bdi>", excerpt(&flat, 400))
}

/// A JSON value for a script element, escaped so that it cannot end the element.
pub(super) fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string(value)?.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029"))
}

/// The cells of a table's column: numbers with the same decimals, empty where there is none.
pub(super) fn cells(values: impl IntoIterator<Item = f64>) -> Vec<String> {
    crate::number_format::cells(values, "")
}

/// 0.1625 as 16.3 %.
pub(super) fn percent(share: f64) -> String {
    if share.is_finite() { crate::number_format::percent(share, 1).replace('-', "−") } else { "–".into() }
}

/// A duration in words; short ones with tenths of a second.
pub(super) fn duration(seconds: f64) -> String {
    if (0.0..0.05).contains(&seconds) {
        return "under 0.1 s".into();
    }
    if (0.0..9.95).contains(&seconds) { format!("{seconds:.1} s") } else { crate::number_format::duration(seconds) }
}

/// A Unix time as date and time in UTC; None for years without four digits.
pub(super) fn time(unix: f64) -> Option<String> {
    (unix.is_finite() && (0.0..2.5e11).contains(&unix)).then(|| {
        let s = unix as i64;
        format!("{}, {:02}:{:02} UTC", crate::number_format::date(unix), s / 3600 % 24, s / 60 % 60)
    })
}

/// Capitalize the first letter.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_is_markup() {
        assert_eq!(escape("</script><b a='\"'>&"), "&lt;/script&gt;&lt;b a=&#39;&quot;&#39;&gt;&amp;");
        assert_eq!(escape("a\u{202e}b\0c\u{1b}[1m\nd"), "a\\u{202e}b\\u{0}c\\u{1b}[1m\nd");
        assert_eq!(json(&"</script>\u{2028}").unwrap(), r#""\u003c/script>\u2028""#);
        assert!(excerpt(&"x".repeat(1_000_000), 50).len() < 200);
        assert_eq!(excerpt("äöü", 3), "äöü");
        assert_eq!([with_code("a `b` c"), with_code("a ` b"), with_code("``")], ["a <code>b</code> c", "a ` b", "<code></code>"]);
    }

    #[test]
    fn numbers_are_written_as_people_write_them() {
        assert_eq!([12, 1000, 812_288, 19_500_000].map(approximate_count), ["12", "1.00 k", "812 k", "19.5 M"]);
        assert_eq!([4.2, 9.97, 61.0].map(duration), ["4.2 s", "10 s", "1 min 1 s"]);
        assert_eq!(time(1_795_617_248.8).unwrap(), "2026-11-25, 14:34 UTC");
        assert!(time(f64::NAN).is_none() && time(1e300).is_none());
        assert_eq!(list(&["a", "b", "c"].map(String::from)), "a, b and c");
    }
}

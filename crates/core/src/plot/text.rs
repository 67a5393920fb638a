//! Text in a figure: width, line breaks, and removal of unsuitable characters.

/// Widths in hundredths of the font size, rounded up: the reader's font is unknown, and the widest common one (DejaVu Sans) must fit.
fn advance(c: char) -> f64 {
    let hundredths = match c {
        'i' | 'j' | 'l' | 'I' | '\'' | '|' => 31,
        ' ' | '.' | ',' | ':' | ';' | '!' => 33,
        'f' | 't' | '(' | ')' | '[' | ']' | '-' | '/' | '\\' | '·' => 40,
        'r' | 'J' | '"' => 44,
        '⁰'..='⁹' | '¹' | '²' | '³' | '⁻' => 41,
        's' | 'c' | 'z' | '?' => 55,
        'm' => 98,
        'w' | 'M' | '−' | '±' | '+' | '=' | '<' | '>' | '×' | '≤' | '≥' => 85,
        'W' | '@' | '%' | '→' => 100,
        'A'..='Z' | '&' => 74,
        ' '..='~' => 64,
        // Chinese, Japanese, Korean and emoji are square.
        c if c as u32 >= 0x2e80 => 105,
        _ => 70,
    };
    f64::from(hundredths) / 100.0
}

/// Width of a line of text in pixels, at a font size in pixels.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(advance).sum::<f64>() * size
}

/// Lines no wider than `most` pixels, broken at spaces; longer words and surplus lines are cut with an ellipsis.
pub(super) fn wrap(text: &str, size: f64, most: f64, allowed: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line, size) + width(word, size) + advance(' ') * size <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(shorten(word, size, most)),
        }
    }
    if lines.len() > allowed {
        let rest = lines.split_off(allowed.max(1) - 1).join(" ");
        lines.push(shorten(&rest, size, most));
    }
    lines
}

/// The text, shortened with an ellipsis to `most` pixels.
pub(super) fn shorten(text: &str, size: f64, most: f64) -> String {
    if width(text, size) <= most {
        return text.to_string();
    }
    let mut out = String::new();
    let mut used = advance('…') * size;
    for c in text.chars() {
        used += advance(c) * size;
        if used > most {
            break;
        }
        out.push(c);
    }
    out + "…"
}

/// Text that is safe to show, on one line.
pub(super) fn visible(text: &str) -> String {
    crate::number_format::visible(text).replace(['\n', '\t'], " ")
}

/// Escaped for XML text or an attribute value.
pub(super) fn escape(text: &str) -> String {
    crate::number_format::escape_markup(&visible(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_invisible_and_no_markup_gets_through() {
        assert_eq!(escape("a<b & \"c\"\u{1b}[31m\u{202e}\u{0}\n"), "a&lt;b &amp; &quot;c&quot;\\u{1b}[31m\\u{202e}\\u{0} ");
    }

    #[test]
    fn lines_keep_their_width_and_all_words() {
        let text = "validation loss of the merge of the newest ten checkpoints, against the raw one";
        let lines = wrap(text, 12.0, 200.0, 9);
        assert!(lines.len() > 1 && lines.iter().all(|l| width(l, 12.0) <= 200.0), "{lines:?}");
        assert_eq!(lines.join(" "), text);
        let two = wrap(text, 12.0, 200.0, 2);
        assert!(two.len() == 2 && two[0] == lines[0] && two[1].ends_with('…') && width(&two[1], 12.0) <= 200.0, "{two:?}");
        let cut = shorten(&"x".repeat(100), 12.0, 60.0);
        assert!(cut.ends_with('…') && width(&cut, 12.0) <= 60.0 && cut.len() > 5);
    }
}

//! Number formatting.

fn minus(text: String) -> String {
    match text.strip_prefix('-') {
        Some(rest) if !rest.contains(|c: char| matches!(c, '1'..='9')) => rest.into(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// Four significant digits; `-` for NaN.
pub fn short(x: f64) -> String {
    let size = x.abs();
    if x.is_nan() {
        return "-".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "∞".into() } else { "−∞".into() };
    }
    if size != 0.0 && !(1e-4..1e6).contains(&size) {
        let text = format!("{x:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
        return minus(format!("{digits}e{power}"));
    }
    let places = if size == 0.0 { 0 } else { (3 - size.log10().floor() as i32).clamp(0, 7) as usize };
    let text = format!("{x:.places$}");
    minus(if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text })
}

/// A share, such as `19.2 %`.
pub fn percent(x: f64) -> String {
    if x.is_finite() { minus(crate::number_format::percent(x, 1)) } else { "-".into() }
}

/// A label in the characters of the window's font, which lacks the raised minus: `2·10⁻⁴` becomes `2e-4`.
pub fn plain(label: &str) -> String {
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    if !label.contains('⁻') {
        return label.to_owned();
    }
    let lowered = |c: char| RAISED.iter().position(|r| *r == c).and_then(|d| char::from_digit(d as u32, 10)).unwrap_or(c);
    label.replace("·10⁻", "e-").replace("10⁻", "1e-").chars().map(lowered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_no_raised_minus() {
        assert_eq!(["2·10⁻⁴", "−10⁻⁶", "1.5·10⁻¹²", "0.5", "10 k"].map(plain), ["2e-4", "−1e-6", "1.5e-12", "0.5", "10 k"]);
    }

    #[test]
    fn numbers_are_short_and_true() {
        let of = [0.0, 0.19223, -0.5, 1234.56, 1e-7, 2.5e9, f64::NAN, f64::NEG_INFINITY, -1e-9, 999_999.0];
        let words = of.map(short);
        assert_eq!(words, ["0", "0.1922", "−0.5", "1235", "1e-7", "2.5e9", "-", "−∞", "−1e-9", "999999"]);
        assert_eq!([percent(0.1922), percent(f64::NAN), percent(-1e-9)], ["19.2 %", "-", "0.0 %"]);
    }
}

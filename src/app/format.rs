//! Numbers as text.

use crate::history::{FigureBasis, SummaryFigure};
use crate::number_format;

pub use crate::number_format::{clock, count, duration, keep_percent_signs};

/// A number to about four digits, in the characters of the window's font.
pub fn number(x: f64) -> String {
    plain(&number_format::number(x))
}

/// Numbers below each other, with the same decimals.
pub fn column(values: &[f64]) -> Vec<String> {
    number_format::column(values).iter().map(|text| plain(text)).collect()
}

/// The same of what may be missing: a dash where a value is not finite.
pub fn cells(values: impl IntoIterator<Item = f64>) -> Vec<String> {
    number_format::cells(values, "–").iter().map(|text| plain(text)).collect()
}

/// A label in the characters of the window's font, which lacks the raised minus: `2·10⁻⁴` becomes `2e-4`.
pub fn plain(label: &str) -> String {
    const RAISED: [char; 11] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹', '⁻'];
    let Some((head, exponent)) = label.find(RAISED).map(|at| label.split_at(at)) else { return label.to_owned() };
    let lowered = |c: char| match RAISED.iter().position(|r| *r == c) {
        Some(digit @ 0..10) => char::from_digit(digit as u32, 10).unwrap_or(c),
        Some(_) => '-',
        None => c,
    };
    let mantissa = head.strip_suffix("·10").map(str::to_owned).or_else(|| head.strip_suffix("10").map(|sign| format!("{sign}1")));
    let exponent: String = exponent.chars().map(lowered).collect();
    mantissa.map_or_else(|| label.to_owned(), |mantissa| format!("{mantissa}e{exponent}"))
}

/// The first characters of a text, and whether there are more.
pub fn excerpt(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().take(most).collect();
    if text.chars().count() > most {
        shown.push('…');
    }
    shown
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    if share.is_finite() { number_format::percent(share, 1).replace('-', "−") } else { "–".into() }
}

/// A run's figure, with its step or number of steps: `validation loss 4.156 at step 0`.
pub fn figure(f: &SummaryFigure) -> String {
    // With the decimals of its size, so that the lines of several runs can be compared.
    let write = |x: f64| match x.abs() {
        _ if f.percent => percent(x),
        size if (1e-3..1.0).contains(&size) => format!("{x:.4}").replace('-', "−"),
        size if (1.0..1000.0).contains(&size) => format!("{x:.3}").replace('-', "−"),
        _ => number(x),
    };
    let interval = f.interval.map_or(String::new(), |[low, high]| format!(" ({} to {})", write(low), write(high)));
    let of = match f.of {
        FigureBasis::Step(step) => format!(" at step {}", count(step)),
        FigureBasis::Steps(n) => format!(" (mean of {} steps)", count(n as u64)),
    };
    format!("{} {}{interval}{of}", f.name, write(f.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window's font lacks the raised minus.
    #[test]
    fn labels_have_no_raised_characters() {
        let labels = ["2·10⁻⁴", "−10⁻⁶", "1.5·10⁻¹²", "10¹⁵", "2.718·10²⁰", "0.5", "10 k"].map(plain);
        assert_eq!(labels, ["2e-4", "−1e-6", "1.5e-12", "1e15", "2.718e20", "0.5", "10 k"]);
        assert_eq!(
            [number(0.00012346), number(-54321.0), percent(-1e-9), percent(f64::NAN)],
            ["1.235e-4", "−54,321", "0.0 %", "–"]
        );
        assert_eq!(column(&[1.56, 1.5604]), ["1.560", "1.560"]);
    }
}

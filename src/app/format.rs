//! Numbers as text.

use crate::history::{FigureBasis, SummaryFigure};

pub use crate::number_format::{clock, count, duration, keep_percent_signs};

/// About four digits, without needless zeros: 0.0001234 as 1.234e-4, 12345678 as 12,345,678.
pub fn number(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() { "none".into() } else { format!("{x}") };
    }
    let size = x.abs();
    match size {
        0.0 => "0".into(),
        _ if !(1e-3..1e12).contains(&size) => {
            let text = format!("{x:.3e}");
            let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{power}", trimmed(digits))
        }
        _ if size >= 10_000.0 => format!("{}{}", if x < 0.0 { "-" } else { "" }, count(x.round().abs() as u64)),
        _ => {
            let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
            trimmed(&format!("{x:.digits$}"))
        }
    }
}

/// The first characters of a text, and whether there are more.
pub fn beginning(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().take(most).collect();
    if text.chars().count() > most {
        shown.push('…');
    }
    shown
}

fn trimmed(text: &str) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    crate::number_format::percent(share, 1)
}

/// A run's figure, with its step or number of steps: `validation loss 4.156 at step 0`.
pub fn figure(f: &SummaryFigure) -> String {
    // With the same number of decimals, so that runs can be compared.
    let write = |x: f64| match x.abs() {
        _ if f.percent => percent(x),
        size if (0.1..1000.0).contains(&size) => format!("{x:.3}"),
        _ => number(x),
    };
    let interval = f.interval.map_or(String::new(), |[low, high]| format!(" ({} to {})", write(low), write(high)));
    let of = match f.of {
        FigureBasis::Step(step) => format!(" at step {}", count(step)),
        FigureBasis::Updates(n) => format!(" (mean of {} steps)", count(n as u64)),
    };
    format!("{} {}{interval}{of}", f.name, write(f.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (0.00012346, "1.235e-4"),
            (2.7184999, "2.718"),
            (12.5, "12.5"),
            (1234.56, "1235"),
            (12345678.0, "12,345,678"),
            (-54321.0, "-54,321"),
            (f64::NAN, "none"),
        ];
        cases.iter().for_each(|(x, text)| assert_eq!(number(*x), *text));
    }
}

//! Scales, ticks at round numbers, and number formatting. The same for figures, for the window's charts and (ported to
//! `assets/report/report.js`) for the report's.

use crate::number_format::{grouped, raised};

/// Kind of values on an axis, which determines ticks and labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Values {
    /// Any numbers.
    #[default]
    Numbers,
    /// Steps and tokens: integers.
    Whole,
    /// Shares, in percent.
    Shares,
    /// Durations in seconds, in a suitable unit.
    Seconds,
    /// Unix times, shown as the time of day in UTC.
    Clock,
}

/// An axis: its label and its range.
#[derive(Clone, Debug, Default)]
pub(super) struct AxisSpec {
    pub label: String,
    pub values: Values,
    pub log: bool,
    /// The requested range; otherwise that of the data.
    pub range: Option<(f64, f64)>,
}

/// A mapping from numbers to pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    log: bool,
    from: (f64, f64),
    to: (f64, f64),
}

/// Minimum and maximum of the finite numbers (above 0 for a logarithmic axis).
pub(super) fn extent(values: impl IntoIterator<Item = f64>, log: bool) -> Option<(f64, f64)> {
    let usable = values.into_iter().filter(|v| v.is_finite() && (!log || *v > 0.0));
    usable.fold(None, |found, v| Some(found.map_or((v, v), |(lo, hi): (f64, f64)| (lo.min(v), hi.max(v)))))
}

impl AxisSpec {
    /// The range shown: as requested, or the data's with a margin (a share of the range); never empty.
    pub fn span(&self, data: Option<(f64, f64)>, margin: f64) -> (f64, f64) {
        let asked = self.range.filter(|(lo, hi)| lo.is_finite() && hi.is_finite() && lo < hi && (!self.log || *lo > 0.0));
        if let Some(range) = asked {
            return range;
        }
        let (lo, hi) = data.unwrap_or(if self.log { (1.0, 10.0) } else { (0.0, 1.0) });
        if self.log {
            let by = (hi / lo).powf(margin).max(1.02);
            return (lo / by, hi * by);
        }
        // A range too small for double precision is widened.
        let by = if hi - lo > 1e-12 * hi.abs().max(lo.abs()) { (hi - lo) * margin } else { (0.05 * hi.abs()).max(1e-9) };
        (lo - by, hi + by)
    }
}

impl Scale {
    /// From a range of numbers to a range of pixels, linear or logarithmic.
    pub fn new(log: bool, from: (f64, f64), to: (f64, f64)) -> Self {
        Self { log, from, to }
    }

    /// A pixel, or NaN for a number that a logarithmic axis cannot show.
    pub fn at(&self, v: f64) -> f64 {
        let ((a, b), (p, q)) = (self.from, self.to);
        let t = if self.log { if v > 0.0 { (v / a).ln() / (b / a).ln() } else { f64::NAN } } else { (v - a) / (b - a) };
        p + t * (q - p)
    }

    /// The number at a pixel.
    pub fn invert(&self, pixel: f64) -> f64 {
        let ((a, b), (p, q)) = (self.from, self.to);
        let t = (pixel - p) / (q - p);
        if self.log { a * (b / a).powf(t) } else { a + t * (b - a) }
    }

    /// Round numbers in the range with their labels, at most `most`, and (logarithmic) unlabelled ones between them.
    pub(super) fn ticks(&self, values: Values, most: usize) -> Ticks {
        let (lo, hi) = (self.from.0.min(self.from.1), self.from.0.max(self.from.1));
        let scaled = |unit: f64, suffix: &str| {
            let ticks = linear_ticks(lo / unit, hi / unit, most);
            let labels = numbers(&ticks).into_iter().map(|l| if l == "0" { l } else { format!("{l}{suffix}") });
            Ticks { major: ticks.iter().map(|v| v * unit).zip(labels).collect(), minor: Vec::new() }
        };
        match values {
            Values::Clock => clock_ticks(lo, hi, most),
            Values::Seconds if self.log => {
                let mut ticks = log_ticks(lo, hi, most);
                ticks.major.iter_mut().for_each(|(_, label)| label.push_str(" s"));
                ticks
            }
            _ if self.log => log_ticks(lo, hi, most),
            Values::Shares => scaled(0.01, " %"),
            Values::Seconds if hi < 180.0 => scaled(1.0, " s"),
            Values::Seconds if hi < 3.0 * 3600.0 => scaled(60.0, " min"),
            Values::Seconds if hi < 72.0 * 3600.0 => scaled(3600.0, " h"),
            Values::Seconds => scaled(86_400.0, " d"),
            // If no integer is in the range, fractions are used.
            Values::Whole if lo.ceil() <= hi.floor() => {
                let ticks = steps(lo, hi, most, 1.0);
                let labels = whole_labels(&ticks);
                Ticks { major: ticks.into_iter().zip(labels).collect(), minor: Vec::new() }
            }
            _ => Ticks::labelled(linear_ticks(lo, hi, most), Vec::new()),
        }
    }

    /// Ticks of a vertical axis, as suit its height: three where they fit, because of two on both sides of zero only zero would be left.
    pub fn column(&self, values: Values) -> Ticks {
        let height = (self.to.1 - self.to.0).abs();
        self.ticks(values, ((height / 42.0) as usize).clamp(if height < 54.0 { 2 } else { 3 }, 9))
    }

    /// Ticks of a horizontal axis, as many as fit given the label widths `wide`. No label extends further beyond the end of the axis than
    /// `beside`. If the range contains a round number, there is at least one tick.
    pub fn row(&self, values: Values, beside: f64, wide: impl Fn(&str) -> f64) -> Ticks {
        const GAP: f64 = 10.0;
        let end = self.to.0.max(self.to.1) + beside;
        let free = |before: &(f64, String), tick: &(f64, String)| {
            (self.at(tick.0) - self.at(before.0)).abs() >= (wide(&before.1) + wide(&tick.1)) / 2.0 + GAP
        };
        let of = |most: usize| {
            let mut ticks = self.ticks(values, most);
            ticks.major.retain(|(v, label)| self.at(*v) + wide(label) / 2.0 <= end);
            ticks
        };
        let most = (((self.to.1 - self.to.0).abs() / 60.0) as usize).clamp(2, 12);
        let fits = |ticks: &Ticks| !ticks.major.is_empty() && ticks.major.windows(2).all(|pair| free(&pair[0], &pair[1]));
        (2..=most).rev().map(of).find(fits).unwrap_or_else(|| {
            // Labels that do not fit are omitted one by one.
            let mut ticks = (2..40).map(of).find(|ticks| !ticks.major.is_empty()).unwrap_or_default();
            let mut kept: Vec<(f64, String)> = Vec::new();
            for tick in std::mem::take(&mut ticks.major) {
                if kept.last().is_none_or(|last| free(last, &tick)) {
                    kept.push(tick);
                }
            }
            Ticks { major: kept, ..ticks }
        })
    }
}

/// Ticks of an axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ticks {
    /// Positions with labels.
    pub major: Vec<(f64, String)>,
    /// Positions without labels.
    pub minor: Vec<f64>,
}

impl Ticks {
    fn labelled(values: Vec<f64>, minor: Vec<f64>) -> Self {
        let labels = numbers(&values);
        Self { major: values.into_iter().zip(labels).collect(), minor }
    }
}

/// Labels of integers, with all digits if rounding to thousands would hide their differences.
fn whole_labels(values: &[f64]) -> Vec<String> {
    let labels = numbers(values);
    let hidden =
        |label: &String| label.split_once('.').is_some_and(|(_, rest)| rest.trim_end_matches(char::is_alphabetic).len() > 2);
    match labels.iter().any(hidden) {
        true => values.iter().map(|v| minus(grouped(&format!("{v:.0}")))).collect(),
        false => labels,
    }
}

/// Round times of day, with the day if there are several.
fn clock_ticks(lo: f64, hi: f64, most: usize) -> Ticks {
    const STEPS: [f64; 16] =
        [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 21_600.0, 43_200.0];
    let days = (1..=20).map(|i| 86_400.0 * f64::from(1 << i) / 2.0);
    let count = |step: f64| (hi / step).floor() - (lo / step).ceil() + 1.0;
    let Some(step) = STEPS.into_iter().chain(days).find(|step| count(*step) <= most as f64) else { return Ticks::default() };
    let first = (lo / step).ceil();
    let places = (0..count(step).max(0.0) as u32).map(|i| (first + f64::from(i)) * step);
    let label = |v: f64| match (step, hi - lo) {
        (86_400.0.., _) => crate::number_format::date(v),
        (_, 86_400.0..) => format!("{} {}", &crate::number_format::date(v)[5..], &crate::number_format::clock(v)[..5]),
        _ => crate::number_format::clock(v),
    };
    Ticks { major: places.map(|v| (v, label(v))).collect(), minor: Vec::new() }
}

/// Multiples of 1, 2, 2.5 or 5 times a power of ten in [lo, hi]: as many as possible up to `most`, at least one if any exists.
pub(super) fn linear_ticks(lo: f64, hi: f64, most: usize) -> Vec<f64> {
    steps(lo, hi, most, 0.0)
}

/// The same, with at least this distance.
fn steps(lo: f64, hi: f64, most: usize, least: f64) -> Vec<f64> {
    let most = most.max(2);
    let span = hi - lo;
    if !span.is_finite() || span <= 0.0 {
        return Vec::new();
    }
    let mut power = (span / most as f64).log10().floor() as i32 - 1;
    loop {
        for step in [1.0, 2.0, 2.5, 5.0] {
            // Multiplied or divided by an exact power, so that 3 * 0.1 is written 0.3.
            let unit = 10f64.powi(power.abs());
            let value = |k: f64| if power < 0 { k * step / unit } else { k * step * unit };
            let (first, last) = ((lo / value(1.0) - 1e-9).ceil(), (hi / value(1.0) + 1e-9).floor());
            // 2.5 is not an integer.
            let allowed = value(1.0) >= least && (least == 0.0 || is_integer(value(1.0)));
            if last - first < most as f64 && allowed {
                return (0..=(last - first).max(-1.0) as i64)
                    .filter(|_| last >= first)
                    .map(|i| value(first + i as f64) + 0.0)
                    .collect();
            }
        }
        power += 1;
    }
}

/// Powers of ten; if the range has fewer than three, also their multiples by 2 and 5; if still too few, round numbers.
fn log_ticks(lo: f64, hi: f64, most: usize) -> Ticks {
    let decades = |multiples: &[f64], every: i32| -> Vec<f64> {
        let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
        let powers = (first..=last).filter(|p| p.rem_euclid(every) == 0);
        let all = powers.flat_map(|p| multiples.iter().map(move |m| if p < 0 { m / 10f64.powi(-p) } else { m * 10f64.powi(p) }));
        all.filter(|v| *v >= lo * (1.0 - 1e-9) && *v <= hi * (1.0 + 1e-9)).collect()
    };
    let minor = if hi / lo < 1e6 { decades(&[2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 1) } else { Vec::new() };
    for (multiples, widest) in [(&[1.0, 2.0, 3.0, 5.0][..], 30.0), (&[1.0, 2.0, 5.0], 1e3), (&[1.0, 3.0], 1e3)] {
        let values = decades(multiples, 1);
        if hi / lo < widest && values.len() <= most && values.len() >= 2 {
            return Ticks::labelled(values, minor);
        }
    }
    if hi / lo < 10.0 && decades(&[1.0], 1).len() < 2 {
        return Ticks::labelled(linear_ticks(lo, hi, most), Vec::new());
    }
    let every = (1..).find(|every| decades(&[1.0], *every).len() <= most.max(2)).unwrap_or(1);
    Ticks::labelled(decades(&[1.0], every), minor)
}

/// Labels of one axis in a common format: as many decimals as the finest needs, millions and more as M, G, T, very small ones as powers of ten.
pub(super) fn numbers(values: &[f64]) -> Vec<String> {
    let largest = values.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
    let smallest = values.iter().filter(|v| v.is_finite() && **v != 0.0).fold(f64::INFINITY, |m, v| m.min(v.abs()));
    // Too wide for one unit (a logarithmic axis): formatted individually.
    if smallest.is_finite() && largest / smallest > 1e3 {
        return values.iter().map(|v| single_number(*v)).collect();
    }
    if largest > 0.0 && !(1e-3..1e15).contains(&largest) {
        return powers(values, largest);
    }
    let (unit, suffix) = unit(largest);
    let places = common_places(values, unit);
    let written = |v: &f64| if *v == 0.0 { "0".into() } else { minus(grouped(&format!("{:.places$}{suffix}", v / unit))) };
    values.iter().map(written).collect()
}

/// Decimals that represent all values exactly in a unit.
fn common_places(values: &[f64], unit: f64) -> usize {
    (0..10).find(|p| values.iter().all(|v| is_integer(v / unit * 10f64.powi(*p)))).unwrap_or(10) as usize
}

/// 0.5·10⁻⁴, 1.0·10⁻⁴: one common power.
fn powers(values: &[f64], largest: f64) -> Vec<String> {
    let exponent = (largest.log10() + 1e-9).floor() as i32;
    let unit = 10f64.powi(exponent);
    let places = common_places(values, unit);
    let written = |v: &f64| {
        if *v == 0.0 { "0".into() } else { minus(format!("{:.places$}·10{}", v / unit, raised(&exponent.to_string()))) }
    };
    values.iter().map(written).collect()
}

/// A single number, to about three digits.
fn single_number(v: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    if v.abs() < 1e-3 || v.abs() >= 1e15 {
        return power(v);
    }
    let (unit, suffix) = unit(v.abs());
    let places = (0..6).find(|p| is_integer(v / unit * 10f64.powi(*p))).unwrap_or(3) as usize;
    minus(grouped(&format!("{:.places$}{suffix}", v / unit)))
}

fn unit(largest: f64) -> (f64, &'static str) {
    match largest {
        v if v >= 1e12 => (1e12, " T"),
        v if v >= 1e9 => (1e9, " G"),
        v if v >= 1e6 => (1e6, " M"),
        _ => (1.0, ""),
    }
}

/// True for an integer up to rounding errors.
pub(super) fn is_integer(v: f64) -> bool {
    (v - v.round()).abs() <= 1e-6 * v.abs().max(1.0)
}

/// 2·10⁻⁴
fn power(v: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    let mut exponent = v.abs().log10().floor() as i32;
    let mut mantissa = v / 10f64.powi(exponent);
    if mantissa.abs() >= 9.9995 {
        (mantissa, exponent) = (mantissa / 10.0, exponent + 1);
    }
    let places = (0..3).find(|p| is_integer(mantissa * 10f64.powi(*p))).unwrap_or(3) as usize;
    let digits = raised(&exponent.to_string());
    if is_integer(mantissa) && mantissa.round() == 1.0 {
        format!("10{digits}")
    } else {
        minus(format!("{mantissa:.places$}·10{digits}"))
    }
}

/// Replace the hyphen by a minus sign.
pub(super) fn minus(text: String) -> String {
    text.strip_prefix('-').map_or(text.clone(), |rest| format!("−{rest}"))
}

/// A value with a given number of decimals; empty for NaN.
pub(super) fn value(v: f64, places: usize) -> String {
    if !v.is_finite() {
        return String::new();
    }
    let text = format!("{v:.places$}");
    minus(if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') {
        text.trim_start_matches('-').into()
    } else {
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(lo: f64, hi: f64, most: usize, log: bool) -> Vec<String> {
        Scale::new(log, (lo, hi), (0.0, 1.0)).ticks(Values::Numbers, most).major.into_iter().map(|(_, l)| l).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            labels(0.0, 1.0, 6, false),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"].map(|s| if s == "0.0" { "0" } else { s })
        );
        assert_eq!(labels(-3.0, 3.0, 4, false), ["−2", "0", "2"]);
        assert_eq!(labels(0.0, 1.1e6, 6, false), ["0", "0.2 M", "0.4 M", "0.6 M", "0.8 M", "1.0 M"]);
        assert_eq!(labels(1.8731, 1.8749, 5, false), ["1.8735", "1.8740", "1.8745"]);
        assert_eq!(labels(0.0, 3e-4, 4, false), ["0", "1·10⁻⁴", "2·10⁻⁴", "3·10⁻⁴"]);
        assert_eq!(labels(1e-6, 1.0, 9, true), ["10⁻⁶", "10⁻⁵", "10⁻⁴", "0.001", "0.01", "0.1", "1"]);
        assert_eq!(labels(1.0, 120.0, 9, true), ["1", "2", "5", "10", "20", "50", "100"]);
        assert_eq!(labels(2.1, 4.7, 6, true), ["2.5", "3.0", "3.5", "4.0", "4.5"]);
        assert_eq!(labels(1e3, 1e9, 4, true), ["10,000", "1 M", "100 M"]);
    }

    /// `tests/ui/report/ticks.json` has the expected results of the report's script for these ranges; `tests/ui/report/check.mjs` compares them.
    #[test]
    fn the_reports_script_marks_axes_alike() {
        type Case = (String, f64, f64, usize, Vec<String>);
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../../../tests/ui/report/ticks.json")).unwrap();
        assert!(cases.len() > 100);
        for (kind, lo, hi, most, labels) in cases {
            let values = match kind.as_str() {
                "whole" => Values::Whole,
                "seconds" => Values::Seconds,
                _ => Values::Numbers,
            };
            let ticks = Scale::new(kind == "log", (lo, hi), (0.0, 1.0)).ticks(values, most);
            let found: Vec<String> = ticks.major.into_iter().map(|t| t.1).collect();
            assert_eq!(found, labels, "{kind} {lo} {hi} {most}");
        }
    }

    /// At every zoom level and axis width, labels neither overlap nor extend too far, and there is at least one.
    #[test]
    fn a_row_has_labels_at_every_zoom() {
        let wide = |label: &str| 7.5 * label.chars().count() as f64;
        for values in [Values::Numbers, Values::Whole, Values::Shares, Values::Seconds, Values::Clock] {
            for width in [180.0, 290.0, 333.0, 700.0, 1900.0] {
                for k in 0..400u32 {
                    let from = if values == Values::Clock { 1.7e9 } else { 0.0 } + f64::from(k % 20) * 517.3;
                    let to = from + 2.0 * 1.05f64.powi(k as i32);
                    let scale = Scale::new(false, (from, to), (0.0, width));
                    let ticks = scale.row(values, 24.0, wide).major;
                    let context = format!("{values:?} {from} to {to} in {width}: {ticks:?}");
                    assert!(!ticks.is_empty(), "{context}");
                    for pair in ticks.windows(2) {
                        let room = scale.at(pair[1].0) - scale.at(pair[0].0);
                        assert!(room > (wide(&pair[0].1) + wide(&pair[1].1)) / 2.0, "{context}");
                        assert_ne!(pair[0].1, pair[1].1, "{context}");
                    }
                    let (last, label) = &ticks[ticks.len() - 1];
                    assert!(scale.at(*last) + wide(label) / 2.0 <= width + 24.0, "{context}");
                    assert!(values != Values::Whole || ticks.iter().all(|t| t.0.fract() == 0.0), "{context}");
                }
            }
        }
        for k in 0..200u32 {
            let (from, to) = (0.01 * f64::from(k % 37), 0.01 * f64::from(k % 37) + 0.05 * f64::from(k + 2));
            let scale = Scale::new(true, (10f64.powf(from), 10f64.powf(to)), (0.0, 290.0));
            assert!(!scale.row(Values::Whole, 24.0, wide).major.is_empty(), "10^{from} to 10^{to}");
        }
    }

    #[test]
    fn values_are_marked_in_their_units() {
        let of = |values: Values, lo: f64, hi: f64, most: usize| -> Vec<String> {
            Scale::new(false, (lo, hi), (0.0, 1.0)).ticks(values, most).major.into_iter().map(|t| t.1).collect()
        };
        assert_eq!(of(Values::Whole, 286.2, 289.9, 9), ["287", "288", "289"]);
        assert_eq!(of(Values::Whole, 0.0, 9.0, 5), ["0", "2", "4", "6", "8"]);
        assert_eq!(of(Values::Shares, 0.0, 0.5, 6), ["0", "10 %", "20 %", "30 %", "40 %", "50 %"]);
        assert_eq!(of(Values::Seconds, 0.0, 100.0, 3), ["0", "50 s", "100 s"]);
        assert_eq!(of(Values::Seconds, 0.0, 1800.0, 4), ["0", "10 min", "20 min", "30 min"]);
        assert_eq!(of(Values::Whole, 12_340.0, 12_352.0, 4), ["12,340", "12,345", "12,350"]);
        assert_eq!(of(Values::Clock, 43_195.0, 43_230.0, 3), ["12:00:00", "12:00:15", "12:00:30"]);
        let scale = Scale::new(true, (0.1, 1000.0), (40.0, 440.0));
        assert!((scale.at(scale.invert(123.0)) - 123.0).abs() < 1e-9);
    }

    /// For every range: ticks inside, ascending, evenly spaced, no more than requested; labels that are distinct and correct.
    #[test]
    fn ticks_keep_their_laws_at_every_scale() {
        let mut x = 0.37f64;
        for i in 0..2000 {
            x = (x * 997.13 + 0.713).fract();
            let size = 10f64.powi(i % 19 - 9);
            let lo = (x - 0.5) * size;
            let hi = lo + (0.001 + (x * 31.7).fract()) * size;
            let most = 2 + (i % 9) as usize;
            let ticks = linear_ticks(lo, hi, most);
            let slack = 1e-8 * (hi - lo).max(lo.abs()).max(hi.abs());
            assert!(
                ticks.len() <= most && ticks.iter().all(|t| *t >= lo - slack && *t <= hi + slack),
                "{lo} {hi} {most}: {ticks:?}"
            );
            assert!(most < 4 || ticks.len() >= 2, "{lo} {hi} {most}: {ticks:?}");
            assert!(ticks.windows(2).all(|w| w[1] > w[0]));
            let names = numbers(&ticks);
            assert!(names.windows(2).all(|w| w[0] != w[1]), "{ticks:?}: {names:?}");
        }
    }

    #[test]
    fn spans_are_never_empty() {
        let axis = AxisSpec::default();
        for data in [None, Some((0.0, 0.0)), Some((5.0, 5.0)), Some((-1e300, -1e300)), Some((1e9, 1e9 + 1e-7))] {
            let (lo, hi) = axis.span(data, 0.05);
            assert!(lo < hi && lo.is_finite() && hi.is_finite(), "{data:?}: {lo} {hi}");
        }
        let log = AxisSpec { log: true, range: Some((-1.0, 5.0)), ..AxisSpec::default() };
        assert!(log.span(Some((2.0, 2.0)), 0.05).0 > 0.0);
        assert!(Scale::new(true, (1.0, 10.0), (0.0, 1.0)).at(0.0).is_nan());
        assert_eq!(extent([f64::NAN, -1.0, 3.0, f64::INFINITY], true), Some((3.0, 3.0)));
    }
}

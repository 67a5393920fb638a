//! From numbers to places: scales, ticks at round numbers, and how numbers are written.

/// An axis: what it says and what it spans.
#[derive(Clone, Debug, Default)]
pub(super) struct Axis {
    pub label: String,
    pub log: bool,
    /// What was asked for; else what the data needs.
    pub range: Option<(f64, f64)>,
}

/// A map from numbers to pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    log: bool,
    from: (f64, f64),
    to: (f64, f64),
}

/// The smallest and the largest of the finite numbers (above 0 for a logarithmic axis).
pub(super) fn extent(values: impl IntoIterator<Item = f64>, log: bool) -> Option<(f64, f64)> {
    let usable = values.into_iter().filter(|v| v.is_finite() && (!log || *v > 0.0));
    usable.fold(None, |found, v| Some(found.map_or((v, v), |(lo, hi): (f64, f64)| (lo.min(v), hi.max(v)))))
}

impl Axis {
    /// The span shown: what was asked for, or the data's with a margin (a share of the span), never empty.
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
        // A span that double precision cannot divide is no span.
        let by = if hi - lo > 1e-12 * hi.abs().max(lo.abs()) { (hi - lo) * margin } else { (0.05 * hi.abs()).max(1e-9) };
        (lo - by, hi + by)
    }
}

impl Scale {
    pub fn new(log: bool, from: (f64, f64), to: (f64, f64)) -> Self {
        Self { log, from, to }
    }

    /// A pixel, or NaN for what a logarithmic axis cannot show.
    pub fn at(&self, v: f64) -> f64 {
        let ((a, b), (p, q)) = (self.from, self.to);
        let t = if self.log { if v > 0.0 { (v / a).ln() / (b / a).ln() } else { f64::NAN } } else { (v - a) / (b - a) };
        p + t * (q - p)
    }

    /// Round numbers inside the span with their labels, `most` at the utmost, and (logarithmic) the unlabelled ones between.
    pub fn ticks(&self, most: usize) -> Ticks {
        let (lo, hi) = (self.from.0.min(self.from.1), self.from.0.max(self.from.1));
        if self.log { log_ticks(lo, hi, most) } else { Ticks::labelled(linear_ticks(lo, hi, most), Vec::new()) }
    }
}

/// Where an axis is marked.
#[derive(Clone, Debug, Default)]
pub(super) struct Ticks {
    pub major: Vec<(f64, String)>,
    pub minor: Vec<f64>,
}

impl Ticks {
    fn labelled(values: Vec<f64>, minor: Vec<f64>) -> Self {
        let labels = numbers(&values);
        Self { major: values.into_iter().zip(labels).collect(), minor }
    }
}

/// Multiples of 1, 2, 2.5 or 5 times a power of ten in [lo, hi]: as many as possible up to `most`, at least one where there is any.
pub(super) fn linear_ticks(lo: f64, hi: f64, most: usize) -> Vec<f64> {
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
            if last - first < most as f64 {
                return (0..=(last - first).max(-1.0) as i64)
                    .filter(|_| last >= first)
                    .map(|i| value(first + i as f64) + 0.0)
                    .collect();
            }
        }
        power += 1;
    }
}

/// Powers of ten; where the span holds fewer than three of them, their 2 and 5 multiples too; where that is not enough, round numbers.
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

/// Numbers of one axis, written alike: as many decimals as the finest needs, thousands as k, M, G, T, very small ones as powers of ten.
pub(super) fn numbers(values: &[f64]) -> Vec<String> {
    let largest = values.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
    let smallest = values.iter().filter(|v| v.is_finite() && **v != 0.0).fold(f64::INFINITY, |m, v| m.min(v.abs()));
    // Too wide for one unit (a logarithmic axis): each by itself.
    if smallest.is_finite() && largest / smallest > 1e3 {
        return values.iter().map(|v| one(*v)).collect();
    }
    if largest > 0.0 && !(1e-3..1e15).contains(&largest) {
        return powers(values, largest);
    }
    let (unit, suffix) = unit(largest);
    let places = common_places(values, unit);
    values.iter().map(|v| if *v == 0.0 { "0".into() } else { minus(format!("{:.places$}{suffix}", v / unit)) }).collect()
}

/// Decimals that write all of the values whole in a unit.
fn common_places(values: &[f64], unit: f64) -> usize {
    (0..10).find(|p| values.iter().all(|v| whole(v / unit * 10f64.powi(*p)))).unwrap_or(10) as usize
}

/// 0.5·10⁻⁴, 1.0·10⁻⁴: one power for all.
fn powers(values: &[f64], largest: f64) -> Vec<String> {
    let exponent = (largest.log10() + 1e-9).floor() as i32;
    let unit = 10f64.powi(exponent);
    let places = common_places(values, unit);
    let written = |v: &f64| if *v == 0.0 { "0".into() } else { minus(format!("{:.places$}·10{}", v / unit, raised(exponent))) };
    values.iter().map(written).collect()
}

fn raised(exponent: i32) -> String {
    exponent.to_string().chars().map(superscript).collect()
}

/// A number by itself, to about three digits.
fn one(v: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    if v.abs() < 1e-3 || v.abs() >= 1e15 {
        return power(v);
    }
    let (unit, suffix) = unit(v.abs());
    let places = (0..6).find(|p| whole(v / unit * 10f64.powi(*p))).unwrap_or(3) as usize;
    minus(format!("{:.places$}{suffix}", v / unit))
}

fn unit(largest: f64) -> (f64, &'static str) {
    match largest {
        v if v >= 1e12 => (1e12, " T"),
        v if v >= 1e9 => (1e9, " G"),
        v if v >= 1e6 => (1e6, " M"),
        v if v >= 1e4 => (1e3, " k"),
        _ => (1.0, ""),
    }
}

/// True when rounding changes nothing that could be seen.
pub(super) fn whole(v: f64) -> bool {
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
    let places = (0..3).find(|p| whole(mantissa * 10f64.powi(*p))).unwrap_or(3) as usize;
    let digits = raised(exponent);
    if whole(mantissa) && mantissa.round() == 1.0 {
        format!("10{digits}")
    } else {
        minus(format!("{mantissa:.places$}·10{digits}"))
    }
}

fn superscript(c: char) -> char {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    c.to_digit(10).map_or('⁻', |d| DIGITS[d as usize])
}

/// A hyphen is no minus.
pub(super) fn minus(text: String) -> String {
    text.strip_prefix('-').map_or(text.clone(), |rest| format!("−{rest}"))
}

/// A value with a given number of decimals; nothing for what is no number.
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
        Scale::new(log, (lo, hi), (0.0, 1.0)).ticks(most).major.into_iter().map(|(_, l)| l).collect()
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
        assert_eq!(labels(1e3, 1e9, 4, true), ["10 k", "1 M", "100 M"]);
    }

    /// Whatever the span: inside, ascending, evenly spaced, no more than asked, labels that differ and say what they mark.
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
        let axis = Axis::default();
        for data in [None, Some((0.0, 0.0)), Some((5.0, 5.0)), Some((-1e300, -1e300)), Some((1e9, 1e9 + 1e-7))] {
            let (lo, hi) = axis.span(data, 0.05);
            assert!(lo < hi && lo.is_finite() && hi.is_finite(), "{data:?}: {lo} {hi}");
        }
        let log = Axis { log: true, range: Some((-1.0, 5.0)), ..Axis::default() };
        assert!(log.span(Some((2.0, 2.0)), 0.05).0 > 0.0);
        assert!(Scale::new(true, (1.0, 10.0), (0.0, 1.0)).at(0.0).is_nan());
        assert_eq!(extent([f64::NAN, -1.0, 3.0, f64::INFINITY], true), Some((3.0, 3.0)));
    }
}

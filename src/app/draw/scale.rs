//! From numbers to places and words.

/// Numbers along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    /// Evenly from one number to a greater one; what is no span becomes one.
    pub fn linear(from: f64, to: f64) -> Self {
        let (from, to) = if from.is_finite() && to.is_finite() { (from, to) } else { (0.0, 1.0) };
        // Their distance must be a number too.
        let [from, to] = [from, to].map(|v| v.clamp(-1e300, 1e300));
        let to = if to - from > from.abs().max(to.abs()) * 1e-12 { to } else { from + from.abs().max(1e-3) };
        Self { from, to, log: false }
    }

    /// From 0 up (and down, where numbers are negative), with some air.
    pub fn from_zero(values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = span(values).unwrap_or((0.0, 1.0));
        Self::linear(
            low.min(0.0) * 1.1,
            if high > 0.0 {
                high * 1.12
            } else if low < 0.0 {
                0.0
            } else {
                1.0
            },
        )
    }

    /// Around the numbers that are there; logarithmic if asked for and if some of them are above 0.
    pub fn around(values: impl IntoIterator<Item = f64>, log: bool) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        if let Some((low, high)) = span(values.iter().copied().filter(|v| *v > 0.0)).filter(|_| log) {
            return Self { from: low / 1.15, to: high * 1.15, log: true };
        }
        let (low, high) = span(values).unwrap_or((0.0, 1.0));
        let margin = if high > low { 0.06 * (high - low) } else { 0.1 * high.abs().max(1e-3) };
        Self::linear(low - margin, high + margin)
    }

    /// Where the axis begins.
    pub fn from(self) -> f64 {
        self.from
    }

    /// Where it ends.
    pub fn to(self) -> f64 {
        self.to
    }

    /// Whether it is logarithmic.
    pub fn is_log(self) -> bool {
        self.log
    }

    /// The place of a number: 0 at the beginning, 1 at the end.
    pub fn part(self, x: f64) -> f32 {
        match self.log {
            true => ((x / self.from).ln() / (self.to / self.from).ln()) as f32,
            false => ((x - self.from) / (self.to - self.from)) as f32,
        }
    }

    /// The number at a place.
    pub fn at(self, part: f32) -> f64 {
        match self.log {
            true => self.from * (self.to / self.from).powf(f64::from(part)),
            false => self.from + (self.to - self.from) * f64::from(part),
        }
    }

    /// About `most` round numbers on the axis, in words.
    pub fn ticks(self, most: usize) -> Vec<(f64, String)> {
        let most = most.max(2);
        if self.log {
            let (low, high) = (self.from.log10().ceil() as i32, self.to.log10().floor() as i32);
            let word = |v: f64| (v, short(v));
            if high - low >= 2 {
                let stride = (high - low) / most as i32 + 1;
                return (low..=high).step_by(stride as usize).map(|e| word(10f64.powi(e))).collect();
            }
            let within = |v: &f64| (self.from..=self.to).contains(v);
            let ticks = (low - 1..=high + 1).flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(e)));
            let ticks: Vec<f64> = ticks.filter(within).collect();
            if ticks.len() > 1 {
                return ticks.into_iter().map(word).collect();
            }
        }
        let rough = (self.to - self.from) / most as f64;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * unit).into_iter().find(|s| *s >= rough * 0.999).unwrap_or(unit);
        if !step.is_normal() {
            return Vec::new();
        }
        let (first, last) = ((self.from / step).ceil(), (self.to / step).floor());
        let places = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let plain = self.to.abs().max(self.from.abs()) < 1e5 && places <= 5;
        let word = |v: f64| if plain { minus(format!("{v:.places$}")) } else { short(v) };
        let count = (last - first).clamp(0.0, 50.0) as usize;
        (0..=count).map(|i| (first + i as f64) * step).map(|v| if v == 0.0 { 0.0 } else { v }).map(|v| (v, word(v))).collect()
    }
}

fn span(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.into_iter().filter(|v| v.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    (low <= high).then_some((low, high))
}

fn minus(text: String) -> String {
    match text.strip_prefix('-') {
        Some(rest) if !rest.contains(|c: char| matches!(c, '1'..='9')) => rest.into(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// Four digits that matter; `-` for what is no number.
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
    if x.is_finite() { minus(format!("{:.1} %", 100.0 * x)) } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_true() {
        let of = [0.0, 0.19223, -0.5, 1234.56, 1e-7, 2.5e9, f64::NAN, f64::NEG_INFINITY, -1e-9, 999_999.0];
        let words = of.map(short);
        assert_eq!(words, ["0", "0.1922", "−0.5", "1235", "1e-7", "2.5e9", "-", "−∞", "−1e-9", "999999"]);
        assert_eq!([percent(0.1922), percent(f64::NAN), percent(-1e-9)], ["19.2 %", "-", "0.0 %"]);
    }

    #[test]
    fn every_span_has_an_axis() {
        let odd = [(0.0, 1.0), (1.0, 1.0), (f64::NAN, 2.0), (3.0, -3.0), (1e300, 1e301), (-1e-300, 1e-300), (f64::MIN, f64::MAX)];
        for (from, to) in odd {
            for scale in [Scale::linear(from, to), Scale::around([from, to], true), Scale::from_zero([from, to])] {
                let ticks = scale.ticks(5);
                assert!(
                    ticks.len() < 60 && scale.part(scale.at(0.25)).is_finite() || scale.to().is_infinite(),
                    "{scale:?} {ticks:?}"
                );
            }
        }
        let ticks: Vec<String> = Scale::linear(0.0, 1.0).ticks(5).into_iter().map(|t| t.1).collect();
        assert_eq!(ticks, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        let ticks: Vec<String> = Scale::around([0.01, 500.0], true).ticks(5).into_iter().map(|t| t.1).collect();
        assert_eq!(ticks, ["0.01", "0.1", "1", "10", "100"]);
        let ticks: Vec<String> = Scale::around([0.05, 0.4], true).ticks(5).into_iter().map(|t| t.1).collect();
        assert_eq!(ticks, ["0.05", "0.1", "0.2"], "a short span has marks too");
    }

    #[test]
    fn a_place_and_its_number_belong_together() {
        for scale in [Scale::linear(-2.0, 6.0), Scale::around([0.1, 10.0], true)] {
            for x in [0.5, 1.0, 3.0] {
                assert!((scale.at(scale.part(x)) - x).abs() < 1e-5);
            }
        }
        assert_eq!(Scale::from_zero([0.5, 2.0]).from(), 0.0, "bars begin at 0");
    }
}

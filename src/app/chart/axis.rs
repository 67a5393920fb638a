//! Ranges and ticks of a chart's axes.

use super::curves::DrawnCurve;
use crate::app::format;
use crate::app::format::plain;
use crate::history::Axis;
use crate::history::chart_spec::ChartSpec;
use crate::plot::{Scale, Values};
use egui_plot::{GridInput, GridMark};

/// Range of the vertical axis: everything drawn, with a margin; includes the chart's own range.
pub(super) fn span_of(drawn: &[DrawnCurve], spec: &ChartSpec, log_y: bool) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (least, most) in drawn.iter().flat_map(DrawnCurve::spans) {
        (low, high) = (low.min(least), high.max(most));
    }
    if low > high {
        (low, high) = if log_y { (-1.0, 1.0) } else { (0.0, 1.0) };
    }
    if let (Some((least, most)), false) = (spec.range, log_y) {
        (low, high) = (low.min(least), high.max(most));
        let margin = 0.02 * (high - low);
        return (low - margin, high + margin);
    }
    // A range of a few hundredths of a percent would show noise as if it were a slope.
    let least = 0.005 * high.abs().max(low.abs());
    if !log_y && high > low && high - low < least {
        let middle = 0.5 * (high + low);
        (low, high) = (middle - 0.5 * least, middle + 0.5 * least);
    }
    if high - low <= 1e-9 * high.abs() {
        // A single value is centred, above zero where that is meaningful.
        return match (log_y, low) {
            (true, _) => (low - 0.5, high + 0.5),
            (_, 0.0) => (-1.0, 1.0),
            _ => (low.min(0.0) * 2.0, high.max(0.0) * 2.0),
        };
    }
    let margin = 0.06 * (high - low);
    (low - margin, high + margin)
}

/// Approximate width of a label's character, in points.
const CHARACTER: f64 = 7.5;

/// Ticks of a plot axis.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    /// Whether plot coordinates are logarithms.
    pub log: bool,
    pub values: Values,
    /// Length on the screen, in points.
    pub length: f64,
    pub upright: bool,
}

impl Marks {
    /// Plot coordinates with their labels.
    fn ticks(&self, from: f64, to: f64) -> Vec<(f64, String)> {
        let back = |place: f64| if self.log { 10f64.powf(place) } else { place };
        let scale = Scale::new(self.log, (back(from), back(to)), (0.0, self.length));
        let wide = |label: &str| CHARACTER * label.chars().count() as f64;
        let ticks = match self.upright {
            true => scale.column(self.values),
            false => scale.row(self.values, f64::from(super::BESIDE), wide),
        };
        ticks.major.into_iter().map(|(value, label)| (if self.log { value.log10() } else { value }, plain(&label))).collect()
    }

    /// Ticks in egui_plot's format. A step as wide as the axis keeps all labels in full colour.
    pub fn grid(&self, input: GridInput) -> Vec<GridMark> {
        let (from, to) = input.bounds;
        self.ticks(from, to).into_iter().map(|(value, _)| GridMark { value, step_size: to - from }).collect()
    }

    /// The label of a tick on an axis with this range.
    pub fn label(&self, mark: GridMark, range: &std::ops::RangeInclusive<f64>) -> String {
        let (from, to) = (*range.start(), *range.end());
        let at = |tick: &(f64, String)| (tick.0 - mark.value).abs() <= 1e-6 * (to - from);
        self.ticks(from, to).into_iter().find(at).map_or(String::new(), |tick| tick.1)
    }
}

/// Kind of values on a horizontal axis.
pub(crate) fn values(axis: Axis) -> Values {
    match axis {
        Axis::Steps | Axis::Tokens | Axis::RelativeSteps => Values::Whole,
        Axis::Relative => Values::Seconds,
        Axis::Wall => Values::Clock,
    }
}

/// A position on the axis as text, shown above the values at the cross-hair.
pub(super) fn place_words(x: f64, axis: Axis) -> String {
    let whole = || format::count(x.max(0.0) as u64);
    match axis {
        Axis::Steps => format!("step {}", whole()),
        Axis::Tokens => format!("{} tokens", whole()),
        Axis::RelativeSteps => format!("{} steps after the start", whole()),
        Axis::Wall => format::clock(x),
        Axis::Relative => format::duration(x.max(0.0)),
    }
}

/// The same without its unit where that is known from the cross-hair.
pub(super) fn short_place(x: f64, axis: Axis) -> String {
    match axis {
        Axis::Steps | Axis::Tokens | Axis::RelativeSteps => format::count(x.max(0.0) as u64),
        Axis::Wall | Axis::Relative => place_words(x, axis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels match their ticks; those of a logarithmic axis match its logarithms.
    #[test]
    fn marks_have_their_labels() {
        for (axis, log, upright) in
            [(Axis::Steps, false, false), (Axis::Steps, true, false), (Axis::Wall, false, false), (Axis::Steps, true, true)]
        {
            let marks = Marks { log, values: values(axis), length: 500.0, upright };
            let (from, to) = if log { (0.3, 3.1) } else { (1.7e9, 1.7e9 + 300.0) };
            let found = marks.grid(GridInput { bounds: (from, to), base_step_size: 1.0 });
            assert!(found.len() > 1, "{axis:?}");
            for mark in found {
                let label = marks.label(mark, &(from..=to));
                match axis {
                    Axis::Wall => assert_eq!(label, crate::number_format::clock(mark.value)),
                    _ if log => {
                        assert!((label.replace(',', "").parse::<f64>().unwrap().log10() - mark.value).abs() < 1e-9, "{label}")
                    }
                    _ => assert!(!label.is_empty()),
                }
            }
        }
    }
}

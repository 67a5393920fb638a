//! Ends and marks of a chart's axes.

use super::curves::Drawn;
use crate::app::format;
use crate::history::Axis;
use crate::history::spec::Spec;
use egui_plot::{GridInput, GridMark};

/// Where a position of the horizontal axis lies on the plot.
pub(super) fn place(x: f64, log: bool) -> f64 {
    if log { x.max(1e-9).log10() } else { x }
}

/// Ends of the vertical axis: of everything drawn, with some air; as wide as the chart asks for.
pub(super) fn span_of(drawn: &[Drawn], spec: &Spec, log_y: bool) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (least, most) in drawn.iter().flat_map(Drawn::spans) {
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
    if high - low <= 1e-9 * high.abs() {
        // A single value lies in the middle, over a base of zero where that has a meaning.
        return match (log_y, low) {
            (true, _) => (low - 0.5, high + 0.5),
            (_, 0.0) => (-1.0, 1.0),
            _ => (low.min(0.0) * 2.0, high.max(0.0) * 2.0),
        };
    }
    let margin = 0.06 * (high - low);
    (low - margin, high + margin)
}

/// Points between two marks of the vertical axis, at least.
const ROWS_APART: f64 = 32.0;
/// The same for the horizontal axis, where labels are short.
const COLUMNS_APART: f64 = 62.0;
/// Points of a character of a label, about.
const CHARACTER: f64 = 7.5;

/// Marks of the horizontal axis: round numbers as far apart as their labels need, none whose label would stick out of the chart. `width` is
/// the plot's, in points.
pub(super) fn x_marks(input: GridInput, log: bool, axis: Axis, width: f64) -> Vec<GridMark> {
    let (from, to) = input.bounds;
    let (span, scale) = (to - from, width / (to - from));
    let label = |value: f64| CHARACTER * tick(value, span, log, axis).chars().count() as f64;
    let apart = COLUMNS_APART.max(label(from).max(label(to)) + 12.0) / scale;
    let unit = if in_minutes(span, log, axis) { 60.0 } else { 1.0 };
    // There is nothing between two updates, and times of day are written to the second.
    let whole = !log && axis != Axis::Relative && from.ceil() <= to.floor();
    let choose = |apart: f64| match whole {
        true => round(from, to, apart.max(1.0)),
        false => places(from / unit, to / unit, log, apart / unit).into_iter().map(|v| v * unit).collect(),
    };
    let inside = |v: f64| (to - v) * scale + f64::from(super::BESIDE) >= 0.5 * label(v);
    fitted(span, apart, choose, inside)
}

/// Marks of the vertical axis of a plot that is `height` points high.
pub(super) fn y_marks(input: GridInput, log: bool, height: f64) -> Vec<GridMark> {
    let (from, to) = input.bounds;
    fitted(to - from, ROWS_APART * (to - from) / height, |apart| places(from, to, log, apart), |_| true)
}

/// Marks that lie `apart` at least: of those that are chosen, or chosen more finely where none of them is inside.
fn fitted(span: f64, apart: f64, choose: impl Fn(f64) -> Vec<f64>, inside: impl Fn(f64) -> bool) -> Vec<GridMark> {
    let mut wanted = apart;
    for _ in 0..6 {
        let mut found: Vec<GridMark> = Vec::new();
        for value in choose(wanted).into_iter().filter(|v| inside(*v)) {
            if found.last().is_none_or(|last| value - last.value >= apart * 0.999) {
                // Their labels have room: a step as wide as the axis keeps them all, in full colour.
                found.push(GridMark { value, step_size: span });
            }
        }
        if !found.is_empty() {
            return found;
        }
        wanted /= 2.0;
    }
    Vec::new()
}

/// Places of marks, about `apart`: round numbers; on a logarithmic axis decades and their parts, or round numbers where there is less than a
/// decade.
fn places(from: f64, to: f64, log: bool, apart: f64) -> Vec<f64> {
    if !log {
        return round(from, to, apart);
    }
    if to - from < 0.9 {
        // Numbers that are round themselves, not their logarithms.
        let (low, high) = (10f64.powf(from), 10f64.powf(to));
        let values = round(low, high, (high - low) * apart / (to - from)).into_iter();
        return values.filter(|value| *value > 0.0).map(f64::log10).collect();
    }
    if !(apart > 0.0 && (to - from).is_finite()) {
        return Vec::new();
    }
    let parts: &[f64] = match apart {
        ..=0.3 => &[1.0, 2.0, 5.0],
        ..=0.47 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let stride = apart.ceil().clamp(1.0, 1000.0) as i64;
    let decades = (from.floor() as i64..=(to.ceil() as i64).min(from.floor() as i64 + 700)).filter(|d| d % stride == 0);
    let all = decades.flat_map(|d| parts.iter().map(move |p| d as f64 + p.log10()));
    all.filter(|v| (from..=to).contains(v)).collect()
}

/// Round numbers between two others, `apart` at least.
fn round(from: f64, to: f64, apart: f64) -> Vec<f64> {
    if !(to > from && apart > 0.0 && apart.is_finite()) {
        return Vec::new();
    }
    let power = 10f64.powf(apart.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= apart).unwrap_or(10.0) * power;
    let (first, last) = ((from / step).ceil() as i64, (to / step).floor() as i64);
    (first..=last.min(first.saturating_add(400))).map(|i| i as f64 * step).collect()
}

/// Whether times on the axis are written in minutes.
fn in_minutes(span: f64, log: bool, axis: Axis) -> bool {
    axis == Axis::Relative && !log && span >= 600.0
}

/// What is written at a mark of the horizontal axis, of which `span` is shown.
pub(super) fn tick(value: f64, span: f64, log: bool, axis: Axis) -> String {
    if in_minutes(span, log, axis) {
        return format!("{} min", format::tick_within(value / 60.0, span / 60.0));
    }
    let words = |value: f64| if log { format::tick(10f64.powf(value)) } else { format::tick_within(value, span) };
    match axis {
        Axis::Wall => format::clock(if log { 10f64.powf(value) } else { value }),
        Axis::Relative => format!("{} s", words(value)),
        // Zoomed in, thousands are too coarse.
        _ if !log && span < 0.02 * value.abs() && value.fract() == 0.0 => format::count(value.max(0.0) as u64),
        _ => words(value),
    }
}

/// A place on the axis in words: what stands over the values at the cross-hair.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn x(from: f64, to: f64, log: bool, axis: Axis, width: f64) -> Vec<(f64, String)> {
        let input = GridInput { bounds: (from, to), base_step_size: 1.0 };
        x_marks(input, log, axis, width).into_iter().map(|m| (m.value, tick(m.value, to - from, log, axis))).collect()
    }

    /// Wherever somebody zooms to, and however wide the chart is.
    #[test]
    fn an_axis_has_labels_at_every_zoom_that_neither_touch_nor_stick_out() {
        for axis in [Axis::Steps, Axis::Tokens, Axis::Relative, Axis::Wall] {
            for width in [180.0, 290.0, 333.0, 700.0, 1900.0] {
                for k in 0..400u32 {
                    let from = if axis == Axis::Wall { 1.7e9 } else { 0.0 } + f64::from(k % 20) * 517.3;
                    let to = from + 2.0 * 1.05f64.powi(k as i32);
                    let marks = x(from, to, false, axis, width);
                    assert!(!marks.is_empty(), "{axis:?} {from} to {to} in {width}");
                    let at = |v: f64| (v - from) / (to - from) * width;
                    let half = |text: &str| 0.5 * CHARACTER * text.chars().count() as f64;
                    for pair in marks.windows(2) {
                        let gap = at(pair[1].0) - at(pair[0].0) - half(&pair[1].1) - half(&pair[0].1);
                        assert!(gap > 0.0, "{axis:?} {from} to {to} in {width}: {pair:?}");
                        assert_ne!(pair[0].1, pair[1].1, "{axis:?} {from} to {to} in {width}");
                    }
                    let (last, text) = &marks[marks.len() - 1];
                    assert!(at(*last) + half(text) <= width + f64::from(super::super::BESIDE), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_logarithmic_axis_has_labels_at_every_zoom() {
        for width in [290.0, 700.0] {
            for k in 0..200u32 {
                let (from, to) = (0.01 * f64::from(k % 37), 0.01 * f64::from(k % 37) + 0.05 * f64::from(k + 2));
                let marks = x(from, to, true, Axis::Steps, width);
                assert!(!marks.is_empty(), "{from} to {to} in {width}");
                assert!(marks.windows(2).all(|p| (p[1].0 - p[0].0) / (to - from) * width >= COLUMNS_APART - 1.0), "{marks:?}");
            }
        }
    }

    #[test]
    fn updates_are_whole_numbers() {
        let marks = x(286.2, 289.9, false, Axis::Steps, 700.0);
        assert_eq!(marks.iter().map(|m| m.1.as_str()).collect::<Vec<_>>(), ["287", "288", "289"]);
        let marks = x(12_340.0, 12_352.0, false, Axis::Steps, 500.0);
        assert!(marks.iter().all(|m| m.1.starts_with("12,3")), "{marks:?}");
    }
}

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
        let air = 0.02 * (high - low);
        return (low - air, high + air);
    }
    if high - low <= 1e-9 * high.abs() {
        // A single value lies in the middle, over a base of zero where that has a meaning.
        return match (log_y, low) {
            (true, _) => (low - 0.5, high + 0.5),
            (_, 0.0) => (-1.0, 1.0),
            _ => (low.min(0.0) * 2.0, high.max(0.0) * 2.0),
        };
    }
    let air = 0.06 * (high - low);
    (low - air, high + air)
}

/// Marks of an axis: round numbers, or decades and their parts.
pub(super) fn marks(input: GridInput, log: bool) -> Vec<GridMark> {
    let (from, to) = input.bounds;
    if !log {
        return round(from, to).into_iter().map(|(value, step_size)| GridMark { value, step_size }).collect();
    }
    if to - from < 0.7 {
        // Less than a decade: numbers that are round themselves, not their logarithms.
        let found = round(10f64.powf(from), 10f64.powf(to)).into_iter().filter(|(value, _)| *value > 0.0);
        return found.map(|(value, _)| GridMark { value: value.log10(), step_size: (to - from) / 6.0 }).collect();
    }
    let decades = (from.floor() as i64)..=(to.ceil() as i64).min(from.floor() as i64 + 60);
    let parts: &[f64] = if to - from > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = decades.flat_map(|d| parts.iter().map(move |p| d as f64 + p.log10()));
    let step = if parts.len() == 1 { 1.0 } else { 0.5 };
    all.filter(|v| (from..=to).contains(v)).map(|value| GridMark { value, step_size: step }).collect()
}

/// Some six round numbers between two others, with their distance.
fn round(from: f64, to: f64) -> Vec<(f64, f64)> {
    let raw = (to - from) / 6.0;
    if !raw.is_finite() || raw <= 0.0 {
        return Vec::new();
    }
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= raw).unwrap_or(10.0) * power;
    let (first, last) = ((from / step).ceil() as i64, (to / step).floor() as i64);
    (first..=last.min(first.saturating_add(100))).map(|i| (i as f64 * step, step)).collect()
}

/// What is written at a mark of the horizontal axis.
pub(super) fn tick(value: f64, log: bool, axis: Axis) -> String {
    let value = if log { 10f64.powf(value) } else { value };
    match axis {
        Axis::Wall => format::clock(value),
        Axis::Relative if value >= 120.0 => format!("{} min", format::number(value / 60.0)),
        Axis::Relative => format!("{} s", format::number(value)),
        _ => format::tick(value),
    }
}

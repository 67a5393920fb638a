//! Bars over bins of a number between 0 and 1, several series side by side.

use super::canvas::{Axes, tooltip};
use super::legend;
use super::scale::{Scale, percent, short};
use crate::app::theme::readable;
use eframe::egui::{Align2, Color32, Rect, Stroke, Ui, pos2};

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub struct Bars<'a> {
    /// What it is, for those who do not see it.
    pub name: &'a str,
    /// Edges of the bins, one more than there are bins.
    pub edges: &'a [f64],
    /// Name, colour, a number for each bin.
    pub series: Vec<(&'a str, Color32, Vec<f64>)>,
    /// Tokens of each bin, for the read-out.
    pub counts: Vec<u64>,
    /// What is counted up.
    pub y_label: &'a str,
    /// Numbers are shares.
    pub percent: bool,
    /// Upper end of the axis, where it is fixed.
    pub top: Option<f64>,
    /// A line across with its name.
    pub line: Option<(f64, String)>,
}

impl Bars<'_> {
    fn word(&self, value: f64) -> String {
        if self.percent { percent(value) } else { short(value) }
    }

    fn bins(&self) -> usize {
        self.edges.len().saturating_sub(1)
    }

    fn value(&self, series: usize, bin: usize) -> f64 {
        self.series[series].2.get(bin).copied().unwrap_or(f64::NAN)
    }

    /// A bin in words.
    fn told(&self, bin: usize) -> Vec<String> {
        let mut lines = vec![format!("probability {} to {}", short(self.edges[bin]), short(self.edges[bin + 1]))];
        if let Some(count) = self.counts.get(bin) {
            lines.push(format!("{count} tokens"));
        }
        lines.extend(self.series.iter().enumerate().map(|(i, s)| format!("{}: {}", s.0, self.word(self.value(i, bin)))));
        lines
    }
}

/// Draw bars; they begin at 0.
pub fn bars(ui: &mut Ui, it: &Bars<'_>) {
    let colors: Vec<Color32> = it.series.iter().map(|s| readable(s.1, ui.visuals())).collect();
    if it.series.len() > 1 {
        legend(ui, it.series.iter().zip(&colors).map(|(s, c)| (s.0, *c)));
    }
    let all = it.series.iter().flat_map(|s| s.2.iter().copied()).chain(it.line.iter().map(|l| l.0));
    let y = it.top.map_or_else(|| Scale::from_zero(all), |top| Scale::linear(0.0, top));
    let every = if it.bins() > 5 { 2 } else { 1 };
    let ticks = it.edges.iter().step_by(every).map(|e| (*e, short(*e))).collect();
    let axes =
        Axes { x_ticks: Some(ticks), percent: it.percent, ..Axes::new(Scale::linear(0.0, 1.0), "probability", y, it.y_label) };
    let canvas = axes.show(ui, || {
        let bins: Vec<String> = (0..it.bins()).map(|bin| it.told(bin).join(", ")).collect();
        format!("{}: {}", it.name, bins.join("; "))
    });
    let under = canvas.pointer().map(|p| p.0);
    for bin in 0..it.bins() {
        let (left, right) = (canvas.x_at(it.edges[bin]), canvas.x_at(it.edges[bin + 1]));
        let is_under = under.is_some_and(|x| (it.edges[bin]..it.edges[bin + 1]).contains(&x));
        if is_under {
            let whole = Rect::from_x_y_ranges(left..=right, canvas.area.y_range());
            canvas.painter.rect_filled(whole, 0.0, canvas.ink.gamma_multiply(0.12));
        }
        let gap = ((right - left) * 0.08).max(1.0);
        let each = (right - left - 2.0 * gap) / it.series.len().max(1) as f32;
        for (i, color) in colors.iter().enumerate() {
            let value = it.value(i, bin);
            if !value.is_finite() {
                continue;
            }
            let x = left + gap + each * i as f32;
            let top = canvas.y_at(value).max(canvas.area.top());
            let bar = Rect::from_two_pos(pos2(x, canvas.y_at(0.0)), pos2(x + (each - 1.0).max(1.0), top));
            canvas.painter.rect_filled(bar, 1.0, *color);
            let word = it.word(value);
            if each > 6.4 * word.chars().count() as f32 {
                canvas.painter.text(
                    bar.center_top(),
                    Align2::CENTER_BOTTOM,
                    word,
                    canvas.font.clone(),
                    ui.visuals().text_color(),
                );
            }
        }
        if is_under {
            tooltip(&canvas.response, it.told(bin));
        }
    }
    if let Some((y, name)) = &it.line {
        canvas.hline(*y, name, ui.visuals().text_color());
    }
    canvas.painter.hline(canvas.area.x_range(), canvas.y_at(0.0), Stroke::new(1.0, canvas.ink));
}

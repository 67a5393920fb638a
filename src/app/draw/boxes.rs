//! Five numbers of a distribution as a box with whiskers, over bins of a number between 0 and 1.

use super::canvas::{Axes, tooltip};
use super::legend;
use super::scale::{Scale, short};
use crate::app::theme::readable;
use eframe::egui::{Color32, Rect, Stroke, StrokeKind, Ui, pos2};

/// Least, lower quarter, median, upper quarter, most.
pub type Five = [f64; 5];

/// Name, colour, five numbers and tokens for each bin.
pub type BoxSeries<'a> = (&'a str, Color32, Vec<(Five, u64)>);

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub struct Boxes<'a> {
    /// What it is, for those who do not see it.
    pub name: &'a str,
    /// Edges of the bins, one more than there are bins.
    pub edges: &'a [f64],
    /// Distributions, side by side in each bin.
    pub series: Vec<BoxSeries<'a>>,
    /// What is counted up.
    pub y_label: &'a str,
    /// The axis shows the boxes whole and cuts whiskers.
    pub near: bool,
}

impl Boxes<'_> {
    fn told(&self, bin: usize) -> Vec<String> {
        let mut lines = vec![format!("probability {} to {}", short(self.edges[bin]), short(self.edges[bin + 1]))];
        for (name, _, fives) in &self.series {
            if let Some(([least, lower, median, upper, most], count)) = fives.get(bin) {
                let [a, b, c, d, e] = [least, lower, median, upper, most].map(|v| short(*v));
                lines.push(format!(
                    "{name} ({count} tokens): {a} least, {b} lower quarter, {c} median, {d} upper quarter, {e} most"
                ));
            }
        }
        lines
    }

    fn scale(&self) -> Scale {
        let kept = if self.near { 1..4 } else { 0..5 };
        let all = self.series.iter().flat_map(|s| &s.2).flat_map(|(five, _)| five[kept.clone()].to_vec());
        // The same up and down, so that a shift is seen.
        let most = all.filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
        let most = if most > 0.0 { most * if self.near { 1.6 } else { 1.1 } } else { 1.0 };
        Scale::linear(-most, most)
    }
}

/// Draw boxes.
pub fn boxes(ui: &mut Ui, it: &Boxes<'_>) {
    let colors: Vec<Color32> = it.series.iter().map(|s| readable(s.1, ui.visuals())).collect();
    legend(ui, it.series.iter().zip(&colors).map(|(s, c)| (s.0, *c)));
    let bins = it.edges.len().saturating_sub(1);
    let ticks = it.edges.iter().map(|e| (*e, short(*e))).collect();
    let axes = Axes {
        x_ticks: Some(ticks),
        ..Axes::new(Scale::linear(0.0, 1.0), "probability before the update", it.scale(), it.y_label)
    };
    let canvas =
        axes.show(ui, || format!("{}: {}", it.name, (0..bins).map(|b| it.told(b).join(", ")).collect::<Vec<_>>().join("; ")));
    canvas.painter.hline(canvas.area.x_range(), canvas.y_at(0.0), Stroke::new(1.0, canvas.ink));
    let inside = canvas.painter.with_clip_rect(canvas.area.intersect(canvas.painter.clip_rect()));
    for bin in 0..bins {
        let (left, right) = (canvas.x_at(it.edges[bin]), canvas.x_at(it.edges[bin + 1]));
        let each = (right - left) * 0.84 / it.series.len().max(1) as f32;
        for (i, (color, series)) in colors.iter().zip(&it.series).enumerate() {
            let Some((five, _)) = series.2.get(bin).filter(|(five, count)| *count > 0 && five.iter().all(|v| v.is_finite()))
            else {
                continue;
            };
            let center = left + (right - left) * 0.08 + each * (i as f32 + 0.5);
            let half = (each * 0.36).min(28.0);
            let [least, lower, median, upper, most] = five.map(|v| canvas.y_at(v));
            let line = Stroke::new(1.5, *color);
            inside.vline(center, most..=upper, line);
            inside.vline(center, lower..=least, line);
            for end in [least, most] {
                inside.hline(center - half * 0.5..=center + half * 0.5, end, line);
            }
            let body = Rect::from_two_pos(pos2(center - half, lower), pos2(center + half, upper));
            inside.rect(body, 1.0, color.gamma_multiply(0.35), line, StrokeKind::Middle);
            inside.hline(center - half..=center + half, median, Stroke::new(2.5, *color));
        }
        if canvas.pointer().is_some_and(|p| (it.edges[bin]..it.edges[bin + 1]).contains(&p.0)) {
            tooltip(&canvas.response, it.told(bin));
        }
    }
}

//! Bars and violins over bins of a number between 0 and 1, several series side by side.

use super::{figure, short};
use crate::plot;
use eframe::egui::Ui;

/// Height of these pictures, in points.
const HEIGHT: f32 = 230.0;

/// Bars to draw.
#[derive(Clone, Debug, Default)]
pub struct Bars<'a> {
    /// What it is, for those who do not see it.
    pub name: &'a str,
    /// Edges of the bins, one more than there are bins.
    pub edges: &'a [f64],
    /// Name, index of the colour, a number for each bin.
    pub series: Vec<(&'a str, usize, Vec<f64>)>,
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

/// Violins to draw; boxes where only quantiles are known.
#[derive(Clone, Debug, Default)]
pub struct Violins<'a> {
    /// What it is, for those who do not see it.
    pub name: &'a str,
    /// Edges of the bins, one more than there are bins.
    pub edges: &'a [f64],
    /// Name, index of the colour, what is known of each bin.
    pub series: Vec<(&'a str, usize, Vec<plot::Spread>)>,
    /// Tokens of each bin, for the read-out.
    pub counts: Vec<u64>,
    /// What is counted up.
    pub y_label: &'a str,
    /// How far the axis reaches, up and down alike.
    pub reach: f64,
}

fn bins(edges: &[f64]) -> Vec<String> {
    edges.windows(2).map(|pair| format!("{} to {}", short(pair[0]), short(pair[1]))).collect()
}

fn tokens(counts: &[u64]) -> Vec<String> {
    counts.iter().map(|count| format!("{count} tokens")).collect()
}

/// Draw bars; they begin at 0.
pub fn bars(ui: &mut Ui, it: &Bars<'_>) {
    figure(ui, it.name, HEIGHT, |width, height| {
        let mut bars = plot::Bars::new(it.name, &bins(it.edges)).untitled().size(width, height);
        bars = bars.x("probability").y(it.y_label).notes(tokens(&it.counts));
        for (name, color, values) in &it.series {
            bars = bars.bars(name, values).color(*color);
        }
        if it.percent {
            bars = bars.shares();
        }
        if let Some(top) = it.top {
            bars = bars.y_range(0.0, top);
        }
        if let Some((at, name)) = &it.line {
            bars = bars.hline(*at, name);
        }
        bars.into()
    });
}

/// Draw violins about a line at 0.
pub fn violins(ui: &mut Ui, it: &Violins<'_>) {
    figure(ui, it.name, HEIGHT, |width, height| {
        let mut violins = plot::Violins::new(it.name, &bins(it.edges)).untitled().size(width, height).hline(0.0);
        violins = violins.x("probability before the update").y(it.y_label).notes(tokens(&it.counts));
        violins = violins.y_range(-it.reach, it.reach);
        for (name, color, spreads) in &it.series {
            violins = violins.spreads(name, spreads.clone()).color(*color);
        }
        violins.into()
    });
}

//! Bars and violins over bins of a number between 0 and 1, with several series side by side.

use super::figure;
use crate::app::format::number;
use crate::plot;
use eframe::egui::Ui;

/// Height of these charts, in points.
const HEIGHT: f32 = 230.0;

/// A bar chart.
#[derive(Clone, Debug, Default)]
pub struct BarChart<'a> {
    /// Its name for screen readers.
    pub name: &'a str,
    /// Edges of the bins, one more than there are bins.
    pub edges: &'a [f64],
    /// Name, colour index, and a number for each bin.
    pub series: Vec<(&'a str, usize, Vec<f64>)>,
    /// Tokens in each bin, for the tooltip.
    pub counts: Vec<u64>,
    /// Label of the vertical axis.
    pub y_label: &'a str,
    /// Whether the numbers are shares.
    pub percent: bool,
    /// Upper end of the axis, if fixed.
    pub top: Option<f64>,
    /// A horizontal line with its label.
    pub line: Option<(f64, String)>,
}

/// A violin plot; box plots where only quantiles are known.
#[derive(Clone, Debug, Default)]
pub struct ViolinChart<'a> {
    /// Its name for screen readers.
    pub name: &'a str,
    /// Edges of the bins, one more than there are bins.
    pub edges: &'a [f64],
    /// Name, colour index, and the distribution in each bin.
    pub series: Vec<(&'a str, usize, Vec<plot::Distribution>)>,
    /// Tokens in each bin, for the tooltip.
    pub counts: Vec<u64>,
    /// Label of the vertical axis.
    pub y_label: &'a str,
    /// Range of the axis above and below 0.
    pub reach: f64,
}

/// Names of bins, short enough to stand below them in one line.
fn bins(edges: &[f64]) -> Vec<String> {
    edges.windows(2).map(|pair| format!("{}–{}", number(pair[0]), number(pair[1]))).collect()
}

fn tokens(counts: &[u64]) -> Vec<String> {
    counts.iter().map(|count| format!("{count} tokens")).collect()
}

/// Draw bars, starting at 0.
pub fn bars(ui: &mut Ui, it: &BarChart<'_>) {
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

/// Draw violins around a line at 0.
pub fn violins(ui: &mut Ui, it: &ViolinChart<'_>) {
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

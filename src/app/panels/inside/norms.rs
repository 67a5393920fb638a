//! Norms of weights and gradients, part by part, over time.

use crate::app::draw::{Heat, HeatLabels, Line, Lines, card, lines, tiles};
use crate::app::format::number;
use crate::app::panels::shared;
use crate::app::state::{Action, OpenRun};
use crate::app::theme;
use crate::event::Norms;
use crate::plot::{Ink, Ramp};
use eframe::egui::{self, Ui};
use std::path::PathBuf;

/// Columns of the picture; more steps share one.
const COLUMNS: usize = 400;

/// Norms of weights or of gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Gradients,
    Weights,
}

/// See the module.
#[derive(Debug, Default)]
pub struct NormsPart {
    kind: Kind,
    heat: Heat,
    table: Option<Table>,
}

/// Norms as a grid.
#[derive(Debug)]
struct Table {
    of: (PathBuf, usize, Kind),
    parts: Vec<String>,
    /// First and last step of each column.
    steps: Vec<(u64, u64)>,
    /// A row for each part: the greatest of a column.
    values: Vec<Vec<f64>>,
    extent: (f64, f64),
}

impl Table {
    fn new(of: (PathBuf, usize, Kind), norms: &[Norms]) -> Self {
        let parts = norms.last().map_or(Vec::new(), |n| n.parts.clone());
        let each = norms.len().div_ceil(COLUMNS).max(1);
        let value = |n: &Norms, part: &str| {
            let list = if of.2 == Kind::Gradients { &n.gradients } else { &n.weights };
            n.parts.iter().position(|p| p == part).and_then(|i| list.get(i)).map_or(f64::NAN, |x| x.0)
        };
        let columns: Vec<&[Norms]> = norms.chunks(each).collect();
        let greatest = |column: &[Norms], part: &str| column.iter().map(|n| value(n, part)).fold(f64::NAN, f64::max);
        let values: Vec<Vec<f64>> = parts.iter().map(|part| columns.iter().map(|c| greatest(c, part)).collect()).collect();
        let above = values.iter().flatten().copied().filter(|v| v.is_finite() && *v > 0.0);
        let extent = above.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let steps = columns.iter().map(|c| (c[0].step, c[c.len() - 1].step)).collect();
        Self { of, parts, steps, values, extent }
    }

    /// From 0, the least, to 1, by the logarithm.
    fn log_fraction(&self, value: f64) -> Option<f64> {
        let (low, high) = self.extent;
        (value.is_finite() && value > 0.0).then(|| if high > low { (value / low).ln() / (high / low).ln() } else { 0.5 })
    }
}

impl NormsPart {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
        let history = &run.files.history;
        let hint = "The L2 norm of each part's weights, or of its gradient before clipping. A gradient that grows in one part warns of trouble \
                    there; one that vanishes in the lower blocks says that these hardly learn.";
        card(ui, "Norms by part of the model", hint, |ui| {
            if history.norms.is_empty() {
                ui.weak("No norms yet: this run does not measure them, or has not come to the first one.");
                let words = "New run like this one, with norms";
                shared::another_run(ui, run, words, &[("eval.norms_every", "50")], actions);
                return;
            }
            ui.horizontal_wrapped(|ui| {
                ui.selectable_value(&mut self.kind, Kind::Gradients, "gradients");
                ui.selectable_value(&mut self.kind, Kind::Weights, "weights");
            });
            let of = (run.files.path.clone(), history.norms.len(), self.kind);
            if self.table.as_ref().is_none_or(|t| t.of != of) {
                self.table = Some(Table::new(of, &history.norms));
            }
            let Some(table) = &self.table else { return };
            let (heat, kind) = (&mut self.heat, self.kind);
            tiles(ui, 460.0, vec![Box::new(|ui| map(ui, heat, table)), Box::new(|ui| over_time(ui, run, table, kind))]);
        });
    }
}

fn map(ui: &mut Ui, heat: &mut Heat, table: &Table) {
    let at = |row: usize, column: usize| table.values[row][column];
    let behind = ui.visuals().extreme_bg_color;
    let step = |column: usize| match table.steps[column] {
        (a, b) if a == b => a.to_string(),
        (a, b) => format!("{a} to {b}"),
    };
    let words = HeatLabels {
        name: "Norms by part",
        y_label: "part, lowest at the bottom",
        x_label: "step",
        row: &|row| table.parts[row].clone(),
        column: &|column| table.steps[column].0.to_string(),
        cell: &|row, column| {
            format!("{}, step {}: {}", crate::vfs::clean(&table.parts[row]), step(column), number(at(row, column)))
        },
        inside: None,
        upward: true,
        smooth: false,
        row_height: (14.0, 26.0),
        column_width: 400.0,
    };
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(&(&table.of.0, table.of.1, table.of.2 == Kind::Weights, ui.visuals().dark_mode), &mut hasher);
    let key = std::hash::Hasher::finish(&hasher);
    let color = |row: usize, column: usize| table.log_fraction(at(row, column)).map_or(behind, theme::probability);
    heat.ui(ui, key, (table.parts.len(), table.steps.len()), color, &words);
    if table.extent.0 <= table.extent.1 {
        ui.weak(format!("Colours from {} (violet) to {} (yellow), log scale.", number(table.extent.0), number(table.extent.1)));
    }
}

fn over_time(ui: &mut Ui, run: &OpenRun, table: &Table, kind: Kind) {
    let folder = if kind == Kind::Gradients { "gradients" } else { "weights" };
    let metrics: Vec<String> = table.parts.iter().map(|part| format!("norms/{folder}/{part}")).collect();
    let many = metrics.len().max(2) - 1;
    let line = |(i, metric): (usize, &'_ String)| (i, metric.clone());
    let metrics: Vec<(usize, String)> = metrics.iter().enumerate().map(line).collect();
    let found = metrics.iter().map(|(i, metric)| Line {
        metric,
        name: crate::vfs::clean(&table.parts[*i]),
        color: Ink::Ramp(Ramp::Sequential, 0.9 * *i as f64 / many as f64),
        dots: false,
    });
    let it = Lines {
        name: "Norms over time",
        lines: found.collect(),
        y_label: "L2 norm",
        log: true,
        at: None,
        from: 0.0,
        height: 260.0,
    };
    egui::Frame::NONE.show(ui, |ui| lines(ui, &run.files.history, &it));
}

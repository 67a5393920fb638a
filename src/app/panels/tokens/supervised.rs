//! The pictures of pre-training and fine-tuning: where the loss comes from.

use super::{Fineness, TokensPage, edges, numbers};
use crate::app::draw::{BarChart, bars, card, stat, tiles};
use crate::app::format;
use crate::app::format::percent;
use crate::event::{Number, Predicted};
use crate::history::History;
use eframe::egui::Ui;

/// Draw the pictures of the selected evaluation.
pub fn ui(ui: &mut Ui, page: &TokensPage, history: &History) {
    let Some(now) = history.predictions.get(page.entry(history.predictions.len())) else { return };
    ui.horizontal_wrapped(|ui| {
        let first = |list: &[Number]| percent(list.first().map_or(f64::NAN, |n| n.0));
        stat(ui, "held-out tokens", &format::count(now.tokens));
        stat(ui, "below p = 0.25", &first(&now.quartiles.share));
        stat(ui, "and their part of the loss", &first(&now.quartiles.loss));
        stat(ui, "of the gradient", &first(&now.quartiles.gradient));
    });
    ui.add_space(4.0);
    let bins = match page.fineness {
        Fineness::Quarters => &now.quartiles,
        Fineness::Tenths => &now.deciles,
    };
    let edges = edges(&bins.from);
    tiles(
        ui,
        340.0,
        vec![
            Box::new(|ui| {
                let hint = "How probable the model found the tokens that really came next. As it learns, tokens move from left to right.";
                bin_chart(ui, "Tokens by probability", hint, &edges, bins, &[("share of tokens", 0, &bins.share)]);
            }),
            Box::new(|ui| {
                let hint =
                    "Beside its part of the tokens, each bin's part of the loss, the sum of -log p: improbable tokens cost most.";
                let series = [("share of tokens", 0, &bins.share), ("share of loss", 1, &bins.loss)];
                bin_chart(ui, "Loss against tokens", hint, &edges, bins, &series);
            }),
            Box::new(|ui| {
                let hint = "Each bin's part of the gradient |d loss / d logits|, summed: the model learns most from the tokens that it predicts badly.";
                let series = [("share of tokens", 0, &bins.share), ("share of gradient", 2, &bins.gradient)];
                bin_chart(ui, "Gradient against tokens", hint, &edges, bins, &series);
            }),
        ],
    );
}

fn bin_chart(ui: &mut Ui, name: &str, hint: &str, edges: &[f64], bins: &Predicted, series: &[(&str, usize, &Vec<Number>)]) {
    card(ui, name, hint, |ui| {
        let series = series.iter().map(|(name, color, list)| (*name, *color, numbers(list))).collect();
        bars(
            ui,
            &BarChart { name, edges, series, counts: bins.count.clone(), y_label: "share", percent: true, ..BarChart::default() },
        );
    });
}

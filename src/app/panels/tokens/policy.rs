//! The pictures of GRPO.

use super::{Fineness, Group, TokensPage, edges, numbers};
use crate::app::draw::{BarChart, Line, Lines, Part, ViolinChart, bars, card, lines, stat, tiles, violins};
use crate::app::format::{count, number, percent};
use crate::app::panels::shared::another_run;
use crate::app::state::{Action, OpenRun};
use crate::event::{self, Binned, Bins, ProbabilityChange};
use crate::history::{History, spreads};
use crate::plot::Ink;
use eframe::egui::Ui;

/// Narrowest picture, in points.
const NARROW: f32 = 340.0;

fn group(page: &TokensPage, bins: &Bins) -> Binned {
    match page.group {
        Group::All => bins.all.clone(),
        Group::Positive => bins.positive.clone(),
        Group::Negative => bins.negative.clone(),
    }
}

/// Draw the pictures of the selected step.
pub fn ui(ui: &mut Ui, page: &mut TokensPage, run: &OpenRun, actions: &mut Vec<Action>) {
    let history = &run.files.history;
    let entry = page.entry(history.tokens.len());
    let Some(now) = history.tokens.get(entry) else { return };
    // Probes are made every few steps: the newest one that is not newer than the slider.
    let probed = history.tokens[..=entry].iter().rev().find(|t| t.probe.is_some() || t.gradient.is_some());
    summary(ui, now);
    let bins = match page.fineness {
        Fineness::Quarters => &now.quartiles,
        Fineness::Tenths => &now.deciles,
    };
    let (edges, of) = (edges(&bins.from), group(page, bins));
    let (group, step) = (page.group, now.step);
    let near = &mut page.near;
    let mut parts: Vec<Part<'_>> =
        vec![Box::new(|ui| probability_shares(ui, &edges, &of)), Box::new(|ui| gradient(ui, &edges, &of))];
    match probed {
        Some(_) => {
            parts.push(Box::new(move |ui| changes(ui, probed, group, near)));
            parts.push(Box::new(move |ui| direction_shares(ui, probed, group)));
            parts.push(Box::new(move |ui| norms_by_pass(ui, history, step)));
            parts.push(Box::new(move |ui| norms_by_bin(ui, probed)));
        }
        None => {
            parts.push(Box::new(move |ui| no_probe_hint(ui, run, actions)));
            parts.push(Box::new(move |ui| norms_by_pass(ui, history, step)));
        }
    }
    parts.push(Box::new(|ui| {
        let hint = "Mean size of the advantages, Advantage Reweighting included. Without reweighting it is much the same in every bin, so that \
                    differences of gradients come from the probabilities.";
        bar_card(ui, "Mean |advantage|", hint, &edges, &of.count, numbers(&of.advantage), "|advantage|");
    }));
    parts.push(Box::new(|ui| {
        let hint =
            "How undecided the model was where these tokens were drawn: an improbable token comes from an undecided place.";
        bar_card(ui, "Mean entropy", hint, &edges, &of.count, numbers(&of.entropy), "nats");
    }));
    tiles(ui, NARROW, parts);
}

fn summary(ui: &mut Ui, now: &event::Tokens) {
    ui.horizontal_wrapped(|ui| {
        stat(ui, "response tokens", &count(now.tokens));
        let first = |list: &[event::Number]| list.first().map_or(f64::NAN, |n| n.0);
        stat(ui, "below p = 0.25", &percent(first(&now.quartiles.all.share)));
        stat(ui, "and their part of the gradient", &percent(first(&now.quartiles.all.gradient)));
        for (pass, norm) in &now.grad_norm {
            let name =
                if pass == "all" { "gradient norm".into() } else { format!("gradient norm, {} pass", crate::vfs::clean(pass)) };
            stat(ui, &name, &number(norm.0));
        }
    });
    ui.add_space(4.0);
}

fn probability_shares(ui: &mut Ui, edges: &[f64], of: &Binned) {
    let hint = "How probable the sampled tokens were when they were drawn. Most tokens of a trained model are sure; those on the left are \
                where it decides. Shares are of all tokens of the step.";
    card(ui, "Tokens by probability", hint, |ui| {
        let series = vec![("share of tokens", 0, numbers(&of.share))];
        let it = BarChart {
            name: "Tokens by probability",
            edges,
            series,
            counts: of.count.clone(),
            y_label: "share of tokens",
            percent: true,
            ..BarChart::default()
        };
        bars(ui, &it);
    });
}

fn gradient(ui: &mut Ui, edges: &[f64], of: &Binned) {
    let hint = "Beside its part of the tokens, each bin's part of the gradient: |advantage| times |d log p / d logits|, summed. Where the \
                green bar is the taller one, these tokens have more than their share of the update.";
    card(ui, "Gradient against tokens", hint, |ui| {
        let series = vec![("share of tokens", 0, numbers(&of.share)), ("share of gradient", 2, numbers(&of.gradient))];
        let it = BarChart {
            name: "Gradient against tokens",
            edges,
            series,
            counts: of.count.clone(),
            y_label: "share",
            percent: true,
            ..BarChart::default()
        };
        bars(ui, &it);
    });
}

fn bar_card(ui: &mut Ui, name: &str, hint: &str, edges: &[f64], counts: &[u64], values: Vec<f64>, y_label: &str) {
    card(ui, name, hint, |ui| {
        let series = vec![(y_label, 2, values)];
        bars(ui, &BarChart { name, edges, series, counts: counts.to_vec(), y_label, ..BarChart::default() });
    });
}

/// The two signs of a probe that are shown.
fn signs(probe: &event::Probe, group: Group) -> Vec<(&'static str, usize, &ProbabilityChange)> {
    let positive = ("positive advantage", 0, &probe.positive);
    let negative = ("negative advantage", 1, &probe.negative);
    match group {
        Group::All => vec![positive, negative],
        Group::Positive => vec![positive],
        Group::Negative => vec![negative],
    }
}

/// Where nothing was probed: how to get it.
fn no_probe_hint(ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
    card(ui, "What an update does to each token", "", |ui| {
        ui.weak(
            "Not measured in this run. A run that probes its updates shows the change of each token's probability, the share of tokens that \
             moved in the right direction, and the gradient of each quarter.",
        );
        another_run(ui, run, "New run like this one, with probes", &[("grpo.probe_every", "10")], actions);
    });
}

/// Where one kind of probe is missing.
fn missing(ui: &mut Ui) {
    ui.weak("Not measured at this step.");
}

fn measured_at(ui: &mut Ui, probed: &event::Tokens) {
    ui.weak(format!("Measured at step {}.", count(probed.step)));
}

/// Limit of a symmetric axis that shows all of these changes, or (`near`) their middle halves.
fn axis_limit(moved: &[&ProbabilityChange], near: bool) -> f64 {
    let all = moved.iter().flat_map(|m| if near { [&m.lower, &m.upper] } else { [&m.least, &m.most] }).flatten();
    let most = all.map(|v| v.0.abs()).filter(|v| v.is_finite()).fold(0.0, f64::max);
    if most > 0.0 { most * if near { 1.6 } else { 1.1 } } else { 1.0 }
}

fn changes(ui: &mut Ui, probed: Option<&event::Tokens>, group: Group, near: &mut bool) {
    let hint = "What the step's update did to the probability of each token: p after minus p before. The wider a violin, the more tokens; \
                the bar holds the middle half, the line in it is the median, the 0.5 % most extreme on either side are left out. Logs of \
                earlier versions have boxes. Right is up for positive advantages and down for \
                negative ones.";
    card(ui, "Change of probability", hint, |ui| {
        let Some((probed, probe)) = probed.and_then(|t| Some((t, t.probe.as_ref()?))) else { return missing(ui) };
        ui.horizontal_wrapped(|ui| {
            measured_at(ui, probed);
            ui.checkbox(near, "near").on_hover_text("Scale the axis to the middle half of the tokens, and let it cut the rest");
        });
        let signs = signs(probe, group);
        let moved: Vec<&ProbabilityChange> = signs.iter().map(|(_, _, moved)| *moved).collect();
        let (edges, counts) = (edges(&probed.quartiles.from), probe.all.count.clone());
        let series = signs.into_iter().map(|(name, color, moved)| (name, color, spreads(&[moved]))).collect();
        let (name, reach) = ("Change of probability", axis_limit(&moved, *near));
        violins(ui, &ViolinChart { name, edges: &edges, series, counts, y_label: "change", reach });
    });
}

fn direction_shares(ui: &mut Ui, probed: Option<&event::Tokens>, group: Group) {
    let hint = "Of the tokens that moved, the share that moved in the direction of their advantage. Half is chance: an update for improbable \
                tokens, with their large gradients, also moves the others.";
    card(ui, "Moved in the right direction", hint, |ui| {
        let Some((probed, probe)) = probed.and_then(|t| Some((t, t.probe.as_ref()?))) else { return missing(ui) };
        measured_at(ui, probed);
        let edges = edges(&probed.quartiles.from);
        let series = signs(probe, group).into_iter().map(|(name, color, moved)| (name, color, numbers(&moved.right))).collect();
        let line = Some((0.5, "chance".into()));
        bars(
            ui,
            &BarChart {
                name: "Moved in the right direction",
                edges: &edges,
                series,
                y_label: "share",
                percent: true,
                top: Some(1.0),
                line,
                ..BarChart::default()
            },
        );
    });
}

fn norms_by_pass(ui: &mut Ui, history: &History, at: u64) {
    let hint = "Norm of the gradient of each update, before clipping. With Lopti there is one of the improbable (low) and one of the probable \
                (high) tokens in every step.";
    card(ui, "Gradient norm over the steps", hint, |ui| {
        let known = [("grad_norm", "of the step", 0), ("grad_norm/high", "high pass", 1), ("grad_norm/low", "low pass", 2)];
        let there = known.into_iter().filter(|k| history.curves.get(k.0).is_some_and(|c| !c.is_empty()));
        let found: Vec<Line<'_>> =
            there.map(|(metric, name, i)| Line { metric, name: name.into(), color: Ink::Series(i), dots: false }).collect();
        lines(
            ui,
            history,
            &Lines { name: "Gradient norm", lines: found, y_label: "L2 norm", log: true, at: Some(at), from: 0.0, height: 190.0 },
        );
    });
}

fn norms_by_bin(ui: &mut Ui, probed: Option<&event::Tokens>) {
    let hint = "Norm of the gradient with respect to all parameters, computed from the tokens of one quarter alone. Few improbable tokens make a \
                larger gradient than many probable ones.";
    card(ui, "Gradient norm of each quarter by itself", hint, |ui| {
        let Some((probed, gradient)) = probed.and_then(|t| Some((t, t.gradient.as_ref()?))) else { return missing(ui) };
        measured_at(ui, probed);
        let edges = edges(&probed.quartiles.from);
        let series = vec![("norm of the gradient", 3, numbers(&gradient.quartiles))];
        let line = Some((gradient.all, format!("all tokens: {}", number(gradient.all))));
        let counts = probed.quartiles.all.count.clone();
        bars(
            ui,
            &BarChart {
                name: "Gradient norm by quarter",
                edges: &edges,
                series,
                counts,
                y_label: "L2 norm",
                line,
                ..BarChart::default()
            },
        );
    });
}

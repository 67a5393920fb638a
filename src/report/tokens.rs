//! Token statistics: the pictures of figures 1 and 3 of arXiv 2505.12929 over a whole run, and for supervised runs the contributions to
//! the loss.

use super::html::{cells, count, line, percent, plural};
use super::run::ReportRun;
use super::section::{Section, figure, table};
use crate::event::{Bins, Number, Predicted, Predictions, ProbabilityChange, Tokens};
use crate::history::spreads;
use crate::plot::{Bars, Distribution, Figure, Violins};
use crate::stats::weighted_mean;

/// A figure with its file name.
pub(super) struct Named {
    pub id: String,
    /// For the page: without title.
    pub inside: Figure,
    /// As a separate file.
    pub alone: Figure,
    pub title: String,
    pub hint: String,
}

const QUARTERS: [&str; 4] = ["p below 0.25", "0.25 to 0.5", "0.5 to 0.75", "0.75 and above"];
const SIZE: (f64, f64) = (560.0, 320.0);
/// Indices of the colours of shares of the loss and of the gradient in every figure; shares of the tokens have the first.
const LOSS: usize = 1;
const GRADIENT: usize = 2;
/// Colour of an earlier step.
const BEFORE: usize = 5;

/// The section about tokens: figures and tables of each run that has statistics; None if no run has.
pub(super) fn section(runs: &[ReportRun], pictures: &[(usize, Vec<Named>)]) -> Option<Section> {
    let mut body = String::new();
    for (index, named) in pictures {
        let run = &runs[*index];
        let history = run.history();
        if runs.len() > 1 {
            body += &format!("<h3>{}</h3>\n", line(&run.name));
        }
        body += "<div class=\"pair\">\n";
        for picture in named {
            body += &figure(&picture.title, &picture.hint, &picture.inside.svg());
        }
        body += "</div>\n";
        if !history.tokens.is_empty() {
            body += &quartiles(&history.tokens);
        }
        if let Some(last) = history.predictions.last() {
            body += &predictions(last);
        }
    }
    (!body.is_empty()).then(|| Section { id: "tokens", title: "Tokens by probability", intro: INTRO.into(), body })
}

const INTRO: &str = "Not every token teaches equally. A token that the model finds improbable has a gradient of nearly the greatest \
                     size, √(Σp² − 2p + 1) with respect to the logits; a token that it is sure of has almost none.";

/// All figures of token statistics, with the run's index.
pub(super) fn figures(runs: &[ReportRun]) -> Vec<(usize, Vec<Named>)> {
    let of = |(i, run): (usize, &ReportRun)| {
        let history = run.history();
        let prefix =
            if runs.len() > 1 { format!("{}-", super::charts::slug(&format!("{} {i}", run.name))) } else { String::new() };
        let mut out = Vec::new();
        if !history.tokens.is_empty() {
            out.extend(sampled(&history.tokens, &run.name, &prefix));
        }
        if let [first, .., last] | [first @ last] = history.predictions.as_slice() {
            out.push(predicted(first, last, &run.name, &prefix));
        }
        (i, out)
    };
    runs.iter().enumerate().map(of).filter(|(_, named)| !named.is_empty()).collect()
}

fn named_figure(id: String, title: &str, hint: String, make: impl Fn(bool) -> Figure) -> Named {
    Named { id, inside: make(true), alone: make(false), title: title.into(), hint }
}

/// For sampled tokens: their shares, their changes by the steps, and how often they moved in the direction of the advantage.
fn sampled(tokens: &[Tokens], run: &str, prefix: &str) -> Vec<Named> {
    let steps = plural(tokens.len() as u64, "step");
    let subtitle = format!("{run}: mean of {steps}");
    let mut out = vec![parts(tokens, &steps, &subtitle, prefix)];
    if tokens.iter().any(|t| t.probe.is_some()) {
        out.extend([changes(tokens, &subtitle, prefix), directions(tokens, &subtitle, prefix)]);
    }
    out
}

fn parts(tokens: &[Tokens], steps: &str, subtitle: &str, prefix: &str) -> Named {
    let deciles = Shares::of(tokens, |t| &t.deciles);
    let groups: Vec<String> = deciles.from.iter().map(|from| format!("{from:.1}")).collect();
    let bars = |bare: bool| {
        let bars = Bars::new("Tokens and gradient by probability", &groups)
            .x("probability of the token, from")
            .y("share")
            .shares()
            .bars("of tokens", &deciles.tokens)
            .bars("of the gradient", &deciles.gradient)
            .color(GRADIENT)
            .subtitle(subtitle)
            .size(SIZE.0, SIZE.1);
        if bare { bars.subtitle("").untitled() } else { bars }.into()
    };
    let hint = format!(
        "Sampled tokens of {steps}, in tenths of probability, and what part of the sum of the gradients' sizes is theirs."
    );
    named_figure(format!("{prefix}tokens-by-probability"), "Tokens and gradient by probability", hint, bars)
}

fn changes(tokens: &[Tokens], subtitle: &str, prefix: &str) -> Named {
    let signs = [("advantage above 0", moved(tokens, true)), ("advantage below 0", moved(tokens, false))];
    let is_counted = signs.iter().flat_map(|(_, spreads)| spreads).any(|spread| matches!(spread, Distribution::Cells(_)));
    let violins = |bare: bool| {
        let mut violins = Violins::new("Change of probability in a step", &QUARTERS)
            .x("probability before the step")
            .y("p after − p before")
            .hline(0.0)
            .subtitle(subtitle)
            .size(SIZE.0, SIZE.1);
        for (name, spreads) in &signs {
            violins = violins.spreads(name, spreads.clone());
        }
        if bare { violins.subtitle("").untitled() } else { violins }.into()
    };
    let shape = match is_counted {
        true => {
            "The wider a violin, the more tokens changed by that much; the bar holds their middle half, the white line is the median"
        }
        false => "Box: the middle half of the tokens, with the median; whiskers: the rest",
    };
    let hint = format!(
        "{shape}. The 0.5 % most extreme of each side are left out. Tokens with a positive advantage should go up, the others down."
    );
    named_figure(format!("{prefix}change-of-probability"), "Change of probability in a step", hint, violins)
}

fn directions(tokens: &[Tokens], subtitle: &str, prefix: &str) -> Named {
    let bars = |bare: bool| {
        let mut bars = Bars::new("Right direction by probability", &QUARTERS)
            .x("probability before the step")
            .y("share of tokens")
            .y_range(0.0, 1.0)
            .hline(0.5, "")
            .shares()
            .subtitle(subtitle)
            .size(SIZE.0, SIZE.1);
        for (name, which, color) in [("all", 0, 2), ("advantage above 0", 1, 0), ("advantage below 0", 2, 1)] {
            bars = bars.bars(name, &direction_shares(tokens, which)).color(color);
        }
        if bare { bars.subtitle("").untitled() } else { bars }.into()
    };
    let hint = "Of the tokens that a step moved at all, those whose probability moved in the direction of the advantage; the dashed line is chance.";
    named_figure(format!("{prefix}right-direction"), "Right direction by probability", hint.into(), bars)
}

/// Token-weighted means over steps.
struct Shares {
    from: Vec<f64>,
    tokens: Vec<f64>,
    gradient: Vec<f64>,
    advantage: Vec<f64>,
    entropy: Vec<f64>,
    weight: Vec<f64>,
}

impl Shares {
    fn of(tokens: &[Tokens], pick: impl Fn(&Tokens) -> &Bins) -> Self {
        let from = tokens.last().map(|t| pick(t).from.clone()).unwrap_or_default();
        let all: f64 = tokens.iter().map(|t| t.tokens as f64).sum();
        let of = |value: &dyn Fn(&Bins, usize) -> f64, weight: &dyn Fn(&Tokens, usize) -> f64| -> Vec<f64> {
            let bin = |b: usize| weighted_mean(tokens.iter().map(|t| (value(pick(t), b), weight(t, b))));
            (0..from.len()).map(bin).collect()
        };
        let counted = |t: &Tokens, b: usize| pick(t).all.count.get(b).map_or(0.0, |c| *c as f64);
        let per_bin = |b: usize| tokens.iter().map(|t| counted(t, b)).sum::<f64>() / all;
        Self {
            tokens: (0..from.len()).map(per_bin).collect(),
            gradient: of(&|bins, b| at(&bins.all.gradient, b), &|t, _| t.tokens as f64),
            advantage: of(&|bins, b| at(&bins.all.advantage, b), &counted),
            entropy: of(&|bins, b| at(&bins.all.entropy, b), &counted),
            weight: of(&|bins, b| at(&bins.all.weight, b), &counted),
            from,
        }
    }
}

fn at(values: &[Number], i: usize) -> f64 {
    values.get(i).map_or(f64::NAN, |v| v.0)
}

/// Distribution of the changes of all steps, by quartile of probability.
fn moved(tokens: &[Tokens], positive: bool) -> Vec<Distribution> {
    let sides = tokens.iter().filter_map(|t| t.probe.as_ref().map(|p| if positive { &p.positive } else { &p.negative }));
    spreads(&sides.collect::<Vec<&ProbabilityChange>>())
}

/// Share that moved in the direction of its advantage: of all (0), of those with a positive (1) or a negative (2) advantage.
fn direction_shares(tokens: &[Tokens], which: usize) -> Vec<f64> {
    let sides = || tokens.iter().filter_map(move |t| t.probe.as_ref().map(|p| [&p.all, &p.positive, &p.negative][which]));
    (0..QUARTERS.len())
        .map(|b| weighted_mean(sides().map(|m| (at(&m.right, b), m.count.get(b).map_or(0.0, |c| *c as f64)))))
        .collect()
}

fn quartiles(tokens: &[Tokens]) -> String {
    let all = Shares::of(tokens, |t| &t.quartiles);
    let right = direction_shares(tokens, 0);
    let norm = |b: usize| weighted_mean(tokens.iter().filter_map(|t| Some((at(&t.gradient.as_ref()?.quartiles, b), 1.0))));
    let norms: Vec<f64> = (0..all.from.len()).map(norm).collect();
    let mut columns =
        vec!["probability", "share of tokens", "share of gradient", "mean |advantage|", "entropy (nats)", "weight (AR)"];
    let (moved, measured) = (right.iter().any(|v| v.is_finite()), norms.iter().any(|v| v.is_finite()));
    if moved {
        columns.push("right way");
    }
    if measured {
        columns.push("gradient norm");
    }
    let [advantage, entropy, weight, norms] =
        [&all.advantage, &all.entropy, &all.weight, &norms].map(|v| cells(v.iter().copied()));
    let rows = (0..all.from.len()).map(|b| {
        let mut row = vec![
            QUARTERS.get(b).map_or_else(String::new, |q| (*q).to_owned()),
            percent(all.tokens[b]),
            percent(all.gradient[b]),
            advantage[b].clone(),
            entropy[b].clone(),
            weight[b].clone(),
        ];
        if moved {
            row.push(right.get(b).map_or_else(String::new, |v| percent(*v)));
        }
        if measured {
            row.push(norms[b].clone());
        }
        row
    });
    let total: u64 = tokens.iter().map(|t| t.tokens).sum();
    let caption = format!("Mean over {}, {} tokens", plural(tokens.len() as u64, "step"), count(total));
    table(&caption, &columns, rows.collect())
}

fn predicted(first: &Predictions, last: &Predictions, run: &str, prefix: &str) -> Named {
    let groups: Vec<String> = last.deciles.from.iter().map(|from| format!("{from:.1}")).collect();
    let values = |values: &[Number]| values.iter().map(|v| v.0).collect::<Vec<f64>>();
    let make = |bare: bool| {
        let mut bars = Bars::new("Held-out tokens by probability", &groups)
            .x("probability that the model gave the right token, from")
            .y("share")
            .shares()
            .subtitle(&format!("{run}: step {}", count(last.step)))
            .size(SIZE.0, SIZE.1);
        if first.step != last.step {
            bars = bars.bars(&format!("of tokens at step {}", count(first.step)), &values(&first.deciles.share)).color(BEFORE);
        }
        let d: &Predicted = &last.deciles;
        bars = bars.bars(&format!("of tokens at step {}", count(last.step)), &values(&d.share)).color(0);
        bars =
            bars.bars("of the loss", &values(&d.loss)).color(LOSS).bars("of the gradient", &values(&d.gradient)).color(GRADIENT);
        if bare { bars.subtitle("").untitled() } else { bars }.into()
    };
    let hint = format!(
        "{} held-out tokens in tenths of the probability that the model gave them, and what part of the loss and of the gradient is theirs.",
        count(last.tokens)
    );
    named_figure(format!("{prefix}held-out-by-probability"), "Held-out tokens by probability", hint, make)
}

fn predictions(last: &Predictions) -> String {
    let q = &last.quartiles;
    let share = |values: &[Number], b: usize| percent(at(values, b));
    let rows = (0..q.from.len()).map(|b| {
        let name = QUARTERS.get(b).map_or_else(String::new, |q| (*q).to_owned());
        let tokens = q.count.get(b).map_or_else(String::new, |c| count(*c));
        vec![name, tokens, share(&q.share, b), share(&q.loss, b), share(&q.gradient, b)]
    });
    let caption = format!("Held-out tokens at step {}", count(last.step));
    table(&caption, &["probability", "tokens", "share of tokens", "share of loss", "share of gradient"], rows.collect())
}

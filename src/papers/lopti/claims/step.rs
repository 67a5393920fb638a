//! L3 and L4: effect of one update on its own tokens and on other tokens.

use super::super::bench::{Bench, UpdateRule};
use super::super::context::LoptiContext;
use super::super::plan::UpdateMethod;
use super::super::scale::{ALPHA, ETA};
use super::BINS;
use crate::papers::finding::{ClaimFinding, number, with_interval};
use crate::papers::stats::{Estimate, Unit, mean, range};
use crate::papers::verdict::{
    ClaimCheck, Requirement,
    Requirement::{Above, Nothing},
};
use crate::plot::{Chart, Panels, Series, Violins};
use crate::train::bins::{QUARTILES, bin};
use crate::train::reinforce::probe::{TokenChange, probe};
use serde::{Deserialize, Serialize};

/// Calibration as in the paper's figures: a step that gives the middle half of the tokens between 0.25 and 0.75 this spread.
const SPREAD: f64 = 0.03;
/// Number of changes per bin and seed that a violin is drawn from.
const DRAWN: usize = 600;
/// The updates of Fig. 1 c, e and f.
const SELECTIVE: [(&str, UpdateMethod); 3] = [
    ("all tokens", UpdateMethod::Grpo),
    ("only p < 0.25", UpdateMethod::Only(&[1])),
    ("only p > 0.75", UpdateMethod::Only(&[4])),
];

/// Interquartile range of the change, by bin.
fn spreads(changes: &[TokenChange]) -> [f64; 4] {
    let moved = probe(changes).all;
    std::array::from_fn(|b| moved.upper[b].0 - moved.lower[b].0)
}

/// The learning rate of plain gradient descent at which an update of batch 0 gives the middle bins a spread of [`SPREAD`].
fn calibrated_rate(bench: &mut Bench) -> anyhow::Result<f64> {
    let rollouts = bench.batch(0)?;
    let mut rate = 0.1;
    for _ in 0..10 {
        let found = spreads(&bench.update(&rollouts, UpdateMethod::Grpo, UpdateRule::Sgd(rate))?.changes);
        let middle = 0.5 * (found[1] + found[2]);
        // Without tokens in the middle bins no calibration is possible.
        if middle.is_nan() || (0.9 * SPREAD..1.1 * SPREAD).contains(&middle) {
            break;
        }
        rate *= (SPREAD / middle).clamp(0.1, 10.0);
    }
    Ok(rate)
}

fn rate_of(c: &LoptiContext<'_>, seed: u64) -> anyhow::Result<f64> {
    c.measured(seed, "rate of gradient descent", calibrated_rate)
}

/// Pearson correlation; NaN if one side is constant.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (ma, mb) = (mean(a), mean(b));
    let sum = |x: &[f64], mx: f64, y: &[f64], my: f64| x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum::<f64>();
    sum(a, ma, b, mb) / (sum(a, ma, a, ma) * sum(b, mb, b, mb)).sqrt()
}

/// Selective updates for a seed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SelectiveUpdates {
    /// For each of [`SELECTIVE`] and each batch: correlation of its tokens' changes with those of the full update.
    correlation: Vec<Vec<f64>>,
    /// The same by bin and batch: interquartile range of the change.
    spread: Vec<Vec<Vec<f64>>>,
    /// The same: mean |change|.
    size: Vec<Vec<Vec<f64>>>,
    /// The same by bin: a sample of changes, for the figure.
    drawn: Vec<Vec<Vec<f32>>>,
}

fn selective_of(bench: &mut Bench, rate: f64, batches: u64) -> anyhow::Result<SelectiveUpdates> {
    let n = SELECTIVE.len();
    let mut out = SelectiveUpdates {
        correlation: vec![Vec::new(); n],
        spread: vec![vec![Vec::new(); 4]; n],
        size: vec![vec![Vec::new(); 4]; n],
        drawn: vec![vec![Vec::new(); 4]; n],
    };
    for batch in 0..batches {
        let rollouts = bench.batch(batch)?;
        let mut full: Vec<f64> = Vec::new();
        for (i, (_, way)) in SELECTIVE.iter().enumerate() {
            let changes = bench.update(&rollouts, *way, UpdateRule::Sgd(rate))?.changes;
            let moved: Vec<f64> = changes.iter().map(TokenChange::moved).collect();
            if i == 0 {
                full.clone_from(&moved);
            }
            let found = correlation(&full, &moved);
            // Without any change the correlation is 0.
            out.correlation[i].push(if found.is_nan() { 0.0 } else { found });
            let mut bins: [Vec<f64>; 4] = Default::default();
            for (change, by) in changes.iter().zip(&moved) {
                if let Some(b) = bin(&QUARTILES, change.probability()) {
                    bins[b].push(*by);
                }
            }
            for (b, spread) in spreads(&changes).into_iter().enumerate() {
                if bins[b].is_empty() {
                    continue;
                }
                out.spread[i][b].push(spread);
                out.size[i][b].push(mean(&bins[b].iter().map(|v| v.abs()).collect::<Vec<_>>()));
                let left = DRAWN.saturating_sub(out.drawn[i][b].len());
                out.drawn[i][b].extend(bins[b].iter().take(left.min(DRAWN / 4)).map(|v| *v as f32));
            }
        }
    }
    Ok(out)
}

/// Violins of the change by bin, for each set of updated tokens.
fn selective_panels(all: &[SelectiveUpdates]) -> Panels {
    let mut panels = Panels::new("L3: change of probability by one update", SELECTIVE.len())
        .subtitle("plain gradient descent, parameters restored before each; all seeds")
        .footnote("The most extreme 1 % of each violin is left out, as in the paper. Bar: middle half; white: median.");
    let most = all.iter().flat_map(|s| s.drawn.iter().flatten().flatten()).map(|v| f64::from(v.abs())).collect::<Vec<_>>();
    let reach = crate::papers::stats::quantile(&most, 0.995);
    for (i, (name, _)) in SELECTIVE.iter().enumerate() {
        let bins: Vec<Vec<f64>> =
            (0..4).map(|b| all.iter().flat_map(|s| s.drawn[i][b].iter().map(|v| f64::from(*v))).collect()).collect();
        let violins = Violins::new(name, &BINS).x("probability before").y("p after - p before").hline(0.0).outliers(0.01);
        panels = panels.panel(violins.violins("", &bins).y_range(-reach, reach));
    }
    panels
}

/// Updating only low-probability tokens has the effect of the full update.
pub fn selective(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let batches = c.scale.probe.0;
    let mut all = Vec::new();
    let mut rates = Vec::new();
    for seed in &c.seeds {
        let rate = rate_of(c, *seed)?;
        rates.push(number(rate));
        all.push(c.measured(*seed, "selective updates", |bench| selective_of(bench, rate, batches))?);
    }
    let correlations: Vec<Unit> = all.iter().map(|s| s.correlation.clone()).collect();
    let tops: Vec<Unit> = all.iter().map(|s| s.size.iter().map(|bins| bins[3].clone()).collect()).collect();
    let checks = vec![
        ClaimCheck::new("correlation of low-only with the full update", Estimate::of(&correlations, |m| m[1]), Above(0.9)),
        ClaimCheck::new("that minus the correlation of high-only", Estimate::of(&correlations, |m| m[1] - m[2]), Above(0.2)),
        ClaimCheck::new("correlation of high-only with the full update", Estimate::of(&correlations, |m| m[2]), Nothing),
        ClaimCheck::new(
            "mean |change| of tokens with p > 0.75: low-only over high-only",
            Estimate::of(&tops, |m| m[1] / m[2]),
            Above(1.0),
        ),
    ];
    let rows = SELECTIVE.iter().enumerate().map(|(i, (name, _))| {
        let mut cells = vec![(*name).to_string(), with_interval(&Estimate::of(&correlations, move |m| m[i]))];
        cells.extend((0..4).map(|b| number(mean(&all.iter().map(|s| mean(&s.spread[i][b])).collect::<Vec<_>>()))));
        cells
    });
    let columns = ["updated", "correlation with the full update [95 %]", BINS[0], BINS[1], BINS[2], BINS[3]];
    Ok(ClaimFinding::new(
        "L3",
        "Updating only low-probability tokens changes all probabilities as the full update does; updating only high-probability ones does not",
        "Fig. 1 (c, e, f): low-only nearly identical to the full update, high-only a third as wide, the top quartile itself included",
        format!(
            "{batches} batches of {} completions a seed; plain gradient descent without clipping, at a rate (found on batch 0: {}) that spreads \
             the middle half of the tokens between 0.25 and 0.75 over {SPREAD}; parameters restored before each update. The claim needs a \
             correlation above 0.9 for low-only, more than 0.2 above that of high-only, and top-quartile tokens that move more by low-only.",
            c.scale.probe.1,
            rates.join(", ")
        ),
        checks,
    )
    .table("Distance of the quartiles of the change, by probability before", &columns, rows.collect())
    .with_figure("l3-selective-updates", selective_panels(&all).svg()))
}

/// Methods compared by L4.
const WAYS: [UpdateMethod; 5] =
    [UpdateMethod::Grpo, UpdateMethod::Ar(ALPHA), UpdateMethod::Lopti(ETA), UpdateMethod::Twice, UpdateMethod::RandomSplit];
const OPTIMIZERS: [&str; 2] = ["gradient descent", "AdamW"];

/// For each method, bin and batch: of the tokens with positive advantage that changed, the share that rose.
fn right_of(bench: &mut Bench, by: UpdateRule, batches: u64) -> anyhow::Result<Vec<Vec<Vec<f64>>>> {
    let mut out = vec![vec![Vec::new(); 4]; WAYS.len()];
    for batch in 0..batches {
        let rollouts = bench.batch(batch)?;
        for (way, bins) in WAYS.iter().zip(&mut out) {
            let found = probe(&bench.update(&rollouts, *way, by)?.changes).positive.right;
            // A batch without such tokens counts as neutral.
            bins.iter_mut().zip(&found).for_each(|(bin, right)| bin.push(if right.0.is_nan() { 0.5 } else { right.0 }));
        }
    }
    Ok(out)
}

/// The arm of a method and a bin in a unit of L4.
fn arm_of(way: usize, bin: usize) -> usize {
    4 * way + bin
}

/// A line per method: the share of tokens that rose, by bin.
fn right_chart(optimizer: &str, units: &[Unit]) -> Chart {
    let mut chart = Chart::new(optimizer).x("quartile of probability").y("share that rose").hline(0.5, "");
    for (w, way) in WAYS.iter().enumerate() {
        let seeds = |b: usize| units.iter().map(|u| mean(&u[arm_of(w, b)])).collect::<Vec<_>>();
        let points: Vec<(f64, f64)> = (0..4).map(|b| ((b + 1) as f64 + 0.05 * (w as f64 - 2.0), mean(&seeds(b)))).collect();
        let ranges: Vec<(f64, f64)> = (0..4).map(|b| range(seeds(b))).collect();
        let line = Series::line(&way.name(), &points).marked().with_errors(&ranges);
        chart = chart.add(if w > 2 { line.dashed() } else { line });
    }
    chart
}

/// Tokens move in the direction of their advantage about half of the time; AR and Lopti raise the share of the top bin.
pub fn right_direction(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let batches = c.scale.probe.0;
    let mut found: [Vec<Vec<Vec<Vec<f64>>>>; 2] = Default::default();
    for seed in &c.seeds {
        let by = [UpdateRule::Sgd(rate_of(c, *seed)?), UpdateRule::Adam];
        for ((by, name), all) in by.iter().zip(OPTIMIZERS).zip(&mut found) {
            all.push(c.measured(*seed, &format!("right direction, {name}"), |bench| right_of(bench, *by, batches))?);
        }
    }
    let units =
        found.each_ref().map(|all| all.iter().map(|seed| seed.iter().flatten().cloned().collect()).collect::<Vec<Unit>>());
    let mut checks = Vec::new();
    for (units, name) in units.iter().zip(OPTIMIZERS) {
        let check = |what: &str, from: (usize, usize), to: (usize, usize), required: Requirement| {
            let (a, b) = (arm_of(to.0, to.1), arm_of(from.0, from.1));
            ClaimCheck::new(format!("{name}: {what}"), Estimate::of(units, move |m| m[a] - m[b]), required)
        };
        checks.push(check("GRPO, lowest minus top quartile", (0, 3), (0, 0), Above(0.0)));
        checks.push(check("top quartile, AR minus GRPO", (0, 3), (1, 3), Above(0.0)));
        checks.push(check("top quartile, Lopti minus GRPO", (0, 3), (2, 3), Above(0.0)));
        checks.push(check("top quartile, Lopti minus GRPO in two passes", (3, 3), (2, 3), Nothing));
        checks.push(check("top quartile, Lopti minus a random split", (4, 3), (2, 3), Nothing));
    }
    let mut rows = Vec::new();
    let mut panels = Panels::new("L4: tokens with a positive advantage whose probability rose", 2)
        .subtitle("one step from the fine-tuned model; mean over seeds and batches, range over seeds");
    for (units, name) in units.iter().zip(OPTIMIZERS) {
        for (w, way) in WAYS.iter().enumerate() {
            let mut cells = vec![name.to_string(), way.name()];
            cells.extend((0..4).map(|b| with_interval(&Estimate::of(units, move |m| m[arm_of(w, b)]))));
            rows.push(cells);
        }
        panels = panels.panel(right_chart(name, units));
    }
    let columns = ["optimizer", "update", BINS[0], BINS[1], BINS[2], BINS[3]];
    Ok(ClaimFinding::new(
        "L4",
        "Under GRPO probable tokens with a positive advantage hardly move the right way; AR and Lopti lift them",
        "Fig. 3: GRPO 0.530, 0.514, 0.501, 0.497 by quartile; the top quartile 0.526 with AR, 0.534 with Lopti",
        format!(
            "{} batches in all ({batches} a seed) of {} completions; the update of each method from the same weights, by plain gradient descent \
             (as in L3) and by AdamW at the rate of training (moments at zero); tokens that did not move at all are left out. The paper's \
             effect is 3 to 4 points, which takes a hundred batches. The claim needs, with both optimizers, the lowest quartile above the top \
             one under GRPO, and AR and Lopti above GRPO in the top one. Controls: as many updates without a split, and a random split.",
            batches * c.seeds.len() as u64,
            c.scale.probe.1
        ),
        checks,
    )
    .table("Share that rose [95 %]", &columns, rows)
    .with_figure("l4-right-direction", panels.svg()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_and_spreads() {
        assert!((correlation(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.1]) - 1.0).abs() < 1e-3);
        assert!((correlation(&[1.0, 2.0, 4.0], &[-1.0, -2.0, -4.0]) + 1.0).abs() < 1e-12);
        assert!(correlation(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        // Of five tokens at p = 0.3 that changed by 0, 0.1, ..., 0.4 the quartiles are 0.1 and 0.3.
        let change = |i: u32| TokenChange { before: 0.3f64.ln(), after: (0.3 + 0.1 * f64::from(i)).ln(), advantage: 1.0 };
        let found = spreads(&(0..5).map(change).collect::<Vec<_>>());
        assert!((found[1] - 0.2).abs() < 1e-6 && found[0].is_nan(), "{found:?}");
    }
}

//! P9: a diverged run restarted from a merge of three checkpoints, and the control that the paper lacks: from the newest one alone.

use crate::papers::finding::{ClaimFinding, number};
use crate::papers::pma::arm::PmaArm;
use crate::papers::pma::measure::Measure;
use crate::papers::pma::plan::{HOT_EVERY, MARGIN, RESCUE_COUNT, RescuePolicy};
use crate::papers::pma::scale::DivergentRegime;
use crate::papers::pma::spike::{Divergence, LOST, first_lost};
use crate::papers::stats::{Estimate, mean, median};
use crate::papers::verdict::{
    ClaimCheck, Requirement,
    Requirement::{Above, Nothing},
};
use crate::plot::{Bars, Chart, Panels, Series};

/// Arms per spike.
pub const RESCUES: usize = 8;
/// Minimum number of spikes for a decision.
const LEAST: usize = 5;
/// Updates at the end of a rescued run used to decide whether it recovered.
const TAIL: usize = 50;

/// All policies, with the newest checkpoint alone before the merge.
fn policies() -> Vec<RescuePolicy> {
    let mut out = Vec::new();
    for (skip, reset) in [(false, false), (false, true), (true, false), (true, true)] {
        out.extend([false, true].map(|merged| RescuePolicy { merged, skip, reset }));
    }
    out
}

fn name(rescue: &RescuePolicy) -> String {
    let data = if rescue.skip { "skipped data" } else { "same data" };
    let adam = if rescue.reset { "reset Adam" } else { "kept Adam" };
    format!("{data}, {adam}")
}

/// A diverged run.
struct DivergedRun {
    hot: PmaArm,
    lost: Divergence,
    loss: Vec<f64>,
}

/// Diverged runs with enough checkpoints after the warm-up and before the spike for a merge.
fn events(m: &Measure<'_>) -> anyhow::Result<(Vec<DivergedRun>, usize)> {
    let (plan, hot) = (m.context.plan(), &m.context.scale.hot);
    let first = m.context.seeds.first().copied().unwrap_or(1);
    let arms: Vec<PmaArm> = (0..hot.runs).map(|i| plan.unstable(first + i)).collect();
    m.context.ensure(&arms)?;
    let mut found = Vec::new();
    for arm in &arms {
        let loss = m.context.checkpoints.record(arm)?.loss;
        if let Some(lost) = first_lost(&loss)
            && lost.at as u64 + 1 >= hot.warmup + RESCUE_COUNT * HOT_EVERY + MARGIN
        {
            found.push(DivergedRun { hot: arm.clone(), lost, loss });
        }
    }
    Ok((found, arms.len()))
}

/// Loss at the end of a rescued run minus the loss before the spike.
fn loss_increase(loss: &[f64], lost: &Divergence) -> f64 {
    let tail: Vec<f64> =
        loss[loss.len().saturating_sub(TAIL)..].iter().map(|l| if l.is_finite() { *l } else { f64::INFINITY }).collect();
    median(&tail) - lost.before
}

fn design(hot: &DivergentRegime, size: &str, runs: usize, lost: usize) -> String {
    format!(
        "Size {size} at a rate of {:.0e} with beta1 = {}, beta2 = {}, no clipping and no decay: {runs} runs, of which {lost} were lost (0.5 nats above \
         the median of the 50 updates before, still 0.2 above after 100 more). Each lost run is begun anew from the newest checkpoint at least \
         {MARGIN} updates before the spike (one every {HOT_EVERY}), or from the mean of the newest three, with the same data or the data up \
         to the spike skipped, Adam kept or reset; {} updates. Back is: the last {TAIL} within {LOST} nats of the trajectory before the spike. \
         The claim needs more than half of the PMA rescues back, and more than of the single checkpoint's; fewer than {LEAST} spikes decide \
         nothing.",
        hot.learning_rate, hot.betas[0], hot.betas[1], hot.horizon,
    )
}

/// Merging three checkpoints rescues a diverged run.
pub fn p9(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    let (events, runs) = events(m)?;
    let (plan, scale) = (m.context.plan(), &m.context.scale);
    let spike = |e: &DivergedRun| e.lost.at as u64 + 1;
    let arms: Vec<PmaArm> =
        events.iter().flat_map(|e| policies().into_iter().map(|p| plan.rescued(&e.hot, spike(e), p))).collect();
    m.context.ensure(&arms)?;
    // Event, policy: final loss minus the loss before the spike.
    let mut ends: Vec<Vec<f64>> = Vec::new();
    let mut losses: Vec<Vec<Vec<f64>>> = Vec::new();
    for (e, arms) in events.iter().zip(arms.chunks(policies().len())) {
        let records = arms.iter().map(|a| Ok(m.context.checkpoints.record(a)?.loss)).collect::<anyhow::Result<Vec<_>>>()?;
        ends.push(records.iter().map(|loss| loss_increase(loss, &e.lost)).collect());
        losses.push(records);
    }
    let survived = |end: f64| f64::from(end <= LOST);
    let share = |row: &[f64], merged: usize| mean(&row.iter().skip(merged).step_by(2).map(|e| survived(*e)).collect::<Vec<_>>());
    let difference: Vec<f64> = ends.iter().map(|row| share(row, 1) - share(row, 0)).collect();
    let pma: Vec<f64> = ends.iter().map(|row| share(row, 1)).collect();
    let enough = ends.len() >= LEAST;
    let required = |w: Requirement| if enough { w } else { Nothing };
    let mut checks = vec![
        ClaimCheck::new(
            "share of PMA rescues that come back, over spikes and policies",
            Estimate::of_values(&pma),
            required(Above(0.5)),
        ),
        ClaimCheck::new(
            "that share minus that of the single checkpoint (the control)",
            Estimate::of_values(&difference),
            required(Above(0.0)),
        ),
    ];
    for (i, policy) in policies().iter().enumerate().filter(|(_, p)| p.merged) {
        let values: Vec<f64> = ends.iter().map(|row| survived(row[i]) - survived(row[i - 1])).collect();
        checks.push(ClaimCheck::new(format!("{}: PMA minus single", name(policy)), Estimate::of_values(&values), Nothing));
    }
    let rows = events.iter().zip(&ends).map(|(e, ends)| {
        let mut row = vec![e.hot.train.seed.to_string(), spike(e).to_string(), number(e.lost.before), number(e.lost.after)];
        row.extend(ends.iter().map(|end| if *end <= LOST { "back".into() } else { format!("lost (+{})", number(*end)) }));
        row
    });
    let mut columns = vec!["seed".to_string(), "spike at".into(), "loss before".into(), "loss after".into()];
    columns.extend(policies().iter().map(|p| format!("{}: {}", if p.merged { "PMA" } else { "single" }, name(p))));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    Ok(ClaimFinding::new(
        "P9",
        "Merging the last three checkpoints before a collapse rescues the run",
        "Fig. 7 right: one 330M/3.3B run at a rate of 6e-3; it passes the spike and follows the old trajectory; no control without merging",
        design(&scale.hot, scale.smallest().name, runs, events.len()),
        checks,
    )
    .table("Every spike and every way on", &columns, rows.collect())
    .with_figure("p9-rescue", figure(&events, &ends, &losses)))
}

/// Running median over seven, so that single spikes do not hide the curve.
fn running_median(loss: &[f64]) -> Vec<f64> {
    (0..loss.len()).map(|i| median(&loss[i.saturating_sub(3)..(i + 4).min(loss.len())])).collect()
}

fn figure(events: &[DivergedRun], ends: &[Vec<f64>], losses: &[Vec<Vec<f64>>]) -> String {
    let policies = policies();
    let names: Vec<String> = policies.iter().filter(|p| p.merged).map(name).collect();
    let share = |i: usize| mean(&ends.iter().map(|row| f64::from(row[i] <= LOST)).collect::<Vec<_>>());
    let values = |merged: usize| (0..names.len()).map(|i| share(2 * i + merged)).collect::<Vec<f64>>();
    let bars = Bars::new("runs that come back", &names)
        .y("share of spikes")
        .y_range(0.0, 1.0)
        .bars("newest checkpoint", &values(0))
        .bars("PMA of three", &values(1));
    let mut panels = Panels::new("P9: rescue from a spike", 2)
        .subtitle("the paper has only the PMA arm; curves are running medians of 7 updates")
        .panel(bars);
    for (e, losses) in events.iter().zip(losses).take(3) {
        let (spike, title) = (e.lost.at as f64 + 1.0, format!("seed {}, same data, kept Adam", e.hot.train.seed));
        let from = ((e.lost.at as u64 + 1 - MARGIN) / HOT_EVERY * HOT_EVERY) as f64;
        let curve =
            |loss: &[f64], start: f64| loss.iter().enumerate().map(|(i, l)| (start + 1.0 + i as f64, *l)).collect::<Vec<_>>();
        let most = (e.lost.before + 3.0, from - 150.0, from + 300.0);
        let mut chart = Chart::new(&title)
            .x("update")
            .y("training loss (nats)")
            .y_range(e.lost.before - 0.5, most.0)
            .x_range(most.1.max(0.0), most.2)
            .vline(spike, "spike")
            .add(Series::line("as it went", &curve(&running_median(&e.loss), 0.0)));
        for (loss, name) in losses.iter().zip(["from the newest", "from PMA"]) {
            chart = chart.add(Series::line(name, &curve(&running_median(loss), from)));
        }
        panels = panels.panel(chart);
    }
    panels.svg()
}

//! P1 and P11: merging at a constant learning rate, by model size and by learning rate.

use crate::papers::finding::{ClaimFinding, number, with_interval};
use crate::papers::pma::measure::{Measure, Points, arm_mean, arm_range, arm_text};
use crate::papers::pma::plan::{RATES, SnapshotWindow, readout};
use crate::papers::pma::scale::{GRID, READOUTS};
use crate::papers::stats::{Estimate, Unit, mean};
use crate::papers::verdict::ClaimCheck;
use crate::papers::verdict::Requirement::{Above, Nothing};
use crate::plot::{Bars, Chart, Panels, Series};

/// Evaluation points of P1: 69 and 100 %.
const LATE: [usize; 2] = [2, 3];

fn gain(m: &[f64]) -> f64 {
    m[0] - m[1]
}

/// Mean and range of the latest checkpoint and of the merge, by size.
fn size_bars(m: &Measure<'_>, index: usize, bars: &[Vec<(f64, (f64, f64))>; 2]) -> Bars {
    let names: Vec<&str> = m.context.scale.sizes.iter().map(|s| s.name).collect();
    let mut chart =
        Bars::new(&format!("at {} of the tokens", readout(index)), &names).x("size").y("validation loss (nats)").from_any();
    for (name, bars) in ["latest", "PMA"].iter().zip(bars) {
        let (values, ranges): (Vec<f64>, Vec<(f64, f64)>) = bars.iter().copied().unzip();
        chart = chart.bars_with_errors(name, &values, &ranges);
    }
    chart
}

/// Merging in the stable phase beats the newest checkpoint at every size.
pub fn p1(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    let (mut checks, mut rows, mut wins) = (Vec::new(), Vec::new(), Vec::new());
    let mut panels = Panels::new("P1: merging ten checkpoints of the stable phase", LATE.len()).subtitle(
        "validation loss of the latest checkpoint and of its merge (SMA, N = 10, V = 0.5 % of the tokens); bars: mean, lines: range over seeds",
    );
    for index in LATE {
        let at = READOUTS[index];
        let mut bars: [Vec<(f64, (f64, f64))>; 2] = Default::default();
        for size in &m.context.scale.sizes {
            let units = m.units(|seed| {
                Ok(vec![m.base(size, seed, &SnapshotWindow::single(at))?, m.base(size, seed, &SnapshotWindow::standard(at))?])
            })?;
            let found = Estimate::of(&units, gain);
            wins.extend(found.units.iter().map(|g| f64::from(*g > 0.0)));
            rows.push(vec![
                size.name.into(),
                readout(index).into(),
                arm_text(&units, 0),
                arm_text(&units, 1),
                with_interval(&found),
                found.units.iter().map(|g| number(*g)).collect::<Vec<_>>().join(", "),
            ]);
            for (arm, bars) in bars.iter_mut().enumerate() {
                bars.push((arm_mean(&units, arm), arm_range(&units, arm)));
            }
            checks.push(ClaimCheck::new(format!("gain of size {} at {} (nats)", size.name, readout(index)), found, Above(0.0)));
        }
        panels = panels.panel(size_bars(m, index, &bars));
    }
    checks.push(ClaimCheck::new(
        "share of all runs and read-outs in which the merge is lower",
        Estimate::of_values(&wins),
        Above(0.99),
    ));
    let design = "Every size and seed at a constant rate; SMA of N = 10 checkpoints V0 = 0.5 % apart against the newest of them, at 69 % and \
        100 % of the tokens. The claim needs a gain above 0 at every size and read-out, and in every single run."
        .into();
    Ok(ClaimFinding::new(
        "P1",
        "In the stable phase the merge of ten checkpoints beats the latest one, at every model size",
        "Fig. 1 and 9: e.g. HumanEval 31.1 to 36.6 (1.3B/13B), 54.3 to 61.6 (10B/100B), 50.6 to 57.9 (dense 70B)",
        design,
        checks,
    )
    .table(
        "Gain (latest minus merged, nats per token)",
        &["size", "read-out", "latest", "merged", "gain [95 %]", "by seed"],
        rows,
    )
    .with_figure("p1-gain-by-size", panels.svg()))
}

/// Gains at neighbouring rates, and the best rates. Arms of a unit: raw and merged at each rate.
fn rate_checks(units: &[Unit]) -> Vec<ClaimCheck> {
    let mut checks = Vec::new();
    for i in 1..RATES.len() {
        let found = Estimate::of(units, move |a| gain(&a[2 * i..]) - gain(&a[2 * i - 2..]));
        let what = format!("gain at {}x minus gain at {}x the rate (nats)", RATES[i], RATES[i - 1]);
        checks.push(ClaimCheck::new(what, found, Above(0.0)));
    }
    let best = |unit: &Unit, arm: usize| {
        let loss = |i: &usize| mean(&unit[2 * i + arm]);
        (0..RATES.len()).min_by(|a, b| loss(a).total_cmp(&loss(b))).map_or(f64::NAN, |i| RATES[i].log2())
    };
    for (arm, name) in ["latest", "merged"].iter().enumerate() {
        let values: Vec<f64> = units.iter().map(|u| best(u, arm)).collect();
        let what = format!("log2 of the best rate for the {name} weights (0: the base's)");
        checks.push(ClaimCheck::new(what, Estimate::of_values(&values), Nothing));
    }
    let shift: Vec<f64> = units.iter().map(|u| best(u, 1) - best(u, 0)).collect();
    checks.push(ClaimCheck::new(
        "log2 of how much the best merged rate exceeds the best unmerged one",
        Estimate::of_values(&shift),
        Nothing,
    ));
    checks
}

/// A higher stable learning rate gives a larger gain from merging.
pub fn p11(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    let size = m.context.scale.smallest();
    let plan = m.context.plan();
    let arms: Vec<_> = m.context.seeds.iter().flat_map(|s| RATES.map(|r| plan.rate(r, *s))).collect();
    m.context.ensure(&arms)?;
    let units: Vec<Unit> = m.units(|seed| {
        let mut out = Vec::new();
        for rate in RATES {
            let arm = plan.rate(rate, seed);
            for window in [SnapshotWindow::single(GRID), SnapshotWindow::standard(GRID)] {
                out.push(m.window(&arm, size, &window)?);
            }
        }
        Ok(out)
    })?;
    let mut rows = Vec::new();
    let (mut points, mut ranges): ([Points; 2], [Points; 2]) = Default::default();
    for (i, rate) in RATES.iter().enumerate() {
        let found = Estimate::of(&units, |a| gain(&a[2 * i..]));
        let learning_rate = rate * size.learning_rate;
        rows.push(vec![
            format!("{rate}x ({learning_rate:.1e})"),
            arm_text(&units, 2 * i),
            arm_text(&units, 2 * i + 1),
            with_interval(&found),
        ]);
        for arm in 0..2 {
            points[arm].push((learning_rate, arm_mean(&units, 2 * i + arm)));
            ranges[arm].push(arm_range(&units, 2 * i + arm));
        }
    }
    let mut chart = Chart::new("P11: learning rate and merging")
        .subtitle(&format!("size {}, end of the stable phase, SMA N = 10; mean and range over seeds", size.name))
        .x("learning rate of the stable phase")
        .y("validation loss (nats)")
        .log_x();
    for (arm, name) in ["latest", "PMA"].iter().enumerate() {
        chart = chart.add(Series::line(name, &points[arm]).marked().with_errors(&ranges[arm]));
    }
    Ok(ClaimFinding::new(
        "P11",
        "A higher learning rate in the stable phase makes merging gain more",
        "Limitations: the authors' belief, not quantified",
        format!(
            "Size {} at {} times its base rate, all else alike; gain of SMA (N = 10, V0) at 100 % of the tokens. The claim needs the gain to \
             rise at every doubling.",
            size.name,
            RATES.map(|r| r.to_string()).join(", ")
        ),
        rate_checks(&units),
    )
    .table("By learning rate", &["rate", "latest", "merged", "gain [95 %]"], rows)
    .with_figure("p11-learning-rate", chart.svg()))
}

//! P2 and P3: merging at a constant rate compared with annealing, and merging during the decay.

use crate::merge::MergeRule;
use crate::papers::finding::{ClaimFinding, with_interval};
use crate::papers::pma::arm::PmaArm;
use crate::papers::pma::measure::{Measure, Points, arm_mean, arm_range, arm_text};
use crate::papers::pma::plan::SnapshotWindow;
use crate::papers::pma::scale::{FORK, GRID, N, Size, V0};
use crate::papers::pma::sized_model::HeldOutScores;
use crate::papers::stats::{Estimate, Unit};
use crate::papers::verdict::ClaimCheck;
use crate::papers::verdict::Requirement::{Above, Below, Nothing, Within};
use crate::plot::{Chart, Panels, Series};

/// Evaluation points in the decay: 20, 40, 60, 80 and 100 % of it.
const PARTS: u64 = 5;

fn evaluation_point(i: u64) -> u64 {
    FORK + i * (GRID - FORK) / PARTS
}

fn percent(i: u64) -> String {
    format!("{} %", 100 * i / PARTS)
}

fn arms(m: &Measure<'_>) -> Vec<PmaArm> {
    let plan = m.context.plan();
    m.context
        .scale
        .sizes
        .iter()
        .flat_map(|size| m.context.seeds.iter().map(|s| plan.annealed(size, *s)).collect::<Vec<_>>())
        .collect()
}

/// Mean and range of each arm of a size.
fn size_chart(size: &Size, x: &str, names: &[&str], points: &[Points], ranges: &[Points]) -> Chart {
    let mut chart = Chart::new(&format!("size {}", size.name)).x(x).y("validation loss (nats)");
    for ((name, points), ranges) in names.iter().zip(points).zip(ranges) {
        chart = chart.add(Series::line(name, points).marked().with_band(ranges));
    }
    chart
}

/// `all`: the units of each read-out: constant, annealed, merged.
fn fork_checks(all: &[Vec<Unit>]) -> Vec<ClaimCheck> {
    let [early, end] = [&all[0], &all[PARTS as usize - 1]];
    vec![
        ClaimCheck::new("20 % into the fork: constant minus PMA (nats)", Estimate::of(early, |a| a[0] - a[2]), Above(0.0)),
        ClaimCheck::new("20 % into the fork: annealed minus PMA (nats)", Estimate::of(early, |a| a[1] - a[2]), Above(0.0)),
        ClaimCheck::new(
            "end: recovered share R = (constant - PMA) / (constant - annealed)",
            Estimate::of(end, |a| (a[0] - a[2]) / (a[0] - a[1])),
            Above(0.9),
        ),
        ClaimCheck::new("end: PMA minus annealed (nats)", Estimate::of(end, |a| a[2] - a[1]), Nothing),
    ]
}

/// Merging at a constant rate estimates or matches annealing.
pub fn p2(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    m.context.ensure(&arms(m))?;
    let plan = m.context.plan();
    let window = V0 * (N as u64 - 1);
    let (mut rows, mut all) = (Vec::new(), vec![Vec::new(); PARTS as usize]);
    let mut panels = Panels::new("P2: constant rate, merged, against annealing", m.context.scale.sizes.len())
        .subtitle("forked at 85 % of the tokens; mean and range over seeds");
    for size in &m.context.scale.sizes {
        let (mut points, mut ranges): ([Points; 3], [Points; 3]) = Default::default();
        for i in 1..=PARTS {
            let at = evaluation_point(i);
            let units = m.units(|seed| {
                Ok(vec![
                    m.base(size, seed, &SnapshotWindow::single(at))?,
                    m.window(&plan.annealed(size, seed), size, &SnapshotWindow::single(at))?,
                    m.base(size, seed, &SnapshotWindow::standard(at))?,
                ])
            })?;
            let recovered = Estimate::of(&units, |a| (a[0] - a[2]) / (a[0] - a[1]));
            rows.push(vec![
                size.name.into(),
                percent(i),
                if at - window >= FORK { "inside the fork" } else { "reaches back before it" }.into(),
                arm_text(&units, 0),
                arm_text(&units, 1),
                arm_text(&units, 2),
                with_interval(&recovered),
            ]);
            for arm in 0..3 {
                points[arm].push((100.0 * at as f64 / GRID as f64, arm_mean(&units, arm)));
                ranges[arm].push(arm_range(&units, arm));
            }
            all[i as usize - 1].extend(units);
        }
        let names = ["constant", "annealed", "constant + PMA"];
        panels = panels.panel(size_chart(size, "% of the tokens", &names, &points, &ranges));
    }
    Ok(ClaimFinding::new(
        "P2",
        "Merging at a constant rate estimates what annealing would give: better early in the fork, as good at its end",
        "Fig. 3: read off by eye, R = 0.64 (MMLU), 0.94 (GSM8K), 1.0 (BBH), 1.5 (HumanEval); one fork of one model",
        "Fork at 85 %: one branch stays at the constant rate, one anneals by a cosine to 0 at 100 %. SMA N = 10, V0 on the constant branch. \
         All sizes and seeds together. The claim needs PMA below both branches at 20 % of the fork, and R above 0.9 at its end."
            .into(),
        fork_checks(&all),
    )
    .table(
        "Read-outs (validation loss)",
        &["size", "of the fork", "merge window", "constant", "annealed", "constant + PMA", "R [95 %]"],
        rows,
    )
    .with_figure("p2-annealing", panels.svg()))
}

/// Merging N = 10 during the decay, at half of V0, so that the window fits from the first fifth of the decay on.
fn inside(at: u64) -> SnapshotWindow {
    SnapshotWindow { at, every: V0 / 2, n: N, rule: MergeRule::Sma }
}

/// Arms of a unit of P3: raw and merged at each part of the decay, then the constant branch at its end.
fn decay_losses(m: &Measure<'_>, size: &Size, seed: u64) -> anyhow::Result<Vec<HeldOutScores>> {
    let arm = m.context.plan().annealed(size, seed);
    let mut out = Vec::new();
    for i in 1..=PARTS {
        out.push(m.window(&arm, size, &SnapshotWindow::single(evaluation_point(i)))?);
        out.push(m.window(&arm, size, &inside(evaluation_point(i)))?);
    }
    out.push(m.base(size, seed, &SnapshotWindow::single(GRID))?);
    Ok(out)
}

/// Arms of a unit of P3: the end of the decay, and the constant branch.
const END: usize = 2 * PARTS as usize - 2;
const CONSTANT: usize = 2 * PARTS as usize;

/// Gain of merging at a part of the decay.
fn gain(i: usize) -> impl Fn(&[f64]) -> f64 {
    move |a: &[f64]| a[2 * i - 2] - a[2 * i - 1]
}

/// Distance of the merge at a part of the decay from its end, over what annealing gains.
fn gap(i: usize) -> impl Fn(&[f64]) -> f64 {
    move |a: &[f64]| (a[2 * i - 1] - a[END]) / (a[CONSTANT] - a[END])
}

fn decay_checks(all: &[Unit]) -> Vec<ClaimCheck> {
    vec![
        ClaimCheck::new(
            "gap of PMA at 20 % of the decay to its end, over what annealing gains",
            Estimate::of(all, gap(1)),
            Nothing,
        ),
        ClaimCheck::new(
            "gap of PMA at 40 % of the decay to its end, over what annealing gains",
            Estimate::of(all, gap(2)),
            Below(0.1),
        ),
        ClaimCheck::new("gain of merging at 20 % of the decay (nats)", Estimate::of(all, gain(1)), Above(0.0)),
        ClaimCheck::new("gain at 20 % minus gain at 60 % (nats)", Estimate::of(all, |a| gain(1)(a) - gain(3)(a)), Above(0.0)),
        ClaimCheck::new("gain at 60 % minus gain at 100 % (nats)", Estimate::of(all, |a| gain(3)(a) - gain(5)(a)), Above(0.0)),
        ClaimCheck::new("gain at 100 % over gain at 20 %", Estimate::of(all, |a| gain(5)(a) / gain(1)(a)), Within(0.1)),
    ]
}

/// Merging early in the decay reaches its final loss; the gain vanishes with the rate.
pub fn p3(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    m.context.ensure(&arms(m))?;
    let (mut rows, mut all): (Vec<Vec<String>>, Vec<Unit>) = Default::default();
    let mut panels = Panels::new("P3: merging inside of the decay", m.context.scale.sizes.len())
        .subtitle("cosine to 0 over the last 15 % of the tokens; SMA N = 10, V = 0.25 %; mean and range over seeds");
    for size in &m.context.scale.sizes {
        let units = m.units(|seed| decay_losses(m, size, seed))?;
        let (mut points, mut ranges): ([Points; 2], [Points; 2]) = Default::default();
        for i in 1..=PARTS as usize {
            rows.push(vec![
                size.name.into(),
                percent(i as u64),
                arm_text(&units, 2 * i - 2),
                arm_text(&units, 2 * i - 1),
                with_interval(&Estimate::of(&units, gain(i))),
                with_interval(&Estimate::of(&units, gap(i))),
            ]);
            for arm in 0..2 {
                points[arm].push((100.0 * i as f64 / PARTS as f64, arm_mean(&units, 2 * i - 2 + arm)));
                ranges[arm].push(arm_range(&units, 2 * i - 2 + arm));
            }
        }
        let chart = size_chart(size, "% of the decay", &["annealing", "annealing + PMA"], &points, &ranges);
        panels = panels.panel(chart.hline(arm_mean(&units, END), &format!("end {}", arm_text(&units, END))));
        all.extend(units);
    }
    Ok(ClaimFinding::new(
        "P3",
        "Merging early in the decay gives what its end gives, and the gain of merging vanishes as the rate goes to 0",
        "Fig. 2 and Sec. 4.6: PMA early in the decay is comparable to the end of the decay; values are not printed",
        "Inside the annealed branch: SMA of N = 10 checkpoints 0.25 % apart (half of V0, so that the window lies inside of the decay) at 20 to \
         100 % of it. The claim needs PMA at 40 % within a tenth of what annealing gains of the end, gains that fall from 20 to 60 to 100 %, \
         and a last gain within a tenth of the first."
            .into(),
        decay_checks(&all),
    )
    .table(
        "By part of the decay (validation loss)",
        &["size", "of the decay", "annealing", "+ PMA", "gain [95 %]", "gap to the end / anneal gain [95 %]"],
        rows,
    )
    .with_figure("p3-inside-the-decay", panels.svg()))
}

//! P7 and P8: training from a merge: continued training and fine-tuning.

use crate::papers::finding::{ClaimFinding, number, with_interval};
use crate::papers::pma::arm::{ArmStart, PmaArm, TrainingText};
use crate::papers::pma::measure::{Measure, arm_mean, arm_range, arm_text};
use crate::papers::pma::plan::{CT_READOUTS, Init, LATER_GRID};
use crate::papers::pma::sized_model::HeldOutScores;
use crate::papers::stats::{Estimate, Unit, deviation, mean, median, quantile};
use crate::papers::verdict::ClaimCheck;
use crate::papers::verdict::Requirement::{Above, Nothing, Within};
use crate::plot::{Chart, Panels, Series};

/// Arms of P7: starting point, fraction of the base's learning rate.
const CONTINUED: [(Init, f64, &str); 4] = [
    (Init::Latest, 1.0, "latest, 1x"),
    (Init::Pma, 1.0, "PMA, 1x"),
    (Init::Latest, 0.5, "latest, 0.5x"),
    (Init::Pma, 0.5, "PMA, 0.5x"),
];

/// Held-out loss on the shifted text of every arm of P7 after a fraction of its updates.
fn continued(m: &Measure<'_>, seed: u64, part: u64) -> anyhow::Result<Vec<HeldOutScores>> {
    let (plan, size) = (m.context.plan(), m.context.scale.middle());
    let sized_model = m.sized_model(size)?;
    CONTINUED
        .iter()
        .map(|(init, factor, _)| {
            let arm = plan.continued(*init, *factor, seed)?;
            match (&arm.begin, part) {
                (ArmStart::From { arm, mix, .. }, 0) => sized_model.score(arm, mix, TrainingText::Shifted),
                _ => sized_model.score(&arm, &[(part * m.context.scale.ct_steps / LATER_GRID, 1.0)], TrainingText::Shifted),
            }
        })
        .collect()
}

/// Training losses of every arm of P7 over a range of updates, on the same batches.
fn training(m: &Measure<'_>, first: u64, last: u64) -> anyhow::Result<Vec<Unit>> {
    let plan = m.context.plan();
    let losses = |seed: &u64| -> anyhow::Result<Unit> {
        CONTINUED
            .iter()
            .map(|(init, factor, _)| {
                let record = m.context.checkpoints.record(&plan.continued(*init, *factor, *seed)?)?;
                Ok(record.loss.get(first as usize..last as usize).unwrap_or_default().to_vec())
            })
            .collect()
    };
    m.context.seeds.iter().map(losses).collect()
}

fn continued_checks(first: &[Unit], last: &[Unit], begin: &[Unit], end: &[Unit]) -> Vec<ClaimCheck> {
    let joined: Vec<Unit> = first.iter().zip(last).map(|(a, b)| a.iter().chain(b).cloned().collect()).collect();
    vec![
        ClaimCheck::new(
            "validation loss at the start: latest minus PMA (nats)",
            Estimate::of(first, |a| a[0] - a[1]),
            Above(0.0),
        ),
        ClaimCheck::new(
            "training loss of the first 5 %: latest minus PMA, 1x (nats)",
            Estimate::of(begin, |a| a[0] - a[1]),
            Above(0.0),
        ),
        ClaimCheck::new(
            "validation loss at the end: latest minus PMA, 1x, over the gap at the start",
            Estimate::of(&joined, |a| (a[4] - a[5]) / (a[0] - a[1])),
            Within(0.1),
        ),
        ClaimCheck::new(
            "training loss of the last 5 %: latest minus PMA, 1x (nats)",
            Estimate::of(end, |a| a[0] - a[1]),
            Nothing,
        ),
        ClaimCheck::new(
            "learning rate of PMA: loss at the end at 0.5x minus at 1x, over what continued training gains",
            Estimate::of(&joined, |a| (a[7] - a[5]) / (a[1] - a[5])),
            Within(0.05),
        ),
        ClaimCheck::new("the same from the latest checkpoint", Estimate::of(&joined, |a| (a[6] - a[4]) / (a[0] - a[4])), Nothing),
    ]
}

/// A read-out of P7 in percent of the updates.
fn percent(part: u64) -> f64 {
    100.0 * part as f64 / LATER_GRID as f64
}

/// Held-out loss of every arm, and the difference of training losses on the same batches.
fn continued_panels(parts: &[Vec<Unit>], training: &[Unit], steps: usize) -> Panels {
    let mut chart = Chart::new("validation loss on the new text").x("% of continued training").y("loss (nats)");
    for (arm, (_, _, name)) in CONTINUED.iter().enumerate() {
        let points: Vec<_> = CT_READOUTS.iter().zip(parts).map(|(p, units)| (percent(*p), arm_mean(units, arm))).collect();
        let ranges: Vec<_> = parts.iter().map(|units| arm_range(units, arm)).collect();
        chart = chart.add(Series::line(name, &points).marked().with_errors(&ranges));
    }
    let mut gaps = Chart::new("training loss, latest minus PMA, same batches").x("update").y("difference (nats)").hline(0.0, "");
    for (one, name) in [(0, "1x"), (2, "0.5x")] {
        let gap = |i: usize| mean(&training.iter().map(|u| u[one][i] - u[one + 1][i]).collect::<Vec<_>>());
        let points: Vec<(f64, f64)> = (0..steps).map(|i| (i as f64 + 1.0, gap(i))).collect();
        gaps = gaps.add(Series::line(name, &points).smoothed((steps / 20).max(1)));
    }
    Panels::new("P7: continued training", 2).panel(chart).panel(gaps)
}

/// PMA as the starting point of continued training.
pub fn p7(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    let (plan, steps) = (m.context.plan(), m.context.scale.ct_steps);
    let arms = m.context.seeds.iter().flat_map(|s| CONTINUED.map(|(i, f, _)| plan.continued(i, f, *s)));
    m.context.ensure(&arms.collect::<anyhow::Result<Vec<PmaArm>>>()?)?;
    let parts: Vec<Vec<Unit>> =
        CT_READOUTS.iter().map(|p| m.units(|seed| continued(m, seed, *p))).collect::<anyhow::Result<_>>()?;
    let [first, last] = [&parts[0], &parts[CT_READOUTS.len() - 1]];
    let begin = training(m, 0, steps / 20)?;
    let end = training(m, steps - steps / 20, steps)?;
    let checks = continued_checks(first, last, &begin, &end);
    let mut rows = Vec::new();
    for (part, units) in CT_READOUTS.iter().zip(&parts) {
        let mut row = vec![format!("{:.0} %", percent(*part))];
        row.extend((0..CONTINUED.len()).map(|arm| arm_text(units, arm)));
        row.push(with_interval(&Estimate::of(units, |a| a[0] - a[1])));
        rows.push(row);
    }
    let panels = continued_panels(&parts, &training(m, 0, steps)?, steps as usize);
    let names: Vec<&str> = CONTINUED.iter().map(|c| c.2).collect();
    let columns = [&["of the updates"][..], &names, &["latest minus PMA, 1x [95 %]"]].concat();
    Ok(ClaimFinding::new(
        "P7",
        "Continued training from the merge starts lower, ends alike, and needs no other learning rate",
        "Fig. 6: marginally lower at the start, then all four curves (peaks 4.08e-4 and 2.04e-4) converge",
        format!(
            "Size {}: {} updates on the shifted text, cosine from 1x or 0.5x of the base's rate to a fortieth, fresh Adam, from the latest \
             checkpoint or its merge (SMA N = 10, V0) at 100 % of the base's tokens. The claim needs a gap above 0 at the start, one within a \
             tenth of it at the end, and PMA's end at half of the rate within 5 % of what the stage gains.",
            m.context.scale.middle().name,
            steps
        ),
        checks,
    )
    .table("Validation loss on the shifted text", &columns, rows)
    .with_figure("p7-continued-training", panels.svg()))
}

const INITS: [Init; 3] = [Init::Latest, Init::Pma, Init::Annealed];

/// Updates whose gradient norm is more than twice the median of the 50 before.
fn spikes(norms: &[f64]) -> f64 {
    const BEFORE: usize = 50;
    (BEFORE.min(norms.len())..norms.len()).filter(|i| norms[*i] > 2.0 * median(&norms[i - BEFORE..*i])).count() as f64
}

/// For each seed and starting point: the gradient norms of all updates, and the held-out scores at the end.
type TunedRuns = (Vec<[Vec<f64>; 3]>, Vec<Vec<HeldOutScores>>);

fn fine_tuned_runs(m: &Measure<'_>) -> anyhow::Result<TunedRuns> {
    let (plan, steps) = (m.context.plan(), m.context.scale.sft_steps);
    let sized_model = m.sized_model(m.context.scale.middle())?;
    let arms = m.context.seeds.iter().flat_map(|s| INITS.map(|i| plan.tuned(i, *s)));
    m.context.ensure(&arms.collect::<anyhow::Result<Vec<PmaArm>>>()?)?;
    let (mut norms, mut scored) = (Vec::new(), Vec::new());
    for seed in &m.context.seeds {
        let arms = INITS.iter().map(|i| plan.tuned(*i, *seed)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut row: [Vec<f64>; 3] = Default::default();
        for (slot, arm) in row.iter_mut().zip(&arms) {
            *slot = m.context.checkpoints.record(arm)?.grad_norm;
        }
        norms.push(row);
        let score = |arm| sized_model.score(arm, &[(steps, 1.0)], TrainingText::Task);
        scored.push(arms.iter().map(score).collect::<anyhow::Result<_>>()?);
    }
    Ok((norms, scored))
}

/// Gradient norms by update, a chart for each seed.
fn norm_panels(seeds: &[u64], norms: &[[Vec<f64>; 3]]) -> Panels {
    let mut panels = Panels::new("P8: gradient norm while fine-tuning", seeds.len().min(3))
        .subtitle("before clipping; pale: every update, bold: mean of 15");
    for (seed, norms) in seeds.iter().zip(norms) {
        let mut chart = Chart::new(&format!("seed {seed}")).x("update").y("gradient norm").log_y();
        for (init, norms) in INITS.iter().zip(norms) {
            let points: Vec<(f64, f64)> = norms.iter().enumerate().map(|(i, n)| (i as f64 + 1.0, *n)).collect();
            chart = chart.smoothed(init.name(), &points, 15);
        }
        panels = panels.panel(chart);
    }
    panels
}

/// PMA as the starting point of fine-tuning.
pub fn p8(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    let (size, steps) = (m.context.scale.middle(), m.context.scale.sft_steps);
    let (norms, scored) = fine_tuned_runs(m)?;
    type Statistic = (&'static str, fn(&[f64]) -> f64);
    let statistics: [Statistic; 4] =
        [("mean", mean), ("standard deviation", deviation), ("99th percentile", |v| quantile(v, 0.99)), ("spikes", spikes)];
    let answers = |s: &HeldOutScores, k: usize| s.accuracy.map_or(f64::NAN, |a| a[k]);
    let (mut checks, mut rows) = (Vec::new(), Vec::new());
    for (name, statistic) in statistics {
        let values = |i: usize| norms.iter().map(|n| statistic(&n[i])).collect::<Vec<f64>>();
        let (latest, pma) = (values(0), values(1));
        let difference: Vec<f64> = latest.iter().zip(&pma).map(|(l, p)| l - p).collect();
        let required = if name == "spikes" { Nothing } else { Above(0.0) };
        checks.push(ClaimCheck::new(
            format!("{name} of the gradient norm: latest minus PMA"),
            Estimate::of_values(&difference),
            required,
        ));
        let mut row = vec![format!("gradient norm: {name}")];
        row.extend((0..3).map(|i| number(mean(&values(i)))));
        rows.push(row);
    }
    for (k, name) in ["accuracy by token", "exact answers"].iter().enumerate() {
        let difference: Vec<f64> = scored.iter().map(|s| answers(&s[1], k) - answers(&s[0], k)).collect();
        let required = if k == 1 { Above(-0.02) } else { Nothing };
        checks.push(ClaimCheck::new(format!("{name}: PMA minus latest"), Estimate::of_values(&difference), required));
        let mut row = vec![name.to_string()];
        row.extend((0..3).map(|i| number(mean(&scored.iter().map(|s| answers(&s[i], k)).collect::<Vec<_>>()))));
        rows.push(row);
    }
    let mut loss_row = vec!["loss on held-out answers (nats)".to_string()];
    loss_row.extend((0..3).map(|i| number(mean(&scored.iter().map(|s| s[i].loss()).collect::<Vec<_>>()))));
    rows.push(loss_row);
    Ok(ClaimFinding::new(
        "P8",
        "Fine-tuning from the merge has a steadier gradient norm, and its result is no worse",
        "Fig. 7 left: visibly steadier, no numbers; Table 1: e.g. MMLU 86.8 to 87.1, GPQA 55.2 to 54.0",
        format!(
            "Size {}: {steps} updates on words written backwards, loss on the answers alone, cosine from half of the base's rate, fresh Adam, \
             from the latest checkpoint, its merge, and the annealed end. The gradient norm is that before clipping. A spike is more than \
             twice the median of the 50 updates before. The claim needs a lower mean, deviation and 99th percentile, and at most 2 points \
             fewer exact answers.",
            size.name
        ),
        checks,
    )
    .table("Mean over seeds", &["", "from latest", "from PMA", "from annealed"], rows)
    .with_figure("p8-gradient-norm", norm_panels(&m.context.seeds, &norms).svg()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spikes_are_twice_the_running_median() {
        let mut norms = vec![1.0; 200];
        norms[20] = 9.0; // Too early: there is no median yet.
        norms[120] = 2.1;
        norms[121] = 1.9;
        norms[150] = 7.0;
        assert_eq!(spikes(&norms), 2.0);
        assert_eq!(spikes(&norms[..10]), 0.0);
    }
}

//! L6, L7 and L13: alpha, eta, and updates per rollout.

use super::super::context::{LoptiContext, mean_of, range_of};
use super::super::plan::{ALPHAS, ETAS, LoptiPlan, UPDATES};
use super::super::scale::{ALPHA, ETA};
use super::{LoptiRecord, MethodArms, accuracy, difference, level_table, rows};
use crate::papers::finding::{ClaimFinding, number};
use crate::papers::stats::{Estimate, range};
use crate::papers::verdict::ClaimCheck;
use crate::papers::verdict::Requirement::{Above, Nothing, Within};
use crate::plot::{Chart, Panels, Series};

/// A curve over a setting: accuracy and reward.
fn curves(title: &str, x: &str, at: &[f64], of: &[&MethodArms]) -> String {
    let one = |title: &str, y: &str, value: fn(&LoptiRecord) -> f64| {
        let points: Vec<(f64, f64)> = at.iter().zip(of).map(|(x, row)| (*x, mean_of(&row.records, value))).collect();
        let ranges: Vec<(f64, f64)> = of.iter().map(|row| range_of(&row.records, value)).collect();
        Chart::new(title).x(x).y(y).add(Series::line("", &points).marked().with_errors(&ranges))
    };
    let subtitle = "mean and range over seeds; at 0 plain GRPO";
    Panels::new(title, 2)
        .subtitle(subtitle)
        .panel(one("accuracy", "share of right answers", accuracy))
        .panel(one("reward", "mean reward, last quarter", LoptiRecord::late_reward))
        .svg()
}

/// alpha: an inverted U.
pub fn alpha(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let of = rows(c, &LoptiPlan::compared_arms("L6"))?;
    let at: Vec<f64> = [0.0].into_iter().chain(ALPHAS).collect();
    let row = |alpha: f64| &of[at.iter().position(|a| *a == alpha).unwrap_or(0)];
    let best: Vec<f64> = (0..c.seeds.len())
        .map(|s| {
            let score = |i: &usize| accuracy(&of[*i].records[s]);
            (0..of.len()).max_by(|a, b| score(a).total_cmp(&score(b))).map_or(f64::NAN, |i| at[i])
        })
        .collect();
    let checks = vec![
        ClaimCheck::new("accuracy: alpha 0.3 minus 0", difference(row(ALPHA), row(0.0), accuracy), Above(0.0)),
        ClaimCheck::new("accuracy: alpha 0.3 minus 1", difference(row(ALPHA), row(1.0), accuracy), Above(0.0)),
        ClaimCheck::new("accuracy: alpha 0.3 minus 0.7", difference(row(ALPHA), row(0.7), accuracy), Above(0.0)),
        ClaimCheck::new("the best alpha", Estimate::of_values(&best), Nothing),
    ];
    let mut found = ClaimFinding::new(
        "L6",
        "alpha is best near 0.2 to 0.3; much larger hurts",
        "Fig. 6 (c) and Sec. 5: curves, no numbers",
        "As L5 with Advantage Reweighting alone, at each strength. The claim needs 0.3 above 0, above 0.7 and above 1.".into(),
        checks,
    );
    found.tables.push(level_table("Mean over seeds", &of, "people"));
    let refs: Vec<&MethodArms> = of.iter().collect();
    Ok(found.with_figure("l6-alpha", curves("L6: strength of Advantage Reweighting", "alpha", &at, &refs)))
}

/// eta: a plateau.
pub fn eta(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let of = rows(c, &LoptiPlan::compared_arms("L7"))?;
    let at: Vec<f64> = [0.0].into_iter().chain(ETAS).collect();
    let row = |eta: f64| &of[at.iter().position(|a| *a == eta).unwrap_or(0)];
    let checks = vec![
        ClaimCheck::new("accuracy: eta 0.3 minus 0.5", difference(row(0.3), row(ETA), accuracy), Within(0.05)),
        ClaimCheck::new("accuracy: eta 0.3 minus GRPO", difference(row(0.3), row(0.0), accuracy), Above(0.0)),
        ClaimCheck::new("accuracy: eta 0.5 minus GRPO", difference(row(ETA), row(0.0), accuracy), Above(0.0)),
        ClaimCheck::new("accuracy: eta 0.5 minus 0.1", difference(row(ETA), row(0.1), accuracy), Nothing),
        ClaimCheck::new("accuracy: eta 0.5 minus 0.9", difference(row(ETA), row(0.9), accuracy), Nothing),
    ];
    let mut found = ClaimFinding::new(
        "L7",
        "eta hardly matters between 0.3 and 0.5",
        "Fig. 6 (d) and Sec. 5: fine in 0.3 to 0.5, less sensitive than alpha",
        "As L5 with Lopti alone, at each threshold. The claim needs 0.3 and 0.5 within 0.05 of each other, and both above GRPO."
            .into(),
        checks,
    );
    found.tables.push(level_table("Mean over seeds", &of, "people"));
    let refs: Vec<&MethodArms> = of.iter().collect();
    Ok(found.with_figure("l7-eta", curves("L7: Lopti's threshold", "eta", &at, &refs)))
}

/// Updates per rollout: does the gain shrink or reverse?
pub fn updates(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let of = rows(c, &LoptiPlan::compared_arms("L13"))?;
    let cells: Vec<&[MethodArms]> = of.chunks(3).collect();
    let names = ["AR", "Lopti"];
    let gain = |cell: &[MethodArms], way: usize| difference(&cell[1 + way], &cell[0], accuracy);
    let (Some(few), Some(many)) = (cells.first(), cells.last()) else { anyhow::bail!("no arms") };
    let (least, most) = (UPDATES[0], UPDATES[UPDATES.len() - 1]);
    let mut checks = Vec::new();
    for (way, name) in names.iter().enumerate() {
        let [a, b] = [gain(few, way), gain(many, way)];
        let shrinks: Vec<f64> = a.units.iter().zip(&b.units).map(|(a, b)| a - b).collect();
        let what = format!("gain of {name} with {least} update a pass minus with {most}");
        checks.push(ClaimCheck::new(what, Estimate::of_values(&shrinks), Above(0.0)));
        checks.push(ClaimCheck::new(format!("gain of {name} with {most} updates"), b, Nothing));
    }
    let mut table = Vec::new();
    for (cell, n) in cells.iter().zip(UPDATES) {
        let mut row = vec![n.to_string()];
        row.extend(cell.iter().map(|r| format!("{:.3}", mean_of(&r.records, accuracy))));
        row.extend((0..2).map(|way| crate::papers::finding::with_interval(&gain(cell, way))));
        row.push(number(mean_of(&cell[0].records, |r| LoptiRecord::mean_of(&r.grad_norm, 0.5, 1.0))));
        table.push(row);
    }
    let mut chart = Chart::new("L13: gain of AR and Lopti by updates per rollout")
        .subtitle("accuracy minus that of GRPO with as many mini-batches; mean and range over seeds")
        .x("updates a pass over a step's completions")
        .y("gain in accuracy")
        .log_x()
        .hline(0.0, "GRPO");
    for (way, name) in names.iter().enumerate() {
        let found: Vec<Estimate> = cells.iter().map(|cell| gain(cell, way)).collect();
        let points: Vec<(f64, f64)> = UPDATES.iter().zip(&found).map(|(n, e)| (*n as f64, e.mean)).collect();
        let ranges: Vec<(f64, f64)> = found.iter().map(|e| range(e.units.iter().copied())).collect();
        chart = chart.add(Series::line(name, &points).marked().with_errors(&ranges));
    }
    let columns = ["updates", "GRPO", "AR", "Lopti", "gain of AR [95 %]", "gain of Lopti [95 %]", "gradient norm (GRPO)"];
    Ok(ClaimFinding::new(
        "L13",
        "The gain of AR and Lopti shrinks with more updates per rollout (contrary evidence, not the paper's)",
        "An ICLR 2026 submission: low-probability tokens dominate near on-policy, high-probability ones with many updates per rollout",
        format!(
            "As L5 with the step's completions cut into {} mini-batches. The claim needs the gain over GRPO, cut alike, to be larger with {least} \
             update than with {most}.",
            UPDATES.map(|n| n.to_string()).join(", ")
        ),
        checks,
    )
    .table("Accuracy, mean over seeds", &columns, table)
    .with_figure("l13-updates", chart.svg()))
}

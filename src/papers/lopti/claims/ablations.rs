//! L8 and L9: the reversed order, and updates of a part of the tokens.

use super::super::context::LoptiContext;
use super::super::plan::LoptiPlan;
use super::{LoptiRecord, MethodArms, accuracy, accuracy_before, difference, level_bars, level_table, reward_chart, rows};
use crate::papers::finding::ClaimFinding;
use crate::papers::stats::Estimate;
use crate::papers::verdict::ClaimCheck;
use crate::papers::verdict::Requirement::{Above, Below, Nothing, Within};
use crate::plot::Panels;

fn figure(title: &str, of: &[MethodArms]) -> String {
    Panels::new(title, 2)
        .subtitle(&format!("mean over seeds; {}", accuracy_before(of)))
        .panel(level_bars("accuracy", of, "people"))
        .panel(reward_chart("reward of the rollouts", of))
        .svg()
}

/// Mean reward of the last tenth of the steps minus the best fifth before.
fn late_drop(r: &LoptiRecord) -> f64 {
    let fifths = (0..5).map(|i| LoptiRecord::mean_of(&r.reward, 0.2 * f64::from(i), 0.2 * f64::from(i + 1)));
    LoptiRecord::mean_of(&r.reward, 0.9, 1.0) - fifths.fold(f64::NEG_INFINITY, f64::max)
}

/// High-probability tokens first.
pub fn reversed(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let of = rows(c, &LoptiPlan::compared_arms("L8"))?;
    let [grpo, lopti, high, lot] = [&of[0], &of[1], &of[2], &of[3]];
    let drop: Vec<f64> = high.records.iter().map(late_drop).collect();
    let checks = vec![
        ClaimCheck::new("accuracy: high first minus GRPO", difference(high, grpo, accuracy), Below(0.0)),
        ClaimCheck::new("accuracy: high first minus Lopti", difference(high, lopti, accuracy), Below(0.0)),
        ClaimCheck::new("accuracy: high first minus a random split", difference(high, lot, accuracy), Below(0.0)),
        ClaimCheck::new("high first: reward of the last tenth minus its best fifth", Estimate::of_values(&drop), Nothing),
    ];
    let mut found = ClaimFinding::new(
        "L8",
        "Lopti in the reversed order is worse than GRPO, and may collapse",
        "Fig. 6 (b): clearly worse, collapses after the fourth epoch",
        "As L5 with the high-probability group updated first. The claim needs it below GRPO, below Lopti and below a random split, which \
         makes as many updates; a collapse is reported, not required, since runs here are short."
            .into(),
        checks,
    );
    found.tables.push(level_table("Mean over seeds", &of, "people"));
    Ok(found.with_figure("l8-reversed", figure("L8: the reversed order", &of)))
}

/// Updates with only a part of the tokens.
pub fn masked(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let of = rows(c, &LoptiPlan::compared_arms("L9"))?;
    let [grpo, quarter, half, low] = [&of[0], &of[1], &of[2], &of[3]];
    let checks = vec![
        ClaimCheck::new("accuracy: only p > 0.25 minus GRPO", difference(quarter, grpo, accuracy), Below(0.0)),
        ClaimCheck::new("accuracy: only p > 0.5 minus GRPO", difference(half, grpo, accuracy), Below(0.0)),
        ClaimCheck::new("accuracy: only p < 0.25 minus GRPO", difference(low, grpo, accuracy), Within(0.1)),
        ClaimCheck::new("accuracy: only p < 0.25 minus only p > 0.5", difference(low, half, accuracy), Above(0.0)),
    ];
    let mut found = ClaimFinding::new(
        "L9",
        "Updating only high-probability tokens hurts; only low-probability ones is near GRPO",
        "Fig. 6 (a): masking p < 0.25 or p < 0.5 is far below GRPO",
        "As L5 with advantages and KL masked to a part of the tokens, denominators unchanged. The claim needs both high-only arms below GRPO, \
         low-only within 0.1 of it, and above the higher of them."
            .into(),
        checks,
    );
    found.tables.push(level_table("Mean over seeds", &of, "people"));
    Ok(found.with_figure("l9-masked", figure("L9: updates of a part of the tokens", &of)))
}

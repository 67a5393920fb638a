//! L5, L10 and L12: comparison of the four methods.

use super::super::context::LoptiContext;
use super::super::plan::{LoptiPlan, METHODS};
use super::super::scale::{ALPHA, ETA, SMALL_ALPHA};
use super::{MethodArms, accuracy, accuracy_before, difference, level_bars, level_table, reward_chart, rows};
use crate::papers::finding::ClaimFinding;
use crate::papers::stats::Estimate;
use crate::papers::verdict::ClaimCheck;
use crate::papers::verdict::Requirement::{Above, Below, Nothing};
use crate::plot::Panels;

/// Index of GRPO; the four methods come first.
const GRPO: usize = 0;
const AR: usize = 1;
const LOPTI: usize = 2;
const BOTH: usize = 3;

/// The four methods, without controls for readability.
fn figure(title: &str, of: &[MethodArms], unit: &str) -> String {
    picture_of(title, &of[..METHODS.len().min(of.len())], unit)
}

fn picture_of(title: &str, of: &[MethodArms], unit: &str) -> String {
    Panels::new(title, 2)
        .subtitle(&format!("mean of the last evaluations, range over seeds; {}", accuracy_before(of)))
        .panel(level_bars("accuracy", of, unit))
        .panel(reward_chart("reward of the rollouts", of))
        .svg()
}

/// Both combined minus the better of the two alone, by seed.
fn stacked(of: &[MethodArms]) -> Estimate {
    let seeds = 0..of[BOTH].records.len();
    let at = |row: usize, seed: usize| accuracy(&of[row].records[seed]);
    Estimate::of_values(&seeds.map(|s| at(BOTH, s) - at(AR, s).max(at(LOPTI, s))).collect::<Vec<_>>())
}

/// Each of the three compared with plain GRPO.
fn ranking(of: &[MethodArms]) -> Vec<ClaimCheck> {
    let plain = &of[GRPO];
    [(AR, "AR"), (LOPTI, "Lopti"), (BOTH, "AR + Lopti")]
        .map(|(row, name)| {
            let what = format!("accuracy: {name} minus {}", plain.name);
            ClaimCheck::new(what, difference(&of[row], plain, accuracy), Above(0.0))
        })
        .into()
}

/// Gain of plain training over the start.
fn gained(row: &MethodArms) -> Estimate {
    Estimate::of_values(&row.records.iter().map(|r| accuracy(r) - r.accuracy_before()).collect::<Vec<_>>())
}

/// K&K: the ranking, comparison with the controls, and interaction with the number of people.
pub fn puzzles(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let of = rows(c, &LoptiPlan::compared_arms("L5"))?;
    let [twice, lot] = [4, 5];
    let mut checks = ranking(&of);
    checks.push(ClaimCheck::new("accuracy: AR + Lopti minus the better of the two", stacked(&of), Above(0.0)));
    for (row, what) in [(twice, "GRPO with as many updates"), (lot, "Lopti, random split")] {
        let found = difference(&of[LOPTI], &of[row], accuracy);
        checks.push(ClaimCheck::new(format!("accuracy: Lopti minus {what}"), found, Above(0.0)));
    }
    let levels = super::levels(&of[GRPO].records);
    if let [least, .., most] = levels[..] {
        for (row, name) in [(AR, "AR"), (LOPTI, "Lopti")] {
            let gain = |l: u32| difference(&of[row], &of[GRPO], move |r| r.accuracy(Some(l)));
            let (hard, easy) = (gain(most), gain(least));
            let more: Vec<f64> = hard.units.iter().zip(&easy.units).map(|(h, e)| h - e).collect();
            let what = format!("gain of {name} with {most} people minus with {least}");
            checks.push(ClaimCheck::new(what, Estimate::of_values(&more), Above(0.0)));
        }
    }
    for (row, name) in [(AR, "AR"), (LOPTI, "Lopti"), (BOTH, "AR + Lopti"), (twice, "GRPO in two passes")] {
        let found = difference(&of[row], &of[GRPO], super::LoptiRecord::late_reward);
        checks.push(ClaimCheck::new(format!("reward of the last quarter: {name} minus GRPO"), found, Nothing));
    }
    let s = c.scale;
    let table =
        level_table("Mean over seeds; accuracy of the last three evaluations, greedy and sampled together", &of, "people");
    let mut found = ClaimFinding::new(
        "L5",
        "On Knights and Knaves GRPO < AR ~ Lopti < AR + Lopti, and the gain grows with the number of people",
        "Fig. 4: 3B 0.39, 0.53, 0.54, 0.57; 7B 0.77, 0.89, 0.86, 0.91; single runs, 100 puzzles a cell",
        format!(
            "From the same fine-tuned model: {} steps of {} completions ({} a puzzle) at temperature {}, {} updates a pass, AdamW at {:.0e} (chosen \
             for plain GRPO), clip 0.20 / 0.24, k3 0.001; alpha = {ALPHA}, eta = {ETA}; fresh puzzles of {} people; evaluations on {} held-out puzzles, \
             the same for all arms. The claim needs each method above GRPO, both together above each alone, Lopti above GRPO with as many \
             updates and above a random split, and gains that grow with the number of people.",
            s.steps, s.batch_size, s.num_generations, s.temperature, s.mini_batches, s.learning_rate, s.people[0], s.evals.1
        ),
        checks,
    );
    found.tables.push(table);
    Ok(found.with_figure("l5-methods", figure("L5: the four methods on Knights and Knaves", &of, "people")))
}

/// Is Lopti's gain explained by larger steps or by shared moments?
pub fn controls(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let of = rows(c, &LoptiPlan::compared_arms("L5b"))?;
    let [grpo, lopti, apart, root, double] = [&of[0], &of[1], &of[2], &of[3], &of[4]];
    let checks = vec![
        ClaimCheck::new("accuracy: Lopti minus GRPO at 1.41 times the rate", difference(lopti, root, accuracy), Above(0.0)),
        ClaimCheck::new("accuracy: Lopti minus GRPO at twice the rate", difference(lopti, double, accuracy), Above(0.0)),
        ClaimCheck::new("accuracy: Lopti with moments apart minus GRPO", difference(apart, grpo, accuracy), Above(0.0)),
        ClaimCheck::new("accuracy: Lopti minus Lopti with moments apart", difference(lopti, apart, accuracy), Nothing),
    ];
    let mut found = ClaimFinding::new(
        "L5b",
        "Lopti's gain is neither that of a larger learning rate nor that of moments carried from pass to pass (controls, not the paper's)",
        "Not in the paper: Lopti makes twice as many AdamW steps, and its second pass continues with the first one's moments",
        "As L5. The claim needs Lopti above GRPO at 1.41 and 2 times the rate, and Lopti whose passes have moments of their own above GRPO."
            .into(),
        checks,
    );
    found.tables.push(level_table("Mean over seeds", &of, "people"));
    Ok(found.with_figure("l5-controls", picture_of("L5b: larger steps, moments apart", &of, "people")))
}

/// The same ranking with REINFORCE++.
pub fn plus_plus(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let of = rows(c, &LoptiPlan::compared_arms("L10"))?;
    let mut found = ClaimFinding::new(
        "L10",
        "AR and Lopti carry over to REINFORCE++",
        "Table 7: 3B 0.23 to 0.41, 7B 0.62 to 0.88 with AR + Lopti",
        format!(
            "As L5 with advantages whitened over the batch's tokens instead of the group's baseline, alpha = {SMALL_ALPHA}, eta = {ETA}. The claim \
             needs each method above REINFORCE++."
        ),
        ranking(&of),
    );
    found.tables.push(level_table("Mean over seeds", &of, "people"));
    Ok(found.with_figure("l10-reinforce-plus-plus", figure("L10: with REINFORCE++", &of, "people")))
}

/// No stacking on a saturated task.
pub fn sums(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let of = rows(c, &LoptiPlan::compared_arms("L12"))?;
    let checks = vec![
        // If training does not improve accuracy, no method can gain, and the comparison is not informative.
        ClaimCheck::new("accuracy: GRPO minus before", gained(&of[GRPO]), Above(0.05)),
        ClaimCheck::new("accuracy: AR minus GRPO", difference(&of[AR], &of[GRPO], accuracy), Below(0.02)),
        ClaimCheck::new("accuracy: Lopti minus GRPO", difference(&of[LOPTI], &of[GRPO], accuracy), Below(0.02)),
        ClaimCheck::new("accuracy: AR + Lopti minus the better of the two", stacked(&of), Below(0.01)),
    ];
    let mut found = ClaimFinding::new(
        "L12",
        "On a task that saturates quickly gains are small and do not stack",
        "Table 1 (math, average of five benchmarks): 38.98, 40.01, 39.6, 39.83; the authors advise one method",
        format!(
            "Sums and differences of two digits with reward 0 or 1, answered at once, the model fine-tuned for a fifth of the updates; alpha = \
             {SMALL_ALPHA}, eta = {ETA}. The claim needs that practice helps at all (GRPO above its beginning by 0.05 or more), the gain of each \
             below 0.02 and both together at most as good as the better one (within 0.01)."
        ),
        checks,
    );
    found.tables.push(level_table("Mean over seeds", &of, "(grade)"));
    Ok(found.with_figure("l12-sums", figure("L12: sums", &of, "(grade)")))
}

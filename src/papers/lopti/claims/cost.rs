//! L11: cost of the methods.

use super::super::bench::{Bench, UpdateRule};
use super::super::context::LoptiContext;
use super::super::plan::UpdateMethod;
use super::super::scale::{ALPHA, ETA};
use crate::papers::finding::{ClaimFinding, number};
use crate::papers::stats::{Estimate, Unit, mean, median};
use crate::papers::verdict::ClaimCheck;
use crate::papers::verdict::Requirement::{Above, Below, Nothing};
use crate::plot::Bars;

/// Rounds with every method once, after an untimed one.
const ROUNDS: usize = 7;
const WAYS: [UpdateMethod; 3] = [UpdateMethod::Grpo, UpdateMethod::Ar(ALPHA), UpdateMethod::Lopti(ETA)];

/// For each method and round: seconds of its updates with advantages; then seconds of AR's advantages beyond GRPO's.
fn times(bench: &mut Bench) -> anyhow::Result<Unit> {
    let rollouts = bench.batch(0)?;
    let mut out: Unit = vec![Vec::new(); WAYS.len() + 1];
    for round in 0..=ROUNDS {
        let made = WAYS.iter().map(|way| bench.update(&rollouts, *way, UpdateRule::Adam)).collect::<anyhow::Result<Vec<_>>>()?;
        if round > 0 {
            out.iter_mut().zip(&made).for_each(|(all, m)| all.push(m.seconds + m.advantage_seconds));
            out[WAYS.len()].push(made[1].advantage_seconds - made[0].advantage_seconds);
        }
    }
    Ok(out)
}

/// Time of an update.
pub fn update_time(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let units = c.seeds.iter().map(|s| c.measured(*s, "update times", times)).collect::<anyhow::Result<Vec<Unit>>>()?;
    // Medians, to exclude interference by other processes.
    let medians: Vec<Vec<f64>> = units.iter().map(|u| u.iter().map(|arm| median(arm)).collect()).collect();
    let of = |value: &dyn Fn(&[f64]) -> f64| Estimate::of_values(&medians.iter().map(|m| value(m)).collect::<Vec<_>>());
    let checks = vec![
        ClaimCheck::new("AR: advantages beyond GRPO's, over an update", of(&|m| m[3] / m[0]), Below(0.01)),
        ClaimCheck::new("Lopti's update over GRPO's", of(&|m| m[2] / m[0]), Above(1.9)),
        ClaimCheck::new("Lopti's update over GRPO's, from above", of(&|m| m[2] / m[0]), Below(2.1)),
        ClaimCheck::new("AR's update over GRPO's", of(&|m| m[1] / m[0]), Nothing),
    ];
    let seconds = |way: usize| medians.iter().map(|m| m[way]).collect::<Vec<_>>();
    let rows = WAYS
        .iter()
        .enumerate()
        .map(|(i, way)| vec![way.name(), number(mean(&seconds(i))), number(mean(&seconds(i)) / mean(&seconds(0)))]);
    let names: Vec<String> = WAYS.iter().map(|w| w.name()).collect();
    let values: Vec<f64> = (0..WAYS.len()).map(|i| mean(&seconds(i)) / mean(&seconds(0))).collect();
    let bars = Bars::new("L11: time of an update", &names)
        .subtitle("advantages and update together, over GRPO's; medians of rounds that take turns")
        .y("times GRPO's")
        .bars("", &values);
    Ok(ClaimFinding::new(
        "L11",
        "AR is free, Lopti doubles the time of the update",
        "Table 6: update time about doubled with Lopti, generation unchanged, AR free",
        format!(
            "{} completions; advantages and one step of updates of each method, in turns, {ROUNDS} rounds on one device; medians. The claim needs \
             AR below 1 % and Lopti between 1.9 and 2.1 times GRPO's update.",
            c.scale.probe.1
        ),
        checks,
    )
    .table("Seconds", &["method", "seconds", "over GRPO"], rows.collect())
    .with_figure("l11-time", bars.svg()))
}

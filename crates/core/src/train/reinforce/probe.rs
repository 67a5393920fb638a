//! The change of each token by an update (arXiv 2505.12929, figures 1 c, e, f and 3): the change of its probability, by quartile of the
//! probability before, and the share of tokens that moved in the direction of their advantage.

use super::{Loss, Policy, PolicyModel, Rollout, UpdatePass, passes};
use crate::config::GrpoSettings;
use crate::event::{BinGradient, Number, ProbabilityChange, Probe};
use crate::stats::quantile_of_sorted;
use crate::train::bins::{QUARTILES, bin, short};
use anyhow::Result;
use std::sync::Arc;

/// The share of changes dropped at either end before taking extremes: the paper drops 1 % in total.
pub const OUTLIERS: f64 = 0.005;

/// Number of histogram cells for the changes of a bin.
const CELLS: usize = 40;

/// One token before and after an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenChange {
    /// log pi before, at the step's temperature.
    pub before: f64,
    /// log pi after.
    pub after: f64,
    /// Its advantage.
    pub advantage: f64,
}

impl TokenChange {
    /// Probability before.
    pub fn probability(&self) -> f64 {
        self.before.exp()
    }

    /// Probability after - probability before, without the cancellation of a difference of two numbers near 1.
    pub fn moved(&self) -> f64 {
        self.probability() * (self.after - self.before).exp_m1()
    }

    /// Whether it moved in the direction of its advantage; `None` without an advantage or without a change. Uses logarithms, which resolve
    /// changes near 1.
    pub fn moved_with_advantage(&self) -> Option<bool> {
        let by = (self.after - self.before) * self.advantage.signum();
        (self.advantage != 0.0 && by != 0.0 && by.is_finite()).then_some(by > 0.0)
    }
}

/// The tokens of completions, with their log-probabilities after an update: `after[i]` belongs to `rollouts[i]`.
pub fn changes(rollouts: &[Rollout], after: &[Vec<f32>]) -> Vec<TokenChange> {
    let of = |(rollout, after): (&Rollout, &Vec<f32>)| -> Vec<TokenChange> {
        let rows = rollout.old_logprobs.iter().zip(after).zip(&rollout.advantages);
        rows.map(|((b, a), adv)| TokenChange { before: f64::from(*b), after: f64::from(*a), advantage: f64::from(*adv) })
            .collect()
    };
    rollouts.iter().zip(after).flat_map(of).collect()
}

/// The numbers of a `Tokens` event.
pub fn probe(changes: &[TokenChange]) -> Probe {
    let side = |wanted: fn(f64) -> bool| moved(changes.iter().filter(|c| wanted(c.advantage)));
    Probe { all: side(|_| true), positive: side(|a| a > 0.0), negative: side(|a| a < 0.0) }
}

fn moved<'a>(changes: impl Iterator<Item = &'a TokenChange>) -> ProbabilityChange {
    let mut bins: [Vec<f64>; 4] = Default::default();
    let mut right = [[0u64; 2]; 4];
    for change in changes {
        let Some(b) = bin(&QUARTILES, change.probability()) else { continue };
        bins[b].push(change.moved());
        if let Some(is) = change.moved_with_advantage() {
            right[b][usize::from(is)] += 1;
        }
    }
    bins.iter_mut().for_each(|bin| bin.sort_by(f64::total_cmp));
    let at = |q: f64| -> Vec<Number> { bins.iter().map(|bin| short(quantile_of_sorted(bin, q))).collect() };
    ProbabilityChange {
        count: bins.iter().map(|b| b.len() as u64).collect(),
        least: at(OUTLIERS),
        lower: at(0.25),
        median: at(0.5),
        upper: at(0.75),
        most: at(1.0 - OUTLIERS),
        cells: bins.iter().map(|bin| cells(bin)).collect(),
        right: right.iter().map(|[no, yes]| short(*yes as f64 / (no + yes) as f64)).collect(),
    }
}

/// Histogram of ascending numbers between the outlier bounds; empty if these are equal or missing.
fn cells(sorted: &[f64]) -> Vec<u64> {
    let [low, high] = [OUTLIERS, 1.0 - OUTLIERS].map(|q| quantile_of_sorted(sorted, q));
    let width = (high - low) / CELLS as f64;
    if !(width > 0.0 && width.is_finite()) {
        return Vec::new();
    }
    let mut counts = vec![0; CELLS];
    for v in sorted.iter().filter(|v| (low..=high).contains(*v)) {
        counts[(((v - low) / width) as usize).min(CELLS - 1)] += 1;
    }
    counts
}

/// Gradient norm with respect to all parameters, for each quartile's tokens separately and for all together (figure 1 d): the loss of all
/// completions as one mini-batch, other tokens masked, over the common denominator. Only the gradients are changed.
///
/// # Errors
/// Completions that were not scored or have no advantages, or a device fault.
pub fn gradient_by_quartile(
    policy: &mut Policy,
    on: PolicyModel<'_>,
    rollouts: &[Rollout],
    grpo: &GrpoSettings,
    loss: &Loss,
) -> Result<BinGradient> {
    let mut norm = |mask_bins: Vec<u8>| -> Result<f64> {
        // One part with all tokens, whatever the passes of the step are.
        let grpo = GrpoSettings { mask_bins, lopti_eta: None, lopti_quantile: None, num_iterations: 1, ..grpo.clone() };
        match passes(rollouts, &grpo, 0, 0)?.first() {
            Some(pass) => Ok(policy.gradient(on, rollouts, 0..rollouts.len(), pass, loss)?.grad_norm),
            None => Ok(0.0),
        }
    };
    let all = norm(grpo.mask_bins.clone())?;
    let quartiles = (1..=QUARTILES.len() as u8).map(|bin| Ok(short(norm(vec![bin])?))).collect::<Result<_>>()?;
    Ok(BinGradient { all: short(all).0, quartiles })
}

/// The pass over the tokens selected by `wanted` from their probability at the time of the rollout.
pub fn pass_of(rollouts: &[Rollout], wanted: impl Fn(f64) -> bool) -> UpdatePass {
    let tokens = rollouts.iter().map(|r| r.old_probabilities().map(&wanted).collect()).collect();
    UpdatePass { name: "all", iteration: 0, second: false, tokens: Arc::new(tokens) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(p: f64, by: f64, advantage: f64) -> TokenChange {
        TokenChange { before: p.ln(), after: (p + by).ln(), advantage }
    }

    #[test]
    fn changes_are_reported_by_bin_and_sign() {
        let mut all = Vec::new();
        // 101 tokens a bin: changes 0, 0.0001, ..., 0.01 up for positive advantages, a third of the negative ones the wrong way.
        for (b, p) in [0.1, 0.3, 0.6, 0.8].iter().enumerate() {
            all.extend((0..=100).map(|i| change(*p, f64::from(i) * 1e-4 * (b + 1) as f64, 2.0)));
            all.extend((0..30).map(|i| change(*p, if i % 3 == 0 { 0.01 } else { -0.01 }, -1.0)));
        }
        let found = probe(&all);
        assert_eq!((found.positive.count, found.negative.count, found.all.count), (vec![101; 4], vec![30; 4], vec![131; 4]));
        for b in 0..4 {
            let unit = (b + 1) as f64 * 1e-4;
            let quantiles = [
                &found.positive.least,
                &found.positive.lower,
                &found.positive.median,
                &found.positive.upper,
                &found.positive.most,
            ];
            for (q, want) in quantiles.iter().zip([0.5, 25.0, 50.0, 75.0, 99.5]) {
                assert!((q[b].0 - want * unit).abs() < 1e-6, "{q:?}");
            }
            // The one that did not move counts as neither.
            assert_eq!(found.positive.right[b], Number(1.0));
            assert!((found.negative.right[b].0 - 2.0 / 3.0).abs() < 1e-5);
            // 0.5 to 99.5 units in 40 cells hold the 99 whole ones between, evenly.
            let cells = &found.positive.cells[b];
            assert_eq!((cells.len(), cells.iter().sum::<u64>()), (40, 99), "{cells:?}");
            assert!(cells.iter().all(|n| (2..=3).contains(n)), "{cells:?}");
            assert_eq!(found.negative.cells[b].iter().sum::<u64>(), 30);
            assert_eq!((found.negative.cells[b][0], found.negative.cells[b][39]), (20, 10));
        }
        assert!((found.all.right[0].0 - 120.0 / 130.0).abs() < 1e-5);
    }

    /// Near 1, probabilities in single precision are equal; their logarithms differ.
    #[test]
    fn changes_near_one_are_resolved() {
        let c = TokenChange { before: -1e-9, after: -2e-9, advantage: 1.0 };
        assert_eq!(c.moved_with_advantage(), Some(false));
        assert!((c.moved() + 1e-9).abs() < 1e-15, "{}", c.moved());
        assert_eq!(TokenChange { after: -1e-9, ..c }.moved_with_advantage(), None);
        assert_eq!(TokenChange { advantage: 0.0, ..c }.moved_with_advantage(), None);
        assert_eq!(TokenChange { after: f64::NAN, ..c }.moved_with_advantage(), None);
    }

    #[test]
    fn completions_keep_their_order() {
        let rollout = |l: f32, a: f32| Rollout { old_logprobs: vec![l; 2], advantages: vec![a; 2], ..Rollout::default() };
        let found = changes(&[rollout(-1.0, 1.0), rollout(-2.0, -1.0)], &[vec![-1.5, -1.0], vec![-2.5, -2.0]]);
        let want = [(-1.0, -1.5, 1.0), (-1.0, -1.0, 1.0), (-2.0, -2.5, -1.0), (-2.0, -2.0, -1.0)];
        assert_eq!(found, want.map(|(before, after, advantage)| TokenChange { before, after, advantage }));
    }
}

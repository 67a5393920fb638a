//! The tokens that are updated together: all of them, or Lopti's low-probability tokens and then the others (arXiv 2505.12929, Algorithm 1, as
//! in its released code: a pass covers the whole batch, mini-batch by mini-batch, before the next pass begins).

use super::Rollout;
use crate::config::{GrpoSettings, LoptiOrder, LoptiSplit};
use crate::rng::{Permutation, Rng};
use crate::train::bins::{QUARTILES, bin};
use anyhow::{Result, ensure};
use std::sync::Arc;

/// One pass over the completions of a step, with the tokens in its loss.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdatePass {
    /// `all`, or Lopti's `low` or `high`.
    pub name: &'static str,
    /// Index of its iteration (of `num_iterations`), from 0.
    pub iteration: usize,
    /// Lopti's second pass, which may have separate moments.
    pub second: bool,
    /// For each completion, whether each token belongs to the pass.
    pub tokens: Arc<Vec<Vec<bool>>>,
}

impl UpdatePass {
    /// Number of tokens in the pass.
    pub fn count(&self) -> usize {
        self.tokens.iter().flatten().filter(|t| **t).count()
    }
}

/// Whether a completion's tokens count: truncated ones may be masked, ungraded ones are.
pub fn counts(rollout: &Rollout, mask_truncated: bool) -> bool {
    !(rollout.ungraded || mask_truncated && rollout.truncated)
}

/// The passes of a step, in order; passes without tokens are left out. Probabilities are those of `old_logprobs`, which are not recomputed
/// between passes. A pure function: a resumed step has the same passes.
///
/// # Errors
/// A missing old log-probability where it is needed.
pub fn passes(rollouts: &[Rollout], grpo: &GrpoSettings, seed: u64, step: u64) -> Result<Vec<UpdatePass>> {
    let split = split(grpo);
    if split.is_some() || !grpo.mask_bins.is_empty() {
        for rollout in rollouts {
            let (known, wanted) = (rollout.old_logprobs.len(), rollout.completion.len());
            ensure!(known == wanted, "dividing tokens by probability needs {wanted} old log-probabilities, there are {known}");
        }
    }
    let places = candidates(rollouts, grpo);
    let groups = match split {
        None => vec![("all", false, places)],
        Some(by) => {
            let is_low = low(&places, by, grpo.lopti_split, Rng::new(seed, "lopti split"), step);
            let part =
                |want: bool| places.iter().zip(&is_low).filter(|(_, low)| **low == want).map(|(place, _)| *place).collect();
            match grpo.lopti_order {
                LoptiOrder::LowFirst => vec![("low", false, part(true)), ("high", true, part(false))],
                LoptiOrder::HighFirst => vec![("high", false, part(false)), ("low", true, part(true))],
            }
        }
    };
    let of = |(name, second, places): (&'static str, bool, Vec<TokenPosition>)| {
        let mut tokens: Vec<Vec<bool>> = rollouts.iter().map(|r| vec![false; r.completion.len()]).collect();
        places.iter().for_each(|place| tokens[place.rollout][place.token] = true);
        (!places.is_empty()).then(|| UpdatePass { name, iteration: 0, second, tokens: Arc::new(tokens) })
    };
    let once: Vec<UpdatePass> = groups.into_iter().filter_map(of).collect();
    Ok((0..grpo.num_iterations).flat_map(|iteration| once.iter().map(move |p| UpdatePass { iteration, ..p.clone() })).collect())
}

#[derive(Clone, Copy)]
struct TokenPosition {
    rollout: usize,
    token: usize,
    probability: f64,
}

/// The selection of low-probability tokens.
#[derive(Clone, Copy)]
enum TokenSelection {
    Threshold(f64),
    Share(f64),
}

fn split(grpo: &GrpoSettings) -> Option<TokenSelection> {
    grpo.lopti_quantile.map(TokenSelection::Share).or(grpo.lopti_eta().map(TokenSelection::Threshold))
}

/// All tokens that are updated.
fn candidates(rollouts: &[Rollout], grpo: &GrpoSettings) -> Vec<TokenPosition> {
    let mut places = Vec::new();
    for (rollout, of) in rollouts.iter().enumerate().filter(|(_, of)| counts(of, grpo.mask_truncated_completions)) {
        for token in 0..of.completion.len() {
            let probability = of.old_logprobs.get(token).map_or(f64::NAN, |l| f64::from(*l).exp());
            if grpo.mask_bins.is_empty() || bin(&QUARTILES, probability).is_some_and(|b| grpo.mask_bins.contains(&(b as u8 + 1)))
            {
                places.push(TokenPosition { rollout, token, probability });
            }
        }
    }
    places
}

/// Whether each token is low. The released code uses p < eta, the paper's text p <= eta. A random split selects the same number at random.
fn low(places: &[TokenPosition], by: TokenSelection, split: LoptiSplit, rng: Rng, step: u64) -> Vec<bool> {
    let n = places.len();
    let mut is_low = vec![false; n];
    match by {
        TokenSelection::Threshold(eta) => is_low.iter_mut().zip(places).for_each(|(low, place)| *low = place.probability < eta),
        TokenSelection::Share(share) => {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|a, b| places[*a].probability.total_cmp(&places[*b].probability));
            order[..((share * n as f64).round() as usize).min(n)].iter().for_each(|i| is_low[*i] = true);
        }
    }
    if split == LoptiSplit::Random && n > 0 {
        let size = is_low.iter().filter(|low| **low).count() as u64;
        let lot = Permutation::new(n as u64, rng, step);
        is_low.iter_mut().enumerate().for_each(|(i, low)| *low = lot.at(i as u64) < size);
    }
    is_low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollouts(of: &[&[f64]]) -> Vec<Rollout> {
        of.iter()
            .map(|p| Rollout {
                prompt: vec![0],
                completion: vec![1; p.len()],
                old_logprobs: p.iter().map(|p| p.ln() as f32).collect(),
                ..Rollout::default()
            })
            .collect()
    }

    const TWO: &[&[f64]] = &[&[0.1, 0.6, 0.4], &[0.9, 0.3]];

    fn names(passes: &[UpdatePass]) -> Vec<&'static str> {
        passes.iter().map(|p| p.name).collect()
    }

    fn tokens(pass: &UpdatePass) -> Vec<bool> {
        pass.tokens.concat()
    }

    #[test]
    fn without_lopti_each_iteration_has_all_tokens() {
        let grpo = GrpoSettings { num_iterations: 3, ..GrpoSettings::default() };
        let got = passes(&rollouts(TWO), &grpo, 1, 1).unwrap();
        assert_eq!(names(&got), ["all"; 3]);
        assert_eq!(got.iter().map(|p| p.iteration).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(got.iter().all(|p| tokens(p) == [true; 5] && !p.second));
        let zero = GrpoSettings { lopti_eta: Some(0.0), ..GrpoSettings::default() };
        assert_eq!(names(&passes(&rollouts(TWO), &zero, 1, 1).unwrap()), ["all"], "0 is off");
    }

    #[test]
    fn lopti_takes_low_tokens_first() {
        let mut grpo = GrpoSettings { lopti_eta: Some(0.5), ..GrpoSettings::default() };
        let got = passes(&rollouts(TWO), &grpo, 1, 1).unwrap();
        assert_eq!(names(&got), ["low", "high"]);
        assert_eq!(tokens(&got[0]), [true, false, true, false, true]);
        assert_eq!(tokens(&got[1]), [false, true, false, true, false]);
        assert!(!got[0].second && got[1].second);
        grpo.lopti_order = LoptiOrder::HighFirst;
        grpo.num_iterations = 2;
        let got = passes(&rollouts(TWO), &grpo, 1, 1).unwrap();
        assert_eq!(names(&got), ["high", "low", "high", "low"]);
        assert!(!got[0].second && got[1].second);
    }

    #[test]
    fn an_empty_part_is_left_out() {
        let grpo = GrpoSettings { lopti_eta: Some(0.05), ..GrpoSettings::default() };
        let got = passes(&rollouts(TWO), &grpo, 1, 1).unwrap();
        assert_eq!(names(&got), ["high"]);
        assert_eq!(tokens(&got[0]), [true; 5]);
    }

    #[test]
    fn a_share_selects_the_least_probable_tokens() {
        let grpo = GrpoSettings { lopti_quantile: Some(0.4), ..GrpoSettings::default() };
        let got = passes(&rollouts(TWO), &grpo, 1, 1).unwrap();
        assert_eq!(tokens(&got[0]), [true, false, false, false, true]);
    }

    #[test]
    fn random_split_has_parts_of_the_same_sizes() {
        let many: Vec<f64> = (1..100).map(|i| f64::from(i) / 100.0).collect();
        let rollouts = rollouts(&[&many]);
        let grpo = GrpoSettings { lopti_eta: Some(0.305), lopti_split: LoptiSplit::Random, ..GrpoSettings::default() };
        let got = passes(&rollouts, &grpo, 1, 1).unwrap();
        assert_eq!((got[0].count(), got[1].count()), (30, 69));
        assert!(tokens(&got[0])[30..].iter().any(|low| *low), "not by probability");
        assert_eq!(got, passes(&rollouts, &grpo, 1, 1).unwrap());
        assert_ne!(got, passes(&rollouts, &grpo, 1, 2).unwrap());
        assert_ne!(got, passes(&rollouts, &grpo, 2, 1).unwrap());
        assert!(tokens(&got[0]).iter().zip(tokens(&got[1])).all(|(a, b)| *a != b));
    }

    #[test]
    fn bins_exclude_truncated_completions() {
        let mut rollouts = rollouts(TWO);
        let grpo = GrpoSettings { mask_bins: vec![1, 4], ..GrpoSettings::default() };
        assert_eq!(tokens(&passes(&rollouts, &grpo, 1, 1).unwrap()[0]), [true, false, false, true, false]);
        rollouts[0].truncated = true;
        let grpo = GrpoSettings { mask_truncated_completions: true, ..GrpoSettings::default() };
        assert_eq!(tokens(&passes(&rollouts, &grpo, 1, 1).unwrap()[0]), [false, false, false, true, true]);
        let open = GrpoSettings::default();
        rollouts[1].ungraded = true;
        assert_eq!(tokens(&passes(&rollouts, &open, 1, 1).unwrap()[0]), [true, true, true, false, false]);
        rollouts[1].truncated = true;
        assert!(passes(&rollouts, &grpo, 1, 1).unwrap().is_empty());
    }
}

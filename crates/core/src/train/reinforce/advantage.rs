//! Rewards to advantages: GRPO's group baseline, REINFORCE++'s whitening, and Advantage Reweighting (arXiv 2505.12929, Eq. 4).
//!
//! Computed on the host in f64; the device gets one f32 per token.

use super::{Rollout, tokens};
use crate::config::{Algorithm, GrpoSettings, ScaleRewards};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// Epsilon added to the standard deviation of rewards (verl, `compute_grpo_outcome_advantage`).
const EPSILON: f64 = 1e-6;
/// Epsilon added to a variance over tokens (verl, `masked_whiten`).
const WHITEN_EPSILON: f64 = 1e-8;

/// Fill the advantage of each token of a step's completions from their rewards, groups and (with reweighting) old log-probabilities. An
/// ungraded completion gets 0 and does not affect the others.
///
/// # Errors
/// Reweighting without old log-probabilities.
pub fn fill(rollouts: &mut [Rollout], grpo: &GrpoSettings) -> Result<()> {
    let graded: Vec<&Rollout> = rollouts.iter().filter(|r| !r.ungraded).collect();
    let mut of_graded = match grpo.algorithm {
        Algorithm::Grpo => group_normalised(&graded, grpo.scale_rewards),
        Algorithm::ReinforcePlusPlus => whitened(&graded),
    }
    .into_iter();
    for rollout in rollouts.iter_mut() {
        let advantage = if rollout.ungraded { 0.0 } else { of_graded.next().unwrap_or(0.0) };
        rollout.advantages = vec![advantage as f32; rollout.completion.len()];
        if grpo.reweight_alpha != 0.0 {
            reweight(rollout, advantage, grpo.reweight_alpha)?;
        }
    }
    Ok(())
}

/// Advantage Reweighting: [`tokens::reweight`] with pi_old at the temperature of the rollout, once per step.
fn reweight(rollout: &mut Rollout, advantage: f64, alpha: f64) -> Result<()> {
    let (known, wanted) = (rollout.old_logprobs.len(), rollout.completion.len());
    ensure!(known == wanted, "advantage reweighting needs {wanted} old log-probabilities, there are {known}");
    rollout.advantages = rollout.old_probabilities().map(|p| (tokens::reweight(alpha, p) * advantage) as f32).collect();
    Ok(())
}

/// The advantage of each completion: (R - mean of its group) / (standard deviation + 1e-6), with n - 1, of the group or of all rewards, or
/// 1. Equal rewards give exactly 0. As in verl, a group of one has mean 0 and deviation 1.
fn group_normalised(rollouts: &[&Rollout], scale: ScaleRewards) -> Vec<f64> {
    let mut groups: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    rollouts.iter().for_each(|r| groups.entry(r.group).or_default().push(r.reward));
    let all: Vec<f64> = rollouts.iter().map(|r| r.reward).collect();
    let batch = deviation(&all).unwrap_or(1.0);
    let of_group: BTreeMap<u32, (f64, f64)> = groups
        .into_iter()
        .map(|(group, rewards)| {
            let divisor = match scale {
                ScaleRewards::Group => deviation(&rewards).unwrap_or(1.0) + EPSILON,
                ScaleRewards::Batch => batch + EPSILON,
                ScaleRewards::None => 1.0,
            };
            (group, (if rewards.len() == 1 { 0.0 } else { mean(&rewards) }, divisor))
        })
        .collect();
    rollouts
        .iter()
        .map(|r| {
            let (mean, divisor) = of_group[&r.group];
            (r.reward - mean) / divisor
        })
        .collect()
}

/// The advantage of each completion's tokens: its reward at every token (a return without discount), whitened over all tokens of the step:
/// (R - mean) / sqrt(variance with n - 1, + 1e-8).
fn whitened(rollouts: &[&Rollout]) -> Vec<f64> {
    let rewards: Vec<f64> = rollouts.iter().map(|r| r.reward).collect();
    if rewards.windows(2).all(|pair| pair[0] == pair[1]) {
        return vec![0.0; rewards.len()];
    }
    let tokens = |r: &&Rollout| r.completion.len() as f64;
    let n: f64 = rollouts.iter().map(tokens).sum();
    let mean = rollouts.iter().map(|r| tokens(r) * r.reward).sum::<f64>() / n;
    let squares = rollouts.iter().map(|r| tokens(r) * (r.reward - mean).powi(2)).sum::<f64>();
    let root = (squares / (n - 1.0).max(1.0) + WHITEN_EPSILON).sqrt();
    rewards.iter().map(|reward| (reward - mean) / root).collect()
}

/// The mean; exact for equal numbers.
fn mean(of: &[f64]) -> f64 {
    match of {
        [first, rest @ ..] if rest.iter().all(|x| x == first) => *first,
        _ => of.iter().sum::<f64>() / of.len() as f64,
    }
}

/// Standard deviation with n - 1; `None` for one number.
fn deviation(of: &[f64]) -> Option<f64> {
    let mean = mean(of);
    (of.len() > 1).then(|| (of.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (of.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (group, reward, tokens)
    fn rollouts(of: &[(u32, f64, usize)]) -> Vec<Rollout> {
        of.iter()
            .map(|&(group, reward, n)| Rollout {
                group,
                reward,
                prompt: vec![1],
                completion: vec![2; n],
                old_logprobs: (0..n).map(|i| -0.3 * i as f32).collect(),
                ..Rollout::default()
            })
            .collect()
    }

    fn filled(of: &[(u32, f64, usize)], grpo: &GrpoSettings) -> Vec<f32> {
        let mut rollouts = rollouts(of);
        fill(&mut rollouts, grpo).unwrap();
        rollouts.iter().flat_map(|r| r.advantages.clone()).collect()
    }

    fn one_hot() -> Vec<(u32, f64, usize)> {
        (0..8).map(|i| (7, f64::from(u8::from(i == 3)), 1)).collect()
    }

    /// Fig. 1(b) of arXiv 2505.12929: with groups of eight the largest advantage is 7 / sqrt 8.
    #[test]
    fn one_correct_completion_of_eight() {
        let advantages = filled(&one_hot(), &GrpoSettings::default());
        assert!((advantages[3] - 2.475).abs() < 5e-4, "{}", advantages[3]);
        assert!((f64::from(advantages[0]) + 1.0 / 8f64.sqrt()).abs() < 1e-5);
    }

    #[test]
    fn equal_rewards_have_zero_gradient() {
        for algorithm in [Algorithm::Grpo, Algorithm::ReinforcePlusPlus] {
            for scale_rewards in [ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None] {
                let grpo = GrpoSettings { algorithm, scale_rewards, ..GrpoSettings::default() };
                // 0.1 three times has a sum that is not 0.3.
                assert_eq!(filled(&[(0, 0.1, 2), (0, 0.1, 1), (0, 0.1, 4)], &grpo), [0.0; 7], "{grpo:?}");
            }
        }
    }

    #[test]
    fn ungraded_completions_have_no_effect() {
        let of = [(0, 1.0, 2), (0, 0.0, 1), (0, 9.0, 3), (1, 4.0, 2), (1, 2.0, 1)];
        for algorithm in [Algorithm::Grpo, Algorithm::ReinforcePlusPlus] {
            for scale_rewards in [ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None] {
                let grpo = GrpoSettings { algorithm, scale_rewards, reweight_alpha: 0.2, ..GrpoSettings::default() };
                let mut masked = rollouts(&of);
                masked[2].ungraded = true;
                fill(&mut masked, &grpo).unwrap();
                assert_eq!(masked[2].advantages, [0.0; 3]);
                let mut without = rollouts(&[of[0], of[1], of[3], of[4]]);
                fill(&mut without, &grpo).unwrap();
                masked.remove(2);
                assert_eq!(masked, without, "{grpo:?}");
            }
        }
        let mut none = rollouts(&of);
        none.iter_mut().for_each(|r| r.ungraded = true);
        fill(&mut none, &GrpoSettings::default()).unwrap();
        assert!(none.iter().all(|r| r.advantages.iter().all(|a| *a == 0.0)));
    }

    #[test]
    fn a_group_of_one_keeps_its_reward() {
        let of = [(0, 3.0, 1), (1, -1.0, 1)];
        let got = filled(&of, &GrpoSettings::default());
        assert!((got[0] - 3.0).abs() < 1e-5 && (got[1] + 1.0).abs() < 1e-5, "{got:?}");
    }

    #[test]
    fn rewards_are_scaled_by_group_batch_or_not() {
        let of = [(0, 1.0, 1), (0, 0.0, 1), (1, 3.0, 1), (1, -1.0, 1)];
        let by = |scale_rewards| filled(&of, &GrpoSettings { scale_rewards, ..GrpoSettings::default() });
        let close = |got: Vec<f32>, want: [f64; 4]| {
            assert!(
                got.iter().zip(want).all(|(g, w)| (f64::from(*g) - w).abs() < 2e-6 * (1.0 + w.abs())),
                "{got:?}, not {want:?}"
            );
        };
        let half = 0.5f64.sqrt();
        close(by(ScaleRewards::Group), [half, -half, half, -half]);
        close(by(ScaleRewards::None), [0.5, -0.5, 2.0, -2.0]);
        // mean 0.75, squares 0.0625 + 0.5625 + 5.0625 + 3.0625
        let batch = (8.75f64 / 3.0).sqrt();
        close(by(ScaleRewards::Batch), [0.5 / batch, -0.5 / batch, 2.0 / batch, -2.0 / batch]);
    }

    /// Whitened over tokens: a long completion weighs more in mean and variance.
    #[test]
    fn reinforce_plus_plus_whitens_over_tokens() {
        let grpo = GrpoSettings { algorithm: Algorithm::ReinforcePlusPlus, ..GrpoSettings::default() };
        let got: Vec<f64> = filled(&[(0, 1.0, 3), (0, -1.0, 1), (1, 0.5, 2)], &grpo).into_iter().map(f64::from).collect();
        let n = got.len() as f64;
        let mean = got.iter().sum::<f64>() / n;
        let variance = got.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5, "mean {mean}, variance {variance}");
        assert!(got[0] == got[2] && got[3] < got[4] && got[4] < got[0]);
    }

    #[test]
    fn reweighting_scales_each_token() {
        let of = [(0, 1.0, 3), (0, 0.0, 2)];
        let plain = filled(&of, &GrpoSettings::default());
        let grpo = GrpoSettings { reweight_alpha: 0.3, ..GrpoSettings::default() };
        let got = filled(&of, &grpo);
        for (i, (got, plain)) in got.iter().zip(&plain).enumerate() {
            let p = f64::exp(f64::from(-0.3f32 * [0.0f32, 1.0, 2.0, 0.0, 1.0][i]));
            let want = f64::from(*plain) * (0.3 * p + 0.7);
            assert!((f64::from(*got) - want).abs() < 1e-6, "token {i}: {got}, not {want}");
        }
        assert_eq!(filled(&of, &GrpoSettings { reweight_alpha: 0.0, ..GrpoSettings::default() }), plain, "0 is off to the bit");
        let mut unknown = rollouts(&of);
        unknown[1].old_logprobs.clear();
        assert!(fill(&mut unknown, &grpo).is_err());
    }
}

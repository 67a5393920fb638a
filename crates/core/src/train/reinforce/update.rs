//! One update of the policy on a mini-batch: token weights, gradient, optimizer, statistics.

use super::groups::counts;
use super::pack::MicroBatch;
use super::policy::{Policy, PolicyModel};
use super::{Rollout, UpdatePass};
use crate::config::{GrpoSettings, LossType, RolloutSettings};
use crate::device::Device;
use crate::event::number;
use crate::ops::adamw::UpdateParams;
use crate::ops::objective::{PolicyTerms, stats};
use crate::stats::mean;
use crate::world::RankCommand;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The loss of an update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Clip ranges, KL and entropy.
    pub terms: PolicyTerms,
    /// Temperature of the rollouts; divides the logits.
    pub temperature: f64,
    /// Aggregation of token losses.
    pub loss_type: LossType,
    /// The divisor of [`LossType::DrGrpo`], in tokens.
    pub max_completion_length: usize,
    /// Whether truncated completions have weight 0.
    pub mask_truncated_completions: bool,
    /// Skip completions that cannot contribute to the gradient, such as those of groups with equal rewards: entropy, `approx_kl` and
    /// `ratio_deviation` are then means over the others. Off by default.
    pub skip_idle: bool,
}

impl Loss {
    /// From the settings of a run.
    pub fn of(rollout: &RolloutSettings, grpo: &GrpoSettings) -> Self {
        Self {
            terms: PolicyTerms {
                epsilon: grpo.epsilon,
                epsilon_high: grpo.epsilon_high(),
                delta: grpo.delta,
                beta: grpo.beta,
                entropy_coef: grpo.entropy_coef,
            },
            temperature: rollout.temperature,
            loss_type: grpo.loss_type,
            max_completion_length: rollout.max_completion_length,
            mask_truncated_completions: grpo.mask_truncated_completions,
            skip_idle: false,
        }
    }

    /// Whether a completion cannot contribute to the gradient of a pass with these tokens.
    fn is_idle(&self, rollout: &Rollout, tokens: &[bool]) -> bool {
        let t = &self.terms;
        let by_advantage = t.beta == 0.0 && t.entropy_coef == 0.0;
        tokens.iter().zip(&rollout.advantages).all(|(member, a)| !member || (by_advantage && *a == 0.0))
    }

    /// The weight of each token of each completion of a mini-batch, the same in every pass: the denominator counts all response tokens, so
    /// that the losses of Lopti's two passes add up to the total. Masked completions have weight 0 and do not count as tokens; they do
    /// count as completions (as in TRL).
    pub fn weights(&self, rollouts: &[Rollout]) -> Vec<f32> {
        let in_loss = |r: &Rollout| counts(r, self.mask_truncated_completions);
        let tokens: usize = rollouts.iter().filter(|r| in_loss(r)).map(|r| r.completion.len()).sum();
        let n = rollouts.len() as f64;
        let weight = |r: &Rollout| match self.loss_type {
            LossType::TokenMean => 1.0 / tokens.max(1) as f64,
            LossType::SeqMeanTokenSum => 1.0 / n,
            LossType::SeqMeanTokenMean => 1.0 / (n * r.completion.len() as f64),
            LossType::DrGrpo => 1.0 / (n * self.max_completion_length as f64),
        };
        rollouts.iter().map(|r| if in_loss(r) { weight(r) as f32 } else { 0.0 }).collect()
    }
}

/// Statistics of one update. Means and shares are over the tokens of the pass in the mini-batch, before the update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateStats {
    /// The loss that was differentiated.
    #[serde(with = "number")]
    pub loss: f64,
    /// Its clipped policy term.
    #[serde(with = "number")]
    pub policy_loss: f64,
    /// Mean k3 estimate of the KL divergence from the reference model; 0 without one.
    #[serde(with = "number")]
    pub kl: f64,
    /// Mean entropy, in nats.
    #[serde(with = "number")]
    pub entropy: f64,
    /// Mean of log pi_old - log pi: an estimate of the KL divergence from the policy of the rollouts (verl's `ppo_kl`).
    #[serde(with = "number")]
    pub approx_kl: f64,
    /// Mean of |ratio - 1|.
    #[serde(with = "number")]
    pub ratio_deviation: f64,
    /// Share of tokens whose gradient is zero because of the lower clip bound.
    #[serde(with = "number")]
    pub clip_low: f64,
    /// Share of tokens whose gradient is zero because of the upper clip bound.
    #[serde(with = "number")]
    pub clip_high: f64,
    /// Share of tokens whose gradient is zero because of the dual clip.
    #[serde(with = "number")]
    pub clip_dual: f64,
    /// Tokens of the pass in the mini-batch.
    pub tokens: u64,
    /// Norm of the gradient before clipping.
    #[serde(with = "number")]
    pub grad_norm: f64,
    /// Factor applied by gradient clipping.
    #[serde(with = "number")]
    pub clip_scale: f64,
    /// Whether the gradient was not finite; nothing was changed then.
    pub skipped: bool,
}

impl UpdateStats {
    /// Aggregate of several updates: sums of tokens, means over tokens, means of losses and norms (NaN of none).
    pub fn aggregate(updates: &[Self]) -> Self {
        let tokens: u64 = updates.iter().map(|u| u.tokens).sum();
        let mean = |of: fn(&Self) -> f64| mean(&updates.iter().map(of).collect::<Vec<_>>());
        let by_tokens = |of: fn(&Self) -> f64| match updates {
            [one] => of(one),
            _ => updates.iter().map(|u| of(u) * u.tokens as f64).sum::<f64>() / tokens.max(1) as f64,
        };
        Self {
            loss: mean(|u| u.loss),
            policy_loss: mean(|u| u.policy_loss),
            kl: by_tokens(|u| u.kl),
            entropy: by_tokens(|u| u.entropy),
            approx_kl: by_tokens(|u| u.approx_kl),
            ratio_deviation: by_tokens(|u| u.ratio_deviation),
            clip_low: by_tokens(|u| u.clip_low),
            clip_high: by_tokens(|u| u.clip_high),
            clip_dual: by_tokens(|u| u.clip_dual),
            tokens,
            grad_norm: mean(|u| u.grad_norm),
            clip_scale: mean(|u| u.clip_scale),
            skipped: updates.iter().any(|u| u.skipped),
        }
    }

    /// `tokens` are those of the pass, computed or idle.
    fn of(numbers: &[f32], terms: &PolicyTerms, tokens: u64) -> Self {
        let at = |slot: usize| f64::from(numbers[slot]);
        let (rows, all) = (at(stats::ROWS).max(1.0), tokens.max(1) as f64);
        let finite = at(stats::NOT_FINITE) == 0.0 && at(stats::GRAD_NORM).is_finite() && at(stats::LOSS).is_finite();
        Self {
            loss: at(stats::LOSS),
            policy_loss: at(stats::POLICY_LOSS),
            kl: if terms.beta > 0.0 { at(stats::KL) / rows } else { 0.0 },
            entropy: at(stats::ENTROPY) / rows,
            approx_kl: at(stats::OLD_KL) / rows,
            ratio_deviation: at(stats::RATIO) / rows,
            clip_low: at(stats::CLIP_LOW) / all,
            clip_high: at(stats::CLIP_HIGH) / all,
            clip_dual: at(stats::CLIP_DUAL) / all,
            tokens,
            // The sum of squares of a gradient with a NaN is undefined.
            grad_norm: if finite { at(stats::GRAD_NORM) } else { f64::NAN },
            clip_scale: at(stats::CLIP_SCALE),
            skipped: !finite,
        }
    }
}

impl Policy {
    /// Command: accumulate gradients, and update.
    pub(super) const UPDATE: &str = "policy update";

    /// One update on the completions `range` of a step, on the tokens of `pass`. `hyper.step` is ignored: the policy has its own count
    /// ([`Policy::optimizer_steps`]). A mini-batch without a token of the pass is still an update, of moments and weight decay.
    ///
    /// # Errors
    /// Completions that were not scored or have no advantages, one that does not fit, or a device fault.
    pub fn update(
        &mut self,
        on: PolicyModel<'_>,
        rollouts: &[Rollout],
        range: Range<usize>,
        pass: &UpdatePass,
        loss: &Loss,
        hyper: &UpdateParams,
    ) -> Result<UpdateStats> {
        let second = pass.second && on.optimizer.second.is_some();
        let hyper = UpdateParams { step: self.optimizer_steps[usize::from(second)] + 1, ..*hyper };
        let then = UpdateStep { hyper, second };
        let tokens = self.accumulate(on, &rollouts[range.clone()], &pass.tokens[range], loss, Some(then))?;
        self.optimizer_steps[usize::from(second)] += 1;
        then.update(on)?;
        self.read(on.device, loss, tokens)
    }

    /// Compute the gradient of [`Policy::update`] into `on.optimizer.grads`, before clipping; only that and the statistics are changed.
    ///
    /// # Errors
    /// As [`Policy::update`].
    pub fn gradient(
        &mut self,
        on: PolicyModel<'_>,
        rollouts: &[Rollout],
        range: Range<usize>,
        pass: &UpdatePass,
        loss: &Loss,
    ) -> Result<UpdateStats> {
        let tokens = self.accumulate(on, &rollouts[range.clone()], &pass.tokens[range], loss, None)?;
        on.optimizer.norm(on.device, 0.0)?;
        self.read(on.device, loss, tokens)
    }

    fn read(&self, device: &Device, loss: &Loss, tokens: u64) -> Result<UpdateStats> {
        Ok(UpdateStats::of(&device.read::<f32>(self.stats())?, &loss.terms, tokens))
    }

    /// Accumulate the gradients; returns the number of tokens of the pass. `then` is the update that other ranks apply.
    fn accumulate(
        &mut self,
        on: PolicyModel<'_>,
        rollouts: &[Rollout],
        tokens: &[Vec<bool>],
        loss: &Loss,
        then: Option<UpdateStep>,
    ) -> Result<u64> {
        self.check(rollouts)?;
        for r in rollouts {
            let n = r.completion.len();
            ensure!(r.old_logprobs.len() == n && r.advantages.len() == n, "an update needs scored completions with advantages");
            ensure!(
                loss.terms.beta == 0.0 || r.ref_logprobs.len() == n,
                "the KL term needs log-probabilities by the reference model"
            );
        }
        let world = self.world.clone();
        let task = world.broadcast_command(Self::UPDATE, &(rollouts, tokens, loss, then))?;
        self.accumulate_share(on, rollouts, tokens, loss)?;
        task.done();
        Ok(tokens.iter().flatten().filter(|member| **member).count() as u64)
    }

    /// On the other ranks: execute [`Policy::UPDATE`].
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub(super) fn run_update_command(&mut self, on: PolicyModel<'_>, command: &RankCommand) -> Result<()> {
        let (rollouts, tokens, loss, then): (Vec<Rollout>, Vec<Vec<bool>>, Loss, Option<UpdateStep>) = command.read()?;
        self.accumulate_share(on, &rollouts, &tokens, &loss)?;
        then.map_or(Ok(()), |then| then.update(on))
    }

    /// Accumulate this rank's share of a mini-batch, and sum over ranks.
    fn accumulate_share(&mut self, on: PolicyModel<'_>, rollouts: &[Rollout], tokens: &[Vec<bool>], loss: &Loss) -> Result<()> {
        on.optimizer.clear(on.device)?;
        let weights = loss.weights(rollouts);
        self.write_terms(on.device, loss);
        for micro in self.pack(rollouts, |i| !(loss.skip_idle && loss.is_idle(&rollouts[i], &tokens[i]))) {
            let samples = rows(&micro, rollouts, tokens, &weights);
            let (pass, policy) = self.gradient_pass(on, micro.batch.batch_size)?;
            on.device.write(&policy.samples, &samples);
            pass.run_by(on.device, &micro.batch)?;
        }
        on.optimizer.sum_over_ranks(on.device)
    }
}

/// The optimizer update after the all-reduce.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct UpdateStep {
    hyper: UpdateParams,
    /// Use the second pair of moments.
    second: bool,
}

impl UpdateStep {
    fn update(&self, on: PolicyModel<'_>) -> Result<()> {
        match self.second {
            true => on.optimizer.update_second(on.device, &self.hyper),
            false => on.optimizer.update(on.device, &self.hyper),
        }
    }
}

/// The four numbers of each row of a micro-batch: [`crate::ops::objective::PolicyRows::samples`].
fn rows(micro: &MicroBatch, rollouts: &[Rollout], tokens: &[Vec<bool>], weights: &[f32]) -> Vec<[f32; 4]> {
    let mut samples = vec![[0.0; 4]; micro.batch.tokens.len()];
    for place in &micro.places {
        let r = &rollouts[place.rollout];
        for i in (0..r.completion.len()).filter(|i| tokens[place.rollout][*i]) {
            let old = r.old_logprobs[i];
            // Without a reference model the policy itself is used: zero distance, no gradient.
            let reference = r.ref_logprobs.get(i).copied().unwrap_or(old);
            samples[place.at + i] = [old, reference, r.advantages[i], weights[place.rollout]];
        }
    }
    samples
}

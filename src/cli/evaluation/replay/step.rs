//! One GRPO step on recorded completions.

use crate::config::Settings;
use crate::device::Device;
use crate::event::BinGradient;
use crate::model::Model;
use crate::ops::adamw::UpdateParams;
use crate::train::reinforce::{Loss, Policy, PolicyModel, Rollout, UpdatePass, UpdateStats, advantage, passes, probe};
use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

/// The updates of one pass.
#[derive(Serialize)]
pub struct PassReport {
    /// `all`, `low` or `high`; with a number appended if it occurs more than once.
    pub pass: String,
    /// All updates together: [`UpdateStats::aggregate`].
    #[serde(flatten)]
    pub together: UpdateStats,
    /// One per mini-batch.
    pub updates: Vec<UpdateStats>,
}

/// Results of a step.
pub struct ReplayedStep {
    /// The completions with all values computed before the step.
    pub rollouts: Vec<Rollout>,
    /// log pi of each token before the step under the model, independent of `old_logprobs`.
    pub before: Vec<Vec<f32>>,
    /// log pi of each token after the step.
    pub after: Vec<Vec<f32>>,
    /// Gradients by quartile before the step.
    pub by_quartile: BinGradient,
    /// In order.
    pub passes: Vec<PassReport>,
    /// The gradients of each pass before clipping, summed over mini-batches, in order of declaration; if requested.
    pub gradients: Vec<Vec<f32>>,
}

/// Score rows without log-probabilities, make the step, score again.
///
/// # Errors
/// Settings that leave nothing to update, or a device fault.
pub fn make(
    device: &Device,
    model: &Model,
    reference: Option<&Model>,
    settings: &Settings,
    mut rollouts: Vec<Rollout>,
    keep_gradients: bool,
) -> Result<ReplayedStep> {
    let (Some(rollout), Some(grpo)) = (&settings.rollout, &settings.grpo) else { unreachable!("settings of this stage") };
    let loss = Loss::of(rollout, grpo);
    let mut policy = Policy::new(device, model, settings)?;
    let before = fill_scores(device, &mut policy, model, &mut rollouts, loss.temperature)?;
    if grpo.beta > 0.0 {
        fill_reference(device, reference, settings, &mut rollouts, &before, loss.temperature)?;
    }
    if rollouts.iter().all(|r| r.advantages.is_empty()) {
        advantage::fill(&mut rollouts, grpo)?;
    }
    let optimizer = policy.optimizer(device, model, settings)?;
    let on = PolicyModel { device, model, optimizer: &optimizer };
    let all = passes(&rollouts, grpo, settings.train.seed, 1)?;
    ensure!(!all.is_empty(), "no token is left to update: --mask-bins or --mask-truncated-completions leave none");
    let by_quartile = probe::gradient_by_quartile(&mut policy, on, &rollouts, grpo, &loss)?;
    let (mut reports, mut gradients) = (Vec::new(), Vec::new());
    for pass in &all {
        let (updates, gradient) = run(on, &mut policy, &rollouts, pass, &loss, settings, keep_gradients)?;
        reports.push(PassReport { pass: label(pass, grpo.num_iterations), together: UpdateStats::aggregate(&updates), updates });
        gradients.extend(gradient);
    }
    let after = policy.logprobs(device, model, &rollouts, loss.temperature)?;
    Ok(ReplayedStep { rollouts, before, after, by_quartile, passes: reports, gradients })
}

/// All mini-batches of a pass.
fn run(
    on: PolicyModel<'_>,
    policy: &mut Policy,
    rollouts: &[Rollout],
    pass: &UpdatePass,
    loss: &Loss,
    settings: &Settings,
    keep_gradients: bool,
) -> Result<(Vec<UpdateStats>, Option<Vec<f32>>)> {
    let (mut updates, mut sum): (_, Option<Vec<f32>>) = (Vec::new(), None);
    for range in policy.mini_batches(rollouts.len()) {
        updates.push(policy.update(on, rollouts, range, pass, loss, &UpdateParams::from(&settings.train))?);
        if keep_gradients {
            let mut gradient = Vec::new();
            for (_, tensor) in on.model.parameters.tensors(&on.optimizer.grads) {
                gradient.extend(on.device.read::<f32>(&tensor)?);
            }
            match &mut sum {
                Some(sum) => sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g),
                None => sum = Some(gradient),
            }
        }
    }
    Ok((updates, sum))
}

fn label(pass: &UpdatePass, iterations: usize) -> String {
    if iterations > 1 { format!("{}.{}", pass.name, pass.iteration + 1) } else { pass.name.to_owned() }
}

/// Log-probabilities under the model; returned, and filled in for rows without their own.
fn fill_scores(
    device: &Device,
    policy: &mut Policy,
    model: &Model,
    rollouts: &mut [Rollout],
    temperature: f64,
) -> Result<Vec<Vec<f32>>> {
    let given: Vec<Vec<f32>> = rollouts.iter_mut().map(|r| std::mem::take(&mut r.old_logprobs)).collect();
    policy.score(device, model, rollouts, temperature)?;
    let mut before = Vec::new();
    for (rollout, given) in rollouts.iter_mut().zip(given) {
        let computed = rollout.old_logprobs.clone();
        ensure!(computed.iter().all(|l| l.is_finite()), "a log-probability is not finite: the model is broken");
        if !given.is_empty() {
            rollout.old_logprobs = given;
        }
        before.push(computed);
    }
    Ok(before)
}

/// The same with the reference model; without one, the model before the step.
fn fill_reference(
    device: &Device,
    reference: Option<&Model>,
    settings: &Settings,
    rollouts: &mut [Rollout],
    before: &[Vec<f32>],
    temperature: f64,
) -> Result<()> {
    let computed: Vec<Vec<f32>> = match reference {
        None => before.to_vec(),
        Some(model) => Policy::new(device, model, settings)
            .and_then(|mut policy| policy.logprobs(device, model, rollouts, temperature))
            .context("--ref-model")?,
    };
    let missing = rollouts.iter_mut().zip(computed).filter(|(r, _)| r.ref_logprobs.is_empty());
    missing.for_each(|(rollout, computed)| rollout.ref_logprobs = computed);
    Ok(())
}

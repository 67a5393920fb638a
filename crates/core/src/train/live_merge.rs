//! Live merging: a ring of snapshots of the weights, their merge, and its validation loss. The run's weights are never changed: the merge
//! is computed in the gradients' arena, which is free between two updates, and scored by kernels bound to that arena.

use super::Scorer;
use crate::config::{MergeSettings, is_due};
use crate::device::{Arena, Device, Tensor};
use crate::merge::MergeRule;
use crate::merge::ring::{Ring, choose_place};
use crate::model::{Activations, Model, TrainedParameters};

/// A finished merge.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedWindow {
    /// Description of the rule.
    pub method: String,
    /// Steps of the snapshots, oldest first.
    pub steps: Vec<u64>,
    /// Weight of each snapshot.
    pub weights: Vec<f64>,
}

impl MergedWindow {
    /// Mean age of the merged weights at `step`, in updates.
    pub fn mean_age(&self, step: u64) -> f64 {
        self.steps.iter().zip(&self.weights).map(|(s, w)| w * (step - s) as f64).sum()
    }
}

/// Live merging of one run.
pub struct LiveMerge {
    rule: MergeRule,
    every: u64,
    /// The snapshots.
    pub ring: Ring,
    /// Scores the merge on the same tokens as the run's own weights.
    pub scorer: Scorer,
}

impl LiveMerge {
    /// `scratch` is an arena of the parameters' layout that is free between two updates, `scratch_weights` its tensors; `acts` are the
    /// training pass's own. `None` when merging is off.
    ///
    /// # Errors
    /// A kernel that does not compile, or an unusable place for the ring.
    pub fn new(
        device: &Device,
        model: &Model,
        acts: Activations<Tensor>,
        (scratch, scratch_weights): (&Arena, &TrainedParameters<Tensor>),
        settings: &MergeSettings,
    ) -> anyhow::Result<Option<Self>> {
        if settings.merge_every == 0 {
            return Ok(None);
        }
        let Some(scratch_weights) = scratch_weights.weights() else {
            anyhow::bail!(
                "--merge-every {}: adapters (--lora-rank) are not merged while a run trains; leave it out",
                settings.merge_every
            )
        };
        let s = settings;
        let rule = MergeRule::new(s.merge_method, s.merge_alpha, s.merge_decay, &[], "merge-")?;
        let place =
            choose_place(s.merge_ring, device.sizes().merge_ring_bytes, model.parameters.arena_bytes() * s.merge_last as u64);
        let ring = Ring::new(device, model, scratch, place, s.merge_last)?;
        let scorer = Scorer::of_weights(device, model, scratch_weights, acts)?;
        Ok(Some(Self { rule, every: s.merge_every, ring, scorer }))
    }

    /// Keep a snapshot if one is due after update `step`.
    ///
    /// # Errors
    /// A device or disk fault.
    pub fn after_update(&mut self, device: &Device, model: &Model, step: u64) -> anyhow::Result<()> {
        if is_due(step, self.every) { self.ring.push(device, model, step) } else { Ok(()) }
    }

    /// Merge the snapshots into the scratch arena. `None` while there are fewer than two.
    ///
    /// # Errors
    /// A device or disk fault.
    pub fn merge(&self, device: &Device) -> anyhow::Result<Option<MergedWindow>> {
        let steps = self.ring.steps();
        if steps.len() < 2 {
            return Ok(None);
        }
        let weights = self.rule.weights(steps.len())?;
        self.ring.merge(device, &weights)?;
        Ok(Some(MergedWindow { method: self.rule.to_string(), steps, weights }))
    }

    /// `sma`, `ema`, ...: the middle part of the metric name.
    pub fn method_name(&self) -> &'static str {
        self.rule.method().name()
    }

    /// Updates between snapshots.
    pub fn snapshot_interval(&self) -> u64 {
        self.every
    }
}

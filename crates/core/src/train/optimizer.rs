//! AdamW or plain gradient descent over the parameter arenas: gradients, moments, and the recording of one update.

use super::PartNorms;
use super::all_reduce::GradientReducer;
use crate::config::{LoptiMoments, OptimizerKind, TrainSettings};
use crate::device::{Arena, Device, Recorder, Recording, Tensor};
use crate::model::{Parameters, TrainedParameters};
use crate::ops::adamw::{self, Segment, UpdateParams};
use crate::ops::grad_norm;
use crate::world::World;

/// Gradients, moments and the update, for one set of parameters.
pub struct Optimizer {
    /// Gradients.
    pub grads: Arena,
    /// First moments.
    pub m: Arena,
    /// Second moments.
    pub v: Arena,
    /// The gradients as a tree.
    pub grad_weights: TrainedParameters<Tensor>,
    /// Moments of Lopti's second pass, if they are separate; the others then belong to the first pass.
    pub second: Option<MomentPair>,
    /// Norms of weights and gradients part by part, if they are measured.
    pub norms: Option<PartNorms>,
    /// Sums gradients over ranks, if there are several.
    reducer: Option<GradientReducer>,
    hyper: Tensor,
    norm: Recording,
    update: Recording,
    clear: Recording,
}

impl From<&TrainSettings> for UpdateParams {
    /// Parameters of the first update, at the peak learning rate.
    fn from(t: &TrainSettings) -> Self {
        Self {
            learning_rate: t.learning_rate,
            beta1: t.adam_beta1,
            beta2: t.adam_beta2,
            epsilon: t.adam_epsilon,
            weight_decay: t.weight_decay,
            max_grad_norm: t.max_grad_norm,
            step: 1,
        }
    }
}

/// A second pair of moments, and the update with them.
pub struct MomentPair {
    /// First moments.
    pub m: Arena,
    /// Second moments.
    pub v: Arena,
    update: Recording,
}

impl Optimizer {
    /// AdamW with one pair of moments: see [`Optimizer::of`].
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn new(device: &Device, parameters: &Parameters, values: &Arena, stats: &Tensor) -> anyhow::Result<Self> {
        Self::of(device, parameters, values, stats, (OptimizerKind::Adamw, LoptiMoments::Shared))
    }

    /// Allocate, and record the update of `values`. `stats` receives norm, clip factor and gate (`ops::objective::stats`). Plain gradient
    /// descent leaves the moments at zero.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn of(
        device: &Device,
        parameters: &Parameters,
        values: &Arena,
        stats: &Tensor,
        (kind, moments): (OptimizerKind, LoptiMoments),
    ) -> anyhow::Result<Self> {
        let [grads, m, v] = ["grads", "adam_m", "adam_v"].map(|role| parameters.arena(device, role));
        let hyper = Tensor::new(device, "optimizer", "hyper", &[adamw::HYPER_LEN]);
        let segments: Vec<&Tensor> = grads.segments().map(|(t, _)| t).collect();
        let partials = grad_norm::partials_len(segments.iter().map(|t| t.len()));
        let partials = Tensor::new(device, "optimizer", "partials", &[partials, 2]);
        let norm = |r: &mut Recorder<'_>| grad_norm::forward(r, &segments, &partials, &hyper, stats);
        let update = |m: &Arena, v: &Arena| {
            let mut r = Recorder::new(device, "update");
            norm(&mut r);
            for (((values, decayed), (grads, _)), ((m, _), (v, _))) in
                values.segments().zip(grads.segments()).zip(m.segments().zip(v.segments()))
            {
                match kind {
                    OptimizerKind::Adamw => {
                        adamw::update(&mut r, Segment { values, grads, m, v, decayed }, &hyper, stats);
                    }
                    OptimizerKind::Sgd => adamw::sgd(&mut r, values, grads, &hyper, stats),
                }
            }
            r.finish()
        };
        let first = update(&m, &v)?;
        let second = match moments {
            LoptiMoments::Separate if kind == OptimizerKind::Adamw => {
                let [m, v] = ["adam_m2", "adam_v2"].map(|role| parameters.arena(device, role));
                Some(MomentPair { update: update(&m, &v)?, m, v })
            }
            _ => None,
        };
        let mut only_norm = Recorder::new(device, "norm");
        norm(&mut only_norm);
        let mut clear = Recorder::new(device, "clear");
        clear.clear(stats);
        segments.iter().for_each(|grads| clear.clear(grads));
        let (norm, clear) = (only_norm.finish()?, clear.finish()?);
        let grad_weights = parameters.tree(&grads);
        Ok(Self { grad_weights, grads, m, v, second, norms: None, reducer: None, hyper, norm, update: first, clear })
    }

    /// Use the all-reduce of a world with several ranks; `stats` as in [`Optimizer::of`]. `pass` is the recording of
    /// [`Optimizer::replay_and_sum`], if there is only one.
    pub fn join(&mut self, device: &Device, world: &World, stats: &Tensor, pass: Option<&Recording>) {
        let reducer = || GradientReducer::new(device, world.clone(), &self.grads, stats, pass);
        self.reducer = (!world.is_solo()).then(reducer);
    }

    /// Sizes of the all-reduces of an update, which must be the same on all ranks; empty in a single process.
    pub fn all_reduce_layout(&self) -> Vec<usize> {
        self.reducer.as_ref().map_or_else(Vec::new, GradientReducer::layout)
    }

    /// All-reduce of gradients and step statistics; does nothing in a single process. Collective.
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub fn sum_over_ranks(&self, device: &Device) -> anyhow::Result<()> {
        self.reducer.as_ref().map_or(Ok(()), |reducer| reducer.sum(device, None))
    }

    /// Replay the last backward pass of an update, and [`Optimizer::sum_over_ranks`], if possible meanwhile. Collective.
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub fn replay_and_sum(&self, device: &Device, pass: &Recording) -> anyhow::Result<()> {
        match &self.reducer {
            None => Ok(device.replay(pass)?),
            Some(reducer) => reducer.sum(device, Some(pass)),
        }
    }

    /// Also measure the norm of each part of the model, at the first update and every `every` updates; 0 for never.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn measure_parts(&mut self, device: &Device, parameters: &Parameters, values: &Arena, every: u64) -> anyhow::Result<()> {
        self.norms = match every {
            0 => None,
            _ => Some(PartNorms::new(device, parameters, values, &self.grads, every)?),
        };
        Ok(())
    }

    /// The norms, if update `step` is measured.
    pub fn norms_of(&self, step: u64) -> Option<&PartNorms> {
        self.norms.as_ref().filter(|norms| norms.is_due(step))
    }

    /// Zero gradients and step statistics at the start of an update.
    ///
    /// # Errors
    /// A device fault.
    pub fn clear(&self, device: &Device) -> anyhow::Result<()> {
        Ok(device.replay(&self.clear)?)
    }

    /// Norm, clipping, gate, AdamW (or plain gradient descent).
    ///
    /// # Errors
    /// A device fault.
    pub fn update(&self, device: &Device, hyper: &UpdateParams) -> anyhow::Result<()> {
        device.write(&self.hyper, &hyper.pack());
        Ok(device.replay(&self.update)?)
    }

    /// As [`Optimizer::update`], with the second pair of moments, if any.
    ///
    /// # Errors
    /// A device fault.
    pub fn update_second(&self, device: &Device, hyper: &UpdateParams) -> anyhow::Result<()> {
        device.write(&self.hyper, &hyper.pack());
        Ok(device.replay(self.second.as_ref().map_or(&self.update, |second| &second.update))?)
    }

    /// Compute only the norm, the clip factor for `max_grad_norm` and the gate, into the step statistics.
    ///
    /// # Errors
    /// A device fault.
    pub fn norm(&self, device: &Device, max_grad_norm: f64) -> anyhow::Result<()> {
        device.write(&self.hyper, &UpdateParams { max_grad_norm, ..UpdateParams::default() }.pack());
        Ok(device.replay(&self.norm)?)
    }

    /// The recording of the update, for profiles.
    pub fn recording(&self) -> &Recording {
        &self.update
    }
}

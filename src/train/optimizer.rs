//! AdamW over the parameter arenas: gradients, moments, and the recording of one update.

use crate::gpu::{Arena, Gpu, Recording, Tensor};
use crate::model::{Parameters, Weights};
use crate::ops::adamw::{self, Hyper, Segment};
use crate::ops::grad_norm;

/// Gradients, moments and the update, for one set of parameters.
pub struct Optimizer {
    /// Gradients.
    pub grads: Arena,
    /// First moments.
    pub m: Arena,
    /// Second moments.
    pub v: Arena,
    /// The gradients as the tree of weights.
    pub grad_weights: Weights<Tensor>,
    hyper: Tensor,
    update: Recording,
    clear: Recording,
}

impl Optimizer {
    /// Allocate, and record the update of `values`. `stats` receives norm, clip factor and gate (`ops::objective::stats`).
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn new(gpu: &Gpu, parameters: &Parameters, values: &Arena, stats: &Tensor) -> anyhow::Result<Self> {
        let [grads, m, v] = ["grads", "adam_m", "adam_v"].map(|role| parameters.arena(gpu, role));
        let hyper = Tensor::new(gpu, "optimizer", "hyper", &[adamw::HYPER_LEN]);
        let segments: Vec<&Tensor> = grads.segments().map(|(t, _)| t).collect();
        let partials = grad_norm::partials_len(segments.iter().map(|t| t.len()));
        let partials = Tensor::new(gpu, "optimizer", "partials", &[partials, 2]);
        let mut update = Recording::new("update");
        grad_norm::forward(&mut update, gpu, &segments, &partials, &hyper, stats);
        for (((values, decayed), (grads, _)), ((m, _), (v, _))) in
            values.segments().zip(grads.segments()).zip(m.segments().zip(v.segments()))
        {
            adamw::update(&mut update, gpu, Segment { values, grads, m, v, decayed }, &hyper, stats);
        }
        let mut clear = Recording::new("clear");
        clear.clear(stats);
        segments.iter().for_each(|grads| clear.clear(grads));
        let (update, clear) = (update.finish(gpu)?, clear.finish(gpu)?);
        Ok(Self { grad_weights: parameters.weights(&grads), grads, m, v, hyper, update, clear })
    }

    /// Set gradients and step statistics to zero: the start of an update.
    ///
    /// # Errors
    /// A device fault.
    pub fn clear(&self, gpu: &Gpu) -> anyhow::Result<()> {
        Ok(gpu.replay(&self.clear)?)
    }

    /// Norm, clip, gate, AdamW.
    ///
    /// # Errors
    /// A device fault.
    pub fn update(&self, gpu: &Gpu, hyper: &Hyper) -> anyhow::Result<()> {
        gpu.write(&self.hyper, &hyper.pack());
        Ok(gpu.replay(&self.update)?)
    }

    /// The recording of the update, for profiles.
    pub fn recording(&self) -> &Recording {
        &self.update
    }
}

//! AdamW or plain gradient descent over the parameter arenas: gradients, moments, and the recording of one update.

use super::PartNorms;
use crate::config::{LoptiMoments, OptimizerKind};
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
    /// Moments of Lopti's second pass, where it has its own; the others are then the first pass's.
    pub second: Option<Moments>,
    /// Norms of weights and gradients part by part, where somebody wants to see them.
    pub norms: Option<PartNorms>,
    hyper: Tensor,
    norm: Recording,
    update: Recording,
    clear: Recording,
}

/// Another pair of moments, and the update by them.
pub struct Moments {
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
    pub fn new(gpu: &Gpu, parameters: &Parameters, values: &Arena, stats: &Tensor) -> anyhow::Result<Self> {
        Self::of(gpu, parameters, values, stats, (OptimizerKind::Adamw, LoptiMoments::Shared))
    }

    /// Allocate, and record the update of `values`. `stats` receives norm, clip factor and gate (`ops::objective::stats`). Plain gradient
    /// descent leaves the moments at zero.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn of(
        gpu: &Gpu,
        parameters: &Parameters,
        values: &Arena,
        stats: &Tensor,
        (kind, moments): (OptimizerKind, LoptiMoments),
    ) -> anyhow::Result<Self> {
        let [grads, m, v] = ["grads", "adam_m", "adam_v"].map(|role| parameters.arena(gpu, role));
        let hyper = Tensor::new(gpu, "optimizer", "hyper", &[adamw::HYPER_LEN]);
        let segments: Vec<&Tensor> = grads.segments().map(|(t, _)| t).collect();
        let partials = grad_norm::partials_len(segments.iter().map(|t| t.len()));
        let partials = Tensor::new(gpu, "optimizer", "partials", &[partials, 2]);
        let norm = |r: &mut Recording| grad_norm::forward(r, gpu, &segments, &partials, &hyper, stats);
        let update = |m: &Arena, v: &Arena| {
            let mut r = Recording::new("update");
            norm(&mut r);
            for (((values, decayed), (grads, _)), ((m, _), (v, _))) in
                values.segments().zip(grads.segments()).zip(m.segments().zip(v.segments()))
            {
                match kind {
                    OptimizerKind::Adamw => {
                        adamw::update(&mut r, gpu, Segment { values, grads, m, v, decayed }, &hyper, stats);
                    }
                    OptimizerKind::Sgd => adamw::sgd(&mut r, gpu, values, grads, &hyper, stats),
                }
            }
            r.finish(gpu)
        };
        let first = update(&m, &v)?;
        let second = match moments {
            LoptiMoments::Separate if kind == OptimizerKind::Adamw => {
                let [m, v] = ["adam_m2", "adam_v2"].map(|role| parameters.arena(gpu, role));
                Some(Moments { update: update(&m, &v)?, m, v })
            }
            _ => None,
        };
        let mut only_norm = Recording::new("norm");
        norm(&mut only_norm);
        let mut clear = Recording::new("clear");
        clear.clear(stats);
        segments.iter().for_each(|grads| clear.clear(grads));
        let (norm, clear) = (only_norm.finish(gpu)?, clear.finish(gpu)?);
        Ok(Self { grad_weights: parameters.weights(&grads), grads, m, v, second, norms: None, hyper, norm, update: first, clear })
    }

    /// Also measure the norm of each part of the model, at the first update and `every` so many; 0 for never.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn measure_parts(&mut self, gpu: &Gpu, parameters: &Parameters, values: &Arena, every: u64) -> anyhow::Result<()> {
        self.norms = match every {
            0 => None,
            _ => Some(PartNorms::new(gpu, parameters, values, &self.grads, every)?),
        };
        Ok(())
    }

    /// The norms, if update `step` is one to be measured.
    pub fn norms_of(&self, step: u64) -> Option<&PartNorms> {
        self.norms.as_ref().filter(|norms| norms.is_due(step))
    }

    /// Set gradients and step statistics to zero: the start of an update.
    ///
    /// # Errors
    /// A device fault.
    pub fn clear(&self, gpu: &Gpu) -> anyhow::Result<()> {
        Ok(gpu.replay(&self.clear)?)
    }

    /// Norm, clip, gate, AdamW (or plain gradient descent).
    ///
    /// # Errors
    /// A device fault.
    pub fn update(&self, gpu: &Gpu, hyper: &Hyper) -> anyhow::Result<()> {
        gpu.write(&self.hyper, &hyper.pack());
        Ok(gpu.replay(&self.update)?)
    }

    /// The same by the second pair of moments, if there is one.
    ///
    /// # Errors
    /// A device fault.
    pub fn update_second(&self, gpu: &Gpu, hyper: &Hyper) -> anyhow::Result<()> {
        gpu.write(&self.hyper, &hyper.pack());
        Ok(gpu.replay(self.second.as_ref().map_or(&self.update, |second| &second.update))?)
    }

    /// Only the norm, the clip factor that `max_grad_norm` asks for, and the gate, into the step statistics.
    ///
    /// # Errors
    /// A device fault.
    pub fn norm(&self, gpu: &Gpu, max_grad_norm: f64) -> anyhow::Result<()> {
        gpu.write(&self.hyper, &Hyper { max_grad_norm, ..Hyper::default() }.pack());
        Ok(gpu.replay(&self.norm)?)
    }

    /// The recording of the update, for profiles.
    pub fn recording(&self) -> &Recording {
        &self.update
    }
}

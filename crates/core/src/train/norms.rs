//! L2 norms of weights and gradients, part by part, measured at intervals in a separate recording. It only reads weights and gradients and
//! writes to its own buffers, so it cannot affect the update.

use crate::device::{ALIGN, Arena, Device, ReadRing, Recorder, Recording, Tensor};
use crate::event::{Norms, Number};
use crate::model::Parameters;
use crate::ops::adamw;
use crate::ops::grad_norm;
use crate::ops::objective::stats;
use crate::train::bins::short;
use anyhow::Result;
use std::collections::VecDeque;

/// Norms of a model's parts.
pub struct PartNorms {
    names: Vec<String>,
    every: u64,
    /// A row of `stats` for each part's weights, then one for each part's gradient (2 N, ALIGN).
    numbers: Tensor,
    weights: Recording,
    gradients: Recording,
    ring: ReadRing,
    /// Updates whose norms were requested and not yet read.
    late: VecDeque<u64>,
}

impl PartNorms {
    /// Record the norms of both arenas' parts; measured every `every` updates, and at the first.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn new(device: &Device, parameters: &Parameters, values: &Arena, grads: &Arena, every: u64) -> Result<Self> {
        let parts = parameters.parts();
        let numbers = Tensor::new(device, "norms", "part_norms", &[2 * parts.len(), ALIGN]);
        // The shader also writes a clip factor, which is not read.
        let hyper = Tensor::new(device, "norms", "no_hyper", &[adamw::HYPER_LEN]);
        let spans = |arena: &Arena| parts.iter().map(|(_, these)| arena.spans(these)).collect::<Vec<_>>();
        let pairs = |spans: &Vec<Tensor>| grad_norm::partials_len(spans.iter().map(Tensor::len));
        // One after another, so that one buffer is enough.
        let most = spans(values).iter().map(pairs).max().unwrap_or(1);
        let partials = Tensor::new(device, "norms", "partials", &[most, 2]);
        let record = |name: &str, arena: &Arena, first: usize| {
            let mut r = Recorder::new(device, name);
            for (i, spans) in spans(arena).iter().enumerate() {
                let row = (first + i) * ALIGN;
                let out = numbers.slice(row..row + stats::LEN);
                grad_norm::forward(&mut r, &spans.iter().collect::<Vec<_>>(), &partials, &hyper, &out);
            }
            r.finish()
        };
        let weights = record("norms of weights", values, 0)?;
        let gradients = record("norms of gradients", grads, parts.len())?;
        let names = parts.into_iter().map(|(name, _)| name).collect();
        Ok(Self {
            names,
            every,
            ring: ReadRing::new(device, numbers.len(), 3),
            numbers,
            weights,
            gradients,
            late: VecDeque::new(),
        })
    }

    /// Whether update `step` is measured.
    pub fn is_due(&self, step: u64) -> bool {
        step == 1 || step.is_multiple_of(self.every.max(1))
    }

    /// Before the update: measure the norms of the weights.
    ///
    /// # Errors
    /// A device fault.
    pub fn measure_before(&self, device: &Device) -> Result<()> {
        Ok(device.replay(&self.weights)?)
    }

    /// After the update, which does not change the gradients: measure their norms.
    ///
    /// # Errors
    /// A device fault.
    pub fn measure_after(&self, device: &Device) -> Result<()> {
        Ok(device.replay(&self.gradients)?)
    }

    /// Request the measurements of [`PartNorms::measure_before`] and [`PartNorms::measure_after`] for update `step`; they arrive later.
    pub fn request(&mut self, device: &Device, step: u64) {
        self.ring.request(device, &self.numbers);
        self.late.push_back(step);
    }

    /// The norms of update `step`, if they were requested.
    ///
    /// # Errors
    /// A device fault.
    pub fn take(&mut self, device: &Device, step: u64) -> Result<Option<Norms>> {
        if self.late.front() != Some(&step) {
            return Ok(None);
        }
        self.late.pop_front();
        let numbers: Vec<f32> = self.ring.take(device)?;
        Ok(Some(self.of(step, &numbers)))
    }

    /// The norms of update `step`; waits for the device.
    ///
    /// # Errors
    /// A device fault.
    pub fn read(&self, device: &Device, step: u64) -> Result<Norms> {
        Ok(self.of(step, &device.read::<f32>(&self.numbers)?))
    }

    fn of(&self, step: u64, numbers: &[f32]) -> Norms {
        let norm = |row: &[f32]| match row[stats::NOT_FINITE] {
            0.0 => short(f64::from(row[stats::GRAD_NORM])),
            // The sum of squares with a NaN in it is undefined.
            _ => Number(f64::NAN),
        };
        let mut norms = numbers.chunks(ALIGN).map(norm);
        let weights = norms.by_ref().take(self.names.len()).collect();
        Norms { step, parts: self.names.clone(), weights, gradients: norms.collect() }
    }
}

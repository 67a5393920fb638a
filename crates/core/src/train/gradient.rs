//! One forward and backward pass over (batch, time) tokens: adds d(weighted loss)/d(parameter) to the gradients.

use super::evaluate::upload_tokens;
use crate::data::{Batch, IGNORE};
use crate::device::{Device, Recorder, Recording, Tensor};
use crate::model::transformer::{self, Objective};
use crate::model::{Activations, Model, PassKind, TrainedParameters};
use crate::ops::embedding::Spans;

/// A recorded forward and backward pass.
pub struct GradientPass {
    /// Inputs, results and intermediate values.
    pub acts: Activations<Tensor>,
    /// The recorded dispatches.
    pub recording: Recording,
}

impl GradientPass {
    /// Allocate and record; gradients of the cross-entropy go to `grads`.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn new(
        device: &Device,
        model: &Model,
        acts: Activations<Tensor>,
        grads: &TrainedParameters<Tensor>,
    ) -> anyhow::Result<Self> {
        Self::by(device, model, acts, grads, Objective::CrossEntropy)
    }

    /// As [`GradientPass::new`], with another objective.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn by(
        device: &Device,
        model: &Model,
        acts: Activations<Tensor>,
        grads: &TrainedParameters<Tensor>,
        objective: Objective<'_>,
    ) -> anyhow::Result<Self> {
        let mut r = Recorder::new(device, "forward and backward");
        let context = model.context(device);
        transformer::record_forward(&mut r, context, &acts);
        transformer::record_head_and_objective(&mut r, context, &acts, grads, objective);
        transformer::record_backward(&mut r, context, &acts, grads);
        Ok(Self { recording: r.finish()?, acts })
    }

    /// Allocate activations for a training pass.
    pub fn activations(device: &Device, model: &Model, batch: usize, time: usize) -> Activations<Tensor> {
        Activations::new(device, &model.config, batch, time, PassKind::Training)
    }

    /// Run on a batch; `weight` is the weight of each target in the loss.
    ///
    /// # Errors
    /// A device fault.
    pub fn run(&self, device: &Device, batch: &Batch, weight: f32) -> anyhow::Result<()> {
        self.upload(device, batch, weight);
        Ok(device.replay(&self.recording)?)
    }

    /// Upload a batch for a replay of the recording; `weight` is the weight of each target in the loss.
    pub fn upload(&self, device: &Device, batch: &Batch, weight: f32) {
        let weights: Vec<f32> = batch.targets.iter().map(|t| if *t == IGNORE { 0.0 } else { weight }).collect();
        device.write(&self.acts.inputs.weights, &weights);
        self.upload_batch(device, batch);
    }

    fn upload_batch(&self, device: &Device, batch: &Batch) {
        upload_tokens(device, &self.acts, batch);
        let spans = Spans::of(&batch.tokens);
        device.write(&self.acts.inputs.order, &spans.order);
        device.write(&self.acts.inputs.spans, &spans.spans);
    }

    /// Run on a batch whose row inputs of the objective are already on the device.
    ///
    /// # Errors
    /// A device fault.
    pub fn run_by(&self, device: &Device, batch: &Batch) -> anyhow::Result<()> {
        self.upload_batch(device, batch);
        Ok(device.replay(&self.recording)?)
    }
}

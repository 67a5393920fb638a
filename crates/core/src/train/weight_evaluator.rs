//! The held-out loss of any weights of one shape, on the same tokens each time; for merges and landscapes.

use super::{Evaluation, Scorer};
use crate::config::ModelConfig;
use crate::data::Batch;
use crate::device::Device;
use crate::model::Model;
use crate::model_files::weight_files::WeightFiles;

/// A model on the device whose weights are changed from one evaluation to the next.
pub struct WeightEvaluator {
    device: Device,
    /// Its weights are those evaluated last.
    pub model: Model,
    scorer: Scorer,
    batches: Vec<Batch>,
}

impl WeightEvaluator {
    /// For weights of a shape, on these batches, which must have equal shapes.
    ///
    /// # Errors
    /// No batch, or as [`Model::new`] and [`Scorer::new`].
    pub fn new(device: Device, config: &ModelConfig, batches: Vec<Batch>) -> anyhow::Result<Self> {
        let Some(first) = batches.first() else { anyhow::bail!("--data: too little text to score") };
        let model = Model::new(&device, config, first.seq_len)?;
        let scorer = Scorer::new(&device, &model, first.batch_size, first.seq_len)?;
        Ok(Self { scorer, model, device, batches })
    }

    /// Number of tokens scored per evaluation.
    pub fn tokens(&self) -> u64 {
        self.batches.iter().map(|b| b.target_count() as u64).sum()
    }

    /// Read the weights of a folder into host memory.
    ///
    /// # Errors
    /// As [`Model::read`].
    pub fn read(&self, files: &WeightFiles) -> anyhow::Result<Vec<f32>> {
        self.model.read(files)
    }

    /// The mean loss of these weights (in order of declaration), in nats per token.
    ///
    /// # Errors
    /// A device fault, or a loss that is NaN.
    pub fn loss(&self, weights: &[f32]) -> anyhow::Result<f64> {
        self.model.set(&self.device, weights);
        let Evaluation { loss, .. } = self.scorer.evaluate(&self.device, self.batches.iter().cloned())?;
        Ok(loss)
    }
}

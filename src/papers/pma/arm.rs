//! An arm: a part of training with fixed settings and a fixed starting point. An arm is identified by a key over its settings and is
//! trained only once.

use crate::config::{ModelSettings, TrainSettings};
use crate::papers::store::digest;
use serde::{Deserialize, Serialize};

/// Changed when the same settings would produce different numbers.
const FORMAT: &str = "lehr reproduce 1";

/// Training text of an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TrainingText {
    /// The corpus of the base runs.
    Base,
    /// Another corpus: continued training.
    Shifted,
    /// Prompts and completions: fine-tuning.
    Task,
}

/// Starting point of an arm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ArmStart {
    /// Random weights from the seed.
    Random,
    /// A weighted sum of checkpoints of another arm.
    From {
        /// That arm.
        arm: Box<PmaArm>,
        /// (step, weight), oldest first.
        mix: Vec<(u64, f64)>,
        /// The step whose Adam moments are used; with `None` they start from zero.
        moments: Option<u64>,
    },
}

/// A training arm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PmaArm {
    /// For display and folder names; not part of the key.
    #[serde(skip)]
    pub name: String,
    /// Shape.
    pub model: ModelSettings,
    /// Recipe.
    pub train: TrainSettings,
    /// Data.
    pub text: TrainingText,
    /// Starting point.
    pub begin: ArmStart,
    /// Step number of the starting point.
    pub from_step: u64,
    /// Step number of the end.
    pub to_step: u64,
    /// Skipped batches of the source: update n uses batch n + this, from n = 0.
    pub skip: u64,
    /// Interval of weight snapshots, in updates; 0: none.
    pub snapshot_every: u64,
    /// Steps at which weights and moments are stored.
    pub states: Vec<u64>,
    /// Stop after a loss spike from which the run does not recover (`super::spike`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub until_lost: bool,
}

/// The measurements of every update of an arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PmaRecord {
    /// The step of the first row.
    pub first_step: u64,
    /// Mean cross-entropy of the batch before the update; NaN where not finite.
    #[serde(with = "nan_as_null")]
    pub loss: Vec<f64>,
    /// Norm of the gradient before clipping.
    #[serde(with = "nan_as_null")]
    pub grad_norm: Vec<f64>,
    /// Seconds of training.
    pub seconds: f64,
}

/// JSON has no NaN.
mod nan_as_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(values: &[f64], s: S) -> Result<S::Ok, S::Error> {
        values.iter().map(|v| v.is_finite().then_some(*v)).collect::<Vec<_>>().serialize(s)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(d: D) -> Result<Vec<f64>, D::Error> {
        let values: Vec<Option<f64>> = Deserialize::deserialize(d)?;
        Ok(values.into_iter().map(|v| v.unwrap_or(f64::NAN)).collect())
    }
}

impl PmaArm {
    /// Sixteen hexadecimal digits: a hash of everything that determines its numbers; `texts` identifies the corpora.
    pub fn key(&self, texts: &str) -> String {
        digest(&[FORMAT, texts, &serde_json::to_string(self).unwrap_or_default()])
    }

    /// Number of updates.
    pub fn updates(&self) -> u64 {
        self.to_step - self.from_step
    }

    /// Copies of weights or moments that are stored.
    pub fn kept(&self) -> u64 {
        self.updates().checked_div(self.snapshot_every).unwrap_or(0) + 3 * self.states.len() as u64
    }

    /// Total floating-point operations, for estimates of time.
    pub fn flops(&self, vocab: usize) -> f64 {
        let t = &self.train;
        let per_token = self.model.config(vocab, t.seq_len).flops_per_token_training((t.seq_len as f64 + 1.0) / 2.0);
        per_token * (self.updates() * (t.batch_size * t.seq_len) as u64) as f64
    }

    /// The arm that it starts from.
    pub fn parent(&self) -> Option<&PmaArm> {
        match &self.begin {
            ArmStart::Random => None,
            ArmStart::From { arm, .. } => Some(arm),
        }
    }
}

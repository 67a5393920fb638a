//! Measurements that several claims share: losses of windows of the base and annealed runs, by size and seed.

use super::arm::{PmaArm, TrainingText};
use super::context::PmaContext;
use super::plan::SnapshotWindow;
use super::scale::Size;
use super::sized_model::{HeldOutScores, SizedModel};
use crate::papers::finding::number;
use crate::papers::stats::{Unit, mean, range};

/// Points of a line, or the ends of its error bars.
pub type Points = Vec<(f64, f64)>;

/// Models of all sizes.
pub struct Measure<'a> {
    /// Shared state.
    pub context: &'a PmaContext<'a>,
    models: Vec<SizedModel<'a>>,
}

impl<'a> Measure<'a> {
    /// Devices are opened on demand.
    pub fn new(context: &'a PmaContext<'a>) -> Self {
        Self { context, models: context.scale.sizes.iter().map(|size| SizedModel::new(context, size)).collect() }
    }

    /// The model of a size.
    ///
    /// # Errors
    /// Never for a size of the scale.
    pub fn sized_model(&self, size: &Size) -> anyhow::Result<&SizedModel<'a>> {
        let at = self.context.scale.sizes.iter().position(|s| s == size);
        at.and_then(|i| self.models.get(i)).ok_or_else(|| anyhow::anyhow!("{}: not a size of this scale", size.name))
    }

    /// Held-out loss of a merge window of an arm whose snapshots are on the base's grid.
    ///
    /// # Errors
    /// As [`SizedModel::score`].
    pub fn window(&self, arm: &PmaArm, size: &Size, window: &SnapshotWindow) -> anyhow::Result<HeldOutScores> {
        self.sized_model(size)?.score(arm, &window.mix(size)?, TrainingText::Base)
    }

    /// The same for the base run of a seed.
    ///
    /// # Errors
    /// As [`SizedModel::score`].
    pub fn base(&self, size: &Size, seed: u64, window: &SnapshotWindow) -> anyhow::Result<HeldOutScores> {
        self.window(&self.context.plan().base(size, seed), size, window)
    }

    /// A unit per seed: the losses of several arms by window.
    ///
    /// # Errors
    /// Errors of `arms`.
    pub fn units(&self, arms: impl Fn(u64) -> anyhow::Result<Vec<HeldOutScores>>) -> anyhow::Result<Vec<Unit>> {
        self.context.seeds.iter().map(|seed| Ok(arms(*seed)?.into_iter().map(|s| s.windows).collect())).collect()
    }
}

/// Mean loss of an arm over units.
pub fn arm_mean(units: &[Unit], arm: usize) -> f64 {
    mean(&units.iter().map(|u| mean(&u[arm])).collect::<Vec<_>>())
}

/// The same, formatted.
pub fn arm_text(units: &[Unit], arm: usize) -> String {
    number(arm_mean(units, arm))
}

/// (smallest, largest) mean loss of an arm over units, for error bars.
pub fn arm_range(units: &[Unit], arm: usize) -> (f64, f64) {
    range(units.iter().map(|u| mean(&u[arm])))
}

//! What every claim works with: the plan, the bank, the device; and how arms get trained.

use super::arm::Arm;
use super::checkpoints::CheckpointStore;
use super::corpora::Texts;
use super::plan::Plan;
use super::scale::Scale;
use super::trajectory::train;
use crate::config::DeviceSettings;
use crate::papers::attempts::{Ended, Job, Worker, work_off};
use crate::progress::Progress;

/// See the module.
pub struct Context<'a> {
    /// Models, tokens, grid.
    pub scale: &'a Scale,
    /// Seeds of the paired arms.
    pub seeds: Vec<u64>,
    /// Corpora.
    pub texts: Texts,
    /// What is known already.
    pub checkpoints: CheckpointStore,
    /// Adapter by name or index.
    pub device: DeviceSettings,
    /// Gets progress lines.
    pub tell: Box<dyn Fn(&str) + 'a>,
}

impl Context<'_> {
    /// Makes arms.
    pub fn plan(&self) -> Plan<'_> {
        Plan { scale: self.scale }
    }

    /// Have all these arms trained, and before them those that they begin from.
    ///
    /// # Errors
    /// A device fault, a full disk, or [`crate::papers::attempts::Interrupted`].
    pub fn ensure(&self, arms: &[Arm]) -> anyhow::Result<()> {
        work_off(arms, self, &*self.tell)
    }
}

impl Job for Arm {
    fn name(&self) -> &str {
        &self.name
    }

    fn parent(&self) -> Option<&Self> {
        Arm::parent(self)
    }

    /// FLOP; the vocabulary, which all arms share, hardly matters.
    fn cost(&self) -> f64 {
        self.flops(0)
    }
}

impl Worker<Arm> for Context<'_> {
    fn is_done(&self, arm: &Arm) -> bool {
        self.checkpoints.is_done(arm)
    }

    fn attempt(&self, arm: &Arm, progress: &mut Progress<'_>) -> anyhow::Result<Ended> {
        train(&self.checkpoints, arm, &self.texts, &self.device, progress)
    }
}

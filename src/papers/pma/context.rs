//! Shared state of all claims: plan, checkpoint store and device; and training of arms.

use super::arm::PmaArm;
use super::checkpoints::CheckpointStore;
use super::corpora::Corpora;
use super::plan::PmaPlan;
use super::scale::PmaScale;
use super::trajectory::train;
use crate::config::DeviceSettings;
use crate::papers::jobs::{AttemptResult, JobRunner, TrainingJob, run_jobs};
use crate::progress::Progress;
use crate::world::World;

/// Shared state of all claims.
pub struct PmaContext<'a> {
    /// Models, tokens, grid.
    pub scale: &'a PmaScale,
    /// Seeds of the paired arms.
    pub seeds: Vec<u64>,
    /// Corpora.
    pub texts: Corpora,
    /// Stored checkpoints and results.
    pub checkpoints: CheckpointStore,
    /// Adapter by name or index.
    pub device: DeviceSettings,
    /// The ranks that share the arms.
    pub world: World,
    /// Receives progress lines.
    pub notify: Box<dyn Fn(&str) + 'a>,
}

impl PmaContext<'_> {
    /// Plans arms.
    pub fn plan(&self) -> PmaPlan<'_> {
        PmaPlan { scale: self.scale }
    }

    /// Train all these arms if necessary, and first those that they start from.
    ///
    /// # Errors
    /// A device error, a full disk, or [`crate::progress::Interrupted`].
    pub fn ensure(&self, arms: &[PmaArm]) -> anyhow::Result<()> {
        run_jobs(arms, self, &self.world, &*self.notify)
    }
}

impl TrainingJob for PmaArm {
    fn name(&self) -> &str {
        &self.name
    }

    fn parent(&self) -> Option<&Self> {
        PmaArm::parent(self)
    }

    /// FLOP; the vocabulary, which all arms share, hardly affects it.
    fn cost(&self) -> f64 {
        self.flops(0)
    }
}

impl JobRunner<PmaArm> for PmaContext<'_> {
    fn is_done(&self, arm: &PmaArm) -> bool {
        self.checkpoints.is_done(arm)
    }

    fn attempt(&self, arm: &PmaArm, progress: &mut Progress<'_>) -> anyhow::Result<AttemptResult> {
        train(&self.checkpoints, arm, &self.texts, &self.device, progress)
    }
}

//! Shared state of all claims: plan, checkpoint store and device; and training of arms.

use super::arm::Arm;
use super::checkpoints::CheckpointStore;
use super::corpora::Texts;
use super::plan::PmaPlan;
use super::scale::Scale;
use super::trajectory::train;
use crate::config::DeviceSettings;
use crate::papers::attempts::{Ended, Job, Worker, run_jobs};
use crate::progress::Progress;
use crate::world::World;

/// Shared state of all claims.
pub struct PmaContext<'a> {
    /// Models, tokens, grid.
    pub scale: &'a Scale,
    /// Seeds of the paired arms.
    pub seeds: Vec<u64>,
    /// Corpora.
    pub texts: Texts,
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
    pub fn ensure(&self, arms: &[Arm]) -> anyhow::Result<()> {
        run_jobs(arms, self, &self.world, &*self.notify)
    }
}

impl Job for Arm {
    fn name(&self) -> &str {
        &self.name
    }

    fn parent(&self) -> Option<&Self> {
        Arm::parent(self)
    }

    /// FLOP; the vocabulary, which all arms share, hardly affects it.
    fn cost(&self) -> f64 {
        self.flops(0)
    }
}

impl Worker<Arm> for PmaContext<'_> {
    fn is_done(&self, arm: &Arm) -> bool {
        self.checkpoints.is_done(arm)
    }

    fn attempt(&self, arm: &Arm, progress: &mut Progress<'_>) -> anyhow::Result<Ended> {
        train(&self.checkpoints, arm, &self.texts, &self.device, progress)
    }
}

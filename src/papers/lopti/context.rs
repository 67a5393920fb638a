//! Shared state of all claims: arms and their records, benches, stored results.

use super::arm::{LoptiArm, LoptiRecord};
use super::bench::Bench;
use super::plan::{LoptiPlan, Setting, UpdateMethod};
use super::scale::LoptiScale;
use super::task_setup::TaskSetup;
use super::training::TrainingContext;
use crate::config::{DeviceSettings, TaskKind};
use crate::papers::jobs::{AttemptResult, JobRunner, run_jobs};
use crate::papers::stats::{mean, range};
use crate::papers::store::WorkFolder;
use crate::progress::Progress;
use crate::world::World;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;

/// Shared state of all claims.
pub struct LoptiContext<'a> {
    /// Model, questions, steps.
    pub scale: &'a LoptiScale,
    /// Seeds of the paired arms.
    pub seeds: Vec<u64>,
    /// Stored results.
    pub store: WorkFolder,
    /// Adapter by name or index.
    pub device: DeviceSettings,
    /// The ranks that share the arms.
    pub world: World,
    /// Receives progress lines.
    pub notify: Box<dyn Fn(&str) + 'a>,
    puzzles: TaskSetup,
    sums: OnceCell<TaskSetup>,
    benches: RefCell<BTreeMap<u64, Bench>>,
}

impl<'a> LoptiContext<'a> {
    /// Opens only the vocabulary.
    ///
    /// # Errors
    /// None in practice: questions that cannot be generated.
    pub fn new(
        scale: &'a LoptiScale,
        seeds: Vec<u64>,
        store: WorkFolder,
        device: DeviceSettings,
        world: World,
        notify: Box<dyn Fn(&str) + 'a>,
    ) -> anyhow::Result<Self> {
        let (sums, benches) = (OnceCell::new(), RefCell::default());
        Ok(Self { scale, seeds, store, device, world, notify, puzzles: TaskSetup::new(TaskKind::Kk)?, sums, benches })
    }

    /// Plans arms.
    pub fn plan(&self) -> LoptiPlan<'_> {
        LoptiPlan { scale: self.scale }
    }

    /// Vocabulary and questions of a kind of task.
    ///
    /// # Errors
    /// None in practice: questions that cannot be generated.
    pub fn task_setup(&self, task: TaskKind) -> anyhow::Result<&TaskSetup> {
        if task != TaskKind::Math {
            return Ok(&self.puzzles);
        }
        if self.sums.get().is_none() {
            let _ = self.sums.set(TaskSetup::new(TaskKind::Math)?);
        }
        Ok(self.sums.get().unwrap_or(&self.puzzles))
    }

    /// Train all these arms if necessary, and first those that they start from.
    ///
    /// # Errors
    /// A device error, a full disk, or [`crate::progress::Interrupted`].
    pub fn ensure(&self, arms: &[LoptiArm]) -> anyhow::Result<()> {
        run_jobs(arms, self, &self.world, &*self.notify)
    }

    /// The record of an arm, which is trained if necessary.
    ///
    /// # Errors
    /// As [`LoptiContext::ensure`].
    pub fn record(&self, setting: Setting, way: UpdateMethod, seed: u64) -> anyhow::Result<LoptiRecord> {
        let arm = self.plan().arm(setting, way, seed);
        self.ensure(std::slice::from_ref(&arm))?;
        self.store.record(&arm.name, &arm.key())
    }

    /// The records of every seed.
    ///
    /// # Errors
    /// As [`LoptiContext::ensure`].
    pub fn records(&self, setting: Setting, way: UpdateMethod) -> anyhow::Result<Vec<LoptiRecord>> {
        self.seeds.iter().map(|seed| self.record(setting, way, *seed)).collect()
    }

    /// A measurement on a bench, cached; `what` identifies it and everything it depends on besides the scale and the weights.
    ///
    /// # Errors
    /// A device error, or [`crate::progress::Interrupted`].
    pub fn measured<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        seed: u64,
        what: &str,
        measure: impl FnOnce(&mut Bench) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let sft = self.plan().sft(TaskKind::Kk, seed);
        // Evaluations and the number of steps do not affect single updates.
        let train = crate::config::TrainSettings { max_steps: 0, ..self.scale.reinforcement(seed) };
        let settings = format!("{:?}", (train, self.scale.rollout(), self.scale.grpo(), self.scale.people, self.scale.probe));
        self.store.cached(&["bench 1", &sft.key(), &settings, what], || {
            self.ensure(std::slice::from_ref(&sft))?;
            let mut benches = self.benches.borrow_mut();
            let bench = match benches.entry(seed) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => {
                    new.insert(Bench::new(&self.store, &self.puzzles, self.scale, &sft, &self.device)?)
                }
            };
            measure(bench)
        })
    }
}

impl JobRunner<LoptiArm> for LoptiContext<'_> {
    fn is_done(&self, arm: &LoptiArm) -> bool {
        self.store.is_done(&arm.name, &arm.key())
    }

    fn attempt(&self, arm: &LoptiArm, progress: &mut Progress<'_>) -> anyhow::Result<AttemptResult> {
        let task_setup = self.task_setup(arm.task.task)?;
        TrainingContext { store: &self.store, task_setup, device: &self.device }.train(arm, progress)
    }
}

/// Mean of a number over records.
pub fn mean_of(records: &[LoptiRecord], value: impl Fn(&LoptiRecord) -> f64) -> f64 {
    mean(&records.iter().map(value).collect::<Vec<_>>())
}

/// (smallest, largest) over records, for error bars.
pub fn range_of(records: &[LoptiRecord], value: impl Fn(&LoptiRecord) -> f64) -> (f64, f64) {
    range(records.iter().map(value))
}

/// Numbers of people (or grades) in the evaluation of an arm.
pub fn levels(records: &[LoptiRecord]) -> Vec<u32> {
    records
        .iter()
        .flat_map(|r| &r.evals)
        .flat_map(|e| e.sampled.keys())
        .copied()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}
